"""`sample`, `info` and `models`: stacks to play with, and what a stack or a model is."""

import argparse
import time
from pathlib import Path

from cellxlate.cli.showing import progress_bar, say
from cellxlate.errors import OptionError


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
    with progress_bar(options, "planes") as show:
        write_stacks(wanted, overwrite=options.overwrite, progress=show)
    answer = {
        "outputs": {name: str(path) if path else None for name, path in outputs.items()},
        "axes": sample.stack.axes, "shape": list(sample.stack.shape), "dtype": str(sample.stack.dtype),
        "cell_fraction": options.cell_fraction, "layout": options.layout, "seed": options.seed,
        "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip
    say(options, answer, [f"{name:6} {path}" for name, path in outputs.items() if path])
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
    say(options, answer, [f"{name}: {value}" for name, value in answer.items()])
    return 0


def run_models(options: argparse.Namespace) -> int:
    """List models."""
    from cellxlate.model.cards import list_models

    models = list_models(Path.cwd())
    lines = [f"{model['name']:24} {'shipped' if model['shipped'] else model['path']}  {model['description']}"
             for model in models]  # fmt: skip
    say(options, {"models": models}, lines or ["no model here; train one with cellxlate train"])
    return 0
