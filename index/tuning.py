"""The measured curve of an index: recall against exact search for each effort and number of candidates reranked.

Queries are table rows, the row itself taken out of both answers; a graph does not meet any of them meanwhile. They are
asked at the gallery's default block weights, with one block taken from another row, as an edit does, and at other
weights: these are sorted into levels by the cosine between a query's weights and the default ones, since an index is
built for the default ones, and the farther a query is from them, the more of it must be read. Each block is asked
alone, too: a narrow one may take far more than a wide one. Recall is tie-aware. Each level, and each block alone, has a
curve of its own.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from index.exact import Float32, as_float32
from index.exact import search as exact_search
from index.hits import TIE_TOLERANCE, Rows
from index.levels import LEVELS, NEAR, lengths_of, level_of, queries_of
from index.table import Layout
from index.vectors import taken

if TYPE_CHECKING:
    from index.approximate import ApproximateIndex

RECALL = 0.95  # asked for when a search names neither a recall nor its knobs
KS = (1, 4, 10, 30, 100)
DEPTHS = (12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048, 4096)
# the setting that only just reaches a recall has had luck: settings must miss this much less than asked may be missed,
# and more where a level mixes easier and harder weights
MARGIN, LEVEL_MARGIN = 0.1, 0.2
ENOUGH = 0.995  # more effort is not measured once recall at every k is so high
ENDING = 0.99  # nor once it is so high, and twice the effort gained less than SATURATED at any
SPARE = 16  # true neighbours of a query that may themselves be asked
READ_OF = 4  # what a query reads is counted on one in so many of them
TIMED = 5
TIMED_DEPTH = 512  # candidates: each may map 2 MiB around it until the query is over
SCORED_BYTES = 1 << 24  # float32 rows scored at once
LEAST_DEPTH = 64
SATURATED = 0.001


@dataclass(frozen=True)
class Setting:
    """One point of the curve. nprobe: lists probed, or efSearch. rerank: candidates scored on the stored vectors.

    recall: k -> recall@k of level 0, the lower of its two kinds; by_kind: kind -> k -> recall, the kinds being "default
    weights", "edited", "level 1" to "level 4", "level 1, edited" and on, where one block is raised as an edit does,
    "level 1, lacking" and on, of rows that lack blocks, at the default weights, and "block 0 alone" and on. A kind that
    was found well enough keeps its recall at more effort: it is not asked again.
    bytes_read: codes scanned and vectors reranked for one query, in bytes: the work, the same on every host. ms: median
    time of one query asked alone, on the host that built, 0 where it was not timed (more than TIMED_DEPTH candidates).
    exact: no setting reaches the recall asked at such weights, so all rows are scored.
    """

    nprobe: int
    rerank: int
    recall: dict[int, float] = field(default_factory=dict)
    by_kind: dict[str, dict[int, float]] = field(default_factory=dict)
    bytes_read: int = 0
    ms: float = 0.0
    exact: bool = False

    def recall_at(self, k: int, level: int = 0) -> float:
        """Measured at ``measured_k``; 1 for exact search."""
        if self.exact:
            return 1.0
        found: list[dict[int, float]] = []
        while level and not found:  # no weights of these blocks may be so far
            alone = f"block {level - len(LEVELS) - 1} alone"
            ways = ("", ", edited", ", lacking")
            kinds = [f"level {level}{way}" for way in ways] if level <= len(LEVELS) else [alone]
            found, level = [self.by_kind[each] for each in kinds if each in self.by_kind], min(level - 1, len(LEVELS))
        return min(recalls[measured_k(recalls, k)] for recalls in found or [self.recall])


def measured_k(ks: Collection[int], k: int) -> int:
    """The k whose curve holds for this one: the smallest that is no less than 4/5 of it, at most the largest.

    So 11, ten hits and the row that asks, goes by 10.
    """
    return min((each for each in ks if 5 * each >= 4 * k), default=max(ks))


@dataclass(frozen=True)
class Tuning:
    """The curve and how it was measured; tuning.json.

    starts, weights: where each block begins in the embedding of ``dim`` dimensions, and its default weight.
    """

    curve: list[Setting]
    seed: int
    queries: int
    made_with: str
    starts: list[int] = field(default_factory=lambda: [0])
    weights: list[float] = field(default_factory=lambda: [1.0])

    def levels(self, queries: Float32) -> npt.NDArray[np.int64]:
        """How far the weights of queries (q, D) are from the default ones, int64 (q,): see ``level_of``.

        A block's weight is the length of the query's part in it, as blocks are unit vectors before they are weighted.
        """
        if len(self.starts) == 1:
            return np.zeros(len(queries), np.int64)
        return level_of(lengths_of(queries, self.starts), self.weights)

    def choose(self, recall: float, k: int, level: int = 0) -> Setting:
        """The setting of least work that reaches this recall@k at this level.

        Where none does: the one that comes nearest at level 0, exact search at others. Beyond the k measured, effort
        and depth grow in proportion.
        """
        wanted = recall + (LEVEL_MARGIN if level else MARGIN) * (1 - recall)
        # one neighbour of each query is a coarse measure: at other levels ten must be found as well
        ks = {k, max(k, 10)} if level else {k}
        reaching = [each for each in self.curve if min(each.recall_at(one, level) for one in ks) >= wanted]
        if reaching:
            best = min(reaching, key=lambda each: (each.bytes_read, each.nprobe))
        elif level:
            return Setting(1, k, exact=True)
        else:
            best = max(self.curve, key=lambda each: (each.recall_at(k), -each.bytes_read))
        at = measured_k(best.recall, k)  # where fewer candidates than k were to be scored, k of them were
        grow = max(1.0, k / at)
        return replace(best, nprobe=math.ceil(best.nprobe * grow), rerank=math.ceil(max(best.rerank, at) * grow))

    def depth_for(self, nprobe: int, k: int) -> int:
        """How many candidates to rerank when only nprobe was asked for.

        The depth beyond which recall gained nothing, at any effort up to this one and any weights but one block alone:
        with it, more effort never pushes true neighbours out of the candidates, so recall never falls as nprobe rises.
        """
        depth = max(LEAST_DEPTH, 2 * k)
        for probes in sorted({each.nprobe for each in self.curve}):
            column = sorted((each for each in self.curve if each.nprobe == probes), key=lambda each: each.rerank)
            lowest = [min(each.recall_at(k, level) for level in range(len(LEVELS))) for each in column]
            saturated = next(i for i, each in enumerate(lowest) if each >= lowest[-1] - SATURATED)
            depth = max(depth, column[saturated].rerank)
            if probes >= nprobe:
                break
        return depth

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Tuning:
        body: dict[str, Any] = json.loads(text)
        curve = []
        for each in body.pop("curve"):
            each["recall"] = {int(k): value for k, value in each["recall"].items()}
            each["by_kind"] = {n: {int(k): v for k, v in kind.items()} for n, kind in each["by_kind"].items()}
            curve.append(Setting(**each))
        return cls(curve=curve, **body)


def measure(
    index: ApproximateIndex,
    layout: Layout,
    weights: Mapping[str, float],
    seed: int = 0,
    progress: bool = False,
    table: Iterable[npt.NDArray[np.float16]] | None = None,
    timed: bool = True,
    until: float | None = None,
) -> Tuning:
    """Measure the curve of an index over its own rows; the same curve, times apart, for the same seed.

    table: the index's vectors once more, as batches for the one pass of exact search (default: its memory map). timed:
    measure milliseconds too. until: only recall@10 at level 0, and no more effort once it is so high.
    """
    rng = np.random.default_rng(seed)
    n, dim = index.vectors.shape
    default = [weights.get(name, 1.0) for name in layout.names]
    made = queries_of(index.vectors, layout, default, rng)
    if until is not None:
        made = {name: each for name, each in made.items() if name in NEAR}
    kinds = {name: each for name, (each, _) in made.items()}
    queries, own = (np.concatenate(each) for each in zip(*made.values(), strict=True))  # (q, D), (q,)
    rows = np.unique(own)
    mixed = sum(len(each) for name, each in kinds.items() if "alone" not in name)
    ks = [k for k in (KS if until is None else (10,)) if k <= n // 4]
    met = len(rows) / n * ks[-1] / (1 - len(rows) / n)  # of the neighbours, that may themselves be asked
    truth = exact_search(index.vectors if table is None else table, queries, ks[-1] + 1 + SPARE + round(3 * met))
    scored = _Scores(lambda rows: as_float32(taken(index.vectors, rows)), dim, queries)
    guessed = _Scores(index.copied, dim, queries) if index.copy is not None else None
    with index.base.hidden(rows) as hidden:
        true_rows = _others(truth.rows, np.isin(truth.rows, rows) if hidden else truth.rows == own[:, None])
        true_scores = scored.of(true_rows[:, : ks[-1]])
        slack = TIE_TOLERANCE * np.abs(true_scores[:, 0])
        depths = [depth for depth in DEPTHS if depth <= n // 4]  # beyond that, brute force
        efforts = index.base.efforts()
        curve: list[Setting] = []
        reached: dict[int, list[float]] = {}  # effort -> recalls at its greatest depth
        last: dict[str, dict[int, dict[int, float]]] = {name: {} for name in kinds}  # kind -> depth -> recalls
        for nprobe in tqdm(efforts, desc="measure", disable=None if progress else True):
            usable = [depth for depth in depths if depth <= nprobe or index.base.knob != "efSearch"]
            if not usable:
                continue
            done = {name for name in kinds if last[name] and min(_deepest(last[name]).values()) >= ENOUGH and not until}
            waiting = {name: len(each) for name, each in kinds.items() if name not in done}
            members = np.flatnonzero(np.repeat([name in waiting for name in kinds], [*map(len, kinds.values())]))
            found = index.candidates(queries[members], nprobe, max(usable) + (not hidden), at_least=0)
            found = found if hidden else _without(found, own[members])  # (members, depth)
            scores = scored.of(found, members)
            reach = true_scores[members] - slack[members, None]
            good = {k: scores >= reach[:, k - 1 : k] for k in ks}  # (members, depth)
            counts = {k: np.cumsum(each, axis=1, dtype=np.int64) for k, each in good.items()}
            ranked = scores if guessed is None else guessed.of(found, members)
            codes = index.base.bytes_read(index.inner(queries[:mixed:READ_OF]), nprobe)
            last |= {name: {} for name in waiting}
            sizes = np.array([*waiting.values()])
            for depth in usable:
                at = {k: min(max(depth, k), scores.shape[1]) - 1 for k in ks}
                met = {k: counts[k][:, at[k]] for k in ks}
                if index.copy is not None:
                    met = {k: _best(ranked, good[k], at[k] + 1, index.kept(k, at[k] + 1)) for k in ks}
                begins = np.cumsum(sizes) - sizes
                shares = {k: np.add.reduceat(np.minimum(met[k], k), begins) / (k * sizes) for k in ks}
                for i, name in enumerate(waiting):
                    last[name][depth] = {k: float(shares[k][i]) for k in ks}
                by_kind = {name: each.get(depth) or _deepest(each) for name, each in last.items()}
                lowest = {k: min(each[k] for name, each in by_kind.items() if name in NEAR) for k in ks}
                read = round(codes + index.bytes_scored(10, depth))
                ms = _median_ms(index, queries, nprobe, depth) if timed and depth <= TIMED_DEPTH else 0.0
                curve.append(Setting(nprobe, depth, lowest, by_kind, read, ms))
            reached[nprobe] = [share for kind in curve[-1].by_kind.values() for share in kind.values()]
            if _ended(reached, until):
                break
    starts = [block.start for block in layout.blocks]
    return Tuning(curve, seed, len(queries), f"faiss {faiss.__version__}", starts, default)


def _deepest(recalls: dict[int, dict[int, float]]) -> dict[int, float]:
    """Of depth -> k -> recall, the greatest depth's."""
    return recalls[max(recalls)]


