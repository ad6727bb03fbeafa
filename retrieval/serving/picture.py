"""Rows as one PNG, drawn with Pillow alone. Lengths are pixels, chosen for a screen of double density."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from index.errors import FsearchError
from retrieval.serving.tiles import Row, Tile, Words, clean, fit, photo_of, shorten, words_of

COLUMNS = (3, 6)  # results side by side, at least (so that words have room) and at most (then they wrap)
TILE, PHOTO, STRIP = 252, 302, 42  # a tile's width, the heights of its photo and of the strip above it
GAP, MARGIN = 26, 48
SMALL, BODY, ID, HEADING, TITLE = 19, 21, 23, 29, 44  # font sizes
MAX_PIXELS = 150_000_000  # 450 MB while drawing
PAGE, INK, QUIET, RULE, EDITED, NO_PHOTO = "#ffffff", "#1b1d21", "#666c77", "#dcdee2", "#fff0b8", "#c9ccd1"
TONES = {"query": "#2456a6", "hit": "#0a7450", "miss": "#b0431a", "": RULE}


def draw_rows(rows: Sequence[Row], title: str, facts: Mapping[str, str]) -> bytes:
    """The picture as PNG. Raises FsearchError where there are more rows than fit in MAX_PIXELS."""
    least, most = COLUMNS
    columns = max(least, min(most, max((len(row.results) for row in rows), default=0)))
    results_x = MARGIN + TILE + 2 * GAP
    width = results_x + columns * (TILE + GAP) - GAP + MARGIN
    inner = width - 2 * MARGIN

    # Everything is placed before anything is drawn: only then is the height known.
    texts: list[tuple[int, int, _Block]] = []
    tiles: list[tuple[int, int, Tile, Words]] = []
    rules: list[tuple[int, int, int, int]] = []

    def place(block: _Block, y: int, x: int = MARGIN) -> int:
        texts.append((x, y, block))
        return y + block.height

    y = place(_plain(clean(title), TITLE, inner, 3)._replace(bold=True), MARGIN)
    told = [run for name, value in facts.items() for run in ((clean(name), QUIET), (clean(value) + "  ", INK))]
    y = place(_set(told, BODY, inner, 6), y)
    for row in rows:
        rules.append((MARGIN, y + 26, width - MARGIN, y + 26))
        y = place(_plain(clean(row.heading).replace("→", "->"), HEADING, inner, 3)._replace(bold=True), y + 50)
        y = place(_plain(clean(row.note), BODY, inner, 3, QUIET), y) + 10
        query, *results = words_of(row)
        tiles.append((MARGIN, y, *query))
        top, bottom = y, y + _tile_height(query[1])
        for first in range(0, len(results), columns):
            line = results[first : first + columns]
            tiles += [(results_x + i * (TILE + GAP), y, *result) for i, result in enumerate(line)]
            bottom = max(bottom, y + max(_tile_height(words) for _, words in line))
            y += max(_tile_height(words) for _, words in line) + GAP
        if not results:
            place(_plain("No results.", BODY, inner, 1, QUIET), top + STRIP, results_x)
        rules.append((MARGIN + TILE + GAP, top, MARGIN + TILE + GAP, bottom))
        y = bottom
        if width * y > MAX_PIXELS:
            raise FsearchError(f"{len(rows)} queries are more than one picture holds; save a page (.html) or fewer")

    canvas = Image.new("RGB", (width, y + MARGIN), PAGE)
    draw = ImageDraw.Draw(canvas)
    for rule in rules:
        draw.line(rule, RULE, 2)
    for x, y, block in texts:
        _write(draw, x, y, block)
    for x, y, tile, words in tiles:
        _draw_tile(canvas, draw, x, y, tile, words)
    png = io.BytesIO()
    canvas.save(png, "PNG")
    return png.getvalue()


# Words. ---------------------------------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """Words set in lines; a run is a word and its color."""

    lines: list[list[tuple[str, str]]]
    size: int
    bold: bool = False
    edited: bool = False

    @property
    def leading(self) -> int:
        return round(self.size * 1.38)

    @property
    def height(self) -> int:
        return len(self.lines) * self.leading + (6 if self.edited else 0)


@lru_cache(8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@lru_cache(4096)
def _drawable(character: str) -> str:
    """The character, its unaccented letters, or "?": the built-in font draws boxes for what it lacks."""
    box = bytes(_font(BODY).getmask("\uffff"))

    def known(part: str) -> bool:
        return part == " " or bytes(_font(BODY).getmask(part)) not in (box, b"")

    if known(character):
        return character
    folded = "".join(filter(known, unicodedata.normalize("NFKD", character)))
    return folded or ("" if unicodedata.combining(character) else "?")


def drawable(text: str) -> str:
    """The text in characters that the built-in font has."""
    return "".join(map(_drawable, text))


def _set(words: Iterable[tuple[str, str]], size: int, width: int, most: int) -> _Block:
    """Words set in at most ``most`` lines of ``width`` pixels; an ellipsis stands for what is cut."""
    measure = _font(size).getlength
    room = width - measure(" …")
    lines: list[list[tuple[str, str]]] = []
    for word, color in words:
        word = drawable(shorten(word, 200))
        text = next((cut for n in range(len(word), 1, -1) if measure(cut := shorten(word, n)) <= room), word[:1])
        if lines and measure(" ".join([*(run[0] for run in lines[-1]), text])) <= room:
            lines[-1].append((text, color))
        elif len(lines) < most:
            lines.append([(text, color)])
        else:
            lines[-1].append(("…", color))
            break
    return _Block(lines, size)


def _plain(text: str, size: int, width: int, most: int, color: str = INK) -> _Block:
    return _set([(word, color) for word in text.split()], size, width, most)


def _write(draw: ImageDraw.ImageDraw, x: int, y: int, block: _Block) -> int:
    """Draw a block with its top at ``y``; returns its height."""
    font = _font(block.size)
    if block.edited:
        draw.rounded_rectangle((x - 6, y, x + TILE, y + block.height - 3), 6, EDITED)
    for number, line in enumerate(block.lines):
        left, top = float(x), y + number * block.leading + (2 if block.edited else 0)
        for text, color in line:
            if text == "->":  # the built-in font has no arrow
                left += 4
                middle, end, head = top + block.size * 0.62, left + block.size, block.size * 0.22
                draw.line((left, middle, end, middle), color, 2)
                draw.line((end - head, middle - head, end, middle, end - head, middle + head), color, 2)
                left = end + 4 + font.getlength(" ")
                continue
            draw.text((left, top), text, color, font)
            if block.bold and color == INK:  # nor a bold: drawn twice
                draw.text((left + 1, top), text, color, font)
            left += font.getlength(text + " ")
    return block.height


# Tiles. ---------------------------------------------------------------------------------------------------------------


def _tile_blocks(words: Words) -> list[_Block]:
    title = _set([(words.short, INK)], ID, TILE, 1)  # one run, cut in its middle: the end of an id stays in sight
    blocks = [title._replace(bold=True)]
    for line in words.lines:
        name = [(word, QUIET) for word in f"{line.name}:".split()] if line.name else []
        block = _set(name + [(word, INK) for word in line.value.split()], BODY, TILE, 2)
        blocks.append(block._replace(bold=line.edited, edited=line.edited))
    return blocks


def _tile_height(words: Words) -> int:
    return STRIP + PHOTO + 10 + sum(block.height for block in _tile_blocks(words))


def _draw_tile(canvas: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int, tile: Tile, words: Words) -> None:
    if words.rank:
        draw.text((x, y + 19), "#", QUIET, _font(ID), anchor="lm")
        draw.text((x + _font(ID).getlength("#") + 2, y + 19), str(words.rank), INK, _font(ID), anchor="lm")
    if words.mark:
        wide = round(_font(SMALL).getlength(words.word)) + 24
        left = x + TILE - wide if words.rank else x
        draw.rounded_rectangle((left, y + 4, left + wide, y + 34), 15, TONES[words.mark])
        draw.text((left + wide / 2, y + 18), words.word, PAGE, _font(SMALL), anchor="mm")
    y += STRIP
    box = (x, y, x + TILE, y + PHOTO)
    photo, reason = photo_of(tile, PHOTO)
    if photo is None:
        draw.rounded_rectangle(box, 10, NO_PHOTO)
        block = _plain(reason, SMALL, TILE - 40, 6)
        text = "\n".join(" ".join(word for word, _ in line) for line in block.lines)
        center = x + TILE / 2, y + PHOTO / 2
        draw.multiline_text(center, text, INK, _font(SMALL), anchor="mm", align="center", spacing=8)
    else:
        photo = fit(photo, TILE - 20, PHOTO - 20, enlarge=True)
        canvas.paste(photo, (x + (TILE - photo.width) // 2, y + (PHOTO - photo.height) // 2))
    _frame(draw, box, words.mark)
    y += PHOTO + 10
    for block in _tile_blocks(words):
        y += _write(draw, x, y, block)


def _frame(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], mark: str) -> None:
    """Solid: hit; dashed: miss; double: query; thin: not judged. The word above says it too."""
    tone, (left, top, right, bottom) = TONES[mark], box
    if mark == "miss":
        for x in range(left, right, 22):
            for y in (top, bottom - 4):
                draw.rectangle((x, y, min(x + 13, right), y + 4), tone)
        for y in range(top, bottom, 22):
            for x in (left, right - 4):
                draw.rectangle((x, y, x + 4, min(y + 13, bottom)), tone)
    elif mark == "query":
        draw.rounded_rectangle(box, 10, outline=tone, width=2)
        draw.rounded_rectangle((left + 5, top + 5, right - 5, bottom - 5), 6, outline=tone, width=2)
    else:
        draw.rounded_rectangle(box, 10, outline=tone, width=5 if mark else 2)
