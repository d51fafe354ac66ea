"""A foreign network runs by ONNX Runtime: numpy in, numpy out, in the axes that it takes.

No libraries of operators are loaded, no file is written, and all arrays together have a bound.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from threading import Timer
from typing import Any

import numpy as np

from cellxlate.errors import ModelError, OptionError
from cellxlate.model.attention import Floats
from cellxlate.model.engines.devices import Device, DeviceKind, choose_kind
from cellxlate.model.engines.memory import is_out_of_memory, memory_bytes
from cellxlate.model.engines.threads import thread_count
from cellxlate.model.foreign.limits import read_network
from cellxlate.model.foreign.torchscript import network_of_program
from cellxlate.model.foreign.values import ForeignModel
from cellxlate.options import DEVICE
from cellxlate.quick_import import without_collection
from cellxlate.stacks.naming import one_line

PROVIDERS: dict[DeviceKind, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
"""Numbers of 32 bits, as on a CPU; and no search through all algorithms for each new shape."""
DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(uint16)": np.uint16, "tensor(int16)": np.int16,
    "tensor(uint32)": np.uint32, "tensor(int32)": np.int32, "tensor(int64)": np.int64,
}  # fmt: skip
"""What a network may take, as ONNX Runtime calls it."""


_OPEN: dict[tuple[Any, ...], Any] = {}
"""The session that was opened last."""


@dataclass(frozen=True)
class ForeignSession:
    """Runs a network on windows (B, C, Y, X), or (B, C, Z, Y, X), float32; several threads may call it at once."""

    model: ForeignModel
    session: Any
    device: DeviceKind = "cpu"

    def __call__(
        self, windows: Floats, *, attention: bool = True, most_s: float | None = None
    ) -> tuple[Floats, Floats | None]:
        """Return the image (B, C, ..., Y, X) float32, and attention in the same axes where it is wanted and there.

        Raises
        ------
        MemoryError
            It ends.
        ModelError
            The network fails on such a window, or takes more than `most_s` seconds for it.
        """
        own = self.model
        wanted = [name for name in (own.output_name, own.attention_name if attention else "") if name]
        given = self.session.get_inputs()[0]
        made = [self._run(wanted, given, one, most_s) for one in windows[:, None]]  # some compare those of a batch
        image, *rest = (np.concatenate(parts) for parts in zip(*made, strict=True))
        return image, rest[0] if rest else None

    def _run(self, wanted: Sequence[str], given: Any, windows: Floats, most_s: float | None) -> list[Floats]:
        """Run the network once."""
        from_axes = "bc" + self.model.axes.lower()
        array = in_axes(windows, from_axes, self.model.input_axes)
        if (kind := np.dtype(DTYPES[given.type])).kind in "ui":
            array = np.clip(np.rint(array), np.iinfo(kind).min, np.iinfo(kind).max)
        array = np.ascontiguousarray(array.astype(kind, copy=False))
        try:
            with _within(most_s) as options:
                made = self.session.run(wanted, {given.name: array}, options)
        except Exception as fault:  # its faults share no other class
            if is_out_of_memory(fault):
                raise MemoryError(f"ONNX Runtime has not enough memory for {windows.shape}") from fault
            sides = " x ".join(map(str, windows.shape[2:]))
            if most_s is not None and "terminate flag" in str(fault):
                late = f"{self.model.name} takes more than {most_s:g} s for a window of {sides} px; use a smaller model"
                raise ModelError(late) from fault
            raise ModelError(f"{self.model.name} fails on a window of {sides} px ({one_line(fault)})") from fault
        return [in_axes(np.asarray(one, np.float32), self.model.output_axes, from_axes) for one in made]


@contextmanager
def _within(most_s: float | None) -> Iterator[Any]:
    """Give options of a run, which is ended after some time."""
    if most_s is None:
        yield None
        return
    options = import_module("onnxruntime").RunOptions()
    options.log_severity_level = 4
    timer = Timer(most_s, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


def in_axes(array: Any, axes: str, wanted: str) -> Any:
    """Return an array in other axes: those that it lacks have one position, those that are not wanted are dropped.

    Examples
    --------
    >>> in_axes(np.zeros((2, 1, 4, 5)), "bcyx", "byxc").shape
    (2, 4, 5, 1)
    >>> in_axes(np.zeros((4, 5)), "yx", "bcyx").shape
    (1, 1, 4, 5)
    """
    for position, axis in reversed(list(enumerate(axes))):
        if axis not in wanted:
            array = array.take(0, axis=position)
    kept = [axis for axis in axes if axis in wanted]
    array = array.transpose([kept.index(axis) for axis in wanted if axis in kept])
    sides = iter(array.shape)
    return array.reshape([next(sides) if axis in kept else 1 for axis in wanted])


def open_session(model: ForeignModel, *, device: DeviceKind = "cpu") -> ForeignSession:
    """Return a network ready to run; the same for all channels of a stack.

    Raises
    ------
    OptionError
        onnxruntime is not installed, or does not know the device.
    ModelError
        The file is no longer what it was, or ONNX Runtime cannot run it.
    """
    provider = PROVIDERS.get(device, "")
    if provider not in runtime().get_available_providers():
        raise OptionError(f"ONNX Runtime does not run on {device} here", remedy=("use ", DEVICE.of("cpu")))
    network = model.network
    data, found = read_network(network.path, network.member)
    if found.sha256 != model.digest:
        raise ModelError(f"{model.path} has changed since it was opened; run it again")
    key = (model.digest, network.program, device, thread_count())
    session = _OPEN.get(key)
    if session is None:
        if network.program:
            data = network_of_program(data, network.program, model.name)
        session = _opened(data, model.name, device)
        _OPEN.clear()
        _OPEN[key] = session
    return ForeignSession(model, session, device)


def _opened(data: bytes, name: str, device: DeviceKind) -> Any:
    """Return a session of ONNX Runtime."""
    onnxruntime = runtime()
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what it says is raised too
    options.add_session_config_entry("session.use_env_allocators", "1")
    providers: list[Any] = [PROVIDERS["cpu"]]  # which has all operators
    if device != "cpu":
        providers.insert(0, (PROVIDERS[device], CUDA_OPTIONS))
    try:
        session = onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as fault:  # its faults share no other class
        if is_out_of_memory(fault):
            raise MemoryError(f"ONNX Runtime has not enough memory for {name}") from fault
        raise ModelError(f"{name} cannot be run by ONNX Runtime ({one_line(fault)})") from fault
    if (kind := session.get_inputs()[0].type) not in DTYPES:
        raise ModelError(f"{name} takes {kind}, expected numbers")
    return session


def device_of(asked: Device) -> DeviceKind:
    """Return where networks of others run: on a graphics card where that is asked for, or found, and known here.

    Raises
    ------
    OptionError
        The device is not there.
    """
    if asked == "cpu" or (asked == "auto" and PROVIDERS["cuda"] not in runtime().get_available_providers()):
        return "cpu"
    kind = choose_kind(asked)
    return kind if asked != "auto" or kind in PROVIDERS else "cpu"


@cache
def runtime() -> Any:
    """Return the package onnxruntime, whose arrays together have a bound."""
    try:
        with without_collection():
            onnxruntime: Any = import_module("onnxruntime")
    except ImportError as fault:
        raise OptionError(
            "ONNX networks need the packages onnx and onnxruntime", remedy='pip install "cellxlate[onnx]"'
        ) from fault
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    exactly = 1  # the arena grows by what is asked for, not by doubling
    bound = onnxruntime.OrtArenaCfg({"max_mem": memory_bytes(), "arena_extend_strategy": exactly})
    try:
        onnxruntime.create_and_register_allocator(place, bound)
    except RuntimeError as fault:
        if "already" not in str(fault):  # versions that are old refuse a second time
            raise
    return onnxruntime
