"""Every command and option, with its help."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cellxlate
from cellxlate.cli.arguments import Parser
from cellxlate.cli.enhance import run_demo, run_enhance
from cellxlate.cli.export import run_export
from cellxlate.cli.inspect import run_describe, run_info, run_models, run_report, run_sample
from cellxlate.cli.train import run_evaluate, run_train
from cellxlate.errors import OptionError, said
from cellxlate.locations import Location, located
from cellxlate.settings import ADAPT_S, AUTO, PRESETS, SALIENCY, THRESHOLD

MOST_ADAPT_S = 86_400.0
DEVICES = ("auto", "cpu", "cuda", "mps")
MANY: dict[str, Any] = {"action": "extend", "nargs": "+"}
"""Of an option that takes several values, or may be given several times, as `--channel A --channel B`."""
EXAMPLES = {
    "demo": "cellxlate demo -o demo",
    "sample": "cellxlate sample cells.ome.tif --shape 1,1,8,1024,1024 --cell-fraction 0.1 --mask mask.ome.tif",
    "enhance": "cellxlate enhance stack.tif --channel DAPI --output-dir results",
    "train": "cellxlate train --source faint/ --target clear/ -o my-model --licence CC0-1.0",
    "evaluate": "cellxlate evaluate my-model --source test/ --truth test_truth/ --masks test_masks/ -o scores.html",
    "info": "cellxlate info stack.ome.zarr",
    "export": "cellxlate export my-model --format bioimageio --author 'Ada Example' -o my-model.zip",
    "models": "cellxlate models --json",
    "report": "cellxlate report results/stack_enhanced.ome.tif --source stack.tif",
    "describe": "cellxlate describe my-model --source faint/",
}
GROUPS = {
    "to begin": ("demo", "sample"),
    "your images": ("info", "enhance", "report"),
    "your own model": ("train", "evaluate", "describe", "export", "models"),
}
"""The commands in the order in which one uses them."""
FIRST = """first:  cellxlate demo                 a drawn stack, its result and a report
then:   cellxlate enhance stack.tif    your own stack
help:   cellxlate COMMAND --help       the options of a command, with an example"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(prog="cellxlate", description=(cellxlate.__doc__ or "").partition("\n")[0], epilog=FIRST)
    parser.add_argument("--version", action="version", version=f"cellxlate {cellxlate.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=Parser)
    texts: dict[str, str] = {}

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, epilog=f"example: {EXAMPLES[name]}")
        texts[name] = text
        added.set_defaults(run=run)
        added.add_argument("--json", action="store_true", help="print one JSON object on standard output, nothing else")
        added.add_argument("--quiet", action="store_true", help="no progress and no summary")
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return added

    demo = command(
        "demo", run_demo, "Simulate a stack, enhance it with the shipped model that suits it, and write a report."
    )
    demo.add_argument(
        "-o", "--output", type=Path, default=Path("cellxlate_demo"), metavar="DIR", help="folder to make (%(default)s)"
    )
    demo.add_argument("--overwrite", action="store_true", help="replace the results of an earlier demo")

    _add_sample(command("sample", run_sample, "Simulate a faint fluorescence stack with known truth and mask."))
    _add_enhance(command("enhance", run_enhance, "Enhance the cells of stacks; every other pixel stays as it is."))
    _add_train(command("train", run_train, "Train a translator from unpaired images, or from the source alone."))

    _add_evaluate(command("evaluate", run_evaluate, "Score a model, or a folder of enhanced images."))
    info = command("info", run_info, "Show what a stack or a model is.")
    info.add_argument(
        "path",
        metavar="PATH",
        help="a stack, a folder of stacks, a plate, an address, or a model: shipped, a folder, a .zip",
    )
    info.add_argument("--axes", metavar="TCZYX", help="axes of the stack, where the file does not say")
    info.add_argument("--image", type=int, metavar="N", help="which image of a file that holds several, from 0")
    info.add_argument(
        "--incomplete", action="store_true", help="of an acquisition that was stopped, the complete time points"
    )
    info.add_argument("--noise", action="store_true", help="measure the camera noise of each channel of a stack")

    _add_export(command("export", run_export, "Write a model as ONNX, or as a package of the BioImage Model Zoo."))
    _add_models(command("models", run_models, "List the models and filters that are here, or check one of others."))
    _add_report(command("report", run_report, "Check results of enhance again and write their reports anew."))

    describe = command("describe", run_describe, "Note in a model's card what its training images look like.")
    describe.add_argument("model", metavar="MODEL", help="model folder")
    describe.add_argument("--source", **MANY, type=Path, required=True, metavar="PATH", help="its source images")
    describe.add_argument("--channel", metavar="NAME|N", help="channel of multi-channel images")
    parser.groups = {heading: {name: texts[name] for name in names} for heading, names in GROUPS.items()}
    return parser


