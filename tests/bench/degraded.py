"""Clear images made noisy: what choices are made on, so that the real pairs stay what choices are checked with.

    python tests/bench/degraded.py [MODEL ...] [--data ../shared/data] [--markdown | --json] [--rows NAME ...]
                                   [--work FOLDER] [--noise NAME ...] [--by noise]

The fields of HELD_OUT are left out of training; each is degraded in every way of NOISES, always with the same draws.
Rows and scores are those of real.py, averaged by folder, or by noise. Fields with dark structures on a bright ground
are scored everywhere, others where the clear image stands out of its background.
"""

import argparse
import sys
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
import torch
from pairs import Pair, Row, add_options, best_gaussian, input_row, model_rows, non_local_means, run, show
from scipy import ndimage
from skimage.filters import threshold_otsu

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
REFERENCE = "best Gaussian"

HELD_OUT = (
    "clean_structures/actin/bian_BPAE_actin_y40_x770.tif",
    "clean_structures/actin/cpe_01_POS076_F_y40_x40.tif",
    "clean_structures/bacteria/coli_00074.tif",
    "clean_structures/bacteria/neu_xy_16bit__bacteria_cords_thin.tif",
    "clean_structures/brightfield/cpe_fat_orig_c1_y390_x150.tif",
    "clean_structures/brightfield/inst_HE_example_c1_y720_x450.tif",
    "clean_structures/cytoplasm/bian_IXMtest_A02_s9_c1_y0_x183.tif",
    "clean_structures/cytoplasm/cpc_Channel1-86-H-02_y64_x64.tif",
    "clean_structures/membranes/bian_maize_clsm_y320_x319.tif",
    "clean_structures/membranes/inst_Fluorescence_example_c0.tif",
    "clean_structures/microtubules/neu_xyc_8bit__dapi_tublin_c1_y200_x484.tif",
    "clean_structures/mitochondria/bian_BPAE_mito_y80_x590.tif",
    "clean_structures/nuclei_large/cpe_1-162hrhoe2_y180_x700.tif",
    "clean_structures/nuclei_large/neu_xy_8bit__nuclei_PLK1_inhibition.tif",
    "clean_structures/nuclei_small/bian_IXMtest_A02_s9_c0_y0_x0.tif",
    "clean_structures/nuclei_small/cpe_01_POS076_D_y40_x40.tif",
    "clean_structures/phase_contrast/omni_e1t1_crop.tif",
    "clean_structures/phase_contrast/yeaz_2020_3_19_frame_100_cropped_y652_x100.tif",
    "clean_structures/puncta/cpe_01_POS076_R_y40_x40.tif",
    "clean_structures/puncta/gal_input3_tyx_c0_y0_x60.tif",
    "clean_structures/tissue/isl_isl_nfh_y512_x0.tif",
    "clean_structures/tissue/neu_xy_16bit__rat_hippocampal_neuron.tif",
)
"""Relative to DATA; of every folder two, of thin ones one. Nothing may be trained on them."""

EVERYWHERE = ("brightfield", "phase_contrast")
LARGEST_PX = 320
BACKGROUND_SHARE = 0.05
"""Of the brightest electrons, light that reaches the camera where nothing is."""


@dataclass(frozen=True)
class Noise:
    """How a clear image is degraded.

    Attributes
    ----------
    peak_e : float
        Electrons at the 99.9 percentile of the clear image.
    read_e : float
        Standard deviation of the read noise, in electrons.
    width_px : float
        Of the Gaussian by which neighbours share noise; 0 for white noise. It does not change the noise's variance.
    bits : int
        8 (quantised, black at 10, the peak at 200) or 16 (gain 5, offset 200).
    """

    peak_e: float
    read_e: float
    width_px: float = 0.0
    bits: int = 16


