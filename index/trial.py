"""Which index a gallery gets, found by trial on its own vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from index import approximate, tuning
from index.approximate import ApproximateIndex
from index.exact import as_float32
from index.hits import Rows
from index.projection import choose_dims
from index.recipe import Recipe, alternatives, choose, for_rows, with_copy
from index.table import Layout
from index.vectors import taken

TRIAL_ROWS, TRIAL_FROM = 30_000, 200_000


def fitted(
    mapped: npt.NDArray[np.float16],
    layout: Layout,
    weights: Mapping[str, float],
    kind: str = "auto",
    memory: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Recipe:
    """The recipe for these vectors (N, D), by trial: what is built and measured on a sample of them, not guessed.

    The projection is the narrowest that keeps neighbours (``projection.choose_dims``). "auto" builds every alternative
    that fits ``memory`` bytes over TRIAL_ROWS rows and takes the one that answers fastest at a recall@10 of 0.95, or
    comes nearest. Work grows slower than rows on a graph, and as fast in lists: such a sample flatters lists. Under
    TRIAL_FROM rows the first that fits is taken: building it takes no longer than trying all. What memory is left may
    hold a copy of the vectors (``recipe.with_copy``). CapError where none of ``kind`` fits ``memory``.
    """
    n, dim = mapped.shape
    if kind == "ivfpq":  # which codes the vectors as they are
        return with_copy(alternatives(n, dim, 0, memory, seed, kind)[0], n, dim, memory)
    sample, dims = projected(lambda rows: taken(mapped, rows), n, layout, weights, seed)
    starts = np.array([block.start for block in layout.blocks])
    fitting = alternatives(n, dim, dims, memory, seed, kind)
    if kind != "auto" or n < TRIAL_FROM:
        return with_copy(fitting[0], n, dim, memory)
    trials: list[tuple[float, float, int]] = []
    for recipe in tqdm(fitting, desc="choose", unit="recipe", disable=None if progress else True):
        index = ApproximateIndex(approximate.build(sample, for_rows(recipe, len(sample), dim), starts), sample)
        reached, ms = tuning.trial(index, layout, weights, seed)
        trials.append((-min(reached, tuning.RECALL), ms, len(trials)))
    return with_copy(fitting[min(trials)[2]], n, dim, memory)


def refuse_cap(
    take: Callable[[Rows], npt.NDArray[np.float16]],
    n: int,
    layout: Layout,
    weights: Mapping[str, float],
    kind: str,
    memory: int | None,
    seed: int = 0,
) -> None:
    """The CapError that ``fitted`` would raise for the n rows that ``take`` gives, before they are written anywhere."""
    if memory and choose(n, layout.dim, kind, seed).kind != "exact":
        dims = 0 if kind == "ivfpq" else projected(take, n, layout, weights, seed)[1]
        alternatives(n, layout.dim, dims, memory, seed, kind)


def projected(
    take: Callable[[Rows], npt.NDArray[np.float16]], n: int, layout: Layout, weights: Mapping[str, float], seed: int = 0
) -> tuple[npt.NDArray[np.float16], int]:
    """(a sample of n rows, float16 (TRIAL_ROWS, D) or all; the dimensions that ``fitted`` projects them to).

    take: rising rows -> float16 (n, D).
    """
    sample = take(np.sort(np.random.default_rng(seed).choice(n, min(n, TRIAL_ROWS), replace=False)))
    starts = np.array([block.start for block in layout.blocks])
    return sample, choose_dims(as_float32(sample), starts, layout.scale(weights), seed)
