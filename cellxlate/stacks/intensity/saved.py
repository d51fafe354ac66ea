"""Levels of channels and of colours: measured, or what an earlier enhancement has left in its files."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from cellxlate.errors import InputError, OptionError, unless_denied
from cellxlate.option_values import as_path
from cellxlate.options import CHANNELS, COLOR, LEVELS_FROM
from cellxlate.regular_files import read_small_file
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.intensity.stack_range import stack_ranges
from cellxlate.stacks.luminance import what_is_seen
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import Stack

LEVELS, LUMINANCES, LEVELS_BESIDE = "levels_counts", "luminance_counts", "beside_levels_counts"
"""What a run has noted: of each channel; of the luminance of colours, by the first channel of each; of each channel
that networks saw beside those that they changed."""


def saved_ranges(path: Path, noted: str = LEVELS) -> dict[int, IntensityRange]:
    """Return the levels of each channel that an earlier enhancement was made with, gating and seen ones included.

    From its report (`NAME_report.json`), or the enhanced stack itself. Of `LUMINANCES` there may be none.

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
    others = stated_ranges(_gating(facts)) | stated_ranges(facts, LEVELS_BESIDE)
    if not (ranges := others | stated_ranges(facts)):
        raise InputError(f"{path} states no levels; give the NAME_report.json or the output of an earlier enhancement")
    return ranges if noted == LEVELS else stated_ranges(facts, noted)


def _gating(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a run has noted of where attention came from; nothing where that is no mapping."""
    stated = facts.get("attention_source") if isinstance(facts, Mapping) else None
    with suppress(ValueError, RecursionError):
        stated = json.loads(stated) if isinstance(stated, str) else stated
    return stated if isinstance(stated, Mapping) else {}


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


def ranges_of(stack: Stack, channels: Sequence[int], levels_from: str | Path | None) -> dict[int, IntensityRange]:
    """Measure the levels of channels, or take those that an earlier run states in its report or its output.

    Raises
    ------
    OptionError
        It states none of a channel.
    """
    given = None if levels_from is None else as_path(LEVELS_FROM, levels_from)
    intensities = stack_ranges(stack, channels) if given is None else saved_ranges(given)
    if absent := [channel for channel in channels if channel not in intensities]:
        raise OptionError(
            f"{levels_from} states no levels of channel {absent[0]}", remedy=("choose others with ", CHANNELS)
        )
    return intensities


def luminances_of(stack: Stack, channels: Sequence[int], levels_from: str | Path | None) -> dict[int, IntensityRange]:
    """Measure the levels of the luminance of a colour stack, or take those that an earlier run states, as `ranges_of`.

    Raises
    ------
    OptionError
        It states none.
    """
    given = None if levels_from is None else as_path(LEVELS_FROM, levels_from)
    light, seen = what_is_seen(stack, channels)
    found = stack_ranges(light, seen) if given is None else saved_ranges(given, LUMINANCES)
    if any(channel not in found for channel in seen):
        raise OptionError(
            f"{levels_from} states no levels of a luminance", remedy=("give ", COLOR.of("separate"), " as there")
        )
    return found
