from __future__ import annotations

import numpy as np

from index.exact import as_float32
from index.synthetic import vectors
from index.table import Layout


def test_same_arguments_same_vectors(layout: Layout) -> None:
    first, again = (np.concatenate(list(vectors(layout, 9000, clusters=50, seed=3))) for _ in range(2))
    assert first.shape == (9000, 96)
    assert first.dtype == np.float16
    assert np.array_equal(first, again)
    assert not np.array_equal(first, np.concatenate(list(vectors(layout, 9000, clusters=50, seed=4))))


def test_blocks_are_unit(layout: Layout, structured: np.ndarray) -> None:
    for block in layout.blocks:
        lengths = np.linalg.norm(as_float32(structured[:, block.start : block.stop]), axis=1)
        assert np.allclose(lengths, 1, atol=1e-3)


def test_vectors_have_structure_that_noise_lacks(structured: np.ndarray) -> None:
    x = as_float32(structured[:2000])
    variance = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    share = np.cumsum(variance) / variance.sum()
    assert share[9] > 0.5  # 10 of 96 directions; noise has 0.12 there
    assert np.abs(x.mean(axis=0)).max() < 0.2  # not all one way
    similarity = x @ x.T / 3
    np.fill_diagonal(similarity, -1)
    nearest = similarity.max(axis=1)
    assert 0.005 < (nearest > 0.99).mean() < 0.2  # near-duplicates
    assert np.median(nearest) > 0.7  # clusters
