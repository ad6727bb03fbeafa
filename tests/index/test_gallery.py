from __future__ import annotations

import dataclasses
import errno
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from index import catalogue, faults, held, table
from index.build import build_generation
from index.create import create
from index.errors import DamagedError, GalleryError, InputError, UnknownNameError
from index.files import TEMPORARY, file_facts, only_writer
from index.gallery import (
    MANIFEST,
    Gallery,
    Generation,
    Manifest,
    leftovers,
    remains,
    remove_leftovers,
    table_fingerprint,
    unfinished,
    verify,
)
from index.table import Layout, Part
from tests.index.conftest import contents, interrupted, rows_of


@pytest.fixture
def gallery(tmp_path: Path, structured: np.ndarray, gallery_at: Callable[..., Gallery]) -> Gallery:
    """2,500 rows in three parts, with an exact index."""
    made = gallery_at(tmp_path / "shop.gallery", structured[:2500])
    build_generation(made)
    return Gallery.open(made.path)


def flip(path: Path, at: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 0x10
    path.write_bytes(bytes(content))


def test_manifest_comes_back(gallery: Gallery) -> None:
    read = Manifest.from_bytes(gallery.manifest.to_bytes())
    assert read == gallery.manifest
    assert isinstance(read.layout, Layout)
    assert isinstance(read.parts[0], Part)
    assert isinstance(read.generations[0], Generation)
    body = json.loads(gallery.manifest.to_bytes())
    assert body["format"] == 4  # its index was made now
    later = {"removed", "changes"}  # written only where there is something to say
    assert set(body) == {"checksum", "format"} | {field.name for field in dataclasses.fields(Manifest)} - later


def test_every_changed_byte_of_the_manifest_is_noticed(gallery: Gallery) -> None:
    content = bytearray(gallery.manifest.to_bytes())
    for at in range(0, len(content)):
        content[at] ^= 0x04
        with pytest.raises(GalleryError, match=r"gallery\.json: "):
            Manifest.from_bytes(bytes(content))
        content[at] ^= 0x04
    assert Manifest.from_bytes(bytes(content)) == gallery.manifest
    for broken in (b"", b"[]", b"{}", b"\xff", bytes(content[:-20])):
        with pytest.raises(DamagedError, match="damaged"):
            Manifest.from_bytes(broken)


def test_newer_format_says_upgrade(gallery: Gallery) -> None:
    content = gallery.manifest.to_bytes().replace(b'"format": 4', b'"format": 5')
    (gallery.path / MANIFEST).write_bytes(content)
    with pytest.raises(GalleryError, match="format 5.*upgrade fsearch"):
        Gallery.open(gallery.path)


def test_manifest_checks_itself(gallery: Gallery) -> None:
    with pytest.raises(ValueError, match="2400 rows, but the parts hold 2500"):
        replace(gallery.manifest, rows=2400)
    with pytest.raises(ValueError, match="no generation gen-7"):
        replace(gallery.manifest, generation="gen-7")
    with pytest.raises(UnknownNameError, match="'colr'"):
        replace(gallery.manifest, weights={"colr": 1})


def test_open_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match=r"no gallery here; make one with `fsearch build-index"):
        Gallery.open(tmp_path / "nowhere")
    (tmp_path / "half" / "table").mkdir(parents=True)
    (tmp_path / "half" / "table" / "part-00000.parquet").touch()
    with pytest.raises(GalleryError, match=r"lost its gallery.json; restore that file, or make it anew with --replace"):
        Gallery.open(tmp_path / "half")
    (tmp_path / "half" / "building.json").touch()
    with pytest.raises(GalleryError, match=r"unfinished; go on with `fsearch build-index"):
        Gallery.open(tmp_path / "half")
    assert verify(tmp_path / "half")[0].startswith(f"{tmp_path / 'half'}: unfinished")


