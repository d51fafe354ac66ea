"""Should the result of a run be believed? A bounded sample of windows of each channel is looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.prefetch import ahead
from cellxlate.quality.places import Places, Window
from cellxlate.quality.trust.likeness import Departure, WindowFeatures, departure, departure_words, look
from cellxlate.quality.trust.residual import Taken, taken_away
from cellxlate.quality.trust.support import Support, supported
from cellxlate.stacks.intensity.camera_noise import measure_noise
from cellxlate.stacks.intensity.constant_parts import RIM_PX, empty_parts, grown, recorded_window
from cellxlate.stacks.intensity.hot_pixels import hot_counts
from cellxlate.stacks.intensity.noise_model import CameraNoise
from cellxlate.stacks.intensity.range import SMOOTHING_PX, IntensityRange
from cellxlate.stacks.stack import Stack

SUPPORT_WINDOWS, DOMAIN_WINDOWS, NOISE_WINDOWS = 32, 8, 6
NO_LEVELS: Mapping[int, IntensityRange] = {}


@dataclass(frozen=True)
class Trust:
    """What was found in the windows of one channel.

    Attributes
    ----------
    departure : Departure or None
        How far the input is from the images the model was trained on; None where the card does not tell, or the input
        holds nothing to judge by.
    support : Support
        Whether the input supports what the output shows.
    is_stated : bool
        Whether the card tells what images the model was trained on.
    taken : Taken
        What input less output looks like beside the camera's noise.
    noise : CameraNoise or None
        Of the input, measured in some of the windows.
    """

    departure: Departure | None = None
    support: Support = field(default_factory=Support)
    is_stated: bool = False
    taken: Taken = field(default_factory=Taken)
    noise: CameraNoise | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        departed, seen = self.departure, self.support
        return {
            "domain": None if departed is None else {
                "distance": departed.distance, "parts": dict(departed.parts), "differences": departure_words(departed),
            },
            "windows": seen.windows,
            "regions_added": seen.added,
            "regions_lost": seen.lost,
            "attention_agreement": seen.mean_agreement,
            "salient_selected": seen.salient_share,
        }  # fmt: skip


def noise_and_residual(trusts: Sequence[tuple[str, Trust]]) -> dict[str, Any]:
    """Return what a report's JSON says of the noise of each channel, and of what was taken away from all and each."""
    together = Taken()
    for _, one in trusts:
        together.include(one.taken)
    return {
        "noise": [{"channel": name, **one.noise.as_dict()} for name, one in trusts if one.noise],
        "residual": {
            **together.as_dict(), "channels": [{"channel": name, **one.taken.as_dict()} for name, one in trusts],
        },
    }  # fmt: skip


def judgeable(
    raw: npt.NDArray[Any], enhanced: npt.NDArray[Any], attention: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Return a window (Y, X) of input, output and attention without what was never recorded, and without hot pixels.

    Padding would be taken for darkness, and its border, which attention leaves out, for structure.
    """
    if parts := empty_parts(raw):
        inside = recorded_window(grown(np.logical_or.reduce(list(parts.values())), RIM_PX))
        raw, enhanced, attention = raw[inside], enhanced[inside], attention[inside]
    rows, columns, calm = hot_counts(raw)
    if len(rows):
        raw, enhanced = raw.astype(np.float64), enhanced.astype(np.float64)
        raw[rows, columns] = enhanced[rows, columns] = calm
    return raw, enhanced, attention


def examine(
    stack: Stack,
    enhanced: Stack,
    attention: Stack,
    *,
    places: Places,
    channels: Sequence[int],
    domain: Mapping[str, Any] | None,
    levels: Mapping[int, IntensityRange] = NO_LEVELS,
) -> dict[int, Trust]:
    """Look at a bounded sample of windows of each channel: at most 32 of 256 x 256 px in all, at least 4 per channel.

    Parameters
    ----------
    stack, enhanced, attention : Stack
        Input, output and attention (uint8), of the same shape.
    places : Places
        Where attention selects; windows are taken from there.
    channels : sequence of int
        The channels that were enhanced.
    domain : mapping or None
        What the model's card says of its training images.
    levels : mapping of int to IntensityRange
        Of the channels, as far as they are known: by how much the background drifts is taken off before noise is
        measured, which would take a brighter background for more light.
    """

    def drift(window: Window) -> float:
        known = levels.get(stack.channel_of(window[0]))
        return known.at(stack.time_of(window[0])).black - known.black if known else 0.0

    def recorded(window: Window) -> npt.NDArray[Any]:
        counts = stack.read(*window)
        own, _, _ = judgeable(counts, counts, np.zeros(counts.shape, np.uint8))
        return own - offset if (offset := drift(window)) else own

    def judge(asked: tuple[Window, bool]) -> tuple[Support, Taken, WindowFeatures | None]:
        window, is_looked_at = asked
        raw, after, selected = judgeable(*(one.read(*window) for one in (stack, enhanced, attention)))
        support = supported(raw, after, selected, noise_left=left)
        offset = drift(window)
        taken = taken_away(raw - offset, after - offset, selected, camera)
        return support, taken, look(raw) if is_looked_at else None

    trusts = {}
    for channel in channels:
        planes = [index for index in places.selected if stack.channel_of(index) == channel]
        windows = places.choose(max(SUPPORT_WINDOWS // len(channels), 4), planes)
        every = max(len(windows) // DOMAIN_WINDOWS, 1)
        camera = measure_noise(map(recorded, windows[:: max(len(windows) // NOISE_WINDOWS, 1)]))
        left = camera.after_smoothing(SMOOTHING_PX) if camera.reliable else 0.0
        support, taken, looks = Support(), Taken(), []
        for seen, removed, one in ahead(
            judge, ((window, number % every == 0) for number, window in enumerate(windows)), threads=2
        ):
            support.include(seen)
            taken.include(removed)
            looks += [one] if one else []
        trusts[channel] = Trust(departure(looks, domain), support, bool(domain), taken, camera)
    return trusts
