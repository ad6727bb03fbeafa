"""Cross-domain mining: ``fsearch mine``. A network trained on labelled shop photos (the source) labels photos of
another kind (the target, such as shoppers' own) by its own search, learns from that, and so on while it gains.

A round: the target is embedded and indexed with the network as it is; photos drawn from it are searched for among the
others; ranks 1 to m are taken for the query's style, ranks i to j for another. The network is then trained on, from
where it is, on batches of the source's styles and of mined ids (``training.sampling.MinedSampler``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.errors import DamagedError, InputError, MismatchError
from index.files import atomic_path, atomic_write, only_writer
from retrieval import config as configs
from retrieval.config import Config, fingerprint
from retrieval.datasets.readers import PhotoSource, open_photos
from retrieval.datasets.records import Photo
from retrieval.datasets.splits import held_out
from retrieval.embed import build_gallery
from retrieval.engine import AT_ONCE, Engine
from retrieval.evaluation.metrics import pad_rows, same_style_at_k
from retrieval.evaluation.protocols import group_codes
from retrieval.models import checkpoint
from retrieval.query import Request
from retrieval.training.data import TrainingSet, gather
from retrieval.training.loop import train
from retrieval.training.mined import Mined

TOP = 4  # same-style top-4, as the thesis
TARGET = "\0target\0"  # before the ids of target photos among those that are trained on
PLAN = "mining.json"


class Pairs(NamedTuple):
    """Pseudo labels by id: of each query its positives and its negatives, best first."""

    queries: list[str]
    positives: list[list[str]]
    negatives: list[list[str]]


@dataclass(frozen=True)
class Round:
    """What a round reached. ``source``, ``target``: same-style top-4 of the source's validation part and of the
    target's held-out part, None where it cannot be asked. ``mined``: ids; ``right``: share of the positives that are of
    the query's style, ``apart``: share of the negatives that are not, by the truth column. Round 0: before mining.
    """

    round: int
    model: str  # fingerprint
    source: float | None
    target: float | None
    mined: int = 0
    right: float | None = None
    apart: float | None = None

    @property
    def score(self) -> float:
        """What decides: the target's where it is known, else the source's."""
        return self.target if self.target is not None else self.source if self.source is not None else 0.0

    def line(self) -> str:
        """For a screen."""
        parts = {"source": self.source, "target": self.target}
        reached = ", ".join(f"{value:.3f} on the {name}" for name, value in parts.items() if value is not None)
        told = f"round {self.round}: same-style top-{TOP} {reached}"
        if self.mined:
            told += f"; {self.mined:,} ids mined"
        if self.right is not None and self.apart is not None:
            told += f", {self.right:.3f} of their positives right, {self.apart:.3f} of their negatives"
        return told


class Task(NamedTuple):
    """All that a run works on: ``data`` of both kinds, ``source`` (validation part), ``target`` (what is mined) and
    ``held`` (what judges, or None) as listings; ``styles``, ``truth``: style by id."""

    config: Config
    data: TrainingSet
    source: PhotoSource | None
    target: PhotoSource
    held: PhotoSource | None
    styles: Mapping[str, str]
    truth: Mapping[str, str]
    work: Path


def mine(
    config: str | Path | Config,
    target: Path,
    *,
    photos: Path | None = None,
    labels: Path | None = None,
    truth: str | None = None,
    model: str | Path | None = None,
    rounds: int = 5,
    every: bool = False,
    out: Path | None = None,
    progress: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Rounds of mining until one gains nothing (``every``: all of them), ``rounds`` at most; the best goes to ``out``.

    photos, labels: the source, by default the config's; model: what to begin from (default: a network trained by the
    config on the source). truth: a column of the target with style ids. It labels nothing: styles held out by the hash
    of their name (``data.holdout``) are never mined and say which round is the best; the others say how many pseudo
    labels are right. say: told a line for each round. Returns, and writes beside ``out`` (.mining.json), what every
    round reached. Rounds lie in <out>.mining (checkpoint, pairs, report); the same call goes on there, another's folder
    is a MismatchError. Raises InputError, ConfigError, ModelError.
    """
    settings = config if isinstance(config, Config) else configs.load(config)
    where = photos or (Path(settings.data.photos) if settings.data.photos else None)
    if where is None:
        raise InputError(f"config {settings.name} names no data.photos: give --photos")
    if not settings.data.style:
        raise InputError(f"config {settings.name} names no data.style: mining learns styles")
    out = out or Path("runs") / f"{settings.name}.safetensors"
    listing = open_photos(where, labels or (Path(settings.data.labels) if settings.data.labels else None))
    goal = open_photos(target)
    if truth is not None and truth not in goal.attributes:
        raise InputError(f"{target} has no column {truth!r}; it has {', '.join(goal.attributes) or 'no labels'}")
    work = out.with_name(f"{out.stem}.mining")
    begin = None if model is None else checkpoint.read(model)
    identity = {
        "config": fingerprint(settings.model_dump(mode="json", exclude={"search"})),
        "source": listing.fingerprint()[:16],
        "target": goal.fingerprint()[:16],
        "truth": truth or "",
        "model": begin.fingerprint if begin else "",
    }
    with only_writer(work):
        _claim(work / PLAN, identity)
        task = _task(settings, listing, goal, truth, work, progress)
        done = [_first(task, begin.path if begin else None, progress)]
        say(done[0].line())
        path = begin.path if begin else work / "round-0.safetensors"
        for number in range(1, rounds + 1):
            done.append(_round(task, number, path, progress))
            path = work / f"round-{number}.safetensors"
            say(done[-1].line())
            if not every and done[-1].score <= max(each.score for each in done[:-1]):
                break
        best = max(done, key=lambda each: (each.score, -each.round))
        kept = begin.path if best.round == 0 and begin else work / f"round-{best.round}.safetensors"
        atomic_write(out, kept.read_bytes())
        told = [asdict(each) for each in done]
        report = {"checkpoint": str(out), "best": best.round, "rounds": told, "judged by": _judge(best), **identity}
        atomic_write(out.with_name(f"{out.stem}.mining.json"), json.dumps(report, indent=1).encode())
    return report


