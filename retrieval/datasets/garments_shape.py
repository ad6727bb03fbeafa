"""The outline of a garment: flat layers of polygons in garment units, back to front. No pixels here.

Garment units: x to the right from the centre front, y down from the neck, shoulders about 0.9 from the centre, the
natural waist at y = 1.6. Skirts and trousers start at y = 0 with a waist 0.7 from the centre.
"""

from __future__ import annotations

import math

import numpy as np

from retrieval.datasets.garments_lines import KNITTED, NECKS, Layer, Points, band, curve, half_widths, line, mirror
from retrieval.datasets.garments_style import Cut, Garment
from retrieval.datasets.garments_trim import behind_neck, front_details, neck, waistband

# Where the lower edge lies, for every value of the attribute "length" that the kind of garment comes in.
_SLEEVE_LENGTH = {"short": 0.80, "three-quarter": 1.75, "long": 2.65}
_TOP_LENGTH = {"cropped": 1.72, "regular": 2.50, "long": 3.25}
_GOWN_LENGTH = {"mini": 3.05, "knee": 3.9, "midi": 4.75, "maxi": 5.7}
_SKIRT_LENGTH = {"mini": 1.35, "knee": 2.2, "midi": 3.15, "maxi": 4.2}
_LEG_LENGTH = {"cropped": 3.35, "regular": 4.4, "mini": 1.3, "knee": 2.15}
_WAIST = 1.6


def layers(garment: Garment, rng: np.random.Generator) -> list[Layer]:
    """The garment's layers, back to front; ``rng`` swings the arms and legs and settles the hem."""
    category = garment.attributes["category"]
    if category == "skirt":
        return _skirt(garment, rng)
    if category in ("trousers", "shorts"):
        return [*_legs(garment, rng, 0.0, _LEG_LENGTH[garment.attributes["length"]]), *waistband(garment)]
    return _upper(garment, rng)


def _upper(garment: Garment, rng: np.random.Generator) -> list[Layer]:
    a, cut = garment.attributes, garment.cut
    category = a["category"]
    gown, suit = category == "dress", category == "jumpsuit"
    table = _GOWN_LENGTH if gown or category == "coat" else _TOP_LENGTH
    length = _WAIST + 0.04 if suit else table[a["length"]] * (0.92 if category == "coat" else 1.0)
    body, front = _body(garment, length, rng)
    parts = [
        *behind_neck(garment, front),
        *(_sleeve(garment, side, rng) for side in (-1, 1) if a["sleeve"] != "sleeveless"),
        *(_legs(garment, rng, _WAIST - 0.02, _WAIST + _LEG_LENGTH[a["length"]]) if suit else []),
        body,
    ]
    if gown or suit:
        waist = band(curve((-1.0, _WAIST), (0.0, _WAIST + 0.06), (1.0, _WAIST)), -0.14 if cut.closure else -0.06)
        clipped = np.clip(waist, *_waist_limits(cut, category))
        parts.append(Layer("detail", "trim" if cut.trim else "fabric", [clipped]))
    elif category in KNITTED and a["length"] != "long":
        low = body.outlines[0][body.outlines[0][:, 1] > length - 0.35]
        edge = low[np.argsort(low[:, 0])]
        parts.append(Layer("detail", "trim", [np.concatenate([edge, edge[::-1] - (0, 0.24)])], ribs=0.09))
    parts += front_details(garment, length)
    parts += neck(garment, front)
    return parts


def _waist_limits(cut: Cut, category: str) -> tuple[tuple[float, float], tuple[float, float]]:
    half = half_widths(cut, category)[1]
    return (-half, -9.0), (half, 9.0)


def _shoulder(garment: Garment) -> tuple[float, float]:
    chest = half_widths(garment.cut, garment.attributes["category"])[0]
    bare = garment.attributes["sleeve"] == "sleeveless"
    return (chest * (0.80 if bare else 1.03), 0.25)


