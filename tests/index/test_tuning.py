from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from index import approximate, exact, levels, tuning
from index.approximate import ApproximateIndex
from index.exact import as_float32
from index.hits import Hits, recall
from index.levels import level_of
from index.recipe import choose
from index.table import Layout
from index.tuning import Setting, Tuning
from tests.index.checks import slack
from tests.index.conftest import APPROXIMATE, LAYOUT


def curve(*points: tuple[int, int, float, int]) -> Tuning:
    """(nprobe, rerank, recall at 10, bytes); recall at 1 is 0.02 more."""
    return Tuning([Setting(p, r, {1: at_10 + 0.02, 10: at_10}, {}, read) for p, r, at_10, read in points], 0, 9, "hand")


LOW = [(1, 10, 0.5, 10), (1, 50, 0.6, 30), (4, 10, 0.8, 25)]
HIGH = [(4, 50, 0.955, 60), (9, 10, 0.79, 55), (9, 50, 0.97, 90)]
HAND = curve(*LOW, *HIGH)


def test_choose_takes_the_least_work_that_reaches_the_recall() -> None:
    assert (HAND.choose(0.75, 10).nprobe, HAND.choose(0.75, 10).rerank) == (4, 10)
    assert HAND.choose(0.95, 10).bytes_read == 60
    assert HAND.choose(0.97, 1).bytes_read == 60  # recall at 1 is higher
    assert HAND.choose(0.95, 4).recall_at(4) == 0.955  # no curve at 4: the one at 10


def test_choose_takes_the_best_when_none_reaches_it() -> None:
    assert HAND.choose(0.999, 10).bytes_read == 90
    assert HAND.choose(0.999, 10).recall_at(10) == 0.97


def test_beyond_the_largest_k_both_knobs_grow() -> None:
    setting = HAND.choose(0.95, 40)
    assert (setting.nprobe, setting.rerank) == (16, 200)
    assert setting.recall_at(40) == 0.955


def test_depth_never_shrinks_as_nprobe_rises() -> None:
    depths = [HAND.depth_for(nprobe, 10) for nprobe in range(1, 12)]
    assert depths == sorted(depths)
    assert depths[0] == depths[-1] == 64
    assert HAND.depth_for(1, 70) == 140


def test_times_are_measured_too(ivf: ApproximateIndex) -> None:
    assert ivf.tuning is not None
    assert all((setting.ms > 0) == (setting.rerank <= tuning.TIMED_DEPTH) for setting in ivf.tuning.curve)


def test_json_comes_back(index: ApproximateIndex) -> None:
    assert index.tuning is not None
    assert Tuning.from_json(index.tuning.to_json()) == index.tuning


def test_a_curve_of_before_has_one_level() -> None:
    """Written when weights had no levels: no starts, no weights, another kind of that name."""
    body = json.loads(HAND.to_json())
    del body["starts"], body["weights"]
    for each in body["curve"]:
        del each["exact"]
        each["by_kind"] = {"random weights": each["recall"]}
    old = Tuning.from_json(json.dumps(body))
    assert old.levels(np.eye(5, 96, dtype=np.float32)).tolist() == [0] * 5
    assert old.choose(0.95, 10) == replace(HAND.choose(0.95, 10), by_kind=old.curve[3].by_kind)
    assert old.depth_for(4, 10) == HAND.depth_for(4, 10)


def naive_level(weights: np.ndarray, default: list[float]) -> int:
    own = math.sqrt(sum(w * w for w in weights))
    length = own * math.sqrt(sum(d * d for d in default))
    cosine = sum(w * d for w, d in zip(weights, default, strict=True)) / length if length else 0.0
    level = sum(cosine < end for end in levels.LEVELS)
    for i, weight in enumerate(weights if len(default) > 1 else ()):
        if weight > 0 and (weight == own or (level and weight > levels.ALONE * own)):
            return len(levels.LEVELS) + 1 + i
    return level


def test_levels_are_by_the_cosine_of_weights() -> None:
    rng = np.random.default_rng(0)
    for default in ([1.0, 2.0, 1.0], [1.0, 1.0], [3.0, 0.0, 0.5, 1.0]):
        weights = rng.uniform(0, 4, (300, len(default))) * (rng.random((300, len(default))) < 0.7)
        found = level_of(weights, default)
        assert found.tolist() == [naive_level(each, default) for each in weights]
        assert level_of(np.array([default]) * 0.01, default).tolist() == [0]
        assert level_of(np.zeros((1, len(default))), default).tolist() == [len(levels.LEVELS)]


