"""Drawn garments as a folder of worn outfits, and a tiny detector that learned from them, made once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from retrieval.datasets.garments import photo_rng
from retrieval.datasets.garments_draw import draw_parts
from retrieval.datasets.garments_style import ATTRIBUTES, sample_styles

PHOTOS, SIZE = 24, (96, 128)
UPPER = ["t-shirt", "shirt", "sweater", "cardigan", "hoodie", "jacket", "coat", "vest"]
CONFIG: dict[str, Any] = {
    "name": "tiny-detector",
    "model": {"backbone": "regnet_tiny", "input_size": 96, "channels": 16, "hidden": 32},
    "training": {"steps": 120, "batch": 4, "learning_rate": 3e-3, "backbone_rate": 1, "frozen": 0},
    "holdout": 0.25,
    "threshold": 0.1,
    "classes": {"upper": UPPER, "lower": ["skirt", "trousers", "shorts"], "full-body": ["dress", "jumpsuit"]},
    "ignore": ["hair"],
}


@pytest.fixture(scope="session")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``PHOTOS`` drawn garments with their true boxes, and a box of hair on each."""
    root = tmp_path_factory.mktemp("street")
    (root / "photos").mkdir()
    names = [*ATTRIBUTES["category"], "hair"]
    told: dict[str, Any] = {"images": [], "annotations": []}
    told["categories"] = [{"id": n, "name": name} for n, name in enumerate(names, 1)]
    for number, garment in enumerate(sample_styles(PHOTOS, 5)):
        drawn = draw_parts(garment, photo_rng(5, number, 0), "shop", SIZE)
        drawn.image.save(root / "photos" / f"{number:02d}.png")
        told["images"].append({"id": number, "file_name": f"{number:02d}.png"})
        boxes = {garment.attributes["category"]: drawn.parts["garment"][0], "hair": (0, 0, 30, 30)}
        for name, box in boxes.items():
            own = {"id": len(told["annotations"]), "image_id": number, "category_id": names.index(name) + 1}
            told["annotations"].append(own | {"bbox": [int(side) for side in np.asarray(box)]})
    (root / "boxes.coco.json").write_text(json.dumps(told), encoding="utf-8")
    return root


def written(folder: Path, **changes: Any) -> Path:
    """``CONFIG`` with other values in its parts, as a file."""
    config = {**CONFIG, **{k: {**CONFIG[k], **v} if isinstance(v, dict) else v for k, v in changes.items()}}
    path = folder / "tiny-detector.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(street: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A detector's file, and what its training told."""
    from retrieval.detection.fit import train_from

    folder = tmp_path_factory.mktemp("detector")
    out = folder / "detector.safetensors"
    return out, train_from(written(folder), street, out)
