"""fsearch outfit: score, explain, complete and generate outfits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from retrieval.stylist import Piece, Scored, Stylist

FOLDER = click.Path(path_type=Path)
ITEMS = "A photo, or the id of a gallery row; SLOT=PHOTO says what it is, such as shoes=a.jpg."


def _shared(gallery: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of every command of the group."""
    options = [
        click.argument("items", nargs=-1, required=True, metavar="ITEM..."),
        click.option(
            "--gallery", "-g", type=FOLDER, envvar="FSEARCH_GALLERY", default="gallery" if gallery else None,
            show_default=True, help="The gallery to choose from; $FSEARCH_GALLERY if set.",
        ),
        click.option("--outfits", type=FOLDER, help="Another outfit model than the shipped one."),
        click.option("--model", help="The image model, where there is no gallery.  [default: products]"),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--save", type=FOLDER, metavar="FILE", help="Save as pictures: .html or .png."),
    ]  # fmt: skip

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


def _stylist(
    gallery: Path | None, outfits: Path | None, model: str | None, save: Path | None, text: str | None = None
) -> Stylist:  # fmt: skip
    from retrieval.engine import Engine
    from retrieval.serving.sheet import checked
    from retrieval.stylist import Stylist

    if save is not None:
        checked(save)
    stylist = Stylist(Engine.open(gallery) if gallery is not None else None, outfits, model)
    known, unknown = stylist.model.words.codes(text or "")
    if known and unknown:  # a text of unknown words alone is an error
        click.echo(f"passed over, never learned: {', '.join(unknown)}", err=True)
    return stylist


def _pieces(stylist: Stylist, items: tuple[str, ...]) -> list[Piece]:
    """The items; those that fill no slot are named: no outfit that was learned from had such."""
    from retrieval.outfits.config import OTHER

    found = stylist.pieces(items)
    for piece in found:
        if piece.slot == OTHER:
            click.echo(f"{piece.name} ({piece.kind}) fills no slot of an outfit: SLOT={piece.name} says one", err=True)
    return found


@click.group()
def outfit() -> None:
    """Say what goes with what: score an outfit, explain it, complete it, or grow one from a photo.

    \b
    fsearch outfit score top.jpg bottom.jpg shoes.jpg
    """


@outfit.command()
@_shared(gallery=False)
def score(
    items: tuple[str, ...], gallery: Path | None, outfits: Path | None, model: str | None, as_json: bool,
    save: Path | None,
) -> None:  # fmt: skip
    """Say how well garments go together, 0 to 1, and how many known outfits score lower.

    \b
    fsearch outfit score top.jpg bottom.jpg shoes.jpg
    """
    stylist = _stylist(gallery, outfits, model, save)
    scored = stylist.score(_pieces(stylist, items))
    if save is not None:
        from retrieval.serving.outfits import save_outfits

        save_outfits(save, [scored], "fsearch outfit score")
    click.echo(json.dumps(scored.to_json(), indent=1, ensure_ascii=False) if as_json else _line(scored))


@outfit.command()
@_shared()
@click.option("--replacements", type=click.IntRange(0), default=5, show_default=True, help="How many to suggest.")
def explain(
    items: tuple[str, ...], gallery: Path, outfits: Path | None, model: str | None, as_json: bool, save: Path | None,
    replacements: int,
) -> None:  # fmt: skip
    """Name the item that fits worst and why, and what of the gallery would fit better.

    \b
    fsearch outfit explain top.jpg bottom.jpg shoes.jpg --gallery shop.gallery --save why.html
    """
    stylist = _stylist(gallery, outfits, model, save)
    found = stylist.explain(_pieces(stylist, items), replacements)
    if save is not None:
        from retrieval.serving.outfits import save_explained

        save_explained(save, found)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
        return
    click.echo(_line(found.outfit))
    width = max(len(piece.name) for piece in found.outfit.pieces)
    click.echo(" " * (width + 12) + "".join(f"{name:>12}" for name in found.influence))
    for i, piece in enumerate(found.outfit.pieces):
        values = "".join(f"{values[i]:>12.3f}" for values in found.influence.values())
        click.echo(f"{piece.name:<{width}}  {piece.slot:<10}{values}{'  worst' if i == found.worst else ''}")
    worst = found.outfit.pieces[found.worst]
    click.echo(f"{worst.name} ({worst.slot}) fits worst, for its {found.aspect}")
    for each in found.better:
        click.echo(f"  instead {each.pieces[found.worst].name}: {each.score:.2f}")


@outfit.command()
@_shared()
@click.option("--missing", metavar="SLOT", required=True, help="What to add: shoes, bag, belt ...")
@click.option("--text", metavar="WORDS", help="Words for what is wanted.")
@click.option("--topk", "-k", type=click.IntRange(1), default=5, show_default=True)
def complete(
    items: tuple[str, ...], gallery: Path, outfits: Path | None, model: str | None, as_json: bool, save: Path | None,
    missing: str, text: str | None, topk: int,
) -> None:  # fmt: skip
    """Add the garment that is missing, from the gallery, best first.

    \b
    fsearch outfit complete top.jpg bottom.jpg --missing shoes --gallery shop.gallery
    """
    stylist = _stylist(gallery, outfits, model, save, text)
    pieces = _pieces(stylist, items)
    _show(stylist.complete(pieces, missing, text, topk), as_json, save, f"with {missing}")


@outfit.command()
@_shared()
@click.option("--text", metavar="WORDS", help='Words for what is wanted, such as "summer, blue".')
@click.option("--items", "most", type=click.IntRange(2), default=5, show_default=True, help="Garments at most.")
def generate(
    items: tuple[str, ...], gallery: Path, outfits: Path | None, model: str | None, as_json: bool, save: Path | None,
    text: str | None, most: int,
) -> None:  # fmt: skip
    """Grow an outfit from a photo, forwards and backwards, one garment of each kind.

    \b
    fsearch outfit generate top.jpg --text "blue" --gallery shop.gallery --save outfit.html
    """
    stylist = _stylist(gallery, outfits, model, save, text)
    _show(
        [stylist.generate(_pieces(stylist, items), text, most)],
        as_json,
        save,
        "generated" + (f": {text}" if text else ""),
    )


def _show(found: list[Scored], as_json: bool, save: Path | None, title: str) -> None:
    if save is not None:
        from retrieval.serving.outfits import save_outfits

        save_outfits(save, found, f"fsearch outfit, {title}")
    if as_json:
        click.echo(json.dumps([each.to_json() for each in found], indent=1, ensure_ascii=False))
        return
    for each in found:
        click.echo(_line(each))
    if not found:
        click.echo("the gallery holds nothing of that kind")


def _line(scored: Any) -> str:
    items = "  ".join(f"{piece.slot}={piece.name}" for piece in scored.pieces)
    return f"{scored.score:.2f}  above {scored.percentile:.0f}% of known outfits  {items}"
