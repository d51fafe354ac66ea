"""Enhance the cells of a microscope stack and leave every other pixel exactly as it was.

The public names are loaded on first use, so that `import cellxlate` stays light: no torch, no napari, no dask.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cellxlate.enhancement.adaptation.adapt import adapt
    from cellxlate.enhancement.batch import enhance_files
    from cellxlate.enhancement.job import EnhancedStack, enhance, enhance_file
    from cellxlate.enhancement.proposals.source import load_foreign
    from cellxlate.errors import CellxlateError, InputError, ModelError, OptionError, OutputError, PromiseError
    from cellxlate.evaluation.evaluate import evaluate
    from cellxlate.model.bundle import Bundle, load_model
    from cellxlate.stacks.read.open import open_stack
    from cellxlate.stacks.stack import Stack
    from cellxlate.stacks.write.writer import open_writer
    from cellxlate.training.loop import train
    from cellxlate.training.strokes import teach

_NAMES = {
    "enhancement.adaptation.adapt": ["adapt"],
    "enhancement.batch": ["enhance_files"],
    "enhancement.job": ["EnhancedStack", "enhance", "enhance_file"],
    "enhancement.proposals.source": ["load_foreign"],
    "errors": ["CellxlateError", "InputError", "ModelError", "OptionError", "OutputError", "PromiseError"],
    "evaluation.evaluate": ["evaluate"],
    "model.bundle": ["Bundle", "load_model"],
    "stacks.read.open": ["open_stack"],
    "stacks.stack": ["Stack"],
    "stacks.write.writer": ["open_writer"],
    "training.loop": ["train"],
    "training.strokes": ["teach"],
}
_HOMES = {name: f"cellxlate.{home}" for home, names in _NAMES.items() for name in names}

__all__ = [
    "Bundle",
    "CellxlateError",
    "EnhancedStack",
    "InputError",
    "ModelError",
    "OptionError",
    "OutputError",
    "PromiseError",
    "Stack",
    "adapt",
    "enhance",
    "enhance_file",
    "enhance_files",
    "evaluate",
    "load_foreign",
    "load_model",
    "open_stack",
    "open_writer",
    "teach",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cellxlate' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
