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

if TYPE_CHECKING:
    from index.approximate import ApproximateIndex

QUERIES = 256
K = 10


def measure(
    index: ApproximateIndex, layout: Layout, weights: Mapping[str, float], trained: int, promised: float, seed: int = 0
) -> Drift:
    """Recall of queries made of rows ``trained``.. at the default weights and setting, beside that promised before.

    A row that a query is made of is taken out of both answers. Only the index's ``search`` is used.
    """
    rng = np.random.default_rng(seed)
    n = len(index.vectors)
    own = trained + np.sort(rng.choice(n - trained, min(QUERIES, n - trained), replace=False))
    queries = as_float32(index.vectors.take(own, axis=0)) * layout.scale(weights)
    k = min(K, n - 1)
    truth = _without(exact_search(index.vectors, queries, k), own)
    found = _without(index.search(queries, k), own)
    return Drift(trained, n - trained, k, round(recall(found, truth, k - 1), 4), round(promised, 4))


def _without(hits: Hits, own: Rows) -> Hits:
    """Hits (q, k) less each query's own row, or less the last where it is not among them: (q, k - 1)."""
    keys = rank_keys(hits.scores, hits.rows)
    keys[(hits.rows < 0) | (hits.rows == own[:, None])] = 0
    return Hits.from_keys(keys, hits.rows.shape[1] - 1)