def test_open_notices_missing_and_cut_files(gallery: Gallery) -> None:
    part = gallery.part_paths[1]
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    with pytest.raises(DamagedError, match=r"part-00001\.parquet: damaged \(\d+ bytes, \d+ expected\); run `fsearch"):
        Gallery.open(gallery.path)
    part.unlink()
    with pytest.raises(DamagedError, match=r"part-00001\.parquet: missing; run `fsearch build-index photos --gallery"):
        Gallery.open(gallery.path)
    part.write_bytes(whole)
    (gallery.path / "gen-000001" / "vectors.f16").unlink()
    with pytest.raises(DamagedError, match=r"vectors\.f16: missing; run `fsearch build-index --reindex --gallery"):
        Gallery.open(gallery.path)


def test_commit_refuses_files_that_are_not_there(gallery: Gallery) -> None:
    before = (gallery.path / MANIFEST).read_bytes()
    files = {**gallery.manifest.files, "model.safetensors": {"bytes": 3, "sha256": "0" * 64}}
    with pytest.raises(DamagedError, match=r"model\.safetensors: missing"):
        gallery.commit(replace(gallery.manifest, files=files))
    assert (gallery.path / MANIFEST).read_bytes() == before


def test_columns_leave_vectors_out(gallery: Gallery) -> None:
    light = gallery.columns()
    assert light.column_names == ["id", "path", "width", "height", "content_hash", "color", "predicted_color"]
    assert light.num_rows == 2500
    assert light["color"][1001].as_py() == "green"
    assert gallery.columns(["color"])["color"] is not None
    with pytest.raises(UnknownNameError, match="'colour'.*nearest: color"):
        gallery.columns(["colour"])


def test_columns_are_read_once(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    first = gallery.columns(["id", "color"])
    asked: list[str] = []
    read = table.read_columns
    monkeypatch.setattr(table, "read_columns", lambda paths, names: asked.extend(names) or read(paths, names))
    assert gallery.columns(["color", "id"]).select(["id", "color"]).equals(first)
    gallery.columns(["id", "width"])
    assert asked == ["width"]


@pytest.mark.parametrize("blank", [False, True])
def test_rows_joined_are_those_of_the_columns(gallery: Gallery, blank: bool) -> None:
    names = ["id", "color", "predicted_color", "width"]
    if blank:
        gallery.columns(names)
        gallery._columns["color"] = pa.chunked_array(  # parts whose values come in another order, one cell blank
            [pa.array(["Red", None, "Blue"] * 300), pa.array(["Blue", "Blue"] * 800)]
        )
    rows = np.array([2499, 0, 7, 7, 1000, 1], np.int64)
    joined, wanted = gallery.take(rows, names), gallery.columns(names).take(pa.array(rows))
    assert joined.schema.names == names
    assert joined.to_pydict() == wanted.to_pydict()
    assert pa.types.is_dictionary(joined.schema.field("color").type) is not blank
    assert gallery.take(rows[:0], names).to_pydict() == {name: [] for name in names}
    with pytest.raises(IndexError):
        gallery.take(np.array([2500]), names)


def test_vectors_with_and_without_the_index(
    tmp_path: Path, structured: np.ndarray, gallery: Gallery, gallery_at: Callable[..., Gallery]
) -> None:
    bare = gallery_at(tmp_path / "bare", structured[:2500])
    rows = np.array([2499, 0, 1000, 999, 0])
    assert bare.mapped is None
    assert gallery.mapped is not None
    for each in (bare, gallery):
        assert np.array_equal(each.vectors(rows), structured[rows])
        assert each.norms(rows).shape == (5, 3)
    assert np.array_equal(np.concatenate(list(gallery.embeddings(300))), structured[:2500])


def test_row_of_offers_near_ids(gallery: Gallery) -> None:
    assert gallery.row_of("item-00000") == 0
    assert gallery.row_of("item-01234") == 1234
    with pytest.raises(UnknownNameError, match="no id 'item-1234'.*nearest: .*item-01234"):
        gallery.row_of("item-1234")
    with pytest.raises(UnknownNameError, match="no id '1234'.*item-01234"):
        gallery.row_of("1234")


def test_verify_of_a_sound_gallery(gallery: Gallery) -> None:
    assert verify(gallery.path) == []


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("table/part-00002.parquet", "fsearch build-index photos --gallery"),
        ("memory.safetensors", "fsearch build-index photos --gallery"),
        ("rejected.parquet", "fsearch build-index photos --gallery"),
        ("gen-000001/vectors.f16", "fsearch build-index --reindex --gallery"),
    ],
)
def test_verify_names_the_damaged_file(gallery: Gallery, name: str, remedy: str) -> None:
    flip(gallery.path / name)
    (fault,) = verify(gallery.path)
    assert fault.startswith(f"{gallery.path / name}: damaged (its checksum does not match); run `{remedy}")
    (gallery.path / name).unlink()
    (fault,) = verify(gallery.path)
    assert fault.startswith(f"{gallery.path / name}: missing; run `{remedy}")


