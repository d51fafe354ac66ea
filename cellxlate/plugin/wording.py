"""What panels say."""

from typing import TYPE_CHECKING

from cellxlate.quality.report.gates import context_seen, context_words

if TYPE_CHECKING:
    from cellxlate.choice import Suitability
    from cellxlate.enhancement.flow import EnhanceProgress
    from cellxlate.plugin.requests import AdaptNews
    from cellxlate.plugin.train.requests import TrainingSnapshot
    from cellxlate.quality.report.report import RunReport


def time_left(news: "EnhanceProgress") -> str:
    """Return how far a run is and how long it will still take.

    Examples
    --------
    >>> from cellxlate.enhancement.flow import EnhanceProgress
    >>> time_left(EnhanceProgress("cells", 3.0, 12, 20.0))
    '3.0 of 12 planes, 20 s so far, about 1 min left'
    >>> time_left(EnhanceProgress("cells", 12.0, 12, 80.0))  # how long the rest takes is not known
    'All planes enhanced, 80 s so far; putting the result together and checking it ...'
    """
    if news.done >= news.total:
        return f"All planes enhanced, {news.seconds:.0f} s so far; putting the result together and checking it ..."
    return f"{news.done:.1f} of {news.total} planes, {_seconds_left(news.seconds, news.done, news.total)}"


def _seconds_left(seconds: float, done: float, total: int) -> str:
    left_s = seconds * (total - done) / done if done else 0.0
    left = f"{left_s:.0f} s" if left_s < 60 else f"{left_s / 60:.0f} min"
    return f"{seconds:.0f} s so far, about {left} left"


def leaning_words(leaning: str) -> str:
    """Return what is going wrong with attention or the generator, and the remedy.

    Examples
    --------
    >>> leaning_words("ones")
    "May be collapsing (attention selects everything). If it goes on, stop and train with Guide 'painted cells'"
    """
    if leaning == "flat":
        return "May be collapsing (the generator draws one level). If it goes on, stop and train with other images"
    meaning = {"ones": "selects everything", "zeros": "selects nothing", "grey": "is the same grey everywhere"}[leaning]
    return f"May be collapsing (attention {meaning}). If it goes on, stop and train with Guide 'painted cells'"


def training_left(look: "TrainingSnapshot") -> str:
    """Return how far a training run is and how long it will still take.

    Examples
    --------
    >>> from cellxlate.plugin.train.requests import TrainingSnapshot
    >>> training_left(TrainingSnapshot(100, 500, 30.0, {}))
    'step 100 of 500, 30 s so far, about 2 min left'
    """
    return f"step {look.step} of {look.steps}, {_seconds_left(look.seconds, look.step, look.steps)}"


def verdict_words(report: "RunReport") -> tuple[str, str]:
    """Return what came of an enhancement in one line that fits a panel, and what there is to explain."""
    count = len(report.warnings)
    below = f"; {count} warning{'s' if count > 1 else ''} below" if count else ""
    changed = f"{report.changed_fraction:.2%}" if report.changed_fraction else "nothing"
    line = f"Done in {report.seconds['total']:.1f} s: {changed} changed{below or ', the rest is as it was'}."
    seen = context_seen(report.provenance)
    words = context_words(seen) or (f"none, {seen['reason']}" if seen["reason"] else "")
    neighbours = f"\nNeighbours: {words}." if words else ""
    return line, f"{report.verdict}\nModel {report.model_words}.{neighbours}\n{report.engine}."


def suitability_words(suitability: "Suitability") -> tuple[str, str]:
    """Return whether a model suits an image, in a line, and what there is to explain.

    Examples
    --------
    >>> from cellxlate.choice import Suitability
    >>> suitability_words(Suitability("cells", 2.34, ("the noise is smeared",), 8))[0]
    'Unlike what cells was trained on: distance 2.3, limit 1.'
    >>> suitability_words(Suitability("cells", 0.5, (), 8))[0]
    'Like what cells was trained on: distance 0.5, limit 1.'
    """
    if not suitability.windows:
        return "Nothing stands out from the noise here.", "So no model can be judged by it."
    if suitability.distance is None and suitability.adapted_from:
        return f"Adapted from {suitability.adapted_from}.", "To images like one; how near others are is not known."
    if suitability.distance is None:
        return (
            f"What {suitability.model} was trained on is not known.",
            "Its card does not say what its images look like.",
        )
    beside = f"what {suitability.model} was trained on: distance {suitability.distance:.1f}, limit 1."
    if not suitability.is_outside:
        return f"Like {beside}", ""
    return f"Unlike {beside}", f"{'; '.join(suitability.differences)}.\nAdapt to this image, then compare."


def adapting_left(news: "AdaptNews") -> str:
    """Return how long a model will still be adapted.

    Examples
    --------
    >>> from cellxlate.plugin.requests import AdaptNews
    >>> adapting_left(AdaptNews(30.4, 90.0))
    'Adapting to this image: about 60 s left'
    """
    left_s = news.seconds - news.spent_s
    if news.words:
        return news.words
    return f"Adapting to this image: about {left_s:.0f} s left" if left_s > 0 else "Judging what was learned ..."
