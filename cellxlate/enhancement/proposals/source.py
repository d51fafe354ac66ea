"""Which proposer was asked for: `proposal_of` from top to bottom."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

from cellxlate.enhancement.proposals.filters import FILTERS, filter_of, meant_filter
from cellxlate.enhancement.proposals.foreign import ForeignProposal
from cellxlate.enhancement.proposals.function import FunctionProposal
from cellxlate.enhancement.proposals.function import Halo as Halo
from cellxlate.enhancement.proposals.windows import Needs, Proposer
from cellxlate.enhancement.tiling import bands_of, stream_count, tile_side
from cellxlate.errors import MissingModelError, ModelError, Option, OptionError
from cellxlate.model.bundle import Bundle, load_model
from cellxlate.model.cards import AUTO
from cellxlate.model.engines.devices import choose_kind
from cellxlate.model.engines.engine import Device
from cellxlate.model.foreign.given import is_foreign, open_foreign
from cellxlate.model.layers import activation_bytes_per_px
from cellxlate.options import CONTEXT, HALO, INTENSITY
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.luminance import is_in_color, what_is_seen
from cellxlate.stacks.stack import Stack


class Proposal(Protocol):
    """What proposes in place of a model's own generator, as values that go to workers and into reports."""

    @property
    def name(self) -> str:
        """What it is called in a report and in the provenance."""

    @property
    def asked(self) -> str | Path | None:
        """What asks for it again as a model: a word, or the path of what it was read from; None where nothing does."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides its pixels, as plain values for JSON; with `kind`, and `sha256` of what it computes."""

    @property
    def stated(self) -> Mapping[str, Any]:
        """What a report says beside that, as plain values; what is empty is not said.

        By `what`, `parameter`, `halo_px`, `checked`, `licence`, `citation`, and further names.
        """

    @property
    def warnings(self) -> Sequence[str]:
        """What a reader of the result should know."""

    @property
    def needs(self) -> Needs:
        """What it needs of a run."""

    def fitted(
        self, stack: Stack, channels: Sequence[int], *, levels_from: str | Path | None = None, device: Device = "cpu"
    ) -> "Proposal":
        """Return it with what it must know of a stack: statistics of each channel, and whether it is local there.

        Called once, before anything is written; reads a bounded sample of the stack. Where it goes by intensity ranges,
        these are those of an earlier run if `levels_from` names one; networks run on the device.

        Raises
        ------
        OptionError, ModelError
            It cannot be used on such a stack.
        """

    def open(self, channels: Sequence[int]) -> Proposer:
        """Return what runs it on some channels that are enhanced together; called on each worker."""


def load_foreign(path: str | Path, *, torchscript: bool = False) -> ForeignProposal:
    """Load a model that others made, to be given as a model to `enhance`, `enhance_file` and `enhance_files`.

    Parameters
    ----------
    path : str or Path
        An ONNX file, of counts to counts; or `rdf.yaml`, folder or zip archive of a package of the BioImage Model Zoo.
    torchscript : bool
        Run the TorchScript of a package that has no ONNX. Loading it can run any program that its author wrote, with
        your rights: give True for packages of people you trust alone.

    Returns
    -------
    ForeignProposal
        `.model` says what is known of it. A path given as a model is loaded like this, without TorchScript.

    Raises
    ------
    ModelError
        It is damaged, asks for too much, is no image-to-image network, or holds nothing that is run here.
    OptionError
        The package onnx is not installed.

    Examples
    --------
    >>> package = cellxlate.load_foreign("denoise.zip", torchscript=True)  # doctest: +SKIP
    >>> result = cellxlate.enhance("stack.tif", package)  # doctest: +SKIP
    """
    if not is_foreign(Path(path)):
        raise ModelError(f"{path} is no ONNX file and no package of the BioImage Model Zoo; give one of these")
    return ForeignProposal(open_foreign(Path(path), torchscript=torchscript))


def require_possible(model: Bundle | Proposal | str, settings: EnhanceSettings, options: Sequence[Option]) -> None:
    """Raise OptionError where a model that is loaded is none of ours, and is asked for what only these can do."""
    if isinstance(model, Bundle | str):
        return
    settings_of_proposal(model, settings)
    for option in options:
        raise OptionError(option, f" is for models of cellxlate, not {model.name}", remedy=("leave out ", option))


