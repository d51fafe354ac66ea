"""A model on disk: the same numbers back, and one line for everything that is not a model."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cellxlate.errors import ModelError, OutputError
from cellxlate.model.bundle import Bundle, load_model, save_bundle
from cellxlate.model.cards import list_models
from cellxlate.model.networks import Translator, parameter_count
from cellxlate.settings import AttentionSettings, DiscriminatorSettings, GeneratorSettings, NetworkSettings

SETTINGS = NetworkSettings(
    GeneratorSettings("compact", 4, 1, "none"),
    AttentionSettings(width=2, stem_kernel_px=3, last_width=2, last_kernel_px=3, normalisation="none"),
    DiscriminatorSettings(width=2, layers=1, normalisation="none"),
)
CARD = {"networks": asdict(SETTINGS), "preset": "fast", "licence": "CC0-1.0"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    return save_bundle(tmp_path_factory.mktemp("models") / "tiny", Translator(SETTINGS), CARD, b"png")


@pytest.fixture
def folder(saved: Bundle, tmp_path: Path) -> Path:
    """A copy of the saved model that a test may damage."""
    return Path(shutil.copytree(saved.path, tmp_path / "tiny"))


def change_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "card.json").read_text())
    for key, value in changes.items():
        place = card
        *parents, last = key.split("__")
        for parent in parents:
            place = place[parent]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    (folder / "card.json").write_text(json.dumps(card))


def refusal(folder: Path | str) -> str:
    """Return the line a user sees; it must be one line."""
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def test_what_is_saved_comes_back(saved):
    torch.manual_seed(0)
    original = Translator(SETTINGS)
    loaded = load_model(saved.path)
    assert loaded.translator.state_dict().keys() == original.state_dict().keys()
    for key, value in original.state_dict().items():
        assert torch.equal(loaded.translator.state_dict()[key], value)
    image = torch.rand(1, 1, 16, 20)
    with torch.no_grad():
        assert torch.equal(loaded.translator.attention(image), original.attention(image))
    assert not loaded.translator.training
    assert not any(parameter.requires_grad for parameter in loaded.translator.parameters())


def test_the_card_states_what_was_saved(saved):
    assert saved.name == saved.card["name"] == "tiny"
    assert saved.card["preset"] == "fast"
    assert saved.card["generator_parameters"] == parameter_count(Translator(SETTINGS).generator)
    assert saved.card["attention_parameters"] == parameter_count(Translator(SETTINGS).attention)
    assert saved.card["stride_px"] == 4
    assert saved.card["generator_halo_px"] == saved.translator.generator_halo_px
    assert saved.digest == saved.card["weights_sha256"]
    assert len(saved.digest) == 64
    assert sorted(path.name for path in saved.path.iterdir()) == ["card.json", "preview.png", "weights.safetensors"]
    assert (saved.path / "preview.png").read_bytes() == b"png"


def test_what_is_added_to_a_card_wins_over_what_is_given(tmp_path):
    lies = {"format_version": 99, "name": "../../elsewhere", "generator_parameters": 1, "weights_sha256": "0"}
    bundle = save_bundle(tmp_path / "honest", Translator(SETTINGS), CARD | lies, b"")
    assert bundle.name == bundle.card["name"] == "honest"
    assert bundle.card["generator_parameters"] > 1


def test_loading_draws_no_random_numbers_and_never_fills_weights_twice(saved):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(saved.path)
    assert torch.equal(torch.rand(3), expected)


def test_an_existing_folder_is_never_overwritten(saved):
    before = (saved.path / "card.json").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        save_bundle(saved.path, Translator(SETTINGS), CARD, b"other")
    assert (saved.path / "card.json").read_bytes() == before


def test_a_bundle_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        save_bundle(tmp_path / "file" / "model", Translator(SETTINGS), CARD, b"")


def test_a_network_that_still_normalises_gets_no_name(tmp_path):
    normalised = NetworkSettings(GeneratorSettings(width=2, blocks=1), AttentionSettings(width=2, last_width=2))
    with pytest.raises(ModelError, match="expected none"):
        save_bundle(tmp_path / "model", Translator(normalised), {"networks": asdict(normalised)}, b"")
    assert list(tmp_path.iterdir()) == []


def test_other_weights_are_noticed(folder):
    weights = folder / "weights.safetensors"
    tensors = load_file(weights)
    save_file({key: value + 1e-6 for key, value in tensors.items()}, weights)
    assert "hash differs" in refusal(folder)


def test_cut_weights_are_noticed_before_they_are_read(folder):
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    assert "holds 200 bytes" in refusal(folder)


def rehash(folder: Path) -> None:
    import hashlib

    change_card(folder, weights_sha256=hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest())


def test_weights_that_are_no_safetensors_are_refused(folder):
    weights = folder / "weights.safetensors"
    weights.write_bytes(b"\x80\x04" + b"pickle" * len(weights.read_bytes()))
    rehash(folder)
    assert "does not fit its card" in refusal(folder)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "nan", "half"])
def test_weights_that_do_not_fit_are_refused(folder, fault):
    weights = folder / "weights.safetensors"
    tensors = load_file(weights)
    name = next(iter(tensors))
    if fault == "missing":
        tensors["padding"] = tensors.pop(name)
    elif fault == "extra":
        tensors["generator.layers.99.weight"] = torch.zeros(1)
    elif fault == "shape":
        tensors[name] = tensors[name][None]
    elif fault == "nan":
        tensors[name].flatten()[0] = float("nan")
    else:
        tensors[name] = tensors[name].double()
    save_file(tensors, weights)
    rehash(folder)
    assert ("not finite" if fault in ("nan", "half") else "does not fit its card") in refusal(folder)


def test_missing_weights_are_named(folder):
    (folder / "weights.safetensors").unlink()
    assert "weights.safetensors" in refusal(folder)


@pytest.mark.parametrize("key", ["format_version", "architecture_version"])
def test_a_newer_version_asks_for_an_update(folder, key):
    change_card(folder, **{key: 2})
    assert refusal(folder).endswith("update cellxlate")
    for nonsense in (0, -1, "1", 1.5, None, True, ..., [1]):
        change_card(folder, **{key: 1})
        change_card(folder, **{key: nonsense})
        assert "is it a model card?" in refusal(folder)
        if nonsense is ...:
            change_card(folder, **{key: 1})


HOSTILE = {
    "networks__generator__width": [0, -4, 10**9, 513, 2.0, "4", None, True, [4]],
    "networks__generator__blocks": [0, -1, 10**6],
    "networks__generator__architecture": ["unet", "../resnet", None, ["compact"]],
    "networks__generator__normalisation": ["instance", "batch", None],
    "networks__attention__normalisation": ["instance"],
    "networks__attention__stem_kernel_px": [4, -3, 99, 3.0, "3"],
    "networks__attention__last_width": [0, 10**9],
    "networks__discriminator__width": [0, 10**9, "2"],
    "networks__discriminator__layers": [-1, 40],
    "networks__channels": [0, 17, "1"],
    "networks__generator": [None, [], "compact", {"width": 4, "__class__": "os.system"}],
    "networks__generator__code": ["import os"],
    "networks": [None, [], "x", 3],
}


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_card_is_refused_in_one_line(folder, key):
    original = (folder / "card.json").read_text()
    for value in HOSTILE[key]:
        (folder / "card.json").write_text(original)
        change_card(folder, **{key: value})
        assert "describes no network that can be built" in refusal(folder)
    (folder / "card.json").write_text(original)
    change_card(folder, networks=...)
    assert "describes no network" in refusal(folder)


def test_a_card_cannot_ask_for_more_memory_than_its_weights_fill(folder):
    # every number is within its own limit; together they describe 19 GB
    change_card(folder, networks__generator={"architecture": "resnet", "width": 512, "blocks": 64,
                                             "normalisation": "none"})  # fmt: skip
    assert "its card describes 19517368808" in refusal(folder)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", '"card"', "{", '{"format_version": ', "\x00", "[" * 100_000])
def test_a_card_that_is_none_is_refused(folder, text):
    (folder / "card.json").write_text(text)
    refusal(folder)


def test_a_card_of_absurd_size_is_not_read(folder):
    (folder / "card.json").write_text('"' + "a" * 4_100_000 + '"')
    assert "not a model card" in refusal(folder)


def test_the_name_in_a_card_leads_nowhere(folder):
    change_card(folder, name="../../../etc/passwd")
    assert load_model(folder).name == "tiny"
    assert load_model(folder).path == folder


@pytest.mark.parametrize("name", ["no-such-model", "../models/nuclei-lowexp", "/etc/passwd", "..", "", "a/b", "a\nb"])
def test_what_is_no_model_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    refusal(name)


def test_an_empty_folder_is_no_model(tmp_path):
    assert "no readable card.json" in refusal(tmp_path)


def test_models_in_a_folder_are_listed(folder):
    listed = [one for one in list_models(folder.parent) if not one["shipped"]]
    assert [(one["name"], one["path"]) for one in listed] == [("tiny", str(folder))]
