"""A trained model on disk: `weights.safetensors`, `card.json`, `preview.png`. No pickle is read or written."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

import cellxlate
from cellxlate.errors import ModelError, OptionError
from cellxlate.model import architecture
from cellxlate.model.archive import CARD, WEIGHTS, read_part
from cellxlate.model.cards import (
    ARCHITECTURE_VERSION,
    DEFAULT_MODEL,
    FORMAT_VERSION,
    amend_card,
    locate,
    model_name,
    read_card,
    whole_folder,
)
from cellxlate.model.layers import Described, parameter_count
from cellxlate.model.probe import computed_by_torch, stated_of
from cellxlate.options import INTENSITY
from cellxlate.settings import (
    MOST_BESIDE,
    MOST_CONTEXT,
    MOST_ROOM,
    AttentionSettings,
    DiscriminatorSettings,
    GeneratorSettings,
    NetworkSettings,
)
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.naming import one_line

if TYPE_CHECKING:
    import torch

    from cellxlate.model.networks import TranslatorNetworks

LARGEST_WEIGHTS_BYTES = 2_000_000_000
LARGEST_HEADER_BYTES = 1_000_000
"""What safetensors may hold beside the numbers: names, shapes, places."""

LIMITS = {"width": 512, "last_width": 512, "blocks": 64, "levels": 6, "layers": 6}
"""Of the numbers of a network's settings, in the order in which they are looked at."""
MOST_CHANNELS = 16
CONTEXT = "context."
"""The names of the weights of the pair that sees neighbours begin with it."""
KERNELS_PX = (1, 3, 5, 7, 9, 11)
BYTES_PER_WEIGHT = 4


@dataclass(frozen=True)
class Bundle:
    """A trained translator with its card.

    Attributes
    ----------
    name : str
        Of its folder, or of its archive without the ending.
    networks : Described
        Generator and attention network, folded, as values.
    card : mapping
        What `card.json` holds.
    path : Path
        Its folder, or its archive.
    neighbours : Described or None
        A second pair of networks, which see the planes beside each as well; None where it was not trained for that.
    """

    name: str
    networks: Described
    card: Mapping[str, Any]
    path: Path
    neighbours: Described | None = None

    @cached_property
    def in_context(self) -> "Bundle | None":
        """The same model with the networks that see neighbours in place of those that see a plane alone."""
        if self.neighbours is None:
            return None
        card = {**self.card, "probe": (self.card.get("context") or {}).get("probe")}
        return replace(self, networks=self.neighbours, card=card, neighbours=None)

    def seeing(self, planes: int) -> "Bundle":
        """Return the model that sees so many planes on either side: itself for none, else `in_context`.

        Raises
        ------
        ModelError
            It has no networks that do.
        """
        if not planes:
            return self
        if self.in_context is None or self.in_context.networks.settings.context != planes:
            raise ModelError(f"{self.name} has no networks that see {planes} planes on either side of one")
        return self.in_context

    @cached_property
    def translator(self) -> "TranslatorNetworks":
        """The networks as modules of torch on the CPU, made when they are first asked for."""
        from cellxlate.model.networks import translator_of

        return translator_of(self.networks)

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, as the card states it and loading has checked."""
        return str(self.card["weights_sha256"])

    def with_weights(self, translator: "TranslatorNetworks") -> "Bundle":
        """Return a bundle in memory with other weights; its card states no probe, which would tell of the old ones."""
        from cellxlate.model.networks import values_of

        return replace(self, networks=values_of(translator), card={**self.card, "probe": None})


def save_bundle(
    folder: Path, translator: "TranslatorNetworks", card: Mapping[str, Any], preview_png: bytes,
    neighbours: "TranslatorNetworks | None" = None,
) -> Bundle:  # fmt: skip
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
    neighbours : TranslatorNetworks, optional
        The pair that sees neighbours, without normalisation layers.

    Raises
    ------
    OutputError
        The folder exists, or cannot be written.
    """
    states = {"": translator, **({CONTEXT: neighbours} if neighbours else {})}
    tensors = {
        f"{prefix}{key}": value.detach().cpu().contiguous()
        for prefix, own in states.items()
        for key, value in own.state_dict().items()
    }
    own = {name: value for name, value in card.items() if name != "context"}  # a pair that is not saved is not stated
    card = own if not neighbours else {**card, "context": {**card.get("context", {}), **_context_facts(neighbours)}}
    with whole_folder(folder) as partial:
        weights = partial / WEIGHTS
        save_tensors(tensors, weights)
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
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
            "weights_sha256": digest,
        }
        (partial / CARD).write_text(json.dumps(full, indent=1) + "\n", encoding="utf-8")
        (partial / "preview.png").write_bytes(preview_png)
        loaded = load_model(partial)  # nothing gets its name that cannot be loaded
        amend_card(partial, "probe", stated_of(computed_by_torch(loaded.translator), digest))
        if loaded.in_context:
            probe = stated_of(computed_by_torch(loaded.in_context.translator), digest)
            amend_card(partial, "context", {**loaded.card["context"], "probe": probe})
    return load_model(folder)


