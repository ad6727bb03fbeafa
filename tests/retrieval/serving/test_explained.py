"""Pictures of explanations: what is hot is seen, boxes lie where they should, sheets hold every part."""

from __future__ import annotations

import html
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.engine import Engine
from retrieval.explain.attribute import explain
from retrieval.models import checkpoint
from retrieval.serving import heat as pictures
from retrieval.serving.explained import save_explanations, summary, why_rows
from retrieval.serving.pages import save_result


def test_heat_is_seen_where_it_is() -> None:
    photo = Image.new("RGB", (60, 80), (120, 120, 120))
    heat = np.zeros((8, 6), np.float32)
    heat[1, 1] = 1
    shown = np.asarray(pictures.overlay(photo, heat), np.int16)
    assert shown.shape[:2] == (480, 360)
    colored = np.abs(shown[..., 0] - shown[..., 2])
    y, x = np.unravel_index(colored.argmax(), colored.shape)
    assert abs(y - 90) < 20
    assert abs(x - 90) < 20
    assert (colored[240:] == 0).all()  # cold places show the photo in gray


def test_a_box_is_drawn_in_the_photos_own_pixels() -> None:
    shown = np.asarray(pictures.boxed(Image.new("RGB", (60, 80), "white"), (15, 20, 45, 60), (60, 80)), np.int16)
    y, x = np.nonzero(np.abs(shown - (20, 235, 225)).sum(axis=2) < 30)
    assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((90, 269, 120, 359), abs=3)
    plain = Image.new("RGB", (60, 80), "white")
    assert np.asarray(pictures.boxed(plain, None, (60, 80))).min() == 255


def test_cells_and_bars() -> None:
    grid = np.asarray(pictures.cells(np.arange(49.0).reshape(7, 7)), np.int16)
    assert grid.shape == (476, 476, 3)
    assert grid[30, 30].sum() < grid[440, 440].sum()
    assert np.asarray(pictures.cells(np.zeros((7, 7)))).shape == (476, 476, 3)
    values = {f"value {i}": 0.05 for i in range(12)} | {"long": 0.3, "rare": 0.0}
    long = np.asarray(pictures.bars(values, "long"), np.int16)
    rare = np.asarray(pictures.bars(values, "rare"), np.int16)
    assert long.shape == rare.shape

    def blue(picture: np.ndarray) -> int:
        return int((np.abs(picture - (36, 86, 166)).sum(axis=2) < 20).sum())

    assert blue(long) == pytest.approx(0.3 * 447 * 15, rel=0.05)
    assert blue(rare) == 0
    pictures.bars({"\u8896\u53e3": 1.0}, "\u8896\u53e3")  # no letters of the built-in font


@pytest.mark.parametrize("ending", [".html", ".png"])
def test_an_explanation_is_saved_with_all_its_parts(
    ending: str, tiny_model: Path, garment_photos: Path, tmp_path: Path
) -> None:
    files = [garment_photos / "photos" / f"s0000{i}-0.jpg" for i in range(3)]
    found = explain(checkpoint.read(tiny_model), files, "sleeve")
    found[2] = replace(found[2], heat=found[2].heat * 0, box=None, peak=None)
    path = tmp_path / f"why{ending}"
    save_explanations(path, files, found, {"model": "tiny"})
    if ending == ".png":
        with Image.open(path) as picture:
            assert picture.width > 1000
        return
    page = html.unescape(path.read_text("utf-8"))
    for file, each in zip(files, found, strict=True):
        assert file.name in page
        assert f"sleeve: {each.value} ({each.probabilities[each.value]:.2f})" in page
    assert page.count("<img") == 15
    assert page.count(">7 x 7 under the box<") == 3
    assert page.count(">no place of the photo speaks for it<") == 1
    assert summary(files, found).count("\n") == 2
    assert summary(files, found).endswith("no place speaks for it")


def test_a_result_with_shares_is_saved_with_heat(engine: Engine, garment_photos: Path, tmp_path: Path) -> None:
    photo = garment_photos / "photos" / "s00002-1.jpg"
    for reference in (photo, "s00002-1"):
        asked = {"photo": reference} if isinstance(reference, Path) else {"like": reference}
        result = engine.query(**asked, set={"pattern": "striped"}, drop=["look"], topk=3, explain=True)
        save_result(tmp_path / "why.html", engine, result, reference)
        page = html.unescape((tmp_path / "why.html").read_text("utf-8"))
        rows = why_rows(engine, result, reference)
        assert len(rows) == 2
        assert rows[0].heading == "why: pattern"  # the edited block first
        for row in rows:
            assert row.heading in page
            assert isinstance(row.query.image, Image.Image)
            assert [tile.title for tile in row.results] == [hit.id for hit in result.hits]
            block = row.heading.removeprefix("why: ")
            assert block != "look"
            for tile, hit in zip(row.results, result.hits, strict=True):
                assert tile.lines == (f"{block}: {(hit.shares or {})[block]:.3f} of {hit.score:.3f}",)
        assert page.count("<img") == 12
        assert result.hits[0].why(2) in page
    plain = engine.query(photo, topk=3)
    assert why_rows(engine, plain, photo) == []


def test_heat_survives_a_photo_that_is_gone(
    engine: Engine, garment_photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = engine.query(like="s00002-1", topk=3, explain=True)
    real = engine.photo_path
    gone = result.hits[1].path
    monkeypatch.setattr(engine, "photo_path", lambda path: Path("/nowhere") if path == gone else real(path))
    for row in why_rows(engine, result, "s00002-1"):
        assert [tile.image is None for tile in row.results] == [False, True, False]


def test_pictures_are_the_same_every_time(tiny_model: Path, garment_photos: Path) -> None:
    photo = garment_photos / "photos" / "s00001-0.jpg"
    model = checkpoint.read(tiny_model)
    twice = []
    for _ in range(2):
        (each,) = explain(model, [photo], "color")
        out = io.BytesIO()
        pictures.overlay(Image.open(photo), each.heat, each.box, (each.width, each.height)).save(out, "PNG")
        twice.append(out.getvalue())
    assert twice[0] == twice[1]
