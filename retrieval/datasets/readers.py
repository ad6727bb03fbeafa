"""Readers: a folder, a labelled folder, a CSV or Parquet list of paths, a Parquet with image bytes -> one listing.

``open_photos`` picks the reader. A listing is held as an Arrow table of strings, so ten million rows fit in memory, and
no photo is opened to make it. Every column is read as text (an id such as 0012 keeps its zeros); blanks are None.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from index.errors import InputError
from retrieval.datasets.records import Missing, Photo, RowBytes
from retrieval.datasets.tables import names, parquet, read_table, strings, unique
from retrieval.photos import Source

# HEIC is listed though Pillow cannot decode it: a photo must be counted and rejected, not passed over in silence
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
)
NO_PHOTO = "labelled, but no photo"


@dataclass(frozen=True)
class PhotoSource:
    """A listing of photos, in a stable order: by path for folders, by row for files. Iterate it as often as needed.

    ``rows``: string columns ``id``, ``path``, then the attributes. ``missing``: labels without a photo, folders and
    names that cannot be read. ``packed``: the Parquet file and column that hold the image bytes, if they are there.
    """

    root: Path
    rows: pa.Table
    missing: tuple[Missing, ...] = ()
    packed: tuple[Path, str] | None = None

    def __len__(self) -> int:
        return self.rows.num_rows

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attribute columns, in the order of the labels."""
        return tuple(self.rows.column_names[2:])

    def __iter__(self) -> Iterator[Photo]:
        return self.photos()

    def photos(self, start: int = 0) -> Iterator[Photo]:
        """The photos from position ``start`` on; those before it cost nothing."""
        row = start
        for batch in self.rows.slice(start).to_batches(max_chunksize=4096):
            ids, paths, *columns = (column.to_pylist() for column in batch.columns)
            values = zip(*columns, strict=True) if columns else iter(() for _ in ids)
            for id_, path, cells in zip(ids, paths, values, strict=True):
                source: Source = RowBytes(*self.packed, row) if self.packed else self.root / path
                yield Photo(id_, path, source, dict(zip(self.attributes, cells, strict=True)))
                row += 1

    def fingerprint(self) -> str:
        """sha256 over id, path, size, mtime and attributes of every photo (size and mtime of a Parquet of bytes).

        The root is left out: a folder that was moved, or copied with its times, is the same listing.
        """
        digest = hashlib.sha256(json.dumps(self.attributes).encode())
        if self.packed:
            digest.update(json.dumps([self.packed[0].name, *_size_and_time(self.packed[0])]).encode())
        for photo in self.photos():
            of_file = () if self.packed else _size_and_time(self.root / photo.path)
            line = [photo.id, photo.path, *of_file, *photo.attributes.values()]
            digest.update(json.dumps(line).encode() + b"\n")
        return digest.hexdigest()


def open_photos(root: Path, labels: Path | None = None) -> PhotoSource:
    """The listing of a folder (``labels``: a CSV or Parquet that describes it), or of a CSV or Parquet file.

    A folder that holds labels.csv and photos/ is read with those labels. Raises InputError, one line, for whatever
    makes the listing unusable; a single unreadable photo never does.
    """
    root = Path(root)
    try:
        if root.is_dir():
            laid_out = root / "labels.csv"
            if labels is None and laid_out.is_file() and (root / "photos").is_dir():
                return _labelled_folder(root, "photos", laid_out)
            return _labelled_folder(root, "", Path(labels)) if labels is not None else _folder(root)
        if not root.exists():
            raise InputError(
                f"{root}: no such folder or file; name a photo folder, or a CSV or Parquet that lists photos"
            )
        if root.suffix.lower() not in (".csv", ".parquet"):
            raise InputError(
                f"{root}: neither a folder nor a .csv or .parquet file; name the folder that holds the photos"
            )
        if labels is not None:
            raise InputError(f"{root} holds its own columns; give a folder with --labels, or {root.name} alone")
        return _listing(root)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        where, why = getattr(error, "filename", None) or root, getattr(error, "strerror", None) or error
        raise InputError(f"{where}: cannot be read ({why})") from None


