"""A model learns from the stack before it enhances it, within so many seconds, and only what is better is kept.

Read `adapt_stack` from top to bottom: sample and noise, learning, judging, keeping.
"""

import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy.typing as npt
import torch

from cellxlate.choice import choose_model
from cellxlate.enhancement.adaptation.clock import Clock
from cellxlate.enhancement.adaptation.judge import Judge, verdict
from cellxlate.enhancement.adaptation.record import Adaptation, held, make_room, recalled, record_of, remembered
from cellxlate.enhancement.flow import EnhanceProgress, Progress
from cellxlate.enhancement.neighbours.choice import ContextChoice
from cellxlate.enhancement.neighbours.context import context_of
from cellxlate.enhancement.outputs.names import opened
from cellxlate.enhancement.plan import require_counts
from cellxlate.enhancement.plane import PlaneJob
from cellxlate.errors import TrainingError, said
from cellxlate.locations import Location
from cellxlate.model.bundle import Bundle, load_model, save_bundle
from cellxlate.model.cards import AUTO, SHIPPED
from cellxlate.model.engines.engine import Device, choose_device, open_engine
from cellxlate.model.networks import TranslatorNetworks
from cellxlate.option_values import as_path, require_callables, whole
from cellxlate.options import SEED, TRAINED
from cellxlate.settings import ADAPT_S, PRESETS, Along, Color, EnhanceSettings, TrainSettings
from cellxlate.settings_file import enhance_settings
from cellxlate.stacks.channel_names import choose_channels
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.intensity.saved import luminances_of, ranges_of
from cellxlate.stacks.luminance import is_color, what_is_seen
from cellxlate.stacks.naming import partial_of
from cellxlate.stacks.stack import Pixels, Stack
from cellxlate.training.alone.domain import NothingToLearnError, sampled_domain
from cellxlate.training.fields.patches import Domain
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

FIRST_STEPS, FEWEST_STEPS, ENOUGH_STEPS, ENOUGH_PX = 3, 20, 300, 256**2
"""Measured on; learned at least; enough for one to three windows, in proportion for more, and for fewer pixels."""
CALM = 0.9
"""What of the time is planned for, to be on time."""


