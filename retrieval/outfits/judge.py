"""Protocols of outfits on plain sequences of item numbers: fill in the blank, compatibility AUC, and two baselines.

An outfit is a sequence of rows of a feature table. ``Score`` is whatever is judged: outfits -> a number each, higher is
better. Published splits (Polyvore) run by the same functions: ``questions_from`` and ``labelled_from`` take what their
reader gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from index.errors import InputError

Outfit = Sequence[int]
Score = Callable[[Sequence[Outfit]], npt.NDArray[np.float64]]
CHOICES = 4


class Question(NamedTuple):
    """An outfit with a hole: which of ``answers`` belongs at ``blank`` of ``items`` (the others, in order)?"""

    items: tuple[int, ...]
    blank: int
    answers: tuple[int, ...]
    right: int

    def filled(self) -> list[tuple[int, ...]]:
        """The outfit with each answer in its place."""
        return [(*self.items[: self.blank], each, *self.items[self.blank :]) for each in self.answers]


class Labelled(NamedTuple):
    items: tuple[int, ...]
    compatible: bool


def fill_in_blank(score: Score, questions: Sequence[Question]) -> float:
    """Share of questions whose right answer alone scores best; of m answers that tie with it, it counts 1/m."""
    values = score([outfit for question in questions for outfit in question.filled()])
    at, total = 0, 0.0
    for question in questions:
        mine = values[at : at + len(question.answers)]
        at += len(question.answers)
        best = mine >= mine.max()
        total += float(best[question.right]) / int(best.sum())
    return total / len(questions)


def auc(values: npt.NDArray[Any], positive: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties one half (Mann-Whitney)."""
    order = np.argsort(values, kind="stable")
    _, start, count = np.unique(values[order], return_index=True, return_counts=True)
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(start + (count + 1) / 2, count)
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        raise InputError("a ROC curve needs compatible and incompatible outfits")
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def compatibility(score: Score, outfits: Sequence[Labelled]) -> float:
    """ROC AUC of compatible against incompatible outfits."""
    return auc(score([each.items for each in outfits]), np.array([each.compatible for each in outfits]))


# Making questions from known outfits


def make_questions(
    outfits: Sequence[Outfit], pool: npt.NDArray[np.int64], slots: npt.NDArray[np.int64], same: bool,
    rng: np.random.Generator, wrong: Callable[[int, int], bool] | None = None,
) -> list[Question]:  # fmt: skip
    """One question an outfit, a blank at random; distractors from ``pool``, of the right answer's slot if ``same``.

    slots: (n,) of every row. wrong: (number of the outfit, row) -> may this row be a distractor? An outfit for which
    three cannot be found is left out.
    """
    by_slot = {slot: pool[slots[pool] == slot] for slot in np.unique(slots[pool]).tolist()}
    made = []
    for number, outfit in enumerate(outfits):
        blank = int(rng.integers(len(outfit)))
        others = _distractors(number, outfit, blank, by_slot, pool, slots, same, rng, wrong, CHOICES - 1)
        if len(others) == CHOICES - 1:
            right = int(rng.integers(CHOICES))
            answers = (*others[:right], outfit[blank], *others[right:])
            made.append(Question((*outfit[:blank], *outfit[blank + 1 :]), blank, answers, right))
    return made


def make_labelled(
    outfits: Sequence[Outfit], pool: npt.NDArray[np.int64], slots: npt.NDArray[np.int64], same: bool,
    rng: np.random.Generator, swaps: int | None = None, wrong: Callable[[int, int], bool] | None = None,
) -> list[Labelled]:  # fmt: skip
    """Each outfit, and beside it one in which all items (or ``swaps`` of them, drawn) are others from ``pool``."""
    by_slot = {slot: pool[slots[pool] == slot] for slot in np.unique(slots[pool]).tolist()}
    made = []
    for number, outfit in enumerate(outfits):
        bad = list(outfit)
        for place in rng.permutation(len(outfit))[: swaps or len(outfit)].tolist():
            found = _distractors(number, outfit, place, by_slot, pool, slots, same, rng, wrong if swaps else None, 1)
            bad[place] = found[0] if found else bad[place]
        if tuple(bad) != tuple(outfit):
            made += [Labelled(tuple(outfit), True), Labelled(tuple(bad), False)]
    return made


