"""The gallery folder: its manifest (gallery.json, replaced last and at once), its parts, its index generations.

A reader opens the manifest once and sees that state; a writer puts every file in place under its own name and commits.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from index import table, vectors
from index.errors import DamagedError, FsearchError, GalleryError, UnknownNameError
from index.files import TEMPORARY, atomic_path, atomic_write, file_facts, remove, sha256_file
from index.table import Layout, Part

__all__ = [
    "FORMAT",
    "Gallery",
    "Generation",
    "Manifest",
    "atomic_path",
    "atomic_write",
    "file_facts",
    "leftovers",
    "remove_leftovers",
    "sha256_file",
    "table_fingerprint",
    "verify",
]

FORMAT = 1
MANIFEST = "gallery.json"
TABLE = "table"
VECTORS = "vectors.f16"
MODEL = "model.safetensors"
MEMORY = "memory.safetensors"
REJECTED = "rejected.parquet"
PLAN = "building.json"  # what an unfinished build is making; gone once it is committed
_NO_CHECKSUM = "0" * 64
_NORM_TOLERANCE = 0.01  # float16 rounding moves the length of a unit block by 0.0005 at most


@dataclass(frozen=True)
class Generation:
    """One index over the table, in a folder of its own. ``files``: name -> {"bytes", "sha256"}."""

    name: str
    recipe: dict[str, Any]
    files: dict[str, dict[str, Any]]
    table_fingerprint: str


@dataclass(frozen=True)
class Manifest:
    """All that gallery.json holds. Files and parts are named relative to the gallery and to its table folder."""

    layout: Layout
    attributes: dict[str, list[str]]  # the vocabulary that the model edits: attribute -> values
    aliases: dict[str, Any]  # {"attributes": ..., "values": ...}: read and written by retrieval.query
    weights: dict[str, float]  # default block weights
    model: dict[str, str]  # name, fingerprint
    source: dict[str, str]  # path, fingerprint of the input
    config_fingerprint: str
    labels: list[str]  # label columns of the table
    parts: list[Part]
    rows: int
    rejected: int
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # e.g. rejected.parquet -> {"bytes", "sha256"}
    generations: list[Generation] = field(default_factory=list)
    generation: str | None = None  # the current one
    created_by: str = ""  # code version

    def __post_init__(self) -> None:
        if sum(part.rows for part in self.parts) != self.rows:
            raise ValueError(f"{self.rows} rows, but the parts hold {sum(part.rows for part in self.parts)}")
        if self.generation is not None and self.generation not in [each.name for each in self.generations]:
            raise ValueError(f"no generation {self.generation}")
        self.layout.scale(self.weights)

    @property
    def table_fingerprint(self) -> str:
        return table_fingerprint(self.parts)

    @property
    def current(self) -> Generation | None:
        """The generation that searches use; None before the first build."""
        return next((each for each in self.generations if each.name == self.generation), None)

    def to_bytes(self) -> bytes:
        """gallery.json: readable JSON whose ``checksum`` covers every other byte."""
        body = {"checksum": _NO_CHECKSUM, "format": FORMAT, **asdict(self), "layout": self.layout.to_json()}
        text = json.dumps(body, indent=1, ensure_ascii=False) + "\n"
        return text.replace(_NO_CHECKSUM, hashlib.sha256(text.encode()).hexdigest(), 1).encode()

    @classmethod
    def from_bytes(cls, content: bytes, where: Path | str = MANIFEST) -> Manifest:
        """Read gallery.json; DamagedError when a byte changed, GalleryError for a newer format."""
        try:
            body = json.loads(content)
            checksum, version = body.pop("checksum"), body.pop("format")
            plain = content.replace(checksum.encode(), _NO_CHECKSUM.encode(), 1)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DamagedError(f"{where}: damaged (not a gallery manifest); build the gallery again") from error
        if isinstance(version, int) and version > FORMAT:
            raise GalleryError(f"{where}: format {version} is newer than {FORMAT}, the newest known; upgrade fsearch")
        if hashlib.sha256(plain).hexdigest() != checksum:
            raise DamagedError(f"{where}: damaged (its checksum does not match); build the gallery again")
        try:
            body["layout"] = Layout.from_json(body["layout"])
            body["parts"] = [Part(**part) for part in body["parts"]]
            body["generations"] = [Generation(**each) for each in body["generations"]]
            return cls(**body)
        except (ValueError, KeyError, TypeError, FsearchError) as error:
            raise DamagedError(f"{where}: damaged ({error}); build the gallery again") from error


def table_fingerprint(parts: Sequence[Part]) -> str:
    """What a generation remembers of the table it indexes: the hash of its parts' checksums, in order."""
    return hashlib.sha256("\n".join(part.sha256 for part in parts).encode()).hexdigest()


