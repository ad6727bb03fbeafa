"""Losses against triple loops over their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.training import losses

seeds = st.integers(0, 2**32 - 1)


def batch_all(features: torch.Tensor, codes: torch.Tensor, margin: float) -> torch.Tensor:
    return losses.triplet(features, codes, margin, "batch-all", "euclidean")


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def slow_distance(x: np.ndarray, y: np.ndarray, distance: str) -> float:
    squared = float(((x - y) ** 2).sum())
    return squared if distance == "squared" else math.sqrt(squared)


def slow_triplet(features: np.ndarray, codes: list[int], margin: float, distance: str = "euclidean") -> float:
    """Every (anchor, positive, negative); the mean over those that violate the margin."""
    x = unit(features.astype(np.float64))
    violations = []
    for a in range(len(x)):
        for p in range(len(x)):
            for n in range(len(x)):
                if a != p and codes[a] == codes[p] >= 0 and codes[n] >= 0 and codes[n] != codes[a]:
                    hinge = slow_distance(x[a], x[p], distance) - slow_distance(x[a], x[n], distance) + margin
                    if hinge > 0:
                        violations.append(hinge)
    return float(np.mean(violations)) if violations else 0.0


def slow_semi_hard(features: np.ndarray, codes: list[int], margin: float, distance: str) -> float:
    """Every (anchor, positive) that has a negative; its negative is searched among all photos."""
    x = unit(features.astype(np.float64))
    hinges = []
    for a in range(len(x)):
        for p in range(len(x)):
            if a == p or codes[a] != codes[p] or codes[a] < 0:
                continue
            near = slow_distance(x[a], x[p], distance)
            negatives = [
                slow_distance(x[a], x[n], distance) for n in range(len(x)) if codes[n] >= 0 and codes[n] != codes[a]
            ]
            if negatives:
                outside = [far for far in negatives if far > near]
                hinges.append(max(0.0, near - (min(outside) if outside else max(negatives)) + margin))
    return float(np.mean(hinges)) if hinges else 0.0


def slow_contrast(first: np.ndarray, second: np.ndarray, styles: list[int], temperature: float) -> float:
    n = len(first)
    x = unit(np.concatenate((first, second)).astype(np.float64))
    y = [*styles, *styles]
    total = 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        against = [partner] + [j for j in range(2 * n) if y[j] != y[i]]
        total -= math.log(
            math.exp(x[i] @ x[partner] / temperature) / sum(math.exp(x[i] @ x[j] / temperature) for j in against)
        )
    return total / (2 * n)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 12), st.sampled_from([0.05, 0.2, 1.0]))
def test_batch_all_triplet_is_the_triple_loop(seed: int, n: int, margin: float) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 3)) + 0.1
    codes = rng.integers(-1, 3, n)
    got = batch_all(torch.tensor(features), torch.tensor(codes), margin)
    # the epsilon in the square root moves a distance by less than 1e-4
    assert got.item() == pytest.approx(slow_triplet(features, codes.tolist(), margin), abs=3e-4)


@settings(max_examples=40, deadline=None)
@given(
    seeds,
    st.integers(1, 12),
    st.sampled_from([0.05, 0.5]),
    st.sampled_from(["batch-all", "semi-hard"]),
    st.sampled_from(["euclidean", "squared"]),
)
def test_triplets_of_both_kinds_and_distances_are_the_loops(
    seed: int, n: int, margin: float, mining: str, distance: str
) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 3)) + 0.1
    codes = rng.integers(-1, 3, n)
    got = losses.triplet(torch.tensor(features), torch.tensor(codes), margin, mining, distance)
    slow = slow_triplet if mining == "batch-all" else slow_semi_hard
    assert got.item() == pytest.approx(slow(features, codes.tolist(), margin, distance), abs=3e-4)


def test_the_semi_hard_negative_is_the_nearest_beyond_the_positive() -> None:
    angles = torch.tensor([0.0, 0.5, 0.3, 0.6, 2.0], dtype=torch.float64)  # one anchor, its positive, three negatives
    features = torch.stack((angles.cos(), angles.sin()), dim=1)
    apart = 2 - 2 * features @ features.T
    codes = torch.tensor([0, 0, 1, 2, 3])
    forth = apart[0, 1] - apart[0, 3] + 0.5  # seen from the first: 0.3 is nearer than the positive, 0.6 is next
    back = apart[1, 0] - apart[1, 4] + 0.5  # seen from the positive: only 2.0 is beyond
    expected = (forth.clamp(min=0) + back.clamp(min=0)) / 2
    assert losses.semi_hard(apart, codes, 0.5).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("mining", ["batch-all", "semi-hard"])
@pytest.mark.parametrize("distance", ["euclidean", "squared"])
@pytest.mark.parametrize("codes", [[-1] * 6, [2] * 6, [0, 1, 2, 3, 4, 5], [0, 0, -1, -1, -1, -1]])
def test_no_triplet_of_any_kind_is_zero_with_a_gradient_path(mining: str, distance: str, codes: list[int]) -> None:
    features = torch.randn(6, 4, requires_grad=True)
    loss = losses.triplet(features, torch.tensor(codes), 0.2, mining, distance)
    assert loss.item() == 0
    loss.backward()
    assert features.grad is not None
    assert not features.grad.any()


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(0, 15), st.sampled_from([0, 0.5, 1]))
def test_binary_cross_entropy_is_the_loop(seed: int, n: int, balance: float) -> None:
    """Value by value, photo by photo, weights from the counts; photos without a label take no part."""
    rng = np.random.default_rng(seed)
    logits, sets = rng.normal(size=(n, 4)) * 3, rng.integers(0, 2, (n, 4))
    sets[rng.random(n) < 0.3] = -1
    weights = losses.value_weights(torch.tensor(sets), balance)
    got = losses.binary_cross_entropy(torch.tensor(logits), torch.tensor(sets), weights).item()
    known = [row for row in range(n) if sets[row, 0] >= 0]
    total = 0.0
    for v in range(4):
        having = max(sum(sets[row, v] == 1 for row in known), 1)
        lacking = max(sum(sets[row, v] == 0 for row in known), 1)
        for row in known:
            chance = 1 / (1 + math.exp(-logits[row, v]))
            if sets[row, v]:
                total -= (len(known) / 2 / having) ** balance * math.log(chance)
            else:
                total -= (len(known) / 2 / lacking) ** balance * math.log(1 - chance)
    assert got == pytest.approx(total / len(known) / 4 if known else 0.0, rel=1e-4, abs=1e-6)


def test_binary_cross_entropy_without_labels_has_a_gradient_path() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    sets = torch.full((3, 2), -1)
    losses.binary_cross_entropy(logits, sets, losses.value_weights(sets, 0.5)).backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_having_and_lacking_weigh_alike_at_balance_1() -> None:
    sets = torch.tensor([[1, 0]] * 3 + [[0, 0]] * 9 + [[0, 1]] * 4)
    having, lacking = losses.value_weights(sets, 1.0)
    for v in range(2):
        assert (having[v] * (sets[:, v] == 1).sum()).item() == pytest.approx(8)
        assert (lacking[v] * (sets[:, v] == 0).sum()).item() == pytest.approx(8)


@pytest.mark.parametrize("codes", [[-1] * 6, [2] * 6, [0, 1, 2, 3, 4, 5], [0, 0, -1, -1, -1, -1]])
def test_triplet_without_a_triplet_is_zero_with_a_gradient_path(codes: list[int]) -> None:
    features = torch.randn(6, 4, requires_grad=True)
    loss = batch_all(features, torch.tensor(codes), 0.2)
    assert loss.item() == 0
    loss.backward()
    assert features.grad is not None
    assert not features.grad.any()


def test_triplet_of_no_photos() -> None:
    assert batch_all(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 0.2).item() == 0


def test_triplet_gradient_is_finite_where_photos_coincide() -> None:
    """Duplicates are at distance zero, where the square root has no slope of its own."""
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.6, 0.8]], requires_grad=True)
    loss = batch_all(features, torch.tensor([0, 0, 1, 1]), 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(slow_triplet(features.detach().numpy(), [0, 0, 1, 1], 0.2), abs=3e-4)
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert features.grad.abs().max() < 10


def test_triplet_on_collapsed_features_is_the_margin() -> None:
    features = torch.ones(6, 4)
    assert batch_all(features, torch.tensor([0, 0, 0, 1, 1, 1]), 0.2).item() == pytest.approx(0.2)


def test_triplet_masked_rows_contribute_nothing() -> None:
    features = torch.randn(8, 4, requires_grad=True)
    codes = torch.tensor([0, 0, 1, 1, -1, -1, 2, 2])
    loss = batch_all(features, codes, 1.0)
    loss.backward()
    assert features.grad is not None
    assert not features.grad[4:6].any()
    assert features.grad[[0, 1, 2, 3, 6, 7]].any(dim=1).all()
    kept = codes >= 0
    assert batch_all(features[kept], codes[kept], 1.0).item() == pytest.approx(loss.item())


def test_triplet_does_not_see_lengths() -> None:
    features, codes = torch.randn(8, 4), torch.tensor([0, 0, 1, 1, 2, 2, 0, 1])
    scaled = features * torch.linspace(0.1, 9, 8)[:, None]
    assert batch_all(scaled, codes, 0.5).item() == pytest.approx(batch_all(features, codes, 0.5).item(), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(0, 20))
def test_cross_entropy_is_the_weighted_mean_of_the_labelled_rows(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    logits, codes, weights = rng.normal(size=(n, 4)) * 3, rng.integers(-1, 4, n), rng.uniform(0.1, 3, 4)
    above = below = 0.0
    for row, code in zip(logits, codes, strict=True):
        if code >= 0:
            above -= weights[code] * math.log(math.exp(row[code]) / sum(math.exp(value) for value in row))
            below += weights[code]
    got = losses.cross_entropy(torch.tensor(logits), torch.tensor(codes), torch.tensor(weights))
    assert got.item() == pytest.approx(above / below if below else 0.0, rel=1e-6)


def test_cross_entropy_masked_rows_contribute_nothing() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    losses.cross_entropy(logits, torch.tensor([0, -1, 2, -1]), torch.ones(3)).backward()
    assert logits.grad is not None
    assert not logits.grad[[1, 3]].any()
    assert logits.grad[[0, 2]].any(dim=1).all()


def test_cross_entropy_without_labels_is_zero_with_a_gradient_path() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    loss = losses.cross_entropy(logits, torch.full((4,), -1), torch.ones(3))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-1, 4), max_size=40), st.sampled_from([0, 0.25, 0.5, 1]))
def test_class_weights_fall_with_a_power_of_the_count(codes: list[int], balance: float) -> None:
    got = losses.class_weights(torch.tensor(codes, dtype=torch.int64), 5, balance).tolist()
    counts = [max(codes.count(v), 1) for v in range(5)]  # a value that is absent weighs as if seen once
    raw = [n**-balance for n in counts]
    mean = sum(w * n for w, n in zip(raw, counts, strict=True)) / sum(counts)
    assert got == pytest.approx([w / mean for w in raw], rel=1e-5)


def test_class_weights_have_mean_1_over_photos() -> None:
    codes = torch.tensor([0] * 100 + [1] * 4 + [2])
    weights = losses.class_weights(codes, 3, 0.5)
    assert weights[codes].mean().item() == pytest.approx(1)
    assert (weights[1] / weights[0]).item() == pytest.approx(5)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 8), st.sampled_from([0.1, 0.5]))
def test_style_contrast_is_the_loop(seed: int, n: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, n, 3))
    styles = rng.integers(0, 4, n)  # styles drawn twice are common
    got = losses.style_contrast(torch.tensor(first), torch.tensor(second), torch.tensor(styles), temperature)
    assert got.item() == pytest.approx(slow_contrast(first, second, styles.tolist(), temperature), rel=1e-6, abs=1e-9)


def test_style_contrast_of_one_style_has_nothing_to_tell_apart() -> None:
    first, second = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    loss = losses.style_contrast(first, second, torch.tensor([5, 5, 5]), 0.1)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    loss.backward()
    assert first.grad is not None
    assert torch.isfinite(first.grad).all()


def test_style_contrast_of_identical_views() -> None:
    """A photo paired with itself, twice in the batch: zero distances, finite gradient."""
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    styles = torch.tensor([0, 0, 1])
    loss = losses.style_contrast(first, first, styles, 0.1)
    array = first.detach().numpy()
    assert loss.item() == pytest.approx(slow_contrast(array, array, styles.tolist(), 0.1), rel=1e-2)
    loss.backward()
    assert first.grad is not None
    assert torch.isfinite(first.grad).all()


def test_style_contrast_is_low_when_views_agree() -> None:
    x = torch.eye(4)
    found = losses.style_contrast(x, x, torch.arange(4), 0.1)
    crossed = losses.style_contrast(x, x.roll(1, 0), torch.arange(4), 0.1)
    assert found < 0.01 < 1 < crossed
