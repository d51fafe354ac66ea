"""What bands were made from is noted whole: rows of their own plane in a name, rows of other planes in a note."""

from pathlib import Path

import numpy as np
import pytest

from cellxlate.stacks.write.origins import Origin, Origins, RowsHeld, row_sums

ROWS = np.arange(60, dtype=np.uint16).reshape(12, 5)
HELD = RowsHeld.of(row_sums(ROWS), 4)
ALONE = Origin((0, 2), HELD, RowsHeld(4, 9, HELD.digest))
BESIDE = Origin((0, 2), HELD, HELD, tuple(((plane, number), HELD) for plane in (0, 1) for number in range(20)))


@pytest.mark.parametrize("origin", [ALONE, BESIDE], ids=["alone", "beside"])
def test_an_origin_is_found_as_it_was_noted(tmp_path: Path, origin: Origin) -> None:
    origins = Origins(tmp_path)
    origins.add(origin)
    assert origins.found() == {(0, 2): [origin]}
    assert len(origin.name) < 200
    assert len(list(tmp_path.iterdir())) == 1
    origins.remove([origin])
    assert origins.found() == {}


def test_other_notes_are_other_origins(tmp_path: Path) -> None:
    fewer = Origin(BESIDE.index, HELD, HELD, BESIDE.beside[1:])
    assert len({BESIDE.name, fewer.name, Origin(BESIDE.index, HELD, HELD).name}) == 3


@pytest.mark.parametrize("damaged", [b"", b"plane-0-0.4-16", b"\xff\xfe", BESIDE.note.encode()[:-9]])
def test_a_damaged_note_is_no_origin(tmp_path: Path, damaged: bytes) -> None:
    origins = Origins(tmp_path)
    origins.add(BESIDE)
    (tmp_path / BESIDE.name).write_bytes(damaged)
    assert origins.found() == {}
