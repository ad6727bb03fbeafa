"""Offline evaluation: a file of queries in, a file of ranked results out, through the same engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from tqdm import tqdm

from index.errors import FsearchError, InputError
from index.files import atomic_path
from retrieval import query as q
from retrieval.datasets.records import Cropped
from retrieval.datasets.tables import read_table
from retrieval.engine import Engine, Result
from retrieval.query import Request
from retrieval.serving.sheet import checked

COLUMNS = ("id", "photo", "set", "from", "where", "weight", "drop", "exclude", "one_per", "min_score", "text", "box")
Box = tuple[int, int, int, int]
FRAME = pa.field("box", pa.string())  # in the results, where a part of a photo is asked
SCHEMA = pa.schema(
    [("query", pa.int64()), ("rank", pa.int32()), ("id", pa.string()), ("score", pa.float32()), ("error", pa.string())]
)
AT_ONCE = 256


def run_batch(
    engine: Engine,
    queries: Path,
    out: Path,
    topk: int,
    recall: float | None = None,
    offset: int = 0,
    progress: bool = False,
    find: Callable[[Path], Box | None] | None = None,
) -> tuple[int, int]:
    """Answer every query of a CSV or Parquet file; returns how many were answered and how many failed.

    queries: columns ``id`` (a gallery row, which does not answer itself), ``photo`` (a path, relative to the file) or
    ``text``, which may stand beside either; optional ``set`` ("color=gray;sleeve=long"), ``from``, ``where``,
    ``weight``, ``drop``, ``exclude``, ``one_per``, ``min_score``, ``box`` ("x,y,w,h", the part of the photo that is
    asked). find: the part of a photo to ask where the file gives none, such as a detector's, or None for all of it.

    out: ``query`` (row number in the file, from 0), ``rank`` (from 1), ``id``, ``score``, ``error``, and with a column
    box or find ``box``, the part that was asked; a query that fails has one row with rank 0 and its reason, one that
    finds nothing has none. Written all or nothing.

    Raises InputError for a file that cannot be used as a whole.
    """
    if out.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"{out}: results are written as .csv or .parquet; choose one of these endings")
    out.parent.mkdir(parents=True, exist_ok=True)
    checked(out, (".csv", ".parquet"), [queries])
    table = read_table(queries)
    if not {"id", "photo", "text"} & set(table.column_names):
        raise InputError(f"{queries}: no column id, photo or text; it has {', '.join(table.column_names)}")
    if unknown := sorted(set(table.column_names) - set(COLUMNS)):
        raise InputError(f"{queries}: unknown column {', '.join(unknown)}; known: {', '.join(COLUMNS)}")
    failed = 0
    schema = SCHEMA.append(FRAME) if find is not None or "box" in table.column_names else SCHEMA
    with (
        atomic_path(out) as temporary,
        _writer(out, temporary, schema) as writer,
        tqdm(total=table.num_rows, desc="queries", unit="query", disable=None if progress else True) as bar,
    ):
        for start in range(0, table.num_rows, AT_ONCE):
            rows = table.slice(start, AT_ONCE).to_pylist()
            asked = [_asked(row, queries.parent, find) for row in rows]
            answers = _answers(engine, [each.request for each in asked], topk, recall, offset)
            failed += sum(isinstance(answer, FsearchError) for answer in answers)
            writer.write(_rows(start, answers, [each.box for each in asked], schema))
            bar.update(len(rows))
    return table.num_rows - failed, failed


def _writer(out: Path, temporary: Path, schema: pa.Schema) -> pacsv.CSVWriter | pq.ParquetWriter:
    return pacsv.CSVWriter(temporary, schema) if out.suffix.lower() == ".csv" else pq.ParquetWriter(temporary, schema)


class _Asked(NamedTuple):
    """A line of the file as a request, or what is wrong with it, and the part of its photo that is asked: x,y,w,h."""

    request: Request | FsearchError
    box: str | None = None


def _asked(row: dict[str, str | None], folder: Path, find: Callable[[Path], Box | None] | None) -> _Asked:
    request = _request(row, folder)
    if isinstance(request, FsearchError) or (find is None and not row.get("box")):
        return _Asked(request)
    photo, box = request.photo, row.get("box")
    try:
        if not isinstance(photo, Path):
            if box:
                raise InputError("a box is of a photo, and there is none")
            return _Asked(request)
        if box:
            part = Cropped.of(photo, box)
        elif find is None or (found := find(photo)) is None:
            return _Asked(request)
        else:
            part = Cropped(photo, found)
        return _Asked(replace(request, photo=part), ",".join(map(str, part.box)))
    except FsearchError as error:
        return _Asked(error)


def _request(row: dict[str, str | None], folder: Path) -> Request | FsearchError:
    """One line of the file; what is wrong with it is returned, as the rest go on."""
    key, photo = row.get("id"), row.get("photo")
    try:
        if (key is None) == (photo is None) and (key or row.get("text") is None):
            raise InputError("give either an id or a photo, or a text")
        cells = {name: [row[name] or ""] for name in COLUMNS if row.get(name)}
        return Request(
            photo=folder / photo if photo is not None else None,
            like=key,
            set=q.assignments(cells.get("set", ())),
            old=q.assignments(cells.get("from", ()), "--from"),
            weight=q.weights_of(cells.get("weight", ())),
            drop=_several(row.get("drop")),
            where=tuple(cells.get("where", ())),
            exclude=_several(row.get("exclude")),
            one_per=row.get("one_per"),
            min_score=_number(row.get("min_score")),
            text=row.get("text"),
        )
    except FsearchError as error:
        return error


def _several(cell: str | None) -> list[str]:
    return [name.strip() for name in (cell or "").split(";") if name.strip()]


def _number(cell: str | None) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        raise InputError(f"min_score {cell!r}: the score must be a number, for example 0.8") from None


def _answers(
    engine: Engine, requests: Sequence[Request | FsearchError], topk: int, recall: float | None, offset: int
) -> list[Result | FsearchError]:
    """Results in order; a batch that fails is halved until the queries at fault stand alone."""
    good = [request for request in requests if isinstance(request, Request)]
    solved = iter(_solve(engine, good, topk, recall, offset))
    return [next(solved) if isinstance(request, Request) else request for request in requests]


def _solve(
    engine: Engine, requests: Sequence[Request], topk: int, recall: float | None, offset: int
) -> list[Result | FsearchError]:
    if not requests:
        return []
    try:
        return list(engine.query_many(requests, topk, recall, offset))
    except FsearchError as error:
        if len(requests) == 1:
            return [error]
        middle = len(requests) // 2
        return [
            answer
            for half in (requests[:middle], requests[middle:])
            for answer in _solve(engine, half, topk, recall, offset)
        ]


def _rows(
    first: int, answers: Sequence[Result | FsearchError], boxes: Sequence[str | None], schema: pa.Schema
) -> pa.Table:
    lines: list[tuple[int, int, str | None, float | None, str | None, str | None]] = []
    for number, (answer, box) in enumerate(zip(answers, boxes, strict=True), first):
        if isinstance(answer, FsearchError):
            lines.append((number, 0, None, None, " ".join(str(answer).split()), box))
        else:
            lines += [(number, hit.rank, hit.id, hit.score, None, box) for hit in answer.hits]
    return pa.table(
        [pa.array([line[i] for line in lines], field.type) for i, field in enumerate(schema)], schema=schema
    )
