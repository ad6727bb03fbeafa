"""FashionAI attributes of apparel (Zou et al., CVPR workshops 2019; Tianchi 2018): eight attributes, each y, m or n.

    Annotations/label.csv   Images/coat_length_labels/a.jpg,coat_length_labels,nnymnnnn

One line a photo and attribute: a letter for each value of the attribute, in the order below. y: it has this value (one
of them), m: it may be said to have it, n: it has not. The folder itself may be given, or one that holds several such
folders (base, web, rank), whose names become the split.
"""

from __future__ import annotations

import os
from pathlib import Path

from index.errors import InputError
from retrieval.datasets import lists
from retrieval.datasets.scan import is_folder
from retrieval.datasets.source import PhotoSource

LABELS = "Annotations/label.csv"
SUFFIX = "_labels"  # what attribute names end in, in the files
VALUES = {
    "skirt_length": ("Invisible", "Short Length", "Knee Length", "Midi Length", "Ankle Length", "Floor Length"),
    "coat_length": (
        "Invisible", "High Waist Length", "Regular Length", "Long Length", "Micro Length", "Knee Length",
        "Midi Length", "Ankle&Floor Length",
    ),
    "collar_design": ("Invisible", "Shirt Collar", "Peter Pan", "Puritan Collar", "Rib Collar"),
    "lapel_design": ("Invisible", "Notched", "Collarless", "Shawl Collar", "Plus Size Shawl"),
    "neck_design": ("Invisible", "Turtle Neck", "Ruffle Semi-High Collar", "Low Turtle Neck", "Draped Collar"),
    "neckline_design": (
        "Invisible", "Strapless Neck", "Deep V Neckline", "Straight Neck", "V Neckline", "Square Neckline",
        "Off Shoulder", "Round Neckline", "Sweat Heart Neck", "One Shoulder Neckline",
    ),
    "pant_length": ("Invisible", "Short Pant", "Mid Length", "3/4 Length", "Cropped Pant", "Full Length"),
    "sleeve_length": (
        "Invisible", "Sleeveless", "Cup Sleeves", "Short Sleeves", "Elbow Sleeves", "3/4 Sleeves", "Wrist Length",
        "Long Sleeves", "Extra Long Sleeves",
    ),
}  # fmt: skip


def is_fashionai(root: Path) -> bool:
    """Whether a folder, or one in it, holds Annotations/label.csv."""
    return bool(_parts(root))


def fashionai(root: Path) -> PhotoSource:
    """Photos in the order of the lines, with columns split, attribute, letters (such as nnymnnnn), maybe (the values
    marked m, joined by ";") and one for each of the eight attributes: the value marked y, blank for the other seven.

    An attribute of another name, or letters that are not one y among m and n, one a value, are an InputError.
    """
    parts = _parts(root)
    if not parts:
        raise InputError(f"{root}: no {LABELS}, neither in the folder nor in one below it")
    paths: list[str] = []
    columns: dict[str, list[str | None]] = {name: [] for name in ("split", "attribute", "letters", "maybe", *VALUES)}
    for part in parts:
        for path, name, letters, value, maybe in _labels(root / part / LABELS):
            paths.append(f"{part}/{path}" if part else path)
            row = {"split": part, "attribute": name, "letters": letters, "maybe": maybe, name: value}
            for column, cells in columns.items():
                cells.append(row.get(column) or None)
    return lists.listing(root, paths, columns, inside=("",))


def _labels(file: Path) -> list[tuple[str, str, str, str, str]]:
    found = []
    for number, line in lists.lines(file):
        if not line.strip():
            continue
        path, name, letters = cells if len(cells := line.strip().split(",")) == 3 else ("", "", "")
        name = name.removesuffix(SUFFIX)
        values = VALUES.get(name)
        if values is None:
            raise InputError(f"{file}, line {number}: {line[:80]!r} is not path,attribute,letters of a known attribute")
        if len(letters) != len(values) or letters.count("y") != 1 or set(letters) - set("ymn"):
            raise InputError(
                f"{file}, line {number}: {letters[:20]!r}: {name} has {len(values)} values, each y, m or n, and one y"
            )
        maybe = ";".join(value for value, letter in zip(values, letters, strict=True) if letter == "m")
        found.append((path, name, letters, values[letters.index("y")], maybe))
    return found


def _parts(root: Path) -> list[str]:
    """The folders below root ("" is root itself) that hold labels."""
    if (root / LABELS).is_file():
        return [""]
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:  # a folder may hold millions of photos: only folders are looked into
        return sorted(entry.name for entry in entries if is_folder(entry) and (root / entry.name / LABELS).is_file())
