"""LiveIndex against brute force over the rows that are live: with a tail, removed rows, filters and ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from index import exact
from index.approximate import ApproximateIndex
from index.exact import ExactIndex, as_float32
from index.hits import TIE_TOLERANCE, Hits, recall
from index.live import LiveIndex, exact_of

N, TAIL = 1500, 300


def removed_rows(kind: str, vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Which of the N + TAIL rows are removed."""
    rng = np.random.default_rng(1)
    nearest = exact.search(vectors, queries, 200).rows
    return {
        "none": np.zeros(0, np.int64),
        "one": np.array([7]),
        "some": np.sort(rng.choice(N + TAIL, 90, replace=False)),
        "most": np.sort(rng.choice(N + TAIL, 1500, replace=False)),
        "near": np.unique(nearest[:20, :40]),  # all that a query would find
        "half of the near": np.unique(nearest[:, :100:2]),
        "base": np.arange(N),
        "tail": np.arange(N, N + TAIL),
        "all": np.arange(N + TAIL),
    }[kind]


KINDS = ["none", "one", "some", "most", "near", "half of the near", "base", "tail", "all"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [0, TAIL])
def test_over_an_exact_base_it_is_brute_force(
    kind: str, tail: int, structured: np.ndarray, queries: np.ndarray
) -> None:
    vectors = structured[: N + tail].copy()
    vectors[5:40] = vectors[3]  # ties, also with the tail
    vectors[-3:] = vectors[3]
    removed = removed_rows(kind, structured[: N + TAIL], queries)
    removed = removed[removed < len(vectors)]
    index = LiveIndex(ExactIndex(vectors[:N]), vectors[N:], removed)
    live = np.setdiff1d(np.arange(len(vectors)), removed)
    asked = np.concatenate([queries, as_float32(vectors[[3, 4]])])
    for k in (1, 10, 60):
        same(index.search(asked, k), exact.search(vectors, asked, k, live))
        allowed = np.arange(0, len(vectors), 7)
        same(index.search(asked, k, rows=allowed), exact.search(vectors, asked, k, np.intersect1d(allowed, live)))
        same(exact_of(index).search(asked, k), exact.search(vectors, asked, k, live))
    assert np.array_equal(index.vectors, vectors)


def same(hits: Hits, truth: Hits) -> None:
    """The same neighbours but for ties, whose sums may differ in their last bits."""
    assert np.array_equal(hits.counts, truth.counts)
    scores, wanted = (np.where(np.isfinite(each.scores), each.scores, 0) for each in (hits, truth))
    np.testing.assert_allclose(scores, wanted, atol=TIE_TOLERANCE * np.abs(wanted).max())
    tied = np.abs(scores - np.roll(scores, 1, axis=1)) < 1e-4
    tied |= np.roll(tied, -1, axis=1)
    assert (tied | (hits.rows == truth.rows)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_over_ivfpq_the_recall_is_what_is_promised(
    kind: str, structured: np.ndarray, queries: np.ndarray, ivf: ApproximateIndex
) -> None:
    n = len(structured)
    fresh = structured[:TAIL][::-1].copy()  # near-duplicates of rows of the base
    nearest = exact.search(structured, queries, 200).rows
    removed = {
        "base": np.arange(n),
        "tail": np.arange(n, n + TAIL),
        "all": np.arange(n + TAIL),
        "near": np.unique(nearest[:, :40]),
        "half of the near": np.unique(nearest[:, ::2]),
    }.get(kind, removed_rows(kind, structured[: N + TAIL], queries))
    index = LiveIndex(ivf, fresh, removed)
    vectors = np.concatenate([structured, fresh])
    live = np.setdiff1d(np.arange(n + TAIL), removed)
    for k in (1, 10):
        hits, truth = index.search(queries, k), exact.search(vectors, queries, k, live)
        assert np.array_equal(hits.counts, truth.counts)
        assert not np.isin(hits.rows, removed).any()
        assert recall(hits, truth, k) >= index.expected_recall(None, k) - 0.05
    every_other = np.arange(0, n + TAIL, 2)
    truth = exact.search(vectors, queries, 10, np.intersect1d(every_other, live))
    hits = index.search(queries, 10, rows=every_other)
    assert np.array_equal(hits.counts, truth.counts)
    assert recall(hits, truth, 10) >= 0.9


def test_nothing_changed_is_the_base_itself(structured: np.ndarray, queries: np.ndarray) -> None:
    class Base(ExactIndex):
        calls = 0

        def search(self, *arguments: Any, **options: Any) -> Hits:
            Base.calls += 1
            return super().search(*arguments, **options)

    base = Base(structured[:N])
    index = LiveIndex(base, structured[:0], np.zeros(0, np.int64))
    same(index.search(queries, 5, recall=0.9), exact.search(structured[:N], queries, 5))
    assert Base.calls == 1
    assert index.vectors is base.vectors
    removed = LiveIndex(base, structured[:0], np.array([1]))
    removed.search(queries[:1], 5)
    assert Base.calls == 2  # a removed row that is not met costs no second search


def test_what_cannot_be_is_refused(structured: np.ndarray, queries: np.ndarray) -> None:
    for removed in ([3, 3], [4, 1], [-1], [12]):
        with pytest.raises(ValueError, match=r"must rise within 0\.\.11"):
            LiveIndex(ExactIndex(structured[:10]), structured[10:12], np.array(removed))
    index = LiveIndex(ExactIndex(structured[:10]), structured[10:12], np.array([3]))
    with pytest.raises(ValueError, match="allowed row 12 of a table of 12"):
        index.search(queries, 3, rows=np.array([1, 12]))
    with pytest.raises(ValueError, match="k of at least 1"):
        index.search(queries, 0)
    with pytest.raises(ValueError, match="rising"):
        index.search(queries, 3, rows=np.array([2, 1]))
