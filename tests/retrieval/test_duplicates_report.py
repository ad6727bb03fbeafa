"""The report on near-duplicates: its groups against all pairs of the gallery, its files against the report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from index.errors import FsearchError, InputError
from index.gallery import Gallery
from retrieval import duplicates
from retrieval.datasets.garments import generate
from retrieval.engine import Engine
from retrieval.serving.duplicates import save_groups, save_pairs, summary


@pytest.fixture(scope="module")
def doubled(tmp_path_factory: Any, build: Any, tiny_model: Path) -> Engine:
    """A gallery of 24 photos, two of them twice as the same file and one again as another file."""
    folder = generate(tmp_path_factory.mktemp("doubled") / "garments", 24, seed=5)
    photos = sorted((folder / "photos").iterdir())
    for place, name in ((0, "copy-a"), (0, "copy-b"), (5, "copy-c")):
        (folder / "photos" / f"{name}.jpg").write_bytes(photos[place].read_bytes())
    Image.open(photos[9]).save(folder / "photos" / "again.png")
    (folder / "labels.csv").unlink()
    build(folder / "photos", folder.parent / "g", tiny_model)
    return Engine(Gallery.open(folder.parent / "g"))


def test_groups_hold_what_a_chain_of_pairs_joins(engine: Engine, oracle: SimpleNamespace) -> None:
    weights = engine.weights({"color": 2})
    scale = engine.layout.scale(weights)
    units = engine.layout.units(oracle.units)[0].astype(np.float64)
    scores = (units * scale) @ units.T / sum(weights.values())
    threshold = float(np.sort(scores[np.triu_indices(120, 1)])[-60]) - 1e-6
    report = duplicates.find(engine, threshold, {"color": 2})
    expected = {(a, b) for a in range(120) for b in range(a + 1, 120) if scores[a, b] >= threshold}
    row_of = {row["id"]: number for number, row in enumerate(oracle.rows)}
    pairs = [pair for group in report.groups for pair in group.pairs]
    assert {(row_of[pair.id], row_of[pair.other]) for pair in pairs} == expected
    assert len(pairs) == len(expected) >= 60
    for group in report.groups:
        assert {key for pair in group.pairs for key in pair[:2]} == set(group.ids)
        assert [row_of[key] for key in group.ids] == list(group.rows)
        counts = [sum(key in pair[:2] for pair in group.pairs) for key in group.ids]
        assert counts[0] == max(counts)
        np.testing.assert_allclose(group.scores, scores[group.rows[0], group.rows], atol=1e-6)
        assert list(group.scores[1:]) == sorted(group.scores[1:], reverse=True)
        assert not any(group.copy)
    sizes = [len(group.ids) for group in report.groups]
    assert sizes == sorted(sizes, reverse=True)
    assert len({key for group in report.groups for key in group.ids}) == sum(sizes)
    assert report.spare == sum(sizes) - len(sizes)


def test_the_same_file_is_told_from_the_same_photo(doubled: Engine) -> None:
    report = duplicates.find(doubled, 0.99)
    groups = {tuple(sorted(group.ids)): group for group in report.groups}
    same = {frozenset(pair[:2]): pair.exact for group in report.groups for pair in group.pairs}
    copied = next(group for ids, group in groups.items() if "copy-a.jpg" in ids)
    assert len([1 for ids in groups if {"copy-a.jpg", "copy-b.jpg"} <= set(ids)]) == 1
    assert sum(copied.copy) == 2
    assert copied.copy[0] is False
    assert report.copies == 3
    assert sum(same.values()) == 3
    assert [exact for pair, exact in same.items() if "again.png" in pair] == [False]


@pytest.mark.parametrize("ending", ["csv", "PARQUET", "json"])
def test_the_files_hold_the_pairs(doubled: Engine, ending: str, tmp_path: Path) -> None:
    report, out = duplicates.find(doubled, 0.9), tmp_path / f"pairs.{ending}"
    save_pairs(out, report)
    expected = [(n, *pair) for n, group in enumerate(report.groups, 1) for pair in group.pairs]
    if ending == "json":
        content = json.loads(out.read_text("utf-8"))
        got = [(n, *pair.values()) for n, group in enumerate(content["groups"], 1) for pair in group["pairs"]]
        assert [group["ids"] for group in content["groups"]] == [list(group.ids) for group in report.groups]
        assert (content["photos"], content["threshold"]) == (28, 0.9)
    else:
        rows = (pacsv.read_csv(out) if ending == "csv" else pq.read_table(out)).to_pylist()
        got = [tuple(row.values()) for row in rows]
    assert [line[:3] + line[4:] for line in got] == [line[:3] + line[4:] for line in expected]
    assert [line[3] for line in got] == pytest.approx([line[3] for line in expected], abs=1e-6)
    with pytest.raises(FsearchError, match="can be saved as .csv or .parquet or .json"):
        save_pairs(tmp_path / "pairs.txt", report)


def test_the_summary_and_the_page(doubled: Engine, tmp_path: Path) -> None:
    report = duplicates.find(doubled, 0.99)
    head, *groups = summary(report).splitlines()
    assert f"of 28 photos: {report.spare} beyond one each, 3 of them the very same file (threshold 0.99)" in head
    assert re.fullmatch(r" +\d+ photos: .*", groups[0])
    save_groups(tmp_path / "page.html", doubled, report)
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") == sum(len(group.ids) for group in report.groups)
    assert page.count("the same</strong>") == 3
    assert page.count('<span class="word">first</span>') == len(report.groups)
    assert 'class="rank"' not in page
    assert "query" not in re.sub(r"(?s)<style.*?</style>|class=\"[^\"]*\"", "", page)
    save_groups(tmp_path / "page.png", doubled, report)
    with Image.open(tmp_path / "page.png") as image:
        assert image.size > (600, 300)
    empty = duplicates.find(doubled, 0.99, {"look": 1e-6, "color": 1e6})
    assert empty.weights["color"] == 1.5e6


def test_what_cannot_be_asked(engine: Engine) -> None:
    for threshold in (0.0, -1.0, 1.01, float("nan")):
        with pytest.raises(InputError, match="above 0 and at most 1"):
            duplicates.find(engine, threshold)
    with pytest.raises(InputError, match="every block has weight 0"):
        duplicates.find(engine, weight=dict.fromkeys(engine.layout.names, 0.0))
