"""An approximate index with an exact rerank: a graph or lists find candidates, the stored vectors score them.

Where the table was projected before it was coded, queries are projected after their weighting; the rerank is on the
full float16 vectors, so scores are those of exact search at any block weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from index import graph, lists
from index.exact import DOT_COST, Float32, as_float32, checked
from index.exact import search as exact_search
from index.graph import Graph
from index.hits import Hits, Keys, Rows, rank_keys
from index.lists import Lists
from index.projection import learn
from index.recipe import Recipe
from index.tuning import RECALL, Setting, Tuning
from index.vectors import release, release_scorer, taken

ADD_BYTES = 1 << 26  # float32 rows added at once: a graph is filled by all threads only if there are many
RERANK_BYTES = 1 << 19  # float32 candidates held at once: what fits the cache is widened and scored twice as fast
CANDIDATES_AT_ONCE = 1 << 22  # (score, row) pairs FAISS returns at once
# queries asked together from which on near ones are asked one after the other, and the vertices that their walks keep
# at least: over many rows, over fewer. The order takes 3 to 6% of a batch of walks of 24, and saves 2 to 8% of longer
ORDERED_FROM, ORDERED_WALK, MANY_ROWS = 256, (24, 32), 300_000
FILTER_MARGIN = 2  # a filter may disagree with the query: this much more is reranked
LEARNED_FROM = 65_536  # rows that a projection is learned from
# of a copy's best, a fifth more than the hits asked for are scored again, and at least so many more. A million rows of
# 1,024 dimensions: 2 more found as many of 10 hits as 10 more (0.9806), but 0.969 and 0.979 of a narrow block's alone
KEPT_MORE, KEPT_OF = 4, 5


def build(vectors: npt.NDArray[np.float16], recipe: Recipe, starts: Rows | None = None, progress: bool = False) -> Any:
    """The FAISS index of a recipe: trained on ``recipe.train_rows`` rows drawn from the whole table, then filled.

    vectors: float16 (N, D), usually a memory map; row i gets FAISS id i. starts: where the blocks of the embedding
    begin (default: one block). Memory: what is coded of the sample, LEARNED_FROM whole rows of it as float32, the
    codes, and one piece.
    """
    n, dim = vectors.shape
    starts = np.zeros(1, np.int64) if starts is None else starts
    rng = np.random.default_rng(recipe.seed)
    rows = rng.choice(n, recipe.train_rows, replace=False)
    with tqdm(total=n, desc="index", unit="row", disable=None if progress else True) as bar:
        bar.set_postfix_str(f"training on {len(rows)} rows")
        inner = (graph if recipe.kind == "graph" else lists).empty(recipe, recipe.coded(dim))
        index = inner
        if recipe.dims:
            matrix = learn(_taken(vectors, rows[:LEARNED_FROM]), starts, recipe.dims, recipe.seed)
            rotate = faiss.LinearTransform(dim, recipe.dims, False)
            faiss.copy_array_to_vector(matrix.reshape(-1), rotate.A)
            rotate.is_trained = True
            index = faiss.IndexPreTransform(rotate, inner)
            inner.train(np.concatenate([piece @ matrix.T for piece in _pieces(vectors, np.sort(rows))]))
            index.is_trained = True
        else:
            inner.train(_pad(_taken(vectors, rows), inner.d))
        if recipe.kind == "graph":
            crowded = graph.crowding(vectors, 0)
            graph.fill(inner, _counted(_coded(index, vectors), bar), crowded, recipe.seed, bar.update)
            if len(starts) > 1:  # queries may have one block of another row
                graph.pair(inner, recipe.seed)
            index.ntotal = n
        else:
            bar.set_postfix_str("adding")
            _add(index, vectors, 0, bar)
    return index


def _coded(index: Any, vectors: npt.NDArray[np.float16], start: int = 0) -> Iterator[Float32]:
    """What is coded of the rows from ``start`` on, float32 (n, d), some at a time."""
    _, rotate = _parts(index)
    at_once = max(1, ADD_BYTES // (4 * vectors.shape[1]))
    for at in range(start, len(vectors), at_once):
        piece = _pad(as_float32(vectors[at : at + at_once]), index.d)
        yield piece if rotate is None else rotate.apply(piece)
        release(vectors)


def _counted(pieces: Iterable[Float32], bar: tqdm) -> Iterator[Float32]:
    """The same pieces while ``bar`` counts their rows: coded, before they are linked."""
    bar.set_postfix_str("coding")
    for piece in pieces:
        yield piece
        bar.update(len(piece))
    bar.reset()
    bar.set_postfix_str("linking")


def _pieces(vectors: npt.NDArray[np.float16], rows: Rows) -> Iterator[Float32]:
    """These rows as float32, some at a time."""
    at_once = max(1, ADD_BYTES // (4 * vectors.shape[1]))
    for at in range(0, len(rows), at_once):
        yield _taken(vectors, rows[at : at + at_once])


def _taken(vectors: npt.NDArray[np.float16], rows: Rows) -> Float32:
    """These rows, rising, as float32."""
    return as_float32(taken(vectors, np.sort(rows)))


def extend(index: Any, vectors: npt.NDArray[np.float16], start: int, progress: bool = False) -> None:
    """Add rows ``start`` to the end of ``vectors`` to a trained FAISS index, without training it again."""
    with tqdm(total=len(vectors) - start, desc="index", unit="row", disable=None if progress else True) as bar:
        _add(index, vectors, start, bar)


def _add(index: Any, vectors: npt.NDArray[np.float16], start: int, bar: tqdm) -> None:
    inner, _ = _parts(index)
    crowded = graph.crowding(vectors, start) if graph.is_graph(inner) else None
    at = start
    for piece in _coded(index, vectors, start):
        if crowded is None:
            inner.add(piece)
        else:
            graph.add_scattered(inner, piece, crowded[at - start : at - start + len(piece)], at)
        index.ntotal = inner.ntotal
        at += len(piece)
        bar.update(len(piece))


def _parts(index: Any) -> tuple[Any, Any]:
    """The graph, with its map if it has one, or the lists of a FAISS index, and the projection before them or None."""
    if not isinstance(index, faiss.IndexPreTransform):
        return index, None
    return faiss.downcast_index(index.index), faiss.downcast_VectorTransform(index.chain.at(0))  # type: ignore[attr-defined]


def _pad(vectors: Float32, dim: int) -> Float32:
    """Zeros behind (n, d) up to (n, dim): inner products stay as they are."""
    return vectors if vectors.shape[1] == dim else np.pad(vectors, ((0, 0), (0, dim - vectors.shape[1])))


def _refining(depth: int, k: int, inner: Any) -> Any:
    """FAISS's parameters to score ``depth`` candidates for k hits."""
    return faiss.IndexRefineSearchParameters(k_factor=(depth + 0.5) / k, base_index_params=inner)  # type: ignore[call-arg]


