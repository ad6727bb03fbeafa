from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index import build, exact, vectors
from index.approximate import ApproximateIndex
from index.build import build_generation, open_index
from index.errors import DamagedError, GalleryError, MismatchError
from index.exact import ExactIndex
from index.gallery import MANIFEST, Gallery, leftovers, verify
from index.hits import recall
from tests.index.conftest import contents

ROWS = 1500


@pytest.fixture(scope="module")
def bare(
    tmp_path_factory: pytest.TempPathFactory, structured: np.ndarray, gallery_at: Callable[..., Gallery]
) -> Gallery:
    """A gallery without an index; not to be changed."""
    return gallery_at(tmp_path_factory.mktemp("bare") / "gallery", structured[:ROWS], 600)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, bare: Gallery) -> Gallery:
    """The same gallery with an IVF-PQ generation; not to be changed."""
    path = tmp_path_factory.mktemp("indexed") / "gallery"
    shutil.copytree(bare.path, path)
    build_generation(Gallery.open(path), "ivfpq")
    return Gallery.open(path)


@pytest.fixture
def gallery(tmp_path: Path, indexed: Gallery) -> Gallery:
    shutil.copytree(indexed.path, tmp_path / "gallery")
    return Gallery.open(tmp_path / "gallery")


def test_exact_generation(tmp_path: Path, bare: Gallery, structured: np.ndarray, queries: np.ndarray) -> None:
    shutil.copytree(bare.path, tmp_path / "gallery")
    generation = build_generation(Gallery.open(tmp_path / "gallery"))
    gallery = Gallery.open(tmp_path / "gallery")
    assert gallery.manifest.current == generation
    assert generation.name == "gen-000001"
    assert generation.recipe["kind"] == "exact"
    assert list(generation.files) == ["vectors.f16"]
    assert generation.table_fingerprint == bare.manifest.table_fingerprint
    index = open_index(gallery)
    assert isinstance(index, ExactIndex)
    assert np.array_equal(index.vectors, structured[:ROWS])
    assert np.array_equal(index.search(queries, 9).rows, exact.search(structured[:ROWS], queries, 9).rows)


def test_ivfpq_generation(indexed: Gallery, structured: np.ndarray, queries: np.ndarray) -> None:
    assert indexed.manifest.current is not None
    assert sorted(indexed.manifest.current.files) == ["index.faiss", "tuning.json", "vectors.f16"]
    assert verify(indexed.path) == []
    assert leftovers(indexed.path) == []
    index = open_index(indexed)
    assert isinstance(index, ApproximateIndex)
    truth = exact.search(structured[:ROWS], queries, 10)
    assert recall(index.search(queries, 10, recall=0.95), truth, 10) >= 0.92
    assert np.array_equal(indexed.vectors(np.array([7, 3])), structured[[7, 3]])


def test_curve_names_no_host(indexed: Gallery) -> None:
    body = json.loads((indexed.path / "gen-000001" / "tuning.json").read_text())
    assert set(body) == {"curve", "seed", "queries", "made_with", "starts", "weights"}
    assert set(body["curve"][0]) == {"nprobe", "rerank", "recall", "by_kind", "bytes_read", "ms", "exact"}


def test_rebuild_replaces_and_a_reader_keeps_what_it_has(gallery: Gallery, queries: np.ndarray) -> None:
    reader = open_index(gallery)
    before = reader.search(queries, 5)
    build_generation(gallery, "exact")
    assert sorted(each.name for each in gallery.path.glob("gen-*")) == ["gen-000002"]
    assert np.array_equal(reader.search(queries, 5).rows, before.rows)
    assert isinstance(open_index(Gallery.open(gallery.path)), ExactIndex)
    assert verify(gallery.path) == []


def test_vectors_outlive_the_gallery_they_were_opened_with(gallery: Gallery) -> None:
    kept = open_index(Gallery.open(gallery.path)).vectors
    with (gallery.path / "gallery.json").open("rb"):  # takes the number of a closed file
        rows = np.arange(0, len(kept), 7)
        assert np.array_equal(vectors.taken(kept, rows), kept[rows])


def test_a_changed_header_of_the_vectors_is_not_loaded(gallery: Gallery) -> None:
    path = gallery.path / "gen-000001" / "vectors.f16"
    with path.open("r+b") as file:
        file.seek(74)  # the metric
        file.write(b"\1")
    with pytest.raises(DamagedError, match=r"vectors.f16: damaged \(its header"):
        open_index(Gallery.open(gallery.path))


def test_open_without_an_index(bare: Gallery) -> None:
    with pytest.raises(GalleryError, match=r"no index yet; run `fsearch build-index --reindex --gallery"):
        open_index(bare)


