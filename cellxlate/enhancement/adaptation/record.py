"""What became of learning from a stack, and where that is kept: the model's folder, its lock, a verdict remembered."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cellxlate.choice import Choice
from cellxlate.enhancement.adaptation.judge import AFTER, BEFORE
from cellxlate.enhancement.neighbours.choice import ContextChoice
from cellxlate.enhancement.outputs.names import Outputs, is_there
from cellxlate.errors import ModelError, OptionError, OutputError, unless_denied
from cellxlate.model.bundle import Bundle, load_model
from cellxlate.option_values import require_flags
from cellxlate.options import ADAPT, MODEL, OVERWRITE, RESUME, TO_REPLACE
from cellxlate.quality.risk import Ranking, Risk
from cellxlate.stacks.write.locking import FolderLock

VERDICT = "verdict.json"


@dataclass(frozen=True)
class Adaptation:
    """What became of learning from a stack.

    Attributes
    ----------
    model : Bundle
        To enhance with: what was learned where it is kept, else the model as it was.
    kept : bool
        Whether it is the learned one.
    seconds : float
        Spent, judging included.
    steps : int
        Learned.
    reason : str
        Why it was kept or not, in one sentence.
    base : str
        Name of the model that it began with.
    ranking : Ranking or None
        Of both and of filters, by estimated error; None where nothing could be learned.
    choice : Choice or None
        Why it began with that model, where one was chosen for the stack.
    command : str
        What repeats it in Python.
    leftover : Path or None
        Folder that remembers a verdict until the stack is enhanced.
    neighbours : ContextChoice or None
        Which planes were seen beside each, as they are where the stack is enhanced; None where it is not said.
    """

    model: Bundle
    kept: bool
    seconds: float
    steps: int
    reason: str
    base: str
    ranking: Ranking | None = None
    choice: Choice | None = None
    command: str = ""
    leftover: Path | None = None
    neighbours: ContextChoice | None = None

    @property
    def before(self) -> Risk | None:
        """Estimated error of the model as it was."""
        return self._risk(BEFORE)

    @property
    def after(self) -> Risk | None:
        """Estimated error of what was learned."""
        return self._risk(AFTER)

    def _risk(self, name: str) -> Risk | None:
        return next((risk for risk in self.ranking.risks if risk.name == name), None) if self.ranking else None

    def forget(self) -> None:
        """Remove what remembers a verdict; called when the stack is enhanced."""
        if self.leftover:
            shutil.rmtree(self.leftover, ignore_errors=True)

    def as_dict(self) -> dict[str, Any]:
        """Return what `enhance --json` and the report say; risks in counts squared."""
        return {
            "kept": self.kept, "reason": self.reason, "seconds": round(self.seconds, 1), "steps": self.steps,
            "risk_before": self.before and self.before.mse, "risk_after": self.after and self.after.mse,
            "model": str(self.model.path) if self.kept else None, "base": self.base, "command": self.command,
            "ranked_as": AFTER if self.kept else BEFORE,
        }  # fmt: skip


def model_folder(outputs: Outputs) -> Path:
    """Return where the model of a stack goes: beside its results, NAME_model.

    Raises
    ------
    OptionError
        They do not lie on this computer.
    """
    folder = outputs.attention.parent
    if not isinstance(folder, Path):
        raise OptionError(
            ADAPT, " writes a model beside the results, which must lie on this computer", remedy=f"{folder} does not"
        )
    return folder / f"{outputs.attention.name.rpartition('_attention')[0]}_model"


@contextmanager
def held(output: Path) -> Iterator[None]:
    """Keep a model folder's name from other processes, until it is released or the process ends, however it ends.

    Raises
    ------
    OutputError
        Another process is at work there, or nothing can be written.
    """
    if not output.parent.is_dir():
        raise OutputError(f"the output folder {output.parent} does not exist; make it or choose another")
    try:
        lock = FolderLock.acquire(output.with_name(output.name + ".lock"))
    except OSError as fault:
        raise unless_denied(OutputError(f"{output} cannot be written: {fault}"), output, fault) from fault
    try:
        yield
    finally:
        lock.remove()


def make_room(output: Path, partial: Path, *, overwrite: bool, resume: bool) -> None:
    """Make room for a model folder, or raise OutputError where what has its name may not be replaced."""
    require_flags(overwrite=overwrite, resume=resume)
    if is_there(output) and not (output / "card.json").exists():
        raise OutputError(f"{output} is no model folder, so it is not replaced; move it away or choose another output")
    if is_there(partial) and not partial.is_dir():
        raise OutputError(f"{partial} is no folder of an unfinished adaptation; move it away or choose another output")
    if is_there(output) and not (overwrite or resume):
        raise OutputError(
            f"{output} exists already", remedy=("give ", MODEL.of(output), " to use it, ", OVERWRITE, " to replace it")
        )
    if is_there(partial) and (overwrite or (partial / VERDICT).exists()) and not resume:
        shutil.rmtree(partial, ignore_errors=True)
    if is_there(partial) and not resume:
        raise OutputError(
            f"{partial} holds an unfinished adaptation",
            remedy=("continue with ", RESUME, " or replace it with ", OVERWRITE),
        )


def record_of(identity: Mapping[str, Any], adaptation: Adaptation) -> dict[str, Any]:
    """Return what a model's card, or a verdict that is remembered, states: to which stack, and what became of it."""
    ranking = asdict(adaptation.ranking) if adaptation.ranking else None
    return {**identity, **adaptation.as_dict(), "model": None, "ranking": ranking}


def remembered(partial: Path, identity: Mapping[str, Any], adaptation: Adaptation) -> Adaptation:
    """Leave nothing but the verdict, and say where."""
    with suppress(OSError):
        shutil.rmtree(partial)
        partial.mkdir()
        (partial / VERDICT).write_text(json.dumps(record_of(identity, adaptation)), encoding="utf-8")
    return replace(adaptation, leftover=partial)


def recalled(
    output: Path, partial: Path, base: Bundle, identity: Mapping[str, Any], choice: Choice | None
) -> Adaptation | None:
    """Return what became of an earlier adaptation to the same stack, where it is finished.

    Raises
    ------
    OutputError
        The model folder belongs to another stack, model or seed.
    """
    try:
        bundle = load_model(output) if output.is_dir() else None
        text = (partial / VERDICT).read_text(encoding="utf-8") if bundle is None else ""
    except ModelError:
        raise
    except OSError:
        return None
    record = bundle.card.get("adaptation") if bundle else json.loads(text)
    if not isinstance(record, dict) or any(record.get(name) != value for name, value in identity.items()):
        where = output if bundle else partial
        raise OutputError(f"{where} was adapted to another stack, or from another model", remedy=TO_REPLACE)
    try:
        return Adaptation(
            bundle or base, bundle is not None, float(record["seconds"]), int(record["steps"]), str(record["reason"]),
            base.name, _ranking(record["ranking"]), choice, str(record["command"]), None if bundle else partial,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as fault:
        raise OutputError(f"{output} says nothing about its adaptation", remedy=TO_REPLACE) from fault


def _ranking(stated: Mapping[str, Any] | None) -> Ranking | None:
    if stated is None:
        return None
    risks = tuple(Risk(**risk) for risk in stated["risks"])
    errors = tuple(tuple(row) for row in stated["errors_db"])
    sureness = tuple(tuple(row) for row in stated.get("sureness", ()))
    return Ranking(risks, stated["trusted"], stated["doubt"], errors, sureness)
