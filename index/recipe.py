"""Which index a gallery gets, and its knobs."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from index.errors import CapError, GalleryError, InputError

KINDS = ("exact", "ivfpq", "fastscan", "rabitq", "graph")
EXACT_BELOW = 20_000  # rows that brute force reads in a few milliseconds
TRAINABLE_FROM = 1024  # an 8-bit codebook has 256 entries: fewer than 4 rows for each teach it nothing
TRAIN_PER_LIST = 40  # rows a k-means centroid is learned from; FAISS asks for 39
# dimensions of a graph at least, and how many candidates a vertex's links are chosen from (efConstruction). A code of
# 64 bytes is one line of the cache: over a million rows of 256 dimensions 64 reach a recall of 0.95 at efSearch 22, 48
# at 28, and a step takes 4% longer. Candidates of wide vectors cost more: over a million rows of 1,024 dimensions a
# query takes 46 us of one core to 0.95 with 96, 52 with 64 and with 128
GRAPH_DIMS, EF_CONSTRUCTION = 64, 64
WIDE_FROM, WIDE_GRAPH = 768, 96  # dimensions of a table from which both are so many
# lists from which their centroids are linked as a graph (HNSW, so many links a layer). One core, 64 dimensions, the
# nearest list of each of 4,096 rows: 19 us by all centroids and 18 us by a graph of 10,000, 57 and 35 of 30,000, 190
# and 63 of 95,000; a query alone, 8 lists: 48 and 30, 156 and 36, 955 and 86 (benchmarks/coarse.py). A graph of 10,000,
# linked anew in each round of k-means, made a build longer
COARSE_FROM, COARSE_LINKS = 30_000, 32
GRAPH_TRAIN = 65_536  # rows that a graph's projection and the ranges of its 8-bit codes are learned from


_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def bytes_of(text: str) -> int:
    """``"2GB"``, ``"1.5 GiB"`` or ``"300000"`` as a number of bytes; InputError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().casefold())
    if found is None or found[2] not in ("", "b", *_UNITS) or not math.isfinite(float(found[1]) * 2**40):
        raise InputError(f"{text!r} is no size: write bytes, or a number with KB, MB, GB, TB, KiB, MiB, GiB or TiB")
    return round(float(found[1]) * _UNITS.get(found[2], 1))


def size_of(n: int) -> str:
    """The least size of one decimal, such as ``"1.3MB"``, that ``bytes_of`` reads as n bytes or more."""
    unit = max((each for each in ("kb", "mb", "gb", "tb") if _UNITS[each] <= n), default="kb", key=_UNITS.__getitem__)
    return f"{-(-10 * n // _UNITS[unit]) / 10:.10g}{unit.upper()}"


@dataclass(frozen=True)
class Recipe:
    """An index to be built.

    kind: "exact" (brute force); "ivfpq" (inverted lists of product-quantised residuals, Jegou et al. 2011); "fastscan"
    (the same with 4-bit codes, scanned in registers, Andre et al. 2017); "rabitq" (lists of one bit a dimension, Gao
    and Long 2024); "graph" (HNSW, Malkov and Yashunin 2016, over 8-bit codes).
    nlist: lists. pq_m: codes of a vector; where it does not divide the dimension, vectors are padded with zeros.
    nbits: bits of one code. train_rows: rows drawn, with ``seed``, from the whole table to train on.
    dims: the projection that is coded, 0 for the vectors as they are. links, ef_construction: a vertex's links on a
    graph's upper layers (twice as many on the lowest), and how many candidates they are chosen from. copied: a copy of
    the whole vectors in memory, 8 bits a dimension, on which candidates are scored before the best of them are on the
    float16 vectors (see ``with_copy``).
    """

    kind: str
    nlist: int = 0
    pq_m: int = 0
    nbits: int = 8
    train_rows: int = 0
    seed: int = 0
    dims: int = 0
    links: int = 0
    ef_construction: int = 0
    copied: bool = False

    @property
    def linked(self) -> bool:
        """Whether a graph over the centroids finds the nearest lists."""
        return self.nlist >= COARSE_FROM

    def coded(self, dim: int) -> int:
        """Dimensions of what is coded: of the projection, or the smallest multiple of ``pq_m`` that holds ``dim``."""
        if self.dims:
            return self.dims
        return dim if not self.pq_m else math.ceil(dim / self.pq_m) * self.pq_m

    def bytes_per_row(self, dim: int) -> float:
        """Bytes held in memory for a row, beside the mapped float16 vectors, where rows are many: see ``resident``."""
        if self.kind == "exact":
            return 0.0
        copy = dim if self.copied else 0
        if self.kind == "graph":  # 8-bit codes; links of 4 bytes, where they lie, few upper layers, the row's number
            return self.coded(dim) + 8 * self.links + 25 + copy
        bits = {"rabitq": self.coded(dim) + 96}.get(self.kind, self.pq_m * self.nbits)
        return bits / 8 + 8 + copy  # and the row's number

    def resident(self, n: int, dim: int) -> float:
        """Bytes that an index of n rows holds in memory once it has served a filter, beside the mapped vectors.

        Beside the rows: the projection, centroids and the graph of many, codebooks, the list each row lies in
        (``Lists.list_of_row``), and what fills each list's last block of 32 codes, half of it on average.
        """
        if self.kind == "exact":
            return 0.0
        fixed = 4 * self.dims * dim
        if self.nlist:
            fixed += 4 * self.coded(dim) * (self.nlist + (2**self.nbits if self.pq_m else 0)) + 4 * n
        if self.linked:
            fixed += self.nlist * (8 * COARSE_LINKS + 17)
        if self.kind in ("fastscan", "rabitq"):
            fixed += 16 * self.nlist * math.ceil((self.pq_m * 4 or self.coded(dim)) / 8)
        return n * self.bytes_per_row(dim) + fixed


