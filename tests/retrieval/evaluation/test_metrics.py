"""Each metric against a slow, obvious loop, and against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.evaluation import metrics


def scene(seed: int, photos: int = 30, attributes: int = 3, queries: int = 12, width: int = 9, missing: float = 0.1):
    """Random labels, references, edits and result lists (distinct photos, some lists short)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (photos, attributes)).astype(np.int32)
    labels[rng.random(labels.shape) < missing] = -1
    reference = rng.integers(0, photos, queries)
    attribute = rng.integers(0, attributes, queries)
    target = labels[reference].copy()
    target[np.arange(queries), attribute] = rng.integers(0, 3, queries)
    rows = np.stack([rng.permutation(photos)[:width] for _ in range(queries)])
    for line in rows[::3]:
        line[rng.integers(0, width) :] = -1
    return labels, reference, attribute, target, rows


def slow_ndcg(scores: list[float], k: int, best: list[float] | None = None) -> float:
    def dcg(values: list[float]) -> float:
        return sum((2**value - 1) / math.log2(rank + 2) for rank, value in enumerate(values[:k]))

    ideal = dcg([1.0] * k if best is None else best)
    return dcg(scores) / ideal if ideal else 0.0


def slow_scores(labels, photo: int, target, attribute: int) -> tuple[float, float, float]:
    same = [labels[photo][a] == target[a] for a in range(len(target))] if photo >= 0 else [False] * len(target)
    others = [same[a] for a in range(len(target)) if a != attribute]
    return sum(same) / len(same), float(same[attribute]), sum(others) / len(others)


def test_ndcg_by_hand():
    graded = np.array([[1.0, 0.5, 0.0]])
    gained = 1 + (math.sqrt(2) - 1) / math.log2(3)
    ones = 1 + 1 / math.log2(3) + 1 / 2
    assert metrics.ndcg_at_k(graded, 3)[0] == pytest.approx(gained / ones)
    assert metrics.ndcg_at_k(graded, 1)[0] == 1
    # Two results only, judged at 3: the third place gains nothing but still counts in the ideal.
    assert metrics.ndcg_at_k(graded[:, :2], 3)[0] == pytest.approx(gained / ones)
    assert metrics.ndcg_at_k(graded, 3, np.array([[1.0, 0.5, 0.0]]))[0] == pytest.approx(1)
    assert metrics.ndcg_at_k(graded * 0, 3, np.zeros((1, 3)))[0] == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 4, 9])
def test_hit_relevance_and_ndcg_match_a_loop(seed: int, k: int):
    labels, _, attribute, target, rows = scene(seed)
    matched = metrics.matches(labels, rows, target)
    graded = metrics.relevance(matched, attribute)
    hit = metrics.hit_at_k(matched.all(axis=2), k)
    ndcg = [metrics.ndcg_at_k(part, k) for part in graded]
    for q, line in enumerate(rows):
        scores = [slow_scores(labels, photo, target[q], attribute[q]) for photo in line]
        assert hit[q] == any(score[0] == 1 for score in scores[:k])
        for part in range(3):
            assert graded[part][q] == pytest.approx([score[part] for score in scores])
            assert ndcg[part][q] == pytest.approx(slow_ndcg([score[part] for score in scores], k))


@pytest.mark.parametrize("k", [1, 5, 50])
@pytest.mark.parametrize("seed", range(4))
def test_best_relevance_is_what_sorting_the_gallery_gives(seed: int, k: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics, "_COMPARISONS", 100)  # several chunks even in a small scene
    labels, reference, attribute, target, _ = scene(seed, queries=25)
    gallery = np.random.default_rng(seed).permutation(len(labels))[:20]  # some references are outside
    best = metrics.best_relevance(labels, gallery, target, attribute, reference, k)
    for q in range(len(reference)):
        left = [slow_scores(labels, row, target[q], attribute[q]) for row in gallery if row != reference[q]]
        for part in range(3):
            ranked = sorted((score[part] for score in left), reverse=True)[:k]
            assert best[part][q] == pytest.approx(ranked + [0.0] * (k - len(ranked)))


def test_ideal_ranking_reaches_one_and_only_with_the_attainable_ideal():
    labels, reference, attribute, target, _ = scene(7, queries=20)
    gallery = np.arange(len(labels))
    share = metrics.relevance(metrics.matches(labels, np.tile(gallery, (20, 1)), target), attribute).all
    share[gallery[None, :] == reference[:, None]] = -1
    rows = np.argsort(-share, axis=1, kind="stable")[:, :6]
    graded = metrics.relevance(metrics.matches(labels, rows, target), attribute).all
    best = metrics.best_relevance(labels, gallery, target, attribute, reference, 6).all
    assert metrics.ndcg_at_k(graded, 6, best) == pytest.approx(1)
    assert metrics.ndcg_at_k(graded, 6).min() < 0.99


