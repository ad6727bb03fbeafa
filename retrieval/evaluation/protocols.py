"""Evaluation protocols: which queries are asked, which results are right, and the report that says both.

Pure functions on arrays (see ``metrics`` for the conventions). A caller makes queries, sends them through the engine
that users query, and hands the result rows back to be scored. A report is a plain dict that JSON can hold:

    protocol, k, queries, seed, metrics {name@k: mean}, interval {name@k: [low, high], 95%, bootstrap over queries},
    per_attribute {attribute: {queries, name@k: mean}}, and what the number depends on (gallery, reference, sampling).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.errors import InputError
from retrieval.evaluation.metrics import (
    Bools,
    Floats,
    Ints,
    average_precision_at_k,
    best_relevance,
    bootstrap_interval,
    check_rows,
    drop_reference,
    hit_at_k,
    matches,
    ndcg_at_k,
    relevance,
    right_at,
    same_style_at_k,
)

Report = dict[str, Any]
Rule = Literal["published", "strict"]
ItemMetric = Literal["accuracy", "map"]


class EditQueries(NamedTuple):
    """Edits to ask for, one a line: "the photo ``row``, with ``attribute`` set to ``value``".

    valid counts the queries of each attribute before sampling, so a report can say what was sampled from; skipped
    counts the query photos that could not be asked because a label is missing.
    """

    row: NDArray[np.int64]  # (Q,) ascending
    attribute: NDArray[np.int64]  # (Q,)
    value: NDArray[np.int64]  # (Q,) code of the new value
    target: NDArray[np.int32]  # (Q, A) the labels asked for
    valid: NDArray[np.int64]  # (A,)
    skipped: int
    seed: int


class VariantQueries(NamedTuple):
    """ "The ``color`` one of the product in photo ``row``"; right are only truth[start[q]:start[q + 1]]."""

    row: NDArray[np.int64]  # (Q,)
    color: NDArray[np.int64]  # (Q,)
    truth: NDArray[np.int64]  # (T,) rows of the same product in that color, all queries after one another
    start: NDArray[np.int64]  # (Q + 1,)
    seed: int


class ItemQueries(NamedTuple):
    """The item in photo ``row``: right are truth[start[q]:start[q + 1]], rows of ``gallery``, all that is searched."""

    row: NDArray[np.int64]  # (Q,)
    gallery: NDArray[np.int64]  # (G,)
    truth: NDArray[np.int64]  # (T,) all queries after one another
    start: NDArray[np.int64]  # (Q + 1,)
    seed: int


def edit_queries(
    labels: Ints, query_rows: Ints, gallery_rows: Ints, sizes: Sequence[int], at_most: int | None = None, seed: int = 0
) -> EditQueries:
    """Every attribute and every other value of each query photo, where some gallery photo has exactly those labels.

    labels: (N, A), sizes: (A,) number of values. The published protocol (Hou et al., ICCV 2021), but for missing
    labels: a photo with one is neither asked nor makes a query valid, since "everything else unchanged" cannot be
    checked for it. (In the published splits absence counts as a value; those are read by ``support``.)
    at_most draws a sample spread evenly over the attributes in proportion to their queries, so that its mean
    estimates the mean over all; the same seed draws the same queries.
    """
    if labels.ndim != 2 or labels.shape[1] != len(sizes):
        raise ValueError(f"labels {labels.shape}: expected (N, {len(sizes)})")
    if len(labels) and (labels.min() < -1 or (labels.max(axis=0) >= np.asarray(sizes)).any()):
        raise ValueError(f"labels exceed the vocabulary sizes {list(sizes)}")
    complete: Bools = np.all(labels >= 0, axis=1)
    asked, filed = (np.asarray(rows)[complete[rows]] for rows in (query_rows, gallery_rows))
    both = labels[np.concatenate([asked, filed])].astype(np.int64)
    parts = []
    for attribute, size in enumerate(sizes):
        # Photos that agree on everything else share a context; its values in the gallery are the valid edits.
        rest = both.copy()
        rest[:, attribute] = 0
        context = np.unique(rest, axis=0, return_inverse=True)[1].reshape(-1)
        pair = np.unique(context[len(asked) :] * size + both[len(asked) :, attribute])
        own = context[: len(asked)]
        query, position = _expand(np.searchsorted(pair, own * size), np.searchsorted(pair, (own + 1) * size))
        value = pair[position] % size
        other = value != both[query, attribute]
        parts.append(np.column_stack([asked[query[other]], np.full(other.sum(), attribute), value[other]]))
    every = np.concatenate(parts).astype(np.int64).reshape(-1, 3)
    every = every[np.lexsort((every[:, 2], every[:, 1], every[:, 0]))]
    row, attribute, value = every[thin(every[:, 1], at_most, seed)].T
    target = labels[row].astype(np.int32)
    target[np.arange(len(row)), attribute] = value
    valid = np.bincount(every[:, 1], minlength=len(sizes))
    return EditQueries(row, attribute, value, target, valid, len(query_rows) - len(asked), seed)


def thin(strata: Ints, at_most: int | None, seed: int) -> NDArray[np.int64]:
    """At most that many positions of (Q,) strata, ascending: systematic sampling after a shuffle within each stratum.

    Every stratum gets its proportional share to within one.
    """
    size = len(strata)
    if at_most is None or size <= at_most:
        return np.arange(size)
    if at_most < 1:
        raise InputError(f"cannot sample {at_most} queries; ask for at least 1")
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(size), strata))
    return np.sort(order[((np.arange(at_most) + rng.random()) * size / at_most).astype(np.int64)])


def edit_values(
    labels: Ints, queries: EditQueries, rows: Ints, gallery_rows: Ints, ks: Sequence[int], rule: Rule
) -> dict[str, Floats]:
    """One number a query for hit@k (the whole label tuple), ndcg@k, ndcg_edited@k and ndcg_others@k: {name: (Q,)}.

    "published": the reference photo stays among the results, the ideal is k perfect ones; rows (Q, K >= k).
    "strict": the reference is taken out and the ideal is the best that gallery_rows hold; rows (Q, K > k).
    """
    rows, gallery_rows = np.asarray(rows), np.asarray(gallery_rows)
    _check(rows, queries.row, len(labels), max(ks) + (rule == "strict"))
    known = np.zeros(len(labels), dtype=bool)
    known[gallery_rows] = True
    if not known[rows[rows >= 0]].all():
        raise ValueError("results hold photos that are not in gallery_rows")
    found = drop_reference(rows, queries.row) if rule == "strict" else rows
    matched = matches(labels, found, queries.target)
    graded = relevance(matched, queries.attribute)
    best: Sequence[Any] = ("ones",) * 3
    if rule == "strict":
        best = best_relevance(labels, gallery_rows, queries.target, queries.attribute, queries.row, max(ks))
    exact: Bools = np.all(matched, axis=2)
    values = {f"hit@{k}": hit_at_k(exact, k).astype(np.float64) for k in ks}
    for name, grade, ideal in zip(("ndcg", "ndcg_edited", "ndcg_others"), graded, best, strict=True):
        if grade is not None:
            values |= {f"{name}@{k}": ndcg_at_k(grade, k, ideal) for k in ks}
    return values


def score_edits(
    labels: Ints,
    queries: EditQueries,
    rows: Ints,
    gallery_rows: Ints,
    ks: Sequence[int],
    names: Sequence[str],
    rule: Rule,
) -> Report:
    """The report of edit retrieval under one rule (see ``edit_values``); names: the attributes, in column order."""
    if not len(queries.row):
        raise InputError("edit retrieval: no gallery photo has the labels of any edit; give more labelled photos")
    facts = {
        "gallery": len(gallery_rows),
        "reference": "stays in the gallery" if rule == "published" else "removed",
        "ideal": "k perfect results" if rule == "published" else "best attainable in this gallery",
        "photos_skipped_missing_label": queries.skipped,
        "sampling": {
            "valid": dict(zip(names, queries.valid.tolist(), strict=True)),
            "rule": "all" if queries.valid.sum() == len(queries.row) else "proportional over attributes, seeded",
        },
    }
    parts = {name: queries.attribute == column for column, name in enumerate(names)}
    values = edit_values(labels, queries, rows, gallery_rows, ks, rule)
    return _report(f"edit-{rule}", ks, queries.seed, values, parts, facts)


def style_queries(
    styles: Iterable[object], query_rows: Ints, gallery_rows: Ints, at_most: int | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """The query rows that have at least one other photo of their style in the gallery; blank styles never."""
    code = group_codes(styles)
    asked = np.asarray(query_rows, dtype=np.int64)
    known = code[gallery_rows]
    photos = np.bincount(known[known >= 0], minlength=int(code.max(initial=-1)) + 2)  # the last cell: code -1, none
    able = asked[(photos[code[asked]] > np.isin(asked, gallery_rows)) & (code[asked] >= 0)]
    return able[thin(np.zeros(len(able), dtype=np.int64), at_most, seed)]


def score_styles(styles: Iterable[object], reference: Ints, rows: Ints, ks: Sequence[int], seed: int = 0) -> Report:
    """The report of same-style retrieval: top-k accuracy (a same-style photo among the k best), which is not recall.

    rows: (Q, K > k); the query's own photo is taken out.
    """
    if not len(reference):
        raise InputError("same-style retrieval: no style has two photos; give a column with repeated style ids")
    code = group_codes(styles)
    rows = np.asarray(rows)
    _check(rows, reference, len(code), max(ks) + 1)
    values = {f"same_style@{k}": same_style_at_k(code, reference, rows, k).astype(np.float64) for k in ks}
    return _report("same-style", ks, seed, values, {}, {"reference": "removed"})


def variant_queries(
    groups: Iterable[object],
    colors: Ints,
    query_rows: Ints,
    gallery_rows: Ints,
    at_most: int | None = None,
    seed: int = 0,
) -> VariantQueries:
    """For each photo of a product, every other color in which the gallery has that very product.

    groups: (N,) product ids, blank (None, NaN, "") = none; colors: (N,) codes. Photos without a group or a color are
    neither asked nor right.
    """
    group, colors = group_codes(groups), np.asarray(colors, dtype=np.int64)
    usable = (group >= 0) & (colors >= 0)
    asked, filed = (np.asarray(rows, dtype=np.int64)[usable[rows]] for rows in (query_rows, gallery_rows))
    size = int(colors.max(initial=0)) + 1
    filed = filed[np.argsort(group[filed] * size + colors[filed], kind="stable")]
    key = group[filed] * size + colors[filed]  # ascending: one run of rows for each product in one color
    pair = np.unique(key)
    query, position = _expand(
        np.searchsorted(pair, group[asked] * size), np.searchsorted(pair, (group[asked] + 1) * size)
    )
    color = pair[position] % size
    other = np.flatnonzero(color != colors[asked[query]])
    kept = other[thin(np.zeros(len(other), dtype=np.int64), at_most, seed)]
    line, where = _expand(np.searchsorted(key, pair[position[kept]]), np.searchsorted(key, pair[position[kept]] + 1))
    return VariantQueries(asked[query[kept]], color[kept], filed[where], _starts(line, len(kept)), seed)


def variant_values(queries: VariantQueries, rows: Ints, ks: Sequence[int]) -> dict[str, Floats]:
    """{"variant_hit@k": (Q,)}: 1 where that very product in the color asked is among the k best. rows: (Q, K > k)."""
    rows = np.asarray(rows)
    size = int(max(rows.max(initial=0), queries.truth.max(initial=0))) + 1
    _check(rows, queries.row, size, max(ks) + 1)
    relevant = right_at(drop_reference(rows, queries.row), queries.truth, queries.start)
    return {f"variant_hit@{k}": hit_at_k(relevant, k).astype(np.float64) for k in ks}


def score_variants(queries: VariantQueries, rows: Ints, ks: Sequence[int]) -> Report:
    """The report of variant hit@k (see ``variant_values``); the reference photo is taken out."""
    if not len(queries.row):
        raise InputError("variant retrieval: no product has photos in two colors; give a variant_group column")
    facts = {"reference": "removed", "right_answers_per_query": len(queries.truth) / len(queries.row)}
    return _report("variant", ks, queries.seed, variant_values(queries, rows, ks), {}, facts)


def item_queries(
    items: Iterable[object], asked: Ints, gallery: Ints, at_most: int | None = None, seed: int = 0
) -> ItemQueries:
    """Photos asked against a partition of their own: right is every photo of ``gallery`` with the query's item id.

    items: (N,) item ids, blank = none. A photo asked is a query even if the gallery has nothing for it, as the
    published partitions count them; one without an item id is not.
    """
    code = group_codes(items)
    asked, gallery = (np.asarray(rows, dtype=np.int64) for rows in (asked, gallery))
    able = asked[code[asked] >= 0]
    able = able[thin(np.zeros(len(able), dtype=np.int64), at_most, seed)]
    filed = gallery[np.argsort(code[gallery], kind="stable")]
    key = code[filed]
    line, where = _expand(np.searchsorted(key, code[able]), np.searchsorted(key, code[able] + 1))
    return ItemQueries(able, gallery, filed[where], _starts(line, len(able)), seed)


def listed_queries(
    answers: Sequence[Sequence[int]], asked: Ints, gallery: Ints, at_most: int | None = None, seed: int = 0
) -> ItemQueries:
    """Queries whose right answers are listed: answers[i] holds gallery rows for asked[i]. None listed: not asked."""
    able = np.array([place for place, rows in enumerate(answers) if len(rows)], np.int64)
    able = able[thin(np.zeros(len(able), dtype=np.int64), at_most, seed)]
    truth = np.array([row for place in able for row in answers[place]], np.int64)
    line = np.repeat(np.arange(len(able)), [len(answers[place]) for place in able])
    rows = np.asarray(asked, np.int64)[able]
    return ItemQueries(rows, np.asarray(gallery, np.int64), truth, _starts(line, len(able)), seed)


def item_values(queries: ItemQueries, rows: Ints, ks: Sequence[int], metric: ItemMetric) -> dict[str, Floats]:
    """One number a query at each k: "accuracy" (top-k accuracy: a right answer among the k best, which is not recall)
    or "map" (average precision of the k best). rows: (Q, K >= k), of the gallery alone."""
    rows = np.asarray(rows)
    _check(rows, queries.row, int(max(rows.max(initial=0), queries.gallery.max(initial=0))) + 1, max(ks))
    if not np.isin(rows[rows >= 0], queries.gallery).all():
        raise ValueError("results hold photos that are not in the gallery")
    right = right_at(rows, queries.truth, queries.start)
    if metric == "map":
        return {f"map@{k}": average_precision_at_k(right, np.diff(queries.start), k) for k in ks}
    return {f"accuracy@{k}": hit_at_k(right, k).astype(np.float64) for k in ks}


def score_items(queries: ItemQueries, rows: Ints, ks: Sequence[int], metric: ItemMetric, protocol: str) -> Report:
    """The report of item retrieval by one metric (see ``item_values``)."""
    if not len(queries.row):
        raise InputError(f"{protocol}: no photo to ask; index the data set's own folder, queries included")
    answers = np.diff(queries.start)
    facts = {
        "gallery": len(queries.gallery),
        "queries_without_answer": int((answers == 0).sum()),
        "right_answers_per_query": float(answers.mean()),
    }
    return _report(protocol, ks, queries.seed, item_values(queries, rows, ks, metric), {}, facts)


def group_codes(ids: Iterable[object]) -> NDArray[np.int64]:
    """Group or style ids (N,) -> int64 codes (N,) in the order of the names; -1 for a blank (None, NaN, "")."""
    names = np.array([_name(value) for value in ids], dtype=object)
    codes = np.full(len(names), -1, dtype=np.int64)
    filled = names != ""
    if filled.any():
        codes[filled] = np.unique(names[filled].astype(str), return_inverse=True)[1].reshape(-1)
    return codes


def _name(value: object) -> str:
    return "" if value is None or value != value else str(value).strip()  # NaN differs from itself


def _expand(start: Ints, stop: Ints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ranges [start, stop) -> (which range, position), one line for each position of each range."""
    length = stop - start
    which = np.repeat(np.arange(len(length)), length)
    before = np.cumsum(length) - length
    return which, np.arange(len(which)) - np.repeat(before - start, length)


