"""Ours beside what a user would try instead: same backbone, same photos, same steps, in one run.

    python benchmarks/compare.py GARMENTS --set generated --steps 200 --work runs/compare
    python benchmarks/compare.py PRODUCTS --set products --steps 400 --work runs/compare

The gallery is the validation part alone (styles held out by the hash of their name), searched exactly, without any
labels; queries are its photos. Protocols are those of docs/evaluation.md. Methods:

- image only; image only + filter on the predicted value: our network, no edit
- prototype replacement (AMNet's idea, Zhao et al. 2017): our network, the edited block becomes its value's mean,
  weights 1
- ADDE-M (Hou et al. 2021 as docs/training.md has it): a network of attribute blocks alone, semi-hard triplets of
  squared distances on attributes and label tuples, one residual f + M v with the trained M, weights 1, no look. CBAM
  stands where it stands in ours
- ours without attention (means in its place), without weighted losses (every value counts alike), without memory
  training (M holds means); ours

Ours uses the config's block weights. What is left to choose then (the part of the old block that stays, and the
factor on an edited block) is chosen for ours and its variants alike, on other queries than those reported. Networks of
the last four rows are trained with every seed, the others with the first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from index.table import PREDICTED
from retrieval import config as configs
from retrieval.datasets.readers import open_photos
from retrieval.embed import build_gallery
from retrieval.engine import Engine
from retrieval.evaluation import protocols
from retrieval.evaluation.bench import Labelled
from retrieval.models import checkpoint, memory
from retrieval.query import Request
from retrieval.training.data import TrainingSet, gather
from retrieval.training.loop import embed, train

KS = (4, 10, 20, 30, 50)
VARIANT_KS = (1, 4, 10)
KEEPS, EDITED = (0.0, 0.5, 1.0), (1.0, 2.0, 4.0)
# ours: the recipe of the named config with every part switched on that a row below switches off
OURS = {"balance": 0.3, "triplet": 0.2, "memory": "trained", "refit": 0, "coarse_size": None, "start": None}
ADDE = {
    "balance": 0.5, "classify": 1.0, "triplet": 1.0, "style": 0.0, "mining": "semi-hard", "distance": "squared",
    "blanks": "match", "memory": "trained", "refit": 0, "coarse_size": None, "start": None,
}  # fmt: skip
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # changes of the model, of the training
    "ours": ({}, OURS),
    "without attention": ({"attention": "none"}, OURS),
    "without weighted losses": ({}, OURS | {"balance": 0.0}),
    "ADDE-M": ({"grid": 1, "detail": 0, "shallow": False}, ADDE),
}


@dataclass(frozen=True)
class Settings:
    """How a query is made: block weights, how much of the old block stays, the factor on an edited block."""

    weights: Mapping[str, float]
    keep: float
    edited: float
    edits: bool = True
    filtered: bool = False


@dataclass(frozen=True)
class Asked:
    """The queries of one seed and the labels to judge by."""

    labelled: Labelled
    edits: protocols.EditQueries
    variants: protocols.VariantQueries
    color: int  # the attribute in which variants differ


def queries_of(engine: Engine, color: str, at_most: int, seed: int) -> Asked:
    labelled = Labelled.of(engine.gallery)
    rows = np.arange(len(labelled.ids))
    groups = engine.gallery.columns(["variant_group"])["variant_group"].to_pylist()
    at = labelled.attributes.index(color)
    sizes = [len(values) for values in labelled.values]
    edits = protocols.edit_queries(labelled.codes, rows, rows, sizes, at_most, seed)
    variants = protocols.variant_queries(groups, labelled.codes[:, at], rows, rows, at_most, seed)
    return Asked(labelled, edits, variants, at)


def ask(
    engine: Engine, asked: Asked, rows: np.ndarray, attributes: np.ndarray, values: np.ndarray, how: Settings
) -> np.ndarray:
    """The 52 best rows of each query, (Q, 52); the reference may be among them."""
    labelled = asked.labelled
    engine.keep, engine.edited = how.keep, how.edited
    requests = []
    for row, at, value in zip(rows.tolist(), attributes.tolist(), values.tolist(), strict=True):
        name, text = labelled.attributes[at], labelled.values[at][value]
        where = (f'"{PREDICTED}{name}" = "{text}"',) if how.filtered else ()
        edit = {name: text} if how.edits else {}
        requests.append(Request(like=labelled.ids[row], set=edit, weight=how.weights, where=where, keep_reference=True))
    found = []
    for start in range(0, len(requests), 256):
        some = engine.search(engine.prepare(requests[start : start + 256]), max(KS) + 2, exact=True)
        found += [np.pad(each, (0, max(KS) + 2 - len(each)), constant_values=-1) for each, _ in some]
    return np.array(found)


def judge(engine: Engine, asked: Asked, how: Settings) -> dict[str, float]:
    """Every figure of one method."""
    labelled, edits, variants = asked.labelled, asked.edits, asked.variants
    every = np.arange(len(labelled.ids))
    found = ask(engine, asked, edits.row, edits.attribute, edits.value, how)
    figures: dict[str, float] = {}
    for rule in ("published", "strict"):
        values = protocols.edit_values(labelled.codes, edits, found, every, KS, rule)
        figures |= {f"{name} {rule}": float(value.mean()) for name, value in values.items()}
    color = np.full(len(variants.row), asked.color)
    found = ask(engine, asked, variants.row, color, variants.color, how)
    values = protocols.variant_values(variants, found, VARIANT_KS)
    return figures | {name: float(value.mean()) for name, value in values.items()}


def plain(engine: Engine, asked: Asked, how: Settings) -> dict[str, float]:
    """What no edit is needed for: accuracy of the heads, and P@1 of the first attribute, leaving the photo out."""
    labelled, figures = asked.labelled, {}
    for i, name in enumerate(labelled.attributes):
        known = labelled.codes[:, i] >= 0
        code = {value: number for number, value in enumerate(labelled.values[i])}
        said = engine.gallery.columns([PREDICTED + name])[PREDICTED + name].to_pylist()
        right = np.array([code.get(value, -2) for value in said]) == labelled.codes[:, i]
        figures[f"accuracy {name}"] = float(right[known].mean())
    rows = np.flatnonzero(labelled.codes[:, 0] >= 0)
    requests = [Request(like=labelled.ids[row], weight=how.weights) for row in rows]
    best = []
    for start in range(0, len(requests), 256):
        best += [each[0] for each, _ in engine.search(engine.prepare(requests[start : start + 256]), 1, exact=True)]
    same = labelled.codes[np.array(best), 0] == labelled.codes[rows, 0]
    return figures | {f"P@1 {labelled.attributes[0]}": float(same.mean())}


def chosen(engine: Engine, asked: Asked, weights: Mapping[str, float]) -> Settings:
    """Keep and edited by the mean of strict tuple hit@10 and variant hit@4, on queries that are not reported."""
    trials = [Settings(weights, keep, edited) for keep in KEEPS for edited in EDITED]
    scores = []
    for trial in trials:
        figures = judge(engine, asked, trial)
        scores.append(figures["hit@10 strict"] + figures["variant_hit@4"])
    return trials[int(np.argmax(scores))]


def made(
    base: configs.Config, name: str, steps: int, seed: int, size: int, work: Path, data: TrainingSet
) -> tuple[Path, configs.Config]:
    """A trained network: its checkpoint (made before by the same command, it is used again by its fingerprint)."""
    model, training = NETWORKS[name]
    settings = configs.parse(
        base.model_dump() | {
            "name": name.replace(" ", "-"),
            "model": base.model.model_dump() | {"input_size": size} | model,
            "training": base.training.model_dump() | training | {"steps": steps, "seed": seed},
            "search": {},
        },
        name,
    )  # fmt: skip
    mark = configs.fingerprint([settings.model_dump(), data.ids])
    path = work / f"{settings.name}-{seed}-{mark}.safetensors"
    if not path.is_file():
        train(data, settings, path, progress=True)
    return path, settings


@click.command()
@click.argument("photos", type=click.Path(path_type=Path))
@click.option(
    "--set", "config", default="generated", show_default=True, help="The config whose network and data it is."
)
@click.option("--color", help="The attribute in which variants differ.  [default: the first one marked color]")
@click.option("--steps", default=200, show_default=True)
@click.option("--size", default=64, show_default=True, help="Side of the photos.")
@click.option("--queries", default=1500, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/compare"))
def main(
    photos: Path, config: str, color: str | None, steps: int, size: int, queries: int, seeds: int, work: Path
) -> None:
    """Train, ask, and print a table; everything is in WORK/NAME.json."""
    base = configs.load(config)
    # the same start for every row: ImageNet weights where the backbone needs them, never a network trained before
    pretrained = base.model.pretrained or base.model.backbone.startswith("efficientnet_lite")
    start = {"model": base.model.model_dump() | {"pretrained": pretrained}}
    base = configs.parse(base.model_dump() | start | {"training": base.training.model_dump() | {"start": None}}, config)
    work = work / base.name
    work.mkdir(parents=True, exist_ok=True)
    color = color or next(name for name, each in base.model.attributes.items() if each.color)
    source = open_photos(photos)
    resized = configs.parse(base.model_dump() | {"model": base.model.model_dump() | {"input_size": size}}, config)
    data = gather(source, resized, progress=True)
    held = set(np.array(data.ids)[data.validation].tolist())
    part = replace(source, rows=source.rows.filter(np.isin(source.rows["id"].to_pylist(), list(held))))
    weights = {name: base.search.weights.get(name, 1.0) for name in ("look", *base.model.attributes)}
    ones = dict.fromkeys(weights, 1.0)
    results: dict[str, list[dict[str, float]]] = {}

    def put(name: str, figures: dict[str, float]) -> None:
        results.setdefault(name, []).append(figures)
        headline = {key: round(figures[key], 3) for key in ("hit@10 strict", "ndcg@30 strict", "variant_hit@4")}
        click.echo(f"{name}: {headline}", err=True)

    for seed in range(seeds):
        for name in NETWORKS if seed == 0 else [each for each in NETWORKS if each != "ADDE-M"]:
            path, _ = made(base, name, steps, seed, size, work, data)
            gallery = path.with_suffix(".gallery")
            engine = Engine(build_gallery(part, gallery, path, kind="exact", replace=True).gallery)
            asked, other = queries_of(engine, color, queries, 0), queries_of(engine, color, queries // 4, 1)
            if name == "ADDE-M":
                how = Settings(ones | {"look": 0.0}, 1.0, 1.0)
                put(name, judge(engine, asked, how) | plain(engine, asked, how))
                continue
            how = chosen(engine, other, weights)
            put(name if name == "ours" else f"ours {name}", judge(engine, asked, how) | plain(engine, asked, how))
            if name != "ours":
                continue
            net, rows = checkpoint.read(path).net, np.flatnonzero(~data.validation)
            trained = engine.memory
            features, _ = embed(net, data, rows)
            engine.memory = memory.from_means(features, data.codes[rows], data.vocabulary)
            without = chosen(engine, other, weights)
            put("ours without memory training", judge(engine, asked, without) | plain(engine, asked, without))
            if seed == 0:
                put("prototype replacement", judge(engine, asked, Settings(ones, 0.0, 1.0)) | plain(engine, asked, how))
                still = Settings(weights, 1.0, 1.0, edits=False)
                put("image only", judge(engine, asked, still) | plain(engine, asked, how))
                put("image only + predicted filter", judge(engine, asked, replace(still, filtered=True)))
            engine.memory = trained
    facts = {
        "photos": len(data.ids), "gallery": len(held), "steps": steps, "size": size, "seeds": seeds, "queries": queries,
        "backbone": base.model.backbone,
    }  # fmt: skip
    (work / "compare.json").write_text(json.dumps({"facts": facts, "methods": results}, indent=1))
    click.echo(f"{facts}\n")
    click.echo(table(results))


ORDER = (
    "image only", "image only + predicted filter", "prototype replacement", "ADDE-M", "ours without attention",
    "ours without weighted losses", "ours without memory training", "ours",
)  # fmt: skip


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Markdown: a row a method, the mean over seeds and, where there are several, the lowest and highest."""
    columns = [f"hit@{k} strict" for k in KS] + ["ndcg@30 published", "ndcg@30 strict", "ndcg_edited@30 strict"]
    columns += ["ndcg_others@30 strict", *(f"variant_hit@{k}" for k in VARIANT_KS)]
    last = sorted(
        {key for each in results.values() for run in each for key in run if key.startswith(("P@1", "accuracy"))}
    )
    lines = ["| method | " + " | ".join([*columns, *last]) + " |", "|---" * (1 + len(columns) + len(last)) + "|"]
    for name in ORDER:
        runs = results[name]
        cells = []
        for column in [*columns, *last]:
            values = [run[column] for run in runs if column in run]
            spread = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread}" if values else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
