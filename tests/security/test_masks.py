"""Masks from strangers: pickles that would run, regions that unpack to gigabytes, outlines without end."""

import os
import pickle
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roifile import ROI_TYPE, ImagejRoi

from cellxlate.errors import InputError
from cellxlate.stacks.masks import cellpose, rois
from cellxlate.stacks.masks.open import open_mask
from cellxlate.stacks.stack import Stack

PLANE = Stack.from_array(np.zeros((40, 50), np.uint8))
HEADER = b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"


class Runs:
    """What runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_mask(path, PLANE)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 600
    return said


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_what_a_pickle_would_run_is_not_run(tmp_path: Path) -> None:
    trace, path = tmp_path / "ran", tmp_path / "a_seg.npy"
    runs = Runs(f"touch {trace}")
    for content in ({"masks": runs}, {"masks": np.ones((40, 50), np.uint16), "other": runs}, runs):
        whole = np.empty((), object)
        whole[()] = content
        for protocol in (0, 1, 2, 3, 4, 5):
            path.write_bytes(HEADER + pickle.dumps(whole, protocol=protocol))
            if isinstance(content, dict) and "other" in content and protocol in (3, 4):
                assert np.asarray(open_mask(path, PLANE)).all()  # what lies beside it is not looked at
            else:
                refused(path)
            assert not trace.exists()
    path.write_bytes(pickle.dumps(runs))
    assert "does not begin as files of NumPy do" in refused(path)
    assert not trace.exists()


def _nested(times: int) -> bytes:
    """A pickle of a list that holds a list twice, that holds a list twice, and so on: 2^times in the end."""
    return b"\x80\x04](K\x01e" + b"".join(b"q%c]h%ch%c\x86a" % (n, n, n) for n in range(times))


@pytest.mark.parametrize(
    "body",
    [
        b"\x80\x04" + b"(" * 1000 + b"t.", b"\x80\x04" + b"t.", b"\x80\x04" + b"0.", b"\x80\x04.", b"",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a.", b"\x80\x04B" + struct.pack("<I", 2**31) + b"a.",
        b"\x80\x04\x8b" + struct.pack("<i", 2**30) + b"a.", _nested(200) + b".", _nested(200) + _nested(200) + b"\x93.",
        b"L" + b"9" * 100_000 + b"L\n.", b"\x80\x04Phost\n.", b"\x80\x04cos\nsystem\n(S'false'\ntR.",
        b"\x80\x04]" * 9_000 + b"a" * 8_999 + b".", b"\x80\x04N" + b"\x94" * 30_000 + b".",
        b"\x80\x04" * 30_000 + b"}.", b"\x80\x04" + (b"\x95" + b"\0" * 8) * 30_000 + b"}.",
    ],
)  # fmt: skip
def test_odd_pickles_are_one_line_and_small(tmp_path: Path, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cellpose, "MOST_INSTRUCTIONS", 20_000)
    path = tmp_path / "a_seg.npy"
    path.write_bytes(HEADER + body)
    assert "PNG or TIFF" in refused(path)


def test_masks_that_state_more_than_they_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a_seg.npy"
    whole = pickle.dumps({"masks": np.ones((40, 50), np.uint16)}, protocol=4)
    sizes = b"K(K2\x86"
    assert sizes in whole
    array = np.empty((), object)
    array[()] = {"masks": np.ones((40, 50), np.uint16)}
    whole = pickle.dumps(array, protocol=4)
    for other in (
        b"J\xff\xff\xff\x7fK2\x86",
        b"J\xff\xff\xff\xffK2\x86",
        b"NK2\x86",
        b"K(\x85",
        b"G" + b"\0" * 8 + b"K2\x86",
    ):
        path.write_bytes(HEADER + whole.replace(sizes, other))
        refused(path)
    monkeypatch.setattr(cellpose, "MOST_BYTES", 1000)
    path.write_bytes(HEADER + whole)
    assert "of which at most 1 is read" in refused(path)


def test_regions_that_unpack_to_gigabytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = ImagejRoi(roitype=ROI_TYPE.RECT, left=1, top=1, right=9, bottom=9).tobytes()
    path = zipped(tmp_path / "a.zip", {"1.roi": one + b"\0" * 2**25})
    assert "unpack to more than" in refused(path)
    monkeypatch.setattr(rois, "MOST_BYTES", 2**16)
    assert "unpack to more than" in refused(zipped(path, {f"{number}.roi": one.ljust(2**14) for number in range(5)}))
    monkeypatch.setattr(rois, "MOST_ROIS", 3)
    assert "holds 4 regions" in refused(zipped(path, {f"{number}.roi": one for number in range(4)}))
    monkeypatch.setattr(rois, "MOST_ZIP_BYTES", 100)
    assert "larger than 64 MB" in refused(path)
    (tmp_path / "b.roi").write_bytes(one + b"\0" * 2**24)
    assert "larger than 16 MB" in refused(tmp_path / "b.roi")


@pytest.mark.parametrize("packed", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_regions_in_a_damaged_zip_file_are_refused(tmp_path: Path, packed: int) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", packed) as archive:
        archive.writestr("1.roi", ImagejRoi(roitype=ROI_TYPE.RECT, left=1, top=1, right=9, bottom=9).tobytes() * 9)
    content = bytearray(path.read_bytes())
    content[50] ^= 0x55
    path.write_bytes(content)
    assert "save them again" in refused(path)


def test_regions_of_nonsense_are_right_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 40, (9, 2))
    whole = [ImagejRoi.frompoints(corners), ImagejRoi.frompoints(corners.astype(np.float32) + 0.5)]
    whole += [ImagejRoi(roitype=ROI_TYPE.OVAL, left=1, top=1, right=9, bottom=9)]
    path = tmp_path / "a.roi"
    for number in range(100):
        content = bytearray(whole[number % 3].tobytes())
        for at in rng.integers(4, len(content), 3):
            content[at] = rng.integers(0, 256)
        path.write_bytes(content)
        with suppress(InputError):
            assert np.asarray(open_mask(path, PLANE)).shape == (40, 50)


def test_an_outline_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rois, "MOST_CROSSINGS", 1000)
    zigzag = np.stack([np.arange(60) % 50, np.arange(60) % 2 * 40], axis=1)
    path = tmp_path / "a.roi"
    path.write_bytes(ImagejRoi.frompoints(zigzag).tobytes())
    assert "draw it more simply" in refused(path)


@pytest.mark.parametrize("name", ["a_seg.npy", "a.zip", "a.roi", "a.png"])
def test_a_mask_that_is_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert name in refused(tmp_path / name)
