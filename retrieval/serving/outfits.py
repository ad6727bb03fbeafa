"""Outfits as pictures: scored ones a row each; an explained one with what each item adds and what would fit better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retrieval.serving.sheet import Row, Tile, save_sheet
from retrieval.stylist import Explained, Piece, Scored


def save_outfits(path: Path, outfits: Sequence[Scored], title: str) -> None:
    """Each outfit a row, its items in order (.html or .png)."""
    rows = []
    for outfit in outfits:
        first, *others = (_tile(piece) for piece in outfit.pieces)
        rows.append(Row(_heading(outfit), first, tuple(others), first=0, role=outfit.pieces[0].slot))
    save_sheet(path, rows, title, {"score": "0 to 1; the per cent of known outfits that score lower"})


def save_explained(path: Path, found: Explained) -> None:
    """The outfit with each item's influence by aspect, the worst marked; then the worst beside its replacements."""
    outfit = found.outfit
    items = []
    for i, piece in enumerate(outfit.pieces):
        told = [f"{name}: {values[i]:+.3f}" for name, values in found.influence.items()]
        items.append(_tile(piece, told, *(("miss", "worst") if i == found.worst else ())))
    worst = outfit.pieces[found.worst]
    heading = f"{_heading(outfit)}: {worst.slot} fits worst, for its {found.aspect}"
    rows = [Row(heading, items[0], tuple(items[1:]), edited=(found.aspect,), first=0, role=outfit.pieces[0].slot)]
    if found.better:
        shown = [
            _tile(each.pieces[found.worst], [f"score: {each.score:.2f}"], "hit", "better") for each in found.better
        ]
        named = f"{worst.slot} -> {found.better[0].pieces[found.worst].name}"
        note = f"The outfit's score with each of these in its place; now {outfit.score:.2f}."
        rows.append(
            Row(named, _tile(worst, [f"score: {outfit.score:.2f}"]), tuple(shown), note, ("score",), role="worst")
        )
    facts = {"influence": "gradient x feature; below zero it lowers the score"}
    save_sheet(path, rows, "fsearch outfit explain", facts)


def _heading(outfit: Scored) -> str:
    return f"score {outfit.score:.2f}, above {outfit.percentile:.0f}% of known outfits"


def _tile(piece: Piece, told: Sequence[str] = (), mark: str = "", word: str = "") -> Tile:
    kind = f"kind: {piece.kind}" if piece.kind else ""
    return Tile(piece.image, piece.name, tuple(filter(None, [f"slot: {piece.slot}", kind, *told])), mark, word)
