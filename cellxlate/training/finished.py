"""What training hands over: the translator with fixed statistics, its card, its picture."""

import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cellxlate.model.attention import change, gate, quantise
from cellxlate.model.bundle import Bundle, save_bundle
from cellxlate.model.networks import TranslatorNetworks
from cellxlate.model.statistics import fix_translator, without_normalisation
from cellxlate.quality.report.pictures import triptych_png
from cellxlate.quality.trust.likeness import describe_planes
from cellxlate.settings import PRESETS, TrainSettings
from cellxlate.stacks.intensity.noise_model import CameraNoise
from cellxlate.training.fields.patches import Domain, Field, Patches, central_sight, has_contrast
from cellxlate.training.watch import AttentionState

STATISTICS_PATCHES = 32
PREVIEW_PX = 256


def finished_translator(
    average: TranslatorNetworks, settings: TrainSettings, patches: Iterable[Patches]
) -> TranslatorNetworks:
    """Return the averaged translator on the CPU with its statistics fixed on source patches and folded."""
    batches = [torch.from_numpy(one.images) for one in patches]
    return fix_translator(average.cpu().eval(), settings.networks, batches)


def statistics_patches(settings: TrainSettings, source: Domain) -> int:
    """Return how many source patches the statistics are measured on; none where nothing is normalised."""
    parts = settings.networks.generator, settings.networks.attention
    return min(STATISTICS_PATCHES, len(source)) if any(part.normalisation != "none" for part in parts) else 0


def training_card(
    settings: TrainSettings,
    paths: tuple[list[Path], list[Path]],
    domains: tuple[Domain, ...],
    *,
    steps: int,
    seconds: float,
    seeds: list[int],
    precision: str,
    last_look: AttentionState | None,
    start: Bundle | None,
    licence: str,
    description: str,
) -> dict[str, Any]:
    """Return what the card says of the training.

    `paths` are source and target as they were given, `seconds` those of all sessions of the run, `seeds` all that were
    tried, of which the last is the model's, and `start` is the model that it began from. The licence is that of the
    weights; the description says what the model is for.
    """
    patches, channels = statistics_patches(settings, domains[0]), channel_facts(domains[0])
    is_alone = settings.backward == "alone"
    agreement = None if last_look is None or np.isnan(last_look.agreement) else last_look.agreement
    names = [[path.name for path in own] for own in paths]
    return {
        "description": description,
        "preset": settings.preset,
        "generalist": settings.backward == "any-camera",
        "networks": asdict(without_normalisation(settings.networks)),
        **({"channels": channels} if channels else {}),
        "statistics": {
            "kind": "fixed at the end of training and folded" if patches else "none needed (no normalisation layers)",
            "source_patches": patches,
        },
        "intensity": {
            name: {
                f"{part}_counts": float(np.median([getattr(one.intensity, part) for one in domain.fields]))
                for part in ("black", "span", "noise")
            }
            for name, domain in zip(("source", "target"), domains, strict=True)
        }
        | _kept_target(start if is_alone else None),
        "domain": describe_planes([(one.stack, one.index) for one in domains[0].fields]),
        "training": {
            "command": command_of(settings, names[0], names[1], start.name if start else None, channels),
            "source": names[0],
            "target": names[1],
            "source_planes": len(domains[0]),
            "target_planes": 0 if is_alone else len(domains[1]),
            "masks": [sum(one.mask is not None for one in domain.fields) for domain in domains],
            "steps": steps,
            "seconds": round(seconds, 1),
            "seed": settings.seed,
            "seeds_tried": seeds,
            "settings": asdict(settings),
            "precision": precision,
            "torch": torch.__version__,
            "python": sys.version.split()[0],
            "start": start and start_facts(start),
            "attention_agreement_with_guide": agreement,
            **({"noise": noise_facts(domains[0].noises)} if is_alone else {}),
        },
        "licence": licence,
        "scores": {},
    }


def channel_facts(source: Domain) -> dict[str, Any]:
    """Return what a card says of channels, by name or number, where some are seen beside the one that is changed."""
    first = source.fields[0]
    if not first.beside:
        return {}

    def called(field: Field) -> str | int:
        number = field.stack.channel_of(field.index)
        return field.stack.channel_names[number] if field.stack.channel_names else number

    return {"own": called(first), "beside": [called(one) for one in first.beside]}


def _kept_target(start: Bundle | None) -> dict[str, Any]:
    """Return the target intensity of the model that learning from the source alone began with; it changes none."""
    stated = (start.card.get("intensity") or {}).get("target") if start else None
    return {"target": stated} if stated else {}


