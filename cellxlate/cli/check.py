"""`models --check`: what a model of others, or a filter, is and does, without a stack."""

import argparse
from pathlib import Path
from typing import Any

from cellxlate.cli.lines.check import filter_lines, foreign_lines
from cellxlate.cli.lines.output import say
from cellxlate.errors import ModelError


def run_check(options: argparse.Namespace) -> int:
    """Describe an ONNX file, a package of the BioImage Model Zoo, or a filter; a small window of noise is run."""
    from cellxlate.enhancement.proposals.foreign import ForeignProposal, require_proposes
    from cellxlate.enhancement.proposals.source import load_foreign, proposal_of
    from cellxlate.model.cards import is_model
    from cellxlate.model.foreign.facts import facts_of
    from cellxlate.model.foreign.probe import probe, with_sizes
    from cellxlate.model.foreign.session import open_session

    asked = options.check
    proposal = load_foreign(asked, torchscript=True) if options.run_torchscript else proposal_of(asked)
    if isinstance(proposal, ForeignProposal):
        require_proposes(proposal.model)
        session = with_sizes(open_session(proposal.model))
        answer = facts_of(session.model, probe(session, larger=True))
        say(options, answer, foreign_lines(answer))
        return 0
    if proposal is None:
        if is_model(options.check):
            raise ModelError(f"{options.check} is a model of cellxlate; cellxlate info {options.check} describes it")
        what = "is there" if Path(options.check).exists() else "of that name is there, and no filter"
        raise ModelError(
            f"{options.check}: no ONNX file and no package {what}; give an .onnx file, an rdf.yaml, a package (.zip or "
            "folder), or a filter such as gaussian:1.5"
        )
    stated: dict[str, Any] = {"name": proposal.name, **proposal.identity, **proposal.stated}
    say(options, stated, filter_lines(stated))
    return 0
