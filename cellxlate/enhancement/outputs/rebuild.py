"""The report of a run made again from its files: `rebuild_report` from top to bottom."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import cellxlate
from cellxlate.enhancement.outputs.identity import input_identity
from cellxlate.errors import CellxlateError, InputError
from cellxlate.model.cards import describe_model
from cellxlate.options import ATTENTION, SOURCE
from cellxlate.quality.checks import read_back
from cellxlate.quality.report import page
from cellxlate.quality.report.account import Account, account_of, doubts_about
from cellxlate.quality.report.gates import attention_source
from cellxlate.quality.report.notices import Notice, failure_notices
from cellxlate.quality.report.proposals import PROPOSAL
from cellxlate.quality.report.remarks import input_notices
from cellxlate.quality.report.report import RunReport, write_report
from cellxlate.quality.risk import Ranking
from cellxlate.quality.tally import Tally, spared
from cellxlate.regular_files import read_small_file
from cellxlate.stacks.channel_names import shown_names
from cellxlate.stacks.intensity.saved import LUMINANCES, stated_ranges
from cellxlate.stacks.luminance import is_color
from cellxlate.stacks.naming import find_stacks, is_zarr, stack_name
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import Stack

MOST_DEEP = 50
"""Our own reports are ten levels deep."""

MOST_NUMBER = 1e15


def rebuild_report(
    enhanced: str | Path,
    *,
    source: str | Path | None = None,
    attention: str | Path | None = None,
    model: str | Path | None = None,
    output: str | Path | None = None,
) -> RunReport:
    """Read a result, its attention and its input again, check everything, and write the report anew.

    Parameters
    ----------
    enhanced : path
        `NAME_enhanced.ome.tif` or `.ome.zarr`, as `enhance` wrote it.
    source : path, optional
        The input; by default the file that the result names, beside it.
    attention : path, optional
        `NAME_attention` beside the result by default.
    model : str or Path, optional
        The model, for what its training images look like; found by the name that the result states if it is shipped.
    output : path, optional
        Of the HTML page, the JSON lies beside it; `NAME_report.html` beside the result by default.

    Returns
    -------
    RunReport
        Pixels that changed though attention is 0 are counted and warned of, not raised.

    Notes
    -----
    The files alone are enough. What an earlier report beside them states is added where it can be read; a report that
    is lost, empty or another program's adds nothing.

    Raises
    ------
    InputError
        A file is missing or damaged, or they do not belong together.
    OutputError
        The report cannot be written.
    """
    path = _result(Path(enhanced))
    base = stack_name(path).removesuffix("_enhanced")
    html = Path(output) if output is not None else path.with_name(f"{base}_report.html")
    page.require_name(html)
    earlier = _earlier_report(html.with_suffix(".json"))
    with open_stack(path) as image:
        facts = {**_mapping(earlier.get("provenance")), **_provenance(image)}
        selected_path = Path(attention) if attention is not None else _beside(path, f"{base}_attention")
        source_path = Path(source) if source is not None else _input_of(path, base, facts)
        _require_three_files(path, source_path, selected_path)
        with _open_input(source_path, image.axes, facts) as stack, open_stack(selected_path) as selected:
            channels, tile_px = _channels(facts, stack), int(_number(_mapping(facts.get("settings")).get("tile_px")))
            in_color = LUMINANCES in facts and is_color(stack)
            account = account_of(
                stack, image, selected,
                partial(_counted, stack, image, selected, channels, tile_px),
                channels=channels, domain=_domain(model, facts), in_color=in_color,
                levels=stated_ranges(facts, LUMINANCES) if in_color else stated_ranges(facts),
            )  # fmt: skip
            differing = account.tally.total.kept_violations
            if differing and _is_another(stack, facts):
                raise InputError(
                    f"{source_path} is not the file that {path.name} was made from: {differing} pixels that attention "
                    "did not select differ", remedy=("name the right one with ", SOURCE),
                )  # fmt: skip
            outputs = {"enhanced": str(path), "attention": str(selected_path), "report": str(html)}
            report = _stated_report(stack, account, outputs, source_path.name, facts, earlier)
    write_report(report, account.figures, html=html, json=html.with_suffix(".json"))
    return report


def _result(path: Path) -> Path:
    """Return the path of a result; a folder that holds results is none."""
    if path.is_dir() and not is_zarr(path):
        raise InputError(f"{path} is a folder; name the results in it, for example {path / '*_enhanced.ome.tif'}")
    return path


def _is_another(stack: Stack, facts: Mapping[str, Any]) -> bool:
    """Return whether a result states that it was made from a file with other bytes; of several files times tell."""
    if stack.files:
        return False
    stated, now = _mapping(facts.get("input")), input_identity(stack.path, stack.files)
    return any(key in stated and stated[key] != now.get(key) for key in ("bytes", "sampled_sha256"))


def _require_three_files(result: Path, source: Path, attention: Path) -> None:
    """Refuse one file in two roles: an image compared with itself has not changed, whatever became of its result."""
    if result.exists() and source.exists() and result.samefile(source):
        raise InputError(f"{result} is the input itself, no result; give the file that was written of it")
    for other, what in ((result, "result"), (source, "input")):
        if attention.exists() and other.exists() and attention.samefile(other):
            raise InputError(f"{attention} is the {what} itself, no attention", remedy=("name it with ", ATTENTION))


def _stated_report(
    stack: Stack, account: Account, outputs: Mapping[str, str], input_name: str, facts: Mapping[str, Any],
    earlier: Mapping[str, Any],
) -> RunReport:  # fmt: skip
    """Return what the checks found, with what the result (`facts`) and an earlier report state of the run."""
    tally = account.tally
    tally.noise_alone = _noise_alone(earlier)
    considered, stated_model = _considered(facts), _mapping(earlier.get("model"))
    notices = [Notice(line) for line in dict.fromkeys(stack.warnings)]
    notices += doubts_about(stack, tally, chosen=bool(considered), source=attention_source(facts))
    with spared("gathering remarks on the input", tally.failures):
        names, light = dict(enumerate(shown_names(stack))), stated_ranges(facts, LUMINANCES)
        by = str(facts.get("model")) if facts.get(PROPOSAL) else "one model"
        notices += input_notices(stated_ranges(facts), names, light, by=by)
    versions = {str(name): str(one) for name, one in _mapping(facts.get("versions")).items()}
    return RunReport(
        outputs=outputs, input_name=input_name, axes=stack.axes, shape=stack.shape, dtype=str(stack.dtype),
        model_name=str(facts.get("model", "not stated")), model_digest=str(facts.get("model_sha256", "not stated")),
        tally=tally, model_licence=str(stated_model.get("licence", "")), model_considered=considered,
        model_reason=str(stated_model.get("reason", "")) if considered else "", pixel_size_um=stack.pixel_size_um,
        channel_names=shown_names(stack), settings=_mapping(facts.get("settings")),
        versions=versions or {"cellxlate": cellxlate.__version__}, seconds=_seconds(earlier),
        tiles_total=int(_number(earlier.get("tiles_total"))), tiles_skipped=int(_number(earlier.get("tiles_skipped"))),
        peak_rss_mb=_number(earlier.get("peak_rss_mb")), engine=str(earlier.get("engine") or facts.get("engine", "")),
        notices=[*notices, *failure_notices(tally.failures)],
        provenance=facts, command=str(earlier.get("command", "")), command_note=str(earlier.get("command_note", "")),
        adaptation=_adaptation(earlier.get("adaptation")),
        ranking=Ranking.from_stated(earlier.get("ranking")), sections=account.sections,
    )  # fmt: skip


def _noise_alone(earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an earlier report says of a field of noise alone, which only the run itself can draw."""
    stated = _mapping(earlier.get("pure_noise"))
    if not stated:
        return {}
    return {"changed_percent": _number(stated.get("changed_percent")), "objects": int(_number(stated.get("objects")))}


