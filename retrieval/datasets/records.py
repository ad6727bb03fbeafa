"""What a reader yields: listings cost no pixels, bytes are fetched when a photo is decoded."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from index.errors import PhotoError
from retrieval.photos import Source, clipped, decode


class Photo(NamedTuple):
    """One photo of a listing, nothing of it read yet: ``source`` is what ``retrieval.photos.decode`` takes.

    ``path`` is relative to the root of its reader, with forward slashes, or "" where the photo is no file of its own.
    Blank attributes are None.
    """

    id: str
    path: str
    source: Source
    attributes: dict[str, str | None]


class Missing(NamedTuple):
    """What a reader knows of but cannot list, for rejected.parquet. ``id`` or ``path`` is "" where there is none."""

    id: str
    path: str
    reason: str


@dataclass(frozen=True)
class RowBytes:
    """The image bytes in one row of a Parquet file; calling it fetches them. Small, picklable, safe across threads.

    ``column`` is a leaf of the schema, such as ``image`` or ``image.bytes``. Rows asked for roughly in order, from one
    thread or many, are streamed page by page: memory holds one page of the file (pyarrow writes 1,024 rows or fewer
    into one) and 64 images, however large the row groups are. A jump back reads its row group again from the start.
    """

    file: Path
    column: str
    row: int

    def __call__(self) -> bytes:
        """The encoded image. Raises PhotoError."""
        try:
            content = _stream(self.file, self.column, os.getpid(), os.stat(self.file).st_mtime_ns).read(self.row)
        except (OSError, pa.ArrowException, StopIteration) as error:  # a damaged page, or fewer rows than were listed
            text = " ".join(str(error).split())
            raise PhotoError(f"row {self.row} cannot be read ({text[:80]})", str(self.file)) from None
        if content is None:
            raise PhotoError(f"row {self.row} holds no image bytes", str(self.file))
        return content


@dataclass(frozen=True)
class Cropped:
    """The part of a photo inside a box; calling it reads the photo and encodes the part without loss.

    ``box``: left, top, width, height in pixels of the photo, as label columns "x,y,w,h" hold it; what lies outside the
    photo is left off.
    """

    file: Source
    box: tuple[int, int, int, int]

    @classmethod
    def of(cls, file: Path, text: str) -> Cropped:
        """From the text of a label. Raises PhotoError where it is no box."""
        try:
            left, top, width, height = map(int, text.split(","))
        except ValueError:
            raise PhotoError(f"{text!r} is no box x,y,w,h", str(file)) from None
        return cls(file, (left, top, width, height))

    def __call__(self) -> bytes:
        """The part as a PNG. Raises PhotoError, also where the box holds nothing of the photo."""
        image = decode(self.file).image
        where = str(self.file) if isinstance(self.file, Path) else ""
        left, top, width, height = clipped(self.box, *image.size, where)
        out = io.BytesIO()
        image.crop((left, top, left + width, top + height)).save(out, "PNG")
        return out.getvalue()


@lru_cache(maxsize=8)
def _stream(file: Path, column: str, process: int, mtime_ns: int) -> _Stream:
    """One open file a process and version: a forked worker must not share its parent's reader."""
    return _Stream(file, column)


class _Stream:
    """Rows of one binary column, by a cursor that runs forward through the pages of a row group."""

    BATCH = 16  # rows
    KEPT = 4  # batches: threads that share a stream ask slightly out of order

    def __init__(self, file: Path, column: str) -> None:
        # without a buffer size, or with pre-buffering, Arrow would read a row group's column whole
        self.reader = pq.ParquetFile(file, buffer_size=2**18, pre_buffer=False)
        self.column = column
        groups = self.reader.metadata.num_row_groups
        self.starts = [0, *accumulate(self.reader.metadata.row_group(g).num_rows for g in range(groups))]
        self.lock = threading.Lock()
        self.batches: OrderedDict[int, tuple[int, list[bytes | None]]] = OrderedDict()  # by first row: end, values
        self.group, self.next = -1, 0
        self.cursor: Iterator[Any] = iter(())

    def read(self, row: int) -> bytes | None:
        with self.lock:
            for first, (end, values) in self.batches.items():
                if first <= row < end:
                    return values[row - first]
            group = next(g for g, end in enumerate(self.starts[1:]) if row < end)
            if group != self.group or row < self.next:
                self.group, self.next = group, self.starts[group]
                self.cursor = self.reader.iter_batches(self.BATCH, [group], [self.column], use_threads=False)
            while True:
                try:
                    batch = next(self.cursor)
                except BaseException:
                    self.group = -1  # a cursor that failed is not asked again
                    raise
                first, self.next = self.next, self.next + len(batch)
                if row < self.next:
                    break
            values = _leaf(batch.column(0)).to_pylist()
            self.batches[first] = (self.next, values)
            if len(self.batches) > self.KEPT:
                self.batches.popitem(last=False)
            return values[row - first]


def _leaf(array: Any) -> Any:
    """The one child of a struct read by a dotted name (null where the struct is), else the array itself."""
    return array.flatten()[0] if pa.types.is_struct(array.type) else array