def _judge(reached: Round) -> str:
    return "the target's held-out styles" if reached.target is not None else "the source's validation styles"


def _claim(path: Path, identity: dict[str, str]) -> None:
    """Note whose rounds lie here; refuse to go on with another run's."""
    if not path.is_file():
        atomic_write(path, json.dumps(identity, indent=1).encode())
        return
    begun = _json(path)
    if wrong := [key for key in identity if begun.get(key) != identity[key]]:
        said = ", ".join(f"{key} {begun.get(key) or 'none'}, this is {identity[key] or 'none'}" for key in wrong)
        raise MismatchError(f"{path.parent} holds rounds of another run: {said}: delete it, or give another --out")


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError):
        raise DamagedError(f"{path}: not readable: delete {path.parent} to begin again") from None


def _task(
    config: Config, source: PhotoSource, goal: PhotoSource, truth: str | None, work: Path, progress: bool
) -> Task:
    """Both listings gathered to train on, without a label of the target's, and the parts that judge."""
    known = [photo.attributes[truth] if truth else None for photo in goal]
    ids = goal.rows["id"].to_pylist()
    judges = np.zeros(len(goal), bool)
    if truth:
        judges = held_out(known, ids, config.data.holdout) & np.array([bool(each) for each in known])
    mined = goal.take(np.flatnonzero(~judges))
    blank: dict[str, str | None] = dict.fromkeys(source.attributes)
    if config.data.split is not None:
        blank[config.data.split] = "train"
    records = [*source, *(Photo(TARGET + each.id, each.path, each.source, blank) for each in mined)]
    data = gather(records, config, progress)
    data = replace(data, validation=data.validation & ~np.array([each.startswith(TARGET) for each in data.ids]))
    asked = {name for name, held in zip(data.ids, data.validation, strict=True) if held}
    rows = np.flatnonzero([each in asked for each in source.rows["id"].to_pylist()])
    styles = {
        photo.id: style
        for photo in source
        if photo.id in asked and (style := next((s for c in config.data.style if (s := photo.attributes.get(c))), None))
    }
    return Task(
        config=config,
        data=data,
        source=source.take(rows) if len(rows) else None,
        target=mined,
        held=goal.take(np.flatnonzero(judges)) if judges.any() else None,
        styles=styles,
        truth={name: style for name, style in zip(ids, known, strict=True) if style},
        work=work,
    )


def _first(task: Task, model: Path | None, progress: bool) -> Round:
    """The network before mining: the one given, or one trained on the source by the config."""
    report = task.work / "round-0.json"
    path = model or task.work / "round-0.safetensors"
    if (kept := _finished(report, path)) is not None:
        return kept
    if model is None:
        rows = np.flatnonzero([not each.startswith(TARGET) for each in task.data.ids])
        train(subset(task.data, rows), _alone(task.config), path, progress=progress)
    return _kept(report, _measured(task, 0, path, progress))


