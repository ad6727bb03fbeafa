"""Queries from a file: each line against the same query asked alone, and what is wrong with some of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from index.errors import InputError
from retrieval.engine import Engine
from retrieval.serving import batch
from retrieval.serving.batch import run_batch

ROWS: list[dict[str, Any]] = [
    {"id": "s00000-0", "set": "color=gray; sleeve=long", "from": "color=white"},
    {"id": "s00099-0"},  # no such row
    {"photo": "near/a.jpg", "where": "domain=shop;color!=black"},
    {"photo": "near/none.jpg"},
    {"id": "s00001-1", "weight": "color=2;look=0.5", "drop": "pattern; sleeve"},
    {"id": "s00001-1", "set": "colr=gray"},
    {},
    {"id": "s00001-1", "photo": "near/a.jpg"},
    {"id": "s00002-0", "weight": "color=-1"},
    {"id": "s00002-0", "where": "style=nothing"},  # answers nothing: no row, and no error
    {"id": "s00002-0", "set": "color"},
    {"photo": "near/bad.jpg", "set": "color=blue"},
    {"id": "s00003-0"},
    {"id": "s00003-0", "exclude": "s00003-1; s00003-2", "one_per": "style", "min_score": "0.1"},
    {"id": "s00003-0", "min_score": "high"},
    {"id": "s00003-0", "exclude": "s00099-0"},
]
ERRORS = {
    1: "no id 's00099-0'", 3: "none.jpg: no such file", 5: "unknown attribute 'colr'; nearest: color",
    6: "give either an id or a photo", 7: "give either an id or a photo", 8: "a weight is 0, or from 0.000001 to",
    10: "write NAME=VALUE", 11: "bad.jpg: not an image", 14: "the score must be a number",
    15: "no id 's00099-0'",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, garment_photos: Path) -> Path:
    (tmp_path / "near").mkdir()
    shutil.copy(garment_photos / "photos" / "s00005-2.jpg", tmp_path / "near" / "a.jpg")
    (tmp_path / "near" / "bad.jpg").write_text("x")
    names = [name for name in batch.COLUMNS if name != "box"]
    columns = {name: pa.array([row.get(name) for row in ROWS], pa.string()) for name in names}
    pq.write_table(pa.table(columns), tmp_path / "queries.parquet")
    pacsv.write_csv(pa.table(columns), tmp_path / "queries.csv")
    return tmp_path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    options = pacsv.ConvertOptions(
        column_types={f.name: f.type for f in batch.SCHEMA}, strings_can_be_null=True, null_values=[""]
    )
    return pacsv.read_csv(path, convert_options=options).to_pylist()


@pytest.mark.parametrize("queries", ["queries.csv", "queries.parquet"])
@pytest.mark.parametrize("out", ["out.csv", "out.PARQUET"])
def test_each_line_answers_as_it_does_alone(
    queries: str, out: str, folder: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "AT_ONCE", 5)  # several batches
    target = folder / out
    done, failed = run_batch(engine, folder / queries, target, 6)
    assert (done, failed) == (len(ROWS) - len(ERRORS), len(ERRORS))
    if out.endswith("PARQUET"):
        assert pq.read_schema(target).equals(batch.SCHEMA)
        rows = pq.read_table(target).to_pylist()
    else:
        rows = read(target)
    assert [row["query"] for row in rows] == sorted(row["query"] for row in rows)
    for number, asked in enumerate(ROWS):
        mine = [row for row in rows if row["query"] == number]
        if number in ERRORS:
            assert [(row["rank"], row["id"], row["score"]) for row in mine] == [(0, None, None)]
            assert ERRORS[number] in mine[0]["error"]
            continue
        pairs = {
            name: dict(p.strip().split("=") for p in asked.get(name, "").split(";") if p)
            for name in ("set", "from", "weight")
        }
        alone = engine.query(
            folder / asked["photo"] if "photo" in asked else None,
            like=asked.get("id"), set=pairs["set"], old=pairs["from"],
            weight={name: float(value) for name, value in pairs["weight"].items()},
            drop=[name.strip() for name in asked.get("drop", "").split(";") if name],
            where=[asked["where"]] if "where" in asked else [], topk=6,
            exclude=[name.strip() for name in asked.get("exclude", "").split(";") if name],
            one_per=asked.get("one_per"), min_score=float(asked["min_score"]) if "min_score" in asked else None,
        )  # fmt: skip
        assert [row["rank"] for row in mine] == [hit.rank for hit in alone.hits]
        assert [row["id"] for row in mine] == [hit.id for hit in alone.hits]
        assert [row["score"] for row in mine] == pytest.approx([hit.score for hit in alone.hits], abs=1e-4)
        assert {row["error"] for row in mine} <= {None}
    assert [row["query"] for row in rows].count(9) == 0


def test_a_part_of_the_photo_by_a_box_or_by_what_is_found(folder: Path, engine: Engine) -> None:
    (folder / "q.csv").write_text(
        'photo,id,box\nnear/a.jpg,,"20,30,40,50"\nnear/a.jpg,,\nnear/bad.jpg,,\n,s00002-0,\n,s00002-0,"1,2,3,4"\n'
        'near/a.jpg,,"1,2"\nnear/a.jpg,,"900,0,5,5"\n',
        encoding="utf-8",
    )
    photo, seen = folder / "near" / "a.jpg", []

    def find(path: Path) -> tuple[int, int, int, int] | None:
        seen.append(path.name)
        return (0, 0, 60, 70) if path == photo else None

    for found, second in ((find, (0, 0, 60, 70)), (None, None)):
        assert run_batch(engine, folder / "q.csv", folder / "out.csv", 3, find=found) == (3, 4)
        rows = pacsv.read_csv(folder / "out.csv").to_pylist()
        for number, box in ((0, (20, 30, 40, 50)), (1, second)):
            mine = [row for row in rows if row["query"] == number]
            assert [row["id"] for row in mine] == [hit.id for hit in engine.query(photo, box=box, topk=3).hits]
            assert {row["box"] for row in mine} == {"" if box is None else ",".join(map(str, box))}
        errors = {row["query"]: row["error"] for row in rows if row["rank"] == 0}
        for number, said in (
            (2, "bad.jpg: not an image"), (4, "a box is of a photo"), (5, "'1,2' is no box"), (6, "holds nothing of"),
        ):  # fmt: skip
            assert said in errors[number]
    assert seen == ["a.jpg", "bad.jpg"]  # not where a box is given, nor for a row of the gallery


@pytest.mark.parametrize(
    ("content", "out", "said"),
    [
        ("id,colour\ns00000-0,gray\n", "out.csv", "unknown column colour; known: id, photo, set"),
        ("set\ncolor=gray\n", "out.csv", "no column id, photo or text; it has set"),
        ("id\ns00000-0\n", "out.json", "written as .csv or .parquet"),
        ("id\n", "out.csv", "no rows"),
        ("", "out.csv", "not a readable CSV"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_whole(
    content: str, out: str, said: str, engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "q.csv").write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        run_batch(engine, tmp_path / "q.csv", tmp_path / out, 3)
    assert said in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["q.csv"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_interrupted_it_leaves_the_old_results(
    ending: str, folder: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder / f"out.{ending}"
    run_batch(engine, folder / "queries.csv", out, 2)
    before, names = out.read_bytes(), sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr(batch, "AT_ONCE", 5)
    answers, calls = batch._answers, []

    def stop(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answers(*arguments)

    monkeypatch.setattr(batch, "_answers", stop)
    with pytest.raises(KeyboardInterrupt):
        run_batch(engine, folder / "queries.csv", out, 5)
    assert out.read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == names
