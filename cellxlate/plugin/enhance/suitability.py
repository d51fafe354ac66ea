"""Whether a model suits an image, asked in a worker thread: no Qt, no layer.

Import it in the worker: it loads torch.
"""

from collections.abc import Generator

from cellxlate.choice import Suitability, suitability
from cellxlate.enhancement.plan import choose_channels
from cellxlate.errors import CellxlateError, said
from cellxlate.plugin.requests import CancelledError, Refusal, SuitabilityRequest


def suitability_steps(request: SuitabilityRequest) -> Generator[None, None, Suitability | Refusal | None]:
    """Look at a bounded sample of the image.

    Returns
    -------
    Suitability, Refusal or None
        The answer; what was wrong; None where nobody waits for it any more.
    """
    try:
        yield
        channels = choose_channels(request.stack, request.channels)
        return suitability(request.stack, channels, request.model)
    except CancelledError:
        return None
    except CellxlateError as fault:
        return Refusal(said(fault, by="panel"))
    except OSError as fault:  # of a lazy layer
        return Refusal(f"the image cannot be read ({fault})")
