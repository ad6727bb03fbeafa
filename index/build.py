"""Index generations: made in a folder of their own, then committed; and opening the current one.

All that is asked of FAISS goes through approximate.build, approximate.extend, tuning.measure and ApproximateIndex.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from index import accelerate, approximate, drift, graph, tuning, vectors
from index.approximate import ApproximateIndex
from index.errors import DamagedError, GalleryError, MismatchError
from index.exact import ExactIndex
from index.files import atomic_path, file_facts, remove, sha256_file
from index.gallery import VECTORS, Gallery, Generation, remove_leftovers, with_generation
from index.live import LiveIndex
from index.manifest import Manifest, sound
from index.names import GENERATION, number, own
from index.recipe import TRAINABLE_FROM, Recipe, choose
from index.trial import fitted, refuse_cap

INDEX = "index.faiss"
TUNING = "tuning.json"
COPY = "copy.faiss"

Vectors = npt.NDArray[np.float16]


def build_generation(
    gallery: Gallery,
    kind: str = "auto",
    seed: int = 0,
    progress: bool = False,
    memory: int | None = None,
    device: str | None = None,
) -> Generation:
    """Index the gallery's table anew and commit that; ``Gallery.open`` then sees it.

    kind: one of ``index.recipe.KINDS``, or "auto": exact for few rows, else what a trial on the gallery's own vectors
    finds fastest at a recall of 0.95. memory: bytes the index may hold when it serves, beside the mapped vectors; 0 is
    no cap, None that of the current index. The generation remembers it. device: where torch trains and fills the index
    if it can (``index.accelerate.build``): "cuda", "cpu", ...; None is CUDA where torch is loaded and has it, else
    FAISS. GalleryError when no such index fits or the device fails, UnknownNameError for one that is not there.

    The table is streamed once, into the memory-mapped vectors that training, adding and measuring read. Killed at any
    point, the gallery keeps its old generation, and the next build clears what was left. The old generation is removed
    after the commit; a reader that has it open keeps it. Removed rows are indexed too: rows keep their numbers.
    """
    manifest, current = gallery.manifest, gallery.manifest.current
    memory = (current.memory if current is not None else None) if memory is None else memory or None
    recipe = choose(manifest.rows, manifest.layout.dim, kind, seed)
    if device is not None:
        accelerate.chosen(device)
    if not manifest.rows:
        raise GalleryError(f"{gallery.path}: no rows to index; add photos with `fsearch build-index PHOTOS`")

    def train(mapped: Vectors) -> tuple[Recipe, Any, Any]:
        found = fitted(mapped, manifest.layout, manifest.weights, kind, memory, seed, progress)
        starts = np.array([block.start for block in manifest.layout.blocks])
        index = accelerate.build(mapped, found, device, progress)
        index = approximate.build(mapped, found, starts, progress) if index is None else index
        return found, index, approximate.copied(mapped, seed, progress) if found.copied else None

    return _generation(gallery, recipe, gallery.embeddings(), train, None, memory, progress)


def extend_generation(gallery: Gallery, progress: bool = False) -> Generation:
    """Index the tail too, and commit that: the old index goes on without training, its recall is measured again.

    ``Generation.drift`` then says how well it finds the rows it was not trained on. An index that has outgrown its kind
    (see ``kept_kind``) is built anew instead, and one that has outgrown its cap on memory as what fits it. CapError
    where nothing does, before anything is written.
    """
    manifest, current = gallery.manifest, gallery.manifest.current
    kind = kept_kind(manifest)
    if current is None or not manifest.indexed_parts or choose(manifest.rows, 1, kind).kind != current.recipe["kind"]:
        return build_generation(gallery, kind, progress=progress)
    recipe, start = Recipe(**current.recipe), manifest.indexed
    if current.memory is not None and recipe.resident(manifest.rows, manifest.layout.dim) > current.memory:
        refuse_cap(gallery.vectors, manifest.rows, manifest.layout, manifest.weights, "auto", current.memory)
        return build_generation(gallery, progress=progress)

    old = _base(gallery, current)
    promised = current.drift.promised if current.drift is not None else old.expected_recall(None, drift.K)

    def extended(mapped: Vectors) -> tuple[Recipe, Any, Any]:
        assert isinstance(old, ApproximateIndex)
        for each in filter(None, [old.index, old.copy]):
            approximate.extend(each, mapped, start, progress)
        return recipe, old.index, old.copy

    batches = _old_and_new(gallery, current)
    return _generation(gallery, recipe, batches, extended, (_trained(manifest), promised), current.memory, progress)


def kept_kind(manifest: Manifest, rows: int | None = None) -> str:
    """The kind to index a gallery's table (or so many rows of it) with when nobody says another: that which it has.

    But "auto" where that was auto's choice for the rows it was trained on, and where they are now too few for it.
    """
    current, rows = manifest.current, manifest.rows if rows is None else rows
    if current is None:
        return "auto"
    kind = current.recipe["kind"]
    usual = choose(_trained(manifest) or manifest.rows, manifest.layout.dim).kind
    return "auto" if kind == usual or (kind != "exact" and rows < TRAINABLE_FROM) else kind


def is_current(manifest: Manifest, kind: str = "auto", memory: int | None = None) -> bool:
    """Whether the current index already is what ``build_generation`` is asked for by these arguments."""
    current = manifest.current
    if current is None or kind not in ("auto", current.recipe["kind"]):
        return False
    return memory is None or (memory or None) == current.memory


def _trained(manifest: Manifest) -> int:
    """The rows that the current index was trained on, from row 0; 0 when it is of another table."""
    current = manifest.current
    return current.drift.trained if current is not None and current.drift is not None else manifest.indexed


def _generation(
    gallery: Gallery,
    recipe: Recipe,
    batches: Iterable[Vectors],
    make: Callable[[Vectors], tuple[Recipe, Any, Any]],
    before: tuple[int, float] | None,
    memory: int | None,
    progress: bool,
) -> Generation:
    """Write and commit a generation of all rows: their vectors, then the index and the copy, or None, that ``make``
    makes of them, measured.

    before: how many rows it was trained on, if not on all of them, and the recall that was promised then.
    """
    manifest = gallery.manifest
    remove_leftovers(gallery.path, manifest)
    there = [number(each.name) for each in own(gallery.path, GENERATION)]  # a damaged manifest may name them
    name, found = f"gen-{max([number(manifest.next_generation), *(1 + each for each in there)]):06d}", None
    with _taken_back(gallery.path, name):
        with atomic_path(gallery.path / name) as folder:
            folder.mkdir()
            files = {VECTORS: _write_vectors(gallery, batches, folder / VECTORS, progress)}
            if recipe.kind != "exact":
                rows, dim = manifest.rows, manifest.layout.dim
                mapped = vectors.mapped(folder / VECTORS, rows, dim)
                recipe, index, copy = make(mapped)
                _write_index(index, folder / INDEX)
                scorer = vectors.scorer(folder / VECTORS, rows, dim)
                passing = vectors.streamed(folder / VECTORS, rows, dim)
                if copy is not None:
                    _write_index(copy, folder / COPY)
                    files[COPY] = file_facts(folder / COPY)
                bare = ApproximateIndex(index, mapped, scorer=scorer, copy=copy)
                curve = tuning.measure(bare, manifest.layout, manifest.weights, recipe.seed, progress, passing)
                (folder / TUNING).write_text(curve.to_json(), encoding="utf-8")
                if before is not None:
                    searched = ApproximateIndex(index, mapped, curve, scorer, copy)
                    found = drift.measure(searched, manifest.layout, manifest.weights, *before, recipe.seed)
                files |= {each: file_facts(folder / each) for each in (INDEX, TUNING)}
        generation = Generation(name, asdict(recipe), files, manifest.table_fingerprint, None, found, memory)
        gallery.commit(with_generation(manifest, generation))
    for old in manifest.generations:
        remove(gallery.path / old.name)
    return generation


@contextmanager
def _taken_back(path: Path, name: str) -> Iterator[None]:
    """Where the body raises, a new generation goes, unless it was committed before."""
    try:
        yield
    except BaseException:
        manifest = sound(path)
        if manifest is None or name not in [each.name for each in manifest.generations]:
            remove(path / name)
        raise


def _old_and_new(gallery: Gallery, current: Generation) -> Iterable[Vectors]:
    """The vectors of all rows: those indexed from the generation, whose checksum must match, then the tail."""
    mapped = gallery.mapped
    assert mapped is not None
    digest = hashlib.sha256(vectors.before(gallery.reading(gallery.path / current.name / VECTORS), *mapped.shape))
    for piece in vectors.passing(mapped):
        digest.update(piece.tobytes())
        yield piece
    if digest.hexdigest() != current.files[VECTORS]["sha256"]:
        path = gallery.path / current.name / VECTORS
        raise DamagedError(f"{path}: damaged (its checksum does not match); {gallery.remedy(path)}")
    yield gallery.tail


def _write_vectors(gallery: Gallery, batches: Iterable[Vectors], path: Path, progress: bool) -> dict[str, Any]:
    """The table's embeddings as a mapped file (``index.vectors``); returns their facts."""
    rows, dim = gallery.manifest.rows, gallery.manifest.layout.dim
    with tqdm(total=rows, desc="read table", unit="row", disable=None if progress else True) as bar:

        def counted() -> Iterator[Vectors]:
            for batch in batches:
                yield batch
                bar.update(len(batch))

        facts = vectors.write(path, counted(), rows, dim)
    if facts["bytes"] != (expected := vectors.size(rows, dim)):
        raise DamagedError(
            f"{gallery.path}: {facts['bytes']} bytes of vectors in the table, {expected} expected; run `fsearch verify`"
        )
    return facts


