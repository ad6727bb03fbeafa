"""Whether an index still suits its rows: its recall on those that came after it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from index.exact import as_float32
from index.exact import search as exact_search
from index.hits import Hits, Rows, rank_keys, recall
from index.manifest import Drift
from index.table import Layout
from index.vectors import passing, taken

if TYPE_CHECKING:
    from index.approximate import ApproximateIndex

QUERIES = 256
K = 10


def measure(
    index: ApproximateIndex, layout: Layout, weights: Mapping[str, float], trained: int, promised: float, seed: int = 0
) -> Drift:
    """Recall of queries made of rows ``trained``.. at the default weights and setting, beside that promised before.

    A row that a query is made of is taken out of both answers; of a graph and the true neighbours all of them are.
    """
    rng = np.random.default_rng(seed)
    n = len(index.vectors)
    own = trained + np.sort(rng.choice(n - trained, min(QUERIES, n - trained), replace=False))
    queries = as_float32(taken(index.vectors, own)) * layout.scale(weights)
    k = min(K, n - 1)
    parts = []
    with index.base.hidden(own) as hidden:
        for query in queries:  # one by one: each maps up to 2 MiB around a candidate, for a moment
            parts.append(index.search(query[None], k))
            index.release()
    every = (np.concatenate([getattr(each, name) for each in parts]) for name in ("rows", "scores", "counts"))
    out = own[None] if hidden else own[:, None]  # of each query's answers: all that were asked, or the one it is
    near = exact_search(passing(index.vectors), queries, min(k + (len(own) if hidden else 0), n))
    found, truth = (_without(each, out, k - 1) for each in (Hits(*every), near))
    return Drift(trained, n - trained, k, round(recall(found, truth, k - 1), 4), round(promised, 4))


def _without(hits: Hits, out: Rows, k: int) -> Hits:
    """The k best of hits (q, any) that are none of ``out`` (1 or q, any)."""
    keys = rank_keys(hits.scores, hits.rows)
    gone = np.isin(hits.rows, out) if len(out) == 1 else hits.rows == out
    keys[(hits.rows < 0) | gone] = 0
    return Hits.from_keys(keys, k)