def _distractors(
    number: int, outfit: Outfit, place: int, by_slot: Mapping[int, npt.NDArray[np.int64]], pool: npt.NDArray[np.int64],
    slots: npt.NDArray[np.int64], same: bool, rng: np.random.Generator, wrong: Callable[[int, int], bool] | None,
    count: int,
) -> list[int]:  # fmt: skip
    rows = by_slot.get(int(slots[outfit[place]]), pool[:0]) if same else pool
    found: list[int] = []
    for row in (
        rng.permutation(rows)[: 40 * count].tolist() if len(rows) < 4000 else rng.choice(rows, 40 * count).tolist()
    ):
        if row not in outfit and row not in found and (wrong is None or wrong(number, row)):
            found.append(row)
            if len(found) == count:
                break
    return found


# Published splits


def questions_from(asked: Sequence[Any], row_of: Mapping[str, int]) -> list[Question]:
    """Questions by item ids, as ``retrieval.datasets.polyvore.questions`` reads them, by rows of a feature table.

    InputError for an id without features, naming it.
    """
    return [Question(_rows(q.items, row_of), q.blank, _rows(q.answers, row_of), q.right) for q in asked]


def labelled_from(told: Sequence[tuple[bool, Sequence[str]]], row_of: Mapping[str, int]) -> list[Labelled]:
    """(whether they go together, item ids), as ``retrieval.datasets.polyvore.compatibility`` reads them; InputError."""
    return [Labelled(_rows(ids, row_of), compatible) for compatible, ids in told]


def _rows(ids: Sequence[str], row_of: Mapping[str, int]) -> tuple[int, ...]:
    if lost := [each for each in ids if each not in row_of]:
        raise InputError(f"item {lost[0]!r} has no features ({len(lost)} of {len(ids)} in its outfit)")
    return tuple(row_of[each] for each in ids)


# Baselines


def cooccurrence(known: Sequence[Outfit], kinds: npt.NDArray[np.int64]) -> Score:
    """Mean over pairs of log P(a, b) / (P(a) P(b)) of the items' kinds, counted in ``known`` outfits, smoothed by 1."""
    single: Counter[int] = Counter()
    pairs: Counter[tuple[int, int]] = Counter()
    for outfit in known:
        single.update(int(kinds[row]) for row in outfit)
        pairs.update(_pair(kinds, a, b) for a, b in combinations(outfit, 2))
    n, m = max(sum(single.values()), 1), max(sum(pairs.values()), 1)
    size = len(single) + 1

    def one(outfit: Outfit) -> float:
        found = []
        for a, b in combinations(outfit, 2):
            pair = _pair(kinds, a, b)
            ways = 1 if pair[0] == pair[1] else 2
            together = (pairs[pair] + 1) / (m + size * (size + 1) / 2) / ways
            alone = [(single[kind] + 1) / (n + size) for kind in pair]
            found.append(np.log(together / (alone[0] * alone[1])))
        return float(np.mean(found))

    return lambda outfits: np.array([one(outfit) for outfit in outfits])


def _pair(kinds: npt.NDArray[np.int64], a: int, b: int) -> tuple[int, int]:
    first, second = sorted((int(kinds[a]), int(kinds[b])))
    return first, second


def closeness(units: npt.NDArray[Any]) -> Score:
    """Mean cosine over the pairs of an outfit; units (n, D) with unit blocks, so it is the mean over blocks."""

    def one(outfit: Outfit) -> float:
        own = units[list(outfit)].astype(np.float64)
        own /= np.linalg.norm(own, axis=1, keepdims=True)
        scores = own @ own.T
        n = len(outfit)
        return float((scores.sum() - np.trace(scores)) / (n * (n - 1)))

    return lambda outfits: np.array([one(outfit) for outfit in outfits])
