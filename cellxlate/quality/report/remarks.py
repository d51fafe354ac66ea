"""What is said of the input of a run: parts that hold no picture, a background that drifts or is uneven."""

from collections.abc import Iterator, Mapping

from cellxlate.errors import said
from cellxlate.options import CHANNELS
from cellxlate.quality.report.notices import Notice, between, each, listed, luminance_names
from cellxlate.stacks.channel_names import unnamed
from cellxlate.stacks.intensity.range import IntensityRange

NAMED_SHARE = 0.001
"""Parts without a picture are named from here on."""


def intensity_notices(intensities: Mapping[int, IntensityRange], channel_names: Mapping[int, str]) -> list[Notice]:
    """Say what was found in channels that levels had to be kept from: each kind once, for all of them.

    Examples
    --------
    >>> from cellxlate.stacks.intensity.constant_parts import ConstantPart
    >>> padded = IntensityRange(100, 200, constant_parts=(ConstantPart(0.0, 0.12),))
    >>> intensity_notices({0: padded}, {})[0].text
    '12.0% of channel 0 is one constant value (0): left out of the intensity levels and kept.'
    >>> intensity_notices({0: padded, 1: padded}, {})[0].text
    '12.0% of channels 0 and 1 is one constant value (0): left out of the intensity levels and kept.'
    """
    known = {channel_names.get(channel, unnamed(channel)): one for channel, one in sorted(intensities.items())}
    return [*_constant(known), *_drifting(known), *_uneven(known)]


def input_notices(
    intensities: Mapping[int, IntensityRange],
    channel_names: Mapping[int, str],
    luminances: Mapping[int, IntensityRange] | None = None,
    by: str = "one model",
) -> list[Notice]:
    """Say what the levels were kept from, and that one model, or what proposed in its place, served many channels.

    Parameters
    ----------
    intensities : mapping of int to IntensityRange
        Of each channel that was enhanced, in counts.
    channel_names : mapping of int to str
        As far as there are names.
    luminances : mapping of int to IntensityRange, optional
        Of colours that were enhanced by it: what is said is said of them.
    by : str
        What proposed.
    """
    if luminances:
        intensities, channel_names = luminances, luminance_names(channel_names, luminances)
    notices = intensity_notices(intensities, channel_names)
    if (count := len(intensities)) > 1:
        notices.append(Notice(said(f"all {count} chosen channels were enhanced by {by}; choose with ", CHANNELS)))
    return notices


def _constant(intensities: Mapping[str, IntensityRange]) -> Iterator[Notice]:
    """Say which parts of the channels hold no picture."""
    shares: dict[str, dict[str, float]] = {}
    for name, intensity in intensities.items():
        for part in intensity.constant_parts:
            if part.share >= NAMED_SHARE:
                what = "no number" if part.value is None else f"one constant value ({part.value:g})"
                shares.setdefault(what, {})[name] = part.share
    for what, share in shares.items():
        yield Notice(
            f"{between(share.values(), '{:.1%}'.format)} of {listed(list(share))} is {what}: left out of the "
            "intensity levels and kept.",
            kind="constant parts",
        )


def _drifting(intensities: Mapping[str, IntensityRange]) -> Iterator[Notice]:
    """Say in which channels the background drifts."""
    drifts = {}
    for name, intensity in intensities.items():
        if intensity.drift:
            black = [intensity.black + offset for _, offset in intensity.drift]
            low, high = min(black), max(black)
            drifts[name] = (
                f"from {black[0]:.4g} to {black[-1]:.4g} counts (between {low:.4g} and {high:.4g}, "
                f"{(high - low) / intensity.span:.0%} of the intensity range)"
            )
    if drifts:
        yield Notice(
            f"the background of {listed(list(drifts))} drifts over time, {each(drifts)}: the levels follow it. Do not "
            "compare intensities between time points before you have taken the background off.",
            "the background drifts: take it off before you compare time points", "doubt", "drift",
        )  # fmt: skip


def _uneven(intensities: Mapping[str, IntensityRange]) -> Iterator[Notice]:
    """Say in which channels the background is uneven."""
    fields = {
        name: f"from {one.uneven[0]:.4g} to {one.uneven[1]:.4g} counts "
        f"({(one.uneven[1] - one.uneven[0]) / one.span:.0%} of the intensity range)"
        for name, one in intensities.items()
        if one.uneven
    }
    if fields:
        yield Notice(
            f"the background of {listed(list(fields))} is uneven over the field, {each(fields)}: where it is brighter "
            "it may be taken for cells. Correct the illumination, or enhance tiles of different exposure one by one.",
            "the background is uneven: see that it was not taken for cells", "doubt", "uneven background",
        )  # fmt: skip
