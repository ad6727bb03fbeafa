"""What a crop gains a search: photos of people asked whole, by true boxes, and by the boxes that a detector finds.

    python benchmarks/crops.py GALLERY STREET [--detector FILE] [--out FILE]

GALLERY: shop photos with the label columns subCategory and articleType. STREET: a folder of worn photos as `fsearch
train-detector` takes it; those that the detector's config holds out are asked. A query is a photo and a class of
garment in it, as `fsearch query PHOTO --detect CLASS` asks it; its truth is the largest garment of that class. Measured
is the mean share of the first four results that are of the class, and in brackets of the article types that go with the
garment's category, over the queries whose category has such. `detected` searches the whole photo where nothing is
found, as the command does; `of those found` leaves these queries out. `chance`: the share in the whole gallery.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from retrieval.datasets.records import Cropped
from retrieval.datasets.worn import read_worn
from retrieval.detection import data, frame
from retrieval.detection.model import Detector, read
from retrieval.engine import Engine
from retrieval.photos import Source
from retrieval.query import Request

TOP = 4
CLASSES = {  # class of the detector -> subCategory of the gallery
    "upper": ["Topwear"],
    "lower": ["Bottomwear"],
    "full-body": ["Dress", "Saree", "Apparel Set"],
    "shoes": ["Shoes", "Sandal", "Flip Flops"],
    "bag": ["Bags", "Wallets"],
    "accessory": [
        "Watches", "Eyewear", "Belts", "Jewellery", "Ties", "Headwear", "Scarves", "Stoles", "Mufflers", "Gloves",
    ],
}  # fmt: skip
TYPES = {  # category of the street photos -> article types of the gallery
    "t-shirt": ["Tshirts"],
    "shirt": ["Shirts"],
    "blouse": ["Shirts", "Tops", "Tunics"],
    "top": ["Tops", "Tshirts"],
    "sweater": ["Sweaters"],
    "jumper": ["Sweaters"],
    "sweatshirt": ["Sweatshirts"],
    "jacket": ["Jackets", "Rain Jacket", "Nehru Jackets", "Blazers"],
    "blazer": ["Blazers", "Jackets"],
    "coat": ["Jackets", "Rain Jacket"],
    "jeans": ["Jeans", "Jeggings"],
    "pants": ["Trousers", "Track Pants"],
    "leggings": ["Leggings", "Churidar", "Tights", "Jeggings"],
    "shorts": ["Shorts"],
    "skirt": ["Skirts"],
    "dress": ["Dresses"],
    "shoes": ["Casual Shoes", "Sports Shoes", "Formal Shoes", "Heels", "Flats"],
    "heels": ["Heels"],
    "pumps": ["Heels"],
    "sandals": ["Sandals", "Heels", "Sports Sandals"],
    "sneakers": ["Casual Shoes", "Sports Shoes"],
    "loafers": ["Casual Shoes", "Formal Shoes"],
    "bag": ["Handbags", "Backpacks", "Clutches", "Messenger Bag", "Duffel Bag"],
    "purse": ["Handbags", "Clutches"],
    "wallet": ["Wallets", "Clutches"],
    "sunglasses": ["Sunglasses"],
    "glasses": ["Sunglasses"],
    "belt": ["Belts"],
    "scarf": ["Scarves", "Stoles", "Mufflers"],
    "hat": ["Caps", "Hat"],
    "watch": ["Watches"],
    "tie": ["Ties"],
}


class Asked(NamedTuple):
    """A photo, a class in it, and the largest garment of that class: its category and box x, y, width, height."""

    photo: Path
    kind: str
    category: str
    box: tuple[int, int, int, int]


def questions(street: Path, detector: Detector) -> list[Asked]:
    """One for each class of each held-out photo, in order of the photos."""
    number = detector.config.class_of()
    held = {each.path for each in data.gather(street, detector.config).held}
    largest: dict[tuple[Path, str], Any] = {}
    for each in read_worn(street, list(number)):
        key = each.path, detector.kinds[number[each.kind] - 1]
        if each.path in held and (key not in largest or _area(each.box) > _area(largest[key].box)):
            largest[key] = each
    return [Asked(path, kind, each.kind, _whole(each.box)) for (path, kind), each in sorted(largest.items())]


def _area(box: Sequence[float]) -> float:
    return box[2] * box[3]


def _whole(box: Sequence[float]) -> tuple[int, int, int, int]:
    left, top, width, height = (round(side) for side in box)
    return left, top, max(width, 1), max(height, 1)


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes x, y, width, height."""
    sides = [min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
    both = max(sides[0], 0) * max(sides[1], 0)
    return both / (_area(a) + _area(b) - both)


def agreement(engine: Engine, sources: Sequence[Source], asked: Sequence[Asked]) -> list[tuple[float, float]]:
    """For each query the share of its first results of the class, and of the type: NaN where its category has none."""
    names = {name: engine.gallery.columns([name])[name].to_pylist() for name in ("subCategory", "articleType")}
    requests = [Request(photo=source) for source in sources]
    shares = []
    for (rows, _), each in zip(engine.search(engine.prepare(requests), TOP), asked, strict=True):
        kinds = [names["subCategory"][row] in CLASSES[each.kind] for row in rows]
        types = [names["articleType"][row] in TYPES.get(each.category, ()) for row in rows]
        shares.append((float(np.mean(kinds)), float(np.mean(types)) if each.category in TYPES else np.nan))
    return shares


@click.command()
@click.argument("gallery", type=click.Path(path_type=Path))
@click.argument("street", type=click.Path(path_type=Path))
@click.option("--detector", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path))
def main(gallery: Path, street: Path, detector: Path | None, out: Path | None) -> None:
    """Print a table: a line for each class, and one for all queries."""
    engine, network = Engine.open(gallery), read(detector)
    asked = questions(street, network)
    seen = {photo: frame.all_of(photo, network) for photo in dict.fromkeys(each.photo for each in asked)}
    found = [next((f for f in seen[each.photo] if f.kind == each.kind), None) for each in asked]
    ways: dict[str, list[tuple[float, float]]] = {
        "whole photo": agreement(engine, [each.photo for each in asked], asked),
        "true box": agreement(engine, [Cropped(each.photo, each.box) for each in asked], asked),
        "detected": agreement(
            engine,
            [e.photo if f is None else Cropped(e.photo, f.box) for e, f in zip(asked, found, strict=True)],
            asked,
        ),
    }
    ways["of those found"] = [
        share if f is not None else (np.nan, np.nan) for share, f in zip(ways["detected"], found, strict=True)
    ]
    right = [f is not None and overlap(f.box, each.box) >= 0.5 for f, each in zip(found, asked, strict=True)]
    columns = {
        name: Counter(engine.gallery.columns([name])[name].to_pylist()) for name in ("subCategory", "articleType")
    }
    report: dict[str, Any] = {}
    for kind in (*network.kinds, "all"):
        at = [i for i, each in enumerate(asked) if kind in (each.kind, "all")]
        if not at:
            continue
        own = report[kind] = {"queries": len(at), "found": _share(found[i] is not None for i in at)}
        own["found at IoU 0.5"] = _share(right[i] for i in at)
        own["typed queries"] = sum(asked[i].category in TYPES for i in at)
        for way, shares in ways.items():
            own[way] = {"class": _mean([shares[i][0] for i in at]), "type": _mean([shares[i][1] for i in at])}
        own["chance"] = {
            "class": _mean([_among(columns["subCategory"], CLASSES[asked[i].kind]) for i in at]),
            "type": _mean(
                [_among(columns["articleType"], TYPES[asked[i].category]) for i in at if asked[i].category in TYPES]
            ),
        }
    click.echo(table(report, [*ways, "chance"]))
    if out is not None:
        out.write_text(json.dumps(report, indent=1), encoding="utf-8")


def table(report: dict[str, Any], ways: Sequence[str]) -> str:
    """The report in Markdown: class agreement, then type agreement in brackets."""
    lines = [f"| | queries | found | IoU 0.5 | {' | '.join(ways)} |", "|" + "---|" * (4 + len(ways))]
    for kind, own in report.items():
        cells = [f"{own[way]['class']:.2f} ({own[way]['type']:.2f})" for way in ways]
        lines.append(
            f"| {kind} | {own['queries']} | {own['found']:.2f} | {own['found at IoU 0.5']:.2f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _share(values: Any) -> float:
    return round(float(np.mean(list(values))), 4)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return round(float(np.mean(known)), 4) if known else float("nan")


def _among(counts: Mapping[str | None, int], names: Sequence[str]) -> float:
    return sum(counts.get(name, 0) for name in names) / sum(counts.values())


if __name__ == "__main__":
    main()
