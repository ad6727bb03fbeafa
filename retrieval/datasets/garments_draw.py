"""Photos of garments: pose, cloth and light for the outlines of ``garments_shape``, in front of a scene."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from retrieval.datasets import garments_cloth as cloth
from retrieval.datasets import garments_scene as scene
from retrieval.datasets.garments_lines import Layer, Points
from retrieval.datasets.garments_shape import layers
from retrieval.datasets.garments_style import RGB, Garment

SIZE = (120, 160)  # width, height in pixels
DOMAINS = ("shop", "phone")
_OVERSAMPLING = 2  # outlines are drawn this much larger; cloth is smooth by itself
_FILLS = {"metal": (150, 152, 158), "pale": (232, 226, 214)}
_LUMINANCE = np.array((0.299, 0.587, 0.114), np.float32)

Box = tuple[int, int, int, int]  # x, y, width, height in pixels


class Drawn(NamedTuple):
    """A photo and where its parts are.

    ``parts`` has the keys "garment", "body", "sleeve" (left and right, or none), "neckline" (one or none) and "hem"
    (the lowest seventh of the body). Boxes lie within the frame; what a phone photo's clutter covers counts as present.
    """

    image: Image.Image
    parts: dict[str, tuple[Box, ...]]


class Pose(NamedTuple):
    """Garment units -> pixels: turned, sheared, scaled, shifted, seen slightly from below or above, and rumpled."""

    matrix: NDArray[np.float64]  # (2, 2), of row vectors
    shift: NDArray[np.float64]  # (2,)
    keystone: float
    rumple: NDArray[np.float64]  # amplitude x, y and phase x, y

    def place(self, points: Points) -> Points:
        ax, ay, px, py = self.rumple
        x, y = points[:, 0], points[:, 1]
        moved = np.stack(
            [x * (1 + self.keystone * y) + ax * np.sin(1.9 * y + px), y + ay * np.sin(2.3 * x + py)], axis=1
        )
        return moved @ self.matrix + self.shift


class Scene(NamedTuple):
    """A photo with all that it was drawn from: layers in pixels, back to front, and the pose that put them there."""

    image: Image.Image
    stack: list[Layer]
    bounds: list[tuple[Points, Points]]  # the lowest and the highest x, y of each layer
    pose: Pose


def draw(garment: Garment, rng: np.random.Generator, domain: str = "shop", size: tuple[int, int] = SIZE) -> Image.Image:
    """One photo (RGB, ``size`` = width, height) of ``garment``; all that varies between photos comes from ``rng``."""
    return draw_scene(garment, rng, domain, size).image


def draw_parts(garment: Garment, rng: np.random.Generator, domain: str = "shop", size: tuple[int, int] = SIZE) -> Drawn:
    """The same photo as ``draw`` from the same ``rng``, with the true boxes of its parts."""
    drawn = draw_scene(garment, rng, domain, size)
    return Drawn(drawn.image, _boxes(drawn.stack, drawn.bounds, size))


def draw_scene(garment: Garment, rng: np.random.Generator, domain: str = "shop", size: tuple[int, int] = SIZE) -> Scene:
    """The same photo as ``draw`` from the same ``rng``, with its layers."""
    if domain not in DOMAINS:
        raise ValueError(f"domain is {domain!r}, not one of {', '.join(DOMAINS)}")
    phone = domain == "phone"
    stack, bounds, pose = _arrange(layers(garment, rng), rng, phone, size)
    canvas = (scene.phone_background if phone else scene.shop_background)(size, rng)

    silhouette = Image.new("L", (size[0] // 4, size[1] // 4))
    brush = ImageDraw.Draw(silhouette)
    for layer in stack:
        if layer.part != "detail":
            for outline in layer.outlines:
                brush.polygon((outline / 4).ravel().tolist(), fill=255)
    toward = rng.uniform(-1, 1)
    depth = rng.uniform(0.35, 0.6) if phone else rng.uniform(0.12, 0.3)
    scene.drop_shadow(canvas, silhouette, (-3 * toward, rng.uniform(1.5, 4.0)), depth)
    strength = 0.10 if phone else 0.075
    for layer, (low, high) in zip(stack, bounds, strict=True):
        _paint(canvas, garment, layer, _box(low, high, size), pose, toward, strength, rng)

    if not phone:
        return Scene(scene.shop_camera(canvas, rng), stack, bounds, pose)
    whole = _boxes(stack, bounds, size)["garment"][0]
    return Scene(scene.phone_camera(canvas, whole, rng), stack, bounds, pose)


def _arrange(
    stack: list[Layer], rng: np.random.Generator, phone: bool, size: tuple[int, int]
) -> tuple[list[Layer], list[tuple[Points, Points]], Pose]:
    """Turns the garment a little and fits it into the frame: the layers with their lines in pixels, the lowest and the
    highest x, y of each layer, and the pose. All points at once: numpy's calls cost more than its arithmetic here.
    """
    angle = rng.normal(0, 0.16) if phone else rng.normal(0, 0.02)
    shear = rng.normal(0, 0.06 if phone else 0.015)
    stretch = rng.uniform(0.94, 1.06)
    c, s = math.cos(angle), math.sin(angle)
    matrix = np.array([[stretch, 0.0], [shear, 1.0]]) @ np.array([[c, s], [-s, c]])
    amplitude = rng.uniform(0, 0.05 if phone else 0.03, 2)
    rumple = np.concatenate([amplitude, rng.uniform(0, 2 * np.pi, 2)])
    pose = Pose(matrix, np.zeros(2), rng.normal(0, 0.03) if phone else rng.normal(0, 0.008), rumple)

    lines = [outline for layer in stack for outline in layer.outlines]
    drawn = len(lines)
    lines += [seam for layer in stack for seam, _ in layer.seams]
    lines.append(np.array([layer.origin for layer in stack]))
    starts = np.cumsum([0, *map(len, lines)])
    points = pose.place(np.concatenate(lines))
    first = np.cumsum([0, *(len(layer.outlines) for layer in stack)])[:-1]
    lows = np.minimum.reduceat(points[: starts[drawn]], starts[first])
    highs = np.maximum.reduceat(points[: starts[drawn]], starts[first])

    low, high = lows.min(0), highs.max(0)
    room = np.array(size) * (rng.uniform(0.74, 0.95) if phone else rng.uniform(0.84, 0.94))
    # A cropped top shall not be blown up to the size of a long one: a unit is never larger than this.
    scale = min(float((room / (high - low)).min()), size[0] / 3.1)
    slack = (np.array(size) - scale * (high - low)) / 2
    wander = slack * rng.uniform(-1, 1, 2) * (0.8 if phone else 0.25)
    shift = np.array(size) / 2 + wander - scale * (low + high) / 2
    pose = pose._replace(matrix=matrix * scale, shift=shift)

    moved = np.split(points * scale + shift, starts[1:-1])
    outlines, seams, origins = iter(moved[:drawn]), iter(moved[drawn:-1]), iter(moved[-1])
    placed = [
        layer._replace(
            outlines=[next(outlines) for _ in layer.outlines],
            seams=[(next(seams), width) for _, width in layer.seams],
            origin=next(origins),
        )
        for layer in stack
    ]
    return placed, list(zip(lows * scale + shift, highs * scale + shift, strict=True)), pose


def _boxes(
    stack: list[Layer], bounds: list[tuple[Points, Points]], size: tuple[int, int]
) -> dict[str, tuple[Box, ...]]:
    corners = np.array(bounds)  # (layers, 2, 2): low and high, x and y
    kinds = [layer.part for layer in stack]

    def joined(kind: str) -> Box:
        of_kind = corners[[k == kind for k in kinds]] if kind else corners
        return _box(of_kind[:, 0].min(0), of_kind[:, 1].max(0), size)

    body = np.concatenate([outline for layer in stack if layer.part == "body" for outline in layer.outlines])
    top, bottom = body[:, 1].min(), body[:, 1].max()
    seventh = bottom - (bottom - top) / 7
    edge = body[body[:, 1] >= seventh]
    return {
        "garment": (joined(""),),
        "body": (joined("body"),),
        "sleeve": tuple(
            _box(low, high, size) for kind, (low, high) in zip(kinds, bounds, strict=True) if kind == "sleeve"
        ),
        "neckline": (joined("neckline"),) if "neckline" in kinds else (),
        "hem": (_box(np.array([edge[:, 0].min(), seventh]), edge.max(0), size),),
    }


def _box(low: Points, high: Points, size: tuple[int, int]) -> Box:
    """The pixels from ``low`` to ``high`` (x, y each), within the frame."""
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    x0, x1 = (min(max(v, 0), size[0]) for v in (math.floor(left), math.ceil(right)))
    y0, y1 = (min(max(v, 0), size[1]) for v in (math.floor(top), math.ceil(bottom)))
    return x0, y0, x1 - x0, y1 - y0


def _paint(
    canvas: scene.Canvas,
    garment: Garment,
    layer: Layer,
    box: Box,
    pose: Pose,
    toward: float,
    strength: float,
    rng: np.random.Generator,
) -> None:
    """Lays one layer, which spans ``box``, over ``canvas`` in place: cloth, seams and dark edges."""
    x0, y0, x1, y1 = box[0], box[1], box[0] + box[2], box[1] + box[3]
    if x0 == x1 or y0 == y1:
        return
    scale = math.sqrt(abs(pose.matrix[0, 0] * pose.matrix[1, 1] - pose.matrix[0, 1] * pose.matrix[1, 0]))
    alpha, ink = _masks(layer, (x0, y0, x1, y1), scale)
    window = canvas[:, y0:y1, x0:x1]
    color = _cloth(garment, layer, pose, (x0, y0, x1, y1), scale, toward, strength, ink, rng)
    color -= window
    color *= alpha
    window += color


def _masks(layer: Layer, frame: tuple[int, int, int, int], scale: float) -> tuple[cloth.Plane, cloth.Plane]:
    """Coverage of the layer and of its dark lines, each (h, w), 0..1."""
    x0, y0, x1, y1 = frame
    k = _OVERSAMPLING
    width, height = (x1 - x0) * k, (y1 - y0) * k
    both = Image.new("L", (width, 2 * height))  # the lines above, the coverage below: one image costs less than two
    pen = ImageDraw.Draw(both)
    shapes = [((shape - (x0, y0)) * k - 0.5) for shape in layer.outlines]
    for shape in shapes:
        corners = shape.ravel().tolist()
        pen.line([*corners, *corners[:4]], fill=150, width=round(1.3 * k))
    for seam, thickness in layer.seams:
        path = ((seam - (x0, y0)) * k - 0.5).ravel().tolist()
        pen.line(path, fill=125, width=max(2, round(thickness * scale * k)))
    pen.rectangle((0, height, width, 2 * height), fill=0)
    for shape in shapes:
        pen.polygon((shape + (0, height)).ravel().tolist(), fill=255)
    planes = np.asarray(both.reduce(k)) * np.float32(1 / 255)
    return planes[y1 - y0 :], planes[: y1 - y0]


def _base(garment: Garment, layer: Layer) -> NDArray[np.float32]:
    """The layer's main color (3,), before light."""
    cut = garment.cut
    if layer.fill in _FILLS:
        return np.array(_FILLS[layer.fill], np.float32)
    if layer.fill == "second" or (layer.fill == "trim" and cut.trim):
        return np.array(RGB[cut.second], np.float32)
    own = np.array(RGB[garment.attributes["color"]], np.float32) * np.array(cut.tint, np.float32)
    if layer.fill == "lining":
        return own * np.float32(0.55)
    return own * np.float32(0.94) if layer.fill == "trim" else own


