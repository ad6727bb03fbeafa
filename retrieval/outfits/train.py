"""From a catalogue's embeddings, worn outfits and category sequences to an outfit model and its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from index.errors import InputError
from retrieval.config import Config
from retrieval.datasets.splits import held_out
from retrieval.outfits import judge, swap, text
from retrieval.outfits import model as models
from retrieval.outfits.compose import Composed, Composer
from retrieval.outfits.config import OutfitConfig, aspects_of
from retrieval.outfits.fit import fit, reading, reference_pool
from retrieval.outfits.language import plain
from retrieval.outfits.slots import Slots

ASKED = 1500  # outfits of a test at most


class Catalogue(NamedTuple):
    """Shop photos: features (n, D) float16 with unit blocks, the kind of each, label columns by name, ids."""

    features: npt.NDArray[np.float16]
    kinds: list[str | None]
    labels: Mapping[str, list[str | None]]
    ids: list[str]


class WornItems(NamedTuple):
    """Garments that people wore: features (m, D) float16, kinds, and whose they are."""

    features: npt.NDArray[np.float16]
    kinds: list[str]
    outfits: list[str]


class Published(NamedTuple):
    """Known outfits of catalogue items by their own split, and what is asked of the test part (Polyvore): rows."""

    learned: list[tuple[int, ...]]
    valid: list[tuple[int, ...]]
    questions: list[judge.Question]
    pairs: list[judge.Labelled]


class Data(NamedTuple):
    """All items in one table, catalogue first, and the outfits that are known: lists of rows in order."""

    table: npt.NDArray[np.float16]
    slots: npt.NDArray[np.int64]  # place of each row's slot
    kinds: npt.NDArray[np.int64]  # a number for each row's kind
    catalogue: npt.NDArray[np.int64]  # rows held out for tests, of the catalogue
    worn: npt.NDArray[np.int64]  # likewise, of the worn items
    fitted: list[tuple[float, Callable[[int], list[tuple[int, ...]]]]]  # what is learned from: share, epoch -> outfits
    composed: list[Composed]  # held out
    dressed: list[tuple[int, ...]]  # held out
    composer: Composer | None  # of the held-out part
    sample: list[tuple[int, ...]]  # of the outfits that are learned from
    published: Published | None


def gather(
    catalogue: Catalogue, worn: WornItems | None, sequences: Sequence[tuple[str, Sequence[str]]], config: OutfitConfig,
    published: Published | None = None,
) -> Data:  # fmt: skip
    """Split everything by the hash of its name: styles (as training and bench do), sequences and people."""
    slots = Slots(config.slots)
    n = len(catalogue.ids)
    test = held_rows(catalogue, config)
    table, kinds = catalogue.features, list(catalogue.kinds)
    fitted: list[tuple[float, Callable[[int], list[tuple[int, ...]]]]] = []
    dressed: list[tuple[int, ...]] = []
    worn_rows = np.zeros(0, np.int64)
    if worn is not None:
        table, kinds = np.concatenate([table, worn.features]), [*kinds, *worn.kinds]
        by: dict[str, dict[str, int]] = {}
        for row, (kind, person) in enumerate(zip(worn.kinds, worn.outfits, strict=True), n):
            by.setdefault(person, {}).setdefault(slots.of(kind), row)  # one a slot
        every = {p: tuple(own[s] for s in sorted(own, key=slots.place)) for p, own in by.items() if len(own) >= 3}
        asked = held_out([None] * len(every), list(every), config.holdout)
        dressed = [outfit for outfit, out in zip(every.values(), asked, strict=True) if out]
        learned = [outfit for outfit, out in zip(every.values(), asked, strict=True) if not out]
        worn_rows = np.array(sorted({row for outfit in dressed for row in outfit}), np.int64)
        if not learned or not dressed:
            raise InputError(f"{len(every)} people wear three garments or more: too few to learn from and to test on")
        fitted.append((config.training.worn_share, lambda _: learned))
    composer, composed = None, []
    sample = fitted[0][1](0) if fitted else []
    if sequences and config.rule is not None:
        out = held_out([None] * len(sequences), [name for name, _ in sequences], config.holdout)
        known = [kinds_ for (_, kinds_), held in zip(sequences, out, strict=True) if not held]
        asked_for = [kinds_ for (_, kinds_), held in zip(sequences, out, strict=True) if held][:ASKED]
        of = (config.rule, slots, config.kinds, catalogue.kinds, catalogue.labels)
        teacher, composer = Composer(*of, np.flatnonzero(~test)), Composer(*of, np.flatnonzero(test))
        seed = config.training.seed

        def epoch(number: int) -> list[tuple[int, ...]]:
            return [each.rows for each in teacher.draw(known, np.random.default_rng([seed, 11, number]))]

        composed = composer.draw(asked_for, np.random.default_rng([seed, 12]))
        fitted.append((1 - config.training.worn_share if fitted else 1.0, epoch))
        sample = [*sample, *epoch(0)]
    if published is not None:
        fitted.append((1.0, lambda _: published.learned))
        sample = [*sample, *published.learned]
    if not sample:
        raise InputError(
            "nothing to learn outfits from: give worn outfits, known ones, or category sequences and a rule"
        )
    if not composed and not dressed and not (published and published.valid):
        raise InputError(
            "no outfit is held out to read scores by: give more outfits, or a larger holdout in the config"
        )
    places = np.array([slots.place(slots.of(kind)) for kind in kinds], np.int64)
    codes = np.unique([plain(kind or "") for kind in kinds], return_inverse=True)[1]
    return Data(
        table, places, codes, np.flatnonzero(test), worn_rows, fitted, composed, dressed, composer, sample, published
    )


def held_rows(catalogue: Catalogue, config: OutfitConfig) -> npt.NDArray[np.bool_]:
    """Which photos of the catalogue are held out: whole styles, by the rule of training and bench."""
    columns = [catalogue.labels[name] for name in config.group if name in catalogue.labels]
    styles = [next((s for s in own if s), None) for own in zip(*columns, strict=True)] if columns else None
    return held_out(styles or [None] * len(catalogue.ids), catalogue.ids, config.holdout)


def train(
    catalogue: Catalogue, worn: WornItems | None, sequences: Sequence[tuple[str, Sequence[str]]], config: OutfitConfig,
    blocks: Mapping[str, int], image: Config, fingerprint: str, out: Path, progress: bool = False,
    published: Published | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train, judge on what was held out, write ``out``; returns the figures, which the file keeps, too."""
    data = gather(catalogue, worn, sequences, config, published)
    aspects = aspects_of(config.aspects, list(blocks), image)
    words, told = _words(catalogue, config, image, data.catalogue, progress)
    net = fit(data.table, data.fitted, config.model, config.training, progress)
    rng = np.random.default_rng([config.training.seed, 13])
    used = np.unique([row for outfit in data.sample for row in outfit])
    pool = reference_pool(net, data.table, rng.permutation(used)[: config.training.pool])
    draft = models.OutfitModel(
        net, words, config, dict(blocks), aspects, {"name": image.name, "fingerprint": fingerprint}, pool,
        models.Reading(1.0, 0.0, ()), "", out, {},
    )  # fmt: skip
    valid = published.valid if published is not None else []
    known = [*(each.rows for each in data.composed), *data.dressed, *valid]
    shuffled = [
        each.items
        for outfits, rows in (
            (_rows(data.composed), data.catalogue),
            (data.dressed, data.worn),
            (valid, np.arange(len(catalogue.ids))),
        )
        for each in judge.make_labelled(outfits, rows, data.slots, True, np.random.default_rng(14))
        if not each.compatible
    ]
    read = reading(draft.raw_rows(data.table, known), draft.raw_rows(data.table, shuffled))
    facts = {
        "catalogue": len(catalogue.ids),
        "worn": len(worn.kinds) if worn is not None else 0,
        "sequences": len(sequences),
        "pool": len(pool),
        "text": told,
        "outfits": report(draft, data, config),
    }
    aliases = _aliases(config, image)
    made = models.write(out, net, words, config, blocks, aspects, draft.image, pool, read, facts, aliases)
    return facts | {"fingerprint": made}


