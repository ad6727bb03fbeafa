"""Brute force inner product search: the oracle of every other index, and the index of small galleries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from index.hits import Hits, Keys, Rows, Scores, rank_keys
from index.vectors import release

ROWS_AT_ONCE = 2048  # a block of float32 rows stays in the processor's cache
QUERIES_AT_ONCE = 512
WORTH_SPLITTING = 0.7  # share of the dimensions below which only those asked for are read
MOST_SPANS = 8
ALIKE = 16  # queries that ask for one and the same half of the dimensions or less: so many have products of their own
DOT_COST = 0.08  # a float32 dot product, beside fetching and widening one row for a rerank (1)

Float32 = npt.NDArray[np.float32]


def as_float32(vectors: npt.NDArray[Any]) -> Float32:
    """float16 (..., finite) as float32, exactly; several times faster than ``astype``, which goes number by number.

    The bits of a float16 moved 13 places, sign apart, are those of the float32 that is 2^112 times smaller.
    """
    if vectors.dtype == np.float32:
        return vectors
    out = np.empty(vectors.shape, np.float32)
    bits = out.view(np.int32)
    np.copyto(bits, vectors.view(np.int16))  # spreads the sign bit over the upper half
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, np.int32(0x8FFFE000 - 2**32), out=bits)
    np.multiply(out, np.float32(2.0**112), out=out)
    return out


def checked(queries: npt.NDArray[Any], dim: int, k: int, rows: Rows | None) -> Float32:
    """The queries as contiguous float32 (q, dim).

    ValueError for another shape, a value that is not finite, k below 1, or allowed rows that are not rising int64.
    """
    if queries.ndim != 2 or queries.shape[1] != dim or k < 1:
        raise ValueError(f"queries of shape {queries.shape} and k={k}: need (q, {dim}) and k of at least 1")
    queries = np.ascontiguousarray(queries, np.float32)
    if not np.isfinite(queries).all():
        raise ValueError("a query holds a value that is not finite")
    if rows is not None and len(rows):
        rising = rows.dtype == np.int64 and rows.ndim == 1 and rows[0] >= 0 and (rows[1:] > rows[:-1]).all()
        if not rising:
            raise ValueError("allowed rows must be int64 from 0, rising, each once")
    return queries


def search(
    batches: Iterable[npt.NDArray[Any]] | npt.NDArray[Any], queries: Float32, k: int, rows: Rows | None = None
) -> Hits:
    """The k rows with the largest inner product for each query; ties go to the lower row.

    batches: float16 or float32 (n, D), as one array (a memory map is read piece by piece) or an iterator over it.
    queries: float32 (q, D), already scaled by their weights. rows: the allowed rows, rising int64; None allows all.
    Memory is bounded by a block of rows times a block of queries, whatever n is. Dimensions that no query asks for,
    such as blocks of weight 0, are not read, and many queries that ask for the same few do not pay for the others.
    """
    queries = checked(queries, batches.shape[1] if isinstance(batches, np.ndarray) else queries.shape[-1], k, rows)
    queries, columns = _asked_for(queries)
    there = len(rows) if rows is not None else len(batches) if isinstance(batches, np.ndarray) else k
    best: Keys = np.zeros((len(queries), max(1, min(k, there))), np.uint64)
    worst = np.full(len(queries), -np.inf, np.float32)  # the k-th score so far: lower ones need no key
    groups = _alike(queries)
    for ids, block in _blocks(batches, rows, columns):
        block = as_float32(block)
        for part, span in groups:
            scores = queries[part, span] @ block[:, span].T  # (queries, rows)
            keys = _keys_above(scores, ids, worst[part])
            if keys.shape[1]:
                merged = np.concatenate([best[part], keys], axis=1)
                best[part] = np.partition(merged, keys.shape[1], axis=1)[:, keys.shape[1] :]
                worst[part] = _last_scores(best[part])
    return Hits.from_keys(best, k)


def _asked_for(queries: Float32) -> tuple[Float32, list[slice]]:
    """The queries without the dimensions that are 0 in all of them, and where the others lie (none: everywhere)."""
    asked = np.flatnonzero((queries != 0).any(axis=0))
    if not 0 < len(asked) < WORTH_SPLITTING * queries.shape[1]:
        return queries, []
    spans = np.split(asked, np.flatnonzero(np.diff(asked) > 1) + 1)
    if len(spans) > MOST_SPANS:
        return queries, []
    return np.ascontiguousarray(queries[:, asked]), [slice(int(span[0]), int(span[-1]) + 1) for span in spans]


def _alike(queries: Float32) -> list[tuple[Any, slice]]:
    """(queries to score together, the dimensions they ask for): all of them, each once, at most QUERIES_AT_ONCE."""
    n, dim = queries.shape
    groups: list[tuple[Any, slice]] = []
    rest = np.arange(n)
    if n >= ALIKE:
        asked = queries != 0
        spans = np.stack([asked.argmax(axis=1), dim - asked[:, ::-1].argmax(axis=1)], axis=1)  # first, behind the last
        narrow = np.flatnonzero(2 * (spans[:, 1] - spans[:, 0]) <= dim)
        each, counts = np.unique(spans[narrow], axis=0, return_counts=True)
        for first, behind in each[counts >= ALIKE].tolist():
            members = narrow[(spans[narrow] == (first, behind)).all(axis=1)]
            groups += [
                (members[at : at + QUERIES_AT_ONCE], slice(first, behind))
                for at in range(0, len(members), QUERIES_AT_ONCE)
            ]
            rest = np.setdiff1d(rest, members, assume_unique=True)
    if len(rest) == n:  # the usual case: views, no copies
        return [(slice(at, at + QUERIES_AT_ONCE), slice(None)) for at in range(0, n, QUERIES_AT_ONCE)]
    return groups + [(rest[at : at + QUERIES_AT_ONCE], slice(None)) for at in range(0, len(rest), QUERIES_AT_ONCE)]


def _blocks(
    batches: Iterable[npt.NDArray[Any]] | npt.NDArray[Any], rows: Rows | None, columns: list[slice]
) -> Iterator[tuple[Rows, Any]]:
    """(row numbers, these columns of the vectors) of all allowed rows in order, at most ROWS_AT_ONCE at a time."""
    start = 0

    def part(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.concatenate([block[:, span] for span in columns], axis=1) if columns else block

    for batch in [batches] if isinstance(batches, np.ndarray) else batches:
        within = None if rows is None else rows[slice(*np.searchsorted(rows, [start, start + len(batch)]))]
        for at in range(0, len(batch) if within is None else len(within), ROWS_AT_ONCE):
            if within is None:
                block = batch[at : at + ROWS_AT_ONCE]
                yield np.arange(start + at, start + at + len(block)), part(block)
            else:
                ids = within[at : at + ROWS_AT_ONCE]
                yield ids, part(batch.take(ids - start, axis=0))
        start += len(batch)
    if rows is not None and len(rows) and rows[-1] >= start:
        raise ValueError(f"allowed row {rows[-1]} of a table of {start}")


def _keys_above(scores: Scores, ids: Rows, worst: Scores) -> Keys:
    """Keys of the scores above each query's worst, 0 elsewhere, (queries, as many as the most any query has)."""
    query, at = np.nonzero(scores > worst[:, None])  # an equal score in a later row never enters
    counts = np.bincount(query, minlength=len(scores))
    keys = np.zeros((len(scores), counts.max(initial=0)), np.uint64)
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    keys[query, place] = rank_keys(scores[query, at], ids[at])
    return keys


def _last_scores(best: Keys) -> Scores:
    """The k-th best score of each query, -inf while it has fewer."""
    lowest = Hits.from_keys(best.min(axis=1, keepdims=True), 1)
    return lowest.scores[:, 0]


class ExactIndex:
    """Brute force over float16 (N, D), usually a memory map; the same ``search`` as ApproximateIndex."""

    recall = 1.0

    def __init__(self, vectors: npt.NDArray[np.float16]) -> None:
        self.vectors = vectors

    def search(
        self,
        queries: Float32,
        k: int,
        *,
        recall: float | None = None,
        nprobe: int | None = None,
        rerank: int | None = None,
        rows: Rows | None = None,
    ) -> Hits:
        """The exact k best of the allowed rows; see ``search``. recall, nprobe and rerank have nothing to choose."""
        return search(self.vectors, queries, k, rows)

    def release(self) -> None:
        """Give back the pages of the mapped vectors that searches have read."""
        release(self.vectors)

    def expected_recall(self, recall: float | None = None, k: int = 1, queries: Float32 | None = None) -> float:
        return 1.0
