"""The engine: the one object users hold. Opens a gallery, answers queries with edits, says why and how well.

The network (and torch) is loaded at the first photo: queries by gallery id run without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from index.build import open_index
from index.errors import InputError, MismatchError
from index.facts import describe
from index.filters import Columns
from index.gallery import MEMORY, MODEL, Changes, Gallery
from index.knobs import Knobs
from index.live import exact_of
from index.ranges import Found
from index.table import PREDICTED
from retrieval import query as q
from retrieval import ranking
from retrieval.config import LOOK, PARTS
from retrieval.datasets.records import Cropped
from retrieval.explain.shares import shares
from retrieval.models import memory
from retrieval.photos import Source, source_of
from retrieval.query import Edit, Names, Request
from retrieval.ready import BOX
from retrieval.results import Hit, Prepared, Result

if TYPE_CHECKING:
    from retrieval.models.checkpoint import Model
    from retrieval.models.encode import Encoded
    from retrieval.outfits.text import Words

__all__ = ["Engine", "Hit", "Prepared", "Result"]

AT_ONCE = 1024  # queries vectorised together
FACTORS = (1e-6, 1e6)  # what a weight may be, other than 0
FEW = 8  # ids looked up one by one


class Engine:
    """A gallery opened for queries. Thread-safe for reading; holds one consistent generation."""

    def __init__(
        self, gallery: Gallery, model: str | Path | None = None, nprobe: int | None = None, rerank: int | None = None
    ) -> None:
        self.gallery = gallery
        manifest = gallery.manifest
        self.layout = manifest.layout
        self.names = Names(manifest.attributes, manifest.aliases)
        self.memory = memory.read(gallery.checked(MEMORY)) if manifest.has_model else memory.NONE
        self.index = open_index(gallery)
        self._searched = Knobs(self.index, nprobe, rerank) if nprobe or rerank else self.index
        self._columns = Columns(gallery)
        self.edited = float(manifest.aliases.get("edited", 1.0))
        self.keep = float(manifest.aliases.get("keep", 1.0))
        self._model_path = Path(model) if model is not None else None
        self.outfits: str | Path | None = None  # the model that reads texts, where it is not the shipped one

    @classmethod
    def open(
        cls, path: str | Path, model: str | Path | None = None, nprobe: int | None = None, rerank: int | None = None
    ) -> Engine:
        """Open a gallery folder. ``model``: another place of the very model that made it (default: the copy inside).

        nprobe, rerank: knobs that every search then uses, instead of what a recall asks for (``index.knobs``).

        Raises GalleryError, DamagedError or MismatchError, each one line that says what to run.
        """
        return cls(Gallery.open(path), model, nprobe, rerank)

    @cached_property
    def model(self) -> Model:
        """The gallery's network; MismatchError when ``model`` is not the one that made the gallery.

        InputError where none made it: its vectors were given.
        """
        from retrieval.models import checkpoint

        if not self.gallery.manifest.has_model:
            raise InputError(
                f"{self.gallery.path} was made from vectors and has no model that could embed a photo: query by --like"
                " ID, or search by a vector from Python (docs/vectors.md)"
            )
        # at the first photo: a writer may have removed the copy inside since, but it is held open
        model = checkpoint.read(self._model_path or self.gallery.where(MODEL))
        wanted = self.gallery.manifest.model["fingerprint"]
        if model.fingerprint != wanted:
            raise MismatchError(
                f"{self.gallery.path} was made by model {wanted}, but {model.path} is {model.fingerprint}: "
                "query with the model that made it, or build the gallery again with this one"
            )
        return model

    @cached_property
    def words(self) -> Words:
        """The text encoder of the gallery's image model; MismatchError when it belongs to another."""
        from retrieval.outfits import model

        found = model.read(self.outfits)
        found.check(self.gallery.manifest.model.get("fingerprint", ""), str(self.gallery.path))
        return found.words

    def query(
        self,
        photo: str | Path | bytes | Any | None = None,
        *,
        text: str | None = None,
        like: str | None = None,
        set: Mapping[str, str] | None = None,
        old: Mapping[str, str] | None = None,
        weight: Mapping[str, float] | None = None,
        drop: str | Sequence[str] = (),
        where: str | Sequence[str] = (),
        exclude: str | Sequence[str] = (),
        one_per: str | None = None,
        min_score: float | None = None,
        topk: int | None = 10,
        offset: int = 0,
        recall: float | None = None,
        explain: bool = False,
        box: tuple[int, int, int, int] | None = None,
    ) -> Result:
        """Search by one photo (path, bytes or PIL image) or by a gallery row (``like``), edited; by ``text``; by both.

        set: attribute -> new value; old: attribute -> the value it replaces (default: the row's label, else the
        prediction); weight: block -> factor on its default weight (0 drops it); drop: blocks of weight 0; where:
        conditions such as "price < 50 and gender = Women"; exclude: ids not wanted; one_per: a column, of whose values
        each has one hit at most; min_score: the least score of a hit; topk: answers wanted, None for all that reach
        min_score; offset: the ranks before the first answer, 10 for the second page of 10; recall: least recall@topk
        (default 0.95); explain: each hit says what every block adds to its score (``Hit.shares``); box: the part of the
        photo that is asked, x, y, width, height in its pixels. Names and values may be aliases. ``like`` never returns
        its own row.

        Raises UnknownNameError (nearest names offered), PhotoError, InputError, MismatchError.
        """
        shown = source_of(photo) if box is None else Cropped(source_of(photo), box)
        request = Request(
            shown, like, set or {}, old or {}, weight or {}, drop, where, exclude, one_per, min_score, text
        )
        return self.query_many([request], topk, recall, offset, explain)[0]

    def query_many(
        self,
        requests: Sequence[Request],
        topk: int | None = 10,
        recall: float | None = None,
        offset: int = 0,
        explain: bool = False,
    ) -> list[Result]:
        """``query`` for many requests at once: embedded, searched and joined in batches. The first fault raises."""
        results: list[Result] = []
        for start in range(0, len(requests), AT_ONCE):
            prepared = self.prepare(requests[start : start + AT_ONCE])
            found = self.search(prepared, topk, recall, offset=offset)
            for i, (rows, scores) in enumerate(found):
                hits = self._join(rows, ranking.shown(scores, prepared, i), offset)
                if explain:
                    hits = self._explained(hits, rows, prepared, i)
                asked = prepared.vectors[i : i + 1]
                reach = min(offset + (topk or max(len(rows), 1)), self.gallery.manifest.rows)
                promised = self._searched.expected_recall(recall, reach, asked)
                edits, weights = prepared.edits[i], prepared.weights[i]
                vector = prepared.vectors[i] if explain else None
                none = ranking.none_left(prepared, i, offset)
                results.append(Result(hits, edits, weights, promised, prepared.reference[i], vector, none))
        return results

    def _explained(
        self, hits: tuple[Hit, ...], rows: npt.NDArray[np.int64], prepared: Prepared, i: int
    ) -> tuple[Hit, ...]:
        spans = {name: self.layout.slice(name) for name in self.layout.names}
        why = shares(prepared.vectors[i], self.gallery.vectors(rows), spans, float(prepared.total[i]))
        return tuple(replace(hit, shares=each) for hit, each in zip(hits, why, strict=True))

    def promised(self, topk: int, recall: float | None = None) -> float:
        """The measured recall@topk of the setting that a query at the default weights uses."""
        return self._searched.expected_recall(recall, topk)

    def search(
        self,
        prepared: Prepared,
        topk: int | None,
        recall: float | None = None,
        exact: bool = False,
        offset: int = 0,
    ) -> list[Found]:
        """Gallery rows and raw scores of each request, best first; ``exact`` bypasses the index (a baseline)."""
        index = self._exact if exact else self._searched
        count = self.gallery.manifest.rows
        return ranking.ranked(index, prepared, self._columns.codes, count, topk, recall, offset)

    def rank(
        self,
        likes: Sequence[int | Source],
        sets: Sequence[Mapping[str, str]],
        wheres: Sequence[str],
        topk: int,
        recall: float | None = None,
        exact: bool = False,
    ) -> list[npt.NDArray[np.int64]]:
        """Evaluation's way in: gallery rows for queries by gallery rows, each with its edits and its filter ("": none).

        A query may be a photo instead (a file, its bytes, or a call that fetches them). The same preparation and search
        as ``query``, but a reference may answer itself, as the published protocol says.
        """
        ids = self.gallery.columns(["id"])["id"]
        requests = [
            Request(photo=like, set=edit, where=(where,) if where else ())
            if isinstance(like, Path | bytes) or callable(like)
            else Request(like=ids[int(like)].as_py(), set=edit, where=(where,) if where else (), keep_reference=True)
            for like, edit, where in zip(likes, sets, wheres, strict=True)
        ]
        return [rows for rows, _ in self.search(self.prepare(requests), topk, recall, exact)]

    @cached_property
    def _exact(self) -> Any:
        return exact_of(self.index)

    def prepare(self, requests: Sequence[Request]) -> Prepared:
        """Resolve names, fetch or embed the references, add the edits, weigh the blocks, resolve the filters."""
        if sum((request.like is not None) + len(_texts(request.exclude)) for request in requests) > FEW:
            self.gallery.row_by_id  # noqa: B018 - made at once for all of them
        units = np.zeros((len(requests), self.layout.dim), np.float32)
        norms = np.zeros((len(requests), len(self.layout.blocks)), np.float32)
        reference: list[dict[str, str | None]] = [{} for _ in requests]
        rows, skip = [], []
        for i, request in enumerate(requests):
            if (request.photo is None) == (request.like is None) and (request.like or request.text is None):
                raise InputError("a query takes either a photo or the id of a gallery row (like), not both, or a text")
            if request.set and request.photo is None and request.like is None:
                raise InputError("an edit changes a photo or a gallery row, and there is none: say it in the text")
            if request.like is not None:
                rows.append((i, self._row(request.like)))
            own = [rows[-1][1]] if request.like is not None and not request.keep_reference else []
            skip.append(np.unique(np.array([*own, *map(self._row, _texts(request.exclude))], np.int64)))
        if rows:
            places, at = np.array(rows, np.int64).T
            units[places], norms[places] = self.gallery.vectors(at), self._norms(at)
            for place, (known, _) in zip(places, self._attributes(at), strict=True):
                reference[place] = known
        if shown := [i for i, request in enumerate(requests) if request.photo is not None]:
            encoded = self._encode([requests[i].photo for i in shown])
            units[shown], norms[shown] = encoded.units, encoded.norms
            for place, i in enumerate(shown):
                reference[i] = {name: values[place] for name, values in encoded.predicted.items()}
        edits = [self._edits(request, known) for request, known in zip(requests, reference, strict=True)]
        weights = [
            self.weights(request.weight, request.drop, wanted) for request, wanted in zip(requests, edits, strict=True)
        ]
        factors = np.array([[w[name] for name in self.layout.names] for w in weights], np.float32)
        raw = q.edited(q.raw_blocks(units, norms, self.layout), edits, self.memory, self.keep)
        filters: dict[tuple[str, ...], npt.NDArray[np.int64] | None] = {}
        for request in requests:
            key = _texts(request.where)
            if key not in filters:
                filters[key] = q.filter_rows(self.gallery, self.names, key, self._columns)
        vectors = q.vectors(raw, self.layout, factors)
        for i, request in enumerate(requests):
            if request.text is not None:
                said, default = self.words.encode([request.text])[0], np.array([*self.weights({}).values()], np.float32)
                alone = request.photo is None and request.like is None
                vectors[i], factors[i] = q.with_text(vectors[i], factors[i], said, default, self.layout, alone)
                weights[i] = dict(zip(self.layout.names, factors[i].round(4).tolist(), strict=True))
        return Prepared(
            vectors=vectors,
            total=factors.sum(axis=1),
            allowed=[filters[_texts(request.where)] for request in requests],
            skip=skip,
            one_per=[self._one_per(request) for request in requests],
            least=[_least(request.min_score) for request in requests],
            edits=edits,
            weights=weights,
            reference=reference,
        )

    def _encode(self, photos: Sequence[Any]) -> Encoded:
        from retrieval.models.encode import encode_photos

        return encode_photos(self.model, photos)

    def _edits(self, request: Request, known: Mapping[str, str | None]) -> tuple[Edit, ...]:
        """Resolve ``set`` and ``old``. An old value that the model never learned counts as unknown: only +1 is set."""
        if (request.set or request.old) and not self.gallery.manifest.has_model:
            raise InputError(
                f"{self.gallery.path} was made from vectors and has no attributes to edit; --weight, --drop and --where"
                " work"
            )
        olds = {self.names.attribute(name): value for name, value in request.old.items()}
        edits: dict[str, Edit] = {}
        for name, value in request.set.items():
            attribute = self.names.attribute(name)
            if attribute in edits:
                raise InputError(f"{attribute} is set twice, as {edits[attribute].new!r} and {value!r}; keep one")
            old = known.get(attribute)
            if attribute in olds:
                old = self.names.value(attribute, olds[attribute])
            elif old not in self.names.vocabulary[attribute]:
                old = None
            edits[attribute] = Edit(attribute, self.names.value(attribute, value), old)
        if spare := sorted(set(olds) - set(edits)):
            raise InputError(f"--from {spare[0]}: names what an edit replaces, but there is no --set {spare[0]}=...")
        return tuple(edits.values())

    def weights(
        self, factors: Mapping[str, float], drop: str | Sequence[str] = (), edits: Sequence[Edit] = ()
    ) -> dict[str, float]:
        """The weight of every block: its default times a factor, more if it is edited, 0 if dropped. InputError."""
        weights = {name: self.gallery.manifest.weights.get(name, 1.0) for name in self.layout.names}
        for edit in edits:
            weights[edit.attribute] *= self.edited
        for name, factor in factors.items():
            if factor and not FACTORS[0] <= factor <= FACTORS[1]:
                raise InputError(f"weight {name}={factor}: a weight is 0, or from 0.000001 to 1,000,000")
            weights[self._block(name)] *= factor
        for name in _texts(drop):
            weights[self._block(name)] = 0.0
        for edit in edits:
            if not weights[edit.attribute]:
                raise InputError(f"{edit.attribute} is set to {edit.new}, and has weight 0: keep one of the two")
        if not any(weights.values()):
            raise InputError("every block has weight 0: keep at least one")
        return weights

    def _block(self, name: str) -> str:
        if not self.gallery.manifest.has_model:  # its blocks are nobody's attributes
            folded = [each for each in self.layout.names if each.casefold() == name.casefold()]
            if name not in self.layout.names and len(folded) != 1:
                self.layout.slice(name)  # raises, with the nearest names
            return name if name in self.layout.names else folded[0]
        own = [each for each in (LOOK, PARTS) if each in self.layout.names and each not in self.names.vocabulary]
        return name.casefold() if name.casefold() in own else self.names.attribute(name)

    def _one_per(self, request: Request) -> str | None:
        if request.one_per is None:
            return None
        return q.column_meant(self.gallery, self._columns, self.names, request.one_per, "--one-per")[0]

    def _row(self, key: str) -> int:
        row = self.gallery.__dict__.get("row_by_id", {}).get(key)  # a few ids are found without it
        return self.gallery.row_of(key) if row is None else row  # row_of offers the nearest ids

    @cached_property
    def _all_norms(self) -> npt.NDArray[np.float32]:
        return self.gallery.norms(np.arange(self.gallery.manifest.rows))

    def _norms(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return self._all_norms[rows] if len(rows) > 8 else self.gallery.norms(rows)

    def _attributes(self, rows: npt.NDArray[np.int64]) -> list[tuple[dict[str, str | None], tuple[str, ...]]]:
        """The model's attributes of rows: label, else prediction where blank; and which of them are predictions."""
        known = [name for name in self.names.vocabulary if name in self.gallery.manifest.labels]
        wanted = [*known, *(PREDICTED + name for name in self.names.vocabulary)]
        cells = self.gallery.take(rows, wanted).to_pydict()
        found = []
        for i in range(len(rows)):
            labels = {name: cells[name][i] for name in known}
            guessed = tuple(name for name in self.names.vocabulary if labels.get(name) is None)
            guesses = {name: cells[PREDICTED + name][i] for name in guessed}
            found.append(({n: guesses[n] if n in guesses else labels[n] for n in self.names.vocabulary}, guessed))
        return found

    def _join(self, rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], offset: int = 0) -> tuple[Hit, ...]:
        """Ids, paths and attributes of rows."""
        extra = [name for name in self.gallery.manifest.labels if name not in self.names.vocabulary]
        columns = self.gallery.take(rows, ["id", "path", *extra]).to_pydict()
        return tuple(
            Hit(
                rank=offset + i + 1,
                id=columns["id"][i],
                score=float(scores[i]),
                path=columns["path"][i],
                attributes=known | {name: columns[name][i] for name in extra},
                predicted=predicted,
            )
            for i, (known, predicted) in enumerate(self._attributes(rows))
        )

    def describe(self, rows: Sequence[int]) -> tuple[Hit, ...]:
        """Gallery rows as hits, in the order given: ids, paths and attributes, every score 0."""
        return self._join(np.asarray(rows, np.int64), np.zeros(len(rows), np.float32))

    def info(self) -> dict[str, Any]:
        """What the gallery holds, as ``fsearch info`` prints it: JSON values."""
        manifest = self.gallery.manifest
        return {
            "gallery": str(self.gallery.path),
            "photos": manifest.photos,
            "rejected": manifest.rejected,
            "source": manifest.source["path"],
            **({"crops by detector": manifest.source["detector"]} if "detector" in manifest.source else {}),
            **self._changes(),
            "model": f"{manifest.model['name']} {manifest.model['fingerprint']}".strip(),
            "config": manifest.config_fingerprint,
            "made by": manifest.created_by,
            "labels": ", ".join(manifest.labels),
            "blocks": {
                b.name: f"{b.stop - b.start} dimensions, weight {manifest.weights.get(b.name, 1.0):g}"
                for b in self.layout.blocks
            },
            "attributes": {
                name: f"{len(values)} values: {', '.join(values[:8])}{', ...' if len(values) > 8 else ''}"
                for name, values in manifest.attributes.items()
            },
            "index": describe(self.gallery, self.index)
            | {
                name: f"{facts['bytes']:,} bytes"
                for name, facts in (manifest.current.files if manifest.current else {}).items()
            },
        }

    def _changes(self) -> dict[str, Any]:
        """What was added and removed since the gallery was built, and what to run where its index suffers from it."""
        changes, advice = self.gallery.manifest.changes, self.gallery.advice()
        said = {"changes": f"{changes.added:,} added, {changes.removed:,} removed"} if changes != Changes() else {}
        return said | ({"advice": "; ".join(advice)} if advice else {})

    def photo_path(self, hit_path: str | None) -> Path | None:
        """Where a row's photo lies, if the folder that was indexed is still there."""
        return Path(self.gallery.manifest.source["path"]) / hit_path if hit_path else None

    def photo_of(self, hit: Hit) -> Source | None:
        """What was embedded for a hit: its photo's file, or in a gallery of crops the part of it."""
        path = self.photo_path(hit.path)
        box = hit.attributes.get(BOX) if "detector" in self.gallery.manifest.source else None
        return path if path is None or box is None else Cropped.of(path, box)


def _least(score: float | None) -> float:
    if score is not None and not np.isfinite(score):
        raise InputError(f"min_score {score}: a score is a number from -1 to 1")
    return -np.inf if score is None else score


def _texts(said: str | Sequence[str]) -> tuple[str, ...]:
    """One text or several as several."""
    return (said,) if isinstance(said, str) else tuple(said)
