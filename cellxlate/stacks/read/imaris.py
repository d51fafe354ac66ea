"""Imaris files (`.ims`), which are HDF5: full resolution, chunk by chunk, through h5py of the extra `vendor`."""

from contextlib import ExitStack, suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cellxlate.errors import InputError
from cellxlate.stacks.carried import hex_colour
from cellxlate.stacks.channel_names import all_named
from cellxlate.stacks.metadata.calibration import Calibration, positive
from cellxlate.stacks.read.pixels import check_blocks

LEVEL = "DataSet/ResolutionLevel 0"
DATA = LEVEL + "/TimePoint {}/Channel {}/Data"
CACHE_BYTES, CACHE_SLOTS = 2**27, 10_007
"""Of decoded chunks: those of one plane, which hold its neighbours in depth too, are used again for the next one."""

ELSEWHERE = "{} is a link, maybe to another file, which is not followed; save it anew with Imaris"
MOST_DATASETS = 1_000_000
EVEN = 0.02
"""Share of a time step by which single ones may differ."""


class ImarisFile:
    """An open Imaris file: its sizes, what it states, and windows of its planes.

    Attributes
    ----------
    shape : tuple of int
        T, C, Z, Y, X as stated; what is stored is padded to whole chunks.
    dtype : dtype
        Of the voxels.
    warnings : tuple of str
        One line each for what is odd.
    """

    def __init__(self, path: Path, opened: ExitStack) -> None:
        import h5py

        self._h5py = h5py
        self._file = opened.enter_context(h5py.File(path, "r", rdcc_nbytes=CACHE_BYTES, rdcc_nslots=CACHE_SLOTS))
        self._open: tuple[tuple[int, int], Any] | None = None
        opened.callback(self._forget)
        self.warnings: tuple[str, ...] = ()
        level = self._node(LEVEL)
        if level is None:
            raise InputError(f"it holds no {LEVEL}, where Imaris has its pixels; save it anew with Imaris")
        times = _counted(level, "TimePoint")
        channels = _counted(self._node(f"{LEVEL}/TimePoint 0"), "Channel") if times else 0
        if not 0 < times * channels <= MOST_DATASETS:
            raise InputError(f"it holds {times} time points of {channels} channels; save it anew with Imaris")
        places = [(t, c) for t in range(times) for c in range(channels)]
        absent = [(t, c) for t, c in places if self._node(DATA.format(t, c)) is None]
        if absent:
            t, c = absent[0]
            raise InputError(
                f"{len(absent)} of {times * channels} parts are missing, the first at T={t}, C={c}; save it anew, or "
                "export its complete time points with Imaris"
            )
        first = self._dataset(0, 0)
        self.dtype = np.dtype(first.dtype).newbyteorder("=")
        depth, rows, columns = self._stated_size(first.shape)
        self.shape = (times, channels, depth, rows, columns)
        for t, c in places:
            other = self._dataset(t, c)
            is_short = any(size > stored for size, stored in zip(self.shape[2:], other.shape, strict=True))
            if other.dtype != first.dtype or is_short:
                raise InputError(
                    f"at T={t}, C={c} it holds {other.shape} {other.dtype}, which is no {self.shape[2:]} "
                    f"{first.dtype}; save it anew with Imaris"
                )
        check_blocks(first.chunks or first.shape, first.dtype)

    def read(self, position: tuple[int, ...], rows: slice, columns: slice) -> Any:
        """Read a window of one plane: (t, c, z), rows, columns."""
        t, c, z = position
        if self._open is None or self._open[0] != (t, c):
            self._open = ((t, c), self._dataset(t, c))
        return self._open[1][z, rows, columns]

    def calibration(self) -> Calibration:
        """Return voxel size, interval and channel names."""
        calibration, info = Calibration(), _attributes(self._node("DataSetInfo/Image"))
        unit = info.get("Unit", "um")
        for axis, number, size in zip("XYZ", "012", self.shape[:1:-1], strict=True):
            with suppress(KeyError, ValueError):
                extent = abs(float(info[f"ExtMax{number}"]) - float(info[f"ExtMin{number}"]))
                calibration.add_size(axis, float(f"{extent / size:.12g}"), unit)
        calibration.time_step_s = self._time_step_s()
        names = [self._channel(number).get("Name", "") for number in range(self.shape[1])]
        calibration.channel_names = all_named(names)
        return calibration

    def colours(self) -> tuple[str, ...]:
        """Return the colour of each channel as "RRGGBB", white for those that state none; none where none does."""
        colours = []
        for number in range(self.shape[1]):
            try:
                parts = [float(part) for part in self._channel(number).get("Color", "").split()]
                red, green, blue = (round(255 * min(max(part, 0.0), 1.0)) for part in parts)
            except ValueError:
                colours.append("")
            else:
                colours.append(hex_colour(red, green, blue))
        return tuple(colour or "FFFFFF" for colour in colours) if any(colours) else ()

    def _channel(self, number: int) -> dict[str, str]:
        return _attributes(self._node(f"DataSetInfo/Channel {number}"))

    def _time_step_s(self) -> float | None:
        """Return the interval, where dates of all time points are stated and evenly spaced."""
        info, count = _attributes(self._node("DataSetInfo/TimeInfo")), self.shape[0]
        try:
            dates = [datetime.fromisoformat(info[f"TimePoint{number + 1}"]) for number in range(count)]
        except (KeyError, ValueError):
            return None
        steps = [(after - before).total_seconds() for before, after in pairwise(dates)]
        mean_s = positive(sum(steps) / len(steps)) if steps else None
        if mean_s and max(abs(step - mean_s) for step in steps) > EVEN * mean_s:
            self.warnings += ("its time points are not evenly spaced, so no interval is stated",)
            return None
        return mean_s

    def _stated_size(self, stored: tuple[int, ...]) -> tuple[int, int, int]:
        """Return depths, rows and columns: of the first channel, of the image, or as stored."""
        for path, names in ((f"{LEVEL}/TimePoint 0/Channel 0", ("ImageSizeZ", "ImageSizeY", "ImageSizeX")),
                             ("DataSetInfo/Image", ("Z", "Y", "X"))):  # fmt: skip
            stated = _attributes(self._node(path))
            sizes = [int(stated[name]) for name in names if stated.get(name, "").isdecimal()]
            if len(sizes) == 3 and all(sizes):
                return sizes[0], sizes[1], sizes[2]
        self.warnings += ("it does not state its size; what is stored may end in zeros that fill the last chunks",)
        return stored[0], stored[1], stored[2]

    def _dataset(self, t: int, c: int) -> Any:
        """Return the voxels of a channel at a time point, which lie in this file and nowhere else."""
        path = DATA.format(t, c)
        dataset = self._node(path)
        if not isinstance(dataset, self._h5py.Dataset) or dataset.ndim != 3 or dataset.dtype.kind not in "uif":
            raise InputError(f"{path} holds no depths of planes; save it anew with Imaris")
        if dataset.external or dataset.is_virtual:
            raise InputError(ELSEWHERE.format(path))
        return dataset

    def _node(self, path: str) -> Any:
        """Return a group or dataset of this file; None where there is none."""
        node: Any = self._file
        for part in path.split("/"):
            if not isinstance(node, self._h5py.Group) or part not in node:
                return None
            if not isinstance(node.get(part, getlink=True), self._h5py.HardLink):
                raise InputError(ELSEWHERE.format(path))
            node = node[part]
        return node

    def _forget(self) -> None:
        self._open = None


def _counted(group: Any, word: str) -> int:
    """Return how many members "word 0", "word 1", ... a group has, none left out."""
    numbers = {name.removeprefix(f"{word} ") for name in group if name.startswith(f"{word} ")}
    present = sorted(int(number) for number in numbers if number.isdecimal())
    if present != list(range(len(present))):
        raise InputError(f"of its {word}s number {next(n for n, at in enumerate(present) if n != at)} is missing")
    return len(present)


def _attributes(group: Any) -> dict[str, str]:
    """Return the attributes of a group as text; Imaris writes arrays of single characters."""
    attributes: dict[str, str] = {}
    for name, value in group.attrs.items() if group is not None else ():
        if isinstance(value, np.ndarray) and value.dtype.kind in "SU":
            text = b"".join(np.atleast_1d(value).astype("S").tolist()).decode("utf-8", "replace")
        else:
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        attributes[name] = text.strip().strip("\0")
    return attributes
