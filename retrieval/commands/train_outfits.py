"""fsearch train-outfits: the outfit model of a gallery's image model."""

from __future__ import annotations

import json
from pathlib import Path

import click

FOLDER = click.Path(path_type=Path)


@click.command("train-outfits")
@click.argument("config", type=FOLDER)
@click.option(
    "--gallery", "-g", type=FOLDER, envvar="FSEARCH_GALLERY", default="gallery", show_default=True,
    help="The catalogue, with its labels and titles; its image model is the one that this model will belong to.",
)  # fmt: skip
@click.option("--worn", type=FOLDER, help="Photos of people: photos/, boxes.coco.json and, if there is such, regions/.")
@click.option("--sequences", type=FOLDER, help="Which categories were worn together: train_*.json, category_id.txt.")
@click.option("--polyvore", type=FOLDER, help="The Polyvore data set, whose photos the gallery holds; asked, too.")
@click.option("--out", type=FOLDER, help="The model to write.  [default: runs/NAME.safetensors]")
def train_outfits(
    config: Path, gallery: Path, worn: Path | None, sequences: Path | None, polyvore: Path | None, out: Path | None
) -> None:
    """Train what goes with what, and words for photos, on a gallery and on outfits, and print what it was measured at.

    \b
    fsearch train-outfits outfits --gallery shop.gallery --worn street/ --sequences outfits/ --out outfits.safetensors
    """  # fmt: skip
    from retrieval.stylist import train_from

    facts = train_from(config, gallery, worn, sequences, out, progress=True, polyvore=polyvore)
    click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