def test_verify_reports_all_faults_at_once(gallery: Gallery) -> None:
    flip(gallery.part_paths[0])
    flip(gallery.path / "gen-000001" / "vectors.f16")
    (gallery.path / "memory.safetensors").unlink()
    assert len(verify(gallery.path)) == 3
    flip(gallery.path / MANIFEST)
    assert len(verify(gallery.path)) == 1


def recommit(gallery: Gallery, rows: pa.Table, metadata: dict[str, str]) -> None:
    """Replace the last part by these rows, as if a faulty writer had committed them."""
    manifest = gallery.manifest
    part = table.write_part(gallery.part_paths[-1], rows, metadata)
    parts = [*manifest.parts[:-1], part]
    total = sum(each.rows for each in parts)
    gallery.commit(replace(manifest, parts=parts, rows=total, generations=[], generation=None))


def test_verify_finds_ids_used_twice(
    gallery: Gallery, structured: np.ndarray, table_of: Callable[..., pa.Table]
) -> None:
    recommit(gallery, table_of(structured[:500], first=1999), {})
    (fault,) = verify(gallery.path)
    assert "1 ids occur twice, as 'item-01999'" in fault


def test_verify_finds_blocks_that_are_not_unit(
    gallery: Gallery, structured: np.ndarray, table_of: Callable[..., pa.Table]
) -> None:
    bent = structured[2000:2500].copy()
    bent[[3, 8], 48:72] *= np.float16(1.05)
    recommit(gallery, table_of(bent, 2000), {})
    (fault,) = verify(gallery.path)
    assert "part-00002.parquet: 2 rows have a block whose length is not 1" in fault


def test_verify_finds_parts_of_another_model(
    gallery: Gallery, structured: np.ndarray, table_of: Callable[..., pa.Table]
) -> None:
    recommit(gallery, table_of(structured[2000:2500], 2000), {"model": "z" * 64})
    (fault,) = verify(gallery.path)
    assert f"made by model {'z' * 64}, the gallery by {'m' * 64}" in fault


def test_verify_counts_rows_and_rejected(gallery: Gallery) -> None:
    manifest = gallery.manifest
    lying = replace(manifest.parts[0], rows=1001)
    gallery.commit(replace(manifest, parts=[lying, *manifest.parts[1:]], rows=2501, rejected=7))
    faults = verify(gallery.path)
    assert any("part-00000.parquet: 1000 rows, 1001 expected" in each for each in faults)
    assert any("rejected.parquet: 1 rows, 7 expected" in each for each in faults)


def test_verify_finds_an_index_of_another_table(gallery: Gallery) -> None:
    manifest = gallery.manifest
    gallery.commit(replace(manifest, parts=manifest.parts[:2], rows=2000))
    (fault,) = verify(gallery.path)
    assert table_fingerprint(manifest.parts)[:12] in fault
    assert table_fingerprint(manifest.parts[:2])[:12] in fault
    assert "--reindex" in fault
    assert Gallery.open(gallery.path).mapped is None


