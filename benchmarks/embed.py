"""Photos a second of the whole embedding pipeline, as a share of what the network alone reaches on ready tensors.

    python benchmarks/embed.py [PHOTOS_FOLDER] [--model NAME] [--rounds N]

Both are measured in turn in one run, so that the ratio holds on a machine whose speed drifts. Without a folder it draws
garments (120 x 160 JPEGs). The aim is a median ratio of 0.90.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from retrieval import embed, photos
from retrieval.datasets import garments
from retrieval.datasets.readers import PhotoSource, open_photos
from retrieval.models import checkpoint
from retrieval.models.checkpoint import Model
from retrieval.models.encode import BATCH, encode


def network_alone(model: Model, pixels: np.ndarray, count: int) -> float:
    """Photos a second of the network on tensors that are ready."""
    start = time.perf_counter()
    for _ in range(count // BATCH):
        encode(model, pixels)
    return count // BATCH * BATCH / (time.perf_counter() - start)


def pipeline(model: Model, source: PhotoSource, rows: int) -> float:
    """Photos a second from files on disk to a finished Parquet table."""
    folder = Path(tempfile.mkdtemp())
    try:
        start = time.perf_counter()
        embed.embed(source, rows, list(source.attributes), model, folder, {"model": model.fingerprint})
        return rows / (time.perf_counter() - start)
    finally:
        shutil.rmtree(folder)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--model", default=None)
@click.option("--rounds", default=5, show_default=True)
@click.option("--photos", "most", default=3000, show_default=True)
def main(folder: Path | None, model: str | None, rounds: int, most: int) -> None:
    """Print both rates and their ratio for each round, then the medians."""
    network = checkpoint.read(model)
    with tempfile.TemporaryDirectory() as drawn:
        source = open_photos(folder or garments.generate(Path(drawn) / "garments", most))
        rows = min(most, len(source))
        source = PhotoSource(source.root, source.rows.slice(0, rows), (), source.packed)
        some = [photo.source for photo in source][:BATCH]
        pixels = np.stack([photos.load(each, network.config.model.input_size).pixels for each in some])
        network_alone(network, pixels, 4 * BATCH)  # warm up
        ratios = []
        for number in range(rounds):
            alone, whole = network_alone(network, pixels, rows), pipeline(network, source, rows)
            ratios.append(whole / alone)
            click.echo(f"round {number + 1}: network {alone:,.0f}/s, pipeline {whole:,.0f}/s, ratio {ratios[-1]:.3f}")
    click.echo(f"median ratio {statistics.median(ratios):.3f} over {rounds} rounds of {rows:,} photos")


if __name__ == "__main__":
    main()
