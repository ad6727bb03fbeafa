"""The gallery folder: its manifest (gallery.json, replaced last and at once), its parts, its index generations.

A reader opens the manifest once, and every file it names, and sees that state whatever writers do; a writer puts every
file in place under a name of its own and commits.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from index import names, table, vectors
from index.errors import DamagedError, FsearchError, InputError, UnknownNameError
from index.faults import faults, file_fault, unreadable, wrong_size
from index.files import atomic_write, being_written, remove, sha256_file
from index.held import Held
from index.hits import Rows
from index.manifest import Changes, Generation, Manifest, committed, sound, table_fingerprint, with_generation
from index.names import MANIFEST, MEMORY, MODEL, PLAN, REJECTED, TABLE, own

_TAKE = pc.get_function("array_take")

__all__ = [
    "MANIFEST", "MEMORY", "MODEL", "PLAN", "REJECTED", "TABLE", "Changes", "Gallery", "Generation", "Manifest",
    "leftovers", "remains", "remove_leftovers", "table_fingerprint", "tidy", "unfinished", "verify", "with_generation",
]  # fmt: skip

VECTORS = "vectors.f16"
MANY_REMOVED = 0.3  # of the table's rows: a compaction then saves much
FIRST_ROWS = 4096  # by which a column is judged: few values that repeat, or not
MANY_PARTS = 200  # beyond twice the full ones: each costs every opening a little


class Gallery:
    """A gallery as its manifest describes it. Rows count from 0 over all parts, in order, removed ones too.

    ``Gallery.open`` is for readers: it holds its files open. ``Gallery(path, manifest)`` finds them by name.
    """

    def __init__(self, path: Path | str, manifest: Manifest) -> None:
        self.path = Path(path)
        self.manifest = manifest
        self._columns: dict[str, pa.ChunkedArray] = {}
        self._whole: dict[str, tuple[npt.NDArray[Any] | None, pa.Array]] = {}
        self._held: dict[Path, Held] = {}

    @classmethod
    def open(cls, path: Path | str) -> Gallery:
        """Read the manifest and open every file it names, with its size (``verify`` reads them all).

        A writer that commits meanwhile may have removed some of them: the new manifest is then opened instead.
        """
        while True:
            gallery = cls(path, cls.read_manifest(path))
            try:
                gallery._hold()
                return gallery
            except DamagedError:
                if cls.read_manifest(path) == gallery.manifest:
                    raise

    @staticmethod
    def read_manifest(path: Path | str) -> Manifest:
        """The manifest alone, whatever state the files it names are in."""
        return committed(path)

    def commit(self, manifest: Manifest) -> Gallery:
        """Make ``manifest`` the state of this gallery: the last step of a write, all or nothing. Returns it opened.

        To create a gallery: ``Gallery(path, manifest).commit(manifest)``, its files being in place.
        """
        gallery = Gallery(self.path, manifest)
        gallery._check_sizes()
        atomic_write(self.path / MANIFEST, manifest.to_bytes())
        return gallery

    @property
    def part_paths(self) -> list[Path]:
        return [self.path / TABLE / part.name for part in self.manifest.parts]

    def named_files(self) -> dict[Path, dict[str, Any]]:
        """Every file that the manifest vouches for, with its "bytes" and "sha256"."""
        named = {path: asdict(part) for path, part in zip(self.part_paths, self.manifest.parts, strict=True)}
        named |= {self.path / name: facts for name, facts in self.manifest.files.items()}
        for each in self.manifest.generations:
            named |= {self.path / each.name / name: facts for name, facts in each.files.items()}
        return named

    def file(self, role: str) -> Path:
        """The file that plays ``role`` (MODEL, MEMORY or REJECTED); a replaced gallery has it under a numbered name."""
        stem, ending = role.rsplit(".", 1)
        for name in self.manifest.files:
            if name == role or (name.startswith(f"{stem}-") and name.endswith(ending)):
                return self.path / name
        raise DamagedError(f"{self.path}: its manifest names no {role}; build the gallery again")

    def reading(self, path: Path) -> Path | Held:
        """What to read for ``path``, a file of this gallery: the file that was opened, if it was."""
        return self._held.get(path, path)

    def where(self, role: str) -> Path:
        """A path that leads to the file of ``role``, also where a writer has removed it since."""
        found = self.reading(self.file(role))
        return found.where if isinstance(found, Held) else found

    def checked(self, role: str) -> Path:
        """The same, for a small file: DamagedError where its checksum does not match."""
        where, path = self.where(role), self.file(role)
        if sha256_file(where) != self.manifest.files[path.name]["sha256"]:
            raise DamagedError(f"{path}: damaged (its checksum does not match); {self.remedy(path)}")
        return where

    def _hold(self) -> None:
        for path, facts in self.named_files().items():
            try:
                self._held[path] = held = Held(path)
            except (FileNotFoundError, NotADirectoryError):
                raise DamagedError(f"{path}: missing; {self.remedy(path)}") from None
            except OSError as error:
                raise DamagedError(unreadable(self, path, error)) from error
            if held.size != facts["bytes"]:
                raise DamagedError(f"{wrong_size(path, held.size, facts)}; {self.remedy(path)}")
        assert self.removed is not None  # its checksum is looked at here: its name may come again after a compaction

    def _check_sizes(self) -> None:
        for path, facts in self.named_files().items():
            if fault := file_fault(self, path, facts):
                raise DamagedError(fault)

    def remedy(self, path: Path) -> str:
        """What to run when ``path``, a file of this gallery, is broken."""
        source = self.manifest.source.get("path", "PHOTOS")
        if path.parent.name in [each.name for each in self.manifest.generations]:
            return f"run `fsearch build-index --reindex --gallery {self.path}`"
        if not self.manifest.has_model:
            return "restore it, or make the gallery anew from its vectors, with --replace"
        if self.manifest.changes == Changes():
            return f"run `fsearch build-index {source} --gallery {self.path}`"
        # what was added is in no listing that the gallery knows of
        return f"restore it, or run `fsearch build-index {source} --replace --gallery {self.path}` and add again"

    def columns(self, names: Sequence[str] | None = None) -> pa.Table:
        """Columns of all rows (None: all but norms and embedding), kept in memory once read.

        UnknownNameError for a column that is not there.
        """
        known = self._column_names
        names = known if names is None else list(names)
        for name in names:
            if name not in known:
                raise UnknownNameError(f"no column {name!r} in {self.path}; {table.nearest(name, known)}")
        if new := [name for name in names if name not in self._columns]:
            read = table.counted(table.read_columns(self._parts, new), self.path / TABLE, self.manifest.rows)
            self._columns |= dict(zip(new, read.columns, strict=True))
        return pa.table({name: self._columns[name] for name in names})

    def take(self, rows: Rows, names: Sequence[str]) -> pa.RecordBatch:
        """These columns of these rows, in their order: what answers are joined with.

        A column of a few texts that repeat, none blank, comes as a dictionary of them: a row costs a byte or two.
        """
        for name in names:
            if name not in self._whole:
                self._whole[name] = self._in_one_piece(name)
        at, found = pa.array(rows), []
        for name in names:  # straight to the kernel: waking Arrow's threads takes longer than ten rows do
            codes, values = self._whole[name]
            if codes is None:
                found.append(_TAKE.call([values, at]))
            else:
                found.append(pa.DictionaryArray.from_arrays(pa.array(codes[rows]), values, safe=False))
        return pa.RecordBatch.from_arrays(found, list(names))

    def _in_one_piece(self, name: str) -> tuple[npt.NDArray[Any] | None, pa.Array]:
        """A column for ``take``: codes (rows,) and what they stand for, or None and the column itself.

        Codes are as narrow as the values allow: a million of a byte lie in the processor's cache.
        """
        column = self.columns([name])[name]
        first = column.slice(0, FIRST_ROWS)
        if pa.types.is_string(column.type) and not column.null_count and 0 < 4 * len(first.unique()) <= len(first):
            encoded = column.dictionary_encode().unify_dictionaries()
            codes = np.concatenate([np.asarray(chunk.indices) for chunk in encoded.chunks])
            values = encoded.chunk(0).dictionary
            return codes.astype(np.min_scalar_type(-len(values))), values
        whole = pa.concat_arrays(column.chunks)
        self._columns[name] = pa.chunked_array([whole])  # no second copy
        return None, whole

    @cached_property
    def _column_names(self) -> list[str]:
        names = table.column_names(self._parts[0]) if self.manifest.parts else []
        return [name for name in names if name not in table.VECTOR_COLUMNS]

    @property
    def _parts(self) -> list[Path | Held]:
        return list(map(self.reading, self.part_paths))

    def embeddings(self, rows_per_batch: int = table.ROWS_PER_GROUP) -> Iterator[npt.NDArray[np.float16]]:
        """All embeddings in row order, float16 (n, dim) at a time."""
        return table.embeddings(self._parts, rows_per_batch)

    @cached_property
    def mapped(self) -> npt.NDArray[np.float16] | None:
        """The memory-mapped vectors of the rows that are indexed, float16 (indexed, dim), from row 0 on.

        None without an index, or when it indexes another table.
        """
        current = self.manifest.current
        if current is None or not self.manifest.indexed_parts:
            return None
        where = self.reading(self.path / current.name / VECTORS)
        return vectors.mapped(where, self.manifest.indexed, self.manifest.layout.dim)

    @cached_property
    def tail(self) -> npt.NDArray[np.float16]:
        """The vectors of the rows behind those that are indexed, float16 (rows - indexed, dim), in memory."""
        found = table.embeddings(self._parts[self.manifest.indexed_parts :])
        tail = np.concatenate([np.zeros((0, self.manifest.layout.dim), np.float16), *found])
        return table.counted(tail, self.path / TABLE, self.manifest.rows - self.manifest.indexed)

    @cached_property
    def removed(self) -> Rows:
        """The rows of the table that are no longer in the gallery, rising int64. DamagedError for a changed file."""
        name = self.manifest.removed_file
        if name is None:
            return np.zeros(0, np.int64)
        path = self.path / name
        try:
            content = Path(os.fspath(self.reading(path))).read_bytes()
        except FileNotFoundError:
            raise DamagedError(f"{path}: missing; {self.remedy(path)}") from None
        if hashlib.sha256(content).hexdigest() != self.manifest.files[name]["sha256"]:
            raise DamagedError(f"{path}: damaged (its checksum does not match); {self.remedy(path)}")
        return np.load(io.BytesIO(content)).astype(np.int64)

    def live(self, rows: Rows | None = None) -> Rows:
        """Of these rows, or of all, those that are in the gallery, in their order."""
        if rows is None:
            rows = np.arange(self.manifest.rows)
        return rows if not len(self.removed) else rows[~np.isin(rows, self.removed, assume_unique=False)]

    def vectors(self, rows: Rows) -> npt.NDArray[np.float16]:
        """The exact stored vectors of these rows, float16 (n, dim)."""
        if self.mapped is None:
            return self._take("embedding", rows, np.zeros((len(rows), self.manifest.layout.dim), np.float16))
        behind = rows >= len(self.mapped)
        if not behind.any():
            return np.asarray(self.mapped[rows])
        out = np.empty((len(rows), self.manifest.layout.dim), np.float16)
        out[~behind], out[behind] = self.mapped[rows[~behind]], self.tail[rows[behind] - len(self.mapped)]
        return out

    def norms(self, rows: Rows) -> npt.NDArray[np.float32]:
        """The raw length of each block of these rows before it was made unit, float32 (n, blocks)."""
        return self._take("norms", rows, np.zeros((len(rows), len(self.manifest.layout.blocks)), np.float32))

    def _take(self, name: str, rows: Rows, out: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Rows of a vector column into ``out``; opens the parts that hold them."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.manifest.rows:
            raise IndexError(f"rows outside 0..{self.manifest.rows - 1}")
        start = 0
        for source, part in zip(self._parts, self.manifest.parts, strict=True):
            here = np.flatnonzero((rows >= start) & (rows < start + part.rows))
            if len(here):
                out[here] = table.take([source], name, rows[here] - start)
            start += part.rows
        return out

    def rows_of(self, ids: Iterable[str]) -> Rows:
        """The rows of these ids, rising, each once.

        UnknownNameError, with the nearest ids, for the first unknown, InputError for one that is no text.
        """
        wanted = list(ids)
        if odd := [each for each in wanted if not isinstance(each, str)]:
            raise InputError(f"id {odd[0]!r} is no text; give ids as the gallery has them")
        wanted = list(dict.fromkeys(wanted))
        found = self.rows_among(pa.array(wanted, pa.string()))
        if len(found) < len(wanted):
            known = set(self.columns(["id"])["id"].take(pa.array(found)).to_pylist())
            unknown = [each for each in wanted if each not in known]
            more = f" ({len(unknown):,} of {len(wanted):,} ids are unknown)" if len(unknown) > 1 else ""
            near = table.nearest(unknown[0], self._ids_like(unknown[0]))
            raise UnknownNameError(f"no id {unknown[0]!r} in {self.path}{more}; {near}")
        return found

    def rows_among(self, ids: pa.Array | pa.ChunkedArray) -> Rows:
        """The rows, rising, whose ids are among these."""
        mask = pc.is_in(self.columns(["id"])["id"], value_set=ids)
        return self.live(np.flatnonzero(mask.to_numpy()).astype(np.int64))

    def row_of(self, id: str) -> int:
        """The row of an id; UnknownNameError offers the nearest ids."""
        return int(self.rows_of([id])[0])

    @cached_property
    def row_by_id(self) -> dict[str, int]:
        """id -> row, of all: for many ids. One alone is found without it."""
        ids = self.columns(["id"])["id"]
        rows = self.live()
        return dict(
            zip(
                ids.take(pa.array(rows)).to_pylist() if self.manifest.removed else ids.to_pylist(),
                rows.tolist(),
                strict=True,
            )
        )

    def advice(self) -> list[str]:
        """What this gallery's index suffers from, one line each with what to run."""
        manifest, current = self.manifest, self.manifest.current
        run = f"run `fsearch compact --gallery {self.path}`"
        said: list[str] = []
        if manifest.rows and not manifest.photos:  # nothing that could be compacted
            return ["every photo was removed; add some with `fsearch add`"]
        drift = current.drift if current is not None else None
        if drift is not None and drift.drifted:
            said.append(
                f"recall@{drift.k} is {drift.recall:.2f} for {drift.rows:,} photos added since the index was trained on"
                f" {drift.trained:,} others, {drift.promised:.2f} was promised then; {run}"
            )
        if manifest.removed > MANY_REMOVED * manifest.rows:
            said.append(f"{manifest.removed:,} of {manifest.rows:,} rows of the table were removed or replaced; {run}")
        if len(manifest.parts) > MANY_PARTS + 2 * manifest.rows // table.ROWS_PER_PART:
            said.append(f"{len(manifest.parts):,} small parts make the gallery slow to open; {run}")
        return said

    def _ids_like(self, id: str) -> list[str]:
        """Ids worth comparing with a mistyped one: those that sort beside it or share a rare word of it."""
        ids = self.columns(["id"])["id"].take(pa.array(self.live()))
        ordered = ids.take(pc.sort_indices(ids)).to_pylist()
        at = bisect_left(ordered, id)
        near = ordered[max(0, at - 200) : at + 200]
        for word in re.findall(r"[^\W_]{3,}", id):
            with_word = ids.filter(pc.match_substring(ids, word, ignore_case=True))
            near += with_word.to_pylist() if len(with_word) <= 500 else []
        return near


