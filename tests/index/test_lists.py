"""Inverted lists: which are probed, and what FAISS finds there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import faiss
import numpy as np
import pytest

from index import approximate, exact, vectors
from index.approximate import ApproximateIndex
from index.exact import as_float32
from index.hits import recall
from index.lists import Lists
from index.recipe import Recipe, choose

KINDS = ["ivfpq", "fastscan", "rabitq"]


@pytest.fixture(scope="module", params=KINDS)
def index(request: pytest.FixtureRequest, tuned: Callable[[str], ApproximateIndex]) -> ApproximateIndex:
    return tuned(request.param)


def plain(index: ApproximateIndex, queries: np.ndarray, nprobe: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    params: faiss.SearchParameters = faiss.SearchParametersIVF(nprobe=nprobe)
    if isinstance(index.index, faiss.IndexPreTransform):
        params = faiss.SearchParametersPreTransform(index_params=params)
    return index.index.search(index._alike(queries)[0], depth, params=params)


def test_candidates_are_those_of_a_plain_faiss_search(index: ApproximateIndex, queries: np.ndarray) -> None:
    scores, rows = plain(index, queries, 6, 40)
    found = index.candidates(queries, 6, 40)
    assert (found == rows).mean() > 0.98  # equal codes tie
    assert all(set(a[:30]) <= set(b) or np.ptp(s) == 0 for a, b, s in zip(rows, found, scores, strict=True))


def test_rows_know_their_lists(index: ApproximateIndex, structured: np.ndarray) -> None:
    assert isinstance(index.base, Lists)
    assert index.base.list_sizes.sum() == 6000
    assert np.array_equal(np.bincount(index.base.list_of_row, minlength=index.base.most), index.base.list_sizes)
    _, nearest = index.base.index.quantizer.search(index.inner(as_float32(structured)), 1)
    assert (nearest[:, 0] == index.base.list_of_row).mean() > 0.999  # float32 ties aside


def test_a_filter_probes_until_it_met_enough(index: ApproximateIndex, queries: np.ndarray) -> None:
    """Against FAISS's own filter over all lists: nothing that the probed lists hold is lost."""
    rows = np.flatnonzero(np.random.default_rng(3).random(6000) < 0.02).astype(np.int64)
    found = index.candidates(queries, 4, 30, rows, at_least=10)
    assert ((found >= 0).sum(axis=1) >= 10).all()
    assert np.isin(found[found >= 0], rows).all()
    every = index.candidates(queries, index.base.most, len(rows), rows, at_least=len(rows))
    assert np.array_equal(np.sort(every, axis=1), np.tile(rows, (len(queries), 1)))


def test_more_lists_are_more_bytes(index: ApproximateIndex, queries: np.ndarray) -> None:
    efforts = index.base.efforts()
    assert efforts[-1] == index.base.most
    read = [index.base.bytes_read(index.inner(queries), effort) for effort in efforts]
    assert read == sorted(read)
    assert read[-1] == 6000 * index.base.index.code_size


@pytest.mark.parametrize("kind", KINDS)
def test_training_sample_is_of_the_whole_table(structured: np.ndarray, queries: np.ndarray, kind: str) -> None:
    """Rows sorted so that the head of the table is one cluster: a sample of the head would teach nothing."""
    order = np.argsort(as_float32(structured) @ as_float32(structured[0]))
    ordered = structured[order]
    recipe = {
        "ivfpq": Recipe("ivfpq", 50, 12, 8, 2000),
        "fastscan": Recipe("fastscan", 50, 32, 4, 2000, dims=32),
        "rabitq": Recipe("rabitq", 50, 0, 1, 2000, dims=32),
    }[kind]
    index = ApproximateIndex(approximate.build(ordered, recipe), ordered)
    assert isinstance(index.base, Lists)
    assert index.base.list_sizes.max() < 6000 / 50 * 8
    truth = exact.search(ordered, queries, 10)
    assert recall(index.search(queries, 10, nprobe=10, rerank=200), truth, 10) >= 0.9


