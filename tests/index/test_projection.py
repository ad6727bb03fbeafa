from __future__ import annotations

import numpy as np
import pytest

from index import projection
from index.exact import as_float32
from index.projection import DIMS, ENOUGH, choose_dims, learn
from index.table import Layout


@pytest.fixture(scope="module")
def sample(structured: np.ndarray) -> np.ndarray:
    return as_float32(structured[:1500])


@pytest.fixture(scope="module")
def starts(layout: Layout) -> np.ndarray:
    return np.array([block.start for block in layout.blocks])


@pytest.mark.parametrize("dims", [1, 32, 96])
def test_rows_are_orthonormal(sample: np.ndarray, starts: np.ndarray, dims: int) -> None:
    matrix = learn(sample, starts, dims)
    assert (matrix.shape, matrix.dtype) == ((dims, 96), np.float32)
    assert np.allclose(matrix @ matrix.T, np.eye(dims), atol=1e-5)


def test_of_all_dimensions_nothing_is_lost(sample: np.ndarray, starts: np.ndarray, queries: np.ndarray) -> None:
    matrix = learn(sample, starts, 96)
    assert np.allclose((queries @ matrix.T) @ (sample @ matrix.T).T, queries @ sample.T, atol=1e-4)


def test_same_seed_same_projection(sample: np.ndarray, starts: np.ndarray) -> None:
    assert np.array_equal(learn(sample, starts, 32, 5), learn(sample, starts, 32, 5))
    one, other = learn(sample, starts, 32, 5), learn(sample, starts, 32, 6)
    assert not np.allclose(one, other)
    assert np.allclose(one.T @ one, other.T @ other, atol=1e-4)  # turned within the same space


def test_space_is_that_of_the_most_energy_under_random_weights(sample: np.ndarray, starts: np.ndarray) -> None:
    """The oracle: the second moment of the sample at weights drawn uniformly, many times."""
    rng = np.random.default_rng(0)
    moment = np.zeros((96, 96))
    sizes = np.diff([*starts, 96])
    wide = sample.astype(np.float64)
    plain = wide.T @ wide / len(wide)
    for weights in rng.uniform(0, 1, (20_000, 3)):
        scale = np.repeat(weights, sizes)
        moment += scale[:, None] * plain * scale
    matrix = learn(sample, starts, 16).astype(np.float64)
    most = np.linalg.eigvalsh(moment)[-16:].sum()
    assert np.trace(matrix @ moment @ matrix.T) == pytest.approx(most, rel=1e-3)


def naive_dims(sample: np.ndarray, starts: np.ndarray, weights: np.ndarray, seed: int, k: int) -> int:
    """Neighbour by neighbour; scores are distinct here, so no ties."""
    rng = np.random.default_rng(seed)
    n, dim = sample.shape
    own = rng.choice(n, min(projection.PROBES, n), replace=False)
    drawn = rng.uniform(0, 4, (len(own), len(starts)))
    for dims in [each for each in DIMS if each < dim]:
        matrix = learn(sample, starts, dims)  # turned or not, inner products are the same
        shares: list[list[float]] = [[], []]
        for i, row in enumerate(own):
            random_weights = np.repeat(drawn[i], np.diff([*starts, dim]))
            for kind, (scale, depth) in enumerate([(weights, 2 * k), (random_weights, 4 * k)]):
                query = (sample[row] * scale).astype(np.float64)
                true = sorted((r for r in range(n) if r != row), key=lambda r, s=sample @ query: -s[r])[:k]
                scores = (sample @ matrix.T) @ (matrix @ query)
                found = sorted((r for r in range(n) if r != row), key=lambda r, s=scores: -s[r])[:depth]
                shares[kind].append(len(set(true) & set(found)) / k)
        if min(np.mean(each) for each in shares) >= ENOUGH:
            return dims
    return dim


@pytest.mark.parametrize("enough", [0.9, 0.98, 1.1])
def test_fewest_dims_that_keep_neighbours(
    sample: np.ndarray, starts: np.ndarray, layout: Layout, enough: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "PROBES", 12)
    monkeypatch.setattr(projection, "ENOUGH", enough)
    monkeypatch.setattr(projection, "DIMS", (4, 16, 24, 32, 96, 128))
    monkeypatch.setitem(globals(), "ENOUGH", enough)
    monkeypatch.setitem(globals(), "DIMS", projection.DIMS)
    weights = layout.scale({"color": 2.0})
    # noise, so that no two scores tie
    noisy = sample[:300] + 0.01 * np.random.default_rng(1).standard_normal((300, 96)).astype(np.float32)
    found = choose_dims(noisy, starts, weights, 3, 5)
    assert found == naive_dims(noisy, starts, weights, 3, 5)
    assert found == choose_dims(noisy, starts, weights, 3, 5)
    assert (found == 96) == (enough > 1)  # nothing is enough: all of them


def test_vectors_without_structure_keep_all_dimensions() -> None:
    noise = np.random.default_rng(0).standard_normal((2000, 96)).astype(np.float32)
    assert choose_dims(noise, np.array([0]), np.ones(96, np.float32)) == 96


def test_copies_tie(sample: np.ndarray, starts: np.ndarray, layout: Layout) -> None:
    """Any ten of 800 copies are nearest to another: they cost no dimensions."""
    crowd = np.concatenate([np.repeat(sample[:1], 800, axis=0), sample[:1200]])
    scale = layout.scale({})
    assert choose_dims(crowd, starts, scale) == choose_dims(sample[:1200], starts, scale) < 96


def test_few_rows(sample: np.ndarray, starts: np.ndarray, layout: Layout) -> None:
    assert choose_dims(sample[:8], starts, layout.scale({})) == DIMS[0]
