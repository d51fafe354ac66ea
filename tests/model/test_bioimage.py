"""Models that leave: ONNX and zoo packages say what the networks say, and come back as the same model."""

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import torch

import cellxlate
from cellxlate.cli import main
from cellxlate.errors import OptionError, OutputError
from cellxlate.model.attention import apply_change, gate, quantise
from cellxlate.model.bundle import Bundle, load_model
from cellxlate.model.export.bioimage import ANSWERS, export_onnx, export_package, translator_onnx
from cellxlate.settings import THRESHOLD
from cellxlate.stacks.intensity.stack_range import stack_ranges
from cellxlate.whole_file import unfinished_name

onnxruntime = pytest.importorskip("onnxruntime", reason="export to ONNX is optional")
pytest.importorskip("onnx", reason="export to ONNX is optional")


@pytest.fixture(scope="module")
def bundle(tiny_model: Path) -> Bundle:
    return load_model(tiny_model)


@pytest.fixture(scope="module")
def package(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_package(bundle, tmp_path_factory.mktemp("package") / "tiny.zip", authors=["Ada Example"])


def session(content: bytes | Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = content if isinstance(content, bytes) else str(content)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def answers(bundle: Bundle, images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
    """What the networks in torch say, gated with the functions that enhancing uses."""
    given = torch.from_numpy(images)
    attention, proposal = bundle.translator.attention(given).numpy(), bundle.translator.generator(given).numpy()
    selected = gate(quantise(attention), THRESHOLD)
    return {"attention": quantise(attention) / 1024, "proposal": proposal,
            "enhanced": images + selected * (proposal - images)}  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 1, 64, 64), (2, 1, 60, 128), (1, 1, 8, 12)])
def test_the_onnx_file_says_what_the_networks_say_at_any_size(bundle, tmp_path, shape):
    path = export_onnx(bundle, tmp_path / "a.onnx")
    ramp = np.linspace(0, 1, shape[-1]) + np.random.default_rng(0).normal(0, 0.1, shape)
    images = ramp.astype(np.float32)
    found = dict(zip(ANSWERS, session(path).run(list(ANSWERS), {"images": images}), strict=True))
    for name, expected in answers(bundle, images).items():
        # rounding may move attention by one step of 1024
        assert np.abs(found[name] - expected).max() < (2e-3 if name != "proposal" else 2e-5)
        assert np.mean(np.abs(found[name] - expected) > 2e-5) < 1e-3
    assert np.array_equal(found["enhanced"][found["attention"] <= THRESHOLD], images[found["attention"] <= THRESHOLD])
    assert 0 < np.mean(found["attention"] > THRESHOLD) < 1


def test_the_onnx_file_names_its_model(bundle, tmp_path):
    import onnx

    stored = onnx.load(export_onnx(bundle, tmp_path / "a.onnx"))
    stated = {entry.key: entry.value for entry in stored.metadata_props}
    assert stated == {"name": "tiny", "licence": "CC0-1.0", "weights_sha256": bundle.digest}
    assert [entry.name for entry in stored.graph.output] == list(ANSWERS)


def test_the_onnx_file_gives_the_counts_that_enhancing_gives_on_real_fields(real_images, tmp_path):
    """At most one count apart, and no pixel changed that it does not select."""
    bundle = load_model()
    run = session(export_onnx(bundle, tmp_path / "a.onnx")).run
    margin = 96  # beyond the halo, a multiple of the stride
    assert margin > max(bundle.translator.generator_halo_px, bundle.translator.attention_halo_px)
    for path in sorted((real_images / "nuclei_lowexp" / "test_S").glob("*.tif"))[:1]:
        with cellxlate.open_stack(path) as stack:
            raw = stack.read(())
            intensity = stack_ranges(stack, (0,))[0]
            expected = cellxlate.enhance(stack, bundle)
        rows, columns = raw.shape
        around = [(margin, margin + -size % bundle.translator.stride) for size in raw.shape]
        images = np.pad(intensity.to_unit(raw), around, mode="symmetric")[None, None]
        attention, proposal = (
            answer[0, 0, margin : margin + rows, margin : margin + columns]
            for answer in run(["attention", "proposal"], {"images": images})
        )
        selected = gate(quantise(attention), THRESHOLD)
        change = selected * (proposal - intensity.to_unit(raw)) * intensity.span
        found = apply_change(raw, change, selected)
        assert np.abs(found.astype(int) - expected.image.astype(int)).max() <= 1
        assert np.array_equal(found[selected == 0], raw[selected == 0])
        assert np.mean((selected == 0) != (expected.attention == 0)) < 1e-5


def test_a_package_comes_back_as_the_same_model_and_the_same_pixels(bundle, package, tmp_path):
    again = load_model(package)
    assert (again.name, again.digest) == ("tiny", bundle.digest)
    for key, value in bundle.translator.state_dict().items():
        assert torch.equal(again.translator.state_dict()[key], value)
    stack = tmp_path / "cells.tif"
    tifffile.imwrite(stack, np.random.default_rng(0).integers(80, 240, (90, 120)).astype(np.uint16))
    for name, model in (("folder", bundle.path), ("package", package)):
        assert main(["enhance", str(stack), "-m", str(model), "--output-dir", str(tmp_path / name), "--quiet"]) == 0
    for name in ("cells_enhanced.ome.tif", "cells_attention.ome.tif"):
        assert np.array_equal(tifffile.imread(tmp_path / "folder" / name), tifffile.imread(tmp_path / "package" / name))