def _cloth(
    garment: Garment,
    layer: Layer,
    pose: Pose,
    frame: tuple[int, int, int, int],
    scale: float,
    toward: float,
    strength: float,
    ink: cloth.Plane,
    rng: np.random.Generator,
) -> scene.Canvas:
    """The layer's cloth (3, h, w) over the whole frame: pattern, folds, light, and dark lines where ``ink`` is."""
    x0, y0, x1, y1 = frame
    base = _base(garment, layer)
    if layer.fill in _FILLS or layer.fill == "second":
        return base[:, None, None] * (1 - np.float32(0.48) * ink)
    # Rows: one unit across and one unit along the cloth, in pixels; its inverse takes pixels to cloth coordinates.
    (p, q), (r, t) = np.array([(layer.along[1], -layer.along[0]), layer.along]) @ pose.matrix
    area = p * t - q * r
    x = np.arange(x0, x1, dtype=np.float32) + np.float32(0.5 - layer.origin[0])
    y = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - layer.origin[1])
    a = x * np.float32(t / area) - y * np.float32(r / area)
    b = y * np.float32(p / area) - x * np.float32(q / area)

    cut, pattern = garment.cut, garment.attributes["pattern"]
    u = a * np.float32(1 / layer.half)
    np.clip(u, -1.3, 1.3, out=u)
    shade = np.float32(1.05) + (np.float32(0.07 * toward) - np.float32(0.13) * u) * u
    if layer.fill == "lining":
        shade = shade - np.float32(0.3) * np.exp(-b * b * 4)
    if layer.drape:
        relief = cloth.folds(layer.drape, a, b, layer.reach, rng, strength)
        shade = shade + relief + cloth.knit(garment.attributes["category"], cut.texture, a, b)
        if pattern != "plain":  # it follows the folds
            b = b + relief * np.float32(0.35)
            a = a + relief * np.float32(0.25)
    if layer.ribs:
        shade = shade + np.float32(0.10) * np.sin(a * np.float32(2 * np.pi / layer.ribs))
    color = base[:, None, None]
    if layer.fill == "fabric":
        share = cloth.second_color(pattern, layer.part, a, b, layer.reach, cut, 1 / scale)
        color = color + share * (np.array(RGB[cut.second], np.float32)[:, None, None] - color)
    # Seams are darker than the cloth; on black cloth, where that would not show, they are lighter.
    bright = base @ _LUMINANCE > 62
    shade = shade * (1 - np.float32(0.40) * ink) if bright else shade + np.float32(0.55) * ink
    # Highlights on dark cloth are light of their own color plus some of the lamp's: hence the 40.
    lit = (color + np.float32(40)) * shade
    lit -= np.float32(40)
    return lit
