"""A bundle becomes something that runs: numpy in, numpy out, by the engine and on the processor that are asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Literal, get_args
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from cellxlate.errors import OptionError, said
from cellxlate.model.attention import Floats
from cellxlate.model.bundle import Bundle
from cellxlate.model.engines.memory import ask_for_memory
from cellxlate.model.engines.other_engines import OpenVinoNetwork, onnxruntime_network
from cellxlate.model.engines.torch_engine import Device, by_onednn, choose_device, torch_network
from cellxlate.model.inference import for_inference
from cellxlate.model.layers import activation_bytes_per_px
from cellxlate.model.networks import AttentionNetwork, Generator
from cellxlate.option_values import require_choice
from cellxlate.options import ANY_DEVICE, DEVICE, ENGINE, PRECISION, TILE
from cellxlate.settings import Precision

__all__ = ["Device", "Engine", "EngineTranslator", "Precision", "choose_device", "interruptible", "open_engine",
           "require_known"]  # fmt: skip

Engine = Literal["auto", "torch", "openvino", "onnxruntime"]
EngineName = Literal["torch", "openvino", "onnxruntime"]
RunNetwork = Callable[[Floats], Floats]
"""(B, C, Y, X) float32 in unit range -> the same, smaller by an equal margin at every side. Raises MemoryError."""

FASTEST_ON_CPU: tuple[EngineName, ...] = ("openvino", "torch")
"""As measured (tests/bench/engines.py). A fixed order and no stop watch: a run must pick the same engine when it is
resumed. ONNX Runtime is slower than both, so it runs only where it is asked for."""

PACKAGES: dict[EngineName, tuple[str, ...]] = {
    "torch": ("torch",), "openvino": ("openvino", "onnx"), "onnxruntime": ("onnxruntime", "onnx"),
}  # fmt: skip

PROBE_UNIT_PX, LEAST_PROBE_PX = 96, 192
PROBE_TOLERANCE = 1e-4
"""Largest difference from torch in float32, in unit range, that `auto` accepts of another engine."""

_CHECKS: WeakKeyDictionary[nn.Module, Callable[[], None]] = WeakKeyDictionary()
_OPENED: WeakKeyDictionary[nn.Module, dict[tuple[str, str, str, int], "EngineTranslator"]] = WeakKeyDictionary()


class EngineTranslator:
    """The two networks of a bundle, run by one engine.

    Attributes
    ----------
    name : str
        For the report, for example "torch 2.13.0 cpu float32".
    identity : str
        What decides the pixels: engine, device and precision, without versions.
    warnings : list of str
        What a reader of the result should know.
    stride, generator_halo_px, attention_halo_px, activation_bytes_per_px : int, int, int, float
        As `enhancement.plane.Translator` says.
    """

    def __init__(
        self, bundle: Bundle, generator: RunNetwork, attention: RunNetwork, *, engine: EngineName, device: str,
        precision: Precision,
    ) -> None:  # fmt: skip
        self._generator, self._attention = generator, attention
        self.identity = f"{engine} {device} {precision}"
        self.name = f"{engine} {version(PACKAGES[engine][0])} {device} {precision}"
        self.warnings: list[str] = []
        self.stride = bundle.translator.stride
        self.generator_halo_px = bundle.translator.generator_halo_px
        self.attention_halo_px = bundle.translator.attention_halo_px
        self.activation_bytes_per_px = activation_bytes_per_px(bundle.translator.generator)
        self._largest_px: int | None = None

    def attention(self, images: Floats) -> Floats:
        """Map images (B, C, Y, X) in unit range to attention (B, 1, Y - 2 m, X - 2 m) in [0, 1]."""
        return self._run(self._attention, images)

    def proposal(self, images: Floats) -> Floats:
        """Map images (B, C, Y, X) in unit range to what they would be in the target domain, (B, C, Y - 2 m, X - 2 m).

        The margin m is at most the halo, and the same for images of every size.
        """
        return self._run(self._generator, images)

    def _run(self, network: RunNetwork, images: Floats) -> Floats:
        """Run a network; where the device has no memory for all at once, run it on parts."""
        pixels = images[:, 0].size
        if self._largest_px is None or pixels <= self._largest_px:
            try:
                return network(images)
            except MemoryError:
                self._remember(images.shape, pixels)
        halo_px = max(self.generator_halo_px, self.attention_halo_px)
        reach_px = -(-halo_px // self.stride) * self.stride
        if len(images) > 1:
            return np.concatenate([self._run(network, images[number : number + 1]) for number in range(len(images))])
        axis = 2 if images.shape[2] >= images.shape[3] else 3
        length = images.shape[axis]
        middle = length // 2 // self.stride * self.stride
        if middle + reach_px >= length:
            raise MemoryError(
                said("the device has no memory left, even for small tiles; close other programs, or ", DEVICE.of("cpu"))
            )
        first, second = (
            self._run(network, np.ascontiguousarray(part))
            for part in (_part(images, axis, 0, middle + reach_px), _part(images, axis, middle - reach_px, length))
        )
        margin = (middle + reach_px - first.shape[axis]) // 2
        return np.concatenate(
            [_part(first, axis, 0, middle - margin), _part(second, axis, reach_px - margin, None)], axis=axis
        )

    def _remember(self, shape: tuple[int, ...], pixels: int) -> None:
        if self._largest_px is None:
            self.warnings.append(said(
                f"the device ran out of memory for tiles of {shape[-2]} x {shape[-1]} px, so smaller ones were used, "
                "which is slower; the pixels are the same. A smaller ", TILE, " avoids it."
            ))  # fmt: skip
        self._largest_px = pixels // 2


def _part(images: Floats, axis: int, start: int, stop: int | None) -> Floats:
    return images[(slice(None),) * axis + (slice(start, stop),)]


def open_engine(
    bundle: Bundle,
    *,
    engine: Engine = "auto",
    device: Device = "auto",
    precision: Precision = "float32",
    streams: int = 1,
) -> EngineTranslator:
    """Return the translator of a bundle, ready to run; one for all calls that ask for the same.

    Parameters
    ----------
    bundle : Bundle
        A loaded model.
    engine : {"auto", "torch", "openvino", "onnxruntime"}
        `auto` takes the fastest that is installed and agrees with torch in float32 to 1e-4 of the unit range on a
        probe tile: on a CPU OpenVINO, then torch; elsewhere torch.
    device : {"auto", "cpu", "cuda", "mps"}
        Where torch runs. OpenVINO runs on the CPU.
    precision : {"float32", "bfloat16"}
        With bfloat16 the translator carries a warning that says how far the probe tile is from float32.
    streams : int
        How many threads may call it at once; each call then has its share of torch's number of threads. Torch itself
        takes the number that is set in the calling thread.

    Raises
    ------
    OptionError
        The engine, the device or the precision is not available.
    """
    require_known(engine, device, precision)
    opened = _OPENED.setdefault(bundle.translator, {})
    key = (engine, device, precision, streams)
    if key not in opened:
        opened[key] = (
            _choose(bundle, device, precision, streams)
            if engine == "auto"
            else _open(bundle, engine, device, precision, streams)
        )
    return opened[key]


def require_known(engine: str, device: Device, precision: str) -> None:
    """Raise OptionError where an engine or a precision is not known, or a device is not there."""
    require_choice(ENGINE, engine, get_args(Engine))
    require_choice(PRECISION, precision, get_args(Precision))
    choose_device(device)


def _choose(bundle: Bundle, device: Device, precision: Precision, streams: int) -> EngineTranslator:
    """Open the fastest engine that agrees with torch in float32."""
    where = choose_device(device).type
    for engine in FASTEST_ON_CPU if where == "cpu" else ():
        if engine == "torch" or not all(find_spec(package) for package in PACKAGES[engine]):
            continue
        try:
            translator = _open(bundle, engine, "cpu", precision, streams)
            error = probe_error(translator, bundle)
        except (OptionError, RuntimeError):  # an installation that does not work is no reason to stop
            continue
        if precision != "float32" or error <= PROBE_TOLERANCE:
            translator.name += f" (within {error:.0e} of torch)"
            return translator
    return _open(bundle, "torch", device, precision, streams)


def _open(bundle: Bundle, engine: EngineName, device: Device, precision: Precision, streams: int) -> EngineTranslator:
    """Open one engine."""
    where = choose_device(device) if engine == "torch" or device != "auto" else torch.device("cpu")
    if engine == "openvino" and where.type != "cpu":
        raise OptionError(ENGINE.of("openvino"), f" runs on the CPU, not on {where.type}", remedy=ANY_DEVICE)
    if engine == "onnxruntime" and precision != "float32":
        raise OptionError(
            ENGINE.of("onnxruntime"),
            " runs in float32 alone",
            remedy=("use openvino or torch for ", PRECISION.of("bfloat16")),
        )

    ready = partial(_ready, bundle=bundle, engine=engine, device=where, precision=precision, streams=streams)
    opened = EngineTranslator(
        bundle, ready(bundle.translator.generator), ready(bundle.translator.attention), engine=engine,
        device=where.type, precision=precision,
    )  # fmt: skip
    if precision != "float32":
        error = probe_error(opened, bundle)
        opened.warnings.append(said(
            f"the networks ran in bfloat16; on a probe tile they differ from float32 by up to {error:.1e} of the range "
            "from black to white. Leave out ", PRECISION, " for float32."
        ))  # fmt: skip
    return opened


def _ready(
    network: Generator | AttentionNetwork, *, bundle: Bundle, engine: EngineName, device: torch.device,
    precision: Precision, streams: int,
) -> RunNetwork:  # fmt: skip
    """Return a network of a bundle as it is run, which checks before each layer or window and asks for its memory."""
    prepared, watched, bytes_per_px = for_inference(network), bundle.translator, activation_bytes_per_px(network)
    run: RunNetwork

    def check() -> None:
        _CHECKS.get(watched, lambda: None)()

    if engine == "torch":
        is_exact = device.type == "cpu" and precision == "float32"
        layers: nn.Module = by_onednn(prepared) if is_exact else prepared
        for layer in layers.modules():
            if not any(True for _ in layer.children()):
                layer.register_forward_pre_hook(lambda _layer, _inputs: check())
        run = torch_network(layers, device, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    elif engine == "openvino":
        run = OpenVinoNetwork(prepared, precision, streams)
    else:
        run = onnxruntime_network(prepared, device.type, streams)

    def asking_first(images: Floats) -> Floats:
        if device.type == "cpu":
            ask_for_memory(images[:, 0].size, bytes_per_px)
        if engine != "torch":  # which shows its layers
            check()
        return run(images)

    return asking_first


@torch.inference_mode()
def probe_error(opened: EngineTranslator, bundle: Bundle) -> float:
    """Return the largest difference from the networks in torch and float32, in unit range, on a probe tile."""
    halos_px = opened.generator_halo_px, opened.attention_halo_px
    side = max(LEAST_PROBE_PX, -(-(2 * max(halos_px) + opened.stride) // PROBE_UNIT_PX) * PROBE_UNIT_PX)
    noise = np.random.default_rng(0).normal(0.4, 0.3, (1, 1, side, side)).astype(np.float32)
    steps = np.kron(np.random.default_rng(1).uniform(0, 1, (12, 12)), np.ones((side // 12,) * 2))
    images = np.repeat((noise / 4 + steps).astype(np.float32), bundle.translator.channels, axis=1)
    errors = []
    for run, network, halo_px in (
        (opened.proposal, bundle.translator.generator, halos_px[0]),
        (opened.attention, bundle.translator.attention, halos_px[1]),
    ):
        expected = network(torch.from_numpy(images)).numpy()
        outcome = run(images)
        cut = (side - outcome.shape[-1]) // 2
        inside, middle = slice(halo_px - cut, outcome.shape[-1] - (halo_px - cut)), slice(halo_px, side - halo_px)
        errors.append(float(np.abs(outcome[..., inside, inside] - expected[..., middle, middle]).max()))
    return max(errors) if np.isfinite(errors).all() else np.inf


@contextmanager
def interruptible(bundle: Bundle, check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before every layer of the networks, or every window where an engine shows no layers.

    What it raises ends a run within that time. It must be cheap, is called from the thread that runs the networks, and
    the bundle must be used by this run alone.
    """
    _CHECKS[bundle.translator] = check
    try:
        yield
    finally:
        _CHECKS.pop(bundle.translator, None)