@pytest.mark.parametrize("factor", [1e-6, 1, 1e6])
def test_levels_of_queries_are_those_of_their_weights(structured: np.ndarray, layout: Layout, factor: float) -> None:
    rng = np.random.default_rng(1)
    default = [1.0, 2.0, 1.0]
    weights = rng.uniform(0, 4, (200, 3)) * (rng.random((200, 3)) < 0.8)
    scale = np.array([layout.scale(dict(zip(layout.names, each, strict=True))) for each in weights.tolist()])
    queries = (as_float32(structured[:200]) * scale * factor).astype(np.float32)
    starts = [block.start for block in layout.blocks]
    found = Tuning([], 0, 0, "hand", starts, default).levels(queries)
    cosines = weights @ default / np.maximum(np.linalg.norm(weights, axis=1) * np.linalg.norm(default), 1e-12)
    clear = np.abs(cosines[:, None] - levels.LEVELS).min(axis=1) > 1e-3  # float16 blocks are not quite of length 1
    assert clear.mean() > 0.95
    assert found[clear].tolist() == [naive_level(each, default) for each in weights[clear]]
    assert len(np.unique(found)) >= 4
    assert Tuning([], 0, 0, "hand").levels(queries).tolist() == [0] * 200  # one block


def levelled(*points: tuple[int, int, float, float, float]) -> Tuning:
    """(nprobe, rerank, recall at 10 of level 0, of level 1, of level 3); no weights are of level 2 or 4."""
    return Tuning(
        [
            Setting(
                p, r, {10: zero}, {"default weights": {10: zero}, "level 1": {10: one}, "level 3": {10: three}}, p * r
            )
            for p, r, zero, one, three in points
        ],
        0,
        9,
        "hand",
    )


def test_each_level_has_a_curve_of_its_own() -> None:
    made = levelled((1, 20, 0.96, 0.9, 0.3), (2, 20, 0.97, 0.961, 0.5), (4, 20, 0.98, 0.97, 0.9), (8, 30, 1, 1, 0.955))
    assert [made.choose(0.95, 10, level).nprobe for level in (0, 1)] == [1, 2]
    # a level mixes easier and harder weights: 0.955 is not yet enough for 0.95, 0.96 is
    assert made.choose(0.95, 10, 3) == Setting(1, 10, exact=True)
    assert made.choose(0.94, 10, 3).nprobe == 8
    assert made.choose(0.95, 10, 3).recall_at(10, 3) == 1.0
    # where no weights are of a level, the one before it holds
    assert made.choose(0.95, 10, 2) == made.choose(0.95, 10, 1)
    assert made.choose(0.95, 10, 4) == made.choose(0.95, 10, 3)
    assert made.curve[0].recall_at(10, 4) == 0.3
    assert made.choose(1.0, 10, 1).nprobe == 8
    assert made.choose(1.0, 10, 0).nprobe == 8
    # beyond the k measured, exact search needs no more; others grow
    assert made.choose(0.99, 100, 3).exact
    assert (made.choose(0.9, 100, 3).nprobe, made.choose(0.9, 100, 3).rerank) == (80, 300)


@pytest.mark.parametrize(
    ("k", "by"),
    [(1, 1), (2, 4), (4, 4), (5, 4), (6, 10), (10, 10), (11, 10), (12, 10), (13, 30), (100, 100), (999, 100)],
)
def test_measured_k(k: int, by: int) -> None:
    assert tuning.measured_k(tuning.KS, k) == by
    assert tuning.measured_k(tuning.KS[::-1], k) == by


def test_deeper_than_the_candidates_asked_for() -> None:
    """A setting of fewer candidates than k was measured with k of them."""
    few = Tuning([Setting(3, 12, {10: 0.9, 30: 0.97}, {}, 5)], 0, 9, "hand")
    assert few.choose(0.95, 30).rerank == 30
    assert few.choose(0.95, 10).rerank == 12
    assert few.choose(0.95, 11).rerank == 14  # by 10: a tenth more


