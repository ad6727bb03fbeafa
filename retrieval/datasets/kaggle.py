"""Kaggle's "Fashion Product Images": styles.csv beside images/, one photo of each product.

    styles.csv   id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName
    images/      15970.jpg, named by id

Some product names hold commas without quotes: what is left over in a line belongs to the last column.
"""

from __future__ import annotations

import csv
from pathlib import Path

from index.errors import InputError
from retrieval.datasets import lists
from retrieval.datasets.source import PhotoSource

STYLES = "styles.csv"


def is_products(root: Path) -> bool:
    """Whether a folder holds styles.csv and images/."""
    return (root / STYLES).is_file() and (root / "images").is_dir()


def products(root: Path) -> PhotoSource:
    """Photos in the order of styles.csv, with its columns as labels; the id is the product's. InputError."""
    file = root / STYLES
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            rows = csv.reader(text)
            header = next(rows, [])
            if "id" not in header:
                raise InputError(f"{file}, line 1: no column id; it has {', '.join(header)[:120] or 'nothing'}")
            records = []
            for cells in rows:
                if cells and len(cells) < len(header):
                    raise InputError(f"{file}, line {rows.line_num}: {len(cells)} cells, expected {len(header)}")
                if cells:
                    last = len(header) - 1
                    records.append([cell.strip() for cell in (*cells[:last], ",".join(cells[last:]))])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read ({error}); take the file as it was published") from None
    columns = dict(zip(header, zip(*records, strict=True), strict=True)) if records else {"id": ()}
    ids = columns.pop("id")
    return lists.listing(root, [f"images/{id_}.jpg" for id_ in ids], columns, inside=("",), ids=ids)
