"""Images to train and validate on, laid out once in the work folder; test images are never among them."""

import argparse
import fcntl
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage
from skimage.filters import threshold_otsu

from paper.drawn import drawn_pair

HELD_EVERY = 10
"""Every tenth field of the nuclei's targets is kept out of training."""

DRAWN, DRAWN_HELD = 128, {"validation": 12, "test": 24}
"""Fields of drawn pairs: of each domain to train on, and pairs to validate and score on."""

HOLOGRAMS_HELD = {0: "validation", 4: "test"}
"""Of eight images of each domain in a row, which are kept out of training, and for what."""

SURROUNDINGS_PX = 20.0
"""Of the Gaussian that stands for the background of holograms and of bright field."""

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
        """With the subfolders `source`, `truth` and `masks`, and the same names in each; of holograms see `holo`."""
        return self.root / "validation"

    @property
    def test(self) -> Path:
        """Like validation, for scores; the nuclei's are the test images of `nuclei_lowexp`."""
        return self.root / "test"


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of a command that wants to know where real images lie, and where runs are kept."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="where the real images lie")
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept, outside the repository")
    return parser


def prepared(name: str, shared: Path, work: Path) -> Folders:
    """Return the folders of a data set, made whole if they are not there yet.

    Parameters
    ----------
    name : {"nuclei", "phase", "holo"}
        Of the data set: faint and clear nuclei; drawn phase contrast and fluorescence; holograms and bright field.
    shared, work : Path
        Where the real images lie, and where runs are kept.
    """
    folders = Folders(work / "data" / name)
    folders.root.parent.mkdir(parents=True, exist_ok=True)
    with folders.root.with_name(f"{name}.lock").open("w") as file:  # two workers may want it at once
        fcntl.flock(file, fcntl.LOCK_EX)
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


def made_faint(
    clear: npt.NDArray[np.float64], rng: np.random.Generator, noise: np.random.Generator | None = None
) -> npt.NDArray[np.uint16]:
    """Blur an image (Y, X) of counts, expose it briefly and record it, with drawn blur, exposure and noise.

    Noise is drawn from a generator of its own where one is given, to record the same again.
    """
    noise = noise or rng
    signal = np.clip(ndimage.gaussian_filter(clear, rng.uniform(*BLUR_PX)) - OFFSET, 0, None)
    electrons = noise.poisson(signal * rng.uniform(*EXPOSURE) * ELECTRONS_PER_COUNT)
    recorded = OFFSET + electrons / ELECTRONS_PER_COUNT + noise.normal(0, READ_NOISE, clear.shape)
    return np.clip(np.rint(recorded), 0, 2**16 - 1).astype(np.uint16)


def phase(shared: Path, folders: Folders) -> None:
    """Draw fields in phase contrast and others in fluorescence, and some in both to validate and score on.

    Masks for attention are those of labelled nuclei, 3 px wider; those to score by are whole bodies.
    """
    for number in range(2 * DRAWN):
        pair = drawn_pair(np.random.default_rng([11, number]))
        part, image = (("source", pair.phase), ("target", pair.fluorescence))[number % 2]
        wider = ndimage.binary_dilation(pair.nuclei, iterations=3)
        stored(folders.root / part, number, image)
        stored(folders.masks / part, number, wider.astype(np.uint8))
    for stream, (part, count) in enumerate(DRAWN_HELD.items(), 12):
        for number in range(count):
            pair = drawn_pair(np.random.default_rng([stream, number]))
            for name, image in (("source", pair.phase), ("truth", pair.fluorescence), ("masks", pair.bodies)):
                stored(folders.root / part / name, number, image.astype(np.uint8) if name == "masks" else image)


def stored(folder: Path, number: int, image: npt.NDArray[np.generic]) -> None:
    """Write an image (Y, X) under its number."""
    folder.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / f"{number:03}.tif", image)


def holo(shared: Path, folders: Folders) -> None:
    """Lay out `holo2bright`, with masks that a local threshold makes; nothing in it is a pair.

    Images to validate and score on are in `source` and `masks/source`, those to compare with in `target` and
    `masks/target`.
    """
    for part, letter, masked in (("source", "S", rings), ("target", "T", bright_spots)):
        for number, path in enumerate(sorted((shared / "holo2bright" / f"train_{letter}").glob("*.tif"))):
            held = HOLOGRAMS_HELD.get(number % 8)
            root = folders.root / held if held else folders.root
            for folder in (root / part, root / "masks" / part):
                folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, root / part / path.name)
            mask = masked(tifffile.imread(path).astype(np.float64))
            tifffile.imwrite(root / "masks" / part / path.name, mask.astype(np.uint8))


def rings(image: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
    """Return where a hologram (Y, X) differs much from its surroundings: objects with their rings."""
    energy = ndimage.gaussian_filter(np.abs(image - ndimage.gaussian_filter(image, SURROUNDINGS_PX)), 3.0)
    return np.asarray(energy > threshold_otsu(energy))


def bright_spots(image: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
    """Return where a bright field image (Y, X) holds focussed objects, 3 px wider."""
    smooth = ndimage.gaussian_filter(image - ndimage.gaussian_filter(image, SURROUNDINGS_PX), 1.0)
    return np.asarray(ndimage.binary_dilation(smooth > threshold_otsu(smooth), iterations=3))


MAKERS = {"nuclei": nuclei, "phase": phase, "holo": holo}