def test_curve_has_every_kind_and_its_lowest(index: ApproximateIndex) -> None:
    assert index.tuning is not None
    every = {"default weights", "edited", "level 1", "level 2", "level 3"}
    every |= {"block 0 alone", "block 1 alone", "block 2 alone"}
    for setting in index.tuning.curve:
        # one of three blocks raised eight times is in level 2
        assert set(setting.by_kind) == every | {"level 1, edited", "level 2, edited"}
        assert list(setting.recall) == [1, 4, 10, 30, 100]
        for k, lowest in setting.recall.items():
            assert lowest == min(setting.by_kind[kind][k] for kind in ("default weights", "edited"))
            assert all(setting.recall_at(k, i) == setting.by_kind["level 3"][k] for i in (3, 4))  # none is in level 4
            assert all(setting.recall_at(k, 5 + i) == setting.by_kind[f"block {i} alone"][k] for i in range(3))
            for i in (1, 2):
                assert setting.recall_at(k, i) == min(setting.by_kind[f"level {i}{way}"][k] for way in ("", ", edited"))
    top = index.tuning.curve[-1]
    lowest = min(min(kind.values()) for kind in top.by_kind.values())
    assert lowest >= tuning.ENOUGH or top.nprobe == index.base.most or lowest >= tuning.ENDING
    work = [each.bytes_read for each in index.tuning.curve if each.rerank == 64]
    assert work == sorted(work)


def test_a_curve_ends_where_twice_the_effort_gains_nothing() -> None:
    ended = tuning._ended
    assert ended({16: [0.9, 0.996]}, until=0.9)
    assert not ended({16: [0.9, 0.996]}, until=None)
    assert ended({16: [0.996, 0.996]}, until=None)
    assert not ended({16: [0.993, 0.999], 24: [0.9935, 0.999]}, until=None)  # not twice
    assert ended({12: [0.993, 0.999], 16: [0.993, 0.999], 24: [0.9935, 0.999]}, until=None)
    assert not ended({12: [0.99, 0.999], 24: [0.993, 0.999]}, until=None)  # it still gains
    assert not ended({12: [0.98, 0.999], 24: [0.98, 0.999]}, until=None)  # walks may yet find the way


def test_measured_recall_is_what_searching_gives(
    index: ApproximateIndex, structured: np.ndarray, layout: Layout
) -> None:
    """The oracle: the same queries through ``search``, judged neighbour by neighbour against a full sort."""
    assert index.tuning is not None
    rng = np.random.default_rng(index.tuning.seed)
    n = levels.QUERIES
    rows = np.sort(rng.choice(len(structured), n, replace=False))
    wide = as_float32(structured)
    queries = wide[rows] * layout.scale({"color": 2.0})
    scores = (queries @ wide.T).astype(np.float64)
    scores[np.arange(n), rows] = -np.inf
    for setting in (index.tuning.choose(0.8, 10), index.tuning.choose(0.95, 10)):
        found = 0
        with index.base.hidden(rows) as hidden:
            if hidden:
                scores[:, rows] = -np.inf
            for i, row in enumerate(rows):
                threshold = np.sort(scores[i])[-10] - 1e-5 * scores[i].max()
                depth = setting.rerank + (not hidden)  # its own row takes a place
                hits, _ = index.search(queries[i : i + 1], 11, nprobe=setting.nprobe, rerank=depth).query(0)
                found += (scores[i, hits[hits != row][:10]] >= threshold).sum()
        assert found / (10 * n) == pytest.approx(setting.by_kind["default weights"][10], abs=0.003)


