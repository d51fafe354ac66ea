"""What a run did, for people and for programs."""

import numpy as np
import numpy.typing as npt
from imagecodecs import png_encode

GAP_PX = 4


def triptych_png(
    before: npt.NDArray[np.floating], attention: npt.NDArray[np.floating], after: npt.NDArray[np.floating]
) -> bytes:
    """Return a PNG of before, attention and after side by side; before and after share one scale.

    Parameters
    ----------
    before, after : ndarray (Y, X)
        Unit range: 0 is drawn black, 1 white.
    attention : ndarray (Y, X)
        In [0, 1], drawn from black to white.
    """
    gap = np.ones((before.shape[0], GAP_PX))
    row = np.concatenate([before, gap, attention, gap, after], axis=1)
    return bytes(png_encode(np.rint(np.clip(row, 0, 1) * 255).astype(np.uint8)))
