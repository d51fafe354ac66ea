"""One sentence on a result: what changed, whether the promise held, and what to look at before it is trusted."""

from collections.abc import Mapping, Sequence

from cellxlate.quality.report.notices import Notice, listed
from cellxlate.quality.report.page import number
from cellxlate.quality.tally import Counts

MOST_SHARES = 3
"""So many channels are named with the share of each."""


def verdict(
    total: Counts,
    channels: Mapping[str, Counts],
    notices: Sequence[Notice] = (),
    *,
    is_file: bool = True,
    are_others: bool = False,
    is_incomplete: bool = False,
    is_kept: bool | None = None,
    is_known: bool = True,
    is_compared: bool = True,
) -> str:
    """Say in one sentence what a microscopist wants to know of a result.

    Parameters
    ----------
    total : Counts
        Of everything that was checked.
    channels : mapping of str to Counts
        Of the channels that were enhanced, by name.
    notices : sequence of Notice
        What there is to say of it, the most serious of a weight first.
    is_file : bool
        Whether it was read back from a file; from memory otherwise.
    are_others : bool
        Whether there are channels that were copied.
    is_incomplete : bool
        Whether only the complete time points of an acquisition that was stopped are there.
    is_kept : bool, optional
        Whether what the model learned from the stack was kept, where it learned.
    is_known : bool
        Whether the model states what images it was trained on.
    is_compared : bool
        Whether the input holds enough to be compared with these.

    Examples
    --------
    >>> dapi = Counts(pixels=1000, selected=135, changed=120, change_sum_counts=4200.0)
    >>> verdict(dapi, {"DAPI": dapi})  # doctest: +NORMALIZE_WHITESPACE
    '12 % of the image was changed, by 35 counts on average; the other 88 % is the input bit for bit (read back from
    the file); nothing speaks against the result.'
    """
    if total.kept_violations:
        those = "pixel that attention did not select differs"
        if total.kept_violations > 1:
            those = "pixels that attention did not select differ"
        return f"The promise is broken: {number(total.kept_violations)} {those} from the input; do not use this output."
    if not total.pixels:
        return "An earlier run made this result; without its attention, what it changed could not be checked again."
    clauses = [
        _changed(total, channels, are_others=are_others, is_incomplete=is_incomplete, is_kept=is_kept),
        _promise(total, is_single=len(channels) < 2 and not are_others, is_file=is_file),
        *(["what the model learned from this stack was no better and is not used"] if is_kept is False else []),
        _doubt(notices, _unsure(is_known=is_known, is_compared=is_compared) if total.selected else ""),
    ]
    sentence = "; ".join(clause for clause in clauses if clause)
    return f"{sentence[:1].upper()}{sentence[1:]}."


def share(part: int, whole: int) -> str:
    """Return a share in percent, short; what is not quite nothing or everything does not read so.

    Examples
    --------
    >>> share(12, 100), share(3, 1000), share(1, 10**6), share(997, 1000), share(10**6 - 1, 10**6)
    ('12 %', '0.3 %', 'less than 0.1 %', '99.7 %', 'more than 99.9 %')
    """
    percent = 100 * part / whole
    if part in (0, whole):
        return f"{percent:.0f} %"
    if percent < 0.1:
        return "less than 0.1 %"
    if percent > 99.9:
        return "more than 99.9 %"
    return f"{percent:.1f} %" if percent < 1 or percent > 99 else f"{percent:.0f} %"


def _changed(
    total: Counts, channels: Mapping[str, Counts], *, are_others: bool, is_incomplete: bool, is_kept: bool | None
) -> str:
    """Say what changed, and by how much."""
    if not total.selected:
        return "nothing was changed"
    if not total.changed:
        return f"attention selected {share(total.selected, total.pixels)} of the image, but no stored value changed"
    by = " by the model that learned from it" if is_kept else ""
    by += f", by {number(total.mean_abs_change_counts, 2)} counts on average"
    if 1 < len(channels) <= MOST_SHARES:
        parts = [f"{share(one.changed, one.pixels)} of {name}" for name, one in channels.items()]
        return f"{listed(parts)} were changed{by}"
    what = listed(list(channels)) if channels and are_others else "the image"
    if len(channels) > MOST_SHARES:
        what = f"{len(channels)} channels"
    if is_incomplete:
        what += " (its complete time points)"
    return f"{share(total.changed, total.pixels)} of {what} was changed{by}"


def _promise(total: Counts, *, is_single: bool, is_file: bool) -> str:
    """Say that what did not change is the input: all that was not selected, and more."""
    checked = "read back from the file" if is_file else "compared pixel by pixel"
    kept = total.pixels - total.changed
    if not kept and is_single:
        return f"there is no other pixel ({checked})"
    if not total.changed:
        return f"all of it is the input bit for bit ({checked})"
    left = share(kept, total.pixels)
    others = f"the other {left} is" if is_single and left[0].isdecimal() else "every other pixel is"
    return f"{others} the input bit for bit ({checked})"


def _unsure(*, is_known: bool, is_compared: bool) -> str:
    """Say why it cannot be told whether the input is like what the model was trained on; nothing where it can."""
    if not is_known:
        return ", but what the model was trained on is not known"
    return "" if is_compared else ", but it could not be compared with what the model was trained on"


def _doubt(notices: Sequence[Notice], unsure: str) -> str:
    """Say what is most important to look at, and how much more there is."""
    weighty = next((one for weight in ("fault", "doubt") for one in notices if one.weight == weight), None)
    further = len(notices) - (weighty is not None)
    remarks = f"{further} {'further ' if weighty else ''}{'remark' if further == 1 else 'remarks'}"
    if weighty:
        return f"but {weighty.short or weighty.text.rstrip('.')}{f' ({remarks})' if further else ''}"
    nothing = "no check raised a doubt" if further else "nothing speaks against the result"
    if unsure:
        return f"{nothing}{unsure} ({remarks})" if further else f"{nothing}{unsure}"
    return f"{nothing}, but read the {remarks.removeprefix('1 ')}" if further else nothing
