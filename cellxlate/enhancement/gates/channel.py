"""Attention of one channel gates the others: nuclei say where mitochondria may change."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cellxlate.enhancement.input import Context, InputRows, OpenPlane, PlaneInput, planes_seen
from cellxlate.enhancement.plane import Attention, Translator, network_attention
from cellxlate.enhancement.tiling import Tile
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.stack import PlaneIndex, Stack


@dataclass(frozen=True)
class ChannelAttention:
    """The networks look for what may change in one channel, whichever is enhanced.

    Attributes
    ----------
    channel : int
        Of the stack.
    intensity : IntensityRange
        Of that channel.
    apart : Stack or None
        Where the stack that is enhanced does not hold the channel: the plane of it, (Y, X), of the same size.
    """

    channel: int
    intensity: IntensityRange
    apart: Stack | None = None

    def input(
        self, stack: Stack, index: PlaneIndex, context: Context, open_plane: OpenPlane | None, *_: object
    ) -> PlaneInput | None:
        """Return the channel at the position of a plane; None where that is the plane itself."""
        levels = {self.channel: self.intensity}
        if self.apart is not None:
            return replace(PlaneInput.of(self.apart, (), {0: self.intensity}, context=context), seen=())
        if stack.channel_of(index) == self.channel:
            return None
        return PlaneInput.of(stack, index, levels, context=context, open_plane=open_plane)

    def planes_beside(self, stack: Stack, index: PlaneIndex, context: Context, *_: object) -> Sequence[PlaneIndex]:
        """Return the planes of the channel."""
        return () if self.apart is not None else planes_seen(stack, index, (self.channel,), context)

    def attention(self, rows: InputRows, area: Tile, translator: Translator) -> Attention:
        """Return what the networks make of the channel, with the kept pixels of it."""
        return Attention(network_attention(rows.gate or rows, area, translator))
