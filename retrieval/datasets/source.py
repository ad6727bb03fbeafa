"""A listing of photos as every reader returns it: held as an Arrow table of strings, no photo opened to make it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from retrieval.datasets.records import Missing, Photo, RowBytes
from retrieval.photos import Source


@dataclass(frozen=True)
class PhotoSource:
    """A listing of photos, in a stable order: by path for folders, by row for files. Iterate it as often as needed.

    ``rows``: string columns ``id``, ``path``, then the attributes. ``missing``: labels without a photo, folders and
    names that cannot be read. ``packed``: the Parquet file and column that hold the image bytes, if they are there;
    ``numbers``: the rows of that file that these photos are, where they are not all (``take``).
    """

    root: Path
    rows: pa.Table
    missing: tuple[Missing, ...] = ()
    packed: tuple[Path, str] | None = None
    numbers: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self.rows.num_rows

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attribute columns, in the order of the labels."""
        return tuple(self.rows.column_names[2:])

    def __iter__(self) -> Iterator[Photo]:
        return self.photos()

    def take(self, rows: np.ndarray) -> PhotoSource:
        """Some of the photos, by place (n,) int64, as a listing of their own; nothing is missing from it."""
        numbers = None
        if self.packed:
            numbers = tuple(int(row) if self.numbers is None else self.numbers[row] for row in rows)
        return PhotoSource(self.root, self.rows.take(pa.array(rows, pa.int64())), (), self.packed, numbers)

    def photos(self, start: int = 0) -> Iterator[Photo]:
        """The photos from position ``start`` on; those before it cost nothing."""
        row = start
        for batch in self.rows.slice(start).to_batches(max_chunksize=4096):
            ids, paths, *columns = (column.to_pylist() for column in batch.columns)
            values = zip(*columns, strict=True) if columns else iter(() for _ in ids)
            for id_, path, cells in zip(ids, paths, values, strict=True):
                number = row if self.numbers is None else self.numbers[row]
                source: Source = RowBytes(*self.packed, number) if self.packed else self.root / path
                yield Photo(id_, path, source, dict(zip(self.attributes, cells, strict=True)))
                row += 1

    def fingerprint(self) -> str:
        """sha256 over id, path, size, mtime and attributes of every photo (size and mtime of a Parquet of bytes).

        The root is left out: a folder that was moved, or copied with its times, is the same listing.
        """
        digest = hashlib.sha256(json.dumps(self.attributes).encode())
        if self.packed:
            digest.update(json.dumps([self.packed[0].name, *_size_and_time(self.packed[0])]).encode())
        for photo in self.photos():
            of_file = () if self.packed else _size_and_time(self.root / photo.path)
            line = [photo.id, photo.path, *of_file, *photo.attributes.values()]
            digest.update(json.dumps(line).encode() + b"\n")
        return digest.hexdigest()


def _size_and_time(path: Path) -> tuple[int, int]:
    """Bytes and mtime in ns, or -1 where there is no such file (the listing may name photos that are gone)."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns
