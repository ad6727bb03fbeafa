"""A catalogue that changes: what an addition, a removal and a compaction do, and what they refuse."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from index import catalogue, drift
from index.build import build_generation, extend_generation, open_index
from index.errors import FsearchError, GalleryError, InputError, UnknownNameError
from index.exact import ExactIndex, as_float32
from index.files import only_writer
from index.gallery import Gallery, leftovers, verify
from index.hits import recall
from index.live import LiveIndex, exact_of
from index.manifest import Drift
from index.table import fixed_size_list
from tests.index.conftest import LAYOUT, contents, interrupted, make_gallery, make_vectors, refused, rows_of

POOL = make_vectors(9000)[6000:]  # photos that are not in the gallery, from the same clusters


@pytest.fixture
def path(start: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(start, tmp_path / "gallery"))


def test_added_rows_answer_at_once_and_replace(path: Path, structured: np.ndarray) -> None:
    fresh = structured[2000:2040]
    change = catalogue.add(path, rows_of([f"item-{i:05d}" for i in range(1490, 1530)], fresh, color=["red"] * 40))
    assert (change.added, change.removed) == (40, 10)
    gallery = change.gallery
    assert (gallery.manifest.photos, gallery.manifest.rows, gallery.manifest.removed) == (1530, 1540, 10)
    index = open_index(gallery)
    assert isinstance(index, LiveIndex)
    hits = index.search(as_float32(fresh), 1)
    assert hits.rows[:, 0].tolist() == list(range(1500, 1540))
    assert gallery.row_of("item-01495") == 1505
    assert gallery.columns(["color"])["color"][1505].as_py() == "red"
    assert gallery.norms(np.array([1505, 3])).tolist()[0] == [1, 1, 1]
    assert index.vectors.shape == (1540, 96)
    assert verify(path) == []
    old = structured[1490:1500]
    best = index.search(as_float32(old), 1)
    assert not np.isin(best.rows, np.arange(1490, 1500)).any()


def test_removed_rows_answer_no_more(path: Path, structured: np.ndarray) -> None:
    before = (path / "gallery.json").read_bytes()
    with pytest.raises(UnknownNameError, match=r"no id 'item-1' .*\(2 of 3 ids are unknown\); nearest: item-"):
        catalogue.remove(path, ["item-00007", "item-1", "nothing"])
    assert (path / "gallery.json").read_bytes() == before
    change = catalogue.remove(path, ["item-00007", "item-00700", "item-00007"])
    assert change.removed == 2
    index = open_index(change.gallery)
    assert not np.isin(index.search(as_float32(structured[[7, 700]]), 50).rows, [7, 700]).any()
    allowed = index.search(as_float32(structured[[7]]), 5, rows=np.array([5, 7, 700]))
    assert allowed.rows.tolist() == [[5, -1, -1, -1, -1]]
    assert index.search(as_float32(structured[[7]]), 5, rows=np.array([7, 700])).counts.tolist() == [0]
    with pytest.raises(UnknownNameError, match="no id 'item-00007'"):
        change.gallery.row_of("item-00007")
    with pytest.raises(ValueError, match="allowed row 1500"):
        index.search(as_float32(structured[[7]]), 5, rows=np.array([3, 1500]))
    assert catalogue.remove(path, []).removed == 0


def test_everything_removed_and_something_added(path: Path, structured: np.ndarray) -> None:
    ids = Gallery.open(path).columns(["id"])["id"].to_pylist()
    gallery = catalogue.remove(path, ids).gallery
    assert gallery.manifest.photos == 0
    assert gallery.advice() == ["every photo was removed; add some with `fsearch add`"]
    with pytest.raises(UnknownNameError, match="no id 'x' in .*; there is none at all"):
        gallery.row_of("x")
    assert open_index(gallery).search(as_float32(structured[:2]), 3).counts.tolist() == [0, 0]
    with pytest.raises(GalleryError, match="nothing is left to index"):
        catalogue.compact(path)
    gallery = catalogue.add(path, rows_of(["a", "b"], structured[:2])).gallery
    assert open_index(gallery).search(as_float32(structured[:2]), 1).rows.tolist() == [[1500], [1501]]
    gallery = catalogue.compact(path).gallery
    assert gallery.columns(["id"])["id"].to_pylist() == ["a", "b"]
    assert verify(path) == []


@pytest.mark.parametrize("ids", [[None], [3], ["item-00003", None], [["item-00003"]]])
def test_an_id_that_is_no_text_is_refused(path: Path, ids: list[Any]) -> None:
    with pytest.raises(InputError, match=f"id {re.escape(repr(ids[-1]))} is no text"):
        catalogue.remove(path, ids)
    assert Gallery.open(path).manifest.removed == 0


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"id": ["a"]}, "no column embedding"),
        ({"id": ["a", "a"], "embedding": 2}, "id 'a' is given twice"),
        ({"id": ["a", ""], "embedding": 2}, "a blank id"),
        ({"id": ["a", None], "embedding": 2}, "a blank id"),
        ({"id": ["a"], "embedding": 1, "colour": ["red"]}, "no column 'colour' .*nearest: color"),
        ({"id": ["a"], "embedding": 1, "width": ["wide"]}, "do not fit"),
        ({"id": ["a"], "embedding": fixed_size_list(np.zeros((1, 95), np.float16))}, "do not fit"),
        ({"id": ["a"], "embedding": fixed_size_list(np.zeros((1, 96), np.float16))}, "'a' has a block whose length"),
        ({"id": ["a"], "embedding": fixed_size_list(np.full((1, 96), np.nan, np.float16))}, "'a' has a block whose"),
    ],
)
def test_rows_that_do_not_fit_change_nothing(
    path: Path, structured: np.ndarray, rows: dict[str, Any], said: str
) -> None:
    before = {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}
    if isinstance(rows.get("embedding"), int):
        rows = rows | {"embedding": fixed_size_list(structured[: rows["embedding"]])}
    with pytest.raises(InputError, match=said):
        catalogue.add(path, pa.table(rows))
    assert before == {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}


def test_a_long_tail_is_indexed_without_training(start_ivfpq: Path, tmp_path: Path, structured: np.ndarray) -> None:
    path = Path(shutil.copytree(start_ivfpq, tmp_path / "gallery"))
    recipe = Gallery.open(path).manifest.current.recipe  # type: ignore[union-attr]
    gallery = catalogue.add(path, rows_of([f"n{i}" for i in range(900)], structured[3000:3900]), tail_rows=899).gallery
    current = gallery.manifest.current
    assert current is not None
    assert current.drift is not None
    assert (current.name, current.recipe, current.parts) == ("gen-000002", recipe, None)
    assert (current.drift.trained, current.drift.rows, gallery.manifest.indexed) == (1500, 900, 2400)
    assert not isinstance(open_index(gallery), LiveIndex)
    queries = as_float32(structured[3000:3900:9])
    assert recall(open_index(gallery).search(queries, 10), exact_of(open_index(gallery)).search(queries, 10), 10) > 0.9
    assert [each.name for each in path.glob("gen-*")] == ["gen-000002"]
    assert verify(path) == []
    assert gallery.advice() == []
    again = extend_generation(catalogue.add(path, rows_of(["one"], structured[5000:5001])).gallery)
    assert again.drift is not None
    assert (again.drift.trained, again.drift.rows) == (1500, 901)


def test_an_index_that_outgrew_brute_force_gets_another_kind(
    path: Path, structured: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.recipe.EXACT_BELOW", 2000)
    gallery = catalogue.add(path, rows_of([f"n{i}" for i in range(900)], structured[3000:3900]), tail_rows=500).gallery
    assert gallery.manifest.current is not None
    assert gallery.manifest.current.recipe["kind"] == "graph"
    assert gallery.manifest.current.drift is None


def test_a_drifted_catalogue_says_so(start_ivfpq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(shutil.copytree(start_ivfpq, tmp_path / "gallery"))
    with monkeypatch.context() as patch:  # so few rows are found whatever the lists: a rerank sees a tenth of them
        patch.setattr(drift, "measure", lambda *_: Drift(1500, 600, 10, 0.71, 0.96))
        gallery = catalogue.add(path, rows_of([f"n{i}" for i in range(600)], POOL[:600]), tail_rows=0).gallery
    (said,) = gallery.advice()
    assert said.startswith(
        "recall@10 is 0.71 for 600 photos added since the index was trained on 1,500 others, 0.96 was promised then; "
    )
    assert said.endswith(f"run `fsearch compact --gallery {path}`")
    gallery = catalogue.compact(path).gallery
    assert gallery.advice() == []
    assert gallery.manifest.rows == 2100
    catalogue.remove(path, [f"item-{i:05d}" for i in range(800)])
    assert "800 of 2,100 rows of the table were removed or replaced" in Gallery.open(path).advice()[0]


def test_drift_is_measured_on_new_rows_alone(structured: np.ndarray) -> None:
    class Half(ExactIndex):
        """Never finds rows from 3,000 on."""

        base = SimpleNamespace(hidden=lambda rows: nullcontext(False))

        def search(self, queries: np.ndarray, k: int, **_: Any) -> Any:
            return ExactIndex.search(self, queries, k, rows=np.arange(3000))

    found: Any = Half(structured[:4000])
    lost = drift.measure(found, LAYOUT, {}, 3000, 0.96)
    assert lost.recall < 0.9
    assert lost.promised == 0.96
    assert lost.drifted
    sound: Any = ExactIndex(structured[:4000])
    sound.base = Half.base
    kept = drift.measure(sound, LAYOUT, {}, 3000, 0.96)
    assert (kept.recall, kept.rows, kept.trained, kept.drifted) == (1.0, 1000, 3000, False)


def test_small_parts_are_joined_by_a_compaction(path: Path, structured: np.ndarray) -> None:
    for i in range(4):
        catalogue.add(path, rows_of([f"n{i}"], structured[i : i + 1]))
    assert len(Gallery.open(path).manifest.parts) == 7
    before = Gallery.open(path)
    everything = before.columns().to_pylist()
    gallery = catalogue.compact(path).gallery
    assert [part.name for part in gallery.manifest.parts] == ["part-00007.parquet"]
    assert gallery.columns().to_pylist() == everything
    assert gallery.manifest.changes.added == 4
    assert sorted(each.name for each in (path / "table").iterdir()) == ["part-00007.parquet"]


def test_a_reader_goes_on_after_every_change(start_ivfpq: Path, tmp_path: Path, structured: np.ndarray) -> None:
    path = Path(shutil.copytree(start_ivfpq, tmp_path / "gallery"))
    reader = Gallery.open(path)  # has read nothing yet but the manifest
    catalogue.add(path, rows_of(["item-00003", "new"], structured[4000:4002]))
    second = Gallery.open(path)
    catalogue.remove(path, ["item-00005"])
    catalogue.compact(path, "exact")
    assert not any(each.exists() for each in (*reader.part_paths, path / "gen-000001"))
    queries = as_float32(structured[:20])
    for gallery, n in ((reader, 1500), (second, 1502)):
        every = np.arange(n)
        assert gallery.columns(["id", "color"]).num_rows == n
        assert gallery.vectors(every).shape == gallery.norms(every)[:, :1].repeat(96, axis=1).shape
        hits = open_index(gallery).search(queries, 5)
        assert (hits.counts == 5).all()
        assert hits.rows[5, 0] == 5
        assert gallery.where("memory.safetensors").read_bytes() == b"any bytes at all"
    assert second.row_of("item-00003") == 1500
    assert reader.row_of("item-00003") == 3


def test_a_writer_between_the_manifest_and_the_files(
    path: Path, structured: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, calls = Gallery.read_manifest, []

    def slow(where: Path) -> Any:
        manifest = read(where)
        if not calls:
            calls.append(1)
            monkeypatch.setattr(Gallery, "read_manifest", staticmethod(read))
            catalogue.remove(path, ["item-00005"])
            catalogue.compact(path)
            monkeypatch.setattr(Gallery, "read_manifest", staticmethod(slow))
        return manifest

    monkeypatch.setattr(Gallery, "read_manifest", staticmethod(slow))
    assert Gallery.open(path).manifest.rows == 1499


WRITER = """
import sys
from pathlib import Path
import numpy as np
from index import catalogue
from tests.index.conftest import make_vectors, rows_of

