"""What is decided before a stack is enhanced: model, channels, levels, settings; and how a run is told from another."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import cellxlate
from cellxlate.choice import Choice, choose_model
from cellxlate.enhancement.gates.each import EachAttention
from cellxlate.enhancement.gates.proposed import jobs_of
from cellxlate.enhancement.gates.source import OWN, AttentionSource, choose_source
from cellxlate.enhancement.input import Context
from cellxlate.enhancement.neighbours.channels import Channels, choose_sight
from cellxlate.enhancement.neighbours.choice import ContextChoice
from cellxlate.enhancement.neighbours.context import NOT_SEEN, context_of
from cellxlate.enhancement.outputs.again import DEFAULTS, Repeat, repeat
from cellxlate.enhancement.outputs.identity import input_identity
from cellxlate.enhancement.plane import GateSource, PlaneJob, Work, job_of
from cellxlate.enhancement.proposals.source import (
    Asked,
    Proposal,
    fitted_to,
    loaded_model,
    needs_of,
    proposer_of,
    streams_of,
)
from cellxlate.errors import InputError
from cellxlate.model.bundle import Bundle, load_model, target_levels
from cellxlate.model.cards import GENERAL_MODEL
from cellxlate.model.engines.engine import Device, Engine, EngineTranslator, Precision, let_go_of_others, open_engine
from cellxlate.model.engines.no_engine import NO_ENGINE, NoEngine
from cellxlate.quality.report.proposals import PROPOSAL, STATED
from cellxlate.settings import Along, EnhanceSettings
from cellxlate.settings_file import enhance_settings
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.intensity.saved import LEVELS_BESIDE, LUMINANCES, luminances_of, ranges_of
from cellxlate.stacks.luminance import is_color, is_in_color, what_is_seen
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.stacks.write.origins import SampledPixels

if TYPE_CHECKING:
    from cellxlate.enhancement.adaptation.record import Adaptation


@dataclass(frozen=True)
class Plan:
    """How one stack is enhanced.

    Attributes
    ----------
    jobs : tuple of PlaneJob
        For each group of channels that are enhanced together, mostly one channel each; the others are copied.
    translator : EngineTranslator or NoEngine
        What runs the networks of all jobs; none where something else proposes and attention is given.
    stack, bundle, settings : Stack, Bundle, EnhanceSettings
        What is enhanced, with which model, as it was asked for.
    calibrate_s : float
        Seconds spent on choosing the model and measuring the levels.
    levels_from : Path or None
        Where they come from, if they were not measured.
    streams : int
        How many bands are enhanced at once.
    choice : Choice or None
        Why this model, where it was chosen for the stack.
    sampled : SampledPixels or None
        What was read of the stack to decide on model and levels.
    adaptation : Adaptation or None
        What became of learning from the stack before.
    asked : tuple of str
        Engine, device and numbers, as they were asked for.
    source : AttentionSource
        Where attention comes from.
    neighbours : ContextChoice
        Why networks see the planes beside each that they see.
    proposal : Proposal or None
        What proposes in place of the bundle, which then gives attention alone.
    beside_named : tuple of (str or int)
        The channels that networks see beside those that are enhanced: by name, or number where the stack has no names.
    """

    stack: Stack
    bundle: Bundle
    jobs: tuple[PlaneJob, ...]
    settings: EnhanceSettings
    translator: EngineTranslator | NoEngine
    calibrate_s: float
    levels_from: Path | None = None
    streams: int = 1
    choice: Choice | None = None
    sampled: SampledPixels | None = None
    adaptation: "Adaptation | None" = None
    asked: tuple[Engine, Device, Precision] = DEFAULTS
    source: AttentionSource = OWN
    neighbours: ContextChoice = NOT_SEEN
    proposal: Proposal | None = None
    beside_named: tuple[str | int, ...] = ()

    @property
    def model_name(self) -> str:
        """What proposes, as it is called in reports."""
        return self.proposal.name if self.proposal else self.bundle.name

    @property
    def looking(self) -> str:
        """Whose networks look at the stack, for a sentence that goes on."""
        return f"{self.bundle.name}, whose attention gates," if self.proposal else self.bundle.name

    @property
    def model_digest(self) -> str:
        """SHA-256 of what it computes with."""
        return str(self.proposal.identity["sha256"]) if self.proposal else self.bundle.digest

    @property
    def domain(self) -> Any:
        """What the images look like that the networks were trained on which look at the stack; None without any."""
        return None if self.proposal and self.source.is_given else self.bundle.card.get("domain")

    @property
    def model_licence(self) -> str:
        """Its licence; empty where it states none."""
        return str((self.proposal.stated if self.proposal else self.bundle.card).get("licence", ""))

    @property
    def attention_model(self) -> dict[str, Any]:
        """Whose attention gates what another proposes, as provenance states it; nothing where no network does."""
        if self.proposal is None or self.source.is_given:
            return {}
        return {"attention_model": {"name": self.bundle.name, "sha256": self.bundle.digest}}

    @property
    def stated_source(self) -> dict[str, Any]:
        """Where attention comes from, as reports state it; with the model whose it is, where another one proposes."""
        model = self.attention_model.get("attention_model", {}).get("name")
        return {**self.source.stated, **({"model": model} if model else {})}

    @property
    def engine(self) -> str:
        """What runs the networks, in words."""
        return self.translator.name

    @property
    def tile_px(self) -> int:
        """Side of a tile's core."""
        return self.jobs[0].tile_px

    @property
    def intensities(self) -> dict[int, IntensityRange]:
        """Of each channel that is enhanced."""
        return {channel: intensity for job in self.jobs for channel, intensity in job.intensities.items()}

    @property
    def context(self) -> Context:
        """Which planes networks see beside each."""
        return self.jobs[0].context

    @property
    def beside(self) -> Mapping[int, IntensityRange]:
        """Of each channel that networks see beside those that are enhanced."""
        return self.jobs[0].beside

    @property
    def in_color(self) -> bool:
        """Whether red, green and blue are enhanced together, by their luminance."""
        return bool(self.luminances)

    @property
    def luminances(self) -> dict[int, IntensityRange]:
        """Of the luminance of each job in colour, by its first channel."""
        return {job.channels[0]: job.luminance for job in self.jobs if job.luminance}

    @property
    def channels(self) -> list[int]:
        """The channels that are enhanced, in order."""
        return sorted(self.intensities)

    def job_of(self, index: PlaneIndex) -> PlaneJob | None:
        """Return the job of a plane; None where it is copied."""
        return job_of(self.jobs, self.stack, index)

    def groups(self) -> Iterator[tuple[int, tuple[PlaneIndex, ...]]]:
        """Yield the planes that are enhanced together, and how many come before: in the order of the first of each.

        That is the order of the stack, but for planes that are seen for each other, which follow each other.
        """
        before = 0
        for index in self._indices():
            job = self.job_of(index)
            together = job.together(self.stack, index) if job else (index,)
            if index == together[0]:
                yield before, together
                before += len(together)

    def _indices(self) -> Iterator[PlaneIndex]:
        """Iterate over all planes, those along the axis of neighbours fastest."""
        axes, last = self.stack.plane_axes, self.context.along.upper()
        if not last or last not in axes:
            yield from self.stack.plane_indices()
            return
        order = axes.replace(last, "") + last
        for positions in product(*(range(self.stack.size(axis)) for axis in order)):
            yield tuple(positions[order.index(axis)] for axis in axes)

    @property
    def work(self) -> Work:
        """The sum of what the jobs have counted."""
        total = Work()
        for job in self.jobs:
            total.include(job.work)
        return total

    @property
    def stated_settings(self) -> dict[str, Any]:
        """The settings as the report states them; of a stack in grey, not what would become of its colour."""
        stated = asdict(self.settings)
        return stated if is_color(self.stack) else {name: stated[name] for name in stated if name != "color"}

    @property
    def identity(self) -> dict[str, Any]:
        """What must agree for one run to continue another, and what goes into the provenance of both."""
        settings = {**asdict(self.settings), "tile_px": self.tile_px}
        del settings["dense"], settings["context"]  # the pixels are the same; and what became of that wish counts
        if self.context.along:
            settings["context"] = self.context.along
        if not self.in_color:
            del settings["color"]
        return {
            "input": input_identity(self.stack.path, self.stack.files),
            "axes": self.stack.axes,
            **({"image": self.stack.image} if self.stack.image else {}),
            **({"incomplete": True} if self.stack.incomplete else {}),
            "model": self.model_name,
            "model_sha256": self.model_digest,
            "engine": self.translator.identity,
            "settings": settings,
            "attention_source": self.source.identity,
            **({PROPOSAL: dict(self.proposal.identity), **self.attention_model} if self.proposal else {}),
            "levels_counts": _stated(self.intensities),
            **({LUMINANCES: _stated(self.luminances)} if self.in_color else {}),
            **({"beside": list(self.beside), LEVELS_BESIDE: _stated(self.beside)} if self.beside else {}),
        }

    @property
    def provenance(self) -> dict[str, Any]:
        """The identity with the versions that made the result."""
        chosen = {"model_considered": dict(self.choice.considered)} if self.choice else {}
        source = {"attention_source": self.stated_source, "context": self.neighbours.stated()}
        seen = {"beside_names": list(self.beside_named)} if self.beside else {}
        stated = {STATED: {name: one for name, one in self.proposal.stated.items() if one}} if self.proposal else {}
        made = {"engine_version": self.engine, "versions": self.versions}
        return {**self.identity, **source, **seen, **chosen, **stated, **made}

    @property
    def versions(self) -> dict[str, str]:
        """What made the result."""
        return {
            "cellxlate": cellxlate.__version__,
            "torch": version("torch"),
            "numpy": np.__version__,
            "python": sys.version.split()[0],
        }

    @property
    def repeat(self) -> Repeat:
        """The command that repeats the run."""
        return repeat(
            self.stack, model=self.proposal.asked if self.proposal else self.bundle.path, digest=self.model_digest,
            name=self.model_name, settings=self.settings,
            channels=self.channels, levels_from=self.levels_from, asked=self.asked,
            attention_channel=self.source.channel, attention_from=self.source.given,
            context=(self.context.along or "none") if self.bundle.in_context and not self.proposal else "auto",
            further=needs_of(self.proposal).flags, beside=list(self.beside),
            is_part=self.sampled is not None and self.sampled.shape != self.stack.shape,
        )  # fmt: skip


