"""What a reader of a result is warned of: each kind once, whatever number of channels or planes it concerns."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cellxlate.errors import Part, said
from cellxlate.options import ATTENTION_FROM, NEAREST_MODEL, THRESHOLD, TILE, TO_ADAPT, TO_TRAIN
from cellxlate.quality.checks import plane_label
from cellxlate.quality.report.notices import MOST_NAMED, Notice, between, each, listed, luminance_names
from cellxlate.quality.tally import Tally
from cellxlate.quality.trust.likeness import Departure, departure_words
from cellxlate.quality.trust.residual import Taken
from cellxlate.quality.trust.support import Support
from cellxlate.stacks.channel_names import unnamed
from cellxlate.stacks.stack import PlaneIndex

NEARLY_ALL, NEARLY_NONE = 0.9, 1e-4
SATURATED_SHARE = 1e-3
LOWEST_ORDER = 0.7
LOWEST_AGREEMENT = 0.8
LOWEST_SALIENT = 0.7
MOST_SUSPICIOUS = 0.03
MOST_OF_NOISE_PERCENT = 0.1
"""Rates at which each limit is right and wrong: docs/explanation/checks.md."""
NETWORK = {"kind": "network"}
GIVEN = {"file": "the mask", "saliency": "the automatic guide", "proposal": "the model's own attention"}
OTHER_MODEL = (", or use a model that was trained on images like these.",)
OTHER_GATE = (", or give another gate with ", ATTENTION_FROM, ".")
NEXT_STEP = (
    "Do not trust the output: measure on the input, look at attention before you use any of it, and ",
    TO_ADAPT, ", or train on your own images with ", TO_TRAIN, ".",
)  # fmt: skip


def notices_of(
    tally: Tally,
    *,
    channel_names: Mapping[int, str] | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
    chosen: bool = False,
    source: Mapping[str, Any] = NETWORK,
) -> list[Notice]:
    """Say in plain language what should make a reader doubt a result, and what to do, most serious first.

    Parameters
    ----------
    tally : Tally
        Of the whole run.
    channel_names : mapping, optional
        Names by channel number, used in the text.
    earlier : sequence of mapping
        Provenance of the enhancements that the input states it has been through (`Metadata.earlier`).
    chosen : bool
        Whether the model is the shipped one that suits the stack best, so that no other needs to be tried.
    source : mapping
        Where attention comes from: another channel's, and a mask that somebody gives, need not follow what stands out
        in the channel that is enhanced, and no other model mends a mask.
    """
    total = tally.total
    if not total.pixels:
        return []
    orders = tally.brightness_order()
    channels = {*tally.channels, *tally.trust, *orders}
    names = {channel: (channel_names or {}).get(channel, unnamed(channel)) for channel in channels}
    kind, gating, gating_model = source.get("kind"), source.get("channel"), str(source.get("model", ""))
    other = OTHER_GATE if gating_model else OTHER_MODEL
    judged = luminance_names(names, tally.trust) if tally.in_color else names
    trusts = {judged[channel]: trust for channel, trust in sorted(tally.trust.items())}
    return [
        *_broken(tally),
        *_seams(tally),
        *_enhanced_before(tally, names, earlier),
        *_unlike(
            {name: one.departure for name, one in trusts.items() if one.departure}, chosen=chosen, gating=gating_model
        ),
        *_unsupported({name: one.support for name, one in trusts.items()}, by_threshold=kind not in GIVEN),
        *_from_nothing(tally.noise_alone),
        *_unexplained({name: one.taken for name, one in trusts.items()}),
        *_unlike_contrast(
            {
                names[channel]: one.support
                for channel, one in sorted(tally.trust.items())
                if kind == "network" or (kind == "channel" and channel == gating)
            },
            other,
        ),
        *(_given_selection(tally, GIVEN[kind]) if kind in GIVEN else _selection(tally, other)),
        *_disordered({names[channel]: order for channel, order in orders.items() if order < LOWEST_ORDER}),
        *_saturated(tally),
    ]


def _counted(counts: Mapping[str, int], one: str, several: str) -> str:
    """Say how many regions there are in each channel, as in `2 regions of the output in DAPI and 1 in FITC`."""
    first, *others = counts.items()
    regions = one if sum(counts.values()) == 1 else several
    return listed([f"{first[1]} {regions} {first[0]}", *(f"{count} in {name}" for name, count in others)])


def _broken(tally: Tally) -> Iterator[Notice]:
    if tally.total.kept_violations:
        yield Notice(
            f"{tally.total.kept_violations} pixels changed although attention did not select them: the background "
            "promise is broken. Do not use this output; report the fault with this file.",
            "do not use this output", "fault", "broken promise",
        )  # fmt: skip


def _selection(tally: Tally, other: Sequence[Part]) -> Iterator[Notice]:
    """Say where attention selected hardly anything, or nearly everything: of all pixels, else of single planes."""
    total = tally.total
    lower = said("if the stack does hold cells, lower ", THRESHOLD)
    if not total.selected:
        yield Notice(said(
            "attention selected nothing, so the output equals the input. If the stack does hold cells, lower ",
            THRESHOLD, *other,
        ), lower, "doubt", "nothing selected")  # fmt: skip
    elif total.selected_fraction < NEARLY_NONE:
        yield Notice(said(
            f"attention selected nearly nothing ({total.selected} of {total.pixels} pixels). If the stack does hold "
            "cells, lower ", THRESHOLD, *other,
        ), lower, "doubt", "hardly anything selected")  # fmt: skip
    elif total.selected_fraction > NEARLY_ALL:
        yield Notice(said(
            f"attention selected {total.selected_fraction:.0%} of all pixels, so hardly any background was "
            "kept. If the cells do not fill the image, raise ", THRESHOLD, *other,
        ), said("if the cells do not fill the image, raise ", THRESHOLD), "doubt", "nearly all selected")  # fmt: skip
    elif full := [index for index, counts in tally.planes.items() if counts.selected_fraction > NEARLY_ALL]:
        yield Notice(
            f"attention selected more than {NEARLY_ALL:.0%} of {len(full)} of {len(tally.planes)} planes "
            f"({_places(full, tally.plane_axes)}). Look at these planes before using them.",
            f"look at the {len(full)} planes of which nearly everything was selected", "doubt", "planes nearly all",
        )  # fmt: skip


def _given_selection(tally: Tally, what: str) -> Iterator[Notice]:
    """Say where a gate that no threshold moves let hardly anything through, or nearly everything."""
    total = tally.total
    if total.selected_fraction < NEARLY_NONE:
        amount = "nothing, so the output equals the input" if not total.selected else "nearly nothing"
        yield Notice(
            said(f"{what} selected {amount}. See that it belongs to this stack, or give another ", ATTENTION_FROM, "."),
            f"see that {what} belongs to this stack", "doubt", "nothing selected",
        )  # fmt: skip
    elif total.selected_fraction > NEARLY_ALL:
        yield Notice(said(
            f"{what} selected {total.selected_fraction:.0%} of all pixels, so hardly any background was kept. If the "
            "cells do not fill the image, give another ", ATTENTION_FROM, ".",
        ), f"see that {what} is 0 in the background", "doubt", "nearly all selected")  # fmt: skip


def _enhanced_before(tally: Tally, names: Mapping[int, str], earlier: Sequence[Mapping[str, Any]]) -> Iterator[Notice]:
    """Say which of the channels had been enhanced before; their pixels cannot tell, as the kept ones are the same."""
    models = {
        names[channel]: [str(note.get("model", "a model")) for note in earlier if str(channel) in _channels_of(note)]
        for channel in sorted(tally.channels)
    }
    last = {name: found[-1] for name, found in models.items() if found}
    if last:
        been = "of the input have been enhanced before, with"
        if len(last) == 1:
            been = "of the input has been enhanced before, with"
        yield Notice(
            f"{listed(list(last))} {been} {each(last)}: what was changed then counts as seen now. Enhance the "
            "original.",
            "the input had been enhanced before: enhance the original", "doubt", "enhanced before",
        )  # fmt: skip


def _channels_of(note: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what an earlier enhancement states of each channel it enhanced; nothing where it cannot be read."""
    levels = note.get("levels_counts", {})
    try:
        stated = json.loads(levels) if isinstance(levels, str) else levels
    except ValueError:
        return {}
    return stated if isinstance(stated, Mapping) else {}


