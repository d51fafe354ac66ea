"""ONNX networks from strangers: what they ask for is bounded, what they are not is one line, nothing else is opened."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
import tifffile
from foreign_networks import Net, unet
from onnx import TensorProto, helper

from cellxlate.errors import ModelError
from cellxlate.model.foreign.opened import open_foreign
from cellxlate.model.foreign.probe import probe
from cellxlate.model.foreign.session import open_session

pytest.importorskip("onnxruntime", reason="onnxruntime is optional")

CASES = int(os.environ.get("CELLXLATE_FUZZ", "400")) // 4
LONGEST_S = 5.0
NUMBERS = (0, 1, 2, 7, 127, 128, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)


@pytest.fixture(autouse=True, scope="module")
def _loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Load what every network needs, so that it does not count."""
    probe(open_session(open_foreign(small(tmp_path_factory.mktemp("first") / "a.onnx"))))


def small(path: Path) -> Path:
    """Write a network of a few operators of different kinds, whose weights take little of the file."""
    net = Net()
    coarse = net.add("MaxPool", net.conv("given", 1, 2), kernel_shape=[2, 2], strides=[2, 2])
    sides = net.add("Slice", net.add("Shape", "given"), net.ints(2), net.ints(4), net.ints(0))
    sizes = net.add("Concat", net.add("Slice", net.add("Shape", coarse), net.ints(0), net.ints(2)), sides, axis=0)
    again = net.add("Resize", coarse, "", "", sizes, mode="linear")
    padded = net.add("Pad", again, net.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect")
    return net.save(path, net.add("Add", net.conv(padded, 2, 1, pads=[0] * 4), "given"))


def one_line(fault: BaseException) -> None:
    assert "\n" not in str(fault)
    assert len(str(fault)) < 1500


def test_bytes_that_are_changed_cut_or_repeated_are_a_network_or_one_line(tmp_path: Path, bounded: None) -> None:
    random, original = Random(3), small(tmp_path / "whole.onnx").read_bytes()
    path, opened = tmp_path / "a.onnx", 0
    for number in range(CASES):
        changed = bytearray(original)
        for _ in range(random.randint(1, 3)):
            at, kind = random.randrange(len(changed)), random.randrange(5)
            if kind == 0:
                changed[at] = random.randrange(256)
            elif kind == 1:
                changed[at] ^= 1 << random.randrange(8)
            elif kind == 2:
                changed[at : at + 2] = (random.choice(NUMBERS) & 0xFFFF).to_bytes(2, "little")
            elif kind == 3:
                changed[at : at + random.randint(1, 16)] = random.randbytes(random.randint(0, 16))
            else:
                del changed[random.randint(1, len(changed) - 1) :]
        path.write_bytes(changed)
        started = time.perf_counter()
        try:
            model = open_foreign(path)
            probe(open_session(model))
            opened += 1
        except ModelError as fault:
            one_line(fault)
        assert time.perf_counter() - started < LONGEST_S, number
    assert 0 < opened < CASES


def changed(path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """Write a sound network with a change."""
    model = onnx.load(small(path))
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def sides_of_weights(model: onnx.ModelProto, *sides: int) -> None:
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(sides)


def attribute(model: onnx.ModelProto, kind: str, name: str, values: list[int]) -> None:
    node = next(one for one in model.graph.node if one.op_type == kind)
    for one in [one for one in node.attribute if one.name == name]:
        node.attribute.remove(one)
    node.attribute.append(helper.make_attribute(name, values))


def circle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = model.graph.output[0].name


def deep(model: onnx.ModelProto) -> None:
    graph = helper.make_graph([], "inner", [], [])
    for _ in range(60):
        node = helper.make_node("If", ["given"], ["made"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], "inner", [], []) if _ < 12 else graph
    model.graph.node.append(helper.make_node("If", ["given"], ["never"], then_branch=graph, else_branch=graph))


def many(model: onnx.ModelProto) -> None:
    model.graph.node.extend(helper.make_node("Relu", [f"a{one}"], [f"a{one + 1}"]) for one in range(20_001))


def side_of_input(model: onnx.ModelProto, value: int) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = value


HOSTILE: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "huge weights": (lambda model: sides_of_weights(model, 2, 1, 3, 2**40), "sides"),
    "other weights": (lambda model: sides_of_weights(model, 2, 1, 3, 30), "holds 18 numbers"),
    "negative weights": (lambda model: sides_of_weights(model, 2, 1, -3, -3), "sides"),
    "huge input": (lambda model: side_of_input(model, 2**40), "asks for images"),
    "negative input": (lambda model: side_of_input(model, -5), "asks for images"),
    "no input": (lambda model: side_of_input(model, 0), "hold nothing"),
    "circle": (circle, "nothing before it makes"),
    "deep": (deep, "loops or branches"),
    "many": (many, "operators and"),
    "huge pool": (lambda model: attribute(model, "MaxPool", "kernel_shape", [2**40, 2]), "window"),
    "huge stride": (lambda model: attribute(model, "MaxPool", "strides", [2**40, 2]), "strides"),
    "no stride": (lambda model: attribute(model, "MaxPool", "strides", [0, 0]), "strides"),
    "negative pads": (lambda model: attribute(model, "MaxPool", "pads", [-(2**40)] * 4), "pads"),
    "custom": (lambda model: setattr(model.graph.node[0], "domain", "com.evil"), "only those of ONNX itself"),
    "contributed": (lambda model: setattr(model.graph.node[0], "domain", "com.microsoft"), "only those of ONNX itself"),
    "random": (lambda model: setattr(model.graph.node[0], "op_type", "RandomNormalLike"), "random numbers"),
    "long name": (lambda model: setattr(model.graph.node[0], "name", "a" * 100_000), "names without end"),
    "old": (lambda model: setattr(model.opset_import[0], "version", 1), "version"),
    "to come": (lambda model: setattr(model.opset_import[0], "version", 9999), "version"),
    "no operators": (lambda model: model.graph.ClearField("node"), "no operators"),
    "functions": (
        lambda model: model.functions.append(helper.make_function("own", "F", ["a"], ["b"], [], [])),
        "functions of its own",
    ),
    "two inputs": (
        lambda model: model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1])),
        "2 inputs",
    ),
    "text": (
        lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING),
        "a.onnx",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_network_that_asks_for_too_much_is_refused_in_one_line(kind: str, tmp_path: Path, bounded: None) -> None:
    change, says = HOSTILE[kind]
    path = changed(tmp_path / "a.onnx", change)
    started = time.perf_counter()
    with pytest.raises(ModelError, match=says) as refused:
        probe(open_session(open_foreign(path)))
    one_line(refused.value)
    assert time.perf_counter() - started < LONGEST_S


