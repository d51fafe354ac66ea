"""What `info` and `models` print: what a stack, a plate, a folder of stacks or a model is, in words."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellxlate.cli.lines.scores import card_score_rows
from cellxlate.cli.lines.table import (
    count,
    decimals,
    duration,
    facts,
    listed,
    megapixels,
    percent,
    size,
    table,
    wrapped,
)
from cellxlate.model.cards import card_channels, seen_words

if TYPE_CHECKING:
    from cellxlate.choice import Suitability
    from cellxlate.stacks.intensity.noise_model import CameraNoise

AXIS_NOUNS = {
    "T": ("time point", ""), "C": ("channel", ""), "Z": ("plane in depth", "planes in depth"), "Y": ("row", ""),
    "X": ("column", ""), "S": ("colour sample", ""),
}  # fmt: skip
KINDS = {
    "tiff": "TIFF", "ome-tiff": "OME-TIFF", "imagej": "ImageJ TIFF", "ome-zarr": "OME-Zarr", "zarr": "plain Zarr array",
    "planes": "one stack of many files",
}  # fmt: skip
MOST_ROWS = 40


def stack_facts(path: str, answer: Mapping[str, Any], fit: "Suitability | None" = None) -> list[tuple[str, str]]:
    """Return what a stack is: what the file says, its size, and which model would be taken for it.

    Parameters
    ----------
    path : str
        As it was given.
    answer : mapping
        What `info --json` prints of it.
    fit : Suitability, optional
        How near it is to the model that would be taken.
    """
    axes, shape = answer["axes"], answer["shape"]
    sizes = dict(zip(axes, shape, strict=True))
    nouns = [count(sizes[axis], *AXIS_NOUNS[axis]) for axis in axes]
    planes = prod(extent for axis, extent in sizes.items() if axis not in "YX")
    kind = KINDS.get(answer["kind"], answer["kind"].upper())
    on_disk = f", {size(answer['size_bytes'])} on disk" if answer.get("size_bytes") else ""
    return [
        ("stack", path),
        ("format", f"{kind}{on_disk}"),
        *_plate_facts(answer.get("plate")),
        ("axes", f"{axes}: {', '.join(nouns)}"),
        ("pixels", f"{answer['dtype']}, {megapixels(prod(shape))} in {count(planes, 'plane')}"),
        ("pixel size", pixel_size_words(answer["pixel_size_um"])),
        *([("time step", duration(answer["time_step_s"]))] if answer.get("time_step_s") else []),
        ("channels", channel_words(answer)),
        ("pyramid", "none: full resolution alone" if answer["levels"] == 1 else count(answer["levels"], "resolution")),
        *([("model", f"{fit_words(fit)}")] if fit else []),
        *(("note", line) for line in answer["warnings"]),
    ]  # fmt: skip


def _plate_facts(plate: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if not plate:
        return []
    wells = f"{count(len(plate['wells']), 'well')} ({listed(plate['wells'])})"
    return [("plate", f"{wells}, {count(plate['fields'], 'field')}; below, the first of them")]


def pixel_size_words(sizes_um: Mapping[str, float]) -> str:
    """Return the size of a pixel in words.

    Examples
    --------
    >>> pixel_size_words({"Z": 2.0, "Y": 0.65, "X": 0.65})
    '0.65 x 0.65 µm, 2 µm between planes'
    >>> pixel_size_words({})
    'not stated in the file'
    """
    across = [f"{sizes_um[axis]:.4g}" for axis in "YX" if axis in sizes_um]
    parts = [f"{' x '.join(across)} µm"] if across else []
    if "Z" in sizes_um:
        parts.append(f"{sizes_um['Z']:.4g} µm between planes")
    return ", ".join(parts) or "not stated in the file"


def channel_words(answer: Mapping[str, Any]) -> str:
    """Return the channels with their numbers, and colours where the file states some; of what `info --json` prints.

    Examples
    --------
    >>> grey = {"axes": "CYX", "shape": [2, 9, 9], "rgb": False, "channels": [], "colours": []}
    >>> channel_words({**grey, "channels": ["DAPI", "GFP"], "colours": ["0000FF", "00FF00"]})
    '0 DAPI (#0000FF), 1 GFP (#00FF00)'
    >>> channel_words(grey), channel_words({**grey, "axes": "YXS", "shape": [9, 9, 2]})
    ('2, without names', '2 samples, without names')
    >>> channel_words({**grey, "axes": "YXS", "shape": [9, 9, 3], "channels": ["red", "green", "blue"], "rgb": True})
    'RGB: 0 red, 1 green, 2 blue'
    """
    names, colours, sizes = (
        answer["channels"],
        answer["colours"],
        dict(zip(answer["axes"], answer["shape"], strict=True)),
    )
    channels, of_each = sizes.get("C", 1), f", each in RGB ({sizes['S']} samples)" if answer["rgb"] else ""
    if "S" in sizes and "C" not in sizes:
        of_samples = ", ".join(f"{number} {name}" for number, name in enumerate(names))
        return f"RGB: {of_samples}" if answer["rgb"] else f"{count(sizes['S'], 'sample')}, without names"
    if not names:
        return (f"{channels}, without names" if channels > 1 else "1, without a name") + of_each
    shown = [f" (#{colour})" for colour in colours] if len(colours) == len(names) else [""] * len(names)
    named = [f"{number} {name}{colour}" for number, (name, colour) in enumerate(zip(names, shown, strict=True))]
    return listed(named) + of_each


def fit_words(fit: "Suitability") -> str:
    """Return which model would be taken for a stack, and whether it suits it.

    Examples
    --------
    >>> from cellxlate.choice import Suitability
    >>> fit_words(Suitability("cells", 0.523, (), 8))
    'cells would be taken: like its training images (distance 0.52, limit 1)'
    >>> fit_words(Suitability("cells", 1.8, ("the noise is smeared",), 8))
    'cells would be taken, but the stack is unlike its training images (distance 1.80, limit 1): the noise is smeared'
    """
    if not fit.windows:
        return f"{fit.model} would be taken; nothing stands out from the noise, so it cannot be told whether it fits"
    if fit.distance is None:
        return f"{fit.model} would be taken; it is not known what its training images look like"
    distance = f"(distance {fit.distance:.2f}, limit 1)"
    if not fit.is_outside:
        return f"{fit.model} would be taken: like its training images {distance}"
    differences = f": {'; '.join(fit.differences)}" if fit.differences else ""
    return f"{fit.model} would be taken, but the stack is unlike its training images {distance}{differences}"


def noise_table(names: Sequence[str], noises: Sequence["CameraNoise"]) -> list[str]:
    """Return a table of the camera noise of each channel, what its columns mean, and what cannot be relied on."""
    rows = [["channel", "noise sd", "between", "gain", "neighbours", "grey step", "full at", "black", "flat"]]
    for name, noise in zip(names, noises, strict=True):
        low, high = noise.sd_interval
        full = "-" if noise.saturation_counts is None else f"{noise.saturation_counts:.6g}"
        rows.append([
            name, f"{noise.sd_counts:.4g}", f"{low:.3g}-{high:.3g}", f"{noise.gain:.3g}",
            decimals(noise.neighbour_correlation, 2), f"{noise.quantisation_counts:.3g}", full,
            f"{noise.black_counts:.4g}", f"{100 * noise.flat_share:.0f} %",
        ])  # fmt: skip
    lines = table(rows)
    unsure = [name for name, noise in zip(names, noises, strict=True) if not noise.reliable]
    if unsure:
        lines += wrapped(f"{', '.join(unsure)}: no flat places were found; structure may have been taken for noise")
    return [*lines, "", *wrapped(
        "In counts: the noise where nothing glows, between what it is believed to lie, the step between grey values, "
        "the count at which pixels are full, the black level. gain: variance per count of signal. neighbours: "
        "correlation of a pixel with the next, 0 for white noise. flat: places that show noise alone."
    )]  # fmt: skip


def folder_lines(path: str, stacks: Sequence[Mapping[str, Any]], left_out: Sequence[str]) -> list[str]:
    """Return a table of the stacks of a folder; what cannot be read says why."""
    rows = [["stack", "axes", "shape", "pixels", "pixel size", "channels"]]
    for one in stacks[:MOST_ROWS]:
        if "error" in one:
            continue
        shape, sizes = "x".join(map(str, one["shape"])), one["pixel_size_um"]
        across = f"{sizes['X']:.4g} µm" if "X" in sizes else "-"
        rows.append([one["name"], one["axes"], shape, one["dtype"], across, listed(one["channels"], 3) or "-"])
    failed = [(one["name"], one["error"]) for one in stacks if "error" in one]
    lines = [f"{path}: a folder of {count(len(stacks), 'stack')}", ""]
    if len(rows) > 1:
        lines += table(rows, words=(0, 1, 2, 3, 5))
    if len(stacks) > MOST_ROWS:
        lines.append(f"and {len(stacks) - MOST_ROWS:,} more")
    notes = [("cannot be read", error) for _, error in failed[:MOST_ROWS]] + [
        ("left out", line.removeprefix("left out ")) for line in left_out
    ]
    return [*lines, *([""] if notes else []), *facts(notes)]


def model_lines(card: Mapping[str, Any], shipped: bool, size_bytes: int | None) -> list[str]:
    """Return what a model is for, what it was trained on, and its scores.

    Parameters
    ----------
    card : mapping
        As `describe_model` returns it; whatever is missing in it is left out.
    shipped : bool
        Whether it came with the program.
    size_bytes : int, optional
        On disk.
    """
    training = _mapping(card.get("training"))
    kind = f"shipped with cellxlate {card.get('cellxlate_version', '')}".rstrip() if shipped else "trained here"
    on_disk = f" ({size(size_bytes)})" if size_bytes else ""
    told = [
        ("model", str(card.get("name") or Path(str(card.get("path"))).name)),
        ("for", str(card.get("description") or "not stated")),
        ("kind", f"{kind}, preset {card.get('preset', 'unknown')}"),
        *_training_facts(training),
        *_start_facts(training, card.get("adaptation")),
        *([("history", str(training["history"]))] if training.get("history") else []),
        ("licence", str(card.get("licence") or "not stated")),
        *_source_facts(card.get("sources")),
        ("networks", _network_words(card)),
        *_channel_facts(card),
        *_neighbour_facts(_mapping(card.get("context"))),
        ("folder", f"{card.get('path')}{on_disk}"),
    ]  # fmt: skip
    return [*facts(told), "", *_score_lines(_mapping(card.get("scores")))]


def _channel_facts(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return which channel a model changes, and which it wants to see beside it."""
    needed = _mapping(card.get("networks")).get("beside")
    if not (isinstance(needed, int) and needed):
        return []
    own = card_channels(card)[0]
    changed = own if isinstance(own, str) else "one channel"
    return [
        ("channels", f"changes {changed}, and sees {seen_words(card, needed)} beside it, which every stack must hold")
    ]


