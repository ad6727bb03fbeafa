"""Near-duplicate rows: each row asks the index for its neighbours above a score, and pairs are joined to groups.

The work is one search a row, not rows times rows. Rows of one content hash are told by it: one of them stands for all.
What was found is kept in a file now and then, and the same search goes on from it when it was interrupted.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from index import ranges
from index.exact import Float32, as_float32
from index.files import atomic_write
from index.filters import Columns
from index.gallery import Gallery
from index.hits import Rows, Scores

ROWS_AT_ONCE = 256
FIRST, MOST = 16, 1024  # neighbours of a row asked for at first, and at most: a chain of pairs joins what lies denser
ROUNDED = 2.0**-11 + 1e-5  # how far rounding to float16, and sums in float32, may take a stored block's length from 1
KEEP_EVERY, KEEP_SHARE = 30, 20  # seconds between two writes of the part file: so many, or so many times what one takes


@dataclass(frozen=True)
class Pairs:
    """Rows that are alike, ``first`` < ``second``, each pair once, in order. ``score``: weighted mean cosine over
    blocks. ``exact``: the very same file."""

    first: Rows
    second: Rows
    score: Scores
    exact: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        if (self.first >= self.second).any():
            raise ValueError("the first row of a pair must be the lower one")


class Found(NamedTuple):
    """Pairs that rows met as neighbours, most of them twice, when the first ``asked`` rows had been asked."""

    asked: int
    first: Rows
    second: Rows


def pairs(
    gallery: Gallery,
    index: ranges.Index,
    weights: Mapping[str, float],
    threshold: float,
    *,
    rows: Rows | None = None,
    recall: float | None = None,
    part: Path | None = None,
    progress: bool = False,
) -> Pairs:
    """All pairs of rows with a score of at least ``threshold``, as far as the index finds them, and all of one file.

    weights: of every block, not all 0. rows: rising int64, the rows that are compared; None for all. Of rows with one
    content hash only the first is compared with others; the rest are paired with it.

    part: a file for what was found, written every KEEP_EVERY seconds and at the end, however that comes. The same
    search of the same gallery goes on from it; another one begins anew and writes over it, as over a damaged file
    (stderr says so). The caller removes it when the pairs are safe. GalleryError where it cannot be written.
    """
    scale, total = gallery.manifest.layout.scale(weights), np.float32(sum(weights.values()))
    rows = np.arange(gallery.manifest.rows) if rows is None else rows
    codes = Columns(gallery).codes("content_hash")[rows]
    _, at, which = np.unique(codes, return_index=True, return_inverse=True)
    stands = rows[at[which]]  # for each row the first of its file
    copies = stands != rows
    asked = rows[~copies]
    allowed = None if len(asked) == gallery.manifest.rows else asked
    limit = np.float32(total * (threshold - ROUNDED))  # cut exactly below
    print_ = "" if part is None else fingerprint(gallery, asked, weights, threshold, recall)
    found = [_read(part, print_)]  # an entry is added whole: an interruption may come anywhere
    written = time.monotonic()
    begun = found[0].asked
    bar = tqdm(total=len(asked), initial=begun, desc="neighbours", unit="row", disable=None if progress else True)
    try:
        for start in range(begun, len(asked), ROWS_AT_ONCE):
            some = asked[start : start + ROWS_AT_ONCE]
            queries = _units(gallery, some) * scale
            limits = np.full(len(some), limit)
            met = ranges.above(index, queries, limits, rows=allowed, recall=recall, first=FIRST, most=MOST)
            mine = np.repeat(some, [len(near) for near, _ in met])
            near = np.concatenate([near for near, _ in met])
            other = mine != near
            low, high = np.minimum(mine, near)[other], np.maximum(mine, near)[other]
            found.append(Found(start + len(some), low, high))
            bar.update(len(some))
            if part is not None and (now := time.monotonic()) > written:
                found = [_write(part, print_, found)]
                written = time.monotonic() + max(KEEP_EVERY, KEEP_SHARE * (time.monotonic() - now))
    finally:
        bar.close()
        if part is not None and found[-1].asked > begun:
            _write(part, print_, found)
    _, low, high = _joined([Found(0, stands[copies], rows[copies]), *found])
    once = np.unique(low * gallery.manifest.rows + high, return_index=True)[1]  # most are found from both sides
    low, high, exact = low[once], high[once], once < copies.sum()
    means = scores(gallery, low, high, scale) / total
    keep = exact | (means.astype(np.float64) >= threshold - 1e-6)  # equal vectors reach 1, but for rounding
    return Pairs(low[keep], high[keep], means[keep], exact[keep])


def fingerprint(
    gallery: Gallery, asked: Rows, weights: Mapping[str, float], threshold: float, recall: float | None
) -> str:
    """Of all that decides which neighbours these rows meet: the table, its index, removed rows, and the question."""
    manifest = gallery.manifest
    removed = manifest.files.get(manifest.removed_file or "")
    index = None if manifest.current is None else [manifest.current.name, manifest.current.files]
    asks = [sorted(weights.items()), threshold, recall, FIRST, MOST, ROUNDED]
    digest = hashlib.sha256(json.dumps([manifest.table_fingerprint, index, removed, asks]).encode())
    digest.update(np.ascontiguousarray(asked, "<i8").tobytes())
    return digest.hexdigest()


def _joined(found: list[Found]) -> Found:
    first, second = (np.concatenate([each[i] for each in found]) for i in (1, 2))  # type: ignore[misc]
    return Found(found[-1].asked, first, second)


def _write(part: Path, print_: str, found: list[Found]) -> Found:
    """Keep what was found: the SHA-256 of the rest, then arrays."""
    joined, content = _joined(found), io.BytesIO()
    np.savez(content, print=np.array(print_), **joined._asdict())
    atomic_write(part, hashlib.sha256(content.getvalue()).digest() + content.getvalue())
    return joined


def _read(part: Path | None, print_: str) -> Found:
    """What an interrupted run of this very search kept; nothing where there is none."""
    nothing = Found(0, np.zeros(0, np.int64), np.zeros(0, np.int64))
    if part is None or not os.path.isfile(part):
        return nothing
    content = part.read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        why = "damaged"
    else:
        kept = np.load(io.BytesIO(content[32:]))
        if str(kept["print"]) == print_:
            return Found(int(kept["asked"]), kept["first"], kept["second"])
        why = "kept by another search, or the gallery has changed since"
    tqdm.write(f"{part}: {why}; all rows are asked anew", file=sys.stderr)
    return nothing


def groups(rows: int, first: Rows, second: Rows) -> Rows:
    """Connected components: the lowest row that a chain of pairs joins to each of ``rows`` rows, int64 (rows,)."""
    lowest = np.arange(rows)
    while True:
        a, b = lowest[first], lowest[second]
        if (a == b).all():
            return lowest
        np.minimum.at(lowest, np.maximum(a, b), np.minimum(a, b))
        while (lowest[lowest] != lowest).any():
            lowest = lowest[lowest]


def scores(gallery: Gallery, first: Rows, second: Rows, scale: npt.NDArray[np.float32]) -> Scores:
    """Weighted sums of the cosines of blocks of rows with rows, float32, a piece at a time."""
    out = np.empty(len(first), np.float32)
    for start in range(0, len(first), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        a, b = (_units(gallery, each[part]) for each in (first, second))
        out[part] = (a * scale * b).sum(axis=1)
    return out


def _units(gallery: Gallery, rows: Rows) -> Float32:
    """The vectors of rows, each block of length 1 as a query's is: what is stored was rounded. (n, D)."""
    return gallery.manifest.layout.units(as_float32(gallery.vectors(rows)))[0]