def _aliases(config: OutfitConfig, image: Config) -> dict[str, str]:
    """What people type -> words of titles and labels: the image model's aliases of values, and the config's own."""
    values = {said: meant for known in image.search.value_aliases.values() for said, meant in known.items()}
    return values | config.text.aliases


def _words(
    catalogue: Catalogue, config: OutfitConfig, image: Config, test: npt.NDArray[np.int64], progress: bool
) -> tuple[text.Words, dict[str, Any]]:
    """The text encoder, and text -> photo recall of held-out titles."""
    column = config.text.column
    if column not in catalogue.labels:
        raise InputError(
            f"texts are learned from the column {column}: the gallery lacks it (text.column of the config)"
        )
    titles = [title or "" for title in catalogue.labels[column]]
    names = [name for name in image.model.attributes if name in catalogue.labels]
    said = [" ".join(v for name in names if (v := catalogue.labels[name][i])) for i in range(len(titles))]
    learned = np.setdiff1d(np.arange(len(titles)), test)
    net, known = text.fit(
        [titles[i] for i in learned], [said[i] for i in learned], catalogue.features[learned], config.text,
        config.training.seed, progress,
    )  # fmt: skip
    words = text.Words(net, known, _aliases(config, image))
    asked = np.array([i for i in test if words.codes(titles[i])[0]], np.int64)
    told: dict[str, Any] = {"words": len(known), "texts": len(learned), "asked": len(asked)}
    if len(asked):
        texts = words.encode([titles[i] for i in asked])
        some = np.random.default_rng(0).permutation(len(asked))[:1000]
        place = np.searchsorted(test, asked)
        told["among held-out photos"] = text.recall_at(texts, place, catalogue.features[test])
        told["among all photos"] = text.recall_at(texts[some], asked[some], catalogue.features)
        told["photos"] = [len(test), len(catalogue.ids)]
    return words, told


