"""A duplicates report as a file of pairs, as a few lines of text, and as pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from index.files import atomic_path, atomic_write
from retrieval.duplicates import Group, Report
from retrieval.engine import Engine
from retrieval.serving.sheet import Row, Tile, checked, save_sheet

ENDINGS = (".csv", ".parquet", ".json")
LISTED, SHOWN, IN_A_ROW = 5, 20, 11  # groups printed, groups in the picture, photos of a group beside its first
SCHEMA = pa.schema(
    [("group", pa.int64()), ("id", pa.string()), ("other", pa.string()), ("score", pa.float32()), ("exact", pa.bool_())]
)


def save_pairs(out: Path, report: Report) -> None:
    """Write the pairs all or nothing: a line each with the number of its group from 1, or JSON by group."""
    if checked(out, ENDINGS).suffix.lower() == ".json":
        atomic_write(out, json.dumps(report.to_json(), indent=1, ensure_ascii=False).encode())
        return
    lines = [(number, *pair) for number, group in enumerate(report.groups, 1) for pair in group.pairs]
    table = pa.table([pa.array([line[i] for line in lines], f.type) for i, f in enumerate(SCHEMA)], schema=SCHEMA)
    with atomic_path(out) as temporary:
        pacsv.write_csv(table, temporary) if out.suffix.lower() == ".csv" else pq.write_table(table, temporary)


def summary(report: Report) -> str:
    """The counts and the largest groups."""
    held = report.spare + len(report.groups)
    lines = [
        f"{len(report.groups):,} groups hold {held:,} of {report.photos:,} photos: {report.spare:,} beyond one each,"
        f" {report.copies:,} of them the very same file (threshold {report.threshold:g})"
    ]
    for group in report.groups[:LISTED]:
        more = f"  and {len(group.ids) - 6} more" if len(group.ids) > 6 else ""
        lines.append(f"{len(group.ids):>5} photos: {'  '.join(group.ids[:6])}{more}")
    return "\n".join(lines)


def save_groups(path: Path, engine: Engine, report: Report) -> None:
    """The largest groups as pictures (.html or .png): the photo with the most pairs, and beside it those like it."""
    shown = report.groups[:SHOWN]
    facts = {
        "gallery": f"{engine.gallery.path.name}, {report.photos:,} photos",
        "threshold": f"{report.threshold:g}",
        "weights": ", ".join(f"{name} {weight:g}" for name, weight in report.weights.items()),
        "groups": f"{len(report.groups):,}" + (f", the {len(shown)} largest shown" if shown != report.groups else ""),
        "photos beyond one each": f"{report.spare:,}, {report.copies:,} the very same file",
    }
    save_sheet(path, [_row(engine, group) for group in shown], "fsearch duplicates", facts)


def _row(engine: Engine, group: Group) -> Row:
    rows = group.rows[: IN_A_ROW + 1]
    tiles: list[Tile] = []
    for hit, score, copy in zip(engine.describe(rows), group.scores, group.copy, strict=False):
        lines = [f"score: {score:.3f}"] * bool(tiles) + ["file: the same"] * copy
        lines += [f"{name}: {value}" for name, value in hit.shown().items()]
        tiles.append(Tile(engine.photo_of(hit), hit.id, tuple(lines)))
    same = f", {sum(group.copy)} the same file" if any(group.copy) else ""
    left = f"{len(group.rows) - len(rows)} more not shown" if len(group.rows) > len(rows) else ""
    return Row(f"{len(group.rows)} photos{same}", tiles[0], tuple(tiles[1:]), left, ("file",), first=0, role="first")
