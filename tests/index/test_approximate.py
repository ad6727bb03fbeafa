from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import approximate, exact, tuning
from index.approximate import ApproximateIndex
from index.exact import as_float32
from index.hits import Hits, recall
from index.recipe import Recipe, choose
from index.table import Layout


def check(index: ApproximateIndex, queries: np.ndarray, hits: Hits, k: int, rows: np.ndarray | None = None) -> None:
    """Every hit is allowed, carries its exact score, and there are as many as there can be."""
    allowed = np.arange(len(index.vectors)) if rows is None else rows
    assert hits.rows.shape == (len(queries), k)
    assert (hits.counts == min(k, len(allowed))).all()
    for i, query in enumerate(queries):
        found, scores = hits.query(i)
        assert np.isin(found, allowed).all()
        assert np.allclose(scores, as_float32(index.vectors[found]) @ query, atol=1e-5)


@pytest.mark.parametrize(("nprobe", "floor"), [(1, 0.45), (4, 0.8), (16, 0.95), (64, 0.99), (150, 0.995)])
def test_recall_floor_per_nprobe(ivf: ApproximateIndex, queries: np.ndarray, nprobe: int, floor: float) -> None:
    hits = ivf.search(queries, 10, nprobe=nprobe, rerank=256)
    check(ivf, queries, hits, 10)
    assert recall(hits, exact.search(ivf.vectors, queries, 10), 10) >= floor


@pytest.mark.parametrize("k", [1, 10, 50])
def test_recall_does_not_fall_as_nprobe_rises(ivf: ApproximateIndex, queries: np.ndarray, k: int) -> None:
    truth = exact.search(ivf.vectors, queries, k)
    found = [recall(ivf.search(queries, k, nprobe=nprobe), truth, k) for nprobe in (1, 2, 4, 8, 16, 32, 64, 150)]
    assert all(later >= earlier - 0.002 for earlier, later in zip(found, found[1:], strict=False)), found
    assert found[-1] > 0.98


@pytest.mark.parametrize("k", [1, 4, 10])
@pytest.mark.parametrize("asked", [0.8, 0.9, 0.95, 0.99])
def test_asked_recall_is_reached_on_new_queries(
    ivf: ApproximateIndex, queries: np.ndarray, asked: float, k: int
) -> None:
    truth = exact.search(ivf.vectors, queries, k)
    assert ivf.expected_recall(asked, k) >= asked
    # 60 queries: three standard errors of a share
    assert recall(ivf.search(queries, k, recall=asked), truth, k) >= asked - 3 * np.sqrt(asked * (1 - asked) / 60)


def test_more_recall_is_more_work(ivf: ApproximateIndex) -> None:
    work = [ivf.setting(asked, 10).bytes_read for asked in (0.5, 0.8, 0.95, 0.99)]
    assert work == sorted(work)
    assert work[0] < work[-1]
    assert ivf.setting(None, 10) == ivf.setting(0.95, 10)
    assert ivf.setting(0.95, 10, rerank=77).rerank == 77
    assert ivf.setting(nprobe=10**6, rerank=5).nprobe == ivf.base.most


def test_random_weights_keep_the_recall(ivf: ApproximateIndex, structured: np.ndarray, layout: Layout) -> None:
    rng = np.random.default_rng(8)
    weights = rng.uniform(0, 4, (60, 3))
    weights[:10, 1] = 0  # one block dropped
    weights[10:20, :2] = 0  # one block alone
    fresh = as_float32(structured[rng.choice(6000, 60)])
    asked = fresh * np.array([layout.scale(dict(zip(layout.names, each, strict=True))) for each in weights])
    truth = exact.search(structured, asked, 10)
    assert recall(ivf.search(asked, 10, recall=0.95), truth, 10) >= 0.9


def test_few_probes_still_fill_the_answer(ivf: ApproximateIndex, queries: np.ndarray) -> None:
    check(ivf, queries, ivf.search(queries, 700, nprobe=1, rerank=1), 700)


def test_more_hits_than_rows(ivf: ApproximateIndex, queries: np.ndarray) -> None:
    hits = ivf.search(queries[:2], 6100, nprobe=1, rerank=1)
    assert hits.rows.shape == (2, 6100)
    assert hits.counts.tolist() == [6000, 6000]
    assert np.array_equal(np.sort(hits.query(0)[0]), np.arange(6000))


