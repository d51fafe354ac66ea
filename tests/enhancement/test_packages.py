"""Packages of the BioImage Model Zoo propose as they say: processing, statistics of the stack, counts in the end."""

import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import torch
from scipy import ndimage
from torch import nn
from zoo_packages import ChannelsLast, Steps, described, onnx_of, plain_network, write_package

import cellxlate
from cellxlate.cli import main
from cellxlate.enhancement.proposals import depth
from cellxlate.enhancement.proposals.source import Proposal, proposal_of
from cellxlate.enhancement.proposals.statistics import whole_proposal
from cellxlate.errors import CellxlateError
from cellxlate.model.export.bioimage import export_package
from cellxlate.model.foreign.zoo.processing import processed
from cellxlate.model.foreign.zoo.stated import read_description
from cellxlate.stacks.stack import Stack

Array = npt.NDArray[Any]

PLANES = (0, 1, 0, 0)
PERCENTILES = {"min_percentile": 2.0, "max_percentile": 99.8}


def smooth(shape: Sequence[int], seed: int = 3) -> npt.NDArray[np.uint16]:
    """Return counts without pixels that stand out, which networks never see."""
    noise = np.random.default_rng(seed).gamma(2, 200, shape)
    wide = (0,) * (len(shape) - 2) + (2, 2)
    return (1.5 * ndimage.gaussian_filter(noise, wide)).astype(np.uint16)


@pytest.fixture(scope="module")
def weights() -> bytes:
    return onnx_of(plain_network(), PLANES)


@pytest.fixture(scope="module")
def plane() -> npt.NDArray[np.uint16]:
    return smooth((96, 112))


def network_of(images: Array, network: nn.Module | None = None) -> npt.NDArray[np.float64]:
    """Return what the network itself makes of an image (Y, X), or of (C, ...)."""
    flat = images[None, None] if images.ndim == 2 else images[None]
    with torch.no_grad():
        made = (network or plain_network())(torch.from_numpy(flat.astype(np.float32))).numpy()
    return np.asarray(made[0, 0] if images.ndim == 2 else made[0], np.float64)


def fitted(package: Path, stack: Stack, channels: Sequence[int] = (0,)) -> Proposal:
    proposal = proposal_of(package)
    assert proposal is not None
    return proposal.fitted(stack, channels)


def proposed(package: Path, *planes: Array) -> npt.NDArray[np.float32]:
    """Return what a package proposes for the first of some planes, fitted to the stack of all of them."""
    proposer = fitted(package, Stack.from_array(np.stack(planes), "TYX", name="stack")).open((0,))
    return whole_proposal(planes[0][None].astype(np.float32), proposer)[0]


def by_percentiles(counts: Array) -> Array:
    low, high = np.percentile(counts, [2, 99.8])
    return np.asarray(network_of((counts - low) / (high - low + 1e-6)) * (high - low + 1e-6) + low)


def by_mean(counts: Array) -> Array:
    mean, std = counts.mean(), counts.std() + 1e-6
    return np.asarray(network_of((counts - mean) / std) * std + mean)


def clipped(counts: Array) -> Array:
    low, high = counts.min(), counts.max()
    unit = np.clip((counts.astype(float) - low) / (high - low + 1e-6), 0.1, 0.9)
    return np.asarray(network_of(unit) * (high - low + 1e-6) + low)


def in_8_bits(counts: Array) -> Array:
    low, high = np.percentile(counts, [2, 99.8])
    scaled = np.clip((counts - low) / (high - low + 1e-6) * 255, 0, 255).astype(np.uint8)
    return np.asarray(network_of(scaled) / 255 * (high - low + 1e-6) + low)


def matched(counts: Array) -> Array:
    made = network_of((counts - counts.mean()) / (counts.std() + 1e-6))
    return np.asarray((made - made.mean()) / (made.std() + 1e-6) * (counts.std() + 1e-6) + counts.mean())


