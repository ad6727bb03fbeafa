"""Drawn garments with known attributes: the default data of the demo and the tests, written as a photo folder.

Everything follows from a seed. A photo's bytes depend on the seed, its style, its number within the style and its
domain, never on what else is made or in which order.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from index.errors import InputError
from retrieval.datasets.garments_draw import SIZE, Drawn, draw, draw_parts
from retrieval.datasets.garments_regions import draw_regions
from retrieval.datasets.garments_style import ATTRIBUTES, COMBINATIONS, Cut, Garment, sample_styles

__all__ = ["ATTRIBUTES", "COMBINATIONS", "Cut", "Drawn", "Garment", "draw", "draw_parts", "generate", "sample_styles"]

COLUMNS = ("id", *ATTRIBUTES, "style", "variant_group", "domain")
REGIONS = ("sleeve", "neckline", "length")  # the attributes that one part of a garment shows
_DRAWING = 1  # raise it whenever the same seed gives other pictures
_QUALITY = 90  # of the JPEG files
_NOTE = "garments.json"  # what a folder was made with, so that it is never mixed with another


def photo_rng(seed: int, style: int, photo: int) -> np.random.Generator:
    """The randomness of photo number ``photo`` of style number ``style``."""
    return np.random.default_rng([seed, 1, style, photo])


def generate(
    out: str | Path,
    photos: int,
    seed: int = 0,
    photos_per_style: int = 4,
    phone_share: float = 0.25,
    regions: bool = False,
    progress: bool = False,
) -> Path:
    """Writes ``photos`` photos to out/photos/<id>.jpg and, last, their labels to out/labels.csv; returns ``out``.

    Columns: id, the attributes (blank where one does not apply), style (several photos of one thing), variant_group
    (styles that differ in color only; blank for the others) and domain (shop or phone; every style's photos take
    ``phone_share`` of the second kind evenly). With ``regions`` the pixels that show each of REGIONS are in
    out/regions/<attribute>/<id>.png (``garments_regions``). The same call again does nothing, or completes what was
    interrupted.
    InputError: numbers out of range, or ``out`` holds anything else.
    """
    if photos < 1 or photos_per_style < 1 or seed < 0 or not 0 <= phone_share <= 1:
        raise InputError(
            f"cannot generate {photos} photos, {photos_per_style} a style, seed {seed}, phone share {phone_share}: "
            "counts start at 1, the seed at 0, and the share lies between 0 and 1"
        )
    out = Path(out)
    recipe = {
        "generator": "garments",
        "drawing": _DRAWING,
        "photos": photos,
        "seed": seed,
        "photos_per_style": photos_per_style,
        "phone_share": phone_share,
        "size": list(SIZE),
    } | ({"regions": list(REGIONS)} if regions else {})
    _claim(out, recipe)
    folder = out / "photos"
    present = {name for name in os.listdir(folder) if name.endswith(".jpg")}
    if len(present) == photos and (out / "labels.csv").exists():
        return out
    styles = sample_styles(-(-photos // photos_per_style), seed)
    rows = []
    for number in tqdm(range(photos), desc="garments", unit="photo", disable=None if progress else True):
        style, photo = divmod(number, photos_per_style)
        garment = styles[style]
        name = f"{garment.style}-{photo}"
        phone = int((number + 1) * phone_share) > int(number * phone_share)
        domain = "phone" if phone else "shop"
        if f"{name}.jpg" not in present:
            if regions:
                image = _with_regions(garment, photo_rng(seed, style, photo), domain, out / "regions", name)
            else:
                image = draw(garment, photo_rng(seed, style, photo), domain)
            target = f"{folder}/{name}.jpg"
            image.save(f"{target}.part", "JPEG", quality=_QUALITY)
            os.replace(f"{target}.part", target)
        rows.append((name, *garment.attributes.values(), garment.style, garment.variant_group, domain))
    partial = out / "labels.csv.part"
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(out / "labels.csv")
    return out


def _with_regions(garment: Garment, rng: np.random.Generator, domain: str, folder: Path, name: str) -> Image.Image:
    """The photo, once its masks are written."""
    drawn = draw_regions(garment, rng, domain, reach=False)
    for attribute in REGIONS:
        if attribute in drawn.masks:
            (folder / attribute).mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn.masks[attribute]).save(folder / attribute / f"{name}.png")
    return drawn.image


def _claim(out: Path, recipe: dict[str, object]) -> None:
    """Makes ``out`` the folder of this recipe, or refuses one that holds something else."""
    note = out / _NOTE
    try:
        if out.exists() and (not out.is_dir() or any(path.suffix != ".part" for path in out.iterdir())):
            found = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else None
            if found != recipe:
                what = "another generation of garments" if found else "other files"
                raise InputError(f"{out} holds {what}: name a new folder, or empty this one")
        out.mkdir(parents=True, exist_ok=True)
        if not note.exists():
            partial = out / f"{_NOTE}.part"
            partial.write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
            partial.replace(note)
        (out / "photos").mkdir(exist_ok=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{out} cannot be written as a photo folder ({error}): name a new folder") from error
