"""What cross-domain mining gains, round by round, and how right its pseudo labels are (docs/mining.md).

    python benchmarks/mining.py generated --work runs/mining
    python benchmarks/mining.py generated --work runs/mining --sweep
    python benchmarks/mining.py products DATA --work runs/mining-products

``generated``: drawn garments, half of the styles (all colors of a garment are one) as shop photos, the source, the
other half as phone photos, the target; no garment is in both. The style column of the target is the planted truth:
same-style top-4 of its held-out styles, and the share of right pseudo labels. ``--sweep`` runs several m, i and j.

``products``: the shipped model, shop photos of DATA/products with their variant groups as the source, DATA/phone as the
target. There is no style of a phone photo; what is measured is the kind of garment: the mean share of the four product
photos nearest to a phone photo (by look, as in mining) whose article type is one of those that its label may mean.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from index.files import atomic_write
from retrieval import config as configs
from retrieval import mining
from retrieval.config import Config
from retrieval.datasets import garments
from retrieval.datasets.readers import open_photos
from retrieval.datasets.splits import held_out
from retrieval.embed import build_gallery
from retrieval.engine import Engine
from retrieval.models import checkpoint
from retrieval.query import Request

KINDS = {  # what a phone photo's label may be called in the shop
    "T-Shirt": ("Tshirts",),
    "Longsleeve": ("Tshirts", "Sweatshirts", "Sweaters", "Tops"),
    "Pants": ("Jeans", "Trousers", "Track Pants", "Leggings", "Lounge Pants"),
    "Shoes": ("Casual Shoes", "Sports Shoes", "Formal Shoes", "Heels", "Flats", "Sandals"),
    "Shirt": ("Shirts",),
    "Dress": ("Dresses", "Nightdress"),
    "Outwear": ("Jackets", "Rain Jacket", "Waistcoat", "Nehru Jackets"),
    "Shorts": ("Shorts", "Lounge Shorts"),
    "Skirt": ("Skirts",),
    "Hat": ("Caps", "Hat"),
    "Undershirt": ("Innerwear Vests", "Camisoles"),
    "Polo": ("Tshirts",),
    "Blazer": ("Blazers",),
    "Hoodie": ("Sweatshirts", "Jackets"),
    "Top": ("Tops", "Camisoles"),
    "Blouse": ("Tops", "Shirts", "Tunics"),
}
SWEEP = [(m, i, j) for m in (1, 3, 10) for i, j in ((15, 25), (30, 40), (60, 70))]


def tuned(base: Config, training: dict[str, Any], mine: dict[str, Any], holdout: float) -> Config:
    """The config with other numbers, checked as one that was read."""
    value = base.model_dump(mode="json")
    value["training"] |= training
    value["data"] |= {"holdout": holdout}
    return configs.parse(value | {"mine": mine}, "benchmarks/mining.py")


def domains(folder: Path, styles: int, per_style: int, seed: int) -> tuple[Path, Path]:
    """Drawn garments as two lists, shop.csv and phone.csv, without a style in common."""
    drawn = garments.generate(folder / "garments", styles * per_style, seed, per_style, phone_share=0.5, progress=True)
    with (drawn / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    groups = [row["variant_group"] or row["style"] for row in rows]
    # salted: validation parts are drawn by the hash of the bare name
    second = held_out([f"half {group}" for group in groups], [row["id"] for row in rows], 0.5)
    made = []
    for name, half in (("shop", False), ("phone", True)):
        path = drawn / f"{name}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["path", "group", *rows[0]])
            writer.writeheader()
            for row, group, is_second in zip(rows, groups, second, strict=True):
                if row["domain"] == name and is_second == half:
                    writer.writerow({"path": f"photos/{row['id']}.jpg", "group": group} | row)
        made.append(path)
    return made[0], made[1]


def line(report: dict[str, Any]) -> str:
    """A table of rounds."""
    rows = ["| round | top-4, source | top-4, target | right | apart |", "|---|---|---|---|---|"]
    for each in report["rounds"]:
        cells = [each[name] for name in ("source", "target", "right", "apart")]
        rows.append(f"| {each['round']} | " + " | ".join("" if c is None else f"{c:.3f}" for c in cells) + " |")
    return "\n".join(rows)


@click.group()
def main() -> None:
    """Measure cross-domain mining."""


@main.command()
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--styles", default=1000, show_default=True)
@click.option("--per-style", default=8, show_default=True, help="Half of them shop photos, half phone photos.")
@click.option("--ranks", nargs=3, default=(3, 30, 40), show_default=True, help="m, i, j.")
@click.option("--steps", default=400, show_default=True, help="Of the training on the source.")
@click.option("--round-steps", default=200, show_default=True)
@click.option("--rounds", default=4, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--sweep", is_flag=True, help=f"Ranks {', '.join(map(str, SWEEP))} instead, from one network.")
def generated(
    work: Path, styles: int, per_style: int, ranks: tuple[int, int, int], steps: int, round_steps: int, rounds: int,
    seed: int, sweep: bool,
) -> None:  # fmt: skip
    """Shop styles as source, phone photos of other styles as target, planted truth."""
    source, target = domains(work, styles, per_style, seed)
    base, found, start = configs.load("generated"), {}, None
    for m, i, j in SWEEP if sweep else [ranks]:
        numbers = {"positives": m, "negatives": [i, j], "steps": round_steps}
        config = tuned(base, {"steps": steps, "seed": seed}, numbers, 0.3)
        out = work / f"mined-{m}-{i}-{j}.safetensors"
        report = mining.mine(
            config, target, photos=source, truth="group", model=start, rounds=rounds, out=out, progress=True,
            say=click.echo,
        )  # fmt: skip
        start = start or out.with_name(f"{out.stem}.mining") / "round-0.safetensors"  # all from the same network
        found[f"m {m}, i {i}, j {j}"] = report
        click.echo(f"m {m}, i {i}, j {j}\n{line(report)}")
    atomic_write(work / ("sweep.json" if sweep else "generated.json"), json.dumps(found, indent=1).encode())


def agreement(model: Path, shop: Path, phone: Path, photos: int, work: Path) -> dict[str, float]:
    """Mean share of the four nearest products that are of the garment's kind, over all phone photos and by label."""
    listing = open_photos(shop)
    chosen = np.sort(np.random.default_rng(0).permutation(len(listing))[:photos])
    path = work / f"products-{model.stem}.gallery"
    engine = Engine(build_gallery(listing.take(chosen), path, model, progress=True).gallery)
    asked = [photo for photo in open_photos(phone) if photo.attributes["label"] in KINDS]
    drop = tuple(engine.names.vocabulary)
    prepared = engine.prepare([Request(photo=photo.source, drop=drop) for photo in asked])
    kinds = engine.gallery.columns(["articleType"])["articleType"].to_pylist()
    by_label: dict[str, list[float]] = {}
    for photo, (rows, _) in zip(asked, engine.search(prepared, mining.TOP), strict=True):
        label = str(photo.attributes["label"])
        by_label.setdefault(label, []).append(float(np.mean([kinds[row] in KINDS[label] for row in rows])))
    every = [value for values in by_label.values() for value in values]
    return {"all": float(np.mean(every))} | {label: float(np.mean(values)) for label, values in by_label.items()}


