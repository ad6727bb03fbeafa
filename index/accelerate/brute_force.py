"""Exact scores on the device: brute force over the table, and each query against rows of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from index.accelerate.devices import LEAST_ROWS, block_bytes, on_device, stream
from index.exact import Float32, checked
from index.hits import Hits, Rows, Scores

if TYPE_CHECKING:
    import torch

    from index.accelerate.devices import Vectors

GROUP = 64  # scores of which the largest is looked at first
LOW = 2.0**11  # float16 has 11 bits: the second half of a query is held this much larger
NO_HIT = -(2**63)


def exact_search(vectors: Vectors, queries: Float32, k: int, device: torch.device, rows: Rows | None = None) -> Hits:
    """Brute force on the device, with the answers of ``index.exact.search``: ties go to the lower row.

    vectors: float16 (N, D), streamed in blocks, or what ``resident`` returned. queries: float32 (q, D). rows: allowed
    rows, rising int64. Sums are float32.
    """
    import torch

    queries = checked(queries, vectors.shape[1], k, rows)
    if rows is not None and len(rows) and rows[-1] >= len(vectors):
        raise ValueError(f"allowed row {rows[-1]} of a table of {len(vectors)}")
    asked, memory = on_device(queries, device), block_bytes(device)
    best = torch.full((len(queries), k), NO_HIT, dtype=torch.int64, device=device)
    # on a GPU a block of vectors that are there already costs nothing, so few queries take many rows at once
    in_place = isinstance(vectors, torch.Tensor) and vectors.is_cuda and rows is None
    at_once = max(LEAST_ROWS, memory // (8 * min(len(queries) + 1, 1024))) if in_place else None
    numbers = None if rows is None else on_device(rows, device)
    start = 0
    for block in stream(vectors, device, at_once, rows):
        stop = start + len(block)
        ids = torch.arange(start, stop, device=device) if numbers is None else numbers[start:stop]
        together = max(1, memory // (8 * len(block)))
        for at in range(0, len(queries), together):
            part = slice(at, at + together)
            keys = _best_keys(_inner(block, asked[part]), ids, k)
            best[part] = torch.cat([best[part], keys], dim=1).topk(k, dim=1).values
        start = stop
    # the sign bit turned: signed keys become those of index.hits.rank_keys
    return Hits.from_keys(best.cpu().numpy().view(np.uint64) ^ np.uint64(1 << 63), k)


def halves(queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(high, low, scale): q = scale (high + low / 2048), high and low float16 (q, D), scale a power of two (q, 1).

    Two float16 products summed in float32 are then as exact as a float32 one, at the speed of matrix units.
    """
    import torch

    scale = torch.ldexp(torch.ones_like(queries[:, :1]), torch.frexp(queries.abs().amax(1, keepdim=True)).exponent)
    high = (queries / scale).half()
    return high, ((queries / scale - high.float()) * LOW).half(), scale


def _inner(block: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Inner products of float16 (n, D) with float32 (q, D), float32 (q, n)."""
    import torch

    if not block.is_cuda:
        return queries @ block.float().T
    high, low, scale = halves(queries)
    both = torch.mm(torch.cat([high, low]), block.T, out_dtype=torch.float32)  # (2 q, n)
    return both[: len(queries)].add_(both[len(queries) :], alpha=1 / LOW).mul_(scale)


def _keys(scores: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Numbers that sort by score, then by the lower id: int64, ``index.hits.rank_keys`` less 2^63."""
    import torch

    bits = (scores + 0.0).view(torch.int32)  # + 0 turns -0.0 into 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
    return (ordered << 32) | (2**32 - 1 - ids)


def _best_keys(scores: torch.Tensor, ids: torch.Tensor, k: int) -> torch.Tensor:
    """The keys of the k best of each row of (q, n), or of all n; ids (n,) rise.

    Only the k groups of neighbouring columns with the best maxima are sorted: were a hit in another group, k others
    would rank before it.
    """
    import torch

    n = scores.shape[1]
    whole = n // GROUP * GROUP
    if n > 4 * GROUP * k:
        maxima = scores[:, :whole].unflatten(1, (-1, GROUP)).amax(2)  # (q, groups)
        groups = _keys(maxima, torch.arange(maxima.shape[1], device=ids.device)).topk(k, dim=1).indices
        within = (groups[:, :, None] * GROUP + torch.arange(GROUP, device=ids.device)).flatten(1)
        rest = torch.arange(whole, n, device=ids.device).expand(len(scores), -1)
        columns = torch.cat([within, rest], dim=1)  # (q, k * GROUP + rest)
        scores, ids = scores.gather(1, columns), ids[columns]
    keys = _keys(scores, ids)
    return keys.topk(min(k, keys.shape[1]), dim=1).values


def rerank_scores(vectors: Vectors, queries: Float32, rows: Rows, device: torch.device) -> Scores:
    """Exact inner products of each query (q, D) with its own rows int64 (q, m), float32 (q, m); noise for row -1."""
    import torch

    scores = np.empty(rows.shape, np.float32)
    asked = on_device(np.asarray(queries, np.float32), device)
    step = max(1, block_bytes(device) // (6 * max(1, rows.shape[1]) * vectors.shape[1]))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        wanted = np.maximum(rows[part], 0).reshape(-1)
        if isinstance(vectors, torch.Tensor):
            found = vectors[torch.from_numpy(wanted).to(device)]
        else:
            found = torch.from_numpy(vectors.take(wanted, axis=0)).to(device)
        own = found.float().view(*rows[part].shape, vectors.shape[1])  # (queries, m, D)
        scores[part] = torch.bmm(own, asked[part, :, None])[:, :, 0].cpu().numpy()
    return scores
