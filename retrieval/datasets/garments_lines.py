"""Lines and measures that every garment is cut from. Garment units: see ``garments_shape``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.datasets.garments_style import Cut

Points = NDArray[np.float64]  # (n, 2): x, y in garment units


class Layer(NamedTuple):
    """Polygons that are painted together, in one cloth, with the frame in which that cloth's pattern runs."""

    part: str  # "body", "sleeve", "neckline" or "detail"
    fill: str  # "fabric", "trim", "lining", "second", "metal", "pale"
    outlines: Sequence[Points]
    seams: Sequence[tuple[Points, float]] = ()  # drawn inside the outlines: line and width
    origin: tuple[float, float] = (0.0, 0.0)
    along: tuple[float, float] = (0.0, 1.0)  # unit vector down the cloth; "across" is at its right angle
    half: float = 0.95  # half width, over which the shading turns round the body
    reach: float = 2.6  # length of the cloth along ``along``
    drape: str = ""  # which folds: "torso", "sleeve", "skirt", "leg", "" none
    ribs: float = 0.0  # period of knitted ribs across the cloth, 0 none


# Neckline -> half width at the neck and depth at the centre front.
NECKS = {
    "crew": (0.36, 0.27),
    "v-neck": (0.35, 0.90),
    "scoop": (0.54, 0.68),
    "square": (0.50, 0.58),
    "collar": (0.30, 0.40),
    "lapel": (0.34, 1.25),
    "turtleneck": (0.31, 0.14),
    "hooded": (0.40, 0.46),
    "off-shoulder": (0.90, 0.72),
}
KNITTED = ("sweater", "cardigan", "hoodie")

_STEP = np.linspace(0, 1, 5)[:-1, None]
_CATMULL_ROM = np.concatenate([_STEP**0, _STEP, _STEP**2, _STEP**3], axis=1) @ np.array(
    [[0, 1, 0, 0], [-0.5, 0, 0.5, 0], [1, -2.5, 2, -0.5], [-0.5, 1.5, -1.5, 0.5]]
)  # (4 steps, 4 control points)


def line(*points: tuple[float, float]) -> Points:
    return np.array(points, dtype=np.float64)


def curve(*points: tuple[float, float]) -> Points:
    """An open Catmull-Rom spline through ``points``, four segments between neighbours."""
    p = np.array((points[0], *points, points[-1]), dtype=np.float64)
    controls = p[np.arange(len(points) - 1)[:, None] + np.arange(4)]  # (n - 1, 4, 2)
    return np.concatenate([(_CATMULL_ROM @ controls).reshape(-1, 2), p[-1:]])


def mirror(points: Points) -> Points:
    """The same line on the other side, run through backwards, so that outlines join up."""
    return points[::-1] * (-1, 1)


def band(path: Points, width: float) -> Points:
    """The strip between ``path`` and its parallel ``width`` to its right (seen in running direction, y down)."""
    step = np.gradient(path, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], axis=1) / np.maximum(np.hypot(*step.T), 1e-9)[:, None]
    return np.concatenate([path, (path + width * normal)[::-1]])


def disc(x: float, y: float, radius: float, corners: int = 8, turn: float = 0.0) -> Points:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False) + turn
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)


def half_widths(cut: Cut, category: str) -> tuple[float, float, float]:
    """Half widths at the armpit, the waist and the hem of an upper garment of hip length."""
    roomy = {"coat": 1.10, "jacket": 1.08, "hoodie": 1.08, "sweater": 1.04}.get(category, 1.0)
    chest = 0.84 * cut.width * roomy
    if category in ("dress", "jumpsuit"):
        return chest * 0.96, chest * (0.60 + 0.22 * cut.fit), chest * 1.0
    knit = 0.90 if category in KNITTED else 1.0
    return chest, chest * (0.12 + 0.86 * cut.fit), chest * (0.92 + 0.16 * cut.flare) * knit