def _add_torchscript(added: argparse.ArgumentParser) -> None:
    added.add_argument(
        "--run-torchscript",
        action="store_true",
        help="run the TorchScript of a package that has no ONNX; it can be any program, so trust who made it",
    )


def _add_models(models: argparse.ArgumentParser) -> None:
    _add_torchscript(models)
    models.add_argument(
        "--check", metavar="FILE", help="tell how far an ONNX file, a zoo package or a filter looks, and what it needs"
    )


def _add_sample(sample: argparse.ArgumentParser) -> None:
    sample.add_argument("output", type=Path, metavar="OUT", help="name.ome.tif or name.ome.zarr")
    sample.add_argument(
        "--shape", type=_shape, default=(1, 1, 1, 520, 696), metavar="T,C,Z,Y,X", help="sizes (1,1,1,520,696)"
    )
    sample.add_argument(
        "--cell-fraction",
        type=float,
        metavar="F",
        help="share of a plane that cells cover, 0 to 0.9 (0.15; drawn structures: as drawn)",
    )
    sample.add_argument("--layout", choices=("scattered", "clustered"), help="how nuclei lie (scattered)")
    sample.add_argument(
        "--structure",
        metavar="KIND",
        help="draw filaments, tubules, membranes, puncta, blobs, nuclei, reticulum, cells, tissue or mixed",
    )
    sample.add_argument("--scale", type=float, metavar="F", help="sizes of drawn structures, 0.2 to 8 (1)")
    sample.add_argument("--haze", type=float, metavar="F", help="out-of-focus light of drawn structures, 0 to 20 (0)")
    sample.add_argument("--seed", type=int, default=0, metavar="N", help="another one draws other cells (%(default)s)")
    sample.add_argument("--truth", type=Path, metavar="FILE", help="write the sharp, noise-free truth too")
    sample.add_argument("--mask", type=Path, metavar="FILE", help="write the mask of the cells too")
    sample.add_argument("--overwrite", action="store_true", help="replace existing files")


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument("model", nargs="?", metavar="MODEL", help="model folder, shipped name, or a filter")
    evaluate.add_argument("--enhanced", type=Path, metavar="DIR", help="score these images, whoever made them")
    evaluate.add_argument("--source", type=Path, required=True, metavar="DIR", help="images as they are")
    evaluate.add_argument("--truth", type=Path, metavar="DIR", help="the same fields as they should look, same names")
    evaluate.add_argument("--masks", type=Path, metavar="DIR", help="which pixels are cells, named like the images")
    evaluate.add_argument("--no-cells", type=Path, metavar="DIR", help="images that show no cell")
    evaluate.add_argument(
        "--intensity",
        choices=("source", "target"),
        default="source",
        help="counts of enhanced cells: as in the input, or as in clear images (%(default)s)",
    )
    evaluate.add_argument(
        "--still",
        action="store_true",
        help="the frames of each image, along T or Z, show one still scene: score flicker",
    )
    evaluate.add_argument(
        "--segment", metavar="otsu|FILE.py:FUNCTION", help="find objects before and after, and compare with --masks"
    )
    evaluate.add_argument("-o", "--output", type=Path, metavar="REPORT.html", help="write a page with all scores")
    evaluate.add_argument("--to-card", action="store_true", help="put the scores into the card of MODEL, a folder")


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("model", metavar="MODEL", help="model folder, archive, or shipped name")
    export.add_argument("--format", choices=("onnx", "bioimageio"), required=True, help="a graph, or a package")
    export.add_argument("-o", "--output", type=Path, metavar="PATH", help="MODEL.onnx or MODEL.zip by default")
    export.add_argument("--author", action="append", default=[], metavar="NAME", help="for the package; repeatable")
    export.add_argument("--licence", metavar="SPDX", help="of the weights, where the card states none")
    export.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _add_report(report: argparse.ArgumentParser) -> None:
    report.add_argument("results", nargs="+", type=Path, metavar="STACK_enhanced", help="as enhance wrote it")
    report.add_argument("--source", type=Path, metavar="STACK", help="the input; beside the result by default")
    report.add_argument("--attention", type=Path, metavar="FILE", help="beside the result by default")
    report.add_argument("-m", "--model", metavar="MODEL", help="the model, if it is not a shipped one")
    report.add_argument("-o", "--output", type=Path, metavar="REPORT.html", help="NAME_report.html by default")


