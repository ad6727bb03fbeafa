"""What photo files lie in a folder: relative paths in a stable order, and what could not be looked at."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path

from retrieval.datasets.records import Missing

# HEIC is listed though Pillow cannot decode it: a photo must be counted and rejected, not passed over in silence
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
)


def scan(root: Path, inside: str) -> tuple[list[str], list[Missing]]:
    """Relative posix paths of all photos under root/inside, sorted. Hidden entries are skipped, links are followed.

    A link to a folder that holds it would never end, so a folder is not entered again from within itself.
    """
    paths: list[str] = []
    missing: list[Missing] = []
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(inside, ())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status = os.stat(root / folder)
            here = (status.st_dev, status.st_ino)
            if here in above:
                continue
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = posixpath.join(folder, entry.name)
                    if is_folder(entry):
                        waiting.append((path, (*above, here)))
                    elif posixpath.splitext(entry.name)[1].lower() in SUFFIXES:
                        paths.append(path)
        except OSError as error:
            if folder == inside:
                raise
            missing.append(Missing("", printable(folder), f"a folder that cannot be listed ({error.strerror})"))
    unreadable = [path for path in paths if printable(path) != path]
    missing += [Missing("", printable(path), "its name is not UTF-8; rename it") for path in unreadable]
    paths = sorted(set(paths) - set(unreadable))
    return paths, sorted(missing)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or leads to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def printable(name: str) -> str:
    """A file name as text that can be written: bytes that are no UTF-8 become \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
