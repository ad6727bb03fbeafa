"""FashionAI's labels as targets: a letter for each value of an attribute, y (has it), m (may have it), n (has not)."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from index.errors import InputError


def values_in(cell: str | None) -> list[str]:
    """The values in a cell of a multi-label column, none for a blank one: ``striped|floral`` (or ``;``) are two."""
    return list(dict.fromkeys(value for part in re.split(r"[|;]", cell or "") if (value := part.strip())))


def written(values: Iterable[str], has: Container[str], maybe: Container[str] = ()) -> str | None:
    """A letter for each of ``values``: y if the photo has it, m if it may have it, else n. None, for no label, without
    a y."""
    letters = "".join("y" if value in has else "m" if value in maybe else "n" for value in values)
    return letters if "y" in letters else None


def targets(letters: Sequence[str | None], seed: int = 0) -> npt.NDArray[np.int8]:
    """``["nym", ...]`` -> (n, V) int8: 1 for y, 0 for n; an m becomes either with probability one half, drawn by the
    seed. A blank label is a row of -1.

    InputError for another letter, and where labels differ in length.
    """
    known = [text for text in letters if text]
    width = len(known[0]) if known else 0
    for text in known:
        if len(text) != width or set(text) - set("ymn"):
            raise InputError(f"{text[:20]!r}: a label of {width} letters, each y, m or n, was expected")
    table = np.array([list(text or "-" * width) for text in letters], dtype="<U1").reshape(len(letters), width)
    heads = np.random.default_rng(seed).integers(0, 2, table.shape)
    result: npt.NDArray[np.int8] = np.select([table == "y", table == "n", table == "m"], [1, 0, heads], -1).astype(
        np.int8
    )
    return result
