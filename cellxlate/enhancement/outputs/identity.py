"""Which file an image was read from, so that another one of its name is told apart."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cellxlate.errors import InputError
from cellxlate.locations import Location, RemotePath
from cellxlate.regular_files import MOST_NOTE_BYTES, open_regular
from cellxlate.stacks.read.zarr import remote_metadata

SAMPLED_BYTES = 1 << 20


def input_identity(path: Location | None, files: Sequence[Path] = ()) -> dict[str, Any]:
    """Return name, bytes, and a SHA-256 of the first and last MiB of a file, or of the metadata of a Zarr image.

    Of a stack that lies in several files: of their names, bytes and times.
    """
    if path is None:
        return {"name": None}
    digest, size, modified = hashlib.sha256(), None, {}
    if files:
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        digest.update(repr(states).encode())
        size = sum(bytes_held for _, bytes_held, _ in states)
    elif isinstance(path, RemotePath):
        for name, content in sorted(remote_metadata(path).items()):
            digest.update(name.encode() + content)
    elif path.is_dir():
        notes = sorted(item for pattern in ("zarr.json", ".z*") for item in path.rglob(pattern) if item.is_file())
        for name in (item.relative_to(path).as_posix() for item in notes):
            with suppress(InputError), open_regular(path.resolve(), name) as file:  # what leads out is none of it
                digest.update(name.encode() + file.read(MOST_NOTE_BYTES))
    else:
        size, modified = path.stat().st_size, {"modified_ns": path.stat().st_mtime_ns}
        with path.open("rb") as file:
            digest.update(file.read(SAMPLED_BYTES))
            file.seek(max(size - SAMPLED_BYTES, 0))
            digest.update(file.read(SAMPLED_BYTES))
    return {"name": path.name, "bytes": size, **modified, "sampled_sha256": digest.hexdigest()}
