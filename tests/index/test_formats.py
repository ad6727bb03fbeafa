"""Old galleries load. tests/index/format-1 was written by fsearch when galleries could not be changed; keep it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from index import catalogue, graph
from index.approximate import ApproximateIndex
from index.build import build_generation, open_index
from index.exact import ExactIndex, as_float32
from index.gallery import Gallery, verify
from index.graph import Graph
from tests.index.conftest import rows_of

FORMAT_1 = Path(__file__).parent / "format-1"
PINNED = [[0, 6, 4], [1, 6, 3], [2, 3, 4], [3, 2, 1], [4, 2, 0], [5, 6, 1], [6, 1, 5]]  # the three nearest of each row


def test_a_gallery_of_format_1_answers() -> None:
    gallery = Gallery.open(FORMAT_1)
    assert verify(FORMAT_1) == []
    assert (gallery.manifest.photos, gallery.manifest.indexed, gallery.manifest.removed) == (7, 7, 0)
    assert gallery.columns(["id"])["id"].to_pylist() == [f"p{i}" for i in range(7)]
    index = open_index(gallery)
    assert isinstance(index, ExactIndex)
    hits = index.search(as_float32(gallery.vectors(np.arange(7))), 3)
    assert hits.rows.tolist() == PINNED
    np.testing.assert_allclose(hits.scores[:, 0], 2, atol=2e-3)
    # a manifest that says nothing new is written as before, byte for byte
    assert gallery.manifest.to_bytes() == (FORMAT_1 / "gallery.json").read_bytes()


def test_it_can_be_changed_and_is_then_of_format_2(tmp_path: Path) -> None:
    path = Path(shutil.copytree(FORMAT_1, tmp_path / "gallery"))
    fresh = Gallery.open(path).vectors(np.array([2]))
    catalogue.remove(path, ["p2"])
    assert json.loads((path / "gallery.json").read_bytes())["format"] == 2
    gallery = catalogue.add(path, rows_of(["p5", "new"], np.repeat(fresh, 2, axis=0))).gallery
    hits = open_index(gallery).search(as_float32(fresh), 9)
    assert hits.rows[0, :2].tolist() == [7, 8]
    assert hits.counts.tolist() == [7]
    assert json.loads((path / "gallery.json").read_bytes())["format"] == 2
    assert verify(path) == []


@pytest.mark.parametrize("kind", ["exact", "auto"])
def test_a_new_index_is_of_format_4(kind: str, tmp_path: Path) -> None:
    """Its vectors.f16 begins with a header, which older code would take for vectors."""
    path = Path(shutil.copytree(FORMAT_1, tmp_path / "gallery"))
    old = Gallery.open(path)
    assert old.manifest.current is not None
    assert not old.manifest.current.headed
    build_generation(old, kind)
    assert json.loads((path / "gallery.json").read_bytes())["format"] == 4
    gallery = Gallery.open(path)
    assert gallery.manifest.current is not None
    assert gallery.manifest.current.headed
    every = np.arange(7)
    assert np.array_equal(gallery.vectors(every), old.vectors(every))
    file = path / gallery.manifest.current.name / "vectors.f16"
    assert file.read_bytes().endswith(old.vectors(every).tobytes())
    assert file.stat().st_size > old.vectors(every).nbytes
    assert verify(path) == []


def test_a_graph_without_a_map_is_searched_and_extended(
    tmp_path: Path, structured: np.ndarray, gallery_at: Callable[..., Gallery], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As format 3 had them: vertices are rows."""
    path = gallery_at(tmp_path / "gallery", structured[:1500], 600).path
    with monkeypatch.context() as patch:
        patch.setattr(faiss, "IndexIDMap", lambda inner: inner)
        patch.setattr(graph, "within", lambda inner: inner)  # isinstance knows no function
        patch.setattr(graph, "fill", lambda index, pieces, *_: [index.add(piece) for piece in pieces])
        build_generation(Gallery.open(path), "graph")
    for rows in (1500, 1520):
        index = open_index(Gallery.open(path))
        assert isinstance(index, ApproximateIndex)
        assert isinstance(index.base, Graph)
        assert index.base.outer is index.base.index
        assert index.index.ntotal == rows
        asked = as_float32(structured[:rows:7])
        assert (index.search(asked, 10, nprobe=256, rerank=64).rows == np.arange(0, rows, 7)[:, None]).any(axis=1).all()
        catalogue.add(path, rows_of([f"n{rows + i}" for i in range(20)], structured[1500:1520]), tail_rows=0)
    assert verify(path) == []
