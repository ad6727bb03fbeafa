"""Is a heat map faithful, not just pretty? Occlusion, deletion and insertion ask the network, the pointing game the
truth.

``Ask`` is the network under test: photos (n, s, s, 3) uint8 in, the probability of each one's value out, (n,) float.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from retrieval.explain.places import Box, Heat, Mask, inside
from retrieval.models.network import MEAN
from retrieval.photos import Pixels

Ask: TypeAlias = Callable[[Pixels], npt.NDArray[np.float64]]
GRAY = tuple(round(255 * level) for level in MEAN)  # what the network takes for nothing: 0 once normalised
TOLERANCE = 0.03  # of the photo's long side: 15 pixels of 500 (Zhang et al. 2018)


def loss_of(probability: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cross entropy, -log p."""
    return -np.log(np.maximum(probability, 1e-12))


def hide(pixels: Pixels, boxes: Sequence[Box]) -> Pixels:
    """The photos (n, s, s, 3) with one box each painted over in the network's gray."""
    out = pixels.copy()
    for photo, box in zip(out, boxes, strict=True):
        photo[inside(box)] = GRAY
    return out


def random_box(box: Box, area: Box, rng: np.random.Generator) -> Box:
    """A box of the same size anywhere in the area, in whole pixels."""
    width, height = box.right - box.left, box.bottom - box.top
    left = area.left + int(rng.integers(int(area.right - area.left - width) + 1))
    top = area.top + int(rng.integers(int(area.bottom - area.top - height) + 1))
    return Box(left, top, left + width, top + height)


def centre_box(box: Box, area: Box) -> Box:
    """A box of the same size in the middle of the area, in whole pixels."""
    left = int(area.left + area.right - box.right + box.left) // 2
    top = int(area.top + area.bottom - box.bottom + box.top) // 2
    return Box(left, top, left + box.right - box.left, top + box.bottom - box.top)


def rises(ask: Ask, pixels: Pixels, boxes: Sequence[Box], before: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """By how much the loss rises when each photo's box is hidden, (n,). before: ``ask(pixels)``."""
    rise: npt.NDArray[np.float64] = loss_of(ask(hide(pixels, boxes))) - loss_of(before)
    return rise


def random_rises(
    ask: Ask,
    pixels: Pixels,
    boxes: Sequence[Box],
    areas: Sequence[Box],
    before: npt.NDArray[np.float64],
    seed: int = 0,
    draws: int = 5,
) -> npt.NDArray[np.float64]:
    """The same for a box of the same size at a random place of the photo: the mean over ``draws`` places, (n,)."""
    rng = np.random.default_rng(seed)
    found = [
        rises(ask, pixels, [random_box(box, area, rng) for box, area in zip(boxes, areas, strict=True)], before)
        for _ in range(draws)
    ]
    mean: npt.NDArray[np.float64] = np.mean(found, axis=0)
    return mean


def deletion(ask: Ask, pixels: Pixels, heat: Heat, areas: Sequence[Box], steps: int = 20) -> npt.NDArray[np.float64]:
    """Probability while the hottest pixels are painted over in gray, a ``steps``-th of the photo at a time (Petsiuk et
    al. 2018): (n, steps + 1), from the whole photo to none of it. Falls fast if the heat is right: see ``under``.
    """
    return _replaced(ask, pixels, np.broadcast_to(np.array(GRAY, np.uint8), pixels.shape), heat, areas, steps)


def insertion(ask: Ask, pixels: Pixels, heat: Heat, areas: Sequence[Box], steps: int = 20) -> npt.NDArray[np.float64]:
    """Probability while the hottest pixels come back into a blurred photo, (n, steps + 1): to rise fast."""
    radius = pixels.shape[1] / 12
    blurred = np.stack([np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(radius))) for p in pixels])
    return _replaced(ask, blurred, pixels, heat, areas, steps)


def _replaced(
    ask: Ask, start: Pixels, end: Pixels, heat: Heat, areas: Sequence[Box], steps: int
) -> npt.NDArray[np.float64]:
    """Ask with the hottest 0, 1 / steps, ... 1 of each photo's pixels taken from ``end``, the others from ``start``."""
    rank = np.full(heat.shape, np.inf)
    for each, values, area in zip(rank, heat, areas, strict=True):
        within = values[inside(area)]
        order = np.empty(within.size)
        order[np.argsort(-within.ravel(), kind="stable")] = np.arange(within.size) / within.size
        each[inside(area)] = order.reshape(within.shape)
    curve = [ask(np.where((rank < step / steps)[..., None], end, start)) for step in range(steps + 1)]
    return np.stack(curve, axis=1)


def under(curve: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Area under each curve over 0 to 1, (n,)."""
    area: npt.NDArray[np.float64] = ((curve[:, 1:] + curve[:, :-1]) / 2).mean(axis=1)
    return area


def points_at(point: tuple[float, float] | None, region: Mask, tolerance: float) -> bool:
    """The pointing game (Zhang et al. 2018): does x, y lie in the region (h, w), or within ``tolerance`` pixels?"""
    y, x = np.nonzero(region)
    if point is None or not len(x):
        return False
    return bool(((x - point[0]) ** 2 + (y - point[1]) ** 2).min() <= tolerance**2)
