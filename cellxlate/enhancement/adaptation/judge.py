"""Whether what was learned from a stack is better than the model as it was: both are judged on a sample of it."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cellxlate.choice import GOLDEN
from cellxlate.enhancement.input import ALONE, Context
from cellxlate.enhancement.neighbours.sample import Sight, enhanced
from cellxlate.enhancement.plane import PlaneJob
from cellxlate.model.bundle import Bundle
from cellxlate.model.engines.engine import Device, open_engine
from cellxlate.model.networks import TranslatorNetworks
from cellxlate.quality.risk import Ranking, estimate_risks
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.noise_model import CameraNoise
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.training.fields.patches import Domain, Field

BEFORE, AFTER = "the model as it was", "the adapted model"
"""What the two are called where they are ranked."""
JUDGING_SHARE = 0.2
"""Of the time, for judging."""
CALLS, CLASSICAL_SHARE = 5, 0.3
"""How often a candidate is asked for a plane to judge it; what the filters that always take part cost beside."""
STANDARD_ERRORS = 2.0
MOST_TIMES, MOST_OPENED = 2.0, 0.5
"""Attention may learn to select so many times the pixels that it did, or so much of what it left alone."""


class Judge:
    """Ranks models by what they make of the sample, all windows on the scale of the first.

    It takes some of the `seconds` that adapting may; how many it will (`expected_s`) decides how many windows it takes.
    """

    def __init__(
        self, domain: Domain, settings: EnhanceSettings, device: Device, base: Bundle, seconds: float,
        context: Context = ALONE,
    ) -> None:  # fmt: skip
        self._settings, self._device, self._base, self._context = settings, device, base, context
        self._intensity = replace(domain.fields[0].intensity, drift=())
        sights = [sight_of(one, self._intensity, context) for one in domain.fields]
        noises = [noise_on_range_of(self._intensity, *one) for one in zip(domain.noises, domain.fields, strict=True)]
        run = enhanced(sights[0], self._job(base))
        run(sights[0].counts)  # the first one makes ready
        started = time.monotonic()
        run(sights[0].counts)
        per_px_s = (time.monotonic() - started) * (2 + CLASSICAL_SHARE) * CALLS / sights[0].counts.size
        most_px = JUDGING_SHARE * seconds / max(per_px_s, 1e-12)
        order = np.argsort(np.arange(len(sights)) * GOLDEN % 1.0, kind="stable")
        chosen: list[int] = []
        pixels = 0
        for window in order:
            if chosen and pixels + sights[window].counts.size > most_px:
                break
            chosen.append(int(window))
            pixels += sights[window].counts.size
        self._sights, self._noises = [sights[one] for one in chosen], [noises[one] for one in chosen]
        self.expected_s = pixels * per_px_s

    def ranking(self, learned: TranslatorNetworks, seed: int) -> tuple[Ranking, bool]:
        """Rank the model as it was, what was learned, the input and filters, where either of the two changes pixels.

        Where attention learned to select nearly everything, `learned` gets the model's own again, and True is returned.
        """
        adapted = self._base.with_weights(learned)
        before, after = self._changed(self._base), self._changed(adapted)
        if is_open := opens(_share(before), _share(after)):
            learned.attention.load_state_dict(self._base.translator.attention.state_dict())
            adapted = self._base.with_weights(learned)
            after = self._changed(adapted)
        jobs = {BEFORE: self._job(self._base), AFTER: self._job(adapted)}
        planes = [one.counts for one in self._sights]
        candidates = [{name: enhanced(one, job) for name, job in jobs.items()} for one in self._sights]
        inside = [one | other for one, other in zip(before, after, strict=True)]
        if not any(one.any() for one in inside):
            inside = [np.ones_like(one) for one in inside]
        return estimate_risks(planes, self._noises, candidates, inside=inside, seed=seed), is_open

    def _changed(self, bundle: Bundle) -> list[npt.NDArray[np.bool_]]:
        """Return which pixels of each window of the sample a model changes."""
        job = self._job(bundle)
        return [enhanced(one, job)(one.counts) != one.counts for one in self._sights]

    def _job(self, bundle: Bundle) -> PlaneJob:
        translator = open_engine(bundle, engine="torch", device=self._device)
        return PlaneJob(translator, {0: self._intensity}, None, self._settings, context=self._context)


def opens(before: float, after: float) -> bool:
    """Return whether attention has learned to select nearly everything, where it was cells alone.

    An estimate that is flat where nothing is teaches attention its own faint texture. The error falls then all the
    same, since the background is smoothed too, so the ranking does not tell. Both are shares of the pixels that change.
    """
    return after > MOST_TIMES * before and after - before > MOST_OPENED * (1 - before)


def _share(changed: Sequence[npt.NDArray[np.bool_]]) -> float:
    return float(np.concatenate([one.ravel() for one in changed]).mean())


def sight_of(field: Field, intensity: IntensityRange, context: Context) -> Sight:
    """Return a window of a domain as networks see it: of several planes the middle one, with those beside it."""
    counts = np.asarray(field.stack.pixels).reshape(-1, *field.shape)
    planes = [intensity.levelled(one, field.intensity) for one in counts]
    own = planes[len(planes) // 2]
    return Sight(0, own, {context: tuple(None if np.array_equal(one, own) else one for one in planes)}, intensity)


def noise_on_range_of(intensity: IntensityRange, noise: CameraNoise, field: Field) -> CameraNoise:
    """Return the noise of a window in counts of other levels."""
    own = field.intensity
    return noise.rescaled(intensity.span / own.span, own.black, intensity.black)


def verdict(ranking: Ranking, *, is_open: bool = False) -> tuple[bool, str]:
    """Return whether to keep what was learned, and why: only if it is better beyond doubt.

    It is said too where attention learned to select nearly everything (`is_open`), and so is the model's own again.
    """
    gain_db, error_db = ranking.better(AFTER, BEFORE)
    gain = f"its estimated error is {abs(gain_db):.2f} dB {'lower' if gain_db > 0 else 'higher'} (± {error_db:.2f})"
    if not ranking.trusted:
        doubt = ranking.doubt.rstrip(".")
        return False, f"what was learned was not kept, since it cannot be told whether it is better: {doubt}"
    if gain_db > STANDARD_ERRORS * error_db:
        kept = f"what was learned from this stack was kept: {gain}"
        return True, kept + "; attention stays as it was, since it learned to select nearly everything" * is_open
    return False, f"what was learned was not kept, since it is not clearly better: {gain}"
