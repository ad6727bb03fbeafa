"""How far a query's weights are from the default ones, in levels, and queries of each level made of a table's rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from index.exact import Float32, as_float32
from index.hits import Rows
from index.table import Block, Layout
from index.vectors import taken

LEVELS = (0.95, 0.8, 0.6, 0.35)  # cosines between weights, at which a level ends
ALONE = 0.99  # a block that has so much of a query's length is as good as alone
# of each kind, but of each block alone one in ALONE_OF of them; of few rows one in ASKED_OF at most, since walks do not
# meet those that ask; where some lack a block, MORE times as many are looked at
QUERIES = 128
ALONE_OF, ASKED_OF, MORE = 2, 8, 32
NEAR = ("default weights", "edited")  # the kinds of level 0
RAISED = 8  # times: what an edit changes may weigh so much more


def lengths_of(queries: Float32, starts: Sequence[int]) -> Float32:
    """The lengths of the blocks of queries (q, D), float32 (q, B), up to a factor of each query's own."""
    with np.errstate(over="ignore"):
        squares = np.add.reduceat(queries * queries, starts, axis=1)
    largest = squares.max(axis=1)
    if not ((largest < 1e30) & (largest > 1e-30)).all():
        scale = np.abs(queries).max(axis=1, initial=0, keepdims=True)
        alike = queries / np.where(scale > 0, scale, 1)
        squares = np.add.reduceat(alike * alike, starts, axis=1)
    return np.sqrt(squares)


def level_of(weights: npt.NDArray[Any], default: Sequence[float]) -> npt.NDArray[np.int64]:
    """Levels of block weights (q, B) beside the default ones (B,), int64 (q,): 0, near them, to 4; 5 + b: b alone."""
    lengths = np.sqrt((weights * weights).sum(axis=1))
    usual = np.asarray(default, weights.dtype) / np.linalg.norm(default)
    cosines = weights @ usual / np.where(lengths > 0, lengths, 1)
    levels = (cosines[:, None] < np.array(LEVELS)).sum(axis=1)
    if len(default) == 1:
        return levels
    alone = ((weights > 0).sum(axis=1) == 1) | ((levels > 0) & (weights.max(axis=1) > ALONE * lengths))
    return np.where(alone, len(LEVELS) + 1 + weights.argmax(axis=1), levels)