def test_leftovers_are_no_faults_and_can_be_cleared(gallery: Gallery) -> None:
    left = [
        gallery.path / f"{TEMPORARY}gen-000002-17" / "vectors.f16",
        gallery.path / "gen-000009" / "index.faiss",
        gallery.path / "table" / f"{TEMPORARY}part-00003.parquet-17",
    ]
    for each in left:
        each.parent.mkdir(exist_ok=True)
        each.write_bytes(b"half")
    assert verify(gallery.path) == []
    assert leftovers(gallery.path) == sorted([left[0].parent, left[1].parent, left[2]])
    remove_leftovers(gallery.path)
    assert leftovers(gallery.path) == []
    assert verify(gallery.path) == []


def test_files_of_the_user_are_no_leftovers(gallery: Gallery, structured: np.ndarray) -> None:
    path = gallery.path
    mine = [path / name for name in (
        "removed-list.csv", "removed-000001.csv", "model-mine.safetensors", "memory.safetensors.bak",
        "models.safetensors", "rejected-reviewed.parquet", "gen-notes/a.txt", "gen-1/a.txt",
        "table/part-mine.parquet", "table/part-00009.csv", ".tmp-mine-1", "table/.tmp-part-00009.csv-1",
    )]  # fmt: skip
    for each in mine:
        each.parent.mkdir(exist_ok=True)
        each.write_text("mine")
    assert leftovers(path) == remains(path) == verify(path) == []
    catalogue.remove(path, ["item-00003"])
    catalogue.add(path, rows_of(["a"], structured[:1]))
    catalogue.compact(path)
    create(path, [rows_of(["a"], structured[:1])], replace=True)
    (path / MANIFEST).write_bytes(b"{}")
    create(path, [rows_of(["a"], structured[:1])], replace=True)
    assert set(contents(path)) == {*Gallery.open(path).named_files(), path / MANIFEST, *mine}


def test_files_are_named_as_the_manifest_says(gallery: Gallery) -> None:
    for path, facts in gallery.named_files().items():
        assert file_facts(path) == {"bytes": facts["bytes"], "sha256": facts["sha256"]}


def test_what_an_interrupted_call_goes_on_with_is_kept(
    gallery: Gallery, structured: np.ndarray, table_of: Callable[..., pa.Table]
) -> None:
    path, rows = gallery.path, table_of(structured[:10], 3000)
    mine = {name: path / "table" / f"part-{name}.parquet" for name in ("00003", "00004", "00005")}
    table.write_part(mine["00003"], rows, {"source": "s"})  # of an addition of photos
    table.write_part(mine["00004"], rows, {})
    mine["00005"].write_bytes(b"half")
    model, old = path / "model-00003.safetensors", path / "model.safetensors"
    for each in (model, old):
        each.write_bytes(b"any")
    assert unfinished(path) == [mine["00003"]]
    assert leftovers(path) == sorted([mine["00004"], mine["00005"], model, old])
    plan = path / "building.json"  # of a gallery to replace this one
    plan.write_text("{}")
    assert set(unfinished(path)) == {plan, *mine.values(), model}
    assert verify(path) == []
    said = "of an interrupted build or addition; the same command goes on with it, a compaction clears it"
    assert set(remains(path)) == {f"{each}: {said}" for each in (plan, *mine.values(), model)} | {
        f"{old}: left by an interrupted build or change; the next one clears it"
    }
    remove_leftovers(path)
    assert set(unfinished(path)) == {plan, *mine.values(), model}
    catalogue.compact(path)
    assert remains(path) == []
    assert set(contents(path)) == {*Gallery.open(path).named_files(), path / MANIFEST}


