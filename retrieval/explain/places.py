"""Places in a photo: the letterbox and back, the largest connected component, boxes, ROI pooling."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, roi_align

Mask = npt.NDArray[np.bool_]
Heat = npt.NDArray[np.float32]
SHARE = 0.5  # of the highest heat: what reaches it counts as hot


class Box(NamedTuple):
    """left, top, right, bottom in pixels; right and bottom are the first beyond it."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        return max(self.right - self.left, 0) * max(self.bottom - self.top, 0)


def area_of(width: int, height: int, size: int) -> Box:
    """Where ``photos.letterbox`` puts a photo of that size, in whole pixels."""
    scale = size / max(width, height)
    w, h = (max(1, round(side * scale)) for side in (width, height))
    left, top = (size - w) // 2, (size - h) // 2
    return Box(left, top, left + w, top + h)


def inside(area: Box) -> tuple[slice, slice]:
    """Rows and columns of a letterbox that the photo covers."""
    return slice(int(area.top), int(area.bottom)), slice(int(area.left), int(area.right))


def to_photo(box: Box, area: Box, width: int, height: int) -> Box:
    """A box of the letterbox in pixels of the photo itself."""
    x, y = width / (area.right - area.left), height / (area.bottom - area.top)
    return Box(
        (box.left - area.left) * x, (box.top - area.top) * y, (box.right - area.left) * x, (box.bottom - area.top) * y
    )


def components(hot: Mask) -> npt.NDArray[np.int64]:
    """Connected components of (n, h, w) masks, each pixel with its eight neighbours: a number above 0 for each, 0 where
    it is cold. Every hot pixel takes the largest number around it until none changes.
    """
    mask = torch.from_numpy(hot)[:, None].double()
    numbers = torch.arange(1, hot[0].size + 1, dtype=torch.float64).view(1, 1, *hot.shape[1:]) * mask
    while True:
        spread = F.max_pool2d(numbers, 3, stride=1, padding=1) * mask
        if torch.equal(spread, numbers):
            return numbers[:, 0].long().numpy()
        numbers = spread


def largest_box(heat: Heat, share: float = SHARE) -> Box | None:
    """The box around the largest connected component of what reaches ``share`` of the highest heat, (h, w); None where
    there is no heat. Of components of one size, the one that comes last wins.
    """
    if heat.max() <= 0:
        return None
    numbers = components((heat >= share * heat.max())[None])[0]
    counts = np.bincount(numbers.ravel())
    counts[0] = 0
    y, x = np.nonzero(numbers == len(counts) - 1 - int(counts[::-1].argmax()))
    return Box(int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)


def peak_of(heat: Heat) -> tuple[int, int] | None:
    """x, y of the hottest pixel, (h, w); None where there is no heat."""
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    return (int(x), int(y)) if heat.max() > 0 else None


def box_of(mask: Mask) -> Box | None:
    """The box around a mask, (h, w); None around nothing."""
    y, x = np.nonzero(mask)
    return Box(int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1) if len(x) else None


def overlap(first: Box, second: Box) -> float:
    """Intersection over union."""
    return float(box_iou(torch.tensor([first], dtype=torch.float64), torch.tensor([second], dtype=torch.float64)))


def pooled(features: Tensor, boxes: list[Box], stride: int, side: int = 7) -> Tensor:
    """ROI align (He et al. 2017) of a feature map (n, c, h, w) under one box each, in pixels of the letterbox:
    (n, c, side, side). Cell i is centred on pixel i x stride.
    """
    rois = torch.tensor(boxes, dtype=features.dtype, device=features.device)
    rois = (rois - 0.5) / stride + 0.5  # aligned: counts from the first cell's corner
    rois = torch.cat((torch.arange(len(boxes), device=rois.device, dtype=rois.dtype)[:, None], rois), dim=1)
    return roi_align(features, rois, output_size=side, aligned=True)