def _front_neckline(garment: Garment) -> Points:
    """From the neck's left side down to the centre front and up to its right."""
    neckline = garment.attributes["neckline"]
    w, d = NECKS[neckline]
    if neckline in ("v-neck", "lapel"):
        if garment.attributes["category"] == "cardigan":
            d += 0.3
        return line((-w, 0), (-w * 0.45, d * 0.52), (0, d), (w * 0.45, d * 0.52), (w, 0))
    if neckline == "square":
        return line((-w, 0.04), (-w * 0.92, d), (w * 0.92, d), (w, 0.04))
    if neckline == "collar":
        return line((-w, 0), (0, d), (w, 0))
    if neckline == "off-shoulder":
        w *= garment.cut.width
        return curve((-w, 0.56), (-w * 0.5, d * 0.96), (0, d), (w * 0.5, d * 0.96), (w, 0.56))
    return curve(
        (-w, 0),
        (-w * 0.82, d * 0.55),
        (-w * 0.42, d * 0.93),
        (0, d),
        (w * 0.42, d * 0.93),
        (w * 0.82, d * 0.55),
        (w, 0),
    )


def _hem(half: float, y: float, shape: int, waves: int, rng: np.random.Generator) -> Points:
    """From the right side seam to the left one."""
    x = np.linspace(half, -half, 25)
    sag = 0.05 * (1 - (x / half) ** 2)
    if shape == 1 and not waves:  # a shirt tail: deep in the middle, high at the side seams
        sag = 0.20 * (1 - np.abs(x / half) ** 2.5)
    if waves:
        sag = sag + 0.055 * np.sin(x / half * np.pi * waves + rng.uniform(0, 6.28))
    return np.stack([x, y + sag], axis=1)


def _slant(points: Points, half: float, length: float) -> Points:
    """One side seam longer than the other, growing from the waist down."""
    x, y = points.T
    return np.stack([x, y + 0.15 * x / half * np.clip((y - 1.0) / (length - 1.0), 0, 1)], axis=1)


def _body(garment: Garment, length: float, rng: np.random.Generator) -> tuple[Layer, Points]:
    """The torso with, in a dress or coat, all that hangs from it; and its front neckline."""
    a, cut = garment.attributes, garment.cut
    category = a["category"]
    chest, waist, hip = half_widths(cut, category)
    front = _front_neckline(garment)
    sx, sy = _shoulder(garment)
    if a["neckline"] == "off-shoulder":
        arm = line((chest, 0.80))
    elif a["sleeve"] == "sleeveless":
        arm = curve((sx, sy), (sx * 0.92, 0.60), (chest * 0.93, 0.88), (chest, 1.02))
    else:
        arm = curve((sx, sy), (sx * 0.98, 0.62), (chest, 1.0))
    settle = rng.normal(0, 0.025, 3)
    waves = 0
    if category in ("dress", "coat"):
        spread = (0.10 + 0.42 * cut.flare) if category == "dress" else (0.02 + 0.16 * cut.flare)
        hem = hip + spread * (length - _WAIST)
        waves = int(2 + 4 * cut.flare) if category == "dress" else 0
        knots = [(chest, 1.0), (waist + settle[0], _WAIST), (hip * 1.02 + spread * 0.45, 2.3), (hem, length)]
        side = curve(*knots)
    elif length < 1.8:
        hem = waist * (1.0 if category == "jumpsuit" else 1.02)
        side = curve((chest, 1.0), (waist + settle[0], 1.5), (hem, length))
    else:
        hem = hip * (1 + 0.05 * max(0.0, length - 2.5))
        side = curve(
            (chest, 1.0), (waist + settle[0], _WAIST), (hip + settle[1], min(2.3, length - 0.1)), (hem, length)
        )
    shape = 1 if category == "shirt" else (0 if category in (*KNITTED, "jacket", "coat", "jumpsuit") else cut.hem)
    right = np.concatenate([arm, side[1:]])
    outline = np.concatenate([front, right, _hem(hem, length, shape, waves, rng)[1:-1], mirror(right)])
    if shape == 2:
        outline = _slant(outline, hem, length)
    seams: list[tuple[Points, float]] = []
    if a["sleeve"] != "sleeveless" and a["neckline"] != "off-shoulder":
        seams += [(arm, 0.035), (mirror(arm), 0.035)]  # the armholes
    if (category == "t-shirt" or waves) and shape != 2:
        seams.append((_hem(hem, length - 0.12, shape, waves, rng)[1:-1], 0.018))
    if category == "coat" and cut.pocket == 1:
        seams.append((line((-waist * 1.1, _WAIST + 0.05), (waist * 1.1, _WAIST + 0.05)), 0.03))
    drape = "skirt" if waves else "torso"
    return Layer("body", "fabric", [outline], seams, half=max(chest, hip), reach=length, drape=drape), front


