"""Photos -> Parquet table: each core decodes and encodes batches of its own; resumable at every part.

A worker runs the network on one thread: two cores then never wait for each other inside an operator, and one decodes
while the other computes (measured in benchmarks/embed.py).

A part covers a fixed span of the listing and is written whole, with what was rejected in that span in its footer. A
killed run therefore goes on at the first missing part, and batches never cross parts, so it ends with the same table.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from index import table
from index.accelerate import chosen
from index.build import build_generation, is_current, kept_kind
from index.create import begin, existing, refuse_taken
from index.errors import DamagedError, InputError, MismatchError
from index.faults import unreadable
from index.files import atomic_write, file_facts, only_writer, remove, sha256_file
from index.gallery import MEMORY, MODEL, PLAN, REJECTED, Changes, Gallery, Manifest, tidy
from index.names import PART, TABLE, number, own
from index.recipe import choose
from index.table import ROWS_PER_PART, Layout, Part
from retrieval import photos
from retrieval.config import fingerprint
from retrieval.datasets.readers import PhotoSource
from retrieval.datasets.records import Photo
from retrieval.models import checkpoint
from retrieval.models.checkpoint import Model
from retrieval.models.encode import BATCH, encode
from retrieval.models.memory import to_bytes
from retrieval.models.network import block_dims
from retrieval.ready import BOX, Ready, Rejected, ready, write_rejected

if TYPE_CHECKING:
    from retrieval.detection.model import Detector

AHEAD = 2 * (os.cpu_count() or 1)  # batches under way

T = TypeVar("T")
S = TypeVar("S")


def layout_of(model: Model) -> Layout:
    """The blocks of a model's embedding, look first."""
    return Layout.of(block_dims(model.config.model))


def ahead(pool: ThreadPoolExecutor, work: Callable[[T], S], items: Iterable[T], depth: int) -> Iterator[tuple[T, S]]:
    """``(item, work(item))`` in order, with up to ``depth`` items under way: bounded memory, full overlap."""
    waiting: deque[tuple[T, Future[S]]] = deque()
    source = iter(items)
    for item in islice(source, depth):
        waiting.append((item, pool.submit(work, item)))
    while waiting:
        item, future = waiting.popleft()
        done = future.result()
        for following in islice(source, 1):
            waiting.append((following, pool.submit(work, following)))
        yield item, done


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """A thread for each core, each with one thread for torch; torch's own setting is put back."""
    threads = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool
        finally:
            torch.set_num_threads(threads)


