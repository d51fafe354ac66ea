"""Filters that everybody knows as proposals: one table, and what reads `gaussian:1.5`.

What a filter shall know of a stack, its intensity range and its noise, is measured once for each channel. Filters that
iterate do so a fixed number of times, since a rule that stops them would look at the whole image: how far each looks is
therefore known.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from cellxlate.enhancement.proposals.locality import Locality, PlaneSamples, measured_locality
from cellxlate.enhancement.proposals.windows import Geometry, Needs
from cellxlate.errors import OptionError
from cellxlate.model.attention import Floats
from cellxlate.option_values import nearest_name
from cellxlate.options import MODEL
from cellxlate.quality.report.notices import listed
from cellxlate.settings import FilterName
from cellxlate.stacks.intensity.saved import LUMINANCES, saved_ranges
from cellxlate.stacks.intensity.stack_noise import stack_noise
from cellxlate.stacks.intensity.stack_range import stack_ranges
from cellxlate.stacks.stack import Stack

TRUNCATE, PSF_TRUNCATE = 4.0, 3.0
"""A Gaussian is cut at so many sigmas, as scipy does; a point spread function earlier, as it is applied 20 times."""
TV_STEPS, TV_NOISES = 50, 0.6
"""From 50 steps on a result differs little from one of 200. By default the weight is so many times the noise: the best
on drawn structures of six kinds lay between 0.4 and 1."""
NLM_PATCH_PX, NLM_SEARCH_PX = 5, 6
RL_STEPS = 10
LEAST_LIGHT = 1e-6
"""Of the range: Richardson-Lucy divides by no less."""


@dataclass(frozen=True)
class ChannelScale:
    """What a filter knows of a channel, in counts: black, black to white, and the noise halfway between."""

    black: float
    span: float
    noise: float

    @classmethod
    def of(cls, stack: Stack, channel: int, levels_from: str | Path | None = None) -> "ChannelScale":
        """Measure it on a bounded sample of a stack; the range may be that of an earlier run."""
        earlier = None if levels_from is None else Path(levels_from)
        saved = saved_ranges(earlier) | saved_ranges(earlier, LUMINANCES) if earlier else {}
        found = saved.get(channel) or stack_ranges(stack, (channel,))[channel]
        camera = stack_noise(stack, channel)
        light = max(found.black + found.span / 2 - camera.black_counts, 0.0)
        noise = math.sqrt(camera.sd_counts**2 + max(camera.gain, 0.0) * light)
        drift = min((offset for _, offset in found.drift), default=0.0)
        return cls(found.black + drift, found.span, noise)


UNIT = ChannelScale(0.0, 1.0, 0.0)
Run = Callable[[Floats, float, ChannelScale], Floats]
"""A plane (Y, X) float32 in counts, the value, and the scale of its channel -> the same in counts."""


@dataclass(frozen=True)
class Filter:
    """One line of the table.

    Attributes
    ----------
    name, what : str
        What it is called; what it does, in a few words.
    parameter, unit : str
        What the value means, and in which unit it is.
    default : float or None
        Where no value is given; None where it comes from the noise of the stack, or has to be given.
    least, most : float
        The values that make sense.
    reach : callable
        Value -> how far around a pixel the filter looks, in pixels; exact.
    run : callable
        The filter.
    package, citation : str
        Whose code it is; what to cite.
    bytes_per_px : float
        Memory that it takes.
    is_odd, is_scaled, is_needed : bool
        Whether the value is an odd whole number; whether the filter has to know the scale of the channel; whether the
        value has to be given.
    """

    name: FilterName
    what: str
    parameter: str
    unit: str
    default: float | None
    least: float
    most: float
    reach: Callable[[float], int]
    run: Run
    package: Literal["scipy", "scikit-image"]
    citation: str
    bytes_per_px: float
    is_odd: bool = False
    is_scaled: bool = False
    is_needed: bool = False

    @property
    def example(self) -> str:
        """What to write to have it."""
        if self.default is None:
            return f"{self.name}:{1.5 if self.is_needed else 0.1:g}"
        return f"{self.name}:{self.default:g}"

    @property
    def usual(self) -> str:
        """The default, in words."""
        if self.is_needed:
            return "to be given"
        usual = f"{TV_NOISES:g} times the noise of the stack" if self.default is None else f"{self.default:g}"
        return f"{usual} by default"

    def as_dict(self) -> dict[str, Any]:
        """Return what `cellxlate models` says of it; the halo is that of the default, None where there is none."""
        halo_px = None if self.is_needed else self.reach(self.default or 0.0)
        return {
            "name": self.name, "what": self.what, "parameter": self.parameter, "unit": self.unit,
            "default": self.default, "usual": self.usual, "example": self.example, "halo_px": halo_px,
            "licence": self.licence, "citation": self.citation, "package": self.package,
        }  # fmt: skip

    @property
    def licence(self) -> str:
        """Of its code: both packages have the same."""
        return "BSD-3-Clause"


def _gaussian(plane: Floats, sigma_px: float, _: ChannelScale) -> Floats:
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(plane, sigma_px, truncate=TRUNCATE))


def _median(plane: Floats, side_px: float, _: ChannelScale) -> Floats:
    from scipy import ndimage

    return np.asarray(ndimage.median_filter(plane, int(side_px)))


def _total_variation(plane: Floats, weight: float, scale: ChannelScale) -> Floats:
    from skimage.restoration import denoise_tv_chambolle

    unit = (plane.astype(np.float64) - scale.black) / scale.span
    smooth = denoise_tv_chambolle(unit, weight=weight, eps=0.0, max_num_iter=TV_STEPS)  # 0: no look at the whole image
    return np.asarray(smooth * scale.span + scale.black, np.float32)


def _non_local_means(plane: Floats, times: float, scale: ChannelScale) -> Floats:
    from skimage.restoration import denoise_nl_means

    if scale.noise <= 0:
        return plane
    counts = plane.astype(np.float64) - scale.black  # sums over the window are rounded in 64 bits
    smooth = denoise_nl_means(
        counts, NLM_PATCH_PX, NLM_SEARCH_PX, times * scale.noise, sigma=scale.noise, preserve_range=True
    )
    return np.asarray(smooth + scale.black, np.float32)


def _richardson_lucy(plane: Floats, sigma_px: float, scale: ChannelScale) -> Floats:
    from scipy import ndimage

    blurred = partial(ndimage.gaussian_filter, sigma=sigma_px, truncate=PSF_TRUNCATE)
    light = np.maximum((plane.astype(np.float64) - scale.black) / scale.span, 0.0)
    sharp = light.copy()
    for _ in range(RL_STEPS):
        sharp *= blurred(light / np.maximum(blurred(sharp), LEAST_LIGHT))
    return np.asarray(sharp * scale.span + scale.black, np.float32)


def _radius(sigma_px: float, truncate: float) -> int:
    """Return the radius of the kernel that scipy makes."""
    return int(truncate * sigma_px + 0.5)


SCIPY = "Virtanen et al., Nat. Methods 17, 261 (2020), doi:10.1038/s41592-019-0686-2"
SKIMAGE = "van der Walt et al., PeerJ 2, e453 (2014), doi:10.7717/peerj.453"
FILTERS: Mapping[str, Filter] = {
    one.name: one
    for one in (
        Filter(
            "gaussian", "Gaussian blur", "standard deviation", "px", 1.0, 0.1, 50.0,
            lambda value: _radius(value, TRUNCATE), _gaussian, "scipy", SCIPY, 24.0,
        ),
        Filter(
            "median", "median of a square", "side of the square", "px", 3.0, 3.0, 31.0,
            lambda value: int(value) // 2, _median, "scipy", SCIPY, 24.0, is_odd=True,
        ),
        Filter(
            "tv", "total variation (Chambolle)", "weight", "of the range from black to white", None, 1e-4, 10.0,
            lambda _: TV_STEPS, _total_variation, "scikit-image",
            f"Chambolle, J. Math. Imaging Vis. 20, 89 (2004), doi:10.1023/B:JMIV.0000011325.36760.1e; {SKIMAGE}",
            120.0, is_scaled=True,
        ),
        Filter(
            "nlm", "non-local means", "strength", "times the noise of the stack", 0.6, 0.01, 10.0,
            lambda _: NLM_SEARCH_PX + NLM_PATCH_PX // 2, _non_local_means, "scikit-image",
            f"Buades et al., IPOL 1, 208 (2011), doi:10.5201/ipol.2011.bcm_nlm; {SKIMAGE}", 80.0, is_scaled=True,
        ),
        Filter(
            "richardson-lucy", "Richardson-Lucy deconvolution of a Gaussian", "standard deviation of the spread", "px",
            None, 0.3, 10.0, lambda value: 2 * RL_STEPS * _radius(value, PSF_TRUNCATE), _richardson_lucy, "scipy",
            "Richardson, J. Opt. Soc. Am. 62, 55 (1972), doi:10.1364/JOSA.62.000055; Lucy, Astron. J. 79, 745 (1974), "
            f"doi:10.1086/111605; {SCIPY}", 64.0, is_scaled=True, is_needed=True,
        ),
    )
}  # fmt: skip
"""By name; in the order in which they are listed."""


@dataclass(frozen=True)
class FilterProposal:
    """A filter and its value; after `fitted` the scale of each channel, and how its tiles compare with larger ones."""

    needs: ClassVar = Needs()
    filter_name: str
    value: float | None
    scales: Mapping[int, ChannelScale] = field(default_factory=dict)
    locality: Locality | None = None

    @property
    def filter(self) -> Filter:
        """Its line of the table."""
        return FILTERS[self.filter_name]

    @property
    def name(self) -> str:
        """What asks for it: `gaussian:1.5`."""
        return self.filter_name if self.value is None else f"{self.filter_name}:{self.value:.12g}"

    @property
    def asked(self) -> str:
        """What asks for it again."""
        return self.name

    @property
    def halo_px(self) -> int:
        """How far around a pixel it looks."""
        return self.filter.reach(self.value or 0.0)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Filter, value, and what it knows of each channel; with a digest of these."""
        decisive = {
            "kind": "filter", "name": self.filter_name, "value": self.value,
            "scales_counts": {str(channel): asdict(scale) for channel, scale in self.scales.items()},
        }  # fmt: skip
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
        return {**decisive, "sha256": digest.hexdigest()}

    @property
    def stated(self) -> Mapping[str, Any]:
        """What it does with which value, how far it looks, whose it is, and what was checked."""
        used = self.filter
        found = list(dict.fromkeys(f"{self._value_of(scale):.3g}" for scale in self.scales.values()))
        value = listed(found) if self.value is None else f"{self.value:.12g}"
        return {
            "what": used.what, "parameter": f"{used.parameter} {value} {used.unit}", "halo_px": self.halo_px,
            "checked": self.locality.words if self.locality else "", "licence": used.licence,
            "citation": used.citation, "package": f"{used.package} {version(used.package)}",
        }  # fmt: skip

    @property
    def warnings(self) -> Sequence[str]:
        """None."""
        return ()

    def fitted(
        self, stack: Stack, channels: Sequence[int], *, levels_from: str | Path | None = None, **_: object
    ) -> "FilterProposal":
        """Return it with the scale of each channel, where it has to know that, and how tiles compare on the stack."""
        wanted = channels if self.filter.is_scaled else ()
        scales = {channel: ChannelScale.of(stack, channel, levels_from) for channel in wanted}
        known = replace(self, scales=scales)
        samples = PlaneSamples(stack, [(one,) for one in channels])
        return replace(known, locality=measured_locality(known.name, known.open, samples))

    def open(self, channels: Sequence[int]) -> "FilterProposer":
        """Return what runs it on some channels that are enhanced together, each by itself."""
        scales = tuple(self.scales.get(channel, UNIT) for channel in channels)
        geometry = Geometry(self.halo_px, bytes_per_px=self.filter.bytes_per_px)
        return FilterProposer(self.filter.run, tuple((self._value_of(one), one) for one in scales), geometry)

    def _value_of(self, scale: ChannelScale) -> float:
        """Return the value on a channel: what was given, or what follows from its noise."""
        if self.value is not None:
            return self.value
        return max(TV_NOISES * scale.noise / scale.span, self.filter.least)