def _round(task: Task, number: int, before: Path, progress: bool) -> Round:
    """Mine with the network of the round before, train on, measure."""
    report, path = task.work / f"round-{number}.json", task.work / f"round-{number}.safetensors"
    if (kept := _finished(report, path)) is not None:
        return kept
    settings = task.config.mine
    engine = _engine(task, "target", task.target, before, progress)
    photos = engine.gallery.manifest.photos
    if photos <= settings.negatives[1]:
        raise InputError(
            f"{task.target.root}: {photos} photos to mine, and ranks up to {settings.negatives[1]} need more: give more"
            " photos, or lower mine.negatives in the config"
        )
    rng = np.random.default_rng([task.config.training.seed, 5, number])
    pairs = mined_pairs(engine, settings.queries, settings.positives, settings.negatives, rng, settings.confident)
    save_pairs(task.work / f"round-{number}.parquet", pairs, checkpoint.read(before).fingerprint)
    place = {name.removeprefix(TARGET): row for row, name in enumerate(task.data.ids) if name.startswith(TARGET)}
    mined = Mined(
        [_places([query, *each], place) for query, each in zip(pairs.queries, pairs.positives, strict=True)],
        [_places(each, place) for each in pairs.negatives],
    )
    train(task.data, tuned(task.config, before), path, progress=progress, mined=mined)
    reached = replace(_measured(task, number, path, progress), mined=len(pairs.queries))
    if task.truth:
        right = share(pairs.queries, pairs.positives, task.truth)
        wrong = share(pairs.queries, pairs.negatives, task.truth)
        reached = replace(reached, right=right, apart=None if wrong is None else round(1 - wrong, 4))
    return _kept(report, reached)


def _places(ids: Sequence[str], place: Mapping[str, int]) -> np.ndarray:
    return np.array([place[each] for each in ids if each in place], np.int64)


def _alone(config: Config) -> Config:
    """One process: a run of several would begin each of them at the top, and only one may write here."""
    return config.model_copy(update={"training": config.training.model_copy(update={"devices": 1})})


def tuned(config: Config, start: Path) -> Config:
    """The config of a round: on from ``start``, batches, loss on look, steps and rate as ``mine`` says."""
    settings = config.mine
    training = config.training.model_copy(
        update={
            "start": str(start),
            "batch": "pairs" if settings.loss == "contrast" else "ids",
            "style_loss": settings.loss,
            "steps": settings.steps,
            "learning_rate": settings.learning_rate,
            "coarse_size": None,
            "validate_every": 0,
            "devices": 1,
        }
    )
    model = config.model.model_copy(update={"pretrained": False})  # its weights are in the checkpoint
    return config.model_copy(update={"training": training, "model": model})


def subset(data: TrainingSet, rows: np.ndarray) -> TrainingSet:
    """The same photos, but only those ``rows``, (n,) int64 rising; pixels are shared."""
    pixels = data.pixels.part(rows)
    sets = {name: values[rows] for name, values in data.sets.items()}
    return replace(
        data, ids=[data.ids[row] for row in rows], pixels=pixels, codes=data.codes[rows], styles=data.styles[rows],
        validation=data.validation[rows], sets=sets,
    )  # fmt: skip


def _finished(report: Path, model: Path) -> Round | None:
    """The report of a round that an earlier run ended, if its network is the one it speaks of."""
    if not report.is_file():
        return None
    told = _json(report)
    found = checkpoint.read(model).fingerprint
    if told.get("model") != found:
        raise MismatchError(f"{report} speaks of model {told.get('model')}, {model} is {found}: delete {report.parent}")
    try:
        return Round(**told)
    except TypeError:
        raise DamagedError(f"{report}: not a report of a round: delete {report.parent} to begin again") from None


def _kept(report: Path, reached: Round) -> Round:
    atomic_write(report, json.dumps(asdict(reached), indent=1).encode())
    return reached


def _measured(task: Task, number: int, model: Path, progress: bool) -> Round:
    found: dict[str, float | None] = {"source": None, "target": None}
    for name, listing, styles in (("source", task.source, task.styles), ("target", task.held, task.truth)):
        if listing is not None:
            found[name] = same_style(_engine(task, f"{name}-held", listing, model, progress), styles)
    if number == 0 and not any(value is not None for value in found.values()):
        raise InputError("no held-out style has two photos, so rounds cannot be judged: raise data.holdout")
    return Round(number, checkpoint.read(model).fingerprint, found["source"], found["target"])


