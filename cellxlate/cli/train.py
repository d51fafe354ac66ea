"""`train` and `evaluate`: from folders of images to a model, and from a model to scores."""

import argparse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from cellxlate.cli.lines.output import complain, progress_bar, say
from cellxlate.cli.lines.scores import score_lines
from cellxlate.cli.lines.table import count, duration, facts
from cellxlate.cli.lines.training import training_news
from cellxlate.errors import OptionError
from cellxlate.options import TO_CARD


def run_train(options: argparse.Namespace) -> int:
    """Train and say where the model is."""
    from cellxlate.training.loop import train

    with training_news(options) as news, _heard_warnings(options):
        bundle = train(
            options.source, options.target, output=options.output, preset=options.preset, settings=options.settings,
            base=options.base,
            baseline=options.baseline, guide=options.guide, masks=options.masks, epochs=options.epochs,
            steps=options.steps, seed=options.seed, restarts=options.restarts, channel=options.channel,
            beside=options.beside,
            device=options.device, licence=options.licence, description=options.description, resume=options.resume,
            progress=news.look, after_step=news.after_step,
        )  # fmt: skip
    training = (bundle.card.get("context") or bundle.card)["training"]
    answer = {"model": str(options.output), "preset": training["settings"]["preset"], "steps": training["steps"],
              "seconds": training["seconds"], "generator_parameters": bundle.card["generator_parameters"],
              "attention_parameters": bundle.card["attention_parameters"]}  # fmt: skip
    say(options, answer, facts([
        ("model", str(options.output)),
        ("trained", f"{count(training['steps'], 'step')} in {duration(training['seconds'])}"),
        ("next", f"cellxlate enhance STACK -m {options.output}"),
    ]))  # fmt: skip
    return 0


@contextmanager
def _heard_warnings(options: argparse.Namespace) -> Iterator[None]:
    """Say in one line each what training warns its caller of; warnings of other packages stay unheard."""

    def hear(message: Warning | str, *_: object) -> None:
        if not options.quiet:
            complain(str(message))

    with warnings.catch_warnings():
        for said in (r"(source|target) images: left out", r".* holds no checkpoint yet"):
            warnings.filterwarnings("always", said, UserWarning)
        warnings.showwarning = hear  # type: ignore[assignment]
        yield


def run_evaluate(options: argparse.Namespace) -> int:
    """Score, and say the means and whether it helps; return 1 where a pixel changed that attention did not select."""
    from cellxlate.evaluation.evaluate import evaluate
    from cellxlate.model.cards import amend_card, amendable

    if options.to_card and options.model is None:
        raise OptionError(
            TO_CARD, " wants a MODEL whose card gets the scores", remedy=("name it, or leave out ", TO_CARD)
        )
    card_of = amendable(options.model) if options.to_card else None
    with progress_bar(options, "images") as show:
        scores = evaluate(
            options.model, enhanced=options.enhanced, source=options.source, truth=options.truth, masks=options.masks,
            no_cells=options.no_cells, intensity=options.intensity, still=options.still, segment=options.segment,
            output=options.output, progress=show,
        )  # fmt: skip
    summary = {name: value for name, value in scores.items() if name != "images"}
    if card_of:
        amend_card(card_of, "scores", {"data": options.source.name, "images": len(scores["images"]), **summary})
    title = f"{options.enhanced or options.model} on {options.source}"
    made = [f"report: {options.output}"] if options.output else []
    say(options, scores, [*score_lines(title, scores), *made])
    return 1 if scores["kept_violations"] else 0
