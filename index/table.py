"""The Parquet table, system of record: one row a photo, its embedding made of named unit-length blocks.

The embedding is float16 and the concatenation of the layout's blocks. Ranking is by weighted squared Euclidean distance
of blocks; as every block has length 1,

    sum_b w_b |q_b - x_b|^2 = 2 sum_b w_b - 2 sum_b w_b <q_b, x_b>,

so a query scaled block by block with ``Layout.scale`` turns any inner product index into one for any weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from index.errors import DamagedError, InputError, UnknownNameError
from index.files import atomic_path, sha256_file

Found = TypeVar("Found", pa.Table, npt.NDArray[np.float16])
WEIGHTS = (1e-15, 1e15)  # weights other than 0: their squares, and sums of these, are float32
FIXED_COLUMNS = ("id", "path", "width", "height", "content_hash", "norms", "embedding")
VECTOR_COLUMNS = ("norms", "embedding")
PREDICTED = "predicted_"
ROWS_PER_GROUP = 4096
ROWS_PER_PART = 8192
NOTHING = 1e-12  # the length of a block without any response
Source = str | os.PathLike[str]  # a part by its path, or held open (``index.held``)


@dataclass(frozen=True)
class Block:
    """Dimensions start..stop of the embedding, one unit-length vector."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """The blocks of an embedding, in order and without gaps; ValueError otherwise."""

    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        ends = [0, *(block.stop for block in self.blocks)]
        follow = [block.start == end < block.stop for block, end in zip(self.blocks, ends, strict=False)]
        if not self.blocks or not all(follow):
            raise ValueError(f"blocks must follow each other from 0 without gaps: {self.blocks}")
        if len(set(self.names)) < len(self.blocks):
            raise ValueError(f"two blocks of one name: {self.names}")

    @classmethod
    def of(cls, sizes: Mapping[str, int]) -> Layout:
        """The layout of blocks with these names and dimensions, in this order."""
        stops = np.cumsum(list(sizes.values())).tolist()
        return cls(tuple(Block(n, stop - size, stop) for (n, size), stop in zip(sizes.items(), stops, strict=True)))

    @property
    def dim(self) -> int:
        return self.blocks[-1].stop

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(block.name for block in self.blocks)

    def slice(self, name: str) -> slice:
        """Where a block lies in the embedding; UnknownNameError offers the nearest names."""
        for block in self.blocks:
            if block.name == name:
                return slice(block.start, block.stop)
        raise UnknownNameError(f"no block {name!r} in this gallery; {nearest(name, self.names)}")

    def scale(self, weights: Mapping[str, float]) -> npt.NDArray[np.float32]:
        """The weight of each dimension, float32 (dim,): a block's weight, or 1 for blocks not named.

        UnknownNameError for a block that is not there, InputError for a weight that is neither 0 nor within WEIGHTS.
        """
        scale = np.ones(self.dim, np.float32)
        for name, weight in weights.items():
            if weight and not WEIGHTS[0] <= weight <= WEIGHTS[1]:
                raise InputError(f"weight {name}={weight}: a weight is 0, or from {WEIGHTS[0]:g} to {WEIGHTS[1]:g}")
            scale[self.slice(name)] = weight
        return scale

    def units(self, vectors: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Raw vectors, float (n, dim), as unit blocks, float32 (n, dim), and the lengths they had, float32 (n, blocks).

        A block shorter than NOTHING has no direction: it becomes zeros of length 0.
        """
        wide = vectors if vectors.dtype == np.float64 else vectors.astype(np.float32)
        out, norms = np.empty(vectors.shape, np.float32), np.empty((len(vectors), len(self.blocks)), np.float32)
        for i, block in enumerate(self.blocks):
            part = wide[:, block.start : block.stop]
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite stays so, for the caller to see
                length = np.sqrt(np.einsum("nd,nd->n", part, part))
                length[length < NOTHING] = 0
                scale = np.divide(1, length, out=np.zeros_like(length), where=length != 0)
                out[:, block.start : block.stop], norms[:, i] = part * scale[:, None], length
        return out, norms

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(block) for block in self.blocks]

    @classmethod
    def from_json(cls, blocks: Sequence[Mapping[str, Any]]) -> Layout:
        return cls(tuple(Block(**block) for block in blocks))


