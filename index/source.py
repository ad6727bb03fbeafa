"""Where the vectors of a gallery may come from: Parquet files, or any stream of Arrow tables, read piece by piece."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from index import table
from index.errors import InputError
from index.table import ROWS_PER_GROUP

Source: TypeAlias = "str | Path | Sequence[str | Path] | pa.Table | Iterable[pa.Table | pa.RecordBatch]"
OWN = ("path", "width", "height", "content_hash")  # columns that every gallery has


class Stream(NamedTuple):
    """Tables to come, of at most ROWS_PER_GROUP rows, all with ``columns``: id, vector, and those of one value a row.

    width: dimensions of the first vector. rows: of all, where known. folder: that paths in them start at, "" if there
    is none. fingerprint: of the files' names, sizes and times, "" for tables.
    """

    id_column: str
    vector_column: str
    columns: list[str]
    tables: Iterator[pa.Table]
    width: int = 0
    rows: int | None = None
    folder: str = ""
    fingerprint: str = ""

    @property
    def labels(self) -> list[str]:
        """The columns that are the caller's own."""
        return [name for name in self.columns[2:] if name not in OWN]


def opened(source: Source, id_column: str = "id", vector_column: str = "embedding") -> Stream:
    """A Parquet file, several, a folder of them, or Arrow tables, as one stream, its first rows read.

    InputError for what cannot be read, lacks a column, has other columns than the first, or has no rows.
    """
    files = _files(source)
    stream = (
        _of_tables(source, id_column, vector_column) if files is None else _of_files(files, id_column, vector_column)
    )
    for first in stream.tables:
        if len(first):
            vector = first[vector_column][0].as_py()
            tables = itertools.chain([first], stream.tables)
            if vector is None:
                raise InputError("the first vector is null; every row needs a vector of the same length")
            return stream._replace(tables=tables, width=len(vector))
    raise InputError(f"{files[0] if files else 'the tables'}: no rows; nothing to index")


def _of_files(files: Sequence[Path], id_column: str, vector_column: str) -> Stream:
    columns: list[str] = []
    rows, facts = 0, []
    for file in files:
        reader = _parquet(file)
        found = _columns(reader.schema_arrow, str(file), id_column, vector_column)
        columns = columns or found
        _alike(found, columns, str(file), str(files[0]))
        rows += reader.metadata.num_rows
        status = file.stat()
        facts.append([file.name, status.st_size, status.st_mtime_ns])
    fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    folder = str(files[0].parent.resolve())
    return Stream(id_column, vector_column, columns, _read(files, columns), 0, rows, folder, fingerprint)


def _of_tables(source: Any, id_column: str, vector_column: str) -> Stream:
    tables = [source] if isinstance(source, pa.Table | pa.RecordBatch) or not isinstance(source, Iterable) else source
    whole = (_table(each, source) for each in tables)
    if (first := next(whole, None)) is None:
        raise InputError("no table of vectors was given; nothing to index")
    columns = _columns(first.schema, "the first table", id_column, vector_column)

    def pieces() -> Iterator[pa.Table]:
        for number, each in enumerate(itertools.chain([first], whole), 1):
            found = _columns(each.schema, f"table {number}", id_column, vector_column)
            _alike(found, columns, f"table {number}", "the first")
            for start in range(0, len(each), ROWS_PER_GROUP):
                yield each.slice(start, ROWS_PER_GROUP)

    return Stream(id_column, vector_column, columns, pieces())


def _table(each: Any, source: Any) -> pa.Table:
    if isinstance(each, pa.RecordBatch):
        return pa.Table.from_batches([each])
    if not isinstance(each, pa.Table):
        kind = type(each).__name__ + ("" if each is source else f" in a {type(source).__name__}")
        raise InputError(f"vectors come as a Parquet file, a list of them, a folder, or Arrow tables, not as {kind}")
    return each


def _alike(found: Sequence[str], columns: Sequence[str], where: str, first: str) -> None:
    if other := sorted(set(found) ^ set(columns)):
        raise InputError(f"{where}: its columns are not those of {first} (see {other[0]!r}); make them alike")


def _files(source: Any) -> list[Path] | None:
    """The Parquet files meant; None for a source of tables."""
    if isinstance(source, str | Path):
        source = Path(source)
        if not source.is_dir():
            return [source]
        if not (found := sorted(source.glob("*.parquet"))):
            raise InputError(f"{source}: no .parquet files in it; name the files that hold the vectors")
        return found
    if isinstance(source, Sequence) and source and all(isinstance(each, str | Path) for each in source):
        return [Path(each) for each in source]
    return None


def _parquet(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file, pre_buffer=False)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; name a Parquet file, or a folder of them") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: not a readable Parquet file ({' '.join(str(error).split())[:160]})") from None


def _columns(schema: pa.Schema, where: str, id_column: str, vector_column: str) -> list[str]:
    """The columns that are read: id, vector, and all others of one value a row."""
    for name in (id_column, vector_column):
        if name not in schema.names:
            raise InputError(f"{where}: no column {name!r}; {table.nearest(name, schema.names)}")
    kind = schema.types[schema.names.index(vector_column)]
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or not pa.types.is_floating(kind.value_type):
        raise InputError(f"{where}: column {vector_column!r} holds {kind}, not lists of floats; name another column")
    plain = [each.name for each in schema if not (pa.types.is_nested(each.type) or _is_binary(each.type))]
    for name in (id_column, vector_column, *plain):
        if schema.names.count(name) > 1:
            raise InputError(f"{where}: column {name!r} is there twice; rename one of them")
    return [id_column, vector_column, *(name for name in plain if name not in (id_column, vector_column))]


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _read(files: Sequence[Path], columns: list[str]) -> Iterator[pa.Table]:
    for file in files:
        with _parquet(file) as reader:
            batches = reader.iter_batches(ROWS_PER_GROUP, columns=columns)
            while True:
                try:
                    batch = next(batches, None)
                except (pa.ArrowException, OSError) as error:
                    said = " ".join(str(error).split())[:160]
                    raise InputError(f"{file}: damaged Parquet ({said}); make it again") from None
                if batch is None:
                    break
                yield pa.Table.from_batches([batch])
