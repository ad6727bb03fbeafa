from __future__ import annotations

import pytest

from index.errors import GalleryError
from index.recipe import EXACT_BELOW, TRAINABLE_FROM, Recipe, choose


def test_auto_is_exact_for_small_galleries() -> None:
    assert choose(0, 576).kind == "exact"
    assert choose(EXACT_BELOW - 1, 576).kind == "exact"
    assert choose(EXACT_BELOW, 576).kind == "graph"


def test_asking_overrules_auto() -> None:
    assert choose(10**6, 576, "exact") == Recipe("exact")
    assert choose(TRAINABLE_FROM, 576, "ivfpq", seed=3).seed == 3


def test_too_few_rows_says_how_many() -> None:
    with pytest.raises(GalleryError, match=f"1000 rows.*needs {TRAINABLE_FROM}"):
        choose(1000, 576, "ivfpq")
    with pytest.raises(GalleryError, match="known: auto, exact, ivfpq, fastscan, rabitq, graph"):
        choose(1000, 576, "hnsw")


@pytest.mark.parametrize("n", [TRAINABLE_FROM, 5000, 35_470, 100_000, 3_200_000])
@pytest.mark.parametrize("d", [1, 7, 8, 37, 96, 128, 576, 577, 1024, 2048])
def test_knobs_fit_the_rows_and_any_dimension(n: int, d: int) -> None:
    recipe = choose(n, d, "ivfpq")
    assert 1 <= recipe.nlist <= n // 39  # FAISS wants 39 rows a centroid
    assert 256 <= recipe.train_rows <= n
    assert recipe.train_rows >= 39 * recipe.nlist
    assert recipe.pq_m <= d
    assert recipe.coded(d) % recipe.pq_m == 0
    assert d <= recipe.coded(d) < d + recipe.pq_m
    assert recipe.pq_m <= max(8, d / 8 + 1)


def test_pinned_recipes() -> None:
    assert choose(100_000, 576, "ivfpq") == Recipe("ivfpq", nlist=949, pq_m=72, nbits=8, train_rows=37_960, seed=0)
    assert choose(35_470, 1024, "ivfpq") == Recipe("ivfpq", nlist=565, pq_m=128, nbits=8, train_rows=22_600, seed=0)
