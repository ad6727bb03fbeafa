"""Where in a drawn photo each attribute is to be seen: the truth that explanations are judged by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from retrieval.datasets.garments_draw import SIZE, draw_scene
from retrieval.datasets.garments_lines import Points
from retrieval.datasets.garments_shape import sleeve_of
from retrieval.datasets.garments_style import ATTRIBUTES, Garment

Mask = NDArray[np.bool_]  # (height, width)
_PARTS = {"body": 1, "sleeve": 2, "neckline": 3}


class Regions(NamedTuple):
    """A photo, and for each attribute that applies to its garment the pixels that show it, (height, width) bool.

    sleeve: the visible sleeves; of a sleeveless garment the places where short ones would be. neckline: the opening
    with its rib, collar, lapels, hood or ruffle. length: the lowest seventh of the body, where the garment ends.
    category, color and pattern: the whole garment. What a phone photo's clutter covers counts as present.
    """

    image: Image.Image
    masks: dict[str, Mask]


def draw_regions(
    garment: Garment, rng: np.random.Generator, domain: str = "shop", size: tuple[int, int] = SIZE
) -> Regions:
    """The same photo as ``draw`` from the same ``rng``, pixel for pixel, with the true region of every attribute."""
    image, stack, _, pose = draw_scene(garment, rng, domain, size)
    owner = Image.new("L", size)  # which part is in front; what is sewn onto the body belongs to it
    pen = ImageDraw.Draw(owner)
    for layer in stack:
        for outline in layer.outlines if layer.part in _PARTS else ():
            pen.polygon(outline.ravel().tolist(), fill=_PARTS[layer.part])
    front = np.asarray(owner)
    values = garment.attributes
    body = np.concatenate([outline for layer in stack if layer.part == "body" for outline in layer.outlines])
    top, bottom = body[:, 1].min(), body[:, 1].max()
    low = np.arange(size[1])[:, None] >= np.floor(bottom - (bottom - top) / 7)
    masks = {
        "sleeve": front == _PARTS["sleeve"],
        "neckline": front == _PARTS["neckline"],
        "length": (front == _PARTS["body"]) & low,
    }
    if values["sleeve"] == "sleeveless":
        short = garment._replace(attributes={**values, "sleeve": "short"})
        still = np.random.default_rng(0)  # the photo's own randomness is used up
        arms = [pose.place(outline) for side in (-1, 1) for outline in sleeve_of(short, side, still).outlines]
        masks["sleeve"] = _filled(arms, size)
    return Regions(image, {name: masks.get(name, front > 0) for name in ATTRIBUTES if values[name]})


def _filled(outlines: list[Points], size: tuple[int, int]) -> Mask:
    picture = Image.new("1", size)
    pen = ImageDraw.Draw(picture)
    for outline in outlines:
        pen.polygon(outline.ravel().tolist(), fill=1)
    return np.asarray(picture)
