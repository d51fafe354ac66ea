"""Several channels through the imaging process: each is recorded with a blur, an exposure and noise of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cellxlate.training.imaging.process import ImagingProcess

SHOWN_BESIDE = 0.5
"""How often a field without cells keeps what a recording shows in the channels beside."""


class ChannelProcesses(nn.Module):
    """F_TS of images whose first channel is changed while others are seen beside it: one process for each of the C."""

    def __init__(self, processes: Sequence[ImagingProcess]) -> None:
        super().__init__()
        self.processes = nn.ModuleList(processes)

    def forward(self, targets: Tensor, rng: torch.Generator) -> Tensor:
        """Map targets (B, C, Y, X) to what the source microscope would have recorded, as each process does."""
        channels = targets.unbind(dim=1)
        made = (process(one[:, None], rng) for process, one in zip(self.processes, channels, strict=True))
        return torch.cat(list(made), dim=1)

    def without_cells(self, recorded: Tensor, rng: torch.Generator) -> Tensor:
        """Draw fields without cells of the shape of recordings (B, C, Y, X).

        Half of the time they keep what these show beside: a nucleus there is no reason to change anything here.
        """
        drawn = [process.without_cells(recorded[:, :1], rng) for process in self.processes]  # type: ignore[operator]
        if torch.rand((), generator=rng) < SHOWN_BESIDE:
            return torch.cat([drawn[0], recorded[:, 1:]], dim=1)
        return torch.cat(drawn, dim=1)
