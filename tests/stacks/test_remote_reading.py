"""Zarr in buckets and on the web: the pixels of the file; what cannot be had is an error and never zeros."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import cellxlate
from cellxlate import locations
from cellxlate.cli import main
from cellxlate.errors import CellxlateError, InputError, OptionError
from cellxlate.locations import RemotePath, located
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks

pytestmark = pytest.mark.usefixtures("remote_packages")

PIXELS = np.random.default_rng(0).integers(1, 60000, (2, 2, 600, 300), dtype=np.uint16)


class Web:
    """A server of files that can be told to fail."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ranges = folder, True
        self.faults: dict[str, str | int] = {}
        self.asked: list[str] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        file = self.folder / request.path.lstrip("/")
        fault = next((what for part, what in self.faults.items() if part in request.path), None)
        if fault == "silent":
            time.sleep(1.5)
            return
        if isinstance(fault, int) or not file.is_file():
            request.send_error(fault if isinstance(fault, int) else 404)
            return
        content, status, asked = file.read_bytes(), 200, request.headers.get("Range")
        total = len(content)
        if asked and self.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            content = content[int(first) : int(last) + 1] if first and last else (
                content[int(first) :] if first else content[-int(last) :]
            )  # fmt: skip
            status = 206
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        if status == 206:
            request.send_header("Content-Range", f"bytes 0-{len(content) - 1}/{total}")
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content[: len(content) // 2] if fault == "cut" else content)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    folder = tmp_path / "served"
    folder.mkdir()
    write_stacks([(Stack(PIXELS, "TCYX", pixel_size_um={"Y": 0.2, "X": 0.2}), folder / "cells.ome.zarr")])
    served = Web(folder)
    yield served
    served.server.shutdown()
    served.server.server_close()


def read(place: str | Path) -> Any:
    with cellxlate.open_stack(place) as stack:
        return np.concatenate([stack.read(index)[None] for index in stack.plane_indices()])


def all_planes() -> Any:
    return PIXELS.reshape(-1, 600, 300)


@pytest.mark.parametrize("ranges", [True, False])
def test_the_web_gives_the_pixels_also_where_it_knows_no_parts_of_files(web: Web, ranges: bool) -> None:
    web.ranges = ranges
    place = f"{web.url}/cells.ome.zarr"
    assert np.array_equal(read(place), all_planes())
    with cellxlate.open_stack(place) as stack:
        assert (stack.axes, stack.name, str(stack.path)) == ("TCYX", "cells", place)
        assert stack.pixel_size_um == {"Y": 0.2, "X": 0.2}
        assert stack.warnings == ()


def test_a_bucket_gives_what_was_written_into_it(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"{bucket}/deep/er/cells.ome.zarr"
    write_stacks([(Stack(PIXELS, "TCYX", channel_names=("a", "b")), place)])
    assert np.array_equal(read(place), all_planes())
    assert main(["info", place, "--json"]) == 0
    assert '"channels": ["a", "b"]' in capsys.readouterr().out


@pytest.mark.parametrize("version", [2, 3])
def test_chunks_that_are_not_there_are_the_fill_value(web: Web, version: int) -> None:
    array = zarr.create_array(
        web.folder / "plain.zarr", shape=(4, 8), chunks=(2, 8), dtype="uint8", fill_value=9, zarr_format=version
    )
    array[2:] = 5
    found = read(f"{web.url}/plain.zarr")[0]
    assert (found[:2] == 9).all()
    assert (found[2:] == 5).all()


def test_chunks_that_a_bucket_lacks_are_told(bucket: str) -> None:
    place = located(f"{bucket}/cells.ome.zarr")
    write_stacks([(Stack(PIXELS, "TCYX"), place)])
    (place / "0/c/1/0/0/0").unlink()
    with cellxlate.open_stack(place) as stack:
        assert "1 of 8 chunks have no file" in stack.warnings[0]
        assert not stack.read((1, 0), slice(0, 512)).any()


@pytest.mark.parametrize("fault", [403, 500, 503, "silent", "cut"])
def test_a_chunk_that_cannot_be_had_is_an_error_and_never_zeros(
    web: Web, fault: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locations, "READ_S", 0.5)
    place = f"{web.url}/cells.ome.zarr"
    with cellxlate.open_stack(place) as stack:
        web.faults["0/c/1/0"] = fault
        assert stack.read((0, 0)).any()
        with pytest.raises(InputError, match=r"T=1, C=0 cannot be read .*; run again with resume=True"):
            stack.read((1, 0))


@pytest.mark.parametrize("fault", [403, 500])
def test_metadata_that_cannot_be_had_are_no_other_kind_of_image(web: Web, fault: int) -> None:
    web.faults["zarr.json"] = fault
    with pytest.raises(InputError, match=r"cannot be read .*check the address, your rights and the network"):
        cellxlate.open_stack(f"{web.url}/cells.ome.zarr")


@pytest.mark.parametrize(("fault", "message"), [(403, "Forbidden"), (500, "Internal|500")])
def test_an_object_that_a_bucket_refuses_is_an_error_and_never_zeros(
    web: Web, bucket: str, monkeypatch: pytest.MonkeyPatch, fault: int, message: str
) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    shutil.copytree(web.folder / "cells.ome.zarr", web.folder / "lab/cells.ome.zarr")
    array = zarr.open_array(locations_store("s3://lab/cells.ome.zarr/0"), mode="r")
    assert np.array_equal(array[0, 0], PIXELS[0, 0])
    web.faults["0/c/1/0"] = fault
    with pytest.raises(OSError, match=message):
        array[1, 0]


def locations_store(place: str) -> Any:
    from cellxlate.stacks.stores.store import store_of

    return store_of(located(place))


def test_a_server_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(["info", f"http://127.0.0.1:{port}/cells.ome.zarr"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_addresses_in_metadata_are_not_followed(web: Web, tmp_path: Path) -> None:
    elsewhere = Web(tmp_path)
    metadata = web.folder / "cells.ome.zarr/zarr.json"
    for path in (f"{elsewhere.url}/x", "//127.0.0.1/x", f"../../{elsewhere.url}"):
        metadata.write_text(metadata.read_text().replace('"path": "0"', f'"path": "{path}"'))
        with pytest.raises(InputError):
            cellxlate.open_stack(f"{web.url}/cells.ome.zarr")
        metadata.write_text(metadata.read_text().replace(f'"path": "{path}"', '"path": "0"'))
    assert elsewhere.asked == []
    assert all(place.startswith("/cells.ome.zarr/") for place in web.asked)
    elsewhere.server.shutdown()
    elsewhere.server.server_close()


def test_a_plate_on_the_web_is_walked_well_by_well(web: Web) -> None:
    from cellxlate.enhancement.outputs.names import find_inputs

    plate = zarr.open_group(web.folder / "plate.ome.zarr", mode="w")
    wells = [{"path": "A/1", "rowIndex": 0, "columnIndex": 0}, {"path": "B/2", "rowIndex": 1, "columnIndex": 1}]
    plate.update_attributes({"ome": {"version": "0.5", "plate": {"wells": wells}}})
    for well in wells:
        group = plate.create_group(str(well["path"]))
        group.update_attributes({"ome": {"version": "0.5", "well": {"images": [{"path": "0"}]}}})
        shutil.copytree(web.folder / "cells.ome.zarr", web.folder / f"plate.ome.zarr/{well['path']}/0")
    found = find_inputs([located(f"{web.url}/plate.ome.zarr")])[0]
    assert [str(place) for place in found] == [f"{web.url}/plate.ome.zarr/{well}/0" for well in ("A/1", "B/2")]
    assert np.array_equal(read(str(found[1])), all_planes())
    with cellxlate.open_stack(found[1]) as stack:
        assert stack.name == "plate_B_2_0"


@pytest.mark.parametrize(
    "place",
    ["https://user:hush@host/a.zarr", "https://host/a.zarr?sig=hush", "s3://key:hush@bucket/a.zarr", "s3://b/a#hush"],
)
def test_an_address_that_holds_a_secret_is_refused_and_not_repeated(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OptionError, match="which would end in reports"):
        cellxlate.open_stack(place)
    with pytest.raises(SystemExit) as ended:
        main(["enhance", place])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "hush" not in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("gs://bucket/a.zarr", "gs:// is not known"),
        ("s3://", "no whole address"),
        ("s3://bucket/../other/a.zarr", "no whole address"),
        ("file://host/a.zarr", "three slashes"),
    ],
)
def test_what_is_no_address_is_refused(place: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        located(place)


def test_places_of_this_machine_stay_paths(tmp_path: Path) -> None:
    assert located("a/b.tif") == Path("a/b.tif")
    assert located(r"C:\a\b.tif") == Path(r"C:\a\b.tif")
    assert located(tmp_path.as_uri() + "/a%20b.zarr") == tmp_path / "a b.zarr"
    place = RemotePath("s3", ("bucket", "a", "b.ome.zarr"))
    assert located("s3://bucket/a/b.ome.zarr") == located(Path("s3://bucket/a/b.ome.zarr")) == place
    assert (place.name, place.stem, place.suffix, str(place.parent)) == (
        "b.ome.zarr", "b.ome", ".zarr", "s3://bucket/a"
    )  # fmt: skip
    assert str(place.relative_to(place.parents[1])) == "a/b.ome.zarr"
    with pytest.raises(TypeError):
        Path(place)  # type: ignore[arg-type]


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("https", "aiohttp")])
def test_without_the_packages_one_line_says_which(
    scheme: str, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    assert main(["info", f"{scheme}://host/a.zarr"]) == 2
    assert 'pip install "cellxlate[remote]"' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["none.ome.zarr", "cells.ome.tif"])
def test_what_is_not_there_or_no_zarr_is_one_line(web: Web, name: str) -> None:
    (web.folder / "cells.ome.tif").write_bytes(b"II*\0")
    with pytest.raises(InputError, match="is no Zarr image, or is not there"):
        cellxlate.open_stack(f"{web.url}/{name}")


def test_nothing_can_be_written_on_the_web(web: Web, tiny_model: Path, tmp_path: Path) -> None:
    place = f"{web.url}/cells.ome.zarr"
    with pytest.raises(CellxlateError, match="nothing can be written; give output= or output_dir="):
        cellxlate.enhance_file(place, tiny_model)
    report = cellxlate.enhance_file(place, tiny_model, output_dir=tmp_path / "out")
    expected = cellxlate.enhance_file(web.folder / "cells.ome.zarr", tiny_model, output_dir=tmp_path / "local")
    assert np.array_equal(read(str(report.outputs["enhanced"])), read(str(expected.outputs["enhanced"])))
    assert 0 < report.changed_fraction == expected.changed_fraction
    assert place in report.command
