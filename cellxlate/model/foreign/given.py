"""Which foreign model a path is: an ONNX file, or a package of the BioImage Model Zoo."""

from pathlib import Path

from cellxlate.model.archive import zoo_description
from cellxlate.model.foreign import opened
from cellxlate.model.foreign.values import ForeignModel
from cellxlate.model.foreign.zoo.package import open_package


def is_foreign(path: Path) -> bool:
    """Return whether a path is given as a foreign model: an ONNX file by its name, or a package that others wrote."""
    return opened.is_foreign(path) or zoo_description(path) is not None


def open_foreign(path: Path, *, torchscript: bool = False) -> ForeignModel:
    """Return what is known of a foreign model.

    Parameters
    ----------
    path : Path
        An ONNX file, of counts to counts; or `rdf.yaml`, folder or archive of a package.
    torchscript : bool
        Run a package's TorchScript where it has no ONNX; it can be any program.

    Raises
    ------
    ModelError
        It is damaged, asks for too much, is no image-to-image network, or holds nothing that is run here.
    OptionError
        The package onnx is not installed.
    """
    return opened.open_foreign(path) if opened.is_foreign(path) else open_package(path, torchscript=torchscript)
