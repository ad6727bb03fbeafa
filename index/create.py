"""A gallery made of vectors that are there already, from Parquet files or any stream of Arrow tables, without a model.

Each block is made unit and its raw length kept as its norm, so the gallery is searched, filtered, changed and compacted
like one of photos. It has no network and no attributes to edit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from index import names, table
from index.accelerate import chosen
from index.build import build_generation, is_current
from index.catalogue import TAIL_ROWS, Change, append, part_name, refuse_twice
from index.errors import DamagedError, GalleryError, InputError, MismatchError
from index.files import TEMPORARY, atomic_write, only_writer, remove, sha256_file
from index.gallery import MANIFEST, PLAN, TABLE, Gallery, remove_leftovers, tidy
from index.manifest import NO_MODEL, Changes, Manifest, sound
from index.names import own
from index.recipe import choose
from index.source import Source, Stream, opened
from index.table import ROWS_PER_PART, Layout, Part

BLOCK = "vector"  # the name of the only block
LONGEST = 1e18  # a block this long has no length in float32
VECTORS_PLAN = "vectors"  # the key of building.json that says whose parts lie there
FIRST, BESIDE = "first part", "gallery.json"  # others: the first of them, and the checksum of what they lie beside


def create(
    path: str | Path,
    source: Source,
    *,
    blocks: Mapping[str, int] | None = None,
    weights: Mapping[str, float] | None = None,
    id_column: str = "id",
    vector_column: str = "embedding",
    kind: str = "auto",
    memory: int | None = None,
    device: str | None = None,
    replace: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Gallery:
    """Make a gallery at ``path`` of vectors, index it, and return it opened.

    source: a Parquet file, several, a folder of them, or Arrow tables one after another; nothing is held but a part of
    ``ROWS_PER_PART`` rows. Its vector column has lists of floats, all of one length, and its id column values that are
    unique as text. path, width, height and content_hash mean what they do in any gallery (paths start at the folder of
    the Parquet); every other column that is not nested or binary becomes a label column, as text, blanks as null.
    blocks: name -> dimensions, in the order of the vector (default: one, "vector"). weights: block -> default weight.
    kind, memory, device, seed: see ``build_generation``.

    A gallery of the very same files (name, size, time) and arguments is left as it is; another one is a MismatchError
    unless ``replace``: readers see the old one until the new one is whole. One whose gallery.json is damaged or lost
    can only be replaced; until then nothing of it is touched. Raises InputError, one line, for a source that cannot be
    used; nothing is left then. A killed call begins again.
    """
    path = Path(path)
    stream = opened(source, id_column, vector_column)
    layout = _layout(blocks, stream.width)
    default = {name: float((weights or {}).get(name, 1.0)) for name in layout.names}
    if not any((layout.scale(weights or {}) > 0).tolist()):
        raise InputError("every block has weight 0: keep at least one")
    table.schema(layout, stream.labels, [])
    if stream.rows is not None:
        choose(stream.rows, layout.dim, kind, seed)
    if device is not None:
        chosen(device)
    said = json.dumps([layout.to_json(), default, id_column, vector_column])
    config = hashlib.sha256(said.encode()).hexdigest()[:16]
    with only_writer(path):
        old = _existing(path, stream.fingerprint, config, replace)
        if old is not None and not replace:
            return _as_it_is(old, kind, memory, device, seed, progress)
        first = begin(path, old, {VECTORS_PLAN: config})
        try:
            footer = {"model": NO_MODEL["fingerprint"], "config": config}
            parts = _write(path, stream, layout, table.schema(layout, stream.labels, []), footer, first, progress)
            manifest = Manifest(
                layout=layout,
                attributes={},
                aliases={},
                weights=default,
                model=dict(NO_MODEL),
                source={"path": stream.folder, "fingerprint": stream.fingerprint},
                config_fingerprint=config,
                labels=stream.labels,
                parts=parts,
                rows=sum(part.rows for part in parts),
                rejected=0,
                generations=list(old.manifest.generations) if old else [],  # their names are taken
                created_by=f"fsearch {metadata.version('fsearch')}",
            )
            build_generation(Gallery(path, manifest), kind, seed, progress, memory, device)
        finally:
            _tidy(path, first)
        return Gallery.open(path)


def add_vectors(
    path: str | Path,
    source: Source,
    *,
    id_column: str = "id",
    vector_column: str = "embedding",
    tail_rows: int = TAIL_ROWS,
    progress: bool = False,
) -> Change:
    """Add vectors to a gallery, in place of those whose ids it has: ``index.catalogue.add`` for raw vectors, streamed.

    source: as for ``create``; label columns must be some of the gallery's. All of it is added, or nothing.
    """
    path = Path(path)
    Gallery.read_manifest(path)  # what is no gallery is said before it is held
    stream = opened(source, id_column, vector_column)
    with only_writer(path):
        gallery = Gallery.open(path)
        manifest = gallery.manifest
        schema = table.schema(manifest.layout, manifest.labels, list(manifest.attributes))
        for name in stream.labels:
            if name not in schema.names:
                raise InputError(f"no column {name!r} in {path}; {table.nearest(name, schema.names)}")
        footer = {"model": manifest.model["fingerprint"], "config": manifest.config_fingerprint}
        try:
            parts = _write(path, stream, manifest.layout, schema, footer, manifest.next_part, progress)
            return append(gallery, parts, tail_rows=tail_rows, progress=progress)
        finally:
            tidy(path, Gallery.read_manifest(path))


def parse_blocks(text: str) -> dict[str, int]:
    """``"look=256,color=64"`` -> {"look": 256, "color": 64}; InputError for anything else."""
    blocks: dict[str, int] = {}
    for piece in text.split(","):
        name, _, size = (each.strip() for each in piece.partition("="))
        if not name or not size.isascii() or not size.isdigit() or not int(size) or name in blocks:
            raise InputError(f"blocks {text!r}: write each name once with its dimensions, as look=256,color=64")
        blocks[name] = int(size)
    return blocks


def existing(path: Path, replace: bool) -> Gallery | None:
    """The gallery at ``path``, whatever state its files are in; one whose manifest is damaged can only be replaced.

    None then: that manifest stays until the new one takes its place, in case it is restored instead.
    """
    if not (path / MANIFEST).is_file():
        return None
    try:
        return Gallery(path, Gallery.read_manifest(path))
    except DamagedError as error:
        if not replace:
            raise DamagedError(f"{error}, with --replace") from None
    return None


def begin(path: Path, old: Gallery | None, plan: dict[str, str]) -> int:
    """Note what is being made, clear what a killed writer left, and return the number of the first new part.

    Without ``old`` it comes after all that lies there, which a gallery.json that is damaged or lost may name, unless
    an unfinished build put that there: then the new build begins where that one did.
    """
    beside = sha256_file(path / MANIFEST) if (path / MANIFEST).is_file() else ""
    first = old.manifest.next_part if old is not None else _first(path, beside)
    atomic_write(path / PLAN, json.dumps({**plan, FIRST: str(first), BESIDE: beside}, indent=1).encode())
    remove_leftovers(path)
    for unnamed in own(path, names.GENERATION) if old is None and not first else ():
        remove(unnamed)  # killed just before its first commit
    return first


def _first(path: Path, beside: str) -> int:
    try:
        begun = json.loads((path / PLAN).read_bytes())
        if begun[BESIDE] == beside:
            return int(begun[FIRST])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    there = [*own(path / TABLE, names.PART), *own(path, names.BESIDE, names.GENERATION)]
    return 1 + max((names.number(each.name) for each in there), default=-1)


def refuse_taken(path: Path, replace: bool) -> None:
    """GalleryError where ``path``, without a plan, holds anything but leftovers.

    With ``replace`` a gallery may lie there whose gallery.json is damaged, or the parts of one that lost it.
    """
    if (path / MANIFEST).is_file() or not path.exists():
        return
    if path.is_dir() and all(each.name.startswith(TEMPORARY) for each in path.iterdir()):
        return
    if not own(path / TABLE, names.PART):
        raise GalleryError(f"{path} is there and is no gallery: choose another --gallery")
    if not replace:
        raise GalleryError(f"{path} has lost its {MANIFEST}: restore that file, or --replace builds the gallery anew")


def _existing(path: Path, source: str, config: str, replace: bool) -> Gallery | None:
    """The gallery at ``path``, if there is one and it may be kept or replaced."""
    if (old := existing(path, replace)) is not None:
        manifest = old.manifest
        rather = "add to it, choose another gallery, or replace this one (--replace)"
        if not replace and manifest.changes != Changes():
            raise MismatchError(f"{path} was changed since it was made: {rather}")
        has = manifest.source["fingerprint"] or "unknown", manifest.config_fingerprint
        if not replace and (not source or manifest.has_model or has != (source, config)):
            wanted = f"source {source or 'unknown'} and config {config}"
            raise MismatchError(f"{path} was made of source {has[0]} and config {has[1]}, this is {wanted}: {rather}")
        return old
    plan = path / PLAN
    if plan.is_file():
        try:
            ours = VECTORS_PLAN in json.loads(plan.read_text(encoding="utf-8"))
        except ValueError:
            ours = False
        if not ours and not replace:
            raise MismatchError(f"{path} holds an unfinished build of photos: --replace begins again")
    else:
        refuse_taken(path, replace)
    return None


def _as_it_is(
    old: Gallery, kind: str, memory: int | None, device: str | None, seed: int, progress: bool
) -> Gallery:  # fmt: skip
    """A gallery of the same vectors; its index is made anew if another kind or another cap is asked for."""
    if not is_current(old.manifest, kind, memory):
        build_generation(old, kind, seed, progress, memory, device)
    tidy(old.path, Gallery.read_manifest(old.path))
    return Gallery.open(old.path)


def _tidy(path: Path, first: int) -> None:
    """Leave what the gallery names or, where nobody knows that, what is numbered before ``first``; no empty folder."""
    tidy(path, sound(path), first)
    if not (path / MANIFEST).is_file() and (path / TABLE).is_dir() and not any((path / TABLE).iterdir()):
        (path / TABLE).rmdir()


def _layout(blocks: Mapping[str, int] | None, width: int) -> Layout:
    blocks = {BLOCK: width} if blocks is None else blocks
    if not width:
        raise InputError("the first vector is empty; every row needs a vector of the same length")
    said = ", ".join(f"{name}={size}" for name, size in blocks.items())
    if any(size < 1 or not name for name, size in blocks.items()):
        raise InputError(f"blocks {said}: each needs a name and 1 dimension or more")
    if sum(blocks.values()) != width:
        raise InputError(
            f"blocks {said} are {sum(blocks.values())} dimensions, the vectors have {width}; make them meet"
        )
    return Layout.of(blocks)


# Writing


def _write(
    path: Path,
    stream: Stream,
    layout: Layout,
    schema: pa.Schema,
    footer: dict[str, str],
    number: int,
    progress: bool,
) -> list[Part]:
    """The stream as parts of the gallery's table, from part ``number`` on. InputError for rows that cannot be used."""
    parts: list[Part] = []
    held: list[pa.Table] = []

    def flush(rows: pa.Table) -> None:
        file = path / TABLE / part_name(number + len(parts))
        parts.append(table.write_part(file, rows.combine_chunks(), footer))

    with tqdm(total=stream.rows, desc="read vectors", unit="row", disable=None if progress else True) as bar:
        for each in stream.tables:
            held.append(_fitted(each, stream, layout, schema))
            bar.update(len(each))
            while sum(map(len, held)) >= ROWS_PER_PART:
                whole = pa.concat_tables(held)
                flush(whole.slice(0, ROWS_PER_PART))
                held = [whole.slice(ROWS_PER_PART)]
    if rest := sum(map(len, held)):
        flush(pa.concat_tables(held).slice(0, rest))
    if parts:
        refuse_twice(table.read_columns([path / TABLE / part.name for part in parts], ["id"])["id"])
    return parts


