"""The float16 vectors of a generation as one memory-mapped file that both numpy and FAISS read, without a copy.

The file is a FAISS index of half-precision vectors (``IndexScalarQuantizer`` QT_fp16) whose codes come last, so its
last rows * dim * 2 bytes are the vectors, row after row. FAISS maps it (IO_FLAG_MMAP_IFC) and scores candidates in its
own threads; numpy maps the tail. Earlier galleries have the bare vectors under the same name: numpy reads those.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from index.errors import DamagedError

Float16 = npt.NDArray[np.float16]
PIECE_BYTES = 1 << 25


def header(rows: int, dim: int) -> bytes:
    """What FAISS wants to read before rows * dim float16."""
    codes = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    outer = faiss.IndexPreTransform(codes)  # its header makes the vectors start at an even byte, as numpy wants them
    for index in (codes, outer):
        index.ntotal, index.is_trained = rows, True
    empty = faiss.serialize_index(outer).tobytes()
    return empty[:-8] + np.array([rows * dim * 2], "<u8").tobytes()  # it ends with the size of the codes


def write(path: Path, batches: Iterable[Float16], rows: int, dim: int) -> dict[str, Any]:
    """Write float16 (n, dim) batches of ``rows`` rows in all; returns {"bytes", "sha256"}.

    The file is as long as the batches make it: a caller compares ``bytes`` with ``size(rows, dim)``.
    """
    digest, written = hashlib.sha256(), 0
    with path.open("wb") as file:

        def put(content: bytes) -> int:
            digest.update(content)
            return file.write(content)

        written += put(header(rows, dim))
        for batch in batches:
            written += put(np.ascontiguousarray(batch, "<f2").tobytes())
    return {"bytes": written, "sha256": digest.hexdigest()}


def size(rows: int, dim: int) -> int:
    """Bytes of the file."""
    return len(header(rows, dim)) + rows * dim * 2


def _start(path: str | os.PathLike[str], rows: int, dim: int) -> int:
    """The byte where the vectors begin. DamagedError for a file that is cut, or of other vectors.

    A header ends with the size of what follows, in every version of FAISS; a file of before has none.
    """
    expected = rows * dim * 2
    start = os.path.getsize(path) - expected
    if start >= 8:
        with open(path, "rb") as file:
            file.seek(start - 8)
            if int.from_bytes(file.read(8), "little") == expected:
                return start
    elif start == 0:
        return 0
    raise DamagedError(f"{path}: does not hold {expected} bytes of vectors; run `fsearch verify`")


def before(path: str | os.PathLike[str], rows: int, dim: int) -> bytes:
    """What the file holds before the vectors."""
    with open(path, "rb") as file:
        return file.read(_start(path, rows, dim))


def mapped(path: str | os.PathLike[str], rows: int, dim: int) -> Float16:
    """The vectors (rows, dim), mapped read-only; of a file with or without a header."""
    return np.asarray(np.memmap(os.fspath(path), np.float16, "r", offset=_start(path, rows, dim), shape=(rows, dim)))


def release(vectors: npt.NDArray[Any]) -> None:
    """Give back the pages of mapped vectors that this process has read; the system's cache still has them."""
    base: Any = vectors
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "_mmap", None) or getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def scorer(path: str | os.PathLike[str], rows: int, dim: int) -> Any | None:
    """The vectors as a mapped FAISS index by inner product; None for a file without a header."""
    if not _start(path, rows, dim):
        return None
    return faiss.read_index(os.fspath(path), faiss.IO_FLAG_MMAP_IFC)


def streamed(path: Path, rows: int, dim: int) -> Iterator[Float16]:
    """The vectors piece by piece through ordinary reads: a pass over all of them that keeps no page in this process."""
    at_once = max(1, PIECE_BYTES // (2 * dim))
    with path.open("rb") as file:
        file.seek(_start(path, rows, dim))
        for start in range(0, rows, at_once):
            count = min(at_once, rows - start) * dim
            yield np.fromfile(file, np.float16, count).reshape(-1, dim)