def _folder(root: Path) -> PhotoSource:
    paths, missing = _scan(root, "")
    if not paths:
        raise _no_photos(root)
    return PhotoSource(root, pa.table({"id": strings(paths), "path": strings(paths)}), tuple(missing))


def _labelled_folder(root: Path, inside: str, labels: Path) -> PhotoSource:
    """Photos under root/inside joined with their labels, by ``path`` (relative to root), else by ``id``.

    With a path column, an extra photo's id is its path; else every photo's id is its file name without the ending.
    """
    table = read_table(labels)
    by = next((name for name in ("path", "id") if name in table.column_names), None)
    if by is None:
        raise InputError(f"{labels}: no column id or path; it has {names(table)}")
    label_ids = unique(table, "id" if "id" in table.column_names else "path", labels)
    label_keys = [_key(value, root if by == "path" else None) for value in unique(table, by, labels)]
    row_of = {key: row for row, key in enumerate(unique(pa.table({by: strings(label_keys)}), by, labels))}
    paths, missing = _scan(root, inside)
    if by == "path":  # the labels may name a photo whose suffix says nothing
        listed = {_key(path) for path in paths}
        paths = sorted([*paths, *(key for key in row_of if key not in listed and (root / key).is_file())])
    if not paths:
        raise _no_photos(root / inside)
    keys = [_key(path if by == "path" else posixpath.splitext(posixpath.basename(path))[0]) for path in paths]
    found = [row_of.get(key) for key in keys]
    matched = {row for row in found if row is not None}
    if not matched:
        raise InputError(
            f"{labels}: no row belongs to a photo (first {by}: {next(iter(row_of))!r}; first photo: {keys[0]!r}); "
            "an id is a file name without its ending, a path starts at the photo folder"
        )
    ids = [key if row is None else label_ids[row] for key, row in zip(keys, found, strict=True)]
    _refuse_shared_ids(ids, paths, root)
    rows = table.drop_columns([name for name in ("id", "path") if name in table.column_names])
    rows = rows.take(pa.array(found, pa.int64())) if rows.num_columns else rows
    missing += [
        Missing(label_ids[row], key if by == "path" else "", NO_PHOTO)
        for key, row in row_of.items()
        if row not in matched
    ]
    listing = {"id": strings(ids), "path": strings(paths)}
    return PhotoSource(
        root, pa.table(listing | dict(zip(rows.column_names, rows.columns, strict=True))), tuple(missing)
    )


def _listing(file: Path) -> PhotoSource:
    """A CSV or Parquet whose rows are photos: by path, or (Parquet) with the bytes of the image in the row."""
    packed = _packed_column(file) if file.suffix.lower() == ".parquet" else None
    table = read_table(file)
    held = set(table.column_names)
    if packed is None and "path" not in held:
        hint = "; to label a folder, give the folder and --labels" if "id" in held else ""
        hint = f"; to index its vectors, say --vectors {found}" if (found := _vector_column(file)) else hint
        kinds = "path, or of image bytes" if file.suffix.lower() == ".parquet" else "path"
        raise InputError(f"{file}: no column {kinds}; it has {names(table)}{hint}")
    paths = unique(table, "path", file, repeats=True) if packed is None else []
    if "id" in held or "path" in held:
        ids = unique(table, "id" if "id" in held else "path", file)
    else:
        ids = _packed_ids(file, packed or "")
    if not ids:
        raise InputError(f"{file}: no rows in it; nothing to list")
    rest = {name: table[name] for name in table.column_names if name not in ("id", "path")}
    rows = pa.table({"id": strings(ids), "path": strings(paths or [""] * len(ids))} | rest)
    return PhotoSource(file.parent, rows, packed=(file, packed) if packed else None)


