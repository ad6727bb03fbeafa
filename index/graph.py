"""A navigable graph (HNSW, Malkov and Yashunin 2016) over 8-bit codes of a projection, through FAISS."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import faiss as _faiss
import numpy as np
import numpy.typing as npt

from index.exact import DOT_COST, Float32
from index.hits import Rows
from index.recipe import Recipe
from index.vectors import release

faiss: Any = _faiss  # its stubs know little of graphs

EFFORTS = (12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096)
FILTER_MARGIN = 2  # as few times fewer allowed rows than asked for are enough
WIDEN = 4  # a walk that met too few allowed rows is made anew, this much wider
KEPT_AT_ONCE = 1 << 22  # vertices that the walks of queries asked together keep
STEP_COST = 0.5  # one vertex's code fetched and compared, beside fetching one row for a rerank
STEP_BYTES = 4  # a byte of a vertex's code, in bytes of a candidate's vector that take as long to read
COPIES = 16  # rows of one vector that are linked where they lie
SCATTER = 0.6  # how far further ones are moved while they are linked, beside their length
PLACES, ROWS_A_PLACE = 1024, 1000  # clusters that vertices are sorted by, and how small they may be
DECODED_AT_ONCE = 1 << 16
LINKED_FIRST, LINKED_AT_ONCE = 0.1, 4096  # the share of rows linked before the others, and how many are at once
LINKS_AT_ONCE = 1 << 24
PAIRED, PAIRED_AT_ONCE = 0.5, 1 << 16  # the share of vertices that are linked at random (see ``pair``)
SMALL_PRODUCT = 1 << 18  # multiplications
PIVOTS, PIVOT_DIMS = 64, 64  # queries that the others of a batch are sorted by, and dimensions, spread over all
MADV_HUGEPAGE, MADV_COLLAPSE, HUGE = 14, 25, 1 << 21


def empty(recipe: Recipe, dim: int) -> Any:
    """The untrained FAISS index of a recipe for vectors of ``dim`` dimensions: a graph in a map to row numbers."""
    index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, recipe.links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = recipe.ef_construction
    index.hnsw.rng = faiss.RandomGenerator(recipe.seed)
    return faiss.IndexIDMap(index)


def fill(
    index: Any,
    pieces: Iterable[Float32],
    crowded: npt.NDArray[np.bool_],
    seed: int,
    linked: Callable[[int], object],
) -> None:
    """Fill ``empty``'s trained index with vectors (n, d), which come in ``pieces``: row i gets id i.

    A tenth of the rows, drawn from the whole table, is linked first, so that the graph spans it (without, walks for
    edited queries found 2% fewer neighbours among 35,470 product photos); then the others, place after place: what
    these walks meet is in the processor's caches (a million rows of 64 dimensions took a third less time).
    Vertices lie by place at the end, which a search gains by in the same way (cf. Coleman et al. 2022, graph
    reordering: a tenth to a sixth less time). crowded: bool (n,), see ``add_scattered``. linked: told how many more
    rows are. Memory: every row's code once more.
    """
    hnsw, n = within(index), len(crowded)
    storage: Any = faiss.downcast_index(hnsw.storage)
    codes, at = np.empty((n, hnsw.d), np.uint8), 0
    for piece in pieces:
        codes[at : at + len(piece)] = storage.sa_encode(piece)
        at += len(piece)
    place = _places(storage, codes, seed)
    rng = np.random.default_rng(seed)
    first = rng.random(n) < LINKED_FIRST
    by_place = np.argsort(place, kind="stable")
    order = np.append(rng.permutation(np.flatnonzero(first)), by_place[~first[by_place]])
    for at in range(0, n, LINKED_AT_ONCE):
        rows = order[at : at + LINKED_AT_ONCE]
        add_scattered(hnsw, storage.sa_decode(codes[rows]), crowded[rows], at)
        linked(len(rows))
    lying = np.argsort(place[order], kind="stable")
    hnsw.permute_entries(lying)
    faiss.copy_array_to_vector(order[lying], index.id_map)
    index.ntotal = n


def pair(index: Any, seed: int) -> None:
    """Link PAIRED of the vertices of ``empty``'s index in pairs drawn at random, both ways, where a list has room.

    Near links alone lead to one place, and what is nearest an edited query lies in several: products of the wanted
    color of each type. A few links to anywhere lead from one to the next (small worlds, Kleinberg 2000). Among 35,470
    product photos edits at 3.5 times the weight reach a recall of 0.95 with 820 codes compared instead of 2,000, and
    unchanged queries need no more; generated vectors have no such gaps, and queries among them take 3 to 5% more.
    """
    hnsw = within(index)
    drawn = np.random.default_rng(seed).permutation(hnsw.ntotal)
    half = round(PAIRED * hnsw.ntotal / 2)
    one, other = drawn[:half], drawn[half : 2 * half]
    ends, targets = np.append(one, other), np.append(other, one)
    links, width = _links(hnsw), hnsw.hnsw.nb_neighbors(0)
    offsets = faiss.rev_swig_ptr(hnsw.hnsw.offsets.data(), hnsw.hnsw.offsets.size())
    for at in range(0, len(ends), PAIRED_AT_ONCE):
        part = slice(at, at + PAIRED_AT_ONCE)
        places = offsets[ends[part]].astype(np.int64)[:, None] + np.arange(width)  # of the lowest layer
        free = links[places] < 0
        room = free.any(axis=1)
        links[places[room, free[room].argmax(axis=1)]] = targets[part][room]


def _links(hnsw: Any) -> npt.NDArray[np.int32]:
    """All links of an HNSW index, vertex after vertex, as they lie in memory; -1 is none."""
    return np.asarray(faiss.rev_swig_ptr(hnsw.hnsw.neighbors.data(), hnsw.hnsw.neighbors.size()))


def _places(storage: Any, codes: npt.NDArray[np.uint8], seed: int) -> Rows:
    """The k-means cluster of each code (n, d), int64 (n,)."""
    places = max(1, min(PLACES, len(codes) // ROWS_A_PLACE))
    sample = np.random.default_rng(seed).choice(len(codes), min(len(codes), 64 * places), replace=False)
    clusters = faiss.Kmeans(codes.shape[1], places, niter=4, seed=seed, min_points_per_centroid=1)
    clusters.train(storage.sa_decode(codes[sample]))
    pieces = range(0, len(codes), DECODED_AT_ONCE)
    found = [clusters.index.search(storage.sa_decode(codes[at : at + DECODED_AT_ONCE]), 1)[1][:, 0] for at in pieces]
    return np.concatenate(found)


def walk_order(queries: Float32) -> Rows:
    """An order of queries (q, D) asked together in which near ones follow each other, int64 (q,).

    Their walks share what the caches hold: over a million rows a batch of 2,000 took a twelfth less time.
    """
    queries = queries[:, :: max(1, queries.shape[1] // PIVOT_DIMS)]
    pivots = np.ascontiguousarray(queries[:: max(1, len(queries) // PIVOTS)][:PIVOTS].T)
    # so few at once that OpenBLAS wakes no thread: they would go on spinning while FAISS searches
    at_once = max(1, SMALL_PRODUCT // pivots.size)
    places = [(queries[at : at + at_once] @ pivots).argmax(axis=1) for at in range(0, len(queries), at_once)]
    return np.argsort(np.concatenate(places), kind="stable")


def crowding(vectors: npt.NDArray[np.float16], start: int, at_once: int = 2048) -> npt.NDArray[np.bool_]:
    """Which rows from ``start`` on repeat a vector that COPIES rows between hold already, bool (N - start,).

    Rows are compared by a hash of 64 bits.
    """
    factors = np.random.default_rng(0).integers(0, 2**63, vectors.shape[1], np.uint64) | np.uint64(1)
    pieces = range(start, len(vectors), at_once)
    hashes = []
    for at in pieces:
        hashes.append(np.ascontiguousarray(vectors[at : at + at_once]).view(np.uint16) @ factors)
        release(vectors)
    hashed = np.concatenate([np.zeros(0, np.uint64), *hashes])
    order = np.argsort(hashed, kind="stable")
    places = np.arange(len(hashed))
    first = np.append(True, hashed[order][1:] != hashed[order][:-1])[: len(hashed)]
    out = np.zeros(len(hashed), bool)
    out[order] = places - np.maximum.accumulate(np.where(first, places, 0)) >= COPIES
    return out


def add_scattered(index: Any, vectors: Float32, crowded: npt.NDArray[np.bool_], seed: int) -> None:
    """Add vectors (n, d) to ``empty``'s index, or one without a map; where ``crowded``, as if they lay elsewhere.

    More copies of one vector than a vertex has links would be linked to each other only: a walk that meets them ends
    there, and rows beyond are never found. Linked at places around, they lead on. Their codes are then the true ones.
    """
    if not crowded.any():
        return add(index, vectors)
    away = np.random.default_rng(seed).standard_normal((int(crowded.sum()), vectors.shape[1]), dtype=np.float32)
    true = vectors[crowded]
    lengths = np.linalg.norm(true, axis=1, keepdims=True)
    moved = true + SCATTER * lengths * away / np.linalg.norm(away, axis=1, keepdims=True)
    placed, first = vectors.copy(), index.ntotal
    placed[crowded] = moved * lengths / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
    add(index, placed)
    storage: Any = faiss.downcast_index(within(index).storage)
    codes = faiss.rev_swig_ptr(storage.codes.data(), storage.codes.size()).reshape(index.ntotal, -1)
    codes[first + np.flatnonzero(crowded)] = storage.sa_encode(true)


def within(index: Any) -> Any:
    """The HNSW index within ``empty``'s; itself where it has no map, as in galleries of before."""
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index


