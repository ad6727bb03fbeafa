"""Training photos in memory: decoded once where they fit, labels as codes, split by style."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from index.errors import InputError, PhotoError
from retrieval import photos
from retrieval.config import Config
from retrieval.datasets.letters import targets, values_in, written
from retrieval.datasets.records import Photo
from retrieval.datasets.source import PhotoSource
from retrieval.datasets.splits import held_out
from retrieval.training import regions

AT_ONCE = 256  # photos that a network sees together where nothing is learned


class PixelStore:
    """Letterboxed pixels of many photos: the first are kept in memory up to ``cache_mb``, the others decoded each time.

    ``rows``: which source each row number stands for.
    """

    def __init__(self, sources: Sequence[photos.Source], size: int, cache_mb: int) -> None:
        self.sources, self.size = sources, size
        self.rows = np.arange(len(sources))
        kept = min(len(sources), cache_mb * 2**20 // (size * size * 3))
        self.kept = np.empty((kept, size, size, 3), np.uint8)
        self.ready = np.zeros(kept, bool)
        self.pool = ThreadPoolExecutor(os.cpu_count() or 1)

    def _one(self, place: int) -> np.ndarray:
        if place < len(self.ready) and self.ready[place]:
            return self.kept[place]
        pixels = photos.load(self.sources[place], self.size).pixels
        if place < len(self.ready):
            self.kept[place], self.ready[place] = pixels, True
        return pixels

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """(n,) row numbers -> (n, s, s, 3) uint8."""
        return np.stack(list(self.pool.map(self._one, self.rows[rows].tolist())))

    def part(self, rows: np.ndarray) -> PixelStore:
        """Only the photos of ``rows``, (n,) int64; what is in memory is shared."""
        other = copy(self)
        other.rows = self.rows[rows]
        return other

    def reject(self, progress: bool) -> dict[int, str]:
        """Decode all once; what cannot be read leaves the rows. Returns place among the sources -> reason."""

        def check(place: int) -> str | None:
            try:
                self._one(place)
            except PhotoError as error:
                return error.reason
            return None

        work = self.pool.map(check, range(len(self.sources)))
        reasons = list(tqdm(work, "photos", len(self.sources), unit="photo", disable=None if progress else True))
        rejected = {place: reason for place, reason in enumerate(reasons) if reason is not None}
        self.rows = np.delete(np.arange(len(self.sources)), list(rejected))
        return rejected


@dataclass(frozen=True)
class TrainingSet:
    """Photos that decode, with labels in vocabulary order.

    ``codes`` (n, A) int64, -1 = no label; ``sets``: for each multi-label attribute (n, V) int64, 1 has, 0 lacks (what
    it may have is either, by a coin that the seed throws), -1 no label, and its column of ``codes`` numbers the
    different sets; ``styles`` (n,) int64; ``validation`` (n,) bool; ``rejected``: id, reason; ``regions``: as
    ``regions.read``, where the config names them.
    """

    ids: list[str]
    pixels: PixelStore
    codes: np.ndarray
    styles: np.ndarray
    validation: np.ndarray
    vocabulary: dict[str, list[str]]
    rejected: list[tuple[str, str]]
    sets: dict[str, np.ndarray]
    regions: np.ndarray | None = None

    def passing(self, rows: np.ndarray, name: str, progress: bool) -> Iterator[np.ndarray]:
        """The unchanged pixels of ``rows``, (n, s, s, 3) uint8, AT_ONCE at a time; the bar is called ``name``."""
        spans = range(0, len(rows), AT_ONCE)
        for start in tqdm(spans, name, unit="batch", disable=None if progress else True):
            yield self.pixels[rows[start : start + AT_ONCE]]

    def labels(self) -> np.ndarray:
        """(n, W) int8: all labels side by side, 1 where a photo has the value, W the sum of the vocabulary's sizes."""
        parts = [
            np.clip(self.sets[name], 0, 1) if name in self.sets else self.codes[:, i, None] == np.arange(len(values))
            for i, (name, values) in enumerate(self.vocabulary.items())
        ]
        return np.concatenate(parts, axis=1).astype(np.int8)


