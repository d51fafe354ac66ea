"""What a partial says is being written, so that no other job goes on with it."""

import json
from collections.abc import Mapping
from typing import Any

from cellxlate.errors import OptionError, OutputError
from cellxlate.locations import Location, RemotePath
from cellxlate.options import OVERWRITE
from cellxlate.regular_files import read_small_file
from cellxlate.stacks.write.partial import JOB_FILE

JOB_VERSION = 4


def job_of(stack: Mapping[str, Any], fingerprint: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a job as JSON gives it back: the stack that is written, and what else decides its pixels.

    Raises
    ------
    OptionError
        The fingerprint holds what JSON cannot.
    """
    try:
        job = json.dumps({"cellxlate_partial": JOB_VERSION, **stack, "fingerprint": dict(fingerprint or {})})
    except (TypeError, ValueError) as fault:
        raise OptionError(f"the fingerprint holds values that JSON cannot ({fault}); use numbers and text") from fault
    plain: dict[str, Any] = json.loads(job)
    return plain


def write_job(partial: Location, job: Mapping[str, Any]) -> None:
    """Note a job in its partial, whole or not at all."""
    text = json.dumps(job, indent=1)
    if isinstance(partial, RemotePath):
        (partial / JOB_FILE).write_text(text)
        return
    staged = partial / f"{JOB_FILE}.new"
    staged.write_text(text, encoding="utf-8")
    staged.replace(partial / JOB_FILE)


def begun_with(partial: Location) -> Mapping[str, Any]:
    """Return the fingerprint of the job that a partial was begun with; nothing where it does not say."""
    try:
        begun = json.loads(read_small_file(partial / JOB_FILE))
    except (OSError, ValueError, RecursionError):
        return {}
    fingerprint = begun.get("fingerprint") if isinstance(begun, dict) else None
    return fingerprint if isinstance(fingerprint, dict) else {}


def check_job(partial: Location, job: Mapping[str, Any]) -> None:
    """Raise OutputError unless a partial was begun by the same job, and its note is whole."""
    try:
        begun = json.loads(read_small_file(partial / JOB_FILE))
    except (ValueError, RecursionError):
        begun = None
    if not isinstance(begun, dict) or not isinstance(begun.get("fingerprint"), dict):
        raise OutputError(f"{partial / JOB_FILE} is damaged", remedy=("start again with ", OVERWRITE))
    begun |= begun.pop("fingerprint")
    if begun.get("cellxlate_partial") != JOB_VERSION:
        raise OutputError(
            f"{partial} was begun by another version of cellxlate (its layout is number "
            f"{begun.get('cellxlate_partial')!r:.20}, this version's is {JOB_VERSION})",
            remedy=("finish it there, or give ", OVERWRITE, " to start again"),
        )
    wanted = dict(job)
    wanted |= wanted.pop("fingerprint")
    differing = sorted(key for key in begun.keys() | wanted.keys() if begun.get(key) != wanted.get(key))
    if differing:
        raise OutputError(
            f"{partial} was begun with other {', '.join(differing)}", remedy=("use the same again, or ", OVERWRITE)
        )