def noise_facts(noises: Iterable[CameraNoise]) -> list[dict[str, Any]]:
    """Return what a card says of the noises that were measured, each once."""
    distinct = {id(noise): noise for noise in noises}
    return [
        {
            "sd_counts": noise.sd_counts, "sd_interval": list(noise.sd_interval), "gain": noise.gain,
            "black_counts": noise.black_counts, "neighbour_correlation": noise.neighbour_correlation,
            "reliable": noise.reliable,
        }
        for noise in distinct.values()
    ]  # fmt: skip


def start_facts(start: Bundle) -> dict[str, Any]:
    """Return what a card says of the model that another stands on."""
    return {
        "name": start.name,
        "weights_sha256": start.digest,
        "steps": steps_in_all(start),
        "licence": start.card.get("licence"),
    }


def steps_in_all(bundle: Bundle) -> int | None:
    """Return the steps that a model was trained for, with those of the models it stands on; None where none says so."""
    training = bundle.card.get("training") or {}
    before = (training.get("start") or {}).get("steps")
    counts = [count for count in (training.get("steps"), before) if isinstance(count, int)]
    return sum(counts) if counts else None


def command_of(
    settings: TrainSettings, source: list[str], target: list[str], start: str | None,
    channels: Mapping[str, Any] | None = None,
) -> str:  # fmt: skip
    """Return the command that trains so; FILE.toml stands for what only a settings file can say, see the settings.

    `channels` are those that `channel_facts` returns.
    """
    options = ["--source", *source] if source else []
    options += ["--target", *target] if target else []
    options += ["--from", start] if start else []
    if channels:
        options += ["--channel", str(channels["own"]), "--beside", *map(str, channels["beside"])]
    options += ["--preset", settings.preset]
    if settings.baseline == "none":
        options += ["--guide", settings.guide, *(["--masks", "DIR"] if settings.guide == "masks" else [])]
    else:
        options += ["--baseline", settings.baseline]
    length = ("--epochs", settings.epochs) if settings.steps is None else ("--steps", settings.steps)
    options += [length[0], str(length[1]), "--seed", str(settings.seed)]
    free = ("baseline", "guide", "epochs", "steps", "seed", *(("backward", "lambda_adversarial")
            if settings.baseline == "cyclegan" else ()))  # fmt: skip
    same = {name: getattr(settings, name) for name in free}
    preset = PRESETS[settings.preset]
    preset = replace(preset, networks=replace(preset.networks, beside=settings.networks.beside))
    if start:  # says these two
        preset = replace(preset, networks=settings.networks, learning_rate=settings.learning_rate)
    if replace(preset, **same) != settings:
        options += ["--settings", "FILE.toml"]
    return shlex.join(["cellxlate", "train", *options])


def saved_model(
    output: Path, translator: TranslatorNetworks, card: dict[str, Any], picture: bytes, start: Bundle | None
) -> Bundle:
    """Write a finished model: networks that see neighbours beside those of the model that they began from."""
    if not translator.context:
        return save_bundle(output, translator, card, picture)
    assert start is not None  # `require_start` has checked it
    return save_bundle(
        output, start.translator, {**start.card, "context": {"training": card["training"]}}, picture, translator
    )


def preview(translator: TranslatorNetworks, source: Domain, threshold: float) -> bytes:
    """Return a PNG of input, attention and output on the first source field with contrast."""
    chosen = next((one for one in source.fields if has_contrast(one)), source.fields[0])
    return picture_of(translator, central_sight(chosen, PREVIEW_PX), threshold)


def picture_of(translator: TranslatorNetworks, seen: npt.NDArray[np.float32], threshold: float) -> bytes:
    """Return a PNG of input, attention and output, of the middle of what networks see in unit range.

    That is (Y, X), which stands for all that they see, or (C, Y, X), of which the first is changed.
    """
    top, left = (max((size - PREVIEW_PX) // 2, 0) for size in seen.shape[-2:])
    seen = seen[..., top : top + PREVIEW_PX, left : left + PREVIEW_PX]
    rows, columns = (size - size % translator.stride for size in seen.shape[-2:])
    seen = np.ascontiguousarray(seen[..., :rows, :columns])
    unit = seen if seen.ndim == 2 else seen[0]
    device = next(translator.parameters()).device
    with torch.inference_mode():
        batch = torch.from_numpy(seen).expand(1, translator.inputs, rows, columns).to(device)
        attention, proposal = (
            network(batch)[0, 0].cpu().numpy() for network in (translator.attention, translator.generator)
        )
    opened = gate(quantise(attention), threshold)
    return triptych_png(unit, opened, unit + change(opened, proposal, unit))
