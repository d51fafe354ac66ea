"""What an earlier enhancement has left in its files, to be used again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cellxlate.errors import InputError, unless_denied
from cellxlate.regular_files import read_small_file
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.read.open import open_stack

LEVELS, LUMINANCES = "levels_counts", "luminance_counts"
"""What a run has noted: of each channel; of the luminance of colours, by the first channel of each."""


def saved_ranges(path: Path, noted: str = LEVELS) -> dict[int, IntensityRange]:
    """Return the levels of each channel that an earlier enhancement was made with; of luminance where that is asked.

    From its report (`NAME_report.json`), or the enhanced stack itself. It states levels, be there any of what is asked.

    Raises
    ------
    InputError
        The file states no levels.
    """
    facts: Mapping[str, Any]
    if path.suffix.lower() == ".json":
        try:
            facts = json.loads(read_small_file(path))["provenance"]
        except PermissionError as fault:
            raise unless_denied(InputError(f"{path} cannot be read"), path, fault) from fault
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            facts = {}
    else:
        with open_stack(path) as stack:
            facts = stack.metadata.earlier[-1] if stack.metadata.earlier else {}
    if not stated_ranges(facts):
        raise InputError(f"{path} states no levels; give the NAME_report.json or the output of an earlier enhancement")
    return stated_ranges(facts, noted)


def stated_ranges(facts: Mapping[str, Any], noted: str = LEVELS) -> dict[int, IntensityRange]:
    """Return the levels of each channel that a run has noted; none where they are no levels."""
    try:
        stated = facts[noted]
        stated = json.loads(stated) if isinstance(stated, str) else stated
        ranges = {int(channel): IntensityRange.from_stated(one) for channel, one in stated.items()}
    except (LookupError, TypeError, ValueError, AttributeError):
        return {}
    usable = all(np.isfinite(one.black) and 0 < one.span < np.inf for one in ranges.values())
    return ranges if usable else {}