def _ended(reached: dict[int, list[float]], until: float | None) -> bool:
    """Whether efforts beyond the last need not be measured."""
    effort, last = list(reached.items())[-1]
    if min(last) >= (until or ENOUGH):
        return True
    halved = [each for before, each in reached.items() if 2 * before <= effort]
    gain = max(now - was for now, was in zip(last, halved[-1], strict=True)) if halved else 1.0
    return min(last) >= ENDING and gain < SATURATED


def _best(ranked: Float32, good: npt.NDArray[np.bool_], depth: int, kept: int) -> Rows:
    """How many are good among the ``kept`` that rank best of each query's first ``depth`` candidates, int64 (q,)."""
    best = np.argpartition(-ranked[:, :depth], kept - 1, axis=1)[:, :kept]
    return np.asarray(np.take_along_axis(good, best, axis=1).sum(axis=1))


def trial(index: ApproximateIndex, layout: Layout, weights: Mapping[str, float], seed: int = 0) -> tuple[float, float]:
    """(recall@10, milliseconds a query when many are asked at once) of the least work that reaches RECALL, or comes
    nearest."""
    until = RECALL + MARGIN * (1 - RECALL)
    chosen = measure(index, layout, weights, seed, timed=False, until=until).choose(RECALL, 10)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(index.vectors), min(512, len(index.vectors)), replace=False))
    queries = as_float32(taken(index.vectors, rows)) * layout.scale(weights)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        index.search(queries, 10, nprobe=chosen.nprobe, rerank=chosen.rerank)
        times.append(time.perf_counter() - start)
    return chosen.recall_at(10), 1000 * min(times) / len(queries)


