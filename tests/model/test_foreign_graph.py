"""How far a network looks, told from its graph: exactly what a single pixel changes when the network runs."""

from pathlib import Path

import numpy as np
import pytest
from foreign_networks import FREE, Net
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from cellxlate.model.foreign.opened import open_foreign
from cellxlate.model.foreign.session import in_axes, open_session
from cellxlate.model.foreign.values import Reach

pytest.importorskip("onnxruntime", reason="onnxruntime is optional")

STEPS = st.one_of(
    st.tuples(st.just("conv"), st.sampled_from([1, 2, 3, 5]), st.integers(1, 3)),
    st.tuples(st.just("pool"), st.sampled_from([2, 3]), st.just(1)),
    st.tuples(st.just("mean"), st.sampled_from([2, 3]), st.just(1)),
    st.tuples(st.sampled_from(["nearest", "linear", "deconv", "shuffle"]), st.sampled_from([2, 3]), st.integers(1, 3)),
    st.tuples(st.just("reflect"), st.integers(1, 3), st.just(1)),
)


def positive(net: Net, image: str, given: int, made: int, kernel: int, **attributes: object) -> str:
    """Add a convolution of weights that never cancel each other."""
    weights = net.constant(net.random.uniform(0.5, 1, (made, given, kernel, kernel)) / (given * kernel**2))
    return net.add("Conv", image, weights, **attributes)


