"""--box, --detect and fsearch detect as a person and a script meet them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from index.errors import InputError, MismatchError, PhotoError
from index.gallery import Gallery
from retrieval import catalogue
from retrieval.datasets.readers import open_photos
from retrieval.detection import model
from retrieval.detection.frame import Frame, best
from retrieval.engine import Engine
from retrieval.models import checkpoint
from retrieval.models.encode import encode_photos
from retrieval.photos import decode
from retrieval.serving.boxes import SIDE, draw_boxes
from tests.retrieval.detection.conftest import written
from tests.test_cli import refused, run

Trained = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="session")
def photo(garment_photos: Path) -> Path:
    return garment_photos / "photos" / "s00001-0.jpg"


# A box


def test_a_box_asks_for_the_part_of_the_photo_inside_it(
    engine: Engine, shop: Path, photo: Path, tmp_path: Path
) -> None:
    part = Image.open(photo).convert("RGB").crop((20, 30, 80, 110))
    part.save(tmp_path / "part.png")
    wanted = engine.query(tmp_path / "part.png", topk=5)
    for source in (photo, photo.read_bytes(), Image.open(photo)):
        assert engine.query(source, box=(20, 30, 60, 80), topk=5) == wanted
    assert wanted.hits != engine.query(photo, topk=5).hits
    result = run("query", photo, "--box", "20,30,60,80", "-k", 5, "-g", shop)
    head, *lines = result.stdout.splitlines()
    assert head == "box 20,30,60,80"
    assert [line.split()[1] for line in lines[1:]] == [hit.id for hit in wanted.hits]
    told = json.loads(run("query", photo, "--box", "20,30,60,80", "-k", 5, "-g", shop, "--json").stdout)
    assert told.pop("frame") == {"class": None, "score": None, "box": [20, 30, 60, 80]}
    assert told == json.loads(json.dumps(wanted.to_json()))


def test_what_of_a_box_lies_outside_is_left_off(shop: Path, photo: Path) -> None:
    width, height = Image.open(photo).size
    result = run("query", photo, "--box", f"-5,{height - 40},{width},90", "-g", shop)
    assert result.stdout.splitlines()[0] == f"box 0,{height - 40},{width - 5},40"


def test_boxes_that_cannot_be_asked(shop: Path, engine: Engine, photo: Path) -> None:
    size = "x".join(map(str, Image.open(photo).size)).replace("x", " x ")
    said = refused("query", photo, "--box", "4000,10,20,20", "-g", shop)
    assert said.startswith(f"fsearch: {photo}: box (4000, 10, 20, 20) holds nothing of {size} pixels; x, y, w, h lie")
    assert "holds nothing" in refused("query", photo, "--box", "10,10,0,20", "-g", shop)
    with pytest.raises(PhotoError, match=r"box \(0, -9, 5, 5\) holds nothing"):
        engine.query(photo, box=(0, -9, 5, 5))
    for words, usage in (
        (("--box", "1,2,3"), "'1,2,3' is no box: write x,y,w,h in pixels"),
        (("--box", "a,b,c,d"), "is no box"),
        (("--box", "1,2,3,4", "--detect"), "give one of them"),
        (("--detector", "d.safetensors"), "--detector FILE goes with --detect"),
    ):
        assert usage in refused("query", photo, "-g", shop, *words, code=2)
    assert "frames a PHOTO" in refused("query", "--like", "s00001-0", "--box", "1,2,3,4", "-g", shop, code=2)
    words = ("query", "--batch", "q.csv", "--out", "r.csv", "--box", "1,2,3,4")
    assert "boxes from the file's columns, not options" in refused(*words, code=2)


def test_the_sheet_shows_the_frame_on_the_photo(shop: Path, photo: Path, tmp_path: Path) -> None:
    for name in ("sheet.html", "sheet.png"):
        words = ("query", photo, "--box", "20,30,60,80", "-g", shop, "--save", tmp_path / name, "--explain")
        assert run(*words).exit_code == 0
        assert (tmp_path / name).stat().st_size > 10_000
    assert "box 20,30,60,80" in (tmp_path / "sheet.html").read_text("utf-8")
    drawn = draw_boxes(photo, [Frame((20, 30, 60, 80)), Frame((0, 0, 10, 10), "upper", 0.5)])
    scale = SIDE / max(Image.open(photo).size)
    first, second = (np.array(drawn.getpixel((round(x * scale), round(y * scale)))) for x, y in ((20, 70), (0, 8)))
    assert np.abs(first - (0xE6, 0x9F, 0)).max() < 3  # on the left side of each box, a color for each class
    assert np.abs(second - (0x56, 0xB4, 0xE9)).max() < 3


# A detector


def test_without_a_detector_the_command_that_makes_one_is_said(
    shop: Path, photo: Path, garment_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = "no detector 'detector.safetensors': train one: fsearch train-detector detector --photos STREET --out"
    assert wanted in refused("query", photo, "--detect", "-g", shop)
    assert wanted in refused("detect", photo)
    assert wanted in refused("build-index", garment_photos, "--detect", "-g", "new.gallery")
    assert list(tmp_path.iterdir()) == []


def test_a_query_by_the_best_garment(
    trained: Trained, shop: Path, street: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = trained
    detector = model.read(out)
    frames = {each: best(each, detector) for each in sorted((street / "photos").iterdir())}
    photo, frame = next((path, found) for path, found in frames.items() if found is not None)
    words = ("query", photo, "-g", shop, "-k", 4, "--detector", out, "--detect")
    result = run(*words)
    assert result.stdout.splitlines()[0] == frame.words()
    assert result.stderr == ""
    told = json.loads(run(*words, str(frame.kind).upper(), "--json").stdout)
    assert told["frame"] == frame.to_json()
    assert [hit["id"] for hit in told["hits"]] == [hit.id for hit in engine.query(photo, box=frame.box, topk=4).hits]
    assert "unknown class 'uper'; nearest: upper" in refused(*words, "uper")
    assert run(*words[:-3], "--detect", env={"FSEARCH_DETECTOR": str(out)}).stdout == result.stdout
    monkeypatch.setattr(model.Detector, "find", lambda *_: [])
    nothing = run(*words, "lower")
    assert nothing.stderr == (
        f"no garment of class lower found in {photo} (score above 0.1): the whole photo is searched\n"
    )
    assert nothing.stdout == run("query", photo, "-g", shop, "-k", 4).stdout


def test_a_batch_by_the_best_garments(
    trained: Trained, shop: Path, street: Path, engine: Engine, tmp_path: Path
) -> None:
    out, _ = trained
    detector, photos = model.read(out), sorted((street / "photos").iterdir())[:6]
    (tmp_path / "q.csv").write_text("photo\n" + "".join(f"{photo}\n" for photo in photos), encoding="utf-8")
    for words, kind in (((), None), (("upper",), "upper")):
        results = tmp_path / "r.parquet"
        batch = ("query", "--batch", tmp_path / "q.csv", "-g", shop, "-k", 2, "--out", results)
        assert run(*batch, "--detector", out, "--detect", *words).exit_code == 0
        rows, boxes = pq.read_table(results).to_pylist(), 0
        for number, photo in enumerate(photos):
            frame = best(photo, detector, kind)
            box = None if frame is None else frame.box
            mine = [(row["id"], row["box"]) for row in rows if row["query"] == number]
            noted = None if box is None else ",".join(map(str, box))
            assert mine == [(hit.id, noted) for hit in engine.query(photo, box=box, topk=2).hits]
            boxes += box is not None
        assert boxes
    assert "--detector FILE goes with --detect" in refused(*batch, "--detector", out, code=2)
    assert "unknown class 'uper'" in refused(*batch, "--detector", out, "--detect", "uper")


def test_detect(trained: Trained, street: Path, tmp_path: Path) -> None:
    out, _ = trained
    photo = street / "photos" / "00.png"
    result = run("detect", photo, "--detector", out, "--threshold", "0.05", "--save", tmp_path / "boxes.png")
    *lines, saved = result.stdout.splitlines()
    assert saved == f"saved {tmp_path / 'boxes.png'}"
    told = json.loads(run("detect", photo, "--detector", out, "--threshold", "0.05", "--json").stdout)
    assert told["photo"] == str(photo)
    assert [Frame(tuple(each["box"]), each["class"], each["score"]).words() for each in told["garments"]] == lines
    scores = [each["score"] for each in told["garments"]]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] >= 0.05
    assert max(Image.open(tmp_path / "boxes.png").size) == SIDE
    assert run("detect", photo, "--detector", out, "--threshold", "1").stdout == "no garment found\n"
    assert "no such file" in refused("detect", tmp_path / "none.jpg", "--detector", out)
    assert "can be saved as .png" in refused("detect", photo, "--detector", out, "--save", tmp_path / "b.html")


def test_train_detector(street: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.safetensors"
    config = written(tmp_path, training={"steps": 1, "batch": 1})
    told = json.loads(run("train-detector", config, "--photos", street, "--out", out).stdout)
    assert told["fingerprint"] == model.read(out).fingerprint
    assert set(told["validation"]) == {"photos", "map", "map50", "classes"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.safetensors", "tiny-detector.yaml"]
    assert "cannot be read as JSON" in refused("train-detector", config, "--photos", tmp_path, "--out", out)
    assert "is a folder" in refused("train-detector", config, "--photos", street, "--out", tmp_path)


# A gallery of crops


def test_a_gallery_of_crops(
    trained: Trained, street: Path, tiny_model: Path, build: Callable[..., Any], tmp_path: Path
) -> None:
    out, _ = trained
    photos, path = tmp_path / "photos", tmp_path / "g"
    shutil.copytree(street / "photos", photos)
    words = ("build-index", photos, "-g", path, "--model", tiny_model, "--detect", "--detector", out)
    assert run(*words).exit_code == 0
    assert "is up to date" in run(*words).stdout
    gallery, detector, network = Gallery.open(path), model.read(out), checkpoint.read(tiny_model)
    rows = gallery.columns(["id", "path", "width", "height", "box"]).to_pylist()
    assert [row["id"] for row in rows] == [f"{n:02d}.png" for n in range(24)]
    assert {(row["width"], row["height"]) for row in rows} == {(96, 128)}
    units = gallery.vectors(np.arange(24)).astype(np.float32)
    boxes, crops = 0, Engine.open(path)
    for row, unit, hit in zip(rows, units, crops.describe(range(24)), strict=True):
        frame = best(photos / row["path"], detector)
        assert row["box"] == (None if frame is None else ",".join(map(str, frame.box)))
        boxes += frame is not None
        part = Image.open(photos / row["path"]).convert("RGB")
        if frame is not None:
            left, top, width, height = frame.box
            part = part.crop((left, top, left + width, top + height))
        part.save(tmp_path / "part.png")
        shown = crops.photo_of(hit)
        assert shown is not None
        assert (np.asarray(decode(shown).image) == np.asarray(part)).all()  # what a tile shows
        assert encode_photos(network, [tmp_path / "part.png"]).units[0] == pytest.approx(unit, abs=0.002)
    assert boxes > 12
    assert json.loads(run("info", "-g", path, "--json").stdout)["crops by detector"] == detector.fingerprint
    with pytest.raises(MismatchError, match="was made with config"):
        build(photos, path, tiny_model)
    extra = tmp_path / "more"
    extra.mkdir()
    shutil.copy(photos / "03.png", extra / "new.png")
    source = open_photos(extra)
    with pytest.raises(MismatchError, match=f"holds crops by detector {detector.fingerprint}, this is none"):
        catalogue.add_photos(source, path)
    assert run("add", extra, "-g", path, "--detect", "--detector", out).exit_code == 0
    again = Gallery.open(path).columns(["id", "box"]).to_pylist()
    assert again[-1] == {"id": "new.png", "box": rows[3]["box"]}


def test_crops_and_whole_photos_do_not_mix(
    trained: Trained, copy: Path, street: Path, tiny_model: Path, build: Callable[..., Any], tmp_path: Path
) -> None:
    detector = model.read(trained[0])
    with pytest.raises(InputError, match="holds whole photos, not crops: add without --detect"):
        catalogue.add_photos(open_photos(street / "photos"), copy, detector=detector)
    (tmp_path / "labels.csv").write_text("id,box\n00,somewhere\n", encoding="utf-8")
    source = open_photos(street / "photos", tmp_path / "labels.csv")
    from retrieval.embed import build_gallery

    with pytest.raises(InputError, match="a column 'box' already"):
        build_gallery(source, tmp_path / "g", tiny_model, detector=detector)
    for words in (("--reindex",), (street, "--vectors", "v")):
        assert "--detect crops PHOTOS" in refused("build-index", *words, "--detect", code=2)
