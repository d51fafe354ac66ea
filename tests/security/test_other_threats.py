"""Zarr folders, options and names from strangers; links and other users' files where results are written."""

import json
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
import tifffile
import zarr

from cellxlate.stacks.read.sets.planes import name_expression
from cellxlate.whole_file import unfinished_name

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
PIXELS = np.random.default_rng(0).integers(100, 300, (64, 64)).astype(np.uint16)


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, PIXELS)
    return path


# --- Zarr


def image(path: Path, **changes: Any) -> None:
    """Write an OME-Zarr 0.5 image of 64 x 64 px."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("s0", shape=(64, 64), dtype="uint16", chunks=(64, 64))[:] = PIXELS
    axes = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "s0"}], **changes}]}


def metadata(path: Path, place: str, **changes: Any) -> None:
    """Change `zarr.json` of the group ("") or of the array ("s0")."""
    file = path / place / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def array(**changes: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image(path)
        metadata(path, "s0", **changes)

    return write


def dataset(place: Any) -> Callable[[Path], None]:
    return lambda path: image(path, datasets=[{"path": place}])


def attributes(**ome: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image(path)
        metadata(path, "", attributes={"ome": ome})

    return write


def text(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.mkdir()
        (path / "zarr.json").write_bytes(content.encode("utf-8", "surrogateescape"))

    return write


def chunk(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image(path)
        (path / "s0" / "c" / "0" / "0").write_bytes(content)

    return write


def grid(*shape: Any) -> Mapping[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


ZARR_REFUSED: dict[str, Callable[[Path], None]] = {
    "no json": text("{"), "json of nothing": text("null"), "json of a list": text("[]"),
    "json 100000 deep": text("[" * 100_000), "not utf-8": text("\udcff\udcfe"),
    "a version to come": array(zarr_format=4), "another kind of node": array(node_type="program"),
    "shape 10^18": array(shape=[10**18, 10**18], chunk_grid=grid(10**18, 10**18)),
    "negative shape": array(shape=[-64, 64]), "shape of words": array(shape=["64", {}]), "no shape": array(shape=[]),
    "chunks of 2^40": array(chunk_grid=grid(2**20, 2**20)), "chunks of 0": array(chunk_grid=grid(0, 0)),
    "no such type": array(data_type="object"), "python objects": array(data_type={"name": "python_pickle"}),
    "no such codec": array(codecs=[{"name": "pickle"}]), "codecs of nothing": array(codecs=[]),
    "dataset above": dataset("../../../etc"), "dataset absolute": dataset("/etc/passwd"),
    "dataset nowhere": dataset("s9"),
    "dataset of a number": dataset(7), "dataset of nothing": dataset(""),
    "no images": attributes(multiscales=[]), "images of words": attributes(multiscales="s0"),
    "no attributes": attributes(),
    "axes of markup": lambda path: image(path, axes=[{"name": SCRIPT}, {"name": "x"}]),
    "axes thousandfold": lambda path: image(path, axes=[{"name": "y"}] * 1000),
    "scale of words": lambda path: image(path, datasets=[
        {"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": ["a", "b"]}]}]),
    "plate within itself": attributes(plate={"wells": [{"path": "."}]}),
    "plate of wells above": attributes(plate={"wells": [{"path": "../.."}]}),
    "plate of words": attributes(plate="A1"),
    "chunk of garbage": chunk(b"\xff" * 100),
    "chunk cut short": chunk(b"\x28\xb5\x2f\xfd\x20"), "chunk of nothing": chunk(b""),
    "zstd of stated 2^60 bytes": chunk(b"\x28\xb5\x2f\xfd\xe0" + (2**60).to_bytes(8, "little") + bytes(20)),
    "folder without an image": lambda path: path.mkdir(),
}  # fmt: skip


@pytest.mark.parametrize("kind", ZARR_REFUSED)
def test_a_hostile_zarr_is_refused_in_one_line(kind, tmp_path, command, untouched, bounded):
    path = tmp_path / "a.zarr"
    ZARR_REFUSED[kind](path)
    untouched()
    command.enhance_refused(path)


def test_zarr_that_states_nonsense_beside_the_pixels_is_enhanced_safely(tmp_path, command, bounded):
    path = tmp_path / "a.zarr"
    image(path, name=SCRIPT, coordinateTransformations=[{"type": "scale", "scale": [1e308, 1e308]}])
    ome = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    ome["omero"] = {"channels": [{"label": SCRIPT, "color": SCRIPT, "window": {"start": "a", "end": None}}]}
    metadata(path, "", attributes={"ome": ome, "__class__": SCRIPT})
    code, _, err = command.enhance(path)
    assert (code, err) == (0, "")
    page = (tmp_path / "a_report.html").read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page


# --- options

ODD = ["", " ", "\0", "a\nb", "\x1b[31mred", "../../../etc/passwd", "/dev/zero", "a" * 5000, "\u202egpj.exe", "{T}{T}",
       "-", "~", "$(touch x)", "`id`", "%s%n", "C:\\x", "\udcff\udcfe", "😀", "nul", SCRIPT]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: ascii(odd)[:30])
def test_a_stack_of_an_odd_name_is_refused(odd, tmp_path, command, monkeypatch, untouched):
    monkeypatch.chdir(tmp_path)
    untouched()
    command.refused("enhance", odd, "-m", command.model)


@pytest.mark.parametrize(
    "pattern",
    ["*" * 60 + "b", "*" * 60 + "b{T}", "*a" * 60 + "b", "*a" * 60 + "b{T}", "{C}a*" + "a*" * 60 + "b{T}x{Z}",
     "[!a]" * 50 + "**", "**", "***", "?" * 250],
    ids=lambda pattern: pattern[-12:],
)  # fmt: skip
def test_patterns_of_many_wildcards_are_matched_soon(pattern, tmp_path, command, untouched):
    (tmp_path / ("a" * 200 + ".tif")).write_bytes(b"no image")
    untouched()
    started = time.perf_counter()
    command.enhance_refused(tmp_path / pattern)
    assert time.perf_counter() - started < 5


def test_patterns_find_what_trying_all_ways_would_find():
    random, found = Random(4), 0
    for _ in range(3000):
        axes = random.sample(["{T}", "{C}", "{Z}"], 3)
        pieces = [random.choice(["*", "a", "b", "ab", "."]) for _ in range(random.randint(1, 5))]
        for axis in axes[: random.randint(1, 3)]:
            pieces.insert(random.randint(0, len(pieces)), axis)
        plain = "".join(
            ".*?" if piece == "*" else f"(?P<{piece[1]}>.+?)" if piece in axes else re.escape(piece) for piece in pieces
        )
        name = "".join(random.choices("ab.", k=random.randint(0, 9)))
        expected, match = re.fullmatch(plain, name), name_expression("".join(pieces)).fullmatch(name)
        assert (expected and expected.groupdict()) == (match and match.groupdict()), (pieces, name)
        found += match is not None
    assert found > 300


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: ascii(odd)[:30])
def test_a_model_of_an_odd_name_is_refused(odd, stack, command, untouched):
    untouched()
    command.refused("enhance", stack, f"-m={odd}" if odd.startswith("-") else "-m", *([] if odd == "-" else [odd]))


@pytest.mark.parametrize(
    "options",
    [
        ["--threshold", "nan"], ["--threshold", "inf"], ["--threshold", "-1"], ["--threshold", "1e400"],
        ["--threshold", "0x1"], ["--threshold", SCRIPT], ["--tile", "0"], ["--tile", "-512"],
        ["--tile", "1" * 5000], ["--tile", "nan"], ["--axes", "YXX"], ["--axes", ""], ["--axes", "AB"],
        ["--axes", "ß😀"],
        ["--axes", SCRIPT], ["--axes", "YX" * 5000], ["--channel", "7"], ["--channel", SCRIPT],
        ["--channel", "1" * 5000],
        ["--channel", "-1"], ["--channel", "²"], ["--channel", "a\nb\x1b[2J"], ["--format", "pickle"],
        ["--engine", "exec"],
        ["--device", "cuda:99999"], ["--intensity", "x"], ["--overwrite", "--resume"], ["-o", "out.exe"], ["-o", ""],
        ["-o", "/"], ["-o", "."], ["-o", "no/such/folder/a.tif"], ["-o", "a\0.tif"], ["-o", "a" * 300 + ".tif"],
        ["--output-dir", "cells.tif"], ["--output-dir", "a\0b"], ["--output-dir", "a" * 300],
        ["-o", "a.tif", "--output-dir", "b"], ["-o", "cells.tif", "--overwrite"],
        ["-o", "a.tif", "--format", "ome-zarr"],
        ["--no-such-option"],
    ],
    ids=lambda options: ascii(" ".join(options))[:40],
)  # fmt: skip
def test_odd_options_are_refused(options, stack, command, monkeypatch, untouched):
    monkeypatch.chdir(stack.parent)
    untouched()
    found, _, err = command("enhance", "cells.tif", "-m", command.model, *options)
    assert found in (1, 2)
    assert "unexpected" not in err
    assert err.count("\n") == 1, err
    assert err[:-1].isprintable(), repr(err)


@pytest.mark.parametrize("shape", ["0,0,0,0,0", "1,1,1,1", "-1,1,1,64,64", "a,b,c,d,e", "1,1,1,1e3,64", "1" * 5000, ""])
def test_odd_shapes_of_a_sample_are_refused(shape, tmp_path, command, untouched):
    untouched()
    command.refused("sample", tmp_path / "a.ome.tif", f"--shape={shape}")


# --- names


def test_markup_in_names_is_text_in_the_report(tmp_path, command):
    path = tmp_path / "<b onclick=alert(1)>&amp;.ome.tif"
    tifffile.imwrite(path, np.stack([PIXELS, PIXELS]), ome=True, photometric="minisblack",
                     metadata={"axes": "CYX", "Channel": {"Name": ["first", "second"]}})  # fmt: skip
    xml = tifffile.tiffcomment(path)
    for name, hostile in (("first", SCRIPT), ("second", "</title><script>x</script>")):
        xml = xml.replace(f'"{name}"', quoteattr(hostile))
    tifffile.tiffcomment(path, xml.encode())
    code, _, err = command.enhance(path)
    assert (code, err) == (0, "")
    page = next(tmp_path.glob("*_report.html")).read_text()
    for markup in ("<b onclick", "<script>alert", "<script>x", "<img src=x"):
        assert markup not in page
    assert "&lt;script&gt;alert(1)" in page


def test_control_characters_of_names_never_reach_the_terminal(tmp_path, command):
    path = tmp_path / "a\x1b]0;owned\x07\x1b[2Jb.tif"
    path.write_bytes(b"no image")
    command.enhance_refused(path)
    tifffile.imwrite(path, PIXELS)
    code, out, err = command("enhance", path, "-m", command.model)
    assert (code, err) == (0, "")
    assert out.replace("\n", "").isprintable()
    assert (tmp_path / "a\x1b]0;owned\x07\x1b[2Jb_enhanced.ome.tif").is_file()


# --- where results are written


def test_an_output_that_is_a_link_is_replaced_and_what_it_leads_to_stays(stack, tmp_path, command):
    precious = tmp_path / "precious"
    precious.write_text("keep")
    for name in ("cells_enhanced.ome.tif", "cells_attention.ome.tif", "cells_report.html", "cells_report.json"):
        (tmp_path / name).symlink_to(precious)
        assert "exists" in command.enhance_refused(stack)
    code, _, err = command.enhance(stack, "--overwrite")
    assert (code, err) == (0, "")
    assert precious.read_text() == "keep"
    assert not any(item.is_symlink() for item in tmp_path.iterdir())


def test_an_output_that_is_a_link_to_nothing_makes_nothing_there(stack, tmp_path, command):
    for name in ("cells_enhanced.ome.tif", "cells_attention.ome.tif", "cells_report.html", "cells_report.json"):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    code, _, err = command.enhance(stack, "--overwrite")
    assert (code, err) == (0, "")
    assert not (tmp_path / "elsewhere").exists()


def test_a_link_to_the_input_is_never_written_through(stack, tmp_path, command, untouched):
    (tmp_path / "link.ome.tif").symlink_to(stack)
    untouched()
    command.enhance_refused(stack, "-o", tmp_path / "link.ome.tif", "--overwrite")


@pytest.mark.parametrize("kind", ["link to a folder", "link to nothing", "file", "folder of others"])
def test_what_lies_where_the_partial_goes_is_left_alone(kind, stack, tmp_path, command, untouched):
    partial, precious = tmp_path / "cells_enhanced.ome.tif.partial", tmp_path / "precious"
    precious.mkdir()
    if kind.startswith("link"):
        partial.symlink_to(precious if kind == "link to a folder" else tmp_path / "nowhere")
    elif kind == "file":
        partial.write_text("keep")
    else:
        partial.mkdir()
        (partial / "thesis.txt").write_text("keep")
    untouched()
    for options in ([], ["--overwrite"], ["--resume"]):
        command.enhance_refused(stack, *options)


def test_a_lock_that_is_a_link_is_not_followed(stack, tmp_path, command):
    partial = tmp_path / "cells_enhanced.ome.tif.partial"
    partial.mkdir()
    (partial / ".cellxlate-lock").symlink_to(tmp_path / "made by the victim")
    command.enhance_refused(stack, "--overwrite")
    assert not (tmp_path / "made by the victim").exists()


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
def test_a_partial_of_another_user_is_not_trusted(stack, tmp_path, command, untouched):
    partial = tmp_path / "cells_enhanced.ome.tif.partial"
    partial.mkdir(mode=0o777)
    (partial / ".cellxlate-lock").touch()
    os.chown(partial, 12_345, 12_345)
    untouched()
    for options in (["--overwrite"], ["--resume"]):
        assert "another user" in command.enhance_refused(stack, *options)


def test_two_jobs_at_one_output_exclude_each_other(stack, tmp_path, command):
    from cellxlate.stacks.write.locking import FolderLock

    lock = FolderLock.acquire(tmp_path / "cells_enhanced.ome.tif.partial")
    for options in ([], ["--overwrite"], ["--resume"]):
        assert "being written by another job" in command.enhance_refused(stack, *options)
    lock.remove()
    assert command.enhance(stack)[0] == 0


def test_results_are_no_more_open_than_the_user_asks(stack, tmp_path, command):
    before = os.umask(0o077)
    try:
        tmp_path.chmod(0o777)
        assert command.enhance(stack)[0] == 0
    finally:
        os.umask(before)
    for name in ("cells_enhanced.ome.tif", "cells_attention.ome.tif", "cells_report.html", "cells_report.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) & 0o077 == 0


def test_a_link_laid_under_an_unfinished_report_is_not_followed(stack, tmp_path, command):
    precious, link = tmp_path / "precious", tmp_path / unfinished_name()
    precious.write_text("keep")
    link.symlink_to(precious)
    assert command.enhance(stack)[0] == 0
    assert precious.read_text() == "keep"
    assert not link.is_symlink(), "nothing was written under this name"
    assert (tmp_path / "cells_report.html").is_file()
    assert not (tmp_path / "cells_report.html").is_symlink()
