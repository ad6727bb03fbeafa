"""Outfits that people wore: the garments of one photo, cut out by their regions or boxes; and sequences of categories.

A folder of worn outfits holds photos/, boxes.coco.json (COCO boxes with categories) and, if there is such, regions/: a
PNG for each photo whose pixel values are category numbers. With regions a garment stands on white, as in a shop photo.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from index.errors import InputError
from retrieval.photos import decode

BOXES = "boxes.coco.json"
SMALLEST = 24  # pixels of a garment's longer side: less shows nothing


class Worn(NamedTuple):
    """One garment of one person: ``box`` is x, y, width, height in pixels of the photo."""

    id: str  # photo/number
    outfit: str  # the photo's name without its ending
    kind: str  # category name
    number: int  # the category's number, its value in the region map
    path: Path
    region: Path | None
    box: tuple[float, float, float, float]


def categories(folder: str | Path) -> list[str]:
    """The names of the categories that the folder's boxes have. InputError."""
    path = Path(folder) / BOXES
    try:
        return sorted(str(each["name"]) for each in _json(path)["categories"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not the COCO format ({error})") from None


def read_worn(folder: str | Path, kinds: Sequence[str]) -> list[Worn]:
    """The garments of every photo of ``folder`` whose category is in ``kinds``, by photo. InputError."""
    root = Path(folder)
    told = _json(root / BOXES)
    wanted, result = set(kinds), []
    try:
        names = {each["id"]: str(each["name"]) for each in told["categories"]}
        files = {each["id"]: str(each["file_name"]) for each in told["images"]}
        for each in sorted(told["annotations"], key=lambda a: (files[a["image_id"]], a["category_id"], a["id"])):
            name, number = files[each["image_id"]], each["category_id"]
            box = tuple(float(side) for side in each["bbox"])
            if names[number] not in wanted or len(box) != 4 or max(box[2:]) < SMALLEST or min(box[2:]) < 1:
                continue
            region = root / "regions" / Path(name).with_suffix(".png").name
            result.append(
                Worn(
                    f"{Path(name).stem}/{each['id']}", Path(name).stem, names[number], number,
                    root / "photos" / name, region if region.is_file() else None, box,  # type: ignore[arg-type]
                )
            )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{root / BOXES}: not the COCO format ({type(error).__name__}: {error})") from None
    if not result:
        raise InputError(f"{root / BOXES}: no box of these kinds: {', '.join(sorted(wanted)[:8])}")
    return result


def cut(garment: Worn) -> npt.NDArray[np.uint8]:
    """The garment's pixels, (h, w, 3) uint8: its box, white where the region map says something else. PhotoError."""
    image = decode(garment.path).image
    left, top, width, height = garment.box
    corners = (max(0, int(left)), max(0, int(top)), int(np.ceil(left + width)), int(np.ceil(top + height)))
    pixels = np.array(image.crop((*corners[:2], min(corners[2], image.width), min(corners[3], image.height))))
    if garment.region is not None:
        with Image.open(garment.region) as drawn:
            region = np.asarray(drawn)[corners[1] : corners[1] + len(pixels), corners[0] : corners[0] + pixels.shape[1]]
        if region.shape == pixels.shape[:2] and (region == garment.number).any():
            pixels[region != garment.number] = 255
    return pixels


class Together(NamedTuple):
    """Categories that were worn together."""

    id: str
    kinds: tuple[str, ...]


def read_sequences(folder: str | Path, part: str = "train") -> list[Together]:
    """Which categories were worn together: {part}_*.json, a list of {"set_id", "items_category"}, with the names in
    category_id.txt (a number and a name a line). InputError."""
    root = Path(folder)
    found = sorted(root.glob(f"{part}_*.json"))
    if len(found) != 1:
        raise InputError(f"{root}: {len(found)} files {part}_*.json where one is expected")
    try:
        lines = (root / "category_id.txt").read_text(encoding="utf-8").splitlines()
        names = {
            int(number): name.strip() for number, _, name in (line.partition(" ") for line in lines if line.strip())
        }
        return [
            Together(str(each["set_id"]), tuple(names[int(c)] for c in each["items_category"] if int(c) in names))
            for each in _json(found[0])
        ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{root}: not category sequences ({type(error).__name__}: {error})") from None


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
