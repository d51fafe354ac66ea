"""OpenVINO and ONNX Runtime as engines. Both are optional; both read the ONNX model that `export` writes."""

from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from cellxlate.errors import OptionError
from cellxlate.model.export import onnx_model
from cellxlate.model.networks import AttentionNetwork, Generator

Floats = npt.NDArray[np.float32]
Precision = Literal["float32", "bfloat16"]
HINTS: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16"}


def openvino_network(
    network: Generator | AttentionNetwork, precision: Precision, streams: int = 1
) -> Callable[[Floats], Floats]:
    """Return a network as a function of arrays (B, C, Y, X) float32, run by OpenVINO on the CPU.

    As many threads as there are `streams` may call it at once.

    Raises
    ------
    OptionError
        openvino or onnx is not installed.

    Notes
    -----
    OpenVINO computes in bfloat16 by itself where the processor has it; the precision is therefore always set. It takes
    as many threads as torch does, so that OMP_NUM_THREADS and `torch.set_num_threads` hold for both. By itself it would
    pin them to the first cores, and two workers on one machine would share one: the system places them in its stead.
    """
    try:
        import openvino
    except ImportError as fault:
        raise OptionError('--engine openvino is not installed; pip install "cellxlate[openvino]"') from fault
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(onnx_model(network, name="outcome").SerializeToString()),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,
        },
    )
    idle: SimpleQueue[Any] = SimpleQueue()  # not one per thread: a request that dies with its thread takes Python down
    for _ in range(streams):
        idle.put(compiled.create_infer_request())

    def run(images: Floats) -> Floats:
        given, request = np.ascontiguousarray(images), idle.get()
        try:
            outcome: Floats = request.infer([given], share_inputs=True)[0]
        finally:
            idle.put(request)
        return outcome

    return run


def onnxruntime_network(
    network: Generator | AttentionNetwork, device: str, streams: int = 1
) -> Callable[[Floats], Floats]:
    """Return a network as a function of arrays (B, C, Y, X) float32, run by ONNX Runtime.

    As many threads as there are `streams` may call it at once.

    Raises
    ------
    OptionError
        onnxruntime or onnx is not installed, or it does not know the device.
    """
    try:
        import onnxruntime
    except ImportError as fault:
        raise OptionError('--engine onnxruntime is not installed; pip install "cellxlate[onnx]"') from fault
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device, "")
    if provider not in onnxruntime.get_available_providers():
        raise OptionError(f"--engine onnxruntime does not run on {device} here; use --device cpu")
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(torch.get_num_threads() // streams, 1)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        onnx_model(network, name="outcome").SerializeToString(), options, providers=[provider]
    )

    def run(images: Floats) -> Floats:
        outcome: Floats = session.run(None, {"images": np.ascontiguousarray(images)})[0]
        return outcome

    return run