def _sleeve(garment: Garment, side: int, rng: np.random.Generator) -> Layer:
    a, cut = garment.attributes, garment.cut
    category = a["category"]
    chest = half_widths(cut, category)[0]
    length = _SLEEVE_LENGTH[a["sleeve"]]
    off = a["neckline"] == "off-shoulder"
    sx, sy = (chest * 0.98, 0.62) if off else _shoulder(garment)
    swing = rng.uniform(16, 30) + (14 if a["sleeve"] == "short" else 0)
    bend = rng.uniform(-14, 4)
    top = 0.5 * (1.02 - sy) * (0.92 + 0.12 * cut.sleeve)
    if a["sleeve"] == "short":
        end = top * min(1.06, 0.55 + 0.45 * cut.cuff * cut.sleeve)
    else:
        end = float(np.clip(top * cut.cuff * cut.sleeve, 0.18, 0.42))
    upper = np.radians(swing)
    lower = np.radians(swing + bend)
    down = np.array([math.sin(upper), math.cos(upper)])
    fore = np.array([math.sin(lower), math.cos(lower)])
    start = np.array([sx - 0.20 + 0.10 * off, 0.5 * (sy + 1.0)])
    elbow = start + down * min(length, 1.4)
    wrist = elbow + fore * max(0.0, length - 1.4)
    out, out_fore = np.array([down[1], -down[0]]), np.array([fore[1], -fore[0]])
    puff = 1.0 + 0.22 * (cut.sleeve > 1.1)
    mid = 0.5 * (top + end) * puff
    outer = curve(
        (chest * 0.55, sy + 0.1),
        (sx, sy),
        tuple(start + down * 0.28 + out * top * 1.04 * puff),
        *([tuple(elbow + out * mid)] if length > 1.5 else []),
        tuple(wrist + (out_fore if length > 1.5 else out) * end),
    )
    inner = curve(
        tuple(wrist - (out_fore if length > 1.5 else out) * end),
        *([tuple(elbow - out * mid * 0.86)] if length > 1.5 else []),
        (chest * 0.97, 1.04),
        (chest * 0.6, 1.0),
    )
    outline = np.concatenate([outer, inner])
    axis = fore if length > 1.5 else down
    across = np.array([axis[1], -axis[0]])
    depth = 0.20 if category in (*KNITTED, "shirt", "jacket", "coat") else 0.11
    cuff = wrist - axis * depth
    wide = end * (1.0 if category not in KNITTED else 0.9)
    seams: list[tuple[Points, float]] = [(np.stack([cuff + across * wide * 1.2, cuff - across * wide * 1.2]), 0.03)]
    if category in KNITTED:  # ribs along the cuff
        for i in (-0.6, -0.2, 0.2, 0.6):
            seams.append((np.stack([cuff + across * end * i, wrist + across * end * i]), 0.02))
    flip = np.array([side, 1.0])
    return Layer(
        "sleeve",
        "fabric",
        [outline * flip],
        [(seam * flip, width) for seam, width in seams],
        origin=(float(start[0] * side), float(start[1])),
        along=(float(down[0] * side), float(down[1])),
        half=top,
        reach=length,
        drape="sleeve",
    )


