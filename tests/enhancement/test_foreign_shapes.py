"""Networks whose arrays are unlike others: of batches, of one size, of sides and names that are refused or cleaned."""

from pathlib import Path

import numpy as np
import pytest
from foreign_networks import FREE, Net, Shape, unet

from cellxlate.cli import main
from cellxlate.enhancement.proposals.foreign import ForeignProposal
from cellxlate.enhancement.proposals.source import proposal_of
from cellxlate.errors import ModelError
from cellxlate.model.foreign.limits import read_network
from cellxlate.model.foreign.opened import foreign_of_network
from cellxlate.model.foreign.session import ForeignSession
from cellxlate.stacks.stack import Stack

pytest.importorskip("onnxruntime", reason="onnxruntime is optional")

COUNTS = np.random.default_rng(3).uniform(100, 900, (97, 131)).astype(np.uint16)


def fitted(path: Path, counts: np.ndarray = COUNTS) -> ForeignProposal:
    proposal = proposal_of(path)
    assert isinstance(proposal, ForeignProposal)
    return proposal.fitted(Stack.from_array(counts, "YX"), (0,))


def test_a_network_that_compares_the_windows_of_a_batch_gets_them_one_by_one(tmp_path: Path) -> None:
    net = Net()
    mean = net.add("ReduceMean", "given", axes=[0], keepdims=1)
    propose = fitted(net.save(tmp_path / "batch.onnx", net.add("Sub", "given", mean))).open((0,))
    windows = np.stack([COUNTS[:32, :32], COUNTS[32:64, :32]]).astype(np.float32)[:, None]
    assert np.array_equal(propose(windows), np.zeros_like(windows))


def test_an_outcome_without_channels_is_one_image_for_each_window(tmp_path: Path) -> None:
    net = Net()
    flat = net.add("Squeeze", net.add("Mul", "given", net.constant(0.5)), net.ints(1))
    propose = fitted(net.save(tmp_path / "flat.onnx", flat, made=("batch", "rows", "columns"))).open((0,))
    windows = np.stack([COUNTS[:32, :32], COUNTS[32:64, :32]]).astype(np.float32)[:, None]
    np.testing.assert_allclose(propose(windows), windows / 2)


def test_what_looks_everywhere_and_takes_one_size_gets_windows_of_it(tmp_path: Path) -> None:
    proposal = fitted(unet(tmp_path / "norm.onnx", norm=True, shape=(1, 1, 64, 64)))
    assert proposal.geometry.fixed_px == 64
    assert proposal.geometry.halo_px == 16
    assert "It was run on windows of 64 px" in proposal.warnings[-1]


def test_one_size_that_leaves_nothing_is_said_to_be_too_small(tmp_path: Path) -> None:
    net = Net()
    path = net.save(tmp_path / "small.onnx", net.conv("given", 1, 1, 17), shape=(1, 1, 16, 16))
    with pytest.raises(ModelError, match=r"windows of 16 px and no other, too small .*looks 8 px around each pixel"):
        fitted(path)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((4, 1, "rows", "columns"), "takes 4 images at once"),
        ((1, 1, 48, 96), "takes images of 48 x 96 px, expected squares"),
        ((1, 1, 64, "columns"), "takes images of 64 x any px, expected squares"),
        ((1, 3, "rows", "columns"), "makes 1 channel of 3"),
        ((1, 1, 2**19, 2**19), "takes windows of 524288 x 524288 px and no other, for which there is not enough"),
    ],
)
def test_a_network_that_cannot_propose_is_refused_when_it_is_checked(
    shape: Shape, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = Net()
    image = net.conv("given", int(shape[1] or 1), 1)
    path = net.save(tmp_path / "odd.onnx", image, shape=shape, made=(shape[0], 1, *shape[2:]))
    assert main(["models", "--check", str(path)]) == 2
    found = capsys.readouterr()
    assert not found.out
    assert said in found.err
    assert found.err.count("\n") == 1


def test_names_of_operators_are_one_line_without_control_characters(tmp_path: Path) -> None:
    net = Net()
    image = net.add("ReduceMean", "given", axes=[2, 3], keepdims=1, name="\x1b[31mred\nwarning  all is well")
    proposal = proposal_of(net.save(tmp_path / "names.onnx", net.add("Sub", "given", image), shape=FREE))
    assert isinstance(proposal, ForeignProposal)
    assert proposal.model.not_local.isprintable()


def test_axes_that_the_graph_cannot_have_are_one_line(tmp_path: Path) -> None:
    net = Net()
    pooled = net.add("MaxPool", net.conv("given", 1, 1), kernel_shape=[2, 2], strides=[2, 2])
    grown = net.add("Resize", pooled, "", net.constant([1, 1, 2, 2]), mode="nearest")
    data, network = read_network(net.save(tmp_path / "pooled.onnx", grown))
    with pytest.raises(ModelError, match="does not fit its own sizes"):
        foreign_of_network(data, network, "pooled", input_axes="byxc", output_axes="byxc")


def test_memory_that_ends_on_the_smallest_window_is_said_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ForeignSession, "__call__", ended)
    assert main(["models", "--check", str(unet(tmp_path / "large.onnx"))]) == 2
    assert "large.onnx takes more memory than there is for a window of 64 x 64 px" in capsys.readouterr().err


def test_what_looks_at_all_planes_and_takes_fewer_is_refused(tmp_path: Path) -> None:
    net = Net()
    mean = net.add("ReduceMean", "given", axes=[2, 3, 4], keepdims=1)
    path = net.save(tmp_path / "deep.onnx", net.add("Sub", "given", mean), shape=(1, 1, 4, 64, 64))
    proposal = proposal_of(path)
    assert proposal is not None
    with pytest.raises(ModelError, match="looks at all planes and takes 4 together, the stack has 5"):
        proposal.fitted(Stack.from_array(np.stack([COUNTS] * 5), "ZYX"), (0,))
    assert "windows of 64 px" in proposal.fitted(Stack.from_array(np.stack([COUNTS] * 4), "ZYX"), (0,)).warnings[-1]
