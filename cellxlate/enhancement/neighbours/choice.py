"""Whether networks see the planes beside each, and along which axis, where that is left to the stack."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cellxlate.enhancement.input import ALONE, Context
from cellxlate.enhancement.plane import PlaneJob, Translator
from cellxlate.model.bundle import Bundle
from cellxlate.quality.risk import Ranking
from cellxlate.stacks.stack import Stack

AXES = "ZT"
ITSELF = "each plane alone"


@dataclass(frozen=True)
class ContextChoice:
    """The planes that networks see beside each, and why.

    Attributes
    ----------
    context : Context
        `ALONE` where each plane is seen alone.
    reason : str
        In one sentence.
    ranking : Ranking or None
        Of each plane alone and of the axes, by estimated error; None where nothing had to be judged.
    """

    context: Context
    reason: str
    ranking: Ranking | None = None

    def stated(self) -> dict[str, Any]:
        """Return plain values for JSON: axis, planes on either side, and the reason."""
        return {"axis": self.context.along or None, "planes": self.context.planes, "reason": self.reason}


def contexts_of(stack: Stack, neighbours: Bundle | None) -> list[Context]:
    """Return in which contexts networks could see the planes of a stack: along z, and over time."""
    if neighbours is None:
        return []
    reach = neighbours.networks.settings.context
    return [Context.beside(axis, reach) for axis in AXES if stack.size(axis) > 1]


def choose_context(
    stack: Stack,
    jobs: Sequence[PlaneJob],  # noqa: ARG001
    bundle: Bundle,
    *,
    open_translator: Callable[[Bundle], Translator],  # noqa: ARG001
) -> ContextChoice:
    """Choose along which axis networks see the planes beside each.

    Parameters
    ----------
    stack : Stack
        What is to be enhanced.
    jobs : sequence of PlaneJob
        How it would be enhanced, each plane alone.
    bundle : Bundle
        The model.
    open_translator : callable
        Opens what runs the networks that see neighbours; not called where there is nothing to decide.

    Returns
    -------
    ContextChoice
        The same for the same stack, model, settings and engine.
    """
    if bundle.in_context is None:
        return ContextChoice(ALONE, f"{ITSELF}: {bundle.name} was not trained to see the planes beside it")
    if not contexts_of(stack, bundle.in_context):
        return ContextChoice(ALONE, f"{ITSELF}: the stack has no planes along z or t")
    return ContextChoice(ALONE, f"{ITSELF}: nothing judges yet whether those beside it help")
