"""Whether a model suits an image, asked in a worker thread: no Qt, no layer.

Import it in the worker: it loads torch.
"""

from collections.abc import Generator

from cellxlate.choice import Suitability, suitability
from cellxlate.enhancement.neighbours.channels import choose_sight
from cellxlate.errors import CellxlateError
from cellxlate.model.bundle import load_model
from cellxlate.model.cards import AUTO
from cellxlate.plugin.requests import SuitabilityRequest
from cellxlate.stacks.channel_names import choose_channels
from cellxlate.stacks.luminance import what_is_seen


def suiting_channels(request: SuitabilityRequest) -> tuple[int, ...]:
    """Return the channels that would be enhanced: those that a model sees beside need not be like what it changes."""
    if request.model == AUTO or request.stack.channel_count == 1:
        return choose_channels(request.stack, request.channels)
    return choose_sight(request.stack, load_model(request.model), request.channels, None)[0]


def suitability_steps(request: SuitabilityRequest) -> Generator[None, None, Suitability]:
    """Look at a bounded sample of the image.

    Raises
    ------
    CellxlateError, CancelledError
        What was wrong; or nobody waits for the answer any more.
    """
    try:
        yield
        channels = suiting_channels(request)
        return suitability(*what_is_seen(request.stack, channels, request.color), request.model)
    except CellxlateError:
        raise
    except OSError as fault:  # of a lazy layer
        raise CellxlateError(f"the image cannot be read ({fault})") from fault
