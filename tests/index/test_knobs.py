"""Searches with the caller's own knobs, and what is said of their recall."""

from __future__ import annotations

import numpy as np
import pytest

from index.approximate import ApproximateIndex
from index.exact import ExactIndex
from index.exact import search as exact_search
from index.hits import recall
from index.knobs import Knobs
from index.live import LiveIndex


def test_the_knobs_are_used(ivf: ApproximateIndex, queries: np.ndarray) -> None:
    for nprobe, rerank in ((1, 12), (4, 64), (10**6, 500)):
        ours = Knobs(ivf, nprobe, rerank).search(queries, 10, recall=0.5)
        theirs = ivf.search(queries, 10, nprobe=nprobe, rerank=rerank)
        assert np.array_equal(ours.rows, theirs.rows)
    allowed = np.arange(0, 6000, 7)
    ours = Knobs(ivf, 4, 64).search(queries, 10, rows=allowed)
    assert np.array_equal(ours.rows, ivf.search(queries, 10, nprobe=4, rerank=64, rows=allowed).rows)
    assert np.isin(ours.rows, allowed).all()
    by_recall = Knobs(ivf, rerank=20).search(queries, 10, recall=0.8)
    assert np.array_equal(by_recall.rows, ivf.search(queries, 10, recall=0.8, rerank=20).rows)


def test_the_recall_said_was_measured_for_less(ivf: ApproximateIndex, queries: np.ndarray) -> None:
    assert ivf.tuning is not None
    levels = set(ivf.tuning.levels(queries).tolist())
    for nprobe, rerank in ((2, 16), (5, 70), (16, 128), (150, 1024)):
        lower = []
        for level in levels:
            met = [e.recall_at(10, level) for e in ivf.tuning.curve if e.nprobe <= nprobe and e.rerank <= rerank]
            lower.append(max(met))
        knobs = Knobs(ivf, nprobe, rerank)
        assert knobs.expected_recall(None, 10, queries) == min(lower)
        found = recall(knobs.search(queries, 10), exact_search(ivf.vectors, queries, 10), 10)
        assert found >= min(lower) - 0.06
    said = [Knobs(ivf, nprobe, 64).expected_recall(None, 10) for nprobe in (1, 2, 4, 8, 16, 32)]
    assert said == sorted(said)
    assert Knobs(ivf, 1, 3).expected_recall(None, 10) == 0  # fewer candidates than were ever measured
    live = LiveIndex(ivf, np.zeros((0, 96), np.float16), np.array([3]))
    assert Knobs(live, 4, 64).expected_recall(None, 10) == Knobs(ivf, 4, 64).expected_recall(None, 10)


@pytest.mark.parametrize("nprobe", [None, 3])
def test_exact_search_has_no_knobs(structured: np.ndarray, queries: np.ndarray, nprobe: int | None) -> None:
    index = ExactIndex(structured)
    assert np.array_equal(Knobs(index, nprobe).search(queries, 5).rows, index.search(queries, 5).rows)
    assert Knobs(index, nprobe).expected_recall() == 1


def test_without_knobs_it_is_the_index(ivf: ApproximateIndex, queries: np.ndarray) -> None:
    assert Knobs(ivf).expected_recall(0.9, 10, queries) == ivf.expected_recall(0.9, 10, queries)
    assert np.array_equal(Knobs(ivf).search(queries, 10, recall=0.9).rows, ivf.search(queries, 10, recall=0.9).rows)