def is_graph(index: Any) -> bool:
    """Whether this is a graph, with a map or without."""
    return isinstance(within(index), faiss.IndexHNSW)


def add(index: Any, vectors: Float32) -> None:
    """Add the next rows to ``empty``'s index, or to one without a map, linked by their distances.

    Walks go by inner products, whose nearest are the same for rows of one length, but rows as coded differ a little in
    theirs. Where many are nearly equal the longest would be in all lists, and the others in none, so that no walk would
    meet them: of 2,000 such rows among 20,000, walks of 2,048 then find 0.1 to 0.9 of ten neighbours, linked by
    distance 0.8 to 1.0.
    """
    with _by_distance(within(index)):
        if isinstance(index, faiss.IndexIDMap):
            index.add_with_ids(vectors, np.arange(index.ntotal, index.ntotal + len(vectors)))
        else:
            index.add(vectors)


@contextmanager
def _by_distance(hnsw: Any) -> Iterator[None]:
    """An HNSW index goes by Euclidean distance while this lasts, and by inner product again afterwards."""
    _go_by(hnsw, faiss.METRIC_L2)
    try:
        yield
    finally:
        _go_by(hnsw, faiss.METRIC_INNER_PRODUCT)


def _go_by(hnsw: Any, metric: int) -> None:
    storage: Any = faiss.downcast_index(hnsw.storage)
    hnsw.metric_type = storage.metric_type = metric
    hnsw.hnsw.is_similarity = metric == faiss.METRIC_INNER_PRODUCT  # FAISS 1.14 asks the metric


