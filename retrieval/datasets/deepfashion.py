"""DeepFashion (Liu et al., CVPR 2016): category and attribute prediction, in-shop and consumer-to-shop retrieval.

The lists may lie in Anno/ (or Anno_coarse/) and Eval/ as published, or all in the folder itself; the photos, whose
listed paths begin with img/, in the folder or in Img/. The formats are those of the README files of the benchmarks.
Boxes become "x,y,w,h". Landmarks and the descriptions of in-shop items are not read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from index.errors import InputError
from retrieval.datasets import lists
from retrieval.datasets.source import PhotoSource

PARTITION = "list_eval_partition.txt"
KINDS = {"1": "texture", "2": "fabric", "3": "shape", "4": "part", "5": "style"}  # attribute types
WORN = {"1": "upper", "2": "lower", "3": "full"}  # clothes and category types
POSES = {"1": "front", "2": "side", "3": "back", "4": "zoom-out", "5": "zoom-in", "6": "stand-alone"}
DOMAINS = {"1": "shop", "2": "consumer"}  # source types


class Marks(NamedTuple):
    """How many attribute labels of the photos are positive (1), negative (-1) and unknown (0)."""

    positive: int
    negative: int
    unknown: int


def is_attributes(root: Path) -> bool:
    """Whether a folder holds the category and attribute benchmark."""
    return lists.find(root, "list_category_img.txt") is not None and lists.find(root, PARTITION) is not None


def attributes(root: Path) -> PhotoSource:
    """Photos in the order of list_category_img.txt, with columns split, category, worn, box and one for each type of
    attribute (texture, fabric, shape, part, style): the names marked 1, joined by ";".

    -1 (not there) and 0 (unknown) are both blank; ``marks`` counts them.
    """
    what = "DeepFashion's category and attribute benchmark"
    categories = _names(lists.need(root, "list_category_cloth.txt", what))
    file = lists.need(root, "list_category_img.txt", what)
    paths, category, worn = [], [], []
    for number, (path, code, *_) in lists.table(file, 2):
        name, kind = _named(categories, code, file, number)
        paths.append(path)
        category.append(name)
        worn.append(WORN.get(kind))
    split = {words[0]: words[1] for _, words in lists.table(lists.need(root, PARTITION, what), 2)}
    boxes = _boxes(root, "list_bbox.txt", 1)
    columns: dict[str, Iterable[str | None]] = {
        "split": [split.get(path) for path in paths],
        "category": category,
        "worn": worn,
        "box": [boxes[path][-1] if path in boxes else None for path in paths],
    }
    tags = _tags(root)
    for kind in KINDS.values() if tags else ():
        columns[kind] = [tags.get(path, {}).get(kind) for path in paths]
    return lists.listing(root, paths, columns)


def marks(root: Path) -> Marks:
    """The attribute labels of all photos, counted."""
    counts = dict.fromkeys(("1", "-1", "0"), 0)
    file = lists.find(root, "list_attr_img.txt")
    for _, words in lists.table(file, 2) if file else ():
        for text in counts:
            counts[text] += words[1:].count(text)
    return Marks(counts["1"], counts["-1"], counts["0"])


def is_in_shop(root: Path) -> bool:
    """Whether a folder holds the in-shop benchmark, by the header of its partition."""
    file = lists.find(root, PARTITION)
    return file is not None and {"image_name", "item_id"} <= set(lists.header(file))


def in_shop(root: Path) -> PhotoSource:
    """Photos in the order of the partition, with columns split (train, query, gallery), item, gender, category, worn,
    pose and box. Gender and category are the folders of the path: img/WOMEN/Dresses/id_00000002/02_1_front.jpg."""
    file = lists.need(root, PARTITION, "DeepFashion's in-shop benchmark")
    _refuse_other_header(file, "image_name item_id evaluation_status")
    records = [words for _, words in lists.table(file, 3)]
    boxes = _boxes(root, "list_bbox_inshop.txt", 3)
    paths = [path for path, *_ in records]
    places = [path.split("/") for path in paths]
    marked = [boxes.get(path) for path in paths]
    columns: lists.Columns = {
        "split": [split for _, _, split, *_ in records],
        "item": [item for _, item, *_ in records],
        "gender": [place[1].capitalize() if len(place) > 3 else None for place in places],
        "category": [place[2] if len(place) > 4 else None for place in places],
        "worn": [WORN.get(mark[0]) if mark else None for mark in marked],
        "pose": [POSES.get(mark[1]) if mark else None for mark in marked],
        "box": [mark[-1] if mark else None for mark in marked],
    }
    return lists.listing(root, paths, columns)


def is_consumer_to_shop(root: Path) -> bool:
    """Whether a folder holds the consumer-to-shop benchmark, by the header of its partition."""
    file = lists.find(root, PARTITION)
    return file is not None and "image_pair_name_1" in lists.header(file)


def consumer_to_shop(root: Path) -> PhotoSource:
    """Photos as the pairs name them first, with columns split (train, val, test), item, domain (consumer, shop),
    category, worn and box. A photo of many pairs is one row; category is the folder above the item's."""
    file = lists.need(root, PARTITION, "DeepFashion's consumer-to-shop benchmark")
    _refuse_other_header(file, "image_pair_name_1 image_pair_name_2 item_id evaluation_status")
    found: dict[str, tuple[str, str, str]] = {}
    for number, (consumer, shop, item, split, *_) in lists.table(file, 4):
        for path, domain in ((consumer, "consumer"), (shop, "shop")):
            if found.setdefault(path, (split, item, domain)) != (split, item, domain):
                raise InputError(f"{file}, line {number}: {path} is {'/'.join(found[path])} in an earlier line")
    boxes = _boxes(root, "list_bbox_consumer2shop.txt", 3)
    split_, items, domains = zip(*found.values(), strict=True) if found else ((), (), ())
    places = [path.split("/") for path in found]
    marked = [boxes.get(path) for path in found]
    columns: lists.Columns = {
        "split": split_,
        "item": items,
        "domain": domains,
        "category": [place[-3] if len(place) > 3 else None for place in places],
        "worn": [WORN.get(mark[0]) if mark else None for mark in marked],
        "box": [mark[-1] if mark else None for mark in marked],
    }
    return lists.listing(root, list(found), columns)


