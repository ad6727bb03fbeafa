"""Outfits as pictures: scored ones a row each; an explained one with what each item adds and what would fit better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from retrieval.serving.picture import EDITED, INK, PAGE, QUIET, TONES, drawable
from retrieval.serving.sheet import Row, Tile, save_sheet
from retrieval.serving.tiles import shorten
from retrieval.stylist import Explained, Piece, Scored


def save_outfits(path: Path, outfits: Sequence[Scored], title: str) -> None:
    """Each outfit a row, its items in order (.html or .png)."""
    rows = []
    for outfit in outfits:
        first, *others = (_tile(piece) for piece in outfit.pieces)
        rows.append(Row(_heading(outfit), first, tuple(others), first=0, role=outfit.pieces[0].slot))
    save_sheet(path, rows, title, {"score": "0 to 1; the per cent of known outfits that score lower"})


def save_explained(path: Path, found: Explained) -> None:
    """The outfit, the worst item marked; below each item its influence by aspect as bars; then the worst item beside
    its replacements."""
    outfit = found.outfit
    most = max(abs(value) for values in found.influence.values() for value in values)
    items, below = [], []
    for i, piece in enumerate(outfit.pieces):
        mark = ("miss", "worst") if i == found.worst else ()
        own = {name: values[i] for name, values in found.influence.items()}
        told = tuple(f"{name}: {value:+.3f}" for name, value in own.items())
        items.append(_tile(piece, (), *mark))
        marked = found.aspect if i == found.worst else ""
        below.append(Tile(influence_bars(own, most, marked), piece.name, told, *mark))
    worst = outfit.pieces[found.worst]
    heading = f"{_heading(outfit)}: {worst.slot} fits worst, for its {found.aspect}"
    rows = [
        Row(heading, items[0], tuple(items[1:]), first=0, role=outfit.pieces[0].slot),
        Row(
            "What each item adds", below[0], tuple(below[1:]),
            "A bar to the right raises the score, to the left it lowers it.",
            (found.aspect,), first=0, role="influence",
        ),
    ]  # fmt: skip
    if found.better:
        shown = [
            _tile(each.pieces[found.worst], [f"score: {each.score:.2f}"], "hit", "better") for each in found.better
        ]
        named = f"{worst.slot} -> {found.better[0].pieces[found.worst].name}"
        note = f"The outfit's score with each of these in its place; now {outfit.score:.2f}."
        rows.append(
            Row(named, _tile(worst, [f"score: {outfit.score:.2f}"]), tuple(shown), note, ("score",), role="worst")
        )
    save_sheet(path, rows, "fsearch outfit explain", {"influence": "gradient x feature"})


def influence_bars(values: Mapping[str, float], most: float, marked: str = "") -> Image.Image:
    """An item's influence by aspect: a bar each from the middle, right where it raises the score and left where it
    lowers it; ``most`` fills a half. ``marked`` is set off."""
    width, line, middle = 400, 470 // max(len(values), 5), 250
    room = width - middle - 10
    picture = Image.new("RGB", (width, 480), PAGE)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(30)
    for i, (name, value) in enumerate(values.items()):
        top = 5 + i * line
        if name == marked:
            pen.rounded_rectangle((0, top, width - 1, top + line - 6), 8, EDITED)
        center = top + line // 2 - 3
        pen.text((6, center), drawable(shorten(name, 9)), INK if name == marked else QUIET, font, anchor="lm")
        long = round(room * value / most) if most else 0
        if long:
            left, right = sorted((middle, middle + long))
            pen.rectangle((left, center - 14, right, center + 14), TONES["hit" if value > 0 else "miss"])
    pen.line((middle, 4, middle, 5 + line * len(values)), INK, 2)
    return picture


def _heading(outfit: Scored) -> str:
    return f"score {outfit.score:.2f}, above {outfit.percentile:.0f}% of known outfits"


def _tile(piece: Piece, told: Sequence[str] = (), mark: str = "", word: str = "") -> Tile:
    kind = f"kind: {piece.kind}" if piece.kind else ""
    return Tile(piece.image, piece.name, tuple(filter(None, [f"slot: {piece.slot}", kind, *told])), mark, word)
