"""Where attention came from and which neighbours were seen, as a run's provenance states it; and in words."""

from collections.abc import Mapping, Sequence
from typing import Any

IN_COLOR = "red, green and blue are enhanced together, by their luminance"
NOTHING_BESIDE = "each plane alone: the stack has no planes along z or t"
"""Why nothing was chosen of a stack that left no choice."""


def attention_source(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return where attention came from; what states nothing was gated by the networks' own."""
    stated = provenance.get("attention_source")
    return dict(stated) if isinstance(stated, Mapping) and isinstance(stated.get("kind"), str) else {"kind": "network"}


def source_words(stated: Mapping[str, Any]) -> str:
    """Return where attention came from in words.

    Examples
    --------
    >>> source_words({"kind": "channel", "channel": 0, "name": "DAPI"})
    'attention of channel 0 (DAPI), for all channels'
    >>> source_words({"kind": "network"})
    'attention of the networks, for each channel its own'
    >>> source_words({"kind": "network", "model": "cells"})
    'attention of the model cells, for each channel its own'
    """
    kind, name, model = stated.get("kind"), stated.get("name"), stated.get("model")
    if kind == "channel":
        by = f", by the model {model}" if model else ""
        return f"attention of channel {stated.get('channel')}{f' ({name})' if name else ''}{by}, for all channels"
    if kind == "file":
        return f"the mask {stated.get('path') or name or 'in memory'}: 1 inside, 0 outside"
    if kind == "saliency":
        return "the automatic guide (saliency), without a network"
    if kind == "proposal":
        return f"the second output of {name or 'the model'} itself"
    return f"attention of {f'the model {model}' if model else 'the networks'}, for each channel its own"


def beside_seen(provenance: Mapping[str, Any]) -> list[str | int]:
    """Return the channels that networks saw beside those they changed, by name or number; what states none saw none."""
    stated = provenance.get("beside_names")
    return [one for one in stated if isinstance(one, str | int)] if isinstance(stated, list) else []


def beside_words(channels: Sequence[str | int]) -> str:
    """Return which channels networks saw beside those they changed.

    Examples
    --------
    >>> beside_words(["DAPI"]), beside_words([0, 2])
    ('DAPI, which stays as it is', 'channel 0 and channel 2, which stay as they are')
    """
    names = [one if isinstance(one, str) else f"channel {one}" for one in channels]
    return f"{' and '.join(names)}, which {'stays as it is' if len(names) == 1 else 'stay as they are'}"


def context_seen(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return which planes networks saw beside each; what states nothing saw none."""
    stated = provenance.get("context")
    return dict(stated) if isinstance(stated, Mapping) else {"axis": None, "planes": 0, "reason": ""}


def context_words(stated: Mapping[str, Any]) -> str:
    """Return which planes networks saw beside each, and why.

    Examples
    --------
    >>> context_words({"axis": "z", "planes": 2, "reason": "as asked for"})
    '2 planes on either side along z: as asked for'
    >>> context_words({"axis": None, "planes": 0, "reason": "as asked for"})
    'each plane alone: as asked for'
    """
    if not stated.get("axis"):
        reason = str(stated.get("reason") or "").removeprefix("each plane alone: ")
        return f"each plane alone{': ' if reason else ''}{reason}"
    axis = {"t": "time"}.get(str(stated["axis"]), stated["axis"])
    return f"{stated.get('planes')} planes on either side along {axis}: {stated.get('reason') or 'no reason is stated'}"
