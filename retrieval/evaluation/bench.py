"""The bench: every protocol on one labelled gallery, through the engine that users query, beside baselines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from index.errors import InputError
from index.filters import equals
from index.gallery import Gallery
from index.table import PREDICTED
from retrieval.datasets.splits import held_out
from retrieval.evaluation import protocols
from retrieval.evaluation.metrics import pad_rows
from retrieval.photos import Source

Rows = npt.NDArray[np.int64]
STYLES = ("style", "variant_group")  # label columns that may hold style ids, best first
VARIANTS = ("variant_group",)
AT_ONCE = 256

EDIT = "edit"
METHODS = {
    EDIT: "the edited query, through the index",
    "edit, exact": "the edited query, exact search instead of the index",
    "image only": "the photo as it is, no edit",
    "image + label filter": "no edit, hard filter on the true label of the asked value",
    "edit + predicted filter": "the edited query, hard filter on the predicted value",
}


class Query(NamedTuple):
    """A gallery row (or a photo), edited, under a filter ("": none)."""

    row: int | Source
    edit: Mapping[str, str]
    where: str = ""


class Searcher(Protocol):
    """What the bench needs of ``retrieval.engine.Engine``."""

    gallery: Gallery

    def rank(
        self,
        likes: Sequence[int | Source],
        sets: Sequence[Mapping[str, str]],
        wheres: Sequence[str],
        topk: int,
        recall: float | None = None,
        exact: bool = False,
    ) -> list[Rows]: ...

    def promised(self, topk: int, recall: float | None = None) -> float: ...


@dataclass(frozen=True)
class Labelled:
    """The label side of a gallery: ids, ``codes`` (N, A) in the model's vocabulary (-1: blank or never learned)."""

    ids: list[str]
    attributes: list[str]
    values: list[list[str]]
    codes: npt.NDArray[np.int32]

    @classmethod
    def of(cls, gallery: Gallery) -> Labelled:
        """Attributes of the model that the gallery has labels for; InputError when there is none."""
        manifest = gallery.manifest
        names = [name for name in manifest.attributes if name in manifest.labels]
        if not names:
            wanted = ", ".join(manifest.attributes) or "none"
            raise InputError(
                f"{gallery.path}: no labels of the model's attributes ({wanted}) to judge by: "
                "build the gallery with --labels that has such columns"
            )
        columns = gallery.columns(["id", *names]).to_pydict()
        codes = np.full((manifest.rows, len(names)), -1, np.int32)
        for i, name in enumerate(names):
            code = {value: number for number, value in enumerate(manifest.attributes[name])}
            codes[:, i] = [code.get(value, -1) for value in columns[name]]
        return cls(columns["id"], names, [list(manifest.attributes[name]) for name in names], codes)


@dataclass(frozen=True)
class Example:
    """One edit query and its answers, for the page: rows of the gallery, best first, and which match the target."""

    row: int
    attribute: str
    value: str
    found: list[int]
    right: list[bool]
    ndcg: float


