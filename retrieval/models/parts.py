"""Multi-granularity parts: stripes, columns and rings of the last feature map, average pooled, each made small.

A part is a set of weights over the cells of an h x w map, the share of each cell that lies inside it, scaled to sum 1;
what it pools is the weighted mean of the cells. So parts need not fall on the cells' borders, and any number of them
fits any map. A cell is a unit square; row r, column c covers [r, r + 1) x [c, c + 1).

- ``stripes`` n: stripe k covers rows k h/n to (k + 1) h/n, top first (Sun et al. 2018, PCB; several n side by side as
  in Wang et al. 2018, MGN). ``columns`` n: the same of columns, left first.
- ``rings`` n: ring k lies between the circles of radius k R/n and (k + 1) R/n about the map's middle (h/2, w/2), the
  innermost first. R = min(h, w) / 2, so the outermost touches the map's sides and the corners are in no ring: what
  turns about the middle stays in its ring at any angle.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.config import PartsConfig


class PartsBlock(nn.Module):
    """(n, c, h, w) -> raw features of all parts side by side, (n, dim): stripes, columns, rings, in the config's order.

    Each part has a linear map of its own to its share of ``dim``, see ``widths``.
    """

    def __init__(self, channels: int, config: PartsConfig) -> None:
        super().__init__()
        self.config, self.widths = config, widths(config)
        self.project = nn.ModuleList(nn.Linear(channels, width) for width in self.widths)

    def forward(self, x: Tensor) -> Tensor:
        config = self.config
        cells = torch.from_numpy(part_weights(config.stripes, config.columns, config.rings, *x.shape[2:]))
        pooled = cells.to(x.device, x.dtype) @ x.permute(0, 2, 3, 1).flatten(1, 2)  # (n, parts, c)
        return torch.cat([linear(pooled[:, i]) for i, linear in enumerate(self.project)], dim=1)


def widths(config: PartsConfig) -> list[int]:
    """Dimensions of each part: ``dim`` shared evenly, what is left over to the first ones, one each."""
    parts = sum((*config.stripes, *config.columns, *config.rings))
    return [config.dim // parts + (i < config.dim % parts) for i in range(parts)]


@lru_cache(maxsize=64)
def part_weights(
    stripes: tuple[int, ...], columns: tuple[int, ...], rings: tuple[int, ...], height: int, width: int
) -> np.ndarray:
    """(parts, h * w) float32, each row of sum 1: the share of every cell, row by row, in each part. Read only."""
    rows = [np.outer(share, np.ones(width)) for n in stripes for share in _spans(height, n)]
    cols = [np.outer(np.ones(height), share) for n in columns for share in _spans(width, n)]
    round_ = [ring for n in rings for ring in _rings(height, width, n)]
    every = np.stack([*rows, *cols, *round_]).reshape(-1, height * width)
    return (every / every.sum(axis=1, keepdims=True)).astype(np.float32)


def _spans(side: int, n: int) -> np.ndarray:
    """(n, side): the length of each cell inside each of n equal parts of a side."""
    edges, cells = np.arange(n + 1) * side / n, np.arange(side)
    inside = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.maximum(inside, 0.0)


def _rings(height: int, width: int, n: int) -> np.ndarray:
    """(n, h, w): the area of each cell inside each ring."""
    radii = np.arange(n + 1) * min(height, width) / 2 / n
    discs = np.stack([_disc(height, width, radius) for radius in radii])
    return np.maximum(np.diff(discs, axis=0), 0.0)


def _disc(height: int, width: int, radius: float) -> np.ndarray:
    """(h, w): the area of each cell inside a circle about the map's middle, exactly.

    A(x, y) is the area of the circle between 0 and x, 0 and y (negative where one of them is); a cell's is
    A(x1, y1) - A(x0, y1) - A(x1, y0) + A(x0, y0).
    """
    corners = [[_corner(c - width / 2, r - height / 2, radius) for c in range(width + 1)] for r in range(height + 1)]
    return np.diff(np.diff(np.array(corners), axis=0), axis=1)


def _corner(x: float, y: float, radius: float) -> float:
    """A(x, y): for x, y >= 0 the integral over u from 0 to x of min(y, sqrt(r^2 - u^2)), both at most r."""
    if radius == 0:
        return 0.0
    sign = math.copysign(1.0, x) * math.copysign(1.0, y)
    x, y = min(abs(x), radius), min(abs(y), radius)
    meets = min(math.sqrt(radius**2 - y**2), x)  # up to here the circle is above y
    return sign * (y * meets + _under(x, radius) - _under(meets, radius))


def _under(u: float, radius: float) -> float:
    """The integral of sqrt(r^2 - v^2) over v from 0 to u."""
    return (u * math.sqrt(max(radius**2 - u**2, 0.0)) + radius**2 * math.asin(min(u / radius, 1.0))) / 2
