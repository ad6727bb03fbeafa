from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from index.errors import GalleryError, InputError
from index.files import (
    TEMPORARY,
    atomic_path,
    atomic_write,
    being_written,
    file_facts,
    only_writer,
    remove,
    sha256_file,
)
from tests.index.conftest import refused


def test_facts_are_of_the_whole_file(tmp_path: Path) -> None:
    content = os.urandom((1 << 20) + 17)  # more than one piece
    (tmp_path / "big").write_bytes(content)
    assert sha256_file(tmp_path / "big") == hashlib.sha256(content).hexdigest()
    assert file_facts(tmp_path / "big") == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    atomic_write(tmp_path / "new" / "file", b"old")
    atomic_write(tmp_path / "new" / "file", b"new")
    assert (tmp_path / "new" / "file").read_bytes() == b"new"
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["file"]


def test_body_that_raises_leaves_the_old_file(tmp_path: Path) -> None:
    atomic_write(tmp_path / "file", b"old")

    def half() -> None:
        with atomic_path(tmp_path / "file") as temporary:
            temporary.write_bytes(b"half")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        half()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "inside").write_text("x")
        assert temporary.name.startswith(TEMPORARY)
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "inside").read_text() == "x"


def test_bytes_reach_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(handle: int) -> None:
        steps.append("fsync")
        fsync(handle)

    def record_replace(old: Path, new: Path) -> None:
        steps.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    atomic_write(tmp_path / "file", b"x")
    assert steps == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EFBIG, errno.EIO])
def test_disk_that_takes_nothing_is_one_line(tmp_path: Path, code: int) -> None:
    with pytest.raises(GalleryError, match=os.strerror(code)), atomic_path(tmp_path / "file"):
        raise OSError(code, os.strerror(code))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_read_only_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    with monkeypatch.context() as patch:
        refused(patch, code)
        with pytest.raises(GalleryError, match=f"cannot be written .{os.strerror(code)}"):
            atomic_write(tmp_path / "file", b"x")
        with pytest.raises(GalleryError, match=os.strerror(code)), atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
        remove(tmp_path / "nothing")


def test_a_name_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 300), tmp_path / ("x" * 300) / "y"):
        with pytest.raises(GalleryError, match="cannot be written"), only_writer(path):
            pytest.fail("entered")
        with pytest.raises(GalleryError, match="cannot be written"):
            atomic_write(path, b"x")


posix = pytest.mark.skipif(os.name != "posix", reason="only POSIX locks folders")


@posix
def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    with only_writer(folder):
        (folder / "part").write_bytes(b"1")
        with pytest.raises(GalleryError, match="another process is writing it"), only_writer(folder):
            pytest.fail("entered")
        assert being_written(folder)
    assert not being_written(folder)
    with only_writer(folder):
        assert [each.name for each in folder.iterdir()] == ["part"]  # the lock is no file


@posix
def test_a_killed_writer_holds_nothing(tmp_path: Path) -> None:
    body = (
        "import os, sys\n"
        "from index.files import only_writer\n"
        "with only_writer(sys.argv[1]):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", body, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(GalleryError, match="another process"), only_writer(tmp_path):
            pytest.fail("entered")
        process.kill()
    with only_writer(tmp_path):
        pass


@posix
def test_a_folder_made_for_the_lock_alone_goes_with_it(tmp_path: Path) -> None:
    with pytest.raises(InputError), only_writer(tmp_path / "new"):
        raise InputError("nothing to write")
    assert not any(tmp_path.iterdir())


def test_a_refused_writer_leaves_the_folder_to_the_one_that_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that both found no folder: the second must not take away what the first one holds."""
    path = tmp_path / "gallery"
    with only_writer(path):
        with monkeypatch.context() as patch:
            patch.setattr(os.path, "exists", lambda _: False)
            with pytest.raises(GalleryError, match="another process is writing it"), only_writer(path):
                pass
        assert path.is_dir()


def test_a_lock_on_a_folder_that_is_gone_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "gallery", os.open

    def late(name: Path, *flags: int) -> int:
        handle = real(name, *flags)
        if name == path:  # whoever made it failed, took it away, and a third one made it anew
            path.rmdir()
            path.mkdir()
        return handle

    path.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", late)
        with pytest.raises(GalleryError, match="another process is writing it"), only_writer(path):
            pass
    with only_writer(path):
        pass