@dataclass(frozen=True)
class Part:
    """One Parquet file of the table: its name, rows, bytes and SHA-256."""

    name: str
    rows: int
    bytes: int
    sha256: str


def nearest(name: str, known: Sequence[str], n: int = 3) -> str:
    """The end of an error message: 'nearest: ...' (case does not matter), or what is known when nothing is near."""
    if not known:
        return "there is none at all"
    folded: dict[str, str] = {}
    for each in known:
        folded.setdefault(each.casefold(), each)
    close = [folded[each] for each in get_close_matches(name.casefold(), folded, n=n, cutoff=0.5)]
    few = known if len(known) <= 20 else [*known[:3], "..."]
    return f"nearest: {', '.join(close)}" if close else f"known: {', '.join(few)}"


def schema(layout: Layout, labels: Sequence[str], predicted: Sequence[str]) -> pa.Schema:
    """The table's columns: the caller's label columns under their own names, and ``predicted_<attribute>``.

    ``content_hash`` is hex; ``norms`` holds the raw length of each block before it was made unit. InputError for a
    label column that takes a fixed name.
    """
    text = [*labels, *(PREDICTED + attribute for attribute in predicted)]
    if taken := sorted({name for name in text if name in FIXED_COLUMNS or text.count(name) > 1}):
        raise InputError(f"label column {taken[0]!r} has a name that the gallery uses itself; rename it in your labels")
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("path", pa.string()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("content_hash", pa.string()),
            *(pa.field(name, pa.string()) for name in text),
            pa.field("norms", pa.list_(pa.float32(), len(layout.blocks))),
            pa.field("embedding", pa.list_(pa.float16(), layout.dim)),
        ]
    )


