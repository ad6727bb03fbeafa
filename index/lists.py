"""Inverted lists of short codes over FAISS: IVF-PQ (Jegou et al. 2011), 4-bit fast scan (Andre et al. 2017), RaBitQ
(Gao and Long 2024). Which lists a query probes, and which rows it finds there.

Where lists are many (``recipe.COARSE_FROM``) a graph over their centroids finds the nearest ones, for queries and for
rows. It is asked for a few lists; for more, and for an order of all, a query is compared with every centroid.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from index.exact import Float32
from index.hits import Rows
from index.recipe import COARSE_LINKS, Recipe

FILTER_MARGIN = 2  # a filter may disagree with the query: this much more is probed
FILTER_ROWS = 300  # rows of a filter's bitmap that cost as much as fetching one row for a rerank
CODE_COST = {8: 0.06, 4: 0.01, 1: 0.01}  # scanning one code, beside the same; by bits
# vertices that a walk over linked centroids keeps, at least, and for each list asked for; lists asked of it at most.
# That was enough for 0.99 of the true nearest 1, 8 and 64 of 3,000 to 95,000 lists, but for 64 of 95,000 in 1,024
# dimensions, which wanted 256 vertices. Rows want the nearest one: ASSIGN vertices find 0.99 of these. Measured by
# benchmarks/coarse.py
WALK, WALK_FACTOR, WALKED, ASSIGN = 64, 2, 64, 32


def coarse(recipe: Recipe, dim: int) -> Any:
    """An empty FAISS index for the centroids of a recipe's lists, inner product: flat, or a graph over many."""
    if not recipe.linked:
        return faiss.IndexFlatIP(dim)
    linked = faiss.IndexHNSWFlat(dim, COARSE_LINKS, faiss.METRIC_INNER_PRODUCT)
    linked.hnsw.efSearch = ASSIGN
    return linked


def empty(recipe: Recipe, dim: int) -> Any:
    """The untrained FAISS index of a recipe for vectors of ``dim`` dimensions, residual codes, unit centroids."""
    if recipe.kind == "ivfpq":
        knobs = (dim, recipe.nlist, recipe.pq_m, recipe.nbits, faiss.METRIC_INNER_PRODUCT)
        index: Any = faiss.IndexIVFPQ(coarse(recipe, dim), *knobs)
    else:
        codes = f"PQ{recipe.pq_m}x4fs" if recipe.kind == "fastscan" else "RaBitQfs"
        lists = f"IVF{recipe.nlist}_HNSW{COARSE_LINKS}" if recipe.linked else f"IVF{recipe.nlist}"
        index = faiss.index_factory(dim, f"{lists},{codes}", faiss.METRIC_INNER_PRODUCT)
    if recipe.linked:
        index.quantizer_trains_alone = 0  # k-means assigns by the graph too, linked anew each round
        faiss.downcast_index(index.quantizer).hnsw.efSearch = ASSIGN  # type: ignore[attr-defined]
    # more rounds changed recall by less than 0.005; FAISS prints a warning below its own minimum of rows
    clusterings = [(index.cp, 10)] + ([(index.pq.cp, 12)] if hasattr(index, "pq") else [])
    for clustering, rounds in clusterings:
        clustering.niter, clustering.seed, clustering.min_points_per_centroid = rounds, recipe.seed, 1
    return index


