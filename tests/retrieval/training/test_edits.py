"""Edits are drawn from labels as a search through all pairs finds them; the loss is its formula; training M helps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.models import memory
from retrieval.training import edits, validate
from retrieval.training.edits import EditSampler

SIZES, MULTI = [3, 2, 3], [False, False, True]
SPANS = [slice(0, 3), slice(3, 5), slice(5, 8)]


def some_labels(rng: np.random.Generator, n: int) -> np.ndarray:
    """Two exclusive attributes, either of which may be missing, and one of several values; (n, 8) int8."""
    labels = np.zeros((n, 8), np.int8)
    for row in labels:
        for span in SPANS[:2]:
            if rng.random() < 0.8:
                row[rng.integers(span.start, span.stop)] = 1
        row[5:] = rng.integers(0, 2, 3)
    return labels


def asked(reference: np.ndarray, other: np.ndarray) -> int | None:
    """Which attribute one edit changes to make ``other`` of ``reference``; None where one edit cannot."""
    changed = [a for a, span in enumerate(SPANS) if (reference[span] != other[span]).any()]
    if len(changed) != 1 or not other[SPANS[changed[0]]].any():
        return None
    (a,) = changed
    return a if not MULTI[a] or np.abs(reference[SPANS[a]] - other[SPANS[a]]).sum() == 1 else None


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25))
def test_edits_are_those_that_a_search_through_all_pairs_finds(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    labels = some_labels(rng, n)
    sampler = EditSampler(labels, SIZES, MULTI)
    for t, start in enumerate(sampler.tuples):
        for a in range(3):
            slow = {tuple(other) for other in labels if asked(start, other) == a}
            assert {tuple(sampler.tuples[end]) for end in sampler.targets(t, a)} == slow
    able = [i for i in range(n) if any(asked(labels[i], other) is not None for other in labels)]
    assert set(able) <= set(sampler.rows.tolist())
    drawn = sampler.draw(rng, 40)
    if drawn is None:
        assert not len(able) or len(sampler.rows) > len(able)
        return
    for i, j, k, change in zip(drawn.reference, drawn.positive, drawn.negative, drawn.change, strict=True):
        assert asked(labels[i], labels[j]) is not None
        np.testing.assert_array_equal(labels[i] + change, labels[j])
        assert sum((labels[k][span] != labels[j][span]).any() for span in SPANS) == 1


def test_negatives_are_of_every_kind() -> None:
    """Some still have the old value, some are right there and wrong elsewhere."""
    labels = np.array([[1, 0, 0, 1, 0, 0, 0, 1], [0, 1, 0, 1, 0, 0, 0, 1], [0, 1, 0, 0, 1, 0, 0, 1]], np.int8)
    drawn = EditSampler(labels, SIZES, MULTI).draw(np.random.default_rng(0), 200)
    assert drawn is not None
    kinds = {(int(i), int(j), int(k)) for i, j, k in zip(drawn.reference, drawn.positive, drawn.negative, strict=True)}
    assert {(0, 1, 0), (0, 1, 2)} <= kinds


def test_no_edit_where_no_photo_answers() -> None:
    far = np.array([[1, 0, 0, 1, 0, 0, 0, 1], [0, 1, 0, 0, 1, 1, 1, 0]], np.int8)
    sampler = EditSampler(far, SIZES, MULTI)
    assert sampler.draw(np.random.default_rng(0), 5) is None
    start = memory.Memory({"a": ["x", "y", "z"], "b": ["p", "q"], "c": ["1", "2", "3"]}, {"a": 2, "b": 2, "c": 2},
                          np.ones((6, 8), np.float32))  # fmt: skip
    features = {name: np.ones((2, 2), np.float32) for name in "abc"}
    assert edits.train_memory(start, features, far, MULTI, 3, 0.2, True, 1.0, 1.0, 0) is start


@pytest.mark.parametrize("squared", [True, False])
def test_the_loss_is_its_formula(squared: bool) -> None:
    rng = np.random.default_rng(3)
    dims, b = [2, 3, 2], 6
    rows = [slice(0, 2), slice(2, 5), slice(5, 7)]
    matrix = rng.normal(size=(7, 8))
    inside = np.zeros((7, 8), bool)
    for row, column in zip(rows, SPANS, strict=True):
        inside[row, column] = True
    x = rng.normal(size=(3, b, 7))
    change, wanted = rng.integers(-1, 2, (b, 8)), some_labels(rng, b)
    wanted[0, :3] = 0  # the target lacks the first attribute
    triplets, gaps, entries = [], [], 0
    for i in range(b):
        reference, positive, negative = x[:, i]
        edited = reference + sum(matrix[:, w] * change[i, w] for w in range(8))

        def unit(v: np.ndarray) -> np.ndarray:
            return np.concatenate([v[row] / np.sqrt((v[row] ** 2).sum()) for row in rows]) / np.sqrt(3)

        near, far = (((unit(edited) - unit(other)) ** 2).sum() for other in (positive, negative))
        if not squared:
            near, far = np.sqrt(near), np.sqrt(far)
        triplets.append(max(0.0, near - far + 0.5))
        ideal = sum(matrix[:, w] * wanted[i, w] for w in range(8))
        for row, column in zip(rows, SPANS, strict=True):
            if wanted[i, column].any():
                for d in range(row.start, row.stop):
                    gaps.append(abs(ideal[d] - edited[d]) + abs(ideal[d] - positive[d]))
                    entries += 1
    off = sum(abs(matrix[d, w]) for d in range(7) for w in range(8) if not inside[d, w]) / 8
    expected = np.mean(triplets) + 0.7 * sum(gaps) / entries + 0.3 * off
    as_tensors = [torch.tensor(v) for v in (matrix, inside, *x, change.astype(float), wanted.astype(float))]
    got = edits.edit_loss(*as_tensors, dims, 0.5, squared, 0.7, 0.3)
    assert got.item() == pytest.approx(expected, rel=1e-5)


def shifted(n: int) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, list[str]]]:
    """Features in which the color leaks into the cut's block: means on the diagonal fail where colors are edited."""
    rng = np.random.default_rng(0)
    color, cut = rng.integers(0, 3, n), rng.integers(0, 2, n)
    prototype, leak, side = rng.normal(size=(3, 6)) * 2, rng.normal(size=(3, 4)) * 2, rng.normal(size=(2, 4)) * 2
    features = {"color": prototype[color] + rng.normal(size=(n, 6)) * 0.1,
                "cut": side[cut] + leak[color] + rng.normal(size=(n, 4)) * 0.1}  # fmt: skip
    codes = np.stack((color, cut), axis=1)
    return {k: v.astype(np.float32) for k, v in features.items()}, codes, {"color": list("abc"), "cut": list("pq")}


