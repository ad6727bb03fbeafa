"""Report pages: tables of figures, then the best and worst queries as pictures, in the page that sheets use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from retrieval.serving.sheet import Row, render_page, write_as
from retrieval.serving.tiles import clean

__all__ = ["Cell", "Section", "Table", "save_report"]

Cell = str | int | float | None


class Table(NamedTuple):
    """Figures. A cell is text, a number, or None for "not measured"; every row has a cell for each column."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""  # the protocol: a number without it is not a number


class Section(NamedTuple):
    heading: str
    text: str
    rows: Sequence[Row]


def save_report(
    path: str | Path, title: str, facts: Mapping[str, str], tables: Sequence[Table], sections: Sequence[Section]
) -> None:
    """Write one self-contained page (.html) that appears whole or not at all.

    Numbers are printed to three decimals (counts in full) and right-aligned. Raises FsearchError for another ending or
    a folder that cannot be written, ValueError for a row whose length is not that of its table's columns.
    """
    views = [_table(table) for table in tables]
    write_as(Path(path), {".html": lambda: render_page(title, facts, sections, views)})


def _table(table: Table) -> dict[str, Any]:
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ValueError(f"table {table.name!r} has {len(table.columns)} columns, but a row of {len(row)} cells")
    columns = [
        {"name": clean(name), "number": all(not isinstance(row[i], str) for row in table.rows)}
        for i, name in enumerate(table.columns)
    ]
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    return {"name": clean(table.name), "columns": columns, "rows": rows, "note": clean(table.note)}


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return clean(cell)
    if cell is None or math.isnan(cell):
        return "–"
    if isinstance(cell, int):
        return f"{cell:,}"
    if abs(cell) >= 1000:
        return f"{cell:,.0f}"
    return f"{cell:.3f}" if cell == 0 or abs(cell) >= 0.001 else f"{cell:.1e}"
