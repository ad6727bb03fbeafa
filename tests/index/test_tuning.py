from __future__ import annotations

import numpy as np
import pytest

from index import tuning
from index.approximate import ApproximateIndex
from index.exact import as_float32
from index.table import Layout
from index.tuning import Setting, Tuning


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


def test_json_comes_back(ivf: ApproximateIndex) -> None:
    assert ivf.tuning is not None
    assert Tuning.from_json(ivf.tuning.to_json()) == ivf.tuning


def test_curve_has_every_kind_and_its_lowest(ivf: ApproximateIndex) -> None:
    assert ivf.tuning is not None
    for setting in ivf.tuning.curve:
        assert set(setting.by_kind) == {"default weights", "edited", "level 1", "level 2", "level 3"}
        assert list(setting.recall) == [1, 4, 10, 30, 100]
        for k, lowest in setting.recall.items():
            assert lowest == min(setting.by_kind[kind][k] for kind in ("default weights", "edited"))
            assert all(setting.recall_at(k, i) == setting.by_kind[f"level {i}"][k] for i in (1, 2, 3))
            assert setting.recall_at(k, 4) == setting.recall_at(k, 3)
        assert setting.ms > 0
    top = ivf.tuning.curve[-1]
    assert min(min(kind.values()) for kind in top.by_kind.values()) >= tuning.ENOUGH or top.nprobe == ivf.base.most


def test_measured_recall_is_what_searching_gives(ivf: ApproximateIndex, structured: np.ndarray, layout: Layout) -> None:
    """The oracle: the same queries through ``search``, judged neighbour by neighbour against a full sort."""
    assert ivf.tuning is not None
    rng = np.random.default_rng(ivf.tuning.seed)
    n = tuning.QUERIES
    rows = np.sort(rng.choice(len(structured), n, replace=False))
    wide = as_float32(structured)
    queries = wide[rows] * layout.scale({"color": 2.0})
    scores = (queries @ wide.T).astype(np.float64)
    scores[np.arange(n), rows] = -np.inf
    for setting in (ivf.tuning.choose(0.8, 10), ivf.tuning.choose(0.95, 10)):
        found = 0
        for i, row in enumerate(rows):
            threshold = np.sort(scores[i])[-10] - 1e-5 * scores[i].max()
            depth = setting.rerank + 1  # its own row takes a place
            hits, _ = ivf.search(queries[i : i + 1], 11, nprobe=setting.nprobe, rerank=depth).query(0)
            found += (scores[i, hits[hits != row][:10]] >= threshold).sum()
        assert found / (10 * n) == pytest.approx(setting.by_kind["default weights"][10], abs=0.003)


def test_same_seed_same_curve(ivf: ApproximateIndex, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "QUERIES", 20)
    bare = ApproximateIndex(ivf.index, ivf.vectors)
    first, again, other = (
        [(s.nprobe, s.rerank, s.recall, s.bytes_read) for s in tuning.measure(bare, layout, {}, seed).curve]
        for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_one_block_is_asked_at_its_own_weight_only(ivf: ApproximateIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "QUERIES", 20)
    measured = tuning.measure(ApproximateIndex(ivf.index, ivf.vectors), Layout.of({"all": 96}), {})
    assert set(measured.curve[0].by_kind) == {"default weights"}
