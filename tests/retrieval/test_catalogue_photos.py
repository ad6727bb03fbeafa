"""Photos added to a gallery, replaced and removed: what answers, what is counted, and what an interruption leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from cli import main
from index import catalogue as rows
from index.errors import InputError, MismatchError
from index.gallery import Gallery, leftovers, remains, verify
from retrieval import catalogue, embed
from retrieval.datasets.readers import PhotoSource, open_photos
from retrieval.engine import Engine
from retrieval.evaluation import bench
from retrieval.serving.pages import save_result
from tests.conftest import files_of, table_of

FIRST = 80


@pytest.fixture(scope="module")
def halves(garment_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The drawn photos in two labelled folders, of 80 and 40."""
    folder = tmp_path_factory.mktemp("halves")
    paths = sorted((garment_photos / "photos").iterdir())
    for name, some in (("first", paths[:FIRST]), ("second", paths[FIRST:])):
        (folder / name / "photos").mkdir(parents=True)
        for path in some:
            shutil.copy2(path, folder / name / "photos")
        shutil.copy(garment_photos / "labels.csv", folder / name / "labels.csv")
    return folder / "first", folder / "second"


@pytest.fixture
def first(halves: tuple[Path, Path], tiny_model: Path, build: Callable[..., Any], tmp_path: Path) -> Path:
    """A gallery of the first folder."""
    return build(halves[0], tmp_path / "gallery", tiny_model).gallery.path


def add(folder: Path, gallery: Path, **options: Any) -> catalogue.Added:
    return catalogue.add_photos(open_photos(folder), gallery, **{"rows_per_part": 16} | options)


def answers(engine: Engine, photo: Path, **options: Any) -> list[tuple[str, float, Any]]:
    hits = engine.query(photo, set={"color": "gray"}, topk=12, **options).hits
    return [(hit.id, round(hit.score, 3), sorted(hit.attributes.items(), key=str)) for hit in hits]


def test_a_gallery_that_grew_answers_as_one_built_at_once(
    first: Path, halves: tuple[Path, Path], shop: Path, engine: Engine, garment_photos: Path
) -> None:
    change = add(halves[1], first)
    assert (change.added, change.removed) == (40, 0)
    assert verify(first) == []
    assert leftovers(first) == []
    photo = garment_photos / "photos" / "s00029-1.jpg"
    grown = Engine.open(first)
    assert answers(grown, photo) == answers(engine, photo)
    assert answers(grown, photo, where=["domain=shop"]) == answers(engine, photo, where=["domain=shop"])
    assert grown.query(like="s00029-1", topk=3).hits[0].id == engine.query(like="s00029-1", topk=3).hits[0].id
    assert grown.query(photo, topk=1).hits[0].id == "s00029-1"
    assert grown.info()["photos"] == 120
    assert grown.info()["changes"] == "40 added, 0 removed"
    assert grown.info()["index"]["rows behind it"] == 40
    known = {row["id"]: row for row in Gallery.open(shop).columns().to_pylist()}
    for row in Gallery.open(first).columns().to_pylist():
        assert {**known[row["id"]], "path": row["path"]} == row
        assert Path(grown.photo_path(row["path"]) or "").is_file()  # absolute for what lies in another folder
    report, _ = bench.run(grown, 4, queries=300)
    expected, _ = bench.run(engine, 4, queries=300)
    assert report["facts"]["gallery"] == expected["facts"]["gallery"] == 120
    assert report["edit_strict"]["edit"]["metrics"] == pytest.approx(
        expected["edit_strict"]["edit"]["metrics"], abs=0.02
    )


def test_what_was_removed_is_nowhere(first: Path, halves: tuple[Path, Path], tmp_path: Path) -> None:
    add(halves[1], first)
    gone = [f"s{i:05d}-{j}" for i in range(3, 9) for j in range(4)]
    assert rows.remove(first, gone).removed == len(gone)
    engine = Engine.open(first)
    photo = halves[0] / "photos" / "s00004-1.jpg"
    for exact in (False, True):
        prepared = engine.prepare([catalogue_request(photo, where) for where in ("", "domain=shop", "id=s00004-1")])
        found = [row for hits, _ in engine.search(prepared, 200, exact=exact) for row in hits]
        assert {hit.id for hit in engine.describe(found)}.isdisjoint(gone)
    assert not engine.query(photo, where=["id=s00004-1"]).hits
    report, examples = bench.run(engine, 4, queries=300, holdout=0.5)
    assert report["facts"]["gallery"] == 96
    assert report["edit_strict"]["edit"]["gallery"] == 96
    seen = {row for each in examples for row in (each.row, *each.found)}
    assert {hit.id for hit in engine.describe(sorted(seen))}.isdisjoint(gone)
    whole = bench.run(engine, 4)[0]
    rows.compact(first)
    again = bench.run(Engine.open(first), 4)[0]
    for part in ("edit_published", "edit_strict", "same_style", "variant"):
        for method, judged in whole[part].items():
            assert again[part][method]["metrics"] == pytest.approx(judged["metrics"], abs=1e-9), (part, method)
    assert verify(first) == []


