"""A bundle becomes something that runs: numpy in, numpy out, by the engine and on the processor that are asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, get_args
from weakref import WeakKeyDictionary, ref

import numpy as np

from cellxlate.errors import OptionError, said
from cellxlate.model import probe
from cellxlate.model.architecture import Network
from cellxlate.model.attention import Floats
from cellxlate.model.bundle import Bundle
from cellxlate.model.engines.devices import Device, DeviceKind, choose_kind
from cellxlate.model.engines.memory import ask_for_memory
from cellxlate.model.engines.other_engines import OpenVinoNetwork, onnxruntime_network
from cellxlate.model.inference import for_inference
from cellxlate.model.layers import Described, activation_bytes_per_px
from cellxlate.option_values import require_choice
from cellxlate.options import ANY_DEVICE, DEVICE, ENGINE, PRECISION, TILE
from cellxlate.quick_import import without_collection
from cellxlate.settings import Precision

if TYPE_CHECKING:
    import torch

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

PROBE_TOLERANCE = 1e-4
"""Largest difference from torch in float32, in unit range, that `auto` accepts of another engine."""

_CHECKS: WeakKeyDictionary[Described, Callable[[], None]] = WeakKeyDictionary()
_OPENED: WeakKeyDictionary[Described, dict[tuple[str, str, str, int], "EngineTranslator"]] = WeakKeyDictionary()


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
        self.stride = bundle.networks.stride
        self.generator_halo_px = bundle.networks.generator_halo_px
        self.attention_halo_px = bundle.networks.attention_halo_px
        self.activation_bytes_per_px = activation_bytes_per_px(bundle.networks.generator)
        self._largest_px: int | None = None

    def attention(self, images: Floats) -> Floats:
        """Map images (B, C, Y, X) in unit range to attention (B, 1, Y - 2 m, X - 2 m) in [0, 1]."""
        return self._run(self._attention, images)

    def proposal(self, images: Floats) -> Floats:
        """Map images (B, C, Y, X) in unit range to what they would be in the target domain, (B, G, Y - 2 m, X - 2 m).

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
    opened = _OPENED.setdefault(bundle.networks, {})
    key = (engine, device, precision, streams)
    if key not in opened:
        opened[key] = (
            _choose(bundle, device, precision, streams)
            if engine == "auto"
            else _open(bundle, engine, device, precision, streams)
        )
    return opened[key]


def let_go_of_others(bundle: Bundle, used: object) -> None:
    """Keep of what runs the networks of a model only what is used: each holds the memory of its largest window.

    What was let go of is opened again where it is asked for.
    """
    for networks in filter(None, (bundle.networks, bundle.neighbours)):
        opened = _OPENED.get(networks, {})
        for key in [key for key, one in opened.items() if one is not used]:
            del opened[key]


def choose_device(device: Device) -> "torch.device":
    """Return the device of torch that is asked for, as `devices.choose_kind` does."""
    import torch

    return torch.device(choose_kind(device))


def require_known(engine: str, device: Device, precision: str) -> None:
    """Raise OptionError where an engine or a precision is not known, or a device is not there."""
    require_choice(ENGINE, engine, get_args(Engine))
    require_choice(PRECISION, precision, get_args(Precision))
    require_choice(DEVICE, device, get_args(Device))
    if device != "auto":  # which is always there
        choose_kind(device)


def _choose(bundle: Bundle, device: Device, precision: Precision, streams: int) -> EngineTranslator:
    """Open the fastest engine that agrees with torch in float32."""
    where = choose_kind(device)
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
    where = choose_kind(device) if engine == "torch" or device != "auto" else "cpu"
    if engine == "openvino" and where != "cpu":
        raise OptionError(ENGINE.of("openvino"), f" runs on the CPU, not on {where}", remedy=ANY_DEVICE)
    if engine == "onnxruntime" and precision != "float32":
        raise OptionError(
            ENGINE.of("onnxruntime"),
            " runs in float32 alone",
            remedy=("use openvino or torch for ", PRECISION.of("bfloat16")),
        )

    ready = partial(_ready, bundle=bundle, engine=engine, device=where, precision=precision, streams=streams)
    opened = EngineTranslator(
        bundle, ready(bundle.networks.generator), ready(bundle.networks.attention), engine=engine,
        device=where, precision=precision,
    )  # fmt: skip
    if precision != "float32":
        error = probe_error(opened, bundle)
        opened.warnings.append(said(
            f"the networks ran in bfloat16; on a probe tile they differ from float32 by up to {error:.1e} of the range "
            "from black to white. Leave out ", PRECISION, " for float32."
        ))  # fmt: skip
    return opened


def _ready(
    network: Network, *, bundle: Bundle, engine: EngineName, device: DeviceKind, precision: Precision, streams: int,
) -> RunNetwork:  # fmt: skip
    """Return a network of a bundle as it is run, which checks before each layer or window and asks for its memory."""
    prepared, bytes_per_px = for_inference(network), activation_bytes_per_px(network)
    watched = ref(bundle.networks)  # what they are the key of must not keep them
    run: RunNetwork

    def check() -> None:
        networks = watched()
        if networks is not None:
            _CHECKS.get(networks, lambda: None)()

    if engine == "torch":
        with without_collection():  # it takes longer to load than all the rest
            from cellxlate.model.engines.torch_engine import torch_engine

        run = torch_engine(prepared, device, precision, check)
    elif engine == "openvino":
        run = OpenVinoNetwork(prepared, precision, streams)
    else:
        run = onnxruntime_network(prepared, device, streams)

    def asking_first(images: Floats) -> Floats:
        if device == "cpu":
            ask_for_memory(images[:, 0].size, bytes_per_px)
        if engine != "torch":  # which shows its layers
            check()
        return run(images)

    return asking_first


def probe_error(opened: EngineTranslator, bundle: Bundle) -> float:
    """Return the largest difference from the networks in torch and float32, in unit range, on a probe tile.

    What torch computes is taken from the card, at 16 x 16 pixels; where an earlier version wrote it, torch is asked.
    """
    runs: dict[probe.Part, tuple[RunNetwork, int]] = {
        "proposal": (opened.proposal, opened.generator_halo_px),
        "attention": (opened.attention, opened.attention_halo_px),
    }
    made: dict[probe.Part, Floats] = {}
    for part, (run, halo_px) in runs.items():
        side_px = probe.probe_side_px(halo_px, opened.stride)
        made[part] = probe.whole(run(probe.probe_images(side_px, bundle.networks.inputs)), side_px, halo_px)
    stated = probe.stated_in(bundle.card, bundle.digest)
    points = {part: probe.at_points(outcome).ravel() for part, outcome in made.items()}
    if stated and all(stated[part].shape == points[part].shape for part in runs):
        errors = [float(np.abs(points[part] - stated[part]).max()) for part in runs]
    else:
        expected = probe.computed_by_torch(bundle.translator)
        errors = [float(np.abs(made[part] - expected[part]).max()) for part in runs]
    return max(errors) if np.isfinite(errors).all() else np.inf


@contextmanager
def interruptible(bundle: Bundle, check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before every layer of the networks, or every window where an engine shows no layers.

    What it raises ends a run within that time. It must be cheap, is called from the thread that runs the networks, and
    the bundle must be used by this run alone.
    """
    pairs = [one for one in (bundle.networks, bundle.neighbours) if one]
    _CHECKS.update(dict.fromkeys(pairs, check))
    try:
        yield
    finally:
        for networks in pairs:
            _CHECKS.pop(networks, None)