def squashed(counts: Array) -> Array:
    return np.asarray(1000 / (1 + np.exp(-network_of(counts * 0.001 - 0.3))) + 20)


def trimmed(counts: Array) -> Array:
    low, high = np.quantile(counts, [0.01, 0.99], method="inverted_cdf")
    return network_of(np.clip(counts, low, high))


SAMPLE, YX = {"mode": "per_sample", "axes": "yx"}, {"axes": ["y", "x"]}
FIXED = {"mean": 400.0, "std": 280.0}
PROCESSING: dict[str, tuple[str, Steps, Steps, Callable[[Array], Array]]] = {
    "0.4 percentiles": ("0.4", [("scale_range", PERCENTILES | SAMPLE)], [], by_percentiles),
    "0.5 percentiles": ("0.5", [("scale_range", PERCENTILES | YX)], [], by_percentiles),
    "0.5 percentiles of a data set": (
        "0.5", [("scale_range", PERCENTILES | {"axes": ["batch", "y", "x"]})], [], by_percentiles,
    ),
    "0.4 mean": ("0.4", [("zero_mean_unit_variance", SAMPLE)], [], by_mean),
    "0.5 mean": ("0.5", [("zero_mean_unit_variance", {})], [], by_mean),
    "0.4 fixed": (
        "0.4", [("zero_mean_unit_variance", FIXED | {"mode": "fixed", "axes": "yx"})],
        [("scale_linear", {"gain": 280.0, "offset": 400.0, "axes": "yx"})],
        lambda counts: network_of((counts - 400.0) / 280) * 280 + 400,
    ),
    "0.5 fixed": (
        "0.5", [("fixed_zero_mean_unit_variance", FIXED)], [("scale_linear", {"gain": 280.0, "offset": 400.0})],
        lambda counts: network_of((counts - 400.0) / 280) * 280 + 400,
    ),
    "0.5 clip": ("0.5", [("scale_range", YX), ("clip", {"min": 0.1, "max": 0.9})], [], clipped),
    "0.5 clip at percentiles": (
        "0.5", [("clip", {"min_percentile": 1.0, "max_percentile": 99.0} | YX)], [], trimmed,
    ),
    "0.5 dtype": (
        "0.5", [("scale_range", PERCENTILES | YX), ("scale_linear", {"gain": 255.0}), ("clip", {"min": 0, "max": 255}),
                ("ensure_dtype", {"dtype": "uint8"}), ("ensure_dtype", {"dtype": "float32"})], [], in_8_bits,
    ),
    "0.5 matched": (
        "0.5", [("zero_mean_unit_variance", YX)], [("scale_mean_variance", {"reference_tensor": "raw"} | YX)], matched,
    ),
    "0.5 sigmoid": (
        "0.5", [("scale_linear", {"gain": 0.001, "offset": -0.3})],
        [("sigmoid", {}), ("scale_linear", {"gain": 1000.0, "offset": 20.0})], squashed,
    ),
    "counts": ("0.5", [], [], network_of),
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSING)
def test_processing_is_what_the_format_defines(
    name: str, weights: bytes, plane: npt.NDArray[np.uint16], tmp_path: Path
) -> None:
    version, before, after, expected = PROCESSING[name]
    package = write_package(tmp_path / "package", weights, described(weights, version, before=before, after=after))
    np.testing.assert_allclose(proposed(package, plane), expected(plane), atol=0.5)