path, vectors = Path(sys.argv[1]), make_vectors(400)
for i in range(24):  # two ids that always have one vector, and others that come and go
    twins = vectors[[i, i]]
    catalogue.add(path, rows_of(["twin-a", "twin-b"], twins), tail_rows=8)
    catalogue.add(path, rows_of([f"w{i}"], vectors[i : i + 1]))
    catalogue.remove(path, [f"w{i}"])
    if i % 6 == 5:
        catalogue.compact(path)
"""


def test_readers_beside_a_writer_see_one_state_each(path: Path, structured: np.ndarray) -> None:
    catalogue.add(path, rows_of(["twin-a", "twin-b"], structured[[0, 0]]))
    root = Path(catalogue.__file__).parents[1]
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    kept: list[tuple[Gallery, Any, np.ndarray]] = []
    states = set()
    while writer.poll() is None:
        gallery = Gallery.open(path)
        index = open_index(gallery)
        twins = gallery.vectors(np.array([gallery.row_of(each) for each in ("twin-a", "twin-b")]))
        assert np.array_equal(twins[0], twins[1])
        states.add(gallery.manifest.to_bytes())
        kept = [*kept[-5:], (gallery, index, twins)]
        for old, search, vectors in kept:
            rows = old.rows_of(["twin-a", "twin-b"])
            assert np.array_equal(old.vectors(rows), vectors)
            assert old.norms(rows).shape == (2, 3)
            found = search.search(as_float32(vectors[:1]), 3)
            assert set(rows) <= set(found.rows[0]) or found.scores[0, 2] > found.scores[0, 0] - 1e-4
    assert writer.returncode == 0
    assert len(states) > 5
    assert verify(path) == []
    assert leftovers(path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of open files")
def test_a_gallery_of_more_parts_than_files_may_be_open(tmp_path: Path, structured: np.ndarray) -> None:
    import resource

    made = make_gallery(tmp_path / "gallery", structured[:200], 1)
    build_generation(made)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        gallery = Gallery.open(made.path)
        assert gallery.columns(["id"]).num_rows == 200
        assert gallery.advice() == []
        more = catalogue.add(made.path, rows_of(["a"], structured[:1])).gallery
        assert "201 small parts make the gallery slow to open; run `fsearch compact" in more.advice()[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_one_writer_at_a_time(path: Path, structured: np.ndarray) -> None:
    with only_writer(path):
        for work in (
            lambda: catalogue.add(path, rows_of(["a"], structured[:1])),
            lambda: catalogue.remove(path, ["item-00001"]),
            lambda: catalogue.compact(path),
        ):
            with pytest.raises(GalleryError, match="another process is writing it"):
                work()
    with pytest.raises(GalleryError, match="no gallery here"):
        catalogue.remove(path / "none", ["a"])
    assert not (path / "none").exists()


def test_a_read_only_folder_and_a_full_disk_are_one_line(
    path: Path, structured: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (path / "gallery.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("index.files.fsync", full)
    for work in (
        lambda: catalogue.add(path, rows_of(["a"], structured[:1])),
        lambda: catalogue.remove(path, ["item-00001"]),
        lambda: catalogue.compact(path),
    ):
        with pytest.raises(GalleryError, match=r"cannot be written \(No space left on device\)"):
            work()
    monkeypatch.undo()
    assert (path / "gallery.json").read_bytes() == before
    assert verify(path) == []
    catalogue.compact(path)
    assert leftovers(path) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("left", [[], [".tmp-x-1", "removed-000009.npy", "table/part-00009.parquet"]])
def test_a_disk_mounted_read_only_is_one_line(
    path: Path, structured: np.ndarray, monkeypatch: pytest.MonkeyPatch, code: int, left: list[str]
) -> None:
    for name in left:
        (path / name).write_bytes(b"half")
    before = (path / "gallery.json").read_bytes()
    with monkeypatch.context() as patch:
        refused(patch, code)
        for work in (
            lambda: catalogue.add(path, rows_of(["a"], structured[:1])),
            lambda: catalogue.remove(path, ["item-00001"]),
            lambda: catalogue.compact(path),
            lambda: build_generation(Gallery.open(path)),
        ):
            with pytest.raises(GalleryError, match=f"cannot be written .{os.strerror(code)}"):
                work()
    assert (path / "gallery.json").read_bytes() == before
    assert verify(path) == []


def test_a_compaction_that_fails_leaves_nothing(
    path: Path, structured: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue.remove(path, ["item-00003"])
    before = contents(path)
    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "build_generation", interrupted)
        with pytest.raises(KeyboardInterrupt):
            catalogue.compact(path)
    assert contents(path) == before
    catalogue.remove(path, [f"item-{i:05d}" for i in range(600, 1200)])
    monkeypatch.setattr(catalogue, "_live_parts", interrupted)  # what cannot be is refused before the table is written
    with pytest.raises(GalleryError, match="899 rows are too few to train graph"):
        catalogue.compact(path, "graph")
    with pytest.raises(UnknownNameError, match="device"):
        catalogue.compact(path, device="nonsense")
    catalogue.add(path, rows_of([f"n{i}" for i in range(600)], structured[2000:2600]))
    for kind in ("ivfpq", "graph"):
        with pytest.raises(GalleryError, match=f"no {kind} index of 1499 rows fits 1000 bytes"):
            catalogue.compact(path, kind, memory=1000)


def test_damage_is_not_written_anew(path: Path, structured: np.ndarray) -> None:
    """Page headers and footers of Parquet are under no checksum of its own: Arrow may read fewer rows, or others."""
    catalogue.add(path, rows_of(["a", "b"], structured[:2]))
    catalogue.remove(path, ["item-00003"])
    file = path / "table" / "part-00000.parquet"
    sound, before = file.read_bytes(), contents(path)
    rng = np.random.default_rng(0)
    for at in [5, *range(4, 60, 3), *(len(sound) - rng.integers(8, 3000, 60)).tolist()]:
        damaged = bytearray(sound)
        damaged[at] ^= 1 << int(rng.integers(0, 8))
        file.write_bytes(damaged)
        with pytest.raises(FsearchError):
            catalogue.compact(path)
        with suppress(FsearchError):  # noticed, or the very same rows
            assert Gallery.open(path).rows_of(["a"]).tolist() == [1500]
        with suppress(FsearchError):
            assert sum(map(len, Gallery.open(path).embeddings())) == 1502
    file.write_bytes(sound)
    assert contents(path) == before
    assert verify(path) == []


def test_every_flipped_byte_is_noticed(path: Path, structured: np.ndarray) -> None:
    catalogue.add(path, rows_of(["a", "item-00004"], structured[:2]))
    rng = np.random.default_rng(0)
    files = [each for each in path.rglob("*") if each.is_file()]
    assert {each.name.split("-")[0] for each in files} >= {"removed", "part", "gallery.json", "vectors.f16"}
    for file in files:
        content = bytearray(file.read_bytes())
        for at in rng.integers(0, len(content), 4):
            bit = 1 << int(rng.integers(0, 8))
            content[at] ^= bit
            file.write_bytes(content)
            faults = verify(path)
            assert any(file.name in each for each in faults), (file, at)
            content[at] ^= bit
        file.write_bytes(content)
    assert verify(path) == []


def test_an_index_that_cannot_be_extended_takes_nothing_back(
    path: Path, structured: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise GalleryError("gen-000002: cannot be written (No space left on device); mend that and run again")

    monkeypatch.setattr(catalogue, "extend_generation", full)
    change = catalogue.add(path, rows_of(["a", "b"], structured[:2]), tail_rows=1)
    assert change.added == 2
    assert change.short.startswith("2 rows behind the index are searched exactly")
    assert "No space left on device" in change.short
    assert Gallery.open(path).rows_of(["a", "b"]).tolist() == [1500, 1501]
    assert verify(path) == []
