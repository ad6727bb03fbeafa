"""From how many lists on a graph over their centroids finds the nearest ones faster than comparing with all.

    OMP_NUM_THREADS=1 python -m benchmarks.coarse --dim 64 --dim 1024 --lists 3000 --lists 10000 --lists 30000

Centroids are generated vectors, queries others of the same mixture. Processor time of one thread, microseconds a query,
asked alone and together (--together 4096 is as rows are assigned). The graph's efSearch is the least that returns so
great a share of the true nearest lists; the flat quantiser returns them all.
"""

from __future__ import annotations

import time
from typing import Any

import click
import faiss
import numpy as np

from index.exact import Float32, as_float32
from index.synthetic import vectors
from index.table import Layout

PROBED, EFFORTS = (1, 8, 64), (16, 32, 64, 128, 256, 512)
ALONE = 48


def generated(dim: int, lists: int, queries: int, seed: int) -> tuple[Float32, Float32]:
    """(centroids (lists, dim), queries (queries, dim)), float32 of length 1."""
    layout = Layout.of({"vector": dim})
    rows = np.concatenate(list(vectors(layout, lists + queries, clusters=lists // 4, seed=seed)))
    return as_float32(rows[:lists]), as_float32(rows[lists:])


def asked(index: Any, queries: Float32, k: int, at_once: int, params: Any = None) -> tuple[np.ndarray, float, float]:
    """(lists (q, k), microseconds of processor time a query alone, and of ``at_once``)."""
    singles, spent = queries[:ALONE, None], []
    for single in singles:
        start = time.thread_time()
        index.search(single, k, params=params)
        spent.append(time.thread_time() - start)
    found, start = [], time.thread_time()
    for at in range(0, len(queries), at_once):
        found.append(index.search(queries[at : at + at_once], k, params=params)[1])
    many = (time.thread_time() - start) / len(queries)
    return np.concatenate(found), float(np.median(spent)) * 1e6, many * 1e6


def share(found: np.ndarray, truth: np.ndarray) -> float:
    """The share of the true lists (q, k) that are among those found."""
    return float(np.mean([np.isin(row, true).sum() / len(true) for row, true in zip(found, truth, strict=True)]))


@click.command()
@click.option("--dim", "dims", multiple=True, type=int, default=(64,), show_default=True)
@click.option("--lists", multiple=True, type=int, default=(3000, 10_000), show_default=True)
@click.option("--together", default=256, show_default=True, help="Queries asked at once.")
@click.option("--links", default=32, show_default=True, help="Of a centroid on the graph's upper layers.")
@click.option("--recall", default=0.99, show_default=True, help="The share of the nearest lists to return.")
@click.option("--seed", default=0, show_default=True)
def main(dims: tuple[int, ...], lists: tuple[int, ...], together: int, links: int, recall: float, seed: int) -> None:
    """Flat and graph over the same centroids, a line for each number of lists probed."""
    faiss.omp_set_num_threads(1)
    click.echo("  dim   lists probed | flat alone together | graph alone together  efSearch share | add a centroid")
    for dim in dims:
        for count in lists:
            centroids, queries = generated(dim, count, max(512, together), seed)
            flat, graph = faiss.IndexFlatIP(dim), faiss.IndexHNSWFlat(dim, links, faiss.METRIC_INNER_PRODUCT)
            flat.add(centroids)  # type: ignore[call-arg]
            start = time.thread_time()
            graph.add(centroids)  # type: ignore[call-arg]
            adding = (time.thread_time() - start) / count * 1e6
            for probed in PROBED:
                truth, *slow = asked(flat, queries, probed, together)
                for effort in (each for each in EFFORTS if each >= probed):
                    params = faiss.SearchParametersHNSW(efSearch=effort)  # type: ignore[call-arg]
                    found, *fast = asked(graph, queries, probed, together, params)
                    reached = share(found, truth)
                    if reached >= recall:
                        break
                click.echo(
                    f"{dim:5} {count:7} {probed:6} | {slow[0]:10.0f} {slow[1]:8.0f} | {fast[0]:11.0f} {fast[1]:8.0f}"
                    f" {effort:9} {reached:5.3f} | {adding:5.0f}"
                )


if __name__ == "__main__":
    main()