def _neighbour_facts(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return which planes beside its own a model can see, and how long that was taught."""
    planes, steps = context.get("planes"), _mapping(context.get("training")).get("steps")
    if not isinstance(planes, int):
        return []
    taught = f", taught in {count(steps, 'step')}" if isinstance(steps, int) else ""
    return [("neighbours", f"can see {count(planes, 'plane')} on either side of each, along z or time{taught}")]


def _training_facts(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a model was trained on, and for how long."""
    if not training:
        return []
    source, target = (_names(training.get(name)) for name in ("source", "target"))
    planes = [training.get(f"{name}_planes") for name in ("source", "target")]
    words = []
    for names, number, what in ((source, planes[0], "as taken"), (target, planes[1], "as they should look")):
        if names and isinstance(number, int) and number:
            words.append(f"{listed(names)} ({count(number, 'plane')} {what})")
    told = [("trained on", ", towards ".join(words) or "images that its card does not name")]
    masks = training.get("masks")
    if isinstance(masks, list) and any(isinstance(one, int) and one for one in masks):
        told.append(("masks", f"of {count(sum(one for one in masks if isinstance(one, int)), 'plane')}"))
    steps, seconds = training.get("steps"), training.get("seconds")
    if isinstance(steps, int):
        took = f" in {duration(seconds)}" if isinstance(seconds, int | float) else ""
        told.append(("training", f"{count(steps, 'step')}{took}"))
    agreement = training.get("attention_agreement_with_guide")
    if isinstance(agreement, int | float):
        told.append(("attention", f"agrees with its guide to {percent(agreement, places=0)} (overlap, IoU)"))
    return told


def _start_facts(training: Mapping[str, Any], adaptation: object) -> list[tuple[str, str]]:
    """Return which model it stands on, and why what it learned from a stack was kept."""
    start, told = _mapping(training.get("start")), []
    if start:
        steps = start.get("steps")
        long = f", {count(steps, 'step')}" if isinstance(steps, int) else ""
        told.append(("began from", f"{start.get('name')}{long}"))
    reason = _mapping(adaptation).get("reason")
    return [*told, *([("adapted", str(reason))] if reason else [])]


def _source_facts(sources: object) -> list[tuple[str, str]]:
    """Return whose images a model was trained on, and under which licences."""
    known = [one for one in sources if isinstance(one, Mapping)] if isinstance(sources, list) else []
    told = [f"{one.get('from')}: {one.get('images')}; {one.get('licence')}" for one in known]
    return [("images of" if number == 0 else "", line) for number, line in enumerate(told)]


def _network_words(card: Mapping[str, Any]) -> str:
    """Return how large the networks are and how far they look."""
    counts = [
        (name, card.get(f"{name}_parameters"), card.get(f"{name}_halo_px")) for name in ("generator", "attention")
    ]
    return ", ".join(
        f"{name} {number:,} parameters{f' (sees {halo} px around a pixel)' if isinstance(halo, int) else ''}"
        for name, number, halo in counts
        if isinstance(number, int)
    )


def _score_lines(scores: Mapping[str, Any]) -> list[str]:
    """Return the scores of a card as a table, the raw input's beside them where the card has these."""
    rows = card_score_rows(scores) if scores else []
    if len(rows) < 2:
        return wrapped("No scores in its card; `cellxlate evaluate MODEL ... --to-card` puts them there.")
    images = f", {count(scores['images'], 'image')}" if isinstance(scores.get("images"), int) else ""
    verdict = _mapping(scores.get("verdict")).get("sentence")
    words = (0, len(rows[0]) - 1)
    return [
        f"scores on {scores.get('data', 'unknown data')}{images}",
        *table(rows, words=words),
        *wrapped(verdict or ""),
    ]


def models_lines(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a list of models: what each is for, and where those lie that are not shipped."""
    if not models:
        return ["no model here; train one with cellxlate train"]
    told = []
    for model in models:
        where = "shipped" if model["shipped"] else f"in ./{model['name']}"
        told.append((str(model["name"]), f"{model['description']} ({where})"))
    return [*facts(told), "", *wrapped("Use one with: cellxlate enhance STACK -m NAME. Without -m, the shipped model "
            "that suits the stack is taken. cellxlate info NAME tells more.")]  # fmt: skip


def filters_lines(filters: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the filters that may propose in place of a model: what each does, its value, and how far it looks."""
    told = []
    for one in filters:
        halo = "far it looks depends on it" if one["halo_px"] is None else f"{one['halo_px']} px around a pixel"
        sees = f"how {halo}" if one["halo_px"] is None else f"sees {halo}"
        told.append((one["example"], f"{one['what']}; {one['parameter']}, {one['unit']} ({one['usual']}); {sees}"))
    usage = (
        "A filter proposes in place of a model, and attention of cells gates it: cellxlate enhance STACK -m gaussian:2."
    )
    return [*facts(told), "", *wrapped(f"{usage} A model folder that is called like a filter is ./NAME.")]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _names(value: object) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else []
