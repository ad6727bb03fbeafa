"""Retrieval metrics: pure functions of integer arrays, no engine, no model.

Conventions of this room. ``labels`` is (N, A) integer codes, one row a photo, -1 = the photo has no value there.
``rows`` is (Q, K): row q holds the results of query q, best first, as row numbers of ``labels``; -1 pads a short list.
``reference`` is (Q,): the row of each query's own photo. Metrics come back one number a query, so that a caller can
average them, bootstrap them, and find the worst queries.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

# How many (target, gallery tuple, attribute) comparisons are held at once: 16 MB of booleans.
_COMPARISONS = 1 << 24


class Relevance(NamedTuple):
    """Graded relevance in [0, 1], three arrays of one shape: over all attributes, the edited one, and the others.

    ``others`` is None where there is only one attribute.
    """

    all: Floats
    edited: Floats
    others: Floats | None


def pad_rows(results: Iterable[ArrayLike], k: int) -> NDArray[np.int64]:
    """Result lists of differing length -> (Q, k) int64: cut at k, padded with -1."""
    lists = [np.asarray(found, dtype=np.int64).ravel()[:k] for found in results]
    rows = np.full((len(lists), k), -1, dtype=np.int64)
    for line, found in zip(rows, lists, strict=True):
        line[: len(found)] = found
    return rows


def check_rows(rows: Ints, reference: Ints, size: int) -> None:
    """ValueError unless rows is (Q, K) in [-1, size) without a photo twice in one list, and reference is (Q,).

    A repeated photo would be counted twice and could lift NDCG above 1.
    """
    if rows.ndim != 2 or reference.shape != (len(rows),):
        raise ValueError(f"rows {rows.shape} and reference {reference.shape}: expected (Q, K) and (Q,)")
    if rows.size and (rows.min() < -1 or rows.max() >= size):
        raise ValueError(f"rows hold {rows.min()}..{rows.max()}: expected -1..{size - 1}")
    ordered = np.sort(rows, axis=1)
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
    if twice.any():
        raise ValueError(f"query {int(np.argmax(twice))} returns the same photo twice")


def drop_reference(rows: Ints, reference: Ints) -> NDArray[np.int64]:
    """(Q, K) -> (Q, K - 1): each query's own photo is taken out and the rest move up.

    A list without it loses its last entry instead, so ask for k + 1 results to be judged at k.
    """
    own = rows == reference[:, None]
    order = np.argsort(own, axis=1, kind="stable")[:, :-1]
    return np.take_along_axis(rows, order, axis=1).astype(np.int64)


def hit_at_k(relevant: Bools, k: int) -> Bools:
    """(Q, K) relevant or not (False at padding) -> (Q,): is anything relevant among the first k."""
    hit: Bools = np.any(relevant[:, :k], axis=1)
    return hit


def right_at(rows: Ints, truth: Ints, start: Ints) -> Bools:
    """(Q, K) results -> (Q, K): is each one of the right answers of its query, truth[start[q]:start[q + 1]]?"""
    size = int(max(rows.max(initial=0), truth.max(initial=0))) + 1
    each = np.arange(len(rows)) * size  # rows of each query in a range of their own
    wanted = np.repeat(each, np.diff(start)) + truth
    right: Bools = np.isin(rows + each[:, None], wanted) & (rows >= 0)
    return right


def average_precision_at_k(relevant: Bools, right: Ints, k: int) -> Floats:
    """(Q, K) relevant or not, (Q,) how many right answers there are -> (Q,) average precision of the first k.

    The precisions at the ranks of right answers, summed, over min(right, k): 1 when the list holds as many right
    answers as it can, all in front. 0 where nothing is right. Manning et al., Introduction to Information Retrieval,
    2008, 8.4.
    """
    first = relevant[:, :k].astype(np.float64)
    precision = np.cumsum(first, axis=1) / np.arange(1, first.shape[1] + 1)
    best = np.minimum(right, k).astype(np.float64)
    return np.divide((precision * first).sum(axis=1), best, out=np.zeros(len(first)), where=best > 0)


def matches(labels: Ints, rows: Ints, target: Ints) -> Bools:
    """(N, A), (Q, K), (Q, A) -> (Q, K, A): which attributes of each result equal the target. Padding matches nothing.

    Missing equals missing, as in the published scoring, where an absent attribute is an all-zero one-hot block.
    """
    same: Bools = np.equal(labels[rows], target[:, None, :])
    same[rows < 0] = False
    return same


def relevance(matched: Bools, attribute: Ints) -> Relevance:
    """(Q, K, A) matches, (Q,) edited attribute -> share of attributes that match, each array (Q, K)."""
    count = matched.sum(axis=2)
    edited = np.take_along_axis(matched, attribute[:, None, None], axis=2)[:, :, 0]
    return _relevance(count.astype(np.float64), edited.astype(np.float64), matched.shape[2])


def ndcg_at_k(relevance: Floats, k: int, ideal: Literal["ones"] | Floats = "ones") -> Floats:
    """Normalised discounted cumulative gain at k: (Q, K) relevance in [0, 1] -> (Q,) in [0, 1].

    DCG = sum_{r=1..k} (2^rel_r - 1) / log2(r + 1); missing ranks gain nothing. ``ideal`` divides it:

    - "ones": k results that all match wholly (Hou et al., ICCV 2021, as published). 1 may be out of reach.
    - an array (Q, >= 1) of the best relevances the gallery holds, sorted downwards (see ``best_relevance``).
      A query for which nothing relevant exists scores 0.
    """
    gained = _dcg(relevance, k)
    best = _dcg(np.ones((1, k)), k) if isinstance(ideal, str) else _dcg(ideal, k)
    best = np.broadcast_to(best, gained.shape)
    return np.divide(gained, best, out=np.zeros_like(gained), where=best > 0)


def best_relevance(
    labels: Ints, gallery_rows: Ints, target: Ints, attribute: Ints, reference: Ints, k: int
) -> Relevance:
    """The best relevances that any ranking of the gallery without the reference could reach, sorted: each (Q, k).

    Counts photos by how much they match rather than ranking each: gallery photos with equal labels, and queries with
    equal targets, are compared once. 0 pads a gallery of fewer than k photos.
    """
    width = labels.shape[1]
    tuples, count = np.unique(labels[gallery_rows], axis=0, return_counts=True)
    wanted, inverse = np.unique(np.column_stack([target, attribute]), axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    level = np.zeros((len(wanted), width + 1), dtype=np.int64)  # photos that match m attributes
    other = np.zeros((len(wanted), width), dtype=np.int64)  # ... m attributes besides the edited one
    one = np.zeros((len(wanted), 2), dtype=np.int64)  # ... the edited one or not
    step = max(1, _COMPARISONS // max(1, tuples.size))
    for start in range(0, len(wanted), step):
        part = wanted[start : start + step]
        equal = part[:, None, :width] == tuples[None, :, :]  # (P, U, A)
        edited = np.take_along_axis(equal, part[:, None, width:], axis=2)[:, :, 0]
        total = equal.sum(axis=2)
        for table, score in ((level, total), (other, total - edited), (one, edited.astype(np.int64))):
            table[start : start + step] = _histogram(score, count, table.shape[1])

    # The reference is in most galleries; it must not serve as its own ideal.
    present = np.isin(reference, gallery_rows).astype(np.int64)
    own = matches(labels, reference[:, None], target)
    mine = own[:, 0].sum(axis=1)
    own_edited = np.take_along_axis(own[:, 0], attribute[:, None], axis=1)[:, 0].astype(np.int64)
    each = np.arange(len(reference))
    level, other, one = level[inverse], other[inverse], one[inverse]
    level[each, mine] -= present
    other[each, mine - own_edited] -= present
    one[each, own_edited] -= present
    return _relevance(_best(level, k), _best(one, k), width, _best(other, k))


def same_style_at_k(style: Ints, reference: Ints, rows: Ints, k: int) -> Bools:
    """Top-k accuracy, not recall: (Q,), is one photo of the query's style among its k best, itself left out.

    style: (N,) codes, -1 = none. rows: (Q, K > k).
    """
    found = drop_reference(rows, reference)
    return hit_at_k((style[found] == style[reference][:, None]) & (found >= 0) & (style[found] >= 0), k)


def precision_at_1(labels: Ints, reference: Ints, rows: Ints) -> Floats:
    """Leave-one-out precision@1 of each attribute: (A,), the share whose nearest other photo has the same value.

    rows: (Q, K >= 2). Queries without a value are left out of that attribute (NaN where none has one); a neighbour
    without a value, or no neighbour, is wrong.
    """
    nearest = drop_reference(rows, reference)[:, :1]
    same = matches(labels, nearest, labels[reference])[:, 0]
    known = labels[reference] >= 0
    asked = known.sum(axis=0).astype(np.float64)
    return np.divide((same & known).sum(axis=0), asked, out=np.full(len(asked), np.nan), where=asked > 0)


def told(probability: Floats, target: Ints, threshold: float = 0.6) -> tuple[Bools, Bools]:
    """What a head dares to say, and whether it is so: two (n, V) masks of probabilities (n, V) and targets (n, V), 1
    has, 0 lacks, -1 unknown. A value is told where its probability is above ``threshold`` and its target is known.

    Precision is ``right.sum() / said.sum()``; FashionAI takes a threshold of 0.6.
    """
    if probability.shape != target.shape:
        raise ValueError(f"probabilities {probability.shape} and targets {target.shape}: expected one shape")
    said = (probability > threshold) & (target >= 0)
    return said, said & (target == 1)


def bootstrap_interval(values: Floats, seed: int, draws: int = 1000, level: float = 0.95) -> Floats:
    """Percentile bootstrap interval of the mean over queries: (Q, M) values -> (M, 2) low and high.

    The M metrics share their resamples. Queries are drawn one by one, so correlation between the queries of one photo
    is not in it. Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    rng = np.random.default_rng(seed)
    size = len(values)
    means = np.empty((draws, values.shape[1]))
    for draw in range(draws):
        times = np.bincount(rng.integers(0, size, size), minlength=size)
        means[draw] = times @ values / size
    tail = (1 - level) / 2
    return np.quantile(means, [tail, 1 - tail], axis=0).T


