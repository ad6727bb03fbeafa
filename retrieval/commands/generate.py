"""``fsearch generate``."""

from __future__ import annotations

from pathlib import Path

import click

from retrieval.commands.options import Share


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--photos", type=click.IntRange(1), default=3000, show_default=True, help="How many.")
@click.option("--seed", default=0, show_default=True)
@click.option("--phone", type=Share(), default=0.25, show_default=True, help="Share of phone photos.")
@click.option("--regions", is_flag=True, help="Masks, too, of what shows sleeve, neckline and length.")
def generate(out: Path, photos: int, seed: int, phone: float, regions: bool) -> None:
    """Draw garments with known attributes as an ordinary photo folder with labels.csv.

    \b
    fsearch generate garments/ --photos 3000
    """
    from retrieval.datasets import garments

    garments.generate(out, photos, seed=seed, phone_share=phone, regions=regions, progress=True)
    click.echo(f"{photos:,} photos and labels.csv in {out}")
