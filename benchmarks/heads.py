"""Precision of every attribute head on labelled photos, as FashionAI counts: what has a probability above 0.6 is told.

    python benchmarks/heads.py MODEL PHOTOS [--labels FILE] [--holdout 0.1] [--out heads.json]

PHOTOS is anything that `fsearch build-index` reads. Labels are the model's own attribute columns. Values named in a
column ``maybe`` (joined by ";": FashionAI's m) count as had or not with probability one half.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import torch

from index.errors import PhotoError
from index.files import atomic_write
from retrieval import photos
from retrieval.datasets.letters import targets, values_in, written
from retrieval.datasets.readers import open_photos
from retrieval.datasets.splits import held_out
from retrieval.evaluation.metrics import told
from retrieval.models import checkpoint

THRESHOLD = 0.6
FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("model")
@click.argument("folder", type=FOLDER, metavar="PHOTOS")
@click.option("--labels", type=FOLDER)
@click.option("--holdout", type=float, help="Only photos that a training with this data.holdout has not seen.")
@click.option("--seed", default=0, show_default=True, help="Of the m labels.")
@click.option("--out", type=FOLDER)
@torch.inference_mode()
def main(model: str, folder: Path, labels: Path | None, holdout: float | None, seed: int, out: Path | None) -> None:
    """Print a line for each attribute."""
    network = checkpoint.read(model)
    records = list(open_photos(folder, labels))
    if holdout is not None:
        columns = network.config.data.style
        groups = [next((v for c in columns if (v := r.attributes.get(c))), None) for r in records]
        kept = held_out(groups, [r.id for r in records], holdout)
        records = [record for record, held in zip(records, kept, strict=True) if held]
    multi = {name for name, attribute in network.config.model.attributes.items() if attribute.multi}
    said: dict[str, list[np.ndarray]] = {name: [] for name in network.vocabulary}
    known = []
    for start in range(0, len(records), 64):
        batch = []
        for record in records[start : start + 64]:
            try:
                batch.append(photos.load(record.source, network.config.model.input_size).pixels)
                known.append(record)
            except PhotoError as error:
                click.echo(f"left out: {record.id}: {error.reason}", err=True)
        if batch:
            logits = network.net(torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)).logits
            for name, each in logits.items():
                said[name].append((torch.sigmoid(each) if name in multi else torch.softmax(each, 1)).numpy())
    report = {}
    for name, values in network.vocabulary.items():
        probability = np.concatenate(said[name])
        maybe = [values_in(r.attributes.get("maybe")) for r in known]
        cells = [r.attributes.get(name) for r in known]
        has = [values_in(cell) if name in multi else [cell] for cell in cells]
        target = targets([written(values, *both) for both in zip(has, maybe, strict=True)], seed)
        asked = (target >= 0).any(axis=1)
        dared, right = told(probability.astype(np.float64), target, THRESHOLD)
        best = target[np.arange(len(target)), probability.argmax(axis=1)]
        report[name] = {
            "photos": int(asked.sum()),
            "accuracy": round(float((best[asked] == 1).mean()), 4) if asked.any() else None,
            "precision": round(float(right.sum() / dared.sum()), 4) if dared.any() else None,
            "told": round(float(dared[asked].any(axis=1).mean()), 4) if asked.any() else None,
        }
        shown = {k: v for k, v in report[name].items() if v is not None}
        click.echo(
            f"{name:<16} " + "  ".join(f"{k} {v:.3f}" if k != "photos" else f"{k} {v:,}" for k, v in shown.items())
        )
    if out is not None:
        atomic_write(out, json.dumps(report, indent=1).encode())


if __name__ == "__main__":
    main()
