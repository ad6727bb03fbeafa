"""fsearch info: what a gallery holds."""

from __future__ import annotations

import json
from pathlib import Path

import click

from retrieval.commands import options


@click.command()
@options.gallery
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(gallery: Path, as_json: bool) -> None:
    """Say what a gallery holds: photos, blocks, attributes, model, index and its measured recall.

    \b
    fsearch info --gallery shop.gallery
    """
    from retrieval.engine import Engine

    facts = Engine.open(gallery).info()
    if as_json:
        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    for name, value in facts.items():
        click.echo(f"{name:<11} {value if not isinstance(value, dict) else ''}".rstrip())
        for key, inner in value.items() if isinstance(value, dict) else ():
            click.echo(f"  {key:<20} {inner}")
