"""Which photos meet in a batch: pairs of one style, among styles that are hard to tell apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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


class Mined(NamedTuple):
    """Pseudo labels: of each mined id its photos, the query first, and those that are of another style; row numbers."""

    positives: Sequence[np.ndarray]
    negatives: Sequence[np.ndarray]

    def within(self, rows: np.ndarray) -> Mined:
        """The same as places among ``rows``, which rise and hold all of them."""
        return Mined(*([np.searchsorted(rows, each) for each in kind] for kind in self))

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for kind in self:
            for each in kind:
                digest.update(np.asarray([len(each), *each], np.int64).tobytes())
        return digest.hexdigest()[:16]


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


class MinedSampler:
    """Batches of ids for cross-domain mining: of ``ids`` ids ``share`` are mined (one at least), the others of styles.

    styles: (n,) int64 style codes; mined: places among the same n. Every id has up to ``photos`` photos (a style is
    filled by repeats, as in IdSampler; a mined id's query is always there). With each mined id up to ``photos`` of its
    negatives enter as one id of their own that is never anchor nor positive. No photo is in two ids of a batch that
    were mined: a mined id that shares a photo with one drawn before it is passed over, and a batch may have fewer.
    """

    def __init__(self, styles: np.ndarray, mined: Mined, ids: int, photos: int, share: float) -> None:
        self.photos, self.mined = photos, mined
        self.wanted = min(max(round(ids * share), 1), len(mined.positives))
        several = bool((np.unique(styles, return_counts=True)[1] > 1).any())
        known = ids - self.wanted if several else 0
        self.known = IdSampler(styles, known, photos) if known else None
        self.styles = styles

    def draw(self, rng: np.random.Generator) -> Draw:
        """One batch: photos of styles, with their own codes, then those of mined ids, with codes above them."""
        rows, ids, anchors = [], [], []
        if self.known is not None:
            rows.append(self.known.draw(rng).rows)
            ids.append(self.styles[rows[0]])
            anchors.append(np.ones(len(rows[0]), bool))
        for number, i in enumerate(self._apart(rng)):
            query, others = self.mined.positives[i][:1], rng.permutation(self.mined.positives[i][1:])
            same = np.concatenate((query, others))[: self.photos]
            away = rng.permutation(self.mined.negatives[i])[: self.photos]
            code = int(self.styles.max()) + 1 + 2 * number
            rows += [same, away]
            ids += [np.full(len(same), code), np.full(len(away), code + 1)]
            anchors += [np.ones(len(same), bool), np.zeros(len(away), bool)]
        every = np.concatenate(rows).astype(np.int64)
        return Draw(every, np.zeros(len(every), bool), np.concatenate(ids).astype(np.int64), np.concatenate(anchors))

    def _apart(self, rng: np.random.Generator) -> list[int]:
        """Mined ids without a photo in common, as many as wanted or as can be found."""
        chosen: list[int] = []
        taken: set[int] = set()
        for i in rng.permutation(len(self.mined.positives)):
            photos = {*self.mined.positives[i].tolist(), *self.mined.negatives[i].tolist()}
            if not photos & taken:
                taken |= photos
                chosen.append(int(i))
            if len(chosen) == self.wanted:
                break
        return chosen