def embed(
    source: Iterable[Photo],
    total: int,
    labels: Sequence[str],
    model: Model,
    folder: Path,
    footer: dict[str, str],
    *,
    first_part: int = 0,
    rows_per_part: int = ROWS_PER_PART,
    limits: photos.Limits = photos.LIMITS,
    detector: Detector | None = None,
    progress: bool = False,
) -> tuple[list[Part], list[Rejected]]:
    """Write the table's parts into ``folder``; parts that an earlier run of the same build finished are kept.

    source: ``total`` photos in a stable order. labels: the label columns to store. footer: what identifies the build;
    a part is kept only if its footer says the same, no more and no less, and it has the same columns. detector: each
    photo is cropped to its best box. Parts are named part-NNNNN.parquet from ``first_part`` on.
    Returns the parts and every photo that is not in them, both in listing order.
    """
    parts: list[Part] = []
    rejected: list[Rejected] = []
    listing = iter(source)
    schema = table.schema(layout_of(model), labels, list(model.memory.vocabulary))
    with (
        _workers() as pool,
        tqdm(total=total, desc="embed", unit="photo", disable=None if progress else True) as bar,
    ):
        for number in range(-(-total // rows_per_part)):
            span = list(islice(listing, rows_per_part))
            path = folder / f"part-{first_part + number:05d}.parquet"
            wanted = footer | {"span": f"{number * rows_per_part}+{len(span)}"}
            part, lost = _finished(path, wanted, schema.names)
            if part is None:
                part, lost = _write(pool, span, labels, model, schema, path, wanted, limits, detector, bar)
            else:
                bar.update(len(span))
                if not bar.disable:  # a quiet bar has no such field
                    bar.initial += len(span)  # kept parts do not count into the rate
            parts.append(part)
            rejected += lost
    return parts, rejected


def _finished(path: Path, wanted: dict[str, str], columns: list[str]) -> tuple[Part | None, list[Rejected]]:
    """The part an earlier run left at ``path``, if it is whole and of this build: add and --replace number alike."""
    if not path.is_file():
        return None, []
    try:
        footer = table.read_metadata(path)
        if {key: footer[key] for key in footer if key != "rejected"} != wanted or table.column_names(path) != columns:
            return None, []
        rows = table.read_columns([path], columns).num_rows  # checks every page
    except DamagedError:
        return None, []
    facts = file_facts(path)
    return Part(path.name, rows, facts["bytes"], facts["sha256"]), [
        Rejected(*r) for r in json.loads(footer["rejected"])
    ]


def _write(
    pool: ThreadPoolExecutor, span: Sequence[Photo], labels: Sequence[str], model: Model, schema: pa.Schema, path: Path,
    footer: dict[str, str], limits: photos.Limits, detector: Detector | None, bar: tqdm,
) -> tuple[Part, list[Rejected]]:  # fmt: skip
    groups = [span[at : at + BATCH] for at in range(0, len(span), BATCH)]
    batches: list[pa.RecordBatch] = []
    rejected: list[Rejected] = []
    work = partial(_batch, labels=labels, model=model, schema=schema, limits=limits, detector=detector)
    for group, (batch, lost) in ahead(pool, work, groups, AHEAD):
        batches.append(batch)
        rejected += lost
        bar.update(len(group))
    said = json.dumps([[r.id, r.path, r.reason] for r in rejected], ensure_ascii=False)
    rows = pa.Table.from_batches(batches, schema=schema)
    return table.write_part(path, rows, footer | {"rejected": said}), rejected


def _batch(
    group: Sequence[Photo], labels: Sequence[str], model: Model, schema: pa.Schema, limits: photos.Limits,
    detector: Detector | None,
) -> tuple[pa.RecordBatch, list[Rejected]]:  # fmt: skip
    """Rows of the table for the photos that can be read, and the others."""
    size = model.config.model.input_size
    results = [(photo, ready(photo, size, limits, detector)) for photo in group]
    held = [(photo, each) for photo, each in results if isinstance(each, Ready)]
    rejected = [each for _, each in results if isinstance(each, Rejected)]
    if not held:
        return pa.RecordBatch.from_pylist([], schema=schema), rejected
    encoded = encode(model, np.stack([each.pixels for _, each in held]))
    own = [photo.attributes if detector is None else photo.attributes | {BOX: each.box} for photo, each in held]
    columns = [
        pa.array([photo.id for photo, _ in held], pa.string()),
        pa.array([photo.path or None for photo, _ in held], pa.string()),
        pa.array([each.width for _, each in held], pa.int32()),
        pa.array([each.height for _, each in held], pa.int32()),
        pa.array([each.content_hash for _, each in held], pa.string()),
        *(pa.array([values.get(name) for values in own], pa.string()) for name in labels),
        *(pa.array(values, pa.string()) for values in encoded.predicted.values()),
        table.fixed_size_list(encoded.norms),
        table.fixed_size_list(encoded.units.astype(np.float16)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema), rejected


@dataclass(frozen=True)
class Built:
    """What ``build_gallery`` made. ``fresh`` is False when the gallery already was of these photos and this model."""

    gallery: Gallery
    rejected: int
    fresh: bool


def build_gallery(
    source: PhotoSource,
    gallery: str | Path,
    model: str | Path | None = None,
    *,
    kind: str = "auto",
    replace: bool = False,
    memory: int | None = None,
    device: str | None = None,
    detector: Detector | None = None,
    rows_per_part: int = ROWS_PER_PART,
    progress: bool = False,
) -> Built:
    """Embed every photo of ``source`` and index it: ``fsearch build-index``.

    model: a checkpoint or a shipped model's name (default: the shipped one); kind, memory, device: of the index, see
    ``index.build.build_generation``. detector: crops each photo to its best box, noted in the column box (blank: none).
    Interrupted, the same call goes on at the first part that is missing. A gallery that already holds these photos, by
    this model, is left as it is; what is damaged in it is made anew. One of other photos or another model, or one that
    was added to or removed from since, is a MismatchError, unless ``replace``: then the new one is built beside it and
    takes its place in one step, so readers see the old one or the new one.

    Raises InputError when no photo can be read, ModelError, GalleryError.
    """
    path = Path(gallery)
    network = checkpoint.read(model)
    listing = source.fingerprint()[:16]
    settings = network.config.model_dump(mode="json", exclude={"data", "training", "mine"})
    if detector is not None:
        settings["detector"] = detector.fingerprint
        if BOX in source.attributes:
            raise InputError(f"the labels have a column {BOX!r} already, where --detect notes its boxes: rename it")
    identity = {"model": network.fingerprint, "config": fingerprint(settings), "source": listing}
    layout, labels = layout_of(network), [*source.attributes, *([BOX] if detector is not None else [])]
    table.schema(layout, labels, list(network.vocabulary))  # what cannot be built is refused before anything is written
    choose(len(source), layout.dim, kind)
    if device is not None:
        chosen(device)
    index: dict[str, Any] = {"kind": kind, "memory": memory, "device": device}
    with only_writer(path):
        return _build(source, path, network, identity, labels, index, replace, rows_per_part, detector, progress)


def _build(
    source: PhotoSource, path: Path, network: Model, identity: dict[str, str], labels: list[str],
    index: dict[str, Any], replace: bool, rows_per_part: int, detector: Detector | None, progress: bool,
) -> Built:  # fmt: skip
    layout = layout_of(network)
    old = existing(path, replace)
    broken: list[Path] = []
    if old is not None and not replace:
        _refuse_another(old, identity)
        broken = [file for file, facts in old.named_files().items() if _broken(old, file, facts)]
        if all(file.parent.name.startswith("gen-") for file in broken):
            return _as_it_is(old, index, bool(broken), progress)
    plan = identity | {"rows_per_part": str(rows_per_part)}
    _refuse_unfinished(path, plan, old is None, replace)
    first = begin(path, old, plan)
    if old is None:
        _keep([part for part in own(path / TABLE, PART) if number(part.name) < first], identity, first, rows_per_part)
    elif broken:
        _keep([part for part in old.part_paths if part not in broken], identity, first, rows_per_part)
    parts, rejected = embed(
        source, len(source), labels, network, path / "table", identity,
        first_part=first, rows_per_part=rows_per_part, detector=detector, progress=progress,
    )  # fmt: skip
    rows = sum(part.rows for part in parts)
    if not rows:
        for part in parts:
            remove(path / "table" / part.name)
        _tidy(path, old, first)
        reasons = "; ".join(f"{r.path or r.id}: {r.reason}" for r in rejected[:3])
        raise InputError(f"{source.root}: none of {len(rejected)} photos can be read ({reasons}); check the folder")
    rejected += [Rejected(*missing) for missing in source.missing]
    search = network.config.search
    manifest = Manifest(
        layout=layout,
        attributes=network.vocabulary,
        aliases={
            "attributes": search.attribute_aliases,
            "values": search.value_aliases,
            "edited": search.edited,
            "keep": search.keep,
        },
        weights={name: float(search.weights.get(name, 1.0)) for name in layout.names},
        model={"name": network.config.name, "fingerprint": network.fingerprint},
        source={"path": str(source.root.resolve()), "fingerprint": identity["source"]}
        | ({"detector": detector.fingerprint} if detector is not None else {}),
        config_fingerprint=identity["config"],
        labels=labels,
        parts=parts,
        rows=rows,
        rejected=len(rejected),
        files=_beside(path, network, rejected, f"-{first:05d}" if old is not None or first else ""),
        generations=list(old.manifest.generations) if old else [],  # their names are taken; replaced by the new one
        created_by=f"fsearch {metadata.version('fsearch')}",
    )
    build_generation(Gallery(path, manifest), progress=progress, **index)
    opened = Gallery.open(path)
    _tidy(path, opened)
    return Built(opened, len(rejected), True)


def reindex(
    gallery: str | Path, kind: str = "auto", seed: int = 0, progress: bool = False, memory: int | None = None,
    device: str | None = None,
) -> Gallery:  # fmt: skip
    """Build a gallery's index anew from its table: ``fsearch build-index --reindex``.

    It is of the same kind unless told, and under the same cap on memory unless that is told: then auto chooses anew.
    """
    path = Path(gallery)
    Gallery.read_manifest(path)  # what is no gallery is said before it is held
    with only_writer(path):
        return _reindex(path, kind, seed, progress, memory, device)


def _reindex(path: Path, kind: str, seed: int, progress: bool, memory: int | None, device: str | None) -> Gallery:
    manifest = Gallery.read_manifest(path)  # the broken index itself must not stand in the way
    if kind == "auto" and memory is None and manifest.current is not None:
        kind = kept_kind(manifest)
    build_generation(Gallery(path, manifest), kind, seed, progress, memory, device)
    return Gallery.open(path)


def _refuse_another(old: Gallery, identity: dict[str, str]) -> None:
    manifest = old.manifest
    if manifest.changes != Changes():
        raise MismatchError(
            f"{old.path} was changed since it was built ({manifest.changes.added:,} photos added, "
            f"{manifest.changes.removed:,} removed): "
            "go on with `fsearch add` and `fsearch remove`, or build it anew, without these, by --replace"
        )
    for what, has, wanted in (
        ("was made by model", manifest.model["fingerprint"], identity["model"]),
        (f"is of {manifest.source['path']}, with photos", manifest.source["fingerprint"], identity["source"]),
        ("was made with config", manifest.config_fingerprint, identity["config"]),
    ):
        if has != wanted:
            raise MismatchError(
                f"{old.path} {what} {has or 'none'}, this is {wanted}: choose another --gallery, or --replace this one"
            )


def _broken(old: Gallery, file: Path, facts: dict[str, Any]) -> bool:
    """Whether to make a file anew; DamagedError where this user may not read it."""
    try:
        return not file.is_file() or sha256_file(file) != facts["sha256"]
    except PermissionError as error:
        raise DamagedError(unreadable(old, file, error)) from error


def _as_it_is(old: Gallery, index: dict[str, Any], broken: bool, progress: bool) -> Built:
    """Keep a gallery of the same photos and model; its index is made anew if it is broken or another is asked for."""
    if not broken and is_current(old.manifest, index["kind"], index["memory"]):
        return Built(old, old.manifest.rejected, False)
    return Built(_reindex(old.path, seed=0, progress=progress, **index), old.manifest.rejected, True)


def _keep(parts: list[Path], identity: dict[str, str], first: int, rows_per_part: int) -> None:
    """Parts that a gallery has of this very build already, under the names that its parts get from ``first`` on."""
    for part in parts:
        try:
            footer = table.read_metadata(part)
        except DamagedError:
            continue
        start = footer.get("span", "").partition("+")[0]
        if start.isdigit() and {key: footer[key] for key in footer if key not in ("span", "rejected")} == identity:
            kept = part.with_name(f"part-{first + int(start) // rows_per_part:05d}.parquet")
            if not kept.exists():
                shutil.copyfile(part, kept)  # a copy that was cut off is found out and made again


def _refuse_unfinished(path: Path, identity: dict[str, str], new: bool, replace: bool) -> None:
    """Refuse to go on with the parts of another build, or in a folder that is no gallery."""
    plan = path / PLAN
    if plan.is_file():
        try:
            begun = json.loads(plan.read_text(encoding="utf-8"))
        except ValueError:
            begun = {}
        if not replace and any(begun.get(key) != identity[key] for key in identity):
            said = [
                f"{key} {begun.get(key)}, this is {identity[key]}"
                for key in identity
                if begun.get(key) != identity[key]
            ]
            raise MismatchError(f"{path} holds an unfinished build of {'; '.join(said)}: --replace begins again")
    elif new:
        refuse_taken(path, replace)


def _tidy(path: Path, gallery: Gallery | None, first: int = 0) -> None:
    """Remove parts and files that were replaced or never committed (see ``index.gallery.tidy``)."""
    tidy(path, gallery.manifest if gallery else None, first)
    for folder in (path / "table", path):
        if gallery is None and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _beside(path: Path, model: Model, rejected: Sequence[Rejected], suffix: str) -> dict[str, dict[str, object]]:
    """Write the model, its memory and the list of rejected photos into the gallery; their facts for the manifest.

    The whole model lies in the gallery, so that it answers photos wherever it is copied to, whatever fsearch ships.
    """
    names = [f"{role.rsplit('.', 1)[0]}{suffix}.{role.rsplit('.', 1)[1]}" for role in (MODEL, MEMORY, REJECTED)]
    atomic_write(path / names[0], model.path.read_bytes())
    atomic_write(path / names[1], to_bytes(model.memory, model.fingerprint))
    write_rejected(path / names[2], rejected)
    return {name: file_facts(path / name) for name in names}


def rejected_path(gallery: Gallery) -> Path:
    """The Parquet file with every photo that is not in the gallery's table: id, path, reason."""
    return gallery.file(REJECTED)


def rejected_reasons(gallery: Gallery, most: int = 4) -> str:
    """The commonest reasons with their counts, in one line."""
    reasons = table.read_columns([rejected_path(gallery)], ["reason"])["reason"].to_pylist()
    common = Counter(reasons).most_common()
    said = ", ".join(f"{count} {reason}" for reason, count in common[:most])
    return said + (", ..." if len(common) > most else "")
