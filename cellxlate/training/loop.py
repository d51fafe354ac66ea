"""Training, from two folders of images to a model folder. Read `train` from top to bottom."""

import copy
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cellxlate.errors import OptionError, OutputError, TrainingError
from cellxlate.model.bundle import Bundle, save_bundle, stored_networks
from cellxlate.model.engines import Device, choose_device
from cellxlate.model.networks import Translator
from cellxlate.model.statistics import fix_translator, without_normalisation
from cellxlate.quality.report import triptych_png
from cellxlate.settings import PRESETS, Guide, PresetName, TrainSettings
from cellxlate.training.checkpoint import RunState, read_notes, restore_checkpoint, save_checkpoint
from cellxlate.training.guides import saliency
from cellxlate.training.imaging import ImagingProcess, fit_noise
from cellxlate.training.patches import Domain, Patches, central_window, has_contrast, open_domain
from cellxlate.training.steps import Draw, ImagingStep, LearnedStep, Step
from cellxlate.training.watch import AttentionState, Curves, look, require_no_collapse

LOOK_EVERY = 50
PROBE_PATCHES = 8
NOISE_FIELDS = 64


@dataclass(frozen=True)
class TrainProgress:
    """One line of news from a run."""

    step: int
    steps: int
    seconds: float
    terms: dict[str, float]
    attention: AttentionState

    def __str__(self) -> str:
        terms = "  ".join(f"{name} {value:.4f}" for name, value in self.terms.items())
        return f"step {self.step}/{self.steps}  {self.seconds:.0f} s  {terms}  attention area {self.attention.area:.3f}"


@dataclass
class Run:
    """A run in progress: its step function, the moving average, and how far it has come."""

    settings: TrainSettings
    step_function: Step
    average: Translator
    steps: int
    steps_per_epoch: int
    done: int = 0
    seconds: float = 0.0
    attention: list[AttentionState] = field(default_factory=list)

    @property
    def state(self) -> RunState:
        """What a checkpoint holds."""
        modules = {**self.step_function.modules, "average": self.average}
        return RunState(modules, self.step_function.optimisers, self.step_function.pools)


def train(
    source: str | Path | Sequence[str | Path],
    target: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    preset: PresetName = "fast",
    settings: TrainSettings | None = None,
    guide: Guide | None = None,
    baseline: str = "none",
    epochs: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
    channel: int | None = None,
    device: Device = "auto",
    resume: bool = False,
    licence: str = "not stated",
    progress: Callable[[TrainProgress], object] | None = None,
) -> Bundle:
    """Train a translator from unpaired images.

    Parameters
    ----------
    source, target : path or paths
        Images as they come from the microscope, and images as they should look; files or folders; need not be pairs.
    output : path
        The model folder to write; must not exist. Beside it `NAME.partial` holds checkpoints and curves while training.
    preset : {"fast", "paper", "paper-wide"}
        Where all settings come from that are not given; ignored if `settings` is.
    settings : TrainSettings, optional
        Full control.
    guide : {"none", "saliency"}, optional
        What attention is guided by.
    baseline : {"none", "cyclegan"}
        "cyclegan" fixes attention to 1.
    epochs, steps : int, optional
        Length; steps win.
    seed : int, optional
        Of weights and draws.
    channel : int, optional
        Which channel of multi-channel images.
    device : {"auto", "cpu", "cuda", "mps"}
        Where to train.
    resume : bool
        Continue from `NAME.partial`; the result equals an unbroken run.
    licence : str
        Of the weights, for the card.
    progress : callable, optional
        Called with a TrainProgress every 50 steps; `print` works.

    Returns
    -------
    Bundle
        The trained model, as loaded from its folder.

    Raises
    ------
    InputError, OptionError, OutputError
        Before training starts.
    TrainingError
        The loss is not finite any more, or attention has collapsed; the last good checkpoint remains.

    References
    ----------
    Mejjati et al., NeurIPS 2018, arXiv 1806.02311. Where the presets deviate: docs/decisions.
    """
    output = Path(output)
    settings = resolve(
        settings or PRESETS[preset], guide=guide, baseline=baseline, epochs=epochs, steps=steps, seed=seed
    )
    partial = output.with_name(output.name + ".partial")
    if output.exists():
        raise OutputError(f"{output} exists already; choose another -o or remove it")
    if partial.exists() and not resume:
        raise OutputError(f"{partial} holds an unfinished run; continue with --resume or remove it")
    chosen_device = choose_device(device)
    domains = tuple(
        open_domain(
            as_paths(paths), number=number, patch_px=settings.patch_px, load_px=settings.load_px, channel=channel
        )
        for number, paths in enumerate((source, target))
    )
    run = begin(settings, domains, chosen_device)
    if resume:
        continue_from(partial, run)
    partial.mkdir(parents=True, exist_ok=True)
    (partial / "settings.json").write_text(json.dumps(settings.as_dict(), indent=1), encoding="utf-8")
    loop(run, domains, chosen_device, partial, progress)
    final = finished_translator(run, domains[0])
    card = training_card(run, (as_paths(source), as_paths(target)), domains, licence)
    bundle = save_bundle(output, final, card, preview(final, domains[0], settings.threshold))
    shutil.copyfile(partial / "curves.csv", output / "curves.csv")
    shutil.rmtree(partial)
    return bundle