def _context_facts(neighbours: "TranslatorNetworks") -> dict[str, Any]:
    return {
        "planes": neighbours.context,
        "networks": asdict(neighbours.settings),
        "generator_halo_px": neighbours.generator_halo_px,
        "attention_halo_px": neighbours.attention_halo_px,
    }


def save_tensors(tensors: Mapping[str, "torch.Tensor"], path: Path, notes: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with the rights that the umask says; what the library writes itself is for its owner.

    Raises
    ------
    OSError
        The disk is full or refuses.
    """
    from safetensors.torch import save

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
    empty = {"": described_networks(path, card.get("networks"))}
    if isinstance(context := card.get("context"), dict):
        empty[CONTEXT] = described_networks(path, context.get("networks"))
    if len({pair.settings.beside for pair in empty.values()}) > 1:
        raise ModelError(f"{path}: its networks differ in how many channels they see beside; copy the model again")
    needed = BYTES_PER_WEIGHT * sum(
        parameter_count(network) for pair in empty.values() for network in (pair.generator, pair.attention)
    )
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
        arrays = load(stored)
        networks = with_arrays(empty, arrays)
    except (SafetensorError, RuntimeError, ValueError, LookupError, TypeError, AttributeError) as fault:
        first = (str(fault).splitlines() or [type(fault).__name__])[0]
        raise ModelError(f"{weights} does not fit its card ({first[:300]}); copy the model again") from fault
    for name, values in arrays.items():
        if values.dtype != np.float32 or not bool(np.isfinite(values).all()):
            raise ModelError(f"{weights}: {name} holds {values.dtype} or numbers that are not finite; train again")
    return Bundle(model_name(path), networks[""], card, path, networks.get(CONTEXT))


def described_networks(folder: Path, stated: Any) -> Described:
    """Return the networks that a card states, without memory for their weights.

    Raises
    ------
    ModelError
        It states nothing that can be built.
    """
    try:
        settings = network_settings(stated)
    except (KeyError, TypeError, ValueError) as fault:
        what = "settings that are missing or not known" if isinstance(fault, TypeError) else one_line(repr(fault))
        raise ModelError(f"{folder}/card.json describes no network that can be built ({what})") from fault
    generator, attention = (
        architecture.network_of(part, settings.channels, settings.context, settings.beside)
        for part in (settings.generator, settings.attention)
    )
    return Described(settings, generator, attention)


def with_arrays(pairs: Mapping[str, Described], arrays: Mapping[str, Any]) -> dict[str, Described]:
    """Return pairs of networks with weights, which are called as torch calls them, after the name of their pair.

    Raises
    ------
    KeyError, ValueError
        One is missing, of another shape, or there is one more.
    """
    made, known = {}, set()
    for prefix, pair in pairs.items():
        networks = []
        for name, network in (("generator", pair.generator), ("attention", pair.attention)):
            begin = f"{prefix}{name}.layers."
            networks.append(replace(network, layers=architecture.filled(network.layers, arrays, begin)))
            known |= {key for key, _ in architecture.named_arrays(network.layers, begin)}
        made[prefix] = Described(pair.settings, *networks)
    if further := arrays.keys() - known:
        raise ValueError(f"{min(further)} is not part of it")
    return made


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
        context=stored.get("context", 0),
        beside=stored.get("beside", 0),
    )
    for name, count, most in (("context", settings.context, MOST_CONTEXT), ("beside", settings.beside, MOST_BESIDE)):
        if type(count) is not int or not 0 <= count <= most:
            raise ValueError(f"{name} is {count!r}, expected 0 to {most}")
    numbers = [
        (f"{name}.{number}", getattr(getattr(settings, name), number), limit)
        for name in ("generator", "attention", "discriminator")
        for number, limit in LIMITS.items()
        if hasattr(getattr(settings, name), number)
    ]
    for name, value, limit in [*numbers, ("channels", settings.channels, MOST_CHANNELS)]:
        if type(value) is not int or not 1 <= value <= limit:
            raise ValueError(f"{name} is {value!r}, expected 1 to {limit}")
    room = settings.generator.room
    if type(room) not in (int, float) or not 0 <= room <= MOST_ROOM:
        raise ValueError(f"generator.room is {room!r}, expected 0 to {MOST_ROOM}")
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


def target_levels(bundle: Bundle) -> IntensityRange:
    """Return the typical levels of the images the model was trained towards.

    Raises
    ------
    OptionError
        The card does not say them.
    """
    try:
        stated = bundle.card["intensity"]["target"]
        black = float(stated["black_counts"])
        return IntensityRange(black, black + float(stated["span_counts"]))
    except (KeyError, TypeError, ValueError) as fault:
        raise OptionError(
            f"the card of {bundle.name} states no target intensity", remedy=("use ", INTENSITY.of("source"))
        ) from fault
