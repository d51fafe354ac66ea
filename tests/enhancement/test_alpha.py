"""Opacity is copied, never enhanced: the samples that ExtraSamples calls alpha, and the last of two or four."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cellxlate.choice import looks_of
from cellxlate.enhancement.job import enhance, enhance_file
from cellxlate.errors import OptionError
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.channel_names import choose_channels
from cellxlate.stacks.intensity.stack_noise import stack_noise
from cellxlate.stacks.intensity.stack_range import stack_ranges
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import Stack

EVERYWHERE = EnhanceSettings(threshold=0.0)


def samples(count: int) -> np.ndarray:
    """(Y, X, S): spots on a background, alike in all samples, so that each would be enhanced."""
    rng = np.random.default_rng(0)
    plane = rng.poisson(20, (64, 64)).astype(np.float64)
    plane[20:40, 20:40] += 120
    return np.repeat(np.clip(plane, 0, 255).astype(np.uint8)[..., None], count, axis=-1)


@pytest.mark.parametrize(
    ("axes", "count", "alpha"), [("YXS", 4, (3,)), ("SYX", 4, (3,)), ("YXS", 2, (1,)), ("YXS", 3, ()), ("CYX", 4, ())]
)
def test_opacity_of_an_array_is_copied(tiny_model: Path, axes: str, count: int, alpha: tuple[int, ...]) -> None:
    pixels = samples(count) if axes == "YXS" else np.moveaxis(samples(count), -1, 0)
    result = enhance(pixels, tiny_model, axes=axes, settings=EVERYWHERE, engine="torch")
    attention = result.attention if axes != "YXS" else np.moveaxis(result.attention, -1, 0)
    image = result.image if axes != "YXS" else np.moveaxis(result.image, -1, 0)
    for sample in range(count):
        assert attention[sample].any() == (sample not in alpha)
        if sample in alpha:
            np.testing.assert_array_equal(image[sample], samples(1)[..., 0])


def test_opacity_beside_channels_is_copied(tiny_model: Path) -> None:
    pixels = np.stack([samples(4), samples(4)])
    result = enhance(pixels, tiny_model, axes="CYXS", settings=EVERYWHERE, engine="torch")
    assert result.attention[..., :3].any(axis=(1, 2)).all()
    assert not result.attention[..., 3].any()


@pytest.mark.parametrize(
    ("photometric", "count", "extra", "alpha"),
    [
        ("rgb", 4, ["unassalpha"], (3,)), ("rgb", 4, ["assocalpha"], (3,)), ("rgb", 4, ["unspecified"], (3,)),
        ("rgb", 5, ["unspecified", "unassalpha"], (4,)), ("minisblack", 2, ["unassalpha"], (1,)),
        ("minisblack", 2, ["unspecified"], ()), ("minisblack", 4, ["unspecified"] * 3, ()), ("rgb", 3, None, ()),
    ],
)  # fmt: skip
def test_extra_samples_say_what_is_opacity(
    tmp_path: Path, photometric: Any, count: int, extra: Any, alpha: tuple[int, ...]
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, samples(count), photometric=photometric, planarconfig="contig", extrasamples=extra)
    with open_stack(path) as stack:
        assert stack.alpha_samples == alpha
        assert choose_channels(stack, None) == tuple(sorted(set(range(count)) - set(alpha)))
        for sample in alpha:
            with pytest.raises(OptionError, match=f"sample {sample} is opacity"):
                choose_channels(stack, [sample])
    with open_stack(path, "YXC") as stack:
        assert stack.alpha_samples == alpha


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_opacity_is_copied_to_a_file_that_says_so(tmp_path: Path, tiny_model: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, samples(4), photometric="rgb", extrasamples=[kind])
    report = enhance_file(path, tiny_model, settings=EVERYWHERE, engine="torch")
    assert report.kept_violations == 0
    with tifffile.TiffFile(tmp_path / "a_enhanced.ome.tif") as file:
        assert file.pages.first.extrasamples[0].name.lower() == kind
        np.testing.assert_array_equal(file.asarray()[..., 3], samples(4)[..., 3])
    with open_stack(tmp_path / "a_attention.ome.tif") as attention:
        assert not np.asarray(attention)[..., 3].any()
        assert np.asarray(attention)[..., 0].any()


def test_two_channels_of_an_array_are_not_opacity() -> None:
    assert Stack.from_array(np.zeros((2, 8, 8), np.uint8), "CYX").alpha_samples == ()


def test_levels_noise_and_domain_leave_opacity_out_beside_channels() -> None:
    """Opacity of one bright value, then of noise, tells nothing of the light."""
    light = np.stack([np.stack([samples(3), samples(3)]) for _ in range(2)])  # T C Y X S
    expected = Stack.from_array(light, "TCYXS")
    for opacity in (np.full((2, 2, 64, 64, 1), 255), np.random.default_rng(1).integers(0, 255, (2, 2, 64, 64, 1))):
        stack = Stack.from_array(np.concatenate([light, opacity.astype(np.uint8)], axis=-1), "TCYXS")
        assert stack.planes_per_channel == expected.planes_per_channel == 6
        assert not any(stack.is_alpha(stack.plane_of(number, 1)) for number in range(6))
        assert stack_ranges(stack, [0, 1]) == stack_ranges(expected, [0, 1])
        assert str(stack_noise(stack, 1)) == str(stack_noise(expected, 1))  # holds an array
        assert [look.quantities for look in looks_of(stack, 0)] == [look.quantities for look in looks_of(expected, 0)]


@pytest.mark.parametrize("axes", ["TCZYX", "CTYX", "ZYX", "YXS", "SCYX", "TYXS"])
def test_planes_of_a_channel_are_numbered_in_the_order_of_the_stack(axes: str) -> None:
    stack = Stack.from_array(
        np.zeros([dict(zip("TCZYXS", (2, 3, 4, 5, 6, 3), strict=True))[axis] for axis in axes]), axes
    )
    for channel in range(stack.channel_count):
        planes = [index for index in stack.plane_indices() if stack.channel_of(index) == channel]
        assert [stack.plane_of(number, channel) for number in range(stack.planes_per_channel)] == planes
