"""What a score says of two photos: how altered copies score, and how alike pairs of each score are, pixel by pixel.

    python benchmarks/duplicates.py GALLERY

The altered copies are of 300 photos drawn at random. The pairs are those that `fsearch duplicates` finds from 0.95 on;
their difference is the mean absolute one of 32 x 32 RGB thumbnails, in steps of 255, of 1,500 a band at most.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from PIL import Image

from retrieval.duplicates import find
from retrieval.engine import Engine
from retrieval.models.encode import encode_photos

THRESHOLDS = (0.97, 0.98, 0.985, 0.99, 0.995)
BANDS = (0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.9925, 0.995, 0.9975, 1.01)


def saved(image: Image.Image, kind: str = "PNG", quality: int = 90) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, quality=quality)
    return content.getvalue()


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


def cut(image: Image.Image, share: float) -> Image.Image:
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


ALTERED: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG 85": lambda image: saved(image, "JPEG", 85),
    "JPEG 50": lambda image: saved(image, "JPEG", 50),
    "twice the size": lambda image: saved(scaled(image, 2), "JPEG"),
    "3/4 of the size": lambda image: saved(scaled(image, 0.75), "JPEG"),
    "half the size": lambda image: saved(scaled(image, 0.5)),
    "5% brighter": lambda image: saved(image.point(lambda value: min(255, int(value * 1.05)))),
    "2% cut off each side": lambda image: saved(cut(image, 0.02)),
    "5% cut off each side": lambda image: saved(cut(image, 0.05)),
    "mirrored": lambda image: saved(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
}


@click.command()
@click.argument("gallery", type=click.Path(path_type=Path))
def main(gallery: Path) -> None:
    """Print both tables."""
    engine, rng = Engine.open(gallery), np.random.default_rng(1)
    paths = engine.gallery.columns(["path"])["path"].to_pylist()
    rows = np.sort(rng.choice(len(paths), min(300, len(paths)), replace=False))
    images = [Image.open(engine.photo_path(paths[row]) or "").convert("RGB") for row in rows]
    weights = engine.weights({})
    own = engine.gallery.vectors(rows).astype(np.float32) * engine.layout.scale(weights) / sum(weights.values())
    click.echo("altered copies   median  " + "  ".join(f">={each:g}" for each in THRESHOLDS))
    for name, alter in ALTERED.items():
        scores = (encode_photos(engine.model, [alter(image) for image in images]).units * own).sum(axis=1)
        shares = "  ".join(f"{(scores >= each).mean():.2f}" for each in THRESHOLDS)
        click.echo(f"{name}: {np.median(scores):.4f}  {shares}")

    start = time.perf_counter()
    report = find(engine, BANDS[0])
    click.echo(f"pairs found in {time.perf_counter() - start:.0f} s")
    pairs = [pair for group in report.groups for pair in group.pairs if not pair.exact]
    row_of = {key: row for row, key in enumerate(engine.gallery.columns(["id"])["id"].to_pylist())}
    thumbnails: dict[str, np.ndarray] = {}

    def thumbnail(key: str) -> np.ndarray:
        if key not in thumbnails:
            image = Image.open(engine.photo_path(paths[row_of[key]]) or "").convert("RGB")
            thumbnails[key] = np.asarray(image.resize((32, 32), Image.Resampling.BOX), np.float32)
        return thumbnails[key]

    scores = np.array([pair.score for pair in pairs])
    for low, high in zip(BANDS, BANDS[1:], strict=False):
        within = np.flatnonzero((scores >= low) & (scores < high))
        some = rng.permutation(within)[:1500]
        apart = np.array([np.abs(thumbnail(pairs[i].id) - thumbnail(pairs[i].other)).mean() for i in some])
        click.echo(
            f"pairs from {low:g} to {min(high, 1):g}: {len(within):,}, differ by {np.median(apart):.1f} (median), "
            f"under 2: {(apart < 2).mean():.2f}, under 4: {(apart < 4).mean():.2f}"
        )


if __name__ == "__main__":
    main()
