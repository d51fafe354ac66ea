"""A model on disk: the same numbers back, and one line for everything that is not a model."""

import hashlib
import json
import os
import pickle
import shutil
import zipfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cellxlate.errors import ModelError, OptionError, OutputError
from cellxlate.model import cards
from cellxlate.model.archive import is_archive
from cellxlate.model.bundle import Bundle, load_model, save_bundle
from cellxlate.model.cards import amend_card, describe_model, is_model, list_models
from cellxlate.model.layers import parameter_count
from cellxlate.model.networks import TranslatorNetworks, seeing_neighbours
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
    return save_bundle(tmp_path_factory.mktemp("models") / "tiny", TranslatorNetworks(SETTINGS), CARD, b"png")


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
    original = TranslatorNetworks(SETTINGS)
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
    assert saved.card["generator_parameters"] == parameter_count(TranslatorNetworks(SETTINGS).generator)
    assert saved.card["attention_parameters"] == parameter_count(TranslatorNetworks(SETTINGS).attention)
    assert saved.card["stride_px"] == 4
    assert saved.card["generator_halo_px"] == saved.translator.generator_halo_px
    assert saved.digest == saved.card["weights_sha256"]
    assert len(saved.digest) == 64
    assert sorted(path.name for path in saved.path.iterdir()) == ["card.json", "preview.png", "weights.safetensors"]
    assert (saved.path / "preview.png").read_bytes() == b"png"


def test_a_model_saved_without_its_second_pair_states_none(tmp_path):
    """As attention that was taught by strokes is: the pair that sees neighbours was not."""
    first = TranslatorNetworks(SETTINGS)
    both = save_bundle(tmp_path / "both", first, CARD, b"", seeing_neighbours(first, 1))
    assert both.in_context is not None
    one = save_bundle(tmp_path / "one", first, both.card, b"")
    assert one.in_context is None
    assert "context" not in one.card


def test_what_is_added_to_a_card_wins_over_what_is_given(tmp_path):
    lies = {"format_version": 99, "name": "../../elsewhere", "generator_parameters": 1, "weights_sha256": "0"}
    bundle = save_bundle(tmp_path / "honest", TranslatorNetworks(SETTINGS), CARD | lies, b"")
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
        save_bundle(saved.path, TranslatorNetworks(SETTINGS), CARD, b"other")
    assert (saved.path / "card.json").read_bytes() == before


def test_a_bundle_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        save_bundle(tmp_path / "file" / "model", TranslatorNetworks(SETTINGS), CARD, b"")


def test_a_network_that_still_normalises_gets_no_name(tmp_path):
    normalised = NetworkSettings(GeneratorSettings(width=2, blocks=1), AttentionSettings(width=2, last_width=2))
    with pytest.raises(ModelError, match="expected none"):
        save_bundle(tmp_path / "model", TranslatorNetworks(normalised), {"networks": asdict(normalised)}, b"")
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
    assert "this cellxlate knows 1; update cellxlate" in refusal(folder)
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
    "networks__generator__room": [-0.1, 9, "1", None, True],
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
    assert "expected at most 4000000" in refusal(folder)


def test_the_name_in_a_card_leads_nowhere(folder):
    change_card(folder, name="../../../etc/passwd")
    assert load_model(folder).name == "tiny"
    assert load_model(folder).path == folder


@pytest.mark.parametrize("name", ["no-such-model", "../models/nuclei-lowexp", "/etc/passwd", "..", "a/b", "a\nb"])
def test_what_is_no_model_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    refusal(name)


def test_an_empty_name_is_an_option_that_is_wrong():
    with pytest.raises(OptionError, match="is an empty text; give the name of a model, or a path"):
        load_model("")


def test_an_empty_folder_is_no_model(tmp_path):
    assert "has no card.json" in refusal(tmp_path)


def test_models_in_a_folder_are_listed(folder):
    listed = [one for one in list_models(folder.parent) if not one["shipped"]]
    assert [(one["name"], one["path"]) for one in listed] == [("tiny", str(folder))]


# --- archives: a model as one file


def archived(folder: Path, path: Path, *, inside: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for item in sorted(folder.iterdir()):
            archive.write(item, inside + item.name)
    return path


@pytest.mark.parametrize("inside", ["", "tiny/"])
def test_an_archive_of_a_model_is_the_same_model(saved, tmp_path, inside):
    path = archived(saved.path, tmp_path / "shared model.zip", inside=inside)
    before = sorted(tmp_path.rglob("*"))
    loaded = load_model(path)
    assert (loaded.name, loaded.path, loaded.digest) == ("shared model", path, saved.digest)
    for key, value in saved.translator.state_dict().items():
        assert torch.equal(loaded.translator.state_dict()[key], value)
    assert is_model(path)
    assert describe_model(path)["weights_sha256"] == saved.digest
    assert sorted(tmp_path.rglob("*")) == before  # nothing is unpacked
    with pytest.raises(OutputError, match="archive and stays as it is"):
        amend_card(path, "scores", {})


def test_a_file_without_a_model_is_no_archive(tmp_path):
    for name, content in {"a.tif": b"II*\0", "b.zip": b"PK\x05\x06" + bytes(18), "c": b"", "d.zip": b"PK"}.items():
        (tmp_path / name).write_bytes(content)
        assert not is_archive(tmp_path / name)
        assert not is_model(tmp_path / name)
        refusal(tmp_path / name)
    assert not is_archive(tmp_path)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.ckpt", "model.pkl", "model"])
def test_a_pickle_is_never_opened(tmp_path, name):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "taken over"),)

    (tmp_path / name).write_bytes(pickle.dumps(Attack(), protocol=4))
    assert "looks like a pickle" in refusal(tmp_path / name)
    with zipfile.ZipFile(tmp_path / f"zip-{name}", "w") as archive:  # what torch.save writes
        archive.writestr("archive/data.pkl", pickle.dumps(Attack(), protocol=2))
    assert "looks like a pickle" in refusal(tmp_path / f"zip-{name}")
    assert not (tmp_path / "taken over").exists()


