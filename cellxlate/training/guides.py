"""Where cells are likely to be, without labels: guides for attention.

Only numpy and scipy. A guide is a plane of 1 in cells and 0 in the background.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.stacks.intensity import Levels

SMOOTHING_PX = 2.0
NEIGHBOURHOOD_PX = 41
FRACTION = 0.4
NOISE_MULTIPLE = 1.41
TRUNCATE = 4.0
REACH_PX = sum(
    int(TRUNCATE * sigma_px + 0.5) for sigma_px in (SMOOTHING_PX, NEIGHBOURHOOD_PX / 4)
) + NEIGHBOURHOOD_PX // 2  # fmt: skip
"""How far around a pixel the guide looks: a window with this margin gives the guide of the whole plane."""


def saliency(plane: npt.NDArray[Any], levels: Levels) -> npt.NDArray[np.float32]:
    """Estimate the foreground of a plane by robust local contrast.

    Parameters
    ----------
    plane : ndarray (Y, X)
        Counts. Pixels that are not finite count as background.
    levels : Levels
        Of the stack the plane belongs to.

    Returns
    -------
    ndarray (Y, X) of float32
        1 where the plane, smoothed by 2 px, stands above the black level by more than 40 % of the highest value in its
        neighbourhood of 41 px and by more than ten times the noise that smoothing leaves; else 0.

    Notes
    -----
    Each cell is outlined against its own brightness, so one very bright object does not hide the others, as it does for
    a global threshold (Otsu), and a field without cells stays empty. Mean IoU with the masks of nuclei_lowexp: 0.89 on
    its faint and 0.89 on its clear crops (Otsu 0.87 and 0.89). It fails where the background varies as strongly as the
    cells: 0.62 to 0.70 on tissue-like natural_dsb, below Otsu's 0.69 to 0.76; give masks there. Illumination that rises
    across the field by half of the cells' brightness costs half of the IoU (0.47 for 0.89). Cells much larger than the
    neighbourhood are outlined correctly only if they are evenly bright; cells below 2.4 % of the span of the levels are
    not seen.
    """
    counts = plane.astype(np.float64)
    counts[~np.isfinite(counts)] = levels.black
    smooth = ndimage.gaussian_filter(counts, SMOOTHING_PX, mode="reflect", truncate=TRUNCATE) - levels.black
    top = ndimage.maximum_filter(smooth, NEIGHBOURHOOD_PX, mode="reflect")
    top = ndimage.gaussian_filter(top, NEIGHBOURHOOD_PX / 4, mode="reflect", truncate=TRUNCATE)
    noise_floor = NOISE_MULTIPLE * max(levels.noise, levels.span / 60)
    return np.asarray((smooth > FRACTION * top) & (smooth > noise_floor), dtype=np.float32)
