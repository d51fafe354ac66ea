"""A small Noise2Void of our own, trained on the very image that it then cleans: a baseline, in plain torch.

    python tests/bench/n2v.py IMAGE.tif OUT.tif [--steps 1000] [--blind-px 0]

A U-Net of two levels sees patches in which some pixels are replaced, and learns to tell what stood there. `blind_px`
hides a neighbourhood as well, for noise that neighbours share (the idea of structN2V). As in N2V2 the replaced pixel
gets the median of its neighbourhood, the highest level has no skip connection, and downsampling blurs.

References: Krull et al., CVPR 2019; Broaddus et al., ISBI 2020 (structN2V); Hoeck et al., ECCV Workshops 2022 (N2V2).
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional

PATCH_PX, BATCH = 64, 8
HIDDEN_SHARE = 0.02
NEIGHBOURHOOD_PX = 5
HALO_PX = 32


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions with leaky ReLUs."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.LeakyReLU(0.1),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.LeakyReLU(0.1),
    )  # fmt: skip


def halve(images: torch.Tensor) -> torch.Tensor:
    """Blur with 1-2-1 and take every second pixel."""
    line = torch.tensor([1.0, 2.0, 1.0], dtype=images.dtype)
    kernel = (line[:, None] * line / 16).expand(images.shape[1], 1, 3, 3)
    return functional.conv2d(functional.pad(images, (1, 1, 1, 1), "reflect"), kernel, stride=2, groups=images.shape[1])


class SmallUNet(nn.Module):
    """Two halvings, 16 to 64 channels; no skip connection at full resolution."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first, self.second, self.deep = block(1, width), block(width, 2 * width), block(2 * width, 4 * width)
        self.up_second, self.up_first = block(6 * width, 2 * width), block(2 * width, width)
        self.last = nn.Conv2d(width, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        half = self.second(halve(self.first(images)))  # (B, 2w, Y/2, X/2)
        quarter = self.deep(halve(half))  # (B, 4w, Y/4, X/4)
        half = self.up_second(torch.cat([functional.interpolate(quarter, scale_factor=2.0), half], 1))
        full: torch.Tensor = self.last(self.up_first(functional.interpolate(half, scale_factor=2.0)))
        return full


def n2v(
    image: npt.NDArray[np.generic], *, steps: int = 1000, blind_px: int = 0, seed: int = 0
) -> npt.NDArray[np.float32]:
    """Train on an image (Y, X) of at least 64 px and return it cleaned, in its own counts."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    counts = image.astype(np.float32)
    centre, spread = float(counts.mean()), float(counts.std()) or 1.0
    unit = (counts - centre) / spread
    size = NEIGHBOURHOOD_PX + 2 * blind_px
    footprint = np.ones((size, size), bool)
    reach = slice(size // 2 - blind_px, size // 2 + blind_px + 1)
    footprint[reach, reach] = False
    around = ndimage.median_filter(unit, footprint=footprint, mode="mirror")
    hidden_box = np.ones((2 * blind_px + 1,) * 2, bool)

    network = SmallUNet().to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps)
    share = HIDDEN_SHARE / hidden_box.size**0.5
    for _ in range(steps):
        seen, wanted, asked = [], [], []
        for _ in range(BATCH):
            row, column = (int(rng.integers(0, side - PATCH_PX + 1)) for side in unit.shape)
            window = (slice(row, row + PATCH_PX), slice(column, column + PATCH_PX))
            spots = rng.random((PATCH_PX, PATCH_PX)) < share
            hidden = ndimage.binary_dilation(spots, hidden_box) if blind_px else spots
            turn, flip = int(rng.integers(4)), int(rng.integers(2))
            for kept, values in ((seen, np.where(hidden, around[window], unit[window])), (wanted, unit[window]),
                                 (asked, spots)):  # fmt: skip
                kept.append(np.rot90(values, turn)[:, :: 1 - 2 * flip].copy())
        images, targets = (torch.from_numpy(np.stack(one))[:, None].float() for one in (seen, wanted))
        at = torch.from_numpy(np.stack(asked))[:, None]
        with torch.autocast("cpu", torch.bfloat16):
            made = network(images.contiguous(memory_format=torch.channels_last))
        loss = functional.mse_loss(made.float()[at], targets[at])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    rows, columns = (HALO_PX + (-side) % 4 for side in unit.shape)
    padded = np.pad(unit, ((HALO_PX, rows), (HALO_PX, columns)), mode="reflect")
    with torch.inference_mode():
        made = network(torch.from_numpy(padded)[None, None])[0, 0].numpy()
    inside = made[HALO_PX : HALO_PX + unit.shape[0], HALO_PX : HALO_PX + unit.shape[1]]
    return np.asarray(inside * spread + centre, np.float32)


def main() -> None:
    """Clean one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--blind-px", type=int, default=0)
    options = parser.parse_args()
    made = n2v(tifffile.imread(options.image), steps=options.steps, blind_px=options.blind_px)
    tifffile.imwrite(options.out, made)


if __name__ == "__main__":
    main()
