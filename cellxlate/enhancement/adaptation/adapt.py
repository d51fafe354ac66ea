"""A model learns from the stack before it enhances it, within so many seconds, and only what is better is kept.

Read `adapt_stack` from top to bottom: sample and noise, learning, judging, keeping.
"""

import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cellxlate.choice import GOLDEN, Choice, choose_model
from cellxlate.enhancement.flow import EnhanceProgress
from cellxlate.enhancement.job import Progress, opened
from cellxlate.enhancement.outputs.names import Outputs, is_there
from cellxlate.enhancement.plan import checked, choose_channels, ranges_of, require_counts
from cellxlate.enhancement.plane import PlaneJob, enhance_plane
from cellxlate.enhancement.tiling import bands_of
from cellxlate.errors import ModelError, OptionError, OutputError, TrainingError, said, unless_denied
from cellxlate.locations import Location
from cellxlate.model.bundle import Bundle, load_model, save_bundle
from cellxlate.model.cards import AUTO, SHIPPED
from cellxlate.model.engines.engine import Device, choose_device, open_engine
from cellxlate.options import ADAPT, ADAPT_SECONDS, MODEL, OVERWRITE, RESUME, TO_REPLACE
from cellxlate.quality.risk import Candidate, Ranking, Risk, estimate_risks
from cellxlate.settings import ADAPT_S, PRESETS, EnhanceSettings, TrainSettings
from cellxlate.stacks.intensity.camera_noise import CameraNoise
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.naming import partial_of
from cellxlate.stacks.stack import Pixels, Stack
from cellxlate.stacks.write.locking import FolderLock
from cellxlate.training.alone.domain import NothingToLearnError, sampled_domain
from cellxlate.training.fields.patches import Domain, Field
from cellxlate.training.finished import finished_translator, preview, training_card
from cellxlate.training.loop import loop, prepare
from cellxlate.training.options import starting_from
from cellxlate.training.run import (
    Run,
    begin,
    continue_from,
    fingerprint,
    has_checkpoint,
    one_step,
    patches_of,
    resumed_precision,
    run_notes,
    save,
)

BEFORE, AFTER = "the model as it was", "the adapted model"
"""What the two are called where they are ranked."""
FIRST_STEPS, FEWEST_STEPS, ENOUGH_STEPS, ENOUGH_PX = 3, 20, 300, 256**2
"""Measured on; learned at least; enough for one to three windows, in proportion for more, and for fewer pixels."""
JUDGING_SHARE, FINISHING_S, FINISHING_SHARE, CALM = 0.2, 2.0, 0.05, 0.9
"""Of the time: for judging; for writing the model, at most a share; what of the rest is planned for, to be on time."""
CALLS, CLASSICAL_SHARE = 5, 0.3
"""How often a candidate is asked for a plane to judge it; what the filters that always take part cost beside."""
STANDARD_ERRORS = 2.0
NOTHING = "nothing was learned: "
VERDICT = "verdict.json"


@dataclass(frozen=True)
class Adaptation:
    """What became of learning from a stack.

    Attributes
    ----------
    model : Bundle
        To enhance with: what was learned where it is kept, else the model as it was.
    kept : bool
        Whether it is the learned one.
    seconds : float
        Spent, judging included.
    steps : int
        Learned.
    reason : str
        Why it was kept or not, in one sentence.
    base : str
        Name of the model that it began with.
    ranking : Ranking or None
        Of both and of filters, by estimated error; None where nothing could be learned.
    choice : Choice or None
        Why it began with that model, where one was chosen for the stack.
    command : str
        What repeats it in Python.
    leftover : Path or None
        Folder that remembers a verdict until the stack is enhanced.
    """

    model: Bundle
    kept: bool
    seconds: float
    steps: int
    reason: str
    base: str
    ranking: Ranking | None = None
    choice: Choice | None = None
    command: str = ""
    leftover: Path | None = None

    @property
    def before(self) -> Risk | None:
        """Estimated error of the model as it was."""
        return self._risk(BEFORE)

    @property
    def after(self) -> Risk | None:
        """Estimated error of what was learned."""
        return self._risk(AFTER)

    def _risk(self, name: str) -> Risk | None:
        return next((risk for risk in self.ranking.risks if risk.name == name), None) if self.ranking else None

    def forget(self) -> None:
        """Remove what remembers a verdict; called when the stack is enhanced."""
        if self.leftover:
            shutil.rmtree(self.leftover, ignore_errors=True)

    def as_dict(self) -> dict[str, Any]:
        """Return what `enhance --json` and the report say; risks in counts squared."""
        return {
            "kept": self.kept, "reason": self.reason, "seconds": round(self.seconds, 1), "steps": self.steps,
            "risk_before": self.before and self.before.mse, "risk_after": self.after and self.after.mse,
            "model": str(self.model.path) if self.kept else None, "base": self.base, "command": self.command,
            "ranked_as": AFTER if self.kept else BEFORE,
        }  # fmt: skip


