"""What proposes in place of a model of ours, as a run's provenance states it; and in words."""

from collections.abc import Mapping
from typing import Any

from cellxlate.quality.report.gates import beside_seen, beside_words, context_seen, context_words

PROPOSAL, STATED = "proposal", "proposal_stated"
"""In provenance: what decides its pixels, and what else there is to know of it."""
ROWS = {"checked": "Checked", "licence": "Licence", "citation": "To cite", "package": "Code", "trusted": "Trusted"}
DECISIVE = ("kind", "name", "value", "sha256", "scales_counts")
SAID_ELSEWHERE = ("what", "parameter", "halo_px", "statistics", *ROWS)


def proposal_of_run(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what proposed, with all that is stated of it; nothing where a model of ours did."""
    decisive, stated = provenance.get(PROPOSAL), provenance.get(STATED)
    if not isinstance(decisive, Mapping):
        return {}
    return {**decisive, **(stated if isinstance(stated, Mapping) else {})}


def proposal_words(name: str, proposal: Mapping[str, Any]) -> str:
    """Return what proposes, and how far it looks.

    Examples
    --------
    >>> proposal_words("median:3", {"what": "median of a square", "parameter": "side of the square 3 px", "halo_px": 1})
    'median:3: median of a square, side of the square 3 px; sees 1 px around a pixel'
    """
    about = ", ".join(str(proposal[part]) for part in ("what", "parameter") if proposal.get(part))
    halo = proposal.get("halo_px")
    sees = f"sees {halo} px around a pixel" if isinstance(halo, int) else "sees whole planes"
    return "; ".join(part for part in (f"{name}: {about}" if about else name, sees) if part)


def made_by(words: str, digest: str, licence: str, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return what is needed to know what proposed, for a table: a model and the neighbours it saw, or what else did."""
    proposal = proposal_of_run(provenance)
    if not proposal:
        return {
            "Model": f"{words}, {licence or 'licence not stated'}",
            "Weights, SHA-256": digest,
            "Neighbours": context_words(context_seen(provenance)),
            **({"Seen beside": beside_words(seen)} if (seen := beside_seen(provenance)) else {}),
        }
    further = {title: one for title, one in proposal.items() if title not in (*SAID_ELSEWHERE, *DECISIVE) and one}
    return {
        "Proposed by": words,
        **{title: str(proposal[part]) for part, title in ROWS.items() if proposal.get(part)},
        **{title.replace("_", " ").capitalize(): str(one) for title, one in further.items()},
        "What it computes, SHA-256": digest,
    }


def is_own(proposal: Mapping[str, Any]) -> bool:
    """Return whether it was not trained on images that nobody knows: a filter, or a function of whoever ran it."""
    return proposal.get("kind") in ("filter", "function")
