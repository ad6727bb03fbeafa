"""Result sheets and the bench page: what an engine answered is what they show."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from index.errors import FsearchError
from retrieval.engine import Engine
from retrieval.evaluation import bench
from retrieval.serving.pages import bench_table, save_bench, save_result


def text_of(path: Path) -> str:
    page = re.sub(r"<style.*?</style>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


@pytest.mark.parametrize("by", ["photo", "id"])
def test_a_sheet_shows_the_query_the_edit_and_the_results_in_order(
    by: str, engine: Engine, garment_photos: Path, tmp_path: Path
) -> None:
    photo = garment_photos / "photos" / "s00004-1.jpg"
    asked: dict[str, Any] = {"photo": photo} if by == "photo" else {"like": "s00004-1"}
    result = engine.query(**asked, set={"color": "blue"}, topk=5)
    out = tmp_path / "sheet.html"
    save_result(out, engine, result, photo if by == "photo" else "s00004-1")
    said = text_of(out)
    start = said.index("s00004-1") + 9  # the query itself comes first
    places = [said.index(hit.id, start) for hit in result.hits]
    assert places == sorted(places)
    assert f"color: {result.edits[0].old} → blue" in said
    for hit in result.hits:
        assert f"{hit.score:.3f}" in said
    page = out.read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 6
    assert "photo not shown" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_picture_and_results_without_photos(engine: Engine, tmp_path: Path) -> None:
    result = engine.query(like="s00004-1", topk=3)
    save_result(tmp_path / "sheet.png", engine, result, "s00004-1")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size > (600, 300)
    engine = Engine(engine.gallery)
    empty = engine.query(like="s00004-1", where=["style=none"])
    save_result(tmp_path / "empty.html", engine, empty, "s00004-1")
    assert "more like this" in text_of(tmp_path / "empty.html")


def test_photos_that_are_gone_are_said_to_be(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "photo_path", lambda self, path: tmp_path / path)
    save_result(tmp_path / "sheet.html", engine, engine.query(like="s00004-1", topk=2), "s00004-1")
    assert (tmp_path / "sheet.html").read_text(encoding="utf-8").count("photo not shown: no such file") == 3


def test_another_ending_is_refused(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(FsearchError, match="can be saved as .html or .png"):
        save_result(tmp_path / "sheet.pdf", engine, engine.query(like="s00004-1", topk=2), "s00004-1")
    assert list(tmp_path.iterdir()) == []


def test_the_bench_as_text_and_as_a_page(engine: Engine, tmp_path: Path) -> None:
    report, examples = bench.run(engine, 4, queries=40, variant="style")
    table = bench_table(report, 4).splitlines()
    head = re.split(r"\s{2,}", table[0].strip())
    assert head == [
        "hit@4 published", "ndcg@30 published", "hit@4 strict", "ndcg@30 strict", "same style top-4"
    ]  # fmt: skip
    cells = {line[:24].strip(): line[24:].split() for line in table[1:-1]}
    assert set(cells) == {*bench.METHODS, "image only, exact"}
    assert cells["edit"][2] == f"{report['edit_strict']['edit']['metrics']['hit@4']:.3f}"
    assert cells["image only"][4] == f"{report['same_style']['image only']['metrics']['same_style@4']:.3f}"
    assert table[-1].startswith("120 photos; 40 edit published queries, 40 edit strict queries, 40 same style queries")
    save_bench(tmp_path / "bench.html", engine, report, examples, 4)
    said = text_of(tmp_path / "bench.html")
    assert "Best queries" in said
    assert "Worst queries" in said
    for method in bench.METHODS:
        assert method in said
    best = examples[0]
    name = engine.describe([best.row])[0].id
    assert said.index(name) < said.index("Worst queries")
    assert f"NDCG {best.ndcg:.2f}" in said
    assert report["facts"]["model"]["fingerprint"] in said
