"""Files with random headers and metadata: `python tests/bench/fuzz.py [cases]`, 2400 by default.

Whatever a file says, opening it and reading a corner of it gives pixels of the shape it states or one line of
InputError, soon and in bounded memory. Prints one JSON object.
"""

import json
import shutil
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from cellxlate.errors import InputError
from cellxlate.stacks.read.open import open_stack

MOST_BYTES = 1.2e9
MOST_SECONDS = 20.0
PIXELS = np.random.default_rng(0).integers(0, 200, (3, 40, 50)).astype(np.uint16)
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 4, 7, 8, 16, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1)
)
SIZES = st.one_of(st.sampled_from([-1, 0, 1, 2, 3, 40, 50, 10**6, 10**9, 10**12, 10**18]), st.integers(-5, 10**19))
WORDS = st.one_of(st.text(max_size=12), SIZES.map(str), st.sampled_from(["nan", "inf", "µm", "YX", "TCZYX", "QYX"]))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), SIZES, st.floats(), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=8,
)

TIFFS: dict[str, dict[str, Any]] = {
    "plain": {}, "big": {"bigtiff": True}, "big-endian": {"byteorder": ">"}, "imagej": {"imagej": True},
    "ome": {"ome": True}, "tiles": {"tile": (16, 16)}, "lzw": {"compression": "lzw"},
    "zstd": {"ome": True, "compression": "zstd", "predictor": 2, "tile": (32, 32)},
}  # fmt: skip
OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" {0}>'
    '<Channel ID="Channel:0:0" {1}/><TiffData {2}/>{3}</Pixels></Image>{4}</OME>'
)
OME_PIXELS = {"DimensionOrder": "XYZCT", "Type": "uint16", "SizeX": "50", "SizeY": "40", "SizeZ": "3", "SizeC": "1",
              "SizeT": "1", "PhysicalSizeX": "0.5", "PhysicalSizeXUnit": "nm", "TimeIncrement": "1"}  # fmt: skip


