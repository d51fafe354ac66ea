"""A trained model on disk: `weights.safetensors`, `card.json`, `preview.png`. No pickle is read or written."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

import cellxlate
from cellxlate.errors import ModelError
from cellxlate.model.archive import CARD, WEIGHTS, read_part
from cellxlate.model.cards import (
    ARCHITECTURE_VERSION,
    DEFAULT_MODEL,
    FORMAT_VERSION,
    locate,
    model_name,
    read_card,
    whole_folder,
)
from cellxlate.model.layers import parameter_count
from cellxlate.model.networks import TranslatorNetworks
from cellxlate.settings import AttentionSettings, DiscriminatorSettings, GeneratorSettings, NetworkSettings
from cellxlate.stacks.naming import one_line

LARGEST_WEIGHTS_BYTES = 2_000_000_000
LARGEST_HEADER_BYTES = 1_000_000
"""What safetensors may hold beside the numbers: names, shapes, places."""

LIMITS = {"width": 512, "last_width": 512, "blocks": 64, "levels": 6, "layers": 6}
"""Of the numbers of a network's settings, in the order in which they are looked at."""
MOST_CHANNELS = 16
KERNELS_PX = (1, 3, 5, 7, 9, 11)
BYTES_PER_WEIGHT = 4


@dataclass(frozen=True)
class Bundle:
    """A trained translator with its card.

    Attributes
    ----------
    name : str
        Of its folder, or of its archive without the ending.
    translator : TranslatorNetworks
        Generator and attention network, folded, on the CPU.
    card : mapping
        What `card.json` holds.
    path : Path
        Its folder, or its archive.
    """

    name: str
    translator: TranslatorNetworks
    card: Mapping[str, Any]
    path: Path

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, as the card states it and loading has checked."""
        return str(self.card["weights_sha256"])


def save_bundle(folder: Path, translator: TranslatorNetworks, card: Mapping[str, Any], preview_png: bytes) -> Bundle:
    """Write a bundle; the folder appears under its name when it is complete.

    Parameters
    ----------
    folder : Path
        Must not exist.
    translator : TranslatorNetworks
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
    tensors = {key: value.detach().cpu().contiguous() for key, value in translator.state_dict().items()}
    with whole_folder(folder) as partial:
        weights = partial / WEIGHTS
        save_tensors(tensors, weights)
        full = {
            **card,
            "format_version": FORMAT_VERSION,
            "architecture_version": ARCHITECTURE_VERSION,
            "cellxlate_version": cellxlate.__version__,
            "name": folder.name,
            "generator_parameters": parameter_count(translator.generator),
            "attention_parameters": parameter_count(translator.attention),
            "generator_halo_px": translator.generator_halo_px,
            "attention_halo_px": translator.attention_halo_px,
            "stride_px": translator.stride,
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
        (partial / CARD).write_text(json.dumps(full, indent=1) + "\n", encoding="utf-8")
        (partial / "preview.png").write_bytes(preview_png)
        load_model(partial)  # nothing gets its name that cannot be loaded
    return load_model(folder)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path, notes: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with the rights that the umask says; what the library writes itself is for its owner.

    Raises
    ------
    OSError
        The disk is full or refuses.
    """
    path.write_bytes(save(dict(tensors), metadata=dict(notes) if notes else None))


def load_model(model: str | Path = DEFAULT_MODEL) -> Bundle:
    """Load a model by its shipped name, from its folder, or from a zip archive of its folder.

    Parameters
    ----------
    model : str or Path
        "nuclei-lowexp", a folder that `cellxlate train` wrote, an archive of such a folder, or a package that
        `cellxlate export` wrote. A folder of that name comes first.

    Raises
    ------
    ModelError
        There is no such model, it is damaged, or a newer version wrote it.

    Notes
    -----
    Nothing is unpacked, no pickle is opened, and before the card is checked at most 4 MB are read. What is hashed are
    the bytes that are then used.
    """
    path = locate(model)
    card = read_card(path)
    weights = path / WEIGHTS
    translator = described_translator(path, card)
    needed = BYTES_PER_WEIGHT * parameter_count(translator)
    if needed > LARGEST_WEIGHTS_BYTES:
        raise ModelError(
            f"{path}: its card describes {needed} bytes of weights, at most {LARGEST_WEIGHTS_BYTES} are read; copy "
            "the model again"
        )
    stored = read_part(path, WEIGHTS, most_bytes=needed + LARGEST_HEADER_BYTES)
    if len(stored) < needed:
        raise ModelError(f"{weights} holds {len(stored)} bytes, its card describes {needed}; copy the model again")
    if hashlib.sha256(stored).hexdigest() != card.get("weights_sha256"):
        raise ModelError(f"{weights} is not the file its card describes (hash differs); copy the model again")
    try:
        tensors = load(stored)
        translator.load_state_dict(tensors, assign=True)
    except (SafetensorError, RuntimeError, ValueError, LookupError, TypeError, AttributeError) as fault:
        first = (str(fault).splitlines() or [type(fault).__name__])[0]
        raise ModelError(f"{weights} does not fit its card ({first[:300]}); copy the model again") from fault
    for name, values in tensors.items():
        if values.dtype != torch.float32 or not bool(torch.isfinite(values).all()):
            raise ModelError(f"{weights}: {name} holds {values.dtype} or numbers that are not finite; train again")
    return Bundle(model_name(path), translator.eval().requires_grad_(False), card, path)


def described_translator(folder: Path, card: Mapping[str, Any]) -> TranslatorNetworks:
    """Build the translator that a card describes without memory for its weights (on the meta device).

    Raises
    ------
    ModelError
        The card describes nothing that can be built.
    """
    try:
        settings = network_settings(card["networks"])
    except (KeyError, TypeError, ValueError) as fault:
        what = "settings that are missing or not known" if isinstance(fault, TypeError) else one_line(repr(fault))
        raise ModelError(f"{folder}/card.json describes no network that can be built ({what})") from fault
    with torch.device("meta"):
        return TranslatorNetworks(settings)


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
    numbers = [
        (f"{name}.{number}", getattr(getattr(settings, name), number), limit)
        for name in ("generator", "attention", "discriminator")
        for number, limit in LIMITS.items()
        if hasattr(getattr(settings, name), number)
    ]
    for name, value, limit in [*numbers, ("channels", settings.channels, MOST_CHANNELS)]:
        if type(value) is not int or not 1 <= value <= limit:
            raise ValueError(f"{name} is {value!r}, expected 1 to {limit}")
    for kernel_px in (settings.attention.stem_kernel_px, settings.attention.last_kernel_px):
        if type(kernel_px) is not int or kernel_px not in KERNELS_PX:
            raise ValueError(f"a kernel of {kernel_px!r} px, expected odd and at most {KERNELS_PX[-1]}")
    for part, known in (
        (settings.generator, ("resnet", "compact", "unet")), (settings.attention, ("paper", "pyramid"))
    ):  # fmt: skip
        if part.architecture not in known:
            raise ValueError(f"architecture {part.architecture!r} is not known; known are {', '.join(known)}")
        if part.architecture in ("unet", "pyramid") and part.levels < 2:
            raise ValueError(f"a {part.architecture} of {part.levels} levels, expected 2 or more")
    for network in (settings.generator, settings.attention):
        if network.normalisation != "none":
            raise ValueError(f"normalisation {network.normalisation!r}, expected none: statistics must be folded in")
    return settings
