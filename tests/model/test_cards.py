"""Cards are read without torch, and scores go into them without touching the model."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cellxlate.errors import ModelError, OptionError
from cellxlate.model.bundle import load_model
from cellxlate.model.cards import amend_card, describe_model, is_model, list_models, locate, read_card


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "mine"))


def test_scores_enter_the_card_and_the_model_stays_the_same(folder: Path) -> None:
    before = load_model(folder)
    amend_card(folder, "scores", {"patch_distance": 0.04})
    amend_card(folder, "scores", {"patch_distance": 0.03})
    after = load_model(folder)
    assert after.card["scores"] == {"patch_distance": 0.03}
    assert {**after.card, "scores": {}} == {**before.card, "scores": {}}
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "preview.png", "weights.safetensors"]


def test_a_damaged_card_is_left_alone(folder: Path) -> None:
    (folder / "card.json").write_text("{")
    with pytest.raises(ModelError):
        amend_card(folder, "scores", {})
    assert (folder / "card.json").read_text() == "{"


def test_a_model_is_told_from_a_stack(folder: Path, tmp_path: Path) -> None:
    assert is_model(folder)
    assert not is_model(tmp_path)
    assert not is_model("../nuclei-lowexp")
    assert describe_model(folder)["path"] == str(folder)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("nuclei_lowexp", "nuclei-lowexp"), ("Cells", "cells"), ("nuclei", "nuclei-lowexp"), ("MINE", "mine"),
     ("./My-Own", "my-own")],
)  # fmt: skip
def test_a_model_that_was_probably_meant_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "my-own")
    with pytest.raises(ModelError, match=f"there is no model '{name}'; did you mean '{meant}'\\?"):
        locate(name)


def test_what_is_no_model_is_said_for_what_it_is(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07onnx")
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "rdf.yaml").write_text("type: model")
    with zipfile.ZipFile(tmp_path / "zoo.zip", "w") as archive:
        archive.writestr("rdf.yaml", "type: model")
    for path, part in (
        (tmp_path, f"holds the model mine; give one of them, as in {folder}"),
        (folder / "weights.safetensors", f"is one file of a model; give the folder of the model, {folder}"),
        (tmp_path / "net.onnx", "is an ONNX network: it enhances, but is no cellxlate model"),
        (tmp_path / "a.tif", "is an image and no model"),
        (tmp_path / "run.partial", "its training is not finished; finish it with resume=True"),
        (tmp_path / "zoo", "is a package of the BioImage Model Zoo that cellxlate has not written"),
        (tmp_path / "zoo.zip", "is a package of the BioImage Model Zoo that cellxlate has not written"),
        (tmp_path / "zoo" / "rdf.yaml", "is a package of the BioImage Model Zoo"),
        (5, "model=5 is of type int, expected the name of a model, or a path"),
    ):
        with pytest.raises((ModelError, OptionError)) as caught:
            read_card(locate(path))  # type: ignore[arg-type]
        assert part in str(caught.value)


def test_a_folder_with_a_damaged_card_is_listed_with_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    (folder / "card.json").write_text("{")
    (listed,) = (model for model in list_models(tmp_path) if not model["shipped"])
    assert listed["name"] == "mine"
    assert "card.json" in listed["description"]


def test_reading_a_card_does_not_load_torch(folder: Path) -> None:
    script = f"import sys; from cellxlate.model.cards import read_card; from pathlib import Path; read_card(Path({str(folder)!r})); print('torch' in sys.modules)"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False"
    assert read_card(folder)["preset"] == "fast"