def _unnamed(path: Path, *manifests: Manifest) -> list[Path]:
    """The parts, and the files beside them, that none of these manifests names."""
    named = {file for manifest in manifests for file in Gallery(path, manifest).named_files()}
    return [file for file in (*own(path / TABLE, names.PART), *own(path, names.BESIDE)) if file not in named]


def unfinished(path: Path | str) -> list[Path]:
    """What an interrupted build or addition of photos left in a gallery, and goes on with when it is called again."""
    path = Path(path)
    manifest, plan = Gallery.read_manifest(path), path / PLAN

    def goes_on(file: Path) -> bool:
        if names.number(file.name) < manifest.next_part:
            return False  # what a change took the place of
        try:
            return plan.is_file() or "source" in table.read_metadata(file)
        except DamagedError:
            return False

    return [*filter(Path.is_file, [plan]), *filter(goes_on, _unnamed(path, manifest))]


def leftovers(path: Path | str, coming: Manifest | None = None) -> list[Path]:
    """What a killed writer left and none goes on with: temporary files, and what the manifest does not name.

    coming: a manifest that is to be committed, whose files are in place.
    """
    path = Path(path)
    found = own(path, names.UNFINISHED) + own(path / TABLE, names.UNFINISHED)
    if (manifest := sound(path)) is not None:
        named = {each.name for each in manifest.generations} | set(manifest.files)
        found += [each for each in own(path, names.GENERATION, names.ROWS_REMOVED) if each.name not in named]
        found += set(_unnamed(path, manifest, *filter(None, [coming]))).difference(unfinished(path))
    return sorted(found)