def _packed_column(file: Path) -> str | None:
    """The leaf of a Parquet's schema that holds image bytes: image or bytes, binary or Hugging Face's {bytes, path}."""
    schema = parquet(file).schema_arrow
    for name in ("image", "bytes"):
        kind = schema.field(name).type if schema.get_all_field_indices(name) else None
        if kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            return name
        if kind is not None and pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return f"{name}.bytes"
    return None


def _vector_column(file: Path) -> str | None:
    """A column of a Parquet that holds lists of floats, as vectors are kept."""
    for field in parquet(file).schema_arrow if file.suffix.lower() == ".parquet" else ():
        kind = field.type
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if lists and pa.types.is_floating(kind.value_type):
            return str(field.name)
    return None


def _packed_ids(file: Path, packed: str) -> list[str]:
    """Ids for a Parquet of bytes without an id column: the paths beside the bytes if they are unique, else file#row."""
    reader = parquet(file)
    struct, rows = packed.partition(".")[0], reader.metadata.num_rows
    kind = reader.schema_arrow.field(struct).type
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        beside = reader.read([f"{struct}.path"])[struct]
        ids = [name for chunk in beside.chunks for name in chunk.flatten()[0].to_pylist()]
        if all(ids) and len(set(ids)) == rows:
            return ids
    return [f"{file.name}#{row}" for row in range(rows)]


# Scanning


def _scan(root: Path, inside: str) -> tuple[list[str], list[Missing]]:
    """Relative posix paths of all photos under root/inside, sorted. Hidden entries are skipped, links are followed.

    A link to a folder that holds it would never end, so a folder is not entered again from within itself.
    """
    paths: list[str] = []
    missing: list[Missing] = []
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(inside, ())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status = os.stat(root / folder)
            here = (status.st_dev, status.st_ino)
            if here in above:
                continue
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = posixpath.join(folder, entry.name)
                    if _is_folder(entry):
                        waiting.append((path, (*above, here)))
                    elif posixpath.splitext(entry.name)[1].lower() in SUFFIXES:
                        paths.append(path)
        except OSError as error:
            if folder == inside:
                raise
            missing.append(Missing("", _printable(folder), f"a folder that cannot be listed ({error.strerror})"))
    unreadable = [path for path in paths if _printable(path) != path]
    missing += [Missing("", _printable(path), "its name is not UTF-8; rename it") for path in unreadable]
    paths = sorted(set(paths) - set(unreadable))
    return paths, sorted(missing)


def _no_photos(folder: Path) -> InputError:
    return InputError(f"{folder}: no photos in it or its subfolders; their names end in {', '.join(sorted(SUFFIXES))}")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _printable(name: str) -> str:
    """A file name as text that can be written: bytes that are no UTF-8 become \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _refuse_shared_ids(ids: list[str], paths: list[str], root: Path) -> None:
    first: dict[str, str] = {}
    shared = [
        (id_, first[id_], path) for id_, path in zip(ids, paths, strict=True) if first.setdefault(id_, path) != path
    ]
    if shared:
        named = "; ".join(f"{a} and {b} are both {id_!r}" for id_, a, b in shared[:3])
        raise InputError(
            f"{root}: {len(shared):,} photos share an id: {named}; rename them, or label them by a path column"
        )


def _key(value: str, root: Path | None = None) -> str:
    """What photos and labels are joined by. Some systems write é as two characters in file names: both are made one.

    With ``root`` the value is a path: "./a//b.jpg", or an absolute path below root, becomes "a/b.jpg".
    """
    if root is not None:
        value = os.path.relpath(value, os.path.abspath(root)) if os.path.isabs(value) else posixpath.normpath(value)
    return unicodedata.normalize("NFC", value)


def _size_and_time(path: Path) -> tuple[int, int]:
    """Bytes and mtime in ns, or -1 where there is no such file (the listing may name photos that are gone)."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns
