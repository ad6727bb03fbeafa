"""Training of the outfit LSTM on known outfits, and the reading of its scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from index.errors import InputError
from retrieval.outfits.config import FitConfig, SizesConfig
from retrieval.outfits.model import Reading
from retrieval.outfits.network import OutfitNet, batch_loss

Outfits = Sequence[Sequence[int]]
SHORTER = 0.25  # chance that an outfit is shown without one of its items, so that parts of outfits are known, too
QUANTILES = 201


def fit(
    table: npt.NDArray[np.float16], sources: Sequence[tuple[float, Callable[[int], Outfits]]], sizes: SizesConfig,
    config: FitConfig, progress: bool = False,
) -> OutfitNet:  # fmt: skip
    """Train on outfits of rows of ``table`` (n, D), items in order.

    sources: (share of a batch, epoch number -> the outfits of that epoch); a source that composes gives others each
    time. Loss: ``network.batch_loss``, the softmax over the items of the batch.
    """
    used = [(share, supply) for share, supply in sources if share > 0]
    streams = [_stream(supply, config.seed + 1000 * i) for i, (_, supply) in enumerate(used)]
    torch.manual_seed(config.seed)
    net = OutfitNet(table.shape[1], sizes.item, sizes.hidden, sizes.dropout)
    seen = np.unique([row for _, supply in used for outfit in supply(0) for row in outfit])
    net.mean.copy_(torch.from_numpy(table[seen].astype(np.float32).mean(axis=0)))
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    total = sum(share for share, _ in used)
    counts = [max(1, round(config.batch * share / total)) for share, _ in used]
    net.train()
    for step in tqdm(range(config.steps), "outfits", unit="step", disable=None if progress else True):
        warm = min(1.0, (step + 1) / (0.05 * config.steps + 1))
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warm * 0.5 * (1 + float(np.cos(np.pi * step / config.steps)))
        rng = np.random.default_rng([config.seed, step])
        batch = [_shown(next(stream), rng) for stream, count in zip(streams, counts, strict=True) for _ in range(count)]
        loss = batch_loss(net, *padded(table, batch))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
    return net.eval().requires_grad_(False)


def _stream(supply: Callable[[int], Outfits], seed: int) -> Any:
    epoch = 0
    while True:
        outfits = supply(epoch)
        if not len(outfits):
            raise InputError("no outfits to learn from")
        for i in np.random.default_rng([seed, epoch]).permutation(len(outfits)):
            yield outfits[i]
        epoch += 1


def _shown(outfit: Sequence[int], rng: np.random.Generator) -> Sequence[int]:
    if len(outfit) > 2 and rng.random() < SHORTER:
        gone = int(rng.integers(len(outfit)))
        return [*outfit[:gone], *outfit[gone + 1 :]]
    return outfit


def padded(table: npt.NDArray[np.float16], outfits: Outfits) -> tuple[Tensor, Tensor, Tensor]:
    """Features (n, T, D) float32, lengths (n,), rows (n, T) with -1 for padding."""
    lengths = np.array([len(each) for each in outfits])
    rows = np.full((len(outfits), int(lengths.max())), -1, np.int64)
    for i, each in enumerate(outfits):
        rows[i, : len(each)] = each
    features = table[rows].astype(np.float32)
    features[rows < 0] = 0
    return torch.from_numpy(features), torch.from_numpy(lengths), torch.from_numpy(rows)


def reference_pool(net: OutfitNet, table: npt.NDArray[np.float16], rows: npt.NDArray[np.int64]) -> Tensor:
    """The items that scores are normalised over, in item space (m, p)."""
    with torch.no_grad():
        return net.items(torch.from_numpy(table[rows].astype(np.float32))).half().float()


def reading(known: npt.NDArray[np.float64], shuffled: npt.NDArray[np.float64]) -> Reading:
    """Logistic regression of known (1) against shuffled (0) raw scores, both weighing the same, by Newton's method."""
    x = np.concatenate([known, shuffled])
    y = np.concatenate([np.ones(len(known)), np.zeros(len(shuffled))])
    weight = np.where(y == 1, 0.5 / len(known), 0.5 / len(shuffled))
    centre, spread = x.mean(), max(float(x.std()), 1e-6)
    design = np.stack([(x - centre) / spread, np.ones_like(x)], 1)
    beta = np.zeros(2)
    for _ in range(50):
        p = 1 / (1 + np.exp(-design @ beta))
        gradient = design.T @ (weight * (y - p)) - 1e-3 * beta * (1, 0)
        hessian = (design * (weight * p * (1 - p))[:, None]).T @ design + np.diag([1e-3, 1e-9])
        beta = beta + np.linalg.solve(hessian, gradient)
    slope = float(beta[0] / spread)
    quantiles = np.quantile(known, np.linspace(0, 1, min(QUANTILES, len(known))))
    return Reading(slope, float(beta[1] - slope * centre), tuple(float(q) for q in quantiles))