def queries_of(
    vectors: npt.NDArray[np.float16], layout: Layout, default: Sequence[float], rng: np.random.Generator
) -> dict[str, tuple[Float32, Rows]]:
    """Kind -> (queries (n, D), the rows of ``vectors`` (N, D) that they were made of).

    Where rows lack blocks (these are zero), more rows are looked at, and a query counts for the level at which a search
    will see it. Rows that the lack of a block takes far from the default weights are kinds of their own.
    """
    n, starts = len(vectors), [block.start for block in layout.blocks]
    asked = min(QUERIES if len(starts) > 1 else 4 * QUERIES, n // ASKED_OF)  # with one block there is one kind only
    rows = np.sort(rng.choice(n, asked, replace=False))
    whole = as_float32(taken(vectors, rows))
    if (np.add.reduceat(whole * whole, starts, axis=1) > 0).all():
        return {name: (each, own) for name, _, each, own in _made_of(vectors, rows, ALONE_OF, layout, default, rng)}
    more = np.unique(np.append(rows, rng.choice(n, min(n // ASKED_OF, MORE * asked), replace=False)))
    more = more[rng.permutation(len(more))]
    found: dict[str, tuple[Float32, Rows]] = {}
    for name, level, queries, own in _made_of(vectors, more, 1, layout, default, rng):
        there = queries.any(axis=1)
        levels = np.where(there, level_of(lengths_of(queries, starts), default), -1)
        for seen in range(len(LEVELS) + 1) if name == NEAR[0] else (level,):
            chosen = np.flatnonzero(levels == seen)[: asked // (ALONE_OF if seen > len(LEVELS) else 1)]
            if len(chosen):
                found[name if seen == level else f"level {seen}, lacking"] = queries[chosen], own[chosen]
        if name == NEAR[0] and name not in found:  # no row has all blocks, or nothing at all
            chosen = np.flatnonzero(there if there.any() else ~there)[:asked]
            found[name] = queries[chosen], own[chosen]
    return found


def _made_of(
    vectors: npt.NDArray[np.float16],
    rows: Rows,
    alone_of: int,
    layout: Layout,
    default: Sequence[float],
    rng: np.random.Generator,
) -> Iterator[tuple[str, int, Float32, Rows]]:
    """(kind, its level, queries (n, D), their rows) made of these rows, and of one in ``alone_of`` with a block alone.

    With one block only its default weight means anything.
    """
    own = as_float32(taken(vectors, rows))
    sizes = [block.stop - block.start for block in layout.blocks]
    scale = np.repeat(default, sizes).astype(np.float32)
    yield NEAR[0], 0, own * scale, rows
    if len(sizes) == 1:
        return
    donors = as_float32(taken(vectors, rng.choice(len(vectors), len(rows))))
    # the widest block says what the photo looks like: an edit changes one of the others
    narrow = [i for i, size in enumerate(sizes) if size < max(sizes)] or list(range(len(sizes)))
    others = [layout.blocks[i] for i in narrow]
    yield NEAR[1], 0, _crossed(own, donors, others, rng.integers(0, len(others), len(rows))) * scale, rows
    ways = {"": _drawn_weights(len(sizes), default, rng), ", edited": _raised(narrow, default, rng)}
    for way, drawn in ways.items():
        levels = level_of(drawn, default)
        for level in range(1, len(LEVELS) + 1):
            among = drawn[levels == level]
            if len(among):
                chosen = among[rng.integers(0, len(among), len(rows))]
                # an edit raises what it changes
                raised = (chosen / np.maximum(default, 1e-6))[:, narrow].argmax(axis=1)
                crossed = _crossed(own, donors, others, raised)
                yield f"level {level}{way}", level, crossed * np.repeat(chosen, sizes, axis=1).astype(np.float32), rows
    for i, block in enumerate(layout.blocks):
        alone = np.zeros_like(own[::alone_of])
        alone[:, block.start : block.stop] = own[::alone_of, block.start : block.stop]
        yield f"block {i} alone", len(LEVELS) + 1 + i, alone, rows[::alone_of]


def _crossed(vectors: Float32, donors: Float32, blocks: Sequence[Block], choices: npt.NDArray[np.int64]) -> Float32:
    """A copy of vectors (n, D) in which row i has block ``blocks[choices[i]]`` of row i of ``donors`` (n, D)."""
    out = vectors.copy()
    for i, choice in enumerate(choices):
        span = slice(blocks[choice].start, blocks[choice].stop)
        out[i, span] = donors[i, span]
    return out


def _drawn_weights(blocks: int, default: Sequence[float], rng: np.random.Generator, n: int = 4000) -> Float32:
    """Block weights as users set them, (n, blocks): uniform in 0..4; or the default ones, some dropped, or all times
    factors."""
    uniform = rng.uniform(0, 4, (n, blocks))
    kept = np.asarray(default) * (rng.random((n, blocks)) > rng.random((n, 1)) * 0.6)
    scaled = np.asarray(default) * np.exp(rng.standard_normal((n, blocks)))
    ways = np.stack([uniform, kept, scaled])  # (3, n, blocks)
    drawn = ways[rng.integers(0, 3, n), np.arange(n)]
    return drawn[(drawn > 0).any(axis=1)].astype(np.float32)


def _raised(narrow: Sequence[int], default: Sequence[float], rng: np.random.Generator, n: int = 4000) -> Float32:
    """The default weights with one of these blocks weighing up to RAISED times as much, (n, blocks)."""
    raised = np.tile(np.asarray(default, np.float32), (n, 1))
    raised[np.arange(n), rng.choice(narrow, n)] *= np.exp(rng.uniform(0, np.log(RAISED), n)).astype(np.float32)
    return raised
