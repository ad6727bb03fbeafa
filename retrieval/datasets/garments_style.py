"""Which garments exist: attributes, the combinations that make sense, and styles sampled from them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "category": (
        *("t-shirt", "shirt", "sweater", "cardigan", "hoodie", "jacket", "coat", "vest"),
        *("dress", "jumpsuit", "skirt", "trousers", "shorts"),
    ),
    "color": (
        *("black", "white", "gray", "beige", "brown", "red"),
        *("orange", "yellow", "green", "blue", "purple", "pink"),
    ),
    "pattern": ("plain", "striped", "pinstriped", "checked", "dotted", "floral", "color-block"),
    "sleeve": ("sleeveless", "short", "three-quarter", "long"),
    "neckline": (
        *("crew", "v-neck", "scoop", "square", "collar"),
        *("lapel", "turtleneck", "hooded", "off-shoulder"),
    ),
    "length": ("cropped", "regular", "long", "mini", "knee", "midi", "maxi"),
}

RGB: dict[str, tuple[int, int, int]] = {
    "black": (36, 36, 40),
    "white": (240, 240, 238),
    "gray": (142, 144, 148),
    "beige": (216, 192, 152),
    "brown": (112, 72, 44),
    "red": (198, 34, 42),
    "orange": (240, 124, 30),
    "yellow": (246, 208, 54),
    "green": (46, 134, 68),
    "blue": (44, 92, 194),
    "purple": (118, 62, 164),
    "pink": (242, 150, 184),
}

_TOPS = ("cropped", "regular", "long")
_GOWNS = ("mini", "knee", "midi", "maxi")
_ANY_SLEEVE = ATTRIBUTES["sleeve"]

# Category -> the sleeves, necklines and lengths it is made with. An empty tuple: the attribute does not apply.
COMBINATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "t-shirt": (_ANY_SLEEVE, ("crew", "v-neck", "scoop", "square", "collar", "off-shoulder"), _TOPS),
    "shirt": (("short", "three-quarter", "long"), ("collar",), _TOPS),
    "sweater": (("short", "three-quarter", "long"), ("crew", "v-neck", "scoop", "turtleneck"), _TOPS),
    "cardigan": (("three-quarter", "long"), ("crew", "v-neck"), _TOPS),
    "hoodie": (("sleeveless", "short", "long"), ("hooded",), _TOPS),
    "jacket": (("three-quarter", "long"), ("crew", "collar", "lapel", "hooded"), ("cropped", "regular")),
    "coat": (("three-quarter", "long"), ("collar", "lapel", "hooded"), ("knee", "midi", "maxi")),
    "vest": (("sleeveless",), ("v-neck", "collar", "lapel", "hooded"), _TOPS),
    "dress": (_ANY_SLEEVE, ("crew", "v-neck", "scoop", "square", "collar", "turtleneck", "off-shoulder"), _GOWNS),
    "jumpsuit": (_ANY_SLEEVE, ("crew", "v-neck", "scoop", "square", "collar", "off-shoulder"), ("cropped", "regular")),
    "skirt": ((), (), _GOWNS),
    "trousers": ((), (), ("cropped", "regular")),
    "shorts": ((), (), ("mini", "knee")),
}
# Shops sell more plain garments than patterned ones; the rest share what is left.
_PATTERN_ODDS = (0.40, 0.14, 0.08, 0.12, 0.08, 0.10, 0.08)
_VARIANT_GROUP_ODDS = 1 / 7  # groups of 2 to 4 colors, so about a third of the styles belong to one
_VISIBLE_CONTRAST = 130.0  # Euclidean RGB distance from which a pattern in the second color is plainly seen


class Cut(NamedTuple):
    """What makes a style itself without being an attribute. Widths are factors, places are in garment units."""

    width: float  # shoulders
    fit: float  # waist, relative to the shoulders
    flare: float  # 0 straight .. 1 wide hem
    sleeve: float  # sleeve width
    cuff: float  # width at the sleeve's end, relative to its top
    hem: int  # 0 straight, 1 shirt tail, 2 slanted
    pocket: int  # 0 none, 1 one on the chest, 2 a pair below
    closure: int  # 0 zip, otherwise the number of buttons
    trim: bool  # neck, cuffs and hem in the second color
    emblem: int  # 0 none, otherwise a shape printed on the chest
    emblem_x: float
    emblem_y: float
    texture: int  # 0 smooth, 1 and 2: ribbed knit, quilting or twill, by category
    period: float  # size of the pattern
    duty: float  # share of a pattern's period in the second color, relative to the usual
    motif: int  # variant of the pattern, 0 to 2
    second: str  # color name
    tint: tuple[float, float, float]  # shade of the named color


class Garment(NamedTuple):
    """One style: one thing in one color. ``attributes`` has every key of ATTRIBUTES, "" where none applies."""

    style: str
    variant_group: str  # joins styles that differ in color only; "" = comes in one color
    attributes: dict[str, str]
    cut: Cut


def contrast(color: str, other: str) -> float:
    """Euclidean distance of two named colors in RGB, 0 to 441."""
    return float(np.linalg.norm(np.subtract(RGB[color], RGB[other])))


def sample_styles(n: int, seed: int) -> list[Garment]:
    """The first ``n`` styles of the endless list that ``seed`` stands for, ids s00000, s00001, ...

    A longer list starts with the shorter one, except that a variant group cut to one member by ``n`` is no group.
    """
    styles: list[Garment] = []
    group = 0
    while len(styles) < n:
        styles += _sample_group(np.random.default_rng([seed, 0, group]), len(styles), n, f"v{group:05d}")
        group += 1
    return styles


def _sample_group(rng: np.random.Generator, first: int, end: int, name: str) -> list[Garment]:
    """One design in one color or, now and then, in several."""
    category = str(rng.choice(ATTRIBUTES["category"]))
    values = {"category": category, "color": "", "pattern": str(rng.choice(ATTRIBUTES["pattern"], p=_PATTERN_ODDS))}
    for attribute, choices in zip(("sleeve", "neckline", "length"), COMBINATIONS[category], strict=True):
        values[attribute] = str(rng.choice(choices)) if choices else ""
    cut = _sample_cut(rng, category, values["pattern"])
    colors = [c for c in ATTRIBUTES["color"] if contrast(c, cut.second) > _VISIBLE_CONTRAST]
    wanted = int(rng.integers(2, 5)) if rng.random() < _VARIANT_GROUP_ODDS else 1
    chosen = rng.permutation(colors)[: min(wanted, end - first)]
    group = name if len(chosen) > 1 else ""
    return [Garment(f"s{first + i:05d}", group, {**values, "color": str(color)}, cut) for i, color in enumerate(chosen)]


def _sample_cut(rng: np.random.Generator, category: str, pattern: str) -> Cut:
    # White and black are what most prints and trims are made of; other second colors are rarer.
    second = str(rng.choice(ATTRIBUTES["color"] if rng.random() < 0.45 else ("white", "white", "black")))
    printed = category in ("t-shirt", "sweater") and pattern == "plain" and rng.random() < 0.4
    return Cut(
        width=rng.uniform(0.92, 1.12),
        fit=rng.uniform(0.80, 1.0),
        flare=rng.uniform(0.0, 1.0),
        sleeve=rng.uniform(0.85, 1.2),
        cuff=rng.uniform(0.5, 0.75) if rng.random() < 0.8 else rng.uniform(0.95, 1.25),
        hem=int(rng.choice(3, p=(0.6, 0.25, 0.15))),
        pocket=int(rng.integers(3)),
        closure=int(rng.choice((0, 3, 4, 5, 6), p=(0.4, 0.15, 0.15, 0.15, 0.15))),
        trim=bool(rng.random() < 0.25),
        emblem=int(rng.integers(1, 5)) if printed else 0,
        emblem_x=float(rng.choice((0.0, 0.0, 0.38, -0.38))),
        emblem_y=rng.uniform(1.0, 1.35),
        texture=int(rng.integers(3)),
        period=rng.uniform(0.75, 1.35),
        duty=rng.uniform(0.75, 1.25),
        motif=int(rng.integers(3)),
        second=second,
        tint=(rng.uniform(0.95, 1.04), rng.uniform(0.95, 1.04), rng.uniform(0.95, 1.04)),
    )