def _relevance(total: Floats, edited: Floats, width: int, others: Floats | None = None) -> Relevance:
    """Counts of matching attributes -> shares."""
    if width == 1:
        return Relevance(total, edited, None)
    return Relevance(total / width, edited, (total - edited if others is None else others) / (width - 1))


def _dcg(relevance: Floats, k: int) -> Floats:
    gain = np.exp2(relevance[:, :k]) - 1
    return gain @ (1 / np.log2(np.arange(gain.shape[1]) + 2))


def _histogram(score: Ints, count: Ints, levels: int) -> NDArray[np.int64]:
    """(P, U) scores of gallery tuples held by ``count`` (U,) photos -> (P, levels) photos at each score."""
    cell = score + np.arange(len(score))[:, None] * levels
    weight = np.broadcast_to(count, score.shape)
    photos = np.bincount(cell.ravel(), weights=weight.ravel(), minlength=len(score) * levels)
    return photos.astype(np.int64).reshape(len(score), levels)


def _best(level: NDArray[np.int64], k: int) -> Floats:
    """(Q, L) photos at score 0..L-1 -> (Q, k) float64 the k highest scores, sorted; 0 where photos run out."""
    reached = np.cumsum(level[:, :0:-1], axis=1)  # photos at the top score, the top two, ... (score 0 is padding too)
    below = (reached[:, None, :] <= np.arange(k)[None, :, None]).sum(axis=2)
    return (level.shape[1] - 1 - below).astype(np.float64)
