"""What an outfit model learns: a planted rule that is known for certain, and what a trained model was measured at.

    python benchmarks/outfits.py --out outfits.json
    python benchmarks/outfits.py --model outfits.safetensors --out outfits.json

Planted outfits (retrieval/datasets/planted.py): 4,000 to learn from, 1,000 to be asked, made of the same 3,000 items.
Fill in the blank with 4 choices, distractors random or of the same kind, all of which break the rule; ROC AUC against
outfits of random items, of random items of the same kinds, and with one item swapped for one that breaks the rule. The
baselines answer the same questions in the same run. Then the swap test of explanations (docs/outfits.md). The softmax
of the scores is over a fixed pool of 1,024 items. --model adds the figures that `fsearch train-outfits` left in a file.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from index.files import atomic_write
from retrieval.datasets.planted import BLOCKS, fits, planted
from retrieval.outfits import fit, judge, model, swap
from retrieval.outfits.config import FitConfig, SizesConfig
from retrieval.outfits.train import judged


@click.command()
@click.option("--outfits", default=5000, show_default=True)
@click.option("--items", default=3000, show_default=True)
@click.option("--steps", default=700, show_default=True)
@click.option("--hidden", default=96, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--model", "trained", type=click.Path(path_type=Path), help="A file of fsearch train-outfits.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(outfits: int, items: int, steps: int, hidden: int, seed: int, trained: Path | None, out: Path) -> None:
    """Train on planted outfits, ask, write JSON."""
    made = planted(outfits, items, seed)
    learned = outfits * 4 // 5
    known, asked, styles = made.outfits[:learned], made.outfits[learned:], made.styles[learned:]
    sizes = SizesConfig(hidden=hidden, item=64, dropout=0.1)
    config = FitConfig(steps=steps, learning_rate=4e-3, seed=seed)
    net = fit.fit(made.features, [(1.0, lambda _: known)], sizes, config, progress=True)
    rows = np.random.default_rng([seed, 1]).permutation(items)[: config.pool]
    pool = fit.reference_pool(net, made.features, rows)
    aspects = {name: (name,) for name in BLOCKS}
    own = model.OutfitModel(
        net, None, None, BLOCKS, aspects, {}, pool, model.Reading(1.0, 0.0, ()), "", out, {}  # type: ignore[arg-type]
    )  # fmt: skip
    slots = np.array([item.kind for item in made.items])
    every = np.arange(items)

    def score(some: object) -> np.ndarray:
        return own.raw_rows(made.features, some)  # type: ignore[arg-type]

    scores = {
        "outfit model": score,
        "kinds seen together": judge.cooccurrence(known, slots),
        "pairwise distance": judge.closeness(made.features),
    }
    told = judged(scores, asked, every, slots, lambda number, row: bool(fits(made.items[row], styles[number])), seed)
    swaps = swap.make_swaps(
        asked, every, slots, lambda number, row: fits(made.items[row], styles[number]), ["texture", "color"], score,
        np.random.default_rng([seed, 2]),
    )  # fmt: skip
    told["explained"] = {"swaps": len(swaps)} | swap.named(own, made.features, swaps)
    facts = {"outfits": outfits, "items": items, "steps": steps, "hidden": hidden, "seed": seed, "pool": len(rows)}
    report = {"facts": facts, "planted": told}
    if trained is not None:
        read = model.read(trained)
        report["trained"] = {"fingerprint": read.fingerprint, "image": dict(read.image)} | dict(read.facts)
    atomic_write(out, json.dumps(report, indent=1, ensure_ascii=False).encode())
    click.echo(json.dumps(report, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
