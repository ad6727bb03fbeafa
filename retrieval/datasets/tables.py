"""CSV and Parquet as Arrow tables of strings, with errors that name the line.

Every column is read as text, so that an id such as 0012 keeps its zeros; a blank is null.
"""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from index.errors import InputError


def read_table(file: Path) -> pa.Table:
    """All flat columns of a CSV or Parquet as strings; attributes lose the spaces around them, blanks become null.

    Raises InputError for a file that is missing, empty, damaged, not UTF-8, ragged, or has two columns of one name.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file" if not file.exists() else f"{file}: not a file")
    table = _read_parquet(file) if file.suffix.lower() == ".parquet" else _read_csv(file)
    if table.num_columns and table.num_rows == 0:  # a Parquet of images alone has no columns here
        raise InputError(f"{file}: no rows in it; nothing to list")
    columns = {}
    for name in table.column_names:
        column = table[name] if name in ("id", "path") else pc.utf8_trim_whitespace(table[name])
        columns[name] = pc.if_else(pc.equal(column, ""), None, column)
    return pa.table(columns)


def read_ids(file: Path) -> list[str]:
    """Ids from a file: the id column of a CSV or Parquet, or one a line. InputError for a file without any."""
    if file.suffix.lower() in (".csv", ".parquet"):
        columns = read_table(file)
        if "id" not in columns.column_names:
            raise InputError(f"{file}: no column id; it has {', '.join(columns.column_names)}")
        return [each for each in columns["id"].to_pylist() if each is not None]
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})") from None
    if not (ids := [line for line in lines if line.strip()]):
        raise InputError(f"{file}: no ids in it; write one a line")
    return ids


def _read_csv(file: Path) -> pa.Table:
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            header = next(csv.reader(lines), [])
        _refuse_open_quote(file)
        _refuse_twins(header, file)
        kept = [name for name in header if name.strip()]  # pandas writes its row numbers under an empty name
        return pacsv.read_csv(
            file,
            pacsv.ReadOptions(use_threads=False),  # so that a faulty row is named by its number
            pacsv.ParseOptions(newlines_in_values=True),
            pacsv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()), include_columns=kept, strings_can_be_null=False
            ),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
        text = " ".join(str(error).split())
        if isinstance(error, UnicodeDecodeError) or "UTF8" in text:
            raise InputError(f"{file}: not UTF-8 text; save it as UTF-8 CSV") from None
        raise InputError(f"{file}: not a readable CSV ({text[:160]}); mend it") from None


def _refuse_open_quote(file: Path) -> None:
    """InputError where a quotation mark is never closed: all that follows would be one value."""
    if file.read_bytes().count(b'"') % 2 == 0:
        return
    with open(file, encoding="utf-8-sig", newline="") as lines:
        reader, line = csv.reader(lines, strict=True), 1
        try:
            for _ in reader:
                line = reader.line_num + 1
        except csv.Error as error:
            if "end of data" in str(error):
                raise InputError(f"{file}: a quotation mark of line {line} is never closed; close it") from None


def _refuse_twins(header: list[str], file: Path) -> None:
    if len(set(header)) != len(header):
        raise InputError(f"{file}: two columns have one name; rename one: {', '.join(header)}")


def parquet(file: Path) -> pq.ParquetFile:
    """A Parquet file, its footer read. Raises InputError."""
    try:
        return pq.ParquetFile(file)
    except pa.ArrowException as error:
        raise InputError(f"{file}: not a readable Parquet file ({' '.join(str(error).split())[:160]})") from None


def _read_parquet(file: Path) -> pa.Table:
    """Columns that have one text a row; images, lists and other binary columns are left on disk."""
    reader = parquet(file)
    schema = reader.schema_arrow
    _refuse_twins(schema.names, file)
    flat = [field.name for field in schema if not (pa.types.is_nested(field.type) or _is_binary(field.type))]
    classes = _class_names(schema)
    try:
        table = reader.read(flat)
        return pa.table({name: _as_text(table[name], classes.get(name)) for name in flat})
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: damaged Parquet ({' '.join(str(error).split())[:160]})") from None


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _as_text(column: pa.ChunkedArray, classes: list[str] | None) -> pa.ChunkedArray:
    if classes and pa.types.is_integer(column.type):  # -1 is Hugging Face's "no label"
        known = pc.and_(pc.greater_equal(column, 0), pc.less(column, len(classes)))
        return pc.take(pa.chunked_array([strings(classes)]), pc.if_else(known, column, None))
    return column.cast(pa.string())


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Column -> value names of Hugging Face's ClassLabel columns, which store numbers and keep the names aside."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: kind["names"] for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def unique(table: pa.Table, name: str, file: Path, repeats: bool = False) -> list[str]:
    """The values of an id or path column: none blank and (unless ``repeats``) none twice, else InputError."""
    values: list[str] = table[name].to_pylist()
    where = partial(_places, file)
    if table[name].null_count:
        blank = [row for row, value in enumerate(values) if value is None]
        raise InputError(f"{file}: {len(blank):,} rows have no {name} ({where(blank[:3])}); fill it in")
    if not repeats and len(set(values)) != len(values):
        seen: dict[str, list[int]] = {}
        for row, value in enumerate(values):
            seen.setdefault(value, []).append(row)
        twice = [(value, rows) for value, rows in seen.items() if len(rows) > 1]
        named = "; ".join(f"{value!r} at {where(rows[:3])}" for value, rows in twice[:3])
        raise InputError(f"{file}: {len(twice):,} values of {name} appear more than once: {named}; make them unique")
    return values


def _places(file: Path, rows: list[int]) -> str:
    """Rows of a table as people find them: lines of a CSV (a quoted value may span several), rows of a Parquet."""
    if file.suffix.lower() == ".parquet":
        return "rows " + ", ".join(str(row) for row in rows)
    starts = []
    with open(file, encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines)
        start = 1
        for record in reader:
            if record:
                starts.append(start)
            start = reader.line_num + 1
    return "lines " + ", ".join(str(starts[row + 1]) for row in rows)


def strings(values: list[str]) -> Any:
    """A string array (or, past 2 GiB of text, a chunked one)."""
    return pa.array(values, pa.string())


def names(table: pa.Table) -> str:
    """The column names for a message."""
    return ", ".join(table.column_names[:20]) or "no columns"
