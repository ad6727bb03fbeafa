"""The published data sets that are read as they come: how each is recognised, read, and what it should hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from retrieval.datasets import alisc, deepfashion, fashionai, kaggle, onehot, polyvore
from retrieval.datasets.source import PhotoSource


class Format(NamedTuple):
    """One data set's layout. ``expected``: the published counts, by the names that ``check`` counts under."""

    title: str
    recognised: Callable[[Path], bool]
    read: Callable[[Path], PhotoSource]
    expected: Mapping[str, int]


FORMATS = {
    "edit": Format(
        "an edit-retrieval split (Shopping100k, DeepFashion or another), by its support files",
        onehot.is_edits,
        onehot.edits,
        {},
    ),
    "in-shop": Format(
        "DeepFashion, in-shop clothes retrieval",
        deepfashion.is_in_shop,
        deepfashion.in_shop,
        {"photos": 52712, "items": 7982, "split train": 25882, "split query": 14218, "split gallery": 12612},
    ),
    "consumer-to-shop": Format(
        "DeepFashion, consumer-to-shop clothes retrieval",
        deepfashion.is_consumer_to_shop,
        deepfashion.consumer_to_shop,
        {"photos": 239557, "items": 33881, "pairs": 195540},
    ),
    "deepfashion": Format(
        "DeepFashion, category and attribute prediction",
        deepfashion.is_attributes,
        deepfashion.attributes,
        {"photos": 289222, "split train": 209222, "split val": 40000, "split test": 40000},
    ),
    "fashionai": Format("FashionAI attributes of apparel", fashionai.is_fashionai, fashionai.fashionai, {}),
    "alisc": Format("ALISC, the Alibaba large-scale image search challenge", alisc.is_alisc, alisc.alisc, {}),
    "polyvore": Format(
        "Polyvore outfits (Han et al., 2017)",
        polyvore.is_polyvore,
        polyvore.polyvore,
        {"outfits": 21889, "outfits train": 17316, "outfits valid": 1497, "outfits test": 3076},
    ),
    "products": Format(
        "Kaggle fashion product images", kaggle.is_products, kaggle.products, {"photos": 44441, "listed": 44446}
    ),
}


def recognised(root: Path) -> Format | None:
    """The first format whose files lie in a folder, or None."""
    return next((each for each in FORMATS.values() if each.recognised(root)), None)
