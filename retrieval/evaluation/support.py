"""The support files of the published edit-retrieval splits, so that those splits run unchanged.

A folder of text files, numbers separated by one space, one line a photo or query (Hou et al., ICCV 2021; format as
described in the README of amzn/fashion-attribute-disentanglement):

    attr_num.txt                        how many values each attribute has; their sum is W
    imgs_train.txt, imgs_test.txt       one relative photo path a line
    labels_train.txt, labels_test.txt   W numbers 0/1 a photo: a one-hot block for each attribute, all 0 = missing
    ref_test.txt                        the reference photo of each query: its line in labels_test.txt, from 0
    indfull_test.txt                    W numbers a query: 1 = the value asked for, -1 = the value it replaces, else 0
    gt_test.txt                         W numbers a query: the target's labels

The gallery is the whole test part, references included. In Shopping100k 3,027 of 14,361 queries have no -1: their
reference lacks the attribute, and absence counts as a value that must match. So it does when these files are scored.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.errors import InputError
from retrieval.datasets import onehot
from retrieval.datasets.onehot import Part
from retrieval.evaluation.metrics import Ints
from retrieval.evaluation.protocols import EditQueries


class Split(NamedTuple):
    """A published split. Queries refer to rows of ``test``."""

    sizes: NDArray[np.int64]  # (A,) number of values of each attribute
    train: Part
    test: Part
    queries: EditQueries


def read_split(folder: str | Path) -> Split:
    """Read a folder of support files. InputError names the file and line that does not fit."""
    root = Path(folder)
    sizes = onehot.read_sizes(root / "attr_num.txt")
    train, test = (onehot.read_part(root, name, sizes) for name in ("train", "test"))
    reference = _references(root / "ref_test.txt", len(test.photos))
    ask, ground = root / "indfull_test.txt", root / "gt_test.txt"
    target = onehot.read_codes(ground, sizes)
    onehot.same_length(ground, len(target), root / "ref_test.txt", len(reference))
    edits = _edits(ask, sizes)
    onehot.same_length(ask, len(edits), root / "ref_test.txt", len(reference))
    attribute, value = edits.T
    # The target decides what is right; an edit that asks for something else means the files are not of one split.
    differ = np.flatnonzero(target[np.arange(len(target)), attribute] != value)
    if len(differ):
        raise InputError(
            f"{ask}, line {differ[0] + 1}: asks for a value that the same line of {ground.name} does not have; "
            "take all files from one split"
        )
    valid = np.bincount(attribute, minlength=len(sizes))
    return Split(sizes, train, test, EditQueries(reference, attribute, value, target, valid, 0, 0))


def write_split(folder: str | Path, split: Split) -> None:
    """Write the support files of a split; ``read_split`` gives it back (but for sampling counts of the queries)."""
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    _write(root / "attr_num.txt", map(str, split.sizes))
    for name, part in (("train", split.train), ("test", split.test)):
        _write(root / f"imgs_{name}.txt", part.photos)
        _write(root / f"labels_{name}.txt", map(_line, _one_hot(part.labels, split.sizes)))
    queries = split.queries
    target = _one_hot(queries.target, split.sizes)
    # Only the edited attribute is marked, even if the target should differ from the reference elsewhere.
    edited = np.arange(len(split.sizes)) == queries.attribute[:, None]
    old = np.where(edited, split.test.labels[queries.row], -1)
    new = np.where(edited, queries.target, -1)
    _write(root / "ref_test.txt", map(str, queries.row))
    _write(root / "indfull_test.txt", map(_line, _one_hot(new, split.sizes) - _one_hot(old, split.sizes)))
    _write(root / "gt_test.txt", map(_line, target))


def _references(path: Path, photos: int) -> NDArray[np.int64]:
    lines = enumerate(onehot.read_lines(path), 1)
    return np.array([onehot.whole(path, number, line.strip(), 0, photos - 1) for number, line in lines], dtype=np.int64)


def _edits(path: Path, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indicator lines -> (Q, 2) int64: the attribute and the value asked for."""
    owner, code = onehot.owners(sizes)
    edits = []
    for number, marks in onehot.read_marks(path, sizes, ("1", "-1")):
        added = [column for column, text in marks if text == "1"]
        removed = [owner[column] for column, text in marks if text == "-1"]
        if len(added) != 1 or removed not in ([], [owner[added[0]]]):
            raise InputError(
                f"{path}, line {number}: expected one 1, and at most one -1 in the same attribute "
                f"(found {len(added)} and {len(removed)})"
            )
        edits.append((owner[added[0]], code[added[0]]))
    return np.array(edits, dtype=np.int64).reshape(-1, 2)


def _one_hot(labels: Ints, sizes: NDArray[np.int64]) -> NDArray[np.int8]:
    """(N, A) codes -> (N, W) int8; -1 gives an all-0 block."""
    marks = np.zeros((len(labels), int(sizes.sum())), dtype=np.int8)
    line, attribute = np.nonzero(labels >= 0)
    marks[line, (np.cumsum(sizes) - sizes)[attribute] + labels[line, attribute]] = 1
    return marks


def _line(numbers: NDArray[np.int8]) -> str:
    return " ".join(map(str, numbers.tolist()))


def _write(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
