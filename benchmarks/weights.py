"""Choose a model's default block weights on held-out styles: coordinate ascent on what the bench reports.

    python benchmarks/weights.py --gallery shop.gallery --holdout 0.1

Scores are sums over blocks, so the similarities of each block are computed once and every candidate is a weighted sum
of them: exact search, no index. Prints the weights for the ``search`` section of the config. The objective is the mean
of variant hit@4, variant hit@10 and strict tuple hit@10 of the edit protocol (docs/evaluation.md).
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from retrieval import query as q
from retrieval.datasets.splits import held_out
from retrieval.engine import Engine
from retrieval.evaluation import protocols
from retrieval.evaluation.bench import Labelled
from retrieval.query import Edit

STEPS = (0.5, 0.7, 1.4, 2.0)
FLOOR = 0.2  # a block without weight could not be edited: rare attributes would lose it all
KEEPS = (1.0, 0.5, 0.25, 0.0)


def block_scores(engine: Engine, rows: np.ndarray, edits: list[list[Edit]], keep: float) -> np.ndarray:
    """Cosines of each edited query with each gallery row, by block: (B, Q, N) float16."""
    layout = engine.layout
    everything = np.asarray(engine.index.vectors, np.float32)
    raw = q.edited(q.raw_blocks(everything[rows], engine.gallery.norms(rows), layout), edits, engine.memory, keep)
    queries = q.vectors(raw, layout, np.ones((len(rows), len(layout.blocks)), np.float32))
    scores = np.stack([queries[:, b.start : b.stop] @ everything[:, b.start : b.stop].T for b in layout.blocks])
    scores[:, np.arange(len(rows)), rows] = -9  # the reference is taken out
    return scores.astype(np.float16)


def top(scores: np.ndarray, weights: np.ndarray, k: int = 11) -> np.ndarray:
    """Rows of the k best under (Q, B) weights, best first; (Q, k)."""
    total = np.einsum("qb,bqn->qn", weights.astype(np.float32), scores, dtype=np.float32, optimize=True)
    best = np.argpartition(-total, k, axis=1)[:, :k]
    return np.take_along_axis(best, np.argsort(-np.take_along_axis(total, best, 1), axis=1), 1)


@click.command()
@click.option("--gallery", "-g", type=click.Path(path_type=Path), required=True)
@click.option("--holdout", default=0.1, show_default=True)
@click.option("--queries", default=500, show_default=True)
@click.option("--variant", default="variant_group", show_default=True)
@click.option("--color", required=True, help="The attribute in which variants differ.")
@click.option("--seed", default=1, show_default=True, help="Another one than the bench's, so that it asks others.")
def main(gallery: Path, holdout: float, queries: int, variant: str, color: str, seed: int) -> None:
    """Print the best weights found and the objective before and after."""
    engine = Engine.open(gallery)
    labelled = Labelled.of(engine.gallery)
    groups = engine.gallery.columns([variant])[variant].to_pylist()
    every = np.arange(len(groups))
    styles = [column for column in ("style",) if column in engine.gallery.manifest.labels]
    looks = engine.gallery.columns(styles)["style"].to_pylist() if styles else [None] * len(groups)
    asked = every[held_out([a or b for a, b in zip(groups, looks, strict=True)], labelled.ids, holdout)]
    at, names = labelled.attributes.index(color), list(engine.layout.names)
    sizes = [len(values) for values in labelled.values]
    variants = protocols.variant_queries(groups, labelled.codes[:, at], asked, every, queries, seed)
    tuples = protocols.edit_queries(labelled.codes, asked, every, sizes, queries, seed)

    def edit(row: int, attribute: int, value: int) -> list[Edit]:
        old = labelled.codes[row, attribute]
        values = labelled.values[attribute]
        return [Edit(labelled.attributes[attribute], values[value], values[old] if old >= 0 else None)]

    asks = [
        (variants.row, np.full(len(variants.row), at), variants.color),
        (tuples.row, tuples.attribute, tuples.value),
    ]
    edits = [[edit(*map(int, each)) for each in zip(*ask, strict=True)] for ask in asks]
    changed = [np.array([names.index(labelled.attributes[int(i)]) for i in a]) for _, a, _ in asks]

    scored: list[np.ndarray] = []

    def judge(weights: dict[str, float]) -> tuple[float, dict[str, float]]:
        base = np.array([weights[name] for name in names])
        found = []
        for scores, blocks in zip(scored, changed, strict=True):
            each = np.repeat(base[None], len(blocks), axis=0)
            each[np.arange(len(blocks)), blocks] *= weights["edited"]
            found.append(top(scores, each))
        figures = {k: float(v.mean()) for k, v in protocols.variant_values(variants, found[0], [4, 10]).items()}
        values = protocols.edit_values(labelled.codes, tuples, found[1], every, [4, 10], "strict")
        figures |= {k: float(v.mean()) for k, v in values.items()}
        aim = ("variant_hit@4", "variant_hit@10", "hit@10")
        return float(np.mean([figures[name] for name in aim])), figures

    manifest = engine.gallery.manifest
    weights = {name: manifest.weights.get(name, 1.0) for name in names} | {"edited": engine.edited}
    trials = {}
    for keep in KEEPS:
        scored[:] = [block_scores(engine, ask[0], wanted, keep) for ask, wanted in zip(asks, edits, strict=True)]
        trials[keep] = judge(weights)
        click.echo(f"keep {keep:g}: {trials[keep][0]:.4f} {_said(trials[keep][1])}")
    keep = max(trials, key=lambda each: trials[each][0])
    scored[:] = [block_scores(engine, ask[0], wanted, keep) for ask, wanted in zip(asks, edits, strict=True)]
    best, figures = trials[keep]
    for sweep in range(2):
        before = best
        for name in weights:
            for factor in STEPS:
                trial = weights | {name: max(weights[name] * factor, FLOOR)}
                score, trial_figures = judge(trial)
                if score > best + 1e-6:
                    best, weights, figures = score, trial, trial_figures
        click.echo(f"sweep {sweep + 1}: {best:.4f} {_said(figures)}")
        if best <= before + 1e-4:
            break
    click.echo(f"  keep: {keep:g}")
    scale = 1 / weights[names[0]] if weights[names[0]] else 1.0
    for name, weight in weights.items():
        click.echo(f"  {name}: {weight * (1 if name == 'edited' else scale):.3g}")


def _said(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in figures.items())


if __name__ == "__main__":
    main()