def pairs(root: Path) -> int:
    """How many consumer-shop pairs the partition lists."""
    return sum(1 for _ in lists.table(lists.need(root, PARTITION, "DeepFashion's consumer-to-shop benchmark"), 4))


def _refuse_other_header(file: Path, expected: str) -> None:
    held = lists.header(file)
    if held != expected.split():
        raise InputError(f"{file}, line 2: {' '.join(held)[:80]!r}, expected {expected!r}; is it another benchmark's?")


def _names(file: Path) -> list[tuple[str, str]]:
    """(name, type) of each category or attribute, in the order of its number from 1."""
    return [(name, kind) for _, (name, kind) in lists.table(file, 2, spaced=True)]


def _named(known: list[tuple[str, str]], code: str, file: Path, number: int) -> tuple[str, str]:
    if not code.isdigit() or not 1 <= int(code) <= len(known):
        raise InputError(f"{file}, line {number}: {code[:40]!r} is not a number from 1 to {len(known)}")
    return known[int(code) - 1]


def _boxes(root: Path, name: str, first: int) -> dict[str, list[str]]:
    """path -> the entries before the box, then the box as "x,y,w,h"; ``first``: where the corners begin. {} if there is
    no such list."""
    file = lists.find(root, name)
    return {
        words[0]: [*words[1:first], lists.box(file, number, words[first : first + 4])]
        for number, words in (lists.table(file, first + 4) if file else ())
        if file
    }


def _tags(root: Path) -> dict[str, dict[str, str]]:
    """path -> attribute type -> the names marked 1, joined; {} if the attribute lists are not there."""
    cloth, file = lists.find(root, "list_attr_cloth.txt"), lists.find(root, "list_attr_img.txt")
    if cloth is None or file is None:
        return {}
    known = [(name, KINDS.get(kind, "style")) for name, kind in _names(cloth)]
    found: dict[str, dict[str, str]] = {}
    for number, (path, *values) in lists.table(file, len(known) + 1):
        if len(values) != len(known) or not set(values) <= {"1", "-1", "0"}:
            raise InputError(f"{file}, line {number}: expected {len(known)} labels, each 1, -1 or 0")
        held: dict[str, list[str]] = {}
        for (name, kind), value in zip(known, values, strict=True):
            if value == "1":
                held.setdefault(kind, []).append(name)
        found[path] = {kind: ";".join(names) for kind, names in held.items()}
    return found
