"""Cloth: the patterns a garment is printed or woven with and the folds it falls in, as functions of cloth coordinates.

Coordinates are garment units across (``a``, from the middle) and along (``b``, from the top) the cloth, float32 arrays
that broadcast to (h, w). Every edge is softened over one pixel (``soft`` units), so nothing here needs supersampling.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retrieval.datasets.garments_style import Cut

Plane = NDArray[np.float32]


def _cover(distance: Plane, soft: float) -> Plane:
    """Coverage 0..1 of a pixel whose centre lies ``distance`` inside an edge."""
    return np.clip(distance * np.float32(1 / soft) + np.float32(0.5), 0, 1)


def _stripe(x: Plane, period: float, width: float, soft: float) -> Plane:
    return _cover(np.float32(width / 2) - np.abs(x % np.float32(period) - np.float32(period / 2)), soft)


def _striped(a: Plane, b: Plane, cut: Cut, soft: float) -> Plane:
    period = 0.40 * cut.period
    lined = cut.motif == 2  # a thin line between the broad ones
    stripes = _stripe(b, period, period * (0.28 if lined else 0.38) * cut.duty, soft)
    return np.maximum(stripes, _stripe(b + np.float32(period / 2), period, period * 0.1, soft)) if lined else stripes


def _pinstriped(a: Plane, b: Plane, cut: Cut, soft: float) -> Plane:
    period = 0.21 * cut.period
    return _stripe(a, period, 0.04 * cut.duty, soft)


def _checked(a: Plane, b: Plane, cut: Cut, soft: float) -> Plane:
    period = 0.44 * cut.period
    if cut.motif == 2:  # windowpane
        return np.maximum(_stripe(a, period, 0.07, soft), _stripe(b, period, 0.07, soft))
    width = period * 0.42 * cut.duty
    cloth = (_stripe(a, period, width, soft) + _stripe(b, period, width, soft)) * np.float32(0.46)
    if cut.motif == 1:  # tartan: lines in the middle of the light squares
        shifted = np.float32(period / 2)
        lines = np.maximum(
            _stripe(a + shifted, period, 0.08 * period, soft), _stripe(b + shifted, period, 0.08 * period, soft)
        )
        cloth = np.maximum(cloth, lines * np.float32(0.8))
    return cloth


def _dotted(a: Plane, b: Plane, cut: Cut, soft: float) -> Plane:
    period = np.float32(0.34 * cut.period)
    row = np.floor(b / period)
    x = (a + row % 2 * (period / 2)) % period - period / 2
    y = b - (row + np.float32(0.5)) * period
    return _cover(period * np.float32(0.27 * cut.duty) - np.sqrt(x * x + y * y), soft)


def _floral(a: Plane, b: Plane, cut: Cut, soft: float) -> Plane:
    """Five-petalled flowers on a staggered grid, each turned, sized and shifted its own way, with an open centre."""
    cell = np.float32(0.58 * cut.period)
    row = np.floor(b / cell)
    x = a / cell + row * np.float32(0.37)
    column = np.floor(x)
    chance = (row * np.float32(12.9898) + column * np.float32(78.233) + np.float32(cut.duty)) % np.float32(6.2832)
    x = (x - column - np.float32(0.5)) * cell - np.float32(0.10) * cell * np.sin(chance * 3)
    y = b - (row + np.float32(0.5)) * cell - np.float32(0.10) * cell * np.cos(chance * 5)
    radius = np.sqrt(x * x + y * y)
    petals = (4, 5, 6)[cut.motif]
    lobes = np.cos(np.arctan2(y, x) * petals + chance)
    outer = cell * (np.float32(0.29) + np.float32(0.09) * lobes + np.float32(0.03) * np.sin(chance * 7))
    return _cover(outer - radius, soft) - _cover(cell * np.float32(0.09) - radius, soft)


_PATTERNS = {
    "striped": _striped,
    "pinstriped": _pinstriped,
    "checked": _checked,
    "dotted": _dotted,
    "floral": _floral,
}


def _color_block(part: str, b: Plane, reach: float, cut: Cut, soft: float) -> Plane | float:
    """Large blocks in the second color, always less than half of the garment."""
    if part == "sleeve":
        if cut.motif == 1:
            return 0.0
        place = b - np.float32((0.6 if cut.motif == 0 else 0.3) * reach)
        return _cover(place if cut.motif == 0 else -place, soft)
    top, bottom = ((0.64, 9.0), (0.34, 0.56), (-9.0, 0.24))[cut.motif]
    return _cover(b - np.float32(top * reach), soft) * _cover(np.float32(bottom * reach) - b, soft)


def second_color(pattern: str, part: str, a: Plane, b: Plane, reach: float, cut: Cut, soft: float) -> Plane | float:
    """Share 0..1 of the second color at each point of a cloth ``reach`` long; a number where all the same."""
    if pattern == "plain":
        return 0.0
    if pattern == "color-block":
        return _color_block(part, b, reach, cut, soft)
    return _PATTERNS[pattern](a, b, cut, soft)


def folds(drape: str, a: Plane, b: Plane, reach: float, rng: np.random.Generator, strength: float) -> Plane:
    """Relative brightness, about -0.2 to 0.2, of cloth that hangs: three ridges, sharper than sine waves."""
    phase = rng.uniform(0, 2 * np.pi, 3).astype(np.float32)
    slope = rng.uniform(-1, 1, 3).astype(np.float32)
    size = (strength * rng.uniform(0.4, 1.0, 3)).astype(np.float32)
    total = np.zeros((1, 1), np.float32)
    for i in range(3):
        if drape == "skirt":  # spread out and deepen towards the hem
            fan = a / (1 + np.float32(0.55 / reach) * np.maximum(b, 0))
            wave = np.sin(fan * np.float32(6 + 3 * i) + slope[i] * b * np.float32(0.5) + phase[i])
            wave *= np.float32(1.3) * np.clip(b * np.float32(1 / reach) + np.float32(0.1), 0, 1)
        elif drape == "sleeve":  # across the arm, most at the elbow
            wave = np.sin(b * np.float32(3.2 + 1.7 * i) + slope[i] * a * 5 + phase[i])
        elif drape == "leg":
            wave = np.sin(a * (4 + slope[i]) + b * slope[i] * np.float32(2.4) + phase[i])
        else:
            wave = np.sin(a * (slope[i] * 4) + b * np.float32(1.4 + 0.9 * i) + phase[i])
        total = total + size[i] * wave * np.abs(wave)
    return total


def knit(category: str, texture: int, a: Plane, b: Plane) -> Plane | float:
    """The cloth's own relief: ribs of knitwear, channels of quilted jackets, twill of trousers."""
    if texture == 0:
        return 0.0
    if category in ("sweater", "cardigan"):
        fine = np.float32(0.05) * np.sin(a * np.float32(46 if texture == 1 else 30))
        return fine if texture == 1 else fine * np.sin(b * np.float32(24))
    if category in ("jacket", "vest", "coat") and texture == 1:
        channel = np.abs(np.sin(b * np.float32(5.2)))
        return np.float32(0.22) * np.sqrt(channel) - np.float32(0.16)
    if category in ("trousers", "shorts", "skirt") and texture == 1:
        return np.float32(0.03) * np.sin((a + b) * np.float32(60))
    return 0.0
