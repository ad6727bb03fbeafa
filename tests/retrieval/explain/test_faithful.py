"""The tests of heat maps, tested: of a network that looks at one place a right map is told from a wrong one."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.explain import faithful
from retrieval.explain.places import Box, inside

SIZE, AREA = 40, Box(5, 0, 35, 40)
TRUE, FALSE = Box(10, 6, 18, 16), Box(20, 26, 28, 36)


def photos(count: int = 4) -> np.ndarray:
    """A bright patch at TRUE on noise."""
    pixels = np.random.default_rng(0).integers(0, 40, (count, SIZE, SIZE, 3), dtype=np.uint8)
    for photo in pixels:
        photo[inside(TRUE)] = 250
    return pixels


def ask(pixels: np.ndarray) -> np.ndarray:
    """A network that sees the brightness at TRUE, and nothing else."""
    level = pixels[:, int(TRUE.top) : int(TRUE.bottom), int(TRUE.left) : int(TRUE.right)].mean((1, 2, 3)) / 255
    return np.clip(level.astype(np.float64), 0.01, 0.99)


def heat_at(box: Box, count: int = 4) -> np.ndarray:
    heat = np.random.default_rng(1).random((count, SIZE, SIZE)).astype(np.float32) * 0.1
    heat[:, int(box.top) : int(box.bottom), int(box.left) : int(box.right)] += 1
    return heat


def test_hiding_the_true_box_raises_the_loss_and_another_does_not() -> None:
    pixels = photos()
    right = faithful.rises(ask, pixels, [TRUE] * 4, ask(pixels))
    assert (right > 0.5).all()
    np.testing.assert_allclose(faithful.rises(ask, pixels, [FALSE] * 4, ask(pixels)), 0)
    rand = faithful.random_rises(ask, pixels, [TRUE] * 4, [AREA] * 4, ask(pixels))
    assert (right > 3 * rand).all()
    hidden = faithful.hide(pixels, [TRUE] * 4)
    assert (hidden[0][inside(TRUE)] == faithful.GRAY).all()
    assert (hidden != pixels).any(axis=3).sum() == 4 * TRUE.area
    assert (pixels == photos()).all()  # the photos themselves stay


def test_random_and_centre_boxes_keep_their_size_and_stay_in_the_photo() -> None:
    rng = np.random.default_rng(0)
    boxes = [faithful.random_box(TRUE, AREA, rng) for _ in range(200)]
    for box in (*boxes, faithful.centre_box(TRUE, AREA)):
        assert (box.right - box.left, box.bottom - box.top) == (8, 10)
        assert AREA.left <= box.left
        assert AREA.top <= box.top
        assert box.right <= AREA.right
        assert box.bottom <= AREA.bottom
    assert {box.left for box in boxes} == set(range(5, 28))
    assert faithful.centre_box(TRUE, AREA) == Box(16, 15, 24, 25)
    assert faithful.random_box(AREA, AREA, rng) == AREA


def test_deletion_and_insertion_tell_right_from_wrong() -> None:
    pixels, areas = photos(), [AREA] * 4
    curves = {
        name: f(ask, pixels, heat_at(TRUE), areas)
        for name, f in (("del", faithful.deletion), ("ins", faithful.insertion))
    }
    for name, curve in curves.items():
        assert curve.shape == (4, 21)
        whole, none = (0, -1) if name == "del" else (-1, 0)
        np.testing.assert_allclose(curve[:, whole], ask(pixels))
        assert (curve[:, none] < curve[:, whole] - 0.3).all()
    wrong = heat_at(FALSE)
    assert (faithful.under(curves["del"]) < faithful.under(faithful.deletion(ask, pixels, wrong, areas)) - 0.2).all()
    assert (faithful.under(curves["ins"]) > faithful.under(faithful.insertion(ask, pixels, wrong, areas)) + 0.2).all()


def test_the_area_under_a_curve() -> None:
    np.testing.assert_allclose(
        faithful.under(np.array([[1.0, 1.0, 1.0], [1.0, 0.5, 0.0], [0.0, 0.0, 1.0]])), [1, 0.5, 0.25]
    )


@pytest.mark.parametrize(("point", "hit"), [((10, 6), True), ((17, 15), True), ((20, 15), True), ((21, 15), False)])
def test_the_pointing_game_forgives_so_many_pixels(point: tuple[int, int], hit: bool) -> None:
    region = np.zeros((SIZE, SIZE), bool)
    region[inside(TRUE)] = True
    assert faithful.points_at(point, region, 3) is hit
    assert not faithful.points_at(None, region, 3)
    assert not faithful.points_at(point, np.zeros_like(region), 3)