def resolve(
    settings: TrainSettings,
    *,
    guide: Guide | None,
    baseline: str,
    epochs: int | None,
    steps: int | None,
    seed: int | None,
) -> TrainSettings:
    """Return the settings with the options that were given, after checking them."""
    if guide is not None:
        settings = replace(settings, guide=guide)
    if baseline == "cyclegan":
        settings = replace(settings, baseline="cyclegan", guide="none", backward="learned")
    if epochs is not None:
        settings = replace(settings, epochs=epochs, steps=None)
    if steps is not None:
        settings = replace(settings, steps=steps)
    if seed is not None:
        settings = replace(settings, seed=seed)
    if settings.epochs < 1 or (settings.steps is not None and settings.steps < 1):
        raise OptionError("--epochs and --steps must be at least 1")
    if settings.seed < 0:
        raise OptionError(f"--seed {settings.seed} is negative; give 0 or more")
    if settings.guide == "masks":
        raise OptionError("--guide masks is not in this version yet; use --guide saliency")
    if settings.backward == "imaging" and settings.guide == "none":
        raise OptionError("the imaging process teaches attention by a guide; use --guide saliency or --preset paper")
    return settings


def as_paths(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return one or several paths as a list."""
    return [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]


def begin(settings: TrainSettings, domains: tuple[Domain, ...], device: torch.device) -> Run:
    """Build networks from the seed and count the steps."""
    torch.manual_seed(settings.seed)
    step_function: Step
    if settings.backward == "imaging":
        step_function = ImagingStep(settings, imaging_process(settings, domains[0]), device)
    else:
        step_function = LearnedStep(settings, device)
    steps_per_epoch = math.ceil(max(len(domain) for domain in domains) / settings.batch)
    steps = settings.steps or settings.epochs * steps_per_epoch
    average = copy.deepcopy(step_function.translator).requires_grad_(False)
    return Run(settings, step_function, average, steps, steps_per_epoch)


def imaging_process(settings: TrainSettings, source: Domain) -> ImagingProcess:
    """Estimate the noise of the source microscope from the source images alone."""
    fields = [one for one in source.fields if has_contrast(one)]
    fields = fields[:: max(len(fields) // NOISE_FIELDS, 1)]
    planes = [central_window(one) for one in fields]
    levels = [one.levels for one in fields]
    guides = [saliency(plane, level) for plane, level in zip(planes, levels, strict=True)]
    noise = fit_noise(planes, levels, guides)
    variances = np.array([noise.unit_variance(one.levels) for one in source.fields if has_contrast(one)])
    return ImagingProcess(settings.imaging, variances)


def continue_from(partial: Path, run: Run) -> None:
    """Restore a run from its checkpoint; the settings must be the same.

    Raises
    ------
    OptionError
        The checkpoint was made with other settings.
    """
    notes = read_notes(partial)
    wanted = json.loads(json.dumps(run.settings.as_dict()))
    differing = [key for key in wanted if notes["settings"].get(key) != wanted[key]]
    if differing:
        raise OptionError(
            f"{partial} was trained with other {', '.join(differing)}; give the same options or remove it"
        )
    restore_checkpoint(partial, run.state)
    run.done, run.seconds = int(notes["step"]), float(notes["seconds"])


def loop(
    run: Run,
    domains: tuple[Domain, ...],
    device: torch.device,
    partial: Path,
    progress: Callable[[TrainProgress], object] | None,
) -> None:
    """Run the remaining steps; look, log and save on the way. An interruption saves first."""
    curves = Curves(partial / "curves.csv", resume_step=run.done)
    probe = draw(domains[0], run, 0, guided=True, batch=min(PROBE_PATCHES, len(domains[0])))
    started = saved = time.monotonic()
    before_s = run.seconds
    try:
        while run.done < run.steps:
            terms = one_step(run, domains, device)
            run.done += 1
            run.seconds = before_s + time.monotonic() - started
            if run.done % LOOK_EVERY == 0 or run.done == run.steps:
                values = {name: float(value.detach()) for name, value in terms.items()}
                if not all(math.isfinite(value) for value in values.values()):
                    raise TrainingError(
                        f"the loss is not finite at step {run.done}; the last good checkpoint is in {partial}; "
                        "resume with a lower learning rate or another seed"
                    )
                with torch.no_grad():
                    attention = run.average.attention(torch.from_numpy(probe.images).to(device)).cpu().numpy()
                run.attention.append(look(attention, probe.guides, run.settings.threshold))
                curves.add(run.done, run.seconds, values, run.attention[-1])
                if progress:
                    progress(TrainProgress(run.done, run.steps, run.seconds, values, run.attention[-1]))
                if run.settings.baseline == "none":
                    require_no_collapse(run.attention, run.done)
                if time.monotonic() - saved > 60 * run.settings.checkpoint_minutes:
                    save(run, partial)
                    saved = time.monotonic()
    except KeyboardInterrupt:
        save(run, partial)
        raise
    save(run, partial)


def one_step(run: Run, domains: tuple[Domain, ...], device: torch.device) -> dict[str, torch.Tensor]:
    """Draw patches, set the rate, move the networks, and follow them with the moving average."""
    settings = run.settings
    guided = settings.guide != "none"
    source, target = (on_device(draw(domain, run, run.done, guided=guided), device) for domain in domains)
    for optimiser in run.step_function.optimisers.values():
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * rate(run.done / run.steps, settings.decay_from)
    epoch = run.done * settings.epochs / run.steps if settings.steps else run.done / run.steps_per_epoch
    rng = torch.Generator().manual_seed(settings.seed * 1_000_003 + run.done)
    terms = run.step_function.run(source, target, switched=epoch >= settings.switch_epoch, rng=rng)
    decay = min(settings.ema, (1 + run.done) / (10 + run.done))
    with torch.no_grad():
        for slow, fast in zip(run.average.parameters(), run.step_function.translator.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)
    return terms


def draw(domain: Domain, run: Run, step: int, *, guided: bool, batch: int | None = None) -> Patches:
    """Draw the patches of a step as the settings say."""
    settings = run.settings
    return domain.draw(
        step, batch or settings.batch, patch_px=settings.patch_px, load_px=settings.load_px, guided=guided,
        seed=settings.seed,
    )  # fmt: skip


def on_device(patches: Patches, device: torch.device) -> Draw:
    """Move patches to where training runs."""
    return Draw(torch.from_numpy(patches.images).to(device), torch.from_numpy(patches.guides).to(device))


def rate(done: float, decay_from: float) -> float:
    """Return the share of the learning rate: 1 until `decay_from` of the run, then linearly to 0."""
    return min(1.0, (1 - done) / (1 - decay_from)) if decay_from < 1 else 1.0


def save(run: Run, partial: Path) -> None:
    """Write a checkpoint unless the weights have gone bad."""
    if all(bool(torch.isfinite(value).all()) for value in run.step_function.translator.parameters()):
        notes = {"step": run.done, "seconds": run.seconds, "settings": run.settings.as_dict()}
        save_checkpoint(partial, run.state, notes)


def finished_translator(run: Run, source: Domain) -> Translator:
    """Return the averaged translator with its statistics fixed on source patches and folded."""
    batches = [
        torch.from_numpy(draw(source, run, step, guided=False, batch=1).images) for step in range(min(32, len(source)))
    ]
    contrast = [batch for batch in batches if float(batch.max() - batch.min()) > 0]
    return fix_translator(run.average.cpu().eval(), run.settings.networks, contrast)


def training_card(
    run: Run, paths: tuple[list[Path], list[Path]], domains: tuple[Domain, ...], licence: str
) -> dict[str, Any]:
    """Return what the card says of the training."""
    settings = run.settings
    normalised = settings.networks.generator.normalisation != "none"
    last = run.attention[-1] if run.attention else None
    return {
        "preset": settings.preset,
        "networks": stored_networks(without_normalisation(settings.networks)),
        "statistics": {
            "kind": "fixed at the end of training and folded"
            if normalised
            else "none needed (no normalisation layers)",
            "source_patches": min(32, len(domains[0])) if normalised else 0,
        },
        "intensity": {
            name: {
                "black_counts": float(np.median([one.levels.black for one in domain.fields])),
                "span_counts": float(np.median([one.levels.span for one in domain.fields])),
                "noise_counts": float(np.median([one.levels.noise for one in domain.fields])),
            }
            for name, domain in zip(("source", "target"), domains, strict=True)
        },
        "training": {
            "source": [path.name for path in paths[0]],
            "target": [path.name for path in paths[1]],
            "source_planes": len(domains[0]),
            "target_planes": len(domains[1]),
            "steps": run.done,
            "seconds": round(run.seconds, 1),
            "seed": settings.seed,
            "settings": settings.as_dict(),
            "torch": torch.__version__,
            "python": sys.version.split()[0],
            "attention_agreement_with_guide": None
            if last is None or last.agreement != last.agreement
            else last.agreement,
        },
        "licence": licence,
        "scores": {},
    }


def preview(translator: Translator, source: Domain, threshold: float) -> bytes:
    """Return a PNG of input, attention and output on the first source field with contrast."""
    chosen = next(one for one in source.fields if has_contrast(one))
    unit: npt.NDArray[np.float32] = chosen.levels.to_unit(central_window(chosen, 256))
    rows, columns = (size - size % translator.stride for size in unit.shape)
    unit = unit[:rows, :columns]
    with torch.inference_mode():
        batch = torch.from_numpy(np.ascontiguousarray(unit))[None, None]
        attention = translator.attention(batch)
        made = torch.where(
            attention > threshold, attention * translator.generator(batch) + (1 - attention) * batch, batch
        )
    return triptych_png(unit, attention[0, 0].numpy(), made[0, 0].numpy())
