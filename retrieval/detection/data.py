"""What a detector learns from: the garments of each photo of a folder of worn outfits (``retrieval.datasets.worn``)."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from index.errors import InputError
from retrieval.datasets.splits import held_out
from retrieval.datasets.worn import BOXES, categories, read_worn
from retrieval.detection.config import DetectorConfig


class Example(NamedTuple):
    """One photo: ``boxes`` (n, 4) float32 left, top, right, bottom in its pixels; ``labels`` (n,) int64, from 1."""

    path: Path
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


class Examples(NamedTuple):
    """The photos that are learned from, and those held out; both in order of the file name."""

    learned: list[Example]
    held: list[Example]


def gather(folder: str | Path, config: DetectorConfig) -> Examples:
    """Every photo with a garment, split by the hash of its file name. A garment whose longer side is below 24 pixels is
    passed over. InputError for categories that the config does not know, and for too few photos to hold some out.
    """
    known = categories(folder)
    number = config.class_of()
    if strange := [each for each in known if each not in number and each not in config.ignore]:
        raise InputError(
            f"{Path(folder) / BOXES}: categories that config {config.name} puts in no class: {', '.join(strange)}; add "
            "them to one of its classes, or to ignore"
        )
    worn = read_worn(folder, [each for each in known if each in number])
    every = []
    for path, garments in groupby(worn, key=lambda each: each.path):
        own = list(garments)
        boxes = np.array([each.box for each in own], np.float32)
        boxes[:, 2:] += boxes[:, :2]  # width, height -> right, bottom
        every.append(Example(path, boxes, np.array([number[each.kind] for each in own], np.int64)))
    out = held_out([None] * len(every), [each.path.name for each in every], config.holdout)
    parts = Examples(
        [each for each, held in zip(every, out, strict=True) if not held],
        [each for each, held in zip(every, out, strict=True) if held],
    )
    if not parts.learned or not parts.held:
        raise InputError(
            f"{folder}: of {len(every)} photos {len(parts.held)} are held out; give more photos, or change holdout in "
            "the config, so that both parts have some"
        )
    return parts


def pixels_of(image: Image.Image) -> Tensor:
    """An RGB image as the network takes it: (3, h, w) float32, 0 to 1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
