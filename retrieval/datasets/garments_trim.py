"""What is sewn onto a garment: neck finishes, closures, pockets, prints and waistbands."""

from __future__ import annotations

import numpy as np

from retrieval.datasets.garments_lines import (
    KNITTED,
    NECKS,
    Layer,
    Points,
    band,
    curve,
    disc,
    half_widths,
    line,
    mirror,
)
from retrieval.datasets.garments_style import Garment

_OPEN_FRONT = ("shirt", "cardigan", "jacket", "coat", "vest")


def behind_neck(garment: Garment, front: Points) -> list[Layer]:
    """The inside of the back, seen through the neck's opening, and a hood that hangs behind it."""
    neckline = garment.attributes["neckline"]
    w, d = NECKS[neckline]
    if neckline == "off-shoulder":
        w *= garment.cut.width
        back = curve((w, 0.56), (0, 0.62), (-w, 0.56))
    elif neckline == "turtleneck":
        return [Layer("neckline", "lining", [disc(0, -0.43, 0.31, 16) * (1, 0.24) + (0, -0.33)])]
    elif neckline == "hooded":
        hood = curve(
            (-0.58, 0.34), (-0.68, -0.12), (-0.50, -0.66), (0, -0.90), (0.50, -0.66), (0.68, -0.12), (0.58, 0.34)
        )
        hole = curve(
            (-0.34, 0.30), (-0.43, -0.10), (-0.30, -0.46), (0, -0.60), (0.30, -0.46), (0.43, -0.10), (0.34, 0.30)
        )
        opening = np.concatenate([hole, front[::-1]])
        return [
            Layer(
                "neckline", "fabric", [hood], [(curve((0, -0.6), (0.02, -0.9)), 0.03)], half=0.7, reach=1.2, drape="leg"
            ),
            Layer("neckline", "lining", [opening]),
        ]
    elif neckline == "collar":
        back = curve((w, -0.04), (w * 0.55, -0.17), (-w * 0.55, -0.17), (-w, -0.04))
    else:
        back = curve((w, 0.0), (0, 0.09 if neckline != "lapel" else -0.08), (-w, 0.0))
    return [Layer("neckline", "lining", [np.concatenate([front, back])])]


def neck(garment: Garment, front: Points) -> list[Layer]:
    """What finishes the neckline: rib, collar leaves, lapels, tube, hood edges or a ruffle."""
    a, cut = garment.attributes, garment.cut
    neckline, category = a["neckline"], a["category"]
    w, d = NECKS[neckline]
    if neckline == "turtleneck":
        tube = np.concatenate(
            [
                curve((-0.37, 0.16), (-0.31, 0.0), (-0.31, -0.44)),
                curve((0.31, -0.44), (0.31, 0), (0.37, 0.16), (0, 0.26), (-0.37, 0.16)),
            ]
        )
        fold = curve((-0.31, -0.14), (0, -0.08), (0.31, -0.14))
        return [Layer("neckline", "fabric", [tube], [(fold, 0.05)], half=0.4, ribs=0.09, drape="leg")]
    if neckline == "collar":
        leaf = line((0.0, d), (w * 0.92, -0.17), (w * 1.34, 0.03), (w * 1.42, d * 1.22), (w * 0.95, d * 1.42))
        return [Layer("neckline", "trim" if cut.trim else "fabric", [leaf, mirror(leaf)], drape="")]
    if neckline == "lapel":
        collar = line((w * 0.9, -0.12), (w * 1.35, 0.04), (w * 1.75, 0.36), (w * 1.25, 0.48), (w * 0.55, 0.5))
        lapel = line((0.0, d + 0.04), (w * 0.62, 0.36), (w * 1.2, 0.46), (w * 1.95, 0.52), (w * 1.0, d * 0.82))
        return [
            Layer("neckline", "fabric", [lapel, mirror(lapel)]),
            Layer("neckline", "trim" if cut.trim else "fabric", [collar, mirror(collar)]),
        ]
    if neckline == "hooded":
        edge = curve((0.36, -0.05), (0.60, 0.16), (0.44, 0.50), (0.0, 0.76), (-0.04, 0.50), (0.22, 0.34), (0.36, -0.05))
        cord = line((0.10, 0.62), (0.16, 0.62), (0.15, 1.18), (0.10, 1.18))
        cords = [] if category == "coat" else [Layer("detail", "pale", [cord, mirror(cord)])]
        return [Layer("neckline", "fabric", [mirror(edge), edge], half=0.7), *cords]
    if neckline == "off-shoulder":
        w *= cut.width * 1.04
        x = np.linspace(w, -w, 33)
        frill = 0.62 + 0.36 * (1 - 0.25 * (x / w) ** 2) + 0.035 * np.sin(x * 11)
        gathers = [(line((i, 0.66), (i * 1.06, 0.84)), 0.02) for i in np.linspace(-0.7, 0.7, 8)]
        ruffle = np.concatenate([front * (1.04, 1), np.stack([x, frill], axis=1)])
        return [Layer("neckline", "fabric", [ruffle], gathers, half=1.0, drape="skirt")]
    width = 0.13 if category in (*KNITTED, "t-shirt", "jacket") else 0.06
    path = front
    if category in ("cardigan", "vest") and neckline == "v-neck":  # the band runs on down the front edge
        width = 0.12
    rib = band(path, -width if neckline != "square" else -0.08)
    seam = band(path, -width)[len(path) :]
    plain = not cut.trim and category in ("dress", "jumpsuit", "vest")
    return [Layer("neckline", "fabric" if plain else "trim", [rib], [(seam, 0.02)])]


