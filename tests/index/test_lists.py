"""Inverted lists: which are probed, and what FAISS finds there."""

from __future__ import annotations

from collections.abc import Callable

import faiss
import numpy as np
import pytest

from index import approximate, exact
from index.approximate import ApproximateIndex
from index.exact import as_float32
from index.hits import recall
from index.lists import Lists
from index.recipe import Recipe

KINDS = ["ivfpq", "fastscan", "rabitq"]


@pytest.fixture(scope="module", params=KINDS)
def index(request: pytest.FixtureRequest, tuned: Callable[[str], ApproximateIndex]) -> ApproximateIndex:
    return tuned(request.param)


def plain(index: ApproximateIndex, queries: np.ndarray, nprobe: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    params: faiss.SearchParameters = faiss.SearchParametersIVF(nprobe=nprobe)
    if isinstance(index.index, faiss.IndexPreTransform):
        params = faiss.SearchParametersPreTransform(index_params=params)
    return index.index.search(queries, depth, params=params)


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
