"""Regions: the pixels that show an attribute, for heads that are taught where to look.

A folder with one mask a photo and attribute, ``sleeve/<id>.png``, as large as the photo (or of its shape): what is not
black shows the attribute. A photo without a mask takes no part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from index.errors import InputError
from retrieval import photos

COARSE = 4  # pixels of the letterbox to one of the masks that are kept


def read(folder: Path, ids: Sequence[str], attributes: Iterable[str], size: int) -> npt.NDArray[np.uint8]:
    """Masks of ``ids`` in the letterbox, (n, A, s, s) uint8 of 0 to 255, s = size / 4; 0 everywhere without one.

    InputError: there is none at all, or a mask is no picture.
    """
    names = list(attributes)
    masks = np.zeros((len(ids), len(names), size // COARSE, size // COARSE), np.uint8)
    for column, name in enumerate(names):
        for row, photo in enumerate(ids):
            file = folder / name / f"{photo}.png"
            if file.is_file():
                masks[row, column] = _coarse(file, size)
    if not masks.any():
        wanted = f"{names[0]}/{ids[0]}.png"
        raise InputError(f"{folder}: no masks of the photos, such as {wanted} (drawn ones: fsearch generate --regions)")
    return masks


def _coarse(file: Path, size: int) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            mask = np.asarray(image.convert("L"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a mask ({' '.join(str(error).split())})") from None
    whole = photos.letterbox(np.repeat((mask > 0)[..., None], 3, axis=2).astype(np.uint8) * 255, size)[..., 0]
    side = size // COARSE * COARSE
    parts: npt.NDArray[np.float64] = whole[:side, :side].reshape(side // COARSE, COARSE, -1, COARSE).mean(axis=(1, 3))
    return parts.astype(np.uint8)


def grown(masks: npt.NDArray[np.uint8], size: int) -> Tensor:
    """Some of the masks of ``read`` as (n, A, size, size) float32 in 0..1."""
    return F.interpolate(torch.from_numpy(masks).float() / 255, size=(size, size), mode="bilinear")


def cells_of(masks: Tensor, cells: int) -> Tensor:
    """How much of the region each cell of a map sees: (n, s, s) in 0..1 -> (n, cells, cells), 1 at the most of each.

    Cell i stands for a square of one stride centred on pixel i x stride, as in ``explain.heat``. Zeros stay zeros.
    """
    stride = 2 ** round(float(np.log2(masks.shape[-1] / cells)))
    seen = F.avg_pool2d(masks[:, None], stride, stride, padding=stride // 2)[:, 0, :cells, :cells]
    return seen / seen.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)


def loss(shares: Tensor, masks: Tensor) -> Tensor:
    """Mean over photos with a region of -log of the share of the head's reasons that lies in it.

    shares: (n, h, w), of sum 1 each (``AttributeBlock.shares``); masks: (n, s, s) in 0..1. Zero (with a gradient path)
    where no photo has one. Ross et al. 2017 ("right for the right reasons") and Li et al. 2018 (GAIN) teach input
    gradients and Grad-CAM; this is their idea on what the cells add up to, which needs no second backward pass.
    """
    known = masks.flatten(1).amax(dim=1) > 0.1
    if not known.any():
        return shares.sum() * 0.0
    inside = (shares[known] * cells_of(masks[known], shares.shape[-1])).sum(dim=(1, 2))
    return -torch.log(inside.clamp(min=1e-4)).mean()
