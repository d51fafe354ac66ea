"""Packages of the BioImage Model Zoo as others write them: networks of plain torch, described by hand, 0.4 and 0.5."""

import hashlib
import io
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

Steps = Sequence[tuple[str, Mapping[str, Any]]]
"""Names of processing, and what each is told."""
NAMES = {"b": "batch", "c": "channel"}


def plain_network(channels: int = 1, *, is_volume: bool = False, seed: int = 0) -> nn.Module:
    """Return a network that keeps most of its input: what is added to it looks three pixels around each."""
    torch.manual_seed(seed)
    convolution = nn.Conv3d if is_volume else nn.Conv2d
    return Residual(
        nn.Sequential(
            convolution(channels, 6, 3, padding=1), nn.ReLU(), convolution(6, channels, 5, padding=2)
        )
    )  # fmt: skip


class Residual(nn.Module):
    """An image and half of what a network makes of it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (B, C, ...) of the same."""
        return images + self.inner(images) / 2


class ChannelsLast(nn.Module):
    """A network whose arrays have the channels last."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (B, Y, X, C) of the same."""
        made: torch.Tensor = self.inner(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return made


def onnx_of(network: nn.Module, shape: Sequence[int]) -> bytes:
    """Return a network as ONNX, by torch's own exporter; sides of 0 are free."""
    stored = io.BytesIO()
    free = {axis: f"side{axis}" for axis, side in enumerate(shape) if not side}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (torch.rand([side or 32 for side in shape]),), stored, dynamo=False,
            input_names=["given"], output_names=["made"], dynamic_axes={"given": free, "made": free},
        )  # fmt: skip
    return stored.getvalue()


def described(
    network: bytes, version: str = "0.5", *, before: Steps = (), after: Steps = (), axes: str = "bcyx",
    channels: int = 1, sides: Mapping[str, Any] | None = None, dtype: str = "float32", **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return the description of a package with one network, `model.onnx`."""
    sides = dict.fromkeys("zyx", (8, 1)) | dict(sides or {})
    make = _new_tensors if version == "0.5" else _old_tensors
    given, made = make(before, after, axes, channels, sides, dtype)
    return {
        "type": "model", "format_version": {"0.5": "0.5.4", "0.4": "0.4.10"}[version], "name": "a model of others",
        "license": "CC-BY-4.0", "cite": [{"text": "Who et al., How, 2024", "doi": "10.1000/example"}],
        "authors": [{"name": "Somebody"}], "description": "made in a test",
        "inputs": [given], "outputs": [made],
        "weights": {
            "onnx": {"source": "model.onnx", "sha256": hashlib.sha256(network).hexdigest(), "opset_version": 17}
        },
    } | more  # fmt: skip


def _steps(key: str, steps: Steps) -> list[dict[str, Any]]:
    return [{key: name, **({"kwargs": dict(kwargs)} if kwargs else {})} for name, kwargs in steps]


def _old_tensors(
    before: Steps, after: Steps, axes: str, channels: int, sides: Mapping[str, Any], dtype: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    sizes = {"b": (1, 0), "c": (channels, 0)} | {axis: (one, 0) if isinstance(one, int) else one
                                                for axis, one in sides.items()}  # fmt: skip
    shape = {"min": [sizes[axis][0] for axis in axes], "step": [sizes[axis][1] for axis in axes]}
    given = {
        "name": "raw", "axes": axes, "data_type": dtype, "shape": shape,
        "preprocessing": _steps("name", before),
    }  # fmt: skip
    made = {
        "name": "clean", "axes": axes, "data_type": "float32", "halo": [0] * len(axes),
        "shape": {"reference_tensor": "raw", "scale": [1.0] * len(axes), "offset": [0.0] * len(axes)},
        "postprocessing": _steps("name", after),
    }  # fmt: skip
    return given, made


def _new_tensors(
    before: Steps, after: Steps, axes: str, channels: int, sides: Mapping[str, Any], dtype: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    names = [f"channel{number}" for number in range(channels)]

    def axis_of(axis: str, size: Any) -> dict[str, Any]:
        if axis == "b":
            return {"type": "batch"}
        if axis == "c":
            return {"type": "channel", "channel_names": names}
        return {"type": "space", "id": axis, "size": size}

    def input_size(axis: str) -> Any:
        one = sides.get(axis)
        return {"min": one[0], "step": one[1]} if isinstance(one, tuple) else one

    given = {
        "id": "raw", "data": {"type": dtype}, "axes": [axis_of(axis, input_size(axis)) for axis in axes],
        "preprocessing": _steps("id", before),
    }  # fmt: skip
    made = {
        "id": "clean", "data": {"type": "float32"},
        "axes": [axis_of(axis, {"tensor_id": "raw", "axis_id": axis}) for axis in axes],
        "postprocessing": _steps("id", after),
    }  # fmt: skip
    return given, made


def write_package(place: Path, weights: bytes, description: Mapping[str, Any], name: str = "rdf.yaml") -> Path:
    """Write a package as a folder, or as an archive where the name ends so, and return where it lies."""
    files = {name: yaml.safe_dump(dict(description)).encode(), "model.onnx": weights}
    if place.suffix == ".zip":
        with zipfile.ZipFile(place, "w") as archive:
            for one, content in files.items():
                archive.writestr(one, content)
        return place
    place.mkdir(parents=True, exist_ok=True)
    for one, content in files.items():
        (place / one).write_bytes(content)
    return place
