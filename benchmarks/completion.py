"""Outfits completed and grown from a gallery of a million items, beside scoring every item of the slot in a loop.

    OMP_NUM_THREADS=1 python benchmarks/completion.py --items 1000000 --work FOLDER --out completion.json

Items are planted ones (retrieval.datasets.planted: shape, texture and color, 72 dimensions); the outfit model is
trained on outfits of 3,000 others, as in benchmarks/outfits.py. Timed is what users call, ``Stylist.complete`` and
``generate``: query vector, one search of the gallery's index among the rows of the slot, candidates scored in their
outfit, ids and labels joined. The loop scores the outfit with every item of the slot in its place, ``--sample`` of them
(read at once, 512 outfits a batch), and is extrapolated to all. For ``--whole`` outfits it does score every item: how
many score above the one that the index led to? Times are processor time, of all
threads together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import process_time as clock
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.create import create
from index.files import atomic_write
from index.gallery import Gallery
from index.table import PREDICTED, fixed_size_list
from retrieval.datasets.planted import BLOCKS, KINDS, Item, fits, planted, stream
from retrieval.engine import Engine
from retrieval.outfits import fit, model
from retrieval.outfits.config import FitConfig, OutfitConfig, SizesConfig
from retrieval.outfits.text import TextNet, Words
from retrieval.stylist import Piece, Stylist

KIND = "kind"


def tables(items: int, seed: int) -> Iterator[pa.Table]:
    """The items as Arrow tables of a gallery: id, kind (given and, all the same, predicted), cloth, hue, vector."""
    at = 0
    for codes, features in stream(items, seed):
        kinds = pa.array(KINDS).take(pa.array(codes[:, 0]))
        yield pa.table(
            {
                "id": [f"item-{at + i:07d}" for i in range(len(codes))], KIND: kinds, PREDICTED + KIND: kinds,
                "cloth": pa.array(codes[:, 1]), "hue": pa.array(codes[:, 2]), "embedding": fixed_size_list(features),
            }
        )  # fmt: skip
        at += len(codes)


def trained(path: Path, steps: int, seed: int) -> list[tuple[tuple[Piece, ...], tuple[int, int]]]:
    """Write an outfit model of planted outfits; returns outfits that it has not seen, with their styles."""
    made = planted(5000, 3000, seed)
    known = made.outfits[:4000]
    sizes, config = SizesConfig(hidden=96, item=64, dropout=0.1), FitConfig(steps=steps, learning_rate=4e-3, seed=seed)
    net = fit.fit(made.features, [(1.0, lambda _: known)], sizes, config, progress=True)
    pool = fit.reference_pool(net, made.features, np.random.default_rng([seed, 1]).permutation(3000)[: config.pool])
    words = Words(TextNet(1, 4, sum(BLOCKS.values())), ["item"])
    slots = OutfitConfig(name="planted", model=sizes, training=config, slots={kind: (kind,) for kind in KINDS})
    slots = slots.model_copy(update={"text": slots.text.model_copy(update={"dim": 4})})
    aspects = {name: (name,) for name in BLOCKS}
    image = {"name": "planted", "fingerprint": ""}  # that of a gallery made of vectors
    model.write(path, net, words, slots, BLOCKS, aspects, image, pool, model.Reading(1.0, 0.0, ()), {}, {})
    return [
        (
            tuple(
                Piece(str(row), KINDS[made.items[row].kind], None, made.features[row].astype(np.float32))
                for row in outfit
            ),
            style,
        )
        for outfit, style in zip(made.outfits[4000:], made.styles[4000:], strict=True)
    ]


def opened(path: Path, items: int, kind: str, seed: int, outfits: Path) -> Stylist:
    """The gallery, built where it is not there (remove it to change the seed or the index), and a stylist at it."""
    if not path.exists() or Gallery.open(path).manifest.rows != items:
        dims = dict(BLOCKS)
        gallery = create(path, tables(items, seed), blocks=dims, kind=kind, seed=seed, replace=path.exists())
        gallery.commit(replace(gallery.manifest, attributes={KIND: list(KINDS)}))
    return Stylist(Engine.open(path), outfits)


def every_score(
    stylist: Stylist, rest: list[Piece], slot: str, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:  # fmt: skip
    """The raw score of the outfit with each of these gallery rows in its place: the loop."""
    assert stylist.engine is not None
    at = sum(stylist.slots.place(piece.slot) < stylist.slots.place(slot) for piece in rest)
    own = np.stack([piece.features for piece in rest])
    features = stylist.engine.gallery.vectors(rows).astype(np.float32)
    return stylist.model.raw([np.insert(own, at, each, axis=0) for each in features])


@click.command()
@click.option("--items", default=1_000_000, show_default=True)
@click.option("--kind", default="graph", show_default=True, help="Of index.")
@click.option("--outfits", default=60, show_default=True, help="Asked.")
@click.option("--sample", default=5000, show_default=True, help="Items that the loop scores.")
@click.option("--whole", default=3, show_default=True, help="Outfits for which it scores all.")
@click.option("--steps", default=700, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    items: int, kind: str, outfits: int, sample: int, whole: int, steps: int, seed: int, work: Path, out: Path
) -> None:
    """Build, ask, write JSON."""
    work.mkdir(parents=True, exist_ok=True)
    asked = trained(work / "planted.safetensors", steps, seed)[:outfits]
    opened(work / "completion.gallery", items, kind, seed, work / "planted.safetensors")
    start = clock()
    stylist = Stylist(Engine.open(work / "completion.gallery"), work / "planted.safetensors")
    holes = [int(np.random.default_rng([seed, 3, i]).integers(len(pieces))) for i, (pieces, _) in enumerate(asked)]
    rests = [[*pieces[:at], *pieces[at + 1 :]] for (pieces, _), at in zip(asked, holes, strict=True)]
    slots = [pieces[at].slot for (pieces, _), at in zip(asked, holes, strict=True)]
    stylist.complete(rests[0], slots[0])
    first = clock() - start
    seconds, grown, loop, kept, loop_kept = [], [], [], [], []
    found = []
    for rest, slot, (_, style) in zip(rests, slots, asked, strict=True):
        start = clock()
        best = stylist.complete(rest, slot, topk=1)[0]
        seconds.append(clock() - start)
        chosen = next(piece for piece in best.pieces if piece.id is not None)
        found.append(chosen)
        kept.append(not fits(item_of(stylist, chosen.id), style))
        start = clock()
        stylist.generate(rest[:1])
        grown.append(clock() - start)
    rng = np.random.default_rng([seed, 4])
    for rest, slot, (_, style) in list(zip(rests, slots, asked, strict=True))[: max(whole, 10)]:
        rows = stylist._rows_of((slot,))
        some = rng.choice(rows, min(sample, len(rows)), replace=False)
        start = clock()
        scores = every_score(stylist, rest, slot, some)
        loop.append((clock() - start) / len(some) * len(rows))
        loop_kept.append(not fits(item_at(stylist, int(some[scores.argmax()])), style))
    above, took = [], []
    for rest, slot, chosen in list(zip(rests, slots, found, strict=True))[:whole]:
        rows = stylist._rows_of((slot,))
        own = every_score(stylist, rest, slot, np.array([stylist.engine.gallery.row_of(chosen.id)]))  # type: ignore[union-attr]
        start = clock()
        better = sum(
            int((every_score(stylist, rest, slot, rows[i : i + 20_000]) > own[0] + 1e-6).sum())
            for i in range(0, len(rows), 20_000)
        )
        took.append(clock() - start)
        above.append(better)
    told: dict[str, Any] = {
        "facts": {
            "items": items, "index": kind, "outfits": len(asked), "sample": sample, "whole": whole, "steps": steps,
            "seed": seed, "items of a slot": int(len(stylist._rows_of((slots[0],)))), "dim": sum(BLOCKS.values()),
        },
        "open and first completion, s": round(first, 3),
        "completion, ms": round(1000 * float(np.median(seconds)), 2),
        "completion, slowest, ms": round(1000 * max(seconds), 2),
        "generation of 5, ms": round(1000 * float(np.median(grown)), 2),
        "loop, extrapolated, s": round(float(np.median(loop)), 2),
        "loop, whole, s": [round(each, 2) for each in took],
        "loop / completion": round(float(np.median(loop) / np.median(seconds)), 1),
        "best keeps the rule": round(float(np.mean(kept)), 3),
        "best of the loop's sample keeps the rule": round(float(np.mean(loop_kept)), 3),
        "items that score above the chosen one": above,
    }  # fmt: skip
    atomic_write(out, json.dumps(told, indent=1).encode())
    click.echo(json.dumps(told, indent=1))


def item_of(stylist: Stylist, name: str | None) -> Item:
    """What a gallery row was planted as."""
    assert stylist.engine is not None
    return item_at(stylist, stylist.engine.gallery.row_of(str(name)))


def item_at(stylist: Stylist, row: int) -> Item:
    """What a gallery row was planted as."""
    assert stylist.engine is not None
    (said,) = stylist.engine.gallery.take(np.array([row]), [KIND, "cloth", "hue"]).to_pylist()
    return Item(KINDS.index(said[KIND]), int(said["cloth"]), int(said["hue"]))


if __name__ == "__main__":
    main()