def gather(source: Iterable[Photo], config: Config, progress: bool = False) -> TrainingSet:
    """Decode, encode the labels, split. The vocabulary comes from the training part alone, most frequent first.

    Raises InputError when an attribute of the config is no column of the labels, or when nothing is left to train on.
    """
    records = list(source)
    if not records:
        raise InputError("no photos to train on: check data.photos in the config")
    attributes = config.model.attributes
    columns = {name for record in records for name in record.attributes}
    wanted = [*attributes, *config.data.style, *filter(None, (config.data.split, config.data.maybe))]
    if missing := [name for name in wanted if name not in columns]:
        raise InputError(
            f"the labels have no column {', '.join(missing)}, which the config names; "
            f"they have {', '.join(sorted(columns))}"
        )
    if config.data.split is not None:
        records = _used(records, config.data.split)
    store = PixelStore([r.source for r in records], config.model.input_size, config.training.cache_mb)
    rejected = [(records[place].id, reason) for place, reason in store.reject(progress).items()]
    if len(rejected) == len(records):
        raise InputError(f"none of the {len(records)} photos can be read; the first, {': '.join(rejected[0])}")
    records = [records[place] for place in store.rows]
    groups = [
        next((style for name in config.data.style if (style := record.attributes.get(name))), None)
        for record in records
    ]
    ids = [record.id for record in records]
    validation = held_out(groups, ids, config.data.holdout)
    if config.data.split is not None:
        val = np.array([_part(record.attributes[config.data.split]) == "val" for record in records])
        validation = val if val.any() else validation
    names = [group or f"\0{name}" for group, name in zip(groups, ids, strict=True)]
    vocabulary: dict[str, list[str]] = {}
    codes = np.full((len(records), len(attributes)), -1, np.int64)
    sets: dict[str, np.ndarray] = {}
    for column, (name, attribute) in enumerate(attributes.items()):
        said = [record.attributes.get(name) for record in records]
        cells = [values_in(cell) if attribute.multi else [cell] if cell else [] for cell in said]
        counts = Counter(value for cell, held in zip(cells, validation, strict=True) if not held for value in cell)
        vocabulary[name] = [value for value, n in counts.most_common() if n >= attribute.min_count]
        if len(vocabulary[name]) < 2:
            raise InputError(f"attribute {name} has fewer than two values in the training labels: leave it out")
        code = {value: i for i, value in enumerate(vocabulary[name])}
        if attribute.multi:
            unsure = [values_in(r.attributes.get(config.data.maybe)) if config.data.maybe else () for r in records]
            letters = [written(code, has, maybe) for has, maybe in zip(cells, unsure, strict=True)]
            sets[name] = targets(letters, config.training.seed + column).astype(np.int64)
            number = np.unique(sets[name], axis=0, return_inverse=True)[1].reshape(-1)
            codes[:, column] = np.where((sets[name] < 0).any(axis=1), -1, number)
        else:
            codes[:, column] = [code.get(cell[0], -1) if cell else -1 for cell in cells]
    return TrainingSet(
        ids=ids,
        pixels=store,
        codes=codes,
        styles=np.unique(names, return_inverse=True)[1].astype(np.int64).reshape(-1),
        validation=validation,
        vocabulary=vocabulary,
        rejected=rejected,
        sets=sets,
        regions=_regions(source, config, ids),
    )


def _regions(source: Iterable[Photo], config: Config, ids: Sequence[str]) -> np.ndarray | None:
    """The masks of the folder that the config names, relative to the photos' own."""
    if config.data.regions is None:
        return None
    root = source.root if isinstance(source, PhotoSource) else Path()
    return regions.read(root / config.data.regions, ids, config.model.attributes, config.model.input_size)


def _part(cell: str | None) -> str:
    """train, val or test, as data sets spell them."""
    word = (cell or "").strip().casefold()
    return {"validation": "val", "valid": "val", "query": "test", "gallery": "test"}.get(word, word)


def _used(records: list[Photo], column: str) -> list[Photo]:
    """The records of the train and val parts; those of the test part are dropped before anything looks at them."""
    parts = [_part(record.attributes[column]) for record in records]
    if unknown := [i for i, part in enumerate(parts) if part not in ("train", "val", "test")]:
        said = records[unknown[0]].attributes[column]
        raise InputError(f"{column} of photo {records[unknown[0]].id} is {said!r}: expected train, val or test")
    if "train" not in parts:
        raise InputError(f"no photo whose {column} is train")
    return [record for record, part in zip(records, parts, strict=True) if part != "test"]
