"""Galleries whose gallery.json is damaged or lost: a replacement that fails or is killed has cost nothing."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index import catalogue, create
from index.errors import GalleryError, InputError
from index.gallery import Gallery, leftovers, verify
from tests.conftest import flip
from tests.index.conftest import contents, interrupted, rows_of

make = create.create


@pytest.fixture
def path(tmp_path: Path, structured: np.ndarray) -> Path:
    """A gallery of 40 vectors, one of them removed, that replaced another."""
    path = make(tmp_path / "g", rows_of(["a"], structured[:1])).path
    make(path, rows_of([f"v{i}" for i in range(40)], structured[:40]), replace=True)
    return catalogue.remove(path, ["v1"]).gallery.path


def harm(manifest: Path, lost: bool) -> None:
    """Take it away, or flip a byte of it."""
    if lost:
        manifest.unlink()
    else:
        flip(manifest, 0.1)


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("how", ["rows", "index", "commit"])
def test_a_replacement_that_fails_costs_nothing(
    path: Path, structured: np.ndarray, monkeypatch: pytest.MonkeyPatch, how: str, lost: bool
) -> None:
    manifest, whole, new = path / "gallery.json", contents(path), rows_of(["a", "b"], structured[:2])
    harm(manifest, lost)
    before, real = contents(path), os.replace

    def full(source: Any, target: Path) -> None:
        if target == manifest:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    with monkeypatch.context() as patch:
        if how == "index":
            patch.setattr(create, "build_generation", interrupted)
        elif how == "commit":
            patch.setattr(os, "replace", full)
        with pytest.raises({"rows": InputError, "index": KeyboardInterrupt, "commit": GalleryError}[how]):
            make(path, [new, new] if how == "rows" else new, replace=True)
    assert contents(path) == before
    assert {each.name for each in path.iterdir()} == {each.relative_to(path).parts[0] for each in before}
    manifest.write_bytes(whole[manifest])  # from a backup
    assert (verify(path), leftovers(path), Gallery.open(path).manifest.photos) == ([], [], 39)


@pytest.mark.parametrize("lost", [False, True])
def test_a_replacement_that_is_killed_costs_nothing(
    path: Path, structured: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    manifest, whole, new = path / "gallery.json", contents(path), rows_of(["a", "b"], structured[:2])
    harm(manifest, lost)
    with monkeypatch.context() as patch:
        patch.setattr(create, "_tidy", lambda *_: None)
        patch.setattr(create, "build_generation", interrupted)
        for _ in range(2):  # the second call begins where the first one did
            with pytest.raises(KeyboardInterrupt):
                make(path, new, replace=True)
    added = {path / "building.json", path / "table" / "part-00003.parquet"}
    assert {each for each in contents(path) if each not in whole} == added
    copied = Path(shutil.copytree(path, tmp_path / "copy"))
    (copied / "gallery.json").write_bytes(whole[manifest])
    assert (verify(copied), Gallery.open(copied).manifest.photos) == ([], 39)
    made = make(path, new, replace=True)
    assert set(contents(path)) == {*made.named_files(), manifest}
    assert (verify(path), made.manifest.photos) == ([], 2)


def test_parts_that_another_gallery_json_names_are_not_written_over(path: Path, structured: np.ndarray) -> None:
    """A plan that a killed build left says where a new one begins only beside the gallery.json that was there then."""
    (path / "building.json").write_text('{"vectors": "", "first part": "0", "gallery.json": ""}')
    flip(path / "gallery.json", 0.1)
    before = contents(path)
    new = rows_of(["a"], structured[:1])
    with pytest.raises(InputError, match="given twice"):
        make(path, [new, new], replace=True)
    assert {**contents(path), path / "building.json": before[path / "building.json"]} == before
