"""Which proposer was asked for: `proposal_of` from top to bottom."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from cellxlate.enhancement.proposals.function import FunctionProposal
from cellxlate.enhancement.proposals.windows import Proposer
from cellxlate.errors import OptionError
from cellxlate.model.bundle import Bundle, load_model
from cellxlate.model.cards import AUTO
from cellxlate.options import HALO
from cellxlate.stacks.stack import Stack


class Proposal(Protocol):
    """What proposes in place of a model's own generator, as values that go to workers and into reports."""

    @property
    def name(self) -> str:
        """What it is called in a report and in the provenance."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides its pixels, as plain values for JSON; with `kind`, and `sha256` of what it computes."""

    @property
    def stated(self) -> Mapping[str, Any]:
        """What a report says beside that: licence, citation, halo, how it was checked."""

    @property
    def warnings(self) -> Sequence[str]:
        """What a reader of the result should know."""

    def fitted(self, stack: Stack, channels: Sequence[int]) -> "Proposal":
        """Return it with what it must know of a stack: statistics of each channel, and whether it is local there.

        Called once, before anything is written; reads a bounded sample of the stack.

        Raises
        ------
        OptionError, ModelError
            It cannot be used on such a stack.
        """

    def open(self, channels: Sequence[int]) -> Proposer:
        """Return what runs it on some channels that are enhanced together; called on each worker."""


Asked = Proposal | Bundle | str | Path | Callable[..., Any]
"""What may be asked for as a model."""


def proposal_of(model: Any, halo_px: int | None = None) -> Proposal | None:
    """Return what proposes, where a model that is asked for is none of ours: a function, a filter, a foreign model.

    Raises
    ------
    OptionError
        A halo is given for what knows its own, or missing for a function.
    """
    if hasattr(model, "fitted"):
        proposal: Proposal = model
        return proposal
    if callable(model) and not isinstance(model, Bundle | type):
        return FunctionProposal.of(model, halo_px)
    if halo_px is not None:
        raise OptionError(HALO.of(halo_px), " is for a function; a model knows its own", remedy=("leave out ", HALO))
    return None


def loaded_model(model: Asked, halo_px: int | None = None) -> Bundle | Proposal | str:
    """Return a model that is asked for, loaded; what proposes in place of one; or "auto", where one is to be chosen.

    Raises
    ------
    ModelError
        It cannot be loaded.
    OptionError
        As `proposal_of` does.
    """
    if proposal := proposal_of(model, halo_px):
        return proposal
    if isinstance(model, Bundle) or (isinstance(model, str) and model == AUTO):
        return model
    return load_model(cast("str | Path", model))
