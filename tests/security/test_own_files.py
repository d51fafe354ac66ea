"""Every field of what we write ourselves, and of OME-XML and NGFF, made nonsense: one line, or a right result.

CELLXLATE_FUZZ sets how many values each field is given (20: all there are); by default some fields get one each, drawn
from a seed. Files are opened, and written again with all that they state, which is where wrong types would tell.
"""

import copy
import json
import math
import os
import re
import shutil
import struct
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import tifffile

import cellxlate
from cellxlate.cli import main
from cellxlate.enhancement.outputs.rebuild import rebuild_report
from cellxlate.errors import CellxlateError
from cellxlate.model.cards import describe_model
from cellxlate.stacks.intensity.saved import saved_ranges
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.write.copy import write_stacks
from cellxlate.stacks.write.writer import Writer

VALUES = min(int(os.environ.get("CELLXLATE_FUZZ", "1")), 20)
EACH = VALUES == 20
MOST = 50
"""Fields of a file that are tried by default, drawn from the seed."""

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**70, -1.5, 1e308, 1e-320, math.nan, math.inf, -math.inf, "", "x", "NaN", "1e999",
    "/", "../..", "\0", "\ud800", "a" * 3000, "{", [], {}, [None], [[]], {"": None}, [1, 2, 3],
    [[1, 2], [3, 4]], ["a", 1],
    {"path": 7}, {"type": "scale", "scale": ["a"]}, [math.nan] * 5, list(range(200)),
    {"base64": "!", "dtype": "object"},
    {"base64": "AAAA", "dtype": "uint16", "shape": [7]}, [[]] * 5,
)  # fmt: skip
GONE = object()


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def places(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value of a JSON tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from places(value, (*above, key))


def spoiled(tree: Any, seed: int, *, below: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield a tree with each of its values in turn made nonsense, and what was done."""
    random = Random(seed)
    found = [place for place in places(tree) if place[: len(below)] == below]
    for place in some(found, random):
        odd = [random.choice((*ODD, GONE, deep(600))) for _ in range(VALUES)]
        for value in (*ODD, GONE, deep(600)) if EACH else odd:
            changed = copy.deepcopy(tree)
            node = changed
            for key in place[:-1]:
                node = node[key]
            if value is GONE:
                del node[place[-1]]
            else:
                node[place[-1]] = value
            yield f"{place} = {'gone' if value is GONE else repr(value)[:60]}", changed


def dumped(tree: Any) -> bytes:
    return json.dumps(tree).encode("utf-8", "surrogatepass")


FOUND: list[str] = []


@pytest.fixture(autouse=True)
def _none_unexpected() -> Iterator[None]:
    """Assert in the end that nothing ended otherwise than in a result or in one line."""
    FOUND.clear()
    yield
    assert not FOUND, f"{len(FOUND)} cases: " + "; ".join(FOUND[:12])


def harmless(what: str, act: Callable[[], object]) -> bool:
    """Return whether something was done; if not, it was refused, and what was not said in one line is kept."""
    try:
        act()
    except (CellxlateError, OSError, MemoryError) as fault:
        if "\n" in str(fault) or "unexpected" in str(fault):
            FOUND.append(f"{what!a}: {fault!r}")
        return False
    except Exception as fault:  # noqa: BLE001 (this is what is looked for)
        FOUND.append(f"{what!a}: {repr(fault)!a} at {fault.__traceback__ and _last(fault)}")
        return False
    return True


def _last(fault: Exception) -> str:
    """Return the last two places of ours that an exception came through."""
    frames = [frame for frame in traceback.extract_tb(fault.__traceback__) if "cellxlate" in frame.filename]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-2:]))


def copied(path: Path, output: Path) -> Callable[[], None]:
    """Return what opens a stack and writes it again with all that it states; the pixels must be the same."""

    def act() -> None:
        for place in (output, output.with_name(f"{output.name}.partial")):
            shutil.rmtree(place, ignore_errors=True)
        if output.is_file():
            output.unlink()
        with open_stack(path) as stack:
            write_stacks([(stack, output)])
            with open_stack(output) as written:
                assert written.axes == stack.axes
                assert np.array_equal(np.asarray(written), np.asarray(stack))

    return act


PIXELS = np.random.default_rng(0).integers(100, 300, (2, 32, 32)).astype(np.uint16)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with results of all formats, which were enhanced twice, so that every field is there."""
    folder = tmp_path_factory.mktemp("results")
    note = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeXUnit": "µm",
            "PhysicalSizeYUnit": "µm", "TimeIncrement": 2.0, "Channel": {"Name": ["a", "b"], "Color": [255, -1]},
            "Plane": {"DeltaT": [0.0, 1.0]}, "Description": "two channels"}  # fmt: skip
    tifffile.imwrite(folder / "a.ome.tif", PIXELS, ome=True, metadata=note, photometric="minisblack")
    first = folder / "b.ome.tif"
    for source, target in (("a.ome.tif", "b.ome.tif"), ("b.ome.tif", "c.ome.tif"), ("b.ome.tif", "c.ome.zarr"),
                           ("c.ome.zarr", "d.ome.zarr"), ("c.ome.zarr", "d.ome.tif")):  # fmt: skip
        words = ["enhance", str(folder / source), "-m", str(tiny_model), "-o", str(folder / target), "--quiet"]
        assert main([*words, "--no-attention", "--no-report"]) == 0
    assert main(["enhance", str(first), "-m", str(tiny_model), "--quiet"]) == 0
    for kind, ending in (("tiff", "tif"), ("zarr", "zarr")):
        words = [
            "enhance",
            str(folder / "c.ome.tif"),
            "-m",
            str(tiny_model),
            "--format",
            kind,
            "--quiet",
            "--no-report",
        ]
        assert main([*words, "--no-attention", "-o", str(folder / f"plain.{ending}")]) == 0
    return folder


@pytest.mark.parametrize(("name", "output"), [("d.ome.zarr", "z.ome.zarr"), ("c.ome.zarr", "z.ome.tif"),
                                              ("plain.zarr", "z.ome.zarr")])  # fmt: skip
def test_metadata_of_zarr_are_right_or_refused(name, output, results, tmp_path):
    path = Path(shutil.copytree(results / name, tmp_path / "a.zarr"))
    file, done, count = path / "zarr.json", 0, 0
    for what, tree in spoiled(json.loads(file.read_text()), len(output), below=("attributes",)):
        file.write_bytes(dumped(tree))
        done += harmless(f"{name}: {what}", copied(path, tmp_path / output))
        count += 1
    assert count > 20
    assert done > count // 4


def some(found: list[Any], random: Random) -> list[Any]:
    """Return those fields that are tried by default, or all."""
    return random.sample(found, MOST) if VALUES == 1 and len(found) > MOST else found


def xml_places(text: str) -> list[tuple[int, int]]:
    """Return where values of attributes and texts of elements lie in XML."""
    return [match.span(1) for match in re.finditer(r'="([^"]*)"|>([^<]+)<', text) if match.group(1) is not None] + [
        match.span(1) for match in re.finditer(r">([^<]+)<", text)
    ]


ODD_TEXT = ("", "x", "-1", "0", "1e308", "NaN", "INF", "1e-320", str(2**70), "1.5", "true", "µm", "😀", " 3 ", "/",
            "[]", "{}", "null", "[" * 2000, '{"a": 1}', '{"tiff": {"icc": {"base64": "!"}}}', "[[]]", "XYZCT",
            '{"tiff": 7, "zarr": [1]}', "٣", "0x10", "1_0", "a" * 3000)  # fmt: skip


@pytest.mark.parametrize(("name", "output"), [("c.ome.tif", "z.ome.tif"), ("d.ome.tif", "z.ome.zarr")])
def test_ome_xml_is_right_or_refused(name, output, results, tmp_path):
    from xml.sax.saxutils import escape

    path, random, done = Path(shutil.copy2(results / name, tmp_path / "a.ome.tif")), Random(7), 0
    text = tifffile.tiffcomment(path)
    cases = [
        (span, odd)
        for span in some(xml_places(text), random)
        for odd in (ODD_TEXT if EACH else random.sample(ODD_TEXT, VALUES))
    ]
    for (start, end), odd in cases:
        changed = text[:start] + escape(odd, {'"': "&quot;"}) + text[end:]
        tifffile.tiffcomment(path, changed.encode())
        done += harmless(f"{text[max(start - 40, 0) : start]}{odd[:60]}", copied(path, tmp_path / output))
    assert len(cases) > 40
    assert done > len(cases) // 4


def notes_in(text: str) -> dict[str, Any]:
    """Return our annotation in OME-XML, its values as JSON where they are JSON."""
    from xml.etree import ElementTree

    found: dict[str, Any] = {}
    notes = ElementTree.fromstring(text).findall(".//{*}MapAnnotation[@Namespace='cellxlate']")
    for entry in notes[-1].findall("{*}Value/{*}M"):
        try:
            found[str(entry.get("K"))] = json.loads(entry.text or "")
        except ValueError:
            found[str(entry.get("K"))] = entry.text
    return found


def test_our_annotation_in_ome_xml_is_right_or_refused(results, tmp_path):
    from xml.sax.saxutils import escape

    path = Path(shutil.copy2(results / "d.ome.tif", tmp_path / "a.ome.tif"))
    text, done, count = tifffile.tiffcomment(path), 0, 0
    known = notes_in(text)
    start, end = text.rindex("<Value>") + 7, text.rindex("</Value>")
    for what, tree in spoiled(known, 3):
        entries = ((key, one if isinstance(one, str) else json.dumps(one)) for key, one in tree.items())
        inside = "".join(f'<M K="{escape(key)}">{escape(value.replace(chr(0), ""))}</M>' for key, value in entries)
        changed = (text[:start] + inside + text[end:]).encode("utf-8", "replace")
        tifffile.tiffcomment(path, changed)
        done += harmless(what, copied(path, tmp_path / "z.ome.tif"))
        harmless(what, lambda: saved_ranges(path))
        count += 1
    assert count > 30
    assert done > count // 4


def test_the_note_of_a_plain_tiff_is_right_or_refused(results, tmp_path):
    path = Path(shutil.copy2(results / "plain.tif", tmp_path / "a.tif"))
    known, done, count = json.loads(tifffile.tiffcomment(path)), 0, 0
    for what, tree in spoiled(known, 4):
        tifffile.tiffcomment(path, dumped(tree))
        done += harmless(what, copied(path, tmp_path / "z.ome.tif"))
        count += 1
    assert count > 20
    assert done > count // 4


def test_tags_of_every_type_are_right_or_refused(tmp_path):
    """Each tag is said to be of each type, and to have other numbers of values."""
    tifffile.imwrite(tmp_path / "seed.tif", PIXELS[0], photometric="minisblack", resolution=(2, 3), resolutionunit=3,
                     description="plain", software="a", datetime=True, metadata=None,
                     extratags=[(315, 2, 3, "me", True), (34675, 7, 8, b"12345678", True)])  # fmt: skip
    content, path = (tmp_path / "seed.tif").read_bytes(), tmp_path / "a.tif"
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    random, done, tried = Random(5), 0, 0
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        code, kind, number = struct.unpack_from("<HHI", content, entry)
        cases = [(other, number) for other in (1, 2, 5, 9, 11, 12, 13, 16, 99)]
        cases += [(kind, other) for other in (0, 2, 3, 1000)]
        for other, values in cases if VALUES > 1 else random.sample(cases, 4):
            changed = bytearray(content)
            struct.pack_into("<HHI", changed, entry, code, other, values)
            path.write_bytes(changed)
            done += harmless(f"tag {code} of type {other}, {values} values", copied(path, tmp_path / "z.ome.tif"))
            tried += 1
    assert done > tried // 4


def test_reports_of_nonsense_are_made_anew(results, tmp_path):
    for name in ("b.ome.tif", "b_enhanced.ome.tif", "b_attention.ome.tif", "b_report.json"):
        shutil.copy2(results / name, tmp_path / name)
    file = tmp_path / "b_report.json"
    cases = list(spoiled(json.loads(file.read_text()), 6))
    for what, tree in cases if VALUES > 1 else cases[:20]:
        file.write_bytes(dumped(tree))
        harmless(what, lambda: saved_ranges(file))
        assert harmless(what, lambda: rebuild_report(tmp_path / "b_enhanced.ome.tif")), what
        assert json.loads(file.read_text())["kept_violations"] == 0


def test_cards_of_nonsense_are_refused_or_used(tiny_model, tmp_path):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    card = json.loads((folder / "card.json").read_text())
    card["domain"] = json.loads((cellxlate.model.cards.SHIPPED / "nuclei-lowexp" / "card.json").read_text())["domain"]
    stack, done = PIXELS[0], 0
    cases = list(spoiled(card, 9))
    for what, tree in cases if VALUES > 1 else cases[:30]:
        (folder / "card.json").write_bytes(dumped(tree))
        harmless(what, lambda: describe_model(folder))

        def used() -> None:
            result = cellxlate.enhance(stack, folder)
            kept = result.attention == 0
            assert np.array_equal(result.image[kept], stack[kept])
            json.dumps(result.report.as_dict(), default=str)

        done += harmless(what, used)
    assert done


def test_records_of_partials_are_refused_or_used(tmp_path, tiny_model, command, monkeypatch):
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, PIXELS[0])
    with monkeypatch.context() as broken:
        broken.setattr(Writer, "finish", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        command.enhance_refused(path)
    partial = tmp_path / "cells_enhanced.ome.tif.partial"
    file, kept = partial / "job.json", tmp_path / "kept"
    kept.mkdir()
    for one in tmp_path.glob("*.partial"):
        shutil.copytree(one, kept / one.name)
    cases = list(spoiled(json.loads(file.read_text()), 11))
    for what, tree in cases if VALUES > 1 else cases[:12]:
        for one in kept.iterdir():
            shutil.rmtree(tmp_path / one.name, ignore_errors=True)
            shutil.copytree(one, tmp_path / one.name)
        for one in tmp_path.glob("cells_*.ome.tif"):
            one.unlink()
        file.write_bytes(dumped(tree))
        code, _, err = command.enhance(path, "--resume", "--no-report")
        assert code in (0, 2), (what, err)
        assert "unexpected" not in err, (what, err)
        assert err.count("\n") <= 1, (what, err)


def test_names_of_origins_are_refused_or_used(tmp_path, command, monkeypatch):
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, PIXELS[0])
    with monkeypatch.context() as broken:
        broken.setattr(Writer, "finish", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        command.enhance_refused(path)
    folder = next(item for item in (tmp_path / "cells_enhanced.ome.tif.partial").iterdir() if item.name == "input")
    for name in ("plane.7.0-1.abc", "plane-9-9-9.0.0-1.abc", "plane.-1.-5-2.x", "plane.0.5-1.x", "plane.0.0-99999.x",
                 "plane..0.", "plane-x.0.0-1.a", "plane.512.0-32.a", f"plane.{'9' * 60}.0-1.a"):  # fmt: skip
        (folder / name).touch()
    code, _, err = command.enhance(path, "--resume", "--no-report")
    assert code in (0, 2)
    assert "unexpected" not in err
    assert err.count("\n") <= 1


def test_checkpoints_of_nonsense_are_refused_or_used(tmp_path):
    from safetensors.numpy import save_file

    from cellxlate.training.run import has_checkpoint, resumed_precision, resumed_seed

    notes = {"step": 3, "seconds": 1.0, "precision": "float32", "settings": {"seed": 0, "steps": 5}, "data": "a",
             "attention": [dict.fromkeys(("area", "entropy", "inside", "outside", "agreement", "spread"), 0.5)],
             }  # fmt: skip
    import torch

    done = 0
    for what, tree in spoiled(notes, 13):
        content = json.dumps(tree)
        try:
            save_file({"a": np.zeros(1, np.float32)}, tmp_path / "checkpoint.safetensors", {"notes": content})
        except (ValueError, TypeError, UnicodeError):  # what safetensors itself cannot hold
            continue
        assert has_checkpoint(tmp_path)
        done += harmless(what, lambda: resumed_seed(tmp_path, [0, 1]))
        harmless(what, lambda: resumed_precision(tmp_path, torch.device("cpu")))
    assert done


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0, 1e308, 1e-320])
@pytest.mark.parametrize("level", ["dataset", "image"])
def test_a_scale_that_is_no_size_is_enhanced(value, level, tmp_path, command):
    import zarr

    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("0", shape=(32, 32), dtype="uint16", chunks=(32, 32))[:] = PIXELS[0]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    scale = [{"type": "scale", "scale": [value, value]}]
    dataset = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0]}]}
    image: dict[str, Any] = {"axes": axes, "datasets": [dataset]}
    (dataset if level == "dataset" else image)["coordinateTransformations"] = scale
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    code, _, err = command.enhance(tmp_path / "a.zarr")
    assert (code, err) == (0, "")
    with open_stack(tmp_path / "a_enhanced.ome.zarr") as stack:
        assert all(0 < size < math.inf for size in stack.pixel_size_um.values())


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 18])
def test_resolutions_of_every_type_are_enhanced_or_refused(kind, tmp_path, command):
    """The tags XResolution and YResolution, and then their unit, are said to be of another type."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS[0], photometric="minisblack", resolution=(2, 3), resolutionunit=3, metadata=None)
    content = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        (code,) = struct.unpack_from("<H", content, entry)
        if code in (282, 283) or (code == 296 and kind % 2):
            struct.pack_into("<H", content, entry + 2, kind)
    path.write_bytes(content)
    code, _, err = command.enhance(path)
    assert code in (0, 2)
    assert "unexpected" not in err
    assert err.count("\n") == (code == 2)