def adapt(
    stack: str | Location | Stack | npt.NDArray[Any] | Pixels,
    model: str | Path | Bundle = AUTO,
    *,
    seconds: float = ADAPT_S,
    steps: int | None = None,
    seed: int = 0,
    axes: str | None = None,
    image: int | None = None,
    incomplete: bool = False,
    channels: Sequence[str | int] | str | int | None = None,
    levels_from: str | Path | None = None,
    threshold: float | None = None,
    context: Along | None = None,
    color: Color | None = None,
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
    axes, image, incomplete, channels, levels_from, threshold, context, color, device
        As in `enhance`: what is judged is what `enhance` would make with them. Where neighbours are seen, the networks
        that see them learn, and those that see a plane alone stay as they are.
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
    choose_device(device)
    with TemporaryDirectory() as nowhere:
        adaptation = adapt_stack(
            stack, model, seconds=seconds, steps=steps, seed=seed, axes=axes, image=image, incomplete=incomplete,
            channels=channels, levels_from=levels_from, device=device,
            settings=enhance_settings(threshold=threshold, context=context, color=color),
            output=Path(nowhere) / "adapted" if output is None else as_path(TRAINED, output), overwrite=overwrite,
            resume=resume, progress=progress,
        )  # fmt: skip
    adaptation.forget()
    if not adaptation.kept:
        warnings.warn(adaptation.reason, stacklevel=2)
    return adaptation.model


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
    channels: Sequence[str | int] | str | int | None = None,
    levels_from: str | Path | None = None,
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
    clock, partial, seed = Clock(seconds, steps), partial_of(output), whole(SEED, seed, least=0)
    settings = replace(enhance_settings(settings), intensity="source")
    with held(output), opened(what, axes, image, incomplete) as stack:
        make_room(output, partial, overwrite=overwrite, resume=resume)
        require_counts(stack)
        tell = _teller(stack, clock, progress)
        tell(0)
        numbers, choice = choose_channels(stack, channels), None
        shown, planes = what_is_seen(stack, numbers, settings.color)
        if isinstance(model, str) and model == AUTO:
            model, choice = choose_model(shown, planes, context=settings.context)
        base = model if isinstance(model, Bundle) else load_model(model)
        stated = (ranges_of if shown is stack else luminances_of)(stack, numbers, levels_from)
        intensities = {one: stated[one] for one in planes}
        seen = (beside := neighbours_of(shown, base, intensities, settings, device)).context

        def nothing(fault: Exception) -> Adaptation:
            why = said("nothing was learned: ", fault)
            return Adaptation(base, False, clock.spent_s, 0, why, base.name, choice=choice, neighbours=beside)

        wanted = replace(training, seed=seed, steps=steps or training.steps or FEWEST_STEPS)
        chosen = starting_from(base, seeing(wanted, seen.planes))
        try:
            domain = sampled_domain(shown, intensities, chosen.alone, seen.around if seen.planes else None)
        except NothingToLearnError as fault:
            return nothing(fault)
        identity = {"data": fingerprint((domain, domain)), "base_sha256": base.digest, "seed": seed}
        if resume and (known := recalled(output, partial, base, identity, choice)):
            return replace(known, neighbours=beside)
        judge = Judge(domain, settings, device, base.seeing(seen.planes), clock.expected_s, seen)
        tell(0)
        try:
            run = learned(chosen, domain, base, partial, clock, judge_s=judge.expected_s, steps=steps, resume=resume,
                          device=device, tell=tell)  # fmt: skip
        except TrainingError as fault:
            shutil.rmtree(partial, ignore_errors=True)
            return nothing(fault)
        translator = finished_translator(run.average, run.settings, [])
        ranking, is_open = judge.ranking(translator, seed)
        kept, reason = verdict(ranking, is_open=is_open)
        adaptation = Adaptation(
            base, kept, run.seconds + clock.since_learning_s, run.done, reason, base.name, ranking, choice,
            _call(stack, base, run, numbers, beside, settings.color), neighbours=beside,
        )  # fmt: skip
        if not kept:
            return remembered(partial, identity, adaptation)
        card = _card(stack, base, run, domain, adaptation) | {"adaptation": record_of(identity, adaptation)}
        picture = preview(translator, domain, settings.threshold)
        bundle = _written(output, partial, base, translator, card, picture, overwrite=overwrite)
    return replace(adaptation, model=bundle, seconds=run.seconds + clock.since_learning_s)


def neighbours_of(
    stack: Stack, base: Bundle, intensities: Mapping[int, IntensityRange], settings: EnhanceSettings, device: Device
) -> ContextChoice:
    """Return which neighbours the stack is enhanced with, and so learned with."""
    opened = partial(open_engine, engine="torch", device=device)

    def jobs() -> list[PlaneJob]:
        return [PlaneJob(opened(base), {channel: own}, None, settings) for channel, own in intensities.items()]

    return context_of(settings.context, stack, base, jobs, open_translator=opened)


def _written(
    output: Path, partial: Path, base: Bundle, learned: TranslatorNetworks, card: dict[str, Any], picture: bytes, *,
    overwrite: bool,
) -> Bundle:  # fmt: skip
    """Write the pair that learned beside the other one, which stays as it is; the checkpoint goes."""
    if overwrite:
        shutil.rmtree(output, ignore_errors=True)
    if learned.context:
        bundle = save_bundle(output, base.translator, card, picture, learned)
    else:
        bundle = save_bundle(output, learned, card, picture, base.in_context.translator if base.in_context else None)
    with suppress(OSError):
        shutil.copyfile(partial / "curves.csv", output / "curves.csv")
    shutil.rmtree(partial, ignore_errors=True)
    return bundle


def seeing(training: TrainSettings, planes: int) -> TrainSettings:
    """Return settings for networks that see so many planes on either side."""
    return replace(training, networks=replace(training.networks, context=planes))


def _card(stack: Stack, base: Bundle, run: Run, domain: Domain, adaptation: Adaptation) -> dict[str, Any]:
    """Return the card of what was learned: where networks that see neighbours did, the model's own, and theirs."""
    card = training_card(
        run.settings, ([Path(stack.name)], []), (domain, domain), steps=run.done, seconds=adaptation.seconds,
        seeds=[run.settings.seed], precision=run.precision, last_look=None, start=base,
        licence=str(base.card.get("licence", "not stated")), description=f"{base.name}, adapted to {stack.name}",
    )  # fmt: skip
    card["training"]["command"] = adaptation.command
    if run.settings.networks.context:
        return {**base.card, "description": card["description"], "context": {"training": card["training"]}}
    if base.in_context:
        card["context"] = base.card["context"]
    card["domain"] = card["domain"] or base.card.get("domain")  # too few windows to describe another
    return card


class _TimeUp(Exception):  # noqa: N818
    """The time for learning is over."""


def learned(
    settings: TrainSettings,
    domain: Domain,
    base: Bundle,
    partial: Path,
    clock: Clock,
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
    torch_device, domains = choose_device(device), (domain, domain)
    resume = resume and has_checkpoint(partial)
    precision = resumed_precision(partial, torch_device) if resume else None
    if resume:
        known = run_notes(partial)["settings"].get("steps")
        settings = replace(settings, steps=known if steps is None and isinstance(known, int) else settings.steps)
    prepare(partial, settings)
    limit_s = clock.limit_s - judge_s - clock.finishing_s
    run = begin(settings, domains, torch_device, precision, base)
    round_begins_s = 0.0
    try:
        if resume:
            continue_from(partial, run, domains)
        elif steps is None:
            run.seconds = clock.spent_s
            round_begins_s = _fix_steps(run, domains, torch_device, limit_s - clock.spent_s, tell)
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

        loop(run, domains, torch_device, partial, board=None, progress=None, after_step=after_step)
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


def _call(stack: Stack, base: Bundle, run: Run, channels: Sequence[int], beside: ContextChoice, color: Color) -> str:
    """Return what repeats an adaptation in Python."""
    name = base.name if not base.path.is_dir() or base.path.parent == SHIPPED else str(base.path)
    some = f", channels={list(channels)}" if len(channels) < len(stack.light_channels) else ""
    some += f", color={color!r}" if color != "luminance" and is_color(stack) else ""
    some += f", context={beside.context.along or 'none'!r}" if base.in_context else ""
    cut = f"  # cut short after {run.done}, as its time was over" if run.done < run.steps else ""
    what = str(stack.path or stack.name)
    return f"cellxlate.adapt({what!r}, {name!r}, steps={run.steps}, seed={run.settings.seed}{some}){cut}"


def _teller(stack: Stack, clock: Clock, progress: Progress | None) -> Callable[[float], None]:
    """Return what passes on how many seconds were spent."""
    require_callables(progress=progress)

    def tell(spent_s: float) -> None:
        if progress:
            total = max(math.ceil(clock.expected_s), 1)
            progress(EnhanceProgress(stack.name, min(spent_s, total), total, spent_s, "adapting"))

    return tell
