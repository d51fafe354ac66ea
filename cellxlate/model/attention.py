"""The promise, as array arithmetic: which pixels may change, by how much, and that all others are the input's own bits.

Only numpy. Shapes are free as long as they agree; the enhancement uses planes (Y, X).

References
----------
Y. A. Mejjati et al., Unsupervised Attention-guided Image-to-Image Translation, NeurIPS 2018, arXiv 1806.02311, eq. 1:
s' = A F(s) + (1 - A) s = s + A (F(s) - s). Here A is replaced by the gate g, which is 0 wherever A <= tau.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from cellxlate.stacks.intensity.range import IntensityRange

Floats = npt.NDArray[np.float32]

ATTENTION_STEPS = 1024
"""Attention is kept as an integer number of steps from 0 to 1024, so that rounding cannot flip a pixel across tau."""


def quantise(attention: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint16]:
    """Turn attention in [0, 1] into steps 0..1024 (uint16). Values outside are clipped; NaN becomes 0."""
    steps = np.fmin(np.fmax(attention, 0.0), 1.0)  # unlike clip, a NaN becomes the limit
    return np.asarray(np.rint(steps * ATTENTION_STEPS), dtype=np.uint16)


def gate(attention_steps: npt.NDArray[np.uint16], threshold: float) -> npt.NDArray[np.float32]:
    """Return the gate g = clip((A - tau) / (1 - tau), 0, 1).

    Parameters
    ----------
    attention_steps : ndarray of uint16
        Attention in steps of 1/1024.
    threshold : float
        tau in [0, 1]; with 1 nothing is selected.

    Returns
    -------
    ndarray of float32
        In [0, 1], exactly 0 where attention <= tau, continuous above it.
    """
    if threshold >= 1:
        return np.zeros(attention_steps.shape, np.float32)
    ramp = (attention_steps / ATTENTION_STEPS - threshold) / (1 - threshold)
    return np.clip(ramp, 0, 1).astype(np.float32)


def change(
    gate: npt.NDArray[np.float32], proposal: npt.NDArray[np.floating[Any]], plane: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.floating[Any]]:
    """Return g * (F(s) - s), exactly 0 wherever g is 0 (also where the proposal is not finite)."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.where(gate > 0, proposal - plane, 0)
    return np.asarray(gate * difference, dtype=difference.dtype)


def apply_change(
    raw: npt.NDArray[Any], change_counts: npt.NDArray[np.floating[Any]], gate: npt.NDArray[np.float32]
) -> npt.NDArray[Any]:
    """Add a change to the stored pixels, in the file's own dtype.

    Parameters
    ----------
    raw : ndarray
        Pixels as stored: any integer or float dtype.
    change_counts : ndarray of float
        What to add, in counts.
    gate : ndarray of float32
        Where it is 0 the raw bits are returned, NaN payloads and signed zeros included.

    Returns
    -------
    ndarray
        The dtype of `raw`. Integers are rounded to nearest and limited to the range of the dtype. Pixels that are not
        finite, and changes that are not finite, leave the raw value.
    """
    selected = (gate > 0) & np.isfinite(change_counts)
    if raw.dtype.kind == "f":
        selected &= np.isfinite(raw)
        with np.errstate(over="ignore"):
            moved = (raw[selected].astype(np.float64) + change_counts[selected]).astype(raw.dtype)
        moved = np.where(np.isfinite(moved), moved, raw[selected])
    else:
        limits = np.iinfo(raw.dtype)
        counts = np.rint(raw[selected].astype(np.float64) + change_counts[selected])
        moved = np.clip(counts, limits.min, limits.max).astype(raw.dtype)
    enhanced = raw.copy()
    enhanced[selected] = moved
    return enhanced


def attention_image(gate: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return the gate as it is written: uint8, 0 exactly where the pixel was kept, 1-255 in proportion elsewhere."""
    return np.ceil(gate.astype(np.float64) * 255).astype(np.uint8)


def change_in_counts(
    gated: Floats, proposal: Floats, unit: Floats, counts: npt.NDArray[Any], *, spans: npt.NDArray[np.float64],
    target: "IntensityRange | None",
) -> npt.NDArray[np.float64]:  # fmt: skip
    """Return g (F(s) - s) in counts, on the input's scale or towards the target's; all arrays are (G, Y, X)."""
    if target is None:
        return np.asarray(change(gated, proposal, unit).astype(np.float64) * spans)
    wanted = target.black + proposal.astype(np.float64) * target.span
    return np.asarray(change(gated, wanted, counts.astype(np.float64)), dtype=np.float64)
