from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.hits import Hits, rank_keys, recall


def make(rows: Any, scores: Any, counts: Any) -> Hits:
    return Hits(np.array(rows, np.int64), np.array(scores, np.float32), np.array(counts, np.int64))


def test_query_returns_hits_without_padding() -> None:
    hits = make([[4, 2, -1], [-1, -1, -1]], [[0.5, 0.1, -np.inf], [-np.inf] * 3], [2, 0])
    rows, scores = hits.query(0)
    assert rows.tolist() == [4, 2]
    assert scores.tolist() == pytest.approx([0.5, 0.1])
    assert len(hits.query(1)[0]) == 0
    assert len(hits) == 2


@pytest.mark.parametrize(
    ("rows", "scores", "counts", "fault"),
    [
        ([[1, 2]], [[0.5]], [2], "shapes"),
        ([[1, 2]], [[0.5, 0.4]], [2, 2], "shapes"),
        ([[1, 2]], [[0.5, 0.4]], [3], "count"),
        ([[1, -1]], [[0.5, 0.4]], [2], "below 0"),
        ([[1, 2]], [[0.5, -np.inf]], [1], "not -1"),
        ([[1, -1]], [[0.5, 0.4]], [1], "not -inf"),
        ([[1, 2]], [[np.nan, 0.4]], [2], "not a number"),
        ([[1, 2]], [[0.4, 0.5]], [2], "rise"),
        ([[7, 1, 7]], [[0.5, 0.4, 0.3]], [3], "twice"),
    ],
)
def test_hits_check_themselves(rows: Any, scores: Any, counts: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        make(rows, scores, counts)


def test_hits_refuse_other_types() -> None:
    with pytest.raises(ValueError, match="types"):
        Hits(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32), np.ones(1, np.int64))  # type: ignore[arg-type]


finite = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0])


pair = st.tuples(finite, st.integers(0, 2**32 - 1))


@given(st.lists(pair, unique_by=lambda each: each[1], max_size=30), st.integers(1, 8))
def test_keys_rank_like_sorting_by_score_then_row(pairs: list[tuple[float, int]], k: int) -> None:
    scores = np.array([[score for score, _ in pairs]], np.float32)
    rows = np.array([row for _, row in pairs], np.int64)
    hits = Hits.from_keys(rank_keys(scores, rows), k)
    expected = sorted(pairs, key=lambda each: (-each[0], each[1]))[:k]
    assert hits.counts[0] == len(expected)
    assert hits.query(0)[0].tolist() == [row for _, row in expected]
    assert hits.query(0)[1].tolist() == [score for score, _ in expected]


def test_recall_counts_ties_as_found() -> None:
    truth = make([[1, 2, 3]], [[0.9, 0.5, 0.5]], [3])
    other_side_of_the_tie = make([[1, 3]], [[0.9, 0.5]], [2])
    assert recall(other_side_of_the_tie, truth, 2) == 1.0
    worse = make([[1, 9]], [[0.9, 0.4]], [2])
    assert recall(worse, truth, 2) == 0.5
    assert recall(worse, truth, 1) == 1.0


def test_recall_of_short_answers() -> None:
    truth = make([[1, 2], [5, -1], [-1, -1]], [[0.9, 0.5], [0.3, -np.inf], [-np.inf] * 2], [2, 1, 0])
    found = make([[1, -1], [5, -1], [-1, -1]], [[0.9, -np.inf], [0.3, -np.inf], [-np.inf] * 2], [1, 1, 0])
    assert recall(found, truth, 2) == pytest.approx((0.5 + 1.0) / 2)
    with pytest.raises(ValueError, match="needs 3"):
        recall(found, truth, 3)


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=5))
def test_ordered_answers_rank_as_their_keys(levels: list[list[int]]) -> None:
    scores = -np.sort(-np.array(levels, np.float32), axis=1)
    rows = np.random.default_rng(0).permuted(np.tile(np.arange(4), (len(scores), 1)), axis=1)
    given_rows, given_scores = rows.copy(), scores.copy()
    hits, oracle = Hits.ordered(rows, scores), Hits.from_keys(rank_keys(scores, rows), 4)
    assert np.array_equal(hits.rows, oracle.rows)
    assert np.array_equal(hits.scores, oracle.scores)
    assert np.array_equal(hits.counts, oracle.counts)
    assert np.array_equal(rows, given_rows)
    assert np.array_equal(scores, given_scores)
