"""Published benchmarks by their own rules, through the engine that users query: ``fsearch bench --protocol``.

The gallery holds the photos of a data set as its reader lists them (``retrieval.datasets.benchmarks``), and its label
columns say which photo is a query and which may be an answer. A filter keeps the answers to the benchmark's partition,
so a gallery of everything serves as well as one of that partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from index.errors import InputError
from index.filters import equals
from retrieval.datasets import onehot
from retrieval.datasets.records import Cropped
from retrieval.evaluation import protocols, support
from retrieval.evaluation.bench import EDIT, Jobs, Query, Rows, Searcher
from retrieval.evaluation.protocols import EditQueries, ItemQueries, Report

PROTOCOLS = ("in-shop", "consumer-to-shop", "alisc", "edit")
DEPTHS = (1, 10, 20, 30, 50)  # the curves of Liu et al., CVPR 2016, read at these k
CHALLENGE = 20  # results a query that the challenge asks for
IMAGE, EXACT = "image only", "image only, exact"
ASKED = {"in-shop": {"split": "query"}, "consumer-to-shop": {"split": "test", "domain": "consumer"}}
FILED = {"in-shop": {"split": "gallery"}, "consumer-to-shop": {"split": "test", "domain": "shop"}}


def run(
    engine: Searcher,
    protocol: str,
    topk: int = 4,
    *,
    queries: int | None = None,
    recall: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """The report (JSON values): ``facts``, then one report a method; for edits by both rules, as in ``bench.run``.

    topk: a k beside the benchmark's own (ALISC has but one). queries: at most so many, drawn with ``seed``; default
    all, as the benchmarks say. InputError where the gallery was not built of the data set.
    """
    if protocol == "edit":
        return _edits(engine, topk, queries, recall, seed, progress)
    ks = [CHALLENGE] if protocol == "alisc" else sorted({topk, *DEPTHS})
    if protocol == "alisc":
        asked, likes, where = _listed(engine, queries, seed)
    else:
        items = _columns(engine, protocol, ["item"])["item"]
        whole, gallery = (_rows(engine, protocol, part[protocol]) for part in (ASKED, FILED))
        asked = protocols.item_queries(items, whole, gallery, queries, seed)
        likes = [int(row) for row in asked.row]
        where = " and ".join(equals(name, value) for name, value in FILED[protocol].items())
    _refuse_none(engine, protocol, asked)
    jobs = Jobs(engine, max(ks), recall, progress)
    report: dict[str, Any] = {}
    for method in (IMAGE, EXACT):
        rows = jobs.run(method, [Query(like, {}, where) for like in likes], protocol)
        report[method] = protocols.score_items(asked, rows, ks, "map" if protocol == "alisc" else "accuracy", protocol)
    return {"facts": _facts(engine, protocol, ks, recall, seed, len(asked.gallery), jobs), protocol: report}


def table(report: dict[str, Any]) -> str:
    """A report as text: a line for each method, a column for each metric and rule."""
    parts = {name: part for name, part in report.items() if name != "facts"}
    heads = [
        (part, metric, f"{metric} {part.removeprefix('edit_')}" if part.startswith("edit_") else metric)
        for part, methods in parts.items()
        for metric in next(iter(methods.values()))["metrics"]
        if metric.split("@")[0] in ("accuracy", "map", "hit", "ndcg")
    ]
    methods = list(next(iter(parts.values())))
    width = max(map(len, methods))
    lines = [" ".ljust(width) + "".join(f"  {head:>6}" for _, _, head in heads)]
    for method in methods:
        cells = ((parts[part][method]["metrics"][metric], max(len(head), 6)) for part, metric, head in heads)
        lines.append(method.ljust(width) + "".join(f"  {value:>{space}.3f}" for value, space in cells))
    facts, first = report["facts"], next(iter(next(iter(parts.values())).values()))
    left = {name: count for name, count in facts["left_out"].items() if count}
    said = "".join(f"; {count:,} {name.replace('_', ' ')}" for name, count in left.items())
    lines.append(
        f"{facts['gallery']:,} photos in the gallery, {first['queries']:,} queries; "
        f"recall promised {facts['promised_recall']:.2f}{said}"
    )
    return "\n".join(lines)


def _listed(engine: Searcher, at_most: int | None, seed: int) -> tuple[ItemQueries, list[Any], str]:
    """ALISC: the queries, each as its photo inside its box (the whole row where it has none), and the filter."""
    gallery, where = _rows(engine, "alisc", {"split": "gallery"}), equals("split", "gallery")
    asked = _rows(engine, "alisc", {"split": "query"})
    columns = _columns(engine, "alisc", ["imgid", "answers", "box", "path"])
    row_of = {columns["imgid"][row]: int(row) for row in gallery}
    answers: list[list[int]] = []
    absent = engine.gallery.manifest.rows  # right answers that the gallery lacks count, as rows that are never found
    for row in asked:
        wanted = [imgid for imgid in (columns["answers"][row] or "").split(";") if imgid]
        answers.append([row_of.get(imgid, absent + place) for place, imgid in enumerate(wanted)])
    queries = protocols.listed_queries(answers, asked, gallery, at_most, seed)
    root = Path(engine.gallery.manifest.source["path"])
    boxes = [columns["box"][row] for row in queries.row]
    likes = [
        Cropped.of(root / columns["path"][row], box) if box else int(row)
        for row, box in zip(queries.row, boxes, strict=True)
    ]
    return queries, likes, where


def _edits(
    engine: Searcher, topk: int, at_most: int | None, recall: float | None, seed: int, progress: bool
) -> dict[str, Any]:
    """The queries of a published split, read from the folder that was indexed."""
    folder = Path(engine.gallery.manifest.source["path"])
    split = support.read_split(folder)
    named = onehot.names_of(split.sizes)
    names, known = list(named), engine.gallery.manifest.attributes
    if unknown := [name for name in names if name not in known]:
        raise InputError(
            f"{engine.gallery.path}: its model has no attribute {', '.join(unknown[:3])} of the split in {folder}: "
            "train one on that folder and build the gallery with it (docs/benchmarks.md)"
        )
    place = {path: number for number, path in enumerate(split.test.photos)}
    ids = engine.gallery.columns(["id"])["id"].to_pylist()
    at = {place[ids[row]]: int(row) for row in engine.gallery.live() if ids[row] in place}
    back = np.full(engine.gallery.manifest.rows, -1, np.int64)  # gallery row -> line of the split's test part
    back[list(at.values())] = list(at)
    whole = split.queries
    held = np.flatnonzero(np.isin(whole.row, list(at)))
    kept = held[protocols.thin(whole.attribute[held], at_most, seed)]
    queries = EditQueries(
        whole.row[kept], whole.attribute[kept], whole.value[kept], whole.target[kept], whole.valid, 0, seed
    )
    values = [named[names[a]][v] for a, v in zip(queries.attribute, queries.value, strict=True)]
    learned = np.array(
        [value in known[names[a]] for a, value in zip(queries.attribute, values, strict=True)], bool
    )  # what the model never saw cannot be asked for, and counts as missed
    ks, where = sorted({topk, 10, 30}), equals("split", "test")
    jobs = Jobs(engine, max(ks) + 1, recall, progress)
    report: dict[str, Any] = {"edit_published": {}, "edit_strict": {}}
    for method in (EDIT, "edit, exact", IMAGE):
        asked = [
            Query(at[int(row)], {} if method == IMAGE else {names[a]: value}, where)
            for row, a, value in zip(queries.row, queries.attribute, values, strict=True)
        ]
        able = np.ones(len(asked), bool) if method == IMAGE else learned
        rows = np.full((len(asked), jobs.k), -1, np.int64)
        if able.any():
            found = jobs.run(method, [query for query, right in zip(asked, able, strict=True) if right], "edit")
            rows[able] = np.where(found >= 0, back[found], -1)
        for rule in ("published", "strict"):
            report[f"edit_{rule}"][method] = protocols.score_edits(
                split.test.labels, queries, rows, np.array(sorted(at), np.int64), ks, names, rule
            )
    facts = _facts(engine, "edit", ks, recall, seed, len(at), jobs)
    facts["left_out"] = {
        "test_photos_not_in_the_gallery": len(split.test.photos) - len(at),
        "queries_whose_reference_is_not_in_the_gallery": len(whole.row) - len(held),
        "queries_for_values_the_model_never_learned": int((~learned).sum()),
    }
    lacks = split.test.labels[queries.row, queries.attribute] < 0
    facts["references_without_the_attribute"] = int(lacks.sum())
    return {"facts": facts} | report


def _facts(
    engine: Searcher, protocol: str, ks: Sequence[int], recall: float | None, seed: int, gallery: int, jobs: Jobs
) -> Report:
    manifest = engine.gallery.manifest
    return {
        "protocol": protocol,
        "gallery": gallery,
        "k": list(ks),
        "seed": seed,
        "model": manifest.model,
        "config": manifest.config_fingerprint,
        "data": manifest.source["fingerprint"],
        "index": manifest.current.recipe if manifest.current else None,
        "promised_recall": engine.promised(jobs.k, recall),
        "code": manifest.created_by,
        "queries_per_second": {name: round(count / max(spent, 1e-9), 1) for name, (count, spent) in jobs.speed.items()},
        "left_out": {},
    }


def _columns(engine: Searcher, protocol: str, names: Sequence[str]) -> dict[str, list[Any]]:
    """Label columns of all rows; InputError where the gallery was built of something else."""
    held = engine.gallery.manifest.labels
    if missing := [name for name in names if name not in held and name != "path"]:
        raise InputError(
            f"{engine.gallery.path}: no label {', '.join(missing)}, which {protocol} is judged by: build the gallery "
            "of the data set's own folder (docs/benchmarks.md)"
        )
    return dict(engine.gallery.columns(list(names)).to_pydict())


def _rows(engine: Searcher, protocol: str, wanted: dict[str, str]) -> Rows:
    """The live rows whose labels are as wanted, ascending."""
    columns = _columns(engine, protocol, list(wanted))
    right = np.ones(engine.gallery.manifest.rows, bool)
    for name, value in wanted.items():
        right &= np.array([cell == value for cell in columns[name]], bool)
    return np.array([row for row in engine.gallery.live() if right[row]], np.int64)


def _refuse_none(engine: Searcher, protocol: str, asked: ItemQueries) -> None:
    for what, rows in (("a query", asked.row), ("in the gallery", asked.gallery)):
        if not len(rows):
            raise InputError(
                f"{engine.gallery.path}: none of its photos is {what} of {protocol}: build the gallery of the data "
                "set's own folder (docs/benchmarks.md)"
            )