def _counted(stack: Stack, image: Stack, selected: Stack, channels: Sequence[int], tile_px: int) -> Tally:
    """Count what changed in the channels that were enhanced, and what differs in those that were copied."""
    tally = read_back(stack, image, selected, channels=channels, tile_px=tile_px)
    copied = [channel for channel in range(stack.channel_count) if channel not in channels]
    tally.total.kept_violations += read_back(stack, image, selected, channels=copied).total.kept_violations
    return tally


def _earlier_report(path: Path) -> dict[str, Any]:
    """Return what an earlier report says; nothing where there is none that can be read."""
    with suppress(OSError, ValueError, RecursionError):
        stated = json.loads(read_small_file(path))
        if isinstance(stated, dict) and isinstance(stated.get("provenance"), dict) and _depth(stated) <= MOST_DEEP:
            return stated
    return {}


def _depth(value: Any) -> int:
    """Return how deep mappings and lists lie in one another, counted to one more than what is read."""
    depth, level = 0, [value]
    while level and depth <= MOST_DEEP:
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        depth += 1
    return depth


def _mapping(value: Any) -> dict[str, Any]:
    """Return a mapping as it is stated; an empty one for anything else."""
    return dict(value) if isinstance(value, Mapping) else {}


def _adaptation(value: Any) -> dict[str, Any]:
    """Return what an earlier report states of learning from the stack; nothing where it is not what `enhance` says."""
    stated = _mapping(value)
    if not isinstance(stated.get("reason"), str) or not isinstance(stated.get("kept"), bool):
        return {}
    return stated | {"steps": int(_number(stated.get("steps"))), "seconds": _number(stated.get("seconds"))}


