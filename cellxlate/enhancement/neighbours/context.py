"""Which neighbours are used: those that were asked for, if stack and model have them, or those that are chosen."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from cellxlate.enhancement.input import ALONE
from cellxlate.enhancement.neighbours.choice import ContextChoice, choose_context, contexts_of
from cellxlate.enhancement.plane import PlaneJob, Translator
from cellxlate.errors import OptionError
from cellxlate.model.bundle import Bundle
from cellxlate.options import CONTEXT, MODEL, PRESET
from cellxlate.settings import Along
from cellxlate.stacks.stack import Stack

AS_ASKED = "as asked for"
AS_BEGUN = "as it was chosen when the run began"
NOT_SEEN = ContextChoice(ALONE, AS_ASKED)
AXIS_WORDS = {"z": "z", "t": "time"}


def context_of(
    asked: Along,
    stack: Stack,
    bundle: Bundle,
    jobs: Callable[[], Sequence[PlaneJob]],
    *,
    open_translator: Callable[[Bundle], Translator],
    begun: Along | None = None,
) -> ContextChoice:
    """Return which neighbours networks see.

    Parameters
    ----------
    asked : {"auto", "none", "z", "t"}
        What the user wants.
    stack, bundle, open_translator
        As `choose_context` takes them.
    jobs : callable
        Returns how the stack would be enhanced, each plane alone.
    begun : {"none", "z", "t"}, optional
        What was chosen for the run that this one continues.

    Raises
    ------
    OptionError
        Stack or model have no such neighbours.
    """
    if asked == "auto" and begun and bundle.in_context:
        asked, reason = begun, AS_BEGUN
    elif asked == "auto":
        return choose_context(stack, jobs(), bundle, open_translator=open_translator)
    else:
        reason = AS_ASKED
    if asked == "none":
        return replace(NOT_SEEN, reason=reason)
    require_neighbours(asked, stack, bundle)
    found = (one for one in contexts_of(stack, bundle.in_context) if one.along == asked)
    return ContextChoice(next(found), reason)


def require_neighbours(asked: Along, stack: Stack, bundle: Bundle | None = None) -> None:
    """Raise OptionError where neighbours are asked for that a stack, or a model where it is known, does not have."""
    if asked in ("auto", "none"):
        return
    if bundle:
        require_trained(asked, bundle)
    if stack.size(asked.upper()) == 1:
        there = ", ".join(f"{stack.size(axis)} along {axis}" for axis in stack.axes if axis in "ZT") or "one plane"
        raise OptionError(
            CONTEXT.of(asked), f": {stack.name} has no planes beside one along {AXIS_WORDS[asked]}, it has {there}",
            remedy=("give ", CONTEXT.of("auto"), " or ", CONTEXT.of("none")),
        )  # fmt: skip


def require_trained(asked: Along, bundle: Bundle) -> None:
    """Raise OptionError where neighbours are asked for of a model that was not trained to see them."""
    if asked not in ("auto", "none") and bundle.in_context is None:
        raise OptionError(
            CONTEXT.of(asked), f": {bundle.name} was not trained to see the planes beside one",
            remedy=("choose another ", MODEL, ", train one with ", PRESET.of("context"), ", or leave it out"),
        )  # fmt: skip
