"""Boxes drawn on a photo, each with its class and score."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from retrieval.detection.frame import Frame
from retrieval.photos import Source, decode
from retrieval.serving.sheet import write_as

# distinct for the colour-blind, too (Okabe and Ito 2008)
COLORS = ("#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#f0e442", "#0072b2")
SIDE = 640  # a smaller photo is enlarged to this, so that words fit


def draw_boxes(photo: Source, frames: Sequence[Frame]) -> Image.Image:
    """The photo, RGB, its long side at least ``SIDE``, with every box; those of a class share a color. PhotoError."""
    image = decode(photo).image
    scale = max(1.0, SIDE / max(image.size))
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    pen, line = ImageDraw.Draw(image), max(2, max(image.size) // 250)
    font = ImageFont.load_default(max(image.size) // 36)
    kinds = list(dict.fromkeys(each.kind for each in frames))
    for each in reversed(frames):  # the best on top
        color = COLORS[kinds.index(each.kind) % len(COLORS)]
        left, top, width, height = (side * scale for side in each.box)
        pen.rectangle((left, top, left + width - 1, top + height - 1), outline=color, width=line)
        if each.kind is not None:
            words = f"{each.kind} {each.score:.2f}"
            box = pen.textbbox((left, top), words, font)
            pen.rectangle((box[0], box[1], box[2] + 2 * line, box[3] + 2 * line), fill=color)
            pen.text((left + line, top + line), words, "#000000", font)
    return image


def save_boxes(path: Path, photo: Source, frames: Sequence[Frame]) -> None:
    """``draw_boxes`` as a .png. FsearchError for another ending and for a folder that cannot be written."""

    def png() -> bytes:
        out = io.BytesIO()
        draw_boxes(photo, frames).save(out, "PNG")
        return out.getvalue()

    write_as(path, {".png": png})
