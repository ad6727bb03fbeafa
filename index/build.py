"""Index generations: made in a folder of their own, then committed; and opening the current one."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from tqdm import tqdm

from index import ivfpq, tuning
from index.errors import DamagedError, GalleryError, MismatchError
from index.exact import ExactIndex
from index.files import atomic_path, file_facts, remove, sha256_file
from index.gallery import VECTORS, Gallery, Generation, remove_leftovers, with_generation
from index.ivfpq import IVFPQIndex
from index.recipe import Recipe, choose

INDEX = "index.faiss"
TUNING = "tuning.json"


def build_generation(gallery: Gallery, kind: str = "auto", seed: int = 0, progress: bool = False) -> Generation:
    """Index the gallery's table anew and commit that; ``Gallery.open`` then sees it.

    The table is streamed once, into the memory-mapped vectors that training, adding and measuring read. Killed at any
    point, the gallery keeps its old generation, and the next build clears what was left. The old generation is removed
    after the commit; a reader that has it open keeps it.
    """
    manifest = gallery.manifest
    recipe = choose(manifest.rows, manifest.layout.dim, kind, seed)
    if not manifest.rows:
        raise GalleryError(f"{gallery.path}: no rows to index; add photos with `fsearch build-index PHOTOS`")
    remove_leftovers(gallery.path)
    numbers = [int(each.name.removeprefix("gen-")) for each in manifest.generations]
    name = f"gen-{max(numbers, default=0) + 1:06d}"
    with atomic_path(gallery.path / name) as folder:
        folder.mkdir()
        files = {VECTORS: _write_vectors(gallery, folder / VECTORS, progress)}
        if recipe.kind == "ivfpq":
            shape = (manifest.rows, manifest.layout.dim)
            vectors = np.asarray(np.memmap(folder / VECTORS, np.float16, "r", shape=shape))
            index = ivfpq.build(vectors, recipe, progress)
            _write_index(index, folder / INDEX)
            curve = tuning.measure(IVFPQIndex(index, vectors), manifest.layout, manifest.weights, seed, progress)
            (folder / TUNING).write_text(curve.to_json(), encoding="utf-8")
            files |= {each: file_facts(folder / each) for each in (INDEX, TUNING)}
    generation = Generation(name, asdict(recipe), files, manifest.table_fingerprint)
    gallery.commit(with_generation(manifest, generation))
    for old in manifest.generations:
        remove(gallery.path / old.name)
    return generation


def _write_vectors(gallery: Gallery, path: Path, progress: bool) -> dict[str, object]:
    """The table's embeddings as raw float16, row after row; returns {"bytes", "sha256"}."""
    digest, size = hashlib.sha256(), 0
    with (
        path.open("wb") as file,
        tqdm(total=gallery.manifest.rows, desc="read table", unit="row", disable=None if progress else True) as bar,
    ):
        for batch in gallery.embeddings():
            content = np.ascontiguousarray(batch, "<f2").tobytes()
            file.write(content)
            digest.update(content)
            size += len(content)
            bar.update(len(batch))
    expected = gallery.manifest.rows * gallery.manifest.layout.dim * 2
    if size != expected:
        raise DamagedError(
            f"{gallery.path}: {size} bytes of vectors in the table, {expected} expected; run `fsearch verify`"
        )
    return {"bytes": size, "sha256": digest.hexdigest()}


def _write_index(index: faiss.IndexIVFPQ, path: Path) -> None:
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise GalleryError(f"{path}: cannot be written ({reason}); free some space and run again") from error


def open_index(gallery: Gallery) -> ExactIndex | IVFPQIndex:
    """The gallery's current index, ready to search; FAISS reads a file only after its checksum matched.

    GalleryError when none was built, MismatchError when it indexes another table, DamagedError for a changed file.
    """
    current = gallery.manifest.current
    remedy = f"run `fsearch build-index --reindex --gallery {gallery.path}`"
    if current is None:
        raise GalleryError(f"{gallery.path}: no index yet; {remedy}")
    vectors = gallery.mapped
    if vectors is None:
        raise MismatchError(
            f"{gallery.path / current.name}: indexes table {current.table_fingerprint[:12]}, but the gallery holds"
            f" {gallery.manifest.table_fingerprint[:12]}; {remedy}"
        )
    if Recipe(**current.recipe).kind == "exact":
        return ExactIndex(vectors)
    for name in (INDEX, TUNING):
        path = gallery.path / current.name / name
        if sha256_file(path) != current.files[name]["sha256"]:
            raise DamagedError(f"{path}: damaged (its checksum does not match); {remedy}")
    folder = gallery.path / current.name
    curve = tuning.Tuning.from_json((folder / TUNING).read_text(encoding="utf-8"))
    try:
        index: Any = faiss.read_index(str(folder / INDEX))
    except RuntimeError as error:
        raise GalleryError(f"{folder / INDEX}: FAISS {faiss.__version__} cannot read it; {remedy}") from error
    return IVFPQIndex(index, vectors, curve)