@pytest.mark.parametrize("name", [name for name in PROCESSING if name not in ("0.5 matched", "0.4 fixed")])
def test_a_whole_plane_is_as_the_library_of_the_zoo_makes_it(
    name: str, weights: bytes, plane: npt.NDArray[np.uint16], tmp_path: Path
) -> None:
    """Written by bioimageio.spec, run by bioimageio.core, which undoes no normalisation.

    It does not run the two that are left out, since it looks for statistics of the output before there is one, and
    knows no axes of `scale_linear` in format 0.4.
    """
    core = pytest.importorskip("bioimageio.core", reason="bioimageio.core is not installed: nothing to compare with")
    spec = pytest.importorskip("bioimageio.spec")
    version, before, after, _ = PROCESSING[name]
    more: dict[str, Any] = {}
    if version == "0.4":
        for one in ("given.npy", "made.npy"):
            np.save(tmp_path / one, np.zeros((1, 1, 96, 112), np.float32))
        (tmp_path / "notes.md").write_text("# Validation\n")
        more = {"test_inputs": ["given.npy"], "test_outputs": ["made.npy"], "documentation": "notes.md"}
        more["timestamp"] = "2024-01-01T00:00:00"
    write_package(tmp_path, weights, described(weights, version, before=before, after=after, **more))
    written = spec.load_description(tmp_path / "rdf.yaml")
    package = Path(spec.save_bioimageio_package(written, output_path=tmp_path / "package.zip"))
    sample = core.predict(model=written, inputs=plane[None, None].astype(np.float32))
    (theirs,) = (one.data.values for one in sample.members.values())
    proposer = fitted(package, Stack.from_array(plane, "YX", name="stack")).open((0,))
    own = whole_proposal(plane[None].astype(np.float32), proposer)[0]
    undone = processed(proposer.after[len(after) :], theirs.astype(np.float32))  # type: ignore[attr-defined]
    np.testing.assert_allclose(own, undone[0, 0], atol=1)


def test_statistics_are_those_of_the_whole_stack(weights: bytes, plane: npt.NDArray[np.uint16], tmp_path: Path) -> None:
    package = write_package(tmp_path / "package", weights, described(weights, before=[("zero_mean_unit_variance", YX)]))
    other = smooth(plane.shape, seed=7) * 3
    both = np.stack([plane, other]).astype(np.float64)
    mean, std = both.mean(), both.std() + 1e-6
    np.testing.assert_allclose(proposed(package, plane, other), network_of((plane - mean) / std) * std + mean, atol=0.5)


