"""The last touch of a training: the attribute blocks' linear layers, fitted again to photos as a search sees them.

While the whole network trains, every photo is moved, relit and recolored, and heads settle for what survives that. The
network that comes out is then kept as it is, up to the means that each attribute's block pools from its maps; those of
the unchanged training photos are gathered once, and the linear layers and prototypes learn from them alone: seconds an
epoch. Kang et al. 2020 (Decoupling representation and classifier) fit classifiers anew on finished features; Touvron
et al. 2019 (Fixing the train-test resolution discrepancy) fit the last layers to photos as the test has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from retrieval.models.network import GarmentNet
from retrieval.training import losses
from retrieval.training.data import TrainingSet

PHOTOS = 512  # a batch
RATE, DECAY = 1e-3, 0.05
DROPOUT = 0.3  # of the pooled means
SMOOTHING = 0.1  # of the cross entropy: labels of shops are not certain


def refit(
    net: GarmentNet,
    data: TrainingSet,
    rows: np.ndarray,
    weights: list[Any],
    epochs: int,
    seed: int,
    progress: bool = False,
) -> None:
    """Fit every attribute block's linear layers and prototypes to the photos of ``rows``, (n,) int64, in place.

    weights: of each attribute, as in the loop (class weights, or having and lacking). Cross entropy over values plus
    ``losses.photo_contrast`` over photos, AdamW, cosine to zero. An attribute without a label stays as it is.
    """
    net.eval()
    pooled = gather(net, data, rows, progress)
    where = next(net.parameters()).device
    blocks: Any = net.attributes
    bar = tqdm(total=epochs * len(pooled), desc="refit", unit="epoch", disable=None if progress else True)
    for i, name in enumerate(data.vocabulary):
        inputs = [each.to(where) for each in pooled[name]]
        multi = name in data.sets
        labels = torch.from_numpy(data.sets[name][rows] if multi else data.codes[rows, i]).to(where)
        known = torch.nonzero((labels >= 0).all(dim=1) if multi else labels >= 0)[:, 0]
        block = blocks[name]
        linear = [block.hidden, block.project, *(pool.project for pool in block.shallow)]
        learned = [block.prototypes, block.bias, block.scale, *(p for layer in linear for p in layer.parameters())]
        for parameter in learned:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(learned, lr=RATE, weight_decay=DECAY)
        batches = -(-len(known) // PHOTOS)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(epochs * batches, 1))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + i)
        for _ in range(epochs):
            order = known[torch.randperm(len(known), generator=generator).to(where)]
            for picked in order.chunk(batches) if batches else ():
                kept = [_drop(each[picked].float(), generator) for each in inputs]
                loss = _loss(block, kept, labels[picked], weights[i])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
            bar.update()
    bar.close()


@torch.no_grad()
def gather(net: GarmentNet, data: TrainingSet, rows: np.ndarray, progress: bool = False) -> dict[str, list[Tensor]]:
    """What the linear layers of each block see of the photos of ``rows``: float16, (n, c) for each of their inputs."""
    where = next(net.parameters()).device
    found: dict[str, list[list[Tensor]]] = {}
    for pixels in data.passing(rows, "pooled", progress):
        for name, inputs in net.pooled(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(where)).items():
            kept = found.setdefault(name, [[] for _ in inputs])
            for column, each in zip(kept, inputs, strict=True):
                column.append(each.half().cpu())
    return {name: [torch.cat(column) for column in columns] for name, columns in found.items()}


def _loss(block: Any, pooled: list[Tensor], labels: Tensor, weights: Any) -> Tensor:
    """labels: (n,) codes or (n, V) of a multi-label attribute, none missing."""
    _, logits = block.score(pooled)
    if labels.ndim == 2:
        has, classify = labels == 1, losses.binary_cross_entropy(logits, labels, weights)
    else:
        has = F.one_hot(labels, logits.shape[1]) == 1
        classify = F.cross_entropy(logits, labels, weight=weights, label_smoothing=SMOOTHING)
    return classify + losses.photo_contrast(logits - block.bias, has)


def _drop(x: Tensor, generator: torch.Generator) -> Tensor:
    """Dropout that a seed repeats on any device."""
    keep = torch.rand(x.shape, generator=generator) >= DROPOUT
    return x * keep.to(x.device) / (1 - DROPOUT)
