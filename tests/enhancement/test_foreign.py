"""Networks that others made: tiled, their proposals are those of the whole plane; what looks at everything is named."""

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from foreign_networks import FREE, Net, unet
from torch import nn

from cellxlate.cli import main
from cellxlate.enhancement.input import ALONE
from cellxlate.enhancement.proposals.choice import choose_windows
from cellxlate.enhancement.proposals.foreign import ForeignProposal
from cellxlate.enhancement.proposals.foreign_windows import ForeignProposer
from cellxlate.enhancement.proposals.locality import PlaneSamples
from cellxlate.enhancement.proposals.source import proposal_of
from cellxlate.enhancement.proposals.windows import Geometry
from cellxlate.enhancement.tiling import Tile, bands_of, window
from cellxlate.errors import ModelError, OptionError
from cellxlate.model.attention import Floats
from cellxlate.model.foreign import session
from cellxlate.stacks.stack import Stack

pytest.importorskip("onnxruntime", reason="onnxruntime is optional")

COUNTS = np.random.default_rng(3).uniform(100, 900, (331, 405)).astype(np.float32)
STACK = Stack.from_array(COUNTS.astype(np.uint16), "YX", name="noise")


class PlainNet(nn.Module):
    """A small U-Net as others write it in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        fine = torch.relu(self.first((counts - 200) / 300))
        coarse = self.down(nn.functional.avg_pool2d(fine, 2))
        size = fine.shape[2:]
        again = nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
        made: torch.Tensor = counts + 100 * self.last(torch.cat([again, fine], 1))
        return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


@pytest.fixture(scope="module")
def by_torch(folder: Path) -> Path:
    """Return a network that torch's own exporter has written."""
    torch.manual_seed(0)
    free = {0: "batch", 2: "rows", 3: "columns"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the exporter that needs no further package
        torch.onnx.export(
            PlainNet().eval(), (torch.rand(1, 1, 32, 32),), folder / "by_torch.onnx", dynamo=False,
            input_names=["given"], output_names=["image"], dynamic_axes={"given": free, "image": free},
        )  # fmt: skip
    return folder / "by_torch.onnx"


def fitted(path: Path, stack: Stack = STACK) -> ForeignProposal:
    proposal = proposal_of(path)
    assert isinstance(proposal, ForeignProposal)
    return proposal.fitted(stack, (0,))


def at(propose: ForeignProposer, geometry: Geometry, tile: Tile, plane: Floats = COUNTS) -> Floats:
    """Return what is proposed for a tile in its window."""
    around = geometry.window(tile, plane.shape)
    made = propose(np.ascontiguousarray(window(plane, 0, plane.shape, around))[None, None])[0, 0]
    margin = (around.shape[0] - made.shape[0]) // 2
    return made[tile.slices(around.top + margin, around.left + margin)]


def tiled(propose: ForeignProposer, plane: Floats = COUNTS, side: int = 96) -> Floats:
    """Return what is proposed for a plane in tiles."""
    geometry, made = propose.geometry, np.full_like(plane, np.nan)
    side = geometry.tile_px(side)
    for band in bands_of(plane.shape, side):
        for tile, _ in geometry.tiles(np.ones(band.shape, bool), band, side, plane.shape):
            made[tile.slices()] = at(propose, geometry, tile, plane)
    return made


def whole(propose: ForeignProposer, plane: Floats = COUNTS) -> Floats:
    geometry = replace(propose.geometry, halo_px=None)
    return at(propose, geometry, Tile(0, plane.shape[0], 0, plane.shape[1]), plane)


def test_what_torch_has_exported_proposes_what_torch_computes(by_torch: Path) -> None:
    proposal = fitted(by_torch)
    assert (proposal.geometry.halo_px, proposal.geometry.stride) == (6, 2)
    torch.manual_seed(0)
    with torch.no_grad():
        expected = PlainNet().eval()(torch.from_numpy(COUNTS[None, None, :330, :404])).numpy()[0, 0]
    np.testing.assert_allclose(tiled(proposal.open((0,)), COUNTS[:330, :404]), expected, atol=0.05)


@pytest.mark.parametrize("kind", ["plain", "reflect", "sizes", "deep", "valid"])
def test_tiles_of_a_local_network_equal_the_whole_plane_to_one_count(kind: str, folder: Path) -> None:
    path = folder / f"{kind}.onnx"
    if kind == "valid":
        valid(path)
    else:
        unet(
            path,
            levels=5 if kind == "deep" else 3,
            reflect=kind == "reflect",
            grow="sizes" if kind == "sizes" else "deconv",
        )
    proposal = fitted(path)
    assert proposal.windows is not None
    assert not proposal.windows.not_local
    assert not proposal.warnings
    assert proposal.windows.locality.compared_px
    assert proposal.windows.locality.difference_counts <= 1
    propose = proposal.open((0,))
    expected = whole(propose)
    assert np.ptp(expected - COUNTS) > 20
    assert np.abs(tiled(propose) - expected).max() <= 1
    narrow = np.ascontiguousarray(COUNTS[:7, :300])
    assert np.abs(tiled(propose, narrow) - whole(propose, narrow)).max() <= 1


def valid(path: Path) -> Path:
    """Write a network without borders, whose outcome is smaller than its input."""
    net = Net(5)
    deep = net.conv("given", 1, 3, 3, pads=[0] * 4)
    deep = net.conv(net.add("MaxPool", deep, kernel_shape=[2, 2], strides=[2, 2]), 3, 3, 3, pads=[0] * 4)
    deep = net.add("ConvTranspose", deep, net.constant(net.random.uniform(-0.5, 0.5, (3, 1, 2, 2))), strides=[2, 2])
    return net.save(path, deep, made=("batch", 1, "fewer", "less"))


def test_a_window_of_one_size_alone_is_moved_over_the_plane(folder: Path) -> None:
    fixed, free = unet(folder / "fixed.onnx", shape=(1, 1, 128, 128)), unet(folder / "free.onnx")
    proposal = fitted(fixed)
    assert (proposal.geometry.fixed_px, proposal.geometry.halo_px) == (128, 29)
    assert proposal.windows is not None
    assert not proposal.windows.not_local
    assert proposal.windows.locality.against == "windows that lie otherwise"
    expected = whole(fitted(free).open((0,)))[:328, :400]  # which end at a multiple of the stride in both
    assert np.abs(tiled(proposal.open((0,)))[:328, :400] - expected)[:290, :360].max() <= 1
    small = np.ascontiguousarray(COUNTS[:60, :90])
    assert np.isfinite(tiled(proposal.open((0,)), small)).all()


def test_a_second_output_is_the_attention(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proposal = proposal_of(unet(folder / "two.onnx", two=True))
    assert isinstance(proposal, ForeignProposal)
    assert proposal.model.attention_name
    tifffile.imwrite(tmp_path / "stack.tif", STACK.read(()))
    assert main(["enhance", str(tmp_path / "stack.tif"), "-m", str(folder / "two.onnx"), "--json", "--quiet"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["kept_violations"] == 0
    propose = proposal.open((0,))
    found = propose.attention(COUNTS[None, None, :328, :400])[0, 0]
    shown = tifffile.imread(tmp_path / "stack_attention.ome.tif")[:280, :350]
    assert 0.05 < (shown == 0).mean() < 0.95
    np.testing.assert_array_equal((shown > 0)[found[:280, :350] < 0.09], False)
    np.testing.assert_array_equal((shown > 0)[found[:280, :350] > 0.11], True)
    report = json.loads((tmp_path / "stack_report.json").read_text())
    assert report["provenance"]["attention_source"]["kind"] == "proposal"


GLOBAL = {
    "InstanceNormalization": "the mean and the spread of the whole image",
    "Resize": "aligns corners",
    "GlobalAveragePool": "the mean of the whole image",
    "MatMul": "as attention does",
    "Add": "belong to places",
}


def looks_everywhere(kind: str, path: Path) -> Path:
    """Write a network whose named operator looks at the whole image, or knows its places."""
    if kind == "InstanceNormalization":
        return unet(path, norm=True)
    if kind == "Resize":
        return unet(path, grow="aligned")
    net = Net()
    image = net.conv(net.add("Mul", "given", net.constant(0.01)), 1, 3)
    if kind == "GlobalAveragePool":
        image = net.add("Mul", image, net.add("GlobalAveragePool", image))
    elif kind == "MatMul":
        tokens = net.add("Reshape", image, net.ints(0, 3, -1))
        pairs = net.add("MatMul", net.add("Transpose", tokens, perm=[0, 2, 1]), tokens)
        tokens = net.add("MatMul", tokens, net.add("Softmax", pairs, axis=-1))
        image = net.add("Reshape", tokens, net.add("Shape", image))
    else:
        rows = net.add("Range", net.constant(0.0), net.add("Cast", net.add("Gather", net.add("Shape", image), net.constant(2, np.int64)), to=1), net.constant(1.0))  # fmt: skip  # noqa: E501
        image = net.add("Add", image, net.add("Unsqueeze", rows, net.ints(1)))
    return net.save(path, net.conv(image, 3, 1))


@pytest.mark.parametrize("kind", GLOBAL)
def test_what_looks_at_the_whole_image_is_named_and_gets_whole_planes(kind: str, folder: Path) -> None:
    stack = Stack.from_array(COUNTS[:40, :48].astype(np.uint16), "YX")
    proposal = fitted(looks_everywhere(kind, folder / f"{kind}.onnx"), stack)
    assert proposal.geometry.halo_px is None
    assert GLOBAL[kind] in proposal.model.not_local
    assert kind in proposal.model.not_local
    line = proposal.warnings[-1]
    assert "looks at the whole image" in line
    assert "whole planes" in line
    assert proposal.stated["not_local"] == proposal.model.not_local


def test_where_no_plane_fits_into_memory_windows_differ_and_say_by_how_much(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = unet(folder / "norm.onnx", norm=True)
    monkeypatch.setattr("cellxlate.enhancement.proposals.choice.memory_bytes", lambda: 4_000_000)
    proposal = fitted(path)
    geometry, found = proposal.geometry, proposal.windows
    assert found is not None
    assert geometry.fixed_px is not None
    assert geometry.fixed_px % geometry.step_px == geometry.least_px % geometry.step_px
    assert 64 <= geometry.fixed_px < 331
    assert proposal.bytes_of(geometry.fixed_px**2) <= 4_000_000
    assert found.locality.difference_counts > 1
    (line,) = proposal.warnings
    assert f"windows of {geometry.fixed_px} px" in line
    assert f"{found.locality.difference_counts:.3g} counts" in line
    assert np.isfinite(tiled(proposal.open((0,)))).all()
    monkeypatch.setattr("cellxlate.enhancement.proposals.choice.memory_bytes", lambda: 1000)
    with pytest.raises(ModelError, match="more memory than there is"):
        fitted(path)


def test_where_the_stack_says_otherwise_than_the_graph_the_stack_is_right(folder: Path) -> None:
    proposal = proposal_of(unet(folder / "wide.onnx"))
    assert isinstance(proposal, ForeignProposal)
    narrow, opened = Geometry(4, 8, 16, 8), proposal.open((0,)).session
    found = choose_windows(
        "wide", lambda geometry, _: ForeignProposer(opened, geometry), PlaneSamples(STACK, [(0,)], ALONE),
        narrow, not_local="", bytes_of=proposal.bytes_of,
    )  # fmt: skip
    assert found.geometry.halo_px is None
    assert "its graph says that it looks 4 px around each pixel, but windows differ" in found.not_local


@pytest.mark.parametrize("place", [(60, 300), (250, 90)])
def test_what_differs_only_where_it_is_bright_is_found_out_there(place: tuple[int, int], folder: Path) -> None:
    net = Net()
    light = net.add("Relu", net.add("Sub", "given", net.constant(2000.0)))
    far = net.add("AveragePool", light, kernel_shape=[31, 31], strides=[1, 1], pads=[15] * 4)
    proposal = proposal_of(net.save(folder / "light.onnx", net.add("Add", far, "given")))
    assert isinstance(proposal, ForeignProposal)
    assert proposal.geometry.halo_px == 15
    counts, opened = COUNTS.astype(np.uint16), proposal.open((0,)).session
    row, column = place
    counts[row : row + 12, column : column + 12] = 9000
    for halo_px in (15, 4):
        found = choose_windows(
            "light", lambda geometry, _: ForeignProposer(opened, geometry),
            PlaneSamples(Stack.from_array(counts, "YX"), [(0,)]), Geometry(halo_px), not_local="",
            bytes_of=proposal.bytes_of,
        )  # fmt: skip
        assert bool(found.not_local) == (halo_px < 15)


def test_windows_of_one_size_that_hold_much_are_compared_too(folder: Path) -> None:
    net = Net()
    path = net.save(folder / "large.onnx", net.conv("given", 1, 1), shape=(1, 1, 400, 400), made=(1, 1, 400, 400))
    proposal = fitted(path, Stack.from_array(np.tile(COUNTS, (2, 2)).astype(np.uint16), "YX"))
    assert proposal.windows is not None
    assert proposal.windows.locality.compared_px
    assert not proposal.windows.not_local


def test_memory_that_ends_makes_windows_smaller_and_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    propose = fitted(unet(folder / "memory.onnx")).open((0,))
    expected, asked = tiled(propose), []

    def scarce(pixels: int, bytes_per_px: float) -> None:
        asked.append(pixels)
        if pixels > 120 * 120:
            raise MemoryError

    monkeypatch.setattr("cellxlate.enhancement.proposals.foreign_windows.ask_for_memory", scarce)
    assert np.abs(tiled(propose) - expected).max() <= 1
    assert max(asked) > 120 * 120
    monkeypatch.setattr("cellxlate.enhancement.proposals.foreign_windows.ask_for_memory", no_memory)
    with pytest.raises(MemoryError, match="close other programs"):
        tiled(propose)


def no_memory(pixels: int, bytes_per_px: float) -> None:
    raise MemoryError


def test_a_network_of_other_shapes_is_refused(folder: Path) -> None:
    net = Net()
    larger = net.add("Resize", net.conv("given", 1, 1), "", net.constant([1, 1, 2, 2]), mode="nearest")
    net.save(folder / "larger.onnx", larger, made=("batch", 1, "more", "many"))
    with pytest.raises(ModelError, match="makes an image of 512 px of one of 256 px"):
        proposal_of(folder / "larger.onnx")
    classes = Net()
    pooled = classes.add("Flatten", classes.add("GlobalAveragePool", classes.conv("given", 1, 5)))
    classes.save(folder / "classes.onnx", pooled, made=("batch", 5))
    with pytest.raises(ModelError, match="makes an image of 1 px of one of 256 px"):
        proposal_of(folder / "classes.onnx")


def test_numbers_that_are_none_are_refused(folder: Path) -> None:
    net = Net()
    net.save(folder / "nan.onnx", net.add("Sqrt", net.add("Neg", "given")), shape=FREE)
    with pytest.raises(ModelError, match="no numbers"):
        fitted(folder / "nan.onnx")


def test_a_network_is_checked_without_a_stack(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = unet(folder / "checked.onnx", two=True)
    assert main(["models", "--check", str(path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["local"]
    assert answer["reach"]["Y"] == {
        "halo_px": 29, "stride": 8, "least_px": 16, "step_px": 8, "fixed_px": None, "margin_px": 0,
    }  # fmt: skip
    assert answer["attention_output"]
    assert answer["operators"]["MaxPool"] == 3
    assert answer["seconds_per_megapixel"] > 0
    assert answer["probe_px"] == [256, 256]
    assert main(["models", "--check", str(unet(folder / "check_norm.onnx", norm=True, shape=(1, 1, 64, 64)))]) == 0
    printed = capsys.readouterr().out
    assert "at the whole image: InstanceNormalization" in printed
    assert "windows of 64 px and no other" in printed
    assert max(map(len, printed.splitlines())) <= 100


@pytest.mark.parametrize("given", ["nope.onnx", "nope", "cells", "tests"])
def test_what_cannot_be_checked_is_one_line(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--check", given]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1


def test_without_the_package_one_line_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = unet(folder / "missing.onnx")
    model = proposal_of(path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(OptionError, match=r'need the packages onnx and onnxruntime; pip install "cellxlate\[onnx\]"'):
        proposal_of(path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    session.runtime.cache_clear()
    with pytest.raises(OptionError, match=r'need the packages onnx and onnxruntime; pip install "cellxlate\[onnx\]"'):
        model.open((0,))
    session.runtime.cache_clear()


def test_a_network_runs_on_a_graphics_card_where_there_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Runtime:
        def get_available_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    assert session.device_of("cpu") == "cpu"
    assert session.device_of("auto") == "cpu"
    monkeypatch.setattr(session, "runtime", Runtime)
    monkeypatch.setattr(session, "choose_kind", lambda asked: "cuda")
    assert session.device_of("auto") == session.device_of("cuda") == "cuda"
    monkeypatch.setattr(session, "choose_kind", lambda asked: "mps")
    assert session.device_of("auto") == "cpu"
    monkeypatch.undo()
    with pytest.raises(OptionError, match="does not run on mps here"):
        session.open_session(proposal_of(unet(folder / "mps.onnx")).model, device="mps")


def test_where_the_graph_does_not_tell_sizes_are_tried_and_planes_are_whole(folder: Path) -> None:
    net = Net()
    coarse = net.add("MaxPool", net.conv("given", 1, 1), kernel_shape=[4, 4], strides=[4, 4])
    again = net.add("Resize", net.add("Trilu", coarse), "", net.constant([1, 1, 4, 4]), mode="nearest")
    stack = Stack.from_array(COUNTS[:90, :101].astype(np.uint16), "YX")
    proposal = fitted(net.save(folder / "unknown.onnx", net.add("Add", again, "given")), stack)
    geometry = proposal.geometry
    assert (geometry.halo_px, geometry.least_px, geometry.step_px) == (None, 4, 4)
    assert geometry.window(Tile(0, 90, 0, 101), (90, 101)) == Tile(0, 92, 0, 104)
    (line,) = proposal.warnings
    assert "not known how far it looks, as Trilu" in line


def test_channels_share_one_open_network(folder: Path) -> None:
    path = unet(folder / "shared.onnx")
    proposal = proposal_of(path)
    one, other = proposal.open((0,)), proposal.open((1,))
    assert one.session.session is other.session.session
    changed = unet(path, levels=2)
    with pytest.raises(ModelError, match="has changed"):
        proposal.open((0,))
    assert proposal_of(changed).open((0,)).session.session is not one.session.session
