"""Attention of one channel gates the others: nuclei say where mitochondria may change."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cellxlate.enhancement.gates.steady import SteadyAttention
from cellxlate.enhancement.input import Context, InputRows, OpenPlane, PlaneInput, planes_seen
from cellxlate.enhancement.plane import Attention, Translator, network_attention, without_kept
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
    steady : SteadyAttention
        Lets the planes beside have a say, where neighbours are seen.
    """

    channel: int
    intensity: IntensityRange
    apart: Stack | None = None
    steady: SteadyAttention = field(default_factory=SteadyAttention, compare=False)

    def input(
        self, stack: Stack, index: PlaneIndex, context: Context, open_plane: OpenPlane | None, *_: object
    ) -> PlaneInput | None:
        """Return the channel at the position of a plane; None where that is the plane itself."""
        levels = {self.channel: self.intensity}
        if self.apart is not None:
            return replace(PlaneInput.of(self.apart, (), {0: self.intensity}, context=context), seen=())

        def seen(context: Context) -> PlaneInput:
            return PlaneInput.of(stack, index, levels, context=context, open_plane=open_plane)

        if context.along:
            return self.steady.input(stack, index, context, open_plane, seen)
        return None if stack.channel_of(index) == self.channel else seen(context)

    def planes_beside(self, stack: Stack, index: PlaneIndex, context: Context, *_: object) -> Sequence[PlaneIndex]:
        """Return the planes of the channel."""
        if self.apart is not None:
            return ()

        def read(context: Context) -> Sequence[PlaneIndex]:
            return planes_seen(stack, index, (self.channel,), context)

        return (*read(context), *self.steady.planes_beside(stack, index, context, read))

    def attention(self, rows: InputRows, area: Tile, translator: Translator) -> Attention:
        """Return what the networks make of the channel, with the kept pixels of it."""
        gate = rows.gate
        if gate is None or len(gate.unit) <= len(rows.unit) // len(rows.counts):  # no planes beside have a say
            return Attention(network_attention(gate or rows, area, translator))
        steps = self.steady.attention(rows, area, translator).steps
        return Attention(without_kept(gate, area, steps))
