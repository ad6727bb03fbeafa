"""Every kind of index at any block weights and behind filters, against exact search: recall, time and bytes in one run.

    python -m benchmarks.index_weights [--rows 100000] [--kinds graph,fastscan,rabitq,ivfpq] [--plot weights.png]

Builds a gallery of generated vectors (576 dimensions in 9 blocks, as an embedding of 8 attributes beside the look,
these of 64 to 8) with each kind and asks it for recalls of 0.90, 0.95 and 0.99 with vectors that are not in the table.
Prints the tie-aware recall@10 that is reached at the default weights, of edited queries, at random block weights, with
one block dropped, with one alone (another each time), and with the narrowest alone; queries a second as multiples of
exact search (ours over float16 or FAISS flat over float32, whichever is faster); and milliseconds of a query asked
alone at 0.95. Then filters of four selectivities, one query at a time. Two minutes a kind on two cores. The plot needs
matplotlib.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.galleries import write_gallery
from index import exact
from index.approximate import ApproximateIndex
from index.build import build_generation, open_index
from index.exact import as_float32
from index.gallery import Gallery
from index.hits import Hits, recall
from index.synthetic import vectors
from index.table import Layout

QUERIES, K = 500, 10
EDITED = 3.0
ASKED = (0.90, 0.95, 0.99)
LAYOUT = Layout.of({"look": 256, **{f"attribute {i}": n for i, n in enumerate((64, 56, 48, 40, 40, 32, 32, 8))}})


def weighted(queries: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The same photos asked at several weights, and edited: an attribute is another photo's and weighs EDITED times as
    much. Each float32 (QUERIES, 576)."""
    sizes = [block.stop - block.start for block in LAYOUT.blocks]

    def at(weights: np.ndarray) -> np.ndarray:
        return queries * np.repeat(weights.astype(np.float32), sizes, axis=1)

    shape = (len(queries), len(sizes))
    one = np.eye(len(sizes))[rng.integers(0, len(sizes), len(queries))]
    changed = np.repeat(np.eye(len(sizes), dtype=bool)[rng.integers(1, len(sizes), len(queries))], sizes, axis=1)
    return {
        "default": queries,
        "edited": np.where(changed, EDITED * np.roll(queries, 1, axis=0), queries),
        "random 0-4": at(rng.uniform(0, 4, shape)),
        "one dropped": at(1 - one),
        "one alone": at(one),
        "narrowest alone": at(np.eye(len(sizes))[[int(np.argmin(sizes))] * len(queries)]),
    }


def rate(search: Callable[[np.ndarray], Any], queries: np.ndarray) -> float:
    """Queries a second, all at once, the best of three; after a warm-up."""
    search(queries[:8])
    times = []
    for _ in range(3):
        start = time.perf_counter()
        search(queries)
        times.append(time.perf_counter() - start)
    return len(queries) / min(times)


def alone(search: Callable[[np.ndarray], Any], queries: np.ndarray) -> float:
    """Median milliseconds of a query asked alone."""
    times = []
    for query in queries:
        start = time.perf_counter()
        search(query[None])
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def by_weights(
    index: ApproximateIndex, asked: dict[str, np.ndarray], truth: dict[str, Hits], brute: float
) -> dict[str, list[float]]:
    """Prints a table; kind of weights -> recall reached at each of ASKED."""
    print("| asked | " + " | ".join(f"{name}: recall, times exact" for name in asked) + " |")
    print("|---" * (1 + len(asked)) + "|")
    reached: dict[str, list[float]] = {name: [] for name in asked}
    for wanted in ASKED:
        cells = []
        for name, queries in asked.items():
            got = recall(index.search(queries, K, recall=wanted), truth[name], K)
            faster = rate(lambda part, wanted=wanted: index.search(part, K, recall=wanted), queries) / brute
            reached[name].append(got)
            cells.append(f"{got:.3f}, {faster:.1f}")
        print(f"| {wanted} | " + " | ".join(cells) + " |", flush=True)
    times = [alone(lambda part: index.search(part, K), queries[:100]) for queries in asked.values()]
    print("| ms alone | " + " | ".join(f"{each:.2f}" for each in times) + " |", flush=True)
    return reached


def by_filters(index: ApproximateIndex, queries: np.ndarray, rng: np.random.Generator) -> None:
    print("\n| share of rows allowed | recall@10 | ms alone | exact over the same rows, ms |\n|---|---|---|---|")
    for share in (0.5, 0.1, 0.01, 0.001):
        rows = np.flatnonzero(rng.random(len(index.vectors)) < share).astype(np.int64)
        truth = exact.search(index.vectors, queries, K, rows)
        scores = np.concatenate([index.search(query[None], K, rows=rows).scores for query in queries])
        agree = np.mean(scores >= truth.scores[:, -1:] - 1e-5 * truth.scores[:, :1])
        ours = alone(lambda part, rows=rows: index.search(part, K, rows=rows), queries[:100])
        brute = alone(lambda part, rows=rows: exact.search(index.vectors, part, K, rows), queries[:20])
        print(f"| {share} | {agree:.3f} | {ours:.2f} | {brute:.2f} |", flush=True)


def plot(reached: dict[str, dict[str, list[float]]], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(reached), figsize=(4 * len(reached), 4), sharey=True, squeeze=False)
    for axis, (kind, by_name) in zip(axes[0], reached.items(), strict=True):
        for name, values in by_name.items():
            axis.plot(ASKED, values, marker="o", label=name)
        axis.plot(ASKED, ASKED, color="gray", linestyle=":", label="asked")
        axis.set(title=kind, xlabel="recall@10 asked", ylim=(0.85, 1.005))
    axes[0][0].set_ylabel("recall@10 reached")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kinds", default="graph,fastscan,rabitq,ivfpq")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    both = np.concatenate(list(vectors(LAYOUT, options.rows + QUERIES)))
    table, fresh = both[: options.rows], as_float32(both[options.rows :])
    asked = weighted(fresh, rng)
    truth = {name: exact.search(table, queries, K) for name, queries in asked.items()}
    flat = faiss.IndexFlatIP(LAYOUT.dim)
    flat.add(as_float32(table))
    brute = max(rate(lambda part: exact.search(table, part, K), fresh), rate(lambda part: flat.search(part, K), fresh))  # type: ignore[call-arg]
    print(f"{options.rows:,} x {LAYOUT.dim}; exact search {brute:.0f} queries a second")
    reached = {}
    with tempfile.TemporaryDirectory() as folder:
        gallery = write_gallery(Path(folder) / "gallery", LAYOUT, [table], "weights")
        for kind in options.kinds.split(","):
            start = time.perf_counter()
            generation = build_generation(gallery, kind)
            took = time.perf_counter() - start
            gallery = Gallery.open(gallery.path)
            index = open_index(gallery)
            assert isinstance(index, ApproximateIndex)
            size = generation.files["index.faiss"]["bytes"] / options.rows
            print(f"\n## {kind}: {generation.recipe}\n\nbuilt in {took:.0f} s, {size:.0f} bytes a row\n")
            reached[kind] = by_weights(index, asked, truth, brute)
            by_filters(index, fresh[:200], rng)
    if options.plot:
        plot(reached, options.plot)


if __name__ == "__main__":
    main()
