"""A training run on disk: weights, moving average, optimisers and pools, in safetensors and JSON, written atomically."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cellxlate.errors import ModelError
from cellxlate.training.losses import HistoryPool


@dataclass(frozen=True)
class RunState:
    """Everything that changes while training; random numbers are functions of (seed, step) and need no saving."""

    modules: Mapping[str, nn.Module]
    optimisers: Mapping[str, torch.optim.Optimizer]
    pools: Mapping[str, HistoryPool]


def save_checkpoint(folder: Path, state: RunState, notes: Mapping[str, Any]) -> None:
    """Write the state and some notes (step, settings) so that a crash leaves the old or the new checkpoint."""
    tensors: dict[str, Tensor] = {}
    for name, module in state.modules.items():
        tensors |= {f"module/{name}/{key}": value for key, value in module.state_dict().items()}
    for name, optimiser in state.optimisers.items():
        for place, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{name}/{place}/{key}": torch.as_tensor(value) for key, value in moments.items()}
    for name, pool in state.pools.items():
        for place, (image, mask) in enumerate(pool.pairs):
            tensors |= {f"pool/{name}/{place}/image": image, f"pool/{name}/{place}/mask": mask}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "checkpoint.partial"
    save_file(
        {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()},
        partial,
        metadata={"notes": json.dumps(notes)},
    )
    partial.replace(folder / "checkpoint.safetensors")


def read_notes(folder: Path) -> dict[str, Any]:
    """Return the notes of a checkpoint.

    Raises
    ------
    ModelError
        There is none, or it is damaged.
    """
    from safetensors import safe_open

    try:
        with safe_open(folder / "checkpoint.safetensors", framework="pt") as file:
            notes: dict[str, Any] = json.loads(file.metadata()["notes"])
            return notes
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as fault:
        raise ModelError(
            f"{folder} holds no checkpoint that can be resumed ({fault}); remove it and train again"
        ) from fault


def restore_checkpoint(folder: Path, state: RunState) -> None:
    """Load a checkpoint into a run of the same settings."""
    tensors = load_file(folder / "checkpoint.safetensors")
    for name, module in state.modules.items():
        prefix = f"module/{name}/"
        module.load_state_dict(
            {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        )
    for name, optimiser in state.optimisers.items():
        prefix = f"optimiser/{name}/"
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(prefix):
                place, moment = key.removeprefix(prefix).split("/")
                moments.setdefault(int(place), {})[moment] = value
        full = optimiser.state_dict()
        full["state"] = moments
        optimiser.load_state_dict(full)
    for name, pool in state.pools.items():
        count = sum(key.startswith(f"pool/{name}/") for key in tensors) // 2
        pool.pairs = [
            (tensors[f"pool/{name}/{place}/image"], tensors[f"pool/{name}/{place}/mask"]) for place in range(count)
        ]
