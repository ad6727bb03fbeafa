"""``fsearch train-detector``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from retrieval.commands.options import FOLDER


@click.command("train-detector")
@click.argument("config", type=FOLDER)
@click.option("--photos", type=FOLDER, required=True, help="Photos of people: photos/ and boxes.coco.json.")
@click.option("--out", type=FOLDER, help="The detector to write.  [default: runs/NAME.safetensors]")
def train_detector(config: Path, photos: Path, out: Path | None) -> None:
    """Train a detector of garments on COCO boxes and measure it on held-out photos; interrupted, it goes on.

    \b
    fsearch train-detector detector --photos street/ --out detector.safetensors
    """
    from retrieval.detection.fit import train_from

    click.echo(json.dumps(train_from(config, photos, out, progress=True), indent=1, ensure_ascii=False))
