"""The report of a run, as a file that a browser can open; written in a worker thread."""

import tempfile
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cellxlate.errors import CellxlateError
from cellxlate.plugin.layers import plane_stack
from cellxlate.plugin.requests import EnhanceRequest, Outcome
from cellxlate.quality.report.figures import draw_planes, draw_sections
from cellxlate.quality.report.notices import failure_notices
from cellxlate.quality.report.report import write_report
from cellxlate.quality.tally import spared
from cellxlate.stacks.stack import Stack


def report_steps(outcome: Outcome, request: EnhanceRequest) -> Generator[Path, None, None]:
    """Yield the page of a run: the one beside the written files, or one in a temporary folder."""
    try:
        written = outcome.report.outputs.get("report")
        if written and Path(written).is_file():
            yield Path(written)
            return
        stack = request.stack if request.plane is None else plane_stack(request.stack, request.plane)
        image, attention = (
            Stack(np.asarray(pixels).reshape(stack.shape), stack.axes, stack.name)
            for pixels in (outcome.image, outcome.attention)
        )
        channels = range(stack.channel_count) if request.channels is None or request.plane else request.channels
        figures, across, sections, failures = "", "", dict[str, Any](), list[str]()
        with spared("drawing the pictures of the report", failures):
            figures = draw_planes(stack, image, attention, channels=list(channels))
        with spared("drawing the sections of the report", failures):
            places = outcome.report.tally.places
            across, sections = draw_sections(stack, image, attention, channels=list(channels), places=places)
        notices = [*outcome.report.notices, *failure_notices(failures)]
        report = replace(outcome.report, notices=notices, sections=sections)
        page = Path(tempfile.mkdtemp(prefix="cellxlate-")) / f"{stack.name}_report.html"
        write_report(report, figures + across, html=page, json=page.with_suffix(".json"))
        yield page
    except CellxlateError:
        raise
    except OSError as fault:
        raise CellxlateError(f"the report cannot be written ({fault})") from fault
