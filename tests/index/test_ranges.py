"""Searches beyond the k best, against sorting every score of the table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from index import ranges
from index.approximate import ApproximateIndex
from index.exact import ExactIndex, as_float32
from index.hits import TIE_TOLERANCE
from index.live import LiveIndex

N = 400


def naive(
    scores: np.ndarray, k: int, skip: set[int], group: np.ndarray | None, rows: np.ndarray | None
) -> list[tuple[int, float]]:
    """One query's answers, by sorting all rows and walking down."""
    allowed = range(len(scores)) if rows is None else rows.tolist()
    taken: set[int] = set()
    answer = []
    for row in sorted(allowed, key=lambda row: (-scores[row], row)):
        own = row if group is None else int(group[row])
        if row in skip or own in taken:
            continue
        taken.add(own)
        answer.append((row, float(scores[row])))
    return answer[:k]


@pytest.fixture(scope="module")
def small(structured: np.ndarray) -> np.ndarray:
    return structured[:N]


@settings(max_examples=60, deadline=None)
@given(
    k=st.integers(1, 30),
    groups=st.sampled_from([0, 1, 3, 40, N]),
    allowed=st.sampled_from([None, 0, 5, 120]),
    skipped=st.sampled_from([0, 1, 40, N]),
    seed=st.integers(0, 10**6),
)
def test_the_best_rows_of_an_exact_index(
    small: np.ndarray, queries: np.ndarray, k: int, groups: int, allowed: int | None, skipped: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    asked = queries[rng.integers(0, len(queries), 3)]
    scores = asked @ as_float32(small).T
    group = rng.integers(0, groups, N) if groups else None
    rows = None if allowed is None else np.sort(rng.choice(N, allowed, replace=False))
    # the nearest rows are those worth skipping
    skip = [np.sort(np.argsort(-each)[: rng.integers(0, skipped + 1)]) for each in scores]
    found = ranges.best(ExactIndex(small), asked, k, skip=skip, group=group, rows=rows)
    for i, (at, got) in enumerate(found):
        expected = naive(scores[i], k, set(skip[i].tolist()), group, rows)
        assert at.dtype == np.int64
        assert len(at) == len(expected)
        np.testing.assert_allclose(got, [score for _, score in expected], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(scores[i][at], got, rtol=1e-5, atol=1e-5)
        assert not set(at.tolist()) & set(skip[i].tolist())
        assert (got[1:] <= got[:-1]).all()
        if group is not None:
            assert len(np.unique(group[at])) == len(at)


@settings(max_examples=40, deadline=None)
@given(
    share=st.sampled_from([0.0, 0.001, 0.05, 0.6, 1.0]), first=st.sampled_from([1, 7, 64]), seed=st.integers(0, 10**6)
)
def test_every_row_above_a_threshold(
    small: np.ndarray, queries: np.ndarray, share: float, first: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    asked = queries[rng.integers(0, len(queries), 4)]
    scores = asked @ as_float32(small).T
    limits = np.quantile(scores, 1 - share, axis=1).astype(np.float32)
    rows = np.sort(rng.choice(N, 150, replace=False)) if seed % 2 else None
    allowed = np.arange(N) if rows is None else rows
    found = ranges.above(ExactIndex(small), asked, limits, rows=rows, first=first)
    for i, (at, got) in enumerate(found):
        slack = TIE_TOLERANCE * np.abs(scores[i]).max()
        must, may = ({r for r in allowed if scores[i][r] >= limits[i] + d} for d in (slack, -slack))
        assert must <= set(at.tolist()) <= may
        assert len(set(at.tolist())) == len(at)
        assert (got[1:] <= got[:-1]).all()


def test_thresholds_that_all_or_none_reach_and_a_most(small: np.ndarray, queries: np.ndarray) -> None:
    index, two = ExactIndex(small), np.array([-1e6, 1e6], np.float32)
    everything, nothing = ranges.above(index, queries[:2], two)
    assert (len(everything[0]), len(nothing[0])) == (N, 0)
    assert [len(at) for at, _ in ranges.above(index, queries[:2], two, most=100)] == [100, 0]
    none = np.zeros(0, np.int64)
    assert [len(at) for at, _ in ranges.above(index, queries[:2], two, rows=none)] == [0, 0]
    assert [len(at) for at, _ in ranges.best(index, queries[:2], 3, rows=none)] == [0, 0]


@pytest.mark.parametrize("groups", [3, 500])
def test_an_approximate_index_is_asked_until_the_answer_is_full(
    ivf: ApproximateIndex, structured: np.ndarray, queries: np.ndarray, groups: int
) -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, groups, len(structured))
    rows = np.sort(rng.choice(len(structured), 2500, replace=False))
    scores = queries @ as_float32(structured).T
    skip: list[Any] = [np.sort(np.argsort(-each)[:200]) for each in scores]
    shares = []
    for i, (at, got) in enumerate(ranges.best(ivf, queries, 20, skip=skip, group=group, rows=rows)):
        assert len(at) == min(20, groups)
        assert len(set(group[at].tolist())) == len(at)
        assert set(at.tolist()) <= set(rows.tolist()) - set(skip[i].tolist())
        np.testing.assert_allclose(scores[i][at], got, rtol=1e-4, atol=1e-4)
        expected = naive(scores[i], 20, set(skip[i].tolist()), group, rows)
        shares.append((got >= expected[-1][1] - 1e-4).mean())
    assert np.mean(shares) > 0.9


class Bounded(LiveIndex):
    """One that is never asked for more hits than there are rows."""

    def search(self, queries: np.ndarray, k: int, **how: Any) -> Any:
        assert k <= self.rows
        return super().search(queries, k, **how)


@settings(max_examples=60, deadline=None)
@given(
    k=st.integers(1, 60),
    groups=st.sampled_from([1, 3, 40, N]),
    allowed=st.sampled_from([None, 5, 120]),
    gone=st.sampled_from([1, 100, N - 3, N]),
    rare=st.booleans(),
    seed=st.integers(0, 10**6),
)
@example(k=2, groups=1, allowed=None, gone=1, rare=True, seed=0)
def test_the_best_of_each_group_after_rows_were_removed_and_replaced(
    small: np.ndarray, queries: np.ndarray, k: int, groups: int, allowed: int | None, gone: int, rare: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    asked = queries[rng.integers(0, len(queries), 2)]
    scores = asked @ as_float32(small).T
    group = rng.integers(0, groups, N)
    removed = np.sort(rng.choice(N, gone, replace=False))
    if rare:
        group[removed] = groups  # a group without a live row
    rows = None if allowed is None else np.sort(rng.choice(N, allowed, replace=False))
    live = np.setdiff1d(np.arange(N) if rows is None else rows, removed)
    index = Bounded(ExactIndex(small[:300]), small[300:], removed)
    for i, (at, got) in enumerate(ranges.best(index, asked, k, group=group, rows=rows)):
        expected = naive(scores[i], k, set(), group, live)
        assert len(at) == len(expected)
        np.testing.assert_allclose(got, [score for _, score in expected], rtol=1e-5, atol=1e-5)
        assert not np.isin(at, removed).any()
        assert len(np.unique(group[at])) == len(at)
