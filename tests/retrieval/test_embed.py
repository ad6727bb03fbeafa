"""Photos -> table -> gallery: against one photo at a time, what is kept, rejected and refused."""

from __future__ import annotations

import csv
import hashlib
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from index.errors import FsearchError, GalleryError, InputError, MismatchError, ModelError
from index.files import only_writer
from index.gallery import Gallery, leftovers, verify
from retrieval import embed
from retrieval.datasets.readers import open_photos
from retrieval.models import checkpoint
from retrieval.models.encode import encode_photos
from tests.conftest import files_of, sums


def test_the_table_holds_each_photo_as_it_is_embedded_alone(
    garment_photos: Path, tiny_model: Path, oracle: SimpleNamespace
) -> None:
    model = checkpoint.read(tiny_model)
    with open(garment_photos / "labels.csv", encoding="utf-8") as file:
        labels = {row["id"]: row for row in csv.DictReader(file)}
    assert [row["id"] for row in oracle.rows] == sorted(labels)
    for number, row in enumerate(oracle.rows):
        path = garment_photos / row["path"]
        assert row["content_hash"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (row["width"], row["height"]) == Image.open(path).size
        assert {name: row[name] or "" for name in labels[row["id"]]} == labels[row["id"]]
        if number % 10 == 0:
            alone = encode_photos(model, [path])
            np.testing.assert_allclose(oracle.units[number], alone.units[0], atol=1e-3)
            np.testing.assert_allclose(oracle.norms[number], alone.norms[0], rtol=1e-3)
            for name, values in alone.predicted.items():
                assert row[f"predicted_{name}"] == values[0]


def test_builds_and_reindexing_of_one_gallery_wait_for_each_other(
    garment_photos: Path, tiny_model: Path, shop: Path, build: Callable[..., Any], tmp_path: Path
) -> None:
    gallery = Path(shutil.copytree(shop, tmp_path / "shop"))
    before = sums(gallery)
    with only_writer(gallery):
        for work in (lambda: build(garment_photos, gallery, tiny_model), lambda: embed.reindex(gallery)):
            with pytest.raises(GalleryError, match="another process is writing it"):
                work()
    assert sums(gallery) == before
    assert not build(garment_photos, gallery, tiny_model).fresh


def test_a_build_is_deterministic_and_sound(
    garment_photos: Path, tiny_model: Path, shop: Path, build: Callable[..., Any], tmp_path: Path
) -> None:
    again = build(garment_photos, tmp_path / "again", tiny_model)
    assert again.fresh
    assert again.rejected == 0
    assert sums(again.gallery.path) == sums(shop)
    assert verify(shop) == []
    assert leftovers(shop) == []
    generation = {f"gen-000001/{name}" for name in Gallery.open(shop).manifest.generations[0].files}
    parts = {f"table/part-{i:05d}.parquet" for i in range(4)}
    beside = {"gallery.json", "model.safetensors", "memory.safetensors", "rejected.parquet"}
    assert files_of(shop) == parts | generation | beside


def test_an_up_to_date_gallery_is_left_alone(
    garment_photos: Path, tiny_model: Path, build: Callable[..., Any], copy: Path
) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in copy.rglob("*")}
    assert not build(garment_photos, copy, tiny_model).fresh
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in copy.rglob("*")}


