"""Pictures that the photo tests make."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

RED, GREEN, BLUE, YELLOW = (220, 30, 40), (30, 160, 60), (40, 60, 200), (230, 210, 40)


def quarters(width: int = 48, height: int = 64) -> Image.Image:
    """Four colours, one a quarter: every rotation and flip shows."""
    pixels = np.empty((height, width, 3), np.uint8)
    y, x = height // 2, width // 2
    pixels[:y, :x], pixels[:y, x:], pixels[y:, :x], pixels[y:, x:] = RED, GREEN, BLUE, YELLOW
    return Image.fromarray(pixels)


def smooth(width: int, height: int) -> Image.Image:
    """A picture with detail at every scale down to a few pixels, as photos have."""
    rng = np.random.default_rng(width * height)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (n * height // width + 1, n, 3), dtype=np.uint8)).resize(
                (width, height), Image.Resampling.BICUBIC
            ),
            np.float32,
        )
        for n in (4, 16, width // 6)
    ]
    return Image.fromarray(np.average(layers, axis=0, weights=[4, 2, 1]).astype(np.uint8))


def encode(image: Image.Image, format_: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format_, **options)
    return out.getvalue()