def _engine(task: Task, name: str, listing: PhotoSource, model: Path, progress: bool) -> Engine:
    """The listing as a gallery of that network, in place of the last round's."""
    path = task.work / f"{name}.gallery"
    try:
        build_gallery(listing, path, model, progress=progress)
    except MismatchError:
        shutil.rmtree(path)  # another round's: derived, and never searched again
        build_gallery(listing, path, model, progress=progress)
    return Engine.open(path)


def neighbours(engine: Engine, rows: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Gallery rows of the ``k`` nearest others of each of ``rows``, best first, and their scores, by style alone: look,
    and parts where the network has them, at the gallery's weights; attributes weigh nothing, since mining does not
    train them."""
    ids = engine.gallery.columns(["id"])["id"]
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(rows), AT_ONCE):
        span = rows[start : start + AT_ONCE]
        asked = [Request(like=ids[int(row)].as_py(), drop=tuple(engine.names.vocabulary)) for row in span]
        found += engine.search(engine.prepare(asked), k)
    return found


def mined_pairs(
    engine: Engine,
    queries: int,
    positives: int,
    negatives: tuple[int, int],
    rng: np.random.Generator,
    confident: float = 1.0,
) -> Pairs:
    """Pseudo labels of at most ``queries`` rows of the gallery, drawn by ``rng``: ranks 1 to ``positives`` are of the
    query's style, ranks negatives[0] to negatives[1] (both counted) of another. The query has no rank. Of the queries
    the share ``confident`` is kept: those whose last positive scores the most above their first negative."""
    ids = engine.gallery.columns(["id"])["id"].to_pylist()
    drawn = np.sort(rng.permutation(len(ids))[:queries])
    first, last = negatives
    found = neighbours(engine, drawn, last)
    gaps = np.array([scores[positives - 1] - scores[first - 1] for _, scores in found])
    kept = np.sort(np.argsort(-gaps, kind="stable")[: max(round(confident * len(drawn)), 1)])
    near = [found[at][0] for at in kept]
    return Pairs(
        [ids[row] for row in drawn[kept]],
        [[ids[row] for row in at[:positives]] for at in near],
        [[ids[row] for row in at[first - 1 : last]] for at in near],
    )


def save_pairs(path: Path, pairs: Pairs, model: str) -> None:
    """Parquet: query, positives, negatives, by id; the fingerprint of the network that ranked them in its footer."""
    lists = pa.list_(pa.string())
    columns = {
        "query": pa.array(pairs.queries, pa.string()),
        "positives": pa.array(pairs.positives, lists),
        "negatives": pa.array(pairs.negatives, lists),
    }
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata({"model": model}), temporary)


def share(queries: Sequence[str], others: Sequence[Sequence[str]], truth: Mapping[str, str]) -> float | None:
    """Share of the pairs (query, other) that are of one style, of those whose styles are both known; None of none."""
    same = [
        truth[query] == truth[other]
        for query, each in zip(queries, others, strict=True)
        for other in each
        if query in truth and other in truth
    ]
    return round(float(np.mean(same)), 4) if same else None


def same_style(engine: Engine, styles: Mapping[str, str], top: int = TOP) -> float | None:
    """Share of the photos with a mate of their style that have one among the ``top`` nearest others; None without any.

    styles: by id; photos that it lacks are not asked, and are nobody's mate.
    """
    hits = style_hits(engine, styles, top)[1]
    return round(float(hits.mean()), 4) if len(hits) else None


def style_hits(engine: Engine, styles: Mapping[str, str], top: int = TOP) -> tuple[np.ndarray, np.ndarray]:
    """Gallery rows of the photos that ``same_style`` asks, (n,) int64 rising, and which have a mate near, (n,) bool."""
    code = group_codes(styles.get(name) for name in engine.gallery.columns(["id"])["id"].to_pylist())
    counts = np.bincount(code[code >= 0], minlength=1)
    asked = np.flatnonzero((code >= 0) & (counts[np.maximum(code, 0)] > 1))
    if not len(asked):
        return asked, np.zeros(0, bool)
    near = [rows for rows, _ in neighbours(engine, asked, top)]
    rows = pad_rows(near, top + 1)  # one place more: the query's own, which is not there
    return asked, same_style_at_k(code, asked, rows, top)
