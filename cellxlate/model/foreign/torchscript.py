"""A TorchScript program of a package as an ONNX network, which is bounded, looked through and run as any other.

Loading TorchScript runs what its author wrote, so it is done for those alone who ask for it.
"""

import io
import warnings
from collections.abc import Sequence
from typing import Any

from cellxlate.errors import ModelError, OptionError

OPSET = 17


def network_of_program(data: bytes, sides: Sequence[tuple[int, bool]], name: str) -> bytes:
    """Return a TorchScript program as ONNX.

    Parameters
    ----------
    data : bytes
        Of the file. It is loaded by torch, so it can be any program.
    sides : sequence of (int, bool)
        Of an array that it takes, and whether each may be another.
    name : str
        For errors.

    Raises
    ------
    ModelError
        It is no TorchScript, or does what ONNX has no operator for.
    OptionError
        The package onnx is not installed.
    """
    import torch

    stored: Any = io.BytesIO()
    free = {axis: f"side{axis}" for axis, (_, is_free) in enumerate(sides) if is_free}
    try:
        with warnings.catch_warnings():  # torch calls both old
            warnings.simplefilter("ignore")
            program = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()  # type: ignore[no-untyped-call]
            example = torch.zeros([side for side, _ in sides])
            torch.onnx.export(
                program, (example,), stored, dynamo=False, opset_version=OPSET, input_names=["given"],
                output_names=["made"], dynamic_axes={"given": free, "made": free},
            )  # fmt: skip
    except ModuleNotFoundError as fault:
        raise OptionError("TorchScript is run as ONNX, which needs the packages onnx and onnxruntime",
                          remedy='pip install "cellxlate[onnx]"') from fault  # fmt: skip
    except Exception as fault:  # torch's faults share no other class
        short = " ".join(str(fault).split())[:200] or type(fault).__name__
        raise ModelError(f"{name} is no TorchScript that can be run as ONNX ({short}); ask for onnx weights") from fault
    return bytes(stored.getvalue())
