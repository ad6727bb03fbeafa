"""What each piece of the style network is worth: same-style top-4 on held-out styles, and as the photo is turned.

    python benchmarks/ablation.py --work runs/ablation --plot runs/angles.png
    python benchmarks/ablation.py --work runs/ablation --only branches --steps 1000

One network is trained for each cell, all on the same photos with the same seed, steps and photos a step, on the shipped
model's backbone and nothing else of it. The backbone stays as it is unless --backbone-rate says otherwise, which makes
a step five times as fast. K = 1 to 6 branches; 128, 256 or 512 dimensions a branch; the spatial mask, the channel gate
or both; ID loss, triplets or contrast, with and without the attributes' losses; parts, each kind and all. ``base`` has
K = 4, 256 dimensions, both gates, contrast with attributes, no parts. Top-4 is of the held-out photos among each other,
by style alone (look, and parts where there are any). Photos are 48 pixels a side, 80 in the table of parts, with a last
map that can be cut. In the curve a sample of them is turned by an angle about its middle, letterbox and all, and
searched for in the upright gallery; the photo itself is no answer.
Cells that are done are kept in --work, so that an interrupted run goes on. Writes ablation.json.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

from index.files import atomic_write
from retrieval import config as configs
from retrieval import mining, photos
from retrieval.config import LOOK, PARTS, Config
from retrieval.datasets import garments
from retrieval.datasets.readers import PhotoSource, open_photos
from retrieval.datasets.records import Photo
from retrieval.datasets.splits import held_out
from retrieval.embed import build_gallery
from retrieval.engine import AT_ONCE, Engine
from retrieval.evaluation.metrics import pad_rows, same_style_at_k
from retrieval.evaluation.protocols import group_codes
from retrieval.models import checkpoint, memory
from retrieval.models.network import GarmentNet
from retrieval.query import Request
from retrieval.training.data import TrainingSet, gather
from retrieval.training.loop import take_over, train

ANGLES = (0, 15, 30, 45, 60, 90, 120, 150, 180)
SMALL = {"input_size": 48, "branches": 4, "branch_dim": 256, "grid": 1, "detail": 0, "parts": None}
BATCH = {"pairs": 24, "ids_per_batch": 12, "photos_per_id": 4}  # 48 photos a step, whatever the batch is
ALONE = {"classify": 0, "triplet": 0}
IDS = {"batch": "ids", "style_loss": "triplet"}
FINE = {"input_size": 80, "last_stride": 1}  # a last map of 5 x 5 cells, which parts can cut
EVERY = {"stripes": [2, 3], "columns": [2, 3], "rings": [3], "dim": 128}
Changes = dict[str, dict[str, Any]]  # what a cell changes in model and training
BASE: Changes = {}
TABLES: dict[str, dict[str, Changes]] = {
    "branches": {f"K {k}": BASE if k == 4 else {"model": {"branches": k}} for k in range(1, 7)},
    "dim": {f"{d} a branch": BASE if d == 256 else {"model": {"branch_dim": d}} for d in (128, 256, 512)},
    "gates": {name: BASE if name == "both" else {"model": {"gates": name}} for name in ("spatial", "channel", "both")},
    "loss": {
        "ID": {"training": {**IDS, **ALONE, "identity": 1, "style": 0}},
        "ID + attributes": {"training": {**IDS, "identity": 1, "style": 0}},
        "triplet": {"training": {**IDS, **ALONE}},
        "triplet + attributes": {"training": IDS},
        "ID + triplet": {"training": {**IDS, **ALONE, "identity": 1}},
        "ID + triplet + attributes": {"training": {**IDS, "identity": 1}},
        "contrast": {"training": ALONE},
        "contrast + attributes": BASE,
    },
    "parts": {
        "no parts": {"model": FINE},
        "look of 3 x 3 cells": {"model": FINE | {"grid": 3}},
        "stripes": {"model": FINE | {"parts": {"stripes": [2, 3], "dim": 128}}},
        "columns": {"model": FINE | {"parts": {"columns": [2, 3], "dim": 128}}},
        "rings": {"model": FINE | {"parts": {"rings": [3], "dim": 128}}},
        "all parts": {"model": FINE | {"parts": EVERY}},
    },
    "seeds": {f"seed {n}": {"training": {"seed": n}} if n else BASE for n in range(3)},
}
CURVES = ("parts",)  # tables with top-4 against the angle


def backbone(base: Config, path: Path) -> Path:
    """The checkpoint ``base`` starts from with its backbone alone: nothing else in it fits another network, so that no
    cell begins with branches or attribute blocks that another cell has not."""
    bare = configs.parse(
        {
            "name": "backbone",
            "model": {
                "backbone": base.model.backbone, "pretrained": True, "branches": 1, "branch_dim": 2,
                "gates": "channel", "reduction": 4096, "shallow": False, "attention": "none",
                "attributes": {"nothing": {"dim": 2}},
            },
        },
        "benchmarks/ablation.py",
    )  # fmt: skip
    model = bare.model.model_copy(update={"pretrained": False})
    vocabulary = {"nothing": ["a", "b"]}
    torch.manual_seed(0)  # what is not taken over is in the fingerprint, by which a cell knows that it is done
    net = GarmentNet(model, vocabulary)
    take_over(net, checkpoint.read(base.training.start).net, {}, {})
    none = memory.Memory(vocabulary, {"nothing": 2}, np.zeros((2, 2), np.float32))
    checkpoint.write(path, net, none, bare, {"from": str(base.training.start)})
    return path


def changed(base: Config, changes: Changes) -> Config:
    """The config with these changes, checked as one that was read."""
    value = base.model_dump(mode="json")
    for section, keys in changes.items():
        value[section] |= keys
    return configs.parse(value, "benchmarks/ablation.py")


def style_of(photo: Photo, config: Config) -> str | None:
    return next((style for column in config.data.style if (style := photo.attributes.get(column))), None)


def turned(source: photos.Source, angle: float, size: int) -> bytes:
    """The letterboxed photo turned about its middle, anticlockwise, zeros in the corners as around it, as a PNG."""
    upright = Image.fromarray(photos.load(source, 2 * size).pixels)
    out = io.BytesIO()
    upright.rotate(angle, Image.Resampling.BILINEAR).save(out, "PNG", compress_level=1)
    return out.getvalue()


def turned_top(engine: Engine, listing: PhotoSource, code: np.ndarray, asked: np.ndarray, angle: float) -> list[float]:
    """Same-style top-4 of the rows ``asked`` as queries turned by ``angle`` degrees: by style; then, where the network
    has parts, by parts alone."""
    ids = engine.gallery.columns(["id"])["id"].to_pylist()
    sources = {photo.id: photo.source for photo in listing}
    size, attributes = engine.model.config.model.input_size, tuple(engine.names.vocabulary)
    near: list[list[np.ndarray]] = [[] for _ in range(2 if PARTS in engine.layout.names else 1)]
    for at in range(0, len(asked), AT_ONCE):
        requests = [
            Request(photo=turned(sources[ids[row]], angle, size), exclude=[ids[row]], drop=attributes)
            for row in asked[at : at + AT_ONCE]
        ]
        prepared = engine.prepare(requests)
        alone = prepared.vectors.copy()
        alone[:, engine.layout.slice(LOOK)] = 0
        for found, vectors in zip(near, (prepared.vectors, alone), strict=False):
            found += [rows for rows, _ in engine.search(replace(prepared, vectors=vectors), mining.TOP)]
    every = [pad_rows(found, mining.TOP + 1) for found in near]
    return [round(float(same_style_at_k(code, asked, rows, mining.TOP).mean()), 4) for rows in every]


def measured(
    config: Config, mark: str, data: TrainingSet, held: PhotoSource, out: Path, queries: int | None
) -> dict[str, Any]:
    """Train one cell and measure it, with the curve of ``queries`` photos if a number is given; or what an earlier run
    of the same cell, told by ``mark``, left beside ``out``."""
    kept = out.with_suffix(".json")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if found.get("cell") != mark:
        out.unlink(missing_ok=True)
        found = {"cell": mark}
    elif queries is None or found.get("curve of") == queries:
        return found
    styles = {photo.id: style for photo in held if (style := style_of(photo, config))}
    if not out.is_file():
        train(data, config, out, progress=True)
    engine = Engine(build_gallery(held, out.with_name(f"{out.stem}-{mark}.gallery"), out, progress=True).gallery)
    code = group_codes(styles.get(name) for name in engine.gallery.columns(["id"])["id"].to_pylist())
    counts = np.bincount(code[code >= 0])
    asked = np.flatnonzero((code >= 0) & (counts[np.maximum(code, 0)] > 1))
    found |= {
        "top4": mining.same_style(engine, styles),
        "asked": len(asked),
        "parameters": sum(value.numel() for value in engine.model.net.parameters()),
    }
    if queries is not None:
        some = np.sort(np.random.default_rng(0).permutation(asked)[:queries])
        found["curve"] = {str(angle): turned_top(engine, held, code, some, angle) for angle in ANGLES}
        found["curve of"] = queries
    atomic_write(kept, json.dumps(found, indent=1).encode())
    return found


def table(name: str, found: dict[str, dict[str, Any]]) -> str:
    """Top-4, size and, where there are any, the curves of a table's cells."""
    curved = name in CURVES
    head = ["cell", "parameters", "top-4", *(f"{angle} deg" for angle in ANGLES if curved)]
    lines = [f"## {name}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for cell, each in found.items():
        lines.append(f"| {cell} | {each['parameters']:,} | {each['top4']:.3f} |")
        for i, kind in enumerate(("", "by parts alone")):
            if curved and len(each["curve"]["0"]) > i:
                curve = " | ".join(f"{tops[i]:.3f}" for tops in each["curve"].values())
                lines[-1] = f"{lines[-1]} {curve} |" if not i else lines[-1]
                lines += [f"| {cell}, {kind} | | | {curve} |"] if i else []
    return "\n".join(lines)


def plot(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Top-4 against the angle: left by style, right by parts alone."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    for i, (axis, title) in enumerate(zip(axes, ("look, and parts where there are any", "parts alone"), strict=True)):
        for number, (cell, each) in enumerate(found.items()):
            if len(each["curve"]["0"]) > i:
                values = [tops[i] for tops in each["curve"].values()]
                axis.plot(ANGLES, values, marker="o", markersize=3, label=cell, color=f"C{number}")
        axis.set(title=title, xlabel="query turned by, degrees", xticks=range(0, 181, 30), ylim=(0, 1))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set_ylabel(f"same-style top-{mining.TOP}")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="A folder for networks and galleries.")
@click.option("--photos", "folder", type=click.Path(path_type=Path), help="Labelled photos.  [default: drawn garments]")
@click.option("--config", "name", default="generated", show_default=True)
@click.option("--only", multiple=True, type=click.Choice([*TABLES]), help="These tables alone; may be repeated.")
@click.option("--steps", default=150, show_default=True)
@click.option("--backbone-rate", "rate", default=0.0, show_default=True, help="Of the learning rate; 0: frozen.")
@click.option("--turned", default=300, show_default=True, help="Queries of the curve.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Top-4 against the angle, a PNG.")
def main(
    work: Path, folder: Path | None, name: str, only: tuple[str, ...], steps: int, rate: float, turned: int,
    picture: Path | None,
) -> None:  # fmt: skip
    """Train and measure every cell."""
    work.mkdir(parents=True, exist_ok=True)
    given = configs.load(name)
    start = backbone(given, work / "backbone.safetensors")
    training = BATCH | {"steps": steps, "start": str(start), "memory": "means", "backbone_rate": rate}
    base = changed(given, {"model": SMALL, "training": training, "data": {"holdout": 0.3}})
    listing = open_photos(folder or garments.generate(work / "garments", 3000, progress=True))
    data: dict[int, TrainingSet] = {}  # by photo side
    ids, groups = listing.rows["id"].to_pylist(), [style_of(photo, base) for photo in listing]
    held = listing.take(np.flatnonzero(held_out(groups, ids, base.data.holdout)))
    report: dict[str, dict[str, Any]] = {}
    for group, cells in TABLES.items():
        if only and group not in only:
            continue
        report[group] = {}
        for cell, changes in cells.items():
            config = changed(base, changes)
            values = [config.model_dump(mode="json", exclude={"search"}), listing.fingerprint()]
            mark = configs.fingerprint([*values, checkpoint.read(start).fingerprint])
            out = work / ("base.safetensors" if changes == BASE else f"{group}-{cell.replace(' ', '-')}.safetensors")
            size = config.model.input_size
            data[size] = data.get(size) or gather(listing, config, progress=True)
            report[group][cell] = measured(config, mark, data[size], held, out, turned if group in CURVES else None)
        click.echo(table(group, report[group]))
        facts = {
            "config": name,
            "steps": steps,
            "backbone rate": rate,
            "photos": len(listing),
            "held out": len(held),
            "curve of": turned,
        }
        atomic_write(work / "ablation.json", json.dumps({"facts": facts, "tables": report}, indent=1).encode())
    if picture is not None and "parts" in report:
        plot(report["parts"], picture)


if __name__ == "__main__":
    main()
