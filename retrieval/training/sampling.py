"""Which photos meet in a batch: pairs of one style, among styles that are hard to tell apart."""

from __future__ import annotations

import numpy as np


class PairSampler:
    """Draws batches of (first, second) photo rows, second another photo of first's style.

    styles: (n,) int64 style codes; a photo alone in its style pairs with itself (two views of one photo).
    kinds: (n,) int64 codes of what makes styles alike (the first attribute, say the article type), -1 unknown.
    ``grouped_share`` of the pairs come from styles of several photos, the rest from all photos; ``alike_share`` of a
    batch is drawn from two kinds only, which makes its negatives hard (a T-shirt among T-shirts).
    """

    def __init__(
        self, styles: np.ndarray, kinds: np.ndarray, pairs: int, grouped_share: float, alike_share: float
    ) -> None:
        self.pairs, self.grouped_share = pairs, grouped_share
        self.order = np.argsort(styles, kind="stable")
        _, number, self.counts = np.unique(styles, return_inverse=True, return_counts=True)
        self.number = number.reshape(-1)  # which style, from 0, a row belongs to
        self.starts = np.concatenate(([0], np.cumsum(self.counts)[:-1]))
        self.pools = [rows for k in np.unique(kinds[kinds >= 0]) if len(rows := np.flatnonzero(kinds == k)) >= 8]
        self.odds = np.sqrt([len(rows) for rows in self.pools])
        self.alike = round(pairs * alike_share) // 2 if len(self.pools) >= 2 else 0
        self.everyone = np.arange(len(styles))
        self.grouped = {-1: self._several(self.everyone)} | {i: self._several(p) for i, p in enumerate(self.pools)}

    def _several(self, rows: np.ndarray) -> np.ndarray:
        return rows[self.counts[self.number[rows]] > 1]

    def _pick(self, pool: int, n: int, rng: np.random.Generator) -> np.ndarray:
        grouped, everyone = self.grouped[pool], self.everyone if pool < 0 else self.pools[pool]
        several = round(n * self.grouped_share) if len(grouped) else 0
        alone = rng.choice(everyone, n - several)
        return np.concatenate((rng.choice(grouped, several), alone)) if several else alone

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One batch: two (pairs,) int64 arrays of rows."""
        parts = []
        if self.alike:
            chosen = rng.choice(len(self.pools), 2, replace=False, p=self.odds / self.odds.sum())
            parts = [self._pick(int(pool), self.alike, rng) for pool in chosen]
        first = np.concatenate([*parts, self._pick(-1, self.pairs - sum(map(len, parts)), rng)])
        second = first.copy()
        for i, style in enumerate(self.number[first]):
            mates = self.order[self.starts[style] : self.starts[style] + self.counts[style]]
            if len(mates) > 1:
                second[i] = rng.choice(mates[mates != first[i]])
        return first, second