def test_statistics_of_a_large_stack_are_those_of_windows_of_it(
    weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellxlate.enhancement.proposals.statistics.MOST_PX", 2**12)
    package = write_package(tmp_path / "p", weights, described(weights, before=[("zero_mean_unit_variance", YX)]))
    large = smooth((4, 256, 256))
    stated = fitted(package, Stack.from_array(large, "TYX", name="stack")).stated
    (found,) = stated["statistics"]
    assert found["measured_share"] == pytest.approx(2**12 / large.size, rel=0.1)
    assert found["found"]["mean of the input"] == [pytest.approx(large.mean(), rel=0.1)]


def test_proposals_that_are_no_counts_of_the_stack_are_named(
    weights: bytes, plane: npt.NDArray[np.uint16], tmp_path: Path
) -> None:
    """Made for 8 bits by whoever described it, and so its outcome is taken for counts."""
    unit = [("scale_range", YX)]
    for after, said in (([("scale_linear", {"gain": 255.0})], True), ([], False)):
        package = write_package(tmp_path / f"{said}", weights, described(weights, before=unit, after=after))
        proposal = fitted(package, Stack.from_array(plane, "YX", name="stack"))
        assert [("it may be made for counts of another kind" in one) for one in proposal.warnings] == [True] * said


@pytest.mark.parametrize("file", ["", "rdf.yaml"])
def test_a_package_enhances_a_stack_and_is_named_in_the_report(
    file: str, weights: bytes, plane: npt.NDArray[np.uint16], tmp_path: Path
) -> None:
    package = write_package(tmp_path / "p", weights, described(weights, before=[("scale_range", PERCENTILES | YX)]))
    result = cellxlate.enhance(plane, package / file, attention_from=np.ones(plane.shape, np.uint8))
    assert np.abs(result.image - np.rint(by_percentiles(plane))).max() <= 1
    assert result.report.model_name == "a model of others"
    assert result.report.model_licence == "CC-BY-4.0"


def test_an_archive_is_a_package_and_so_is_a_folder_inside_it(
    weights: bytes, plane: npt.NDArray[np.uint16], tmp_path: Path
) -> None:
    flat = write_package(tmp_path / "flat.zip", weights, described(weights), name="bioimageio.yaml")
    nested = tmp_path / "nested.zip"
    with zipfile.ZipFile(flat) as archive, zipfile.ZipFile(nested, "w") as other:
        for name in archive.namelist():
            other.writestr(f"package/{name}", archive.read(name))
    for package in (flat, nested):
        np.testing.assert_allclose(proposed(package, plane), network_of(plane), atol=0.5)


def test_channels_may_lie_last(plane: npt.NDArray[np.uint16], tmp_path: Path) -> None:
    weights = onnx_of(ChannelsLast(plain_network()), (0, 0, 0, 1))
    for version in ("0.4", "0.5"):
        package = write_package(tmp_path / version, weights, described(weights, version, axes="byxc"))
        np.testing.assert_allclose(proposed(package, plane), network_of(plane), atol=0.5)


def test_sizes_are_those_that_the_package_allows(tmp_path: Path, weights: bytes) -> None:
    package = write_package(tmp_path / "p", weights, described(weights, sides={"y": (48, 16), "x": (32, 16)}))
    geometry = fitted(package, Stack.from_array(smooth((70, 80)), "YX", name="stack")).open((0,)).geometry
    assert (geometry.least_px, geometry.step_px) == (48, 16)
    fixed = write_package(tmp_path / "f", weights, described(weights, sides={"y": 64, "x": 64}))
    assert fitted(fixed, Stack.from_array(smooth((70, 80)), "YX", name="stack")).open((0,)).geometry.fixed_px == 64


@pytest.fixture(scope="module")
def volume() -> npt.NDArray[np.uint16]:
    return smooth((21, 40, 48))


@pytest.fixture(scope="module")
def volume_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = onnx_of(plain_network(is_volume=True), (0, 1, 0, 0, 0))
    steps = [("zero_mean_unit_variance", {"axes": ["z", "y", "x"]})]
    description = described(weights, axes="bczyx", before=steps, sides={"z": (1, 1)})
    return write_package(tmp_path_factory.mktemp("volume") / "p", weights, description)


@pytest.mark.parametrize("room", [1, 10**9], ids=["plane by plane", "in two blocks"])
def test_a_volume_in_blocks_is_the_whole_volume(
    room: int, volume: npt.NDArray[np.uint16], volume_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depth, "DEPTH_BYTES", room)
    mean, std = volume.mean(), volume.std() + 1e-6
    whole = network_of(((volume - mean) / std)[None], plain_network(is_volume=True))[0] * std + mean
    result = cellxlate.enhance(
        Stack.from_array(volume, "ZYX", name="v"), volume_package, attention_from=np.ones_like(volume), tile_px=24
    )
    assert np.abs(result.image - np.rint(whole)).max() <= 1


def test_a_volume_keeps_what_attention_does_not_select_and_notes_the_planes_beside(
    volume: npt.NDArray[np.uint16], volume_package: Path
) -> None:
    inside = np.zeros_like(volume)
    inside[9, 10:20, 10:20] = 1
    result = cellxlate.enhance(Stack.from_array(volume, "ZYX", name="v"), volume_package, attention_from=inside)
    assert np.array_equal(result.attention > 0, inside > 0)
    assert np.array_equal(result.image[inside == 0], volume[inside == 0])
    assert (result.image[inside > 0] != volume[inside > 0]).mean() > 0.5


def test_a_volume_that_was_interrupted_goes_on(
    volume: npt.NDArray[np.uint16], volume_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depth, "DEPTH_BYTES", 1)
    tifffile.imwrite(tmp_path / "v.tif", volume, photometric="minisblack")
    run = partial(cellxlate.enhance_file, tmp_path / "v.tif", volume_package, axes="ZYX", attention_from="saliency")

    def stop(news: Any) -> None:
        if news.done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(output=tmp_path / "a.ome.tif", progress=stop)
    report = run(output=tmp_path / "a.ome.tif", resume=True)
    run(output=tmp_path / "b.ome.tif")
    assert report.tally.total.kept_violations == 0
    assert np.array_equal(tifffile.imread(tmp_path / "a.ome.tif"), tifffile.imread(tmp_path / "b.ome.tif"))


def test_each_plane_of_a_volume_has_the_attention_of_itself(
    volume: npt.NDArray[np.uint16], volume_package: Path
) -> None:
    stack = Stack.from_array(volume, "ZYX", name="v")
    whole = cellxlate.enhance(stack, volume_package).attention
    alone = cellxlate.enhance(stack, lambda plane: plane, halo_px=0).attention
    assert whole.any()
    assert np.array_equal(whole, alone)


@pytest.mark.parametrize("gate", [{}, {"attention_channel": 1}, {"attention_from": "saliency"}], ids=str)
def test_two_channels_are_given_together(gate: Mapping[str, Any], tmp_path: Path) -> None:
    weights = onnx_of(plain_network(2), (0, 2, 0, 0))
    description = described(weights, channels=2, before=[("scale_range", {"axes": ["y", "x"]})])
    package = write_package(tmp_path / "p", weights, description)
    stack = smooth((2, 64, 80)).astype(np.float32)
    stack[:, 24:40, 24:40] += 3000
    low, high = stack.min(axis=(1, 2), keepdims=True), stack.max(axis=(1, 2), keepdims=True)
    expected = network_of((stack - low) / (high - low + 1e-6), plain_network(2)) * (high - low + 1e-6) + low
    result = cellxlate.enhance(Stack.from_array(stack, "CYX", name="s"), package, threshold=0.0, **gate)
    assert result.attention.any()
    full = result.attention == 255
    assert full.any()
    np.testing.assert_allclose(result.image[full], expected[full], atol=1.5)


def test_a_volume_of_two_channels_is_given_together(tmp_path: Path) -> None:
    network = plain_network(2, is_volume=True)
    weights = onnx_of(network, (0, 2, 0, 0, 0))
    description = described(weights, channels=2, axes="bczyx", sides={"z": (1, 1)})
    package = write_package(tmp_path / "p", weights, description)
    stack = smooth((2, 9, 32, 32))
    result = cellxlate.enhance(Stack.from_array(stack, "CZYX", name="s"), package, attention_from=np.ones_like(stack))
    assert np.abs(result.image - np.rint(network_of(stack, network))).max() <= 1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"before": [("softmax", {})]}, "'softmax', a processing that is not done here"),
        ({"before": [("clip", {"low": 1})]}, "has 'low', expected"),
        ({"before": [("scale_range", {"axes": ["x"]})]}, "measures each row by itself"),
        ({"before": [("clip", {"min": 3, "max": 1})]}, "has min 3, expected no more than max, which is 1"),
        ({"before": [("binarize", {"threshold": 3.0})]}, "what nothing brings back"),
        ({"after": [("custom", {})]}, "'custom', a processing that is not done here"),
        ({"weights": {"pytorch_state_dict": {"source": "w.pt"}}}, "only onnx is run here"),
        ({"weights": {"torchscript": {"source": "w.pt"}}}, "torchscript can run any program"),
        ({"weights": {"onnx": {"source": "https://example.org/m.onnx"}}}, "nothing is fetched"),
        ({"weights": {"onnx": {"source": "../model.onnx"}}}, "expected a file inside the package"),
        ({"weights": {"onnx": {"source": "other.onnx"}}}, "has no other.onnx"),
        ({"weights": {"onnx": {"source": "model.onnx", "sha256": "0" * 64}}}, "is not the file that the package"),
        ({"format_version": "0.3.6"}, "has the format 0.3.6, expected 0.4 or 0.5"),
        ({"type": "dataset"}, "describes a dataset, expected a model"),
        ({"inputs": []}, "takes 0 inputs"),
        ({"channels": 3}, "its description says 3"),
        ({"dtype": "uint8"}, "the model is made for uint8, which ends at 255"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_run_is_refused_in_one_line(
    change: Mapping[str, Any], line: str, weights: bytes, plane: npt.NDArray[np.uint16], tmp_path: Path
) -> None:
    package = write_package(tmp_path / "package", weights, described(weights, **change))
    with pytest.raises(CellxlateError) as refused:
        proposed(package, plane)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_volumes_are_refused_where_there_is_no_depth(volume_package: Path) -> None:
    with pytest.raises(CellxlateError, match=r"takes volumes, and stack has no depth"):
        proposed(volume_package, smooth((40, 40)))


def test_several_inputs_are_refused_by_name(weights: bytes, tmp_path: Path) -> None:
    description = described(weights)
    description["inputs"] = [description["inputs"][0] | {"id": one} for one in ("raw", "mask")]
    with pytest.raises(CellxlateError, match=r"takes 2 inputs \(raw, mask\), expected one image"):
        proposal_of(write_package(tmp_path / "p", weights, description))


@pytest.fixture(scope="module")
def program() -> bytes:
    stored = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(plain_network()), stored)
    return stored.getvalue()


