"""The automatic guide of training is the gate: contrast alone says where cells are, without a network.

The guide of a pixel may depend on pixels far away: parts of any size are weighed whole, and the noise is that of the
calmest blocks. So it is found on fixed squares of the plane with what lies around them, whatever the tiling: planes of
up to 2560 px a side as one, larger ones in squares of 2048 px with 256 px around. Tiles of any size, workers and
resumed runs therefore see the same bits; at the borders of squares a guide may end that would not in the whole.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.input import InputRows, ReadRows
from cellxlate.enhancement.plane import Attention, Translator
from cellxlate.enhancement.tiling import Tile, tiles_of
from cellxlate.model.attention import ATTENTION_STEPS
from cellxlate.stacks.intensity.luminance import light_of
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.stack import PlaneIndex
from cellxlate.stacks.write.origins import RowsHeld, row_sums
from cellxlate.training.fields.guides import REACH_PX, saliency

WHOLE_PX, SQUARE_PX = 2560, 2048
"""Finding a guide takes some 120 bytes a pixel: 0.8 GB for the largest."""
KEPT_BYTES = 2**26


@dataclass(frozen=True)
class Guide:
    """The guide of a square: which of its pixels are cells, as bits along its rows, and the rows it was found in.

    Of each plane that was read for it: three in colour, whose guide is that of their luminance.
    """

    bits: npt.NDArray[np.uint8]
    read: tuple[RowsHeld, ...]


class SaliencyAttention:
    """Attention is the guide of each channel's plane.

    The guides found last are kept, since bands of a square follow each other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Any, ...], Future[Guide]] = OrderedDict()

    def __reduce__(self) -> tuple[type["SaliencyAttention"], tuple[()]]:
        return SaliencyAttention, ()

    def input(self, *_: object) -> None:
        """No other plane is looked at."""

    def planes_beside(self, *_: object) -> tuple[PlaneIndex, ...]:
        """No other plane is read."""
        return ()

    def attention(self, rows: InputRows, area: Tile, _: Translator) -> Attention:
        """Return the guide of each channel as attention; all rows of the squares had a part in it."""
        plane = rows.plane
        inside = np.zeros((len(rows.kept), *area.shape), np.bool_)
        beside: list[tuple[PlaneIndex, RowsHeld]] = []
        places = plane.seen[plane.own]
        for own, index, (read, intensity) in zip(inside, places, plane.planes[plane.own], strict=True):
            for square in squares_of(plane.shape):
                rows_shared = slice(max(square.top, area.top), min(square.bottom, area.bottom))
                columns_shared = slice(max(square.left, area.left), min(square.right, area.right))
                if rows_shared.start >= rows_shared.stop or columns_shared.start >= columns_shared.stop:
                    continue
                guide = self._guide(index, read, intensity, square, plane.shape)
                shared = Tile(rows_shared.start, rows_shared.stop, columns_shared.start, columns_shared.stop)
                cells = np.unpackbits(
                    guide.bits[rows_shared.start - square.top : rows_shared.stop - square.top], axis=1
                )
                own[shared.slices(area.top, area.left)] = cells[:, shared.slices(0, square.left)[1]]
                beside += zip(plane.planes_at(index), guide.read, strict=True)
        return Attention(inside * np.uint16(ATTENTION_STEPS), tuple(dict.fromkeys(beside)))

    def _guide(
        self, index: PlaneIndex, read: ReadRows, intensity: IntensityRange, square: Tile, shape: tuple[int, int]
    ) -> Guide:
        """Return the guide of a square, which one of the bands that want it finds while the others wait."""
        return self._once((index, square, intensity), lambda: found_guide(read, intensity, square, shape))

    def _once(self, key: tuple[Any, ...], find: Callable[[], Guide]) -> Guide:
        with self._lock:
            known = self._kept.get(key)
            future = known or Future()
            self._kept[key] = future
            self._kept.move_to_end(key)
        if known is not None:
            return known.result()
        try:
            future.set_result(find())
        except BaseException as fault:
            future.set_exception(fault)
            with self._lock:
                self._kept.pop(key, None)
            raise
        with self._lock:
            done = [(one, guide.result().bits.nbytes) for one, guide in self._kept.items() if guide.done()]
            excess = sum(size for _, size in done) - KEPT_BYTES
            for one, size in done[:-1]:
                if excess <= 0:
                    break
                del self._kept[one]
                excess -= size
        return future.result()


def squares_of(shape: tuple[int, int]) -> list[Tile]:
    """Return the squares of a plane of (rows, columns), whatever its tiles."""
    whole = Tile(0, shape[0], 0, shape[1])
    return [whole] if max(shape) <= WHOLE_PX else list(tiles_of(whole, SQUARE_PX))


def found_guide(read: ReadRows, intensity: IntensityRange, square: Tile, shape: tuple[int, int]) -> Guide:
    """Find the guide of a square of a plane of (rows, columns), from it and what lies within 256 px of it."""
    top, left = max(square.top - REACH_PX, 0), max(square.left - REACH_PX, 0)
    bottom, right = min(square.bottom + REACH_PX, shape[0]), min(square.right + REACH_PX, shape[1])
    counts = read(slice(top, bottom))
    cells = saliency(light_of(counts)[:, left:right], intensity)[square.slices(top, left)] > 0
    planes = counts.reshape(-1, *counts.shape[-2:])
    return Guide(np.packbits(cells, axis=1), tuple(RowsHeld.of(row_sums(one), top) for one in planes))
