"""Writing files so that a crash leaves the old or the new one: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from index.errors import GalleryError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".tmp-"  # every unfinished file or folder starts so, and is a leftover when its writer is gone


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def file_facts(path: Path | str) -> dict[str, Any]:
    """{"bytes", "sha256"} of a file: how a manifest names it."""
    return {"bytes": Path(path).stat().st_size, "sha256": sha256_file(path)}


def fsync(path: Path) -> None:
    """Bring a file's bytes, or a folder's names, to the disk."""
    if path.is_dir() and os.name != "posix":
        return  # only POSIX lets a folder be opened
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside ``path``: write a file there or make a folder; at the end it takes the place of ``path``.

    A body that raises leaves ``path`` as it was and nothing beside it. A file replaces an older one; a folder needs a
    name that is free. What the system refuses, as on a full disk or in a read-only folder, is a GalleryError.
    """
    path = Path(path)
    temporary = path.parent / f"{TEMPORARY}{path.name}-{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)
        yield temporary
        for part in [*temporary.rglob("*"), temporary] if temporary.is_dir() else [temporary]:
            fsync(part)
        os.replace(temporary, path)
        fsync(path.parent)
    except OSError as error:
        ours = error.filename is None or str(error.filename).startswith((str(temporary), str(path.parent)))
        if error.errno is None or not ours:  # not the system's, or of another file
            raise
        reason = os.strerror(error.errno)
        raise GalleryError(f"{path}: cannot be written ({reason}); mend that and run again") from error
    finally:
        remove(temporary)


@contextmanager
def only_writer(path: Path | str) -> Iterator[None]:
    """Hold the folder ``path``, made if it is not there, against other writers; readers need no lock.

    The lock is the folder's own (flock), ends with the process however that ends, and leaves no file. GalleryError when
    another process holds it. Where folders cannot be locked (Windows, some network disks) nothing is held.
    """
    path = Path(path)
    made = not os.path.exists(path)
    if fcntl is None or not (made or os.path.isdir(path)):
        yield
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise GalleryError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(handle, path):  # another writer made it, failed and took it away meanwhile
                raise BlockingIOError
        except BlockingIOError:
            made = False
            raise GalleryError(f"{path}: another process is writing it; run again when that has ended") from None
        except OSError:
            pass  # a disk without locks
        yield
    finally:
        if made:
            with suppress(OSError):  # there is something in it
                path.rmdir()
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open folder is the one at this path."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def being_written(path: Path | str) -> bool:
    """Whether another process holds this folder as its ``only_writer``, as far as can be told."""
    try:
        with only_writer(path):
            return False
    except GalleryError:
        return True


def atomic_write(path: Path | str, content: bytes) -> None:
    """Write a whole small file, all or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds, if it is there and the disk allows it."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # a read-only disk refuses this of a file that is not there, too
            os.unlink(path)
