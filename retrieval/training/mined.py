"""Pseudo labels of cross-domain mining, and the batches in which they meet photos whose styles are known."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from retrieval.config import TrainingConfig
from retrieval.training.sampling import Draw, IdSampler, PairSampler

AWAY = 2  # photos of another style that enter with a mined pair


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


def mined_sampler(
    styles: np.ndarray, codes: np.ndarray, mined: Mined, settings: TrainingConfig, share: float
) -> MinedSampler | MinedPairSampler:
    """Of ids or of pairs, as the style loss wants it. styles (n,), codes (n, A) int64; mined: places among the n.

    Pairs of known styles are of photos with a label; photos of the target have none."""
    if settings.style_loss == "triplet":
        return MinedSampler(styles, mined, settings.ids_per_batch, settings.photos_per_id, share)
    known = np.flatnonzero((codes >= 0).any(axis=1))
    count = settings.pairs - max(round(settings.pairs * share), 1) if len(known) else 0
    pairs = None
    if count:
        pairs = PairSampler(styles[known], codes[known, 0], count, settings.grouped_share, settings.alike_share)
    return MinedPairSampler(pairs, known, styles, mined, settings.pairs - count)


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


class MinedPairSampler:
    """Batches of pairs for contrast: pairs of known styles, and ``count`` mined ones, a query with one of its
    positives.

    known: draws the former, or None; ``rows`` (k,) int64: which of the n photos it knows. styles: (n,) int64; mined:
    places among the same n. With each mined pair ``AWAY`` of the query's negatives enter as photos that are only
    negatives. No photo of a mined pair is in the batch a second time, so a batch may have fewer pairs.
    """

    def __init__(
        self, known: PairSampler | None, rows: np.ndarray, styles: np.ndarray, mined: Mined, count: int
    ) -> None:
        self.known, self.rows, self.styles, self.mined, self.count = known, rows, styles, mined, count

    def draw(self, rng: np.random.Generator) -> Draw:
        """One batch: first photos of known pairs, then of mined ones, then negatives; then the seconds, likewise."""
        first, second = [], []
        paired: set[int] = set()
        chosen = []
        for i in rng.permutation(len(self.mined.positives)):
            query, mate = self.mined.positives[i][0], rng.choice(self.mined.positives[i][1:])
            if not {int(query), int(mate)} & paired:
                paired |= {int(query), int(mate)}
                first.append(query)
                second.append(mate)
                chosen.append(i)
            if len(chosen) == self.count:
                break
        others = {int(each) for i in chosen for each in rng.permutation(self.mined.negatives[i])[:AWAY]} - paired
        away = np.array(sorted(others), np.int64)[: len(others) // 2 * 2].reshape(2, -1)
        none = np.zeros(0, np.int64)
        drawn = Draw(none, none.astype(bool)) if self.known is None else self.known.draw(rng)
        rows, broken = self.rows[drawn.rows].reshape(2, -1), drawn.recolored.reshape(2, -1)
        code = int(self.styles.max()) + 1 + np.arange(len(first))  # above those of known styles
        alone = np.full(away.shape[1], -1)
        halves = [np.concatenate((rows[k], pair, away[k])) for k, pair in enumerate((first, second))]
        return Draw(
            np.concatenate(halves).astype(np.int64),
            np.concatenate([np.concatenate((each, np.zeros(len(first) + len(alone), bool))) for each in broken]),
            np.tile(np.concatenate((self.styles[rows[0]], code, alone)), 2).astype(np.int64),
            np.tile(np.concatenate((np.ones(rows.shape[1] + len(first), bool), alone >= 0)), 2),
        )