@pytest.mark.parametrize("name", ["index.faiss", "tuning.json"])
def test_a_changed_file_is_not_loaded(gallery: Gallery, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gallery.path / "gen-000001" / name
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    monkeypatch.setattr(build.faiss, "read_index", lambda *_: pytest.fail("FAISS was given a changed file"))
    for at in [0, len(content) - 1, *rng.integers(0, len(content), 5)]:
        content[at] ^= 1
        path.write_bytes(bytes(content))
        with pytest.raises(DamagedError, match=rf"{name}: damaged .*run `fsearch build-index --reindex --gallery"):
            open_index(gallery)
        (fault,) = verify(gallery.path)
        assert str(path) in fault
        assert "--reindex" in fault
        content[at] ^= 1


def test_an_index_that_faiss_cannot_read_is_one_line(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("Error in ...\nIndex type 0x78 not recognized")

    monkeypatch.setattr(build.faiss, "read_index", fail)
    with pytest.raises(GalleryError, match=r"index\.faiss: FAISS [\d.]+ cannot read it; run `fsearch build-index"):
        open_index(gallery)


def test_an_index_of_another_table_is_refused(gallery: Gallery) -> None:
    manifest = gallery.manifest
    other = gallery.commit(replace(manifest, parts=manifest.parts[:2], rows=1200))
    with pytest.raises(MismatchError) as caught:
        open_index(other)
    for each in (manifest.table_fingerprint, other.manifest.table_fingerprint):
        assert each[:12] in str(caught.value)
    build_generation(other)
    assert verify(gallery.path) == []
    assert open_index(Gallery.open(gallery.path)).vectors.shape == (1200, 96)


def test_a_damaged_part_stops_the_build_and_keeps_the_index(gallery: Gallery) -> None:
    part = gallery.part_paths[2]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(bytes(content))
    with pytest.raises(DamagedError, match=r"part-00002\.parquet"):
        build_generation(gallery)
    assert leftovers(gallery.path) == []
    assert isinstance(open_index(Gallery.open(gallery.path)), ApproximateIndex)


def test_nothing_to_index_and_too_little(tmp_path: Path, gallery_at: Callable[..., Gallery], bare: Gallery) -> None:
    with pytest.raises(GalleryError, match="no rows"):
        build_generation(gallery_at(tmp_path / "empty", np.zeros((0, 96), np.float16)))
    small = gallery_at(tmp_path / "small", bare.vectors(np.arange(30)))
    with pytest.raises(GalleryError, match="30 rows are too few"):
        build_generation(small, "ivfpq")
    assert leftovers(small.path) == []


@pytest.mark.parametrize("lacking", [1, 100, 10**9])  # bytes: of what a file keeps until it is closed, or at once
def test_full_disk_while_faiss_writes(gallery: Gallery, monkeypatch: pytest.MonkeyPatch, lacking: int) -> None:
    generation = build_generation(gallery, "ivfpq")
    room = generation.files["index.faiss"]["bytes"] - lacking
    before = (gallery.path / "gallery.json").read_bytes()

    class Full(io.FileIO):
        def write(self, piece: bytes) -> int:  # type: ignore[override]
            if self.tell() + len(piece) > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(piece)

    monkeypatch.setattr(build, "open", lambda path, _: io.BufferedWriter(Full(path, "w")), raising=False)
    with pytest.raises(GalleryError, match=r"gen-000003: cannot be written \(No space left on device\)"):
        build_generation(Gallery.open(gallery.path), "ivfpq")
    assert (gallery.path / "gallery.json").read_bytes() == before
    assert leftovers(gallery.path) == []
    assert verify(gallery.path) == []


@pytest.mark.parametrize("moment", ["rename", "commit"])
def test_stopped_at_the_commit_no_generation_is_left(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    before, real = contents(gallery.path), os.replace

    def stop(source: Any, target: Path) -> None:
        if moment == "commit" and target.name == MANIFEST:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)
        if moment == "rename":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt if moment == "rename" else GalleryError):
        build_generation(gallery, "exact")
    assert contents(gallery.path) == before


def test_stopped_after_the_commit_the_generation_stays(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Gallery.commit

    def committed(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Gallery, "commit", committed)
    with pytest.raises(KeyboardInterrupt):
        build_generation(gallery, "exact")
    assert verify(gallery.path) == []
    assert Gallery.open(gallery.path).manifest.generation == "gen-000002"


def test_progress_is_quiet_without_a_terminal(gallery: Gallery, capfd: pytest.CaptureFixture[str]) -> None:
    build_generation(gallery, "ivfpq", progress=True)
    assert capfd.readouterr() == ("", "")


# Kills itself (SIGKILL: no handler, no cleaning up) at the n-th step that touches the disk, for n = 1, 2, ... until a
# build lives. One process for all: each build is a fork of a process that has started no thread yet.
KILLER = """
    import os, shutil, signal, sys
    from index import build, files
    from index.gallery import Gallery

    source, target, kind = sys.argv[1:]
    made = build.open_index(Gallery.open(source))  # training and measuring touch no disk: once is enough
    for step in range(1, 100):
        path = f"{target}/{step:02d}"
        shutil.copytree(source, path)
        child = os.fork()
        if child == 0:
            left = [step]
            def or_die(function):
                def wrapped(*args, **kwargs):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return function(*args, **kwargs)
                return wrapped
            os.fsync, os.replace, os.unlink = or_die(os.fsync), or_die(os.replace), or_die(os.unlink)
            build.faiss.write_index = or_die(build.faiss.write_index)
            build.approximate.build = or_die(lambda *_: made.index)
            build.tuning.measure = or_die(lambda *_: made.tuning)
            build.remove = or_die(build.remove)
            build.build_generation(Gallery.open(path), kind)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
            break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("kind", ["exact", "ivfpq"])
def test_killed_anywhere_the_gallery_is_the_old_or_the_new(
    tmp_path: Path, indexed: Gallery, queries: np.ndarray, kind: str
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLER), str(indexed.path), str(tmp_path), kind]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(build.__file__).parents[1])
    assert done.returncode == 0, done.stderr
    states = []
    runs = sorted(tmp_path.iterdir())
    for path in runs:
        gallery = Gallery.open(path)
        assert verify(path) == []
        assert gallery.manifest.generation is not None
        states.append(gallery.manifest.generation)
        hits = open_index(gallery).search(queries, 5)
        assert (hits.counts == 5).all()
        build_generation(gallery, "exact")  # the work can be finished
        assert leftovers(path) == []
        assert verify(path) == []
        assert len(list(path.glob("gen-*"))) == 1
    assert states == sorted(states)
    assert states[0] == "gen-000001"  # killed before the commit
    assert states[-2] == "gen-000002"  # killed after it
    assert len(runs) > 8
