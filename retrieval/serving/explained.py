"""Explanations as sheets: one attribute of photos, and why the results of a query came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from retrieval import photos
from retrieval.datasets.records import Cropped
from retrieval.engine import Engine, Result
from retrieval.explain.shares import deciding
from retrieval.serving import heat as pictures
from retrieval.serving.sheet import Row, Tile, save_sheet

if TYPE_CHECKING:
    from retrieval.explain.attribute import Explanation
    from retrieval.explain.branches import Branches
    from retrieval.explain.similar import Alike


def save_explanations(
    path: Path, sources: Sequence[Path], found: Sequence[Explanation], facts: Mapping[str, str]
) -> None:
    """A row for each photo: the photo, its heat map with the box, what lies under the box, the head's probabilities."""
    rows = [_row(source, each) for source, each in zip(sources, found, strict=True)]
    save_sheet(path, rows, "fsearch explain", facts)


def save_branches(path: Path, sources: Sequence[Path], found: Sequence[Branches], facts: Mapping[str, str]) -> None:
    """A row for each photo: the photo, and over it the mask of each branch, from its lowest to its highest."""
    rows = []
    for source, each in zip(sources, found, strict=True):
        photo = photos.decode(source, long_side=480).image
        tiles = []
        for number, mask in enumerate(each.masks, 1):
            low, high = float(mask.min()), float(mask.max())
            heat = (mask - low) / max(high - low, 1e-6)
            tiles.append(Tile(pictures.overlay(photo, heat), f"branch {number}", (f"mask: {low:.2f} to {high:.2f}",)))
        rows.append(Row("what each branch looks at", Tile(photo, source.name), tuple(tiles), first=0, role="photo"))
    save_sheet(path, rows, "fsearch explain", facts)


def told_branches(sources: Sequence[Path], found: Sequence[Branches]) -> str:
    """A line for each branch of each photo: the range of its mask and where it is highest."""
    lines = []
    for source, each in zip(sources, found, strict=True):
        for number, mask in enumerate(each.masks, 1):
            y, x = np.unravel_index(int(mask.argmax()), mask.shape)
            at = f"x {round(x * each.width / mask.shape[1])}, y {round(y * each.height / mask.shape[0])}"
            lines.append(f"{source}: branch {number} {mask.min():.2f} to {mask.max():.2f}, highest at {at}")
    return "\n".join(lines)


def _row(source: Path, found: Explanation) -> Row:
    photo = photos.decode(source, long_side=480).image
    size = found.width, found.height
    strength = np.linalg.norm(found.representation, axis=0)  # (7, 7)
    told = [f"predicted: {found.predicted or 'none'}"] if found.predicted != found.value else []
    where = "no place of the photo speaks for it" if found.box is None else "heat: where the photo speaks for it"
    return Row(
        f"{found.attribute}: {found.value} ({found.probabilities[found.value]:.2f})",
        Tile(photo, source.name, tuple(told)),
        (
            Tile(pictures.overlay(photo, found.heat, found.box, size), found.method, (where, "box: largest hot part")),
            Tile(pictures.boxed(photo, found.box, size), "box", (_sides(found),)),
            Tile(
                pictures.cells(strength), "7 x 7 under the box",
                (f"ROI-pooled last map: length of {len(found.representation)} channels",),
            ),
            Tile(pictures.bars(found.probabilities, found.value), "probabilities"),
        ),
        first=0,
        role="photo",
    )  # fmt: skip


def _sides(found: Explanation) -> str:
    if found.box is None:
        return "none"
    left, top, right, bottom = (round(side) for side in found.box)
    return f"x {left} to {right}, y {top} to {bottom} of {found.width} x {found.height}"


def summary(sources: Sequence[Path], found: Sequence[Explanation]) -> str:
    """A line for each photo: the value with its probability, those next to it, and the box."""
    lines = []
    for source, each in zip(sources, found, strict=True):
        others = sorted(
            (name for name in each.probabilities if name != each.value), key=lambda n: -each.probabilities[n]
        )
        near = ", ".join(f"{name} {each.probabilities[name]:.2f}" for name in others[:3])
        box = "no place speaks for it" if each.box is None else f"box {_sides(each)}"
        lines.append(f"{source}: {each.attribute} {each.value} {each.probabilities[each.value]:.2f} ({near}); {box}")
    return "\n".join(lines)


def why_rows(
    engine: Engine, result: Result, reference: Path | str, box: tuple[int, int, int, int] | None = None
) -> list[Row]:
    """A row of heat maps for each block that decided: on the results, where they are like the query (edits and all); on
    the query, where it is like the results. reference: the query's file, or its id; box: the part of it that was asked.

    None for results without shares, and for galleries without a model.
    """
    told = [hit.shares for hit in result.hits if hit.shares is not None]
    if not told or result.vector is None or not engine.gallery.manifest.has_model:
        return []
    from retrieval.explain.similar import similar  # loads torch

    source: photos.Source | None
    if isinstance(reference, Path):
        source, title = reference if box is None else Cropped(reference, box), reference.name
    else:
        asked = engine.describe([engine.gallery.row_of(reference)])[0]
        source, title = engine.photo_of(asked), asked.id
    sources = [source, *(engine.photo_of(hit) for hit in result.hits)]
    rows = np.array([engine.gallery.row_of(hit.id) for hit in result.hits])
    units = engine.gallery.vectors(rows).astype(np.float32)
    found = []
    for block in deciding(told, tuple(edit.attribute for edit in result.edits)):
        span = engine.layout.slice(block)
        directions = np.stack([units[:, span].mean(axis=0), *([result.vector[span]] * len(rows))])
        query, *others = similar(engine.model, sources, block, directions)
        tiles = tuple(
            Tile(_pictured(alike), hit.id, (f"{block}: {(hit.shares or {})[block]:.3f} of {hit.score:.3f}",))
            for hit, alike in zip(result.hits, others, strict=True)
        )
        note = f"Heat: where {block} finds a result like the query, and the query like its results."
        found.append(Row(f"why: {block}", Tile(_pictured(query), title), tiles, note, first=result.hits[0].rank))
    return found


def _pictured(alike: Alike | None) -> Image.Image | None:
    return None if alike is None else pictures.overlay(alike.image, alike.heat)