def remove_leftovers(path: Path | str, coming: Manifest | None = None) -> None:
    """Clear what a killed writer left. Only for a gallery's writer: a writer at work has unfinished files too."""
    for each in leftovers(path, coming):
        remove(each)


def tidy(path: Path, manifest: Manifest | None, first: int = 0) -> None:
    """Remove what the gallery does not name, parts of unfinished builds too (None: what has a number from first on)."""
    for file in _unnamed(path, *filter(None, [manifest])):
        if manifest is not None or names.number(file.name) >= first:
            remove(file)
    if manifest is not None:
        remove_leftovers(path)
    remove(path / PLAN)


def remains(path: Path | str) -> list[str]:
    """What lies in a gallery beside its files, one line each; nothing while a writer is at work, whose it may be."""

    def found() -> dict[Path, str]:
        left = dict.fromkeys(leftovers(path), "left by an interrupted build or change; the next one clears it")
        on = "of an interrupted build or addition; the same command goes on with it, a compaction clears it"
        return left | dict.fromkeys(unfinished(path), on)

    before = found()
    if not before or being_written(path):
        return []
    return [f"{each}: {said}" for each, said in found().items() if each in before]


def verify(path: Path | str) -> list[str]:
    """Every fault found by reading the whole gallery, one line each: the file and what to run. Empty when sound.

    Files and their checksums, columns, row counts, unique ids, unit blocks, fingerprints. What a killed writer left is
    no fault (see ``remains``).
    """
    try:
        while True:
            gallery = Gallery(path, Gallery.read_manifest(path))
            try:
                found = faults(gallery)
            except (FsearchError, OSError) as error:
                found = [str(error)]
            # a writer that commits meanwhile removes files: then look again
            if not found or Gallery.read_manifest(path) == gallery.manifest:
                return found
    except FsearchError as error:
        return [str(error)]
