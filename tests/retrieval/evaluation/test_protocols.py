"""Queries against exhaustive enumeration, scores against a literal reading of the published scoring on one-hot rows."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.errors import InputError
from retrieval.evaluation import protocols


def random_labels(seed: int, sizes: list[int], photos: int = 40, missing: float = 0.1):
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.integers(0, size, photos) for size in sizes], axis=1).astype(np.int32)
    labels[rng.random(labels.shape) < missing] = -1
    return labels


def slow_edits(labels, query_rows, gallery_rows, sizes):
    filed = {tuple(labels[row]) for row in gallery_rows}
    found = []
    for row in sorted(query_rows):
        for attribute, value in ((a, v) for a, size in enumerate(sizes) for v in range(size)):
            target = list(labels[row])
            target[attribute] = value
            if min(labels[row]) >= 0 and value != labels[row][attribute] and tuple(target) in filed:
                found.append((row, attribute, value, tuple(target)))
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_edit_queries_are_all_valid_edits(seed: int, sizes: list[int]):
    labels = random_labels(seed, sizes)
    query_rows = np.random.default_rng(seed).permutation(40)[:25]
    gallery_rows = np.random.default_rng(seed + 1).permutation(40)[:30]
    queries = protocols.edit_queries(labels, query_rows, gallery_rows, sizes)
    expected = slow_edits(labels, query_rows, gallery_rows, sizes)
    got = zip(queries.row, queries.attribute, queries.value, map(tuple, queries.target), strict=True)
    assert list(got) == expected
    assert queries.valid.tolist() == [sum(edit[1] == a for edit in expected) for a in range(len(sizes))]
    assert queries.skipped == sum(min(labels[row]) < 0 for row in query_rows)


def test_edit_sample_is_seeded_and_proportional_over_attributes():
    sizes = [4, 5, 2]
    labels = random_labels(3, sizes, photos=300)
    rows = np.arange(300)
    every = protocols.edit_queries(labels, rows, rows, sizes)
    some = protocols.edit_queries(labels, rows, rows, sizes, at_most=100, seed=1)
    again = protocols.edit_queries(labels, rows, rows, sizes, at_most=100, seed=1)
    other = protocols.edit_queries(labels, rows, rows, sizes, at_most=100, seed=2)
    assert len(every.row) > 500
    assert len(some.row) == 100
    assert np.array_equal(some.valid, every.valid)
    share = every.valid / every.valid.sum() * 100
    assert np.abs(np.bincount(some.attribute, minlength=3) - share).max() <= 1

    def edits(queries):
        return set(zip(queries.row, queries.attribute, queries.value, strict=True))

    assert len(edits(some)) == 100
    assert edits(some) < edits(every)
    assert edits(some) == edits(again) != edits(other)
    with pytest.raises(InputError, match="at least 1"):
        protocols.edit_queries(labels, rows, rows, sizes, at_most=0)


@pytest.mark.parametrize("codes", [[[0, 2]], [[0, -2]], [[0]]])
def test_codes_outside_the_vocabulary_are_refused(codes):
    with pytest.raises(ValueError, match="labels"):
        protocols.edit_queries(np.array(codes), np.array([0]), np.array([0]), [1, 2])


def one_hot(row, sizes):
    return [[int(value == code) for code in range(size)] for value, size in zip(row, sizes, strict=True)]


def slow_edit_values(labels, queries, rows, gallery_rows, k, rule, sizes):
    """Label by label on one-hot blocks: an absent attribute is an all-zero block, equal to another all-zero block."""

    def dcg(scores):
        return sum((2**score - 1) / math.log2(rank + 1) for rank, score in enumerate(scores[:k], 1))

    lines = []
    for q, own in enumerate(queries.row):
        target = one_hot(queries.target[q], sizes)
        kinds = range(len(sizes)), [queries.attribute[q]], [a for a in range(len(sizes)) if a != queries.attribute[q]]

        def grade(row, kind, target=target):
            blocks = one_hot(labels[row], sizes)
            return sum(blocks[a] == target[a] for a in kind) / len(kind)

        left = [row for row in rows[q] if row >= 0 and (rule == "published" or row != own)]
        line = [float(any(one_hot(labels[row], sizes) == target for row in left[:k]))]
        for kind in kinds:
            ideal = [1.0] * k
            if rule == "strict":
                ideal = sorted((grade(row, kind) for row in gallery_rows if row != own), reverse=True)
            line.append(dcg([grade(row, kind) for row in left]) / dcg(ideal))
        lines.append(line)
    return np.array(lines)


@pytest.mark.parametrize("rule", ["published", "strict"])
@pytest.mark.parametrize("seed", range(3))
def test_edit_scores_match_the_literal_reading(seed: int, rule):
    sizes = [3, 2, 3]
    labels = random_labels(seed, sizes, photos=60)
    gallery_rows = np.arange(5, 60)
    queries = protocols.edit_queries(labels, np.arange(0, 40), gallery_rows, sizes, at_most=40, seed=seed)
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(gallery_rows) for _ in queries.row])
    for line, own in zip(rows, queries.row, strict=True):  # the reference comes fourth, if the gallery has it
        at = np.flatnonzero(line == own)
        line[[3, *at]] = line[[*at, 3]]
    rows = rows[:, :12]
    rows[::5, 8:] = -1
    names = ["color", "sleeve", "neck"]
    report = protocols.score_edits(labels, queries, rows, gallery_rows, [1, 10], names, rule)
    for k in (1, 10):
        slow = slow_edit_values(labels, queries, rows, gallery_rows, k, rule, sizes)
        columns = [f"{name}@{k}" for name in ("hit", "ndcg", "ndcg_edited", "ndcg_others")]
        assert [report["metrics"][name] for name in columns] == pytest.approx(slow.mean(axis=0))
        for a, name in enumerate(names):
            part = report["per_attribute"][name]
            assert part["queries"] == (queries.attribute == a).sum()
            assert [part[name] for name in columns] == pytest.approx(slow[queries.attribute == a].mean(axis=0))
        for name in columns:
            low, high = report["interval"][name]
            assert low <= report["metrics"][name] <= high
            assert low < high
    assert report["protocol"] == f"edit-{rule}"
    assert report["k"] == [1, 10]
    assert report["queries"] == 40
    assert report["seed"] == seed
    assert report["gallery"] == 55
    assert report["sampling"]["valid"] == dict(zip(names, queries.valid.tolist(), strict=True))
    assert json.loads(json.dumps(report)) == report


def test_reference_helps_as_published_and_is_gone_in_strict():
    """The reference itself comes first: it earns graded relevance as published, nothing in the strict rule."""
    labels = np.array([[0, 0], [1, 0], [1, 1]], dtype=np.int32)
    gallery = np.arange(3)
    every = protocols.edit_queries(labels, np.array([0]), gallery, [2, 2])
    assert (every.row.tolist(), every.attribute.tolist(), every.value.tolist()) == ([0], [0], [1])
    rows = np.array([[0, 1, 2]])
    published = protocols.edit_values(labels, every, rows, gallery, [1, 2], "published")
    strict = protocols.edit_values(labels, every, rows, gallery, [1, 2], "strict")
    assert published["hit@1"][0] == 0
    assert published["hit@2"][0] == 1
    assert published["ndcg@1"][0] == pytest.approx(math.sqrt(2) - 1)
    assert strict["hit@1"][0] == 1
    assert strict["ndcg@2"][0] == pytest.approx(1)


def test_too_few_results_or_foreign_photos_are_refused():
    labels = np.array([[0, 0], [1, 0], [1, 1]], dtype=np.int32)
    queries = protocols.edit_queries(labels, np.array([0]), np.arange(3), [2, 2])
    with pytest.raises(ValueError, match="3 are needed"):
        protocols.edit_values(labels, queries, np.array([[0, 1]]), np.arange(3), [2], "strict")
    with pytest.raises(ValueError, match="not in gallery_rows"):
        protocols.edit_values(labels, queries, np.array([[0, 2]]), np.arange(2), [2], "published")


def test_nothing_to_ask_is_one_line():
    labels = np.array([[0, 0], [1, 1]], dtype=np.int32)
    queries = protocols.edit_queries(labels, np.arange(2), np.arange(2), [2, 2])
    assert len(queries.row) == 0
    with pytest.raises(InputError, match="no gallery photo"):
        protocols.score_edits(labels, queries, np.empty((0, 5), int), np.arange(2), [1], ["a", "b"], "strict")
    with pytest.raises(InputError, match="no style"):
        protocols.score_styles(["a", "b"], np.empty(0, int), np.empty((0, 5), int), [1])
    empty = protocols.variant_queries(["p", "p"], np.array([1, 1]), np.arange(2), np.arange(2))
    with pytest.raises(InputError, match="variant_group"):
        protocols.score_variants(empty, np.empty((0, 5), int), [1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_style_queries_match_a_loop(seed: int):
    rng = np.random.default_rng(seed)
    styles = rng.choice(["s1", "s2", "s3", "s4", "", None], 15).tolist()
    asked, gallery = np.sort(rng.permutation(15)[:9]), rng.permutation(15)[:8]
    expected = [row for row in asked if styles[row] and any(styles[g] == styles[row] for g in gallery if g != row)]
    assert protocols.style_queries(styles, asked, gallery).tolist() == expected


def test_style_report():
    styles = ["a", "a", "b", "b", None]
    queries = protocols.style_queries(styles, np.arange(5), np.arange(5))
    assert queries.tolist() == [0, 1, 2, 3]
    rows = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1], [3, 4, 2]])
    report = protocols.score_styles(styles, queries, rows, [1, 2], seed=3)
    assert report["metrics"] == {"same_style@1": 0.25, "same_style@2": 0.75}
    assert (report["protocol"], report["queries"], report["seed"]) == ("same-style", 4, 3)
    assert len(protocols.style_queries(styles, np.arange(5), np.arange(5), at_most=2)) == 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_variant_queries_and_hits_match_a_loop(seed: int):
    rng = np.random.default_rng(seed)
    groups = rng.choice(["p", "q", "r", "", None], 25).tolist()
    colors = rng.integers(-1, 4, 25)
    asked, gallery = np.sort(rng.permutation(25)[:15]), rng.permutation(25)[:18]
    queries = protocols.variant_queries(groups, colors, asked, gallery)
    expected = []
    for row, color in itertools.product(asked, range(4)):
        truth = {g for g in gallery if groups[g] == groups[row] and colors[g] == color}
        if groups[row] and 0 <= colors[row] != color and truth:
            expected.append((row, color, truth))
    truths = [set(queries.truth[a:b]) for a, b in itertools.pairwise(queries.start)]
    assert list(zip(queries.row, queries.color, truths, strict=True)) == expected

    rows = np.array([rng.permutation(25)[:7] for _ in expected], dtype=np.int64).reshape(-1, 7)
    rows[::4, 3:] = -1
    values = protocols.variant_values(queries, rows, [1, 4])
    for q, (own, _, truth) in enumerate(expected):
        left = [row for row in rows[q] if row != own]
        for k in (1, 4):
            assert values[f"variant_hit@{k}"][q] == bool(truth & set(left[:k]))


def test_variant_report():
    groups, colors = ["p", "p", "p", "", "q"], np.array([0, 1, 1, 1, 0])
    queries = protocols.variant_queries(groups, colors, np.arange(5), np.arange(5), seed=4)
    assert queries.row.tolist() == [0, 1, 2]
    assert queries.truth.tolist() == [1, 2, 0, 0]
    # Photo 3 has the color asked but is another product: no hit.
    rows = np.array([[0, 3, 1], [1, 0, 2], [2, 3, 4]])
    report = protocols.score_variants(queries, rows, [1, 2])
    assert report["metrics"] == pytest.approx({"variant_hit@1": 1 / 3, "variant_hit@2": 2 / 3})
    assert report["right_answers_per_query"] == pytest.approx(4 / 3)
    assert len(protocols.variant_queries(groups, colors, np.arange(5), np.arange(5), at_most=2).row) == 2


def test_group_codes_know_every_kind_of_blank():
    assert protocols.group_codes(["b", None, "", "a", float("nan"), " b ", 7]).tolist() == [2, -1, -1, 1, -1, 2, 0]
    assert protocols.group_codes([]).tolist() == []


# Items of published partitions


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("at_most", [None, 5])
def test_item_queries_and_values_match_a_loop(seed: int, at_most: int | None):
    rng = np.random.default_rng(seed)
    items = [None if rng.random() < 0.1 else f"id_{rng.integers(0, 9)}" for _ in range(60)]
    order = rng.permutation(60)
    asked, gallery = np.sort(order[:20]), np.sort(order[20:50])
    queries = protocols.item_queries(items, asked, gallery, at_most, seed)
    able = [row for row in asked if items[row]]
    assert queries.row.tolist() == able if at_most is None else set(queries.row.tolist()) <= set(able)
    assert len(queries.row) == (len(able) if at_most is None else at_most)
    rows = np.stack([rng.permutation(gallery)[:12] for _ in queries.row])
    rows[::3, 7:] = -1
    right = [{int(row) for row in gallery if items[row] == items[asking]} for asking in queries.row]
    for i, expected in enumerate(right):
        assert sorted(queries.truth[queries.start[i] : queries.start[i + 1]].tolist()) == sorted(expected)
    values = protocols.item_values(queries, rows, [1, 10], "accuracy")
    for k in (1, 10):
        slow = [float(any(row in each for row in line[:k])) for line, each in zip(rows.tolist(), right, strict=True)]
        assert values[f"accuracy@{k}"].tolist() == slow
    ranked = protocols.item_values(queries, rows, [10], "map")["map@10"]
    for line, each, value in zip(rows.tolist(), right, ranked, strict=True):
        found = [row in each for row in line[:10]]
        total = sum(sum(found[: at + 1]) / (at + 1) for at in range(10) if found[at])
        assert value == pytest.approx(total / min(len(each), 10) if each else 0)
    report = protocols.score_items(queries, rows, [1, 10], "accuracy", "in-shop")
    assert report["protocol"] == "in-shop"
    assert report["gallery"] == 30
    assert report["queries_without_answer"] == sum(not each for each in right)
    assert report["right_answers_per_query"] == pytest.approx(sum(map(len, right)) / len(right))
    assert report["metrics"]["accuracy@10"] == pytest.approx(values["accuracy@10"].mean())
    json.dumps(report)


def test_listed_queries_ask_only_what_has_answers():
    queries = protocols.listed_queries([[5, 7], [], [6]], np.array([1, 2, 3]), np.array([5, 6, 7, 8]))
    assert queries.row.tolist() == [1, 3]
    assert queries.truth.tolist() == [5, 7, 6]
    assert queries.start.tolist() == [0, 2, 3]
    rows = np.array([[5, 8, 7], [8, 7, 5]])
    assert protocols.item_values(queries, rows, [3], "map")["map@3"].tolist() == pytest.approx([(1 + 2 / 3) / 2, 0])


def test_results_outside_the_partition_are_refused():
    queries = protocols.item_queries(["a", "a", "b"], np.array([0]), np.array([1]))
    with pytest.raises(ValueError, match="not in the gallery"):
        protocols.item_values(queries, np.array([[1, 2]]), [1], "accuracy")
    nobody = protocols.item_queries([None, "a"], np.array([0]), np.array([1]))
    with pytest.raises(InputError, match="in-shop: no photo to ask"):
        protocols.score_items(nobody, np.zeros((0, 1), np.int64), [1], "accuracy", "in-shop")