@dataclass(frozen=True)
class FilterProposer:
    """Runs a filter on each plane of windows, with the value and the scale of each channel."""

    run: Run
    known: tuple[tuple[float, ChannelScale], ...]
    geometry: Geometry

    def __call__(self, windows: Floats) -> Floats:
        """Return what the filter makes of each of (B, C, Y, X)."""
        made = np.empty_like(windows)
        for into, planes in zip(made, windows, strict=True):
            for own, plane, (value, scale) in zip(into, planes, self.known, strict=True):
                own[:] = self.run(plane, value, scale)
        return made


def filter_of(asked: str) -> FilterProposal | None:
    """Return the filter that is asked for as `NAME` or `NAME:VALUE`; None where there is none of that name.

    Raises
    ------
    OptionError
        The value makes no sense, or has to be given.

    Examples
    --------
    >>> filter_of("gaussian:1.5").halo_px, filter_of("median").value, filter_of("cells")
    (6, 3.0, None)
    """
    name, colon, text = asked.partition(":")
    if (used := FILTERS.get(name)) is None:
        return None
    asks = f"give the {used.parameter} ({used.unit}), as in {used.example}"
    if not colon:
        if used.is_needed:
            raise OptionError(MODEL.of(asked), " has no value", remedy=asks)
        return FilterProposal(name, used.default)
    try:
        value = float(text)
    except ValueError:
        raise OptionError(MODEL.of(asked), f": {text!r} is no number", remedy=asks) from None
    if not used.least <= value <= used.most:
        bounds = f"{used.least:g} to {used.most:g}"
        raise OptionError(MODEL.of(asked), f": the {used.parameter} is not within {bounds}", remedy=asks)
    if used.is_odd and (value % 2) != 1:
        raise OptionError(MODEL.of(asked), f": the {used.parameter} is no odd whole number", remedy=asks)
    return FilterProposal(name, value)


def meant_filter(asked: str) -> str | None:
    """Return the filter that was probably meant by a name that is none, with the value that was given.

    Examples
    --------
    >>> meant_filter("gausian:2"), meant_filter("cells")
    ('gaussian:2', None)
    """
    name, colon, value = asked.partition(":")
    meant = nearest_name(name, FILTERS)
    return f"{meant}{colon}{value}" if meant else None