def added(net: Net, image: str, kind: str, size: int, more: int) -> str:
    """Add a step that keeps the sides of an image whose sides are multiples of its size."""
    reach = (size - 1) * more
    pads = [reach // 2, reach // 2, reach - reach // 2, reach - reach // 2]
    if kind == "conv":
        return positive(net, image, 1, 1, size, pads=pads, dilations=[more, more])
    if kind in ("pool", "mean"):
        operator = "MaxPool" if kind == "pool" else "AveragePool"
        return net.add(operator, image, kernel_shape=[size, size], pads=pads)
    if kind == "reflect":
        padded = net.add("Pad", image, net.ints(0, 0, size, size, 0, 0, size, size), mode="reflect")
        return positive(net, padded, 1, 1, 2 * size + 1)
    if kind == "shuffle":
        net_in = net.add("SpaceToDepth", image, blocksize=size)
        return net.add("DepthToSpace", positive(net, net_in, size**2, size**2, 1), blocksize=size)
    coarse = positive(net, image, 1, 1, size, strides=[size, size])
    coarse = positive(net, coarse, 1, 1, 2 * more + 1, pads=[more] * 4)
    if kind == "deconv":
        weights = net.constant(net.random.uniform(0.5, 1, (1, 1, size, size)))
        return net.add("ConvTranspose", coarse, weights, strides=[size, size])
    return net.add("Resize", coarse, "", net.constant([1, 1, size, size]), mode=kind)


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(STEPS, min_size=1, max_size=3), seed=st.integers(0, 99))
@example(steps=[("nearest", 3, 1), ("nearest", 2, 1)], seed=0)
def test_the_halo_is_how_far_one_pixel_is_felt(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]], seed: int
) -> None:
    net, image = Net(seed), "given"
    for step in steps:
        image = added(net, image, *step)
    model = open_foreign(net.save(tmp_path_factory.mktemp("net") / "net.onnx", image))
    (rows, columns), session = model.reach, open_session(model)
    assert rows == columns
    assert rows.halo_px is not None
    side = -(-(4 * rows.halo_px + 40) // rows.step_px) * rows.step_px + rows.least_px
    farthest = 0
    for place in range(side // 2, side // 2 + rows.stride):
        one = np.zeros((1, 1, side, side), np.float32)
        one[..., place, place] = 1
        felt = np.argwhere(session(one)[0][0, 0] > 0)
        farthest = max(farthest, int(np.abs(felt - place).max()))
    assert farthest == rows.halo_px


def facts(path: Path, net: Net, image: str, **more: object) -> Reach:
    (rows, columns) = open_foreign(net.save(path, image, **more)).reach  # type: ignore[arg-type]
    assert rows == columns
    return rows


def test_strides_and_sizes_are_those_that_fit_without_a_rest(tmp_path: Path) -> None:
    net = Net()
    down = net.conv("given", 1, 2, strides=[2, 2])
    down = net.conv(down, 2, 2, strides=[3, 3])
    again = net.add("Resize", down, "", net.constant([1, 1, 6, 6]), mode="nearest")
    found = facts(tmp_path / "six.onnx", net, net.add("Add", net.conv(again, 2, 1), "given"))
    assert (found.stride, found.step_px, found.least_px) == (6, 6, 12)


def test_a_wide_path_does_not_hide_a_stride(tmp_path: Path) -> None:
    net = Net()
    wide, coarse = net.conv("given", 1, 1, 31), net.add("MaxPool", "given", kernel_shape=[4, 4], strides=[4, 4])
    again = net.add("Resize", coarse, "", net.constant([1, 1, 4, 4]), mode="nearest")
    found = facts(tmp_path / "wide.onnx", net, net.add("Add", wide, again))
    assert (found.halo_px, found.stride) == (15, 4)


def test_windows_of_a_transformer_are_a_stride_and_a_reach(tmp_path: Path) -> None:
    net = Net()
    tokens = net.add("Transpose", net.conv("given", 1, 2), perm=[0, 2, 3, 1])
    sides = net.add("Shape", tokens)
    rows, columns = (net.add("Gather", sides, net.ints(axis), axis=0) for axis in (1, 2))
    parts = [net.add("Div", one, net.ints(4)) for one in (rows, columns)]
    cut = net.add("Concat", net.ints(1), parts[0], net.ints(4), parts[1], net.ints(4), net.ints(2), axis=0)
    inside = net.add("Reshape", net.add("Transpose", net.add("Reshape", tokens, cut), perm=[0, 1, 3, 2, 4, 5]),
                     net.ints(-1, 16, 2))  # fmt: skip
    pairs = net.add("Softmax", net.add("MatMul", inside, net.add("Transpose", inside, perm=[0, 2, 1])), axis=-1)
    seen = net.add("MatMul", pairs, inside)
    back = net.add("Concat", net.ints(1), parts[0], parts[1], net.ints(4), net.ints(4), net.ints(2), axis=0)
    whole = net.add("Transpose", net.add("Reshape", seen, back), perm=[0, 1, 3, 2, 4, 5])
    image = net.add("Reshape", whole, net.add("Concat", net.ints(1), rows, columns, net.ints(2), axis=0))
    out = net.conv(net.add("Transpose", image, perm=[0, 3, 1, 2]), 2, 1)
    found = facts(tmp_path / "windows.onnx", net, out, shape=(1, 1, "rows", "columns"))
    assert (found.halo_px, found.stride, found.step_px) == (5, 4, 4)


def test_channels_may_come_last(tmp_path: Path) -> None:
    net = Net()
    first = net.conv(net.add("Transpose", "given", perm=[0, 3, 1, 2]), 1, 1, 5)
    path = net.save(tmp_path / "last.onnx", net.add("Transpose", first, perm=[0, 2, 3, 1]), shape=(None, None, None, 1))
    model = open_foreign(path)
    assert (model.input_axes, model.output_axes, model.channels_in) == ("byxc", "byxc", 1)
    assert [one.halo_px for one in model.reach] == [2, 2]
    images = np.random.default_rng(0).random((2, 1, 12, 17)).astype(np.float32)
    assert open_session(model)(images)[0].shape == images.shape


def test_volumes_have_a_reach_along_each_axis(tmp_path: Path) -> None:
    net = Net()
    weights = net.constant(net.random.random((1, 1, 3, 5, 7)))
    image = net.add("Conv", "given", weights, pads=[1, 2, 3, 1, 2, 3])
    model = open_foreign(net.save(tmp_path / "volume.onnx", image, shape=("batch", 1, "z", "y", "x")))
    assert (model.axes, [one.halo_px for one in model.reach]) == ("ZYX", [1, 2, 3])


def test_what_is_not_known_is_named_and_no_halo_is_guessed(tmp_path: Path) -> None:
    net = Net()
    grid = net.constant(np.zeros((1, 64, 64, 2)))
    image = net.add("GridSample", net.conv("given", 1, 1), grid)
    model = open_foreign(net.save(tmp_path / "grid.onnx", image, shape=(1, 1, 64, 64), opset=18))
    assert [one.halo_px for one in model.reach] == [None, None]
    assert "GridSample" in model.unknown[0]


def test_a_normalisation_with_fixed_numbers_is_local(tmp_path: Path) -> None:
    net = Net()
    numbers = [net.constant(net.random.random(2)) for _ in range(4)]
    image = net.add("BatchNormalization", net.conv("given", 1, 2), *numbers)
    assert facts(tmp_path / "batch.onnx", net, net.conv(image, 2, 1)).halo_px == 2


def test_memory_is_that_of_the_arrays_which_are_needed_at_once(tmp_path: Path) -> None:
    net = Net()
    model = open_foreign(net.save(tmp_path / "wide.onnx", net.conv(net.conv("given", 1, 64), 64, 1)))
    assert model.bytes_per_px == pytest.approx(4 * 65, abs=8)
    assert model.bytes_per_pair == 0


def test_axes_come_back_as_they_were() -> None:
    image = np.arange(24.0).reshape(2, 1, 3, 4)
    for axes in ("byxc", "bcyx", "cyxb", "yxbc"):
        np.testing.assert_array_equal(in_axes(in_axes(image, "bcyx", axes), axes, "bcyx"), image)


def test_constants_of_one_number_everywhere_belong_to_no_place(tmp_path: Path) -> None:
    net = Net()
    ones = helper.make_tensor("ones", TensorProto.FLOAT, [1], [1.0])
    mask = net.add("ConstantOfShape", net.add("Shape", "given"), value=ones)
    found = facts(tmp_path / "mask.onnx", net, net.add("Mul", net.conv("given", 1, 1), mask), shape=FREE)
    assert found.halo_px == 1
