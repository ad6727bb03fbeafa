"""The lists of the published edit-retrieval splits: photos, and their labels as one-hot blocks (Hou et al., ICCV 2021).

    attr_num.txt                        how many values each attribute has; their sum is W
    imgs_train.txt, imgs_test.txt       one relative photo path a line
    labels_train.txt, labels_test.txt   W numbers 0/1 a photo: a one-hot block for each attribute, all 0 = missing

The files name neither attributes nor values, so ``edits`` numbers them: attribute01, with values 01, 02 and so on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.errors import InputError
from retrieval.datasets import lists
from retrieval.datasets.source import PhotoSource


class Part(NamedTuple):
    """One part of a split: photo paths relative to the photo root, and their labels (N, A) int32, -1 = missing."""

    photos: list[str]
    labels: NDArray[np.int32]


def read_sizes(path: Path) -> NDArray[np.int64]:
    """attr_num.txt -> (A,) number of values of each attribute; on one line or one a line, both are in use."""
    sizes = [
        whole(path, number, text, 1, 10**6) for number, line in enumerate(read_lines(path), 1) for text in line.split()
    ]
    if not sizes:
        raise InputError(f"{path}, line 1: is empty; expected the number of values of each attribute")
    return np.array(sizes, dtype=np.int64)


def read_part(root: Path, name: str, sizes: NDArray[np.int64]) -> Part:
    """The photos and labels of one part, "train" or "test". InputError names the file and line that does not fit."""
    photos = read_lines(root / f"imgs_{name}.txt")
    labels = read_codes(root / f"labels_{name}.txt", sizes)
    same_length(root / f"labels_{name}.txt", len(labels), root / f"imgs_{name}.txt", len(photos))
    return Part(photos, labels)


def read_codes(path: Path, sizes: NDArray[np.int64]) -> NDArray[np.int32]:
    """One-hot lines -> (N, A) int32 codes, -1 where a block is all 0."""
    owner, code = owners(sizes)
    rows = []
    for number, marks in read_marks(path, sizes, ("1",)):
        row = [-1] * len(sizes)
        for column, _ in marks:
            if row[owner[column]] >= 0:
                raise InputError(f"{path}, line {number}: attribute {owner[column] + 1} has two values, expected one")
            row[owner[column]] = code[column]
        rows.append(row)
    return np.array(rows, dtype=np.int32).reshape(-1, len(sizes))


def read_marks(
    path: Path, sizes: NDArray[np.int64], allowed: Sequence[str]
) -> Iterable[tuple[int, list[tuple[int, str]]]]:
    """(line number, its columns that are not 0 with their text); checks the width and the numbers of every line."""
    width = int(sizes.sum())
    for number, line in enumerate(read_lines(path), 1):
        texts = line.split()
        if len(texts) != width:
            raise InputError(f"{path}, line {number}: {len(texts)} numbers, expected {width} (the sum of attr_num.txt)")
        marks = [(column, text) for column, text in enumerate(texts) if text != "0"]
        for column, text in marks:
            if text not in allowed:
                raise InputError(
                    f"{path}, line {number}: {text[:40]!r} in column {column + 1}, expected 0 or {allowed}"
                )
        yield number, marks


def owners(sizes: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """For each of the W columns: its attribute, and its value's code."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    code = np.arange(len(owner)) - (np.cumsum(sizes) - sizes)[owner]
    return owner.tolist(), code.tolist()


def read_lines(path: Path) -> list[str]:
    """The lines of a file, none of them empty (the last may end in line feeds)."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); a split needs all its support files") from error
    lines = [line.rstrip("\r") for line in lines]
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise InputError(f"{path}, line {number}: is empty; remove it or restore what stood there")
    return lines


def whole(path: Path, number: int, text: str, low: int, high: int) -> int:
    """A whole number from low to high, or an InputError that names the line."""
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise InputError(f"{path}, line {number}: {text[:40]!r} is not a whole number from {low} to {high}")
    return value


def same_length(path: Path, found: int, other: Path, expected: int) -> None:
    """InputError unless two files that pair line by line have as many lines."""
    if found != expected:
        raise InputError(
            f"{path}, line {min(found, expected) + 1}: {found} lines but {other.name} has {expected}; "
            "they must pair line by line"
        )


# As photos


def is_edits(root: Path) -> bool:
    """Whether the lists of an edit-retrieval split lie in a folder."""
    return all((root / name).is_file() for name in ("attr_num.txt", "imgs_test.txt", "labels_test.txt"))


def edits(root: Path) -> PhotoSource:
    """The photos of a split, train before test, with columns split and one an attribute (see ``names_of``).

    The lists lie in the folder that holds the photos; their paths may start there, or in img/ or Img/. The id is the
    path as listed. InputError.
    """
    sizes = read_sizes(root / "attr_num.txt")
    parts = {name: read_part(root, name, sizes) for name in ("train", "test")}
    paths = [path for part in parts.values() for path in part.photos]
    columns: dict[str, list[str | None]] = {
        "split": [name for name, part in parts.items() for _ in part.photos],
    }
    labels = np.concatenate([part.labels for part in parts.values()])
    for (name, values), column in zip(names_of(sizes).items(), labels.T.tolist(), strict=True):
        columns[name] = [values[code] if code >= 0 else None for code in column]
    return lists.listing(root, paths, columns)


def names_of(sizes: NDArray[np.int64]) -> dict[str, list[str]]:
    """What attributes and values are called that have only numbers: {"attribute01": ["01", "02", ...], ...}.

    Counted from 1 in the order of the columns, with zeros in front, so that they sort as they are numbered.
    """

    def digits(count: int) -> int:
        return max(2, len(str(count)))

    return {
        f"attribute{number:0{digits(len(sizes))}}": [f"{value + 1:0{digits(int(size))}}" for value in range(int(size))]
        for number, size in enumerate(sizes, 1)
    }
