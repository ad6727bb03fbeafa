"""A navigable graph (HNSW, Malkov and Yashunin 2016) over 8-bit codes of a projection, through FAISS."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import faiss as _faiss
import numpy as np

from index.exact import Float32
from index.hits import Rows
from index.lists import bitmap
from index.recipe import Recipe

faiss: Any = _faiss  # its stubs know little of graphs

EFFORTS = (12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
WIDEN = 4  # a walk among allowed rows that found too few goes on this much further
STEP_COST = 0.5  # one vertex's code fetched and compared, beside fetching one row for a rerank
MADV_HUGEPAGE, MADV_COLLAPSE, HUGE = 14, 25, 1 << 21


def empty(recipe: Recipe, dim: int) -> Any:
    """The untrained FAISS index of a recipe for vectors of ``dim`` dimensions."""
    index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, recipe.links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = recipe.ef_construction
    index.hnsw.rng = faiss.RandomGenerator(recipe.seed)
    return index


class Graph:
    """A filled FAISS HNSW index. ``effort`` is efSearch: how many of the best vertices met a walk keeps."""

    knob = "efSearch"

    def __init__(self, index: Any) -> None:
        self.index, self.most = index, max(EFFORTS)

    def params(self, effort: int, depth: int, selector: Any = None) -> Any:
        return faiss.SearchParametersHNSW(efSearch=max(effort, depth), sel=selector)

    def efforts(self) -> list[int]:
        """The efforts worth measuring, rising."""
        return list(EFFORTS)

    def candidates(
        self, queries: Float32, effort: int, depth: int, rows: Rows | None = None, at_least: int = 1
    ) -> Rows:
        """Rows by their approximate scores, best first, int64 (q, depth), -1 where the walk met no more.

        With allowed ``rows`` the walk is as much longer as they are rarer. Where it still met fewer than ``depth`` of
        them (or all), the filter and the query disagree, and it goes on WIDEN times as far, until it would see most of
        the graph; what is missing then is the caller's to find.
        """
        if rows is None:
            return np.asarray(self.index.search(queries, depth, params=self.params(effort, depth))[1])
        selector = bitmap(rows, self.index.ntotal)
        found = np.full((len(queries), depth), -1, np.int64)
        todo, walk = np.arange(len(queries)), max(effort, depth) * self.index.ntotal / max(1, len(rows))
        while len(todo) and walk <= self.index.ntotal:
            params = self.params(round(walk), depth, selector)
            found[todo] = self.index.search(queries[todo], depth, params=params)[1]
            todo = todo[(found[todo] >= 0).sum(axis=1) < min(depth, len(rows))]
            walk *= WIDEN
        return found

    def bytes_read(self, queries: Float32, efforts: list[int]) -> list[int]:
        """Mean bytes of codes and links that a query (q, d) reads at each effort."""
        stats: Any = faiss.cvar.hnsw_stats
        read = []
        for effort in efforts:
            stats.reset()
            self.index.search(queries, 1, params=self.params(effort, 1))
            read.append(round(stats.ndis / len(queries) * (self.index.d + 4)))
        return read

    def filtered_cost(self, effort: int, depth: int, survivors: int, queries: int) -> float:
        """What candidates among ``survivors`` allowed rows cost, one query, in rows fetched for a rerank."""
        walk = max(effort, depth) * self.index.ntotal / max(1, survivors)
        return STEP_COST * walk * self.index.hnsw.nb_neighbors(0) / 2


def on_huge_pages(index: Any) -> None:
    """Ask Linux to put a graph's codes and links on 2 MiB pages: a walk jumps about them and misses fewer addresses."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    storage: Any = faiss.downcast_index(index.storage)
    for array, width in ((storage.codes, 1), (index.hnsw.neighbors, 4), (index.hnsw.offsets, 8)):
        begin = int(array.data())
        first, last = -(-begin // HUGE) * HUGE, (begin + array.size() * width) // HUGE * HUGE
        if last > first:
            for advice in (MADV_HUGEPAGE, MADV_COLLAPSE):  # a kernel that knows neither is as slow as before
                libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)
