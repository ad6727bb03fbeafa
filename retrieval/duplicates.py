"""Near-duplicate photos of a gallery: pairs that score at least a threshold, joined to groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from index import duplicates
from index.errors import InputError
from retrieval.engine import Engine

THRESHOLD = 0.99  # docs/duplicates.md: what it finds, and what it takes for a duplicate


class Pair(NamedTuple):
    """Two photos alike. ``exact``: the very same file."""

    id: str
    other: str
    score: float
    exact: bool


@dataclass(frozen=True)
class Group:
    """Photos joined by a chain of pairs. ``rows``, ``ids``: first the photo with the most pairs, then by their score
    with it, which is in ``scores``. ``copy``: the same file as one before it."""

    rows: tuple[int, ...]
    ids: tuple[str, ...]
    scores: tuple[float, ...]
    copy: tuple[bool, ...]
    pairs: tuple[Pair, ...]

    def __post_init__(self) -> None:
        if not len(self.rows) == len(self.ids) == len(self.scores) == len(self.copy) > 1:
            raise ValueError("a group is two photos or more")


@dataclass(frozen=True)
class Report:
    """Groups, the largest first. ``photos``: how many were compared."""

    photos: int
    threshold: float
    weights: dict[str, float]
    groups: tuple[Group, ...]

    @property
    def copies(self) -> int:
        """Photos that are the same file as another one kept."""
        return sum(sum(group.copy) for group in self.groups)

    @property
    def spare(self) -> int:
        """Photos beyond one a group."""
        return sum(len(group.ids) - 1 for group in self.groups)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as ``fsearch duplicates --out FILE.json`` writes them."""
        groups = [{"ids": group.ids, "pairs": [pair._asdict() for pair in group.pairs]} for group in self.groups]
        return {"photos": self.photos, "threshold": self.threshold, "weights": self.weights, "groups": groups}


def find(
    engine: Engine,
    threshold: float = THRESHOLD,
    weight: Mapping[str, float] | None = None,
    recall: float | None = None,
    part: Path | None = None,
    progress: bool = False,
) -> Report:
    """Every pair of photos whose weighted mean cosine is at least ``threshold``, as far as the index finds them.

    weight: block -> factor on its default weight. Files of one content hash are always paired. part: a file from which
    the same search goes on when it was interrupted, yours to remove when the report is safe (see
    ``index.duplicates.pairs``). Raises InputError, GalleryError.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold {threshold}: above 0 and at most 1, for example {THRESHOLD}")
    gallery, weights = engine.gallery, engine.weights(weight or {})
    live = gallery.live() if gallery.manifest.removed else None
    found = duplicates.pairs(
        gallery, engine.index, weights, threshold, rows=live, recall=recall, part=part, progress=progress
    )
    member = np.unique(np.concatenate([found.first, found.second]))
    lowest = duplicates.groups(gallery.manifest.rows, found.first, found.second)
    ids = gallery.columns(["id"])["id"]
    name = dict(zip(member.tolist(), ids.take(member).to_pylist(), strict=True))
    hashes = gallery.columns(["content_hash"])["content_hash"].take(member).to_pylist()
    hash_of = dict(zip(member.tolist(), hashes, strict=True))
    degree = np.bincount(np.concatenate([found.first, found.second]), minlength=gallery.manifest.rows)
    joined: dict[int, list[int]] = {}
    for place, root in enumerate(lowest[found.first].tolist()):
        joined.setdefault(root, []).append(place)
    rows_of: dict[int, list[int]] = {}
    for row in member.tolist():
        rows_of.setdefault(int(lowest[row]), []).append(row)

    scale, total = engine.layout.scale(weights), sum(weights.values())
    groups = []
    for root, places in joined.items():
        rows = np.array(rows_of[root])
        middle = rows[np.argmax(degree[rows])]
        scores = duplicates.scores(gallery, np.full(len(rows), middle), rows, scale) / np.float32(total)
        order = np.lexsort((rows, -scores, rows != middle))
        ranked, seen, copy = rows[order].tolist(), set(), []
        for row in ranked:
            copy.append(hash_of[row] is not None and hash_of[row] in seen)
            seen.add(hash_of[row])
        pairs = tuple(
            Pair(name[int(found.first[i])], name[int(found.second[i])], float(found.score[i]), bool(found.exact[i]))
            for i in places
        )
        listed = tuple(name[row] for row in ranked)
        groups.append(Group(tuple(ranked), listed, tuple(scores[order].tolist()), tuple(copy), pairs))
    groups.sort(key=lambda group: (-len(group.rows), group.rows[0]))
    return Report(gallery.manifest.photos, threshold, weights, tuple(groups))
