"""Losses of the plain core. Every one takes labels with -1 for missing and ignores those entries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def class_weights(codes: Tensor, values: int, balance: float) -> Tensor:
    """Weights from label counts, (V,) float32 of mean 1 over photos: w_v ~ n_v^-balance; codes (n,) int64, -1 missing.

    Balance 1 weighs all values alike, 0 all photos. Between them, rare values (a handful of photos among thousands)
    do not rule the gradient.
    """
    counts = torch.bincount(codes[codes >= 0], minlength=values).clamp(min=1).float()
    weights = counts**-balance
    return weights * counts.sum() / (weights * counts).sum()


def cross_entropy(logits: Tensor, codes: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross entropy over labelled rows; zero (with a gradient path) when the batch has none.

    logits (n, V), codes (n,) int64, weights (V,).
    """
    known = codes >= 0
    if not known.any():
        return logits.sum() * 0.0
    return F.cross_entropy(logits[known], codes[known], weight=weights)


def batch_all_triplet(features: Tensor, codes: Tensor, margin: float) -> Tensor:
    """Mean hinge over all violating triplets (Hermans et al. 2017, "batch all", non-zero mean), on unit features.

    features: (n, D), normalised here; codes: (n,) int64, -1 rows take no part. Distance is Euclidean:
    max(0, |a - p| - |a - n| + margin), a and p of one code, n of another.
    """
    known = codes >= 0
    x, y = F.normalize(features[known], dim=1), codes[known]
    squared = (2.0 - 2.0 * x @ x.T).clamp(min=0.0)
    distance = torch.sqrt(squared + 1e-8)  # (m, m); the epsilon keeps the gradient finite at zero
    same = y[:, None] == y[None, :]
    positive = same & ~torch.eye(len(y), dtype=torch.bool, device=y.device)
    anchor, mate = positive.nonzero(as_tuple=True)
    hinge = distance[anchor, mate][:, None] - distance[anchor] + margin  # (pairs, m)
    hinge = hinge.masked_fill(same[anchor], 0.0).clamp(min=0.0)
    violating = (hinge > 0).sum()
    return hinge.sum() / violating.clamp(min=1)


def style_contrast(first: Tensor, second: Tensor, styles: Tensor, temperature: float) -> Tensor:
    """Softmax over the batch's photos: the two views of a style must find each other (InfoNCE, Chen et al. 2020).

    first, second: (n, D) look features of two photos of each style, normalised here; styles: (n,) int64. Other photos
    of the same style are neither positive nor negative.
    """
    x = F.normalize(torch.cat((first, second)), dim=1)  # (2n, D)
    y = torch.cat((styles, styles))
    n = len(first)
    similarity = x @ x.T / temperature
    partner = torch.arange(2 * n, device=x.device).roll(n)
    ignored = y[:, None] == y[None, :]  # itself, and other photos of the style
    ignored[torch.arange(2 * n, device=x.device), partner] = False
    return F.cross_entropy(similarity.masked_fill(ignored, float("-inf")), partner)
