"""A foreign network runs by ONNX Runtime: numpy in, numpy out, in the axes that it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from cellxlate.errors import ModelError, OptionError
from cellxlate.model.attention import Floats
from cellxlate.model.engines.devices import DeviceKind
from cellxlate.model.engines.memory import is_out_of_memory
from cellxlate.model.engines.threads import thread_count
from cellxlate.model.foreign.limits import read_network
from cellxlate.model.foreign.torchscript import network_of_program
from cellxlate.model.foreign.values import ForeignModel
from cellxlate.options import DEVICE
from cellxlate.quick_import import without_collection

PROVIDERS: dict[DeviceKind, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class ForeignSession:
    """Runs a network on windows (B, C, Y, X), or (B, C, Z, Y, X), float32; several threads may call it at once."""

    model: ForeignModel
    session: Any

    def __call__(self, windows: Floats, *, attention: bool = True) -> tuple[Floats, Floats | None]:
        """Return the image (B, C, ..., Y, X) float32, and attention in the same axes where it is wanted and there.

        Raises
        ------
        MemoryError
            It ends.
        ModelError
            The network fails on such a window.
        """
        own = self.model
        wanted = [name for name in (own.output_name, own.attention_name if attention else "") if name]
        given = self.session.get_inputs()[0]
        batches = [windows] if not isinstance(given.shape[0], int) or "b" not in own.input_axes else windows[:, None]
        made = [self._run(wanted, given, one) for one in batches]
        image, *rest = (np.concatenate(parts) for parts in zip(*made, strict=True))
        return image, rest[0] if rest else None

    def _run(self, wanted: Sequence[str], given: Any, windows: Floats) -> list[Floats]:
        """Run the network once."""
        from_axes = "bc" + self.model.axes.lower()
        array = in_axes(windows, from_axes, self.model.input_axes)
        if (kind := np.dtype(DTYPES[given.type])).kind in "ui":
            array = np.clip(np.rint(array), np.iinfo(kind).min, np.iinfo(kind).max)
        array = array.astype(kind, copy=False)
        try:
            made = self.session.run(wanted, {given.name: np.ascontiguousarray(array)})
        except Exception as fault:  # its faults share no other class
            if is_out_of_memory(fault):
                raise MemoryError(f"ONNX Runtime has not enough memory for {windows.shape}") from fault
            short = " ".join(str(fault).split())[:200]
            raise ModelError(f"{self.model.name} fails on a window of {windows.shape[2:]} ({short})") from fault
        return [in_axes(np.asarray(one, np.float32), self.model.output_axes, from_axes) for one in made]


DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(uint16)": np.uint16, "tensor(int16)": np.int16,
    "tensor(uint32)": np.uint32, "tensor(int32)": np.int32, "tensor(int64)": np.int64,
}  # fmt: skip
"""What a network may take, as ONNX Runtime calls it."""


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
    return array.reshape([array.shape[[one for one in wanted if one in kept].index(axis)] if axis in kept else 1
                          for axis in wanted])  # fmt: skip


def open_session(model: ForeignModel, *, device: DeviceKind = "cpu") -> ForeignSession:
    """Return a network ready to run.

    Raises
    ------
    OptionError
        onnxruntime is not installed, or does not know the device.
    ModelError
        The file is no longer what it was, or ONNX Runtime cannot run it.
    """
    try:
        with without_collection():
            onnxruntime = import_module("onnxruntime")
    except ImportError as fault:
        raise OptionError("ONNX networks need the packages onnx and onnxruntime",
                          remedy='pip install "cellxlate[onnx]"') from fault  # fmt: skip
    provider = PROVIDERS.get(device, "")
    if provider not in onnxruntime.get_available_providers():
        raise OptionError(f"ONNX Runtime does not run on {device} here", remedy=("use ", DEVICE.of("cpu")))
    network = model.network
    data, found = read_network(network.path, network.member)
    if found.sha256 != model.digest:
        raise ModelError(f"{model.path} has changed since it was opened; run it again")
    if network.program:
        data = network_of_program(data, network.program, model.name)
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what it says is raised too
    try:
        return ForeignSession(model, onnxruntime.InferenceSession(data, options, providers=[provider]))
    except Exception as fault:  # its faults share no other class
        short = " ".join(str(fault).split())[:200]
        raise ModelError(f"{model.name} cannot be run by ONNX Runtime ({short})") from fault