class Lists:
    """A trained and filled FAISS IVF index. ``effort`` is the number of lists probed."""

    knob = "lists probed"

    def __init__(self, index: Any) -> None:
        self.index, self.most = index, int(index.nlist)
        self.by_length = isinstance(index, faiss.IndexIVFRaBitQFastScan)  # whether codes' order depends on a query's
        quantizer: Any = faiss.downcast_index(index.quantizer)
        self.linked = isinstance(quantizer, faiss.IndexHNSW)
        self.centroids = faiss.downcast_index(quantizer.storage) if self.linked else quantizer
        self.alone = WALKED if self.linked else self.most  # beyond this effort FAISS's own search is not asked

    def params(self, effort: int, depth: int) -> Any:
        if not self.linked:
            return faiss.SearchParametersIVF(nprobe=effort)  # type: ignore[call-arg]
        return faiss.SearchParametersIVF(nprobe=effort, quantizer_params=_walk(effort))  # type: ignore[call-arg]

    def nearest(self, queries: Float32, count: int) -> tuple[Float32, Rows]:
        """(inner products with the centroids, lists), each (q, count), best first: exact for more than WALKED lists."""
        if self.linked and count <= WALKED:
            return self.index.quantizer.search(queries, count, params=_walk(count))  # type: ignore[no-any-return]
        return self.centroids.search(queries, count)  # type: ignore[no-any-return]

    def efforts(self) -> list[int]:
        """The efforts worth measuring, rising, the last one all there is."""
        return [2**i for i in range(self.most.bit_length()) if 2**i < self.most] + [self.most]

    def candidates(
        self, queries: Float32, effort: int, depth: int, rows: Rows | None = None, at_least: int = 1
    ) -> Rows:
        """Rows by their approximate scores, best first, int64 (q, depth), -1 where the probed lists hold no more.

        queries: (q, d). Each query probes its nearest lists: ``effort`` of them, or more where these hold fewer than
        ``at_least`` rows. With allowed ``rows`` it goes on until it meets twice as many allowed rows as ``effort``
        lists hold of all rows, counted along its own order of lists: where the filter and the query disagree, the lists
        near the query hold hardly an allowed row.
        """
        distances, order = self.nearest(queries, effort if rows is None else self.most)
        met = self.list_sizes[order[:, :effort]].sum(axis=1)  # (q,)
        probes = np.full(len(queries), effort)
        params: Any = faiss.SearchParametersIVF()
        if rows is not None or (met < at_least).any():
            sizes, goal = self.list_sizes, np.full(len(queries), at_least)
            if rows is None:
                distances, order = self.nearest(queries, self.most)
            else:
                sizes = np.bincount(self.list_of_row[rows], minlength=self.most)
                goal = np.clip(FILTER_MARGIN * met, at_least, len(rows))
                # FAISS holds a pointer only: the selector must live until the search is over
                selector = bitmap(rows, self.index.ntotal)
                params.sel = selector
            probes = np.maximum(effort, (np.cumsum(sizes[order], axis=1) < goal[:, None]).sum(axis=1) + 1)
        params.nprobe = int(probes.max())
        within = np.arange(params.nprobe) < probes[:, None]  # FAISS skips list -1
        lists = np.where(within, order[:, : params.nprobe], -1)
        distances = np.ascontiguousarray(distances[:, : params.nprobe])
        scores, found = np.empty((len(queries), depth), np.float32), np.empty((len(queries), depth), np.int64)
        # not FAISS's wrapper of this name, which takes no params; coarse scores are part of every residual's score
        arrays = [faiss.swig_ptr(each) for each in (lists, distances, scores, found)]
        self.index.search_preassigned_c(len(queries), faiss.swig_ptr(queries), depth, *arrays, False, params)
        return found

    def hidden(self, rows: Rows) -> AbstractContextManager[bool]:
        """Nothing is hidden (False): a row is found by its code, as a fresh query would find it."""
        return nullcontext(False)

    def bytes_read(self, queries: Float32, effort: int) -> int:
        """Mean bytes of codes that a query (q, d) scans at this effort."""
        order = self.nearest(queries, effort)[1]
        return round(float(self.list_sizes[order].sum(axis=1).mean()) * self.index.code_size)

    def filtered_cost(self, effort: int, depth: int, survivors: int, queries: int) -> float:
        """What candidates among ``survivors`` allowed rows cost, one query, in rows fetched for a rerank."""
        scanned = min(survivors, FILTER_MARGIN * effort * self.index.ntotal / self.most)
        fixed = self.most + self.index.ntotal / FILTER_ROWS / queries  # all lists ranked, a bitmap made
        bits = getattr(getattr(self.index, "pq", None), "nbits", 1)
        return fixed + scanned * CODE_COST[bits]

    @cached_property
    def list_sizes(self) -> npt.NDArray[np.int64]:
        """Rows in each list, int64 (nlist,)."""
        lists: Any = self.index.invlists
        return np.array([lists.list_size(i) for i in range(self.most)], np.int64)

    @cached_property
    def list_of_row(self) -> npt.NDArray[np.int32]:
        """The list each row lies in, int32 (N,): read when a filter first needs it."""
        lists: Any = self.index.invlists
        owner = np.empty(self.index.ntotal, np.int32)
        for i, size in enumerate(self.list_sizes):
            if size:
                owner[faiss.rev_swig_ptr(lists.get_ids(i), int(size))] = i
        return owner


def _walk(count: int) -> Any:
    return faiss.SearchParametersHNSW(efSearch=max(WALK, WALK_FACTOR * count))  # type: ignore[attr-defined]


def bitmap(rows: Rows, n: int) -> Any:
    """A FAISS selector of these rows among n."""
    allowed = np.zeros(n, bool)
    allowed[rows] = True
    return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))  # type: ignore[call-arg, arg-type]