def _number(value: Any) -> float:
    """Return a finite number as it is stated; 0 for anything else."""
    return float(value) if isinstance(value, int | float) and abs(value) < MOST_NUMBER else 0.0


def _seconds(earlier: Mapping[str, Any]) -> dict[str, float]:
    """Return where the time went, as far as an earlier report states it in numbers."""
    stated = _mapping(earlier.get("seconds"))
    return {name: _number(one) for name, one in stated.items() if isinstance(one, int | float)}


def _channels(facts: Mapping[str, Any], stack: Stack) -> list[int]:
    """Return the channels that were enhanced: those of which levels are stated, else all."""
    every = range(stack.channel_count)
    named = {str(channel) for channel in _mapping(facts.get("levels_counts"))}
    return [channel for channel in every if str(channel) in named] or list(every)


def _provenance(image: Stack) -> dict[str, Any]:
    """Return what the run noted in the file itself; nothing where another program wrote it."""
    notes = image.metadata.earlier
    facts: dict[str, Any] = {}
    for name, value in (notes[-1] if notes else {}).items():
        try:
            facts[name] = json.loads(value) if isinstance(value, str) else value
        except (ValueError, RecursionError):
            facts[name] = value
    return facts


def _beside(path: Path, name: str) -> Path:
    """Return the stack of a name in the folder of another, whatever its ending."""
    for candidate in find_stacks([path.parent], "result"):
        if stack_name(candidate) == name:
            return candidate
    raise InputError(
        f"{path.parent} holds no {name}, which belongs to {path.name}", remedy=("name it with ", ATTENTION)
    )


def _input_of(path: Path, base: str, facts: Mapping[str, Any]) -> Path:
    """Return the input that a result names, if it lies beside it."""
    name = _mapping(facts.get("input")).get("name")
    if name and Path(str(name)).name == str(name) and (path.parent / str(name)).exists():
        return path.parent / str(name)
    for candidate in find_stacks([path.parent], "result"):
        if stack_name(candidate) == base:
            return candidate
    raise InputError(f"the input {name or base} does not lie beside {path}", remedy=("name it with ", SOURCE))


def _open_input(path: Path, axes: str, facts: Mapping[str, Any]) -> Stack:
    """Open the input as the run did, with the axes of the result where it does not say its own."""
    stated = facts.get("image")
    image, incomplete = stated if type(stated) is int else None, facts.get("incomplete") is True
    with suppress(InputError):
        stack = open_stack(path, image=image, incomplete=incomplete)
        if stack.axes == axes:
            return stack
        stack.close()
    return open_stack(path, axes, image=image, incomplete=incomplete)


def _considered(facts: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the distances that the model was chosen by; nothing where it was named."""
    stated = _mapping(facts.get("model_considered"))
    return {str(name): float(one) if isinstance(one, int | float) else None for name, one in stated.items()}


def _domain(model: str | Path | None, facts: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what the training images look like of the model whose networks looked, if it is here and the very same.

    Raises
    ------
    InputError
        The model that was named is another.
    """
    if facts.get(PROPOSAL) and str(model) == facts.get("model"):  # a filter is no model with images of its own
        model = None
    looked = _mapping(facts.get("attention_model")) if facts.get(PROPOSAL) else {
        "name": facts.get("model"), "sha256": facts.get("model_sha256")
    }  # fmt: skip
    try:
        card = describe_model(model or str(looked.get("name", "")))
    except CellxlateError:
        if model is not None:
            raise
        return None
    if card.get("weights_sha256") == looked.get("sha256"):
        domain: Mapping[str, Any] | None = card.get("domain")
        return domain
    if model is not None:
        raise InputError(f"the result was made by another model than {model} (the weights differ); give the right one")
    return None
