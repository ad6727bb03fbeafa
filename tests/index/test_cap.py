"""A cap on the memory of an index is kept to, and remembered; sizes as people write them; facts in words."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index import catalogue, facts
from index.build import build_generation, extend_generation, is_current, open_index
from index.errors import CapError, GalleryError, InputError
from index.exact import as_float32
from index.gallery import Gallery, verify
from index.manifest import Generation, Manifest
from index.recipe import Recipe, bytes_of, choose, size_of
from tests.index.conftest import rows_of

ROWS = 1500  # of the gallery ``start``
CAP = 250 * ROWS


@pytest.fixture
def path(start: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(start, tmp_path / "gallery"))


def current(path: Path) -> Generation:
    found = Gallery.open(path).manifest.current
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("300000", 300_000), ("2GB", 2 * 10**9), ("1.5 gib", 3 * 2**29), ("7 b", 7), ("20mb", 20_000_000),
     ("0.5KiB", 512), (" 3TB ", 3 * 10**12), ("1TiB", 2**40)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "2 G", "-1", "1e9", "2,5GB", "1.GB", "two", "2GBs", "9" * 320, "9" * 300 + "TB"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="is no size: write bytes"):
        bytes_of(text)


def test_the_cap_is_remembered_and_kept(path: Path, structured: np.ndarray) -> None:
    cap = CAP
    generation = build_generation(Gallery.open(path), "graph", memory=cap)
    assert (generation.memory, current(path).memory) == (cap, cap)
    assert json.loads((path / "gallery.json").read_text())["format"] == 4
    assert Recipe(**generation.recipe).resident(ROWS, 96) <= cap
    assert is_current(Gallery.open(path).manifest, "auto", None)
    assert is_current(Gallery.open(path).manifest, "graph", cap)
    assert not is_current(Gallery.open(path).manifest, "graph", 0)
    assert not is_current(Gallery.open(path).manifest, "exact", cap)
    build_generation(Gallery.open(path), "graph")
    assert current(path).memory == cap
    catalogue.remove(path, ["item-00003"])
    catalogue.compact(path, "graph")
    assert current(path).memory == cap
    assert verify(path) == []
    build_generation(Gallery.open(path), "graph", memory=0)
    assert current(path).memory is None
    catalogue.compact(path, "graph", memory=cap)
    assert current(path).memory == cap
    assert verify(path) == []
    again = Manifest.from_bytes((path / "gallery.json").read_bytes())
    assert again.to_bytes() == (path / "gallery.json").read_bytes()


@pytest.mark.parametrize("kind", ["ivfpq", "graph", "fastscan", "rabitq"])
def test_a_kind_that_does_not_fit_is_refused_and_nothing_changes(path: Path, kind: str) -> None:
    before = (path / "gallery.json").read_bytes()
    with pytest.raises(GalleryError, match=r"raise --memory"):
        build_generation(Gallery.open(path), kind, memory=10 * ROWS)
    assert (path / "gallery.json").read_bytes() == before
    assert verify(path) == []


def test_the_refusal_says_what_it_takes(path: Path) -> None:
    recipe = choose(ROWS, 96, "ivfpq")
    need = math.ceil(recipe.resident(ROWS, 96))
    said = rf"no ivfpq index of {ROWS} rows fits {need - 1} bytes, the least is {need}: raise --memory"
    with pytest.raises(GalleryError, match=said):
        build_generation(Gallery.open(path), "ivfpq", memory=need - 1)
    build_generation(Gallery.open(path), "ivfpq", memory=need)


def test_an_index_that_outgrows_its_cap_becomes_what_fits(path: Path, structured: np.ndarray) -> None:
    build_generation(Gallery.open(path), "graph", memory=CAP)
    recipe = Recipe(**current(path).recipe)
    room = next(more for more in range(5000) if recipe.resident(ROWS + more + 1, 96) > CAP)
    ids = [f"n{i}" for i in range(room + 200)]
    catalogue.add(path, rows_of(ids[: room - 10], structured[2000 : 2000 + room - 10]), tail_rows=0)
    assert Recipe(**current(path).recipe) == recipe
    catalogue.add(path, rows_of(ids[room - 10 :], structured[4000:4210]), tail_rows=10**6)
    generation = extend_generation(Gallery.open(path))
    assert generation.memory == CAP
    assert generation.recipe["kind"] == "exact"  # auto's choice for so few rows
    assert Gallery.open(path).manifest.indexed == ROWS + room + 200
    assert verify(path) == []


def test_where_nothing_fits_the_tail_stays_and_the_line_says_what_to_run(
    path: Path, structured: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.recipe.EXACT_BELOW", 1200)
    build_generation(Gallery.open(path), "rabitq", memory=10**6)
    cap = math.ceil(Recipe(**current(path).recipe).resident(ROWS, 96)) + 100
    build_generation(Gallery.open(path), "rabitq", memory=cap)
    name, fresh = current(path).name, structured[3000:3300]
    monkeypatch.setattr("index.build._generation", None)  # refused before all vectors are written anew
    change = catalogue.add(path, rows_of([f"n{i}" for i in range(300)], fresh), tail_rows=100)
    monkeypatch.undo()
    monkeypatch.setattr("index.recipe.EXACT_BELOW", 1200)
    anew = f"fsearch build-index --reindex --gallery {path}"
    said = re.fullmatch(
        rf"300 rows behind the index are searched exactly, so slower: no index of 1,800 rows fits the {cap:,} bytes"
        rf" allowed, the least takes ([0-9,]+); run `{anew} --memory ([0-9.]+KB)`, or `{anew} --recipe exact`",
        change.short,
    )
    assert said, change.short
    assert (change.added, change.gallery.manifest.photos, current(path).name) == (300, 1800, name)
    assert open_index(Gallery.open(path)).search(as_float32(fresh), 1).rows[:, 0].tolist() == list(range(1500, 1800))
    assert verify(path) == []
    need = int(said[1].replace(",", ""))
    assert need < bytes_of(said[2]) < 1.3 * need
    with pytest.raises(CapError, match=f"the least is {need}"):
        build_generation(Gallery.open(path), memory=need - 1)
    for memory in (need, bytes_of(said[2])):
        generation = build_generation(Gallery.open(path), memory=memory)
        assert Gallery.open(path).manifest.indexed == 1800
        assert generation.recipe["kind"] in ("fastscan", "rabitq")
    assert catalogue.add(path, rows_of(["one"], structured[4000:4001]), tail_rows=0).short == ""
    assert Gallery.open(path).manifest.indexed == 1801


@given(st.integers(1, 10**15))
def test_an_advised_size_suffices(n: int) -> None:
    assert n <= bytes_of(size_of(n)) <= 1.11 * n + 100
    assert size_of(1_234_567) == "1.3MB"


@pytest.mark.parametrize("kind", ["exact", "ivfpq", "fastscan", "rabitq", "graph"])
def test_facts_in_words(path: Path, kind: str, structured: np.ndarray) -> None:
    build_generation(Gallery.open(path), kind, memory=10**6)
    gallery = Gallery.open(path)
    index = open_index(gallery)
    said = facts.describe(gallery, index)
    assert json.loads(json.dumps(said)) == said
    recipe = Recipe(**current(path).recipe)
    assert said["kind"] == kind
    assert said["made of"].endswith("dimensions" if kind != "graph" else "links a row")
    assert str(recipe.dims or 96) in said["made of"]
    held = current(path).files.get("index.faiss", {"bytes": 0})["bytes"]
    assert said["in memory"] == f"{held:,} bytes, {held / ROWS:.0f} a row, 1,000,000 allowed"
    assert said["mapped"].endswith(" a row")
    assert said["recall@10"] == round(index.expected_recall(None, 10), 4)
    if kind == "exact":
        assert "other weights" not in said
    else:
        assert said["other weights"].count(":") == 4
        assert said["one block alone"].count(":") == 3
        assert held >= recipe.bytes_per_row(96) * ROWS * 0.9
    catalogue.add(path, rows_of([f"n{i}" for i in range(300)], structured[3000:3300]), tail_rows=10**6)
    catalogue.remove(path, ["item-00001"])
    gallery = Gallery.open(path)
    said = facts.describe(gallery, open_index(gallery))
    assert (said["rows behind it"], said["removed rows"]) == (300, 1)
    assert "drift" not in said
    if kind == "graph":
        extend_generation(gallery)
        gallery = Gallery.open(path)
        said = facts.describe(gallery, open_index(gallery))
        assert "was promised when it was trained on 1,500 rows; 300 were indexed since" in said["drift"]
        assert said["recall@10 of added"] > 0.5