def test_what_a_killed_compaction_left_is_named_and_cleared(
    gallery: Gallery, structured: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = gallery.path
    catalogue.remove(path, ["item-00003"])
    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "tidy", lambda *_: None)
        patch.setattr(catalogue, "build_generation", interrupted)
        with pytest.raises(KeyboardInterrupt):
            catalogue.compact(path)
    left = path / "table" / "part-00003.parquet"
    assert verify(path) == []
    assert remains(path) == [f"{left}: left by an interrupted build or change; the next one clears it"]
    with only_writer(path):
        assert remains(path) == []  # it may be the writer's
    content = left.read_bytes()
    for work in (
        lambda: catalogue.remove(path, ["item-00001"]),
        lambda: build_generation(Gallery.open(path)),
        lambda: catalogue.add(path, rows_of(["a"], structured[:1])),
        lambda: catalogue.compact(path),
    ):
        (path / "table" / f"part-{Gallery.read_manifest(path).next_part:05d}.parquet").write_bytes(content)
        work()
        assert remains(path) == []
        assert set(contents(path)) == {*Gallery.open(path).named_files(), path / MANIFEST}
    assert verify(path) == []


@pytest.mark.parametrize("moment", ["sha256_file", "_part_faults", "_gallery_faults"])
def test_verify_beside_a_compaction(gallery: Gallery, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    catalogue.remove(gallery.path, ["item-00003"])
    real = getattr(faults, moment)

    def compacted(*arguments: Any) -> Any:
        monkeypatch.setattr(faults, moment, real)
        catalogue.compact(gallery.path)
        return real(*arguments)

    monkeypatch.setattr(faults, moment, compacted)
    assert verify(gallery.path) == []


def test_what_cannot_be_read_is_one_line(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    def broken_disk(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(faults, "sha256_file", refuse)
        said = verify(gallery.path)
    mend = "cannot be read (Permission denied); mend that and run again"
    assert said == [f"{file}: {mend}" for file in gallery.named_files()]
    with monkeypatch.context() as patch:
        patch.setattr(held, "_open", refuse)
        with pytest.raises(DamagedError, match=re.escape(f"{gallery.part_paths[0]}: {mend}")):
            Gallery.open(gallery.path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        with pytest.raises(DamagedError, match=re.escape(mend)):
            gallery.commit(gallery.manifest)
    with monkeypatch.context() as patch:
        patch.setattr(faults, "sha256_file", broken_disk)
        assert "cannot be read (Input/output error); run `fsearch build-index photos" in verify(gallery.path)[0]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        (fault,) = verify(gallery.path)
        assert fault == f"{gallery.path / MANIFEST}: cannot be read (Permission denied); mend that and run again"
        with pytest.raises(GalleryError, match=re.escape(fault)):
            Gallery.open(gallery.path)
    for work in (Gallery.open, catalogue.compact):
        with pytest.raises(GalleryError, match="cannot be read .File name too long"):
            work(gallery.path / ("x" * 300))


def test_parts_with_other_columns(gallery: Gallery, structured: np.ndarray, table_of: Callable[..., pa.Table]) -> None:
    before, rows = contents(gallery.path), table_of(structured[2000:2500], 2500).drop_columns(["color"])
    file = gallery.path / "table" / "part-00003.parquet"
    with pytest.raises(InputError, match=r"part-00003\.parquet: no column 'color', unlike the gallery; nothing was"):
        catalogue.append(gallery, [table.write_part(file, rows, {})])
    assert contents(gallery.path) == before
    recommit(gallery, rows, {})
    (fault,) = verify(gallery.path)
    assert (
        fault
        == f"{gallery.part_paths[-1]}: no column 'color', unlike the gallery; make the gallery anew, with --replace"
    )
    build_generation(Gallery.open(gallery.path))
    catalogue.remove(gallery.path, ["item-00003"])
    with pytest.raises(DamagedError, match=r"part-00002\.parquet: no column 'color', unlike the gallery; make the"):
        catalogue.compact(gallery.path)
