"""Index generations: made in a folder of their own, then committed; and opening the current one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from index import approximate, graph, tuning, vectors
from index.approximate import ApproximateIndex
from index.errors import DamagedError, GalleryError, MismatchError
from index.exact import ExactIndex, as_float32
from index.files import atomic_path, file_facts, remove, sha256_file
from index.gallery import VECTORS, Gallery, Generation, remove_leftovers, with_generation
from index.projection import choose_dims
from index.recipe import Recipe, alternatives, choose, for_rows
from index.table import Layout

INDEX = "index.faiss"
TUNING = "tuning.json"
TRIAL_ROWS, TRIAL_FROM = 30_000, 200_000


def build_generation(
    gallery: Gallery, kind: str = "auto", seed: int = 0, progress: bool = False, memory: int | None = None
) -> Generation:
    """Index the gallery's table anew and commit that; ``Gallery.open`` then sees it.

    kind: one of ``index.recipe.KINDS``, or "auto": exact for few rows, else what a trial on the gallery's own vectors
    finds fastest at a recall of 0.95. memory: bytes the index may hold when it serves, beside the mapped vectors.

    The table is streamed once, into the memory-mapped vectors that training, adding and measuring read. Killed at any
    point, the gallery keeps its old generation, and the next build clears what was left. The old generation is removed
    after the commit; a reader that has it open keeps it.
    """
    manifest = gallery.manifest
    rows, dim = manifest.rows, manifest.layout.dim
    recipe = choose(rows, dim, kind, seed)
    if not rows:
        raise GalleryError(f"{gallery.path}: no rows to index; add photos with `fsearch build-index PHOTOS`")
    remove_leftovers(gallery.path)
    numbers = [int(each.name.removeprefix("gen-")) for each in manifest.generations]
    name = f"gen-{max(numbers, default=0) + 1:06d}"
    with atomic_path(gallery.path / name) as folder:
        folder.mkdir()
        files = {VECTORS: _write_vectors(gallery, folder / VECTORS, progress)}
        if recipe.kind != "exact":
            mapped = vectors.mapped(folder / VECTORS, rows, dim)
            recipe = fitted(mapped, manifest.layout, manifest.weights, kind, memory, seed, progress)
            starts = np.array([block.start for block in manifest.layout.blocks])
            index = approximate.build(mapped, recipe, starts, progress)
            _write_index(index, folder / INDEX)
            bare = ApproximateIndex(index, mapped, scorer=vectors.scorer(folder / VECTORS, rows, dim))
            passing = vectors.streamed(folder / VECTORS, rows, dim)
            curve = tuning.measure(bare, manifest.layout, manifest.weights, seed, progress, passing)
            (folder / TUNING).write_text(curve.to_json(), encoding="utf-8")
            files |= {each: file_facts(folder / each) for each in (INDEX, TUNING)}
    generation = Generation(name, asdict(recipe), files, manifest.table_fingerprint)
    gallery.commit(with_generation(manifest, generation))
    for old in manifest.generations:
        remove(gallery.path / old.name)
    return generation


def fitted(
    mapped: npt.NDArray[np.float16],
    layout: Layout,
    weights: Mapping[str, float],
    kind: str = "auto",
    memory: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Recipe:
    """The recipe for these vectors (N, D), by trial: what is built and measured on a sample of them, not guessed.

    The projection is the narrowest that keeps neighbours (``projection.choose_dims``). "auto" builds every alternative
    that fits ``memory`` bytes over TRIAL_ROWS rows and takes the one that answers fastest at a recall@10 of 0.95, or
    comes nearest. Work grows slower than rows on a graph, and as fast in lists: such a sample flatters lists. Under
    TRIAL_FROM rows the first that fits is taken: building it takes no longer than trying all.
    """
    n, dim = mapped.shape
    if kind == "ivfpq":
        return choose(n, dim, kind, seed)
    rng = np.random.default_rng(seed)
    sample = mapped.take(np.sort(rng.choice(n, min(n, TRIAL_ROWS), replace=False)), axis=0)
    starts = np.array([block.start for block in layout.blocks])
    dims = choose_dims(as_float32(sample), starts, layout.scale(weights), seed)
    fitting = [each for each in alternatives(n, dim, dims, memory, seed) if kind in ("auto", each.kind)]
    if not fitting:
        raise GalleryError(f"a {kind} index of {n} rows does not fit {memory} bytes; raise --memory")
    if kind != "auto" or n < TRIAL_FROM:
        return fitting[0]
    trials: list[tuple[float, float, int]] = []
    for recipe in tqdm(fitting, desc="choose", unit="recipe", disable=None if progress else True):
        index = ApproximateIndex(approximate.build(sample, for_rows(recipe, len(sample), dim), starts), sample)
        reached, ms = tuning.trial(index, layout, weights, seed)
        trials.append((-min(reached, tuning.RECALL), ms, len(trials)))
    return fitting[min(trials)[2]]


def _write_vectors(gallery: Gallery, path: Path, progress: bool) -> dict[str, Any]:
    """The table's embeddings as a mapped file (``index.vectors``); returns {"bytes", "sha256"}."""
    rows, dim = gallery.manifest.rows, gallery.manifest.layout.dim
    with tqdm(total=rows, desc="read table", unit="row", disable=None if progress else True) as bar:

        def counted() -> Iterator[npt.NDArray[np.float16]]:
            for batch in gallery.embeddings():
                yield batch
                bar.update(len(batch))

        facts = vectors.write(path, counted(), rows, dim)
    if facts["bytes"] != (expected := vectors.size(rows, dim)):
        raise DamagedError(
            f"{gallery.path}: {facts['bytes']} bytes of vectors in the table, {expected} expected; run `fsearch verify`"
        )
    return facts


def _write_index(index: Any, path: Path) -> None:
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise GalleryError(f"{path}: cannot be written ({reason}); free some space and run again") from error


def open_index(gallery: Gallery) -> ExactIndex | ApproximateIndex:
    """The gallery's current index, ready to search; FAISS reads a file only after its checksum matched.

    GalleryError when none was built, MismatchError when it indexes another table, DamagedError for a changed file.
    """
    current = gallery.manifest.current
    remedy = f"run `fsearch build-index --reindex --gallery {gallery.path}`"
    if current is None:
        raise GalleryError(f"{gallery.path}: no index yet; {remedy}")
    mapped = gallery.mapped
    if mapped is None:
        raise MismatchError(
            f"{gallery.path / current.name}: indexes table {current.table_fingerprint[:12]}, but the gallery holds"
            f" {gallery.manifest.table_fingerprint[:12]}; {remedy}"
        )
    if Recipe(**current.recipe).kind == "exact":
        return ExactIndex(mapped)
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
    opened = ApproximateIndex(index, mapped, curve, vectors.scorer(folder / VECTORS, *mapped.shape))
    if isinstance(opened.base, graph.Graph):
        graph.on_huge_pages(opened.base.index)
    return opened
