"""Torch as an engine: on the CPU, CUDA or Apple's MPS."""

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellxlate.model.architecture import Network
from cellxlate.model.attention import Floats
from cellxlate.model.engines.devices import DeviceKind
from cellxlate.model.engines.memory import is_out_of_memory
from cellxlate.model.engines.threads import pass_on_to_torch
from cellxlate.model.networks import running
from cellxlate.settings import Precision

# oneDNN prepares every shape of window once and keeps 1024 of what it has prepared; tiles that are fitted to cells have
# more, and a fifth of their time went into preparing them again. It looks here when it first computes.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
pass_on_to_torch()


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
            if not (isinstance(fault, torch.OutOfMemoryError) or is_out_of_memory(fault)):
                raise
        if device.type == "cuda":
            torch.cuda.empty_cache()
        # raised outside: the traceback holds arrays
        raise MemoryError(f"{device.type} has not enough memory for {images.shape}")

    return run


def torch_engine(
    network: Network, kind: DeviceKind, precision: Precision, check: Callable[[], None]
) -> Callable[[Floats], Floats]:
    """Return a network, as `inference.for_inference` makes it, run by torch, which calls `check` before each layer."""
    is_exact = kind == "cpu" and precision == "float32"
    prepared = running(network)
    layers: nn.Module = by_onednn(prepared) if is_exact else prepared
    for layer in layers.modules():
        if not any(True for _ in layer.children()):
            layer.register_forward_pre_hook(lambda _layer, _inputs: check())
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return torch_network(layers, torch.device(kind), dtype)