def test_training_finds_the_entries_off_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edits, "BATCH", 64)
    features, codes, vocabulary = shifted(300)
    means = memory.from_means(features, codes, vocabulary)
    labels = np.concatenate((codes[:, :1] == np.arange(3), codes[:, 1:] == np.arange(2)), axis=1).astype(np.int8)
    given_ = (features, labels, [False, False], 150, 0.2, True, 1.0, 0.01)
    trained = edits.train_memory(means, *given_, seed=1)
    again = edits.train_memory(means, *given_, seed=1)
    np.testing.assert_array_equal(trained.matrix, again.matrix)
    assert not np.array_equal(trained.matrix, edits.train_memory(means, *given_, seed=2).matrix)
    before, after = (validate.edit_hit(features, labels, m, [False, False], 0) for m in (means, trained))
    assert before is not None
    assert after is not None
    assert after == 1
    assert before < 0.9
    moved = trained.residual("color", "b", "a")
    assert set(moved) == {"color", "cut"}  # what a query adds to the other block
    dense = edits.train_memory(means, *given_[:-1], 0.0, seed=1)
    sparse = edits.train_memory(means, *given_[:-1], 100.0, seed=1)
    leaks = [np.abs(m.matrix[6:, :3]).sum() for m in (sparse, dense)]
    assert leaks[0] < 0.1 * leaks[1]
