from __future__ import annotations

import math

import numpy as np
import pytest

from index import levels, trial, tuning
from index.approximate import ApproximateIndex
from index.errors import CapError, GalleryError
from index.projection import choose_dims
from index.recipe import Recipe
from index.table import Layout
from index.trial import fitted

WEIGHTS = {"color": 2.0}
N = 3000


@pytest.fixture(scope="module")
def mapped(structured: np.ndarray) -> np.ndarray:
    return structured[:N]


def test_without_a_cap_small_galleries_get_the_first(mapped: np.ndarray, layout: Layout) -> None:
    recipe = fitted(mapped, layout, WEIGHTS)
    starts = np.array([block.start for block in layout.blocks])
    assert (recipe.kind, recipe.links) == ("graph", 16)
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(N, N, replace=False))
    enough = choose_dims(mapped[rows].astype(np.float32), starts, layout.scale(WEIGHTS))
    assert recipe.dims == max(enough, 64)
    assert fitted(mapped, layout, WEIGHTS, "fastscan").dims == enough < 96
    assert recipe == fitted(mapped, layout, WEIGHTS)


@pytest.mark.parametrize("kind", ["graph", "fastscan", "rabitq", "ivfpq"])
def test_the_kind_asked_is_what_is_got(mapped: np.ndarray, layout: Layout, kind: str) -> None:
    recipe = fitted(mapped, layout, WEIGHTS, kind, seed=4)
    assert (recipe.kind, recipe.seed) == (kind, 4)
    assert (recipe.dims > 0) == (kind != "ivfpq")
    cap = int(recipe.resident(N, 96))
    if kind != "graph":  # which has a leaner one
        said = rf"no {kind} index of {N} rows fits {cap - 1} bytes, the least is ({cap}|{cap + 1}): raise --memory"
        with pytest.raises(CapError, match=said):
            fitted(mapped, layout, WEIGHTS, kind, memory=cap - 1)
    assert fitted(mapped, layout, WEIGHTS, kind, memory=cap + 1).kind == kind


def test_a_cap_makes_it_leaner(mapped: np.ndarray, layout: Layout) -> None:
    full = fitted(mapped, layout, WEIGHTS)
    leaner = fitted(mapped, layout, WEIGHTS, memory=int(full.resident(N, 96)) - 1)
    assert (leaner.kind, leaner.links) == ("graph", 8)
    lists = fitted(mapped, layout, WEIGHTS, memory=int(leaner.resident(N, 96)) - 1)
    assert lists.kind in ("fastscan", "rabitq")
    with pytest.raises(
        GalleryError, match="no index of 3000 rows fits 1000 bytes, the least is [0-9]+: raise --memory"
    ):
        fitted(mapped, layout, WEIGHTS, memory=1000)
    for memory in (1000, int(lists.resident(N, 96)) + 1):  # the least of all kinds would be too small for a graph
        with pytest.raises(CapError, match="no graph index of 3000 rows fits .* raise --memory, or ask") as caught:
            fitted(mapped, layout, WEIGHTS, "graph", memory=memory)
        assert caught.value.needed == math.ceil(leaner.resident(N, 96))
        assert fitted(mapped, layout, WEIGHTS, "graph", memory=caught.value.needed) == leaner


def test_larger_galleries_are_tried(mapped: np.ndarray, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest of those that reach the recall; the best where none does; and only what fits is built."""
    monkeypatch.setattr(trial, "TRIAL_FROM", 2000)
    monkeypatch.setattr(trial, "TRIAL_ROWS", 1100)
    results: dict[tuple[str, int], tuple[float, float]] = {}
    tried: list[tuple[str, int, int]] = []

    def measured(index: ApproximateIndex, layout: Layout, weights: object, seed: int) -> tuple[float, float]:
        kind = type(index.base.index).__name__
        links = index.base.index.hnsw.nb_neighbors(1) if "HNSW" in kind else 0
        tried.append((kind, links, len(index.vectors)))
        return results[(kind, links)]

    monkeypatch.setattr(tuning, "trial", measured)
    names = [("IndexHNSWSQ", 16), ("IndexIVFPQFastScan", 0), ("IndexIVFRaBitQFastScan", 0)]
    lean = ("IndexHNSWSQ", 8)

    def pick(*reached_and_ms: tuple[float, float], memory: int | None = None) -> Recipe:
        results.update(zip([*names, lean], reached_and_ms, strict=True))
        tried.clear()
        return fitted(mapped, layout, WEIGHTS, memory=memory)

    assert pick((0.96, 3), (0.97, 1), (0.9, 0.1), (1, 0)).kind == "fastscan"
    assert tried == [(*each, 1100) for each in names]
    whole = pick((0.96, 1), (0.96, 1), (0.96, 1), (1, 0))
    assert (whole.kind, whole.links, whole.train_rows) == ("graph", 16, N)  # for all rows, not for those of the trial
    assert pick((0.9, 3), (0.94, 2), (0.8, 1), (1, 0)).kind == "fastscan"
    half = pick((1, 0), (1, 1), (1, 2), (1, 0.5), memory=int(whole.resident(N, 96)) - 1)
    assert (half.kind, half.links) == ("graph", 8)
    assert tried[0] == (*lean, 1100)
    assert pick((1, 0), (1, 1), (1, 2), (1, 0), memory=int(half.resident(N, 96)) - 1).kind == "fastscan"
    assert [kind for kind, *_ in tried] == ["IndexIVFPQFastScan", "IndexIVFRaBitQFastScan"]


def test_a_real_trial(mapped: np.ndarray, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TRIAL_FROM", 2000)
    monkeypatch.setattr(trial, "TRIAL_ROWS", 1100)
    monkeypatch.setattr(levels, "QUERIES", 30)
    recipe = fitted(mapped, layout, WEIGHTS)
    assert recipe.kind in ("graph", "fastscan", "rabitq")
