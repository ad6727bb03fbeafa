"""Places: the letterbox as photos.letterbox makes it, components as a flood fill finds them, boxes, ROI pooling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from retrieval.explain import places
from retrieval.explain.places import Box
from retrieval.photos import letterbox


@pytest.mark.parametrize("size", [(120, 160), (160, 120), (64, 64), (7, 301), (301, 7), (1, 1000), (33, 32)])
@pytest.mark.parametrize("side", [32, 80])
def test_the_area_is_where_the_letterbox_puts_the_photo(size: tuple[int, int], side: int) -> None:
    white = letterbox(np.full((size[1], size[0], 3), 255, np.uint8), side)[..., 0] > 0
    area = places.area_of(*size, side)
    assert places.box_of(white) == area
    assert white[places.inside(area)].all()
    assert places.to_photo(area, area, *size) == (0, 0, *size)


def flooded(hot: np.ndarray) -> list[set[tuple[int, int]]]:
    """Components by flood fill, one pixel after another."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(hot), strict=True)}
    found = []
    while left:
        todo, part = [left.pop()], set()
        while todo:
            y, x = todo.pop()
            part.add((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            todo += near
        found.append(part)
    return found


def test_components_are_those_of_a_flood_fill() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.2, 0.4, 0.7, 1.0):
        hot = rng.random((3, 13, 17)) < share
        numbers = places.components(hot)
        for each, mask in zip(numbers, hot, strict=True):
            assert ((each > 0) == mask).all()
            parts = [
                {(int(y), int(x)) for y, x in zip(*np.nonzero(each == n), strict=True)} for n in np.unique(each[mask])
            ]
            assert sorted(map(sorted, parts)) == sorted(map(sorted, flooded(mask)))


def test_the_box_is_around_the_largest_component() -> None:
    heat = np.zeros((20, 30), np.float32)
    heat[2:4, 3:5] = 1.0  # the hottest, but small
    heat[10:15, 20:28] = 0.6
    heat[16, 0:19] = 0.4  # below half
    assert places.largest_box(heat) == Box(20, 10, 28, 15)
    assert places.largest_box(heat, 0.9) == Box(3, 2, 5, 4)
    assert places.peak_of(heat) == (3, 2)
    assert places.largest_box(np.zeros((4, 4), np.float32)) is None
    assert places.peak_of(np.zeros((4, 4), np.float32)) is None


def test_overlap() -> None:
    assert places.overlap(Box(0, 0, 10, 10), Box(5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert places.overlap(Box(0, 0, 10, 10), Box(0, 0, 10, 10)) == 1
    assert places.overlap(Box(0, 0, 10, 10), Box(10, 0, 20, 10)) == 0


def test_pooling_reads_the_cells_under_the_box() -> None:
    """On a map that counts its own columns and rows the pooled cells say where they were read."""
    stride, cells = 8, 16
    across = torch.arange(cells, dtype=torch.float32).expand(cells, cells)
    features = torch.stack((across, across.T))[None].expand(2, 2, cells, cells)
    boxes = [Box(16, 32, 72, 88), Box(8, 8, 120, 64)]
    got = places.pooled(features, boxes, stride)
    assert got.shape == (2, 2, 7, 7)
    for box, each in zip(boxes, got, strict=True):
        x = box.left + (np.arange(7) + 0.5) * (box.right - box.left) / 7 - 0.5  # pixel at the middle of each cell
        y = box.top + (np.arange(7) + 0.5) * (box.bottom - box.top) / 7 - 0.5
        np.testing.assert_allclose(each[0], np.tile(x / stride, (7, 1)), atol=1e-4)
        np.testing.assert_allclose(each[1], np.tile(y / stride, (7, 1)).T, atol=1e-4)