def test_one_attribute_has_no_others():
    labels, reference, attribute, target, rows = scene(1, attributes=1)
    graded = metrics.relevance(metrics.matches(labels, rows, target), attribute)
    best = metrics.best_relevance(labels, np.arange(30), target, attribute, reference, 4)
    assert graded.others is None
    assert best.others is None
    assert np.array_equal(graded.all, graded.edited)
    assert np.array_equal(best.all, best.edited)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_drop_reference_matches_a_loop(seed: int):
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(8)[:5] for _ in range(6)])
    rows[0, 3:] = -1
    reference = rng.integers(0, 8, 6)
    found = metrics.drop_reference(rows, reference)
    for line, own, left in zip(rows, reference, found, strict=True):
        assert left.tolist() == [row for row in line if row != own][:4]


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_same_style_and_precision_match_a_loop(seed: int, k: int):
    labels, reference, _, _, rows = scene(seed, missing=0.3)
    style = labels[:, 0]
    top = metrics.same_style_at_k(style, reference, rows, k)
    right, asked = np.zeros(3), np.zeros(3)
    for q, own in enumerate(reference):
        left = [row for row in rows[q] if row not in (own, -1)]
        assert top[q] == (style[own] >= 0 and any(style[row] == style[own] for row in left[:k]))
        for a in range(3):
            asked[a] += labels[own, a] >= 0
            right[a] += labels[own, a] >= 0 and bool(left) and labels[left[0], a] == labels[own, a]
    assert metrics.precision_at_1(labels, reference, rows) == pytest.approx(right / asked)


def test_precision_is_nan_where_nobody_has_a_value():
    labels = np.array([[0, -1], [0, -1]])
    precision = metrics.precision_at_1(labels, np.array([0]), np.array([[0, 1]]))
    assert precision[0] == 1
    assert np.isnan(precision[1])


def test_photos_without_a_style_are_no_style():
    style = np.array([-1, -1, 2])
    assert not metrics.same_style_at_k(style, np.array([0]), np.array([[0, 1, 2]]), 2)[0]


def test_padding_is_not_the_last_photo():
    style = np.array([5, 6, 5])
    assert not metrics.same_style_at_k(style, np.array([0]), np.array([[1, -1, -1]]), 2)[0]


def test_pad_rows_cuts_and_pads():
    rows = metrics.pad_rows([[3, 1, 2], [], [5]], 2)
    assert rows.tolist() == [[3, 1], [-1, -1], [5, -1]]
    assert rows.dtype == np.int64


@pytest.mark.parametrize(
    ("rows", "reference", "message"),
    [
        ([[0, 0]], [1], "same photo twice"),
        ([[0, 5]], [1], "expected -1..4"),
        ([[0, -2]], [1], "expected -1..4"),
        ([0, 1], [1, 2], "expected"),
        ([[0, 1]], [1, 2], "expected"),
    ],
)
def test_impossible_rows_are_refused(rows, reference, message: str):
    with pytest.raises(ValueError, match=message):
        metrics.check_rows(np.array(rows), np.array(reference), 5)


def test_repeated_padding_is_allowed():
    metrics.check_rows(np.array([[0, -1, -1]]), np.array([1]), 5)


def test_bootstrap_matches_resampling_one_by_one():
    values = np.random.default_rng(0).random((20, 2))
    rng = np.random.default_rng(5)
    means = np.array([values[rng.integers(0, 20, 20)].mean(axis=0) for _ in range(200)])
    expected = np.quantile(means, [0.05, 0.95], axis=0).T
    assert metrics.bootstrap_interval(values, 5, draws=200, level=0.9) == pytest.approx(expected)


def test_bootstrap_width_is_that_of_the_normal_interval():
    values = np.random.default_rng(1).random((2000, 1))
    low, high = metrics.bootstrap_interval(values, 0)[0]
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(2000), rel=0.15)


def slow_average_precision(found: list[bool], right: int, k: int) -> float:
    total = sum(sum(found[: rank + 1]) / (rank + 1) for rank in range(min(k, len(found))) if found[rank])
    return total / min(right, k) if right else 0.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 4, 20])
def test_average_precision_and_right_answers_match_a_loop(seed: int, k: int):
    *_, rows = scene(seed)
    rng = np.random.default_rng(seed)
    answers = [rng.permutation(30)[: rng.integers(0, 9)].tolist() for _ in rows]
    start = np.cumsum([0, *map(len, answers)])
    truth = np.array([row for each in answers for row in each], np.int64)
    right = metrics.right_at(rows, truth, start)
    slow = [[bool(row in each) for row in line] for line, each in zip(rows.tolist(), answers, strict=True)]
    assert right.tolist() == slow
    expected = [slow_average_precision(line, len(each), k) for line, each in zip(slow, answers, strict=True)]
    found = metrics.average_precision_at_k(right, np.diff(start), k)
    np.testing.assert_allclose(found, expected)
    assert right.any()


def test_average_precision_by_hand():
    relevant = np.array([[True, False, True, False], [False, False, False, False], [True, True, False, False]])
    right = np.array([2, 3, 5])
    assert metrics.average_precision_at_k(relevant, right, 4).tolist() == pytest.approx([(1 + 2 / 3) / 2, 0, 2 / 4])
    # no list of two can hold more than two right answers
    assert metrics.average_precision_at_k(relevant, right, 2).tolist() == pytest.approx([1 / 2, 0, 1])
    assert metrics.right_at(np.array([[2, -1]]), np.array([], np.int64), np.array([0, 0])).tolist() == [[False, False]]


def test_precision_above_a_threshold_counts_what_is_told() -> None:
    probability = np.array([[0.61, 0.3], [0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    target = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [-1, -1]])
    said, right = metrics.told(probability, target)
    assert said.tolist() == [[True, False], [False, False], [True, False], [False, True], [False, False]]
    assert right.sum() / said.sum() == pytest.approx(2 / 3)
    assert metrics.told(probability, target, 0.95)[0].sum() == 0
    with pytest.raises(ValueError, match="one shape"):
        metrics.told(probability, target[:, :1])