def _fitted(rows: pa.Table, stream: Stream, layout: Layout, schema: pa.Schema) -> pa.Table:
    """Some rows as rows of the gallery's table."""
    ids = _text(rows, stream.id_column)
    blank = np.asarray(pc.or_kleene(pc.is_null(ids), pc.equal(ids, "")).fill_null(True))
    if blank.any():
        raise InputError(f"column {stream.id_column!r} has a blank cell; every row needs an id")
    units, norms = layout.units(_matrix(rows[stream.vector_column], layout.dim, ids))
    bad = ~np.isfinite(units).all(axis=1) | ~(norms < LONGEST).all(axis=1)
    if bad.any():
        id_ = ids[int(bad.argmax())].as_py()
        raise InputError(f"the vector of id {id_!r} holds NaN, infinity or numbers beyond {LONGEST:g}; leave it out")
    columns: dict[str, Any] = {
        "id": ids, "norms": table.fixed_size_list(norms), "embedding": table.fixed_size_list(units.astype(np.float16))
    }  # fmt: skip
    for name in stream.columns[2:]:
        if pa.types.is_string(schema.field(name).type):
            text = pc.utf8_trim_whitespace(_text(rows, name))
            columns[name] = pc.if_else(pc.equal(text, ""), None, text)
        else:
            columns[name] = rows[name]
    filled = [columns[each.name] if each.name in columns else pa.nulls(len(rows), each.type) for each in schema]
    try:
        return pa.table(filled, names=schema.names).cast(schema)
    except pa.ArrowException as error:
        raise InputError(
            f"the table does not fit a gallery ({str(error).splitlines()[0]}); rename that column"
        ) from None


def _text(rows: pa.Table, name: str) -> pa.ChunkedArray:
    try:
        return rows[name].cast(pa.string())
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"column {name!r} cannot be read as text ({reason}); leave it out") from None


def _matrix(column: pa.ChunkedArray, width: int, ids: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Lists of floats as (n, width)."""
    array = column.combine_chunks()
    array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array

    def refuse(which: npt.NDArray[np.bool_], what: str) -> None:
        if which.any():
            raise InputError(f"the vector of id {ids[int(which.argmax())].as_py()!r} {what}; every row needs {width}")

    refuse(np.asarray(pc.is_null(array)), "is null")
    lengths: npt.NDArray[np.int64] = np.asarray(pc.list_value_length(array))
    other: npt.NDArray[np.bool_] = np.not_equal(lengths, width)
    refuse(other, f"has {lengths[other.argmax()]} dimensions")
    values = array.flatten()
    if values.null_count:
        places: npt.NDArray[np.bool_] = np.asarray(pc.is_null(values)).reshape(len(array), width)
        refuse(places.max(axis=1), "has an empty place")
    return values.to_numpy(zero_copy_only=False).reshape(len(array), width)
