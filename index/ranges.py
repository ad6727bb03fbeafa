"""Searches beyond the k best rows: without some rows, the best row of each group, every row above a threshold.

They work with any index that has the ``search`` of ExactIndex, and are exact where the index is. An approximate one is
asked again, for more, until the answer is full or no row is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from index.exact import Float32
from index.hits import Hits, Rows, Scores

Found = tuple[Rows, Scores]  # one query's rows, best first, and their inner products

SPARE = 16  # more hits asked for at first, at most, in place of those to be skipped
WIDER = 4  # times k asked for at first where only one hit a group counts; and how a threshold's k grows
HITS_AT_ONCE = 1 << 22


class Index(Protocol):
    def search(
        self,
        queries: Float32,
        k: int,
        *,
        recall: float | None = None,
        nprobe: int | None = None,
        rerank: int | None = None,
        rows: Rows | None = None,
    ) -> Hits: ...


def best(
    index: Index,
    queries: Float32,
    k: int,
    *,
    skip: Sequence[Rows] | None = None,
    group: npt.NDArray[np.int64] | None = None,
    rows: Rows | None = None,
    recall: float | None = None,
) -> list[Found]:
    """The k best rows for each query (q, D), without those in its ``skip``, at most one of each ``group``.

    group: the group of every row of the table, int64 (N,), from 0. rows: the allowed rows, rising int64. Fewer than k
    come back only where no more rows, or groups, are left.
    """
    if rows is not None and not len(rows):
        return [_nothing() for _ in queries]
    skip = [np.zeros(0, np.int64)] * len(queries) if skip is None else skip
    spare = min(max(map(len, skip), default=0), SPARE)
    whole = [len(each) for each in (rows, group) if each is not None]  # as many hits are all there are
    asked = min([(k if group is None else WIDER * k) + spare, *whole])
    hits = index.search(queries, asked, recall=recall, rows=rows)
    answers = []
    for i in range(len(queries)):
        answer = _kept(hits.query(i), skip[i], group)
        if len(answer[0]) < k and hits.counts[i] == asked not in whole:  # there may be more
            if group is None:
                wide = min([k + len(skip[i]), *whole])
                more = index.search(queries[i : i + 1], wide, recall=recall, rows=rows)
                answer = _kept(more.query(0), skip[i], None)
            else:
                answer = _other_groups(index, queries[i : i + 1], k, answer, skip[i], group, rows, recall)
        answers.append((answer[0][:k], answer[1][:k]))
    return answers


def _other_groups(
    index: Index,
    query: Float32,
    k: int,
    answer: Found,
    skip: Rows,
    group: npt.NDArray[np.int64],
    rows: Rows | None,
    recall: float | None,
) -> Found:
    """``answer`` and the best rows of groups that it lacks: those that it has are filtered out of the search.

    Rows that were removed stay allowed and never come, so the search ends where nothing came.
    """
    wide = WIDER * k
    while len(answer[0]) < k:
        taken = np.zeros(int(group.max()) + 1, bool)
        taken[group[answer[0]]] = True
        left = ~taken[group]
        left[skip] = False
        allowed = np.flatnonzero(left) if rows is None else rows[left[rows]]
        if not len(allowed):
            break
        more = _kept(index.search(query, min(wide, len(allowed)), recall=recall, rows=allowed).query(0), skip, group)
        if not len(more[0]):
            break
        answer = np.concatenate([answer[0], more[0]]), np.concatenate([answer[1], more[1]])
        wide *= 2
    order = np.lexsort((answer[0], -answer[1]))
    return answer[0][order], answer[1][order]


def above(
    index: Index,
    queries: Float32,
    thresholds: npt.NDArray[np.float32],
    *,
    rows: Rows | None = None,
    recall: float | None = None,
    first: int = 64,
    most: int | None = None,
) -> list[Found]:
    """Every allowed row whose inner product with a query (q, D) is at least its threshold (q,), best first.

    The k asked for grows from ``first`` until the last score is below the threshold. most: stop at so many rows.
    """
    answers: list[Found] = [_nothing() for _ in queries]
    if rows is not None and not len(rows):
        return answers
    waiting, k = np.arange(len(queries)), first if most is None else min(first, most)
    while len(waiting):
        unfinished = []
        for start in range(0, len(waiting), max(1, HITS_AT_ONCE // k)):
            part = waiting[start : start + max(1, HITS_AT_ONCE // k)]
            hits = index.search(queries[part], k, recall=recall, rows=rows)
            for place, i in enumerate(part):
                found, scores = hits.query(place)
                reach = int((scores >= thresholds[i]).sum())  # scores never rise
                answers[i] = found[:reach], scores[:reach]
                if reach == k and k != most:
                    unfinished.append(i)
        waiting, k = np.array(unfinished, np.int64), WIDER * k if most is None else min(WIDER * k, most)
    return answers


def one_each(answer: Found, group: npt.NDArray[np.int64]) -> Found:
    """The first row of each group, in order."""
    at = np.sort(np.unique(group[answer[0]], return_index=True)[1])
    return answer[0][at], answer[1][at]


def without(answer: Found, skip: Rows) -> Found:
    """The answer less these rows, in order."""
    keep = ~np.isin(answer[0], skip)
    return answer[0][keep], answer[1][keep]


def _kept(answer: Found, skip: Rows, group: npt.NDArray[np.int64] | None) -> Found:
    answer = without(answer, skip) if len(skip) else answer
    return answer if group is None else one_each(answer, group)


def _nothing() -> Found:
    return np.zeros(0, np.int64), np.zeros(0, np.float32)
