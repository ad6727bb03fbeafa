"""What surrounds a garment in a photo: shop and phone backgrounds, things in the way, and the camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

# (3, height, width), 0..255: planes, because numpy is several times slower over an innermost axis of three
Canvas = NDArray[np.float32]
Size = tuple[int, int]  # width, height
# glibc maps every block of a canvas's size afresh, page by page, until it has seen a larger one freed: a tenth of the
# drawing. Elsewhere, and where it has, this does nothing.
np.empty(1 << 24, np.uint8)
_Color = tuple[int, int, int]


def shop_background(size: Size, rng: np.random.Generator) -> Canvas:
    """A light, almost even studio backdrop."""
    width, height = size
    shade = np.array(
        ((255, 255, 255), (250, 250, 250), (244, 243, 241), (238, 241, 245), (246, 240, 234))[rng.integers(5)],
        dtype=np.float32,
    )
    fall = np.linspace(0, -float(rng.uniform(2, 18)), height, dtype=np.float32)[:, None]
    side = np.linspace(-1, 1, width, dtype=np.float32) * np.float32(rng.uniform(-4, 4))
    return shade[:, None, None] + (fall + side)


def to_canvas(image: Image.Image) -> Canvas:
    return np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")


def to_image(canvas: Canvas) -> Image.Image:
    """Clips to 0..255 in place."""
    planes = np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)
    return Image.merge("RGB", [Image.fromarray(plane) for plane in planes])


def _cloud(size: Size, grid: Size, rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise (height, width), about -1 to 1, with ``grid`` bumps."""
    coarse = rng.integers(0, 256, (grid[1], grid[0]), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32) * np.float32(1 / 127.5) - 1


def _tone(rng: np.random.Generator, low: int, high: int, spread: int) -> _Color:
    """A muted color: one brightness, channels at most ``spread`` apart."""
    level = int(rng.integers(low, high))
    r, g, b = (min(max(level + d, 0), 255) for d in rng.integers(-spread, spread + 1, 3).tolist())
    return r, g, b