def report(model: models.OutfitModel, data: Data, config: OutfitConfig) -> dict[str, Any]:
    """Held-out outfits: fill in the blank, AUC, and the swap test, the model beside chance and two baselines."""
    scores: dict[str, judge.Score] = {
        "outfit model": lambda outfits: model.raw_rows(data.table, outfits),
        "kinds seen together": judge.cooccurrence(data.sample, data.kinds),
        "pairwise distance": judge.closeness(data.table),
    }
    told: dict[str, Any] = {}
    composer, composed = data.composer, data.composed
    if composer is not None and composed:

        def wrong(number: int, row: int) -> bool:
            return bool(composer.breaks(composed[number], row))

        told["composed"] = judged(scores, _rows(composed), data.catalogue, data.slots, wrong)
        told["composed"]["explained"] = _explained(model, data, scores["outfit model"])
    if data.published is not None:
        told["published"] = answered(scores, data.published)
    if data.dressed:
        told["worn"] = judged(scores, data.dressed, data.worn, data.slots)
    return told


def answered(scores: Mapping[str, judge.Score], published: Published) -> dict[str, Any]:
    """The published questions and compatibility lines, answered by every method."""
    asked, pairs = published.questions, published.pairs
    told: dict[str, Any] = {"questions": len(asked), "pairs": len(pairs), "chance": {"fitb": 0.25, "auc": 0.5}}
    for method, score in scores.items():
        told[method] = {"fitb": round(judge.fill_in_blank(score, asked), 4)} if asked else {}
        told[method] |= {"auc": round(judge.compatibility(score, pairs), 4)} if pairs else {}
    return told


def _rows(composed: Sequence[Composed]) -> list[tuple[int, ...]]:
    return [each.rows for each in composed]


def _explained(model: models.OutfitModel, data: Data, score: judge.Score) -> dict[str, Any]:
    """The swap test on composed outfits: which column of the rule was broken is which aspect is to be named."""
    composer, composed = data.composer, data.composed
    assert composer is not None
    rule = composer.rule
    aspect_of = {own: aspect for aspect, blocks in model.aspects.items() for own in blocks}
    columns = {name: aspect_of[name] for name in (rule.color, *rule.same) if name in aspect_of}
    aspects = list(dict.fromkeys(columns.values()))
    if not aspects:
        return {}

    def faults(number: int, row: int) -> list[str]:
        return [columns.get(name, name) for name in composer.breaks(composed[number], row)]

    swaps = swap.make_swaps(
        _rows(composed), data.catalogue, data.slots, faults, aspects, score, np.random.default_rng(15)
    )  # fmt: skip
    return {"swaps": len(swaps)} | (swap.named(model, data.table, swaps) if swaps else {})


def judged(
    scores: Mapping[str, judge.Score], outfits: Sequence[judge.Outfit], pool: npt.NDArray[np.int64],
    slots: npt.NDArray[np.int64], wrong: Callable[[int, int], bool] | None = None, seed: int = 16,
) -> dict[str, Any]:  # fmt: skip
    """The table of one kind of outfits: every method on the same questions (4 choices) and the same pairs."""
    questions = {
        name: judge.make_questions(outfits, pool, slots, same, np.random.default_rng([seed, same]), wrong)
        for name, same in (("fitb, random", False), ("fitb, same kind", True))
    }
    pairs = {
        name: judge.make_labelled(outfits, pool, slots, same, np.random.default_rng([seed, 2, same]), swaps, wrong)
        for name, same, swaps in (
            ("auc, random", False, None),
            ("auc, same kinds", True, None),
            ("auc, one swapped", True, 1),
        )
    }
    told: dict[str, Any] = {
        "outfits": len(outfits),
        "chance": dict.fromkeys(questions, 0.25) | dict.fromkeys(pairs, 0.5),
    }
    for method, score in scores.items():
        told[method] = {n: round(judge.fill_in_blank(score, q), 4) for n, q in questions.items() if q}
        told[method] |= {n: round(judge.compatibility(score, p), 4) for n, p in pairs.items() if p}
    return told
