"""The bench's figures against slow loops over a ranking made by brute force from the stored vectors."""

from __future__ import annotations

import itertools
import json
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from index.errors import InputError, UnknownNameError
from retrieval.datasets.splits import held_out
from retrieval.engine import Engine
from retrieval.evaluation import bench
from retrieval.models import memory

WEIGHTS = {"look": 1.0, "category": 1.0, "color": 1.5, "pattern": 1.0, "sleeve": 1.0}
EDITED = 2.0
NAMES = ("category", "color", "pattern", "sleeve")
ALL = 10**6


class Slow:
    """Rankings by the formulas of the design, one query at a time."""

    def __init__(self, oracle: SimpleNamespace) -> None:
        self.rows, self.units, self.norms = oracle.rows, oracle.units, oracle.norms
        self.layout = oracle.gallery.manifest.layout
        self.memory = memory.read(oracle.gallery.file("memory.safetensors"))

    def ranking(self, row: int, attribute: str | None = None, value: str = "", allowed: Any = None) -> list[int]:
        scores = np.zeros(len(self.rows))
        for i, block in enumerate(self.layout.blocks):
            span, weight = slice(block.start, block.stop), WEIGHTS[block.name]
            f = self.units[row, span] * self.norms[row, i]
            if block.name == attribute:
                columns = self.memory.matrix[self.memory.rows(attribute)]
                f = f + columns[:, self.memory.column(attribute, value)]
                old = self.rows[row][attribute] or self.rows[row][f"predicted_{attribute}"]
                f = f - columns[:, self.memory.column(attribute, old)]
                weight *= EDITED
            scores += weight * (self.units[:, span] @ (f / np.linalg.norm(f)))
        order = np.argsort(-scores, kind="stable").tolist()
        return [each for each in order if allowed is None or each in allowed]

    def edits(self) -> list[tuple[int, str, str, tuple[str, ...]]]:
        """Every valid edit of the published protocol: (row, attribute, value, target labels)."""
        held = {tuple(row[name] for name in NAMES) for row in self.rows}
        values = {name: sorted({row[name] for row in self.rows if row[name]}) for name in NAMES}
        found = []
        for number, row in enumerate(self.rows):
            labels = tuple(row[name] for name in NAMES)
            if None in labels:
                continue
            for (at, name), value in ((pair, v) for pair in enumerate(NAMES) for v in values[pair[1]]):
                target = (*labels[:at], value, *labels[at + 1 :])
                if value != labels[at] and target in held:
                    found.append((number, name, value, target))
        return found


@pytest.fixture(scope="module")
def slow(oracle: SimpleNamespace) -> Slow:
    return Slow(oracle)


@pytest.fixture(scope="module")
def judged(engine: Engine) -> tuple[dict[str, Any], list[bench.Example]]:
    return bench.run(engine, 4, queries=ALL)


def test_edit_retrieval_against_a_loop(judged: Any, slow: Slow) -> None:
    report = judged[0]
    edits = slow.edits()
    assert len(edits) > 20
    labels = [tuple(row[name] for name in NAMES) for row in slow.rows]
    for method in bench.METHODS:
        hits = {(rule, k): [] for rule in ("published", "strict") for k in (4, 10)}
        ndcg: list[float] = []
        for row, attribute, value, target in edits:
            edited = (attribute, value) if method.startswith("edit") else (None, "")
            allowed = None
            if method == "image + label filter":
                allowed = {i for i, each in enumerate(slow.rows) if each[attribute] == value}
            elif method == "edit + predicted filter":
                allowed = {i for i, each in enumerate(slow.rows) if each[f"predicted_{attribute}"] == value}
            order = slow.ranking(row, *edited, allowed=allowed)
            without = [each for each in order if each != row]
            for k in (4, 10):
                hits["published", k].append(any(labels[each] == target for each in order[:k]))
                hits["strict", k].append(any(labels[each] == target for each in without[:k]))
            share = [sum(a == b for a, b in zip(labels[each], target, strict=True)) / 4 for each in order[:30]]
            gained = sum((2**s - 1) / np.log2(rank + 2) for rank, s in enumerate(share))
            ndcg.append(gained / sum(1 / np.log2(rank + 2) for rank in range(30)))
        for (rule, k), found in hits.items():
            got = report[f"edit_{rule}"][method]
            assert got["queries"] == len(edits)
            # one query may turn on a tie of float16 vectors
            assert got["metrics"][f"hit@{k}"] == pytest.approx(np.mean(found), abs=1.5 / len(edits)), (method, rule, k)
        got = report["edit_published"][method]
        assert got["metrics"]["ndcg@30"] == pytest.approx(np.mean(ndcg), abs=2e-3), method


