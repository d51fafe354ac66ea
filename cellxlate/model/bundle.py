"""A trained model on disk: `weights.safetensors`, `card.json`, `preview.png`. No pickle is read or written."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import cellxlate
from cellxlate.errors import ModelError, OutputError
from cellxlate.model.networks import Translator, parameter_count
from cellxlate.settings import AttentionSettings, DiscriminatorSettings, GeneratorSettings, NetworkSettings

FORMAT_VERSION = 1
ARCHITECTURE_VERSION = 1
DEFAULT_MODEL = "nuclei-lowexp"
SHIPPED = Path(__file__).resolve().parents[1] / "models"
LARGEST_CARD_BYTES = 4_000_000
LARGEST_WEIGHTS_BYTES = 2_000_000_000
LARGEST_WIDTH, MOST_BLOCKS, MOST_CHANNELS = 512, 64, 16


@dataclass(frozen=True)
class Bundle:
    """A trained translator with its card.

    Attributes
    ----------
    name : str
        Of its folder.
    translator : Translator
        Generator and attention network, folded, on the CPU.
    card : mapping
        What `card.json` holds.
    path : Path
        Its folder.
    """

    name: str
    translator: Translator
    card: Mapping[str, Any]
    path: Path

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, as the card states it and loading has checked."""
        return str(self.card["weights_sha256"])


def save_bundle(folder: Path, translator: Translator, card: Mapping[str, Any], preview_png: bytes) -> Bundle:
    """Write a bundle; the folder appears under its name when it is complete.

    Parameters
    ----------
    folder : Path
        Must not exist.
    translator : Translator
        Without normalisation layers (see model.statistics).
    card : mapping
        `networks` (NetworkSettings as a dict), preset, training, data, licence, scores; versions, counts and the hash
        of the weights are added.
    preview_png : bytes
        Input, attention and output side by side.

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
        weights = partial / "weights.safetensors"
        tensors = {key: value.detach().cpu().contiguous() for key, value in translator.state_dict().items()}
        save_file(tensors, weights)
        full = {
            "format_version": FORMAT_VERSION,
            "architecture_version": ARCHITECTURE_VERSION,
            "cellxlate_version": cellxlate.__version__,
            "name": folder.name,
            **card,
            "generator_parameters": parameter_count(translator.generator),
            "attention_parameters": parameter_count(translator.attention),
            "generator_halo_px": translator.generator_halo_px,
            "attention_halo_px": translator.attention_halo_px,
            "stride_px": translator.stride,
            "weights_sha256": _sha256(weights),
        }
        (partial / "card.json").write_text(json.dumps(full, indent=1) + "\n", encoding="utf-8")
        (partial / "preview.png").write_bytes(preview_png)
        partial.rename(folder)
    except OSError as fault:
        raise OutputError(f"{folder} cannot be written: {fault}") from fault
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return load_model(folder)


def load_model(model: str | Path = DEFAULT_MODEL) -> Bundle:
    """Load a model by its shipped name or from its folder.

    Parameters
    ----------
    model : str or Path
        "nuclei-lowexp", or a folder that `cellxlate train` wrote. A folder of that name comes first.

    Raises
    ------
    ModelError
        There is no such model, it is damaged, or a newer version wrote it.
    """
    folder = locate(model)
    card = read_card(folder)
    try:
        settings = network_settings(card["networks"])
        translator = Translator(settings)
    except (KeyError, TypeError, ValueError) as fault:
        raise ModelError(f"{folder}/card.json describes no network that can be built ({fault})") from fault
    weights = folder / "weights.safetensors"
    if not weights.is_file():
        raise ModelError(f"{folder} has no weights.safetensors; copy the whole model folder")
    if weights.stat().st_size > LARGEST_WEIGHTS_BYTES or _sha256(weights) != card.get("weights_sha256"):
        raise ModelError(f"{weights} is not the file its card describes (hash differs); copy the model again")
    try:
        tensors = load_file(weights)
        translator.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, OSError) as fault:
        first = str(fault).splitlines()[0]
        raise ModelError(f"{weights} does not fit its card ({first}); copy the model again") from fault
    return Bundle(folder.name, translator.eval().requires_grad_(False), card, folder)


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
    if not isinstance(card, dict) or not isinstance(card.get("format_version"), int):
        raise ModelError(f"{path} states no format_version; is it a model card?")
    for key, known in (("format_version", FORMAT_VERSION), ("architecture_version", ARCHITECTURE_VERSION)):
        if card.get(key, 0) > known:
            raise ModelError(f"{path} has {key} {card[key]}, this cellxlate knows {known}; update cellxlate")
    return card


def network_settings(stored: Mapping[str, Any]) -> NetworkSettings:
    """Rebuild network settings from a card, with limits that hold before anything is allocated.

    Raises
    ------
    ValueError, KeyError, TypeError
        Something is missing, unknown or out of bounds.
    """
    settings = NetworkSettings(
        generator=GeneratorSettings(**stored["generator"]),
        attention=AttentionSettings(**stored["attention"]),
        discriminator=DiscriminatorSettings(**stored["discriminator"]),
        channels=stored["channels"],
    )
    bounds = {
        "generator.width": (settings.generator.width, LARGEST_WIDTH),
        "attention.width": (settings.attention.width, LARGEST_WIDTH),
        "attention.last_width": (settings.attention.last_width, LARGEST_WIDTH),
        "generator.blocks": (settings.generator.blocks, MOST_BLOCKS),
        "attention.blocks": (settings.attention.blocks, MOST_BLOCKS),
        "channels": (settings.channels, MOST_CHANNELS),
    }
    for name, (value, limit) in bounds.items():
        if not isinstance(value, int) or not 1 <= value <= limit:
            raise ValueError(f"{name} is {value!r}, expected 1 to {limit}")
    for kernel_px in (settings.attention.stem_kernel_px, settings.attention.last_kernel_px):
        if kernel_px not in (1, 3, 5, 7, 9, 11):
            raise ValueError(f"a kernel of {kernel_px!r} px, expected odd and at most 11")
    if settings.generator.architecture not in ("resnet", "compact"):
        raise ValueError(f"generator architecture {settings.generator.architecture!r} is not known")
    return settings


def stored_networks(settings: NetworkSettings) -> dict[str, Any]:
    """Return network settings as a card stores them."""
    return asdict(settings)


def model_folders(parent: Path) -> Iterator[Path]:
    """Yield the folders directly inside `parent` that hold a card."""
    if parent.is_dir():
        yield from (path.parent for path in sorted(parent.glob("*/card.json")))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
