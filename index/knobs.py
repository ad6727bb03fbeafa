"""An index searched with knobs of the caller's own instead of those that a recall asks for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from index.approximate import ApproximateIndex
from index.exact import ExactIndex, Float32
from index.hits import Hits, Rows
from index.live import LiveIndex


@dataclass(frozen=True)
class Knobs:
    """``index`` with every search at ``nprobe`` (lists probed, or a graph's efSearch) and ``rerank`` (candidates scored
    on the stored vectors); a knob that is None is chosen by the recall asked for. Exact search has none."""

    index: ExactIndex | ApproximateIndex | LiveIndex
    nprobe: int | None = None
    rerank: int | None = None

    def search(
        self,
        queries: Float32,
        k: int,
        *,
        recall: float | None = None,
        nprobe: int | None = None,
        rerank: int | None = None,
        rows: Rows | None = None,
    ) -> Hits:
        """The search of the index; this object's knobs go before the arguments."""
        nprobe, rerank = self.nprobe or nprobe, self.rerank or rerank
        return self.index.search(queries, k, recall=recall, nprobe=nprobe, rerank=rerank, rows=rows)

    def expected_recall(self, recall: float | None = None, k: int = 10, queries: Float32 | None = None) -> float:
        """The best recall@k that was measured at no more effort and no more candidates than are used; 0 if none was."""
        base = self.index.base if isinstance(self.index, LiveIndex) else self.index
        if not isinstance(base, ApproximateIndex) or base.tuning is None or self.nprobe is self.rerank is None:
            return self.index.expected_recall(recall, k, queries)
        levels = [0] if queries is None or not len(queries) else np.unique(base.tuning.levels(queries)).tolist()
        return min(self._measured(base, recall, k, level) for level in levels)

    def _measured(self, base: ApproximateIndex, recall: float | None, k: int, level: int) -> float:
        used = base.setting(recall, k, self.nprobe, self.rerank, level)
        if used.exact or base.tuning is None:
            return 1.0
        curve = [each for each in base.tuning.curve if each.nprobe <= used.nprobe and each.rerank <= used.rerank]
        return max((each.recall_at(k, level) for each in curve), default=0.0)
