"""OpenVINO and ONNX Runtime as engines. Both are optional; both read the ONNX model that `export` writes."""

import os
from collections.abc import Callable
from importlib import import_module
from queue import SimpleQueue
from threading import Lock
from typing import Any

import numpy as np

from cellxlate.errors import OptionError
from cellxlate.model.architecture import Network
from cellxlate.model.attention import Floats
from cellxlate.model.engines.memory import is_out_of_memory
from cellxlate.model.engines.threads import thread_count
from cellxlate.model.export.onnx import onnx_model
from cellxlate.options import DEVICE, ENGINE
from cellxlate.quick_import import without_collection
from cellxlate.settings import Precision

_CORE: list[Any] = []
_FORKED_FROM: list[Any] = []
if hasattr(os, "register_at_fork"):  # its threads are not there in the new process, which would wait for ever
    os.register_at_fork(after_in_child=lambda: _FORKED_FROM.extend(_CORE))

HINTS: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoNetwork:
    """A network as a function of arrays (B, C, Y, X) float32, run by OpenVINO on the CPU.

    As many threads as there are `streams` may call it at once. Raises MemoryError where memory ends.

    Raises
    ------
    OptionError
        openvino or onnx is not installed.

    Notes
    -----
    OpenVINO computes in bfloat16 by itself where the processor has it; the precision is therefore always set. It takes
    as many threads as torch does, so that OMP_NUM_THREADS and `torch.set_num_threads` hold for both. By itself it would
    pin them to the first cores, and two workers on one machine would share one: the system places them in its stead.

    When memory ends while it computes, everything that it computes afterwards may be wrong, or the process dies. So
    what has failed once is never used again.
    """

    def __init__(self, network: Network, precision: Precision, streams: int = 1) -> None:
        self._core, self._tensor = _openvino_core(), _openvino().Tensor
        self._model = self._core.read_model(onnx_model(network, name="outcome").SerializeToString())
        self._options = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": thread_count(),
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,
        }
        self._streams = streams
        self._opening = Lock()
        self._idle: SimpleQueue[Any] | None = self._requests()

    def __call__(self, images: Floats) -> Floats:
        """Map images (B, C, Y, X) to (B, C or 1, Y - 2 m, X - 2 m)."""
        try:
            with self._opening:
                idle = self._idle = self._idle or self._requests()
            request = idle.get()
            images = np.ascontiguousarray(images)
            request.set_input_tensor(self._tensor(images, shared_memory=True))
            outcome: Floats = request.infer()[0]
            request.set_input_tensor(self._tensor(np.zeros((1, images.shape[1], 1, 1), np.float32)))  # lets go of them
            if not _fits(outcome.shape, images.shape):  # seen where memory had ended: no rows, or those of another call
                raise MemoryError(f"OpenVINO returned {outcome.shape} for {images.shape}")
        except BaseException as fault:  # Ctrl-C too: a request that is not given back would be waited for
            self._idle = None
            if isinstance(fault, Exception) and is_out_of_memory(fault):
                raise MemoryError(f"OpenVINO has not enough memory for {images.shape}") from fault
            raise
        idle.put(request)
        return outcome

    def _requests(self) -> "SimpleQueue[Any]":
        """Compile the network; return a request for each stream."""
        compiled = self._core.compile_model(self._model, "CPU", self._options)
        idle: SimpleQueue[Any] = SimpleQueue()  # not one per thread: one that dies with its thread takes Python down
        for _ in range(self._streams):
            idle.put(compiled.create_infer_request())
        return idle


def _openvino() -> Any:
    return _imported("openvino", remedy='pip install "cellxlate[openvino]"')


def _openvino_core() -> Any:
    """Return OpenVINO's core, the same for all networks.

    The thread that compiles first gets a stack for signals from the plugin of the CPU. Where cores come and go in any
    order, one that is gone stays set, and the next Ctrl-C ends Python by a segmentation fault.
    """
    if _FORKED_FROM:
        raise OptionError(
            ENGINE.of("openvino"), " was used before this process was forked from another, and cannot be used in it",
            remedy=("start processes by spawn, or use ", ENGINE.of("torch")),
        )  # fmt: skip
    if not _CORE:
        _CORE.append(_openvino().Core())
    return _CORE[0]


def _imported(engine: str, *, remedy: str) -> Any:
    try:
        with without_collection():
            return import_module(engine)
    except ImportError as fault:
        raise OptionError(ENGINE.of(engine), " is not installed", remedy=remedy) from fault


def _fits(made: tuple[int, ...], given: tuple[int, ...]) -> bool:
    """Return whether an outcome has as many images as were given, less an equal margin at every side."""
    return made[0] == given[0] and 0 <= given[-2] - made[-2] == given[-1] - made[-1]


def onnxruntime_network(network: Network, device: str, streams: int = 1) -> Callable[[Floats], Floats]:
    """Return a network as a function of arrays (B, C, Y, X) float32, run by ONNX Runtime.

    As many threads as there are `streams` may call it at once. Raises MemoryError where memory ends.

    Raises
    ------
    OptionError
        onnxruntime or onnx is not installed, or it does not know the device.
    """
    onnxruntime = _imported("onnxruntime", remedy='pip install "cellxlate[onnx]"')
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device, "")
    if provider not in onnxruntime.get_available_providers():
        raise OptionError(
            ENGINE.of("onnxruntime"), f" does not run on {device} here", remedy=("use ", DEVICE.of("cpu"))
        )
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(thread_count() // streams, 1)
    options.log_severity_level = 4  # what it says is raised too
    session = onnxruntime.InferenceSession(
        onnx_model(network, name="outcome").SerializeToString(), options, providers=[provider]
    )

    def run(images: Floats) -> Floats:
        try:
            outcome: Floats = session.run(None, {"images": np.ascontiguousarray(images)})[0]
            return outcome
        except Exception as fault:  # its faults share no other class
            if is_out_of_memory(fault):
                raise MemoryError(f"ONNX Runtime has not enough memory for {images.shape}") from fault
            raise

    return run
