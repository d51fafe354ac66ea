"""Make the pictures of README and docs from the simulated sample: `python docs/pictures/make.py`."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import cellxlate
from cellxlate.stacks.samples.nuclei import SampleSettings, simulate

FOLDER = Path(__file__).parent
SCALE_UM = 20


def before_attention_after() -> None:
    """Draw one simulated field: input and output on one scale, attention as it is written."""
    sample = simulate(SampleSettings(shape=(1, 1, 1, 240, 320), cell_fraction=0.2, seed=12))
    result = cellxlate.enhance(sample.stack, "nuclei-lowexp")
    before, after, attention = np.asarray(sample.stack)[0, 0, 0], result.image[0, 0, 0], result.attention[0, 0, 0]
    limits = np.percentile(before, 1), np.percentile(after, 99.7)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.35), layout="constrained", facecolor="white")
    for axis, title, plane, (low, high), colours in zip(
        axes,
        ("before", "attention: where it is 0, pixels are kept bit for bit", "after"),
        (before, attention, after),
        (limits, (0, 255), limits),
        ("gray", "viridis", "gray"),
        strict=True,
    ):
        axis.imshow(plane, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_axis_off()
    length_px = SCALE_UM / sample.stack.pixel_size_um["X"]
    axes[0].plot([308 - length_px, 308], [20, 20], color="white", linewidth=3, solid_capstyle="butt")
    axes[0].text(308 - length_px / 2, 16, f"{SCALE_UM} µm", color="white", ha="center", va="bottom", fontsize=9)
    figure.savefig(FOLDER / "before_attention_after.png", dpi=110)


if __name__ == "__main__":
    before_attention_after()
