"""Prepared requests to ranked rows: grouped by what they share, asked of an index, cut into pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from index import ranges
from index.errors import InputError
from index.exact import ExactIndex
from index.ranges import Found
from retrieval.results import Prepared

Codes = npt.NDArray[np.int64]


def ranked(
    index: Any, prepared: Prepared, codes: Callable[[str], Codes], topk: int | None, recall: float | None, offset: int
) -> list[Found]:
    """Rows and raw scores of each request, best first. codes: column -> a number for each row, see Columns.codes."""
    if (topk is not None and topk < 1) or offset < 0:
        raise InputError(f"topk {topk}, offset {offset}: ask for at least 1, from 0 on")
    if recall is not None and not 0 <= recall <= 1:
        raise InputError(f"recall {recall}: a recall is a number from 0 to 1")
    answers: list[Any] = [None] * len(prepared.skip)
    groups: dict[tuple[int, str | None], list[int]] = {}
    for i, allowed in enumerate(prepared.allowed):
        groups.setdefault((id(allowed), prepared.one_per[i]), []).append(i)
    for (_, column), members in groups.items():
        group = None if column is None else codes(column)
        if topk is None:
            found = _all(index, prepared, members, group, recall, offset)
        else:
            found = _page(index, prepared, members, group, topk, recall, offset)
        for i, (rows, scores) in zip(members, found, strict=True):
            reach = int((shown(scores, prepared, i).astype(np.float64) >= prepared.least[i]).sum())
            answers[i] = rows[:reach], scores[:reach]
    return answers


def shown(scores: npt.NDArray[np.float32], prepared: Prepared, i: int) -> npt.NDArray[np.float32]:
    """Inner products of request i as the score that is shown: the mean cosine over blocks."""
    return scores / np.float32(max(float(prepared.total[i]), 1e-12))


def _page(
    index: Any,
    prepared: Prepared,
    members: Sequence[int],
    group: Codes | None,
    topk: int,
    recall: float | None,
    offset: int,
) -> list[Found]:
    queries, rows = prepared.vectors[members], prepared.allowed[members[0]]
    skip = [prepared.skip[i] for i in members]

    def best(k: int) -> list[Found]:
        return ranges.best(index, queries, k, skip=skip, group=group, rows=rows, recall=recall)

    found = best(offset + topk)
    if not offset or isinstance(index, ExactIndex):
        return [(at[offset:], scores[offset:]) for at, scores in found]
    # asked for more, an approximate index may find a better row than the pages before had: what they showed is taken
    # away, so no row comes twice
    pages = []
    for (at, scores), (before, _) in zip(found, best(offset), strict=True):
        fresh = ~(np.isin(at, before) if group is None else np.isin(group[at], group[before]))
        pages.append((at[fresh][:topk], scores[fresh][:topk]))
    return pages


def _all(
    index: Any, prepared: Prepared, members: Sequence[int], group: Codes | None, recall: float | None, offset: int
) -> list[Found]:
    """Every row that reaches the least score, a hair more for rounding: ``ranked`` cuts exactly."""
    least = np.array([prepared.least[i] for i in members])
    if not np.isfinite(least).all():
        raise InputError("topk None asks for every row above a score: give min_score too")
    limits = (prepared.total[members] * (least - 1e-5)).astype(np.float32)
    found = ranges.above(
        index, prepared.vectors[members], limits, rows=prepared.allowed[members[0]], recall=recall
    )  # fmt: skip
    answers = []
    for i, each in zip(members, found, strict=True):
        each = ranges.without(each, prepared.skip[i])
        rows, scores = each if group is None else ranges.one_each(each, group)
        answers.append((rows[offset:], scores[offset:]))
    return answers
