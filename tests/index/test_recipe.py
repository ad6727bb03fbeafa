from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from index import approximate
from index.errors import GalleryError
from index.recipe import EXACT_BELOW, TRAINABLE_FROM, Recipe, alternatives, choose, for_rows
from tests.index.conftest import APPROXIMATE


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
    assert choose(100_000, 576) == choose(100_000, 576, "graph")
    assert choose(100_000, 576, "graph") == Recipe("graph", train_rows=65_536, dims=64, links=16, ef_construction=64)
    assert choose(100_000, 768, "graph") == Recipe("graph", train_rows=65_536, dims=96, links=16, ef_construction=96)
    assert choose(100_000, 576, "fastscan", dims=96) == Recipe("fastscan", 949, 96, 4, 37_960, 0, 96)
    assert choose(100_000, 576, "rabitq", seed=2) == Recipe("rabitq", 949, 0, 1, 37_960, 2, 64)


@pytest.mark.parametrize("kind", ["graph", "fastscan", "rabitq"])
def test_a_projection_as_wide_as_the_vectors_is_none(kind: str) -> None:
    for dims in (96, 128):
        recipe = choose(5000, 96, kind, dims=dims)
        assert (recipe.dims, recipe.coded(96)) == (0, 96)
    assert choose(5000, 96, kind, dims=95).coded(96) == 95
    assert choose(5000, 37, "fastscan", dims=37).coded(37) == 38


@pytest.mark.parametrize(("kind", "dims"), [("ivfpq", 0), *((k, d) for k in APPROXIMATE[1:] for d in (32, 96))])
def test_bytes_are_those_of_the_file(structured: np.ndarray, tmp_path: Path, kind: str, dims: int) -> None:
    for n in (1100, 3000):
        recipe = choose(n, 96, kind, dims=dims)
        faiss.write_index(approximate.build(structured[:n], recipe), str(tmp_path / "index"))
        size = (tmp_path / "index").stat().st_size
        list_of_row = 4 * n if recipe.nlist else 0  # not in the file: made by the first filter
        assert recipe.resident(n, 96) - list_of_row == pytest.approx(size, rel=0.05)
    assert Recipe("exact").resident(10**6, 96) == 0


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_of_many_rows_the_rows_count(kind: str) -> None:
    recipe = choose(10**8, 1024, kind)
    by_row = recipe.bytes_per_row(1024) + (4 if recipe.nlist else 0)
    assert recipe.resident(10**8, 1024) == pytest.approx(10**8 * by_row, rel=0.02)


def test_pinned_bytes() -> None:
    """docs/scale.md counts with them."""
    of = {kind: choose(10**6, 1024, kind).bytes_per_row(1024) for kind in APPROXIMATE}
    assert of == {"ivfpq": 136, "fastscan": 40, "rabitq": 28, "graph": 249}


@pytest.mark.parametrize("n", [TRAINABLE_FROM, 50_000, 10**6, 10**8])
def test_alternatives_fit(n: int) -> None:
    d, dims = 1024, 64
    every = alternatives(n, d, dims, None)
    assert [(each.kind, each.links) for each in every] == [("graph", 16), ("fastscan", 0), ("rabitq", 0)]
    every.insert(1, choose(n, d, "graph", 0, dims, links=8))
    sizes = [each.resident(n, d) for each in every]
    for cap in (*map(int, sizes), *(int(each) + 1 for each in sizes), 10**15):
        if cap < min(sizes):
            continue
        fitting = alternatives(n, d, dims, cap)
        # half the links only where all of them do not fit
        assert fitting == [
            each for each in every if each.resident(n, d) <= cap and (each != every[1] or cap < sizes[0])
        ]
        assert fitting
    least = int(min(sizes))
    with pytest.raises(
        GalleryError, match=rf"{n} rows fits {least - 1} bytes, the least is ({least}|{least + 1}): raise"
    ):
        alternatives(n, d, dims, least - 1)


@pytest.mark.parametrize("dims", [32, 96])
@pytest.mark.parametrize("kind", APPROXIMATE)
def test_for_other_rows(kind: str, dims: int) -> None:
    recipe = choose(10**6, 96, kind, 7, dims, links=8)
    smaller = for_rows(recipe, 30_000, 96)
    assert smaller == choose(30_000, 96, kind, 7, dims, links=8)
    assert for_rows(smaller, 10**6, 96) == recipe