def run(
    engine: Searcher,
    topk: int = 4,
    *,
    style: str | None = None,
    variant: str | None = None,
    holdout: float | None = None,
    queries: int = 3000,
    recall: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> tuple[dict[str, Any], list[Example]]:
    """Judge a labelled gallery; returns the report (JSON values) and the edit queries ranked from best to worst.

    topk: the k of the headline; 10 and 30 are reported beside it. style, variant: label columns with style ids and with
    ids that join one product's colors (default: by name, skipped where absent). holdout: ask only photos whose style
    falls into that share of the validation split (as training held it out); the gallery is always the whole gallery.
    queries: at most so many for each protocol, drawn with ``seed``.
    """
    labelled = Labelled.of(engine.gallery)
    manifest = engine.gallery.manifest
    ks = sorted({topk, 10, 30})
    every = engine.gallery.live()  # codes and columns hold removed rows too, which are never looked at
    styles = _column(engine.gallery, style, STYLES)
    variants = _column(engine.gallery, variant, VARIANTS)
    asked = every
    if holdout is not None:
        blank: list[str | None] = [None] * manifest.rows
        groups = [product or look for product, look in zip(variants or blank, styles or blank, strict=True)]
        asked = every[held_out(groups, labelled.ids, holdout)[every]]
    sizes = [len(values) for values in labelled.values]
    edits = protocols.edit_queries(labelled.codes, asked, every, sizes, queries, seed)
    jobs = Jobs(engine, max(ks) + 1, recall, progress)

    def ask(row: int, attribute: str, value: str) -> dict[str, Query]:
        edit = {attribute: value}
        return {
            EDIT: Query(row, edit),
            "edit, exact": Query(row, edit),
            "image only": Query(row, {}),
            "image + label filter": Query(row, {}, equals(attribute, value)),
            "edit + predicted filter": Query(row, edit, equals(PREDICTED + attribute, value)),
        }

    report: dict[str, Any] = {"edit_published": {}, "edit_strict": {}, "same_style": {}, "variant": {}}
    wanted = [
        ask(int(r), labelled.attributes[a], labelled.values[a][v])
        for r, a, v in zip(edits.row, edits.attribute, edits.value, strict=True)
    ]
    examples: list[Example] = []
    for method in METHODS if wanted else ():
        rows = jobs.run(method, [each[method] for each in wanted], "edit")
        for rule in ("published", "strict"):
            report[f"edit_{rule}"][method] = protocols.score_edits(
                labelled.codes, edits, rows, every, ks, labelled.attributes, rule
            )
        if method == EDIT:
            examples = _examples(labelled, edits, rows, every, topk)
    if styles is not None:
        reference = protocols.style_queries(styles, asked, every, queries, seed)
        likes = [Query(int(row), {}) for row in reference]
        for method in ("image only", "image only, exact") if likes else ():
            rows = jobs.run(method, likes, "same style")
            report["same_style"][method] = protocols.score_styles(styles, reference, rows, ks, seed)
    color = _color(every, labelled, variants)
    if variants is not None and color is not None:
        at = labelled.attributes.index(color)
        asking = protocols.variant_queries(variants, labelled.codes[:, at], asked, every, queries, seed)
        wanted = [ask(int(r), color, labelled.values[at][c]) for r, c in zip(asking.row, asking.color, strict=True)]
        for method in METHODS if wanted else ():
            rows = jobs.run(method, [each[method] for each in wanted], "variant")
            report["variant"][method] = protocols.score_variants(asking, rows, ks)
    if not any(report.values()):
        raise InputError(
            f"{engine.gallery.path}: nothing to judge: no edit has an answer, no style two photos; add labelled photos"
        )
    facts = {
        "gallery": len(every),
        "photos_asked": len(asked),
        "holdout": holdout,
        "k": ks,
        "seed": seed,
        "model": manifest.model,
        "config": manifest.config_fingerprint,
        "data": manifest.source["fingerprint"],
        "index": manifest.current.recipe if manifest.current else None,
        "promised_recall": engine.promised(max(ks) + 1, recall),
        "variant_attribute": color,
        "code": manifest.created_by,
        "queries_per_second": {name: round(count / max(spent, 1e-9), 1) for name, (count, spent) in jobs.speed.items()},
    }
    return {"facts": facts} | report, examples


class Jobs:
    """Sends queries through the engine in batches, and remembers how fast each method went."""

    def __init__(self, engine: Searcher, k: int, recall: float | None, progress: bool) -> None:
        self.engine, self.k, self.recall, self.progress = engine, k, recall, progress
        self.speed: dict[str, tuple[int, float]] = {}

    def run(self, method: str, queries: Sequence[Query], what: str) -> Rows:
        """Result rows (n, k), -1 where a query has fewer."""
        exact = method.endswith("exact")
        found: list[Rows] = []
        label = f"{what}: {method}"
        with tqdm(total=len(queries), desc=label, unit="query", disable=None if self.progress else True) as bar:
            # queries of one filter side by side share a search
            order = sorted(range(len(queries)), key=lambda i: queries[i].where)
            self._ask([queries[i] for i in order[:1]], exact)  # what is loaded at the first query is not its speed
            start = time.perf_counter()
            for at in range(0, len(order), AT_ONCE):
                found += self._ask([queries[i] for i in order[at : at + AT_ONCE]], exact)
                bar.update(len(found) - bar.n)
            self.speed[label] = (len(queries), time.perf_counter() - start)
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pad_rows([found[i] for i in back], self.k)

    def _ask(self, queries: Sequence[Query], exact: bool) -> list[Rows]:
        likes, edits, wheres = zip(*queries, strict=True)
        return self.engine.rank(likes, edits, wheres, self.k, self.recall, exact)


def _column(gallery: Gallery, name: str | None, usual: Sequence[str]) -> list[str | None] | None:
    """A label column by name, else the first usual one that the gallery has, else None."""
    if name is None:
        held = gallery.manifest  # a model's attribute of such a name (DeepFashion has one, style) holds no ids
        name = next((each for each in usual if each in held.labels and each not in held.attributes), None)
    return None if name is None else gallery.columns([name])[name].to_pylist()


def _color(every: Rows, labelled: Labelled, variants: Sequence[str | None] | None) -> str | None:
    """The attribute in which photos of one variant group differ most often: what a variant is asked by."""
    if variants is None:
        return None
    group = protocols.group_codes(variants)
    rows = every[np.argsort(group[every], kind="stable")]
    rows = rows[group[rows] >= 0]
    pair = group[rows[1:]] == group[rows[:-1]]
    a, b = labelled.codes[rows[1:][pair]], labelled.codes[rows[:-1][pair]]
    differ = ((a != b) & (a >= 0) & (b >= 0)).sum(axis=0)
    return labelled.attributes[int(differ.argmax())] if len(differ) and differ.max() else None


def _examples(labelled: Labelled, edits: protocols.EditQueries, rows: Rows, every: Rows, topk: int) -> list[Example]:
    ndcg = protocols.edit_values(labelled.codes, edits, rows, every, [topk], "strict")[f"ndcg@{topk}"]
    examples = []
    for i in np.argsort(-ndcg, kind="stable"):
        found = [int(row) for row in rows[i] if row >= 0 and row != edits.row[i]][:topk]
        right = [bool((labelled.codes[row] == edits.target[i]).all()) for row in found]
        attribute = int(edits.attribute[i])
        value = labelled.values[attribute][int(edits.value[i])]
        examples.append(Example(int(edits.row[i]), labelled.attributes[attribute], value, found, right, float(ndcg[i])))
    return examples


def headline(report: dict[str, Any], topk: int) -> list[tuple[str, Callable[[str], float | None]]]:
    """The columns of the printed table: name and a function from method to figure (None: not measured)."""

    def figure(part: str, metric: str) -> Callable[[str], float | None]:
        return lambda method: report[part].get(method, {}).get("metrics", {}).get(metric)

    columns = [
        (f"hit@{topk} published", figure("edit_published", f"hit@{topk}")),
        ("ndcg@30 published", figure("edit_published", "ndcg@30")),
        (f"hit@{topk} strict", figure("edit_strict", f"hit@{topk}")),
        ("ndcg@30 strict", figure("edit_strict", "ndcg@30")),
        (f"variant hit@{topk}", figure("variant", f"variant_hit@{topk}")),
        ("variant hit@10", figure("variant", "variant_hit@10")),
        (f"same style top-{topk}", figure("same_style", f"same_style@{topk}")),
    ]
    return [(name, get) for name, get in columns if any(get(m) is not None for m in (*METHODS, "image only, exact"))]
