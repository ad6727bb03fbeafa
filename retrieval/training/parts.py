"""Heads over the parts of the map, or look as a whole: each alone must tell the style. They are in no checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StyleHeads(nn.Module):
    """A cosine head on each part: s cos(f, w_v) over ``styles`` styles with a learned s (NormFace, Wang et al. 2017).

    Raw features of all parts side by side, (n, sum of widths), to (n, styles) logits of each part.
    """

    def __init__(self, widths: Sequence[int], styles: int) -> None:
        super().__init__()
        self.widths = list(widths)
        self.prototypes = nn.ParameterList(torch.randn(styles, width) * width**-0.5 for width in widths)
        self.scale = nn.Parameter(torch.full((len(self.widths),), 10.0))

    def forward(self, block: Tensor) -> tuple[Tensor, ...]:
        parts = zip(block.split(self.widths, dim=1), self.prototypes, self.scale, strict=True)
        return tuple(scale * F.normalize(part, dim=1) @ F.normalize(own, dim=1).T for part, own, scale in parts)


def style_classes(styles: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(n,) int64: a number from 0 for each style that several of the ``rows`` have, -1 for every other photo.

    styles: (n,) int64 of all photos; rows: those of the training part. A style of one photo cannot be learned apart
    from that photo.
    """
    classes = np.full(len(styles), -1, np.int64)
    _, number, counts = np.unique(styles[rows], return_inverse=True, return_counts=True)
    several = counts > 1
    renumbered = np.where(several, np.cumsum(several) - 1, -1)
    classes[rows] = renumbered[number.reshape(-1)]
    return classes
