"""fsearch mine: a network trained on shop photos made to fit photos of another kind, without labels of these."""

from __future__ import annotations

from pathlib import Path

import click

from retrieval.commands.options import FOLDER


@click.command()
@click.argument("config", type=FOLDER)
@click.option("--photos", type=FOLDER, help="The labelled source, as for train.  [default: the config's data.photos]")
@click.option("--labels", type=FOLDER, help="As for build-index.  [default: the config's data.labels]")
@click.option("--target", type=FOLDER, required=True, help="Photos of the other kind; their labels are not learned.")
@click.option("--truth", metavar="COLUMN", help="A style column of the target, to judge by: its held-out part decides.")
@click.option("--model", help="The checkpoint to begin from.  [default: one trained by the config on the source]")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="At most; stops without a gain.")
@click.option("--out", type=FOLDER, help="The checkpoint to write.  [default: runs/NAME.safetensors]")
def mine(
    config: Path, photos: Path | None, labels: Path | None, target: Path, truth: str | None, model: str | None,
    rounds: int, out: Path | None,
) -> None:  # fmt: skip
    """Fit a network to unlabelled photos by pseudo labels from its own search, round by round; interrupted, it goes on.

    \b
    fsearch mine generated --photos shop/ --target phone/ --out fitted.safetensors
    """
    from retrieval.mining import mine as run

    report = run(
        config, target, photos=photos, labels=labels, truth=truth, model=model, rounds=rounds, out=out,
        progress=True, say=click.echo,
    )  # fmt: skip
    click.echo(f"round {report['best']} is the best: {report['checkpoint']}")
