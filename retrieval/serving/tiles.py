"""The parts of a sheet: a tile is a photo and its words, a row is a query and its ranked results."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from PIL import Image

from index.errors import PhotoError
from retrieval.photos import Source, decode

MARKS = ("query", "hit", "miss", "")
ID_CHARACTERS, VALUE_CHARACTERS = 40, 80


class Tile(NamedTuple):
    """One photo and its words. A line of the form "name: value" is shown as a field.

    ``image`` is what ``photos.decode`` takes, or a Pillow image, or None for a gray tile. ``mark`` is one of MARKS.
    """

    image: Source | Image.Image | None
    title: str
    lines: tuple[str, ...] = ()
    mark: str = ""
    word: str = ""  # written for the mark, instead of its name


class Row(NamedTuple):
    """A query and its results, best first: the rank drawn is the position, from ``first`` (0: none).

    ``edited`` names the attributes whose "name: value" lines are emphasised.
    """

    heading: str  # the edit in words: "baseColour: Red -> Blue"
    query: Tile
    results: tuple[Tile, ...]
    note: str = ""
    edited: tuple[str, ...] = ()
    first: int = 1
    role: str = "query"  # the word above the photo on the left


class Line(NamedTuple):
    name: str  # "" for a line that is not "name: value"
    value: str
    edited: bool


class Words(NamedTuple):
    """What every format writes around a photo, cleaned and cut."""

    title: str
    short: str
    lines: tuple[Line, ...]
    mark: str
    rank: int  # 0: the query, or results without ranks
    word: str  # what the mark is called


# Controls, bidirectional overrides (they would reorder the words around an id) and lone surrogates (undecodable names).
_UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: object) -> str:
    """One line of encodable text: white space collapsed, what cannot be shown replaced by U+FFFD."""
    return _UNSHOWABLE.sub("\ufffd", " ".join(str(text).split()))


def shorten(text: str, characters: int) -> str:
    """Its start and end around an ellipsis, in ``characters`` at most: the end of a path tells ids apart."""
    if len(text) <= characters:
        return text
    tail = (characters - 1) // 2
    return f"{text[: characters - 1 - tail]}…{text[len(text) - tail :]}"


def words_of(row: Row) -> Iterator[tuple[Tile, Words]]:
    """The query, then the results, each with its words. Raises ValueError for a mark that is not in MARKS."""
    edited = {clean(name) for name in row.edited}
    for place, tile in enumerate((row.query, *row.results)):
        if tile.mark not in MARKS:
            raise ValueError(f"a tile's mark is one of {MARKS}, not {tile.mark!r}")
        title = clean(tile.title)
        mark, word = (tile.mark, tile.word or tile.mark) if place else (tile.mark or "query", tile.word or row.role)
        rank = row.first + place - 1 if place and row.first else 0
        yield tile, Words(title, shorten(title, ID_CHARACTERS), tuple(_lines(tile.lines, edited)), mark, rank, word)


def _lines(lines: Iterable[str], edited: set[str]) -> Iterator[Line]:
    for text in map(clean, lines):
        name, _, value = text.partition(": ") if ": " in text else ("", "", text)
        yield Line(name, shorten(value, VALUE_CHARACTERS), name in edited)


def photo_of(tile: Tile, long_side: int) -> tuple[Image.Image | None, str]:
    """The photo in RGB, at least about ``long_side`` pixels where it has them, or None and the reason. Never raises."""
    if tile.image is None:
        return None, "no photo"
    try:
        if not isinstance(tile.image, Image.Image):
            return decode(tile.image, long_side=long_side).image, ""
        rgba = tile.image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba)
        return white, ""
    except PhotoError as error:
        return None, clean(error.reason)
    except Exception as error:  # a Pillow image not read yet, whose file is damaged, may raise anything
        return None, clean(error) or "damaged"


def fit(photo: Image.Image, width: int, height: int, enlarge: bool) -> Image.Image:
    """The photo resized to lie in ``width`` x ``height`` pixels, aspect ratio kept, no side below one pixel."""
    scale = min(width / photo.width, height / photo.height)
    if scale >= 1 and not enlarge:
        return photo
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    return photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