def catalogue_request(photo: Path, where: str) -> Any:
    from retrieval.query import Request

    return Request(photo=photo, where=(where,) if where else ())


def test_a_photo_that_is_added_again_is_replaced(first: Path, halves: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "again"
    (folder / "photos").mkdir(parents=True)
    shutil.copy(halves[0] / "photos" / "s00002-1.jpg", folder / "photos" / "s00001-0.jpg")
    (folder / "labels.csv").write_text("id,color\ns00001-0,purple\n", encoding="utf-8")
    change = add(folder, first)
    assert (change.added, change.removed) == (1, 1)
    engine = Engine.open(first)
    (hit,) = engine.query(halves[0] / "photos" / "s00002-1.jpg", where=["id=s00001-0"]).hits
    assert hit.score == pytest.approx(1, abs=1e-3)
    assert hit.attributes["color"] == "purple"
    assert hit.attributes["style"] is None
    assert engine.query(like="s00001-0", topk=1).hits[0].id == "s00002-1"
    sheet = tmp_path / "sheet.html"
    save_result(sheet, engine, engine.query(like="s00001-0"), "s00001-0")
    assert "80 photos" in sheet.read_text()


def test_a_reader_answers_photos_after_a_replacement(
    first: Path, halves: tuple[Path, Path], garment_photos: Path, tiny_model: Path, other_model: Path, build: Any
) -> None:
    photo = halves[0] / "photos" / "s00002-1.jpg"
    expected = answers(Engine.open(first), photo)
    reader = Engine.open(first)  # has not loaded its model yet
    build(garment_photos, first, other_model, replace=True)
    assert answers(reader, photo) == expected
    assert Gallery.open(first).manifest.photos == 120


def test_an_interrupted_addition_goes_on(
    first: Path, halves: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (first / "gallery.json").read_bytes()
    encode, calls = embed.encode, []

    def stop_at_third(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(embed, "encode", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        add(halves[1], first)
    assert (first / "gallery.json").read_bytes() == before
    assert verify(first) == []
    assert rows.remove(first, ["s00000-0"]).removed == 1  # leaves what was embedded
    assert add(halves[1], first).added == 40
    assert len(calls) == 4  # two before, the third again
    manifest = Gallery.open(first).manifest
    calls.clear()
    again = add(halves[1], first)
    assert (again.added, again.gallery.manifest) == (0, manifest)
    assert not calls
    assert {f"table/{part.name}" for part in manifest.parts} == {f for f in files_of(first) if f.startswith("table/")}


def test_an_addition_does_not_go_on_with_a_replacement(
    first: Path, halves: tuple[Path, Path], tiny_model: Path, build: Callable[..., Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "plain"  # the same listing for both; labels are columns of the gallery alone
    folder.mkdir()
    for name in ("s00025-0.jpg", "s00025-1.jpg"):
        shutil.copy(halves[1] / "photos" / name, folder)
    with monkeypatch.context() as patch:
        patch.setattr(embed, "build_generation", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(folder, first, tiny_model, replace=True)
    assert {each.partition(": ")[0] for each in remains(first)} > {str(first / "building.json")}
    assert verify(first) == []
    assert add(folder, first).added == 2
    assert verify(first) == []
    assert remains(first) == []
    assert Gallery.open(first).columns(["color"]).num_rows == FIRST + 2


def test_parts_that_another_command_left_are_made_anew(
    first: Path, halves: tuple[Path, Path], tiny_model: Path, build: Callable[..., Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """An unfinished replacement and an unfinished addition have parts of the same photos under the same numbers."""
    plain = halves[1] / "photos"  # without labels
    other = Path(shutil.copytree(first, tmp_path / "other"))

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    expected = add(plain, Path(shutil.copytree(first, tmp_path / "added")), rows_per_part=32).gallery
    with monkeypatch.context() as patch:
        patch.setattr(embed, "build_generation", stop)
        with pytest.raises(KeyboardInterrupt):
            build(plain, first, tiny_model, replace=True)
    assert len(list((first / "table").iterdir())) == 3 + 2
    assert add(plain, first, rows_per_part=32).added == 40
    assert table_of(first).equals(table_of(expected.path))
    assert verify(first) == []
    assert rows.compact(first).gallery.manifest.photos == 120

    anew = build(plain, tmp_path / "anew", tiny_model).gallery
    with monkeypatch.context() as patch:
        patch.setattr(rows, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            add(plain, other, rows_per_part=32)
    assert len(list((other / "table").iterdir())) == 3 + 2
    replaced = build(plain, other, tiny_model, replace=True).gallery
    assert table_of(other).equals(table_of(anew.path))
    assert replaced.manifest.labels == []
    assert verify(other) == []


def test_what_cannot_be_added_is_listed_and_replaces_nothing(
    first: Path, halves: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "s00001-0.jpg").write_bytes(b"nothing")
    before = files_of(first)
    with pytest.raises(InputError, match="none of 1 photos can be read"):
        add(folder, first)
    assert files_of(first) == before
    shutil.copy(halves[1] / "photos" / "s00025-0.jpg", folder / "new.jpg")
    (tmp_path / "labels.csv").write_text("id,colour\nnew,red\n", encoding="utf-8")
    with pytest.raises(InputError, match="no label column 'colour' in .*; nearest: color"):
        catalogue.add_photos(open_photos(folder, tmp_path / "labels.csv"), first)
    (tmp_path / "labels.csv").write_text("id,color\nnew,red\ns00001-0,red\n", encoding="utf-8")
    source: PhotoSource = open_photos(folder, tmp_path / "labels.csv")
    count = Gallery.open(first).manifest.rejected
    change = catalogue.add_photos(source, first)
    assert (change.added, change.removed, change.rejected) == (1, 0, 1)
    assert change.reasons.startswith("1 not an image of a known format")
    manifest = change.gallery.manifest
    listed = pq.read_table(embed.rejected_path(change.gallery))
    assert manifest.rejected == count + 1 == listed.num_rows
    assert Gallery.open(first).row_of("s00001-0") == 4
    assert verify(first) == []
    shutil.copy(halves[1] / "photos" / "s00025-1.jpg", folder / "s00001-0.jpg")
    assert catalogue.add_photos(open_photos(folder, tmp_path / "labels.csv"), first).gallery.manifest.rejected == count


def test_a_changed_gallery_is_not_built_over(
    first: Path, halves: tuple[Path, Path], garment_photos: Path, tiny_model: Path, build: Callable[..., Any]
) -> None:
    rows.remove(first, ["s00000-0"])
    add(halves[1], first)
    before = (first / "gallery.json").read_bytes()
    for folder in (halves[0], garment_photos):
        with pytest.raises(MismatchError, match=r"was changed since it was built \(40 photos added, 1 removed\)"):
            build(folder, first, tiny_model)
    assert (first / "gallery.json").read_bytes() == before
    part = Gallery.open(first).part_paths[-1]
    part.write_bytes(part.read_bytes()[:-1])
    (fault,) = verify(first)
    assert "restore it, or run `fsearch build-index" in fault
    assert "--replace" in fault
    fresh = build(garment_photos, first, tiny_model, replace=True).gallery
    assert (fresh.manifest.photos, fresh.manifest.removed, fresh.manifest.changes.added) == (120, 0, 0)
    assert files_of(first) == {str(each.relative_to(first)) for each in fresh.named_files()} | {"gallery.json"}


def test_a_reindex_keeps_what_was_added_and_removed(first: Path, halves: tuple[Path, Path]) -> None:
    add(halves[1], first)
    rows.remove(first, ["s00000-0"])
    gallery = embed.reindex(first)
    manifest = gallery.manifest
    assert (manifest.photos, manifest.rows, manifest.indexed) == (119, 120, 120)
    assert Engine.open(first).query(halves[0] / "photos" / "s00000-0.jpg", topk=1).hits[0].id != "s00000-0"
    assert verify(first) == []


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(each) for each in words])
    assert result.exit_code == code, result.output
    return result.output


def test_the_commands(first: Path, halves: tuple[Path, Path], tmp_path: Path) -> None:
    said = run("add", halves[1], "-g", first)
    assert said.splitlines()[0].startswith("40 added, 0 of them in place of old ones: 120 photos, 64 dimensions, exact")
    assert run("add", halves[1], "-g", first).startswith("nothing new: 120 photos")
    assert run("remove", "s00001-0", "s00001-1", "-g", first).startswith("2 removed: 118 photos")
    said = run("remove", "s00001-0", "-g", first, code=1)
    assert said.startswith("fsearch: no id 's00001-0'")
    assert "nearest: s0" in said
    assert len(said.splitlines()) == 1
    (tmp_path / "ids.txt").write_text("s00002-0\n\ns00002-1\n", encoding="utf-8")
    (tmp_path / "ids.csv").write_text("id,why\ns00003-0,sold\n", encoding="utf-8")
    (tmp_path / "none.txt").write_text("\n", encoding="utf-8")
    assert run("remove", "--ids", tmp_path / "ids.txt", "-g", first).startswith("2 removed: 116 photos")
    assert run("remove", "--ids", tmp_path / "ids.csv", "-g", first).startswith("1 removed: 115 photos")
    assert "no ids in it" in run("remove", "--ids", tmp_path / "none.txt", "-g", first, code=1)
    assert "cannot be read" in run("remove", "--ids", tmp_path / "no.txt", "-g", first, code=1)
    assert "removed rows         5" in run("info", "-g", first)
    assert run("compact", "-g", first).startswith("5 rows dropped: 115 photos")
    assert run("verify", "-g", first) == f"{first} is sound\n"
    assert Gallery.open(first).vectors(np.array([114])).shape == (1, 64)
