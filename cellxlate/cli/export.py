"""`export`: a model for other software, and for other people."""

import argparse
from pathlib import Path

from cellxlate.cli.lines.output import say
from cellxlate.cli.lines.table import facts, size
from cellxlate.errors import OptionError

ENDINGS = {"onnx": ".onnx", "bioimageio": ".zip"}


def run_export(options: argparse.Namespace) -> int:
    """Write a model as ONNX, or as a package of the BioImage Model Zoo."""
    from cellxlate.model.bundle import load_model
    from cellxlate.model.export.bioimage import export_onnx, export_package

    ending = ENDINGS[options.format]
    if options.output and options.output.suffix.lower() != ending:  # what has the name may be replaced, an image too
        raise OptionError(f"{options.output} is no name for what is written; name it {ending}")
    bundle = load_model(options.model)
    path: Path = options.output or Path(f"{bundle.name}{ending}")
    if options.format == "onnx":
        export_onnx(bundle, path, overwrite=options.overwrite)
    else:
        export_package(bundle, path, authors=options.author, licence=options.licence, overwrite=options.overwrite)
    answer = {"model": bundle.name, "format": options.format, "output": str(path), "bytes": path.stat().st_size}
    kind = "ONNX graph" if options.format == "onnx" else "package of the BioImage Model Zoo"
    told = [("written", str(path)), ("holds", f"{bundle.name} as {kind}, {size(answer['bytes'])}")]
    if options.format == "bioimageio":
        told.append(("next", f"cellxlate enhance STACK -m {path}"))
    say(options, answer, facts(told))
    return 0