class Gallery:
    """A gallery as its manifest describes it. Rows count from 0 over all parts, in order."""

    def __init__(self, path: Path | str, manifest: Manifest) -> None:
        self.path = Path(path)
        self.manifest = manifest
        self._columns: dict[str, pa.ChunkedArray] = {}

    @classmethod
    def open(cls, path: Path | str) -> Gallery:
        """Read the manifest and see that every file it names is there with its size (``verify`` reads them all)."""
        gallery = cls(path, cls.read_manifest(path))
        gallery._check_sizes()
        return gallery

    @staticmethod
    def read_manifest(path: Path | str) -> Manifest:
        """The manifest alone, whatever state the files it names are in."""
        path = Path(path)
        if not (path / MANIFEST).is_file():
            if (path / TABLE).is_dir() or (path / PLAN).is_file():
                raise GalleryError(f"{path}: unfinished; go on with `fsearch build-index PHOTOS --gallery {path}`")
            raise GalleryError(f"{path}: no gallery here; make one with `fsearch build-index PHOTOS --gallery {path}`")
        return Manifest.from_bytes((path / MANIFEST).read_bytes(), path / MANIFEST)

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

    def _check_sizes(self) -> None:
        for path, facts in self.named_files().items():
            if fault := _size_fault(path, facts):
                raise DamagedError(f"{fault}; {self.remedy(path)}")

    def remedy(self, path: Path) -> str:
        """What to run when ``path``, a file of this gallery, is broken."""
        again = path.parent.name in [each.name for each in self.manifest.generations]
        source = self.manifest.source.get("path", "PHOTOS")
        return f"run `fsearch build-index {'--reindex' if again else source} --gallery {self.path}`"

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
            read = table.read_columns(self.part_paths, new)
            self._columns |= dict(zip(new, read.columns, strict=True))
        return pa.table({name: self._columns[name] for name in names})

    @cached_property
    def _column_names(self) -> list[str]:
        names = table.column_names(self.part_paths[0]) if self.manifest.parts else []
        return [name for name in names if name not in table.VECTOR_COLUMNS]

    def embeddings(self, rows_per_batch: int = table.ROWS_PER_GROUP) -> Iterator[npt.NDArray[np.float16]]:
        """All embeddings in row order, float16 (n, dim) at a time."""
        return table.embeddings(self.part_paths, rows_per_batch)

    @cached_property
    def mapped(self) -> npt.NDArray[np.float16] | None:
        """The current generation's memory-mapped vectors, float16 (rows, dim); None when it indexes another table."""
        current = self.manifest.current
        if current is None or current.table_fingerprint != self.manifest.table_fingerprint:
            return None
        return vectors.mapped(self.path / current.name / VECTORS, self.manifest.rows, self.manifest.layout.dim)

    def vectors(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
        """The exact stored vectors of these rows, float16 (n, dim)."""
        if self.mapped is not None:
            return np.asarray(self.mapped[rows])
        return table.take(self.part_paths, "embedding", rows)

    def norms(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The raw length of each block of these rows before it was made unit, float32 (n, blocks)."""
        return table.take(self.part_paths, "norms", rows)

    def row_of(self, id: str) -> int:
        """The row of an id; UnknownNameError offers the nearest ids."""
        ids = self.columns(["id"])["id"]
        row = pc.index(ids, pa.scalar(id, ids.type)).as_py()
        if row >= 0:
            return int(row)
        raise UnknownNameError(f"no id {id!r} in {self.path}; {table.nearest(id, self._ids_like(id))}")

    def _ids_like(self, id: str) -> list[str]:
        """Ids worth comparing with a mistyped one: those that sort beside it or share a rare word of it."""
        ids = self.columns(["id"])["id"]
        ordered = ids.take(pc.sort_indices(ids)).to_pylist()
        at = bisect_left(ordered, id)
        near = ordered[max(0, at - 200) : at + 200]
        for word in re.findall(r"[^\W_]{3,}", id):
            with_word = ids.filter(pc.match_substring(ids, word, ignore_case=True))
            near += with_word.to_pylist() if len(with_word) <= 500 else []
        return near


def leftovers(path: Path | str) -> list[Path]:
    """What a killed build left: unfinished files and folders, and generations that the manifest does not name."""
    path = Path(path)
    found = [each for folder in (path, path / TABLE) if folder.is_dir() for each in folder.glob(f"{TEMPORARY}*")]
    if (path / MANIFEST).is_file():
        manifest = Manifest.from_bytes((path / MANIFEST).read_bytes(), path / MANIFEST)
        named = {each.name for each in manifest.generations}
        found += [each for each in path.glob("gen-*") if each.name not in named]
    return sorted(found)


def remove_leftovers(path: Path | str) -> None:
    """Clear what a killed build left. Only for a gallery's writer: a writer at work has unfinished files too."""
    for each in leftovers(path):
        remove(each)


def _size_fault(path: Path, facts: dict[str, Any]) -> str | None:
    if not path.is_file():
        return f"{path}: missing"
    size = path.stat().st_size
    return None if size == facts["bytes"] else f"{path}: damaged ({size} bytes, {facts['bytes']} expected)"


def verify(path: Path | str) -> list[str]:
    """Every fault found by reading the whole gallery, one line each: the file and what to run. Empty when sound.

    Files and their checksums, row counts, unique ids, unit blocks, fingerprints. What a killed build left is no fault
    (see ``leftovers``).
    """
    path = Path(path)
    try:
        if not (path / MANIFEST).is_file():
            Gallery.open(path)
        gallery = Gallery(path, Manifest.from_bytes((path / MANIFEST).read_bytes(), path / MANIFEST))
    except FsearchError as error:
        return [str(error)]
    faults = []
    broken = set()
    for file, facts in gallery.named_files().items():
        fault = _size_fault(file, facts)
        if fault is None and sha256_file(file) != facts["sha256"]:
            fault = f"{file}: damaged (its checksum does not match)"
        if fault:
            broken.add(file)
            faults.append(f"{fault}; {gallery.remedy(file)}")
    for file, part in zip(gallery.part_paths, gallery.manifest.parts, strict=True):
        if file not in broken:
            faults += _part_faults(gallery, file, part)
    faults += _gallery_faults(gallery, broken)
    return faults


def _part_faults(gallery: Gallery, file: Path, part: Part) -> list[str]:
    """Row count, fingerprints in the footer, and unit blocks of one sound file."""
    faults = []
    manifest = gallery.manifest
    made_by = {"model": manifest.model.get("fingerprint"), "config": manifest.config_fingerprint}
    rows = bad = 0
    try:
        footer = table.read_metadata(file)
        for batch in table.batches(file, ["norms", "embedding"]):
            norms, vectors = (table.to_numpy(column) for column in batch.columns)
            starts = [block.start for block in manifest.layout.blocks]
            lengths = np.sqrt(np.add.reduceat(vectors.astype(np.float32) ** 2, starts, axis=1))  # (n, blocks)
            unit = np.abs(lengths - 1) < _NORM_TOLERANCE
            nothing = (norms == 0) & (lengths == 0)  # a photo without any response in a block
            bad += int((~(unit | nothing)).any(axis=1).sum())
            rows += len(vectors)
    except (FsearchError, ValueError) as error:
        return [str(error)]
    for key, wanted in made_by.items():
        if footer.get(key, wanted) != wanted:
            faults.append(f"{file}: made by {key} {footer[key]}, the gallery by {wanted}; {gallery.remedy(file)}")
    if rows != part.rows:
        faults.append(f"{file}: {rows} rows, {part.rows} expected; {gallery.remedy(file)}")
    if bad:
        faults.append(f"{file}: {bad} rows have a block whose length is not 1; {gallery.remedy(file)}")
    return faults


def _gallery_faults(gallery: Gallery, broken: set[Path]) -> list[str]:
    """Faults between files: ids used twice, the count of rejected photos, an index of another table."""
    faults = []
    manifest, current = gallery.manifest, gallery.manifest.current
    if not broken.intersection(gallery.part_paths):
        counts = pc.value_counts(gallery.columns(["id"])["id"])
        if twice := counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist():
            table_path = gallery.path / TABLE
            faults.append(f"{table_path}: {len(twice)} ids occur twice, as {twice[0]!r}; {gallery.remedy(table_path)}")
    rejected = next((gallery.path / name for name in manifest.files if name.startswith("rejected")), None)
    if rejected is not None and rejected not in broken:
        rows = pq.read_metadata(rejected).num_rows
        if rows != manifest.rejected:
            faults.append(f"{rejected}: {rows} rows, {manifest.rejected} expected; {gallery.remedy(rejected)}")
    if current is not None and current.table_fingerprint != manifest.table_fingerprint:
        folder = gallery.path / current.name
        faults.append(
            f"{folder}: indexes table {current.table_fingerprint[:12]}, but the gallery holds"
            f" {manifest.table_fingerprint[:12]}; {gallery.remedy(folder / VECTORS)}"
        )
    return faults


def with_generation(manifest: Manifest, generation: Generation) -> Manifest:
    """The manifest whose only index is this one."""
    return replace(manifest, generations=[generation], generation=generation.name)