def contents(package: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(package) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sources(value: Any) -> list[dict[str, Any]]:
    """Return everything in a description that names a file."""
    if isinstance(value, list):
        return [found for item in value for found in sources(item)]
    if not isinstance(value, dict):
        return []
    inside = [found for item in value.values() for found in sources(item)]
    return [value, *inside] if "source" in value else inside


def test_a_package_describes_every_file_it_holds(package):
    files = contents(package)
    stated = json.loads(files["rdf.yaml"])
    named = {entry["source"]: entry["sha256"] for entry in sources(stated)}
    assert named.keys() == files.keys() - {"rdf.yaml"}
    assert all(hashlib.sha256(files[name]).hexdigest() == digest for name, digest in named.items())
    assert not any(name.endswith((".pt", ".pkl", ".pth")) for name in files)
    assert stated["authors"] == [{"name": "Ada Example"}]
    assert stated["license"] == "CC0-1.0"
    assert files["cover.png"].startswith(b"\x89PNG")


def test_halo_and_sides_follow_from_the_receptive_field(bundle, package):
    stated = json.loads(contents(package)["rdf.yaml"])
    networks = bundle.translator
    halo_px = max(networks.generator_halo_px, networks.attention_halo_px)
    for output in stated["outputs"]:
        for axis in output["axes"][2:]:
            assert halo_px <= axis["halo"] < halo_px + networks.stride
            assert axis["halo"] % networks.stride == 0
    for axis in stated["inputs"][0]["axes"][2:]:
        assert axis["size"]["step"] == networks.stride
        assert axis["size"]["min"] > 2 * halo_px


def test_the_test_tensors_are_what_the_onnx_model_makes_of_them(package):
    files = contents(package)
    raw, *expected = (np.load(io.BytesIO(files[f"test_{name}.npy"]), allow_pickle=False) for name in ("raw", *ANSWERS))
    low, high = np.percentile(raw, (10, 99.5))
    found = session(files["model.onnx"]).run(None, {"images": ((raw - low) / (high - low + 1e-6)).astype(np.float32)})
    for got, wanted in zip(found, expected, strict=True):
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() < 2e-3
        assert wanted.std() > 0.01


def test_the_same_model_gives_the_same_package(bundle, package, tmp_path):
    again = export_package(bundle, tmp_path / "again.zip", authors=["Ada Example"])
    assert again.read_bytes() == package.read_bytes()
    with_package = export_package(load_model(package), tmp_path / "third.zip", authors=["Ada Example"])
    assert with_package.read_bytes() == package.read_bytes()


def test_what_the_zoo_asks_for_and_nobody_states_is_named(bundle, tmp_path):
    with pytest.raises(OptionError, match="no authors"):
        export_package(bundle, tmp_path / "a.zip")
    silent = Bundle(bundle.name, bundle.networks, {**bundle.card, "licence": "not stated"}, bundle.path)
    with pytest.raises(OptionError, match="no licence"):
        export_package(silent, tmp_path / "a.zip", authors=["Ada"])
    export_package(silent, tmp_path / "a.zip", authors=["Ada"], licence="MIT")
    assert json.loads(contents(tmp_path / "a.zip")["rdf.yaml"])["license"] == "MIT"


@pytest.mark.parametrize(("kind", "ending"), [("onnx", ".onnx"), ("bioimageio", ".zip")])
def test_the_command_writes_and_does_not_overwrite(kind, ending, tiny_model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["export", str(tiny_model), "--format", kind, "--author", "Ada", "--json"]
    assert main(command) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["output"], answer["bytes"]) == (f"tiny{ending}", (tmp_path / f"tiny{ending}").stat().st_size)
    before = (tmp_path / f"tiny{ending}").read_bytes()
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert (tmp_path / f"tiny{ending}").read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == [f"tiny{ending}"]
    capsys.readouterr()
    assert main(["export", str(tiny_model), "--format", kind, "--author", "A", "-o", f"no/such/folder/a{ending}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_link_laid_where_an_unfinished_export_goes_is_not_followed(bundle, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("keep")
    (tmp_path / unfinished_name()).symlink_to(precious)
    export_onnx(bundle, tmp_path / "a.onnx")
    assert precious.read_text() == "keep"
    with pytest.raises(OutputError, match="exists already"):
        export_onnx(bundle, tmp_path, overwrite=True)


def test_outputs_may_be_chosen(bundle):
    model = translator_onnx(bundle.translator, ("proposal",))
    (found,) = session(model.SerializeToString()).run(None, {"images": np.zeros((1, 1, 16, 16), np.float32)})
    assert found.shape == (1, 1, 16, 16)
