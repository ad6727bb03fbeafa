"""What a training is judged by while it runs, on held-out photos: heads, same-style search, edited search."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from retrieval.config import LOOK, PARTS
from retrieval.models.memory import Memory
from retrieval.training.data import TrainingSet
from retrieval.training.edits import EditSampler

SAMPLE = 2000  # photos that the two searches compare with each other
EDITS = 500
STYLE_TOP, EDIT_TOP = 4, 10


class Outputs(NamedTuple):
    """Of some rows of a training set: raw blocks and logits by name, (n, D_b) and (n, V_a) float32."""

    blocks: dict[str, np.ndarray]
    logits: dict[str, np.ndarray]


def sample(data: TrainingSet, rows: np.ndarray, seed: int) -> np.ndarray:
    """At most SAMPLE of the rows, whole styles at a time, so that photos keep their mates."""
    if len(rows) <= SAMPLE:
        return rows
    _, number = np.unique(data.styles[rows], return_inverse=True)
    place = np.random.default_rng([seed, 2]).permutation(number.max() + 1)[number.reshape(-1)]
    return np.sort(rows[np.argsort(place, kind="stable")[:SAMPLE]])


def heads(logits: dict[str, np.ndarray], data: TrainingSet, rows: np.ndarray) -> dict[str, dict[str, float]]:
    """``accuracy``: share of labelled photos whose best value is right; ``f1``: of multi-label attributes, over all
    (photo, value) pairs, a value being said where its probability is above 0.5. Attributes without a label are left
    out."""
    found: dict[str, dict[str, float]] = {"accuracy": {}}
    for i, name in enumerate(data.vocabulary):
        known = data.codes[rows, i] >= 0
        if not known.any():
            continue
        if name in data.sets:
            said, true = logits[name][known] > 0, data.sets[name][rows][known] == 1
            both = 2 * int((said & true).sum()) / max(int(said.sum() + true.sum()), 1)
            found.setdefault("f1", {})[name] = round(both, 4)
        else:
            right = logits[name].argmax(1)[known] == data.codes[rows, i][known]
            found["accuracy"][name] = round(float(right.mean()), 4)
    return found


def style_hit(look: np.ndarray, styles: np.ndarray) -> float | None:
    """Share of photos with a mate of their style among the STYLE_TOP nearest others by look; None where none has one.

    look (n, D) raw features, styles (n,).
    """
    _, number, counts = np.unique(styles, return_inverse=True, return_counts=True)
    asked = np.flatnonzero(counts[number.reshape(-1)] > 1)
    if not len(asked):
        return None
    unit = _unit(look)
    score = unit[asked] @ unit.T
    score[np.arange(len(asked)), asked] = -np.inf
    near = np.argsort(-score, axis=1, kind="stable")[:, :STYLE_TOP]
    return round(float((styles[near] == styles[asked, None]).any(axis=1).mean()), 4)


def edit_hit(
    blocks: dict[str, np.ndarray], labels: np.ndarray, memory: Memory, multi: list[bool], seed: int
) -> float | None:
    """Share of edits of one attribute whose EDIT_TOP nearest others hold a photo with exactly the labels asked for.

    f' = f + M v, blocks of attributes made unit and weighed alike; as many as EDITS edits that some photo of the n
    answers, drawn by ``seed``; the reference is no answer. None where there is no such edit. labels: (n, W) int8.
    """
    sampler = EditSampler(labels, [len(values) for values in memory.vocabulary.values()], multi)
    drawn = sampler.draw(np.random.default_rng([seed, 3]), EDITS)
    if drawn is None:
        return None
    joined = np.concatenate([blocks[name] for name in memory.dims], axis=1)
    edited = joined[drawn.reference] + drawn.change.astype(np.float32) @ memory.matrix.T
    spans = [memory.rows(name) for name in memory.dims]
    score = np.sum([_unit(edited[:, span]) @ _unit(joined[:, span]).T for span in spans], axis=0)
    score[np.arange(len(score)), drawn.reference] = -np.inf
    near = np.argsort(-score, axis=1, kind="stable")[:, :EDIT_TOP]
    wanted = labels[drawn.reference] + drawn.change
    return round(float((labels[near] == wanted[:, None]).all(axis=2).any(axis=1).mean()), 4)


def searches(outputs: Outputs, data: TrainingSet, rows: np.ndarray, memory: Memory, seed: int) -> dict[str, float]:
    """The two searches among ``rows``, those that can be asked; outputs are of the same rows.

    The style is searched by look, and where the network has parts by both, weighed alike.
    """
    multi = [name in data.sets for name in data.vocabulary]
    style = np.concatenate([_unit(outputs.blocks[name]) for name in (LOOK, PARTS) if name in outputs.blocks], axis=1)
    found = {
        f"style hit@{STYLE_TOP}": style_hit(style, data.styles[rows]),
        f"edit hit@{EDIT_TOP}": edit_hit(outputs.blocks, data.labels()[rows], memory, multi, seed),
    }
    return {name: value for name, value in found.items() if value is not None}


def score(facts: dict[str, Any]) -> float:
    """What the best step is chosen by: the mean of head accuracy (F1 where multi-label), style hit and edit hit."""
    by_head = [*facts["accuracy"].values(), *facts.get("f1", {}).values()]
    parts = [float(np.mean(by_head))] if by_head else []
    parts += [value for name, value in facts.items() if "hit@" in name]
    return float(np.mean(parts)) if parts else 0.0


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