@pytest.mark.parametrize("kind", ["fastscan", "graph"])
def test_same_seed_same_curve(
    tuned: Callable[[str], ApproximateIndex], kind: str, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels, "QUERIES", 12)
    index = tuned(kind)
    bare = ApproximateIndex(index.index, index.vectors)
    first, again, other = (tuning.measure(bare, layout, {}, seed, timed=False).curve for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_one_block_is_asked_at_its_own_weight_only(ivf: ApproximateIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "QUERIES", 20)
    measured = tuning.measure(ApproximateIndex(ivf.index, ivf.vectors), Layout.of({"all": 96}), {}, timed=False)
    assert set(measured.curve[0].by_kind) == {"default weights"}
    assert ApproximateIndex(ivf.index, ivf.vectors, measured).expected_recall(0.9, 10) >= 0.9


@pytest.mark.parametrize("kind", ["fastscan", "graph"])
def test_trial_is_of_the_least_work(
    tuned: Callable[[str], ApproximateIndex], kind: str, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels, "QUERIES", 12)
    index = tuned(kind)
    bare = ApproximateIndex(index.index, index.vectors)
    chosen = tuning.measure(bare, layout, {"color": 2.0}, 3, timed=False).choose(tuning.RECALL, 10)
    searched: list[tuple[int, int, int]] = []
    real = ApproximateIndex.search

    def spied(self: ApproximateIndex, queries: np.ndarray, k: int, **how: int) -> Hits:
        searched.append((len(queries), how["nprobe"], how["rerank"]))
        return real(self, queries, k, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(ApproximateIndex, "search", spied)
    reached, ms = tuning.trial(bare, layout, {"color": 2.0}, 3)
    assert reached == chosen.recall_at(10) >= tuning.RECALL
    assert ms > 0
    assert set(searched) == {(512, chosen.nprobe, chosen.rerank)}


def test_hardly_any_rows_are_measured(structured: np.ndarray, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "QUERIES", 10)
    for kind in ("fastscan", "graph"):
        few = structured[:1024]
        made = approximate.build(few, choose(1024, 96, kind, dims=32))
        index = ApproximateIndex(made, few, tuning.measure(ApproximateIndex(made, few), layout, {}, timed=False))
        assert index.expected_recall(0.95, 10) >= 0.95


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_a_trial_measures_the_same_and_stops_early(
    tuned: Callable[[str], ApproximateIndex], structured: np.ndarray, kind: str
) -> None:
    whole = tuned(kind)
    assert whole.tuning is not None
    bare = ApproximateIndex(whole.index, structured)
    short = tuning.measure(bare, LAYOUT, {"color": 2.0}, timed=False, until=0.9).curve
    assert len(short) < len(whole.tuning.curve)
    by_knobs = {(each.nprobe, each.rerank): each for each in whole.tuning.curve}
    for each in short:
        assert set(each.recall) == {10}
        assert set(each.by_kind) == {"default weights", "edited"}
        same = by_knobs[each.nprobe, each.rerank]
        assert each.recall[10] == pytest.approx(same.recall[10], abs=0.002)  # products of fewer queries round otherwise
    assert short[-1].recall[10] >= 0.9 or short[-1].nprobe == whole.base.most


def lacking(structured: np.ndarray, share: float) -> np.ndarray:
    """The vectors with the last block zero in this share of rows."""
    some = structured.copy()
    last = LAYOUT.blocks[-1]
    some[np.random.default_rng(3).random(len(some)) < share, last.start : last.stop] = 0
    return some


@pytest.mark.parametrize("kind", APPROXIMATE)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_rows_without_a_block_promise_nothing_for_it(structured: np.ndarray, kind: str, share: float) -> None:
    """A query without anything in a block finds all rows equal: it must not count for those that have something."""
    some = lacking(structured, share)
    index = ApproximateIndex(approximate.build(some, choose(len(some), 96, kind, dims=32)), some)
    index.tuning = tuning.measure(index, LAYOUT, {}, timed=False)
    last = LAYOUT.blocks[-1]
    have = np.flatnonzero(some[:, last.start :].any(axis=1))[::3][:300]
    rest = dict.fromkeys(LAYOUT.names[:-1], 0.0)
    for weights in ({}, rest, {LAYOUT.names[0]: 0.0}, {LAYOUT.names[-1]: 3.0}):
        queries = as_float32(some[have]) * LAYOUT.scale(weights)
        truth = exact.search(some, queries, 10)
        assert recall(index.search(queries, 10), truth, 10) >= 0.95 - slack(0.95, len(have)), weights


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_rows_of_zeros_change_no_promise(structured: np.ndarray, kind: str) -> None:
    some = structured[:3000].copy()
    some[::3] = 0
    index = ApproximateIndex(approximate.build(some, choose(len(some), 96, kind, dims=32)), some)
    index.tuning = tuning.measure(index, Layout.of({"all": 96}), {}, timed=False)
    assert index.expected_recall(0.95, 10) >= 0.95
    queries = as_float32(some[1::30])
    assert recall(index.search(queries, 10), exact.search(some, queries, 10), 10) >= 0.95 - slack(0.95, len(queries))


def test_few_rows_are_measured_among_enough_neighbours(structured: np.ndarray) -> None:
    """Walks do not meet the rows that ask: where these are many, more neighbours must be known."""
    few = structured[:1100, :32].copy()
    index = ApproximateIndex(approximate.build(few, choose(len(few), 32, "graph")), few)
    index.tuning = tuning.measure(index, Layout.of({"all": 32}), {}, timed=False)
    assert index.expected_recall(0.95, 100) >= 0.95
    assert index.setting(0.95, 100).nprobe <= 256


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_a_factor_changes_nothing(tuned: Callable[[str], ApproximateIndex], structured: np.ndarray, kind: str) -> None:
    index, queries = tuned(kind), as_float32(structured[::60]) * LAYOUT.scale({"color": 2.0})
    found = index.search(queries, 10)
    for factor in (1e-12, 0.01, 0.3, 7.0, 1e12):
        again = index.search(queries * np.float32(factor), 10)
        assert (again.rows == found.rows).mean() > 0.99
        np.testing.assert_allclose(again.scores, found.scores * factor, rtol=1e-5)
