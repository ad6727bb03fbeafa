"""Pictures of reasons: heat over a photo, a pooled representation, probabilities as bars. Pillow images in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from retrieval.serving.picture import EDITED, INK, PAGE, QUIET, RULE, drawable
from retrieval.serving.tiles import shorten

Heat = npt.NDArray[np.float32]  # (h, w), 0 to 1
_RAMP = np.array([(40, 12, 90), (150, 35, 110), (228, 70, 70), (252, 160, 50), (250, 235, 120)], np.float64)
_BOX = (20, 235, 225)
_LONG = 480  # the long side of what is drawn; sheets make it smaller


def ramp(heat: Heat) -> npt.NDArray[np.float64]:
    """Heat as colors, (h, w, 3) in 0..255: dark violet is none, red half, pale yellow the highest."""
    place = np.clip(heat, 0, 1) * (len(_RAMP) - 1)
    return np.stack([np.interp(place, np.arange(len(_RAMP)), channel) for channel in _RAMP.T], axis=-1)


def overlay(
    photo: Image.Image, heat: Heat, box: Sequence[float] | None = None, of: tuple[int, int] = (0, 0)
) -> Image.Image:
    """The photo in gray with its heat in color over it, and a box: left, top, right, bottom in pixels of a photo that
    is ``of`` = width, height large. Cold places show the photo alone.
    """
    photo = _sized(photo)
    gray = np.asarray(photo.convert("L"), np.float64)[..., None]
    grown = np.asarray(Image.fromarray(heat).resize(photo.size, Image.Resampling.BILINEAR), np.float64)
    opacity = np.clip(grown, 0, 1)[..., None] ** 0.7 * 0.72
    mixed = Image.fromarray((gray * (1 - opacity) + ramp(grown.astype(np.float32)) * opacity).astype(np.uint8))
    return boxed(mixed, box, of)


def boxed(photo: Image.Image, box: Sequence[float] | None, of: tuple[int, int]) -> Image.Image:
    """The photo with a box drawn on it, as for ``overlay``."""
    photo = _sized(photo)
    if box is None:
        return photo
    x, y = photo.width / of[0], photo.height / of[1]
    corners = (box[0] * x, box[1] * y, box[2] * x - 1, box[3] * y - 1)
    pen = ImageDraw.Draw(photo)
    for grow, color, width in ((1, "#10302e", 7), (0, _BOX, 5)):
        left, top, right, bottom = corners
        pen.rectangle((left - grow, top - grow, right + grow, bottom + grow), outline=color, width=width)
    return photo


def cells(values: npt.NDArray[np.floating]) -> Image.Image:
    """A small grid of numbers (h, w), 0 and above, as tiles of color: the largest is pale yellow."""
    top = float(values.max())
    side = _LONG // values.shape[1]
    colors = ramp((values / top if top > 0 else values).astype(np.float32)).astype(np.uint8)
    picture = Image.fromarray(colors).resize((side * values.shape[1], side * values.shape[0]), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(picture)
    for i in range(1, values.shape[1]):
        pen.line((i * side, 0, i * side, picture.height), PAGE, 2)
    for i in range(1, values.shape[0]):
        pen.line((0, i * side, picture.width, i * side), PAGE, 2)
    return picture


def bars(probabilities: Mapping[str, float], marked: str, most: int = 7) -> Image.Image:
    """The largest probabilities as bars with their names and numbers; ``marked`` is set off, and shown at any rate."""
    order = sorted(probabilities, key=lambda name: -probabilities[name])
    shown = order[:most] if marked in order[:most] else [*order[: most - 1], marked]
    width, line = 464, 78
    picture = Image.new("RGB", (width, line * len(shown) + 8), PAGE)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(32)
    for i, name in enumerate(shown):
        top = i * line + 4
        if name == marked:
            pen.rounded_rectangle((0, top, width - 1, top + line - 6), 8, EDITED)
        pen.text((8, top + 4), drawable(shorten(name, 20)), INK, font)
        pen.text(
            (width - 8, top + 4), f"{probabilities[name]:.2f}", INK if name == marked else QUIET, font, anchor="ra"
        )
        pen.rectangle((8, top + 48, width - 9, top + 62), RULE)
        long = round((width - 17) * probabilities[name])
        if long:
            pen.rectangle((8, top + 48, 8 + long, top + 62), "#2456a6" if name == marked else QUIET)
    return picture


def _sized(photo: Image.Image) -> Image.Image:
    """An RGB copy whose long side is ``_LONG`` pixels."""
    scale = _LONG / max(photo.size)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    return photo.convert("RGB").resize(size, Image.Resampling.LANCZOS)
