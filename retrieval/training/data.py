"""Training photos in memory: decoded once, labels as codes, split by style."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from index.errors import InputError, PhotoError
from retrieval import photos
from retrieval.config import Config
from retrieval.datasets.records import Photo
from retrieval.datasets.splits import held_out


class PixelStore:
    """Letterboxed pixels of many photos: kept in memory while they fit ``cache_mb``, decoded again beyond that."""

    def __init__(self, sources: Sequence[photos.Source], size: int, cache_mb: int) -> None:
        self.sources, self.size = sources, size
        kept = min(len(sources), cache_mb * 2**20 // (size * size * 3))
        self.kept = np.empty((kept, size, size, 3), np.uint8)
        self.ready = np.zeros(kept, bool)
        self.pool = ThreadPoolExecutor(os.cpu_count() or 1)

    def _one(self, row: int) -> np.ndarray:
        if row < len(self.ready) and self.ready[row]:
            return self.kept[row]
        pixels = photos.load(self.sources[row], self.size).pixels
        if row < len(self.ready):
            self.kept[row], self.ready[row] = pixels, True
        return pixels

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """(n,) row numbers -> (n, s, s, 3) uint8."""
        return np.stack(list(self.pool.map(self._one, rows.tolist())))


@dataclass(frozen=True)
class TrainingSet:
    """Photos that decode, with labels in vocabulary order.

    ``codes`` (n, A) int64, -1 = no label; ``styles`` (n,) int64; ``validation`` (n,) bool; ``rejected``: id, reason.
    """

    ids: list[str]
    pixels: PixelStore
    codes: np.ndarray
    styles: np.ndarray
    validation: np.ndarray
    vocabulary: dict[str, list[str]]
    rejected: list[tuple[str, str]]


def gather(source: Iterable[Photo], config: Config, progress: bool = False) -> TrainingSet:
    """Decode, encode the labels, split. The vocabulary comes from the training part alone, most frequent first.

    Raises InputError when an attribute of the config is no column of the labels, or when nothing is left to train on.
    """
    records = list(source)
    if not records:
        raise InputError("no photos to train on: check data.photos in the config")
    attributes = config.model.attributes
    columns = {name for record in records for name in record.attributes}
    wanted = [*attributes, *([config.data.style] if config.data.style else [])]
    if missing := [name for name in wanted if name not in columns]:
        raise InputError(
            f"the labels have no column {', '.join(missing)}, which the config names; "
            f"they have {', '.join(sorted(columns))}"
        )
    store = PixelStore([r.source for r in records], config.model.input_size, config.training.cache_mb)
    rejected: dict[int, str] = {}

    def check(row: int) -> None:
        try:
            store._one(row)
        except PhotoError as error:
            rejected[row] = error.reason

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        work = pool.map(check, range(len(records)))
        list(tqdm(work, "photos", len(records), unit="photo", disable=None if progress else True))
    kept = [row for row in range(len(records)) if row not in rejected]
    styled = config.data.style or ""
    groups = [records[row].attributes.get(styled) for row in kept]
    ids = [records[row].id for row in kept]
    validation = held_out(groups, ids, config.data.holdout)
    names = [group or f"\0{name}" for group, name in zip(groups, ids, strict=True)]
    vocabulary: dict[str, list[str]] = {}
    for name, attribute in attributes.items():
        counts = Counter(
            value
            for row, held in zip(kept, validation, strict=True)
            if not held and (value := records[row].attributes.get(name))
        )
        vocabulary[name] = [value for value, n in counts.most_common() if n >= attribute.min_count]
        if len(vocabulary[name]) < 2:
            raise InputError(f"attribute {name} has fewer than two values in the training labels: leave it out")
    codes = np.full((len(kept), len(attributes)), -1, np.int64)
    for column, (name, values) in enumerate(vocabulary.items()):
        code = {value: i for i, value in enumerate(values)}
        codes[:, column] = [code.get(records[row].attributes.get(name) or "", -1) for row in kept]
    packed = PixelStore([records[row].source for row in kept], store.size, 0)
    if rejected or len(store.kept) < len(records):  # rows moved: the kept pixels move with them
        inside = [row for row in kept if row < len(store.kept)]
        packed.kept, packed.ready = store.kept[inside], store.ready[inside]
    else:
        packed.kept, packed.ready = store.kept, store.ready
    return TrainingSet(
        ids=ids,
        pixels=packed,
        codes=codes,
        styles=np.unique(names, return_inverse=True)[1].astype(np.int64).reshape(-1),
        validation=validation,
        vocabulary=vocabulary,
        rejected=[(records[row].id, reason) for row, reason in sorted(rejected.items())],
    )
