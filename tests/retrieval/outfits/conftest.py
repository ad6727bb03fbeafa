"""A gallery of drawn garments with titles, and a tiny outfit model of it, made once."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIG = {
    "name": "tiny-outfits",
    "model": {"hidden": 12, "item": 8},
    "text": {"dim": 16, "steps": 40, "batch": 32, "min_count": 1, "aliases": {"brand": "acme"}},
    "training": {"steps": 30, "batch": 16, "pool": 32},
    "holdout": 0.4,
    "group": ["style"],
    "slots": {
        "dress": ["dress", "jumpsuit"],
        "top": ["t-shirt", "shirt", "sweater", "hoodie"],
        "outer": ["cardigan", "jacket", "coat", "vest"],
        "bottom": ["skirt", "trousers", "shorts"],
    },
    "kinds": {
        "Tops": ["t-shirt", "shirt", "sweater", "hoodie"],
        "Coats": ["coat", "jacket", "vest", "cardigan"],
        "Pants": ["trousers", "shorts", "skirt"],
        "Dresses": ["dress", "jumpsuit"],
    },
    "rule": {
        "color": "color",
        "palettes": {
            "one": ["black", "white", "gray", "beige", "brown", "red"],
            "two": ["orange", "yellow", "green", "blue", "purple", "pink"],
        },
    },
}


@pytest.fixture(scope="session")
def dressed(garment_photos: Path, tiny_model: Path, build: Callable[..., Any], tmp_path_factory: Any) -> Path:
    """A gallery whose photos have titles."""
    folder = tmp_path_factory.mktemp("titled")
    shutil.copytree(garment_photos / "photos", folder / "photos")
    rows = list(csv.DictReader((garment_photos / "labels.csv").open(encoding="utf-8")))
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "title"])
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"title": f"Acme {row['color']} {row['pattern']} {row['category']}"})
    build(folder, folder / "dressed.gallery", tiny_model)
    return folder / "dressed.gallery"


@pytest.fixture(scope="session")
def sequences(tmp_path_factory: Any) -> Path:
    """Category sequences in the published form."""
    import json

    folder = tmp_path_factory.mktemp("sequences")
    names = ["Tops", "Coats", "Pants", "Dresses", "Lamps"]
    (folder / "category_id.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names)), encoding="utf-8")
    kinds = [[0, 1, 2], [2, 0, 1, 4], [3, 1, 0], [3, 1, 2, 0]]
    told = [{"set_id": str(i), "items_category": kinds[i % 4]} for i in range(60)]
    (folder / "train_no.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def outfit_config(tmp_path_factory: Any) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny-outfits.yaml"
    path.write_text(yaml.safe_dump(CONFIG, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def outfits(dressed: Path, sequences: Path, outfit_config: Path, tmp_path_factory: Any) -> Path:
    """The outfit model of the tiny image model."""
    from retrieval.stylist import train_from

    out = tmp_path_factory.mktemp("outfit-model") / "tiny-outfits.safetensors"
    train_from(outfit_config, dressed, None, sequences, out)
    return out
