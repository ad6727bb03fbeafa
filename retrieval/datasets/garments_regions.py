"""Where in a drawn photo each attribute is to be seen: the truth that explanations are judged by."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from retrieval.datasets.garments_draw import SIZE, Pose, draw_scene
from retrieval.datasets.garments_lines import Layer
from retrieval.datasets.garments_shape import layers
from retrieval.datasets.garments_style import ATTRIBUTES, COMBINATIONS, Garment

Mask = NDArray[np.bool_]  # (height, width)
_PARTS = {"body": 1, "sleeve": 2, "neckline": 3}
_ORDER = ("sleeve", "neckline", "length")  # of COMBINATIONS


class Regions(NamedTuple):
    """A photo, and for each attribute that applies to its garment the pixels that show it, (height, width) bool.

    ``masks``, the drawn part. sleeve: the visible sleeves; of a sleeveless garment the places where short ones would
    be. neckline: the opening with its rib, collar, lapels, hood or ruffle. length: the lowest seventh of the body,
    where the garment ends. category, color and pattern: the whole garment. What a phone photo's clutter covers counts
    as present.

    ``reach``, wherever a value would show: that, and the drawn part of every other value that such a garment is made
    with, in the same pose. A short sleeve is told from a long one by the bare place below it, too. For the length it is
    all that lies between the shortest and the longest body.
    """

    image: Image.Image
    masks: dict[str, Mask]
    reach: dict[str, Mask]


def draw_regions(
    garment: Garment, rng: np.random.Generator, domain: str = "shop", size: tuple[int, int] = SIZE, reach: bool = True
) -> Regions:
    """The same photo as ``draw`` from the same ``rng``, pixel for pixel, with the true region of every attribute.

    Without ``reach`` that is left empty, which takes a third of the time.
    """
    before = copy.deepcopy(rng)  # what swings the arms: the garments of other values swing them alike
    image, stack, _, pose = draw_scene(garment, rng, domain, size)
    front = _front(stack, size)
    values = garment.attributes
    choices = dict(zip(_ORDER, COMBINATIONS[values["category"]], strict=True))

    def others(name: str, wanted: Iterable[str]) -> list[NDArray[np.uint8]]:
        return [_front(_placed(garment, name, value, before, pose), size) for value in wanted]

    masks = {"length": (front == _PARTS["body"]) & _lowest(stack, size)}
    for name in ("sleeve", "neckline"):
        masks[name] = front == _PARTS[name]
    if values["sleeve"] == "sleeveless":
        (short,) = others("sleeve", ["short"])
        masks["sleeve"] = short == _PARTS["sleeve"]
    known = [name for name in ATTRIBUTES if values[name]]
    if not reach:
        return Regions(image, {name: masks.get(name, front > 0) for name in known}, {})
    wide = {}
    for name in ("sleeve", "neckline"):
        wide[name] = np.any([each == _PARTS[name] for each in (front, *others(name, choices[name]))], axis=0)
    wide["sleeve"] |= masks["sleeve"]
    bodies = [each == _PARTS["body"] for each in (front, *others("length", choices["length"]))]
    wide["length"] = (np.any(bodies, axis=0) & ~np.all(bodies, axis=0)) | masks["length"]
    return Regions(
        image,
        {name: masks.get(name, front > 0) for name in known},
        {name: wide.get(name, front > 0) for name in known},
    )


def _front(stack: Iterable[Layer], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Which part is in front, (height, width), 0 for none; what is sewn onto the body belongs to it."""
    picture = Image.new("L", size)
    pen = ImageDraw.Draw(picture)
    for layer in stack:
        for outline in layer.outlines if layer.part in _PARTS else ():
            pen.polygon(outline.ravel().tolist(), fill=_PARTS[layer.part])
    return np.asarray(picture)


def _placed(garment: Garment, name: str, value: str, rng: np.random.Generator, pose: Pose) -> list[Layer]:
    """The layers of the same garment with another value of one attribute, in the same pose."""
    changed = garment._replace(attributes={**garment.attributes, name: value})
    return [
        layer._replace(outlines=[pose.place(outline) for outline in layer.outlines])
        for layer in layers(changed, copy.deepcopy(rng))
    ]


def _lowest(stack: Iterable[Layer], size: tuple[int, int]) -> Mask:
    """The rows of the lowest seventh of the body, (height, 1)."""
    body = np.concatenate([outline for layer in stack if layer.part == "body" for outline in layer.outlines])
    top, bottom = body[:, 1].min(), body[:, 1].max()
    return np.arange(size[1])[:, None] >= np.floor(bottom - (bottom - top) / 7)