def tiff_bytes(kind: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tif"
        tifffile.imwrite(path, PIXELS, photometric="minisblack", metadata={"axes": "ZYX"}, **TIFFS[kind])
        return path.read_bytes()


def zarr_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        zarr.open_group(folder, mode="w", zarr_format=2).create_array(
            "0", data=PIXELS, chunks=(1, 16, 16), compressors=None, chunk_key_encoding={"name": "v2", "separator": "/"}
        )
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


SEED_ZARR = zarr_files()
SEEDS = {kind: tiff_bytes(kind) for kind in TIFFS}


def attributes(draw: st.DrawFn, stated: dict[str, str]) -> str:
    """The attributes of an XML element: as they are, or some of them, and some of those with other values."""
    chosen = stated
    if draw(st.booleans()):
        chosen = {name: draw(WORDS) if draw(st.integers(0, 5)) == 0 else value for name, value in stated.items()
                  if draw(st.integers(0, 15))}  # fmt: skip
    return " ".join(f'{name}="{value.replace(chr(34), "")}"' for name, value in chosen.items())


@st.composite
def changed_tags(draw: st.DrawFn) -> bytes:
    """A TIFF whose first directory has entries with another code, type, count or value."""
    kind = draw(st.sampled_from(sorted(TIFFS)))
    content = bytearray(SEEDS[kind])
    order = "big" if content[:2] == b"MM" else "little"
    big = kind == "big"
    at = int.from_bytes(content[8:16] if big else content[4:8], order)
    head, entry, word = (8, 20, 8) if big else (2, 12, 4)
    count = int.from_bytes(content[at : at + head], order)
    for _ in range(draw(st.integers(1, 3))):
        place = at + head + entry * draw(st.integers(0, count - 1))
        part = draw(st.sampled_from(["code", "type", "count", "value", "value", "value"]))
        start, size = {"code": (0, 2), "type": (2, 2), "count": (4, word), "value": (4 + word, word)}[part]
        number = draw(NUMBERS) & ((1 << (8 * size)) - 1)
        content[place + start : place + start + size] = number.to_bytes(size, order)
    return bytes(content)


@st.composite
def broken_files(draw: st.DrawFn) -> bytes:
    """A TIFF cut short, with a directory somewhere else, or with bytes changed anywhere."""
    content = bytearray(SEEDS[draw(st.sampled_from(sorted(TIFFS)))])
    what = draw(st.sampled_from(["cut", "offset", "bytes"]))
    if what == "cut":
        return bytes(content[: draw(st.integers(0, len(content)))])
    if what == "offset":
        content[4:8] = draw(NUMBERS).to_bytes(4, "little")
    for _ in range(draw(st.integers(1, 8)) if what == "bytes" else 0):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


@st.composite
def lying_descriptions(draw: st.DrawFn) -> str:
    """OME-XML, ImageJ's lines or tifffile's JSON with sizes and words that are not true."""
    kind = draw(st.sampled_from(["ome", "ome", "imagej", "shaped", "any"]))
    if kind == "ome":
        return OME.format(
            attributes(draw, OME_PIXELS),
            attributes(draw, {"Name": "DAPI", "Color": "-16776961", "SamplesPerPixel": "1"}),
            attributes(draw, {"IFD": "0", "PlaneCount": "3", "FirstZ": "0"}),
            f"<Plane {attributes(draw, {'TheZ': '0', 'TheC': '0', 'TheT': '0'})}/>" if draw(st.booleans()) else "",
            '<StructuredAnnotations><MapAnnotation ID="Annotation:0" Namespace="cellxlate"><Value>'
            f'<M K="axes">{draw(st.sampled_from(["TCZYX", "YX", "Q", ""]))}</M><M K="metadata">'
            f"{json.dumps(draw(JSON)).replace('<', '')}</M></Value></MapAnnotation></StructuredAnnotations>"
            if draw(st.booleans()) else "",
        )  # fmt: skip
    if kind == "imagej":
        names = (
            "images",
            "channels",
            "slices",
            "frames",
            "spacing",
            "unit",
            "finterval",
            "tunit",
            "min",
            "max",
            "loop",
        )
        lines = [f"{name}={draw(WORDS)}" for name in names if draw(st.booleans())]
        return "\n".join(["ImageJ=1.54f", *lines])
    if kind == "shaped":
        return json.dumps({"shape": draw(st.one_of(JSON, st.lists(SIZES, max_size=6))), "axes": draw(WORDS)})
    return draw(st.text(max_size=60))


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every part of a JSON value lies."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in inner for place in ((*here, key), *places(item, (*here, key)))]


def changed(draw: st.DrawFn, value: Any) -> Any:
    """The value with up to two of its parts exchanged or gone."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(0, 2))):
        if not (there := places(value)):
            break
        *way, last = draw(st.sampled_from(there))
        inner = value
        for key in way:
            inner = inner[key]
        if draw(st.booleans()) or isinstance(inner, list):
            inner[last] = draw(JSON)
        else:
            del inner[last]
    return value


@st.composite
def lying_zarrs(draw: st.DrawFn) -> dict[str, Any]:
    """Metadata files of an OME-Zarr image, by their names."""
    image = {
        "multiscales": [{
            "axes": [{"name": "z", "type": "space", "unit": "micrometer"}, {"name": "y", "type": "space"},
                     {"name": "x", "type": "space"}],
            "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]}],
            "name": "a",
        }],
        "omero": {"channels": [{"label": "DAPI", "color": "FF0000", "window": {"start": 0, "end": 9}}]},
        "cellxlate": {"metadata": {"tiff": {}, "colours": ["FF0000"]}, "earlier": [{}]},
    }  # fmt: skip
    if draw(st.integers(0, 4)) == 0:
        image = {"plate": {"wells": [{"path": "A/1"}], "rows": [{"name": "A"}]}, "well": {"images": [{"path": "0"}]}}
    array = {"zarr_format": 2, "shape": [3, 40, 50], "chunks": [1, 16, 16], "dtype": "<u2", "order": "C",
             "fill_value": 0, "compressor": None, "filters": None, "dimension_separator": "/"}  # fmt: skip
    return {".zattrs": changed(draw, image), "0/.zarray": changed(draw, array)}


@dataclass(frozen=True)
class Case:
    kind: str
    content: Any = field(repr=False)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kind = draw(st.sampled_from(["tags", "broken", "description", "zarr"]))
    made = {"tags": changed_tags, "broken": broken_files, "description": lying_descriptions, "zarr": lying_zarrs}
    return Case(kind, draw(made[kind]()))


def write_case(folder: Path, kind: str, content: Any) -> Path:
    """Write what a case holds into an empty folder."""
    if kind == "zarr":
        path = folder / "a.zarr"
        for name, value in (SEED_ZARR | {name: json.dumps(value).encode() for name, value in content.items()}).items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(value)
        return path
    path = folder / "a.tif"
    if kind == "description":
        tifffile.imwrite(path, PIXELS, photometric="minisblack", metadata=None, description=content.encode())
    else:
        path.write_bytes(content)
    return path


def outcome(path: Path) -> str:
    """Open a file and read a corner of its first and last plane; "read" or "refused".

    Raises
    ------
    AssertionError
        What comes back is not what the stack states, or the refusal is not one line.
    """
    try:
        with open_stack(path) as stack:
            height, width = stack.plane_shape
            for number in (0, stack.plane_count // stack.channel_count - 1):
                index = stack.plane_of(number, 0)
                window = stack.read(index, slice(max(height - 16, 0), height), slice(0, 16))
                assert window.shape == (min(height, 16), min(width, 16)), (stack.axes, stack.shape, window.shape)
                assert window.dtype == stack.dtype
            assert all("\n" not in line for line in stack.warnings)
            assert len(stack.channel_names) in (0, stack.size("C"))
    except InputError as fault:
        message = str(fault)
    else:
        return "read"
    assert "\n" not in message
    assert str(path) in message
    return "refused"


def run(number_of_cases: int, first_seed: int = 0, *, traced: bool = True) -> dict[str, Any]:
    """Try that many cases; what they came to, the longest time and the largest memory of one, where it is traced."""
    outcomes: Counter[str] = Counter()
    slowest_s = largest_bytes = 0.0
    folder = Path(tempfile.mkdtemp())

    @seed(first_seed)
    @settings(max_examples=number_of_cases, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck), derandomize=False)  # fmt: skip
    @given(cases())
    def try_case(case: Case) -> None:
        nonlocal slowest_s, largest_bytes
        kind = case.kind
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path = write_case(folder, kind, case.content)
        if traced:
            tracemalloc.start()
        started = time.perf_counter()
        try:
            found = outcome(path)
        finally:
            seconds, held = time.perf_counter() - started, tracemalloc.get_traced_memory()[1] if traced else 0
            tracemalloc.stop()
        outcomes[f"{kind} {found}"] += 1
        slowest_s, largest_bytes = max(slowest_s, seconds), max(largest_bytes, held)
        assert seconds <= MOST_SECONDS, f"took {seconds:.0f} s"
        assert held <= MOST_BYTES, f"held {held / 1e6:.0f} MB"

    try:
        try_case()
    except BaseException:
        print(f"the file that failed is kept in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder)
    return {"cases": sum(outcomes.values()), "outcomes": dict(sorted(outcomes.items())),
            "slowest_s": round(slowest_s, 2), "largest_mb": round(largest_bytes / 1e6, 1)}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]) if len(sys.argv) > 1 else 2400)))
