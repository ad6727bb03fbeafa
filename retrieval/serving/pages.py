"""Result sheets and the bench page: engine results turned into the plain rows that sheets draw."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval.detection.frame import Frame
from retrieval.engine import Engine, Result
from retrieval.evaluation.bench import METHODS, Example, headline
from retrieval.serving.boxes import draw_boxes
from retrieval.serving.explained import why_rows
from retrieval.serving.report import Section, Table, save_report
from retrieval.serving.sheet import Row, Tile, save_sheet

SHOWN = 6  # best, and worst, queries on the bench page


def save_result(
    path: Path, engine: Engine, result: Result, reference: Path | str, text: str | None = None,
    frame: Frame | None = None,
) -> None:  # fmt: skip
    """The query, the edit and the results of one search as pictures (.html or .png). reference: a file, or an id, or ""
    where a text alone was asked; frame: the part of the file that was asked, which is framed on it.

    A result with shares shows them, and rows of heat maps follow. MissingDependencyError where those lack captum.
    """
    if not reference:
        query = Tile(None, text or "", (), "query")
    elif isinstance(reference, Path):
        image = reference if frame is None else draw_boxes(reference, [frame])
        said = () if frame is None else (frame.words(),)
        query = Tile(image, reference.name, (*said, *_lines(result.reference)), "query")
    else:
        asked = engine.describe([engine.gallery.row_of(reference)])[0]
        query = Tile(engine.photo_of(asked), asked.id, _lines(asked.shown(), result.reference), "query")
    edited = tuple(edit.attribute for edit in result.edits)
    words = "; ".join(f"{e.attribute}: {e.old or 'none'} -> {e.new}" for e in result.edits)
    words = "; ".join(filter(None, [words, text and f"text: {text}"])) or "more like this"
    first = result.hits[0].rank if result.hits else 1
    row = Row(words, query, _tiles(engine, result), edited=edited, first=first)
    facts = {
        "gallery": f"{engine.gallery.path.name}, {engine.gallery.manifest.photos:,} photos",
        "recall": f"{result.recall:.2f}",
        "weights": ", ".join(f"{name} {weight:g}" for name, weight in result.weights.items()),
    }
    if any(": ~" in line for tile in (query, *row.results) for line in tile.lines):
        facts["~"] = "predicted"
    why = why_rows(engine, result, reference, frame.box if frame else None) if reference else ()
    save_sheet(path, [row, *why], "fsearch", facts)


def _tiles(engine: Engine, result: Result) -> tuple[Tile, ...]:
    return tuple(
        Tile(
            engine.photo_of(hit),
            hit.id,
            (f"score: {hit.score:.3f}", *([f"= {hit.why(2)}"] if hit.shares else []), *_lines(hit.shown())),
        )
        for hit in result.hits
    )


def _lines(attributes: Mapping[str, str | None], names: Collection[str] | None = None) -> tuple[str, ...]:
    return tuple(f"{n}: {value}" for n, value in attributes.items() if value and (names is None or n in names))


def bench_table(report: Mapping[str, Any], topk: int) -> str:
    """The headline figures as text, a line for each method."""
    columns = headline(dict(report), topk)
    names = [m for m in (*METHODS, "image only, exact") if any(get(m) is not None for _, get in columns)]
    width = max(map(len, names))
    head = " ".ljust(width) + "".join(f"  {name:>{max(len(name), 6)}}" for name, _ in columns)
    lines = [head]
    for method in names:
        cells = ((get(method), max(len(name), 6)) for name, get in columns)
        lines.append(method.ljust(width) + "".join(f"  {'' if v is None else format(v, '.3f'):>{w}}" for v, w in cells))
    facts = report["facts"]
    asked = {part: next(iter(report[part].values()))["queries"] for part in _PARTS if report[part]}
    said = ", ".join(f"{count:,} {part.replace('_', ' ')} queries" for part, count in asked.items())
    lines.append(f"{facts['gallery']:,} photos; {said}; recall promised {facts['promised_recall']:.2f}")
    return "\n".join(lines)


_PARTS = {
    "edit_published": "Every attribute and every other value of each photo asked; a hit matches the whole target label "
    "tuple. The reference stays in the gallery; the ideal is k perfect results.",
    "edit_strict": "The same queries; the reference is taken out and the ideal is the best that this gallery holds.",
    "variant": "The same product in the color asked: only that very product counts. The reference is taken out.",
    "same_style": "Share of photos with another photo of their style among the k best (top-k accuracy, not recall).",
}


def save_bench(path: Path, engine: Engine, report: Mapping[str, Any], examples: Sequence[Example], topk: int) -> None:
    """The bench as a page: every protocol's table, then the best and the worst edit queries as pictures (.html)."""
    tables = []
    for part, note in _PARTS.items():
        reports = report[part]
        if not reports:
            continue
        metrics = list(next(iter(reports.values()))["metrics"])
        rows = [[method, *(each["metrics"][m] for m in metrics)] for method, each in reports.items()]
        first = next(iter(reports.values()))
        tables.append(
            Table(part.replace("_", " "), ["method", *metrics], rows, f"{note} {first['queries']:,} queries.")
        )
        if first.get("per_attribute"):
            shown = list(first["per_attribute"].values())[0]
            lines = [[name, *each.values()] for name, each in first["per_attribute"].items()]
            tables.append(Table(f"{part.replace('_', ' ')}, by attribute", ["attribute", *shown], lines))
    sections = []
    if examples:
        best, worst = examples[:SHOWN], examples[-SHOWN:][::-1]
        said = f"Edit queries with the highest strict NDCG@{topk}."
        sections.append(Section("Best queries", said, [_example(engine, e) for e in best]))
        sections.append(Section("Worst queries", "And with the lowest.", [_example(engine, e) for e in worst]))
    facts = report["facts"]
    shown_facts = {
        "gallery": f"{engine.gallery.path.name}, {facts['gallery']:,} photos",
        "asked": f"{facts['photos_asked']:,} photos",
        "model": f"{facts['model']['name']} {facts['model']['fingerprint']}",
        "index": str((facts["index"] or {}).get("kind")),
        "recall promised": f"{facts['promised_recall']:.2f}",
        "seed": str(facts["seed"]),
        "code": facts["code"],
    }
    save_report(path, "fsearch bench", shown_facts, tables, sections)


def _example(engine: Engine, example: Example) -> Row:
    known = engine.describe([example.row, *example.found])
    tiles = [Tile(engine.photo_of(hit), hit.id, _lines(hit.shown())) for hit in known]
    marks = ["hit" if right else "miss" for right in example.right]
    results = tuple(tile._replace(mark=mark) for tile, mark in zip(tiles[1:], marks, strict=True))
    old = known[0].attributes.get(example.attribute)
    words = f"{example.attribute}: {old} -> {example.value}"
    return Row(words, tiles[0]._replace(mark="query"), results, f"NDCG {example.ndcg:.2f}", (example.attribute,))
