"""A bundle becomes something that runs: numpy in, numpy out, on the processor that is asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cellxlate.errors import OptionError
from cellxlate.model.bundle import Bundle
from cellxlate.model.networks import activation_bytes_per_px

Device = Literal["auto", "cpu", "cuda", "mps"]
Engine = Literal["auto", "torch", "openvino", "onnxruntime"]


class TorchTranslator:
    """A translator run by torch.

    Attributes
    ----------
    name : str
        For the report, for example "torch 2.13.0 cpu".
    stride : int
        Tile origins are multiples of it, in pixels.
    generator_halo_px, attention_halo_px : int
        Margins the two networks need, in pixels.
    activation_bytes_per_px : float
        Memory the generator works in, per pixel of its window.
    """

    def __init__(self, bundle: Bundle, device: torch.device) -> None:
        self._device = device
        self._generator = bundle.translator.generator.to(device)
        self._attention = bundle.translator.attention.to(device)
        self.name = f"torch {torch.__version__} {device.type}"
        self.stride = bundle.translator.stride
        self.generator_halo_px = bundle.translator.generator_halo_px
        self.attention_halo_px = bundle.translator.attention_halo_px
        self.activation_bytes_per_px = activation_bytes_per_px(self._generator)

    def attention(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map images (B, C, Y, X) in unit range to attention (B, 1, Y, X) in [0, 1]."""
        return self._run(self._attention, images)

    def proposal(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map images (B, C, Y, X) in unit range to what they would look like in the target domain, same shape."""
        return self._run(self._generator, images)

    def _run(self, network: nn.Module, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            inputs: Tensor = torch.from_numpy(images).to(self._device)
            outputs: npt.NDArray[np.float32] = network(inputs).cpu().numpy()
            return outputs


def choose_device(device: Device) -> torch.device:
    """Return the device that is asked for; `auto` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    OptionError
        The device is not there.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if available[name]))
    if not available.get(device, False):
        found = ", ".join(name for name, present in available.items() if present)
        raise OptionError(f"--device {device} is not available here; available: {found}")
    return torch.device(device)


def open_engine(bundle: Bundle, *, engine: Engine = "auto", device: Device = "auto") -> TorchTranslator:
    """Return the translator of a bundle, ready to run.

    Raises
    ------
    OptionError
        The engine or the device is not available.
    """
    if engine not in ("auto", "torch"):
        raise OptionError(f"--engine {engine} is not supported in this version; use torch or auto")
    return TorchTranslator(bundle, choose_device(device))


@contextmanager
def interruptible(bundle: Bundle, check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before every layer of the networks; what it raises ends a run within the time of one layer.

    Parameters
    ----------
    bundle : Bundle
        Used by this run alone.
    check : callable
        Cheap; called from the thread that runs the networks.
    """
    layers = [layer for layer in bundle.translator.modules() if not any(True for _ in layer.children())]
    hooks = [layer.register_forward_pre_hook(lambda _layer, _inputs: check()) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
