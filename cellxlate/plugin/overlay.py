"""Attention over an image: its colours, and a live preview for the visible plane."""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari.utils import Colormap


@cache
def attention_colormap() -> "Colormap":
    """Return viridis, which is perceptually uniform and safe for colour-blind readers, with 0 (kept) transparent."""
    from napari.utils import Colormap
    from napari.utils.colormaps import ensure_colormap

    colours = np.array(ensure_colormap("viridis").map(np.linspace(0, 1, 256)))  # (256, 4)
    colours[0, 3] = 0.0
    return Colormap(colours, name="attention (viridis)", display_name="attention (viridis)")
