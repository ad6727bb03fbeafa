"""Multi-granularity parts: stripes, columns and rings, each the mean of a part of a feature map, made small.

A part is a set of weights over the cells of an h x w map, the share of each cell that lies inside it, scaled to sum 1;
what it pools is the weighted mean of the cells. So parts need not fall on the cells' borders, and any number of them
fits any map. A cell is a unit square; row r, column c covers [r, r + 1) x [c, c + 1).

- ``stripes`` n: stripe k covers rows k h/n to (k + 1) h/n of the last map, top first (Sun et al. 2018, PCB; several n
  side by side as in Wang et al. 2018, MGN). ``columns`` n: the same of columns, left first.
- ``rings`` n: ring k lies between the circles of radius k R/n and (k + 1) R/n about the photo's middle, R half its
  side, the innermost first; corners are in no ring. They are the stripes of another map: that of the photo's polar
  view, rows radius, columns angle (cf. Esteves et al. 2018, Polar Transformer Networks). A turn of the photo shifts
  that view along its rows, convolutions follow, and the mean over all angles forgets it. Rings cut from the ordinary
  last map would not hold up: convolutions say something else of a turned sleeve.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retrieval.config import PartsConfig

STRIDE = 32  # of the coarsest last map: polar views are made of it, so that every map has whole columns for the angles
OVERLAP = STRIDE  # columns of a polar view that are there again on either side


class PartsBlock(nn.Module):
    """Raw features of all parts side by side, (n, dim): stripes, columns, rings, in the config's order.

    Each part has a linear map of its own to its share of ``dim``, see ``widths``.
    """

    def __init__(self, channels: int, config: PartsConfig) -> None:
        super().__init__()
        self.config, self.widths = config, widths(config)
        around = sum(config.rings)  # apart, so that weights for rings of the ordinary map do not load
        linear = [nn.Linear(channels, width) for width in self.widths]
        self.project = nn.ModuleList(linear[: len(linear) - around])
        self.around = nn.ModuleList(linear[len(linear) - around :])

    def forward(self, x: Tensor, around: Tensor | None = None) -> Tensor:
        """x: the last map of photos, (n, c, h, w); around: that of their polar views, all angles once, for rings."""
        config, found = self.config, []
        if len(self.project):
            pooled = _pooled(x, config.stripes, config.columns)
            found += [linear(pooled[:, i]) for i, linear in enumerate(self.project)]
        if around is not None:
            pooled = _pooled(around, config.rings, ())
            found += [linear(pooled[:, i]) for i, linear in enumerate(self.around)]
        return torch.cat(found, dim=1)


def polar(photos: Tensor) -> Tensor:
    """Photos (n, c, s, s) about their middle, bilinear: (n, c, h, w + 2 OVERLAP) float, h = s/2 and w = 2 s, each
    raised to a multiple of STRIDE.

    Row i is at radius (i + 1/2) / h of half a side. Columns OVERLAP to OVERLAP + w go around once, column OVERLAP + j
    at angle (j + 1/2) 2 pi / w, from the right downwards; those before and behind go on around, so that what a network
    sees at an angle has no edge near it (``once`` takes them away again). A pixel of the
    view is at most 1.6 of the photo's wide, at the outer edge.
    """
    side = photos.shape[-1]
    h, w = (STRIDE * math.ceil(pixels / STRIDE) for pixels in (side / 2, side * 2))
    radius = (torch.arange(h, device=photos.device) + 0.5) / h
    angle = (torch.arange(-OVERLAP, w + OVERLAP, device=photos.device) + 0.5) * (2 * math.pi / w)
    grid = radius[:, None, None] * torch.stack((angle.cos(), angle.sin()), dim=1)  # (h, w + 2 OVERLAP, x and y)
    return F.grid_sample(
        photos.float(), grid.expand(len(photos), *grid.shape), align_corners=False, padding_mode="border"
    )


def once(x: Tensor, columns: int) -> Tensor:
    """The map (n, c, h, w) of a polar view that many columns wide, without what the view holds twice."""
    twice = x.shape[3] * OVERLAP // columns
    return x[..., twice : x.shape[3] - twice]


def _pooled(x: Tensor, stripes: tuple[int, ...], columns: tuple[int, ...]) -> Tensor:
    """(n, c, h, w) -> the weighted mean of each part, (n, parts, c)."""
    cells = torch.from_numpy(part_weights(stripes, columns, *x.shape[2:])).to(x.device, x.dtype)
    return cells @ x.permute(0, 2, 3, 1).flatten(1, 2)


def widths(config: PartsConfig) -> list[int]:
    """Dimensions of each part: ``dim`` shared evenly, what is left over to the first ones, one each."""
    parts = sum((*config.stripes, *config.columns, *config.rings))
    return [config.dim // parts + (i < config.dim % parts) for i in range(parts)]


@lru_cache(maxsize=64)
def part_weights(stripes: tuple[int, ...], columns: tuple[int, ...], height: int, width: int) -> np.ndarray:
    """(parts, h * w) float32, each row of sum 1: the share of every cell, row by row, in each part. Read only."""
    rows = [np.outer(share, np.ones(width)) for n in stripes for share in _spans(height, n)]
    cols = [np.outer(np.ones(height), share) for n in columns for share in _spans(width, n)]
    every = np.stack([*rows, *cols]).reshape(-1, height * width)
    return (every / every.sum(axis=1, keepdims=True)).astype(np.float32)


def _spans(side: int, n: int) -> np.ndarray:
    """(n, side): the length of each cell inside each of n equal parts of a side."""
    edges, cells = np.arange(n + 1) * side / n, np.arange(side)
    inside = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.maximum(inside, 0.0)
