"""A file is there as a whole, or as it was before."""

import errno
import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from cellxlate import whole_file
from cellxlate.errors import OutputError
from cellxlate.whole_file import rename_free, unfinished_name, wait_for_disk, write_whole_file

NOT_WINDOWS = pytest.mark.skipif(sys.platform == "win32", reason="rights and files in use are other things there")


@pytest.mark.parametrize("content", ["", "é\r\n\n", b"", b"\r\n\x00\xff"])
def test_what_is_written_is_there_byte_by_byte(tmp_path, content):
    write_whole_file(tmp_path / "a.txt", content)
    assert (tmp_path / "a.txt").read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_what_utf_8_cannot_hold_is_escaped(tmp_path):
    write_whole_file(tmp_path / "a.txt", "a\udcff")
    assert (tmp_path / "a.txt").read_bytes() == b"a\\udcff"


def test_the_longest_name_that_a_folder_holds_can_be_written(tmp_path):
    path = tmp_path / ("a" * 250 + ".html")
    write_whole_file(path, "whole")
    assert path.read_text() == "whole"


def test_an_existing_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a long text that was there before")
    write_whole_file(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch, call, code):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(*_arguments, **_options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os if call == "fsync" else Path, call, fail)
    with pytest.raises(OutputError, match=os.strerror(code)) as refused:
        write_whole_file(path, "new")
    monkeypatch.undo()
    assert "\n" not in str(refused.value)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_the_file_has_its_name_only_after_all_of_it_has_reached_the_disk(tmp_path, monkeypatch):
    path, steps = tmp_path / "a.txt", []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(handle):
        steps.append(("sync", stat.S_ISDIR(os.fstat(handle).st_mode), os.fstat(handle).st_size, path.exists()))
        fsync(handle)

    def watched_replace(self, target):
        steps.append(("rename", self.read_text(), Path(target)))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write_whole_file(path, "whole")
    assert steps[:2] == [("sync", False, 5, False), ("rename", "whole", path)]
    assert steps[2][:2] == ("sync", True)


def test_an_interruption_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted(_handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole_file(path, "new")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_disk_that_cannot_wait_is_not_asked_to(tmp_path, monkeypatch, code):
    def refuse(_handle):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    write_whole_file(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_a_disk_that_lost_what_was_written_is_named(tmp_path, monkeypatch):
    def lost(_handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", lost)
    with pytest.raises(OSError, match="Input/output error"):
        wait_for_disk(tmp_path)


@NOT_WINDOWS
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_umask_says_who_may_read_it(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_whole_file(tmp_path / "a.txt", "mine")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o666 & ~mask


def test_a_link_laid_under_the_unfinished_name_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("keep")
    (tmp_path / unfinished_name()).symlink_to(precious)
    write_whole_file(tmp_path / "a.txt", "new")
    assert precious.read_text() == "keep"
    assert (tmp_path / "a.txt").read_text() == "new"
    assert not (tmp_path / "a.txt").is_symlink()


def test_a_link_laid_again_at_the_last_moment_is_not_followed(tmp_path, monkeypatch):
    precious, unlink = tmp_path / "precious", Path.unlink
    precious.write_text("keep")

    def laid_again(self, missing_ok=False):
        unlink(self, missing_ok=missing_ok)
        monkeypatch.undo()
        self.symlink_to(precious)

    monkeypatch.setattr(Path, "unlink", laid_again)
    with pytest.raises(OutputError, match="File exists"):
        write_whole_file(tmp_path / "a.txt", "new")
    assert precious.read_text() == "keep"
    assert not (tmp_path / "a.txt").exists()


def test_a_link_under_the_name_is_replaced_and_what_it_leads_to_stays(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("keep")
    (tmp_path / "a.txt").symlink_to(precious)
    write_whole_file(tmp_path / "a.txt", "new")
    assert precious.read_text() == "keep"
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_whole_file(tmp_path / "a", "new")
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="No such file or directory") as refused:
        write_whole_file(tmp_path / "no" / "a.txt", "new")
    assert "\n" not in str(refused.value)


@NOT_WINDOWS
def test_threads_that_write_one_file_leave_one_of_theirs(tmp_path):
    path, texts, seen = tmp_path / "a.txt", [letter * 100_000 for letter in "abcd"], set()

    def write_and_read(text):
        for _ in range(3):
            write_whole_file(path, text)
            seen.add(path.read_text())

    threads = [threading.Thread(target=write_and_read, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen <= set(texts)
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("without", [(), ("_rename_by_the_system",), ("_rename_by_the_system", "_rename_by_a_link")])
@pytest.mark.parametrize("kind", ["file", "folder", "empty folder", "link"])
def test_a_name_that_something_has_is_not_taken(tmp_path, monkeypatch, kind, without):
    def unknown(source, target):
        raise OSError(errno.EINVAL, "unknown")

    for call in without:
        monkeypatch.setattr(whole_file, call, unknown)
    for source in (tmp_path / "a", tmp_path / "b"):
        if source.name == "a":
            source.write_text("new")
        else:
            source.mkdir()
        target = tmp_path / f"target-{source.name}"
        if kind == "file":
            target.write_text("mine")
        elif kind == "link":
            target.symlink_to(tmp_path / "absent")
        else:
            target.mkdir()
            if kind == "folder":
                (target / "notes.txt").write_text("mine")
        with pytest.raises(FileExistsError):
            rename_free(source, target)
        assert source.exists()
        assert kind != "file" or target.read_text() == "mine"
        assert kind != "folder" or (target / "notes.txt").read_text() == "mine"
        free = tmp_path / f"free-{source.name}"
        rename_free(source, free)
        assert free.exists()
        assert not source.exists()
