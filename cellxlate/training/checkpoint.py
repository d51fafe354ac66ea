"""A training run on disk: weights, average, optimisers and pools, in safetensors and JSON, written atomically."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from cellxlate.errors import ModelError, OutputError, unless_denied
from cellxlate.model.bundle import save_tensors
from cellxlate.options import TRAIN_RESUME
from cellxlate.stacks.naming import one_line
from cellxlate.training.losses import HistoryPool

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class RunState:
    """Everything that changes while training; random numbers are functions of (seed, step) and need no saving."""

    modules: Mapping[str, nn.Module]
    optimisers: Mapping[str, torch.optim.Optimizer]
    pools: Mapping[str, HistoryPool]

    @property
    def finite(self) -> bool:
        """Whether all weights are finite numbers."""
        return all(
            bool(torch.isfinite(value).all())
            for module in self.modules.values()
            for value in (*module.parameters(), *module.buffers())
        )


def save_checkpoint(folder: Path, state: RunState, notes: Mapping[str, Any]) -> None:
    """Write the state and some notes (step, settings) so that a crash leaves the old or the new checkpoint.

    Raises
    ------
    OutputError
        The disk is full or refuses; the old checkpoint is kept, and nothing of the new one.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in state.modules.items():
        tensors |= {f"module/{name}/{key}": value for key, value in module.state_dict().items()}
    for name, optimiser in state.optimisers.items():
        for number, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{name}/{number}/{key}": torch.as_tensor(value) for key, value in moments.items()}
    for name, pool in state.pools.items():
        for number, (image, mask) in enumerate(pool.pairs):
            tensors |= {f"pool/{name}/{number}/image": image, f"pool/{name}/{number}/mask": mask}
    stored = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    partial = folder / "checkpoint.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(stored, partial, {"notes": json.dumps(notes)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(folder / CHECKPOINT)
    except OSError as fault:
        kept = "the one before is kept" if (folder / CHECKPOINT).exists() else "there is none before"
        raise OutputError(
            f"the checkpoint cannot be written to {folder} ({one_line(fault)})",
            remedy=(f"{kept}: free some space, then go on with ", TRAIN_RESUME),
        ) from fault
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def read_notes(folder: Path) -> dict[str, Any]:
    """Return the notes of a checkpoint.

    Raises
    ------
    ModelError
        There is none, or it is damaged.
    """
    try:
        (folder / CHECKPOINT).open("rb").close()  # which says what is denied; safetensors calls it missing
        with safe_open(folder / CHECKPOINT, framework="pt") as file:
            notes: dict[str, Any] = json.loads(file.metadata()["notes"])
            return notes
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as fault:
        damaged = ModelError(f"{folder} holds no checkpoint that can be resumed ({fault}); remove it and train again")
        raise unless_denied(damaged, folder, fault) from fault


def restore_checkpoint(folder: Path, state: RunState) -> None:
    """Load a checkpoint into a run of the same settings.

    Raises
    ------
    ModelError
        It is damaged, or of other networks.
    """
    try:
        _restore(load_file(folder / CHECKPOINT), state)
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as fault:
        first = (str(fault).splitlines() or [""])[0]
        raise ModelError(
            f"the checkpoint in {folder} does not fit this run ({first}); remove it and train again"
        ) from fault


def _restore(tensors: Mapping[str, Tensor], state: RunState) -> None:
    for name, module in state.modules.items():
        module.load_state_dict(_below(tensors, f"module/{name}/"))
    for name, optimiser in state.optimisers.items():
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in _below(tensors, f"optimiser/{name}/").items():
            number, moment = key.split("/")
            moments.setdefault(int(number), {})[moment] = value
        full = optimiser.state_dict()
        full["state"] = moments
        optimiser.load_state_dict(full)
        for parameter, kept in optimiser.state.items():
            for moment, value in kept.items():
                if value.shape == parameter.shape:  # in memory as the weights are: fused Adam goes by that order
                    kept[moment] = torch.empty_like(parameter).copy_(value)
    device = next(next(iter(state.modules.values())).parameters()).device
    for name, pool in state.pools.items():
        kept = _below(tensors, f"pool/{name}/")
        pool.pairs = [
            (kept[f"{number}/image"].to(device), kept[f"{number}/mask"].to(device)) for number in range(len(kept) // 2)
        ]


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, under the rest of their names."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
