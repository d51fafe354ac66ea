"""A run in progress: begun from a seed, moved by steps, saved, continued."""

import copy
import hashlib
import json
import math
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cellxlate.errors import ModelError, OptionError
from cellxlate.model.bundle import Bundle
from cellxlate.model.engines.threads import ahead_with_share
from cellxlate.model.networks import TranslatorNetworks, seeing_neighbours
from cellxlate.options import BASE
from cellxlate.settings import NetworkSettings, Precision, TrainSettings
from cellxlate.training.acceleration.precision import accelerate, choose_precision
from cellxlate.training.alone.step import NO_IMAGES, AloneStep
from cellxlate.training.checkpoint import CHECKPOINT, RunState, read_notes, restore_checkpoint, save_checkpoint
from cellxlate.training.fields.guides import saliency
from cellxlate.training.fields.patches import Domain, Patches, central_window, has_contrast, of_beside
from cellxlate.training.finished import preview
from cellxlate.training.imaging.channels import ChannelProcesses
from cellxlate.training.imaging.process import ImagingProcess, fit_blur, fit_noise
from cellxlate.training.steps import AnyCameraStep, Draw, ImagingStep, LearnedStep, Step
from cellxlate.training.watch import LOOKS_BEFORE_GREY, AttentionState

LOOK_EVERY = 50
LEAST_LOOK_EVERY = 10
NOISE_FIELDS = 64
MOST_STEPS = 2**40
"""No run has so many; a checkpoint that states more is damaged."""


@dataclass
class Run:
    """What changes while training.

    Attributes
    ----------
    settings : TrainSettings
        With the seed of this run.
    step_function : Step
        The networks that learn, and how.
    average : TranslatorNetworks
        The moving average of the translator's weights; becomes the model. It always computes in float32.
    precision : {"float32", "bfloat16"}
        What the networks that learn compute in.
    steps, steps_per_epoch : int
        In all, and per pass over the larger domain.
    start : str or None
        SHA-256 of the weights that it began with, where they were those of a model.
    done : int
        Steps behind us.
    seconds : float
        Spent on them.
    whole : bool
        False while a step is being computed: the state then belongs to no step and must not be saved.
    saved : int or None
        Step of the last checkpoint.
    attention : list of AttentionState
        The looks so far; a continued run knows the last few.
    """

    settings: TrainSettings
    step_function: Step
    average: TranslatorNetworks
    precision: Precision
    steps: int
    steps_per_epoch: int
    start: str | None = None
    done: int = 0
    seconds: float = 0.0
    whole: bool = True
    saved: int | None = None
    attention: list[AttentionState] = field(default_factory=list)

    @property
    def state(self) -> RunState:
        """What a checkpoint holds."""
        modules = {**self.step_function.modules, "average": self.average}
        return RunState(modules, self.step_function.optimisers, self.step_function.pools)

    @property
    def epochs(self) -> int | None:
        """How many epochs the run lasts, where its length was given in them."""
        return None if self.settings.steps else self.settings.epochs

    @property
    def look_every(self) -> int:
        """Steps between two looks at attention: an epoch, within 10 and 50 steps."""
        return min(max(self.steps_per_epoch, LEAST_LOOK_EVERY), LOOK_EVERY)


def begin(
    settings: TrainSettings,
    domains: Sequence[Domain],
    device: torch.device,
    precision: Precision | None = None,
    start: Bundle | None = None,
) -> Run:
    """Build networks from the seed, or from a model of the same networks, and count the steps.

    A precision that is not given is chosen for the device.
    """
    step_function: Step
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        if settings.backward == "imaging":
            step_function = ImagingStep(settings, recording(settings, domains), device)
        elif settings.backward == "any-camera":
            step_function = AnyCameraStep(settings, device)
        elif settings.backward == "alone":
            step_function = AloneStep(settings, domains[0], device)
        else:
            step_function = LearnedStep(settings, device)
    if start:
        step_function.translator.load_state_dict(networks_of(start, settings.networks).state_dict())
    average = copy.deepcopy(step_function.translator).requires_grad_(False)
    precision = precision or choose_precision(step_function.translator.generator, settings, device)
    if isinstance(step_function, AloneStep):
        step_function.taught_by(average, precision)
    networks = [module for module in step_function.modules.values() if any(True for _ in module.parameters())]
    accelerate(networks, settings, device, precision)
    steps_per_epoch = math.ceil(max(len(domain) for domain in domains) / settings.batch)
    steps = settings.steps or settings.epochs * steps_per_epoch
    return Run(settings, step_function, average, precision, steps, steps_per_epoch, start.digest if start else None)


def networks_of(start: Bundle, wanted: NetworkSettings) -> TranslatorNetworks:
    """Return the networks of a model to start from, which see as many neighbours, and channels beside, as is wanted."""
    if wanted.beside > start.networks.settings.beside:
        return seeing_neighbours(start.translator, 0, wanted.beside)
    if not wanted.context:
        return start.translator
    return start.in_context.translator if start.in_context else seeing_neighbours(start.translator, wanted.context)