@main.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--photos", default=8000, show_default=True, help="Products in the gallery that is searched.")
@click.option("--ranks", nargs=3, default=(10, 30, 40), show_default=True, help="m, i, j.")
@click.option("--round-steps", default=300, show_default=True)
def products(data: Path, work: Path, rounds: int, photos: int, ranks: tuple[int, int, int], round_steps: int) -> None:
    """Products as source, photos taken at home as target: does the kind of garment agree more?"""
    m, i, j = ranks
    shop, phone = data / "products", data / "phone"
    config = tuned(configs.load("products"), {}, {"positives": m, "negatives": [i, j], "steps": round_steps}, 0.1)
    out = work / "products.safetensors"
    report = mining.mine(
        config, phone, photos=shop, model="products", rounds=rounds, out=out, progress=True,
        say=click.echo,
    )  # fmt: skip
    start = work / "round-0.safetensors"
    atomic_write(start, checkpoint.locate("products").read_bytes())
    folder = out.with_name(f"{out.stem}.mining")
    models = [start, *(folder / f"round-{each['round']}.safetensors" for each in report["rounds"][1:])]
    agreed = [agreement(model, shop, phone, photos, work) for model in models]
    click.echo(line(report))
    for number, each in enumerate(agreed):
        told = ", ".join(f"{label} {value:.2f}" for label, value in sorted(each.items()))
        click.echo(f"round {number}: garment class among the top {mining.TOP}: {told}")
    atomic_write(work / "products.json", json.dumps(report | {"agreement": agreed}, indent=1).encode())


if __name__ == "__main__":
    main()
