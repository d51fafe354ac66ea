"""Whether networks see the planes beside each, and along which axis: judged without a truth on a sample of the stack.

Noise of different planes is independent, so the judge of `quality/risk.py` holds for networks that see neighbours as it
is: only the plane's own noise counts against them, the planes beside it are what they know besides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cellxlate.enhancement.input import ALONE, Context
from cellxlate.enhancement.neighbours.sample import Sight, attended, proposed, selected, sights_of
from cellxlate.enhancement.plane import PlaneJob, Translator, Work
from cellxlate.model.bundle import Bundle
from cellxlate.quality.report.gates import NOTHING_BESIDE
from cellxlate.quality.risk import Ranking, estimate_risks
from cellxlate.stacks.intensity.noise_model import CameraNoise
from cellxlate.stacks.intensity.noise_patches import spread_evenly
from cellxlate.stacks.intensity.stack_noise import stack_noise
from cellxlate.stacks.stack import Stack

AXES = "ZT"
WINDOW_PX, MOST_RUNS = 192, 12
"""Of windows the side, and how many are judged, times the pairs of networks that are: what the time allows."""
SURE_ERRORS, LEAST_GAIN_DB = 2.0, 0.2
"""What is less is told from nothing at times, and is not worth the time that it takes."""
ITSELF = "each plane alone"


@dataclass(frozen=True)
class ContextChoice:
    """The planes that networks see beside each, and why.

    Attributes
    ----------
    context : Context
        `ALONE` where each plane is seen alone.
    reason : str
        In one sentence.
    ranking : Ranking or None
        Of each plane alone and of the axes, by estimated error; None where nothing had to be judged.
    """

    context: Context
    reason: str
    ranking: Ranking | None = None

    def stated(self) -> dict[str, Any]:
        """Return plain values for JSON: axis, planes on either side, and the reason."""
        return {"axis": self.context.along or None, "planes": self.context.planes, "reason": self.reason}


def contexts_of(stack: Stack, neighbours: Bundle | None) -> list[Context]:
    """Return in which contexts networks could see the planes of a stack: along z, and over time."""
    if neighbours is None:
        return []
    reach = neighbours.networks.settings.context
    return [Context.beside(axis, reach) for axis in AXES if stack.size(axis) > 1]


def choose_context(
    stack: Stack, jobs: Sequence[PlaneJob], bundle: Bundle, *, open_translator: Callable[[Bundle], Translator]
) -> ContextChoice:
    """Choose along which axis networks see the planes beside each: one that is estimated to be better beyond doubt.

    Parameters
    ----------
    stack : Stack
        At most 6 windows of 192 px are judged, of 18 that are read, with the planes beside them.
    jobs : sequence of PlaneJob
        How it would be enhanced, each plane alone.
    bundle : Bundle
        The model.
    open_translator : callable
        Opens what runs the networks that see neighbours; not called where there is nothing to decide.

    Returns
    -------
    ContextChoice
        The same for the same stack, model, settings and engine.
    """
    if all(stack.size(axis) < 2 for axis in AXES):
        return ContextChoice(ALONE, NOTHING_BESIDE)
    if bundle.in_context is None:
        return ContextChoice(ALONE, f"{ITSELF}: {bundle.name} was not trained to see the planes beside it")
    contexts = contexts_of(stack, bundle.in_context)
    if not contexts:
        return ContextChoice(ALONE, NOTHING_BESIDE)
    sights = _sights(stack, jobs, contexts)
    if not sights:
        return ContextChoice(ALONE, f"{ITSELF}: every window looked at holds one value, or some that are not finite")
    ranking = _ranking(stack, sights, open_translator(bundle.in_context), contexts)
    if ranking is None:
        return ContextChoice(ALONE, f"{ITSELF}: attention selects nothing in the windows looked at")
    return decided(ranking, contexts)


def decided(ranking: Ranking, contexts: Sequence[Context]) -> ContextChoice:
    """Return the context that is surely better than each plane alone, and by enough; of several the best."""
    gains = {one: ranking.better(one.axis, ITSELF) for one in contexts}
    surely = {one: ranking.surely_better(one.axis, ITSELF) for one in contexts}
    useful = [one for one in contexts if surely[one] > SURE_ERRORS and gains[one][0] > LEAST_GAIN_DB]
    best = max(useful or contexts, key=lambda one: gains[one][0])
    gain_db, axis = gains[best][0], best.along
    if useful:
        sure = f"sure by {surely[best]:.0f} standard errors"  # of the difference, which is surer than the decibels
        return ContextChoice(best, f"estimated {gain_db:.1f} dB better than {ITSELF}, {sure}", ranking)
    reason = f"{ITSELF}: those beside along {axis} are not surely of use, estimated {gain_db:+.1f} dB"
    return ContextChoice(ALONE, reason, ranking)


def _sights(stack: Stack, jobs: Sequence[PlaneJob], contexts: Sequence[Context]) -> list[tuple[Sight, PlaneJob]]:
    """Return windows of all channels, all on the levels of the first, each with the job that enhances it so."""
    count = MOST_RUNS // (1 + len(contexts))
    levels = replace(next(iter(jobs[0].intensities.values())), drift=())
    owners = {channel: job for job in jobs for channel in job.channels}
    channels = spread_evenly(list(owners), count)
    sights = []
    for channel in channels:
        job = owners[channel]
        on_levels = replace(job, intensities=dict.fromkeys(job.channels, levels), target=None, work=Work())
        taken = sights_of(
            stack, job.intensities, channel, [ALONE, *contexts], levels=levels, side_px=WINDOW_PX,
            count=max(count // len(channels), 1),
        )  # fmt: skip
        sights += [(sight, on_levels) for sight in taken]
    return sights


def _ranking(
    stack: Stack, sights: Sequence[tuple[Sight, PlaneJob]], beside: Translator, contexts: Sequence[Context]
) -> Ranking | None:
    """Rank each plane alone and the contexts where attention selects; None where it selects nothing."""
    measured: dict[int, CameraNoise] = {}
    planes, noises, inside, candidates = [], [], [], []
    for sight, job in sights:
        steps = attended(sight, job)
        chosen = selected(sight, job, steps)
        if not chosen.any():
            continue
        if sight.channel not in measured:
            measured[sight.channel] = _noise(stack, sight.channel, contexts)
        levels = job.intensities[sight.channel]
        planes.append(sight.counts)
        inside.append(chosen)
        noises.append(measured[sight.channel].rescaled(levels.span / sight.own.span, sight.own.black, levels.black))
        jobs = {ITSELF: job} | {one.axis: replace(job, translator=beside, context=one) for one in contexts}
        candidates.append({name: proposed(sight, one, steps) for name, one in jobs.items()})
    return estimate_risks(planes, noises, candidates, inside=inside) if planes else None


def _noise(stack: Stack, channel: int, contexts: Sequence[Context]) -> CameraNoise:
    """Return the noise of a channel; where no plane has a flat place, planes may have one less those beside them."""
    noise = stack_noise(stack, channel)
    if noise.reliable or all(one.axis != "Z" for one in contexts):
        return noise
    between = stack_noise(stack, channel, along="Z")
    return between if between.reliable else noise