@pytest.mark.parametrize("selectivity", [0.5, 0.1, 0.01, 0.001])
def test_filter_keeps_recall(ivf: ApproximateIndex, queries: np.ndarray, selectivity: float) -> None:
    rows = np.flatnonzero(np.random.default_rng(1).random(6000) < selectivity).astype(np.int64)
    hits = ivf.search(queries, 10, recall=0.95, rows=rows)
    check(ivf, queries, hits, 10, rows)
    assert recall(hits, exact.search(ivf.vectors, queries, 10, rows), 10) >= 0.93


@pytest.fixture
def never_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ApproximateIndex, "_brute_force_is_cheaper", lambda *_: False)


@pytest.mark.usefixtures("never_brute_force")
@pytest.mark.parametrize("selectivity", [0.5, 0.1, 0.01])
def test_filter_within_the_lists_keeps_recall(ivf: ApproximateIndex, queries: np.ndarray, selectivity: float) -> None:
    rows = np.flatnonzero(np.random.default_rng(2).random(6000) < selectivity).astype(np.int64)
    hits = ivf.search(queries, 10, recall=0.95, rows=rows)
    check(ivf, queries, hits, 10, rows)
    assert recall(hits, exact.search(ivf.vectors, queries, 10, rows), 10) >= 0.93


@pytest.mark.usefixtures("never_brute_force")
@pytest.mark.parametrize("block", ["look", "color"])
def test_filter_that_disagrees_with_the_query(
    ivf: ApproximateIndex, queries: np.ndarray, layout: Layout, block: str
) -> None:
    """Only the quarter of the rows that is farthest from the query in one block is allowed: a red shirt, where blue."""
    wide, found = as_float32(ivf.vectors), []
    for query in queries[:30]:
        part = layout.slice(block)
        rows = np.sort(np.argsort(wide[:, part] @ query[part])[:1500])
        hits = ivf.search(query[None], 10, recall=0.95, rows=rows)
        check(ivf, query[None], hits, 10, rows)
        found.append(recall(hits, exact.search(ivf.vectors, query[None], 10, rows), 10))
    assert np.mean(found) >= 0.95


def test_candidates_are_those_of_a_plain_faiss_search(ivf: ApproximateIndex, queries: np.ndarray) -> None:
    params = faiss.SearchParametersIVF(nprobe=6)
    scores, rows = ivf.index.search(queries, 40, params=params)
    found = ivf.candidates(queries, 6, 40)
    assert (found == rows).mean() > 0.99  # equal codes tie
    assert all(set(a[:30]) <= set(b) or np.ptp(s) == 0 for a, b, s in zip(rows, found, scores, strict=True))


def test_filter_without_survivors(ivf: ApproximateIndex, queries: np.ndarray) -> None:
    assert ivf.search(queries, 5, rows=np.zeros(0, np.int64)).counts.tolist() == [0] * len(queries)


def test_brute_force_only_where_it_is_cheaper(ivf: ApproximateIndex) -> None:
    assert ivf._brute_force_is_cheaper(survivors=20, queries=1, nprobe=8, depth=64)
    assert not ivf._brute_force_is_cheaper(survivors=5000, queries=1, nprobe=8, depth=64)
    assert ivf._brute_force_is_cheaper(survivors=500, queries=1000, nprobe=8, depth=64)  # all queries share the reading


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_filter_any_k(ivf: ApproximateIndex, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    share = data.draw(st.sampled_from([0.0005, 0.01, 0.2, 0.9]))
    rows = np.flatnonzero(rng.random(6000) < share).astype(np.int64)
    k = data.draw(st.integers(1, 40))
    nprobe, rerank = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 300))
    asked = as_float32(ivf.vectors[rng.choice(6000, 2)]) * rng.uniform(0, 4, 96).astype(np.float32)
    hits = ivf.search(asked, k, nprobe=nprobe, rerank=rerank, rows=rows)
    check(ivf, asked, hits, k, rows)


def test_all_lists_and_all_candidates_are_exact(ivf: ApproximateIndex, queries: np.ndarray) -> None:
    hits = ivf.search(queries[:8], 25, nprobe=150, rerank=6000)
    truth = exact.search(ivf.vectors, queries[:8], 25)
    assert np.allclose(hits.scores, truth.scores, atol=1e-5)
    assert recall(hits, truth, 25) == 1.0


