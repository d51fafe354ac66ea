"""Small images of two kinds on disk, and settings that train on them within a second."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage

from cellxlate.settings import (
    PRESETS,
    AttentionSettings,
    DiscriminatorSettings,
    GeneratorSettings,
    NetworkSettings,
    TrainSettings,
)


@dataclass(frozen=True)
class ImageFolders:
    """Folders of 64 x 64 px images: faint and clear cells, and the masks of the faint ones."""

    source: Path
    target: Path
    masks: Path


def cells(seed: int, side: int = 64, count: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Return brightness in [0, 1] and the mask of some round cells."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    brightness = np.zeros((side, side))
    for _ in range(count):
        row, column = rng.uniform(6, side - 6, 2)
        distance = np.hypot(rows - row, columns - column)
        brightness = np.maximum(brightness, rng.uniform(0.5, 1) * np.clip(6 - distance, 0, 1))
    return brightness, brightness > 0


@pytest.fixture(scope="session")
def make_cells() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return cells


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageFolders:
    folder = tmp_path_factory.mktemp("images")
    folders = ImageFolders(folder / "source", folder / "target", folder / "masks")
    for path in (folders.source, folders.target, folders.masks):
        path.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        brightness, mask = cells(number)
        faint = 100 + 120 * ndimage.gaussian_filter(brightness, 1.5) + rng.normal(0, 6, brightness.shape)
        tifffile.imwrite(folders.source / f"faint{number}.tif", faint.round().astype(np.uint16))
        tifffile.imwrite(folders.masks / f"faint{number}.tif", mask.astype(np.uint8))
        clear = 100 + 2000 * cells(100 + number)[0] + rng.normal(0, 10, brightness.shape)
        tifffile.imwrite(folders.target / f"clear{number}.tif", clear.round().astype(np.uint16))
    return folders


@pytest.fixture(scope="session")
def tiny_fast() -> TrainSettings:
    """The default preset with networks that take milliseconds."""
    networks = NetworkSettings(
        GeneratorSettings("compact", 4, 1, "none"),
        AttentionSettings(width=2, stem_kernel_px=3, last_width=2, last_kernel_px=3, normalisation="none"),
        DiscriminatorSettings(width=2, layers=1, normalisation="none"),
    )
    return replace(PRESETS["fast"], networks=networks, batch=2, patch_px=32, steps=24)


@pytest.fixture(scope="session")
def tiny_paper() -> TrainSettings:
    """The paper's preset with networks that take milliseconds."""
    networks = NetworkSettings(
        GeneratorSettings(width=2, blocks=1),
        AttentionSettings(width=2, stem_kernel_px=3, last_width=2, last_kernel_px=3),
        DiscriminatorSettings(width=4, layers=1),
    )
    return replace(PRESETS["paper"], networks=networks, patch_px=32, load_px=36, pool=3, steps=24)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums in one order: results then repeat to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
