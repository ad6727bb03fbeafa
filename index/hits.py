"""What every search returns, and how well an approximate answer agrees with the exact one."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]

# float32 sums taken in another order differ by about this share of the best score
TIE_TOLERANCE = 1e-5
_LAST_ROW = 2**32 - 1
SHORT = 64


@dataclass(frozen=True)
class Hits:
    """Answers to n queries, best first.

    rows: int64 (n, k), table rows from 0; -1 beyond ``counts``.
    scores: float32 (n, k), inner products, never rising along a row; -inf beyond ``counts``.
    counts: int64 (n,), how many of the k each query got: a search that finds less has a smaller count, never a -1 hit.

    Raises ValueError when these do not hold: that is a fault of the index that made it, not of a user.
    """

    rows: Rows
    scores: Scores
    counts: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        rows, scores, counts = self.rows, self.scores, self.counts
        if rows.ndim != 2 or rows.shape != scores.shape or counts.shape != rows.shape[:1]:
            raise ValueError(f"hits of shapes rows {rows.shape}, scores {scores.shape}, counts {counts.shape}")
        if rows.dtype != np.int64 or scores.dtype != np.float32 or counts.dtype != np.int64:
            raise ValueError(f"hits of types {rows.dtype}, {scores.dtype}, {counts.dtype}")
        k = rows.shape[1]
        if len(rows) == 1 and k <= SHORT and counts[0] == k:  # one full answer: a third of the time of what follows
            numbers, values = rows[0].tolist(), scores[0].tolist()
            falling = all(map(operator.ge, values, values[1:])) and values[-1] == values[-1]
            if falling and min(numbers) >= 0 and len(set(numbers)) == k:
                return
        if ((counts < 0) | (counts > k)).any():
            raise ValueError(f"a count outside 0..{k}")
        if (counts < k).any():
            outside = np.arange(k) >= counts[:, None]  # (n, k)
            if (rows[outside] != -1).any() or (scores[outside] != -np.inf).any():
                raise ValueError("a row that is not -1, or a score that is not -inf, outside the counts")
            if (rows[~outside] < 0).any() or np.isnan(scores[~outside]).any():
                raise ValueError("a row below 0, or a score that is not a number, inside the counts")
        elif rows.size and (rows.min() < 0 or np.isnan(scores.sum())):
            raise ValueError("a row below 0, or a score that is not a number, inside the counts")
        if (scores[:, 1:] > scores[:, :-1]).any():
            raise ValueError("scores that rise")
        ordered = np.sort(rows, axis=1)
        twice = ordered[:, 1:] == ordered[:, :-1]
        if twice.any() and (twice & (ordered[:, 1:] >= 0)).any():
            raise ValueError("a row returned twice for one query")

    def __len__(self) -> int:
        return len(self.rows)

    def query(self, i: int) -> tuple[Rows, Scores]:
        """(rows, scores) of query i, without padding."""
        count = int(self.counts[i])
        return self.rows[i, :count], self.scores[i, :count]

    @classmethod
    def ordered(cls, rows: Rows, scores: Scores) -> Hits:
        """Full answers (n, k) that are in order but for ties, which go to the lower row."""
        k = rows.shape[1]
        if len(rows) == 1 and k <= SHORT:
            values = scores[0].tolist()
            tied = np.array([any(map(operator.eq, values, values[1:]))])
        else:
            tied = (scores[:, 1:] == scores[:, :-1]).any(axis=1)
        if tied.any():
            again = cls.from_keys(rank_keys(scores[tied], rows[tied]), k)
            rows, scores = rows.copy(), scores.copy()
            rows[tied], scores[tied] = again.rows, again.scores
        return cls(rows, scores, np.full(len(rows), k))

    @classmethod
    def from_keys(cls, keys: Keys, k: int) -> Hits:
        """The k best of each row of ``rank_keys``, uint64 (n, any); 0 is no hit."""
        n, width = keys.shape
        if width > k:
            keys = np.partition(keys, width - k, axis=1)[:, width - k :]
        best = np.zeros((n, k), np.uint64)
        best[:, : min(width, k)] = np.sort(keys, axis=1)[:, ::-1]
        found = best > 0
        ordered = (best >> np.uint64(32)).astype(np.uint32)
        bits = np.where(ordered >> 31, ordered & 0x7FFFFFFF, ~ordered)
        rows = _LAST_ROW - (best & np.uint64(_LAST_ROW)).astype(np.int64)
        scores = bits.view(np.float32)
        return cls(np.where(found, rows, -1), np.where(found, scores, np.float32(-np.inf)), found.sum(axis=1))


def rank_keys(scores: Scores, rows: Rows) -> Keys:
    """One number for each hit, uint64, that sorts as hits rank: by score, then by the lower row. Never 0.

    scores: float32, finite. rows: int64 below 2^32, of a shape that broadcasts with the scores. The high half holds the
    bits of the score, turned so that they sort as numbers, so choosing the best hits is one partition of integers and
    ties cannot fall differently.
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0, which ranks the same
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))
    return (ordered.astype(np.uint64) << np.uint64(32)) | (_LAST_ROW - rows).astype(np.uint64)


def recall(hits: Hits, truth: Hits, k: int) -> float:
    """Tie-aware recall@k: the mean over queries of the share of true neighbours found among the first k hits.

    A hit counts when its score reaches the k-th true score, so a neighbour that ties with another is as good as it.
    Scores must be exact inner products on both sides (a reranked index gives them). Queries without any true
    neighbour do not count; with none at all the recall is 1. ValueError when ``truth`` has fewer than k columns.
    """
    if truth.rows.shape[1] < k or len(hits) != len(truth):
        raise ValueError(f"recall@{k} of {len(hits)} queries needs {k} true neighbours of each")
    wanted = np.minimum(truth.counts, k)
    asked = wanted > 0
    if not asked.any():
        return 1.0
    truth_scores, hit_scores = truth.scores[asked], hits.scores[asked, :k]
    last = np.take_along_axis(truth_scores, wanted[asked, None] - 1, axis=1)  # (n, 1)
    slack = TIE_TOLERANCE * np.abs(truth_scores[:, :1])
    found = np.minimum((hit_scores >= last - slack).sum(axis=1), wanted[asked])
    return float((found / wanted[asked]).mean())
