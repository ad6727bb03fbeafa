"""Which index a gallery gets, and its knobs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from index.errors import GalleryError

EXACT_BELOW = 20_000  # rows that brute force reads in a few milliseconds
IVFPQ_FROM = 1024  # an 8-bit codebook has 256 entries: fewer than 4 rows for each teach it nothing
TRAIN_PER_LIST = 40  # rows a k-means centroid is learned from; FAISS asks for 39


@dataclass(frozen=True)
class Recipe:
    """An index to be built.

    kind: "exact" (brute force) or "ivfpq" (inverted lists of product-quantised residuals, Jegou et al. 2011).
    nlist: lists. pq_m: bytes a vector; where it does not divide the dimension, vectors are padded with zeros.
    nbits: bits of one code. train_rows: rows drawn, with ``seed``, from the whole table to train on.
    """

    kind: str
    nlist: int = 0
    pq_m: int = 0
    nbits: int = 8
    train_rows: int = 0
    seed: int = 0

    def padded(self, dim: int) -> int:
        """The smallest multiple of ``pq_m`` that holds ``dim``."""
        return dim if self.kind == "exact" else math.ceil(dim / self.pq_m) * self.pq_m


def choose(n: int, d: int, kind: str = "auto", seed: int = 0) -> Recipe:
    """The recipe for n rows of d dimensions: "auto" is exact under 20,000 rows, else ivfpq.

    One code byte stands for 8 dimensions: on generated features of 576 dimensions, 72 bytes and 64 reranked rows find
    95% of the true 10 neighbours, 48 bytes need 128. About 3 sqrt(n) lists balance comparing centroids with scanning
    codes. There is no OPQ rotation: it raised recall there by 0.01, less than a deeper rerank does, and tripled the
    training. GalleryError when "ivfpq" is asked for too few rows, or the kind is unknown.
    """
    if kind not in ("auto", "exact", "ivfpq"):
        raise GalleryError(f"unknown index kind {kind!r}; known: auto, exact, ivfpq")
    if kind == "exact" or (kind == "auto" and n < EXACT_BELOW):
        return Recipe("exact", seed=seed)
    if n < IVFPQ_FROM:
        raise GalleryError(f"{n} rows are too few to train ivfpq, which needs {IVFPQ_FROM}; use exact")
    nlist = max(1, min(round(3 * math.sqrt(n)), n // TRAIN_PER_LIST))
    pq_m = max(math.ceil(d / 8), min(d, 8))  # narrow vectors keep 8 bytes
    return Recipe("ivfpq", nlist, pq_m, 8, min(n, max(TRAIN_PER_LIST * nlist, 16_384)), seed)