def front_details(garment: Garment, length: float) -> list[Layer]:
    """Closures, pockets and prints."""
    a, cut = garment.attributes, garment.cut
    category = a["category"]
    chest = half_widths(cut, category)[0]
    top = NECKS[a["neckline"]][1] + (0.3 if category == "cardigan" and a["neckline"] == "v-neck" else 0.0)
    sewn: list[Points] = []  # of the garment's own cloth
    pale: list[Points] = []
    parts: list[Layer] = []
    buttoned = category in ("shirt", "cardigan") or a["neckline"] == "lapel"
    buttoned = buttoned or (category == "vest" and a["neckline"] != "hooded")
    opened = category in _OPEN_FRONT or (category == "hoodie" and cut.closure == 0)
    if opened and category in ("hoodie", "jacket", "coat", "vest") and not buttoned:
        zipper = line((-0.035, top), (0.035, top), (0.035, length), (-0.035, length))
        pull = line((-0.06, top + 0.1), (0.06, top + 0.1), (0.05, top + 0.3), (-0.05, top + 0.3))
        parts.append(Layer("detail", "metal", [zipper, pull]))
    elif opened or (a["neckline"] == "collar" and category in ("t-shirt", "dress", "jumpsuit")):
        polo = not opened
        end = top + 0.75 if polo else length
        strip = line((-0.10, top - 0.05), (0.10, top - 0.05), (0.10, end), (-0.10, end))
        last = end - (0.15 if polo else 0.35 + 0.12 * (length > 3.5) * length)
        first = top + (0.16 if polo else 0.2)
        count = 2 if polo else int(np.clip((last - first) / 0.26 + 1, 1, max(3, cut.closure)))
        rows = np.linspace(first, last, count)
        double = category == "coat" and cut.motif == 0
        columns = (-0.26, 0.26) if double else (0.0,)
        if category == "cardigan":
            parts.append(Layer("detail", "trim", [strip]))
        else:
            sewn.append(strip)
        size = 0.055 if category in ("shirt", "t-shirt", "dress") else 0.085
        pale += [disc(x, float(y), size) for y in rows for x in columns]
    if category == "hoodie" and not opened and length > 1.8:
        pouch = line((-0.34, 1.62), (0.34, 1.62), (0.56, 2.2), (-0.56, 2.2))
        sewn.append(pouch)
    elif category in ("jacket", "coat", "cardigan", "vest") and cut.pocket and length > 1.8:
        y = 1.75 if length < 3 else 2.05
        flap = line((0.28, y), (0.66 * chest / 0.84, y), (0.66 * chest / 0.84, y + 0.16), (0.28, y + 0.16))
        patch = flap if cut.pocket == 1 else flap + [(0, 0), (0, 0), (0, 0.32), (0, 0.32)]
        sewn += [patch, mirror(patch)]
    elif category == "shirt" and cut.pocket:
        pocket = line((0.26, 0.95), (0.62, 0.95), (0.62, 1.32), (0.44, 1.42), (0.26, 1.32))
        sewn += [pocket] if cut.pocket == 1 else [pocket, mirror(pocket)]
    if cut.emblem:
        x, r = cut.emblem_x, 0.14 if cut.emblem_x else 0.34
        y = max(cut.emblem_y, NECKS[a["neckline"]][1] + r + 0.15) if length > 2 or cut.emblem_x else 1.2
        shape = {
            1: [disc(x, y, r, 20)],
            2: [
                line(
                    (x - r * 1.3, y - r * 0.45),
                    (x + r * 1.3, y - r * 0.45),
                    (x + r * 1.3, y + r * 0.45),
                    (x - r * 1.3, y + r * 0.45),
                )
            ],
            3: [disc(x, y, r * 1.15, 3, -np.pi / 2)],
            4: [disc(x, y, r * 0.8, 4, turn) for turn in (0.0, np.pi / 4)],
        }[cut.emblem]
        parts.append(Layer("detail", "second", shape))
    if sewn:
        parts.insert(0, Layer("detail", "fabric", sewn))
    if pale:
        parts.append(Layer("detail", "pale", pale))
    return parts


def waistband(garment: Garment) -> list[Layer]:
    cut = garment.cut
    waist = 0.67 * cut.width
    strip = np.concatenate(
        [curve((-waist, -0.02), (0, 0.03), (waist, -0.02)), curve((waist + 0.03, 0.2), (0, 0.26), (-waist - 0.03, 0.2))]
    )
    fill = "trim" if cut.trim else "fabric"
    if garment.attributes["category"] == "skirt" or cut.closure == 0:
        parts = [Layer("detail", fill, [strip], ribs=0.08 if cut.closure == 0 else 0.0, half=0.8)]
        if garment.attributes["category"] != "skirt":
            cord = line((0.05, 0.2), (0.10, 0.2), (0.16, 0.62), (0.10, 0.62))
            parts.append(Layer("detail", "pale", [cord, mirror(cord)]))
        return parts
    fly = curve((0.13, 0.24), (0.13, 0.8), (0.0, 1.0))
    loops = [line((x - 0.03, -0.03), (x + 0.03, -0.03), (x + 0.03, 0.25), (x - 0.03, 0.25)) for x in (-0.45, 0.45)]
    return [
        Layer("detail", fill, [strip], half=0.8),
        Layer("detail", fill, [band(fly, 0.03), *loops]),
        Layer("detail", "metal", [disc(0.02, 0.12, 0.06)]),
    ]