def adapt(
    stack: str | Location | Stack | npt.NDArray[Any] | Pixels,
    model: str | Path | Bundle = AUTO,
    *,
    seconds: float = ADAPT_S,
    steps: int | None = None,
    seed: int = 0,
    axes: str | None = None,
    channels: Sequence[str | int] | None = None,
    device: Device = "auto",
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Let a model learn from a stack, and return it where that made it better, else the model as it was.

    Parameters
    ----------
    stack : path, Stack or array
        Whatever `enhance` takes. A bounded sample of it is read.
    model : str, Path or Bundle
        To begin with; "auto" takes the shipped model that suits the stack.
    seconds : float
        For all of it, judging included.
    steps : int, optional
        Learn so many, whatever time they take: the same steps and seed give the same model.
    seed : int
        Of what is drawn.
    axes, channels, device
        As in `enhance`.
    output : path, optional
        Model folder to write where the learned model is kept; by default it lives in memory alone.
    overwrite, resume : bool
        Replace that folder; continue an interrupted adaptation, or take one that is finished.
    progress : callable, optional
        Called with an EnhanceProgress of phase "adapting", in seconds; what it raises ends it, after a checkpoint.

    Returns
    -------
    Bundle
        Where it is not better, or where that cannot be told, the model as it was; a warning says why.

    Raises
    ------
    InputError, OptionError, OutputError, ModelError
        As in `enhance_file`.

    Examples
    --------
    >>> import cellxlate
    >>> model = cellxlate.adapt("stack.tif", seconds=60)  # doctest: +SKIP
    >>> result = cellxlate.enhance("stack.tif", model)  # doctest: +SKIP
    """
    with TemporaryDirectory() as nowhere:
        found = adapt_stack(
            stack, model, seconds=seconds, steps=steps, seed=seed, axes=axes, channels=channels, device=device,
            output=Path(output) if output is not None else Path(nowhere) / "adapted", overwrite=overwrite,
            resume=resume, progress=progress,
        )  # fmt: skip
    found.forget()
    if not found.kept:
        warnings.warn(found.reason, stacklevel=2)
    return found.model


def model_folder(outputs: Outputs) -> Path:
    """Return where the model of a stack goes: beside its results, NAME_model.

    Raises
    ------
    OptionError
        They do not lie on this computer.
    """
    folder = outputs.attention.parent
    if not isinstance(folder, Path):
        raise OptionError(
            ADAPT, " writes a model beside the results, which must lie on this computer", remedy=f"{folder} does not"
        )
    return folder / f"{outputs.attention.name.rpartition('_attention')[0]}_model"


def adapt_stack(
    what: str | Location | Stack | npt.NDArray[Any] | Pixels,
    model: str | Path | Bundle = AUTO,
    *,
    output: Path,
    seconds: float = ADAPT_S,
    steps: int | None = None,
    seed: int = 0,
    axes: str | None = None,
    image: int | None = None,
    incomplete: bool = False,
    channels: Sequence[str | int] | None = None,
    levels_from: Path | None = None,
    settings: EnhanceSettings | None = None,
    training: TrainSettings = PRESETS["alone"],
    device: Device = "auto",
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Adaptation:
    """Let a model learn from a stack as `adapt` does, and say all that became of it.

    `training` holds the settings; seed and steps are replaced. The model folder is `output`, and `output.partial` holds
    the checkpoint meanwhile; where nothing is kept, `output.partial` remembers that until `Adaptation.forget`.

    Raises
    ------
    InputError, OptionError, OutputError, ModelError
        As in `enhance_file`. That nothing can be learned, or is better, is no error.
    """
    clock = _Clock(seconds, steps)
    partial = partial_of(output)
    settings = replace(checked(settings or EnhanceSettings()), intensity="source")
    with held(output), opened(what, axes, image, incomplete) as stack:
        require_free(output, partial, overwrite=overwrite, resume=resume)
        require_counts(stack)
        tell = _teller(stack, clock, progress)
        tell(0)
        numbers = choose_channels(stack, channels)
        choice = None
        if model == AUTO:
            model, choice = choose_model(stack, numbers)
        base = model if isinstance(model, Bundle) else load_model(model)
        chosen = starting_from(base, replace(training, seed=seed, steps=steps or training.steps or FEWEST_STEPS))
        try:
            stated = ranges_of(stack, numbers, levels_from)
            domain = sampled_domain(stack, {one: stated[one] for one in numbers}, chosen.alone)
        except NothingToLearnError as fault:
            return Adaptation(
                base, False, clock.spent_s, 0, said("nothing was learned: ", fault), base.name, choice=choice
            )
        identity = {"data": fingerprint((domain, domain)), "base_sha256": base.digest, "seed": seed}
        if resume and (known := _recalled(output, partial, base, identity, choice)):
            return known
        judge = _Judge(domain, settings, device, clock, base)
        tell(0)
        try:
            run = learned(chosen, domain, base, partial, clock, judge_s=judge.expected_s, steps=steps, resume=resume,
                          device=device, tell=tell)  # fmt: skip
        except TrainingError as fault:
            shutil.rmtree(partial, ignore_errors=True)
            return Adaptation(
                base, False, clock.spent_s, 0, said("nothing was learned: ", fault), base.name, choice=choice
            )
        translator = finished_translator(run.average, run.settings, [])
        ranking = judge.ranking(replace(base, translator=translator), seed)
        kept, reason = verdict(ranking)
        found = Adaptation(
            base, kept, run.seconds + clock.since_learning_s, run.done, reason, base.name, ranking, choice,
            _call(stack, base, run, numbers),
        )  # fmt: skip
        if not kept:
            _remember(partial, identity, found)
            return replace(found, leftover=partial)
        card = training_card(
            run.settings, ([Path(stack.name)], []), (domain, domain), steps=run.done, seconds=found.seconds,
            seeds=[seed], precision=run.precision, last_look=None, start=base,
            licence=str(base.card.get("licence", "not stated")), description=f"{base.name}, adapted to {stack.name}",
        )  # fmt: skip
        card["training"]["command"] = found.command
        card["domain"] = card["domain"] or base.card.get("domain")  # too few windows to describe another
        card["adaptation"] = _record(identity, found)
        if overwrite:
            shutil.rmtree(output, ignore_errors=True)
        bundle = save_bundle(output, translator, card, preview(translator, domain, settings.threshold))
    with suppress(OSError):
        shutil.copyfile(partial / "curves.csv", output / "curves.csv")
    shutil.rmtree(partial, ignore_errors=True)
    return replace(found, model=bundle, seconds=run.seconds + clock.since_learning_s)


class _TimeUp(Exception):  # noqa: N818
    """The time for learning is over."""


class _Clock:
    """Seconds that are there and seconds that were spent; where steps are given, there are as many as they take."""

    def __init__(self, seconds: float, steps: int | None) -> None:
        if not (math.isfinite(seconds) and seconds >= 1):
            raise OptionError(
                ADAPT_SECONDS.of(seconds), " is no time to learn in", remedy="give at least 1 second, 90 are usual"
            )
        if steps is not None and steps < 1:
            raise OptionError(f"steps is {steps}, expected at least 1")
        self._started = self._learned = time.monotonic()
        self.limit_s = math.inf if steps else seconds
        self.expected_s = seconds
        self.finishing_s = min(FINISHING_S, FINISHING_SHARE * seconds)

    @property
    def spent_s(self) -> float:
        return time.monotonic() - self._started

    @property
    def since_learning_s(self) -> float:
        return time.monotonic() - self._learned

    def stop_learning(self) -> None:
        self._learned = time.monotonic()


def learned(
    settings: TrainSettings,
    domain: Domain,
    base: Bundle,
    partial: Path,
    clock: _Clock,
    *,
    judge_s: float,
    steps: int | None,
    resume: bool,
    device: Device,
    tell: Callable[[float], None],
) -> Run:
    """Learn for as many steps as there is time for, or as are given; the run ends with a checkpoint.

    How many fit is decided after the first three; should they turn out to be slower, learning ends when the time does.
    """
    place, domains = choose_device(device), (domain, domain)
    resume = resume and has_checkpoint(partial)
    precision = resumed_precision(partial, place) if resume else None
    if resume:
        known = run_notes(partial)["settings"].get("steps")
        settings = replace(settings, steps=known if steps is None and isinstance(known, int) else settings.steps)
    prepare(partial, settings)
    limit_s = clock.limit_s - judge_s - clock.finishing_s
    run = begin(settings, domains, place, precision, base)
    round_begins_s = 0.0
    try:
        if resume:
            continue_from(partial, run, domains)
        elif steps is None:
            run.seconds = clock.spent_s
            round_begins_s = _fix_steps(run, domains, place, limit_s - clock.spent_s, tell)
            prepare(partial, run.settings)
            save(run, partial, domains)
        run.seconds = max(run.seconds, clock.spent_s)
        before = run.done

        def after_step(done: int) -> None:
            spent_s = clock.spent_s
            if steps is not None:
                pace_s = (spent_s + 1e-9) / max(done - before, 1)
                clock.expected_s = spent_s + pace_s * (run.steps - done) + judge_s + clock.finishing_s
            tell(spent_s)
            begins_round = done % settings.alone.round_steps == 0
            if spent_s + (round_begins_s if begins_round else 0.0) > limit_s and done < run.steps:
                raise _TimeUp

        loop(run, domains, place, partial, board=None, progress=None, after_step=after_step)
    except _TimeUp:
        pass
    except BaseException:
        if not has_checkpoint(partial):
            shutil.rmtree(partial, ignore_errors=True)
        raise
    clock.stop_learning()
    return run


def _fix_steps(
    run: Run, domains: Sequence[Domain], device: torch.device, left_s: float, tell: Callable[[float], None]
) -> float:
    """Do the first steps, and fix how many there will be: as many as fit into the time that is left.

    Returns the seconds that it takes to see what the windows of a round show.
    """
    alone, took_s = run.settings.alone, []
    run.steps = 2**31  # so that the rate is that of the beginning, whatever their number will be
    for _ in range(FIRST_STEPS):
        started = time.monotonic()
        one_step(run, patches_of(run, domains, run.done), device)
        took_s.append(time.monotonic() - started)
        tell(run.seconds + sum(took_s))
    step_s = sum(took_s[1:]) / len(took_s[1:])
    round_begins_s = max(took_s[0] - step_s, 0.0)
    round_s = round_begins_s + alone.round_steps * step_s
    steps = int(CALM * (left_s - sum(took_s)) * alone.round_steps / round_s)
    fewest = max(FEWEST_STEPS, math.ceil(FIRST_STEPS / max(run.settings.decay_from, 0.01)))
    enough = enough_steps(domains[0])
    run.steps = max(min(steps, enough), fewest)
    run.settings = replace(run.settings, steps=run.steps)
    return round_begins_s


def enough_steps(domain: Domain) -> int:
    """Return how many steps are enough for a sample: more fit its noise."""
    pixels = sum(math.prod(field.shape) for field in domain.fields)
    if pixels < ENOUGH_PX:
        return max(ENOUGH_STEPS * pixels // ENOUGH_PX, 1)
    return ENOUGH_STEPS * max(len(domain.fields), 3) // 3


class _Judge:
    """Ranks models by what they make of the sample, all windows on the scale of the first."""

    def __init__(self, domain: Domain, settings: EnhanceSettings, device: Device, clock: _Clock, base: Bundle) -> None:
        self._settings, self._device, self._base = settings, device, base
        self._intensity = replace(domain.fields[0].intensity, drift=())
        planes = [on_range_of(self._intensity, one) for one in domain.fields]
        noises = [noise_on_range_of(self._intensity, *one) for one in zip(domain.noises, domain.fields, strict=True)]
        run = self._candidate(base)
        run(planes[0])  # the first one makes ready
        started = time.monotonic()
        run(planes[0])
        per_px_s = (time.monotonic() - started) * (2 + CLASSICAL_SHARE) * CALLS / planes[0].size
        most_px = JUDGING_SHARE * clock.expected_s / max(per_px_s, 1e-12)
        order = np.argsort(np.arange(len(planes)) * GOLDEN % 1.0, kind="stable")
        chosen: list[int] = []
        pixels = 0
        for place in order:
            if chosen and pixels + planes[place].size > most_px:
                break
            chosen.append(int(place))
            pixels += planes[place].size
        self._planes, self._noises = [planes[one] for one in chosen], [noises[one] for one in chosen]
        self.expected_s = pixels * per_px_s

    def ranking(self, adapted: Bundle, seed: int) -> Ranking:
        """Rank the model as it was, what was learned, the input and filters, where either of the two changes pixels."""
        candidates = {BEFORE: self._candidate(self._base), AFTER: self._candidate(adapted)}
        inside = [
            np.any([candidate(plane) != plane for candidate in candidates.values()], axis=0) for plane in self._planes
        ]
        if not any(one.any() for one in inside):
            inside = [np.ones_like(one) for one in inside]
        return estimate_risks(self._planes, self._noises, candidates, inside=inside, seed=seed)

    def _candidate(self, bundle: Bundle) -> Candidate:
        translator = open_engine(bundle, engine="torch", device=self._device)
        job = PlaneJob(translator, {0: self._intensity}, None, self._settings)

        def composed(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            seen = job.input(Stack.from_array(plane, "YX"), ())
            bands = enhance_plane(seen, bands_of(plane.shape, job.tile_px), job)
            return np.concatenate([band.enhanced for band in bands])

        return composed


def on_range_of(intensity: IntensityRange, field: Field) -> npt.NDArray[np.float32]:
    """Return a window (Y, X) in counts of other levels: black and white are where those have them."""
    own, counts = field.intensity, np.asarray(field.stack.pixels, dtype=np.float64)
    return ((counts - own.black) * (intensity.span / own.span) + intensity.black).astype(np.float32)


def noise_on_range_of(intensity: IntensityRange, noise: CameraNoise, field: Field) -> CameraNoise:
    """Return the noise of a window in counts of other levels."""
    own, factor = field.intensity, intensity.span / field.intensity.span
    full = noise.saturation_counts
    return replace(
        noise, sd_counts=factor * noise.sd_counts, gain=factor * noise.gain,
        sd_interval=(factor * noise.sd_interval[0], factor * noise.sd_interval[1]),
        black_counts=(noise.black_counts - own.black) * factor + intensity.black,
        quantisation_counts=factor * noise.quantisation_counts,
        saturation_counts=None if full is None else (full - own.black) * factor + intensity.black,
    )  # fmt: skip


def verdict(ranking: Ranking) -> tuple[bool, str]:
    """Return whether to keep what was learned, and why: only if it is better beyond doubt."""
    gain_db, error_db = ranking.better(AFTER, BEFORE)
    found = f"its estimated error is {abs(gain_db):.2f} dB {'lower' if gain_db > 0 else 'higher'} (± {error_db:.2f})"
    if not ranking.trusted:
        doubt = ranking.doubt.rstrip(".")
        return False, f"what was learned was not kept, since it cannot be told whether it is better: {doubt}"
    if gain_db > STANDARD_ERRORS * error_db:
        return True, f"what was learned from this stack was kept: {found}"
    return False, f"what was learned was not kept, since it is not clearly better: {found}"


@contextmanager
def held(output: Path) -> Iterator[None]:
    """Keep a model folder's name from other processes, until it is released or the process ends, however it ends.

    Raises
    ------
    OutputError
        Another process is at work there, or nothing can be written.
    """
    if not output.parent.is_dir():
        raise OutputError(f"the output folder {output.parent} does not exist; make it or choose another")
    try:
        lock = FolderLock.acquire(output.with_name(output.name + ".lock"))
    except OSError as fault:
        raise unless_denied(OutputError(f"{output} cannot be written: {fault}"), output, fault) from fault
    try:
        yield
    finally:
        lock.remove()


def require_free(output: Path, partial: Path, *, overwrite: bool, resume: bool) -> None:
    """Make room for a model folder, or raise OutputError where what has its name may not be replaced."""
    if is_there(output) and not (output / "card.json").exists():
        raise OutputError(f"{output} is no model folder, so it is not replaced; move it away or choose another output")
    if is_there(partial) and not partial.is_dir():
        raise OutputError(f"{partial} is no folder of an unfinished adaptation; move it away or choose another output")
    if is_there(output) and not (overwrite or resume):
        raise OutputError(
            f"{output} exists already", remedy=("give ", MODEL.of(output), " to use it, ", OVERWRITE, " to replace it")
        )
    if is_there(partial) and (overwrite or (partial / VERDICT).exists()) and not resume:
        shutil.rmtree(partial, ignore_errors=True)
    if is_there(partial) and not resume:
        raise OutputError(
            f"{partial} holds an unfinished adaptation",
            remedy=("continue with ", RESUME, " or replace it with ", OVERWRITE),
        )


def _record(identity: Mapping[str, Any], found: Adaptation) -> dict[str, Any]:
    ranking = asdict(found.ranking) if found.ranking else None
    return {**identity, **found.as_dict(), "model": None, "ranking": ranking}


def _remember(partial: Path, identity: Mapping[str, Any], found: Adaptation) -> None:
    """Leave nothing but the verdict."""
    with suppress(OSError):
        shutil.rmtree(partial)
        partial.mkdir()
        (partial / VERDICT).write_text(json.dumps(_record(identity, found)), encoding="utf-8")


def _recalled(
    output: Path, partial: Path, base: Bundle, identity: Mapping[str, Any], choice: Choice | None
) -> Adaptation | None:
    """Return what became of an earlier adaptation to the same stack, where it is finished.

    Raises
    ------
    OutputError
        The model folder belongs to another stack, model or seed.
    """
    try:
        bundle = load_model(output) if output.is_dir() else None
        text = (partial / VERDICT).read_text(encoding="utf-8") if bundle is None else ""
    except ModelError:
        raise
    except OSError:
        return None
    record = bundle.card.get("adaptation") if bundle else json.loads(text)
    if not isinstance(record, dict) or any(record.get(name) != value for name, value in identity.items()):
        where = output if bundle else partial
        raise OutputError(f"{where} was adapted to another stack, or from another model", remedy=TO_REPLACE)
    try:
        return Adaptation(
            bundle or base, bundle is not None, float(record["seconds"]), int(record["steps"]), str(record["reason"]),
            base.name, _ranking(record["ranking"]), choice, str(record["command"]), None if bundle else partial,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as fault:
        raise OutputError(f"{output} says nothing about its adaptation", remedy=TO_REPLACE) from fault


def _ranking(stated: Mapping[str, Any] | None) -> Ranking | None:
    if stated is None:
        return None
    risks = tuple(Risk(**risk) for risk in stated["risks"])
    errors = tuple(tuple(row) for row in stated["errors_db"])
    return Ranking(risks, stated["trusted"], stated["doubt"], errors)


def _call(stack: Stack, base: Bundle, run: Run, channels: Sequence[int]) -> str:
    """Return what repeats an adaptation in Python."""
    name = base.name if not base.path.is_dir() or base.path.parent == SHIPPED else str(base.path)
    some = f", channels={list(channels)}" if len(channels) < stack.channel_count else ""
    cut = f"  # cut short after {run.done}, as its time was over" if run.done < run.steps else ""
    what = str(stack.path or stack.name)
    return f"cellxlate.adapt({what!r}, {name!r}, steps={run.steps}, seed={run.settings.seed}{some}){cut}"


def _teller(stack: Stack, clock: _Clock, progress: Progress | None) -> Callable[[float], None]:
    """Return what passes on how many seconds were spent."""

    def tell(spent_s: float) -> None:
        if progress:
            total = max(math.ceil(clock.expected_s), 1)
            progress(EnhanceProgress(stack.name, min(spent_s, total), total, spent_s, "adapting"))

    return tell
