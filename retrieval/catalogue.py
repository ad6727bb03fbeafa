"""Photos into a gallery that is there already, embedded by its own model: ``fsearch add``. See ``index.catalogue``."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from index import catalogue, table
from index.errors import DamagedError, InputError, MismatchError
from index.files import file_facts, only_writer, remove
from index.gallery import MODEL, PLAN, REJECTED, TABLE, Gallery, remove_leftovers, tidy
from index.manifest import Manifest
from index.table import ROWS_PER_PART
from retrieval.datasets.readers import PhotoSource
from retrieval.datasets.records import Photo
from retrieval.embed import embed
from retrieval.models import checkpoint
from retrieval.models.checkpoint import Model
from retrieval.ready import Rejected, write_rejected

if TYPE_CHECKING:
    from retrieval.detection.model import Detector


@dataclass(frozen=True)
class Added:
    """What ``add_photos`` did: the gallery after it, photos added, how many of these replaced one, and photos rejected.

    ``short``: see ``index.catalogue.Change``. ``reasons``: the commonest reasons of the rejected, in one line.
    """

    gallery: Gallery
    added: int = 0
    removed: int = 0
    short: str = ""
    rejected: int = 0
    reasons: str = ""


def add_photos(
    source: PhotoSource, gallery: str | Path, *, detector: Detector | None = None, rows_per_part: int = ROWS_PER_PART,
    progress: bool = False,
) -> Added:  # fmt: skip
    """Embed every photo of ``source`` with the gallery's own model and add it; the same id replaces what was there.

    Label columns must be some of the gallery's; those not given are blank. Interrupted, the same call goes on at the
    first part that is missing. A listing that was added last is there already, and nothing is done. A photo that cannot
    be read replaces nothing. detector: the one that the gallery was built with, if it was; MismatchError for another.
    InputError when none can be read or a label column is unknown; nothing is changed then.
    """
    path = Path(gallery)
    Gallery.read_manifest(path)  # what is no gallery is said before it is held
    with only_writer(path):
        opened = Gallery.open(path)
        manifest = opened.manifest
        if not manifest.has_model:
            raise InputError(
                f"{path} was made from vectors and has no model that could embed a photo; add vectors:"
                " `fsearch add FILE.parquet --vectors COLUMN`"
            )
        _same_detector(path, manifest.source.get("detector"), detector)
        if unknown := [name for name in source.attributes if name not in manifest.labels]:
            has = table.nearest(unknown[0], manifest.labels) if manifest.labels else "it has no labels"
            raise InputError(f"no label column {unknown[0]!r} in {path}; {has}; build-index takes new columns")
        listing = source.fingerprint()[:16]
        if listing == manifest.changes.last:
            return Added(*catalogue.index_tail(path, progress=progress))
        network = _model(opened)
        if (path / PLAN).exists():  # parts of an interrupted --replace, which may have other columns
            tidy(path, manifest)
        remove_leftovers(path)
        first, prefix = manifest.next_part, _prefix(source, Path(manifest.source["path"]))
        identity = {"model": network.fingerprint, "config": manifest.config_fingerprint, "source": listing}
        parts, rejected = embed(
            _placed(source, prefix), len(source), manifest.labels, network, path / TABLE,
            identity | {"added from": ascii(prefix)},  # not the rows that a build of the same listing has
            first_part=first, rows_per_part=rows_per_part, detector=detector, progress=progress,
        )  # fmt: skip
        if not sum(part.rows for part in parts):
            for part in parts:
                remove(path / TABLE / part.name)
            reasons = "; ".join(f"{r.path or r.id}: {r.reason}" for r in rejected[:3])
            raise InputError(f"{source.root}: none of {len(rejected)} photos can be read ({reasons}); check the folder")
        rejected += [Rejected(*missing) for missing in source.missing]
        ids = set(source.rows["id"].to_pylist()) - {each.id for each in rejected}
        files, count = _rejected(opened, rejected, ids, first)
        change = catalogue.append(opened, parts, files=files, rejected=count, last=listing, progress=progress)
        return Added(*change, rejected=len(rejected), reasons=_reasons(rejected))


def _same_detector(path: Path, has: str | None, detector: Detector | None) -> None:
    given = None if detector is None else detector.fingerprint
    if has == given:
        return
    if has is None:
        raise InputError(f"{path} holds whole photos, not crops: add without --detect, or build it anew with it")
    raise MismatchError(
        f"{path} holds crops by detector {has}, this is {given or 'none'}: add with --detect and --detector FILE, "
        "the one that it was built with"
    )


def _model(gallery: Gallery) -> Model:
    """The gallery's own copy of the network that made it."""
    path = gallery.file(MODEL)
    network, wanted = checkpoint.read(path), gallery.manifest.model["fingerprint"]
    if network.fingerprint != wanted:
        raise DamagedError(f"{path}: is model {network.fingerprint}, not {wanted}; {gallery.remedy(path)}")
    return network


def _prefix(source: PhotoSource, root: Path) -> str:
    """Where the gallery finds the photos: relative to the folder it was built from, else absolute."""
    own = source.root.resolve()
    return own.relative_to(root).as_posix() if own.is_relative_to(root) else own.as_posix()


def _placed(source: PhotoSource, prefix: str) -> Iterator[Photo]:
    for photo in source:
        yield photo._replace(path=posixpath.normpath(posixpath.join(prefix, photo.path)) if photo.path else "")


def _rejected(gallery: Gallery, rejected: list[Rejected], added: set[str], number: int) -> tuple[dict[str, Any], int]:
    """The manifest's files and count with these rejected photos beside the old ones, less what has been added since."""
    manifest: Manifest = gallery.manifest
    old = table.read_columns([gallery.reading(gallery.file(REJECTED))], ["id", "path", "reason"]).to_pylist()
    again = {(each.id, each.path) for each in rejected}
    kept = [Rejected(**row) for row in old if row["id"] not in added and (row["id"], row["path"]) not in again]
    if not rejected and len(kept) == len(old):
        return manifest.files, manifest.rejected
    name = REJECTED.replace(".", f"-{number:05d}.")
    write_rejected(gallery.path / name, kept + rejected)
    files = {each: facts for each, facts in manifest.files.items() if each != gallery.file(REJECTED).name}
    return files | {name: file_facts(gallery.path / name)}, len(kept) + len(rejected)


def _reasons(rejected: list[Rejected], most: int = 4) -> str:
    common = Counter(each.reason for each in rejected).most_common()
    return ", ".join(f"{count} {reason}" for reason, count in common[:most]) + (", ..." if len(common) > most else "")
