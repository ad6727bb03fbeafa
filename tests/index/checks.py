"""What every test of an approximate index asks of its answers."""

from __future__ import annotations

import numpy as np

from index import exact
from index.approximate import ApproximateIndex
from index.exact import as_float32
from index.hits import Hits, recall
from index.levels import QUERIES


def check(index: ApproximateIndex, queries: np.ndarray, hits: Hits, k: int, rows: np.ndarray | None = None) -> None:
    """Every hit is allowed, carries its exact score, and there are as many as there can be. (``Hits`` checks order.)"""
    allowed = np.arange(len(index.vectors)) if rows is None else rows
    assert hits.rows.shape == (len(queries), k)
    assert (hits.counts == min(k, len(allowed))).all()
    for i, query in enumerate(queries):
        found, scores = hits.query(i)
        assert np.isin(found, allowed).all()
        assert np.allclose(scores, as_float32(index.vectors[found]) @ query, atol=1e-5)


def same(one: Hits, other: Hits, within: float = 1e-5) -> None:
    """The same scores, and the same rows but for those that tie."""
    assert np.array_equal(one.counts, other.counts)
    inside = one.rows >= 0
    assert np.allclose(one.scores[inside], other.scores[inside], rtol=0, atol=within)
    for i in range(len(one)):
        (rows, scores), (others, _) = one.query(i), other.query(i)
        for row in np.setdiff1d(rows, others):  # it must tie with the last, where either may be left out
            assert scores[rows == row][0] <= scores[-1] + within


def reached(index: ApproximateIndex, queries: np.ndarray, hits: Hits, k: int, rows: np.ndarray | None = None) -> float:
    """Recall@k against brute force."""
    return recall(hits, exact.search(index.vectors, queries, k, rows), k)


def slack(share: float, queries: int) -> float:
    """Three standard errors of a recall that was chosen by QUERIES queries and is measured again by others."""
    return 3 * float(np.sqrt(share * (1 - share) * (1 / queries + 1 / QUERIES)))
