"""Search over an index, rows added behind it, and rows removed since: always the live rows, always enough of them."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from index.approximate import ApproximateIndex
from index.exact import ExactIndex, Float32, as_float32, checked
from index.exact import search as exact_search
from index.hits import Hits, Keys, Rows, rank_keys

WIDER = 4  # a query that met too many removed rows is asked again for so many times more
MOSTLY_REMOVED = 0.5  # share of removed rows from which they are filtered out in the search itself


class LiveIndex:
    """``base`` over rows 0..n, the vectors of rows n..N behind it, and the rows of both that were removed.

    It has the ``search`` and ``expected_recall`` of its base. The tail is searched exactly. A base answers with removed
    rows too: it is asked for as many more as there are removed rows to expect, and a query that still gets too few is
    asked again, wider, then among the live rows alone. So the neighbours wanted are always among those whose recall the
    base promises: the best k live rows are among the best k + d of all, where d removed ones come first.
    """

    def __init__(self, base: ExactIndex | ApproximateIndex, tail: npt.NDArray[np.float16], removed: Rows) -> None:
        """tail: float16 (t, D), the rows behind the base's, in order. removed: table rows, rising int64."""
        self.base = base
        self.indexed, self.rows = len(base.vectors), len(base.vectors) + len(tail)
        if len(removed) and not (removed[0] >= 0 and removed[-1] < self.rows and (removed[1:] > removed[:-1]).all()):
            raise ValueError(f"removed rows must rise within 0..{self.rows - 1}")
        self.tail, self.removed = tail, removed
        self._in_base = int(np.searchsorted(removed, self.indexed))  # removed rows of the base
        self._tail_rows = np.setdiff1d(np.arange(self.indexed, self.rows), removed[self._in_base :], assume_unique=True)
        self._tail = as_float32(tail.take(self._tail_rows - self.indexed, axis=0))  # widened once, live rows only

    @property
    def vectors(self) -> npt.NDArray[np.float16]:
        """All rows, removed ones too, float16 (N, D): a copy in memory when there is a tail."""
        return np.concatenate([self.base.vectors, self.tail]) if len(self.tail) else self.base.vectors

    def exact(self) -> LiveIndex:
        """The same rows behind brute force."""
        return LiveIndex(ExactIndex(self.base.vectors), self.tail, self.removed)

    def expected_recall(self, recall: float | None = None, k: int = 10, queries: Float32 | None = None) -> float:
        """What was measured of the base's setting that ``search(recall=recall, k=k)`` uses at first."""
        return self.base.expected_recall(recall, self._width(k), queries)

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
        """The k best live rows for each query, of the allowed ones; arguments as those of the base.

        A query gets min(k, allowed live rows) hits; ties go to the lower row.
        """
        how = {"recall": recall, "nprobe": nprobe, "rerank": rerank}
        if rows is None and not self._in_base and not len(self._tail_rows):
            return self.base.search(queries, k, **how)  # type: ignore[arg-type]
        queries = checked(queries, self.base.vectors.shape[1], k, rows)
        if rows is None:
            return self._merged(queries, k, self._base_keys(queries, k, how), None)
        if len(rows) and rows[-1] >= self.rows:
            raise ValueError(f"allowed row {rows[-1]} of a table of {self.rows}")
        allowed = rows[self._alive[rows]] if len(self.removed) else rows
        cut = int(np.searchsorted(allowed, self.indexed))
        keys: Keys = np.zeros((len(queries), 0), np.uint64)
        if cut:
            keys = _keys(self.base.search(queries, k, **how, rows=allowed[:cut]))  # type: ignore[arg-type]
        within = np.searchsorted(self._tail_rows, allowed[cut:])
        return self._merged(queries, k, keys, within)

    def _merged(self, queries: Float32, k: int, keys: Keys, within: Rows | None) -> Hits:
        """The base's keys (q, any) and the tail's best: of all its live rows, or of those at ``within``."""
        if len(self._tail_rows) and (within is None or len(within)):
            found = exact_search(self._tail, queries, min(k, len(self._tail_rows)), within)
            rows = self._tail_rows[np.maximum(found.rows, 0)]
            tail = rank_keys(found.scores, rows)
            tail[found.rows < 0] = 0
            keys = np.concatenate([keys, tail], axis=1)
        return Hits.from_keys(keys, k)

    def _base_keys(self, queries: Float32, k: int, how: dict[str, Any]) -> Keys:
        """The k best live rows of the base as ``rank_keys``, (q, k)."""
        live = self.indexed - self._in_base
        enough = min(k, live)
        if not enough:
            return np.zeros((len(queries), 0), np.uint64)
        if not self._in_base:
            return _keys(self.base.search(queries, k, **how))
        out: Keys = np.zeros((len(queries), k), np.uint64)
        short = np.arange(len(queries))  # queries that still lack hits
        width = self._width(k)
        for wanted in (width, WIDER * width) if self._in_base <= MOSTLY_REMOVED * self.indexed else ():
            keys = self._without_removed(self.base.search(queries[short], min(wanted, self.indexed), **how), k)
            out[short, : keys.shape[1]] = keys
            short = short[(keys > 0).sum(axis=1) < enough]
            if not len(short):
                return out
        out[short] = _keys(self.base.search(queries[short], k, **how, rows=self._live_base))
        return out

    def _width(self, k: int) -> int:
        """How many hits to ask the base for, so that k live ones are usually among them."""
        share = self._in_base / self.indexed
        expected = k * share / max(1 - share, 1e-9) if share <= MOSTLY_REMOVED else 0
        # a rare removed row is cheaper met by asking again; where they are many, their number varies
        return k + (math.ceil(expected + 2 * math.sqrt(expected)) if expected > 0.05 else 0)

    def _without_removed(self, hits: Hits, k: int) -> Keys:
        """Keys of the k best live rows of hits of the base."""
        keys = _keys(hits)
        keys[~self._alive[np.maximum(hits.rows, 0)]] = 0
        width = keys.shape[1]
        return keys if width <= k else np.partition(keys, width - k, axis=1)[:, width - k :]

    @cached_property
    def _alive(self) -> npt.NDArray[np.bool_]:
        alive = np.ones(self.rows, bool)
        alive[self.removed] = False
        return alive

    @cached_property
    def _live_base(self) -> Rows:
        return np.flatnonzero(self._alive[: self.indexed]).astype(np.int64)


def _keys(hits: Hits) -> Keys:
    keys = rank_keys(hits.scores, hits.rows)
    keys[hits.rows < 0] = 0
    return keys


def exact_of(index: ExactIndex | ApproximateIndex | LiveIndex) -> ExactIndex | LiveIndex:
    """Brute force over the same rows: what an index is judged by."""
    return index.exact() if isinstance(index, LiveIndex) else ExactIndex(index.vectors)