def choose(n: int, d: int, kind: str = "auto", seed: int = 0, dims: int = 64, links: int = 16) -> Recipe:
    """The recipe for n rows of d dimensions: "auto" is exact under 20,000 rows, else a graph.

    dims: the projection that graph, fastscan and rabitq code (see ``index.projection.choose_dims``); d or more is none,
    and a graph's is at least GRAPH_DIMS, or WIDE_GRAPH for wide vectors.

    An ivfpq's code byte stands for 8 dimensions: on generated features of 576 dimensions, 72 bytes and 64 reranked rows
    find 95% of the true 10 neighbours, 48 bytes need 128. About 3 sqrt(n) lists balance comparing centroids with
    scanning codes. There is no OPQ rotation: it raised recall there by 0.01, less than a deeper rerank does, and
    tripled the training. GalleryError when too few rows would train it, or the kind is unknown.
    """
    if kind != "auto" and kind not in KINDS:
        raise GalleryError(f"unknown index kind {kind!r}; known: auto, {', '.join(KINDS)}")
    if kind == "exact" or (kind == "auto" and n < EXACT_BELOW):
        return Recipe("exact", seed=seed)
    kind = "graph" if kind == "auto" else kind
    if n < TRAINABLE_FROM:
        raise GalleryError(f"{n} rows are too few to train {kind}, which needs {TRAINABLE_FROM}; use exact")
    least, from_so_many = (WIDE_GRAPH, WIDE_GRAPH) if d >= WIDE_FROM else (GRAPH_DIMS, EF_CONSTRUCTION)
    dims = max(dims, least) if kind == "graph" else dims
    dims = 0 if dims >= d else dims
    if kind == "graph":
        rows = min(n, GRAPH_TRAIN)
        return Recipe(kind, train_rows=rows, seed=seed, dims=dims, links=links, ef_construction=from_so_many)
    nlist = max(1, min(round(3 * math.sqrt(n)), n // TRAIN_PER_LIST))
    rows = min(n, max(TRAIN_PER_LIST * nlist, 16_384))
    if kind == "ivfpq":
        return Recipe(kind, nlist, max(math.ceil(d / 8), min(d, 8)), 8, rows, seed)  # narrow vectors keep 8 bytes
    if kind == "fastscan":
        return Recipe(kind, nlist, dims or math.ceil(d / 2), 4, rows, seed, dims)
    return Recipe(kind, nlist, 0, 1, rows, seed, dims)


def alternatives(
    n: int, d: int, dims: int, memory: int | None, seed: int = 0, kind: str = "auto"
) -> list[Recipe]:  # fmt: skip
    """The recipes worth trying for n rows, or those of a kind: each whose ``resident`` bytes stay within ``memory``.

    Without a cap: the graph and the lists. A graph of half the links only where the other does not fit: of a million
    rows it found fewer at the same effort, and a trial on a sample would not show that. CapError when nothing fits.
    """
    whole, lean = choose(n, d, "graph", seed, dims), choose(n, d, "graph", seed, dims, links=8)
    tried = [whole, lean, *(choose(n, d, each, seed, dims) for each in ("fastscan", "rabitq"))]
    tried = [each for each in tried if kind in ("auto", each.kind)] or [choose(n, d, kind, seed)]
    fitting = [each for each in tried if memory is None or each.resident(n, d) <= memory]
    if whole in fitting:
        fitting.remove(lean)
    if not fitting:
        assert memory is not None
        raise CapError(n, math.ceil(min(each.resident(n, d) for each in tried)), memory, kind)
    return fitting


def with_copy(recipe: Recipe, n: int, d: int, memory: int | None) -> Recipe:
    """The same recipe, copied where ``memory`` bytes hold the 8-bit copy beside the index and not the float16 vectors.

    Where memory holds the mapped vectors they stay in the system's cache, and a copy gains nothing; where it does not,
    each candidate is a read from the disk, of which a copy leaves some two a hit (a gain after a start, and later only
    where far more candidates are scored: see docs/scale.md). Without a cap: no copy.
    """
    copied = replace(recipe, copied=True)
    fits = memory is not None and copied.resident(n, d) <= memory < 2 * n * d
    return copied if fits and recipe.kind != "exact" else recipe


def for_rows(recipe: Recipe, n: int, d: int) -> Recipe:
    """The same recipe for another number of rows: what a trial on a sample is for."""
    again = choose(n, d, recipe.kind, recipe.seed, recipe.dims or d, recipe.links or 16)
    return replace(again, dims=recipe.dims)
