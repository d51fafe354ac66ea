"""What `enhance --dry-run` prints: what would be written where, what is expected, what it would take."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from cellxlate.cli.lines.table import count, duration, facts, listed, megapixels, percent, size, table
from cellxlate.quality.report.gates import IN_COLOR, NOTHING_BESIDE, beside_words, context_words, source_words
from cellxlate.quality.report.proposals import proposal_words

WHOLE_PX = 2**20
"""Side of a tile from which on it is any plane."""
PARTS = {
    "adapting": "learning from the stack", "plan": "model and intensity levels", "read": "reading",
    "bands": "networks and writing", "finish": "putting files together", "publish": "reaching the disk",
    "checks": "reading back and checking", "report": "report",
}  # fmt: skip


def forecast_lines(names: Sequence[str], answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what would be done with each stack; of several a table, and the sum.

    Parameters
    ----------
    names : sequence of str
        What the stacks are called in a table.
    answers : sequence of mapping
        What `--json` says of each: a forecast, or "input" and "error".
    """
    known = [answer for answer in answers if "expected" in answer]
    if len(answers) == 1:
        return one_forecast(answers[0]) if known else []
    rows = [["stack", "size", "cells", "takes", "writes", "model"]]
    for name, answer in zip(names, answers, strict=True):
        if answer not in known:
            rows.append([name, "failed", "", "", "", ""])
            continue
        expected = answer["expected"]
        rows.append([
            name, megapixels(1e6 * expected["megapixels"]), percent(expected["cell_fraction"]),
            duration(_seconds(expected)), size(_written(expected)), answer["model"],
        ])  # fmt: skip
    total_s = sum(_seconds(answer["expected"]) for answer in known)
    written = sum(_written(answer["expected"]) for answer in known)
    notes = [
        ("warning", f"{name}: {line}")
        for name, answer in zip(names, answers, strict=True)
        for line in answer.get("warnings", ())
    ]  # fmt: skip
    return [
        *table(rows, words=(0, 5)), "", *facts([
            ("in all", f"{count(len(known), 'stack')} in {duration(total_s)}, {size(written)} written"), *notes,
            ("dry run", "nothing was written"),
        ]),
    ]  # fmt: skip


def one_forecast(answer: Mapping[str, Any]) -> list[str]:
    """Return what would be done with one stack."""
    expected, seconds = answer["expected"], answer["expected"]["seconds"]
    considered = {name: distance for name, distance in answer["model_considered"].items() if distance is not None}
    chosen = f", chosen for this stack (distance {considered[answer['model']]:.2f}, limit 1)" if (
        answer["model"] in considered
    ) else ""  # fmt: skip
    processes = f" in {count(expected['processes'], 'process', 'processes')}" if expected["processes"] > 1 else ""
    sampled = f"measured on {megapixels(1e6 * expected['sampled_megapixels'])} of it"
    parts = [f"{PARTS.get(part, part)} {duration(value)}" for part, value in seconds.items() if value >= 0.05]
    gated, proposal = answer["attention_source"], answer.get("proposal", {})
    free = f"; {size(answer['free_bytes'])} are free there" if answer.get("free_bytes") is not None else ""
    file_bytes = [f"{name} about {size(amount)}" for name, amount in expected["file_bytes"].items() if amount]
    return facts([
        ("input", str(answer["input"])),
        ("shape", f"{answer['axes']} {' x '.join(map(str, answer['shape']))}, {answer['dtype']}, "
                  f"{megapixels(prod(answer['shape']))}"),
        ("channels", _channel_words(answer)),
        ("proposal", proposal_words(answer["model"], proposal)) if proposal else
        ("model", f"{answer['model']}{chosen}"),
        *([("gate", source_words(gated))] if proposal or gated["kind"] != "network" else []),
        *([("neighbours", seen)] if not proposal and (seen := context_words(answer["context"])) != NOTHING_BESIDE
          else []),
        *([("seen beside", beside_words(answer["beside"]))] if answer.get("beside") else []),
        *([("adapts", f"first, for {duration(answer['adaptation']['seconds'])}; what it learns goes to "
                      f"{answer['adaptation']['model']}")] if "adaptation" in answer else []),
        *(("writes" if number == 0 else "", path) for number, path in enumerate(answer["outputs"])),
        ("on disk", f"{' and '.join(file_bytes) or '0 bytes'}{free}"),
        ("tiles", _tile_words(answer)),
        ("cells", f"{percent(expected['cell_fraction'])} of the pixels would be selected ({sampled})"),
        ("time", f"about {duration(_seconds(expected))}{processes}: {', '.join(parts)}"),
        *([("memory", f"about {size(memory)} in this process")] if (memory := 1e6 * expected["peak_rss_mb"]) else []),
        ("engine", str(answer["engine"])),
        *(("warning", line) for line in answer["warnings"]),
        ("dry run", "nothing was written"),
    ])  # fmt: skip


def _tile_words(answer: Mapping[str, Any]) -> str:
    """Return how many tiles there are, and how large; what needs whole planes has no tiles."""
    planes = count(answer["planes"], "plane")
    if answer["tile_px"] >= WHOLE_PX:
        return f"none: {planes}, each at once"
    return f"{count(answer['tiles'], 'tile')} of {answer['tile_px']} px in {planes}"


def _channel_words(answer: Mapping[str, Any]) -> str:
    """Return which channels would be enhanced, and what becomes of the others."""
    sizes = dict(zip(answer["axes"], answer["shape"], strict=True))
    chosen, channels = answer["channels"], sizes.get("C", sizes.get("S", 1))
    if answer.get("color") == "luminance":
        return IN_COLOR
    if len(chosen) == channels:
        return "the only one is enhanced" if channels == 1 else f"all {channels} are enhanced"
    names = dict(enumerate(answer["channel_names"]))
    called = listed([names.get(channel, str(channel)) for channel in chosen])
    return f"{called} of {channels} enhanced, the others copied"


def _seconds(expected: Mapping[str, Any]) -> float:
    return float(sum(expected["seconds"].values()))


def _written(expected: Mapping[str, Any]) -> float:
    return float(sum(expected["file_bytes"].values()))
