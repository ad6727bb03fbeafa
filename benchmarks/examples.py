"""Ten edited queries taken at random from the held-out photos of a labelled gallery, as one picture to look at.

    python benchmarks/examples.py --gallery products.gallery --out ten.png --color baseColour --type articleType

Half of them set the color, half the type, each to a value that a photo of the same kind has. Nothing is picked by its
results: the seed alone decides.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from retrieval.datasets.splits import held_out
from retrieval.engine import Engine
from retrieval.evaluation import protocols
from retrieval.evaluation.bench import Labelled
from retrieval.serving.sheet import Row, Tile, save_sheet


def tile(engine: Engine, path: str | None, name: str, lines: list[str], tone: str = "") -> Tile:
    return Tile(engine.photo_path(path), name, tuple(lines), tone)


@click.command()
@click.option("--gallery", "-g", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help=".png or .html")
@click.option("--color", required=True, help="The attribute of color.")
@click.option("--type", "kind", required=True, help="The attribute of garment type.")
@click.option("--variant", default="variant_group", show_default=True, help="Column by which photos were held out.")
@click.option("--holdout", default=0.1, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(gallery: Path, out: Path, color: str, kind: str, variant: str, holdout: float, seed: int) -> None:
    engine = Engine.open(gallery)
    labelled = Labelled.of(engine.gallery)
    groups = engine.gallery.columns([variant])[variant].to_pylist()
    every = np.arange(len(groups))
    asked = every[held_out(groups, labelled.ids, holdout)]
    edits = protocols.edit_queries(labelled.codes, asked, every, [len(v) for v in labelled.values], None, seed)
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(10):
        attribute = (color, kind)[number % 2]
        at = labelled.attributes.index(attribute)
        pick = int(rng.choice(np.flatnonzero(edits.attribute == at)))
        name, value = labelled.ids[edits.row[pick]], labelled.values[at][edits.value[pick]]
        result = engine.query(like=name, set={attribute: value}, topk=6)
        query = engine.describe([int(edits.row[pick])])[0]
        shown = [f"{each}: {query.attributes[each]}" for each in (kind, color)]
        results = tuple(
            tile(engine, hit.path, hit.id, [f"{each}: {hit.attributes[each]}" for each in (kind, color)])
            for hit in result.hits
        )
        edit = result.edits[0]
        heading = f"{edit.attribute}: {edit.old} -> {edit.new}"
        rows.append(Row(heading, tile(engine, query.path, query.id, shown, "query"), results, edited=(attribute,)))
    facts = {"gallery": f"{gallery.name}, {engine.gallery.manifest.photos:,} photos", "seed": str(seed)}
    save_sheet(out, rows, "Ten edited queries, drawn at random", facts)
    click.echo(f"saved {out}")


if __name__ == "__main__":
    main()