@pytest.fixture(scope="module", params=KINDS)
def linked(
    request: pytest.FixtureRequest, structured: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> ApproximateIndex:
    """150 lists found by a graph over their centroids: 5,000 rows indexed, 1,000 added, written and read again."""
    kind, file = request.param, tmp_path_factory.mktemp("linked") / "index"
    recipe = replace(choose(6000, 96, kind, dims=32), nlist=150, train_rows=6000 - 1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("index.recipe.COARSE_FROM", 100)
        assert recipe.linked
        index = approximate.build(structured[:5000], recipe)
        approximate.extend(index, structured, 5000)
        faiss.write_index(index, str(file))
        assert recipe.resident(6000, 96) - 4 * 6000 == pytest.approx(file.stat().st_size, rel=0.05)
    vectors.write(file.with_name("vectors"), [structured], 6000, 96)
    scorer = vectors.scorer(file.with_name("vectors"), 6000, 96)
    return ApproximateIndex(faiss.read_index(str(file)), structured, scorer=scorer)


def test_linked_lists_are_found(linked: ApproximateIndex, queries: np.ndarray) -> None:
    lists = linked.base
    assert isinstance(lists, Lists)
    assert lists.linked
    inner = linked.inner(queries)
    centroids = lists.centroids.reconstruct_n(0, 150)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-4)
    true = np.argsort(-inner @ centroids.T, axis=1)
    for count in (1, 8, 64):
        products, found = lists.nearest(inner, count)
        assert np.mean([np.isin(a, b[:count]).mean() for a, b in zip(found, true, strict=True)]) > 0.95
        np.testing.assert_allclose(products, np.take_along_axis(inner @ centroids.T, found, axis=1), atol=1e-4)
    products, found = lists.nearest(inner, 150)  # an order of all is exact, whatever the graph reaches
    assert np.array_equal(np.sort(found, axis=1), np.tile(np.arange(150), (len(inner), 1)))
    assert (found == true).mean() > 0.99  # float32 ties aside
    read = [lists.bytes_read(inner, effort) for effort in lists.efforts()]
    assert read == sorted(read)
    nearest = lists.centroids.search(linked.inner(as_float32(linked.vectors)), 1)[1][:, 0]
    assert (nearest == lists.list_of_row).mean() > 0.95


def test_linked_lists_answer_as_exact_search_does(linked: ApproximateIndex, queries: np.ndarray) -> None:
    truth = exact.search(linked.vectors, queries, 10)
    for nprobe in (32, 64, 100, 150):  # by FAISS's own search, and beyond WALKED by ours
        assert recall(linked.search(queries, 10, nprobe=nprobe, rerank=300), truth, 10) >= 0.95
    rows = np.flatnonzero(np.random.default_rng(3).random(6000) < 0.2).astype(np.int64)
    found = linked.search(queries, 10, nprobe=16, rerank=300, rows=rows)
    assert np.isin(found.rows, rows).all()
    assert recall(found, exact.search(linked.vectors, queries, 10, rows), 10) >= 0.95
    few = rows[::100]
    every = linked.candidates(queries, 4, len(few), few, at_least=len(few))
    assert np.array_equal(np.sort(every, axis=1), np.tile(few, (len(queries), 1)))
    assert (linked.candidates(queries, 1, 2000, at_least=2000) >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_linked_lists_are_as_good_as_flat_ones(
    structured: np.ndarray, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """k-means that assigns by the graph leaves lists of which as few need probing."""
    recipe = replace(choose(6000, 96, kind, dims=32), nlist=150)
    truth, reached = exact.search(structured, queries, 10), []
    for least in (100, 10_000):
        monkeypatch.setattr("index.recipe.COARSE_FROM", least)
        index = ApproximateIndex(approximate.build(structured, recipe), structured)
        reached.append(recall(index.search(queries, 10, nprobe=8, rerank=200), truth, 10))
    assert reached[0] >= reached[1] - 0.03