class Graph:
    """A filled FAISS HNSW index, with a map or without. ``effort`` is efSearch: how many of the best vertices met
    a walk keeps."""

    knob = "efSearch"

    def __init__(self, index: Any) -> None:
        self.outer, self.index, self.most = index, within(index), max(EFFORTS)
        self.alone = self.most  # see Lists

    def params(self, effort: int, depth: int) -> Any:
        return faiss.SearchParametersHNSW(efSearch=max(effort, depth))

    def efforts(self) -> list[int]:
        """The efforts worth measuring, rising."""
        return list(EFFORTS)

    def candidates(
        self, queries: Float32, effort: int, depth: int, rows: Rows | None = None, at_least: int = 1
    ) -> Rows:
        """Rows by their approximate scores, best first, int64 (q, depth), -1 where there are no more.

        With allowed ``rows`` the walk keeps as many more vertices as these are rarer, and the allowed among those it
        kept are the answer. (FAISS's own filter also returns what lies beside the way: where the filter and the query
        disagree, that is far from all neighbours.) Where too few of those kept are allowed, the walk keeps WIDEN times
        as many, while that costs less than scoring all ``rows``. A query that still has too few gets none: the caller
        is to score them.
        """
        if rows is None:
            return np.asarray(self.outer.search(queries, depth, params=self.params(effort, depth))[1])
        allowed = np.zeros(self.index.ntotal, bool)
        allowed[rows] = True
        found = np.full((len(queries), depth), -1, np.int64)
        enough = min(max(at_least, math.ceil(depth / FILTER_MARGIN)), len(rows))
        todo, walk = np.arange(len(queries)), max(effort, depth) * self.index.ntotal / max(1, len(rows))
        while len(todo) and walk <= min(self.index.ntotal, self._worth(len(rows), len(todo))):
            kept, short = round(walk), []
            at_once = max(1, KEPT_AT_ONCE // kept)
            for start in range(0, len(todo), at_once):
                part = todo[start : start + at_once]
                walked = self.outer.search(queries[part], kept, params=self.params(kept, kept))[1]
                for query, met in zip(part, walked, strict=True):
                    near = met[allowed[met] & (met >= 0)][:depth]
                    if len(near) < enough:
                        short.append(query)
                    else:
                        found[query, : len(near)] = near
            todo, walk = np.array(short, np.int64), walk * WIDEN
        return found

    @contextmanager
    def hidden(self, rows: Rows) -> Iterator[bool]:
        """Walks do not meet these rows (and True) while it lasts: links to them lead back to where they start.

        A query made of a row that is in the graph finds its neighbours at once, since that row is linked to them: a
        million rows seemed to be found with 0.96 where fresh queries reached 0.945.
        """
        ids = faiss.vector_to_array(self.outer.id_map) if self.outer is not self.index else np.arange(self.index.ntotal)
        mine = np.isin(ids, rows)
        links = _links(self.index)
        at_once = range(0, len(links), LINKS_AT_ONCE)
        # link -1 is none, and reads what the last vertex says
        found = [np.flatnonzero(mine[(some := links[at : at + LINKS_AT_ONCE])] & (some >= 0)) + at for at in at_once]
        places = np.concatenate(found)
        offsets = faiss.rev_swig_ptr(self.index.hnsw.offsets.data(), self.index.hnsw.offsets.size())
        before = links[places]
        links[places] = np.searchsorted(offsets, places, side="right") - 1
        try:
            yield True
        finally:
            links[places] = before

    def bytes_read(self, queries: Float32, effort: int) -> int:
        """Mean bytes of codes that a query (q, d) reads at this effort, STEP_BYTES times: they are met at random.

        A million rows of 1,024 dimensions took 0.8 ns for each byte of a code and 0.2 for each of a candidate.
        """
        stats: Any = faiss.cvar.hnsw_stats
        stats.reset()
        self.index.search(queries, 1, params=self.params(effort, 1))
        return round(stats.ndis / len(queries) * (self.index.d + 4) * STEP_BYTES)

    def filtered_cost(self, effort: int, depth: int, survivors: int, queries: int) -> float:
        """What candidates among ``survivors`` allowed rows cost, one query, in rows fetched for a rerank."""
        return max(effort, depth) * self.index.ntotal / max(1, survivors) * self._step_cost

    def _worth(self, survivors: int, queries: int) -> float:
        """How many vertices a walk may keep before scoring every allowed row costs less."""
        return survivors * (1 / queries + DOT_COST) / self._step_cost

    @property
    def _step_cost(self) -> float:
        return STEP_COST * self.index.hnsw.nb_neighbors(0) / 2


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
