"""What a network from a stranger may ask for, checked before ONNX Runtime sees it."""

import hashlib
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellxlate.errors import ModelError, OptionError, unless_denied
from cellxlate.model.archive import read_member
from cellxlate.model.foreign.values import NetworkFile

if TYPE_CHECKING:
    import onnx

LARGEST_FILE_BYTES = 1_000_000_000
"""The largest image-to-image models of the BioImage Model Zoo take a third of it."""


def onnx_package() -> Any:
    """Return the package onnx.

    Raises
    ------
    OptionError
        It is not installed.
    """
    try:
        import onnx
    except ImportError as fault:
        raise OptionError("ONNX networks need the packages onnx and onnxruntime",
                          remedy='pip install "cellxlate[onnx]"') from fault  # fmt: skip
    return onnx


def read_network(path: Path, member: str = "") -> tuple[bytes, NetworkFile]:
    """Return the bytes of an ONNX file, or of a member of an archive, and which they are.

    Raises
    ------
    ModelError
        It is not there, no plain file, too large, or cannot be read.
    """
    if member:
        data = read_member(path, member, most_bytes=LARGEST_FILE_BYTES)
        return data, NetworkFile(path.resolve(), hashlib.sha256(data).hexdigest(), member)
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise ModelError(f"{path} is no plain file; give an ONNX file")
        if state.st_size > LARGEST_FILE_BYTES:
            raise ModelError(f"{path} takes {state.st_size / 1e6:.0f} MB, at most {LARGEST_FILE_BYTES / 1e6:.0f} MB of "
                             "a network are read")  # fmt: skip
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as fault:
        refused = ModelError(f"{path} cannot be read ({fault.strerror or fault}); check the file")
        raise unless_denied(refused, path, fault) from fault
    return data, NetworkFile(path.resolve(), hashlib.sha256(data).hexdigest())


def checked_model(data: bytes, path: Path, name: str) -> "onnx.ModelProto":  # noqa: ARG001
    """Return the model that bytes hold; ModelError where they hold none, or one that asks for too much."""
    onnx = onnx_package()
    try:
        model = onnx.ModelProto.FromString(data)
        onnx.checker.check_model(model)
    except Exception as fault:  # those of the parser and of the checker share no other class
        short = " ".join(str(fault).split())[:200] or "it cannot be parsed"
        raise ModelError(f"{name} is no sound ONNX network ({short}); export it again") from fault
    return model