def copied(vectors: npt.NDArray[np.float16], seed: int = 0, progress: bool = False) -> Any:
    """A FAISS index of these vectors (N, D), mapped or not, at 8 bits a dimension, of its range in a sample."""
    n, dim = vectors.shape
    copy = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    rows = np.random.default_rng(seed).choice(n, min(n, LEARNED_FROM), replace=False)
    copy.train(_taken(vectors, rows))
    extend(copy, vectors, 0, progress)
    return copy


def _row_length(vectors: npt.NDArray[np.float16]) -> float:
    """The median length of rows of vectors (N, D), of 64 that are spread over them; 1 where these are zero."""
    some = as_float32(taken(vectors, np.linspace(0, len(vectors) - 1, min(64, len(vectors))).astype(np.int64)))
    lengths = np.linalg.norm(some, axis=1)
    return float(np.median(lengths[lengths > 0])) if lengths.any() else 1.0


class ApproximateIndex:
    """A FAISS index, the float16 vectors (N, D) it reranks on, and what was measured of it.

    Without ``tuning`` (while that is being measured) every search needs nprobe and rerank. ``scorer``: the same vectors
    as a mapped FAISS index (see ``index.vectors``), which reranks in FAISS's own threads; without it numpy does.
    ``copy``: the vectors at 8 bits a dimension (``copied``): it scores the candidates of unfiltered queries, and only
    the best of them (``kept``) are scored on the float16 vectors, as all answers are.
    """

    def __init__(
        self,
        index: Any,
        vectors: npt.NDArray[np.float16],
        tuning: Tuning | None = None,
        scorer: Any = None,
        copy: Any = None,
    ) -> None:
        if index.ntotal != len(vectors):
            raise ValueError(f"an index of {index.ntotal} rows over {len(vectors)} vectors")
        self.index, self.vectors, self.tuning = index, vectors, tuning
        inner, rotate = _parts(index)
        self._matrix = None if rotate is None else faiss.vector_to_array(rotate.A).reshape(rotate.d_out, rotate.d_in)
        self.base: Graph | Lists = Graph(inner) if graph.is_graph(inner) else Lists(inner)
        self._length = _row_length(vectors) if isinstance(self.base, Lists) and self.base.by_length else 0.0
        self._ordered_from = ORDERED_WALK[len(vectors) < MANY_ROWS] if graph.is_graph(inner) else np.inf
        self.copy, self._refined, self._scorer = copy, None, None
        self._settings: dict[tuple[Any, ...], Setting] = {}  # a choice goes through the whole curve
        self._parameters: dict[tuple[int, int, int], Any] = {}  # and FAISS's objects take as long to make as a search
        if scorer is not None and index.d == vectors.shape[1]:
            self._scorer, self._coarse = scorer, index if copy is None else faiss.IndexRefine(index, copy)
            self._refined = faiss.IndexRefine(self._coarse, scorer)

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
        for weights as far from the default as the query's (default 0.95); where no setting reached it at such weights,
        the query is answered exactly. See ``expected_recall``. nprobe, rerank: lists probed (of a graph: efSearch) and
        candidates scored, instead. rows: allowed rows, rising int64. A query gets min(k, allowed rows) hits whatever
        the setting: where its candidates are fewer, more are looked for.
        """
        queries = checked(queries, self.vectors.shape[1], k, rows)
        if self.tuning is None or nprobe is not None:
            return self._search(queries, k, self.setting(recall, k, nprobe, rerank), rows)
        if len(self.tuning.starts) == 1 or not len(queries):  # one block: its weight changes no order
            return self._search(queries, k, self.setting(recall, k, None, rerank), rows)
        levels = self.tuning.levels(queries)
        first = int(levels[0])
        if len(levels) == 1 or (levels == first).all():
            return self._search(queries, k, self.setting(recall, k, None, rerank, first), rows)
        found, scores = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        for level in np.unique(levels):
            members = np.flatnonzero(levels == level)
            hits = self._search(queries[members], k, self.setting(recall, k, None, rerank, int(level)), rows)
            found[members], scores[members] = hits.rows, hits.scores
        return Hits(found, scores, (found >= 0).sum(axis=1))

    def _search(self, queries: Float32, k: int, setting: Setting, rows: Rows | None) -> Hits:
        n = len(self.vectors)
        allowed = n if rows is None else len(rows)
        if not len(queries) or not allowed:
            return Hits.from_keys(np.zeros((len(queries), k), np.uint64), k)
        if setting.exact:
            return exact_search(self.vectors, queries, k, rows)
        depth = min(max(setting.rerank * (1 if rows is None else FILTER_MARGIN), k), allowed)
        by_faiss = rows is None and self._refined is not None and k <= n and setting.nprobe <= self.base.alone
        at_once = max(1, CANDIDATES_AT_ONCE // (depth if by_faiss else max(depth, self.base.most)))
        if len(queries) > at_once:
            parts = [
                self._search(queries[at : at + at_once], k, setting, rows) for at in range(0, len(queries), at_once)
            ]
            return Hits(*(np.concatenate([getattr(each, of) for each in parts]) for of in ("rows", "scores", "counts")))
        if by_faiss and self._refined is not None:
            params = self._faiss_parameters(setting.nprobe, depth, k)
            if len(queries) >= ORDERED_FROM and setting.nprobe >= self._ordered_from:
                order = graph.walk_order(queries)
                scores, found = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
                scores[order], found[order] = self._refined.search(queries[order], k, params=params)
            else:
                alike, factors = self._alike(queries)
                scores, found = self._refined.search(alike, k, params=params)
                if factors is not None:
                    with np.errstate(over="ignore"):  # of what FAISS pads with
                        scores *= factors
            if (found[0, -1] if len(found) == 1 else found[:, -1].min()) >= 0:  # FAISS pads with -1
                return Hits.ordered(found, scores)
        if rows is not None and self._brute_force_is_cheaper(len(rows), len(queries), setting.nprobe, depth):
            return exact_search(self.vectors, queries, k, rows)
        found = self.candidates(queries, setting.nprobe, depth, rows, at_least=min(k, allowed))
        keys = self._rerank(queries, found, min(k, depth))
        short = np.flatnonzero((found >= 0).sum(axis=1) < min(k, allowed))
        if len(short):  # lists count their rows beforehand; a walk does not
            exact = exact_search(self.vectors, queries[short], keys.shape[1], rows)
            keys[short] = np.where(exact.rows >= 0, rank_keys(exact.scores, np.maximum(exact.rows, 0)), 0)
        return Hits.from_keys(keys, k)

    def release(self) -> None:
        """Give back the pages of the mapped vectors that searches have read."""
        release(self.vectors)
        if self._scorer is not None:
            release_scorer(self._scorer)

    def _faiss_parameters(self, nprobe: int, depth: int, k: int) -> Any:
        """What FAISS wants to hear to rerank ``depth`` candidates for k hits."""
        key = (nprobe, depth, k)
        if key not in self._parameters:
            inner: Any = self.base.params(nprobe, depth)
            if self._matrix is not None:
                inner = faiss.SearchParametersPreTransform(index_params=inner)  # type: ignore[call-arg]
            if self.copy is not None:
                kept = self.kept(k, depth)
                inner, depth = _refining(depth, kept, inner), kept
            self._parameters[key] = _refining(depth, k, inner)
        return self._parameters[key]

    def kept(self, k: int, depth: int) -> int:
        """How many of ``depth`` candidates are scored on the float16 vectors for k hits: all, if there is no copy."""
        if self.copy is None or self._refined is None:
            return depth
        return min(k + max(KEPT_MORE, k // KEPT_OF), depth)

    def copied(self, rows: Rows) -> Float32:
        """Rows (n,) of the copy, float32 (n, D)."""
        dim = self.copy.d
        codes = faiss.rev_swig_ptr(self.copy.codes.data(), self.copy.codes.size()).reshape(-1, dim)
        return np.asarray(self.copy.sa_decode(codes[rows]))

    def bytes_scored(self, k: int, depth: int) -> int:
        """What scoring ``depth`` candidates for k hits reads."""
        dim, kept = self.vectors.shape[1], self.kept(k, depth)
        return 2 * dim * kept + (dim * depth if kept < depth else 0)

    def setting(
        self,
        recall: float | None = None,
        k: int = 10,
        nprobe: int | None = None,
        rerank: int | None = None,
        level: int = 0,
    ) -> Setting:
        """The setting that ``search`` uses for these arguments and queries of this level (see ``Tuning.levels``)."""
        if nprobe is not None and rerank is not None:
            return Setting(max(1, min(nprobe, self.base.most)), max(1, rerank))
        if self.tuning is None:
            raise ValueError("an index without its measured curve needs nprobe and rerank")
        if nprobe is not None:
            nprobe = max(1, min(nprobe, self.base.most))
            return Setting(nprobe, self.tuning.depth_for(nprobe, k))
        key = (recall, k, rerank, level)
        if key not in self._settings:
            chosen = self.tuning.choose(RECALL if recall is None else recall, k, level)
            depth = chosen.rerank if rerank is None else max(1, rerank)
            self._settings[key] = replace(chosen, nprobe=min(chosen.nprobe, self.base.most), rerank=depth)
        return self._settings[key]

    def expected_recall(self, recall: float | None = None, k: int = 10, queries: Float32 | None = None) -> float:
        """What was measured at build time for the settings that ``search(queries, k, recall=recall)`` uses, the lowest.

        Without queries: at the default weights.
        """
        if self.tuning is None:
            raise ValueError("an index without its measured curve")
        levels = [0] if queries is None or not len(queries) else np.unique(self.tuning.levels(queries)).tolist()
        return min(self.setting(recall, k, level=level).recall_at(k, level) for level in levels)

    def candidates(
        self, queries: Float32, nprobe: int, depth: int, rows: Rows | None = None, at_least: int = 1
    ) -> Rows:
        """Rows by their approximate scores, int64 (q, depth), -1 where there are no more; queries (q, D)."""
        return self.base.candidates(self.inner(queries), nprobe, depth, rows, at_least)

    def inner(self, queries: Float32) -> Float32:
        """Queries (q, D) as the graph or the lists take them: projected, or padded."""
        queries, _ = self._alike(queries)
        return _pad(queries, self.index.d) if self._matrix is None else queries @ self._matrix.T

    def _alike(self, queries: Float32) -> tuple[Float32, Float32 | None]:
        """The queries (q, D), and what scores of them are to be multiplied by, (q, 1), or None.

        All of the length of a row where codes are ranked otherwise for a longer query: RaBitQ codes what is between a
        query and a centroid, so a query much shorter than a row is lost in it.
        """
        if not self._length:
            return queries, None
        longest = np.abs(queries).max(axis=1, initial=0, keepdims=True)
        factors: Float32 = np.where(longest > 0, longest, np.float32(1))  # squares neither vanish nor become infinite
        factors *= np.maximum(np.linalg.norm(queries / factors, axis=1, keepdims=True), 1) / np.float32(self._length)
        return queries / factors, factors

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

    def _brute_force_is_cheaper(self, survivors: int, queries: int, nprobe: int, depth: int) -> bool:
        """Whether scoring every allowed row costs less: all queries share the reading, then each row is one product."""
        found = self.base.filtered_cost(nprobe, depth, survivors, queries)
        return survivors * (1 / queries + DOT_COST) <= found + depth * (1 + DOT_COST)