def _write_index(index: Any, path: Path) -> None:
    failed: list[OSError] = []
    # not by FAISS's own file, which only prints that its last bytes could not be written
    with open(path, "wb") as file:

        def write(piece: Any) -> None:
            try:
                file.write(piece)
            except OSError as error:
                failed.append(error)
                raise

        try:
            faiss.write_index(index, faiss.PyCallbackIOWriter(write))  # type: ignore[attr-defined]
        except (RuntimeError, OSError):
            if failed:
                raise failed[0] from None
            raise


def open_index(gallery: Gallery) -> ExactIndex | ApproximateIndex | LiveIndex:
    """The gallery's current index, ready to search; FAISS reads a file only after its checksum matched.

    A LiveIndex where rows were added behind the index, or removed. GalleryError when none was built, MismatchError when
    it indexes another table, DamagedError for a changed file.
    """
    current = gallery.manifest.current
    remedy = f"run `fsearch build-index --reindex --gallery {gallery.path}`"
    if current is None:
        raise GalleryError(f"{gallery.path}: no index yet; {remedy}")
    base = _base(gallery, current)
    if len(base.vectors) == gallery.manifest.rows and not gallery.manifest.removed:
        return base
    return LiveIndex(base, gallery.tail, gallery.removed)


def _base(gallery: Gallery, current: Generation) -> ExactIndex | ApproximateIndex:
    """A generation as it lies on the disk, over the rows that it indexes."""
    folder = gallery.path / current.name
    remedy = f"run `fsearch build-index --reindex --gallery {gallery.path}`"
    mapped = gallery.mapped
    if mapped is None:
        raise MismatchError(
            f"{folder}: indexes table {current.table_fingerprint[:12]}, but the gallery holds"
            f" {gallery.manifest.table_fingerprint[:12]}; {remedy}"
        )
    if Recipe(**current.recipe).kind == "exact":
        return ExactIndex(mapped)
    files = {name: os.fspath(gallery.reading(folder / name)) for name in (INDEX, TUNING, COPY) if name in current.files}
    for name, file in files.items():
        if sha256_file(file) != current.files[name]["sha256"]:
            raise DamagedError(f"{folder / name}: damaged (its checksum does not match); {remedy}")
    curve = tuning.Tuning.from_json(Path(files.pop(TUNING)).read_text(encoding="utf-8"))
    read: dict[str, Any] = {}
    for name, file in files.items():
        try:
            read[name] = faiss.read_index(file)
        except RuntimeError as error:
            raise GalleryError(f"{folder / name}: FAISS {faiss.__version__} cannot read it; {remedy}") from error
    head = current.files[VECTORS].get("head", "")
    scorer = vectors.scorer(gallery.reading(folder / VECTORS), len(mapped), mapped.shape[1], head)
    opened = ApproximateIndex(read[INDEX], mapped, curve, scorer, read.get(COPY))
    if isinstance(opened.base, graph.Graph):
        graph.on_huge_pages(opened.base.index)
    return opened
