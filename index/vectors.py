"""The float16 vectors of a generation as one memory-mapped file that both numpy and FAISS read, without a copy.

The file is a FAISS index of half-precision vectors (``IndexScalarQuantizer`` QT_fp16) whose codes come last, so its
last rows * dim * 2 bytes are the vectors, row after row. FAISS maps it (IO_FLAG_MMAP_IFC) and scores candidates in its
own threads; numpy maps the tail. Earlier galleries have the bare vectors under the same name: numpy reads those.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

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
    """Write float16 (n, dim) batches of ``rows`` rows in all; returns {"bytes", "sha256", "head"}, this of the header.

    The file is as long as the batches make it: a caller compares ``bytes`` with ``size(rows, dim)``.
    """
    digest, written, head = hashlib.sha256(), 0, header(rows, dim)
    with path.open("wb") as file:

        def put(content: bytes) -> int:
            digest.update(content)
            return file.write(content)

        written += put(head)
        for batch in batches:
            written += put(np.ascontiguousarray(batch, "<f2").tobytes())
    return {"bytes": written, "sha256": digest.hexdigest(), "head": hashlib.sha256(head).hexdigest()}


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
    found: Any = np.memmap(os.fspath(path), np.float16, "r", offset=_start(path, rows, dim), shape=(rows, dim))
    found.kept = path  # a file kept open under no name of its own: ``taken`` reads it again
    return np.asarray(found)


def release(vectors: npt.NDArray[Any]) -> None:
    """Give back the pages of mapped vectors that this process has read; the system's cache still has them."""
    base: Any = vectors
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "_mmap", None) or getattr(base, "base", None)
    if base is not None:
        _drop(base)


def release_scorer(scorer: Any) -> None:
    """The same of what ``scorer`` returned, which has a map of its own."""
    codes = cast(Any, faiss.downcast_index(scorer.index)).codes
    if not codes.is_owned:  # memory of its own would be lost
        _drop((int(codes.data()), int(codes.size())))


def _drop(pages: mmap.mmap | tuple[int, int]) -> None:
    """Tell the system that these pages of a map, or the whole pages within (address, bytes) of one, may go."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    if isinstance(pages, mmap.mmap):
        return pages.madvise(mmap.MADV_DONTNEED)
    begin, size = pages
    first, last = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, (begin + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)


def taken(vectors: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """A copy of these rows (n, dim), any order; of what ``mapped`` returned it is read from the file.

    A row met at random through a map brings up to 2 MiB of the system's cache into the process, so that a few thousand
    would make all of the file resident.
    """
    stored: Any = vectors
    while stored is not None and not isinstance(stored, np.memmap):
        stored = getattr(stored, "base", None)
    if stored is None or stored.shape != vectors.shape or not len(rows) or not hasattr(os, "preadv"):
        return vectors.take(rows, axis=0)
    out = np.empty((len(rows), vectors.shape[1]), vectors.dtype)
    size, view = out.strides[0], memoryview(cast(Any, out.view(np.uint8))).cast("B")
    with open(str(stored.filename), "rb", buffering=0) as file:
        for i, row in enumerate(rows.tolist()):
            if os.preadv(file.fileno(), [view[i * size : (i + 1) * size]], stored.offset + row * size) != size:
                raise DamagedError(f"{stored.filename}: ends before row {row}; run `fsearch verify`")
    return out


def passing(vectors: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """All rows of mapped vectors, a piece at a time, whose pages are given back when the next is asked for."""
    at_once = max(1, PIECE_BYTES // (2 * vectors.shape[1]))
    for at in range(0, len(vectors), at_once):
        yield vectors[at : at + at_once]
        release(vectors)


def scorer(path: str | os.PathLike[str], rows: int, dim: int, head: str = "") -> Any | None:
    """The vectors as a mapped FAISS index by inner product; None for a file without a header.

    FAISS believes a header, so it is given one only if that is what this FAISS writes, or what was written, of which
    ``head`` is the checksum: DamagedError otherwise.
    """
    if not (found := before(path, rows, dim)):
        return None
    if found != header(rows, dim) and hashlib.sha256(found).hexdigest() != head:
        raise DamagedError(f"{path}: damaged (its header is not what was written); run `fsearch verify`")
    return faiss.read_index(os.fspath(path), faiss.IO_FLAG_MMAP_IFC)


def streamed(path: Path, rows: int, dim: int) -> Iterator[Float16]:
    """The vectors piece by piece through ordinary reads: a pass over all of them that keeps no page in this process."""
    at_once = max(1, PIECE_BYTES // (2 * dim))
    with path.open("rb") as file:
        file.seek(_start(path, rows, dim))
        for start in range(0, rows, at_once):
            count = min(at_once, rows - start) * dim
            yield np.fromfile(file, np.float16, count).reshape(-1, dim)
