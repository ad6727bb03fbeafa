"""Small colored photos that a network can learn in a few steps; one thread, so that sums come out alike."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from retrieval.config import Config, parse
from retrieval.datasets.records import Photo

COLORS = {"red": (200, 40, 40), "blue": (40, 60, 210), "gray": (120, 120, 120)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def colored(n: int, size: int = 32) -> list[Photo]:
    """n photos, two of each style: a wide or a tall block of one color on white, with noise of its own."""
    rng = np.random.default_rng(0)
    photos = []
    for i in range(n):
        style = i // 2
        color, cut = list(COLORS)[style % 3], ("wide", "tall")[style // 3 % 2]
        pixels = np.full((size, size, 3), 255, np.uint8)
        low, high = size // 8, size - size // 8
        inner = (slice(size // 3, size - size // 3), slice(low, high))
        pixels[inner if cut == "wide" else inner[::-1]] = COLORS[color]
        pixels = (pixels - rng.integers(0, 30, pixels.shape)).clip(0, 255).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        photos.append(Photo(f"p{i:03}", "", out.getvalue(), {"color": color, "cut": cut, "group": f"g{style}"}))
    return photos


def settings(model: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **training: Any) -> Config:
    """The smallest config that trains; the color is carried by color."""
    return parse(
        {
            "name": "tiny",
            "model": {
                "backbone": "regnet_tiny",
                "last_stride": 1,
                "input_size": 32,
                "branches": 2,
                "branch_dim": 4,
                "attributes": {"cut": {"dim": 4}, "color": {"dim": 6, "color": True}},
            }
            | (model or {}),
            "training": {"steps": 6, "pairs": 4} | training,
            "data": {"style": "group", "holdout": 0.2} | (data or {}),
        },
        "test",
    )


@pytest.fixture(name="colored")
def _colored() -> Any:
    return colored


@pytest.fixture(name="settings")
def _settings() -> Any:
    return settings
