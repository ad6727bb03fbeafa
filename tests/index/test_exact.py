from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import exact
from index.exact import ExactIndex, as_float32, search
from index.table import Layout
from tests.index.checks import same


def naive(vectors: np.ndarray, queries: np.ndarray, k: int, rows: np.ndarray | None = None) -> list[list[int]]:
    """Sort everything: by score in float64, then by row."""
    allowed = range(len(vectors)) if rows is None else rows.tolist()
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    return [sorted(allowed, key=lambda row, query=query: (-query[row], row))[:k] for query in scores]


def test_as_float32_is_exact_for_every_finite_float16() -> None:
    every = np.arange(2**16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    widened = as_float32(every)
    assert widened.dtype == np.float32
    assert np.array_equal(widened.view(np.uint32), every.astype(np.float32).view(np.uint32))  # signs of zero too


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_search_equals_sorting_everything(data: st.DataObject) -> None:
    n, dim = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    # small whole numbers: products are exact and ties are everywhere
    vectors = rng.integers(-2, 3, (n, dim)).astype(np.float16)
    queries = rng.integers(-2, 3, (data.draw(st.integers(1, 4)), dim)).astype(np.float32)
    k = data.draw(st.integers(1, n + 3))
    rows = None
    if data.draw(st.booleans()):
        rows = np.flatnonzero(rng.random(n) < data.draw(st.sampled_from([0, 0.3, 1]))).astype(np.int64)
    cut = data.draw(st.integers(0, n))
    expected = naive(vectors, queries, k, rows)
    for batches in (vectors, iter([vectors[:cut], vectors[cut:]]), vectors.astype(np.float32)):
        hits = search(batches, queries, k, rows)
        assert [hits.query(i)[0].tolist() for i in range(len(queries))] == expected
        for i, query in enumerate(queries):
            assert hits.query(i)[1].tolist() == (vectors[hits.query(i)[0]].astype(np.float32) @ query).tolist()


@pytest.mark.parametrize("kept", [1.0, 0.4])
def test_search_over_many_blocks(structured: np.ndarray, queries: np.ndarray, kept: float) -> None:
    assert len(structured) > 2 * exact.ROWS_AT_ONCE
    rows = np.flatnonzero(np.random.default_rng(0).random(len(structured)) < kept).astype(np.int64)
    hits = search(structured, queries, 20, rows)
    scores = queries.astype(np.float64) @ structured.astype(np.float64).T
    outside = np.setdiff1d(np.arange(len(structured)), rows)
    scores[:, outside] = -np.inf
    true = -np.sort(-scores, axis=1)[:, :20]
    assert np.allclose(hits.scores, true, atol=1e-4)
    assert np.allclose(np.take_along_axis(scores, hits.rows, axis=1), true, atol=1e-4)  # ties may swap, scores may not


def test_more_queries_than_a_block(structured: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = as_float32(structured[:50])
    together = search(structured, queries, 5)
    monkeypatch.setattr(exact, "QUERIES_AT_ONCE", 7)
    monkeypatch.setattr(exact, "ROWS_AT_ONCE", 101)
    apart = search(structured, queries, 5)
    assert np.allclose(together.scores, apart.scores, atol=1e-5)


def blocks_asked(layout: Layout, structured: np.ndarray, names: list[str]) -> np.ndarray:
    """Twenty queries at weight 0 for all blocks but these."""
    rng = np.random.default_rng(len(names))
    scales = [layout.scale({n: rng.uniform(0.1, 4) if n in names else 0.0 for n in layout.names}) for _ in range(20)]
    return as_float32(structured[:20]) * np.array(scales)


@pytest.mark.parametrize("kept", [None, 0.3, 0.002])
@pytest.mark.parametrize("names", [["look"], ["color"], ["type"], ["look", "type"], ["color", "type"], []])
def test_blocks_of_weight_0_are_not_read(
    structured: np.ndarray, layout: Layout, names: list[str], kept: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = blocks_asked(layout, structured, names)
    rows = None if kept is None else np.flatnonzero(np.random.default_rng(0).random(6000) < kept).astype(np.int64)
    asked, spans = exact._asked_for(queries)
    width = sum(layout.slice(name).stop - layout.slice(name).start for name in names)
    assert asked.shape[1] == (width if 0 < width < 0.7 * 96 else 96)
    assert len(spans) == (0 if asked.shape[1] == 96 else len(names) - (names == ["color", "type"]))
    fast = [
        search(batches, queries, 15, rows)
        for batches in (structured, iter([structured[:1000], structured[1000:]]), as_float32(structured))
    ]
    monkeypatch.setattr(exact, "_asked_for", lambda queries: (queries, []))
    full = search(structured, queries, 15, rows)
    for hits in fast:
        same(hits, full)
    for i in range(len(queries)):
        found, scores = full.query(i)
        assert np.allclose(as_float32(structured[found]) @ queries[i], scores, atol=1e-5)


@pytest.mark.parametrize("many", [3, 20])
def test_queries_that_ask_for_different_blocks(
    structured: np.ndarray, layout: Layout, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one leaves out another may ask for: together they get what each gets alone, also where many are alike."""
    monkeypatch.setattr(exact, "QUERIES_AT_ONCE", exact.ALIKE - 3)
    asked = [blocks_asked(layout, structured, names)[:many] for names in (["color"], ["type"], ["look"], [])]
    for some in (asked[:2], asked):
        queries = np.concatenate(some)
        together = search(structured, queries, 9)
        for i, query in enumerate(queries):
            alone = search(structured, query[None], 9)
            assert np.allclose(together.scores[i], alone.scores[0], atol=1e-5)


def test_scattered_dimensions_are_read_as_they_lie(structured: np.ndarray) -> None:
    """Zeros here and there: more spans than are worth cutting."""
    for step, cut in ((2, False), (20, True)):
        queries = np.zeros((4, 96), np.float32)
        queries[:, ::step] = as_float32(structured[:4])[:, ::step]
        assert bool(exact._asked_for(queries)[1]) == cut
        hits = search(structured, queries, 9)
        scores = queries.astype(np.float64) @ structured.astype(np.float64).T
        assert np.allclose(hits.scores, -np.sort(-scores, axis=1)[:, :9], atol=1e-5)


def test_queries_of_zeros_get_the_first_rows(structured: np.ndarray) -> None:
    zeros = np.zeros((2, 96), np.float32)
    assert search(structured, zeros, 3).rows.tolist() == [[0, 1, 2]] * 2
    assert search(structured, zeros, 3, np.array([7, 90, 4000, 5999])).rows.tolist() == [[7, 90, 4000]] * 2
    assert search(structured, zeros[:0], 3).rows.shape == (0, 3)


def test_scaling_a_query_is_weighted_euclidean_ranking(structured: np.ndarray, layout: Layout) -> None:
    rng = np.random.default_rng(4)
    x = structured.astype(np.float64)
    for _ in range(5):
        weights = dict(zip(layout.names, rng.uniform(0, 4, 3), strict=True))
        query = x[rng.integers(len(x))]
        distance = sum(
            weight * ((x[:, layout.slice(name)] - query[layout.slice(name)]) ** 2).sum(axis=1)
            for name, weight in weights.items()
        )
        scaled = query.astype(np.float32) * layout.scale(weights)
        rows, _ = search(structured, scaled[None], 30).query(0)
        # float16 blocks are of length 1 but for rounding, which moves a distance by less than this
        assert np.allclose(distance[rows], np.sort(distance)[:30], atol=0.01)


def test_memory_is_bounded_by_the_block(tmp_path: Path) -> None:
    n, dim = 60_000, 32
    np.zeros((n, dim), np.float16).tofile(tmp_path / "vectors")
    mapped = np.memmap(tmp_path / "vectors", np.float16, "r", shape=(n, dim))
    tracemalloc.start()
    hits = search(mapped, np.ones((3, dim), np.float32), 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * dim * 4 / 4
    assert hits.rows.tolist() == [[0, 1, 2, 3]] * 3  # all tie: the lowest rows win


def test_exact_index_is_the_search(structured: np.ndarray, queries: np.ndarray) -> None:
    index = ExactIndex(structured)
    rows = np.arange(0, 6000, 7)
    assert np.array_equal(index.search(queries, 4, rows=rows).rows, search(structured, queries, 4, rows).rows)
    assert index.recall == index.expected_recall(0.5, 4) == 1.0


@pytest.mark.parametrize(
    ("queries", "k", "rows", "fault"),
    [
        (np.zeros((2, 5), np.float32), 1, None, "shape"),
        (np.zeros(96, np.float32), 1, None, "shape"),
        (np.zeros((1, 96), np.float32), 0, None, "k=0"),
        (np.full((1, 96), np.nan, np.float32), 1, None, "finite"),
        (np.zeros((1, 96), np.float32), 1, np.array([3, 2]), "rising"),
        (np.zeros((1, 96), np.float32), 1, np.array([3, 3]), "rising"),
        (np.zeros((1, 96), np.float32), 1, np.array([-1, 3]), "rising"),
        (np.zeros((1, 96), np.float32), 1, np.array([3, 6000]), "6000"),
    ],
)
def test_wrong_arguments(
    structured: np.ndarray, queries: np.ndarray, k: int, rows: np.ndarray | None, fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        ExactIndex(structured).search(queries, k, rows=rows)
