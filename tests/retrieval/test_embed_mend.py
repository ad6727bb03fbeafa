"""Builds killed at awkward moments, and galleries damaged on purpose: what is noticed, and what mends it."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from index.errors import DamagedError, GalleryError, InputError, MismatchError
from index.gallery import Gallery, leftovers, verify
from retrieval import embed
from retrieval.datasets.readers import open_photos
from retrieval.engine import Engine
from retrieval.models import checkpoint
from tests.conftest import files_of, flip, sums
from tests.index.conftest import contents

BUILD = """
import json, os, signal, sys, torch
torch.set_num_threads(1)
import index.gallery, retrieval.embed as embed
from retrieval.datasets.readers import open_photos

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

calls = []
def die_third(*arguments):
    calls.append(1)
    return die() if len(calls) == 3 else encode(*arguments)

encode = embed.encode
for where, gallery, photos, model, part, replace in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        if where == "encode":
            embed.encode = die_third
        elif where == "commit":
            index.gallery.Gallery.commit = die
        else:
            embed._tidy = die
        embed.build_gallery(open_photos(photos), gallery, model, rows_per_part=part, replace=replace)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, where
"""


@pytest.fixture(scope="module")
def killed(
    garment_photos: Path, tiny_model: Path, other_model: Path, shop: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Galleries whose build was killed (-9): while a part is made, before and after the manifest is put in place."""
    folder = tmp_path_factory.mktemp("killed")
    jobs = []
    for where in ("encode", "commit", "tidy"):
        jobs.append([where, str(folder / where), str(garment_photos), str(tiny_model), 32, False])
    for where in ("commit", "tidy"):
        shutil.copytree(shop, folder / f"replace-{where}")
        jobs.append([where, str(folder / f"replace-{where}"), str(garment_photos), str(other_model), 32, True])
    subprocess.run([sys.executable, "-c", BUILD, json.dumps(jobs)], check=True)
    return {Path(job[1]).name: Path(job[1]) for job in jobs}


