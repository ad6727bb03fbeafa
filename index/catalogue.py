"""A gallery that changes while it is searched: rows are added, replaced and removed, and now and then compacted.

Rows are only ever appended to the table, and keep their numbers until a compaction. A row that is removed, or whose id
is added again, stays in the table and is listed in removed-NNNNNN.npy. Rows behind the index, the tail, are searched
exactly; a tail that has grown is indexed by extending the index. Every step ends with one new gallery.json, so a reader
sees the catalogue before it or after it. One writer at a time (``index.files.only_writer``).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from index import table
from index.accelerate import chosen
from index.build import build_generation, extend_generation, kept_kind
from index.errors import CapError, DamagedError, GalleryError, InputError
from index.faults import column_fault, not_unit
from index.files import atomic_write, file_facts, only_writer, sha256_file
from index.files import remove as discard
from index.gallery import TABLE, Gallery, remove_leftovers, tidy
from index.hits import Rows
from index.manifest import REMOVED, Changes, Manifest
from index.recipe import choose, size_of
from index.table import ROWS_PER_PART, Part
from index.trial import refuse_cap

SPARE = 1.25  # of the memory advised, beside what an index needs now: rows that are added later want some too
TAIL_ROWS = 20_000  # searched exactly in a few milliseconds; embedding so many takes longer than indexing them


class Change(NamedTuple):
    """What a step did: the gallery after it, rows added, and rows removed (replaced ones are both).

    short: why rows that were added are not indexed and what to run, in a line; "" where nothing is amiss.
    """

    gallery: Gallery
    added: int = 0
    removed: int = 0
    short: str = ""


def add(path: str | Path, rows: pa.Table, *, tail_rows: int = TAIL_ROWS, progress: bool = False) -> Change:
    """Append rows to a gallery's table; they are found at once. A row whose id is there already replaces that one.

    rows: columns ``id`` (unique, none blank) and ``embedding`` (fixed-size lists of the gallery's dimensions, blocks of
    length 1), and any others of the gallery's table; ``norms`` are 1 and the rest null where they are not given.
    tail_rows: the tail is indexed when it is longer. InputError for rows that do not fit; nothing is changed then.
    """
    path = Path(path)
    Gallery.read_manifest(path)  # what is no gallery is said before it is held
    with only_writer(path):
        gallery = Gallery.open(path)
        fitted = _fitted(gallery, rows)
        footer = {"model": gallery.manifest.model["fingerprint"], "config": gallery.manifest.config_fingerprint}
        parts: list[Part] = []
        try:
            for start in range(0, len(fitted), ROWS_PER_PART):
                file = path / TABLE / part_name(gallery.manifest.next_part + len(parts))
                parts.append(table.write_part(file, fitted.slice(start, ROWS_PER_PART), footer))
            return append(gallery, parts, tail_rows=tail_rows, progress=progress)
        finally:
            remove_leftovers(path)  # parts that were not committed


def append(
    gallery: Gallery,
    parts: Sequence[Part],
    *,
    files: dict[str, Any] | None = None,
    rejected: int | None = None,
    last: str = "",
    tail_rows: int = TAIL_ROWS,
    progress: bool = False,
) -> Change:
    """Commit parts that lie in the table folder behind those of the gallery. For one who holds ``only_writer``.

    files, rejected: the manifest's new ones, if they change; last: see ``Changes``. InputError for an id used twice,
    and for parts that have not the gallery's columns, which are removed then.
    """
    manifest, files_of = gallery.manifest, [gallery.path / TABLE / part.name for part in parts]
    if fault := next(filter(None, (column_fault(gallery, file) for file in files_of)), None):
        for file in files_of:
            discard(file)
        raise InputError(f"{fault}; nothing was added, run again")
    ids = table.read_columns(files_of, ["id"])["id"] if parts else None
    if ids is None or not len(ids):
        return Change(gallery)
    refuse_twice(ids)
    replaced = gallery.rows_among(ids.combine_chunks())
    changes = Changes(manifest.changes.added + len(ids), manifest.changes.removed + len(replaced), last)
    generations = [
        replace(each, parts=len(manifest.parts)) if each.parts is None else each for each in manifest.generations
    ]
    grown = replace(
        manifest,
        parts=[*manifest.parts, *parts],
        rows=manifest.rows + sum(part.rows for part in parts),
        files=manifest.files if files is None else files,
        rejected=manifest.rejected if rejected is None else rejected,
        generations=generations,
        changes=changes,
    )
    gallery.commit(_with_removed(gallery, grown, replaced))
    tidy(gallery.path, Gallery.read_manifest(gallery.path))
    return index_tail(gallery.path, tail_rows, progress)._replace(added=len(ids), removed=len(replaced))


def index_tail(path: Path, tail_rows: int = TAIL_ROWS, progress: bool = False) -> Change:
    """Index the tail if it is longer than ``tail_rows``, and if an index of it fits. For one who holds ``only_writer``.

    The tail is searched exactly in either case: where no index of all rows fits the gallery's cap on memory, or none
    can be written, the change is not refused but says so (``Change.short``): the rows are there.
    """
    gallery = Gallery.open(path)
    manifest = gallery.manifest
    tail = manifest.rows - manifest.indexed
    if not manifest.indexed_parts or tail <= tail_rows:
        return Change(gallery)
    try:
        extend_generation(gallery, progress)
    except CapError as error:
        anew = f"fsearch build-index --reindex --gallery {path}"
        return Change(
            gallery,
            short=f"{tail:,} rows behind the index are searched exactly, so slower: no index of {error.rows:,} rows"
            f" fits the {error.allowed:,} bytes allowed, the least takes {error.needed:,};"
            f" run `{anew} --memory {size_of(round(SPARE * error.needed))}`, or `{anew} --recipe exact`",
        )
    except GalleryError as error:
        said = f"{tail:,} rows behind the index are searched exactly, so slower, as it could not be extended"
        return Change(gallery, short=f"{said}: {error}")
    return Change(Gallery.open(path))


def remove(path: str | Path, ids: Iterable[str]) -> Change:
    """Take rows out of a gallery by their ids; they answer no more. UnknownNameError for an id that is not there.

    Nothing is changed then. The rows stay in the table, unseen, until ``compact``.
    """
    path = Path(path)
    Gallery.read_manifest(path)
    with only_writer(path):
        gallery = Gallery.open(path)
        rows = gallery.rows_of(ids)
        if not len(rows):
            return Change(gallery)
        remove_leftovers(path)
        manifest = gallery.manifest
        changes = Changes(manifest.changes.added, manifest.changes.removed + len(rows))
        try:
            gallery.commit(_with_removed(gallery, replace(manifest, changes=changes), rows))
        finally:
            remove_leftovers(path)
        return Change(Gallery.open(path), 0, len(rows))


def compact(
    path: str | Path,
    kind: str | None = None,
    seed: int = 0,
    progress: bool = False,
    memory: int | None = None,
    device: str | None = None,
) -> Change:
    """Drop removed rows from the table, train the index anew on what is left, and measure it.

    kind, memory, device: see ``build_generation``. kind None: that which the gallery has, or auto's choice where auto
    chose that or another ``memory`` is asked for. Readers go on with what they have open. Takes the disk space of a
    second gallery while it runs. CapError where no such index fits, before anything is written.
    """
    path = Path(path)
    Gallery.read_manifest(path)
    with only_writer(path):
        gallery = Gallery.open(path)
        manifest = gallery.manifest
        if not manifest.photos:
            raise GalleryError(f"{path}: every photo was removed, nothing is left to index; add photos first")
        if kind is None:
            kind = kept_kind(manifest, manifest.photos) if memory is None else "auto"
        if memory is None and manifest.current is not None:
            memory = manifest.current.memory
        choose(manifest.photos, manifest.layout.dim, kind, seed)  # what cannot be is said before anything is written
        if device is not None:
            chosen(device)
        if gallery.mapped is not None:
            live = np.setdiff1d(np.arange(manifest.rows), gallery.removed, assume_unique=True)
            photos, layout, weights = manifest.photos, manifest.layout, manifest.weights
            refuse_cap(lambda rows: gallery.vectors(live[rows]), photos, layout, weights, kind, memory, seed)
        tidy(path, manifest)
        try:
            # parts of a few rows, from many small additions, are joined too
            if manifest.removed or len(manifest.parts) > 2 * -(-manifest.rows // ROWS_PER_PART):
                parts = _live_parts(gallery, progress)
                files = {name: facts for name, facts in manifest.files.items() if not name.startswith(REMOVED)}
                manifest = replace(
                    manifest,
                    parts=parts,
                    rows=sum(part.rows for part in parts),
                    removed=0,
                    files=files,
                    generation=None,
                )
            build_generation(Gallery(path, manifest), kind, seed, progress, memory, device)
        finally:
            tidy(path, Gallery.read_manifest(path))
        return Change(Gallery.open(path), 0, gallery.manifest.removed)


def _live_parts(gallery: Gallery, progress: bool) -> list[Part]:
    """The live rows as new parts, full ones, in the order of the table."""
    manifest = gallery.manifest
    footer = {"model": manifest.model["fingerprint"], "config": manifest.config_fingerprint}
    parts: list[Part] = []
    waiting: list[pa.Table] = []
    with tqdm(total=manifest.rows, desc="rewrite", unit="row", disable=None if progress else True) as bar:
        for piece, last in _with_last(_live_rows(gallery, bar)):
            waiting.append(piece)
            held = pa.concat_tables(waiting)
            while len(held) >= ROWS_PER_PART or (last and len(held)):
                file = gallery.path / TABLE / part_name(manifest.next_part + len(parts))
                parts.append(table.write_part(file, held.slice(0, ROWS_PER_PART).combine_chunks(), footer))
                held = held.slice(ROWS_PER_PART)
            waiting = [held] if len(held) else []
    return parts


def _live_rows(gallery: Gallery, bar: tqdm) -> Iterator[pa.Table]:
    start = 0
    alive = np.ones(gallery.manifest.rows, bool)
    alive[gallery.removed] = False
    for path, part in zip(gallery.part_paths, gallery.manifest.parts, strict=True):
        if fault := column_fault(gallery, path):
            raise DamagedError(f"{fault}; make the gallery anew, with --replace")
        source = gallery.reading(path)
        if sha256_file(os.fspath(source)) != part.sha256:  # what is written anew would look sound
            raise DamagedError(f"{path}: damaged (its checksum does not match); {gallery.remedy(path)}")
        for batch in table.batches(source, table.column_names(source)):
            keep = alive[start : start + len(batch)]
            yield pa.Table.from_batches([batch.filter(pa.array(keep))])
            start += len(batch)
            bar.update(len(batch))


def _with_last(items: Iterator[pa.Table]) -> Iterator[tuple[pa.Table, bool]]:
    held = next(items, None)
    for item in items:
        assert held is not None
        yield held, False
        held = item
    if held is not None:
        yield held, True


def _with_removed(gallery: Gallery, manifest: Manifest, rows: Rows) -> Manifest:
    """The manifest with these rows removed too; writes their list under a name that is free."""
    if not len(rows):
        return manifest
    old = manifest.removed_file
    number = 1 + (int(old.removeprefix(REMOVED).removesuffix(".npy")) if old else 0)
    name = f"{REMOVED}{number:06d}.npy"
    removed = np.union1d(gallery.removed, rows)
    content = io.BytesIO()
    np.save(content, removed.astype("<i8"))
    atomic_write(gallery.path / name, content.getvalue())
    files = {each: facts for each, facts in manifest.files.items() if each != old}
    return replace(manifest, removed=len(removed), files=files | {name: file_facts(gallery.path / name)})


def part_name(number: int) -> str:
    """The file of a part in the table folder."""
    return f"part-{number:05d}.parquet"


def _fitted(gallery: Gallery, rows: pa.Table) -> pa.Table:
    """The rows with the columns of the gallery's table; InputError where they do not fit."""
    manifest = gallery.manifest
    wanted = table.schema(manifest.layout, manifest.labels, list(manifest.attributes))
    names = set(rows.column_names)
    if missing := [name for name in ("id", "embedding") if name not in names]:
        raise InputError(f"rows to add have no column {missing[0]}; they need id and embedding")
    if unknown := sorted(names - set(wanted.names)):
        raise InputError(f"no column {unknown[0]!r} in {gallery.path}; {table.nearest(unknown[0], wanted.names)}")
    ids = rows["id"]
    if ids.null_count or "" in ids.to_pylist():
        raise InputError("rows to add hold a blank id; every row needs one")
    refuse_twice(ids)
    if "norms" not in names:
        ones = np.ones((len(rows), len(manifest.layout.blocks)), np.float32)
        rows = rows.append_column("norms", table.fixed_size_list(ones))
    columns = [rows[each.name] if each.name in rows.column_names else pa.nulls(len(rows), each.type) for each in wanted]
    try:
        fitted = pa.table(columns, names=wanted.names).cast(wanted).combine_chunks()
        vectors, norms = (table.to_numpy(_whole(fitted[name])) for name in ("embedding", "norms"))
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"rows to add do not fit {gallery.path} ({str(error).splitlines()[0]})") from error
    bad = ~np.isfinite(vectors).all(axis=1) | not_unit(manifest.layout, norms, vectors)
    if bad.any():
        raise InputError(f"id {ids[int(bad.argmax())].as_py()!r} has a block whose length is not 1; nothing was added")
    return fitted


def refuse_twice(ids: pa.ChunkedArray) -> None:
    """InputError for ids that are not unique."""
    if len(ids.unique()) < len(ids):
        twice = next(each for each in ids.value_counts() if each["counts"].as_py() > 1)["values"].as_py()
        raise InputError(f"id {twice!r} is given twice; ids are unique, nothing was written")


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