def recording(settings: TrainSettings, domains: Sequence[Domain]) -> ImagingProcess | ChannelProcesses:
    """Estimate what records clear images: an imaging process, or one for each channel where others are seen beside."""
    beside = ([of_beside(domain, number) for domain in domains] for number in range(settings.networks.beside))
    processes = [imaging_process(settings, of_channel) for of_channel in (domains, *beside)]
    return processes[0] if len(processes) == 1 else ChannelProcesses(processes)


def imaging_process(settings: TrainSettings, domains: Sequence[Domain]) -> ImagingProcess:
    """Estimate the noise of the source microscope from the source images, its blur from the spectra of both domains."""
    source, target = ([one for one in domain.fields if has_contrast(one)] for domain in domains)
    sample, clear = (fields[:: max(len(fields) // NOISE_FIELDS, 1)] for fields in (source, target))
    planes = [central_window(one) for one in sample]
    intensities = [one.intensity for one in sample]
    guides = [saliency(plane, own) for plane, own in zip(planes, intensities, strict=True)]
    noise = fit_noise(planes, intensities, guides)
    variances = np.array([noise.unit_variance(one.intensity) for one in source])
    imaging = settings.imaging
    if imaging.blur_px is None:
        faint = [own.to_unit(plane) for plane, own in zip(planes, intensities, strict=True)]
        imaging = replace(
            imaging, blur_px=fit_blur(faint, [one.intensity.to_unit(central_window(one)) for one in clear])
        )
    kernels = None if noise.kernel is None else np.repeat(noise.kernel[None], len(variances), axis=0)
    return ImagingProcess(imaging, variances, kernels)


def drawn_ahead(run: Run, domains: Sequence[Domain]) -> Generator[tuple[Draw, Draw], None, None]:
    """Yield the patches of each remaining step, source and target; a thread draws those of the next step meanwhile."""
    return ahead_with_share(partial(patches_of, run, domains), range(run.done, run.steps), threads=1, share=1)


def patches_of(run: Run, domains: Sequence[Domain], step: int) -> tuple[Draw, Draw]:
    """Draw the patches of a step, source and target, and prepare them; a generalist's source is not drawn from."""
    settings = run.settings
    if settings.backward == "alone":
        return NO_IMAGES, NO_IMAGES
    rng = torch.Generator().manual_seed((settings.seed + 1) * 1_000_003 + step)
    guided = settings.guide != "none"
    clear = source = as_tensors(draw(domains[1], run, step, guided=guided))
    if settings.backward != "any-camera":
        source = as_tensors(draw(domains[0], run, step, guided=guided))
    return run.step_function.prepare(source, clear, rng)


def one_step(run: Run, patches: Sequence[Draw], device: torch.device) -> dict[str, torch.Tensor]:
    """Set the rate, move the networks by the patches of source and target, and follow them with the moving average."""
    settings = run.settings
    source, target = (Draw(one.images.to(device), one.guides.to(device)) for one in patches)
    rng = torch.Generator().manual_seed(settings.seed * 1_000_003 + run.done)
    run.whole = False
    for optimiser in run.step_function.optimisers.values():
        for group in optimiser.param_groups:
            group["lr"] = (
                settings.learning_rate * rate(run.done / run.steps, settings.decay_from) * group.get("times", 1)
            )
    terms = run.step_function.run(source, target, switched=epoch_of(run) >= settings.switch_epoch, rng=rng)
    decay = min(settings.ema, (1 + run.done) / (10 + run.done))
    with torch.no_grad():
        for slow, fast in zip(run.average.parameters(), run.step_function.translator.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)
    run.done += 1
    run.whole = True
    return terms


def epoch_of(run: Run) -> float:
    """Return the epoch of the next step; where steps are given, the epochs are stretched over them."""
    if run.settings.steps:
        return run.done * run.settings.epochs / run.steps
    return run.done / run.steps_per_epoch


def rate(done: float, decay_from: float) -> float:
    """Return the share of the learning rate: 1 until `decay_from` of the run, then linearly to 0."""
    return min(1.0, (1 - done) / (1 - decay_from)) if decay_from < 1 else 1.0


def draw(domain: Domain, run: Run, step: int, *, guided: bool, batch: int | None = None) -> Patches:
    """Draw the patches of a step as the settings say; blank ones only for networks that do not normalise."""
    settings = run.settings
    networks = settings.networks
    is_generalist = settings.backward == "any-camera"
    normalised = "instance" in {
        part.normalisation for part in (networks.generator, networks.attention, networks.discriminator)
    }
    return domain.draw(
        step, batch or settings.batch, patch_px=settings.patch_px, load_px=settings.load_px, guided=guided,
        seed=settings.seed, turns=settings.turns, content=normalised,
        magnification=settings.generalist.magnification if is_generalist and domain.number else (1.0, 1.0),
    )  # fmt: skip


def as_tensors(patches: Patches) -> Draw:
    """Return patches as tensors that share their memory."""
    return Draw(torch.from_numpy(patches.images), torch.from_numpy(patches.guides))


def save(run: Run, partial: Path, domains: Sequence[Domain]) -> None:
    """Write a checkpoint and a preview, unless the weights have gone bad or are between two steps."""
    if not run.whole or not run.state.finite:
        return
    notes = {
        "step": run.done,
        "seconds": run.seconds,
        "precision": run.precision,
        "settings": asdict(run.settings),
        "start": run.start,
        "data": fingerprint(domains),
        "attention": [asdict(state) for state in run.attention[-LOOKS_BEFORE_GREY:]],
    }
    save_checkpoint(partial, run.state, notes)
    run.saved = run.done
    previews = partial / "previews"
    with suppress(OSError):  # the checkpoint is what counts
        previews.mkdir(exist_ok=True)
        picture = preview(run.average, domains[0], run.settings.threshold)
        (previews / f"step-{run.done:06d}.png").write_bytes(picture)


def fingerprint(domains: Sequence[Domain]) -> str:
    """Return a hash of what is trained on: names, sizes, levels, masks, channels beside."""
    facts = [
        (domain.number, one.stack.name, one.index, one.shape, one.intensity.stated(), one.mask is not None,
         *((seen.index, seen.intensity.stated()) for seen in one.beside))
        for domain in domains
        for one in domain.fields
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def run_notes(partial: Path) -> dict[str, Any]:
    """Return the notes of a checkpoint, whose parts are of the kinds that `save` writes.

    Raises
    ------
    ModelError
        They are not, or there is no checkpoint.
    """
    notes, known = read_notes(partial), {one.name for one in fields(AttentionState)}
    needed = {one.name for one in fields(AttentionState) if one.default is MISSING}  # a version before knew these alone
    kinds: dict[str, Any] = {"step": int, "seconds": int | float, "settings": dict, "data": str, "attention": list}
    sound = isinstance(notes, dict) and all(
        isinstance(notes.get(name), kind) and not isinstance(notes[name], bool) for name, kind in kinds.items()
    )
    sound = sound and math.isfinite(notes["seconds"]) and 0 <= notes["step"] < MOST_STEPS
    sound = sound and notes.get("precision", "float32") in ("float32", "bfloat16")
    sound = sound and all(
        isinstance(look, dict)
        and needed <= set(look) <= known
        and all(isinstance(one, int | float) for one in look.values())
        for look in notes["attention"]
    )
    if not sound:
        raise ModelError(f"the notes of the checkpoint in {partial} are damaged; remove it and train again")
    return notes


def has_checkpoint(partial: Path) -> bool:
    """Return whether there is anything to continue from; a run that was killed early has none."""
    return (partial / CHECKPOINT).exists()


def resumed_seed(partial: Path, seeds: Sequence[int]) -> int:
    """Return which of the seeds that may be tried a checkpoint belongs to; the first where it is none of them."""
    seed = run_notes(partial)["settings"].get("seed")
    return seed if seed in seeds else seeds[0]


def resumed_precision(partial: Path, device: torch.device) -> Precision | None:
    """Return what a checkpoint's networks computed in; None where it does not say and the device decides."""
    on_cpu: Precision | None = "float32" if device.type == "cpu" else None  # of all checkpoints that do not say
    kept: Precision | None = run_notes(partial).get("precision", on_cpu)
    return kept


def continue_from(partial: Path, run: Run, domains: Sequence[Domain]) -> None:
    """Restore a run from its checkpoint; settings, images and the model it began from must be the same.

    Raises
    ------
    OptionError
        The checkpoint was made with others.
    ModelError
        It is damaged.
    """
    notes = run_notes(partial)
    if notes.get("start") != run.start:
        raise OptionError(
            f"{partial} was begun from another model, or from none", remedy=("give the same ", BASE, " or remove it")
        )
    wanted = json.loads(json.dumps(asdict(run.settings)))
    begun = notes["settings"]
    networks = begun.get("networks")
    if isinstance(networks, dict) and isinstance(generator := networks.get("generator"), dict):
        networks = {"beside": 0, **networks, "generator": {"room": 0.0, **generator}}  # a version before knew less
        begun = {"guide_in_loop": False, **begun, "networks": networks}
    differing = [key for key in wanted if begun.get(key) != wanted[key]]
    if differing:
        raise OptionError(
            f"{partial} was trained with other {', '.join(differing)}; give the same options or remove it"
        )
    if notes["data"] != fingerprint(domains):
        raise OptionError(f"{partial} was trained on other images or masks; give the same or remove it")
    restore_checkpoint(partial, run.state)
    run.done = run.saved = int(notes["step"])
    run.seconds = float(notes["seconds"])
    run.attention = [AttentionState(**state) for state in notes["attention"]]
