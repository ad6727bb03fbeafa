"""``fsearch bench``: judge a labelled gallery, by its own labels or by a published benchmark's rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from retrieval.commands.options import FOLDER, Share, gallery

PROTOCOLS = ("in-shop", "consumer-to-shop", "alisc", "edit")  # those of retrieval.evaluation.published
POLYVORE = "polyvore"  # asks outfits, not photos
QUERIES = 3000


@click.command()
@gallery
@click.option("--topk", "-k", type=click.IntRange(1), default=4, show_default=True)
@click.option("--style", metavar="COLUMN", help="Label column with style ids.  [default: style, else variant_group]")
@click.option("--variant", metavar="COLUMN", help="Column joining one product's colors.  [default: variant_group]")
@click.option("--holdout", type=Share(), help="Ask only styles held out from training by this share.")
@click.option(
    "--protocol", type=click.Choice((*PROTOCOLS, POLYVORE)), help="A published benchmark's rules and partition instead."
)
@click.option(
    "--queries", type=click.IntRange(1), help=f"At most, for each protocol.  [default: {QUERIES}; all of a --protocol]"
)
@click.option("--outfits", type=FOLDER, help="The outfit model that --protocol polyvore asks, if not the shipped one.")
@click.option("--recall", type=Share(), help="Least recall to search for.  [default: 0.95]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", type=FOLDER, metavar="FILE", help="Write the whole report as JSON.")
@click.option("--save", type=FOLDER, metavar="FILE", help="Save a page (.html) with the best and worst queries.")
def bench(
    gallery: Path, topk: int, style: str | None, variant: str | None, holdout: float | None, protocol: str | None,
    queries: int | None, outfits: Path | None, recall: float | None, seed: int, out: Path | None, save: Path | None,
) -> None:  # fmt: skip
    """Judge a labelled gallery: edit retrieval (published and strict), variants and same style, beside baselines.

    \b
    fsearch bench --topk 4 --gallery shop.gallery --out bench.json --save bench.html
    """
    from index.files import atomic_write
    from retrieval.engine import Engine
    from retrieval.serving.sheet import checked

    if save is not None and save.suffix.lower() != ".html":  # told before the work, not after it
        raise click.UsageError("--save writes a page: give a name that ends in .html")
    if protocol is not None and (style or variant or holdout is not None or save is not None):
        raise click.UsageError("--protocol has its own partition: not with --style, --variant, --holdout or --save")
    if outfits is not None and protocol != POLYVORE:
        raise click.UsageError("--outfits is the model that --protocol polyvore asks")
    if protocol == POLYVORE and (queries is not None or recall is not None):
        raise click.UsageError("--protocol polyvore asks every outfit, and no index: not with --queries or --recall")
    for path, ending in ((out, ".json"), (save, ".html")):
        if path is not None:
            checked(path, (ending,))
    engine = Engine.open(gallery)
    if protocol == POLYVORE:
        from retrieval.stylist import ask_published

        report = ask_published(engine, outfits)
        click.echo(_outfits(report[POLYVORE]))
    elif protocol is not None:
        from retrieval.evaluation import published

        report = published.run(engine, protocol, topk, queries=queries, recall=recall, seed=seed, progress=True)
        click.echo(published.table(report))
    else:
        from retrieval.evaluation import bench as judge
        from retrieval.serving.pages import bench_table, save_bench

        report, examples = judge.run(
            engine, topk, style=style, variant=variant, holdout=holdout, queries=queries or QUERIES, recall=recall,
            seed=seed, progress=True,
        )  # fmt: skip
        click.echo(bench_table(report, topk))
    if out is not None:
        atomic_write(out, json.dumps(report, indent=1, ensure_ascii=False).encode())
        click.echo(f"wrote {out}")
    if save is not None:
        save_bench(save, engine, report, examples, topk)
        click.echo(f"saved {save}")


def _outfits(told: dict[str, Any]) -> str:
    """A line for each method: fill in the blank and AUC, "-" where nothing was asked."""
    methods = [name for name, each in told.items() if isinstance(each, dict)]
    width = max(map(len, methods))
    lines = [" " * width + "    fitb     auc"]
    for name in methods:
        cells = (f"{told[name][each]:8.3f}" if each in told[name] else f"{'-':>8}" for each in ("fitb", "auc"))
        lines.append(name.ljust(width) + "".join(cells))
    return "\n".join(
        [*lines, f"{told['questions']:,} questions of four choices, {told['pairs']:,} outfits to tell apart"]
    )
