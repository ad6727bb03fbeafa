"""What ``verify`` looks at: every file of a gallery, and what files say of each other."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from index import table
from index.errors import DamagedError, FsearchError
from index.files import sha256_file
from index.manifest import table_fingerprint
from index.table import Layout, Part

if TYPE_CHECKING:
    from index.gallery import Gallery

_NORM_TOLERANCE = 0.01  # float16 rounding moves the length of a unit block by 0.0005 at most


def wrong_size(path: Path, size: int, facts: dict[str, Any]) -> str:
    return f"{path}: damaged ({size} bytes, {facts['bytes']} expected)"


def unreadable(gallery: Gallery, path: Path, error: OSError) -> str:
    """The line for a file that is there; one that this user may not read is no worse for it."""
    remedy = "mend that and run again" if isinstance(error, PermissionError) else gallery.remedy(path)
    return f"{path}: cannot be read ({error.strerror}); {remedy}"


def file_fault(gallery: Gallery, path: Path, facts: dict[str, Any], whole: bool = False) -> str | None:
    """What is wrong with the size, or with all, of a file that the gallery names, and what to run."""
    try:
        size = path.stat().st_size
        if size != facts["bytes"]:
            return f"{wrong_size(path, size, facts)}; {gallery.remedy(path)}"
        if whole and sha256_file(path) != facts["sha256"]:
            return f"{path}: damaged (its checksum does not match); {gallery.remedy(path)}"
    except (FileNotFoundError, NotADirectoryError):
        return f"{path}: missing; {gallery.remedy(path)}"
    except OSError as error:
        return unreadable(gallery, path, error)
    return None


def column_fault(gallery: Gallery, file: Path) -> str | None:
    """How the columns of one part differ from the gallery's; None where they do not."""
    manifest = gallery.manifest
    wanted = table.schema(manifest.layout, manifest.labels, list(manifest.attributes)).names
    odd = sorted(set(wanted) ^ set(table.column_names(file)))
    return f"{file}: {'no' if odd[0] in wanted else 'a'} column {odd[0]!r}, unlike the gallery" if odd else None


def not_unit(layout: Layout, norms: npt.NDArray[Any], vectors: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which rows have a block whose length is not 1, or 0 where the norm (n, blocks) says so: bool (n,)."""
    starts = [block.start for block in layout.blocks]
    lengths = np.sqrt(np.add.reduceat(vectors.astype(np.float32) ** 2, starts, axis=1))  # (n, blocks)
    nothing = (norms == 0) & (lengths == 0)  # a photo without any response in a block
    return (~((np.abs(lengths - 1) < _NORM_TOLERANCE) | nothing)).any(axis=1)


def faults(gallery: Gallery) -> list[str]:
    """Every fault of a gallery, one line each. Reads all of it."""
    found = []
    broken = set()
    for file, facts in gallery.named_files().items():
        if fault := file_fault(gallery, file, facts, whole=True):
            broken.add(file)
            found.append(fault)
    for file, part in zip(gallery.part_paths, gallery.manifest.parts, strict=True):
        if file not in broken:
            found += _part_faults(gallery, file, part)
    return found + _gallery_faults(gallery, broken)


def _part_faults(gallery: Gallery, file: Path, part: Part) -> list[str]:
    """Row count, columns, fingerprints in the footer, and unit blocks of one sound file."""
    faults = []
    manifest = gallery.manifest
    made_by = {"model": manifest.model.get("fingerprint"), "config": manifest.config_fingerprint}
    rows = bad = 0
    try:
        footer, columns = table.read_metadata(file), column_fault(gallery, file)
        for batch in table.batches(file, ["norms", "embedding"]):
            norms, vectors = (table.to_numpy(column) for column in batch.columns)
            bad += int(not_unit(manifest.layout, norms, vectors).sum())
            rows += len(vectors)
    except (FsearchError, ValueError) as error:
        return [str(error)]
    if columns:
        faults.append(f"{columns}; make the gallery anew, with --replace")
    for key, wanted in made_by.items():
        if footer.get(key, wanted) != wanted:
            faults.append(f"{file}: made by {key} {footer[key]}, the gallery by {wanted}; {gallery.remedy(file)}")
    if rows != part.rows:
        faults.append(f"{file}: {rows} rows, {part.rows} expected; {gallery.remedy(file)}")
    if bad:
        faults.append(f"{file}: {bad} rows have a block whose length is not 1; {gallery.remedy(file)}")
    return faults


def _gallery_faults(gallery: Gallery, broken: set[Path]) -> list[str]:
    """Faults between files: removed rows that are none, ids used twice, rejected photos, an index of another table."""
    faults = []
    manifest, current = gallery.manifest, gallery.manifest.current
    listed = gallery.path / manifest.removed_file if manifest.removed_file else None
    readable = listed is None or listed not in broken
    if listed is not None and readable:
        rows = gallery.removed
        rising = len(rows) == 0 or bool((rows[1:] > rows[:-1]).all() and rows[0] >= 0 and rows[-1] < manifest.rows)
        readable = rising and len(rows) == manifest.removed
        if not readable:
            faults.append(f"{listed}: does not list {manifest.removed} rows of the table; {gallery.remedy(listed)}")
    if readable and not broken.intersection(gallery.part_paths):
        with suppress(DamagedError):  # of another number of rows: said of the part
            ids = gallery.columns(["id"])["id"]
            counts = pc.value_counts(ids.take(pa.array(gallery.live())) if manifest.removed else ids)
            if twice := counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist():
                folder = gallery.part_paths[0].parent
                faults.append(f"{folder}: {len(twice)} ids occur twice, as {twice[0]!r}; {gallery.remedy(folder)}")
    rejected = next((gallery.path / name for name in manifest.files if name.startswith("rejected")), None)
    if rejected is not None and rejected not in broken:
        count = table.rows(rejected)
        if count != manifest.rejected:
            faults.append(f"{rejected}: {count} rows, {manifest.rejected} expected; {gallery.remedy(rejected)}")
    if current is not None:
        folder, covered = gallery.path / current.name, table_fingerprint(manifest.parts[: current.parts])
        if current.table_fingerprint != covered:
            faults.append(
                f"{folder}: indexes table {current.table_fingerprint[:12]}, but the gallery holds {covered[:12]};"
                f" {gallery.remedy(folder / 'index')}"
            )
    return faults