def _add_enhance(enhance: argparse.ArgumentParser) -> None:
    enhance.add_argument(
        "stacks",
        nargs="+",
        type=_place,
        metavar="STACK",
        help="files, Zarr folders, plates, folders of them, img_t{T}_z{Z}.tif, or Zarr at s3:// or https://",
    )
    enhance.add_argument(
        "-m",
        "--model",
        default=AUTO,
        help="shipped name, model folder, ONNX file, package of the BioImage Model Zoo, a filter (gaussian:1.5; "
        "cellxlate models lists them), or the shipped one nearest to each stack (%(default)s)",
    )
    _add_torchscript(enhance)
    enhance.add_argument("-o", "--output", type=_place, metavar="OUT", help="name of the enhanced stack")
    enhance.add_argument(
        "--output-dir", type=_place, metavar="DIR", help="folder for the outputs; beside STACK by default"
    )
    formats = ("ome-tiff", "ome-zarr", "ome-zarr-0.4", "tiff", "zarr")
    enhance.add_argument("--format", choices=formats, help="that of the input by default; Zarr in version 0.5")
    enhance.add_argument(
        "--levels-from", type=Path, metavar="FILE", help="take the intensity levels of an earlier report or result"
    )
    enhance.add_argument("--image", type=int, metavar="N", help="which image of a file that holds several, from 0")
    enhance.add_argument(
        "--incomplete", action="store_true", help="of an acquisition that was stopped, take the complete time points"
    )
    enhance.add_argument("--axes", metavar="TCZYX", help="axes of the input, where the file does not say")
    _add_what_changes(enhance)
    enhance.add_argument("--no-attention", action="store_true", help="do not keep the attention file")
    enhance.add_argument(
        "--confidence",
        action="store_true",
        help="also write how sure the model is of each pixel; takes 9 times as long",
    )
    enhance.add_argument("--no-report", action="store_true", help="do not write the report")
    _add_computing(enhance)


def _add_what_changes(enhance: argparse.ArgumentParser) -> None:
    enhance.add_argument("--channel", **MANY, metavar="NAME|N", help="channels to enhance; others are copied")
    enhance.add_argument(
        "--beside",
        **MANY,
        metavar="NAME|N",
        help="channels that the model sees too and never changes; by default those of the names it was trained with",
    )
    _add_gate(enhance)
    enhance.add_argument(
        "--threshold", type=float, default=THRESHOLD, metavar="A", help="attention to exceed (%(default)s)"
    )
    enhance.add_argument(
        "--intensity",
        choices=("source", "target"),
        default="source",
        help="counts of enhanced cells: as in the input, or as in clear images (%(default)s)",
    )
    enhance.add_argument(
        "--context",
        choices=("auto", "none", "z", "t"),
        default=AUTO,
        help="planes beside each that the model sees too: along z, time (t), or what helps (%(default)s)",
    )
    enhance.add_argument(
        "--color",
        choices=("luminance", "separate"),
        default="luminance",
        help="RGB by its luminance, which keeps the hue, or red, green and blue each by itself (%(default)s)",
    )


def _add_gate(enhance: argparse.ArgumentParser) -> None:
    enhance.add_argument(
        "--attention-channel", metavar="NAME|N", help="attention of this channel gates all; each has its own otherwise"
    )
    enhance.add_argument(
        "--attention-from",
        type=_mask,
        metavar="FILE|saliency",
        help="a mask, or a folder of them, gates in place of attention; or the automatic guide of training",
    )


