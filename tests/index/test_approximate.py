"""What an answer is, whatever the index. How good it is: test_recall; the kinds: test_lists, test_graph."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import approximate, exact, levels, lists, tuning
from index.approximate import ApproximateIndex
from index.exact import as_float32
from index.hits import recall
from index.recipe import choose
from index.table import Layout
from tests.index.checks import check, reached, same
from tests.index.conftest import APPROXIMATE


def test_more_recall_is_more_work(index: ApproximateIndex) -> None:
    work = [index.setting(asked, 10).bytes_read for asked in (0.5, 0.8, 0.95, 0.99)]
    assert work == sorted(work)
    assert work[0] < work[-1]
    assert index.setting(None, 10) == index.setting(0.95, 10)
    assert index.setting(0.95, 10, rerank=77).rerank == 77
    assert index.setting(nprobe=10**6, rerank=5).nprobe == index.base.most


def test_little_effort_still_fills_the_answer(index: ApproximateIndex, queries: np.ndarray) -> None:
    check(index, queries, index.search(queries, 700, nprobe=1, rerank=1), 700)


def test_more_hits_than_rows(index: ApproximateIndex, queries: np.ndarray) -> None:
    hits = index.search(queries[:2], 6100, nprobe=1, rerank=1)
    assert hits.rows.shape == (2, 6100)
    assert hits.counts.tolist() == [6000, 6000]
    assert np.array_equal(np.sort(hits.query(0)[0]), np.arange(6000))
    assert index.search(queries[:2], 6100, recall=0.9).counts.tolist() == [6000, 6000]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_filter_any_k_any_weights(index: ApproximateIndex, layout: Layout, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    share = data.draw(st.sampled_from([None, 0.0005, 0.01, 0.2, 0.9]))
    rows = None if share is None else np.flatnonzero(rng.random(6000) < share).astype(np.int64)
    k = data.draw(st.integers(1, 40) | st.sampled_from([300, 6001]))
    how = data.draw(st.sampled_from(["setting", "recall", "nprobe"]))
    knobs = {
        "setting": {"nprobe": data.draw(st.integers(1, 150)), "rerank": data.draw(st.integers(1, 300))},
        "recall": {"recall": data.draw(st.sampled_from([0.5, 0.95, 0.999]))},
        "nprobe": {"nprobe": data.draw(st.integers(1, 10**4))},
    }[how]
    weights = rng.uniform(0, 4, 3) * (rng.random(3) < 0.8)  # now and then none is left: all rows tie
    asked = as_float32(index.vectors[rng.choice(6000, 2)])
    asked = asked * layout.scale(dict(zip(layout.names, weights.tolist(), strict=True)))
    cheaper = data.draw(st.booleans())
    with pytest.MonkeyPatch.context() as patch:
        if not cheaper:
            patch.setattr(ApproximateIndex, "_brute_force_is_cheaper", lambda *_: False)
        hits = index.search(asked, k, rows=rows, **knobs)
    check(index, asked, hits, k, rows)


@pytest.mark.parametrize("rows", [None, np.arange(0, 6000, 3), np.zeros(0, np.int64)])
def test_no_queries(index: ApproximateIndex, queries: np.ndarray, rows: np.ndarray | None) -> None:
    for knobs in ({"nprobe": 3, "rerank": 9}, {"recall": 0.9}):
        hits = index.search(queries[:0], 5, rows=rows, **knobs)
        assert (hits.rows.shape, hits.counts.shape) == ((0, 5), (0,))
    assert index.expected_recall(0.9, 10, queries[:0]) == index.expected_recall(0.9, 10)


def test_filter_without_survivors(index: ApproximateIndex, queries: np.ndarray) -> None:
    assert index.search(queries, 5, rows=np.zeros(0, np.int64)).counts.tolist() == [0] * len(queries)


def test_a_filter_that_allows_all(index: ApproximateIndex, queries: np.ndarray) -> None:
    hits = index.search(queries[:20], 10, recall=0.95, rows=np.arange(6000))
    check(index, queries[:20], hits, 10)
    assert reached(index, queries[:20], hits, 10) >= 0.95


def test_brute_force_only_where_it_is_cheaper(index: ApproximateIndex) -> None:
    assert index._brute_force_is_cheaper(survivors=20, queries=1, nprobe=8, depth=64)
    assert not index._brute_force_is_cheaper(survivors=5000, queries=1, nprobe=8, depth=64)
    # all queries share the reading
    survivors = 500 if isinstance(index.base, lists.Lists) else 2500
    assert index._brute_force_is_cheaper(survivors, queries=1000, nprobe=8, depth=64)


def test_all_candidates_are_exact(index: ApproximateIndex, queries: np.ndarray) -> None:
    hits = index.search(queries[:8], 25, nprobe=index.base.most, rerank=6000)
    truth = exact.search(index.vectors, queries[:8], 25)
    assert np.allclose(hits.scores, truth.scores, atol=1e-5)
    assert recall(hits, truth, 25) == 1.0


@pytest.mark.parametrize("rows", [None, np.arange(0, 6000, 2)])
def test_queries_in_pieces_are_the_same(
    index: ApproximateIndex, queries: np.ndarray, rows: np.ndarray | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ApproximateIndex, "_brute_force_is_cheaper", lambda *_: False)
    together = index.search(queries, 10, nprobe=16, rerank=64, rows=rows)
    monkeypatch.setattr(approximate, "CANDIDATES_AT_ONCE", 7 * index.base.most)
    monkeypatch.setattr(approximate, "RERANK_BYTES", 3 * 64 * 96 * 4)
    apart = index.search(queries, 10, nprobe=16, rerank=64, rows=rows)
    same(together, apart)
    for i, query in enumerate(queries):
        alone = index.search(query[None], 10, nprobe=16, rerank=64, rows=rows)
        assert np.array_equal(alone.rows[0], apart.rows[i])


@pytest.mark.parametrize("dim", [1, 7, 37])
@pytest.mark.parametrize("kind", APPROXIMATE)
def test_dimensions_that_the_code_does_not_divide(structured: np.ndarray, kind: str, dim: int) -> None:
    narrow = np.ascontiguousarray(structured[:1100, :dim])
    index = ApproximateIndex(approximate.build(narrow, choose(1100, dim, kind)), narrow)
    asked = as_float32(narrow[:20])
    hits = index.search(asked, 5, nprobe=index.base.most, rerank=500)
    check(index, asked, hits, 5)
    assert reached(index, asked, hits, 5) >= 0.98


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_one_photo_many_times(
    structured: np.ndarray, layout: Layout, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A catalogue full of one placeholder picture: its copies tie, and nobody else is lost."""
    monkeypatch.setattr(levels, "QUERIES", 30)
    crowd = np.concatenate([np.repeat(structured[:1], 800, axis=0), structured[:1200]])
    index = approximate.build(crowd, choose(2000, 96, kind, dims=32))
    tuned = ApproximateIndex(index, crowd, tuning.measure(ApproximateIndex(index, crowd), layout, {}, timed=False))
    asked = as_float32(crowd[np.r_[0, 900, 1500, 1000:1030]])
    hits = tuned.search(asked, 10)
    check(tuned, asked, hits, 10)
    assert reached(tuned, asked, hits, 10) >= 0.9
    rows = np.arange(1, 2000, 2)
    check(tuned, asked, tuned.search(asked, 900, rows=rows), 900, rows)


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_same_seed_same_index(structured: np.ndarray, queries: np.ndarray, kind: str) -> None:
    """With one FAISS thread: a graph's threads insert in an order of their own."""

    def answer(seed: int) -> np.ndarray:
        index = approximate.build(structured[:1100], choose(1100, 96, kind, seed, dims=32))
        return ApproximateIndex(index, structured[:1100]).candidates(queries, 4, 50)

    first = answer(0)
    assert np.array_equal(first, answer(0))
    assert not np.array_equal(first, answer(1))


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_rows_added_later_are_found(structured: np.ndarray, kind: str) -> None:
    made = approximate.build(structured[:1100], choose(1100, 96, kind, dims=32))
    approximate.extend(made, structured[:1500], 1100)
    index = ApproximateIndex(made, structured[:1500])
    asked = as_float32(structured[1100:1200])
    hits = index.search(asked, 10, nprobe=64, rerank=256)
    check(index, asked, hits, 10)
    assert (hits.rows[:, 0] >= 1100).mean() > 0.9  # itself, unless a near-duplicate ties
    assert reached(index, asked, hits, 10) >= 0.95


def test_an_index_without_its_curve_needs_its_knobs(index: ApproximateIndex, queries: np.ndarray) -> None:
    bare = ApproximateIndex(index.index, index.vectors)
    for wrong in ({}, {"recall": 0.9}, {"nprobe": 3}, {"rerank": 3}):
        with pytest.raises(ValueError, match="nprobe and rerank"):
            bare.search(queries, 3, **wrong)
    with pytest.raises(ValueError, match="curve"):
        bare.expected_recall(0.9, 3)
    with pytest.raises(ValueError, match="6000 rows over 10"):
        ApproximateIndex(index.index, index.vectors[:10])
    with pytest.raises(ValueError, match="shape"):
        index.search(queries[:, :95], 3)
