"""The levels of a pyramid are those of the image that is chosen."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from cellxlate.stacks.read.resolutions import open_resolutions


def pyramids(path: Path) -> None:
    """Two images of two levels each, with values that tell them apart: 10 and 11, 20 and 21."""
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    if path.suffix == ".zarr":
        group = zarr.open_group(path, mode="w", zarr_format=2)
        group.attrs["bioformats2raw.layout"] = 3
        for image in (0, 1):
            inner = group.create_group(str(image))
            datasets = []
            for level in (0, 1):
                data = np.full((64 >> level, 48 >> level), 10 * image + 10 + level, np.uint8)
                inner.create_array(f"s{level}", data=data, chunks=(16, 16))
                scale = [0.5 * 2**level] * 2
                datasets.append({"path": f"s{level}", "coordinateTransformations": [{"type": "scale", "scale": scale}]})
            inner.attrs["multiscales"] = [{"axes": axes, "datasets": datasets}]
        return
    with tifffile.TiffWriter(path) as file:
        for image, size in enumerate(((64, 48), (80, 48))):
            for level in (0, 1):
                data = np.full([side >> level for side in size], 10 * image + 10 + level, np.uint8)
                more = {"subifds": 1} if level == 0 else {"subfiletype": 1}
                file.write(data, tile=(16, 16), photometric="minisblack", metadata=None, **more)


@pytest.mark.parametrize("name", ["a.tif", "a.zarr"])
@pytest.mark.parametrize("image", [0, 1])
def test_levels_follow_the_chosen_image(tmp_path: Path, name: str, image: int) -> None:
    pyramids(tmp_path / name)
    levels = open_resolutions(tmp_path / name, image=image)
    assert [int(np.unique(np.asarray(level)).item()) for level in levels] == [10 * image + 10, 10 * image + 11]
    assert levels[1].shape == tuple(size // 2 for size in levels[0].shape)
    if name == "a.zarr":
        assert [level.pixel_size_um for level in levels] == [{"Y": 0.5, "X": 0.5}, {"Y": 1.0, "X": 1.0}]
    levels[0].close()
