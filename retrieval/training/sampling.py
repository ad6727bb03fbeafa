"""Which photos meet in a batch: pairs of one style, among styles that are hard to tell apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Draw(NamedTuple):
    """A batch: ``rows`` (n,) int64, and which of them are to be ``recolored``, (n,) bool.

    ``ids`` (n,) int64, ``anchors`` (n,) bool: style codes in place of the photos' own, and which photos may be anchors
    and positives of triplets; None: their own, and all.
    """

    rows: np.ndarray
    recolored: np.ndarray
    ids: np.ndarray | None = None
    anchors: np.ndarray | None = None


class PairSampler:
    """Draws batches of pairs of photos, the second another photo of the first's style.

    styles: (n,) int64 style codes; a photo alone in its style pairs with itself, and its second view is recolored.
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

    def draw(self, rng: np.random.Generator) -> Draw:
        """One batch of 2 * pairs photos: the first of each pair, then their seconds."""
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
        return Draw(np.concatenate((first, second)), np.concatenate((np.zeros(len(first), bool), first == second)))


class IdSampler:
    """Draws batches of several photos of a few styles, for online triplets: 7 ids x 10 photos in the thesis.

    styles: (n,) int64 style codes. A style of fewer photos than ``photos`` is filled by repeats, each with an
    augmentation of its own. Ids are drawn among styles of two photos or more, as long as there are enough of them.
    """

    def __init__(self, styles: np.ndarray, ids: int, photos: int) -> None:
        self.photos = photos
        order = np.argsort(styles, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(styles[order])) + 1)
        several = [rows for rows in members if len(rows) > 1]
        self.members = several if len(several) >= ids else members
        self.ids = min(ids, len(self.members))

    def draw(self, rng: np.random.Generator) -> Draw:
        """One batch of ids * photos photos, those of an id beside each other; none of them is recolored."""
        rows = [
            np.concatenate((rng.permutation(mine)[: self.photos], rng.choice(mine, max(self.photos - len(mine), 0))))
            for mine in (self.members[i] for i in rng.choice(len(self.members), self.ids, replace=False))
        ]
        return Draw(np.concatenate(rows), np.zeros(self.ids * self.photos, bool))