def _unlike(departures: Mapping[str, Departure], *, chosen: bool, gating: str) -> Iterator[Notice]:
    """Say which channels are unlike the images the model was trained on, be it one whose attention alone is used."""
    found = {
        name: ("; ".join(words), one.distance) for name, one in departures.items() if (words := departure_words(one))
    }
    if not found:
        return
    if len({words for words, _ in found.values()}) == 1:
        distances = between((distance for _, distance in found.values()), "{:.1f}".format)
        detail = f"{next(iter(found.values()))[0]} (distance {distances}, limit 1)"
    else:
        detail = each({name: f"{words} (distance {one:.1f}, limit 1)" for name, (words, one) in found.items()})
    if gating:
        yield Notice(said(
            f"{listed(list(found))} {'does' if len(found) == 1 else 'do'} not look like the images that {gating}, "
            f"whose attention gates, was trained on: {detail}. Look at attention before you use this", *OTHER_GATE,
        ), f"{gating}, whose attention gates, was trained on images unlike these: look at attention", "doubt",
            "unlike training images")  # fmt: skip
        return
    unlike = "do not look like the images the model was trained on"
    if len(found) == 1:
        unlike = "does not look like the images the model was trained on"
    nearest = "no other shipped model is nearer" if chosen else NEAREST_MODEL
    yield Notice(
        said(f"{listed(list(found))} {unlike}: {detail}; ", nearest, ". ", *NEXT_STEP),
        "the model was trained on images unlike these: compare before you measure", "doubt", "unlike training images",
    )  # fmt: skip


