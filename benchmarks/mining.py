"""What cross-domain mining gains, round by round, and how right its pseudo labels are (docs/mining.md).

    python benchmarks/mining.py generated --work runs/mining
    python benchmarks/mining.py generated --work runs/mining --sweep
    python benchmarks/mining.py products DATA --work runs/mining-products

``generated``: drawn garments; shop photos, four of a style, are the source; phone photos of other garments, sixteen of
a style, the target. The style column of the target (a garment in its color) is the planted truth: same-style top-4 of
its held-out styles among each other, and the share of right pseudo labels. ``--sweep`` runs one round for several m
(ranks 1 to m positive) and i, j (ranks i to j negative), losses and shares of queries kept, all from the same network.
The backbone stays that of the shipped model unless --backbone-rate says otherwise, which makes it a job of minutes.

``products``: the shipped model; a sample of the variant groups of DATA/products is the source, DATA/phone the target.
There is no style of a phone photo; what is measured is the kind of garment: the mean share of the four product photos
nearest to a phone photo (by look, as in mining) whose article type is one of those that its label may mean.

A control learns on from round 0 for as many steps as a round, by the same loss, on the source alone.

Every gain is paired: the same queries before and after. Its standard error is over styles (products: photos), since the
photos of one style are found, or not, together.
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
from retrieval.training.data import gather
from retrieval.training.loop import train

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
SWEEP = [  # m, i, j, loss, confident
    *((m, 30, 40, "contrast", 0.3) for m in (1, 3, 10)),
    *((1, i, j, "contrast", 0.3) for i, j in ((15, 25), (60, 70))),
    (1, 30, 40, "contrast", 1.0),
    (1, 30, 40, "triplet", 0.3),
    (10, 30, 40, "triplet", 1.0),  # as published
]
HOLDOUT = 0.4  # of the garments of either kind: those that judge


def changed(base: Config, changes: dict[str, dict[str, Any]]) -> Config:
    """The config with other numbers, checked as one that was read."""
    value = base.model_dump(mode="json")
    for section, keys in changes.items():
        value[section] = value.get(section, {}) | keys
    return configs.parse(value, "benchmarks/mining.py")


def listed(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def gain(before: np.ndarray, after: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """Mean difference of two (n,) scores of the same queries, and its standard error over groups (n,) int64."""
    apart = after.astype(float) - before
    sums = np.bincount(group, weights=apart - apart.mean())
    return float(apart.mean()), float(np.sqrt((sums**2).sum()) / len(apart))


def of_rounds(report: dict[str, Any], scores: list[np.ndarray], group: np.ndarray) -> list[dict[str, Any]]:
    """What each round reached, with the paired gain over round 0."""
    told = []
    for each, score in zip(report["rounds"], scores, strict=True):
        difference, error = gain(scores[0], score, group)
        told.append(each | {"score": float(score.mean()), "gain": difference, "error": error, "asked": len(score)})
    return told


def table(rounds: list[dict[str, Any]], name: str) -> str:
    """A table of rounds; ``name`` says what the score is."""
    head = ["round", name, "gain", "source top-4", "positives right", "negatives right"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for each in rounds:
        change = f"{each['gain']:+.3f} ± {each['error']:.3f}" if each["round"] else ""
        cells = ["" if each[key] is None else f"{each[key]:.3f}" for key in ("source", "right", "apart")]
        lines.append(f"| {each['round']} | {each['score']:.3f} | {change} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.group()
def main() -> None:
    """Measure cross-domain mining."""


@main.command()
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--shop", default=1200, show_default=True, help="Photos of the source, 4 of a style.")
@click.option("--phone", default=2400, show_default=True, help="Photos of the target, 16 of a style.")
@click.option("--size", default=64, show_default=True, help="Photo side that the network sees.")
@click.option("--ranks", nargs=3, default=(1, 30, 40), show_default=True, help="m, i, j.")
@click.option("--loss", type=click.Choice(["contrast", "triplet"]), default="contrast", show_default=True)
@click.option("--confident", default=0.3, show_default=True)
@click.option("--steps", default=200, show_default=True, help="Of the training on the source.")
@click.option("--backbone-rate", "rate", default=0.0, show_default=True, help="Of the learning rate; 0: frozen.")
@click.option("--round-steps", default=80, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--sweep", is_flag=True, help="One round each of several ranks, losses and shares, from one network.")
def generated(
    work: Path, shop: int, phone: int, size: int, ranks: tuple[int, int, int], loss: str, confident: float, steps: int,
    rate: float, round_steps: int, rounds: int, seed: int, sweep: bool,
) -> None:  # fmt: skip
    """Shop styles as source, phone photos of other styles as target, planted truth."""
    source = garments.generate(work / f"shop-{seed}", shop, seed, 4, 0.0, progress=True)
    target = garments.generate(work / f"phone-{seed}", phone, seed + 1000, 16, 1.0, progress=True)
    goal = open_photos(target)
    known, names = [photo.attributes["style"] for photo in goal], goal.rows["id"].to_pylist()
    judges = goal.take(np.flatnonzero(held_out(known, names, HOLDOUT)))
    styles = {photo.id: str(photo.attributes["style"]) for photo in judges}
    report: dict[str, Any] = {}
    start: Path | None = None
    for m, i, j, by, sure in SWEEP if sweep else [(*ranks, loss, confident)]:
        numbers = {"positives": m, "negatives": [i, j], "loss": by, "confident": sure, "learning_rate": 1e-3}
        config = changed(
            configs.load("generated"),
            {
                "model": {"input_size": size},
                "training": {"steps": steps, "seed": seed, "backbone_rate": rate},
                "data": {"style": ["style"], "holdout": HOLDOUT},
                "mine": numbers | {"queries": phone, "steps": round_steps},
            },
        )
        name = f"m{m}-i{i}-j{j}-{by}-{sure}-{seed}"
        out = work / f"{name}.safetensors"
        found = mining.mine(
            config, target, photos=source, truth="style", model=start, rounds=1 if sweep else rounds, every=True,
            out=out, progress=True, say=click.echo,
        )  # fmt: skip
        folder = out.with_name(f"{out.stem}.mining")
        first = start or folder / "round-0.safetensors"
        scores, group = [], np.zeros(0)
        for each in [first, *(folder / f"round-{n['round']}.safetensors" for n in found["rounds"][1:])]:
            mark = checkpoint.read(each).fingerprint
            engine = Engine(build_gallery(judges, work / "judged" / f"{mark}.gallery", each, progress=True).gallery)
            asked, hits = mining.style_hits(engine, styles)
            ids = engine.gallery.columns(["id"])["id"].to_pylist()
            group = np.unique([styles[ids[row]] for row in asked], return_inverse=True)[1]
            scores.append(hits)
        report[name] = of_rounds(found, scores, group)
        if not sweep:
            alone = out.with_name(f"{out.stem}-control.safetensors")
            listing = open_photos(source)
            train(gather(listing, config, progress=True), mining.tuned(config, first), alone, progress=True)
            path = work / "judged" / f"{checkpoint.read(alone).fingerprint}.gallery"
            hits = mining.style_hits(Engine(build_gallery(judges, path, alone, progress=True).gallery), styles)[1]
            report[f"{name}, source alone"] = gain(scores[0], hits, group)
            click.echo("as many steps on the source alone: {:+.3f} ± {:.3f}".format(*gain(scores[0], hits, group)))
        start = first  # all from the same network
        click.echo(f"{name}; {len(group)} photos of {len(set(group))} styles asked")
        click.echo(table(report[name], "top-4"))
        path = work / f"{'sweep' if sweep else 'generated'}-{seed}.json"
        atomic_write(path, json.dumps(report, indent=1).encode())


def agreement(model: Path, shop: Path, phone: Path, work: Path) -> dict[str, np.ndarray]:
    """Share of the four nearest products that are of the garment's kind, by label, for each of its phone photos."""
    path = work / f"products-{checkpoint.read(model).fingerprint}.gallery"
    engine = Engine(build_gallery(open_photos(shop), path, model, progress=True).gallery)
    asked = [photo for photo in open_photos(phone) if photo.attributes["label"] in KINDS]
    drop = tuple(engine.names.vocabulary)
    prepared = engine.prepare([Request(photo=photo.source, drop=drop) for photo in asked])
    kinds = engine.gallery.columns(["articleType"])["articleType"].to_pylist()
    by_label: dict[str, list[float]] = {}
    for photo, (rows, _) in zip(asked, engine.search(prepared, mining.TOP), strict=True):
        label = str(photo.attributes["label"])
        by_label.setdefault(label, []).append(float(np.mean([kinds[row] in KINDS[label] for row in rows])))
    return {label: np.array(values) for label, values in sorted(by_label.items())}