@pytest.mark.parametrize("name", ["package", "package.zip"])
def test_torchscript_runs_where_it_is_asked_for(
    name: str, program: bytes, plane: npt.NDArray[np.uint16], tmp_path: Path
) -> None:
    weights = {"torchscript": {"source": "model.onnx", "sha256": hashlib.sha256(program).hexdigest()}}
    description = described(program, before=[("scale_range", PERCENTILES | YX)], weights=weights)
    package = write_package(tmp_path / name, program, description)
    with pytest.raises(CellxlateError, match="torchscript can run any program of its own"):
        proposal_of(package)
    proposal = cellxlate.load_foreign(package, torchscript=True)
    result = cellxlate.enhance(plane, proposal, attention_from=np.ones(plane.shape, np.uint8))
    assert np.abs(result.image - np.rint(by_percentiles(plane))).max() <= 1
    assert f"{name} --run-torchscript" in result.report.command


def test_a_package_of_ours_without_its_card_is_one_of_others(tiny_model: Path, tmp_path: Path) -> None:
    export_package(cellxlate.load_model(tiny_model), tmp_path / "model.zip", authors=["A"], licence="MIT")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive, zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        for name in archive.namelist():
            if name != "card.json":
                other.writestr(name, archive.read(name))
    model = cellxlate.load_foreign(tmp_path / "other.zip").model
    assert (model.output_name, model.attention_name) == ("enhanced", "attention")
    assert model.to_counts == "by undoing the normalisation of the input"
    counts = smooth((72, 80))
    counts[20:40, 20:40] += 900
    result = cellxlate.enhance(counts, tmp_path / "other.zip")
    assert result.report.provenance["attention_source"]["kind"] == "proposal"


