"""What `models --check` prints for people of a model of others, and of a filter."""

from collections.abc import Mapping
from typing import Any

from cellxlate.cli.lines.table import count, duration, facts, listed, size

AXIS_WORDS = {"YX": "planes (rows, columns)", "ZYX": "volumes (planes, rows, columns)"}
MOST_OPERATORS = 8


def foreign_lines(answer: Mapping[str, Any]) -> list[str]:
    """Return what a model of others takes, how far it looks, and what it costs."""
    seconds, memory = answer["seconds_per_megapixel"], answer["memory_bytes_per_megapixel"]
    measured = f"; {size(memory['measured'])} on the probe" if memory["measured"] else ""
    square = "; and more with the square of its pixels" if answer["memory_grows_with_the_square"] else ""
    operators = sorted(answer["operators"].items(), key=lambda pair: (-pair[1], pair[0]))
    probe = " x ".join(map(str, answer["probe_px"]))
    return facts([
        ("model", str(answer["name"])), ("file", str(answer["path"])), ("takes", _takes(answer)),
        ("gives", _gives(answer)), ("looks", _looks(answer)),
        *(("along " + axis, words) for axis, words in _sizes(answer["reach"])),
        ("runs on", _windows(answer)),
        ("operators", listed([f"{kind} {number}" for kind, number in operators], MOST_OPERATORS)),
        ("memory", f"{size(memory['told'])} per megapixel of a window, by its graph{measured}{square}"),
        ("time", f"{duration(seconds)} per megapixel here, on a window of {probe} px"),
        ("licence", answer["licence"] or "not stated"), ("to cite", answer["citation"] or "not stated"),
        ("sha-256", str(answer["sha256"])), *(("note", line) for line in answer["warnings"]),
    ])  # fmt: skip


def _takes(answer: Mapping[str, Any]) -> str:
    together = "" if answer["channels_in"] == 1 else " together"
    before = "processed as its package says" if answer["processing"] else "counts as they are"
    return f"{AXIS_WORDS[answer['axes']]} of {count(answer['channels_in'], 'channel')}{together}: {before}"


def _gives(answer: Mapping[str, Any]) -> str:
    gate = ", and attention, which gates it" if answer["attention_output"] else ""
    return f"{count(answer['channels_out'], 'channel')}, {answer['to_counts']}{gate}"


def _looks(answer: Mapping[str, Any]) -> str:
    """Return how far it looks, or what looks at everything, in words."""
    if answer["local"]:
        halos = dict.fromkeys(str(one["halo_px"]) for one in answer["reach"].values())
        return f"{' / '.join(halos)} px around each pixel: it is local, and tiles give what the whole plane would"
    if answer["unknown"]:
        return f"it is not known how far: {'; '.join(answer['unknown'])}"
    return f"at the whole image: {answer['not_local']}"


def _sizes(reach: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return which windows it takes along each axis; axes that are alike in one line."""
    lines: dict[str, list[str]] = {}
    for axis, one in reach.items():
        if one["fixed_px"] is not None:
            words = f"windows of {one['fixed_px']} px and no other"
        elif one["step_px"] == 1:
            words = f"windows of {one['least_px']} px and more"
        else:
            words = f"windows of {one['least_px']} px and any number of steps of {one['step_px']} px more"
        if one["stride"] > 1:
            words += f", beginning at multiples of {one['stride']} px"
        if one["margin_px"]:
            words += f"; its image is {one['margin_px']} px smaller at either side"
        lines.setdefault(words, []).append(axis.lower())
    return [(" and ".join(axes), words) for words, axes in lines.items()]


def _windows(answer: Mapping[str, Any]) -> str:
    """Return on which windows of a stack it would run."""
    fixed = any(one["fixed_px"] for one in answer["reach"].values())
    if answer["local"]:
        return "tiles with this margin, checked against larger windows of each stack before anything is written"
    if fixed:
        return "windows of that size, which differ where they overlap; the report says by how much"
    return "whole planes where memory allows; else the largest windows, with the difference that this makes"


def filter_lines(stated: Mapping[str, Any]) -> list[str]:
    """Return what a filter does, and how far it looks."""
    named = {"what": "what", "parameter": "with", "package": "code", "licence": "licence", "citation": "to cite"}
    halo = stated.get("halo_px")
    looks = f"{halo} px around each pixel" if isinstance(halo, int) else "at the whole plane"
    said = [(title, str(stated[key])) for key, title in named.items() if stated.get(key)]
    return facts([("filter", str(stated["name"])), *said, ("looks", looks)])
