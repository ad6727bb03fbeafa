"""What each piece of the style network is worth: same-style top-4 on held-out styles, and as the photo is turned.

    python benchmarks/ablation.py --work runs/ablation
    python benchmarks/ablation.py --work runs/ablation --photos PRODUCTS --config products --only branches --steps 3000

One network is trained for each variant, all on the same photos with the same seed and steps: K = 1 to 6 branches; 128,
256 or 512 dimensions a branch; the spatial mask, the channel gate or both; the style loss as contrast of pairs or as
triplets of ids; parts, each kind and all. Top-4 is of the held-out photos among each other, by style alone (look, and
parts where there are any). In the curve the query is turned by an angle about its middle, on white, and the gallery is
upright; the photo itself is no answer. ``base`` is the config as it is. Writes ablation.json.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from index.files import atomic_write
from retrieval import config as configs
from retrieval import mining, photos
from retrieval.config import Config
from retrieval.datasets import garments
from retrieval.datasets.readers import PhotoSource, open_photos
from retrieval.embed import build_gallery
from retrieval.engine import AT_ONCE, Engine
from retrieval.evaluation.metrics import pad_rows, same_style_at_k
from retrieval.evaluation.protocols import group_codes
from retrieval.query import Request
from retrieval.training.data import TrainingSet, gather
from retrieval.training.loop import train

ANGLES = (0, 15, 30, 45, 60, 90, 120, 150, 180)
EVERY = {"stripes": [2, 3], "columns": [2, 3], "rings": [3], "dim": 128}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {  # group -> variant -> what it changes in model and training
    "base": {"base": {}},
    "branches": {f"K {k}": {"model": {"branches": k}} for k in range(1, 7)},
    "dim": {f"{d} a branch": {"model": {"branch_dim": d}} for d in (128, 256, 512)},
    "gates": {name: {"model": {"gates": name}} for name in ("spatial", "channel", "both")},
    "loss": {
        "contrast": {"training": {"batch": "pairs", "style_loss": "contrast"}},
        "triplet": {"training": {"batch": "ids", "style_loss": "triplet"}},
    },
    "parts": {
        "no parts": {"model": {"parts": None}},
        "stripes": {"model": {"parts": {"stripes": [2, 3], "dim": 128}}},
        "columns": {"model": {"parts": {"columns": [2, 3], "dim": 128}}},
        "rings": {"model": {"parts": {"rings": [3], "dim": 128}}},
        "all parts": {"model": {"parts": EVERY}},
    },
}


def changed(base: Config, changes: dict[str, dict[str, Any]], steps: int, seed: int) -> Config:
    """The config with these changes, checked as one that was read."""
    value = base.model_dump(mode="json")
    for section, keys in changes.items():
        value[section] |= keys
    value["training"] |= {"steps": steps, "seed": seed}
    return configs.parse(value, "benchmarks/ablation.py")


def turned(source: photos.Source, angle: float, size: int) -> bytes:
    """The photo turned about its middle, anticlockwise, on white, as a PNG with all of it in the frame."""
    upright = photos.decode(source, long_side=2 * size).image
    image = upright.rotate(angle, Image.Resampling.BILINEAR, expand=True, fillcolor="white")
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def turned_top(engine: Engine, listing: PhotoSource, styles: dict[str, str], angle: float) -> float:
    """Same-style top-4 of queries turned by ``angle`` degrees; those with a mate are asked."""
    ids = engine.gallery.columns(["id"])["id"].to_pylist()
    code = group_codes(styles.get(name) for name in ids)
    counts = np.bincount(code[code >= 0])
    asked = [row for row in range(len(ids)) if code[row] >= 0 and counts[code[row]] > 1]
    sources = {photo.id: photo.source for photo in listing}
    size, drop = engine.model.config.model.input_size, tuple(engine.names.vocabulary)
    found: list[np.ndarray] = []
    for at in range(0, len(asked), AT_ONCE):
        requests = [
            Request(photo=turned(sources[ids[row]], angle, size), exclude=[ids[row]], drop=drop)
            for row in asked[at : at + AT_ONCE]
        ]
        found += [rows for rows, _ in engine.search(engine.prepare(requests), mining.TOP)]
    rows = pad_rows(found, mining.TOP + 1)
    return round(float(same_style_at_k(code, np.array(asked), rows, mining.TOP).mean()), 4)


def measured(config: Config, name: str, data: TrainingSet, held: PhotoSource, work: Path) -> dict[str, Any]:
    """Train one variant and measure it."""
    out = work / f"{name.replace(' ', '-')}.safetensors"
    train(data, config, out, progress=True)
    styles = {
        photo.id: style
        for photo in held
        if (style := next((s for c in config.data.style if (s := photo.attributes.get(c))), None))
    }
    engine = Engine(build_gallery(held, out.with_suffix(".gallery"), out, progress=True).gallery)
    parameters = sum(value.numel() for value in engine.model.net.parameters())
    curve = {str(angle): turned_top(engine, held, styles, angle) for angle in ANGLES}
    return {"top4": mining.same_style(engine, styles), "curve": curve, "parameters": parameters}


def table(group: str, found: dict[str, dict[str, Any]]) -> str:
    """Top-4, size and the curve of a group's variants."""
    head = ["variant", "parameters", "top-4", *(f"{angle} deg" for angle in ANGLES)]
    lines = [f"## {group}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, each in found.items():
        cells = [name, f"{each['parameters']:,}", f"{each['top4']:.3f}", *(f"{v:.3f}" for v in each["curve"].values())]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="A folder for networks and galleries.")
@click.option("--photos", "folder", type=click.Path(path_type=Path), help="Labelled photos.  [default: drawn garments]")
@click.option("--config", "name", default="generated", show_default=True)
@click.option("--only", multiple=True, type=click.Choice([*VARIANTS]), help="These groups alone; may be repeated.")
@click.option("--steps", default=800, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(work: Path, folder: Path | None, name: str, only: tuple[str, ...], steps: int, seed: int) -> None:
    """Train and measure every variant."""
    base = configs.load(name)
    listing = open_photos(folder or garments.generate(work / "garments", 6000, seed, progress=True))
    data = gather(listing, base, progress=True)
    asked = {each for each, held in zip(data.ids, data.validation, strict=True) if held}
    held = listing.take(np.flatnonzero([each in asked for each in listing.rows["id"].to_pylist()]))
    report: dict[str, dict[str, Any]] = {}
    for group, variants in VARIANTS.items():
        if only and group not in only and group != "base":
            continue
        report[group] = {}
        for variant, changes in variants.items():
            config = changed(base, changes, steps, seed)
            report[group][variant] = measured(config, f"{group} {variant}", data, held, work)
        click.echo(table(group, report[group]))
        facts = {"config": name, "steps": steps, "seed": seed, "photos": len(data.ids), "asked of": len(held)}
        atomic_write(work / "ablation.json", json.dumps({"facts": facts, "groups": report}, indent=1).encode())


if __name__ == "__main__":
    main()
