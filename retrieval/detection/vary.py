"""Training photos varied: mirrored, scaled and cut on a canvas, two of them side by side, their colors shifted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from retrieval.detection.data import Example, pixels_of
from retrieval.photos import decode

Boxes = npt.NDArray[np.float32]
SHAPES = ((1.0, 0.68), (0.82, 0.82), (0.68, 1.0))  # height and width of a canvas, as shares of its long side
DRAWN = (0.6, 0.2, 0.2)  # how often
SCALE = (0.8, 1.9)  # times what fits the canvas
VISIBLE = 0.35  # a garment of which less is left is none
GRAY = (124, 116, 104)  # ImageNet's mean: what lies beside a photo


def batch_of(
    examples: list[Example], every: list[Example], side: int, rng: np.random.Generator
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Photos and targets as torchvision's detectors take them, on canvases of one shape. In a wide one each of
    ``examples`` stands beside another of ``every``. PhotoError."""
    canvas, images, targets = canvas_of(side, rng), [], []
    for example in examples:
        beside = [every[rng.integers(len(every))]] if canvas[1] > canvas[0] else []
        image, boxes, labels = varied([example, *beside], canvas, rng)
        images.append(pixels_of(image))
        targets.append({"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)})
    return images, targets


def canvas_of(side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Height and width of a batch's photos, one of three shapes of about as many pixels, so that none is padded."""
    height, width = SHAPES[rng.choice(len(SHAPES), p=DRAWN)]
    return round(side * height), round(side * width)


def varied(
    examples: list[Example], canvas: tuple[int, int], rng: np.random.Generator
) -> tuple[Image.Image, Boxes, npt.NDArray[np.int64]]:
    """A canvas (height, width) with these photos side by side, RGB; boxes (n, 4) and labels (n,) of what is visible.

    PhotoError for a photo that cannot be read.
    """
    height, width = canvas
    out, boxes, labels = Image.new("RGB", (width, height), GRAY), [], []
    edges = np.linspace(0, width, len(examples) + 1).round().astype(int)
    for example, left, right in zip(examples, edges, edges[1:], strict=False):
        image, own = decode(example.path).image, example.boxes
        if rng.random() < 0.5:
            image, own = ImageOps.mirror(image), mirrored(own, image.width)
        cell, own, kept = placed(_recolored(image, rng), own, (height, int(right - left)), rng)
        out.paste(cell, (int(left), 0))
        boxes.append(own + np.array([left, 0, left, 0], np.float32))
        labels.append(example.labels[kept])
    return out, np.concatenate(boxes), np.concatenate(labels)


def mirrored(boxes: Boxes, width: int) -> Boxes:
    """The boxes (n, 4) in the mirrored photo."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1).astype(np.float32)


def placed(
    image: Image.Image, boxes: Boxes, canvas: tuple[int, int], rng: np.random.Generator
) -> tuple[Image.Image, Boxes, npt.NDArray[np.bool_]]:
    """The photo at a scale and a place drawn at random on a canvas (height, width), cut at its edges.

    Returns the boxes left, clipped, and which (n,) those are: at least ``VISIBLE`` of the area, two pixels a side.
    """
    height, width = canvas
    fits = min(width / image.width, height / image.height)
    scale = fits * float(np.exp(rng.uniform(*np.log(SCALE))))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    free = width - size[0], height - size[1]
    x, y = (round(rng.uniform(min(0, each), max(0, each))) for each in free)
    out = Image.new("RGB", (width, height), GRAY)
    out.paste(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0), (x, y))
    ratio = np.array([size[0] / image.width, size[1] / image.height] * 2, np.float32)
    inside = boxes.clip(0, np.array([image.width, image.height] * 2, np.float32))
    moved = inside * ratio + np.array([x, y, x, y], np.float32)
    seen = moved.clip(0, np.array([width, height] * 2, np.float32))
    kept = (area(seen) >= VISIBLE * area(moved)) & (seen[:, 2:] - seen[:, :2] >= 2).all(axis=1)
    return out, seen[kept], kept


def area(boxes: Boxes) -> npt.NDArray[np.float32]:
    """Of boxes (n, 4): left, top, right, bottom."""
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), np.float32)


def _recolored(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Saturation, contrast and brightness changed by up to 40%; one photo in ten loses its color."""
    for change in (ImageEnhance.Color, ImageEnhance.Contrast, ImageEnhance.Brightness):
        image = change(image).enhance(rng.uniform(0.6, 1.4))
    return ImageOps.grayscale(image).convert("RGB") if rng.random() < 0.1 else image