def test_queries_in_pieces_are_the_same(
    ivf: ApproximateIndex, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = ivf.search(queries, 10, nprobe=8, rerank=64)
    monkeypatch.setattr(approximate, "CANDIDATES_AT_ONCE", 7 * 150)
    monkeypatch.setattr(approximate, "RERANK_BYTES", 3 * 64 * 96 * 4)
    apart = ivf.search(queries, 10, nprobe=8, rerank=64)
    assert np.array_equal(together.rows, apart.rows)
    alone = np.concatenate([ivf.search(query[None], 10, nprobe=8, rerank=64).rows for query in queries])
    assert np.array_equal(together.rows, alone)


def test_rows_know_their_lists(ivf: ApproximateIndex, structured: np.ndarray) -> None:
    assert ivf.base.list_sizes.sum() == 6000
    assert np.array_equal(np.bincount(ivf.base.list_of_row, minlength=ivf.base.most), ivf.base.list_sizes)
    _, nearest = ivf.index.quantizer.search(as_float32(structured), 1)
    assert (nearest[:, 0] == ivf.base.list_of_row).mean() > 0.999  # float32 ties aside


@pytest.mark.parametrize("dim", [1, 7, 37])
def test_dimensions_that_the_code_does_not_divide(structured: np.ndarray, dim: int) -> None:
    narrow = np.ascontiguousarray(structured[:1500, :dim])
    index = ApproximateIndex(approximate.build(narrow, choose(1500, dim, "ivfpq")), narrow)
    asked = as_float32(narrow[:20])
    hits = index.search(asked, 5, nprobe=index.base.most, rerank=500)
    check(index, asked, hits, 5)
    assert recall(hits, exact.search(narrow, asked, 5), 5) >= 0.99


def test_one_photo_many_times(structured: np.ndarray, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue full of one placeholder picture: its copies tie, and nobody else is lost."""
    monkeypatch.setattr(tuning, "QUERIES", 40)
    crowd = np.concatenate([np.repeat(structured[:1], 800, axis=0), structured[:1200]])
    index = approximate.build(crowd, choose(2000, 96, "ivfpq"))
    tuned = ApproximateIndex(index, crowd, tuning.measure(ApproximateIndex(index, crowd), layout, {}))
    asked = as_float32(crowd[[0, 900, 1500]])
    hits = tuned.search(asked, 10)
    check(tuned, asked, hits, 10)
    assert recall(hits, exact.search(crowd, asked, 10), 10) >= 0.9


def test_same_seed_same_index(structured: np.ndarray, queries: np.ndarray) -> None:
    def answer(seed: int) -> np.ndarray:
        index = approximate.build(structured[:2000], choose(2000, 96, "ivfpq", seed))
        return ApproximateIndex(index, structured[:2000]).candidates(queries, 4, 50)

    assert np.array_equal(answer(0), answer(0))
    assert not np.array_equal(answer(0), answer(1))


def test_training_sample_is_of_the_whole_table(structured: np.ndarray, queries: np.ndarray) -> None:
    """Rows sorted so that the head of the table is one cluster: a sample of the head would teach nothing."""
    order = np.argsort(as_float32(structured) @ as_float32(structured[0]))
    ordered = structured[order]
    index = ApproximateIndex(approximate.build(ordered, Recipe("ivfpq", 50, 12, 8, 2000)), ordered)
    assert index.base.list_sizes.max() < 6000 / 50 * 8
    truth = exact.search(ordered, queries, 10)
    assert recall(index.search(queries, 10, nprobe=10, rerank=200), truth, 10) >= 0.9


def test_an_index_without_its_curve_needs_its_knobs(ivf: ApproximateIndex, queries: np.ndarray) -> None:
    bare = ApproximateIndex(ivf.index, ivf.vectors)
    for wrong in ({}, {"recall": 0.9}, {"nprobe": 3}):
        with pytest.raises(ValueError, match="nprobe and rerank"):
            bare.search(queries, 3, **wrong)
    with pytest.raises(ValueError, match="curve"):
        bare.expected_recall(0.9, 3)
    with pytest.raises(ValueError, match="6000 rows over 10"):
        ApproximateIndex(ivf.index, ivf.vectors[:10])
