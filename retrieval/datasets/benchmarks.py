"""The published data sets that are read as they come: how each is recognised, read, and what it should hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from retrieval.datasets import deepfashion
from retrieval.datasets.source import PhotoSource


class Format(NamedTuple):
    """One data set's layout. ``expected``: the published counts, by the names that ``check`` counts under."""

    title: str
    recognised: Callable[[Path], bool]
    read: Callable[[Path], PhotoSource]
    expected: Mapping[str, int]


FORMATS = {
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
}


def recognised(root: Path) -> Format | None:
    """The first format whose files lie in a folder, or None."""
    return next((each for each in FORMATS.values() if each.recognised(root)), None)