def bomb(path: Path, kind: str) -> Path:
    """Write a network whose few bytes ask for gigabytes while it runs."""
    net = Net()
    if kind == "constant":
        large = net.add("ConstantOfShape", net.ints(1, 1, 60_000, 60_000))
        image = net.add("Add", "given", net.add("ReduceMean", large, axes=[2, 3]))
    elif kind == "tile":
        image = net.add("ReduceMean", net.add("Tile", "given", net.ints(1, 100_000, 1, 1)), axes=[1])
    elif kind == "resize":
        large = net.add("Resize", "given", "", net.constant([1, 1, 2000, 2000]), mode="nearest")
        image = net.add("AveragePool", large, kernel_shape=[2000, 2000], strides=[2000, 2000])
    else:  # behind an operator of which nothing is known
        unknown = net.add("Reshape", net.add("NonZero", "given"), net.ints(1, 1, 4, -1))
        large = net.add("ConstantOfShape", net.ints(1, 1, 200_000, 200_000))
        image = net.add("Add", net.add("ReduceMean", unknown), net.add("ReduceMean", large))
    return net.save(path, image)


@pytest.mark.parametrize("kind", ["constant", "tile", "resize", "unknown"])
def test_a_few_bytes_that_ask_for_gigabytes_do_not_get_them(kind: str, tmp_path: Path, bounded: None) -> None:
    with pytest.raises((ModelError, MemoryError)) as refused:
        probe(open_session(open_foreign(bomb(tmp_path / "bomb.onnx", kind))))
    one_line(refused.value)


def test_a_network_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, image = Net(), "given"
    for _ in range(60):
        image = net.conv(image, 1, 1, 31)
    session = open_session(open_foreign(net.save(tmp_path / "slow.onnx", image)))
    monkeypatch.setattr("cellxlate.model.foreign.probe.MOST_S", 0.001)
    with pytest.raises(ModelError, match=r"more than 0\.001 s for a window of 64 x 64 px"):
        probe(session)


def with_outer_weights(folder: Path, location: str, length: int = 72) -> Path:
    """Write a network whose first weights lie in another file."""

    def outside(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)

    return changed(folder / "outer.onnx", outside)


@pytest.mark.parametrize(
    "location", ["../secret", "a/../../secret", "/etc/passwd", "C:\\secret", "..\\secret", "\\\\host\\share", ""]
)
def test_weights_are_read_from_beside_a_network_alone(location: str, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "secret").write_bytes(bytes(72))
    with pytest.raises(ModelError, match="only files beside a network are read"):
        open_foreign(with_outer_weights(tmp_path / "net", location))


def test_weights_that_lie_beside_a_network_belong_to_it(tmp_path: Path) -> None:
    path = with_outer_weights(tmp_path, "w.bin")
    with pytest.raises(ModelError, match=r"its weights w\.bin cannot be read"):
        open_foreign(path)
    (tmp_path / "w.bin").write_bytes(np.ones(18, np.float32).tobytes())
    model = open_foreign(path)
    probe(open_session(model))
    (tmp_path / "w.bin").write_bytes(np.zeros(18, np.float32).tobytes())
    assert open_foreign(path).digest != model.digest
    with pytest.raises(ModelError, match="has changed"):
        open_session(model)
    (tmp_path / "w.bin").write_bytes(b"short")
    with pytest.raises(ModelError, match="cut short"):
        open_foreign(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
def test_weights_that_are_a_link_or_a_pipe_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "secret").write_bytes(bytes(72))
    path = with_outer_weights(tmp_path / "net", "w.bin")
    (tmp_path / "net" / "w.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="leads out of"):
        open_foreign(path)
    (tmp_path / "net" / "w.bin").unlink()
    os.mkfifo(tmp_path / "net" / "w.bin")
    with pytest.raises(ModelError, match="a pipe"):
        open_foreign(path)
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelError, match="no plain file"):
        open_foreign(tmp_path / "pipe.onnx")


@pytest.mark.parametrize("content", [b"", b"\0", b"not a network", b"\x80\x04pickle", bytes(1000)])
def test_what_is_no_network_is_one_line_of_the_command(
    content: bytes, tmp_path: Path, command: Any, untouched: Callable[[], None]
) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((64, 64), np.uint16))
    (tmp_path / "net.onnx").write_bytes(content)
    untouched()
    said = command.refused("enhance", tmp_path / "stack.tif", "-m", tmp_path / "net.onnx")
    assert "net.onnx" in said
    command.refused("enhance", tmp_path / "stack.tif", "-m", tmp_path / "none.onnx")


def test_a_network_writes_no_file_and_is_not_changed(tmp_path: Path, untouched: Callable[[], None]) -> None:
    path = unet(tmp_path / "net.onnx")
    untouched()
    probe(open_session(open_foreign(path)))
