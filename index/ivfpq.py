"""IVF-PQ over FAISS with an exact rerank: probe lists, rank their codes, score the best on the stored vectors."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from index.exact import Float32, as_float32, checked
from index.exact import search as exact_search
from index.hits import Hits, Keys, Rows, rank_keys
from index.recipe import Recipe
from index.tuning import Setting, Tuning

RECALL = 0.95  # asked for when a search names neither a recall nor its knobs
ADD_AT_ONCE = 8192
RERANK_BYTES = 1 << 19  # float32 candidates held at once: what fits the cache is widened and scored twice as fast
CANDIDATES_AT_ONCE = 1 << 22  # (score, row) pairs FAISS returns at once
FILTER_MARGIN = 2  # a filter may disagree with the query: this much more is probed and reranked
# costs beside that of fetching and widening one row for a rerank (1): a float32 dot product, one code's table look-ups
DOT_COST, CODE_COST = 0.08, 0.06
FILTER_ROWS = 300  # rows of a filter's bitmap that cost as much


def build(vectors: npt.NDArray[np.float16], recipe: Recipe, progress: bool = False) -> faiss.IndexIVFPQ:
    """Train on ``recipe.train_rows`` rows drawn from the whole table, then add all rows piece by piece.

    vectors: float16 (N, D), usually a memory map; row i gets FAISS id i. Inner product, residual codes, unit centroids.
    Memory: the sample as float32, the codes, and one piece.
    """
    dim = recipe.padded(vectors.shape[1])
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(dim), dim, recipe.nlist, recipe.pq_m, recipe.nbits, faiss.METRIC_INNER_PRODUCT
    )
    for clustering, rounds in ((index.cp, 10), (index.pq.cp, 12)):
        # more rounds changed recall by less than 0.005; FAISS prints a warning below its own minimum of rows
        clustering.niter, clustering.seed, clustering.min_points_per_centroid = rounds, recipe.seed, 1
    rng = np.random.default_rng(recipe.seed)
    sample = np.sort(rng.choice(len(vectors), recipe.train_rows, replace=False))
    with tqdm(total=len(vectors), desc="index", unit="row", disable=None if progress else True) as bar:
        bar.set_postfix_str(f"training on {len(sample)} rows")
        index.train(_pad(as_float32(vectors.take(sample, axis=0)), dim))
        bar.set_postfix_str("adding")
        for start in range(0, len(vectors), ADD_AT_ONCE):
            piece = vectors[start : start + ADD_AT_ONCE]
            index.add(_pad(as_float32(piece), dim))
            bar.update(len(piece))
    return index


def _pad(vectors: Float32, dim: int) -> Float32:
    """Zeros behind (n, d) up to (n, dim): inner products stay as they are."""
    return vectors if vectors.shape[1] == dim else np.pad(vectors, ((0, 0), (0, dim - vectors.shape[1])))


class IVFPQIndex:
    """A FAISS IVF-PQ index, the float16 vectors (N, D) it reranks on, and what was measured of it.

    Without ``tuning`` (while that is being measured) every search needs nprobe and rerank.
    """

    def __init__(self, index: faiss.IndexIVFPQ, vectors: npt.NDArray[np.float16], tuning: Tuning | None = None) -> None:
        if index.ntotal != len(vectors):
            raise ValueError(f"an index of {index.ntotal} rows over {len(vectors)} vectors")
        self.index, self.vectors, self.tuning = index, vectors, tuning

    def search(
        self,
        queries: Float32,
        k: int,
        *,
        recall: float | None = None,
        nprobe: int | None = None,
        rerank: int | None = None,
        rows: Rows | None = None,
    ) -> Hits:
        """The k best of the allowed rows for each query, by exact inner product among the candidates found.

        queries: float32 (q, D), already scaled by their weights. recall: reach this recall@k at the least work measured
        (default 0.95), the best setting where none reaches it; see ``expected_recall``. nprobe, rerank: lists probed
        and candidates scored, instead. rows: allowed rows, rising int64. A query gets min(k, allowed rows) hits
        whatever the setting: where its lists hold fewer, more are probed.
        """
        queries = checked(queries, self.vectors.shape[1], k, rows)
        setting = self.setting(recall, k, nprobe, rerank)
        allowed = len(self.vectors) if rows is None else len(rows)
        depth = min(max(setting.rerank * (1 if rows is None else FILTER_MARGIN), k), allowed)
        if rows is not None and self._brute_force_is_cheaper(len(rows), len(queries), setting.nprobe, depth):
            return exact_search(self.vectors, queries, k, rows)
        keys = np.zeros((len(queries), min(k, depth)), np.uint64)
        at_once = max(1, CANDIDATES_AT_ONCE // max(depth, self.index.nlist))
        for start in range(0, len(queries), at_once):
            part = slice(start, start + at_once)
            found = self.candidates(queries[part], setting.nprobe, depth, rows, at_least=min(k, allowed))
            keys[part] = self._rerank(queries[part], found, keys.shape[1])
        return Hits.from_keys(keys, k)

    def setting(
        self, recall: float | None = None, k: int = 10, nprobe: int | None = None, rerank: int | None = None
    ) -> Setting:
        """The (nprobe, rerank) that ``search`` uses for these arguments."""
        if nprobe is not None and rerank is not None:
            return Setting(max(1, min(nprobe, self.index.nlist)), max(1, rerank))
        if self.tuning is None:
            raise ValueError("an index without its measured curve needs nprobe and rerank")
        if nprobe is not None:
            nprobe = max(1, min(nprobe, self.index.nlist))
            return Setting(nprobe, self.tuning.depth_for(nprobe, k))
        chosen = self.tuning.choose(RECALL if recall is None else recall, k)
        return replace(
            chosen,
            nprobe=min(chosen.nprobe, self.index.nlist),
            rerank=chosen.rerank if rerank is None else max(1, rerank),
        )

    def expected_recall(self, recall: float | None = None, k: int = 10) -> float:
        """What was measured at build time for the setting that ``search(recall=recall, k=k)`` uses."""
        if self.tuning is None:
            raise ValueError("an index without its measured curve")
        return self.tuning.choose(RECALL if recall is None else recall, k).recall_at(k)

    def candidates(
        self, queries: Float32, nprobe: int, depth: int, rows: Rows | None = None, at_least: int = 1
    ) -> Rows:
        """Rows by their approximate scores, best first, int64 (q, depth), -1 where the probed lists hold no more.

        queries: (q, D). Each query probes its nearest lists: nprobe of them, or more where these hold fewer than
        ``at_least`` rows. With allowed ``rows`` it goes on until it meets twice as many allowed rows as nprobe lists
        hold of all rows, counted along its own order of lists: where the filter and the query disagree, the lists near
        the query hold hardly an allowed row.
        """
        queries, nlist = self.padded(queries), self.index.nlist
        distances, order = self.index.quantizer.search(queries, nprobe if rows is None else nlist)
        met = self.list_sizes[order[:, :nprobe]].sum(axis=1)  # (q,)
        probes = np.full(len(queries), nprobe)
        params: Any = faiss.SearchParametersIVF()
        if rows is not None or (met < at_least).any():
            sizes, goal = self.list_sizes, np.full(len(queries), at_least)
            if rows is None:
                distances, order = self.index.quantizer.search(queries, nlist)
            else:
                sizes = np.bincount(self.list_of_row[rows], minlength=nlist)
                goal = np.clip(FILTER_MARGIN * met, at_least, len(rows))
                allowed = np.zeros(len(self.vectors), bool)
                allowed[rows] = True
                # FAISS holds a pointer only: the selector must live until the search is over
                selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))  # type: ignore
                params.sel = selector
            probes = np.maximum(nprobe, (np.cumsum(sizes[order], axis=1) < goal[:, None]).sum(axis=1) + 1)
        params.nprobe = int(probes.max())
        within = np.arange(params.nprobe) < probes[:, None]  # FAISS skips list -1
        lists = np.where(within, order[:, : params.nprobe], -1)
        distances = np.ascontiguousarray(distances[:, : params.nprobe])
        scores, found = np.empty((len(queries), depth), np.float32), np.empty((len(queries), depth), np.int64)
        # not FAISS's wrapper of this name, which takes no params; coarse scores are part of every residual's score
        arrays = [faiss.swig_ptr(each) for each in (lists, distances, scores, found)]
        search: Any = self.index.search_preassigned_c  # type: ignore[attr-defined]
        search(len(queries), faiss.swig_ptr(queries), depth, *arrays, False, params)
        return found

    def _rerank(self, queries: Float32, found: Rows, k: int) -> Keys:
        """Keys (q, k) of the candidates (q, depth) that score best exactly; 0 where there are fewer."""
        rows = np.sort(found, axis=1)  # rising reads of the memory map
        keys = rank_keys(self.scores(queries, rows), rows)
        keys[rows < 0] = 0
        return np.partition(keys, rows.shape[1] - k, axis=1)[:, rows.shape[1] - k :]

    def scores(self, queries: Float32, rows: Rows) -> Float32:
        """Exact inner products of each query (q, D) with its own rows (q, m), float32 (q, m); noise for row -1."""
        scores = np.empty(rows.shape, np.float32)
        at_once = max(1, RERANK_BYTES // (4 * self.vectors.shape[1]))  # vectors
        for start in range(0, len(queries), max(1, at_once // rows.shape[1])):
            part = slice(start, start + max(1, at_once // rows.shape[1]))
            for column in range(0, rows.shape[1], at_once):
                wanted = np.maximum(rows[part, column : column + at_once], 0)
                found = self.vectors.take(wanted.reshape(-1), axis=0)
                vectors = as_float32(found).reshape(*wanted.shape, -1)  # (queries, columns, D)
                scores[part, column : column + at_once] = (vectors @ queries[part, :, None])[:, :, 0]
        return scores

    def padded(self, queries: Float32) -> Float32:
        """Queries (q, D) as the FAISS index takes them."""
        return _pad(queries, self.index.d)

    @cached_property
    def list_sizes(self) -> npt.NDArray[np.int64]:
        """Rows in each list, int64 (nlist,)."""
        lists: Any = self.index.invlists
        return np.array([lists.list_size(i) for i in range(self.index.nlist)], np.int64)

    @cached_property
    def list_of_row(self) -> npt.NDArray[np.int32]:
        """The list each row lies in, int32 (N,): read when a filter first needs it."""
        lists: Any = self.index.invlists
        owner = np.empty(len(self.vectors), np.int32)
        for i, size in enumerate(self.list_sizes):
            if size:
                owner[faiss.rev_swig_ptr(lists.get_ids(i), int(size))] = i
        return owner

    def _brute_force_is_cheaper(self, survivors: int, queries: int, nprobe: int, depth: int) -> bool:
        """Whether scoring every allowed row costs less: all queries share the reading, then each row is one product."""
        scanned = min(survivors, FILTER_MARGIN * nprobe * len(self.vectors) / self.index.nlist)
        fixed = self.index.nlist + len(self.vectors) / FILTER_ROWS / queries  # all lists ranked, a bitmap made
        return survivors * (1 / queries + DOT_COST) <= fixed + depth * (1 + DOT_COST) + scanned * CODE_COST