def _stated(ranges: Mapping[int, IntensityRange]) -> dict[str, Any]:
    return {str(channel): intensity.stated() for channel, intensity in ranges.items()}


def make_plan(
    stack: Stack,
    model: Asked,
    *,
    channels: Channels,
    settings: EnhanceSettings | None,
    engine: Engine,
    device: Device,
    precision: Precision = "float32",
    levels_from: str | Path | None = None,
    streams: int | None = None,
    choice: Choice | None = None,
    adaptation: "Adaptation | None" = None,
    attention_channel: str | int | None = None,
    attention_from: Any = None,
    begun: Along | None = None,
    beside: Channels = None,
) -> Plan:
    """Choose the channels, load the model, and measure the levels of the channels over a bounded sample of the stack.

    "auto" takes the shipped model that suits the stack; where that was done before, `choice` says why. Intensities
    come from an earlier run instead, where `levels_from` names its report or its output. How many `streams` there are
    is decided here, unless it is given. After an adaptation, its model is taken, and the neighbours that it saw.
    Attention is that of `attention_channel` for all channels, or `attention_from` a mask or "saliency", where one is
    given. What proposes in place of a model is gated by the generalist's, without neighbours. Neighbours are those of
    the run that this one continues (`begun`), where they are to be chosen and that is known. What the
    model sees `beside` the channels are those of its card's names, where none are named.

    Raises
    ------
    InputError
        The stack has 1 bit per pixel; a mask does not fit.
    OptionError
        A setting is out of range, a channel does not exist, the engine or device is not there, stack or model have no
        such neighbours.
    ModelError
        The model cannot be loaded.
    """
    settings, started = enhance_settings(settings), time.perf_counter()
    require_counts(stack)
    if adaptation:
        model, choice = adaptation.model, None if adaptation.kept else adaptation.choice
    loaded, proposal = loaded_model(model), None
    chosen, others = choose_sight(stack, loaded, channels, beside, attention_channel)
    sample = replace(stack, pixels=(sampled := SampledPixels(stack.pixels)))
    source, gates = choose_source(
        stack, channel=attention_channel, given=attention_from,
        ranges=lambda channel: ranges_of(sample, (channel,), levels_from)[channel],
    )  # fmt: skip
    if attention_channel is not None or others:
        settings = replace(settings, color="separate")  # samples that are named are channels
    in_color, (seen, shown) = is_in_color(stack, chosen, settings.color), what_is_seen(sample, chosen, settings.color)
    if isinstance(loaded, str):
        loaded, choice = choose_model(seen, shown, context=settings.context)
    if not isinstance(loaded, Bundle):
        proposal, settings, in_color = fitted_to(loaded, settings, sample, chosen, levels_from, device)
        loaded, (source, gates) = load_model(GENERAL_MODEL), _gated(proposal, source, gates)
    chosen_s, bundle = time.perf_counter() - started, loaded
    on_cpu = engine in ("openvino", "onnxruntime") and device == "auto"
    streams = streams or streams_of(bundle, proposal, stack, settings, "cpu" if on_cpu else device)
    opened = partial(open_engine, engine=engine, device=device, precision=precision, streams=streams)
    started, target = time.perf_counter(), target_levels(bundle) if settings.intensity == "target" else None
    ranges = ranges_of(sample, (*chosen, *others), levels_from)
    intensities = {one: ranges[one] for one in chosen}
    luminances = luminances_of(sample, chosen, levels_from) if in_color else {}
    levels = luminances or intensities  # of what is seen
    begin = partial(PlaneJob, target=target, settings=settings, gates=gates, beside={at: ranges[at] for at in others})
    neighbours = (adaptation.neighbours if adaptation else None) or context_of(
        settings.context, seen, bundle, lambda: tuple(begin(opened(bundle), {one: levels[one]}) for one in shown),
        open_translator=opened, begun=begun,
    )  # fmt: skip
    calibrate_s = chosen_s + time.perf_counter() - started
    translator = NO_ENGINE if proposal and source.is_given else _used(bundle, neighbours, opened)
    groups = needs_of(proposal).groups(chosen, is_one=in_color and "C" not in stack.axes)
    begin = partial(begin, translator, context=replace(neighbours.context, blocks=needs_of(proposal).blocks))
    jobs = jobs_of(
        begin, groups, [proposer_of(proposal, own, luminances.get(own[0])) for own in groups],
        intensities=intensities, luminances=luminances, kind=source.kind, gates=gates,
    )  # fmt: skip
    return Plan(
        stack, bundle, jobs, settings, translator, calibrate_s,
        None if levels_from is None else Path(levels_from), streams, choice, sampled, adaptation,
        (engine, device, precision), source, neighbours, proposal,
        tuple(stack.channel_names[one] if stack.channel_names else one for one in others),
    )  # fmt: skip


def _used(bundle: Bundle, neighbours: ContextChoice, opened: Callable[[Bundle], EngineTranslator]) -> EngineTranslator:
    """Open the networks that are used; those that were only tried are let go of."""
    translator = opened(bundle.seeing(neighbours.context.planes))
    if neighbours.ranking:
        let_go_of_others(bundle, translator)
    return translator


def _gated(proposal: Proposal, source: AttentionSource, gates: GateSource) -> tuple[AttentionSource, GateSource]:
    """Return the gate of what proposes: its own where it has one, and of each plane where it takes several at once."""
    if source == OWN and not proposal.needs.gate:
        source = AttentionSource("proposal", name=proposal.name)
    return source, gates if proposal.needs.is_alone else EachAttention(gates)


def require_counts(stack: Stack) -> None:
    """Raise InputError where a stack has 1 bit per pixel."""
    if stack.dtype == np.bool_:
        raise InputError(f"{stack.path or stack.name} has 1 bit per pixel; give the image it was made of")
