"""The automatic guide of training is the gate: contrast alone says where cells are, without a network.

The guide of a pixel may depend on pixels far away: parts of any size are weighed whole, and the noise is that of the
calmest blocks. So it is found on fixed squares of the plane with what lies around them, whatever the tiling: planes of
up to 2560 px a side as one, larger ones in squares of 2048 px with 256 px around. Tiles of any size, workers and
resumed runs therefore see the same bits; at the borders of squares a guide may end that would not in the whole.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.input import InputRows, ReadRows
from cellxlate.enhancement.plane import Attention, Translator
from cellxlate.enhancement.tiling import Tile
from cellxlate.model.attention import ATTENTION_STEPS
from cellxlate.prefetch import FoundOnce
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.luminance import light_of
from cellxlate.stacks.stack import PlaneIndex
from cellxlate.stacks.write.origins import RowsHeld, row_sums
from cellxlate.training.fields.guides import REACH_PX, saliency

WHOLE_PX, SQUARE_PX = 2560, 2048
"""Finding a guide takes some 120 bytes a pixel: 0.8 GB for the largest."""
KEPT_BYTES = 2**26


@dataclass(frozen=True)
class Guide:
    """The guide of full rows of a plane: which pixels are cells, as bits along each row, and rows it was found in.

    Of each plane that was read for it: three in colour, whose guide is that of their luminance.
    """

    bits: npt.NDArray[np.uint8]
    read: tuple[RowsHeld, ...]


class SaliencyAttention:
    """Attention is the guide of each channel's plane.

    The guides found last are kept, since several bands lie on the same squares.
    """

    def __init__(self) -> None:
        self._kept: FoundOnce[Guide] = FoundOnce(KEPT_BYTES)

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
            for strip in strips_of(plane.shape):
                first, last = max(strip.start, area.top), min(strip.stop, area.bottom)
                if first >= last:
                    continue
                find = partial(found_guide, read, intensity, strip, plane.shape)
                bits_bytes = (strip.stop - strip.start) * -(-plane.shape[1] // 8)
                guide = self._kept((index, strip.start, intensity), find, bits_bytes)
                cells = np.unpackbits(guide.bits[first - strip.start : last - strip.start], axis=1)
                own[first - area.top : last - area.top] = cells[:, area.left : area.right]
                beside += zip(plane.planes_at(index), guide.read, strict=True)
        return Attention(inside * np.uint16(ATTENTION_STEPS), tuple(beside))


def strips_of(shape: tuple[int, int]) -> list[slice]:
    """Return the rows of the squares that a plane of (rows, columns) is cut into, whatever its tiles."""
    height = shape[0] if max(shape) <= WHOLE_PX else SQUARE_PX
    return [slice(top, min(top + height, shape[0])) for top in range(0, shape[0], height)]


def found_guide(read: ReadRows, intensity: IntensityRange, strip: slice, shape: tuple[int, int]) -> Guide:
    """Find the guide of squares side by side in a plane of (rows, columns), with what lies within 256 px of each."""
    top, bottom = max(strip.start - REACH_PX, 0), min(strip.stop + REACH_PX, shape[0])
    counts = read(slice(top, bottom))
    light = light_of(counts)
    cells = np.zeros((strip.stop - strip.start, shape[1]), np.bool_)
    width = shape[1] if max(shape) <= WHOLE_PX else SQUARE_PX
    for left in range(0, shape[1], width):
        right, first = min(left + width, shape[1]), max(left - REACH_PX, 0)
        found = saliency(light[:, first : min(right + REACH_PX, shape[1])], intensity)
        cells[:, left:right] = found[strip.start - top : strip.stop - top, left - first : right - first] > 0
    planes = counts.reshape(-1, *counts.shape[-2:])
    return Guide(np.packbits(cells, axis=1), tuple(RowsHeld.of(row_sums(one), top) for one in planes))
