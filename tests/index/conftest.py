"""Galleries and vectors shared by the tests of ``index``: structured vectors, never uniform noise."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest

from index import approximate, levels, tuning
from index.approximate import ApproximateIndex
from index.build import build_generation
from index.exact import as_float32
from index.exact import search as exact_search
from index.files import file_facts
from index.gallery import Gallery, Manifest
from index.hits import Hits
from index.projection import choose_dims
from index.recipe import choose
from index.synthetic import vectors
from index.table import Layout, fixed_size_list, schema, write_part

LAYOUT = Layout.of({"look": 48, "color": 24, "type": 24})
COLORS = ["red", "green", "blue", "Grey"]
APPROXIMATE = ["ivfpq", "fastscan", "rabitq", "graph"]


def make_vectors(n: int, seed: int = 0) -> np.ndarray:
    return np.concatenate(list(vectors(LAYOUT, n, clusters=150, seed=seed)))


def make_table(embedding: np.ndarray, first: int = 0) -> pa.Table:
    n = len(embedding)
    ids = [f"item-{first + i:05d}" for i in range(n)]
    norms = np.linspace(1, 2, 3 * n, dtype=np.float32).reshape(n, 3) + first
    columns = {
        "id": ids,
        "path": [f"photos/{each}.jpg" for each in ids],
        "width": np.full(n, 30, np.int32),
        "height": np.full(n, 40, np.int32),
        "content_hash": [f"{first + i:064x}" for i in range(n)],
        "color": [COLORS[i % 4] for i in range(n)],
        "predicted_color": [COLORS[(i + (i % 10 == 0)) % 4] for i in range(n)],
        "norms": fixed_size_list(norms),
        "embedding": fixed_size_list(embedding),
    }
    return pa.table(columns).cast(schema(LAYOUT, ["color"], ["color"]))


def make_gallery(path: Path, embedding: np.ndarray, rows_per_part: int = 1000) -> Gallery:
    """A committed gallery without an index, as embedding photos leaves it."""
    parts = []
    for number, start in enumerate(range(0, len(embedding), rows_per_part)):
        table = make_table(embedding[start : start + rows_per_part], start)
        file = path / "table" / f"part-{number:05d}.parquet"
        parts.append(write_part(file, table, {"model": "m" * 64, "config": "c" * 64}))
    write_part(path / "rejected.parquet", pa.table({"path": ["bad.jpg"], "reason": ["truncated"]}), {})
    (path / "memory.safetensors").write_bytes(b"any bytes at all")
    manifest = Manifest(
        layout=LAYOUT,
        attributes={"color": COLORS},
        aliases={"values": {"color": {"gray": "Grey"}}},
        weights={"look": 1.0, "color": 2.0},
        model={"name": "tiny", "fingerprint": "m" * 64},
        source={"path": "photos", "fingerprint": "s" * 64},
        config_fingerprint="c" * 64,
        labels=["color"],
        parts=parts,
        rows=len(embedding),
        rejected=1,
        files={name: file_facts(path / name) for name in ("rejected.parquet", "memory.safetensors")},
        created_by="0.1.0",
    )
    return Gallery(path, manifest).commit(manifest)


def indexed_quickly(path: Path, embedding: np.ndarray, kind: str, patch: pytest.MonkeyPatch) -> Gallery:
    """A gallery in parts of 600 rows with an index of a kind, measured by few queries."""
    made = make_gallery(path, embedding, 600)
    patch.setattr(levels, "QUERIES", 40)
    build_generation(made, kind)
    return Gallery.open(path)


def rows_of(ids: list[str], vectors: np.ndarray, **columns: Any) -> pa.Table:
    """What ``catalogue.add`` takes."""
    return pa.table({"id": ids, "embedding": fixed_size_list(vectors), **columns})


def contents(path: Path) -> dict[Path, bytes]:
    """Every file of a folder."""
    return {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def refused(patch: pytest.MonkeyPatch, code: int) -> None:
    """Let every change of a folder fail; so does removing what is not there, as on a disk mounted read-only."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    for name in ("unlink", "rmdir", "mkdir", "replace"):
        patch.setattr(os, name, refuse)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """FAISS threads that wait for each other make small work slow."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="session")
def layout() -> Layout:
    return LAYOUT


@pytest.fixture(scope="session")
def table_of() -> Callable[..., pa.Table]:
    return make_table


@pytest.fixture(scope="session")
def gallery_at() -> Callable[..., Gallery]:
    return make_gallery


@pytest.fixture(scope="session")
def structured() -> np.ndarray:
    """float16 (6000, 96)."""
    return make_vectors(6000)


@pytest.fixture(scope="session")
def queries() -> np.ndarray:
    """float32 (60, 96): photos that are not in the gallery, from the same clusters, at weights 1, 2, 0.5."""
    fresh = make_vectors(6060)[6000:]
    return as_float32(fresh) * LAYOUT.scale({"color": 2.0, "type": 0.5})


@pytest.fixture(scope="session")
def tuned(structured: np.ndarray) -> Callable[[str], ApproximateIndex]:
    """Kind -> an index over ``structured``, its projection and its curve measured; built once. Only ivfpq is timed."""
    starts = np.array([block.start for block in LAYOUT.blocks])

    @cache
    def made(kind: str) -> ApproximateIndex:
        dims = choose_dims(as_float32(structured), starts, LAYOUT.scale({"color": 2.0}))
        index = approximate.build(structured, choose(len(structured), LAYOUT.dim, kind, dims=dims), starts)
        curve = tuning.measure(ApproximateIndex(index, structured), LAYOUT, {"color": 2.0}, timed=kind == "ivfpq")
        return ApproximateIndex(index, structured, curve)

    return made


@pytest.fixture(scope="session", params=APPROXIMATE)
def index(request: pytest.FixtureRequest, tuned: Callable[[str], ApproximateIndex]) -> ApproximateIndex:
    """Each kind in turn."""
    return tuned(request.param)


@pytest.fixture(scope="session")
def ivf(tuned: Callable[[str], ApproximateIndex]) -> ApproximateIndex:
    return tuned("ivfpq")


@pytest.fixture(scope="session")
def asked(structured: np.ndarray) -> dict[str, tuple[np.ndarray, Hits]]:
    """240 photos that are not in the gallery, asked in five ways, and their true 50 neighbours.

    Edited: a block comes from another photo and weighs more.
    """
    rng = np.random.default_rng(8)
    fresh = as_float32(make_vectors(6240, seed=0)[6000:])
    default = np.array([1.0, 2.0, 1.0])
    weights = {
        "default": np.tile(default, (240, 1)),
        "random": rng.uniform(0, 4, (240, 3)),
        "one dropped": default * (np.arange(240)[:, None] % 3 != np.arange(3)),
        "one alone": (np.arange(240)[:, None] % 3 == np.arange(3)) * rng.uniform(0.1, 4, (240, 1)),
    }
    sizes = [block.stop - block.start for block in LAYOUT.blocks]
    queries = {name: (fresh * np.repeat(each, sizes, axis=1)).astype(np.float32) for name, each in weights.items()}
    crossed, span = fresh.copy(), slice(LAYOUT.blocks[1].start, LAYOUT.blocks[1].stop)
    crossed[:, span] = np.roll(fresh[:, span], 1, axis=0)
    queries["edited"] = (crossed * np.repeat(default * (1, 3.5, 1), sizes)).astype(np.float32)
    return {name: (each, exact_search(structured, each, 50)) for name, each in queries.items()}


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory, structured: np.ndarray) -> Path:
    """1,500 rows with an exact index; not to be changed."""
    made = make_gallery(tmp_path_factory.mktemp("start") / "gallery", structured[:1500], 600)
    build_generation(made)
    return made.path


@pytest.fixture(scope="session")
def start_ivfpq(tmp_path_factory: pytest.TempPathFactory, structured: np.ndarray) -> Path:
    """The same with IVF-PQ."""
    made = make_gallery(tmp_path_factory.mktemp("start") / "gallery", structured[:1500], 600)
    build_generation(made, "ivfpq")
    return made.path
