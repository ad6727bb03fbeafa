"""The LSTM, its scores, the query vector it gives and the influence of items, each against a slow oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from index.errors import InputError
from retrieval.outfits import model as models
from retrieval.outfits.fit import padded, reading
from retrieval.outfits.network import OutfitNet, batch_loss, log_likelihood

BLOCKS = {"look": 5, "kind": 3, "color": 4}


def network(seed: int = 0) -> OutfitNet:
    torch.manual_seed(seed)
    net = OutfitNet(12, 6, 7).eval().requires_grad_(False)
    net.mean.copy_(torch.randn(12) * 0.1)
    return net


def outfit_model(seed: int = 0) -> models.OutfitModel:
    net = network(seed)
    pool = torch.randn(20, 6, generator=torch.Generator().manual_seed(seed))
    aspects = {"texture": ("look",), "shape": ("kind",), "color": ("color",)}
    reading_ = models.Reading(1.0, 0.0, (-3.0, -2.0, -1.0))
    return models.OutfitModel(net, None, None, BLOCKS, aspects, {}, pool, reading_, "", None, {})  # type: ignore[arg-type]


def some_outfits(*lengths: int, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, 12)).astype(np.float32) for n in lengths]


def steps(lstm: torch.nn.LSTM, items: torch.Tensor) -> list[torch.Tensor]:
    """The hidden state after each item, by an LSTM cell."""
    cell = torch.nn.LSTMCell(items.shape[1], lstm.hidden_size).requires_grad_(False)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in lstm.state_dict().items()})
    h, c = torch.zeros(1, lstm.hidden_size), torch.zeros(1, lstm.hidden_size)
    found = []
    for item in items:
        h, c = cell(item[None], (h, c))
        found.append(h[0])
    return found


def slow_score(net: OutfitNet, features: np.ndarray, pool: torch.Tensor) -> float:
    """The paper's equations, an item at a time."""
    items = net.project(torch.from_numpy(features) - net.mean)
    zero = torch.zeros(items.shape[1])
    total = 0.0
    for turned, lstm, head in ((items, net.ahead, net.next), (items.flip(0), net.behind, net.before)):
        said = [head(h) for h in steps(lstm, turned)]
        for out, target, last in zip(
            said, [*turned[1:], zero], [False] * (len(items) - 1) + [True], strict=True
        ):  # fmt: skip
            classes = [*pool, zero] if last else [*pool, zero, target]
            logits = torch.stack([out @ each for each in classes])
            total += float(out @ target - torch.log(torch.exp(logits).sum()))
    return total / (2 * len(items))


def test_a_score_is_the_papers_likelihood_over_the_pool() -> None:
    model = outfit_model()
    outfits = some_outfits(2, 5, 3)
    with torch.no_grad():
        expected = [slow_score(model.net, each, model.pool) for each in outfits]
    np.testing.assert_allclose(model.raw(outfits), expected, rtol=1e-4)


def test_a_score_does_not_depend_on_what_is_scored_beside_it() -> None:
    model = outfit_model()
    outfits = some_outfits(3, 6, 2, 4)
    alone = np.concatenate([model.raw([each]) for each in outfits])
    np.testing.assert_allclose(model.raw(outfits), alone, rtol=1e-5)
    np.testing.assert_allclose(model.raw(outfits[::-1]), alone[::-1], rtol=1e-5)


def test_one_item_is_no_outfit() -> None:
    with pytest.raises(InputError, match="at least two items"):
        outfit_model().raw(some_outfits(1))


def test_the_training_loss_is_the_cross_entropy_over_the_batch() -> None:
    net = network()
    rng = np.random.default_rng(2)
    table = rng.normal(size=(6, 12)).astype(np.float16)
    batch = [(0, 1, 2), (3, 1), (4, 5, 0, 2)]  # items 0, 1 and 2 come twice
    every = [row for outfit in batch for row in outfit]
    items = {row: net.project(torch.from_numpy(table[row].astype(np.float32)) - net.mean) for row in every}
    zero, losses = torch.zeros(6), []
    for forwards in (True, False):
        for outfit in batch:
            order = outfit if forwards else outfit[::-1]
            lstm, head = (net.ahead, net.next) if forwards else (net.behind, net.before)
            for at, h in enumerate(steps(lstm, torch.stack([items[row] for row in order]))):
                target = order[at + 1] if at + 1 < len(order) else None
                right = items[target] if target is not None else zero
                others = [items[row] for row in every if row != target] + ([zero] if target is not None else [])
                logits = torch.stack([head(h) @ each for each in [right, *others]])
                losses.append(-torch.log_softmax(logits, 0)[0])
    loss = batch_loss(net, *padded(table, batch))
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


def test_what_is_expected_is_a_query_vector() -> None:
    """Inner products with it differ between items as their softmax logits do: the index ranks as the LSTM does."""
    model = outfit_model()
    before, after, candidates = some_outfits(2, 3, 8, seed=3)
    vector, stop = model.expects(before, after)
    net = model.net
    items = net.items(torch.from_numpy(candidates))
    ahead = net.next(steps(net.ahead, net.items(torch.from_numpy(before)))[-1])
    behind = net.before(steps(net.behind, net.items(torch.from_numpy(after)).flip(0))[-1])
    logits = (items @ (ahead + behind)).detach().numpy()
    np.testing.assert_allclose(candidates @ vector - (candidates @ vector)[0], logits - logits[0], atol=1e-4)
    ends = [1 / (1 + float(torch.exp(model.pool @ out).sum())) for out in (ahead, behind)]
    assert stop == pytest.approx(max(ends), rel=1e-4)
    only, _ = model.expects(before, after[:0])
    np.testing.assert_allclose(only, (ahead @ net.project.weight).detach().numpy(), atol=1e-5)


def test_influence_is_gradient_times_feature() -> None:
    model = outfit_model()
    (items,) = some_outfits(4, seed=5)
    found = model.influence(items)
    assert found.shape == (4, 3)
    step, mean, start = 1e-3, model.net.mean.numpy(), 0
    for number, dim in enumerate(BLOCKS.values()):
        for row in range(4):
            scores = []
            for sign in (1, -1):
                moved = items.copy()
                at = slice(start, start + dim)
                moved[row, at] += sign * step * (items[row, at] - mean[at])
                scores.append(slow_score(model.net, moved, model.pool))
            assert found[row, number] == pytest.approx((scores[0] - scores[1]) / (2 * step), abs=2e-2, rel=2e-2)
        start += dim
    by = model.by_aspect(found)
    np.testing.assert_allclose(by["color"], found[:, 2])
    assert list(by) == ["texture", "shape", "color"]


def test_a_reading_tells_known_outfits_from_shuffled_ones() -> None:
    rng = np.random.default_rng(0)
    known, shuffled = rng.normal(-4, 1, 400), rng.normal(-7, 1, 400)
    read = reading(known, shuffled)
    assert read.slope > 0
    assert read.probability(np.array([-5.5]))[0] == pytest.approx(0.5, abs=0.05)
    assert ((read.probability(known) > 0.5).mean(), (read.probability(shuffled) < 0.5).mean()) > (0.9, 0.9)
    assert 0 <= read.probability(np.array([-1e9]))[0] < read.probability(np.array([1e9]))[0] <= 1
    assert read.percentile(np.array([known.min() - 1, np.median(known), known.max() + 1])) == pytest.approx(
        [0, 50, 100], abs=1
    )
    np.testing.assert_allclose(log_likelihood(network(), *_items(), torch.zeros(0, 6)).shape, (2,))


def _items() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(2, 3, 6), torch.tensor([2, 3])