def _others(found: Rows, mine: npt.NDArray[np.bool_]) -> Rows:
    """Rows (q, m) in their order, but those that are ``mine`` (q, m) behind all others."""
    return np.take_along_axis(found, np.argsort(mine, axis=1, kind="stable"), axis=1)


def _without(found: Rows, own: Rows) -> Rows:
    """(q, m) rows less each query's own, or less the last where its own is not among them: (q, m - 1)."""
    drop = found == own[:, None]
    drop[~drop.any(axis=1), -1] = True
    return found[~drop].reshape(len(found), -1)


class _Scores:
    """Scores of rows, ``take`` (n,) -> (n, dim), by queries (q, dim), each computed once: more effort meets mostly what
    less effort has met."""

    def __init__(self, take: Callable[[Rows], Float32], dim: int, queries: Float32) -> None:
        self._take, self._dim, self._queries = take, dim, queries
        self._keys, self._known = np.zeros(0, np.int64), np.zeros(0, np.float32)  # query << 32 | row, rising

    def of(self, rows: Rows, queries: Rows | None = None) -> Float32:
        """Inner products of these queries (q,), or all, with their own rows (q, m), float32 (q, m); -inf for row -1."""
        queries = np.arange(len(rows)) if queries is None else queries
        query = np.broadcast_to(queries[:, None], rows.shape)[rows >= 0]
        keys = query << 32 | rows[rows >= 0]
        at = np.searchsorted(self._keys, keys)
        new = np.append(self._keys, -1)[at] != keys
        self._add(query[new], keys[new] & 0xFFFFFFFF)
        out = np.full(rows.shape, -np.inf, np.float32)
        out[rows >= 0] = self._known[np.searchsorted(self._keys, keys)]
        return out

    def _add(self, query: Rows, rows: Rows) -> None:
        """Scores of pairs that are not known yet. By row: queries that differ in their weights only meet the same."""
        order = np.argsort(rows, kind="stable")
        query, rows, scores = query[order], rows[order], np.empty(len(rows), np.float32)
        at_once = max(1, SCORED_BYTES // (4 * self._dim))
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            first = np.append(True, rows[part][1:] != rows[part][:-1])
            found = self._take(rows[part][first])[np.cumsum(first) - 1]
            np.einsum("nd,nd->n", found, self._queries[query[part]], out=scores[part])
        keys = np.concatenate([self._keys, query << 32 | rows])
        order = np.argsort(keys)
        self._keys, self._known = keys[order], np.concatenate([self._known, scores])[order]


def _median_ms(index: ApproximateIndex, queries: Float32, nprobe: int, depth: int) -> float:
    """The median time of one search of 10 hits asked alone, in milliseconds."""
    times = []
    for query in queries[:: max(1, len(queries) // TIMED)][:TIMED]:
        start = time.perf_counter()
        index.search(query[None], min(10, depth), nprobe=nprobe, rerank=depth)
        times.append(time.perf_counter() - start)
        index.release()
    return round(1000 * float(np.median(times)), 4)