@pytest.fixture
def mixed(garment_photos: Path, tmp_path: Path) -> Path:
    """Three good photos among what is none, with labels that name a photo that is not there."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    good = sorted((garment_photos / "photos").iterdir())[:3]
    for i, path in enumerate(good):
        shutil.copy(path, folder / f"{i}good.jpg")
    (folder / "0empty.jpg").write_bytes(b"")
    (folder / "1cut.jpg").write_bytes(good[0].read_bytes()[:1500])
    (folder / "2text.png").write_text("not a picture")
    (tmp_path / "labels.csv").write_text("id,color\n0good,red\n2good, \n1cut,blue\ngone,red\n", encoding="utf-8")
    return folder


def test_what_cannot_be_read_is_listed_with_its_reason(mixed: Path, tiny_model: Path, tmp_path: Path) -> None:
    source = open_photos(mixed, tmp_path / "labels.csv")
    built = embed.build_gallery(source, tmp_path / "g", tiny_model, rows_per_part=2)
    table = built.gallery.columns(["id", "color"]).to_pydict()
    assert table == {"id": ["0good", "1good", "2good"], "color": ["red", None, None]}
    listed = pq.read_table(embed.rejected_path(built.gallery)).to_pylist()
    assert built.rejected == built.gallery.manifest.rejected == len(listed) == 4
    assert [(row["id"], row["path"]) for row in listed] == [
        ("0empty", "0empty.jpg"), ("1cut", "1cut.jpg"), ("2text", "2text.png"), ("gone", ""),
    ]  # fmt: skip
    assert [row["reason"].split(" (")[0] for row in listed] == [
        "empty file", "truncated", "not an image of a known format", "labelled, but no photo",
    ]  # fmt: skip
    assert embed.rejected_reasons(built.gallery, 1).endswith(", ...")
    assert "1 empty file" in embed.rejected_reasons(built.gallery)
    assert verify(built.gallery.path) == []


def test_kept_parts_remember_what_they_rejected(
    mixed: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_photos(mixed)
    whole = embed.build_gallery(source, tmp_path / "whole", tiny_model, rows_per_part=2)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embed, "build_generation", stop)
        with pytest.raises(KeyboardInterrupt):
            embed.build_gallery(source, tmp_path / "g", tiny_model, rows_per_part=2)
    monkeypatch.setattr(embed, "encode", stop)  # nothing is left to embed
    again = embed.build_gallery(source, tmp_path / "g", tiny_model, rows_per_part=2)
    assert sums(again.gallery.path) == sums(whole.gallery.path)
    assert again.gallery.manifest.files["rejected.parquet"] == whole.gallery.manifest.files["rejected.parquet"]


def test_no_readable_photo_is_one_line_and_leaves_nothing(tiny_model: Path, copy: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    for i in range(3):
        (bad / f"{i}.jpg").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"none of 3 photos can be read \(0\.jpg: not an image") as caught:
        embed.build_gallery(open_photos(bad), tmp_path / "g", tiny_model, rows_per_part=2)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "g").exists()
    before = files_of(copy)
    with pytest.raises(InputError, match="none of 3"):
        embed.build_gallery(open_photos(bad), copy, tiny_model, replace=True, rows_per_part=2)
    assert files_of(copy) == before
    assert verify(copy) == []


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "no photos in it"),
        (lambda folder: folder.write_text("x"), "neither a folder nor"),
    ],
)
def test_a_folder_without_photos_is_refused(make: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    make(tmp_path / "photos")
    with pytest.raises(InputError, match=said):
        open_photos(tmp_path / "photos")


def test_bytes_in_a_parquet_embed_as_files_do(
    garment_photos: Path, tiny_model: Path, oracle: SimpleNamespace, tmp_path: Path
) -> None:
    paths = sorted((garment_photos / "photos").iterdir())[:40]
    images = pa.array([path.read_bytes() for path in paths])
    packed = tmp_path / "packed.parquet"
    pq.write_table(pa.table({"id": [p.stem for p in paths], "image": images, "shade": ["dark"] * 40}), packed)
    built = embed.build_gallery(open_photos(packed), tmp_path / "g", tiny_model, rows_per_part=32)
    np.testing.assert_allclose(built.gallery.vectors(np.arange(40)), oracle.units[:40], atol=2e-3)
    columns = built.gallery.columns(["id", "path", "shade", "content_hash"]).to_pydict()
    assert columns["id"] == [row["id"] for row in oracle.rows[:40]]
    assert columns["content_hash"] == [row["content_hash"] for row in oracle.rows[:40]]
    assert (columns["path"], columns["shade"]) == ([None] * 40, ["dark"] * 40)


@pytest.mark.parametrize("depth", [1, 3, 8])
def test_ahead_keeps_order_and_never_has_more_than_depth_under_way(depth: int) -> None:
    lock, most, under_way = threading.Lock(), 0, 0

    def listing() -> Any:
        nonlocal under_way, most
        for i in range(40):
            with lock:  # an item is under way from here until the consumer has its result
                under_way += 1
                most = max(most, under_way)
            yield i

    with ThreadPoolExecutor(4) as pool:
        for place, (item, done) in enumerate(embed.ahead(pool, lambda i: i * i, listing(), depth)):
            assert (item, done) == (place, place * place)
            with lock:
                under_way -= 1
    assert under_way == 0
    assert most <= depth + 1  # those decoding or waiting, and the one that the consumer holds


def test_ahead_asks_for_no_more_than_depth_before_the_first_is_done() -> None:
    gate, begun = threading.Event(), []

    def listing() -> Any:
        for i in range(20):
            begun.append(i)
            yield i

    with ThreadPoolExecutor(8) as pool:
        items = embed.ahead(pool, lambda i: gate.wait(30), listing(), 5)
        threading.Timer(0.2, gate.set).start()
        first = next(items)
        assert first == (0, True)
        assert len(begun) == 6
        gate.set()
        assert len(list(items)) == 19


def test_another_model_or_other_photos_are_refused_and_name_both(
    garment_photos: Path, tiny_model: Path, other_model: Path, build: Callable[..., Any], copy: Path, tmp_path: Path
) -> None:
    manifest = Gallery.open(copy).manifest
    with pytest.raises(MismatchError) as caught:
        build(garment_photos, copy, other_model)
    for mark in (manifest.model["fingerprint"], checkpoint.read(other_model).fingerprint):
        assert mark in str(caught.value)
    fewer = tmp_path / "fewer"
    shutil.copytree(garment_photos / "photos", fewer)
    with pytest.raises(MismatchError) as caught:
        build(fewer, copy, tiny_model)
    for mark in (manifest.source["fingerprint"], open_photos(fewer).fingerprint()[:16]):
        assert mark in str(caught.value)
    assert verify(copy) == []


def test_what_cannot_be_built_is_refused_before_anything_is_written(
    garment_photos: Path, tiny_model: Path, build: Callable[..., Any], mixed: Path, tmp_path: Path
) -> None:
    path = tmp_path / "g"
    with pytest.raises(GalleryError, match="120 rows are too few to train ivfpq"):
        build(garment_photos, path, tiny_model, kind="ivfpq")
    (tmp_path / "labels.csv").write_text("id,norms\n0good,1\n", encoding="utf-8")
    with pytest.raises(InputError, match="'norms'"):
        embed.build_gallery(open_photos(mixed, tmp_path / "labels.csv"), path, tiny_model)
    with pytest.raises(ModelError, match="no model"):
        build(garment_photos, path, tmp_path / "none.safetensors")
    assert not path.exists()
    path.mkdir()
    (path / "letter.txt").write_text("mine")
    with pytest.raises(GalleryError, match="is there and is no gallery"):
        build(garment_photos, path, tiny_model)
    assert files_of(path) == {"letter.txt"}


def test_a_model_that_diverged_is_named(mixed: Path, tiny_model: Path, tmp_path: Path) -> None:
    model = checkpoint.read(tiny_model)
    with torch.no_grad():
        model.net.attributes["color"].project.bias.fill_(float("nan"))
    checkpoint.write(tmp_path / "nan.safetensors", model.net, model.memory, model.config, {})
    with pytest.raises(ModelError, match=r"nan.safetensors.*not finite"):
        embed.build_gallery(open_photos(mixed), tmp_path / "g", tmp_path / "nan.safetensors")


def test_every_refusal_is_one_line(copy: Path, garment_photos: Path, other_model: Path, build: Any) -> None:
    with pytest.raises(FsearchError) as caught:
        build(garment_photos, copy, other_model)
    assert len(str(caught.value).splitlines()) == 1
