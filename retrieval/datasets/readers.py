"""Readers: a folder, a labelled folder, a CSV or Parquet list of paths, a Parquet with image bytes -> one listing.

``open_photos`` picks the reader. A listing is held as an Arrow table of strings, so ten million rows fit in memory, and
no photo is opened to make it. Every column is read as text (an id such as 0012 keeps its zeros); blanks are None.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from pathlib import Path

import pyarrow as pa

from index.errors import InputError
from retrieval.datasets import benchmarks
from retrieval.datasets.records import Missing
from retrieval.datasets.scan import SUFFIXES, scan
from retrieval.datasets.source import PhotoSource
from retrieval.datasets.tables import names, parquet, read_table, strings, unique

NO_PHOTO = "labelled, but no photo"


def open_photos(root: Path, labels: Path | None = None) -> PhotoSource:
    """The listing of a folder (``labels``: a CSV or Parquet that describes it), or of a CSV or Parquet file.

    A folder that holds labels.csv and photos/ is read with those labels, a published data set
    (``retrieval.datasets.benchmarks``) as it was published. Raises InputError, one line, for whatever
    makes the listing unusable; a single unreadable photo never does.
    """
    root = Path(root)
    try:
        if root.is_dir():
            laid_out = root / "labels.csv"
            if labels is None and laid_out.is_file() and (root / "photos").is_dir():
                return _labelled_folder(root, "photos", laid_out)
            if labels is not None:
                return _labelled_folder(root, "", Path(labels))
            published = benchmarks.recognised(root)
            return published.read(root) if published else _folder(root)
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
    paths, missing = scan(root, "")
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
    paths, missing = scan(root, inside)
    if by == "path":  # the labels may name a photo whose suffix says nothing
        listed = {_key(path) for path in paths}
        named = (key for key in row_of if key not in listed and _inside(key))
        paths = sorted([*paths, *(key for key in named if (root / key).is_file())])
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


def _inside(key: str) -> bool:
    return not posixpath.isabs(key) and key.split("/")[0] != ".."


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


def _no_photos(folder: Path) -> InputError:
    return InputError(f"{folder}: no photos in it or its subfolders; their names end in {', '.join(sorted(SUFFIXES))}")


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
