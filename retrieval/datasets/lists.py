"""The text lists that published data sets come with, and a listing made of what they name.

A list is a file whose first line is a count and whose second line names the entries; then one line a record, entries
separated by spaces (DeepFashion, all of its benchmarks). ``table`` reads one; ``listing`` turns records into a
``PhotoSource`` and keeps apart those whose photo is not there.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from index.errors import InputError
from retrieval.datasets.records import Missing
from retrieval.datasets.source import PhotoSource
from retrieval.datasets.tables import strings

Columns: TypeAlias = Mapping[str, Iterable[str | None]]  # label columns: one value a photo, None or "" = blank
LISTED = "listed, but no photo"
FOLDERS = ("", "Anno", "Anno_coarse", "Eval", "anno", "eval")  # where the lists lie, as published or all in one


def find(root: Path, name: str, folders: Sequence[str] = FOLDERS) -> Path | None:
    """The list called ``name`` in one of the usual folders below root, or None."""
    return next((path for path in (root / folder / name for folder in folders) if path.is_file()), None)


def need(root: Path, name: str, what: str, folders: Sequence[str] = FOLDERS) -> Path:
    """The list called ``name``; InputError says that the data set ``what`` has it."""
    path = find(root, name, folders)
    if path is None:
        places = ", ".join(f"{folder}/" if folder else "the folder itself" for folder in folders)
        raise InputError(f"{root}: no {name}, which {what} comes with; looked in {places}")
    return path


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, line without its end) of a text file; InputError where it is no UTF-8 text."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; take the file as it was published") from None


def header(path: Path) -> list[str]:
    """The entry names of a list: the words of its second line; [] where it has none."""
    for number, line in lines(path):
        if number == 2:
            return line.split()
    return []


def table(path: Path, entries: int, spaced: bool = False) -> Iterator[tuple[int, list[str]]]:
    """(line number, entries) of every record of a list; a record has at least ``entries``.

    spaced: the first entry may hold spaces (attribute names), so a record is its last ``entries`` - 1 words and all
    that stands before them. Raises InputError for a first line that is no count, a record that is short, and a file
    that ends before its count is reached (a download that was cut off).
    """
    count, found = -1, 0
    for number, line in lines(path):
        words = line.split()
        if number == 1:
            if len(words) != 1 or not words[0].isdigit():
                raise InputError(f"{path}, line 1: {line[:40]!r} is not the number of records")
            count = int(words[0])
        if number < 3 or not words:
            continue
        if len(words) < entries:
            raise InputError(f"{path}, line {number}: {len(words)} entries, expected {entries}")
        if spaced:
            cut = len(words) - (entries - 1)
            words = [" ".join(words[:cut]), *words[cut:]]
        found += 1
        yield number, words
    if found < count:
        raise InputError(f"{path}: holds {found:,} of {count:,} records; it was cut off, download it again")


def whole(path: Path, number: int, texts: Sequence[str]) -> tuple[int, int, int, int]:
    """Four numbers of a box as whole pixels. InputError names the line."""
    try:
        a, b, c, d = (round(float(text)) for text in texts)
    except (ValueError, OverflowError):
        raise InputError(f"{path}, line {number}: {' '.join(texts)[:60]!r} is not a box of four numbers") from None
    return a, b, c, d


def box(path: Path, number: int, corners: Sequence[str]) -> str:
    """Corners x1, y1, x2, y2 -> "x,y,w,h", whole pixels. InputError names the line."""
    left, top, right, bottom = whole(path, number, corners)
    return f"{left},{top},{right - left},{bottom - top}"


def listing(
    root: Path,
    paths: Sequence[str],
    columns: Columns,
    inside: Sequence[str] = ("", "Img", "img"),
    ids: Sequence[str] | None = None,
) -> PhotoSource:
    """The photos of ``paths`` that are there, in that order, with their label columns (one value a path).

    inside: folders below root in which the paths may start; the first that holds any photo is taken. ids: default the
    paths. Photos that are not there go to ``missing``. InputError where there is none at all, or a path comes twice.
    """
    names = list(ids) if ids is not None else list(paths)
    if len(set(names)) != len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise InputError(f"{root}: {twice!r} is listed twice; take the lists as they were published")
    for folder in inside:
        placed = [f"{folder}/{path}" if folder else path for path in paths]
        there = [os.path.isfile(root / path) for path in placed]
        if any(there):
            break
    else:
        first = f" (the first is {paths[0]})" if paths else ""
        raise InputError(f"{root}: none of the {len(paths):,} photos listed is there{first}; unpack the photos into it")
    kept = [row for row, found in enumerate(there) if found]
    table = {"id": strings([names[row] for row in kept]), "path": strings([placed[row] for row in kept])}
    for name, values in columns.items():
        every = list(values)
        table[name] = pa.array([every[row] or None for row in kept], pa.string())
    missing = [Missing(names[row], placed[row], LISTED) for row, found in enumerate(there) if not found]
    return PhotoSource(root, pa.table(table), tuple(missing))
