"""An orthogonal projection that keeps inner products at any block weights: what graphs and short codes are built on.

For P with orthonormal rows, <q, x> = <Pq, Px> + <q - P'Pq, x - P'Px>. The second term is small for every query where x
itself is close to its projection, so P is learned from the table alone and the query is projected after its weighting.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from index.exact import Float32
from index.hits import TIE_TOLERANCE

DIMS = (32, 48, 64, 96, 128, 192, 256)
ENOUGH = 0.98  # of the true neighbours within the first candidates by projection
PROBES = 200


def learn(sample: Float32, starts: npt.NDArray[np.int64], dims: int, seed: int = 0) -> Float32:
    """P, float32 (dims, D) with orthonormal rows, from a sample (n, D) whose blocks begin at ``starts``.

    Its rows span the leading eigenvectors of the second moment that the sample has under random block weights: with
    weights uniform in 0..a, E[w_b w_c] / E[w_b^2] = 3/4 for two blocks, so what couples blocks counts 3/4. Within that
    space P is turned at random (seed): every projected dimension then carries as much, which is what scalar and product
    quantisers want.
    """
    vectors = _eigenvectors(sample, starts)[:, :dims]
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((dims, dims)))[0]
    return np.ascontiguousarray((vectors @ turn).T, np.float32)


def _eigenvectors(sample: Float32, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """All eigenvectors (D, D) as columns, largest eigenvalue first."""
    moment = (sample.T @ sample).astype(np.float64) / len(sample)
    block = np.searchsorted(starts, np.arange(sample.shape[1]), side="right")
    moment[block[:, None] != block[None, :]] *= 0.75
    return np.linalg.eigh(moment)[1][:, ::-1]


def choose_dims(
    sample: Float32, starts: npt.NDArray[np.int64], weights: npt.NDArray[np.float32], seed: int = 0, k: int = 10
) -> int:
    """The fewest dimensions that keep neighbours, measured on the sample (n, D); D where even the most do not.

    Enough is when ENOUGH of the true k nearest are among the first 2k by projection at the default ``weights`` (D,),
    and among the first 4k at random block weights. Queries are rows of the sample. A row that ties with the k-th is as
    good as it: copies of one photo, of which any k are nearest, would otherwise seem lost.
    """
    rng = np.random.default_rng(seed)
    dim = sample.shape[1]
    own = rng.choice(len(sample), min(PROBES, len(sample)), replace=False)
    sizes = np.diff([*starts, dim])
    random_weights = np.repeat(rng.uniform(0, 4, (len(own), len(starts))), sizes, axis=1).astype(np.float32)
    asked = [(sample[own] * weights, 2 * k), (sample[own] * random_weights, 4 * k)]
    k = min(k, len(sample) - 1)
    true = [_neighbours(_scores(queries, sample, own), k) for queries, _ in asked]
    vectors = _eigenvectors(sample, starts).astype(np.float32)
    for dims in DIMS:
        if dims >= dim:
            break
        shorter = np.ascontiguousarray(sample @ vectors[:, :dims])
        kept = []
        for (queries, depth), wanted in zip(asked, true, strict=True):
            scores = _scores(np.asarray(queries @ vectors[:, :dims], np.float32), shorter, own)
            depth = min(depth, len(sample) - 1)
            found = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
            kept.append(np.minimum(np.take_along_axis(wanted, found, axis=1).sum(axis=1), k).mean() / k)
        if min(kept) >= ENOUGH:
            return dims
    return dim


def _scores(queries: Float32, rows: Float32, own: npt.NDArray[np.int64]) -> Float32:
    """Inner products (q, n); -inf for the row that each query is."""
    scores = np.asarray(queries @ rows.T, np.float32)
    scores[np.arange(len(own)), own] = -np.inf
    return scores


def _neighbours(scores: Float32, k: int) -> npt.NDArray[np.bool_]:
    """Which of these scores (q, n) are among the k best of their row, or tie with the k-th."""
    last = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    return scores >= last - TIE_TOLERANCE * np.abs(scores.max(axis=1, keepdims=True))
