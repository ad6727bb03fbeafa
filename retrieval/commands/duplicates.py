"""``fsearch duplicates``: photos that are nearly the same."""

from __future__ import annotations

from pathlib import Path

import click

from retrieval.commands.options import FOLDER, INTERRUPTED, RESUMES, Share, gallery


@click.command()
@gallery
@click.option("--threshold", type=Share(min_open=True), help="The least score.  [default: 0.99]")
@click.option("--weight", multiple=True, metavar="NAME=NUMBER", help="Factor on a block's weight, such as color=2.")
@click.option("--out", type=FOLDER, metavar="FILE", help="Write every pair: .csv, .parquet or .json.")
@click.option("--save", type=FOLDER, metavar="FILE", help="Save the largest groups as pictures: .html or .png.")
@click.pass_context
def duplicates(
    ctx: click.Context, gallery: Path, threshold: float | None, weight: tuple[str, ...], out: Path | None,
    save: Path | None,
) -> None:  # fmt: skip
    """Find photos that are nearly the same, and groups of them; interrupted, it goes on from a file beside --out.

    \b
    fsearch duplicates --gallery shop.gallery --out duplicates.csv --save duplicates.html
    """
    from index.files import remove
    from retrieval import query as q
    from retrieval.duplicates import THRESHOLD, find
    from retrieval.engine import Engine
    from retrieval.serving.duplicates import ENDINGS, save_groups, save_pairs, summary
    from retrieval.serving.sheet import checked

    if out is not None:
        checked(out, ENDINGS)
    if save is not None:
        checked(save)
    wanted = out or save
    part = wanted.with_name(f"{wanted.name}.part") if wanted else None
    engine, weights = Engine.open(gallery), q.weights_of(weight)
    ctx.meta[INTERRUPTED] = RESUMES if part else f"nothing was kept: with --out FILE or --save FILE {RESUMES}"
    report = find(engine, THRESHOLD if threshold is None else threshold, weights, part=part, progress=True)
    click.echo(summary(report))
    if out is not None:
        save_pairs(out, report)
        click.echo(f"wrote {out}")
    if save is not None:
        save_groups(save, engine, report)
        click.echo(f"saved {save}")
    if part is not None:
        remove(part)