def _add_computing(enhance: argparse.ArgumentParser) -> None:
    enhance.add_argument(
        "--tile", type=int, metavar="N", help="side of a tile in pixels; from a memory budget by default"
    )
    enhance.add_argument("--engine", choices=("auto", "torch", "openvino", "onnxruntime"), default="auto",
        help="what runs the networks (%(default)s)",
    )  # fmt: skip
    enhance.add_argument("--device", choices=DEVICES, default="auto", help="processor or graphics card (%(default)s)")
    enhance.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="float32; bfloat16 is faster and less exact",
    )
    enhance.add_argument("--dense", action="store_true", help="run the generator everywhere; the pixels are the same")
    enhance.add_argument(
        "--adapt", nargs="?", type=_seconds, const=ADAPT_S, metavar="SECONDS",
        help="let the model learn from each stack before, for 90 s; what is not clearly better is not kept",
    )  # fmt: skip
    computing = enhance.add_mutually_exclusive_group()
    computing.add_argument("--workers", type=int, metavar="N", help="compute in N processes of this machine")
    computing.add_argument(
        "--scheduler", metavar="ADDRESS|FILE", help="compute on a dask cluster that runs (docs/how-to/cluster.md)"
    )
    enhance.add_argument(
        "--slurm",
        type=Path,
        metavar="SCRIPT",
        help="write a job script for a Slurm cluster in place of running",
    )
    again = enhance.add_mutually_exclusive_group()
    again.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    again.add_argument("--resume", action="store_true", help="continue an interrupted run")
    enhance.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("--source", **MANY, type=Path, metavar="PATH", help="images as they are")
    train.add_argument("--target", **MANY, type=Path, metavar="PATH", help="images as they should look")
    train.add_argument("--from", dest="base", metavar="MODEL", help="start from a model, shipped or a folder")
    train.add_argument("-o", "--output", type=Path, required=True, metavar="MODEL", help="model folder to write")
    train.add_argument("--preset", choices=tuple(PRESETS), help="alone without --target, fast with it")
    train.add_argument("--settings", type=Path, metavar="FILE.toml", help="settings that differ from the preset")
    train.add_argument("--baseline", choices=("none", "cyclegan"), default="none", help="train without attention")
    train.add_argument("--guide", choices=("saliency", "masks", "none"), help="what attention learns from")
    train.add_argument("--masks", **MANY, type=Path, metavar="DIR", help="masks of some of the images, named like them")
    length = train.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs", type=int, metavar="N", help="how often all images are seen; that of the preset by default"
    )
    length.add_argument("--steps", type=int, metavar="N", help="or how many steps")
    train.add_argument(
        "--seed", type=int, metavar="N", help="of all that is drawn at random; the same one repeats a run"
    )
    train.add_argument("--restarts", type=int, default=0, metavar="N", help="other seeds to try if attention collapses")
    train.add_argument("--channel", metavar="NAME|N", help="channel of multi-channel images")
    train.add_argument(
        "--beside",
        **MANY,
        default=[],
        metavar="NAME|N",
        help="channels that the model sees beside this one and never changes",
    )
    train.add_argument("--device", choices=DEVICES, default="auto", help="processor or graphics card (%(default)s)")
    train.add_argument("--licence", default="not stated", help="of the weights, for the card")
    train.add_argument("--description", default="", metavar="TEXT", help="what the model is for, for the card")
    train.add_argument("--resume", action="store_true", help="continue an interrupted run")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError as fault:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds; name the stacks before --adapt, or give --adapt 90"
        ) from fault
    if not 1 <= seconds <= MOST_ADAPT_S:
        raise argparse.ArgumentTypeError(f"{text} is no time to learn in; give 1 to {MOST_ADAPT_S:.0f} seconds")
    return seconds


def _mask(text: str) -> Path | str:
    return text if text == SALIENCY else Path(text)


def _place(text: str) -> Location:
    try:
        return located(text)
    except OptionError as fault:
        raise argparse.ArgumentTypeError(said(fault)) from fault


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError as fault:
        raise argparse.ArgumentTypeError(f"{text!r} is not T,C,Z,Y,X; for example 1,1,8,1024,1024") from fault
