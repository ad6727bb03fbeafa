"""Fill in the blank, AUC, the baselines and the published format."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from index.errors import InputError
from retrieval.datasets import polyvore
from retrieval.outfits import judge
from retrieval.outfits.judge import Labelled, Question
from tests.retrieval.datasets import published


def by_table(values: dict[tuple[int, ...], float]) -> judge.Score:
    return lambda outfits: np.array([values.get(tuple(outfit), 0.0) for outfit in outfits])


def test_auc_counts_every_pair_and_ties_for_half() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 9, 60).astype(float)
    positive = rng.random(60) < 0.4
    won = [(p > n) + (p == n) / 2 for p in values[positive] for n in values[~positive]]
    assert judge.auc(values, positive) == pytest.approx(np.mean(won))
    assert judge.auc(np.arange(4.0), np.array([False, False, True, True])) == 1.0
    with pytest.raises(InputError, match="compatible and incompatible"):
        judge.auc(values, np.ones(60, bool))


def test_the_best_filling_is_the_answer_and_a_tie_is_shared() -> None:
    question = Question((5, 6), 1, (1, 2, 3, 4), 2)
    assert question.filled() == [(5, 1, 6), (5, 2, 6), (5, 3, 6), (5, 4, 6)]
    assert judge.fill_in_blank(by_table({(5, 3, 6): 1}), [question]) == 1
    assert judge.fill_in_blank(by_table({(5, 1, 6): 1}), [question]) == 0
    assert judge.fill_in_blank(by_table({}), [question]) == 0.25
    assert judge.fill_in_blank(by_table({(5, 1, 6): 1, (5, 3, 6): 1}), [question, question]) == 0.5


def test_the_published_format_is_read_as_it_is(tmp_path: Path) -> None:
    root = published.polyvore(tmp_path)
    ids = [photo.id for photo in polyvore.polyvore(root)]
    row_of = {name: row for row, name in enumerate(ids)}
    first, second = judge.questions_from(polyvore.questions(root), row_of)
    assert [ids[row] for row in first.filled()[first.right]] == ["199244701_1", "199244701_2", "199244701_3"]
    assert [ids[row] for row in second.filled()[1]] == ["119314458_1", "119314458_3", "199244701_1"]
    pairs = judge.labelled_from(polyvore.compatibility(root), row_of)
    assert [each.compatible for each in pairs] == [True, True, False]
    assert [ids[row] for row in pairs[2].items] == ["199244701_1", "119314458_3", "120161271_2"]
    own = lambda outfits: np.array([-len({ids[r].split("_")[0] for r in outfit}) for outfit in outfits])  # noqa: E731
    assert judge.fill_in_blank(own, [first, second]) == judge.compatibility(own, pairs) == 1.0
    with pytest.raises(InputError, match="'199244701_1' has no features"):
        judge.labelled_from(polyvore.compatibility(root), {})


def test_questions_have_distractors_of_the_kind_asked() -> None:
    rng = np.random.default_rng(1)
    slots = np.arange(200) % 5
    outfits = [(0, 1, 2), (5, 6, 8), (10, 14, 13)]
    pool = np.arange(100, 200)
    for same in (True, False):
        for number, question in enumerate(judge.make_questions(outfits, pool, slots, same, rng)):
            assert question.filled()[question.right] == outfits[number]
            others = [row for i, row in enumerate(question.answers) if i != question.right]
            assert set(others) <= set(pool.tolist())
            assert len(set(others)) == 3
            if same:
                assert {int(slots[row]) for row in question.answers} == {int(slots[outfits[number][question.blank]])}
    odd = judge.make_questions(outfits, pool, slots, False, rng, lambda number, row: row % 2 == 1)
    assert all(row % 2 for q in odd for i, row in enumerate(q.answers) if i != q.right)
    assert judge.make_questions(outfits, pool, slots, False, rng, lambda number, row: False) == []


def test_bad_outfits_are_swapped_as_told() -> None:
    slots = np.arange(200) % 5
    outfits, pool = [(0, 1, 2, 3), (5, 6, 8)], np.arange(100, 200)
    for swaps, changed in ((None, (4, 3)), (1, (1, 1))):
        pairs = judge.make_labelled(outfits, pool, slots, True, np.random.default_rng(0), swaps)
        assert [each.compatible for each in pairs] == [True, False] * 2
        for good, bad, wanted in zip(pairs[::2], pairs[1::2], changed, strict=True):
            assert sum(a != b for a, b in zip(good.items, bad.items, strict=True)) == wanted
            assert [slots[row] for row in good.items] == [slots[row] for row in bad.items]


def test_the_baselines_are_what_they_say() -> None:
    rng = np.random.default_rng(0)
    units = rng.normal(size=(9, 6))
    outfit = (1, 4, 7)
    cosines = [
        units[a] @ units[b] / np.linalg.norm(units[a]) / np.linalg.norm(units[b]) for a, b in combinations(outfit, 2)
    ]
    assert judge.closeness(units)([outfit])[0] == pytest.approx(np.mean(cosines))
    kinds = np.array([0, 0, 1, 1, 2, 2, 3, 3, 3])
    known = [(0, 2), (1, 3), (0, 3), (4, 6), (5, 7), (4, 8)]
    score = judge.cooccurrence(known, kinds)
    together, apart = score([(1, 2)])[0], score([(1, 4)])[0]
    assert together > apart
    assert score([(0, 2)])[0] == pytest.approx(score([(3, 1)])[0])  # kinds alone count, and their order does not
    # 6 pairs, 4 kinds and one more for what was never seen; two orders of unlike kinds
    expected = np.log((3 + 1) / (6 + 15) / 2 / ((4 / 17) * (4 / 17)))
    assert together == pytest.approx(expected)
    assert Labelled((1,), True).compatible