@pytest.mark.parametrize("where", ["encode", "commit", "tidy"])
def test_killed_and_run_again_it_ends_with_the_same_table(
    where: str, killed: dict[str, Path], garment_photos: Path, tiny_model: Path, shop: Path,
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = killed[where]
    left = {file.name: file.stat().st_ino for file in (path / "table").glob("part-*.parquet")}
    assert len(left) == (2 if where == "encode" else 4)
    assert (path / "gallery.json").exists() == (where == "tidy")
    if where == "encode":
        with pytest.raises(GalleryError, match="unfinished; go on with"):
            Gallery.open(path)
        monkeypatch.setattr(embed, "encode", _counting(calls := [], embed.encode))
    build(garment_photos, path, tiny_model)
    assert sums(path) == sums(shop)
    kept = {name: (path / "table" / name).stat().st_ino for name in left}
    assert kept == left  # finished parts were not made again
    if where == "encode":
        assert len(calls) == 2
    if where != "tidy":
        assert files_of(path) == files_of(shop)
    assert verify(path) == []


def test_an_unfinished_build_of_another_model_is_refused_and_names_both(
    garment_photos: Path, tiny_model: Path, other_model: Path, build: Callable[..., Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "g"
    with monkeypatch.context() as patch:
        patch.setattr(embed, "build_generation", stop)
        with pytest.raises(KeyboardInterrupt):
            build(garment_photos, path, tiny_model)
    marks = checkpoint.read(tiny_model).fingerprint, checkpoint.read(other_model).fingerprint
    with pytest.raises(MismatchError) as caught:
        build(garment_photos, path, other_model)
    assert all(mark in str(caught.value) for mark in marks)
    assert "--replace" in str(caught.value)
    built = build(garment_photos, path, other_model, replace=True)
    assert built.gallery.manifest.model["fingerprint"] == marks[1]
    assert verify(path) == []


def test_a_replacement_killed_before_its_commit_leaves_the_old_gallery(
    killed: dict[str, Path], shop: Path, garment_photos: Path, other_model: Path, build: Callable[..., Any]
) -> None:
    path = killed["replace-commit"]
    assert verify(path) == []
    assert sums(path) == sums(shop)
    expected = Engine.open(shop).query(like="s00000-0", set={"color": "blue"})
    assert Engine.open(path).query(like="s00000-0", set={"color": "blue"}) == expected
    built = build(garment_photos, path, other_model, replace=True)
    assert built.gallery.manifest.model["fingerprint"] == checkpoint.read(other_model).fingerprint
    assert verify(path) == []
    named = {str(file.relative_to(path)) for file in built.gallery.named_files()}
    assert files_of(path) == named | {"gallery.json"}
    result = Engine.open(path).query(garment_photos / "photos" / "s00001-0.jpg", topk=1)
    assert result.hits[0].id == "s00001-0"


def test_a_replacement_killed_after_its_commit_is_the_new_gallery(
    killed: dict[str, Path], garment_photos: Path, other_model: Path, build: Callable[..., Any]
) -> None:
    path = killed["replace-tidy"]
    assert verify(path) == []
    assert Gallery.open(path).manifest.model["fingerprint"] == checkpoint.read(other_model).fingerprint
    assert not build(garment_photos, path, other_model).fresh


@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_a_damaged_part_is_noticed_by_verify_and_mended_by_build(
    how: str, garment_photos: Path, tiny_model: Path, shop: Path, build: Callable[..., Any], copy: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    part = copy / "table" / "part-00001.parquet"
    if how == "flip":
        flip(part)
    elif how == "cut":
        part.write_bytes(part.read_bytes()[:-100])
    else:
        part.unlink()
    faults = verify(copy)
    assert len(faults) == 1
    assert "part-00001.parquet" in faults[0]
    assert f"fsearch build-index {garment_photos.resolve()} --gallery {copy}" in faults[0]
    monkeypatch.setattr(embed, "encode", _counting(calls := [], embed.encode))
    built = build(garment_photos, copy, tiny_model)
    assert built.fresh
    assert len(calls) == 1  # the sound parts were kept
    assert sums(copy) == sums(shop)
    assert verify(copy) == []
    assert not build(garment_photos, copy, tiny_model).fresh


def test_a_part_that_may_not_be_read_is_not_made_anew(
    garment_photos: Path, tiny_model: Path, build: Callable[..., Any], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    before = files_of(copy)
    monkeypatch.setattr(embed, "sha256_file", refuse)
    with pytest.raises(DamagedError, match=r"part-00000\.parquet: cannot be read \(Permission denied\); mend that and"):
        build(garment_photos, copy, tiny_model)
    assert files_of(copy) == before


@pytest.mark.parametrize("name", ["model.safetensors", "memory.safetensors", "rejected.parquet"])
def test_what_lies_beside_the_table_is_mended_too(
    name: str, garment_photos: Path, tiny_model: Path, build: Callable[..., Any], copy: Path
) -> None:
    flip(copy / name)
    assert name in verify(copy)[0]
    assert build(garment_photos, copy, tiny_model).fresh
    assert verify(copy) == []


def test_a_damaged_index_is_mended_by_reindex_and_by_build(
    garment_photos: Path, tiny_model: Path, build: Callable[..., Any], copy: Path, shop: Path
) -> None:
    expected = Engine.open(shop).query(like="s00002-1")
    vectors = copy / "gen-000001" / "vectors.f16"
    vectors.write_bytes(vectors.read_bytes()[:-2])
    with pytest.raises(DamagedError, match=r"vectors.f16.*--reindex"):
        Engine.open(copy)
    embed.reindex(copy)
    assert Engine.open(copy).query(like="s00002-1") == expected
    flip(copy / "gen-000002" / "vectors.f16")
    assert "--reindex" in verify(copy)[0]
    assert build(garment_photos, copy, tiny_model).fresh
    assert verify(copy) == []
    assert Engine.open(copy).query(like="s00002-1") == expected


def test_a_part_damaged_while_a_build_is_unfinished_is_made_again(
    garment_photos: Path, tiny_model: Path, shop: Path, build: Callable[..., Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embed, "build_generation", stop)
        with pytest.raises(KeyboardInterrupt):
            build(garment_photos, tmp_path / "g", tiny_model)
    flip(tmp_path / "g" / "table" / "part-00002.parquet")
    build(garment_photos, tmp_path / "g", tiny_model)
    assert sums(tmp_path / "g") == sums(shop)


def test_a_damaged_manifest_can_only_be_replaced(
    garment_photos: Path, tiny_model: Path, shop: Path, build: Callable[..., Any], copy: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    flip(copy / "gallery.json")
    with pytest.raises(DamagedError, match=r"gallery.json: damaged.*--replace"):
        build(garment_photos, copy, tiny_model)
    monkeypatch.setattr(embed, "encode", _counting(calls := [], embed.encode))
    made = build(garment_photos, copy, tiny_model, replace=True).gallery
    assert calls == []  # the sound parts were kept
    assert sums(copy) == sums(shop)
    assert files_of(copy) == {str(file.relative_to(copy)) for file in made.named_files()} | {"gallery.json"}
    assert verify(copy) == []


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("how", ["photos", "encode", "index", "commit"])
def test_a_replacement_of_a_damaged_gallery_that_stops_costs_nothing(
    garment_photos: Path, other_model: Path, shop: Path, build: Callable[..., Any], copy: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, how: str, lost: bool,
) -> None:  # fmt: skip
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if lost:
        (copy / "gallery.json").unlink()
    else:
        flip(copy / "gallery.json")
    before = contents(copy)
    with monkeypatch.context() as patch:
        if how == "photos":
            (tmp_path / "empty").mkdir()
            (tmp_path / "empty" / "a.jpg").write_bytes(b"none")
            with pytest.raises(InputError, match="none of 1 photos can be read"):
                build(tmp_path / "empty", copy, other_model, replace=True)
            assert contents(copy) == before
        else:
            where = {"encode": (embed, "encode"), "index": (embed, "build_generation"), "commit": (Gallery, "commit")}
            patch.setattr(*where[how], stop)
            for _ in range(2):
                with pytest.raises(KeyboardInterrupt):
                    build(garment_photos, copy, other_model, replace=True)
    now = contents(copy)
    assert {file: now.get(file) for file in before} == before
    back = Path(shutil.copytree(copy, tmp_path / "back"))
    shutil.copyfile(shop / "gallery.json", back / "gallery.json")  # from a backup
    assert verify(back) == []
    assert sums(back) == sums(shop)
    monkeypatch.setattr(embed, "encode", _counting(calls := [], embed.encode))
    made = build(garment_photos, copy, other_model, replace=True).gallery
    assert bool(calls) == (how in ("photos", "encode"))  # it goes on where it was interrupted
    assert files_of(copy) == {str(file.relative_to(copy)) for file in made.named_files()} | {"gallery.json"}
    assert verify(copy) == []


def test_a_gallery_that_lost_its_manifest_can_only_be_replaced(
    garment_photos: Path, tiny_model: Path, shop: Path, build: Callable[..., Any], copy: Path
) -> None:
    (copy / "gallery.json").unlink()
    with pytest.raises(GalleryError, match=r"has lost its gallery.json: restore that file, or --replace"):
        build(garment_photos, copy, tiny_model)
    assert len(files_of(copy)) == len(files_of(shop)) - 1
    made = build(garment_photos, copy, tiny_model, replace=True).gallery
    assert sums(copy) == sums(shop)
    assert files_of(copy) == {str(file.relative_to(copy)) for file in made.named_files()} | {"gallery.json"}
    assert verify(copy) == []


def test_a_folder_left_by_a_kill_at_the_very_start_is_taken(
    garment_photos: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / f".tmp-{embed.PLAN}-1").write_bytes(b"")
    embed.build_gallery(open_photos(garment_photos), tmp_path / "g", tiny_model)
    assert leftovers(tmp_path / "g") == []


def _counting(calls: list[int], work: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return work(*arguments)

    return counted
