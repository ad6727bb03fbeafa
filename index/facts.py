"""What an index is, holds and promises, in plain words: for ``fsearch info``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from index.approximate import ApproximateIndex
from index.exact import ExactIndex
from index.gallery import VECTORS, Gallery
from index.live import LiveIndex
from index.manifest import Generation
from index.recipe import Recipe
from index.tuning import LEVELS, RECALL, Tuning

K = 10


def describe(gallery: Gallery, index: ExactIndex | ApproximateIndex | LiveIndex) -> dict[str, Any]:
    """Facts by name, JSON values. index: the gallery's own, opened."""
    current = gallery.manifest.current
    if current is None:
        return {}
    base, rows = index.base if isinstance(index, LiveIndex) else index, gallery.manifest.indexed
    recipe = Recipe(**current.recipe)
    held = sum(facts["bytes"] for name, facts in current.files.items() if name.endswith(".faiss"))
    mapped = current.files[VECTORS]["bytes"]
    allowed = f", {current.memory:,} allowed" if current.memory is not None else ""
    return {
        "kind": recipe.kind,
        "made of": made_of(recipe, gallery.manifest.layout.dim),
        "in memory": f"{held:,} bytes, {held / max(rows, 1):.0f} a row{allowed}",
        "mapped": f"{mapped:,} bytes, {mapped / max(rows, 1):.0f} a row",
        f"recall@{K}": round(base.expected_recall(None, K), 4),
        **_by_weights(base, gallery.manifest.layout.names),
        **_behind(gallery, current),
    }


def made_of(recipe: Recipe, dim: int) -> str:
    """A recipe in words."""
    of = f"{recipe.dims} of {dim} dimensions" if recipe.dims else f"all {dim} dimensions"
    copy = ", a copy of the vectors at 8 bits" if recipe.copied else ""
    if recipe.kind == "exact":
        return f"brute force over all {dim} dimensions"
    if recipe.kind == "graph":
        return f"HNSW over 8-bit codes of {of}, {2 * recipe.links} links a row{copy}"
    codes = "1 bit a dimension" if recipe.kind == "rabitq" else f"{recipe.pq_m} codes of {recipe.nbits} bits"
    return f"{recipe.nlist:,} lists, {codes} of {of}{copy}"


def _by_weights(base: ExactIndex | ApproximateIndex, names: Sequence[str]) -> dict[str, Any]:
    """The recall promised at weights that are not near the default ones; nothing where only one block is there."""
    curve: Tuning | None = base.tuning if isinstance(base, ApproximateIndex) else None
    if curve is None or len(curve.starts) == 1:
        return {}

    def promised(level: int) -> str:
        chosen = curve.choose(RECALL, K, level)
        return "exact search" if chosen.exact else format(chosen.recall_at(K, level), ".2f")

    ends = [*(f"{least:g} to {most:g}" for most, least in pairwise(LEVELS)), f"below {LEVELS[-1]:g}"]
    said = ", ".join(f"{where}: {promised(level)}" for level, where in enumerate(ends, 1))
    alone = ", ".join(f"{name}: {promised(len(LEVELS) + 1 + i)}" for i, name in enumerate(names))
    return {
        "other weights": f"recall@{K} by their cosine with the default ones; {said}",
        "one block alone": f"recall@{K}; {alone}",
    }


def _behind(gallery: Gallery, current: Generation) -> dict[str, Any]:
    """Rows that the index does not hold or that are removed from it, and how well it finds those added to it."""
    manifest, drift = gallery.manifest, current.drift
    facts = {"rows behind it": manifest.rows - manifest.indexed, "removed rows": manifest.removed}
    found: dict[str, Any] = {name: count for name, count in facts.items() if count}
    if drift is not None:
        found[f"recall@{drift.k} of added"] = drift.recall
        found["drift"] = (
            f"{drift.recall - drift.promised:+.3f}: {drift.promised:.3f} was promised when it was trained on"
            f" {drift.trained:,} rows; {drift.rows:,} were indexed since"
        )
    return found
