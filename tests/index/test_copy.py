"""Candidates scored on an 8-bit copy in memory before the best of them are on the float16 vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index import approximate, catalogue, facts, levels, trial, tuning
from index.approximate import ApproximateIndex
from index.build import COPY, build_generation, extend_generation, open_index
from index.errors import DamagedError
from index.exact import as_float32
from index.exact import search as exact_search
from index.gallery import Gallery, verify
from index.hits import recall
from index.recipe import choose, with_copy
from tests.index.checks import check, same
from tests.index.conftest import APPROXIMATE, indexed_quickly, rows_of

ROWS, DIM = 1500, 96


@pytest.fixture(scope="module", params=APPROXIMATE)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, structured: np.ndarray) -> Path:
    """1,500 rows with an index of each kind and a copy, whatever the memory; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "with_copy", lambda recipe, *_: replace(recipe, copied=True))
        path = tmp_path_factory.mktemp("copy") / "gallery"
        return indexed_quickly(path, structured[:ROWS], request.param, patch).path


@pytest.fixture(scope="module")
def opened(path: Path) -> ApproximateIndex:
    index = open_index(Gallery.open(path))
    assert isinstance(index, ApproximateIndex)
    return index


def test_when_a_vector_is_copied() -> None:
    n, dim = 100_000, 1024
    for kind in APPROXIMATE:
        recipe = choose(n, dim, kind)
        with_it = replace(recipe, copied=True).resident(n, dim)
        assert with_it == recipe.resident(n, dim) + n * dim
        assert with_copy(recipe, n, dim, int(with_it) + 1).copied
        assert not with_copy(recipe, n, dim, int(with_it) - 1).copied  # does not fit
        assert with_copy(recipe, n, dim, 2 * n * dim - 1).copied
        assert not with_copy(recipe, n, dim, 2 * n * dim).copied  # the float16 vectors fit themselves
        assert not with_copy(recipe, n, dim, None).copied
    assert not with_copy(choose(n, dim, "exact"), n, dim, 3 * n * dim // 2).copied


@pytest.mark.parametrize(("k", "nprobe", "rerank"), [(1, 2, 40), (10, 4, 64), (10, 30, 300), (40, 8, 256), (5, 8, 6)])
def test_a_search_is_candidates_then_the_copy_then_the_vectors(
    opened: ApproximateIndex, queries: np.ndarray, k: int, nprobe: int, rerank: int
) -> None:
    """Against the obvious way: all three steps in numpy."""
    found = opened.search(queries, k, nprobe=nprobe, rerank=rerank)
    check(opened, queries, found, k)
    depth = max(rerank, k)
    kept = opened.kept(k, depth)
    assert kept == min(k + max(4, k // 5), depth)
    stored = as_float32(opened.vectors)
    for i, query in enumerate(queries):
        met = opened.candidates(query[None], nprobe, depth)[0]
        met = met[met >= 0]
        if len(met) < kept:
            continue  # then all of them are scored on the vectors
        best = met[np.argsort(-(opened.copied(met) @ query), kind="stable")[:kept]]
        scores = np.sort(stored[best] @ query)[::-1][:k]
        assert np.abs(found.scores[i] - scores).max() < 1e-4 * np.abs(scores).max()


def test_the_copy_is_the_vectors_to_8_bits(opened: ApproximateIndex) -> None:
    stored = as_float32(opened.vectors)
    step = (stored.max(axis=0) - stored.min(axis=0)) / 255
    assert (np.abs(opened.copied(np.arange(ROWS)) - stored) <= 0.51 * step + 1e-6).all()


def test_the_curve_is_what_searches_reach(opened: ApproximateIndex, structured: np.ndarray) -> None:
    assert opened.tuning is not None
    asked = as_float32(structured[3000:3400]) * np.repeat([1.0, 2.0, 1.0], [48, 24, 24]).astype(np.float32)
    truth = exact_search(opened.vectors, asked, 10)
    for at in (0.7, 0.9, 0.95):
        setting = opened.setting(at, 10)
        reached = recall(opened.search(asked, 10, recall=at), truth, 10)
        share = setting.by_kind["default weights"][10]
        chance = 3 * np.sqrt(share * (1 - share) * (1 / 400 + 1 / 40))  # it was measured on 40
        assert reached > share - chance - 0.03  # and chosen by that


def test_less_is_read_than_without_it(opened: ApproximateIndex) -> None:
    bare = ApproximateIndex(opened.index, opened.vectors, opened.tuning)
    assert opened.bytes_scored(10, 256) == 256 * DIM + 14 * 2 * DIM
    assert bare.bytes_scored(10, 256) == 256 * 2 * DIM


def test_filters_and_knobs_still_answer_fully(opened: ApproximateIndex, queries: np.ndarray) -> None:
    rows = np.arange(0, ROWS, 3)
    hits = opened.search(queries, 10, rows=rows)
    assert (hits.counts == 10).all()
    assert np.isin(hits.rows, rows).all()
    same(opened.search(queries, ROWS, nprobe=8, rerank=ROWS), exact_search(opened.vectors, queries, ROWS))


def test_the_gallery_says_so(path: Path) -> None:
    gallery = Gallery.open(path)
    current = gallery.manifest.current
    assert current is not None
    assert current.recipe["copied"]
    assert json.loads((path / "gallery.json").read_text())["format"] == 4
    assert facts.describe(gallery, open_index(gallery))["made of"].endswith("a copy of the vectors at 8 bits")
    assert verify(path) == []


def test_a_damaged_copy_is_not_loaded(path: Path) -> None:
    file = Gallery.open(path).path / "gen-000001" / COPY
    before = file.read_bytes()
    try:
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(DamagedError, match="copy.faiss: damaged"):
            open_index(Gallery.open(path))
        assert any("copy.faiss" in fault for fault in verify(path))
    finally:
        file.write_bytes(before)


def test_a_cap_brings_it_and_additions_extend_it_until_they_outgrow_the_cap(
    tmp_path: Path, structured: np.ndarray, gallery_at: Callable[..., Gallery], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels, "QUERIES", 40)
    gallery = gallery_at(tmp_path / "gallery", structured[:ROWS], 600)
    cap = 180 * ROWS
    generation = build_generation(gallery, "fastscan", memory=cap)
    assert generation.recipe["copied"]
    assert sum(generation.files[name]["bytes"] for name in ("index.faiss", COPY)) < cap
    catalogue.add(gallery.path, rows_of([f"n{i}" for i in range(20)], structured[4000:4020]), tail_rows=0)
    grown = Gallery.open(gallery.path)
    index = open_index(grown)
    assert isinstance(index, ApproximateIndex)
    assert index.copy.ntotal == index.index.ntotal == ROWS + 20
    stored = as_float32(index.vectors[ROWS:])
    assert (np.sum(index.copied(np.arange(ROWS, ROWS + 20)) * stored, axis=1) > 0.99 * (stored**2).sum(axis=1)).all()
    catalogue.add(gallery.path, rows_of([f"m{i}" for i in range(900)], structured[4100:5000]), tail_rows=10**6)
    extended = extend_generation(Gallery.open(gallery.path))
    assert not extended.recipe.get("copied")
    assert COPY not in extended.files
    assert verify(gallery.path) == []


def test_the_measured_recall_counts_what_the_copy_loses(structured: np.ndarray, layout: object) -> None:
    """A copy that says nothing of the vectors leaves its choice to chance, and the curve shows it."""
    recipe = choose(len(structured), DIM, "ivfpq")
    index = approximate.build(structured, recipe)
    copy = approximate.copied(np.ascontiguousarray(structured[::-1]))
    scorer = approximate.copied(structured)  # stands for the float16 one: it is not asked here
    blind = ApproximateIndex(index, structured, scorer=scorer, copy=copy)
    seeing = ApproximateIndex(index, structured, scorer=scorer)
    curves = [tuning.measure(each, layout, {}, timed=False).curve for each in (blind, seeing)]  # type: ignore[arg-type]
    blinded, seen = ([each for each in curve if each.rerank == 512][-1] for curve in curves)
    assert blinded.recall[10] < 0.3
    assert seen.recall[10] > 0.9
