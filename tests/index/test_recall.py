"""Every kind of index finds what it promises: at any weights, under any filter, for any effort."""

from __future__ import annotations

import numpy as np
import pytest

from index import exact, graph
from index.approximate import ApproximateIndex
from index.exact import as_float32
from index.hits import Hits, recall
from index.table import Layout
from tests.index.checks import check, reached, slack

Asked = dict[str, tuple[np.ndarray, Hits]]


@pytest.fixture
def never_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ApproximateIndex, "_brute_force_is_cheaper", lambda *_: False)
    monkeypatch.setattr(graph, "STEP_COST", 1e-9)


@pytest.mark.parametrize(("share", "floor"), [(0.1, 0.85), (0.5, 0.99), (1.0, 0.995)])
def test_recall_floor_per_effort(index: ApproximateIndex, asked: Asked, share: float, floor: float) -> None:
    queries, truth = asked["default"]
    efforts = [each for each in index.base.efforts() if each <= share * index.base.most]
    hits = index.search(queries, 10, nprobe=efforts[-1], rerank=512)
    check(index, queries, hits, 10)
    assert recall(hits, truth, 10) >= floor


@pytest.mark.parametrize(("weights", "k"), [("default", 1), ("default", 10), ("random", 10), ("default", 50)])
def test_recall_does_not_fall_as_nprobe_rises(index: ApproximateIndex, asked: Asked, weights: str, k: int) -> None:
    queries, truth = asked[weights][0][::2], asked[weights][1]
    truth = Hits(truth.rows[::2], truth.scores[::2], truth.counts[::2])
    efforts = index.base.efforts()
    found = [recall(index.search(queries, k, nprobe=each), truth, k) for each in [*efforts[:-1:2], efforts[-1]]]
    assert all(later >= earlier - 0.002 for earlier, later in zip(found, found[1:], strict=False)), found
    assert found[-1] > 0.98


@pytest.mark.parametrize("wanted", [0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("weights", ["default", "random", "one dropped", "one alone", "edited"])
def test_asked_recall_is_reached_at_any_weights(
    index: ApproximateIndex, asked: Asked, weights: str, wanted: float
) -> None:
    queries, truth = asked[weights]
    for k in (1, 10, 50):
        hits = index.search(queries, k, recall=wanted)
        promised = index.expected_recall(wanted, k, queries)
        found = recall(hits, truth, k)
        assert promised >= wanted
        assert found >= wanted - slack(wanted, len(queries)), (k, found)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_asked_recall_is_reached_by_each_block_alone(index: ApproximateIndex, asked: Asked, block: int) -> None:
    """Not only in their mean: a hard block must not live on easy ones."""
    queries, truth = asked["one alone"][0][block::3], asked["one alone"][1]
    mine = Hits(truth.rows[block::3], truth.scores[block::3], truth.counts[block::3])
    for wanted in (0.8, 0.95):
        assert index.expected_recall(wanted, 10, queries) >= wanted
        assert recall(index.search(queries, 10, recall=wanted), mine, 10) >= wanted - slack(wanted, len(queries))


def test_each_query_is_answered_at_its_own_level(index: ApproximateIndex, asked: Asked) -> None:
    """Queries of all levels together: each gets what it gets among its like."""
    queries = np.concatenate([each[:20] for each, _ in asked.values()])
    assert index.tuning is not None
    levels = index.tuning.levels(queries)
    assert len(np.unique(levels)) > 2
    together = index.search(queries, 7, recall=0.9)
    check(index, queries, together, 7)
    for level in np.unique(levels):
        setting = index.setting(0.9, 7, level=int(level))
        members = levels == level
        if setting.exact:
            expected = exact.search(index.vectors, queries[members], 7)
        else:
            expected = index.search(queries[members], 7, nprobe=setting.nprobe, rerank=setting.rerank)
        assert np.array_equal(together.rows[members], expected.rows)


def test_a_level_that_no_setting_reaches_is_answered_exactly(
    index: ApproximateIndex, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert index.tuning is not None
    for setting in index.tuning.curve:
        for i in range(3):
            monkeypatch.setitem(setting.by_kind, f"block {i} alone", dict.fromkeys(setting.recall, 0.5))
    monkeypatch.setattr(index, "_settings", {})  # choices made before
    queries = np.concatenate([asked["one alone"][0][:60], asked["random"][0][:60]])
    far = index.tuning.levels(queries) > 4
    assert far[:60].all()
    assert not far.all()
    hits = index.search(queries, 10, recall=0.9)
    assert np.array_equal(hits.rows[far], exact.search(index.vectors, queries[far], 10).rows)
    assert index.expected_recall(0.9, 10, queries[far]) == 1.0


@pytest.mark.usefixtures("never_brute_force")
@pytest.mark.parametrize("weights", ["default", "random"])
@pytest.mark.parametrize("selectivity", [0.5, 0.1, 0.01, 0.001])
def test_filter_within_the_index_keeps_recall(
    index: ApproximateIndex, asked: Asked, selectivity: float, weights: str
) -> None:
    rows = np.flatnonzero(np.random.default_rng(2).random(6000) < selectivity).astype(np.int64)
    queries = asked[weights][0][:80]
    hits = index.search(queries, 10, recall=0.95, rows=rows)
    check(index, queries, hits, 10, rows)
    assert reached(index, queries, hits, 10, rows) >= 0.95 - slack(0.95, 80)


@pytest.mark.parametrize("selectivity", [0.5, 0.1, 0.01, 0.001])
def test_filter_keeps_recall(index: ApproximateIndex, asked: Asked, selectivity: float) -> None:
    rows = np.flatnonzero(np.random.default_rng(1).random(6000) < selectivity).astype(np.int64)
    queries = asked["default"][0]
    for part in (queries, queries[:1]):  # alone it is the index, together it is brute force
        hits = index.search(part, 10, recall=0.95, rows=rows)
        check(index, part, hits, 10, rows)
        assert reached(index, part, hits, 10, rows) >= (0.93 if len(part) > 1 else 0.8)


@pytest.mark.usefixtures("never_brute_force")
@pytest.mark.parametrize("block", ["look", "color"])
def test_filter_that_disagrees_with_the_query(
    index: ApproximateIndex, queries: np.ndarray, layout: Layout, block: str
) -> None:
    """Only the quarter of the rows that is farthest from the query in one block is allowed: a red shirt, where blue."""
    wide, found = as_float32(index.vectors), []
    for query in queries[:30]:
        part = layout.slice(block)
        rows = np.sort(np.argsort(wide[:, part] @ query[part])[:1500])
        hits = index.search(query[None], 10, recall=0.95, rows=rows)
        check(index, query[None], hits, 10, rows)
        found.append(reached(index, query[None], hits, 10, rows))
    assert np.mean(found) >= 0.95 - slack(0.95, 30)
    assert index.base.knob != "efSearch" or np.mean(found) >= 0.98  # a walk keeps all that is as near


@pytest.mark.usefixtures("never_brute_force")
def test_filter_of_what_is_farthest_from_the_query(index: ApproximateIndex, queries: np.ndarray) -> None:
    """The hundred rows that answer the query worst: what a list or a walk near it never meets."""
    scores = queries[:20] @ as_float32(index.vectors).T
    for query, order in zip(queries, np.argsort(scores, axis=1), strict=False):
        rows = np.sort(order[:100])
        hits = index.search(query[None], 10, recall=0.95, rows=rows)
        check(index, query[None], hits, 10, rows)
        assert reached(index, query[None], hits, 10, rows) >= 0.8
