"""Simulated nuclei for napari's File > Open Sample menu: no download, the same pixels each time."""

from typing import TYPE_CHECKING, Any

import numpy as np

from cellxlate.stacks.samples.nuclei import SampleSettings, simulate

if TYPE_CHECKING:
    from napari.types import LayerData

SEED = 2018


def nuclei() -> "list[LayerData]":
    """Simulate one faint plane of nuclei.

    Returns
    -------
    list of LayerData
        One image layer (Y, X) of uint16 counts, 512 x 512 px of 0.65 um.
    """
    return _image_layer("faint nuclei", axes="YX", shape=(1, 1, 1, 512, 512))


def nuclei_3d() -> "list[LayerData]":
    """Simulate faint nuclei in depth.

    Returns
    -------
    list of LayerData
        One image layer (Z, Y, X) of uint16 counts: 12 planes 1 um apart, 320 x 320 px of 0.65 um.
    """
    return _image_layer("faint nuclei (3-D)", axes="ZYX", shape=(1, 1, 12, 320, 320))


def nuclei_time() -> "list[LayerData]":
    """Simulate faint nuclei that wander.

    Returns
    -------
    list of LayerData
        One image layer (T, Y, X) of uint16 counts: 12 time points 600 s apart, 320 x 320 px of 0.65 um.
    """
    return _image_layer("faint nuclei (time)", axes="TYX", shape=(12, 1, 1, 320, 320))


def _image_layer(name: str, *, axes: str, shape: tuple[int, int, int, int, int]) -> "list[LayerData]":
    stack = simulate(SampleSettings(shape=shape, cell_fraction=0.15, seed=SEED)).stack
    counts = np.asarray(stack).squeeze()
    step: dict[str, Any] = {"T": stack.time_step_s, **stack.pixel_size_um}
    options = {
        "name": name,
        "scale": tuple(step[axis] for axis in axes),
        "units": tuple("s" if axis == "T" else "um" for axis in axes),
        "axis_labels": tuple(axes.lower()),
        "contrast_limits": tuple(float(level) for level in np.percentile(counts, [1.0, 99.8])),
        "colormap": "gray",
    }
    return [(counts, options, "image")]
