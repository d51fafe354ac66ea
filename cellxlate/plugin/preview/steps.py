"""Attention of the visible plane, block by block in a worker thread: no Qt, no layer.

Import it in the worker: it loads torch.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cellxlate.choice import choose
from cellxlate.enhancement.neighbours.choice import contexts_of
from cellxlate.enhancement.plan import Plan, make_plan
from cellxlate.enhancement.plane import PlaneJob, job_of
from cellxlate.enhancement.preview import attention_blocks
from cellxlate.enhancement.tiling import Tile
from cellxlate.errors import CellxlateError
from cellxlate.model import cards
from cellxlate.model.bundle import Bundle, load_model
from cellxlate.model.engines.engine import Device, Engine, open_engine
from cellxlate.plugin.beside import place_together
from cellxlate.plugin.preview.cache import Computed, PlanMade, PreviewRequest
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.range import measure_range
from cellxlate.stacks.luminance import is_in_color, luminance_of, what_is_seen
from cellxlate.stacks.read.open import one_line

ESTIMATE_FROM_PX = 1 << 22
"""Of larger stacks, whose levels take a while, the first blocks are estimated with levels of the visible plane."""
ESTIMATED_BLOCKS = 4
READY_MODELS = 4


def warm_steps(wanted: tuple[str, Engine, Device]) -> Generator[None, None, None]:
    """Load what the first preview will need: torch, the model, the engine. What is wrong is said when it is used."""
    model, engine, device = wanted
    models = [str(folder) for folder in cards.model_folders(cards.SHIPPED)] if model == cards.AUTO else [model]
    with suppress(CellxlateError, RuntimeError):
        for one in models[:READY_MODELS]:
            ready_model(one, engine, device)
    yield


def ready_model(model: str, engine: Engine, device: Device) -> Bundle:
    """Return a model whose engine is open; the last four stay ready, unless their files change.

    Raises
    ------
    ModelError, OptionError
        The model cannot be loaded, the engine or the device is not there.
    """
    folder = cards.locate(model)
    weights = folder / "weights.safetensors"
    return _ready(folder, weights.stat().st_mtime_ns if weights.is_file() else 0, engine, device)


@lru_cache(maxsize=READY_MODELS)
def _ready(folder: Path, _changed_ns: int, engine: Engine, device: Device) -> Bundle:
    bundle = load_model(folder)
    open_engine(bundle, engine=engine, device=device)
    return bundle


def preview_steps(request: PreviewRequest) -> Generator[PlanMade | Computed, None, None]:
    """Yield the plan, where it had to be made, then blocks with their attention; of colour images the largest.

    Before the plan of a large stack some blocks are estimated.
    """
    if request.together is not None:
        plane = place_together(request.together, request.plane)
        request = replace(request, stack=request.together, plane=plane, together=None)
    try:
        plan = request.plan
        if plan is None:
            plan = yield from _planned(request)
        for block, steps in _blocks(request, request.blocks, plan.jobs):
            yield Computed(block, steps)
    except RuntimeError as fault:  # of torch; the worker would take it for a result
        raise CellxlateError(f"attention failed ({one_line(fault)}); try another device") from fault


def _planned(request: PreviewRequest) -> Generator[PlanMade | Computed, None, Plan]:
    """Measure the levels of the stack, and try neighbours; where that takes a while, estimate some blocks before."""
    stack = request.stack
    channels = sorted({stack.channel_of(index) for index in request.indices})
    model, choice = request.model, None
    if model == cards.AUTO:
        asked = stack.light_channels if request.channels is None else request.channels
        seen = what_is_seen(stack, asked or channels, request.color)  # as an enhancement would choose
        choice = choose(*seen)
        model = str(cards.SHIPPED / choice.name)
    bundle = ready_model(model, request.engine, request.device)
    is_own = request.attention_channel is None and request.attention_from is None
    is_tried = request.context == "auto" and bool(contexts_of(stack, bundle.in_context))
    is_large = stack.plane_count * stack.plane_shape[0] * stack.plane_shape[1] > ESTIMATE_FROM_PX
    if is_own and (is_tried or is_large) and not bundle.networks.settings.beside:
        translator = open_engine(bundle, engine=request.engine, device=request.device)
        first = request.blocks[0].slices()
        of_channel = {stack.channel_of(index): measure_range([stack.read(index, *first)]) for index in request.indices}
        if is_in_color(stack, channels, request.color):
            light = luminance_of(np.stack([stack.read(index, *first) for index in request.indices]))
            jobs = [PlaneJob(translator, of_channel, luminance=measure_range([light]))]
        else:
            jobs = [PlaneJob(translator, {channel: own}) for channel, own in of_channel.items()]
        for block, steps in _blocks(request, request.blocks[:ESTIMATED_BLOCKS], jobs):
            yield Computed(block, steps, estimated=True)
    settings = EnhanceSettings(context=request.context, color=request.color)
    plan = make_plan(stack, bundle, channels=channels, settings=settings, engine=request.engine, device=request.device,
                     streams=1, choice=choice, attention_channel=request.attention_channel,
                     attention_from=request.attention_from)  # fmt: skip
    yield PlanMade(plan)
    return plan


def _blocks(
    request: PreviewRequest, blocks: Sequence[Tile], jobs: Sequence[PlaneJob]
) -> Iterator[tuple[Tile, npt.NDArray[np.uint16]]]:
    """Yield blocks with the largest attention over the samples of the plane."""
    stack = request.stack
    of_samples = [(index, job) for index in request.indices if (job := job_of(jobs, stack, index))]
    if of_samples and of_samples[0][1].luminance:
        of_samples = of_samples[:1]  # one attention for all three
    planes = [(job.channels.index(stack.channel_of(index)), job.input(stack, index), job) for index, job in of_samples]
    for block in blocks:
        attention: list[npt.NDArray[np.uint16]] = []
        for own, plane, job in planes:
            request.stop.check()
            attention += [steps[own] for _, steps in attention_blocks(plane, [block], job)]
        yield block, np.max(attention, axis=0)