def sampled(shop: Path, photos: int, path: Path, styled: bool) -> Path:
    """A list of about so many of the shop's photos, drawn; ``styled``: whole variant groups."""
    rng = np.random.default_rng(0)
    rows = [
        {"id": p.id, "path": str(p.source)} | {k: v or "" for k, v in p.attributes.items()} for p in open_photos(shop)
    ]
    if styled:
        names = np.unique([row["variant_group"] for row in rows if row["variant_group"]])
        chosen = set(rng.permutation(names)[: photos // 3].tolist())  # three photos a group
        kept = [row for row in rows if row["variant_group"] in chosen]
    else:
        kept = [rows[at] for at in np.sort(rng.permutation(len(rows))[:photos])]
    return listed(path, kept)


@main.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--photos", default=3000, show_default=True, help="Products to learn from, and as many to search.")
@click.option("--ranks", nargs=3, default=(10, 30, 40), show_default=True, help="m, i, j.")
@click.option("--loss", type=click.Choice(["contrast", "triplet"]), default="contrast", show_default=True)
@click.option("--confident", default=0.3, show_default=True)
@click.option("--backbone-rate", "rate", default=0.0, show_default=True, help="Of the learning rate; 0: frozen.")
@click.option("--round-steps", default=80, show_default=True)
@click.option("--sweep", is_flag=True, help="One round each of several ranks, losses and shares instead.")
def products(
    data: Path, work: Path, rounds: int, photos: int, ranks: tuple[int, int, int], loss: str, confident: float,
    rate: float, round_steps: int, sweep: bool,
) -> None:  # fmt: skip
    """Products as source, photos taken at home as target: does the kind of garment agree more?"""
    work.mkdir(parents=True, exist_ok=True)
    phone = data / "phone"
    source = sampled(data / "products", photos, work / "source.csv", styled=True)
    shop = sampled(data / "products", photos, work / "shop.csv", styled=False)
    first = checkpoint.locate("products")
    report: dict[str, Any] = {}
    for m, i, j, by, sure in SWEEP if sweep else [(*ranks, loss, confident)]:
        numbers = {"positives": m, "negatives": [i, j], "loss": by, "confident": sure, "steps": round_steps}
        training = {"backbone_rate": rate, "pairs": 32}
        config = changed(configs.load("products"), {"training": training, "mine": numbers})
        out = work / f"m{m}-i{i}-j{j}-{by}-{sure}.safetensors"
        found = mining.mine(
            config, phone, photos=source, model="products", rounds=1 if sweep else rounds, every=True, out=out,
            progress=True, say=click.echo,
        )  # fmt: skip
        folder = out.with_name(f"{out.stem}.mining")
        models = [first, *(folder / f"round-{each['round']}.safetensors" for each in found["rounds"][1:])]
        agreed = [agreement(model, shop, phone, work) for model in models]
        scores = [np.concatenate(list(each.values())) for each in agreed]
        rounds_told = of_rounds(found, scores, np.arange(len(scores[0])))
        labels = [{label: round(float(v.mean()), 3) for label, v in each.items()} for each in agreed]
        report[out.stem] = {"rounds": rounds_told, "by label": labels}
        click.echo(f"{out.stem}; {len(scores[0])} photos asked")
        click.echo(table(rounds_told, "kind agrees among 4"))
        for number, told in enumerate(labels):
            click.echo(f"round {number}: {told}")
        atomic_write(work / ("sweep.json" if sweep else "products.json"), json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    main()