def _skirt(garment: Garment, rng: np.random.Generator) -> list[Layer]:
    cut = garment.cut
    length = _SKIRT_LENGTH[garment.attributes["length"]]
    waist, hip = 0.66 * cut.width, 0.90 * cut.width
    hem = hip + (0.02 + 0.34 * cut.flare) * (length - 0.6)
    waves = int(6 * cut.flare)
    right = curve((waist, 0.0), (hip * (0.97 + 0.06 * cut.flare), 0.75), (hem, length))
    edge = _hem(hem, length, cut.hem, waves, rng)
    outline = np.concatenate([line((-waist, 0.0)), right, edge[1:-1], mirror(right)[:-1]])
    seams: list[tuple[Points, float]] = [] if cut.hem == 2 else [(edge[1:-1] - (0, 0.12), 0.018)]
    if cut.hem == 2:
        outline = _slant(outline, hem, length)
    if cut.motif == 1:  # pleats
        seams += [(line((i * waist, 0.2), (i * hem, length)), 0.022) for i in np.linspace(-0.8, 0.8, 7)]
    if cut.pocket == 2:
        seams += [(line((i * waist * 0.7, 0.22), (i * hip * 0.95, 0.55)), 0.03) for i in (-1, 1)]
    body = Layer("body", "fabric", [outline], seams, half=0.5 * (hip + hem), reach=length, drape="skirt")
    return [body, *waistband(garment)]


def _legs(garment: Garment, rng: np.random.Generator, top: float, length: float) -> list[Layer]:
    """Two legs from ``top`` down to ``length``, each its own layer so that it is shaded as a tube."""
    cut = garment.cut
    suit = garment.attributes["category"] == "jumpsuit"
    waist = half_widths(cut, "jumpsuit")[1] if suit else 0.66 * cut.width
    hip, crotch = max(0.82 * cut.width, waist * 1.12), top + 1.2
    short = length - top < 2.5
    narrow = 0.44 if short else 0.25
    end = narrow + (0.16 if short else 0.30) * cut.flare**1.5  # half width at the ankle
    parts = []
    for side in (-1, 1):
        spread = rng.uniform(0.46, 0.58) + (0.10 if short else 0.0) + end * 0.25
        ankle = spread + end
        thigh = (crotch + 0.3 - top) / (length - top) if not short else 0.7
        outer = curve(
            (waist, top),
            (hip, top + min(0.6, 0.4 * (length - top))),
            (hip + (ankle - hip) * thigh, top + thigh * (length - top)),
            (ankle, length),
        )
        knee = [(0.5 * (spread - end), 0.5 * (crotch + length))] if not short else []
        inner = curve((max(spread - end, 0.05), length), *knee, (-0.02, crotch))
        outline = np.concatenate([line((-0.02, top)), outer, inner]) * (side, 1)
        seams: list[tuple[Points, float]] = [(line((0.0, length - 0.13), (2.0, length - 0.13)) * (side, 1), 0.02)]
        if cut.motif == 1 and not short:  # pressed crease
            seams.append((line((0.42, top + 0.5), (spread, length)) * (side, 1), 0.02))
        if cut.pocket and not suit:
            seams.append(
                (curve((waist * 0.55, top + 0.2), (waist * 0.75, top + 0.42), (hip, top + 0.52)) * (side, 1), 0.03)
            )
        lean = math.atan2(spread - 0.42, length - top)
        parts.append(
            Layer(
                "body",
                "fabric",
                [outline],
                seams,
                origin=(0.40 * side, top),
                along=(math.sin(lean) * side, math.cos(lean)),
                half=0.52,
                reach=length - top,
                drape="leg",
            )
        )
    return parts