def proposer_of(
    proposal: Proposal | None, channels: Sequence[int], luminance: IntensityRange | None
) -> Proposer | None:
    """Return what runs a proposal on channels that are enhanced together; in colour it sees their luminance alone."""
    if proposal is None:
        return None
    return proposal.open(tuple(channels)[:1] if luminance else tuple(channels))


def key_of(proposal: Proposal | None) -> str:
    """Return what tells a proposal from others; nothing of none."""
    if proposal is None:
        return ""
    return hashlib.sha256(json.dumps(dict(proposal.identity), sort_keys=True, default=str).encode()).hexdigest()


def settings_of_proposal(proposal: Proposal, settings: EnhanceSettings) -> EnhanceSettings:
    """Return how planes are enhanced where something else than a model of ours proposes: each is seen alone.

    Raises
    ------
    OptionError
        Neighbours are wanted, or the scale of a model's targets.
    """
    if settings.context in ("z", "t"):
        raise OptionError(
            CONTEXT.of(settings.context), f" is for models that know neighbours, and {proposal.name} sees each plane "
            "alone", remedy=("leave out ", CONTEXT),
        )  # fmt: skip
    if settings.intensity == "target":
        raise OptionError(
            INTENSITY.of("target"), f" is the scale that a model was trained towards, and {proposal.name} was not",
            remedy=("use ", INTENSITY.of("source")),
        )  # fmt: skip
    return replace(settings, context="none", color=settings.color if proposal.needs.is_alone else "separate")


def fitted_to(
    proposal: Proposal, settings: EnhanceSettings, stack: Stack, channels: Sequence[int],
    levels_from: str | Path | None, device: Device,
) -> tuple[Proposal, EnhanceSettings, bool]:  # fmt: skip
    """Return a proposal fitted to what it sees of some channels of a stack, how planes are enhanced, and if in colour.

    Raises
    ------
    OptionError, ModelError, InputError
        As `settings_of_proposal` and `Proposal.fitted` do.
    """
    settings = settings_of_proposal(proposal, settings)
    fitted = proposal.fitted(*what_is_seen(stack, channels, settings.color), levels_from=levels_from, device=device)
    return fitted, settings, is_in_color(stack, channels, settings.color)


def needs_of(proposal: Proposal | None) -> Needs:
    """Return what a proposal needs of a run; without one planes come one by one."""
    return proposal.needs if proposal else Needs()


def streams_of(
    bundle: Bundle, proposal: Proposal | None, stack: Stack, settings: EnhanceSettings, device: Device
) -> int:
    """Return how many bands the processor enhances at once; a graphics card takes one after another."""
    if choose_kind(device) != "cpu":
        return 1
    if windows := needs_of(proposal).windows:
        return windows.streams(settings.tile_px, stack.plane_shape)
    networks = bundle.networks
    bytes_per_px = activation_bytes_per_px(networks.generator)
    halo_px = networks.generator_halo_px
    side_px = tile_side(settings.tile_px, halo_px=halo_px, stride=networks.stride, activation_bytes_per_px=bytes_per_px)
    band = next(bands_of(stack.plane_shape, side_px))
    return stream_count(
        tile_px=side_px + 2 * halo_px, band_px=band.bottom * band.right, activation_bytes_per_px=bytes_per_px
    )


Asked = Proposal | Bundle | str | Path | Callable[..., Any]
"""What may be asked for as a model."""


def proposal_of(model: Any, halo_px: Halo | None = None) -> Proposal | None:
    """Return what proposes, where a model that is asked for is none of ours: a function, a filter, a foreign model.

    Raises
    ------
    OptionError
        A halo is given for what knows its own, or missing for a function; a filter has no such value.
    """
    if hasattr(model, "fitted"):
        proposal: Proposal = model
        return proposal
    if callable(model) and not isinstance(model, Bundle):
        return FunctionProposal.of(model, halo_px)
    if halo_px is not None:
        raise OptionError(HALO.of(halo_px), " is for a function; a model knows its own", remedy=("leave out ", HALO))
    if isinstance(model, str | Path) and is_foreign(Path(model)):
        return load_foreign(model)
    return filter_of(model) if isinstance(model, str) else None


def loaded_model(model: Asked, halo_px: Halo | None = None) -> Bundle | Proposal | str:
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
    try:
        return load_model(cast("str | Path", model))
    except MissingModelError as fault:
        if meant := meant_filter(str(model)):
            raise MissingModelError(
                f"there is no model {str(model)[:200]!r}; did you mean the filter {meant!r}?"
            ) from fault
        raise MissingModelError(*fault.parts, f"; or a filter: {', '.join(FILTERS)}") from fault
