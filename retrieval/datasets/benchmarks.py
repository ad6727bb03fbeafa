"""The published data sets that are read as they come: how each is recognised, read, and what it should hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from retrieval.datasets import alisc, deepfashion, fashionai, kaggle, onehot, polyvore
from retrieval.datasets.source import PhotoSource


class Format(NamedTuple):
    """One data set's layout.

    files: the names of its lists, those without which it can be read, too. needs: splits that must hold a photo, or
    nothing can be asked. published: counts of the published set, by the names that ``evaluation.checks`` counts under;
    none where no source was found that is sure.
    """

    title: str
    recognised: Callable[[Path], bool]
    read: Callable[[Path], PhotoSource]
    files: tuple[str, ...]
    needs: tuple[str, ...]
    published: Mapping[str, int]


FORMATS = {
    "edit": Format(
        "a published edit-retrieval split, such as those of Shopping100k and DeepFashion",
        onehot.is_edits,
        onehot.edits,
        (
            "attr_num.txt", "imgs_train.txt", "labels_train.txt", "imgs_test.txt", "labels_test.txt", "ref_test.txt",
            "indfull_test.txt", "gt_test.txt",
        ),
        ("test",),
        {},
    ),
    "in-shop": Format(
        "DeepFashion, in-shop clothes retrieval",
        deepfashion.is_in_shop,
        deepfashion.in_shop,
        ("list_eval_partition.txt", "list_bbox_inshop.txt", "list_item_inshop.txt"),
        ("query", "gallery"),
        {"photos": 52712, "items": 7982, "train": 25882, "query": 14218, "gallery": 12612},
    ),
    "consumer-to-shop": Format(
        "DeepFashion, consumer-to-shop clothes retrieval",
        deepfashion.is_consumer_to_shop,
        deepfashion.consumer_to_shop,
        ("list_eval_partition.txt", "list_bbox_consumer2shop.txt", "list_item_consumer2shop.txt"),
        ("test",),
        {"photos": 239557, "items": 33881, "pairs": 195540},
    ),
    "deepfashion": Format(
        "DeepFashion, category and attribute prediction",
        deepfashion.is_attributes,
        deepfashion.attributes,
        (
            "list_eval_partition.txt", "list_category_cloth.txt", "list_category_img.txt", "list_attr_cloth.txt",
            "list_attr_img.txt", "list_bbox.txt",
        ),
        (),
        {"photos": 289222, "train": 209222, "val": 40000, "test": 40000},
    ),
    "fashionai": Format(
        "FashionAI, attributes of apparel (training set of 22 February 2018)",
        fashionai.is_fashionai,
        fashionai.fashionai,
        (fashionai.LABELS,),
        (),
        {"photos": 79573},
    ),
    "alisc": Format(
        "ALISC, the Alibaba large-scale image search challenge",
        alisc.is_alisc,
        alisc.alisc,
        ("train_label.txt", "valid_label.txt", "eval_label.txt", "query_label.txt", alisc.BOXES, alisc.ANSWERS),
        ("query", "gallery"),
        {},
    ),
    "polyvore": Format(
        "Polyvore outfits (Han et al., 2017)",
        polyvore.is_polyvore,
        polyvore.polyvore,
        (*polyvore.SPLITS.values(), "category_id.txt", polyvore.BLANKS[0], polyvore.COMPATIBLE[0]),
        (),
        {"outfits": 21889, "outfits train": 17316, "outfits valid": 1497, "outfits test": 3076},
    ),
    "products": Format(
        "Kaggle, fashion product images",
        kaggle.is_products,
        kaggle.products,
        (kaggle.STYLES,),
        (),
        {"listed": 44446, "photos": 44441},
    ),
}  # fmt: skip


def recognised(root: Path) -> Format | None:
    """The first format whose files lie in a folder, or None."""
    return next((each for each in FORMATS.values() if each.recognised(root)), None)