def fixed_size_list(values: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    """A 2-D array as an Arrow column of fixed-size lists, without a copy: for ``norms`` and ``embedding``."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])


def to_numpy(column: pa.Array) -> npt.NDArray[Any]:
    """A column of fixed-size lists as a 2-D array, without a copy. ValueError for another type, or for a null."""
    if not pa.types.is_fixed_size_list(column.type):
        raise ValueError(f"a vector column of type {column.type}")
    values = column.flatten()  # not .values, which ignores where a slice starts
    width = column.type.list_size
    if column.null_count or values.null_count or len(values) != len(column) * width:
        raise ValueError("empty values in a vector column")
    return values.to_numpy(zero_copy_only=True).reshape(len(column), width)


def write_part(path: Path | str, table: pa.Table, metadata: Mapping[str, str]) -> Part:
    """Write one Parquet file all or nothing, ``metadata`` in its footer, checksums on its pages.

    ValueError when an embedding holds a value that is not finite: it would rank anywhere.
    """
    path = Path(path)
    if "embedding" in table.column_names:
        for chunk in table["embedding"].chunks:
            if not np.isfinite(to_numpy(chunk)).all():
                raise ValueError(f"{path}: an embedding holds a value that is not finite")
    footer = {**(table.schema.metadata or {}), **metadata}
    plain = (*VECTOR_COLUMNS, "id", "path", "content_hash")  # no value occurs twice
    with atomic_path(path) as temporary:
        pq.write_table(
            table.replace_schema_metadata(footer),
            temporary,
            row_group_size=ROWS_PER_GROUP,
            compression={name: "none" if name in VECTOR_COLUMNS else "zstd" for name in table.column_names},
            use_dictionary=[name for name in table.column_names if name not in plain],
            write_page_checksum=True,
        )
        part = Part(path.name, table.num_rows, temporary.stat().st_size, sha256_file(temporary))
    return part


@contextmanager
def _readable(path: Source, *, run: str = "fsearch verify") -> Iterator[None]:
    """Turns what Arrow raises for a broken file into one line that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: missing; run `{run}` on its gallery to see what to rebuild") from error
    except (pa.ArrowException, OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DamagedError(f"{path}: damaged ({first}); run `{run}` on its gallery to see what to rebuild") from error


def read_metadata(path: Source) -> dict[str, str]:
    """What ``write_part`` put into the footer. DamagedError for a file that is missing or no Parquet."""
    with _readable(path):
        footer = pq.read_metadata(path).metadata or {}
        return {key.decode(): value.decode() for key, value in footer.items() if key != b"ARROW:schema"}


def column_names(path: Source) -> list[str]:
    """The columns of one part."""
    with _readable(path):
        return list(pq.read_schema(path).names)


def read_columns(paths: Sequence[Source], names: Sequence[str]) -> pa.Table:
    """These columns of all parts, in order; nothing else is read. DamagedError names the broken file."""
    tables: list[pa.Table] = []
    for path in paths:
        with _readable(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            if missing := [name for name in names if name not in file.schema_arrow.names]:
                raise ValueError(f"no column {missing[0]!r}")
            found = file.read(columns=list(names)).replace_schema_metadata()
            _counted(len(found), file.metadata.num_rows)
            if tables and found.schema != tables[0].schema:
                raise ValueError(f"columns of other types than in {paths[0]}")
            tables.append(found)
    return pa.concat_tables(tables)


def counted(found: Found, folder: Path, rows: int) -> Found:
    """What was found in the parts of a folder; DamagedError if it is not as many rows as their gallery says."""
    if len(found) != rows:
        raise DamagedError(f"{folder}: {len(found)} rows, {rows} expected; run `fsearch verify` to see what to rebuild")
    return found


def _counted(found: int, told: int) -> None:
    """ValueError where a file's pages hold other rows than its footer says: Arrow passes over unknown pages."""
    if found != told:
        raise ValueError(f"{found} rows, {told} expected")


def batches(path: Source, names: Sequence[str], rows_per_batch: int = ROWS_PER_GROUP) -> Iterator[pa.RecordBatch]:
    """These columns of one part, a batch at a time. DamagedError names the file if it is broken."""
    # pre-buffering would read the whole part ahead
    with _readable(path), pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
        found = 0
        for batch in file.iter_batches(batch_size=rows_per_batch, columns=list(names)):
            found += len(batch)
            yield batch
        _counted(found, file.metadata.num_rows)


def embeddings(paths: Sequence[Source], rows_per_batch: int = ROWS_PER_GROUP) -> Iterator[npt.NDArray[np.float16]]:
    """The embeddings of all parts in order, float16 (n, dim) at a time, in memory bounded by the batch."""
    for path in paths:
        for batch in batches(path, ["embedding"], rows_per_batch):
            with _readable(path):
                values = to_numpy(batch.column(0))
            yield values


def take(paths: Sequence[Source], name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Rows (counted over all parts, any order) of a vector column, (n, width); reads only their row groups."""
    out: npt.NDArray[Any] | None = None
    start = found = 0
    for path in paths:
        with _readable(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                here = np.flatnonzero((rows >= start) & (rows < stop))
                if len(here) or out is None:
                    column = file.read_row_group(group, columns=[name]).column(0).combine_chunks()
                    values = to_numpy(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
                    _counted(len(values), stop - start)
                    out = np.empty((len(rows), values.shape[1]), values.dtype) if out is None else out
                    out[here] = values[rows[here] - start]
                    found += len(here)
                start = stop
    if out is None or found < len(rows):
        raise IndexError(f"rows outside 0..{start - 1}")
    return out


def rows(path: Source) -> int:
    """The rows of one part, from its footer alone. DamagedError for a file that is missing or no Parquet."""
    with _readable(path):
        return int(pq.read_metadata(path).num_rows)
