"""What a run did, for people (HTML) and for programs (JSON)."""

import json as json_text
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from cellxlate.locations import Location
from cellxlate.quality.checks import plane_label
from cellxlate.quality.finite import finite_json
from cellxlate.quality.report import page
from cellxlate.quality.report.gates import (
    IN_COLOR,
    attention_source,
    beside_seen,
    context_seen,
    source_words,
)
from cellxlate.quality.report.notices import Notice, luminance_names
from cellxlate.quality.report.proposals import is_own, made_by, proposal_of_run, proposal_words
from cellxlate.quality.report.verdict import verdict
from cellxlate.quality.risk import Ranking
from cellxlate.quality.tally import Tally
from cellxlate.quality.trust.examine import noise_and_residual
from cellxlate.stacks.channel_names import unnamed
from cellxlate.whole_file import write_whole_file

__all__ = ["RunReport", "write_page", "write_record", "write_report"]

T = TypeVar("T")
MOST_CHANNEL_CHARTS, MOST_CHANNEL_ROWS, MOST_FACTS = 8, 100, 200
"""What a page shows at most; the JSON holds everything."""


@dataclass(frozen=True)
class RunReport:
    """Everything that is known about one enhancement.

    Attributes
    ----------
    outputs : mapping
        "enhanced", "attention", "report" -> path as text, or None where it was not written.
    input_name, axes : str
        Of the stack.
    shape : tuple of int
        In pixels along the axes.
    dtype : str
        Of the stored pixels.
    pixel_size_um : mapping
        Micrometres per pixel for "Z", "Y", "X", as far as the file states them.
    channel_names : tuple of str
        Empty where the file names none.
    model_name, model_digest, model_licence : str
        Of the model; the digest is the SHA-256 of its weights.
    model_considered : mapping of str to float or None
        Where the model was chosen for the stack: the distance to each that was considered.
    model_reason : str
        Why it was taken, in words.
    adaptation : mapping
        Where the model was let to learn from the stack: what became of that; "reason" says it in words.
    settings, versions, seconds : mapping
        What was asked for; what made it; where the time went: "calibrate", "attention", "generator", "io", "total".
    tally : Tally
        What changed: pixels, changed fraction, violations, per plane and channel.
    tiles_total, tiles_skipped : int
        Tiles of the stack, and those where the generator did not have to run.
    peak_rss_mb : float
        Largest memory the process held, in MB.
    engine : str
        What ran the networks.
    notices : sequence of Notice
        What should make a reader doubt the result, with what to do; `warnings` are their texts.
    provenance : mapping
        Hashes, levels, versions: whatever is needed to know what was done.
    sections : mapping
        Where sections through the stack were drawn: along which axis ("z" or "t"), and where.
    ranking : Ranking or None
        Where filters and models were judged on this very image without a truth.
    command, command_note : str
        Command line that repeats the run; where to run it, and what its words stand for.
    finished : str
        When, in UTC; the present by default.
    """

    outputs: Mapping[str, str | None]
    input_name: str
    axes: str
    shape: tuple[int, ...]
    dtype: str
    model_name: str
    model_digest: str
    tally: Tally = field(repr=False)
    model_licence: str = ""
    model_considered: Mapping[str, float | None] = field(default_factory=dict)
    model_reason: str = ""
    adaptation: Mapping[str, Any] = field(default_factory=dict)
    pixel_size_um: Mapping[str, float] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    tiles_total: int = 0
    tiles_skipped: int = 0
    peak_rss_mb: float = 0.0
    engine: str = ""
    notices: Sequence[Notice] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)
    command: str = ""
    command_note: str = ""
    ranking: Ranking | None = None
    sections: Mapping[str, Any] = field(default_factory=dict)
    finished: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def pixel_area_um2(self) -> float | None:
        """Area of a pixel in square micrometres, where the file states its size."""
        sizes_um = self.pixel_size_um.get("Y"), self.pixel_size_um.get("X")
        return sizes_um[0] * sizes_um[1] if sizes_um[0] and sizes_um[1] else None

    def channel_label(self, channel: int) -> str:
        """Return a channel's name, or its number where the file names none."""
        return self.channel_names[channel] if channel < len(self.channel_names) else unnamed(channel)

    @property
    def color_words(self) -> str:
        """What became of red, green and blue; nothing of a stack in grey."""
        if self.tally.in_color:
            return f"{IN_COLOR}; the hue of each pixel is kept"
        return "each of red, green and blue by itself" if self.settings.get("color") else ""

    @property
    def proposal(self) -> dict[str, Any]:
        """What proposed in place of a model of ours, with all that is stated of it; nothing where one did."""
        return proposal_of_run(self.provenance)

    @property
    def model_distance(self) -> float | None:
        """Distance of the stack to the model's training images: as the model was chosen by, else as it was judged."""
        if self.proposal:
            return None
        if self.model_considered:
            return self.model_considered.get(self.model_name)
        return max((one.departure.distance for one in self.tally.trust.values() if one.departure), default=None)

    @property
    def model_words(self) -> str:
        """The model, and why it was taken where it was chosen; or what else proposed."""
        if self.proposal:
            return proposal_words(self.model_name, self.proposal)
        if not self.model_considered:
            return self.model_name
        known = {name: "unknown" if one is None else f"{one:.2f}" for name, one in self.model_considered.items()}
        others = ", ".join(f"{name} {one}" for name, one in known.items() if name != self.model_name)
        distance = known.get(self.model_name, "unknown")
        return (
            f"{self.model_name}: {self.model_reason or 'chosen for this stack'} (distance {distance}, limit 1"
            f"{'; ' if others else ''}{others})"
        )

    @property
    def pixels(self) -> int:
        """Pixels of the enhanced channels."""
        return self.tally.total.pixels

    @property
    def changed_fraction(self) -> float:
        """Share of those pixels whose stored value changed."""
        return self.tally.total.changed_fraction

    @property
    def kept_violations(self) -> int:
        """Pixels that changed although attention is 0 there; the promise is that there is none."""
        return self.tally.total.kept_violations

    @property
    def warnings(self) -> list[str]:
        """What should make a reader doubt the result, with what to do."""
        return [notice.text for notice in self.notices]

    @property
    def verdict(self) -> str:
        """One sentence: what changed, whether the promise held, what to look at before the result is trusted."""
        tally, is_kept = self.tally, self.adaptation.get("kept")
        counted = next((self.shape[self.axes.index(axis)] for axis in "CS" if axis in self.axes), 1)
        return verdict(
            tally.total,
            dict(_labelled(self, tally.channels)),
            self.notices,
            is_file=bool(self.outputs.get("enhanced")),
            are_others=len(tally.channels) < counted,
            is_incomplete=bool(self.provenance.get("incomplete")),
            is_kept=is_kept if isinstance(is_kept, bool) else None,
            is_known=is_own(self.proposal) if self.proposal else any(one.is_stated for one in tally.trust.values()),
            is_compared=bool(self.proposal) or any(one.departure for one in tally.trust.values()),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the keys that `cellxlate enhance --json` prints."""
        return {
            "verdict": self.verdict,
            "outputs": dict(self.outputs),
            "pixels": self.pixels,
            "changed_fraction": self.changed_fraction,
            "selected_fraction": self.tally.total.selected_fraction,
            "kept_violations": self.kept_violations,
            **({"flicker_percent": self.tally.flicker.total.percent} if self.tally.flicker.axis else {}),
            "tiles_total": self.tiles_total,
            "tiles_skipped": self.tiles_skipped,
            "seconds": dict(self.seconds),
            "peak_rss_mb": self.peak_rss_mb,
            "engine": self.engine,
            "model": {
                "name": self.model_name, "distance": self.model_distance, "considered": dict(self.model_considered),
                "reason": self.model_reason, "sha256": self.model_digest, "licence": self.model_licence,
            },
            **({"proposal": self.proposal} if self.proposal else {}),
            "attention_source": attention_source(self.provenance), "context": context_seen(self.provenance),
            **({"beside": seen} if (seen := beside_seen(self.provenance)) else {}),
            **({"color": "luminance"} if self.tally.in_color else {}),
            **({"adaptation": dict(self.adaptation)} if self.adaptation else {}),
            "warnings": list(self.warnings),
            **({"ranking": self.ranking.stated()} if self.ranking else {}),
        }  # fmt: skip

    def as_full_dict(self) -> dict[str, Any]:
        """Return what the report file holds: the keys of `as_dict`, what changed where, and the provenance."""
        return {
            **self.as_dict(),
            "input": {
                "name": self.input_name, "axes": self.axes, "shape": list(self.shape), "dtype": self.dtype,
                "pixel_size_um": dict(self.pixel_size_um), "channel_names": list(self.channel_names),
            },
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "changes": self.tally.summary(self.channel_names),
            **noise_and_residual(_labelled(self, self.tally.trust, in_color=self.tally.in_color)),
            "pure_noise": self.tally.noise_alone or None,
            **({"sections": dict(self.sections)} if self.sections else {}),
            "provenance": dict(self.provenance),
            "command": self.command, "command_note": self.command_note, "finished": self.finished,
        }  # fmt: skip


def write_report(report: RunReport, figures: str, *, html: Location, json: Location) -> None:
    """Write a report that needs nothing but itself: HTML with pictures for people, JSON for programs.

    Parameters
    ----------
    report : RunReport
        Of the run.
    figures : str
        As `figures.draw_planes` returns them; empty for none.
    html, json : Path
        Replaced if they exist; each appears only when it is complete.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    write_page(report, figures, html)
    write_record(report, json)


def write_page(report: RunReport, figures: str, path: Location, *, replaces: bool = True) -> None:
    """Write the HTML page of a report; another file of that name is replaced only where that is wanted.

    Raises
    ------
    OutputError
        It cannot be written, or another file must not be replaced.
    """
    write_whole_file(path, report_page(report, figures), replaces=replaces)


def write_record(report: RunReport, path: Location, *, replaces: bool = True) -> None:
    """Write the JSON of a report; another file of that name is replaced only where that is wanted.

    Raises
    ------
    OutputError
        It cannot be written, or another file must not be replaced.
    """
    text = json_text.dumps(finite_json(report.as_full_dict()), indent=1, allow_nan=False) + "\n"
    write_whole_file(path, text, replaces=replaces)


def report_page(report: RunReport, figures: str) -> str:
    """Return the HTML page of a report: verdict, warnings, numbers, pictures, intensities, planes, provenance."""
    tally, um, size = report.tally, report.pixel_size_um.get("X"), " × ".join(map(str, report.shape))
    about = (
        f"{report.dtype}, {report.axes} {size}", f"{um:.4g} µm per pixel" if um else "pixel size not stated",
        f"enhanced with {report.model_name}",
    )  # fmt: skip
    names = report.channel_names
    planes = [(plane_label(index, tally.plane_axes, names), counts) for index, counts in sorted(tally.planes.items())]
    if tally.rest.pixels:
        planes.append(("all further planes", tally.rest))
    learned, gating = str(report.adaptation.get("reason", "")), attention_source(report.provenance).get("model")
    return page.render(
        "quality/report/templates/report.html.jinja",
        title=report.input_name,
        kind="Enhancement report",
        about="  ·  ".join(about),
        level=_level(report),
        verdict=report.verdict,
        warned=[("bad" if one.weight == "fault" else "alert", one.text) for one in report.notices],
        numbers=_numbers(report),
        figures=page.markup(figures),
        colour=report.color_words,
        learned=f"{learned[:1].upper()}{learned[1:]}." if learned else "",
        ranking=_ranking(report),
        trained=f"{gating}, whose attention gates," if gating else "the model",
        trusts=_labelled(report, tally.trust, in_color=tally.in_color)[:MOST_CHANNEL_ROWS],
        seams=tally.seams,
        alone=tally.noise_alone,
        histograms=[
            (label if len(tally.histograms) > 1 else None, page.histogram_charts(histogram))
            for label, histogram in _labelled(report, tally.histograms)[:MOST_CHANNEL_CHARTS]
        ],
        channels=_labelled(report, tally.channels)[:MOST_CHANNEL_ROWS],
        flicker=tally.flicker.words,
        planes=planes,
        made=_provenance(report),
        command=report.command,
        command_note=report.command_note,
        recorded=dict(list(page.listing(report.provenance).items())[:MOST_FACTS]),
        footer=f"Made by cellxlate {report.versions.get('cellxlate', '')}, {report.finished}. This page loads nothing.",
    )


def _labelled(report: RunReport, of_channels: Mapping[int, T], *, in_color: bool = False) -> list[tuple[str, T]]:
    """Return what there is of each channel, or of the luminance of its colours, under its name."""
    names = luminance_names(dict(enumerate(report.channel_names)), of_channels) if in_color else {}
    return [(names.get(one) or report.channel_label(one), value) for one, value in sorted(of_channels.items())]


def _level(report: RunReport) -> str:
    """Return the colour of the verdict."""
    weights = {notice.weight for notice in report.notices}
    if report.kept_violations or "fault" in weights:
        return "bad"
    return "alert" if "doubt" in weights else "good"


def _numbers(report: RunReport) -> list[tuple[str, str, str]]:
    """Return the numbers a reader looks for first."""
    tally, total = report.tally, report.tally.total
    area_um2 = report.pixel_area_um2
    changed = f"{page.number(total.changed)} of the {page.number(total.selected)} that were selected"
    if area_um2:
        changed += f", {page.number(total.changed * area_um2)}\N{NO-BREAK SPACE}µm²"
    kept = f"{page.number(total.pixels - total.selected)} pixels, the input's own, bit for bit"
    if report.kept_violations:
        kept = f"but {page.number(report.kept_violations)} of them differ from the input"
    orders = [order for order in tally.brightness_order().values() if math.isfinite(order)]
    largest = page.number(total.change_max_counts)
    skipped = f"{page.number(report.tiles_skipped)} of {page.number(report.tiles_total)} tiles needed no generator"
    entries = [
        ("Pixels changed", page.percent(total.changed_fraction), changed),
        ("Pixels not selected", page.percent(1 - total.selected_fraction if total.pixels else None), kept),
        ("Mean change there", page.number(total.mean_abs_change_counts), f"counts; {largest} at most"),
        (
            "Brightness order kept",
            f"{min(orders):.2f}" if orders else "–",
            "rank correlation inside cells; 1 is perfect" if orders else "too few selected pixels to judge",
        ),
    ]
    if "total" in report.seconds:
        entries.append(("Time", f"{page.number(report.seconds['total'])} s", skipped if report.tiles_total else ""))
    return entries


def _ranking(report: RunReport) -> dict[str, Any] | None:
    """Return how filters and models compare on this image, as far as that can be told without a truth."""
    if report.ranking is None:
        return None
    taken = str(report.adaptation.get("ranked_as", report.model_name))
    bars = [(risk.name, risk.gain_db, risk.error) for risk in report.ranking.risks]
    return {
        "words": report.ranking.words(taken), "chart": page.bar_chart(bars), "faint": not report.ranking.trusted
    }  # fmt: skip


def _provenance(report: RunReport) -> dict[str, str]:
    """Return what is needed to know what was done."""
    return {
        "Input": report.input_name,
        **{f"Output: {name}": path for name, path in report.outputs.items() if path},
        **made_by(report.model_words, report.model_digest, report.model_licence, report.provenance),
        "Gate": source_words(attention_source(report.provenance)),
        **({"Colour": words} if (words := report.color_words) else {}),
        "Engine": report.engine or "–",
        "Settings": ", ".join(f"{name} {value}" for name, value in page.listing(report.settings).items()) or "–",
        "Versions": ", ".join(f"{name} {value}" for name, value in report.versions.items()) or "–",
        "Seconds": ", ".join(f"{name} {page.number(value)}" for name, value in report.seconds.items()) or "–",
        "Peak memory": f"{page.number(report.peak_rss_mb)} MB" if report.peak_rss_mb else "–",
    }
