"""The command line: arguments in, exit code out. Each command imports what it needs when it runs."""

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import cellxlate
from cellxlate.errors import CellxlateError, OptionError
from cellxlate.settings import PRESETS, THRESHOLD, EnhanceSettings

if TYPE_CHECKING:
    from cellxlate.enhancement.outputs import Outputs
    from cellxlate.model.bundle import Bundle
    from cellxlate.quality.report import RunReport

DEFAULT_MODEL = "nuclei-lowexp"
INTERRUPTED = 130
EXAMPLES = {
    "demo": "cellxlate demo -o demo",
    "sample": "cellxlate sample cells.ome.tif --shape 1,1,8,1024,1024 --cell-fraction 0.1 --mask mask.ome.tif",
    "enhance": "cellxlate enhance stack.tif --channel DAPI --output-dir results",
    "train": "cellxlate train --source faint/ --target clear/ -o my-model --licence CC0-1.0",
    "evaluate": "cellxlate evaluate my-model --source test/ --truth test_truth/ --masks test_masks/ -o scores.html",
    "info": "cellxlate info stack.ome.zarr",
    "models": "cellxlate models --json",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(OptionError.exit_code, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process by default.

    Returns
    -------
    int
        0 done; 1 the job ran and a promise or check failed; 2 the input or the options are wrong; 130 interrupted.
    """
    options = build_parser().parse_args(arguments)
    if not options.debug:
        warnings.simplefilter("ignore")
    try:
        code: int = options.run(options)
        return code
    except KeyboardInterrupt:
        _complain("interrupted; what is done is kept beside the output, give --resume to go on")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on; nothing to say
        return 0
    except CellxlateError as fault:
        if options.debug:
            raise
        _complain(str(fault))
        return fault.exit_code
    except Exception as fault:  # the last line of defence: no traceback reaches a user
        if options.debug:
            raise
        _complain(f"unexpected {type(fault).__name__}: {fault}; run again with --debug and report what it shows")
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = _Parser(prog="cellxlate", description=(cellxlate.__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"cellxlate {cellxlate.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, epilog=f"example: {EXAMPLES[name]}")
        added.set_defaults(run=run)
        added.add_argument("--json", action="store_true", help="print one JSON object on standard output, nothing else")
        added.add_argument("--quiet", action="store_true", help="no progress and no summary")
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return added

    demo = command("demo", run_demo, "Simulate a stack, enhance it with the shipped model, and write a report.")
    demo.add_argument("-o", "--output", type=Path, default=Path("cellxlate_demo"), metavar="DIR", help="%(default)s")
    demo.add_argument("--overwrite", action="store_true", help="replace the results of an earlier demo")

    sample = command("sample", run_sample, "Simulate a faint fluorescence stack with known truth and mask.")
    sample.add_argument("output", type=Path, metavar="OUT", help="name.ome.tif or name.ome.zarr")
    sample.add_argument("--shape", type=_shape, default=(1, 1, 1, 520, 696), metavar="T,C,Z,Y,X", help="1,1,1,520,696")
    sample.add_argument("--cell-fraction", type=float, default=0.15, metavar="F", help="share of a plane, 0 to 0.9")
    sample.add_argument("--layout", choices=("scattered", "clustered"), default="scattered")
    sample.add_argument("--seed", type=int, default=0, metavar="N")
    sample.add_argument("--truth", type=Path, metavar="FILE", help="write the sharp, noise-free truth too")
    sample.add_argument("--mask", type=Path, metavar="FILE", help="write the mask of the cells too")
    sample.add_argument("--overwrite", action="store_true")

    _add_enhance(command("enhance", run_enhance, "Enhance the cells of stacks; every other pixel stays as it is."))
    _add_train(command("train", run_train, "Train a translator from two folders of unpaired images."))

    evaluate = command("evaluate", run_evaluate, "Score a model, or a folder of enhanced images.")
    evaluate.add_argument("model", nargs="?", metavar="MODEL", help="model folder or shipped name")
    evaluate.add_argument("--enhanced", type=Path, metavar="DIR", help="score these images, whoever made them")
    evaluate.add_argument("--source", type=Path, required=True, metavar="DIR")
    evaluate.add_argument("--truth", type=Path, metavar="DIR")
    evaluate.add_argument("--masks", type=Path, metavar="DIR")
    evaluate.add_argument("--no-cells", type=Path, metavar="DIR", help="images that show no cell")
    evaluate.add_argument("-o", "--output", type=Path, metavar="REPORT.html")
    evaluate.add_argument("--to-card", action="store_true", help="put the scores into the card of the model")

    info = command("info", run_info, "Show what a stack or a model is.")
    info.add_argument("path", metavar="PATH", help="a TIFF, an OME-Zarr folder, a model folder, or a shipped model")
    info.add_argument("--axes", metavar="TCZYX")

    command("models", run_models, "List the shipped models and those in this folder.")
    return parser


def _add_enhance(enhance: argparse.ArgumentParser) -> None:
    enhance.add_argument(
        "stacks", nargs="+", type=Path, metavar="STACK", help="files, OME-Zarr folders, or folders of them"
    )
    enhance.add_argument("-m", "--model", default=DEFAULT_MODEL, help="shipped name or model folder (%(default)s)")
    enhance.add_argument("-o", "--output", type=Path, metavar="OUT", help="name of the enhanced stack")
    enhance.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="folder for the outputs; beside STACK by default"
    )
    enhance.add_argument("--format", choices=("ome-tiff", "ome-zarr"), help="that of the input by default")
    enhance.add_argument("--axes", metavar="TCZYX", help="axes of the input, where the file does not say")
    enhance.add_argument("--channel", nargs="+", metavar="NAME|N", help="channels to enhance; others are copied")
    enhance.add_argument(
        "--threshold", type=float, default=THRESHOLD, metavar="A", help="attention to exceed (%(default)s)"
    )
    enhance.add_argument("--intensity", choices=("source", "target"), default="source", help="scale of enhanced cells")
    enhance.add_argument("--no-attention", action="store_true", help="do not keep the attention file")
    enhance.add_argument("--no-report", action="store_true", help="do not write the report")
    enhance.add_argument(
        "--tile", type=int, metavar="N", help="side of a tile in pixels; from a memory budget by default"
    )
    enhance.add_argument("--engine", choices=("auto", "torch", "openvino", "onnxruntime"), default="auto")
    enhance.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    enhance.add_argument("--dense", action="store_true", help="run the generator everywhere; the pixels are the same")
    again = enhance.add_mutually_exclusive_group()
    again.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    again.add_argument("--resume", action="store_true", help="continue an interrupted run")
    enhance.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("--source", nargs="+", type=Path, required=True, metavar="PATH", help="images as they are")
    train.add_argument(
        "--target", nargs="+", type=Path, required=True, metavar="PATH", help="images as they should look"
    )
    train.add_argument("-o", "--output", type=Path, required=True, metavar="MODEL", help="model folder to write")
    train.add_argument("--preset", choices=tuple(PRESETS), default="fast")
    train.add_argument("--settings", type=Path, metavar="FILE.toml", help="settings that differ from the preset")
    train.add_argument("--baseline", choices=("none", "cyclegan"), default="none")
    train.add_argument("--guide", choices=("saliency", "masks", "none"), help="what attention learns from")
    train.add_argument("--masks", type=Path, metavar="DIR", help="masks of some of the images, named like them")
    length = train.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, metavar="N")
    length.add_argument("--steps", type=int, metavar="N")
    train.add_argument("--seed", type=int, metavar="N")
    train.add_argument("--restarts", type=int, default=0, metavar="N", help="other seeds to try if attention collapses")
    train.add_argument("--channel", type=int, metavar="N", help="channel of multi-channel images")
    train.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    train.add_argument("--licence", default="not stated", help="of the weights, for the card")
    train.add_argument("--description", default="", metavar="TEXT", help="what the model is for, for the card")
    train.add_argument("--resume", action="store_true", help="continue an interrupted run")


def run_demo(options: argparse.Namespace) -> int:
    """Simulate, enhance, report."""
    from cellxlate.enhancement.job import enhance_file
    from cellxlate.stacks.copying import write_stacks
    from cellxlate.stacks.synthetic import SampleSettings, simulate

    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    sample = simulate(SampleSettings(shape=(1, 1, 1, 1024, 1024), cell_fraction=0.15, seed=1))
    faint, truth = folder / "demo.ome.tif", folder / "demo_truth.ome.tif"
    with _progress(options, "planes") as show:
        write_stacks([(sample.stack, faint), (sample.truth, truth)], overwrite=options.overwrite, progress=show)
        report = enhance_file(faint, overwrite=options.overwrite, progress=lambda news: show(news.done, news.total))
    _say(options, report.as_dict(), [f"input      {faint}", *_enhanced_lines(report)])
    return 0


def run_sample(options: argparse.Namespace) -> int:
    """Write a simulated stack, and its truth and mask where asked."""
    from cellxlate.stacks.copying import write_stacks
    from cellxlate.stacks.synthetic import SampleSettings, simulate

    started = time.perf_counter()
    settings = SampleSettings(options.shape, options.cell_fraction, options.layout, options.seed)
    sample = simulate(settings)
    outputs: dict[str, Path | None] = {"stack": options.output, "truth": options.truth, "mask": options.mask}
    wanted = [(getattr(sample, name), path) for name, path in outputs.items() if path]
    if len({path.absolute() for _, path in wanted}) < len(wanted):
        raise OptionError("OUT, --truth and --mask name the same file; give each its own")
    with _progress(options, "planes") as show:
        write_stacks(wanted, overwrite=options.overwrite, progress=show)
    answer = {
        "outputs": {name: str(path) if path else None for name, path in outputs.items()},
        "axes": sample.stack.axes, "shape": list(sample.stack.shape), "dtype": str(sample.stack.dtype),
        "cell_fraction": options.cell_fraction, "layout": options.layout, "seed": options.seed,
        "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip
    _say(options, answer, [f"{name:6} {path}" for name, path in outputs.items() if path])
    return 0


def run_enhance(options: argparse.Namespace) -> int:
    """Enhance one stack, or several of which one failure does not stop the rest."""
    from cellxlate.enhancement.job import enhance_file
    from cellxlate.enhancement.outputs import find_inputs, name_outputs, require_distinct
    from cellxlate.model.bundle import load_model
    from cellxlate.stacks.reading import is_zarr

    paths = find_inputs(options.stacks)
    if options.output is not None and len(paths) > 1:
        raise OptionError(f"-o names one output, but there are {len(paths)} stacks; give --output-dir")
    settings = EnhanceSettings(options.threshold, options.intensity, options.tile, options.dense)
    naming: dict[str, Any] = {
        "output": options.output, "output_dir": options.output_dir, "format": options.format,
        "attention": not options.no_attention, "report": not options.no_report,
    }  # fmt: skip
    named = [(path, name_outputs(path, is_zarr=is_zarr(path), **naming)) for path in paths]
    require_distinct(named)
    bundle = load_model(options.model)
    running: dict[str, Any] = {"axes": options.axes, "channels": options.channel, "settings": settings,
                               "engine": options.engine, "device": options.device}  # fmt: skip
    answers: list[dict[str, Any]] = []
    failed: list[CellxlateError] = []
    for path, outputs in named:
        try:
            if options.dry_run:
                answers.append(_dry_run(path, outputs, bundle, running))
                continue
            with _progress(options, "planes") as show:
                report = enhance_file(
                    path, bundle, **naming, **running, overwrite=options.overwrite, resume=options.resume,
                    progress=lambda news: show(news.done, news.total),
                )  # fmt: skip
            answers.append(report.as_dict())
            if not options.json:
                _say(options, {}, _enhanced_lines(report))
        except CellxlateError as fault:
            if len(paths) == 1 or options.debug:
                raise
            _complain(str(fault))
            failed.append(fault)
            answers.append({"input": str(path), "error": str(fault)})
    if options.json or options.dry_run:
        lines = [f"{key}: {value}" for answer in answers for key, value in answer.items()]
        _say(options, answers[0] if len(paths) == 1 else {"stacks": answers}, lines)
    elif len(paths) > 1:
        _say(options, {}, [f"{len(paths) - len(failed)} of {len(paths)} stacks enhanced"])
    return 1 if failed else 0


def run_train(options: argparse.Namespace) -> int:
    """Train and say where the model is."""
    from cellxlate.training.loop import train

    with _progress(options, "steps") as show:
        bundle = train(
            options.source, options.target, output=options.output, preset=options.preset, settings=options.settings,
            baseline=options.baseline, guide=options.guide, masks=options.masks, epochs=options.epochs,
            steps=options.steps, seed=options.seed, restarts=options.restarts, channel=options.channel,
            device=options.device, licence=options.licence, description=options.description, resume=options.resume,
            progress=lambda news: show(news.step, news.steps),
        )  # fmt: skip
    training = bundle.card["training"]
    answer = {"model": str(options.output), "preset": bundle.card["preset"], "steps": training["steps"],
              "seconds": training["seconds"], "generator_parameters": bundle.card["generator_parameters"],
              "attention_parameters": bundle.card["attention_parameters"]}  # fmt: skip
    _say(options, answer, [f"model  {options.output}  ({training['steps']} steps, {training['seconds']:.0f} s)",
                           f"next   cellxlate enhance STACK -m {options.output}"])  # fmt: skip
    return 0


def run_evaluate(options: argparse.Namespace) -> int:
    """Score and say the means."""
    from cellxlate.enhancement.evaluation import evaluate
    from cellxlate.model.cards import add_scores, locate

    scores = evaluate(
        options.model, enhanced=options.enhanced, source=options.source, truth=options.truth, masks=options.masks,
        no_cells=options.no_cells, output=options.output,
    )  # fmt: skip
    summary = {name: value for name, value in scores.items() if name != "images"}
    if options.to_card and options.model:
        add_scores(locate(options.model), {"data": options.source.name, "images": len(scores["images"]), **summary})
    _say(options, scores, [f"{name}: {value}" for name, value in summary.items()])
    return 0


def run_info(options: argparse.Namespace) -> int:
    """Describe a stack or a model."""
    from cellxlate.model.cards import describe_model, is_model
    from cellxlate.stacks.reading import open_stack

    if is_model(options.path):
        answer = describe_model(options.path)
    else:
        with open_stack(options.path, options.axes) as stack:
            answer = {
                "axes": stack.axes, "shape": list(stack.shape), "dtype": str(stack.dtype),
                "pixel_size_um": dict(stack.pixel_size_um), "channels": list(stack.channel_names),
                "levels": stack.levels, "time_step_s": stack.time_step_s, "kind": stack.kind,
            }  # fmt: skip
    _say(options, answer, [f"{name}: {value}" for name, value in answer.items()])
    return 0


def run_models(options: argparse.Namespace) -> int:
    """List models."""
    from cellxlate.model.cards import list_models

    models = list_models(Path.cwd())
    lines = [f"{model['name']:24} {'shipped' if model['shipped'] else model['path']}  {model['description']}"
             for model in models]  # fmt: skip
    _say(options, {"models": models}, lines or ["no model here; train one with cellxlate train"])
    return 0


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError as fault:
        raise argparse.ArgumentTypeError(f"{text!r} is not T,C,Z,Y,X; for example 1,1,8,1024,1024") from fault


def _dry_run(path: Path, outputs: "Outputs", bundle: "Bundle", running: dict[str, Any]) -> dict[str, Any]:
    """Return what would be done with a stack."""
    from cellxlate.enhancement.plan import make_plan
    from cellxlate.stacks.reading import open_stack

    with open_stack(path, running["axes"]) as stack:
        plan = make_plan(stack, bundle, **{name: value for name, value in running.items() if name != "axes"})
        return {
            "input": str(path), "axes": stack.axes, "shape": list(stack.shape), "dtype": str(stack.dtype),
            "planes": stack.plane_count, "channels": sorted(plan.jobs), "tile_px": plan.tile_px, "engine": plan.engine,
            "model": bundle.name, "outputs": [str(written) for written in outputs.wanted],
        }  # fmt: skip


def _enhanced_lines(report: "RunReport") -> list[str]:
    answer = report.as_dict()
    lines = [f"{name:10} {path}" for name, path in answer["outputs"].items() if path]
    lines.append(
        f"changed    {100 * report.changed_fraction:.2f} % of the pixels; of the others, "
        f"{report.kept_violations} differ from the input"
    )
    lines.append(f"took       {answer['seconds']['total']:.1f} s with {report.engine}")
    return lines + [f"warning    {warning}" for warning in report.warnings]


def _say(options: argparse.Namespace, answer: dict[str, Any], lines: Sequence[str]) -> None:
    """Print the answer as JSON, or as lines for people."""
    if options.json:
        print(json.dumps(answer, default=str))
    elif not options.quiet:
        print("\n".join(lines))


def _complain(message: str) -> None:
    print(f"cellxlate: {' '.join(message.split())}", file=sys.stderr)


@contextmanager
def _progress(options: argparse.Namespace, unit: str) -> Iterator[Callable[[float, int], None]]:
    """Give a function (done, total) that moves a progress bar on standard error; nothing happens without a terminal."""
    if options.quiet or not sys.stderr.isatty():
        yield lambda done, total: None  # noqa: ARG005
        return
    from tqdm import tqdm

    with tqdm(unit=unit, file=sys.stderr, dynamic_ncols=True, leave=False) as bar:

        def show(done: float, total: int) -> None:
            bar.total = total
            bar.update(round(done, 2) - bar.n)

        yield show
