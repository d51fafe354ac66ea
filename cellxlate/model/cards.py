"""Cards: what a model says of itself, read without loading its weights (and so without torch)."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from cellxlate.errors import (
    CellxlateError,
    MissingModelError,
    ModelError,
    OptionError,
    OutputError,
    said,
    unless_denied,
)
from cellxlate.model.archive import CARD, ZOO_NAMES, is_archive, read_part, refuse_file
from cellxlate.option_values import given, kind_of, nearest_name
from cellxlate.options import MODEL
from cellxlate.settings import AUTO as AUTO
from cellxlate.settings import FilterName
from cellxlate.stacks.naming import one_line
from cellxlate.whole_file import rename_free, write_whole_file

MIGRATIONS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = ()
"""How a card of version 1, 2, ... becomes one of the next. The first format is still the current one."""

FORMAT_VERSION = 1 + len(MIGRATIONS)
ARCHITECTURE_VERSION = 1
DEFAULT_MODEL = "nuclei-lowexp"
GENERAL_MODEL = "cells"
"""The shipped model that knows structures of all kinds."""

SHIPPED = Path(__file__).resolve().parents[1] / "models"
LARGEST_CARD_BYTES = 4_000_000
LONGEST_NAME = 200


def read_card(model: Path) -> dict[str, Any]:
    """Read and check the card of a model folder, or of a zip archive of one, in the current format.

    Raises
    ------
    ModelError
        It is missing, too large, not JSON, or of a newer format.
    """
    path = model / CARD
    try:
        card = json.loads(read_part(model, CARD, most_bytes=LARGEST_CARD_BYTES))
    except (ValueError, RecursionError) as fault:
        raise ModelError(
            f"{model} holds no readable card.json ({type(fault).__name__}); is it a model folder?"
        ) from fault
    known_versions = {"format_version": FORMAT_VERSION, "architecture_version": ARCHITECTURE_VERSION}
    for key, known in known_versions.items():
        version = card.get(key) if isinstance(card, dict) else None
        if type(version) is not int or version < 1:
            raise ModelError(f"{path} states no {key}; is it a model card?")
        if version > known:
            raise ModelError(
                f"{path} has {key} {version}, this cellxlate knows {known}; update cellxlate, or ask for a model of an "
                "older version"
            )
    return _migrated(path, card)


def _migrated(path: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Bring a card of an older format to the current one, step by step."""
    for version in range(card["format_version"], FORMAT_VERSION):
        try:
            card = {**MIGRATIONS[version - 1](card), "format_version": version + 1}
        except (KeyError, TypeError, ValueError, AttributeError) as fault:
            raise ModelError(
                f"{path} has format_version {version} but is not complete ({fault!r}); copy the model again"
            ) from fault
    return card


def locate(model: str | Path) -> Path:
    """Return the folder, or the archive, of a model given by path or shipped name, or raise ModelError."""
    if isinstance(model, str) and model == AUTO:
        raise ModelError(
            f"{AUTO} is no model but chooses one for a stack; give the name of a model here, or ./{AUTO} for a folder "
            "that is called so"
        )
    if not isinstance(model, str | Path):
        raise OptionError(given(MODEL, model), f" {kind_of(model)}, expected the name of a model, or a path")
    if model == "":  # which would be the current folder
        raise OptionError(MODEL, " is an empty text", remedy="give the name of a model, or a path")
    path = Path(model)
    try:
        if path.name in ZOO_NAMES and (path.parent / CARD).is_file():
            path = path.parent  # a package of ours that was unpacked
        if path.is_dir() or is_archive(path):
            return path.resolve()
        refused = refuse_file(path) if path.exists() else None
    except PermissionError as fault:
        refused = unless_denied(ModelError(f"{path} cannot be read"), path, fault)
    except (OSError, ValueError):  # a name that no file system can hold
        path, refused = Path("?"), None
    if refused:
        raise refused
    shipped = SHIPPED / path
    if path.name == str(model) and (shipped / CARD).is_file():
        return shipped
    names = sorted(path.name for path in model_folders(SHIPPED))
    instead = f"a model folder or one of the shipped models: {', '.join(names) or 'none'}"
    if isinstance(model, str) and is_filter(model):
        raise MissingModelError(
            f"{model[:200]} is a filter, and enhance and evaluate take filters; here give {instead}"
        )
    meant = nearest_name(path.name, [*names, *_models_beside(path)])
    if meant and meant not in names:
        meant = str(path.with_name(meant))
    hint = f"did you mean {meant!r}? Give" if meant else "give"
    raise MissingModelError(f"there is no model {str(model)[:200]!r}; {hint} {instead}")


def is_filter(asked: str) -> bool:
    """Return whether a text asks for a filter, with a value or without, and so for no model.

    Examples
    --------
    >>> is_filter("gaussian:1.5"), is_filter("median"), is_filter("./median"), is_filter("cells")
    (True, True, False, False)
    """
    return asked.partition(":")[0] in get_args(FilterName)


def _models_beside(path: Path) -> list[str]:
    """Return the names of the model folders in the folder of a path that does not exist."""
    try:
        return [one.name for one in model_folders(path.parent)]
    except OSError:
        return []


