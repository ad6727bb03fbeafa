"""Are heat maps faithful? On drawn garments whose true regions are known, and on people in the street.

    python benchmarks/explain.py heads.safetensors --photos 300 --out explain.json
    python benchmarks/explain.py products --photos 0 --street STREET --out street.json

Photos are drawn with a seed that neither trained the network nor chose its heat maps. Heat is that of the true value.
Columns: point, the pointing game (tolerance 3% of the long side) at the drawn part, and reach, wherever any value would
show (``garments_regions``); IoU of the box with the drawn part's (of a pair of sleeves, the best of each and both); the
rise of the loss when the box is hidden, when one of its size at random places is, and their ratio; areas under deletion
(small is good) and insertion (large). Baselines: the photo's centre, with a box of head-cam's size; head-cam of the
same network with random weights (Adebayo et al. 2018). STREET: boxes.coco.json and photos/, as of
bearpaw/clothing-co-parsing; the value asked is what the street's class is called among articleType's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch

from index.files import atomic_write
from retrieval import photos
from retrieval.datasets.garments import photo_rng, sample_styles
from retrieval.datasets.garments_regions import draw_regions
from retrieval.explain import faithful, heat, places
from retrieval.explain.places import Box
from retrieval.models import checkpoint
from retrieval.models.checkpoint import Model
from retrieval.models.network import GarmentNet

FOLDER = click.Path(path_type=Path)
SEED = 4
PARTS = ("sleeve", "neckline", "length")
METHODS = ("head-cam", "layer-cam", "grad-cam", "centre", "random weights")
STREET = {
    "dress": "Dresses", "jeans": "Jeans", "shirt": "Shirts", "t-shirt": "Tshirts", "skirt": "Skirts",
    "shorts": "Shorts", "jacket": "Jackets", "blazer": "Blazers", "sweater": "Sweaters", "leggings": "Leggings",
    "sweatshirt": "Sweatshirts", "pants": "Trousers", "top": "Tops", "stockings": "Stockings", "scarf": "Scarves",
}  # fmt: skip


class Asked(NamedTuple):
    """One attribute asked of n photos: pixels (n, s, s, 3), value codes (n,), the photos' place in the letterbox, and
    the true regions of each, (n, s, s) bool: what is drawn, and wherever a value would show."""

    attribute: str
    pixels: np.ndarray
    codes: np.ndarray
    areas: list[Box]
    regions: np.ndarray
    reach: np.ndarray


def drawn(model: Model, count: int) -> list[Asked]:
    size, known = model.config.model.input_size, model.vocabulary
    found: dict[str, list[tuple[Any, ...]]] = {name: [] for name in PARTS if name in known}
    for number, garment in enumerate(sample_styles(count, SEED)):
        photo = draw_regions(garment, photo_rng(SEED, number, 0), "phone" if number % 4 == 3 else "shop")
        pixels, area = photos.letterbox(photo.image, size), places.area_of(*photo.image.size, size)
        for name in found:
            if (value := garment.attributes[name]) in known[name]:
                both = (boxed(mask[name], size) for mask in (photo.masks, photo.reach))
                found[name].append((pixels, known[name].index(value), area, *both))
    return [_asked(name, rows) for name, rows in found.items()]


def boxed(mask: np.ndarray, size: int) -> np.ndarray:
    """A mask in the letterbox."""
    return photos.letterbox(np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255, size)[..., 0] > 127


def street(model: Model, folder: Path, count: int | None) -> list[Asked]:
    size, values = model.config.model.input_size, model.vocabulary["articleType"]
    listed = json.loads((folder / "boxes.coco.json").read_text(encoding="utf-8"))
    classes = {each["id"]: STREET.get(each["name"]) for each in listed["categories"]}
    files = {each["id"]: each for each in listed["images"]}
    rows = []
    for note in listed["annotations"]:
        value = classes[note["category_id"]]
        if value not in values:
            continue
        image = files[note["image_id"]]
        area = places.area_of(image["width"], image["height"], size)
        scale = (area.right - area.left) / image["width"]
        x, y, w, h = (side * scale for side in note["bbox"])
        region = np.zeros((size, size), bool)
        region[places.inside(Box(area.left + x, area.top + y, area.left + x + w + 0.999, area.top + y + h + 0.999))] = (
            True
        )
        pixels = photos.load(folder / "photos" / image["file_name"], size).pixels
        rows.append((pixels, values.index(value), area, region, region))
    return [_asked("articleType", rows[:count])]


def _asked(name: str, rows: Sequence[tuple[Any, ...]]) -> Asked:
    pixels, codes, areas, regions, reach = zip(*rows, strict=True)
    return Asked(name, np.stack(pixels), np.array(codes), list(areas), np.stack(regions), np.stack(reach))


def heats_of(model: Model, unlearned: GarmentNet, asked: Asked, method: str) -> np.ndarray:
    """Heat (n, s, s); none around the photo."""
    size = asked.pixels.shape[1]
    if method == "centre":
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        maps = np.repeat((2 * size - np.hypot(x, y))[None], len(asked.codes), axis=0).astype(np.float32)
    else:
        net = unlearned if method == "random weights" else model.net
        how: heat.Method = "head-cam" if method == "random weights" else method  # type: ignore[assignment]
        maps = heat.attribute_heat(net, asked.pixels, asked.attribute, asked.codes, how)
    for each, area in zip(maps, asked.areas, strict=True):
        kept = each[places.inside(area)].copy()
        each[:] = 0
        each[places.inside(area)] = kept
    return maps


def judged(model: Model, unlearned: GarmentNet, asked: Asked, steps: int) -> dict[str, dict[str, Any]]:
    """Every figure of every method, one value a photo."""
    codes = torch.from_numpy(asked.codes)

    @torch.inference_mode()
    def ask(pixels: np.ndarray) -> np.ndarray:
        said = []
        for start in range(0, len(pixels), heat.BATCH):
            span = slice(start, start + heat.BATCH)
            logits = model.net(torch.from_numpy(pixels[span]).permute(0, 3, 1, 2)).logits[asked.attribute]
            multi = model.config.model.attributes[asked.attribute].multi
            sure = torch.sigmoid(logits) if multi else torch.softmax(logits, 1)
            said.append(sure[torch.arange(len(logits)), codes[span]].double().numpy())
        return np.concatenate(said)

    found: dict[str, dict[str, Any]] = {}
    boxes: dict[str, list[Box]] = {}
    before, tolerance = ask(asked.pixels), faithful.TOLERANCE * asked.pixels.shape[1]
    for method in METHODS:
        maps = heats_of(model, unlearned, asked, method)
        if method == "centre":
            hot = [faithful.centre_box(b, area) for b, area in zip(boxes["head-cam"], asked.areas, strict=True)]
        else:
            hot = [places.largest_box(each) or area for each, area in zip(maps, asked.areas, strict=True)]
        boxes[method] = hot
        peaks = [places.peak_of(each) for each in maps]
        found[method] = {
            name: np.array([faithful.points_at(p, r, tolerance) for p, r in zip(peaks, true, strict=True)], float)
            for name, true in (("point", asked.regions), ("reach", asked.reach))
        } | {
            "IoU": np.array([best_overlap(box, region) for box, region in zip(hot, asked.regions, strict=True)]),
            "rise": faithful.rises(ask, asked.pixels, hot, before),
            "random": faithful.random_rises(ask, asked.pixels, hot, asked.areas, before, draws=2),
        }
        if steps:
            for name, curve in (("deletion", faithful.deletion), ("insertion", faithful.insertion)):
                found[method][name] = faithful.under(curve(ask, asked.pixels, maps, asked.areas, steps))
    return found


def best_overlap(box: Box, region: np.ndarray) -> float:
    numbers = places.components(region[None])[0]
    parts = [numbers == n for n in np.unique(numbers[region]) if (numbers == n).sum() >= region.sum() / 10]
    true = [around for part in (region, *parts) if (around := places.box_of(part)) is not None]
    return max((places.overlap(box, each) for each in true), default=0.0)


def summed(values: dict[str, Any]) -> dict[str, float | None]:
    means = {name: round(float(each.mean()), 4) for name, each in values.items()}
    ratio = means["rise"] / means["random"] if means["random"] > 0 else None
    return {name: means[name] for name in ("point", "reach", "IoU", "rise", "random")} | {
        "ratio": None if ratio is None else round(ratio, 2),
        **{name: means[name] for name in ("deletion", "insertion") if name in means},
    }


@click.command()
@click.argument("model")
@click.option("--photos", "count", default=300, show_default=True, help="Drawn photos; with --street, at most so many.")
@click.option("--street", "people", type=FOLDER, help="A folder of street photos instead.")
@click.option("--steps", default=10, show_default=True, help="Of deletion and insertion; 0 leaves them out.")
@click.option("--out", type=FOLDER)
def main(model: str, count: int, people: Path | None, steps: int, out: Path | None) -> None:
    """Print a table for each attribute, and one over all of them."""
    network = checkpoint.read(model)
    torch.manual_seed(SEED)
    bare = network.config.model.model_copy(update={"pretrained": False})
    unlearned = GarmentNet(bare, network.vocabulary).eval().requires_grad_(False)
    cases = street(network, people, count or None) if people else drawn(network, count)
    report: dict[str, Any] = {"model": f"{network.config.name} {network.fingerprint}", "seed": SEED}
    every: dict[str, dict[str, list[np.ndarray]]] = {method: {} for method in METHODS}
    for asked in cases:
        found = judged(network, unlearned, asked, steps)
        report[asked.attribute] = {"photos": len(asked.codes)} | {m: summed(v) for m, v in found.items()}
        for method, values in found.items():
            for name, each in values.items():
                every[method].setdefault(name, []).append(each)
        show(asked.attribute, report[asked.attribute])
    if len(cases) > 1:
        joined = {m: {name: np.concatenate(each) for name, each in values.items()} for m, values in every.items()}
        asked_in_all = sum(len(asked.codes) for asked in cases)
        report["all"] = {"photos": asked_in_all} | {m: summed(values) for m, values in joined.items()}
        show("all", report["all"])
    if out is not None:
        atomic_write(out, json.dumps(report, indent=1).encode())


def show(name: str, table: dict[str, Any]) -> None:
    click.echo(f"{name}, {table['photos']:,} photos")
    columns = list(table[METHODS[0]])
    click.echo(" " * 16 + "".join(f"{column:>11}" for column in columns))
    for method in METHODS:
        cells = (table[method][column] for column in columns)
        click.echo(f"  {method:<14}" + "".join(f"{'-' if cell is None else format(cell, '.3f'):>11}" for cell in cells))


if __name__ == "__main__":
    main()
