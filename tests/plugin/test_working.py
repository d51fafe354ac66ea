"""What steps raise in a worker reaches the panel as one line, in the panel's words; a stop reaches it in silence."""

import pytest

from cellxlate.errors import OptionError
from cellxlate.options import TO_REPLACE
from cellxlate.plugin.requests import CancelledError, Refusal
from cellxlate.plugin.working import begin


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (None, "made"),
        (CancelledError(), None),
        (
            OptionError("it exists", remedy=TO_REPLACE),
            Refusal("it exists; give 'Replace existing files' to replace it"),
        ),
        (ValueError("odd"), Refusal("ValueError: odd")),
    ],
    ids=["a result", "a stop", "an error of ours", "another error"],
)
def test_how_steps_end_is_told_with_their_request(spin, fault, told):
    heard, ended = [], []

    def steps(request):
        yield f"news of {request}"
        if fault:
            raise fault
        return "made"

    begin(steps, "a run", news=lambda *got: heard.append(got), ended=lambda *got: ended.append(got))
    spin(lambda: ended)
    assert heard == [("a run", "news of a run")]
    assert ended == [("a run", told)]
