"""The stylist: an outfit model at work on photos and a gallery. Scores, explains, completes and makes outfits.

Items enter by the image model's embedding, of photos or of gallery rows. Candidates come from the gallery's index (one
search with the query vector that the LSTM expects), and only those few are scored in their outfit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from index.errors import InputError, UnknownNameError
from index.table import PREDICTED
from retrieval.engine import Engine
from retrieval.models import checkpoint
from retrieval.models.encode import BATCH, encode, encode_photos
from retrieval.models.network import block_dims
from retrieval.outfits import config as configs
from retrieval.outfits import model as models
from retrieval.outfits.config import OTHER
from retrieval.outfits.judge import Score, closeness, cooccurrence, labelled_from, questions_from
from retrieval.outfits.language import plain
from retrieval.outfits.slots import Slots
from retrieval.outfits.train import Catalogue, Published, WornItems, answered, train
from retrieval.photos import Source, source_of
from retrieval.results import Prepared

CANDIDATES = 60  # taken from the index for a place, then scored in the outfit
TEXT_SHARE = 0.5  # of a candidate's order, where a text is given; the rest is how well it fits

MOST = 5  # items of a generated outfit, unless told

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Piece:
    """One item of an outfit: a photo or a gallery row (``id``), with the slot that it fills."""

    name: str
    slot: str
    kind: str | None
    features: Array = field(repr=False, compare=False)  # (D,) float32, unit blocks
    image: Source | None = field(default=None, repr=False, compare=False)
    id: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"item": self.name, "id": self.id, "slot": self.slot, "kind": self.kind}


@dataclass(frozen=True)
class Scored:
    """An outfit in order, its probability of being one (0 to 1), and the per cent of known outfits that score lower."""

    pieces: tuple[Piece, ...]
    score: float
    percentile: float

    def to_json(self) -> dict[str, Any]:
        return {
            "score": round(self.score, 4), "percentile": round(self.percentile, 1),
            "items": [piece.to_json() for piece in self.pieces],
        }  # fmt: skip


@dataclass(frozen=True)
class Explained:
    """Why an outfit scores as it does: influence of each item by aspect (gradient x feature), the worst item and its
    aspect, and replacements that raise the score, best first."""

    outfit: Scored
    influence: dict[str, tuple[float, ...]]  # aspect -> a value an item
    worst: int
    aspect: str
    without: tuple[float, ...]  # the score of the rest without each item; empty for outfits of two
    better: tuple[Scored, ...]

    def to_json(self) -> dict[str, Any]:
        return self.outfit.to_json() | {
            "influence": {name: [round(v, 4) for v in values] for name, values in self.influence.items()},
            "worst": self.outfit.pieces[self.worst].name, "because": self.aspect,
            "without": [round(v, 4) for v in self.without],
            "replacements": [
                each.pieces[self.worst].to_json() | {"score": round(each.score, 4)} for each in self.better
            ],
        }  # fmt: skip


class Stylist:
    """An outfit model with the image model it belongs to, and a gallery to choose from."""

    def __init__(
        self, engine: Engine | None = None, model: str | Path | None = None, image: str | Path | None = None
    ) -> None:
        self.engine = engine
        self.model = models.read(model)
        self._image = image
        if engine is not None:
            self.model.check(engine.gallery.manifest.model.get("fingerprint", ""), str(engine.gallery.path))
        self.slots = self.model.slots
        self._found: dict[tuple[str, ...], npt.NDArray[np.int64]] = {}  # rows of the gallery, by slots

    @cached_property
    def image(self) -> checkpoint.Model:
        """The image model: the gallery's own copy, else the one given or shipped. MismatchError for another."""
        found = self.engine.model if self.engine is not None else checkpoint.read(self._image)
        self.model.check(found.fingerprint, str(found.path))
        return found

    def pieces(self, items: Sequence[str | Path | bytes | Any]) -> list[Piece]:
        """Photos (paths, bytes, PIL images) and ids of gallery rows as pieces, in the order given.

        A path that does not exist is an id of the gallery. "shoes=photo.jpg" says the slot; else the kind is read off
        the photo by the image model's head, or is the row's label. InputError where two fill the same slot.
        """
        found: list[Piece] = []
        for item in items:
            slot = None
            if isinstance(item, str) and not Path(item).exists() and "=" in item:
                said, _, item = item.partition("=")
                slot = self.slots.meant(said)
            if isinstance(item, str | Path) and not Path(item).exists() and self.engine is not None:
                found.append(self.row(self._row_of(str(item)), slot))
            else:
                found.append(self._photo(item, slot))
        for first, second in combinations(found, 2):
            if first.slot == second.slot != OTHER:
                raise InputError(
                    f"{first.name} and {second.name} both fill the slot {first.slot}, and an outfit has one of each: "
                    f"leave one out, or say what it is, such as outer={second.name}"
                )
        return found

    def _row_of(self, item: str) -> int:
        engine = self._engine()
        try:
            return engine.gallery.row_of(item)
        except UnknownNameError as error:
            raise UnknownNameError(f"{item}: no such file, and {error}") from None

    def _photo(self, item: Any, slot: str | None) -> Piece:
        source = source_of(item)
        encoded = encode_photos(self.image, [source])
        kind = encoded.predicted[next(iter(encoded.predicted))][0]
        name = Path(item).name if isinstance(item, str | Path) else "photo"
        return Piece(name, slot or self.slots.of(kind), kind, encoded.units[0], source)

    def row(self, row: int, slot: str | None = None) -> Piece:
        """A gallery row as a piece."""
        return self.rows([row], slot)[0]

    def rows(self, rows: Sequence[int], slot: str | None = None) -> list[Piece]:
        """Gallery rows as pieces."""
        engine = self._engine()
        features = engine.gallery.vectors(np.asarray(rows, np.int64)).astype(np.float32)
        return [
            Piece(
                hit.id, slot or self.slots.of(kind), kind, features[i], engine.photo_of(hit), hit.id
            )
            for i, hit in enumerate(engine.describe(rows))
            for kind in [hit.attributes.get(self.kind)]
        ]  # fmt: skip

    @cached_property
    def kind(self) -> str:
        """The attribute that says what kind of garment an item is: the first one of the image model."""
        engine = self._engine()
        return next(iter(engine.names.vocabulary))

    def _engine(self) -> Engine:
        if self.engine is None:
            raise InputError("this needs a gallery to choose from: name one by --gallery")
        return self.engine

    def score(self, pieces: Sequence[Piece]) -> Scored:
        """Order the pieces as an outfit and score them."""
        return self._scored([[pieces[i] for i in self.slots.order([piece.slot for piece in pieces])]])[0]

    def _scored(self, outfits: Sequence[Sequence[Piece]]) -> list[Scored]:
        raw = self.model.raw([np.stack([piece.features for piece in each]) for each in outfits])
        reading = self.model.reading
        read = zip(outfits, reading.probability(raw).tolist(), reading.percentile(raw).tolist(), strict=True)
        return [Scored(tuple(each), score, percentile) for each, score, percentile in read]

    def explain(self, pieces: Sequence[Piece], replacements: int = 5) -> Explained:
        """Influence by item and aspect, the worst item, and what of the gallery would raise the score."""
        outfit = self.score(pieces)
        own = outfit.pieces
        by = self.model.by_aspect(self.model.influence(np.stack([piece.features for piece in own])))
        worst, aspect = self.model.worst(by)
        rest = [[*own[:i], *own[i + 1 :]] for i in range(len(own))] if len(own) > 2 else []
        without = tuple(each.score for each in self._scored(rest)) if rest else ()
        better: list[Scored] = []
        if self.engine is not None and replacements:
            found = self._candidates(own[:worst], own[worst + 1 :], [own[worst].slot], own)
            tried = self._scored([[*own[:worst], each, *own[worst + 1 :]] for each in found]) if found else []
            better = sorted((each for each in tried if each.score > outfit.score), key=lambda each: -each.score)
        said = {name: tuple(float(v) for v in values) for name, values in by.items()}
        return Explained(outfit, said, worst, aspect, without, tuple(better[:replacements]))

    def complete(self, pieces: Sequence[Piece], missing: str, text: str | None = None, topk: int = 5) -> list[Scored]:
        """The outfit with a garment of the slot ``missing`` added, from the gallery, best first."""
        slot = self.slots.meant(missing)
        own = [pieces[i] for i in self.slots.order([piece.slot for piece in pieces])]
        if any(piece.slot == slot for piece in own):
            taken = next(piece.name for piece in own if piece.slot == slot)
            raise InputError(f"{taken} fills {slot} already: leave it out, or name another slot")
        at = sum(self.slots.place(piece.slot) < self.slots.place(slot) for piece in own)
        return self._filled(own, at, [slot], text)[:topk]

    def generate(self, pieces: Sequence[Piece], text: str | None = None, items: int = MOST) -> Scored:
        """Grow an outfit from some pieces, forwards to its end and backwards to its start by turns, one of each slot.

        An item that lowers the score is not taken.
        """
        own = [pieces[i] for i in self.slots.order([piece.slot for piece in pieces])]
        growing = [True, False]  # forwards, backwards: by turns, or shoes would get a belt and a watch, but no trousers
        while growing and len(own) < items:
            forwards = growing.pop(0)
            places = [self.slots.place(piece.slot) for piece in own]
            free = [
                name for place, name in enumerate(self.slots.names)
                if name != OTHER and (place > places[-1] if forwards else place < places[0])
            ]  # fmt: skip
            feats = self._stack(own)
            none = feats[:0]
            _, stop = self.model.expects(feats, none) if forwards else self.model.expects(none, feats)
            found = self._filled(own, len(own) if forwards else 0, free, text) if free and stop < 0.5 else []
            least = self._scored([own])[0].score if len(own) > 1 else 0.0
            if better := [each for each in found if each.score >= least]:
                own = list(better[0].pieces)
                growing.append(forwards)
        if len(own) < 2:
            raise InputError("the gallery holds nothing that goes with it")
        return self._scored([own])[0]

    def _filled(self, own: Sequence[Piece], at: int, slots: Sequence[str], text: str | None) -> list[Scored]:
        """Candidates for a place, each in its outfit, best first."""
        found = self._candidates(own[:at], own[at:], slots, own, text)
        scored = self._scored([[*own[:at], each, *own[at:]] for each in found]) if found else []
        if text is None:
            return sorted(scored, key=lambda each: -each.score)
        said = self.model.words.encode([text])[0]
        close = np.stack([each.features for each in found]) @ said if found else np.zeros(0)
        rank = TEXT_SHARE * _share(close) + (1 - TEXT_SHARE) * _share(np.array([each.score for each in scored]))
        return [scored[i] for i in np.argsort(-rank, kind="stable")]

    def _candidates(
        self, before: Sequence[Piece], after: Sequence[Piece], slots: Sequence[str], taken: Sequence[Piece],
        text: str | None = None,
    ) -> list[Piece]:  # fmt: skip
        """The gallery's best for a place between two parts, by one search of its index."""
        engine = self._engine()
        vector, _ = self.model.expects(self._stack(before), self._stack(after))
        vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        if text is not None:
            vector = (1 - TEXT_SHARE) * vector + TEXT_SHARE * self.model.words.encode([text])[0]
        allowed = self._rows_of(tuple(slots))
        if not len(allowed):
            return []
        skip = np.unique([engine.gallery.row_of(piece.id) for piece in taken if piece.id is not None]).astype(np.int64)
        prepared = Prepared(
            vectors=vector[None].astype(np.float32), total=np.ones(1, np.float32), allowed=[allowed], skip=[skip],
            one_per=[None], least=[-np.inf], edits=[()], weights=[{}], reference=[{}],
        )  # fmt: skip
        rows, _ = engine.search(prepared, CANDIDATES)[0]
        return self.rows(rows.tolist())

    def _rows_of(self, slots: tuple[str, ...]) -> npt.NDArray[np.int64]:
        """Rows of the gallery whose kind fills one of the slots; a blank label counts as what the model predicts."""
        code, names = self._slot_codes
        if slots not in self._found:
            self._found[slots] = np.flatnonzero(np.isin(code, [names.index(slot) for slot in slots if slot in names]))
        return self._found[slots]

    @cached_property
    def _slot_codes(self) -> tuple[npt.NDArray[np.int16], list[str]]:
        """Every row's slot (n,) as a number, made once: a dictionary of kinds, not a string a row."""
        engine = self._engine()
        names = self.slots.names
        own = PREDICTED + self.kind
        columns = engine.gallery.columns([own, *([self.kind] if self.kind in engine.gallery.manifest.labels else [])])
        kinds = columns[own].combine_chunks()
        if self.kind in columns.column_names:
            import pyarrow.compute as pc

            kinds = pc.coalesce(columns[self.kind].combine_chunks(), kinds)
        coded = kinds.dictionary_encode()
        of = np.array([names.index(self.slots.of(kind)) for kind in coded.dictionary.to_pylist()], np.int16)
        return of[coded.indices.to_numpy(zero_copy_only=False)], names

    def _stack(self, pieces: Sequence[Piece]) -> Array:
        return np.stack([p.features for p in pieces]) if pieces else np.zeros((0, self.model.dim), np.float32)