def _unsupported(supports: Mapping[str, Support], *, by_threshold: bool) -> Iterator[Notice]:
    """Say what the windows of the channels give reason to doubt."""
    if added := {name: seen.added for name, seen in supports.items() if seen.added}:
        count = sum(added.values())
        invented = "have no support in the input: they may be invented"
        if count == 1:
            invented = "has no support in the input: it may be invented"
        where = _counted(added, "region of the output in", "regions of the output in")
        yield Notice(said(
            f"{where} {invented}. Look at both side by side there before counting or measuring anything",
            *((", or raise ", THRESHOLD) if by_threshold else ()), ".",
        ), f"{count} {'region' if count == 1 else 'regions'} of the output may be invented: compare before you count",
            "doubt", "regions added")  # fmt: skip
    if lost := {name: seen.lost for name, seen in supports.items() if seen.lost}:
        count = sum(lost.values())
        gone = "of the input is gone from the output" if count == 1 else "of the input are gone from the output"
        where = _counted(lost, "region that stands out in", "regions that stand out in")
        yield Notice(
            f"{where} {gone}. Count on the input, or use a model that was trained on images like these.",
            f"{count} {'region is' if count == 1 else 'regions are'} gone from the output: count on the input", "doubt",
            "regions lost",
        )  # fmt: skip


def _from_nothing(alone: Mapping[str, Any]) -> Iterator[Notice]:
    """Say where cells are seen in nothing but noise."""
    changed = alone.get("changed_percent", 0.0)
    if changed > MOST_OF_NOISE_PERCENT:
        yield Notice(said(
            f"{changed:.2g}% of a drawn field with nothing but the noise of this stack was changed: what is dim may be "
            "noise that was taken for cells. Compare with the input, or raise ", THRESHOLD, ".",
        ), "noise alone is taken for cells too: compare dim ones with the input", "doubt", "noise alone")  # fmt: skip


