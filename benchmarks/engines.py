"""The vector engines that peers.py compares, each as three small functions: build into a folder, open it, search.

All get the same float16 memory map of unit vectors and rank by inner product. What a peer takes piece by piece it is
given piece by piece, so that a float32 copy of everything counts only where the peer asks for one. ``settings`` are the
build's; ``knobs`` are the searches to try, each list from cheap to thorough.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from index.exact import Float32, as_float32
from index.files import remove
from index.hits import Rows

Vectors = npt.NDArray[np.float16]
Knobs = dict[str, Any]
PIECE = 8192
WIDTHS = (10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768, 1024)
PROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)


class Opened(NamedTuple):
    """An index ready to search. search(queries (q, D), k, threads, **knobs) -> rows int64 (q, k), -1 for none.

    alone(query (D,), k, **knobs): one query on one thread, where the peer has a call of its own for that. raw: the call
    of the library below, for what is added on top of it. mapped: bytes of files that it reads through a memory map.
    """

    search: Callable[..., Rows]
    alone: Callable[..., Any] | None = None
    raw: Callable[..., Any] | None = None
    mapped: int = 0


@dataclass(frozen=True)
class Engine:
    """One peer. build(table, folder, threads, **settings); open(folder, table, **settings) -> Opened."""

    module: str
    pip: str
    build: Callable[..., None]
    open: Callable[..., Opened]
    knobs: Callable[[int], list[list[Knobs]]]
    settings: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Vectors, Path], None] | None = None  # work that no peer is timed for
    ours: bool = False

    def missing(self) -> bool:
        return importlib.util.find_spec(self.module.split(".")[0]) is None

    def fingerprint(self) -> str:
        """What an index was made with: a build is reused only for the same."""
        made = f"{self.settings} {version(self.pip)}"
        if self.ours:
            sources = sorted((Path(__file__).resolve().parent.parent / "index").rglob("*.py"))
            made += hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
        return hashlib.sha256(made.encode()).hexdigest()[:16]


def _pieces(table: Vectors) -> Iterator[tuple[int, Float32]]:
    for start in range(0, len(table), PIECE):
        yield start, as_float32(np.asarray(table[start : start + PIECE]))


def _one(name: str, values: tuple[int, ...] = WIDTHS) -> Callable[[int], list[list[Knobs]]]:
    """A single knob."""
    return lambda rows: [[{name: value} for value in values if value <= rows]]


def _grid(depth: str, depths: tuple[int, ...], probe: str, most: Callable[[int], int]) -> Callable[[int], Any]:
    """Lists probed, for each depth of reordering."""
    return lambda rows: [[{depth: d, probe: p} for p in PROBES if p <= most(rows)] for d in depths]


# hnswlib


def hnswlib_build(table: Vectors, folder: Path, threads: int, m: int, ef: int) -> None:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=table.shape[1])
    index.init_index(max_elements=len(table), ef_construction=ef, M=m, random_seed=100)
    for start, piece in _pieces(table):
        index.add_items(piece, np.arange(start, start + len(piece)), num_threads=threads)
    index.save_index(str(folder / "index"))


def hnswlib_open(folder: Path, table: Vectors, m: int, ef: int) -> Opened:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=table.shape[1])
    index.load_index(str(folder / "index"), max_elements=len(table))

    def search(queries: Float32, k: int, threads: int, ef: int) -> Rows:
        index.set_ef(max(ef, k))
        return index.knn_query(queries, k=k, num_threads=threads)[0].astype(np.int64)

    return Opened(search)


# usearch


def usearch_build(table: Vectors, folder: Path, threads: int, dtype: str) -> None:
    from usearch.index import Index

    index = Index(ndim=table.shape[1], metric="ip" if dtype == "f16" else "cos", dtype=dtype)
    for start in range(0, len(table), PIECE):
        piece = np.ascontiguousarray(table[start : start + PIECE])
        index.add(np.arange(start, start + len(piece)), piece, threads=threads, copy=True)
    index.save(str(folder / "index"))


def usearch_open(folder: Path, table: Vectors, dtype: str) -> Opened:
    from usearch.index import Index

    index = Index.restore(str(folder / "index"))
    if index is None:
        raise ValueError(f"{folder}: not a usearch index")

    def search(queries: Float32, k: int, threads: int, ef: int) -> Rows:
        index.expansion_search = max(ef, k)
        found = index.search(queries, k, threads=threads)
        rows = np.asarray(found.keys, np.int64).reshape(len(queries), -1)
        counts = np.reshape(getattr(found, "counts", k), (-1, 1))  # one query has no counts
        return np.where(np.arange(rows.shape[1]) < counts, rows, -1)

    return Opened(search)


# ScaNN


def scann_build(table: Vectors, folder: Path, threads: int, leaves: float, dims: int, threshold: float) -> None:
    from scann.scann_ops.py import scann_ops_pybind

    lists = max(1, round(leaves * math.sqrt(len(table))))
    builder = scann_ops_pybind.builder(as_float32(np.asarray(table)), 10, "dot_product")
    builder = builder.tree(lists, max(1, lists // 20), training_sample_size=min(len(table), 250_000))
    builder = builder.score_ah(dims, anisotropic_quantization_threshold=threshold).reorder(100)
    builder.set_n_training_threads(threads).build().serialize(str(folder))


def scann_open(folder: Path, table: Vectors, **_: Any) -> Opened:
    from scann.scann_ops.py import scann_ops_pybind

    index = scann_ops_pybind.load_searcher(str(folder))

    def search(queries: Float32, k: int, threads: int, reorder: int, leaves: int) -> Rows:
        index.set_num_threads(threads)
        size = max(1, min(256, math.ceil(len(queries) / threads)))  # so that every thread has a batch
        found, distances = index.search_batched_parallel(queries, k, max(reorder, k), leaves, batch_size=size)
        return np.where(np.isnan(distances), -1, found.astype(np.int64))  # where leaves hold too few

    def alone(query: Float32, k: int, reorder: int, leaves: int) -> Any:
        return index.search(query, k, max(reorder, k), leaves)

    return Opened(search, alone)


# voyager


def voyager_build(table: Vectors, folder: Path, threads: int, m: int, ef: int) -> None:
    import voyager

    index = voyager.Index(
        voyager.Space.Cosine, num_dimensions=table.shape[1], M=m, ef_construction=ef, max_elements=len(table)
    )
    for _, piece in _pieces(table):
        index.add_items(piece, num_threads=threads)
    index.save(str(folder / "index"))


def voyager_open(folder: Path, table: Vectors, m: int, ef: int) -> Opened:
    import voyager

    index = voyager.Index.load(str(folder / "index"))

    def search(queries: Float32, k: int, threads: int, ef: int) -> Rows:
        return index.query(queries, k, num_threads=threads, query_ef=max(ef, k))[0].astype(np.int64)

    return Opened(search)


# SVS


def svs_build(table: Vectors, folder: Path, threads: int, degree: int, window: int, bits: list[int] | None) -> None:
    import svs

    parameters = svs.VamanaBuildParameters(graph_max_degree=degree, window_size=window)
    data: Any = np.ascontiguousarray(table)
    if bits:
        svs.write_vecs(as_float32(data), str(folder / "all.fvecs"))
        loader = svs.VectorDataLoader(str(folder / "all.fvecs"), svs.DataType.float32, table.shape[1])
        data = svs.LVQLoader(loader, primary=bits[0], residual=bits[1])
    index = svs.Vamana.build(parameters, data, svs.DistanceType.MIP, num_threads=threads)
    index.save(*(str(folder / name) for name in ("config", "graph", "data")))
    remove(folder / "all.fvecs")


def svs_open(folder: Path, table: Vectors, degree: int, window: int, bits: list[int] | None) -> Opened:
    import svs

    data = str(folder / "data")
    loader = svs.LVQLoader(data) if bits else svs.VectorDataLoader(data, svs.DataType.float16)
    index = svs.Vamana(str(folder / "config"), svs.GraphLoader(str(folder / "graph")), loader, svs.DistanceType.MIP)

    def search(queries: Float32, k: int, threads: int, window: int) -> Rows:
        if index.num_threads != threads:
            index.num_threads = threads
        index.search_window_size = max(window, k)
        return index.search(queries, k)[0].astype(np.int64)

    return Opened(search)


# LanceDB


def lance_build(table: Vectors, folder: Path, threads: int, bits: int) -> None:
    import lancedb
    import pyarrow as pa
    from lancedb.index import IvfRq

    from index.table import fixed_size_list

    schema = pa.schema([("row", pa.int64()), ("vector", pa.list_(pa.float16(), table.shape[1]))])

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(table), PIECE):
            piece = table[start : start + PIECE]
            rows = pa.array(np.arange(start, start + len(piece)))
            yield pa.RecordBatch.from_arrays([rows, fixed_size_list(piece)], schema=schema)

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    made = lancedb.connect(str(folder)).create_table("vectors", reader, schema=schema)
    made.create_index(
        "vector", config=IvfRq(distance_type="dot", num_bits=bits, num_partitions=round(math.sqrt(len(table))))
    )


def lance_open(folder: Path, table: Vectors, bits: int) -> Opened:
    import lancedb

    opened = lancedb.connect(str(folder)).open_table("vectors")

    def search(queries: Float32, k: int, threads: int, refine: int, nprobe: int) -> Rows:
        asked = opened.search(queries if len(queries) > 1 else queries[0]).distance_type("dot").limit(k)
        found = asked.nprobes(nprobe).refine_factor(refine).select(["row", "_distance"]).to_arrow()
        rows = np.full((len(queries), k), -1)
        query = found["query_index"].to_numpy() if len(queries) > 1 else np.zeros(len(found), np.int64)
        first = np.searchsorted(query, np.arange(len(queries)))
        rows[query, np.arange(len(query)) - first[query]] = found["row"].to_numpy()
        return rows

    return Opened(search)


# FAISS


def faiss_build(table: Vectors, folder: Path, threads: int, kind: str) -> None:
    import faiss

    faiss.omp_set_num_threads(threads)
    n, dim = table.shape
    made = kind.format(lists=_lists(n), codes=dim // 8)
    index = faiss.index_factory(dim, made, faiss.METRIC_INNER_PRODUCT)
    if "HNSW" in kind:
        index.hnsw.efConstruction = 200
    if not index.is_trained:
        sample = np.random.default_rng(0).choice(n, min(n, 64 * _lists(n)), replace=False)
        index.train(as_float32(table[np.sort(sample)]))
    for _, piece in _pieces(table):
        index.add(piece)
    faiss.write_index(index, str(folder / "index"))


def faiss_open(folder: Path, table: Vectors, kind: str) -> Opened:
    import faiss

    index = faiss.read_index(str(folder / "index"))

    def parameters(k: int, ef: int = 0, nprobe: int = 0, refine: int = 0) -> Any:
        made: Any = None
        if ef:
            made = faiss.SearchParametersHNSW(efSearch=max(ef, k))
        if nprobe:
            made = faiss.SearchParametersIVF(nprobe=nprobe)
        if refine:
            made = faiss.IndexRefineSearchParameters(k_factor=refine, base_index_params=made)
        return made

    def search(queries: Float32, k: int, threads: int, **knobs: int) -> Rows:
        if faiss.omp_get_max_threads() != threads:
            faiss.omp_set_num_threads(threads)
        return index.search(queries, k, params=parameters(k, **knobs))[1]

    return Opened(search)


# ours: a gallery, asked as users ask it (galleries.py knows its interfaces)


def ours_prepare(table: Vectors, folder: Path) -> None:
    """The Parquet table, with ids and two label columns."""
    from benchmarks.galleries import write_gallery
    from index.table import Layout

    remove(folder)
    batches = (np.asarray(table[start : start + PIECE]) for start in range(0, len(table), PIECE))
    write_gallery(folder, Layout.of({"look": table.shape[1]}), batches, "peers")


def ours_build(table: Vectors, folder: Path, threads: int, **variant: Any) -> None:
    import faiss

    from benchmarks.galleries import build_index
    from index.gallery import Gallery

    faiss.omp_set_num_threads(threads)
    gallery = Gallery.open(folder)
    if cap := variant.pop("bytes_a_row", None):
        variant["memory"] = cap * gallery.manifest.rows
    build_index(gallery, **variant)


def ours_open(folder: Path, table: Vectors, **_: Any) -> Opened:
    import faiss

    from benchmarks.galleries import Served, mapped_bytes
    from index.gallery import Gallery

    served = Served.open(Gallery.open(folder))

    def on(threads: int, call: Callable[..., Any], *arguments: Any, **knobs: Any) -> Any:
        if faiss.omp_get_max_threads() != threads:
            faiss.omp_set_num_threads(threads)
        return call(*arguments, **knobs)

    def search(queries: Float32, k: int, threads: int, **knobs: Any) -> Rows:
        return on(threads, served.ask, queries, k, **knobs).rows

    def raw(queries: Float32, k: int, threads: int, **knobs: Any) -> Any:
        return on(threads, served.raw, queries, k, **knobs)

    return Opened(search, raw=raw if served.has_raw else None, mapped=mapped_bytes(served.gallery))


def _recalls(rows: int) -> list[list[Knobs]]:
    """The recall asked for is what users set; 0.999 is more than any curve holds, so the best setting."""
    return [[{"recall": each} for each in (0.8, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.999)]]


OURS: dict[str, dict[str, Any]] = {  # build_generation's arguments: without a cap, and with one of 100 bytes a vector
    "fsearch": {"kind": "auto"},
    "fsearch-100B": {"kind": "auto", "bytes_a_row": 100},
}


def _faiss(kind: str, knobs: Callable[[int], list[list[Knobs]]]) -> Engine:
    return Engine("faiss", "faiss-cpu", faiss_build, faiss_open, knobs, {"kind": kind})


def _lists(rows: int) -> int:
    return round(4 * math.sqrt(rows))


EF = _one("ef")
GRAPH = {"m": 16, "ef": 200}  # hnswlib's and voyager's own examples; FAISS's HNSW gets the same
ENGINES: dict[str, Engine] = {
    "hnswlib": Engine("hnswlib", "hnswlib", hnswlib_build, hnswlib_open, EF, GRAPH),
    "hnswlib-m24": Engine("hnswlib", "hnswlib", hnswlib_build, hnswlib_open, EF, {"m": 24, "ef": 200}),
    "usearch-f16": Engine("usearch", "usearch", usearch_build, usearch_open, EF, {"dtype": "f16"}),  # its defaults
    "usearch-i8": Engine("usearch", "usearch", usearch_build, usearch_open, EF, {"dtype": "i8"}),
    "scann": Engine(  # its GloVe example: 2,000 leaves for 1.18 M rows, 2 dimensions a code, threshold 0.2
        "scann", "scann", scann_build, scann_open,
        _grid("reorder", (30, 100, 300), "leaves", lambda rows: round(1.84 * math.sqrt(rows))),
        {"leaves": 1.84, "dims": 2, "threshold": 0.2},
    ),
    "voyager": Engine("voyager", "voyager", voyager_build, voyager_open, EF, GRAPH),
    "svs": Engine(
        "svs", "scalable-vs", svs_build, svs_open, _one("window"), {"degree": 64, "window": 128, "bits": None}
    ),
    "svs-lvq": Engine(  # stops on processors that are not Intel's
        "svs", "scalable-vs", svs_build, svs_open, _one("window"), {"degree": 64, "window": 128, "bits": [4, 8]}
    ),
    "lancedb": Engine(
        "lancedb", "lancedb", lance_build, lance_open,
        _grid("refine", (2, 5, 20), "nprobe", lambda rows: round(math.sqrt(rows))), {"bits": 1},
    ),
    "faiss-flat": _faiss("Flat", lambda rows: [[{}]]),
    # np: without the polysemous training that these searches do not use
    "faiss-ivfpq": _faiss("IVF{lists},PQ{codes}np", _one("nprobe", PROBES)),
    "faiss-ivfpq-refine": _faiss(
        "IVF{lists},PQ{codes}np,Refine(SQfp16)", _grid("refine", (3, 6, 12, 25), "nprobe", _lists)
    ),
    "faiss-hnsw": _faiss("HNSW16", EF),
    "faiss-hnsw-sq8": _faiss("HNSW16_SQ8", EF),
} | {
    name: Engine("faiss", "faiss-cpu", ours_build, ours_open, _recalls, variant, ours_prepare, ours=True)
    for name, variant in OURS.items()
}  # fmt: skip


def disk_bytes(folder: Path, engine: Engine) -> int:
    """Bytes of a saved index; of ours the generation, since the table is the caller's data."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in found if not engine.ours or path.parent.name.startswith("gen-"))


def describe(engine: Engine) -> str:
    return f"{engine.pip} {version(engine.pip)} {json.dumps(engine.settings)}"
