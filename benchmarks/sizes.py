"""Accuracy against speed: networks, and one network at several photo sizes, on the held-out part of a labelled folder.

    python benchmarks/sizes.py PRODUCTS --model products --size 64 --size 80 --size 96 --size 112 --size 128

For each: photos a second of one core (CPU time, one thread, in turn), in float32 and, where the processor has it,
in bfloat16 with the least cosine between the two; accuracy of the heads; P@1 of each of the first two attributes by its
own block, leaving the photo out; and the disk the weights take.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np
import torch
from tqdm import tqdm

from retrieval import photos
from retrieval.datasets.readers import open_photos
from retrieval.datasets.splits import held_out
from retrieval.models import checkpoint
from retrieval.models.encode import BATCH, Encoded, encode


def rate(model: checkpoint.Model, pixels: np.ndarray, seconds: float = 3.0) -> float:
    """Photos a second of CPU time on ready pixels."""
    encode(model, pixels[:BATCH])
    start, done = time.process_time(), 0
    while time.process_time() - start < seconds:
        encode(model, pixels[done % len(pixels) :][:BATCH])
        done += len(pixels[done % len(pixels) :][:BATCH])
    return done / (time.process_time() - start)


def whole(model: checkpoint.Model, pixels: np.ndarray) -> Encoded:
    parts = [encode(model, pixels[at : at + BATCH]) for at in range(0, len(pixels), BATCH)]
    said = {name: [v for part in parts for v in part.predicted[name]] for name in parts[0].predicted}
    return Encoded(np.concatenate([p.units for p in parts]), np.concatenate([p.norms for p in parts]), said, {})


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--model", "names", multiple=True, default=["products"], show_default=True)
@click.option("--size", "sizes", multiple=True, type=int, help="Photo sides.  [default: each model's own]")
@click.option("--style", default="variant_group", show_default=True)
@click.option("--holdout", default=0.1, show_default=True)
def main(folder: Path, names: tuple[str, ...], sizes: tuple[int, ...], style: str, holdout: float) -> None:
    """Print a line for each network and size."""
    torch.set_num_threads(1)
    source = open_photos(folder)
    listed = list(source)
    groups = [photo.attributes.get(style) for photo in listed]
    held = [p for p, h in zip(listed, held_out(groups, [p.id for p in listed], holdout), strict=True) if h]
    click.echo(f"{len(held):,} held-out photos")
    for name in names:
        model = checkpoint.read(name)
        size_mb = model.path.stat().st_size / 1e6
        for size in sizes or (model.config.model.input_size,):
            pixels = np.stack([photos.load(p.source, size).pixels for p in tqdm(held, f"{size} px", leave=False)])
            model.net.quick = False
            plain, speed = whole(model, pixels), rate(model, pixels)
            line = f"{name} {model.config.model.backbone} {size} px, {size_mb:.1f} MB: {speed:,.0f}/s a core"
            if checkpoint.has_bfloat16():
                model.net.quick = True
                quick, faster = whole(model, pixels), rate(model, pixels)
                line += f", bfloat16 {faster:,.0f}/s ({faster / speed:.2f} times)"
                start, least = 0, 1.0
                for width in [model.config.model.branches * model.config.model.branch_dim, *model.memory.dims.values()]:
                    span = slice(start, start + width)
                    least = min(least, float((plain.units[:, span] * quick.units[:, span]).sum(axis=1).min()))
                    start += width
                line += f", least cosine of a block {least:.4f}"
            for attribute, values in model.vocabulary.items():
                truth = np.array([p.attributes.get(attribute) or "" for p in held])
                known = np.isin(truth, values)
                line += f"; {attribute} {(np.array(plain.predicted[attribute]) == truth)[known].mean():.3f}"
            start = plain.units.shape[1] - sum(model.memory.dims.values())
            for attribute, width in list(model.memory.dims.items())[:2]:
                block = plain.units[:, start : start + width]
                start += width
                truth = np.array([p.attributes.get(attribute) or "" for p in held])
                near = block @ block.T
                np.fill_diagonal(near, -2)
                line += f"; P@1 {attribute} {(truth[near.argmax(axis=1)] == truth)[truth != ''].mean():.3f}"
            click.echo(line)


if __name__ == "__main__":
    main()