def _starts(line: Ints, queries: int) -> NDArray[np.int64]:
    """(T,) which query each right answer is for, ascending -> (Q + 1,) where each query's begin."""
    return np.concatenate([[0], np.cumsum(np.bincount(line, minlength=queries))]).astype(np.int64)


def _check(rows: Ints, reference: Ints, size: int, needed: int) -> None:
    check_rows(rows, reference, size)
    if rows.shape[1] < needed:
        raise ValueError(f"rows hold {rows.shape[1]} results a query: {needed} are needed (pad with -1)")


def _report(
    protocol: str, ks: Sequence[int], seed: int, values: dict[str, Floats], parts: dict[str, Bools], facts: Report
) -> Report:
    table = np.column_stack(list(values.values()))  # (Q, M)
    ends = bootstrap_interval(table, seed)
    return {
        "protocol": protocol,
        "k": list(ks),
        "queries": len(table),
        "seed": seed,
        "metrics": dict(zip(values, table.mean(axis=0).tolist(), strict=True)),
        "interval": dict(zip(values, ends.tolist(), strict=True)),
        "per_attribute": {
            name: {"queries": int(part.sum()), **dict(zip(values, table[part].mean(axis=0).tolist(), strict=True))}
            for name, part in parts.items()
            if part.any()
        },
        **facts,
    }