def _share(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values brought to mean 0 and spread 1, so that two kinds of score can be added."""
    return (values - values.mean()) / max(float(values.std()), 1e-9) if len(values) else values


def train_from(
    config: str | Path, gallery: str | Path, worn: Path | None = None, sequences: Path | None = None,
    out: Path | None = None, progress: bool = False, polyvore: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train the outfit model of a gallery's image model by a config: ``fsearch train-outfits``. Returns the figures."""
    from retrieval.datasets.worn import read_sequences

    settings = configs.load(config)
    engine = Engine.open(gallery)
    image = engine.model
    labels = engine.gallery.manifest.labels
    live = engine.gallery.live()
    columns = engine.gallery.columns(["id", *labels]).take(live).to_pydict()
    kind = next(iter(engine.names.vocabulary))
    known = [hit.attributes[kind] for hit in engine.describe(live.tolist())]
    catalogue = Catalogue(
        engine.gallery.vectors(live), known, {name: columns[name] for name in labels}, columns["id"]
    )  # fmt: skip
    told = read_sequences(sequences) if sequences is not None else []
    dressed = encode_worn(image, worn, settings, progress) if worn is not None else None
    blocks = block_dims(image.config.model)
    return train(
        catalogue, dressed, [(each.id, each.kinds) for each in told], settings, blocks, image.config, image.fingerprint,
        out or Path("runs") / f"{settings.name}.safetensors", progress,
        published(polyvore, catalogue.ids) if polyvore is not None else None,
    )  # fmt: skip


def published(folder: Path, ids: Sequence[str]) -> Published:
    """Polyvore's outfits and questions, whose photos a gallery holds under their own ids, by rows. InputError."""
    from retrieval.datasets import polyvore

    row_of = {name: row for row, name in enumerate(ids)}
    every = [(each.split, [row_of[item] for item in each.items if item in row_of]) for each in polyvore.outfits(folder)]
    learned, valid = (
        [tuple(rows) for own, rows in every if own == split and len(rows) > 1] for split in ("train", "valid")
    )
    return Published(
        learned, valid, questions_from(polyvore.questions(folder), row_of),
        labelled_from(polyvore.compatibility(folder), row_of),
    )  # fmt: skip


def ask_published(engine: Engine, outfits: str | Path | None = None) -> dict[str, Any]:
    """Polyvore's questions and compatibility lines, asked of a gallery of its photos: ``fsearch bench --protocol
    polyvore``. Returns fill in the blank and AUC of the outfit model beside chance and the baselines, as
    ``train_from`` does with ``polyvore``; kinds are counted in the outfits for training. InputError, MismatchError.
    """
    stylist = Stylist(engine, outfits)
    folder = Path(engine.gallery.manifest.source["path"])
    live = engine.gallery.live()
    asked = published(folder, engine.gallery.columns(["id"])["id"].take(live).to_pylist())
    if not asked.questions and not asked.pairs:
        raise InputError(f"{folder}: no fill-in-the-blank questions and no compatibility lines; unpack them there")
    known = [plain(hit.attributes[stylist.kind] or "") for hit in engine.describe(live.tolist())]
    table = engine.gallery.vectors(live)
    scores: dict[str, Score] = {
        "outfit model": lambda some: stylist.model.raw_rows(table, some),
        "kinds seen together": cooccurrence(asked.learned, np.unique(known, return_inverse=True)[1]),
        "pairwise distance": closeness(table),
    }
    facts = {"model": stylist.model.fingerprint, "image model": dict(stylist.model.image), "gallery": len(live)}
    return {"facts": facts, "polyvore": answered(scores, asked)}


def encode_worn(
    image: checkpoint.Model, folder: Path, settings: configs.OutfitConfig, progress: bool = False
) -> WornItems:
    """The garments of a folder of worn outfits whose category fills a slot, cut out and embedded."""
    from tqdm import tqdm

    from retrieval.datasets.worn import categories, cut, read_worn
    from retrieval.photos import letterbox

    slots = Slots(settings.slots)
    garments = read_worn(folder, [name for name in categories(folder) if slots.of(name) != OTHER])
    size = image.config.model.input_size
    units = []
    for start in tqdm(range(0, len(garments), BATCH), "worn", unit="batch", disable=None if progress else True):
        pixels = np.stack([letterbox(cut(each), size) for each in garments[start : start + BATCH]])
        units.append(encode(image, pixels).units.astype(np.float16))
    return WornItems(np.concatenate(units), [each.kind for each in garments], [each.outfit for each in garments])
