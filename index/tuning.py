"""The measured curve of an index: recall against exact search for each number of lists probed and candidates reranked.

Queries are table rows, the row itself taken out of both answers, asked in three ways: at the gallery's default block
weights, at random weights (0 to 4 for each block), and with one block taken from another row, as an edit does. The
recall of a setting is the lowest of the three, tie-aware.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from tqdm import tqdm

from index.exact import Float32, as_float32
from index.exact import search as exact_search
from index.hits import TIE_TOLERANCE, Rows
from index.table import Layout

if TYPE_CHECKING:
    from index.ivfpq import IVFPQIndex

KS = (1, 4, 10, 30, 100)
DEPTHS = (32, 64, 128, 256, 512, 1024)
ENOUGH = 0.995  # probing more lists is not measured once recall at every k is so high
QUERIES = 128  # of each kind
TIMED = 10
SATURATED = 0.001


@dataclass(frozen=True)
class Setting:
    """One point of the curve. recall: k -> the lowest over kinds of queries; by_kind: kind -> k -> recall.

    bytes_read: codes scanned and vectors reranked for one query, in bytes: the work, the same on every host. ms: median
    time of one query asked alone, on the host that built.
    """

    nprobe: int
    rerank: int
    recall: dict[int, float] = field(default_factory=dict)
    by_kind: dict[str, dict[int, float]] = field(default_factory=dict)
    bytes_read: int = 0
    ms: float = 0.0

    def recall_at(self, k: int) -> float:
        """Measured at the smallest k that is no smaller than this one (at the largest, beyond it)."""
        return self.recall[_measured_k(self.recall, k)]


def _measured_k(recalls: Mapping[int, float], k: int) -> int:
    return min((each for each in recalls if each >= k), default=max(recalls))


@dataclass(frozen=True)
class Tuning:
    """The curve and how it was measured; tuning.json."""

    curve: list[Setting]
    seed: int
    queries: int
    made_with: str

    def choose(self, recall: float, k: int) -> Setting:
        """The setting of least work that reaches this recall@k, else the one that comes nearest.

        Beyond the largest k measured, lists and depth grow in proportion.
        """
        reaching = [each for each in self.curve if each.recall_at(k) >= recall]
        if reaching:
            best = min(reaching, key=lambda each: (each.bytes_read, each.nprobe))
        else:
            best = max(self.curve, key=lambda each: (each.recall_at(k), -each.bytes_read))
        grow = max(1.0, k / max(best.recall))
        return replace(best, nprobe=round(best.nprobe * grow), rerank=round(best.rerank * grow))

    def depth_for(self, nprobe: int, k: int) -> int:
        """How many candidates to rerank when only nprobe was asked for.

        The depth beyond which recall gained nothing, at any number of lists up to this one: with it, probing more lists
        never pushes true neighbours out of the candidates, so recall does not fall as nprobe rises.
        """
        depth = k
        for probes in sorted({each.nprobe for each in self.curve}):
            column = sorted((each for each in self.curve if each.nprobe == probes), key=lambda each: each.rerank)
            top = column[-1].recall_at(k)
            depth = max(depth, next(each.rerank for each in column if each.recall_at(k) >= top - SATURATED))
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
    index: IVFPQIndex, layout: Layout, weights: Mapping[str, float], seed: int = 0, progress: bool = False
) -> Tuning:
    """Measure the curve of an index over its own rows; the same curve, times apart, for the same seed."""
    rng = np.random.default_rng(seed)
    n, dim = index.vectors.shape
    rows = np.sort(rng.choice(n, min(QUERIES, n // 2), replace=False))
    kinds = _queries(as_float32(index.vectors.take(rows, axis=0)), index, layout, weights, rng)
    own = np.tile(rows, len(kinds))  # the row that query i was made of
    queries = np.concatenate(list(kinds.values()))  # (kinds x rows, D)
    ks = [k for k in KS if k <= n // 4]
    truth = exact_search(index.vectors, queries, ks[-1] + 1)
    true_scores = index.scores(queries, _without(truth.rows, own))  # (q, largest k)
    slack = TIE_TOLERANCE * np.abs(true_scores[:, 0])
    nlist = index.index.nlist
    depths = [depth for depth in DEPTHS if depth <= n // 4]  # beyond that, brute force
    _, order = index.index.quantizer.search(index.padded(queries), nlist)
    codes = np.cumsum(index.list_sizes[order], axis=1).mean(axis=0)  # codes scanned in 1, 2, ... lists
    curve: list[Setting] = []
    nprobes = [2**i for i in range(nlist.bit_length()) if 2**i < nlist] + [nlist]
    for nprobe in tqdm(nprobes, desc="measure", disable=None if progress else True):
        found = _without(index.candidates(queries, nprobe, depths[-1] + 1, at_least=0), own)  # (q, depth)
        scores = np.where(found >= 0, index.scores(queries, found), -np.inf)
        for depth in depths:
            shares = {}
            for k in ks:
                good = scores[:, : max(depth, k)] >= (true_scores[:, k - 1] - slack)[:, None]
                shares[k] = np.minimum(good.sum(axis=1), k).reshape(len(kinds), -1).mean(axis=1) / k  # (kinds,)
            by_kind = {name: {k: float(shares[k][i]) for k in ks} for i, name in enumerate(kinds)}
            lowest = {k: float(shares[k].min()) for k in ks}
            read = round(codes[nprobe - 1] * index.index.code_size + depth * dim * 2)
            curve.append(Setting(nprobe, depth, lowest, by_kind, read, _median_ms(index, queries, nprobe, depth)))
        if min(curve[-1].recall.values()) >= ENOUGH:
            break
    return Tuning(curve, seed, len(queries), f"faiss {faiss.__version__}")


def _queries(
    vectors: Float32, index: IVFPQIndex, layout: Layout, weights: Mapping[str, float], rng: np.random.Generator
) -> dict[str, Float32]:
    """Kind -> queries (n, D) made of these vectors (n, D). With one block only its default weight means anything."""
    scale = layout.scale(weights)
    kinds = {"default weights": vectors * scale}
    if len(layout.blocks) > 1:
        sizes = [block.stop - block.start for block in layout.blocks]
        random_weights = rng.uniform(0, 4, (len(vectors), len(sizes))).astype(np.float32)
        kinds["random weights"] = vectors * np.repeat(random_weights, sizes, axis=1)
        donors = as_float32(index.vectors.take(rng.choice(len(index.vectors), len(vectors)), axis=0))
        edited = vectors.copy()
        # the widest block says what the photo looks like: an edit changes one of the others
        others = [block for block in layout.blocks if block.stop - block.start < max(sizes)] or layout.blocks
        for i, choice in enumerate(rng.integers(0, len(others), len(vectors))):
            block = others[choice]
            edited[i, block.start : block.stop] = donors[i, block.start : block.stop]
        kinds["edited"] = edited * scale
    return kinds


def _without(found: Rows, own: Rows) -> Rows:
    """(q, m) rows less each query's own, or less the last where its own is not among them: (q, m - 1)."""
    drop = found == own[:, None]
    drop[~drop.any(axis=1), -1] = True
    return found[~drop].reshape(len(found), -1)


def _median_ms(index: IVFPQIndex, queries: Float32, nprobe: int, depth: int) -> float:
    """The median time of one search of 10 hits asked alone, in milliseconds."""
    times = []
    for query in queries[:: max(1, len(queries) // TIMED)][:TIMED]:
        start = time.perf_counter()
        index.search(query[None], min(10, depth), nprobe=nprobe, rerank=depth)
        times.append(time.perf_counter() - start)
    return round(1000 * float(np.median(times)), 4)
