"""Near-duplicate rows: each row asks the index for its neighbours above a score, and pairs are joined to groups.

The work is one search a row, not rows times rows. Rows of one content hash are told by it: one of them stands for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from index import ranges
from index.exact import as_float32
from index.filters import Columns
from index.gallery import Gallery
from index.hits import Rows, Scores

ROWS_AT_ONCE = 256
FIRST, MOST = 16, 1024  # neighbours of a row asked for at first, and at most: a chain of pairs joins what lies denser


@dataclass(frozen=True)
class Pairs:
    """Rows that are alike, ``first`` < ``second``, each pair once, in order. ``score``: weighted mean cosine over
    blocks. ``exact``: the very same file."""

    first: Rows
    second: Rows
    score: Scores
    exact: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        if (self.first >= self.second).any():
            raise ValueError("the first row of a pair must be the lower one")


def pairs(
    gallery: Gallery,
    index: ranges.Index,
    weights: Mapping[str, float],
    threshold: float,
    *,
    rows: Rows | None = None,
    recall: float | None = None,
    progress: bool = False,
) -> Pairs:
    """All pairs of rows with a score of at least ``threshold``, as far as the index finds them, and all of one file.

    weights: of every block, not all 0. rows: rising int64, the rows that are compared; None for all. Of rows with one
    content hash only the first is compared with others; the rest are paired with it.
    """
    scale, total = gallery.manifest.layout.scale(weights), np.float32(sum(weights.values()))
    rows = np.arange(gallery.manifest.rows) if rows is None else rows
    codes = Columns(gallery).codes("content_hash")[rows]
    _, at, which = np.unique(codes, return_index=True, return_inverse=True)
    stands = rows[at[which]]  # for each row the first of its file
    copies = stands != rows
    asked = rows[~copies]
    allowed = None if len(asked) == gallery.manifest.rows else asked
    limit = np.float32(total * (threshold - 1e-5))  # a hair less for rounding; cut exactly below
    first, second, score = [stands[copies]], [rows[copies]], [scores(gallery, stands[copies], rows[copies], scale)]
    with tqdm(total=len(asked), desc="neighbours", unit="row", disable=None if progress else True) as bar:
        for start in range(0, len(asked), ROWS_AT_ONCE):
            part = asked[start : start + ROWS_AT_ONCE]
            queries = as_float32(gallery.vectors(part)) * scale
            limits = np.full(len(part), limit)
            found = ranges.above(index, queries, limits, rows=allowed, recall=recall, first=FIRST, most=MOST)
            counts = [len(near) for near, _ in found]
            mine, near = np.repeat(part, counts), np.concatenate([near for near, _ in found])
            other = mine != near
            first.append(np.minimum(mine, near)[other])
            second.append(np.maximum(mine, near)[other])
            score.append(np.concatenate([scores for _, scores in found])[other])
            bar.update(len(part))
    low, high, means = np.concatenate(first), np.concatenate(second), np.concatenate(score) / total
    exact = np.arange(len(low)) < copies.sum()
    keep = exact | (means.astype(np.float64) >= threshold)
    low, high, means, exact = low[keep], high[keep], means[keep], exact[keep]
    once = np.unique(low * gallery.manifest.rows + high, return_index=True)[1]  # most are found from both sides
    return Pairs(low[once], high[once], means[once], exact[once])


def groups(rows: int, first: Rows, second: Rows) -> Rows:
    """Connected components: the lowest row that a chain of pairs joins to each of ``rows`` rows, int64 (rows,)."""
    lowest = np.arange(rows)
    while True:
        a, b = lowest[first], lowest[second]
        if (a == b).all():
            return lowest
        np.minimum.at(lowest, np.maximum(a, b), np.minimum(a, b))
        while (lowest[lowest] != lowest).any():
            lowest = lowest[lowest]


def scores(gallery: Gallery, first: Rows, second: Rows, scale: npt.NDArray[np.float32]) -> Scores:
    """Weighted inner products of rows with rows, float32, a piece at a time."""
    out = np.empty(len(first), np.float32)
    for start in range(0, len(first), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        a, b = (as_float32(gallery.vectors(each[part])) for each in (first, second))
        out[part] = (a * scale * b).sum(axis=1)
    return out
