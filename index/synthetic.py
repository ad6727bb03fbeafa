"""Generated vectors that behave like photo features, for tests and benchmarks: uniform noise has no neighbours to find.

A mixture in 24 latent dimensions (cluster sizes ~ rank^-0.8, each with its own anisotropic covariance) goes through a
random two-layer ReLU network; noise is added, a share of rows are near-duplicates of others, every block has length 1.
The PCA spectrum of the result falls off like that of features of real photos.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from index.table import Layout

LATENT = 24
NEAR_DUPLICATES = 0.03
BATCH = 8192


def vectors(layout: Layout, n: int, *, clusters: int = 3000, seed: int = 0) -> Iterator[npt.NDArray[np.float16]]:
    """n generated embeddings of this layout, float16 (up to 8192, dim) at a time; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((clusters, LATENT), dtype=np.float32)
    # axis lengths of each cluster's covariance fall off differently, in its own directions
    lengths = 0.35 * rng.gamma(1.0, 1.0, (clusters, LATENT)).astype(np.float32)
    turns = np.linalg.qr(rng.standard_normal((16, LATENT, LATENT)))[0].astype(np.float32)  # 16 shared orientations
    shares = np.arange(1, clusters + 1) ** -0.8
    hidden = max(2 * LATENT, layout.dim // 2)
    first = rng.standard_normal((LATENT, hidden), dtype=np.float32) / np.sqrt(LATENT)
    second = rng.standard_normal((hidden, layout.dim), dtype=np.float32) / np.sqrt(hidden)
    bias = rng.standard_normal(hidden, dtype=np.float32) * 0.3
    # what a ReLU network adds to every output is subtracted, or all vectors would point one way
    mean = np.maximum(rng.standard_normal((4096, LATENT), dtype=np.float32) @ first + bias, 0).mean(0) @ second
    for start in range(0, n, BATCH):
        size = min(BATCH, n - start)
        cluster = rng.choice(clusters, size, p=shares / shares.sum())
        offsets = rng.standard_normal((size, LATENT), dtype=np.float32) * lengths[cluster]
        latent = centers[cluster] + np.einsum("nd,nde->ne", offsets, turns[cluster % len(turns)])
        out = np.maximum(latent @ first + bias, 0) @ second - mean
        out += 0.05 * rng.standard_normal(out.shape, dtype=np.float32)
        copies = rng.random(size) < NEAR_DUPLICATES
        out[copies] = out[rng.integers(0, size, copies.sum())]
        out[copies] += 0.01 * rng.standard_normal((copies.sum(), layout.dim), dtype=np.float32)
        for block in layout.blocks:
            part = out[:, block.start : block.stop]
            part /= np.linalg.norm(part, axis=1, keepdims=True)
        yield out.astype(np.float16)