def model_name(path: Path) -> str:
    """Return the name of a model by its folder or its archive."""
    return path.name if path.is_dir() else path.stem


def model_folders(parent: Path) -> Iterator[Path]:
    """Yield the folders directly inside `parent` that hold a card."""
    if parent.is_dir():
        yield from (path.parent for path in sorted(parent.glob("*/card.json")))


def is_model(path: str | Path) -> bool:
    """Return whether a path is a model folder or an archive of one, or no path but the name of a shipped model."""
    folder = Path(path)
    try:
        return path != AUTO and (
            (folder / CARD).is_file()
            or is_archive(folder)
            or (not folder.exists() and folder.name == str(path) and (SHIPPED / folder / CARD).is_file())
        )
    except (OSError, ValueError):  # a name that no file system can hold
        return False


def describe_model(model: str | Path) -> dict[str, Any]:
    """Return the card of a model with its path.

    Raises
    ------
    ModelError
        There is no such model, or its card is damaged.
    """
    folder = locate(model)
    return {**read_card(folder), "path": str(folder)}


def card_channels(card: Mapping[str, Any]) -> tuple[str | int | None, tuple[str | int, ...]]:
    """Return which channel a model was trained to change, and which it saw beside; None and none where nothing says."""
    stated = card.get("channels")
    if not isinstance(stated, Mapping):
        return None, ()
    own, beside = stated.get("own"), stated.get("beside")
    several = beside if isinstance(beside, list) else []
    return own if _names_channel(own) else None, tuple(one for one in several if _names_channel(one))


def _names_channel(stated: Any) -> bool:
    """Return whether a card states a name, or a number, that a message can hold."""
    return stated.isprintable() and len(stated) <= LONGEST_NAME if isinstance(stated, str) else isinstance(stated, int)


def seen_words(card: Mapping[str, Any], needed: int) -> str:
    """Return what a model sees beside the channel that it changes, by name where its card states names.

    Examples
    --------
    >>> seen_words({"channels": {"own": "GFP", "beside": ["DAPI"]}}, 1), seen_words({}, 2)
    ('DAPI', '2 channels')
    """
    names = [one for one in card_channels(card)[1] if isinstance(one, str)]
    return ", ".join(names) if len(names) == needed else count_of_channels(needed)


def count_of_channels(number: int) -> str:
    """Return a number of channels in words."""
    return f"{number} channel{'' if number == 1 else 's'}"


def list_models(folder: Path) -> list[dict[str, Any]]:
    """Return name, path, shipped and description of the shipped models and of those directly inside a folder."""
    models = []
    for parent, shipped in ((SHIPPED, True), (folder, False)):
        for path in model_folders(parent):
            try:
                card = read_card(path)
            except ModelError as fault:
                card = {"description": said(fault)}
            described = str(card.get("description") or f"preset {card.get('preset', 'unknown')}")
            if seen := card_channels(card)[1]:
                described += f" (sees {seen_words(card, len(seen))} beside)"
            models.append({"name": path.name, "path": str(path), "shipped": shipped, "description": described})
    return models


def save_copy(folder: Path, destination: Path) -> Path:
    """Copy a model folder, which gets its name when it is complete; the copy's card says that name.

    Raises
    ------
    OutputError
        The destination exists, or cannot be written.
    """
    with whole_folder(destination) as partial:
        for path in folder.rglob("*"):
            if path.is_file():
                copy = partial / path.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)  # its bytes: who may read the copy, the umask says
        amend_card(partial, "name", destination.name)
    return destination


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, which gets its name when it is complete.

    Raises
    ------
    OutputError
        The folder exists, or cannot be written.
    """
    if folder.exists():
        raise OutputError(f"{folder} exists already; choose another name or remove it")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        rename_free(partial, folder)
    except CellxlateError:
        raise
    except OSError as fault:
        raise unless_denied(OutputError(f"{folder} cannot be written: {one_line(fault)}"), folder, fault) from fault
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def amendable(model: str | Path) -> Path:
    """Return the folder of a model whose card may be changed.

    Raises
    ------
    ModelError
        There is no such model, or it is shipped and was given by its name: all who use it would get another card.
    OutputError
        The model is an archive.
    """
    folder = locate(model)
    if folder.parent == SHIPPED and not Path(model).exists():
        raise ModelError(
            f"{model} is shipped with cellxlate and its card stays as it is; copy the folder {folder} and give the copy"
        )
    if not folder.is_dir():
        raise OutputError(f"{folder} is an archive and stays as it is; unpack it and give the folder")
    return folder


def amend_card(folder: Path, entry: Literal["name", "scores", "domain", "probe", "context"], value: Any) -> None:
    """Put scores, what the training images look like, or what torch computes, into the card, in place of what it said.

    Raises
    ------
    ModelError
        The card is damaged.
    OutputError
        The folder cannot be written.
    """
    if not folder.is_dir():
        raise OutputError(f"{folder} is an archive and stays as it is; unpack it and give the folder")
    card = {**read_card(folder), entry: value}
    write_whole_file(folder / CARD, json.dumps(card, indent=1) + "\n")
