"""``fsearch data``: published data sets."""

from __future__ import annotations

import json
from pathlib import Path

import click

from retrieval.commands.options import FOLDER

NAMES = ("in-shop", "consumer-to-shop", "deepfashion", "fashionai", "alisc", "polyvore", "edit", "products")


@click.group()
def data() -> None:
    """Look at published data sets, which build-index and train read as they come.

    \b
    fsearch data check in-shop In-shop/
    """


@data.command()
@click.argument("name", type=click.Choice(NAMES))
@click.argument("root", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(name: str, root: Path, as_json: bool) -> None:
    """Say what a folder holds of a published data set, what is missing, and what the published set counts.

    \b
    fsearch data check in-shop In-shop/ --json
    """
    from retrieval.evaluation import checks

    report = checks.check(name, root)
    click.echo(json.dumps(report, indent=1, ensure_ascii=False) if as_json else checks.text(report))