def test_same_style_and_variants_against_a_loop(judged: Any, slow: Slow) -> None:
    report, rows = judged[0], slow.rows
    asked = [i for i, row in enumerate(rows) if sum(each["style"] == row["style"] for each in rows) > 1]
    right = []
    for row in asked:
        order = [each for each in slow.ranking(row) if each != row][:4]
        right.append(any(rows[each]["style"] == rows[row]["style"] for each in order))
    for method in ("image only", "image only, exact"):
        got = report["same_style"][method]
        assert got["queries"] == len(asked) == 120
        assert got["metrics"]["same_style@4"] == pytest.approx(np.mean(right), abs=1.5 / len(asked))
    assert report["facts"]["variant_attribute"] == "color"
    queries = []
    for row, value in itertools.product(range(120), sorted({each["color"] for each in rows})):
        group = rows[row]["variant_group"]
        same = [i for i in range(120) if group and rows[i]["variant_group"] == group and rows[i]["color"] == value]
        if same and value != rows[row]["color"]:
            queries.append((row, value, same))
    assert len(queries) > 10
    found = []
    for row, value, same in queries:
        order = [each for each in slow.ranking(row, "color", value) if each != row][:10]
        found.append(any(each in same for each in order))
    got = report["variant"]["edit"]
    assert got["queries"] == len(queries)
    assert got["metrics"]["variant_hit@10"] == pytest.approx(np.mean(found), abs=1.5 / len(queries))


def test_the_index_and_exact_search_agree_where_the_index_is_exact(judged: Any) -> None:
    report = judged[0]
    for part in ("edit_published", "edit_strict", "variant"):
        assert report[part]["edit"]["metrics"] == report[part]["edit, exact"]["metrics"]


def test_examples_run_from_best_to_worst(judged: Any, slow: Slow) -> None:
    examples = judged[1]
    assert len(examples) == len(slow.edits())
    assert [each.ndcg for each in examples] == sorted((each.ndcg for each in examples), reverse=True)
    for each in (*examples[:5], *examples[-5:]):
        assert len(each.found) == 4
        assert each.row not in each.found
        target = [each.value if n == each.attribute else slow.rows[each.row][n] for n in NAMES]
        assert each.right == [[slow.rows[row][n] for n in NAMES] == target for row in each.found]


def test_a_report_says_what_its_numbers_depend_on(judged: Any, engine: Engine) -> None:
    report = json.loads(json.dumps(judged[0]))
    facts, manifest = report["facts"], engine.gallery.manifest
    assert facts["seed"] == 0
    assert facts["config"] == manifest.config_fingerprint
    assert facts["data"] == manifest.source["fingerprint"]
    assert facts["model"]["fingerprint"] == manifest.model["fingerprint"]
    assert facts["code"] == f"fsearch {metadata.version('fsearch')}"
    assert facts["k"] == [4, 10, 30]
    assert facts["gallery"] == facts["photos_asked"] == 120
    assert facts["promised_recall"] == 1.0
    assert facts["index"]["kind"] == "exact"


def test_the_seed_draws_the_queries(engine: Engine) -> None:
    first, again, other = (bench.run(engine, 4, queries=15, seed=seed)[1] for seed in (1, 1, 2))
    assert first == again
    assert len(first) == 15
    assert {(e.row, e.attribute, e.value) for e in first} != {(e.row, e.attribute, e.value) for e in other}


def test_a_holdout_asks_whole_groups_of_the_validation_split_only(engine: Engine, oracle: SimpleNamespace) -> None:
    report, examples = bench.run(engine, 4, queries=ALL, holdout=0.4)
    groups = [row["variant_group"] or row["style"] for row in oracle.rows]
    held = held_out(groups, [row["id"] for row in oracle.rows], 0.4)
    assert 0 < held.sum() < 120
    assert report["facts"]["photos_asked"] == held.sum()
    assert report["facts"]["gallery"] == 120
    assert {each.row for each in examples} <= set(np.flatnonzero(held))
    whole = bench.run(engine, 4, queries=ALL)[1]
    assert {(e.row, e.attribute, e.value) for e in examples} == {
        (e.row, e.attribute, e.value) for e in whole if held[e.row]
    }


def test_columns_are_chosen_by_name(engine: Engine) -> None:
    report, _ = bench.run(engine, 4, queries=10, style="domain")
    assert report["same_style"]["image only"]["metrics"]["same_style@30"] == 1.0
    with pytest.raises(UnknownNameError, match="no column 'styl'"):
        bench.run(engine, 4, queries=10, style="styl")


def test_a_gallery_without_labels_is_one_line(tiny_model: Any, garment_photos: Any, build: Any, tmp_path: Any) -> None:
    build(garment_photos / "photos", tmp_path / "g", tiny_model)
    with pytest.raises(InputError, match="no labels of the model's attributes") as caught:
        bench.run(Engine.open(tmp_path / "g"), 4)
    assert "\n" not in str(caught.value)