NOISES = {
    "bright": Noise(300, 2),
    "white": Noise(60, 2),
    "weak": Noise(20, 2, bits=8),
    "read": Noise(60, 8),
    "shared-0.5": Noise(40, 2, width_px=0.5, bits=8),
    "shared-0.7": Noise(20, 2, width_px=0.7, bits=8),
    "shared-1.0": Noise(40, 4, width_px=1.0),
}


def degrade(
    clear: npt.NDArray[np.generic], noise: Noise, *, seed: int
) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.float64]]:
    """Return a noisy image as a camera stores it, and what it would be without noise, in the same counts.

    Parameters
    ----------
    clear : ndarray (Y, X)
        In any unit; its 0.1 to 99.9 percentile becomes the background to the peak.
    """
    rng = np.random.default_rng(seed)
    low, high = np.percentile(clear, [0.1, 99.9])
    unit = np.clip((clear.astype(np.float64) - low) / (high - low), 0, 1.5)
    electrons = noise.peak_e * (BACKGROUND_SHARE + (1 - BACKGROUND_SHARE) * unit)
    drawn = rng.poisson(electrons) - electrons + rng.normal(0, noise.read_e, electrons.shape)
    if noise.width_px:
        drawn = ndimage.gaussian_filter(drawn, noise.width_px, mode="wrap") / norm_of_gaussian(noise.width_px)
    gain, offset = (190 / noise.peak_e, 10) if noise.bits == 8 else (5.0, 200)
    dtype = np.uint8 if noise.bits == 8 else np.uint16
    stored = np.clip(np.rint(gain * (electrons + drawn) + offset), 0, np.iinfo(dtype).max).astype(dtype)
    return stored, gain * electrons + offset


def norm_of_gaussian(width_px: float) -> float:
    """Return what a Gaussian filter leaves of the standard deviation of white noise."""
    impulse = np.zeros((65, 65))
    impulse[32, 32] = 1
    return float(np.sqrt((ndimage.gaussian_filter(impulse, width_px) ** 2).sum()))


def structure(clear: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Return where a clear image stands out of its background: above half of the way to Otsu's threshold."""
    smooth = ndimage.gaussian_filter(clear.astype(np.float64), 2)
    ground = float(np.percentile(smooth, 5))
    return np.asarray(smooth > ground + 0.5 * (float(threshold_otsu(smooth)) - ground))


def make_pairs(data: Path = DATA, noises: dict[str, Noise] = NOISES) -> list[Pair]:
    """Return every held-out field in every noise; the group is the folder, the name says field and noise."""
    pairs = []
    for name in HELD_OUT:
        clear = tifffile.imread(data / name)[:LARGEST_PX, :LARGEST_PX]
        folder = Path(name).parent.name
        cells = np.ones(clear.shape, bool) if folder in EVERYWHERE else structure(clear)
        for kind, noise in noises.items():
            noisy, truth = degrade(clear, noise, seed=zlib.crc32(f"{name} {kind}".encode()))
            pairs.append(Pair(folder, f"{Path(name).stem} {kind}", noisy, truth, cells))
    return pairs


def main() -> None:
    """Score the rows and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--noise", nargs="+", choices=NOISES, default=list(NOISES))
    parser.add_argument("--by", choices=["folder", "noise"], default="folder", help="what is averaged over")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = make_pairs(options.data, {name: NOISES[name] for name in options.noise})
    if options.by == "noise":
        pairs = [replace(p, group=p.name.split()[-1], name=f"{p.group} {p.name.split()[0]}") for p in pairs]
    rows: dict[str, Row] = {"input": input_row, REFERENCE: best_gaussian}
    if options.rows and "non-local means" in options.rows:
        rows["non-local means"] = non_local_means
    rows |= model_rows(options.models)
    chosen = {name: rows[name] for name in options.rows or rows}
    results = run(pairs, chosen, work=options.work, progress=lambda line: print(line, file=sys.stderr))
    show(results, options, REFERENCE)


if __name__ == "__main__":
    main()