def test_a_pickle_under_the_name_of_the_weights_is_never_opened(folder, tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "taken over"),)

    content = pickle.dumps([Attack(), "a" * (folder / "weights.safetensors").stat().st_size], protocol=4)
    (folder / "weights.safetensors").write_bytes(content)
    rehash(folder)
    assert "does not fit its card" in refusal(folder)
    assert not (tmp_path / "taken over").exists()


def bomb(path: Path, name: str, size: int) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as member:
        for _ in range(size // 1_000_000):
            member.write(bytes(1_000_000))


@pytest.mark.parametrize("name", ["card.json", "weights.safetensors"])
def test_a_zip_bomb_is_refused_by_what_it_states(folder, tmp_path, name):
    (folder / name).unlink()
    path = archived(folder, tmp_path / "a.zip")
    bomb(path, name, 60_000_000)
    assert path.stat().st_size < 500_000
    assert "expected at most" in refusal(path)


@pytest.mark.parametrize("stated", [100, 3_000_000_000])
def test_a_member_that_lies_about_its_size_is_bounded(folder, tmp_path, stated):
    (folder / "card.json").unlink()
    path = archived(folder, tmp_path / "a.zip")
    bomb(path, "card.json", 20_000_000)
    content = bytearray(path.read_bytes())
    at = content.rfind((20_000_000).to_bytes(4, "little"))
    content[at : at + 4] = stated.to_bytes(4, "little")
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("name", ["../card.json", "/card.json", "a/b/card.json", "..\\card.json", "a/../card.json"])
def test_members_that_lead_elsewhere_are_not_a_model(folder, tmp_path, name):
    path = tmp_path / "inner" / "a.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("card.json")
        member.filename = name  # as it is; the constructor would tidy it
        archive.writestr(member, (folder / "card.json").read_bytes())
        archive.write(folder / "weights.safetensors", "weights.safetensors")
    assert "holds no card.json" in refusal(path)
    assert [item.name for item in path.parent.iterdir()] == ["a.zip"]


def test_two_cards_are_not_one_model(folder, tmp_path):
    path = archived(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(folder / "card.json", "other/card.json")
    assert "holds 2 cards" in refusal(path)


def test_archives_that_list_too_much_are_refused(folder, tmp_path):
    path = archived(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(1001):
            archive.writestr(f"{number}", b"")
    assert "lists 1004 files" in refusal(path)
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(100):
            archive.writestr(f"{number}" + "a" * 60_000, b"")
    assert "lists too many files" in refusal(path)


def test_damaged_archives_are_one_line(folder, tmp_path):
    path = archived(folder, tmp_path / "a.zip")
    content = path.read_bytes()
    for kept in (0.2, 0.7, 0.99):
        path.write_bytes(content[: int(kept * len(content))])
        refusal(path)
    for place in range(0, len(content), len(content) // 60):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        with suppress(ModelError):  # and nothing else
            load_model(path)


# --- folders that are more than a folder


def test_links_that_leave_the_folder_are_not_followed(folder, tmp_path):
    for name in ("weights.safetensors", "card.json"):
        outside = tmp_path / f"outside-{name}"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)
        assert "leads out of the model folder" in refusal(folder)
        (folder / name).unlink()
        outside.rename(folder / name)
    (folder / "weights.safetensors").rename(folder / "inside")
    (folder / "weights.safetensors").symlink_to("inside")
    load_model(folder)
    (tmp_path / "link").symlink_to(folder)
    assert load_model(tmp_path / "link").path == folder


@pytest.mark.parametrize("name", ["weights.safetensors", "card.json"])
def test_what_is_no_plain_file_is_refused_and_not_waited_for(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    assert "no plain file" in refusal(folder)
    (folder / name).rmdir()
    (folder / name).symlink_to(name)
    refusal(folder)
    if hasattr(os, "mkfifo"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert "no plain file" in refusal(folder)
        refusal(folder / name)


def test_weights_with_a_long_tail_are_not_read(folder):
    with (folder / "weights.safetensors").open("ab") as file:
        file.truncate(40_000_000_000)  # takes no space on most disks
    assert "expected at most" in refusal(folder)


def test_a_name_that_no_disk_can_hold_is_one_line():
    refusal("a" * 5000)
    refusal("a\0b")
    assert not is_model("a" * 5000)
    assert not is_model("a\0b")


# --- older formats


def test_older_cards_are_brought_forward_step_by_step(folder, monkeypatch):
    def second(card):
        return {**card, "authors": [card["author"]]}

    def third(card):
        return {**card, "authors": [name.upper() for name in card["authors"]]}

    monkeypatch.setattr(cards, "MIGRATIONS", (second, third))
    monkeypatch.setattr(cards, "FORMAT_VERSION", 3)
    change_card(folder, author="ada")
    card = load_model(folder).card
    assert (card["format_version"], card["authors"]) == (3, ["ADA"])
    change_card(folder, format_version=2, authors=["bea"])
    assert load_model(folder).card["authors"] == ["BEA"]
    change_card(folder, format_version=4)
    assert "update cellxlate" in refusal(folder)
    change_card(folder, format_version=1, author=...)
    assert "is not complete" in refusal(folder)


def test_the_stated_versions_are_those_that_can_be_read():
    assert len(cards.MIGRATIONS) + 1 == cards.FORMAT_VERSION
