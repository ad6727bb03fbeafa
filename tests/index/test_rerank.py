"""Candidates scored by FAISS over the mapped file, as a gallery on the disk is searched, and by numpy: the same."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index import approximate, catalogue, levels, tuning, vectors
from index.approximate import ApproximateIndex
from index.build import extend_generation, open_index
from index.errors import DamagedError
from index.exact import as_float32
from index.files import file_facts
from index.gallery import Gallery, verify
from index.recipe import choose
from tests.index.checks import check, reached, same
from tests.index.conftest import APPROXIMATE, indexed_quickly, rows_of

ROWS = 1500


@pytest.fixture(scope="module", params=APPROXIMATE)
def gallery(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, structured: np.ndarray
) -> Gallery:
    """1,500 rows with an index of each kind; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("rerank") / "gallery"
        return indexed_quickly(path, structured[:ROWS], request.param, patch)


@pytest.fixture(scope="module")
def opened(gallery: Gallery) -> ApproximateIndex:
    index = open_index(gallery)
    assert isinstance(index, ApproximateIndex)
    assert index._refined is not None
    return index


@pytest.fixture(scope="module")
def by_numpy(opened: ApproximateIndex) -> ApproximateIndex:
    return ApproximateIndex(opened.index, opened.vectors, opened.tuning)


@pytest.mark.parametrize(
    ("k", "nprobe", "rerank"),
    [(1, 1, 1), (1, 1, 300), (10, 1, 300), (10, 4, 12), (10, 30, 64), (10, 1000, 10**6), (100, 4, 1), (1500, 4, 9)],
)
def test_both_score_the_same(
    opened: ApproximateIndex, by_numpy: ApproximateIndex, queries: np.ndarray, k: int, nprobe: int, rerank: int
) -> None:
    queries = queries[:20]
    one = opened.search(queries, k, nprobe=nprobe, rerank=rerank)
    check(opened, queries, one, k)
    same(one, by_numpy.search(queries, k, nprobe=nprobe, rerank=rerank))


@pytest.mark.parametrize("wanted", [0.8, 0.95])
def test_both_answer_any_weights(
    opened: ApproximateIndex, by_numpy: ApproximateIndex, asked: dict[str, tuple[np.ndarray, object]], wanted: float
) -> None:
    for queries, _ in asked.values():
        some = np.concatenate([queries[:30], np.zeros((1, 96), np.float32)])
        hits = opened.search(some, 10, recall=wanted)
        check(opened, some, hits, 10)
        same(hits, by_numpy.search(some, 10, recall=wanted))
        alone = [opened.search(query[None], 10, recall=wanted) for query in some[:5]]
        assert np.array_equal(np.concatenate([each.rows for each in alone]), hits.rows[:5])


def test_both_filter_the_same(opened: ApproximateIndex, by_numpy: ApproximateIndex, queries: np.ndarray) -> None:
    for rows in (np.arange(0, ROWS, 2), np.arange(7)):
        hits = opened.search(queries, 10, recall=0.95, rows=rows)
        check(opened, queries, hits, 10, rows)
        same(hits, by_numpy.search(queries, 10, recall=0.95, rows=rows))


def test_equal_scores_go_to_the_lower_row(opened: ApproximateIndex) -> None:
    zero = np.zeros((1, 96), np.float32)
    rows, scores = opened.search(zero, 20, nprobe=1000, rerank=64).query(0)
    assert (scores == 0).all()
    assert (np.diff(rows) > 0).all()


def test_what_is_read_is_what_was_built(gallery: Gallery, opened: ApproximateIndex, queries: np.ndarray) -> None:
    current = gallery.manifest.current
    assert current is not None
    assert opened.tuning == tuning.Tuning.from_json((gallery.path / current.name / "tuning.json").read_text())
    assert reached(opened, queries, opened.search(queries, 10, recall=0.95), 10) >= 0.9
    again = open_index(gallery).search(queries, 5, recall=0.9)
    assert np.array_equal(opened.search(queries, 5, recall=0.9).rows, again.rows)


def without_header(path: Path) -> None:
    """The gallery as it was written before vectors had a header."""
    gallery = Gallery.open(path)
    current = gallery.manifest.current
    assert current is not None
    file = path / current.name / "vectors.f16"
    bare = np.array(vectors.mapped(file, ROWS, 96))
    file.unlink()
    bare.tofile(file)
    files = {**current.files, "vectors.f16": file_facts(file)}
    gallery.commit(replace(gallery.manifest, generations=[replace(current, files=files)]))


def test_a_generation_of_before_opens_answers_and_grows(
    gallery: Gallery,
    opened: ApproximateIndex,
    queries: np.ndarray,
    structured: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(levels, "QUERIES", 20)
    path = Path(shutil.copytree(gallery.path, tmp_path / "gallery"))
    without_header(path)
    assert verify(path) == []
    before = open_index(Gallery.open(path))
    assert isinstance(before, ApproximateIndex)
    assert before._refined is None
    same(before.search(queries, 10, recall=0.95), opened.search(queries, 10, recall=0.95))
    catalogue.add(path, rows_of([f"new-{i}" for i in range(30)], structured[ROWS : ROWS + 30]))
    extend_generation(Gallery.open(path))
    grown = open_index(Gallery.open(path))
    assert isinstance(grown, ApproximateIndex)
    assert grown._refined is not None
    hits = grown.search(as_float32(structured[ROWS : ROWS + 30]), 5, recall=0.95)
    assert (hits.rows[:, 0] >= ROWS).mean() >= 0.9
    assert verify(path) == []


def test_a_truncated_file_is_not_opened(gallery: Gallery, tmp_path: Path) -> None:
    path = Path(shutil.copytree(gallery.path, tmp_path / "gallery"))
    (file,) = path.glob("gen-*/vectors.f16")
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 96)
    with pytest.raises(DamagedError, match=r"vectors\.f16"):
        open_index(Gallery.open(path))


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_candidates_that_run_out_are_looked_for(structured: np.ndarray, tmp_path: Path, kind: str) -> None:
    """One list of hardly any rows: what FAISS leaves empty in its answer is never a hit."""
    few = structured[:1100]
    vectors.write(tmp_path / "v", [few], *few.shape)
    mapped = vectors.mapped(tmp_path / "v", *few.shape)
    made = approximate.build(few, choose(1100, 96, kind, dims=32))
    index = ApproximateIndex(made, mapped, scorer=vectors.scorer(tmp_path / "v", *few.shape))
    asked = as_float32(few[:200])
    for k, rerank in ((1, 1000), (30, 1000), (60, 1), (200, 500)):
        check(index, asked, index.search(asked, k, nprobe=1, rerank=rerank), k)


@pytest.mark.parametrize("rows", [None, np.arange(0, ROWS, 2)])
def test_no_more_candidates_are_held_than_allowed(
    opened: ApproximateIndex, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch, rows: np.ndarray | None
) -> None:
    queries = queries[:50]
    whole = opened.search(queries, 10, nprobe=12, rerank=64, rows=rows)
    asked: list[int] = []
    real = ApproximateIndex._search

    def spied(self: ApproximateIndex, some: np.ndarray, *rest: object) -> object:
        asked.append(len(some))
        return real(self, some, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ApproximateIndex, "_search", spied)
    monkeypatch.setattr(approximate, "CANDIDATES_AT_ONCE", 640)
    same(opened.search(queries, 10, nprobe=12, rerank=64, rows=rows), whole)
    assert asked[0] == 50
    assert max(asked[1:]) <= 10
