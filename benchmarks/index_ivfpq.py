"""IVF-PQ with reranking against exact search: recall, time and bytes in one run, on generated structured vectors.

    python benchmarks/index_ivfpq.py

Builds 100,000 x 576 (9 blocks, as the embedding of 8 attributes beside the look) and prints, for recalls asked of 0.90,
0.95 and 0.99, what queries that are not in the table get: tie-aware recall@10 at the default weights, at random block
weights, with one block dropped and with one block alone, and the speed as a multiple of exact search (ours over float16
or FAISS flat over float32, whichever is faster), asked one by one and all at once. Then filters. About two minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from index import approximate, exact, tuning
from index.approximate import ApproximateIndex
from index.exact import ExactIndex, as_float32
from index.hits import recall
from index.recipe import choose
from index.synthetic import vectors
from index.table import Layout

ROWS, QUERIES, K = 100_000, 500, 10
LAYOUT = Layout.of({"look": 256, **{f"attribute {i}": 40 for i in range(8)}})


def weighted(queries: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The same photos asked at several weights, each float32 (QUERIES, 576)."""
    sizes = [block.stop - block.start for block in LAYOUT.blocks]

    def at(weights: np.ndarray) -> np.ndarray:
        return queries * np.repeat(weights.astype(np.float32), sizes, axis=1)

    shape = (len(queries), len(sizes))
    one = np.eye(len(sizes))[rng.integers(1, len(sizes), len(queries))]  # any block but look
    return {
        "default": queries,
        "random 0-4": at(rng.uniform(0, 4, shape)),
        "one dropped": at(1 - one),
        "one alone": at(one),
    }


def seconds(search: Callable[[np.ndarray], Any], queries: np.ndarray) -> tuple[float, float]:
    """(median for one query asked alone, all at once / queries), seconds; after a warm-up."""
    search(queries[:8])
    alone = []
    for query in queries[:100]:
        start = time.perf_counter()
        search(query[None])
        alone.append(time.perf_counter() - start)
    start = time.perf_counter()
    search(queries)
    return float(np.median(alone)), (time.perf_counter() - start) / len(queries)


def main() -> None:
    rng = np.random.default_rng(1)
    both = np.concatenate(list(vectors(LAYOUT, ROWS + QUERIES)))
    table, fresh = both[:ROWS], as_float32(both[ROWS:])
    recipe = choose(ROWS, LAYOUT.dim, "ivfpq")
    start = time.perf_counter()
    index = approximate.build(table, recipe, progress=True)
    built = time.perf_counter()
    reranked = ApproximateIndex(index, table, tuning.measure(ApproximateIndex(index, table), LAYOUT, {}, progress=True))
    measured = time.perf_counter()
    brute = ExactIndex(table)
    alone, together = seconds(lambda queries: brute.search(queries, K), fresh)
    code = (index.ntotal * (index.code_size + 8) + recipe.nlist * index.d * 4) / ROWS
    print(
        f"{ROWS:,} x {LAYOUT.dim}, {recipe.nlist} lists, {recipe.pq_m}-byte codes, {recipe.train_rows:,} training rows"
    )
    print(f"index {code:.0f} bytes a row in memory, {code / (2 * LAYOUT.dim):.3f} of the float16 vectors (mapped)")
    print(f"train and add {built - start:.1f} s, measure the curve {measured - built:.1f} s")
    print(f"exact: {1000 * alone:.1f} ms alone, {1 / together:.0f} a second together")
    flat = faiss.IndexFlatIP(LAYOUT.dim)
    flat.add(as_float32(table))
    flat_alone, flat_together = seconds(lambda queries: flat.search(queries, K), fresh)
    print(
        f"FAISS flat (float32 in memory): {1000 * flat_alone:.1f} ms alone, {1 / flat_together:.0f} a second together\n"
    )
    alone, together = min(alone, flat_alone), min(together, flat_together)

    asked = weighted(fresh, rng)
    truth = {name: exact.search(table, queries, K) for name, queries in asked.items()}
    print("asked  measured  nprobe  rerank  alone  together  recall@10: " + ", ".join(asked))
    for wanted in (0.90, 0.95, 0.99):
        setting = reranked.setting(wanted, K)
        got = {n: recall(reranked.search(q, K, recall=wanted), truth[n], K) for n, q in asked.items()}
        faster = seconds(lambda queries, wanted=wanted: reranked.search(queries, K, recall=wanted), fresh)
        speed = f"{alone / faster[0]:4.0f}x  {together / faster[1]:7.1f}x"
        recalls = ", ".join(f"{each:.3f}" for each in got.values())
        knobs = f"{setting.recall_at(K):8.3f}  {setting.nprobe:6}  {setting.rerank:6}"
        print(f"{wanted:5.2f}  {knobs}  {speed}  {recalls}")

    print("\nfilter  recall@10  alone, times exact over the same survivors  (asked 0.95)")
    for selectivity in (0.5, 0.1, 0.01, 0.001):
        rows = np.flatnonzero(rng.random(ROWS) < selectivity).astype(np.int64)
        hits = reranked.search(fresh, K, rows=rows)
        one_by_one = np.concatenate([reranked.search(query[None], K, rows=rows).scores for query in fresh[:100]])
        survivors = exact.search(table, fresh, K, rows)
        agree = np.mean(one_by_one >= survivors.scores[:100, -1:] - 1e-4)
        filtered = seconds(lambda queries, rows=rows: reranked.search(queries, K, rows=rows), fresh[:100])[0]
        scanned = seconds(lambda queries, rows=rows: brute.search(queries, K, rows=rows), fresh[:20])[0]
        print(f"{selectivity:6}  {recall(hits, survivors, K):9.3f}  {scanned / filtered:5.1f}x  one by one {agree:.3f}")


if __name__ == "__main__":
    main()
