"""Images to train and validate on, laid out once in the work folder; test images are never among them."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage

HELD_EVERY = 10
"""Every tenth field of the nuclei's targets is kept out of training."""

BLUR_PX, EXPOSURE, ELECTRONS_PER_COUNT, READ_NOISE, OFFSET = (1.2, 2.35), (0.05, 0.15), 0.6, 2.5, 100.0
"""What the source images of nuclei were made with, as their manifest states."""


@dataclass(frozen=True)
class Folders:
    """Folders of one data set; masks have subfolders `source` and `target`."""

    root: Path

    @property
    def source(self) -> Path:
        """Images as taken."""
        return self.root / "source"

    @property
    def target(self) -> Path:
        """Images as they should look, none of which shows what a validation image does."""
        return self.root / "target"

    @property
    def masks(self) -> Path:
        """Of both."""
        return self.root / "masks"

    @property
    def validation(self) -> Path:
        """With the subfolders `source`, `truth` and `masks`, and the same names in each."""
        return self.root / "validation"


def prepared(name: str, shared: Path, work: Path) -> Folders:
    """Return the folders of a data set, made whole if they are not there yet.

    Parameters
    ----------
    name : {"nuclei"}
        Of the data set.
    shared, work : Path
        Where the real images lie, and where runs are kept.
    """
    folders = Folders(work / "data" / name)
    if not folders.root.exists():
        making = Folders(folders.root.with_name(f"{name}.partial"))
        shutil.rmtree(making.root, ignore_errors=True)
        MAKERS[name](shared, making)
        making.root.rename(folders.root)
    return folders


def nuclei(shared: Path, folders: Folders) -> None:
    """Lay out `nuclei_lowexp`: some target fields are held out and made faint, as the source images were."""
    data = shared / "nuclei_lowexp"
    for part, letter in (("source", "S"), ("target", "T")):
        for kind, name in ((folders.root / part, f"train_{letter}"), (folders.masks / part, f"train_{letter}_masks")):
            kind.mkdir(parents=True)
            for path in (data / name).glob("*.tif"):
                shutil.copyfile(path, kind / path.name)
    fields = sorted({field_of(path) for path in folders.target.glob("*.tif")})
    held = set(fields[::HELD_EVERY])
    for part in ("source", "truth", "masks"):
        (folders.validation / part).mkdir(parents=True)
    for number, path in enumerate(sorted(folders.target.glob("*.tif"))):
        if field_of(path) not in held:
            continue
        mask = folders.masks / "target" / path.name
        faint = made_faint(tifffile.imread(path).astype(np.float64), np.random.default_rng([7, number]))
        tifffile.imwrite(folders.validation / "source" / path.name, faint)
        path.rename(folders.validation / "truth" / path.name)
        mask.rename(folders.validation / "masks" / path.name)


def field_of(path: Path) -> str:
    """Return which field a crop called FIELD_yROW_xCOLUMN was cut from."""
    return path.stem.rsplit("_", 2)[0]


def made_faint(clear: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Blur an image (Y, X) of counts, expose it briefly and record it, with drawn blur, exposure and noise."""
    signal = np.clip(ndimage.gaussian_filter(clear, rng.uniform(*BLUR_PX)) - OFFSET, 0, None)
    electrons = rng.poisson(signal * rng.uniform(*EXPOSURE) * ELECTRONS_PER_COUNT)
    recorded = OFFSET + electrons / ELECTRONS_PER_COUNT + rng.normal(0, READ_NOISE, clear.shape)
    return np.clip(np.rint(recorded), 0, 2**16 - 1).astype(np.uint16)


MAKERS = {"nuclei": nuclei}