def test_a_package_without_a_name_is_called_like_its_folder(weights: bytes, tmp_path: Path) -> None:
    nameless = {**described(weights), "name": None, "format_version": 0.5}  # as a number, as some write it
    proposal = proposal_of(write_package(tmp_path / "nameless", weights, nameless))
    assert proposal is not None
    assert proposal.name == "nameless"


@pytest.mark.parametrize("command", [["info"], ["models", "--check"]])
def test_the_command_line_tells_what_a_package_is(
    command: list[str], weights: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = write_package(tmp_path / "p.zip", weights, described(weights, before=[("scale_range", YX)]))
    assert main([*command, str(package)]) == 0
    said = capsys.readouterr().out
    assert "a model of others" in said
    assert "CC-BY-4.0" in said
    assert "looks          3 px around each pixel" in said


def test_numbers_are_those_of_either_yaml() -> None:
    stated = read_description(b"a: 1e-06\nb: 1.0e-6\nc: [1E3, -2]\nd: 1x\n", "rdf.yaml")
    assert (stated["a"].number(), stated["b"].number(), stated["c"].numbers()) == (1e-6, 1e-6, (1000.0, -2.0))
    with pytest.raises(CellxlateError, match=r"rdf\.yaml: d is '1x', expected a number"):
        stated["d"].number()


def test_what_is_no_foreign_model_is_not_loaded_as_one(tiny_model: Path, tmp_path: Path) -> None:
    for path in (tiny_model, tmp_path / "nothing.zip"):
        with pytest.raises(CellxlateError, match="is no ONNX file and no package of the BioImage Model Zoo"):
            cellxlate.load_foreign(path)


def test_the_command_line_runs_torchscript_where_it_is_asked_for(
    program: bytes, plane: npt.NDArray[np.uint16], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = write_package(
        tmp_path / "p", program, described(program, weights={"torchscript": {"source": "model.onnx"}})
    )
    tifffile.imwrite(tmp_path / "stack.tif", plane)
    command = ["enhance", str(tmp_path / "stack.tif"), "-m", str(package), "--attention-from", "saliency", "--quiet"]
    assert main(command) == 2
    assert "give --run-torchscript where you trust them" in capsys.readouterr().err
    assert main([*command, "--run-torchscript"]) == 0


@pytest.mark.parametrize("place", ["model.zip", "folder", "folder/rdf.yaml"])
def test_a_package_of_ours_is_a_model_of_ours(place: str, tiny_model: Path, tmp_path: Path) -> None:
    bundle = cellxlate.load_model(tiny_model)
    export_package(bundle, tmp_path / "model.zip", authors=["A"], licence="MIT")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        archive.extractall(tmp_path / "folder")
    assert proposal_of(tmp_path / place) is None
    assert cellxlate.load_model(tmp_path / place).digest == bundle.digest


@pytest.mark.parametrize("model", ["N2V", "CARE", "CARE in 3-D"])
def test_the_descriptions_that_the_page_shows_are_read_and_run(model: str, tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "anything.md").read_text(encoding="utf-8")
    whole, part = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    shape, counts = (0, 1, 0, 0), smooth((72, 80))
    if model != "N2V":
        (before,) = re.findall(r" {4}preprocessing:\n.*?\n(?=\S)", whole, re.DOTALL)
        (after,) = re.findall(r" {4}postprocessing:\n.*?\n(?=\S)", whole, re.DOTALL)
        whole = whole.replace(before, part).replace(after, "")
    if model == "CARE in 3-D":
        (depth,) = re.findall(r"`(\{type: space, id: z, size: .*?\})`", page)
        made = "{type: space, id: z, size: {tensor_id: raw, axis_id: z}}"
        for axis, size in ((depth, "{min"), (made, "{tensor_id")):
            line = f"      - {{type: space, id: y, size: {size}"
            whole = whole.replace(line, f"      - {axis}\n{line}")
        whole = whole.replace("axes: [y, x]", "axes: [z, y, x]")
        shape, counts = (0, 1, 0, 0, 0), smooth((8, 40, 48))
    network = plain_network(is_volume=counts.ndim == 3)
    (tmp_path / "rdf.yaml").write_text(whole)
    (tmp_path / "model.onnx").write_bytes(onnx_of(network, shape))
    low, high = np.percentile(counts, [2, 99.8]) if model != "N2V" else (412.0, 412.0 + 187.0)
    scaled = (counts - low) / (high - low + 1e-6)
    expected = network_of(scaled[None] if counts.ndim == 3 else scaled, network) * (high - low + 1e-6) + low
    stack = Stack.from_array(counts, "ZYX"[-counts.ndim :], name="stack")
    result = cellxlate.enhance(stack, tmp_path / "rdf.yaml", attention_from=np.ones_like(counts))
    assert np.abs(result.image - np.rint(expected.reshape(counts.shape))).max() <= 1