def _grid(size: Size, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coordinates along and across a random direction, each (height, width), in pixels."""
    angle = float(rng.uniform(-0.6, 0.6)) + (np.pi / 2) * int(rng.integers(2))
    x = np.arange(size[0], dtype=np.float32)[None, :]
    y = np.arange(size[1], dtype=np.float32)[:, None]
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * c + y * s, y * c - x * s


def _bed(size: Size, rng: np.random.Generator) -> Canvas:
    base = np.array(_tone(rng, 130, 235, 22), np.float32)
    u, v = _grid(size, rng)
    bump = _cloud(size, (5, 7), rng)
    wrinkle = np.sin(u * np.float32(0.18) + bump * 4) * np.abs(np.sin(v * np.float32(0.10) + bump * 3))
    shade = 14 * bump + 11 * wrinkle
    if rng.random() < 0.35:  # striped bedding
        shade = shade + 22 * (np.sin(v * np.float32(rng.uniform(0.4, 0.9)) + bump) > 0.3)
    return base[:, None, None] + shade


def _floor(size: Size, rng: np.random.Generator) -> Canvas:
    base = np.array(((168, 124, 82), (130, 90, 58), (190, 160, 124), (104, 84, 70))[rng.integers(4)], np.float32)
    u, v = _grid(size, rng)
    plank = np.floor(v / np.float32(rng.uniform(8, 15)))
    tones = rng.uniform(-16, 16, 97).astype(np.float32)
    shade = tones[plank.astype(np.int64) % 97]
    edge = np.abs(np.diff(plank, axis=0, prepend=plank[:1])) + np.abs(np.diff(plank, axis=1, prepend=plank[:, :1]))
    grain = np.sin(u * np.float32(0.1) + v * np.float32(2.0) + 5 * _cloud(size, (6, 6), rng))
    return base[:, None, None] + (shade - 34 * np.minimum(edge, 1) + 5 * grain)


def _carpet(size: Size, rng: np.random.Generator) -> Canvas:
    base = np.array(_tone(rng, 70, 200, 26), np.float32)
    return base[:, None, None] + 9 * _cloud(size, (size[0], size[1]), rng) + 12 * _cloud(size, (4, 5), rng)


def _room(size: Size, rng: np.random.Generator) -> Canvas:
    width, height = size
    image = Image.new("RGB", size, _tone(rng, 150, 230, 20))
    draw = ImageDraw.Draw(image)
    ground = int(height * rng.uniform(0.68, 0.9))
    draw.rectangle((0, ground, width, height), fill=_tone(rng, 80, 170, 26))
    draw.rectangle((0, ground - 3, width, ground), fill=_tone(rng, 200, 245, 6))
    left = int(rng.integers(-width // 3, width))
    draw.rectangle(
        (left, int(height * rng.uniform(0, 0.5)), left + width // 2, ground + 4), fill=_tone(rng, 60, 200, 35)
    )
    return to_canvas(image) + 8 * _cloud(size, (3, 4), rng)


def phone_background(size: Size, rng: np.random.Generator) -> Canvas:
    """A bed, a floor, a carpet or a room, with things lying about."""
    # At half size: what lies behind the garment is out of focus anyway.
    half = (size[0] // 2 + 1, size[1] // 2 + 1)
    image = to_image((_bed, _floor, _carpet, _room)[rng.integers(4)](half, rng))
    for _ in range(int(rng.integers(2, 6))):
        x, y = _border_point(half, rng)
        _thing(image, x, y, float(rng.uniform(0.10, 0.30)) * half[0], rng)
    image = _soften(image, 0.5)
    # Doubled with its steps smoothed away, by hand: a third of the cost of Pillow's bilinear resize.
    rows = (to_canvas(image) * np.float32(0.25)).repeat(2, axis=1)
    tall = (rows[:, 1:] + rows[:, :-1]).repeat(2, axis=2)
    canvas: Canvas = tall[:, : size[1], 1 : size[0] + 1] + tall[:, : size[1], : size[0]]
    return canvas


def _border_point(size: Size, rng: np.random.Generator) -> tuple[float, float]:
    """A place near the frame's edge."""
    along, across = rng.random(), rng.uniform(-0.05, 0.18)
    if rng.random() < 0.5:
        across = 1 - across
    fx, fy = (along, across) if rng.random() < 0.4 else (across, along)
    return fx * size[0], fy * size[1]


def _thing(image: Image.Image, x: float, y: float, size: float, rng: np.random.Generator) -> None:
    """A book, a ball, a strap: an object in one strong or muted color, with its shadow."""
    color = _tone(rng, 40, 220, 80)
    dark: _Color = (color[0] * 5 // 8, color[1] * 5 // 8, color[2] * 5 // 8)
    draw = ImageDraw.Draw(image)
    kind = rng.integers(3)
    angle = rng.uniform(0, np.pi)
    c, s = np.cos(angle), np.sin(angle)
    if kind == 0:
        box = (x - size / 2, y - size / 2, x + size / 2, y + size * 0.4)
        draw.ellipse((box[0] + 2, box[1] + 3, box[2] + 2, box[3] + 3), fill=(50, 46, 44))
        draw.ellipse(box, fill=color, outline=dark)
        return
    long, wide = size * (0.7 if kind == 1 else 1.3), size * (0.5 if kind == 1 else 0.12)
    corners = np.array([(-long, -wide), (long, -wide), (long, wide), (-long, wide)])
    points = corners @ np.array([[c, s], [-s, c]]) + (x, y)
    draw.polygon((points + (2, 3)).ravel().tolist(), fill=(50, 46, 44))
    draw.polygon(points.ravel().tolist(), fill=color, outline=dark)
    if kind == 1:  # a label or a title
        inner = (corners * 0.55) @ np.array([[c, s], [-s, c]]) + (x, y)
        draw.polygon(inner.ravel().tolist(), outline=dark)


def drop_shadow(canvas: Canvas, silhouette: Image.Image, shift: tuple[float, float], depth: float) -> None:
    """Darkens ``canvas`` in place where the garment keeps the light away; ``silhouette`` is a small L image."""
    size = (canvas.shape[2], canvas.shape[1])
    large = silhouette.filter(ImageFilter.BoxBlur(1)).resize(size, Image.Resampling.BILINEAR)
    moved = ImageChops.offset(large, round(shift[0]), round(shift[1]))
    canvas *= 1 - np.asarray(moved, np.float32) * np.float32(depth / 255)


def _light(size: Size, gain: float, slope: NDArray[np.float64]) -> NDArray[np.float32]:
    """Brightness (height, width) that changes by ``slope`` from the middle to the right and to the lower edge."""
    across = np.linspace(gain - slope[0], gain + slope[0], size[0], dtype=np.float32)
    return across + np.linspace(-slope[1], slope[1], size[1], dtype=np.float32)[:, None]


def shop_camera(canvas: Canvas, rng: np.random.Generator) -> Image.Image:
    """Almost even light; the finished RGB photo. Uses ``canvas`` up."""
    canvas *= _light((canvas.shape[2], canvas.shape[1]), rng.uniform(0.96, 1.03), rng.uniform(-0.03, 0.03, 2))
    return to_image(canvas)


def phone_camera(canvas: Canvas, box: tuple[int, int, int, int], rng: np.random.Generator) -> Image.Image:
    """Light from one side, a color cast, noise, blur, and every other time something in front of the garment's edge,
    whose box is x, y, w, h; the finished RGB photo. Uses ``canvas`` up."""
    size = (canvas.shape[2], canvas.shape[1])
    canvas *= _light(size, rng.uniform(0.82, 1.10), rng.uniform(-0.16, 0.16, 2))
    canvas *= rng.uniform(0.90, 1.10, 3).astype(np.float32)[:, None, None]
    canvas += np.frombuffer(rng.bytes(size[0] * size[1]), np.int8).reshape(canvas.shape[1:]) * np.float32(
        rng.uniform(0.03, 0.13)
    )
    image = to_image(canvas)
    if rng.random() < 0.5:
        x, y, w, h = box
        angle = rng.uniform(0, 2 * np.pi)
        at = x + w * (0.5 + 0.5 * np.cos(angle)), y + h * (0.5 + 0.5 * np.sin(angle))
        _thing(image, *at, float(rng.uniform(0.16, 0.30)) * size[0], rng)
    if rng.random() < 0.7:
        image = _soften(image, float(rng.uniform(0.1, 0.5)))
    return image


def _soften(image: Image.Image, share: float) -> Image.Image:
    """Every pixel mixed with its neighbours to the left and above, a tenth of the cost of Pillow's blurs; the outermost
    row and column take from the opposite edge.
    """
    for step in ((1, 0), (0, 1)):
        image = Image.blend(image, ImageChops.offset(image, *step), share)
    return image
