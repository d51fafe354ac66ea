"""Where networks run: what is asked for and what is there, found out without loading torch where that is possible."""

import ctypes
import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args

from cellxlate.errors import OptionError
from cellxlate.option_values import require_choice
from cellxlate.options import DEVICE

Device = Literal["auto", "cpu", "cuda", "mps"]
DeviceKind = Literal["cpu", "cuda", "mps"]

DRIVERS = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}
"""Through which torch reaches a graphics card of NVIDIA."""


def choose_kind(device: Device) -> DeviceKind:
    """Return the kind of device that is asked for; `auto` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    OptionError
        The device is not there.
    """
    require_choice(DEVICE, device, get_args(Device))
    if device == "cpu" or (device == "auto" and has_cpu_alone()):
        return "cpu"
    import torch

    available: dict[DeviceKind, bool] = {
        "cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()
    }  # fmt: skip
    if device == "auto":
        order: tuple[DeviceKind, ...] = ("cuda", "mps", "cpu")
        return next(kind for kind in order if available[kind])
    if not available.get(device, False):
        names = ", ".join(name for name, present in available.items() if present)
        raise OptionError(DEVICE.of(device), " is not available here", remedy=f"available: {names}")
    return device


def has_cpu_alone() -> bool:
    """Return whether torch, which is not loaded, would surely find the CPU alone; False where only it can tell."""
    if "torch" in sys.modules or sys.platform not in DRIVERS:
        return False
    build = _build_of_torch()
    if build is None or getattr(build, "hip", None):
        return False
    if getattr(build, "cuda", None) is None:
        return True
    try:
        ctypes.CDLL(DRIVERS[sys.platform])
    except OSError:
        return True
    return False


def _build_of_torch() -> ModuleType | None:
    """Return what torch says of how it was built, which is a small module of its own; None where there is none."""
    package = importlib.util.find_spec("torch")
    folders = package.submodule_search_locations if package else None
    file = Path(folders[0]) / "version.py" if folders else None
    if file is None or not file.is_file():
        return None
    spec = importlib.util.spec_from_loader("version_of_torch", SourceFileLoader("version_of_torch", str(file)))
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