def _unexplained(taken: Mapping[str, Taken]) -> Iterator[Notice]:
    """Say in which channels more was taken away than the noise of the camera explains."""
    found = {name: one.suspicious_share for name, one in taken.items() if one.suspicious_share > MOST_SUSPICIOUS}
    if found:
        share = between(found.values(), "{:.0%}".format)
        yield Notice(
            f"more than noise was taken away from {listed(list(found))}, or added to it: at {share} of the selected "
            "pixels input and output differ by more than the camera's noise explains. Compare structures there on the "
            "input; blur that was taken away shows the same.",
            f"more than noise was taken away at {share} of the selected pixels: compare with the input", "doubt",
            "more than noise",
        )  # fmt: skip


def _unlike_contrast(supports: Mapping[str, Support], other: Sequence[Part]) -> Iterator[Notice]:
    """Say where attention is not what the contrast of a channel would lead to expect."""
    odd = {name: seen.mean_agreement for name, seen in supports.items() if seen.mean_agreement < LOWEST_AGREEMENT}
    if odd:
        yield Notice(said(
            f"attention is at odds with what stands out in {listed(list(odd))}: a selected pixel has more contrast "
            f"than a kept one in {between(odd.values(), '{:.0%}'.format)} of cases (50% is chance). Look at the "
            "attention file", *other,
        ), "attention does not follow what stands out: look at it", "doubt", "attention at odds",
        )  # fmt: skip
    left = {
        name: 1 - seen.salient_share
        for name, seen in supports.items()
        if name not in odd and seen.salient_share < LOWEST_SALIENT
    }
    if left:
        share = between(left.values(), "{:.0%}".format)
        yield Notice(said(
            f"attention left out {share} of the pixels that stand out clearly in {listed(list(left))}. Lower ",
            THRESHOLD, *other,
        ), said(f"attention left out {share} of what stands out clearly: lower ", THRESHOLD), "doubt", "left out",
        )  # fmt: skip


def _seams(tally: Tally) -> Iterator[Notice]:
    """Say where borders of tiles show."""
    if borders := tally.seams.visible():
        index, kind, position, _ = borders[0]
        where = plane_label(index, tally.plane_axes)
        yield Notice(said(
            f"{len(borders)} borders of tiles show as a step (the clearest at {kind} {position} of {where}). Do not "
            "use this output; run again with another ", TILE, ", and report the fault with this file.",
        ), "borders of tiles show: do not use this output", "fault", "seams")  # fmt: skip


def _saturated(tally: Tally) -> Iterator[Notice]:
    total = tally.total
    if total.saturated > SATURATED_SHARE * total.changed:
        yield Notice(
            f"{total.saturated} changed pixels ({total.saturated / total.changed:.1%}) reached the limit of the data "
            "type, so their brightness is cut off. Do not measure intensities there; convert the stack to a wider data "
            "type first.",
            "some pixels reached the limit of the data type: do not measure intensities there", "doubt", "saturated",
        )  # fmt: skip


def _disordered(orders: Mapping[str, float]) -> Iterator[Notice]:
    """Say in which channels brightness order is not kept."""
    if orders:
        yield Notice(
            f"brightness order inside cells is not kept in {listed(list(orders))} (rank correlation "
            f"{between(orders.values(), '{:.2f}'.format)}, expected at least {LOWEST_ORDER}). Do not compare "
            "intensities of the output; measure them on the input.",
            "brightness order inside cells is not kept: measure intensities on the input", "doubt", "brightness order",
        )  # fmt: skip


def _places(indices: Iterable[PlaneIndex], axes: str) -> str:
    """Name some planes, as in `T=0 Z=3, T=0 Z=4, ...`."""
    planes = list(indices)
    names = [plane_label(index, axes) for index in planes[:MOST_NAMED]]
    return ", ".join([*names, "..."] if len(planes) > MOST_NAMED else names)
