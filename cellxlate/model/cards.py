"""Cards: what a model says of itself, read without loading its weights (and so without torch)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cellxlate.errors import ModelError, OutputError

FORMAT_VERSION = 1
ARCHITECTURE_VERSION = 1
DEFAULT_MODEL = "nuclei-lowexp"
SHIPPED = Path(__file__).resolve().parents[1] / "models"
LARGEST_CARD_BYTES = 4_000_000


def read_card(folder: Path) -> dict[str, Any]:
    """Read and check `card.json`.

    Raises
    ------
    ModelError
        It is missing, not JSON, or of a newer format.
    """
    path = folder / "card.json"
    try:
        if path.stat().st_size > LARGEST_CARD_BYTES:
            raise ModelError(f"{path} is larger than {LARGEST_CARD_BYTES} bytes; this is not a model card")
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as fault:
        raise ModelError(
            f"{folder} holds no readable card.json ({type(fault).__name__}); is it a model folder?"
        ) from fault
    for key, known in (("format_version", FORMAT_VERSION), ("architecture_version", ARCHITECTURE_VERSION)):
        version = card.get(key) if isinstance(card, dict) else None
        if type(version) is not int or version < 1:
            raise ModelError(f"{path} states no {key}; is it a model card?")
        if version > known:
            raise ModelError(f"{path} has {key} {version}, this cellxlate knows {known}; update cellxlate")
    checked: dict[str, Any] = card
    return checked


def locate(model: str | Path) -> Path:
    """Return the folder of a model given by path or shipped name, or raise ModelError."""
    folder = Path(model)
    if folder.is_dir():
        return folder.resolve()
    shipped = SHIPPED / str(model)
    if folder.name == str(model) and (shipped / "card.json").is_file():
        return shipped
    names = ", ".join(sorted(path.name for path in model_folders(SHIPPED))) or "none"
    raise ModelError(f"there is no model {str(model)!r}; give a model folder or one of the shipped models: {names}")


def model_folders(parent: Path) -> Iterator[Path]:
    """Yield the folders directly inside `parent` that hold a card."""
    if parent.is_dir():
        yield from (path.parent for path in sorted(parent.glob("*/card.json")))


def is_model(path: str | Path) -> bool:
    """Return whether a path is a model folder, or no path but the name of a shipped model."""
    folder = Path(path)
    return (folder / "card.json").is_file() or (
        not folder.exists() and folder.name == str(path) and (SHIPPED / folder / "card.json").is_file()
    )


def describe_model(model: str | Path) -> dict[str, Any]:
    """Return the card of a model with its path.

    Raises
    ------
    ModelError
        There is no such model, or its card is damaged.
    """
    folder = locate(model)
    return {**read_card(folder), "path": str(folder)}


def list_models(folder: Path) -> list[dict[str, Any]]:
    """Return name, path, shipped and description of the shipped models and of those directly inside a folder."""
    models = []
    for parent, shipped in ((SHIPPED, True), (folder, False)):
        for path in model_folders(parent):
            try:
                card = read_card(path)
            except ModelError as fault:
                card = {"description": str(fault)}
            described = str(card.get("description") or f"preset {card.get('preset', 'unknown')}")
            models.append({"name": path.name, "path": str(path), "shipped": shipped, "description": described})
    return models


def add_scores(folder: Path, scores: dict[str, Any]) -> None:
    """Put scores into the card of a model, in place of earlier ones.

    Raises
    ------
    ModelError
        The card is damaged.
    OutputError
        The folder cannot be written.
    """
    _amend(folder, "scores", scores)


def add_domain(folder: Path, domain: dict[str, Any]) -> None:
    """Put what the training images look like into the card of a model, in place of earlier numbers.

    Parameters
    ----------
    folder : Path
        Of the model.
    domain : dict
        As `quality.domain.describe` returns it.

    Raises
    ------
    ModelError
        The card is damaged.
    OutputError
        The folder cannot be written.
    """
    _amend(folder, "domain", domain)


def _amend(folder: Path, name: str, value: dict[str, Any]) -> None:
    """Replace one entry of a card; the file is replaced at once."""
    card = {**read_card(folder), name: value}
    unfinished = folder / "card.json.part"
    try:
        unfinished.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(folder / "card.json")
    except OSError as fault:
        raise OutputError(f"{folder}/card.json cannot be written ({fault.strerror}); check the folder") from fault
    finally:
        unfinished.unlink(missing_ok=True)
