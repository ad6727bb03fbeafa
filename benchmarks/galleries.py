"""A gallery folder of generated vectors, written as a stream, indexed and asked: what users pay, for benchmarks.

``build_index`` and ``Served`` are the only lines here that know the interfaces of the search core.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.build import build_generation, open_index
from index.exact import Float32
from index.files import sha256_file
from index.gallery import TABLE, VECTORS, Gallery, Generation, Manifest
from index.hits import Hits
from index.table import Layout, Part, fixed_size_list, read_metadata, rows, schema, write_part

PART_ROWS = 32_768
LABELS = ("category", "color")
COLUMNS = ["id", *LABELS]
MADE_FROM = "generated"  # footer key: what a part holds, and where it begins


def write_gallery(path: Path, layout: Layout, batches: Iterable[npt.NDArray[np.float16]], made_from: str) -> Gallery:
    """Batches of float16 (n, dim) -> committed gallery of parts of 32,768 rows. Holds one part at a time.

    made_from: fingerprint of what generates the batches. A part whose footer says the same, from the same row, is kept
    as it is; the batches must come again all the same.
    """
    parts, start = [], 0
    for piece in _of(PART_ROWS, batches):
        parts.append(_part(path / TABLE / f"part-{len(parts):05d}.parquet", layout, piece, start, made_from))
        start += len(piece)
    manifest = Manifest(
        layout=layout, attributes={}, aliases={"attributes": {}, "values": {}}, weights={}, labels=list(LABELS),
        model={"name": "generated", "fingerprint": made_from}, source={"path": "generated", "fingerprint": made_from},
        config_fingerprint=made_from, parts=parts, rows=start, rejected=0,
    )  # fmt: skip
    return Gallery(path, manifest).commit(manifest)


def _of(size: int, batches: Iterable[npt.NDArray[np.float16]]) -> Iterator[npt.NDArray[np.float16]]:
    """The same rows, ``size`` at a time."""
    held: list[npt.NDArray[np.float16]] = []
    for batch in batches:
        while len(batch):
            room = size - sum(map(len, held))
            held.append(batch[:room])
            batch = batch[room:]
            if sum(map(len, held)) == size:
                yield np.concatenate(held)
                held = []
    if held:
        yield np.concatenate(held)


def _part(path: Path, layout: Layout, vectors: npt.NDArray[np.float16], start: int, made_from: str) -> Part:
    says = f"{made_from} rows {start} to {start + len(vectors)}"
    if path.is_file() and read_metadata(path).get(MADE_FROM) == says and rows(path) == len(vectors):
        return Part(path.name, len(vectors), path.stat().st_size, sha256_file(path))
    n, numbers = len(vectors), range(start, start + len(vectors))
    ids = [f"generated-{i:09d}" for i in numbers]
    content = pa.table(
        {
            "id": ids,
            "path": [f"{name}.jpg" for name in ids],
            "width": np.full(n, 480, np.int32),
            "height": np.full(n, 640, np.int32),
            "content_hash": [hashlib.sha256(name.encode()).hexdigest() for name in ids],
            "category": [f"category {i % 37}" for i in numbers],
            "color": [f"color {i % 11}" for i in numbers],
            "norms": fixed_size_list(np.ones((n, len(layout.blocks)), np.float32)),
            "embedding": fixed_size_list(vectors),
        },
        schema=schema(layout, LABELS, []),
    )
    return write_part(path, content, {MADE_FROM: says, "model": made_from, "config": made_from})


def mapped_bytes(gallery: Gallery) -> int:
    """Bytes of the vectors that an open index reads through a memory map."""
    current = gallery.manifest.current
    return 0 if current is None else int(current.files.get(VECTORS, {}).get("bytes", 0))


def build_index(gallery: Gallery, **arguments: Any) -> Generation:
    """A new generation; arguments are those of ``build_generation``, as the kind of index or a cap on its memory."""
    return build_generation(gallery, **arguments)


@dataclass(frozen=True)
class Served:
    """An open gallery that answers with rows, ids and labels."""

    gallery: Gallery
    index: Any

    @classmethod
    def open(cls, gallery: Gallery) -> Served:
        gallery.take(np.zeros(1, np.int64), COLUMNS)  # read once
        return cls(gallery, open_index(gallery))

    def ask(self, queries: Float32, k: int, **knobs: Any) -> Hits:
        """The k best of each query, joined with their ids and labels; knobs are those of the index's ``search``."""
        hits = self.index.search(queries, k, **knobs)
        self.gallery.take(hits.rows.reshape(-1), COLUMNS)
        return hits

    @property
    def has_raw(self) -> bool:
        """Whether ``raw`` knows this kind of index."""
        return getattr(self.index, "_refined", None) is not None

    def raw(self, queries: Float32, k: int, **knobs: Any) -> Any:
        """FAISS's own call, candidates and rerank, at these knobs: what ``ask`` takes longer is our layer."""
        setting = self.index.setting(**knobs, k=k)
        params = self.index._faiss_parameters(setting.nprobe, max(k, setting.rerank), k)
        return self.index._refined.search(queries, k, params=params)
