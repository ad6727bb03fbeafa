"""Losses. Every one takes labels with -1 for missing and ignores those entries."""

from __future__ import annotations

from collections.abc import Sequence

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


def value_weights(sets: Tensor, balance: float) -> tuple[Tensor, Tensor]:
    """Weights of having and of lacking each value of a multi-label attribute, two (V,) float32, from label counts.

    sets (n, V): 1 has, 0 lacks, -1 missing. w+ = (n / 2 n+)^balance and w- = (n / 2 n-)^balance: at balance 1 the
    photos with and without a value weigh alike together, at 0 all photos do.
    """
    known = sets[(sets >= 0).all(dim=1)].float()
    having = known.sum(dim=0).clamp(min=1)
    lacking = (1 - known).sum(dim=0).clamp(min=1)
    half = max(len(known), 1) / 2
    return (half / having) ** balance, (half / lacking) ** balance


def binary_cross_entropy(logits: Tensor, sets: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over labelled photos and values of w+ y log s(x) + w- (1 - y) log(1 - s(x)), negated; zero (with a gradient
    path) when the batch has none. logits (n, V); sets (n, V), -1 missing; weights: having and lacking, (V,) each.
    """
    known = (sets >= 0).all(dim=1)
    if not known.any():
        return logits.sum() * 0.0
    wanted = sets[known].to(logits.dtype)
    weight = torch.where(wanted > 0, *weights)
    return F.binary_cross_entropy_with_logits(logits[known], wanted, weight)


def triplet(
    features: Tensor, codes: Tensor, margin: float, mining: str, distance: str, anchors: Tensor | None = None
) -> Tensor:
    """Triplets of a batch on unit features: ``mining`` batch-all or semi-hard, ``distance`` euclidean or squared.

    features: (n, D), normalised here; codes: (n,) int64, -1 rows take no part. anchors: (n,) bool, photos that are not
    are neither anchors nor positives, only negatives of the others; None: all are.
    """
    known = codes >= 0
    x, y = F.normalize(features[known], dim=1), codes[known]
    apart = (2.0 - 2.0 * x @ x.T).clamp(min=0.0)  # (m, m) squared
    if distance == "euclidean":
        apart = torch.sqrt(apart + 1e-8)  # the epsilon keeps the gradient finite at zero
    chosen = None if anchors is None else anchors[known]
    return (batch_all if mining == "batch-all" else semi_hard)(apart, y, margin, chosen)


def _pairs(codes: Tensor, anchors: Tensor | None) -> tuple[Tensor, Tensor]:
    """(m, m) bool: of one code, and of those the pairs of anchor and positive."""
    same = codes[:, None] == codes[None, :]
    positive = same & ~torch.eye(len(codes), dtype=torch.bool, device=codes.device)
    return same, positive if anchors is None else positive & anchors[:, None] & anchors[None, :]


def batch_all(apart: Tensor, codes: Tensor, margin: float, anchors: Tensor | None = None) -> Tensor:
    """Mean hinge over all violating triplets (Hermans et al. 2017, "batch all", non-zero mean).

    apart: (m, m) distances; codes: (m,). max(0, |a - p| - |a - n| + margin), a and p of one code, n of another; anchors
    as in ``triplet``.
    """
    same, positive = _pairs(codes, anchors)
    anchor, mate = positive.nonzero(as_tuple=True)
    hinge = apart[anchor, mate][:, None] - apart[anchor] + margin  # (pairs, m)
    hinge = hinge.masked_fill(same[anchor], 0.0).clamp(min=0.0)
    violating = (hinge > 0).sum()
    return hinge.sum() / violating.clamp(min=1)


def semi_hard(apart: Tensor, codes: Tensor, margin: float, anchors: Tensor | None = None) -> Tensor:
    """Mean hinge over all positive pairs, each with its semi-hard negative (Schroff et al. 2015; Hou et al. 2021).

    apart: (m, m) distances; codes: (m,). The negative of (a, p) is the nearest one farther from a than p is; where no
    negative is, the farthest of all. anchors as in ``triplet``.
    """
    same, positive = _pairs(codes, anchors)
    anchor, mate = positive.nonzero(as_tuple=True)
    some = (~same).any(dim=1)[anchor]
    anchor, mate = anchor[some], mate[some]
    if not len(anchor):
        return apart.sum() * 0.0
    near, others = apart[anchor, mate], apart[anchor]  # (pairs,), (pairs, m)
    outside = others.masked_fill(same[anchor] | (others <= near[:, None]), float("inf")).amin(dim=1)
    farthest = others.masked_fill(same[anchor], float("-inf")).amax(dim=1)
    negative = torch.where(outside.isfinite(), outside, farthest)
    return (near - negative + margin).clamp(min=0.0).mean()


def style_contrast(
    first: Tensor, second: Tensor, styles: Tensor, temperature: float, away: Tensor | None = None
) -> Tensor:
    """Softmax over the batch's photos: the two views of a style must find each other (InfoNCE, Chen et al. 2020).

    first, second: (n, D) look features of two photos of each style, normalised here; styles: (n,) int64. Other photos
    of the same style are neither positive nor negative. away: (e, D), photos that are only negatives of the others.
    """
    x = F.normalize(torch.cat((first, second)), dim=1)  # (2n, D)
    y = torch.cat((styles, styles))
    n = len(first)
    similarity = x @ x.T / temperature
    partner = torch.arange(2 * n, device=x.device).roll(n)
    ignored = y[:, None] == y[None, :]  # itself, and other photos of the style
    ignored[torch.arange(2 * n, device=x.device), partner] = False
    similarity = similarity.masked_fill(ignored, float("-inf"))
    if away is not None:
        similarity = torch.cat((similarity, x @ F.normalize(away, dim=1).T / temperature), dim=1)
    return F.cross_entropy(similarity, partner)


def photo_contrast(scores: Tensor, has: Tensor) -> Tensor:
    """Softmax over the batch's photos: each value must find the photos that have it.

    An edited query asks it that way round (which photos are gray?), while cross entropy asks each photo for its value;
    both directions at once as in CLIP (Radford et al. 2021). scores (n, V), has (n, V) bool: mean over the pairs of
    photo and value that belong together of -log softmax over photos; zero (with a gradient path) where there is none.
    """
    if not has.any():
        return scores.sum() * 0.0
    return -F.log_softmax(scores, dim=0)[has].mean()


def parts(logits: Sequence[Tensor], classes: Tensor) -> Tensor:
    """Mean over parts of the cross entropy over styles: (n, S) of each part, classes (n,) int64, -1 takes no part.

    Zero (with a gradient path) when the batch has no style to learn.
    """
    even = torch.ones(logits[0].shape[1], device=classes.device)
    return torch.stack([cross_entropy(each, classes, even) for each in logits]).mean()
