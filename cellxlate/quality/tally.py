"""What changed, counted band by band in bounded memory.

Arrays only, no files. Every number is the same for any split of a plane into bands and any order of the bands (sums of
floating-point changes up to rounding), so that an interrupted run and an unbroken one report alike.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.errors import InputError, said
from cellxlate.quality.brightness import Sample, priority_of, rank_correlation, segment_means, selected_segments
from cellxlate.quality.flicker import Flicker
from cellxlate.quality.histogram import Histogram
from cellxlate.quality.places import Places
from cellxlate.quality.seams import Seams
from cellxlate.quality.trust.examine import Trust
from cellxlate.stacks.stack import PlaneIndex, Stack

MOST_PLANE_ROWS = 2000
"""Planes that are counted one by one; later ones are counted together."""


@contextmanager
def spared(what: str, failures: list[str]) -> Iterator[None]:
    """Go on where a report, a picture or a check fails, and note it once: the pixels do not depend on it.

    Parameters
    ----------
    what : str
        What is tried, for the note.
    failures : list of str
        Gets the note.
    """
    try:
        yield
    except Exception as fault:  # noqa: BLE001 whatever it is, a result that keeps the promise is not thrown away
        words = " ".join(said(f"{type(fault).__name__}: ", fault).split())[:200]
        note = f"{what} failed ({words}); the pixels are verified and do not depend on it"
        if note not in failures:
            failures.append(note)


def bits_differ(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return where two arrays differ in any bit.

    Parameters
    ----------
    a, b : ndarray
        The same shape and dtype; integers of any size, float16, float32 or float64.

    Returns
    -------
    ndarray of bool
        Unlike `!=`, two NaNs with the same payload are equal, and 0.0 and -0.0 differ.

    Raises
    ------
    InputError
        Shape or dtype differ.

    Examples
    --------
    >>> bits_differ(np.array([np.nan, 0.0, 1.0]), np.array([np.nan, -0.0, 1.0]))
    array([False,  True, False])
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        raise InputError(
            f"cannot compare {b.dtype} pixels of shape {b.shape} with {a.dtype} pixels of shape {a.shape}; "
            "give an input and the output that was made from it"
        )
    word = f"u{a.dtype.itemsize}"
    return np.asarray(np.ascontiguousarray(a).view(word) != np.ascontiguousarray(b).view(word)).reshape(a.shape)


@dataclass
class Counts:
    """Counts over some pixels.

    Attributes
    ----------
    pixels, selected, changed : int
        All pixels, those with attention > 0, those whose stored bits differ from the input.
    kept_violations : int
        Pixels with attention 0 whose stored bits differ. The promise is that there is none.
    saturated : int
        Changed pixels that now hold the smallest or largest value of their dtype.
    change_sum_counts, change_max_counts : float
        Sum and maximum of |output - input| over changed finite pixels, in counts.
    """

    pixels: int = 0
    selected: int = 0
    changed: int = 0
    kept_violations: int = 0
    saturated: int = 0
    change_sum_counts: float = 0.0
    change_max_counts: float = 0.0

    @property
    def changed_fraction(self) -> float:
        """Share of the pixels whose stored value changed; 0 where there are no pixels."""
        return self.changed / self.pixels if self.pixels else 0.0

    @property
    def selected_fraction(self) -> float:
        """Share of the pixels that attention selected; 0 where there are no pixels."""
        return self.selected / self.pixels if self.pixels else 0.0

    @property
    def mean_abs_change_counts(self) -> float:
        """Mean |output - input| over the changed pixels, in counts; 0 where nothing changed."""
        return self.change_sum_counts / self.changed if self.changed else 0.0

    def include(self, other: "Counts") -> None:
        """Add the counts of other pixels."""
        largest = max(self.change_max_counts, other.change_max_counts)
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.change_max_counts = largest

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "pixels": self.pixels,
            "selected_fraction": self.selected_fraction,
            "changed_fraction": self.changed_fraction,
            "kept_violations": self.kept_violations,
            "saturated": self.saturated,
            "mean_abs_change_counts": self.mean_abs_change_counts,
            "max_abs_change_counts": self.change_max_counts,
        }


@dataclass
class Tally:
    """What a run changed, added up band by band.

    Parameters
    ----------
    plane_axes : str
        `Stack.plane_axes`, so that channels are kept apart; without it everything counts as channel 0.
    seed : int
        Of the random sample.
    tile_px : int
        Side of the tiles whose borders are looked at for seams; 0 looks at none.

    Attributes
    ----------
    total : Counts
        Over everything that was added.
    planes : dict
        Counts of the first 2000 planes.
    rest : Counts
        All further planes together.
    channels, histograms, samples : dict
        Counts, intensities and drawn pixels per channel.
    places : Places
        Where attention selects, in blocks of 256 px.
    seams : Seams
        Steps across the borders of tiles.
    flicker : Flicker
        Jumps from plane to plane; `Tally.of` knows along which axis.
    trust : dict
        Channel -> Trust, where windows of the result were looked at.
    in_color : bool
        Whether red, green and blue were enhanced together: `trust` is of their luminance, under the first of them.
    orders : dict or None
        Channel -> rank correlation of a finished run whose samples are not known any more.
    noise_alone : dict
        "changed_percent" and "objects" of a drawn field of nothing but noise, where that was tried.
    failures : list of str
        Checks that could not be made, and why; what counts for the promise is never among them.
    input_digest : str
        Of all rows of the input, where they were read.
    output_digest : str
        Of all rows of the output and its attention.
    input_states : str
        Which files the input was, with their sizes and times, before it was read.

    Examples
    --------
    >>> tally = Tally()
    >>> raw = np.array([[5, 5, 5]], np.uint16)
    >>> tally.add((), 0, raw=raw, enhanced=raw + np.array([[0, 2, 0]], np.uint16), attention=np.uint8([[0, 9, 9]]))
    >>> tally.total.pixels, tally.total.selected, tally.total.changed, tally.total.kept_violations
    (3, 2, 1, 0)
    """

    plane_axes: str = ""
    seed: int = 0
    tile_px: int = 0
    total: Counts = field(default_factory=Counts)
    planes: dict[PlaneIndex, Counts] = field(default_factory=dict)
    rest: Counts = field(default_factory=Counts)
    channels: dict[int, Counts] = field(default_factory=dict)
    histograms: dict[int, Histogram] = field(default_factory=dict)
    samples: dict[int, Sample] = field(default_factory=dict)
    places: Places = field(default_factory=Places)
    seams: Seams = field(default_factory=Seams)
    flicker: Flicker = field(default_factory=Flicker)
    trust: dict[int, Trust] = field(default_factory=dict)
    in_color: bool = False
    noise_alone: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    orders: dict[int, float] | None = None
    input_digest: str = ""
    output_digest: str = ""
    input_states: str = ""

    def __post_init__(self) -> None:
        self.seams.tile_px = self.tile_px

    @classmethod
    def of(cls, stack: Stack, *, tile_px: int = 0) -> "Tally":
        """Return what counts the planes of a stack; nothing has been counted yet."""
        return cls(plane_axes=stack.plane_axes, tile_px=tile_px, flicker=Flicker.of(stack))

    def add(
        self,
        index: PlaneIndex,
        first_row: int,
        *,
        raw: npt.NDArray[Any],
        enhanced: npt.NDArray[Any],
        attention: npt.NDArray[np.uint8],
    ) -> None:
        """Add one band of a plane.

        Parameters
        ----------
        index : tuple of int
            Position of the plane along `plane_axes`.
        first_row : int
            Row of the plane at which the band starts.
        raw, enhanced : ndarray (rows, X)
            Stored pixels before and after, same dtype, full rows.
        attention : ndarray of uint8 (rows, X)
            0 where the pixel was kept.

        Raises
        ------
        InputError
            The arrays do not fit together.
        """
        if attention.shape != raw.shape:
            raise InputError(f"attention of shape {attention.shape} does not fit pixels of shape {raw.shape}")
        self.orders = None
        differs, selected = bits_differ(raw, enhanced), attention > 0
        counts = _count(raw, enhanced, differs=differs, selected=selected)
        for known in (self.total, self.channels.setdefault(self._channel(index), Counts()), self._plane(index)):
            known.include(counts)
        with spared("counting for the report", self.failures):
            self._look(index, first_row, raw=raw, enhanced=enhanced, differs=differs, selected=selected)

    def _look(
        self,
        index: PlaneIndex,
        first_row: int,
        *,
        raw: npt.NDArray[Any],
        enhanced: npt.NDArray[Any],
        differs: npt.NDArray[np.bool_],
        selected: npt.NDArray[np.bool_],
    ) -> None:
        """Add a band to what the report shows and the checks judge by; the promise does not depend on it."""
        channel, moved = self._channel(index), differs | selected
        self.histograms.setdefault(channel, Histogram()).add(raw.ravel(), raw[moved], enhanced[moved])
        self.places.add(index, first_row, selected)
        self.seams.add(index, first_row, enhanced=enhanced, selected=selected)
        self.flicker.add(index, first_row, channel=channel, raw=raw, enhanced=enhanced, selected=selected)
        segments = selected_segments(selected)
        if len(segments):
            sample = self.samples.setdefault(channel, Sample())
            priority = priority_of(self.seed, index, segments + np.array([first_row, 0]))
            wanted = sample.wants(priority)
            pairs = [segment_means(pixels, selected, segments[wanted]) for pixels in (raw, enhanced)]
            sample.add(priority[wanted], np.stack(pairs, axis=1))

    def include(self, other: "Tally") -> None:
        """Add what another tally has counted of other planes, or of other rows of the same planes.

        Rows must meet in the middle of a tile, so that every border lies in one part. Included in the order of the
        stack, parts give what one tally gives that was given all.
        """
        self.orders = None
        self.total.include(other.total)
        self.rest.include(other.rest)
        for index, counts in other.planes.items():
            self._plane(index).include(counts)
        for channel, counts in other.channels.items():
            self.channels.setdefault(channel, Counts()).include(counts)
        self.failures += [failure for failure in other.failures if failure not in self.failures]
        with spared("counting for the report", self.failures):
            for channel, histogram in other.histograms.items():
                self.histograms.setdefault(channel, Histogram()).include(histogram)
            for channel, sample in other.samples.items():
                self.samples.setdefault(channel, Sample()).add(sample.priority, sample.pairs)
            self.places.include(other.places)
            self.seams.include(other.seams)
            self.flicker.include(other.flicker)

    def _plane(self, index: PlaneIndex) -> Counts:
        """Return what counts a plane: counts of its own, or those of all further planes."""
        is_known = index in self.planes or len(self.planes) < MOST_PLANE_ROWS
        return self.planes.setdefault(index, Counts()) if is_known else self.rest

    def _channel(self, index: PlaneIndex) -> int:
        for axis in "CS":
            if axis in self.plane_axes:
                return index[self.plane_axes.index(axis)]
        return 0

    def brightness_order(self) -> dict[int, float]:
        """Return per channel how well brightness order is kept inside the selected region.

        Returns
        -------
        dict
            Channel -> Spearman's rank correlation between input and output of segments of 8 px, in [-1, 1]; NaN where
            fewer than 50 segments lie inside selected regions, or the input or the output is constant there.

        Notes
        -----
        1 means that whatever was brighter is still brighter. Noise in the input lowers it although nothing is wrong,
        the more the weaker the signal; a value near 0 or below means that brightness inside cells cannot be trusted.
        """
        if self.orders is None:
            self.orders = {
                channel: rank_correlation(self.samples.get(channel, Sample()).pairs) for channel in self.channels
            }
        return self.orders

    def summary(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """Return everything as plain values for JSON, planes and channels included; `names` are those of channels."""
        orders = self.brightness_order()
        return {
            **self.total.as_dict(),
            "channels": [
                {
                    "channel": channel,
                    **({"name": names[channel]} if channel < len(names) else {}),
                    **counts.as_dict(),
                    "brightness_order": orders[channel] if math.isfinite(orders[channel]) else None,
                    "checks": self.trust[channel].as_dict() if channel in self.trust else None,
                }
                for channel, counts in sorted(self.channels.items())
            ],
            "planes": [{"index": list(index), **counts.as_dict()} for index, counts in sorted(self.planes.items())],
            "seams": None if not self.tile_px else {
                "tile_px": self.tile_px, "borders_judged": len(self.seams.scores()),
                "borders_with_a_step": len(self.seams.visible()),
            },
            "flicker": self.flicker.as_dict(),
            "further_planes": self.rest.as_dict() if self.rest.pixels else None,
        }  # fmt: skip


def _count(
    raw: npt.NDArray[Any],
    enhanced: npt.NDArray[Any],
    *,
    differs: npt.NDArray[np.bool_],
    selected: npt.NDArray[np.bool_],
) -> Counts:
    """Count one band."""
    was, now = raw[differs], enhanced[differs]
    with np.errstate(invalid="ignore", over="ignore"):
        change_counts = np.abs(now.astype(np.float64) - was.astype(np.float64))
    change_counts = change_counts[np.isfinite(change_counts)]
    limits = np.finfo(now.dtype) if now.dtype.kind == "f" else np.iinfo(now.dtype)
    return Counts(
        pixels=raw.size,
        selected=int(np.count_nonzero(selected)),
        changed=len(was),
        kept_violations=int(np.count_nonzero(differs & ~selected)),
        saturated=int(np.count_nonzero((now == limits.max) | (now == limits.min))),
        change_sum_counts=float(change_counts.sum()),
        change_max_counts=float(change_counts.max(initial=0.0)),
    )
