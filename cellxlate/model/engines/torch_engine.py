"""Torch as an engine: on the CPU, CUDA or Apple's MPS."""

import os
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellxlate.errors import OptionError
from cellxlate.model.attention import Floats
from cellxlate.model.engines.memory import is_out_of_memory
from cellxlate.option_values import require_choice
from cellxlate.options import DEVICE

Device = Literal["auto", "cpu", "cuda", "mps"]

# oneDNN prepares every shape of window once and keeps 1024 of what it has prepared; tiles that are fitted to cells have
# more, and a fifth of their time went into preparing them again. It looks here when it first computes.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")


def choose_device(device: Device) -> torch.device:
    """Return the device that is asked for; `auto` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    OptionError
        The device is not there.
    """
    require_choice(DEVICE, device, get_args(Device))
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if available[name]))
    if not available.get(device, False):
        names = ", ".join(name for name, present in available.items() if present)
        raise OptionError(DEVICE.of(device), " is not available here", remedy=f"available: {names}")
    return torch.device(device)


class OneDnnConvolution(nn.Module):
    """A convolution that oneDNN computes in every case.

    Torch itself gives small single images to another algorithm, which on some processors rounds differently: the same
    pixel of a small and of a large window would differ in its last bit.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.stride, self.dilation, self.groups = list(layer.stride), list(layer.dilation), layer.groups
        rows, columns = (int(size) for size in layer.padding)
        self.padding = [rows, columns]
        self.around = (columns, columns, rows, rows) if layer.padding_mode != "zeros" else None
        self.mode = layer.padding_mode

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, Y, X) as the layer does."""
        padding = self.padding
        if self.around is not None:
            images, padding = functional.pad(images, self.around, self.mode), [0, 0]
        return torch.mkldnn_convolution(
            images, self.weight, self.bias, padding, self.stride, self.dilation, self.groups
        )


def by_onednn(network: nn.Module) -> nn.Module:
    """Replace the convolutions of a network by those of oneDNN, where this torch has it, and return the network."""
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        for name, layer in list(network.named_modules()):
            if isinstance(layer, nn.Conv2d):
                network.set_submodule(name, OneDnnConvolution(layer))
    return network


def torch_network(network: nn.Module, device: torch.device, dtype: torch.dtype) -> Callable[[Floats], Floats]:
    """Return a network as a function of arrays (B, C, Y, X) float32, run by torch on a device in float32 or bfloat16.

    The network, as `inference.for_inference` makes it, is moved. Raises MemoryError where the device has too little.
    """
    placed = network.to(device, dtype)

    def run(images: Floats) -> Floats:
        try:
            with torch.inference_mode():
                inputs: Tensor = torch.from_numpy(images).to(device, dtype, memory_format=torch.channels_last)
                outputs: Floats = placed(inputs).float().cpu().numpy()
                return outputs
        except RuntimeError as fault:
            if not is_out_of_memory(fault):
                raise
        if device.type == "cuda":
            torch.cuda.empty_cache()
        # raised outside: the traceback holds arrays
        raise MemoryError(f"{device.type} has not enough memory for {images.shape}")

    return run
