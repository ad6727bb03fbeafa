"""Augmentation keeps shapes, ranges and what each change promises to keep; a seed repeats it."""

from __future__ import annotations

import ast
import colorsys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import retrieval
from retrieval.training import augment

CHANGES = [augment.move, augment.light, augment.recolor, augment.thesis]
Change = Callable[[Tensor, torch.Generator], Tensor]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 8, size: int = 24) -> Tensor:
    return torch.rand(n, 3, size, size, generator=seeded(99)) * 255


@pytest.mark.parametrize("change", CHANGES)
def test_shape_range_and_input_are_kept(change: Change) -> None:
    photos = torch.cat((pictures(), torch.zeros(1, 3, 24, 24), torch.full((1, 3, 24, 24), 255.0)))
    before = photos.clone()
    for seed in range(10):
        out = change(photos, seeded(seed))
        assert out.shape == photos.shape
        assert out.dtype == torch.float32
        assert torch.isfinite(out).all()
        assert out.min() >= 0
        assert out.max() <= 255.001
    assert torch.equal(photos, before)


@pytest.mark.parametrize("change", CHANGES)
def test_deterministic_in_the_generator_alone(change: Change) -> None:
    photos = pictures()
    torch.manual_seed(1)
    first = change(photos, seeded(3))
    torch.manual_seed(2)
    assert torch.equal(first, change(photos, seeded(3)))
    assert not torch.equal(first, change(photos, seeded(4)))


@pytest.mark.parametrize("change", CHANGES)
def test_every_photo_is_changed_by_its_own_draw(change: Change) -> None:
    one = pictures(1).repeat(6, 1, 1, 1)
    out = change(one, seeded(0))
    for i in range(6):
        for j in range(i):
            assert not torch.allclose(out[i], out[j], atol=0.5)


def test_recolor_keeps_gray_gray_and_the_ends_of_the_scale() -> None:
    ramp = torch.linspace(0, 255, 24).expand(3, 24, 24).repeat(64, 1, 1, 1)
    out = augment.recolor(ramp, seeded(0))
    spread = out.amax(dim=1) - out.amin(dim=1)
    assert spread[:, :, 2:].max() < 1  # within rounding; near black, gamma 0.4 magnifies the matrix's last digits
    assert out[:, :, :, 0].abs().max() < 1
    assert (out[:, :, :, -1] - 255).abs().max() < 1
    assert (out.diff(dim=3) > -0.5).all()  # a tone curve: darker stays darker


def test_recolor_turns_the_hue_all_the_way_round() -> None:
    red = torch.tensor([200.0, 60.0, 60.0]).view(1, 3, 1, 1).expand(400, 3, 2, 2)
    out = augment.recolor(red, seeded(0))[:, :, 0, 0] / 255
    colors = [colorsys.rgb_to_hsv(*pixel) for pixel in out.tolist()]
    hues = np.array([hue for hue, saturation, _ in colors if saturation > 0.1])
    assert (np.histogram(hues, bins=6, range=(0, 1))[0] > 10).all()


def test_light_is_a_small_change_of_level_and_contrast() -> None:
    photos = torch.full((200, 3, 4, 4), 100.0)
    out = augment.light(photos, seeded(0))
    assert out.std(dim=(1, 2, 3)).max() < 1e-3
    assert out.amin() >= 100 * 0.9 - 0.05 * 255 - 1e-3
    assert out.amax() <= 100 * 1.1 + 0.05 * 255 + 1e-3
    assert out.amax() - out.amin() > 20  # and it does change


def test_light_clips() -> None:
    assert augment.light(torch.full((50, 3, 2, 2), 255.0), seeded(0)).max() == 255
    assert augment.light(torch.zeros(50, 3, 2, 2), seeded(0)).min() == 0


def test_move_keeps_the_mean_content() -> None:
    """A small thing in the middle stays in the picture, with its brightness and, but for the scale, its area."""
    photos = torch.zeros(100, 3, 48, 48)
    photos[:, :, 18:30, 18:30] = torch.tensor([200.0, 100.0, 50.0]).view(3, 1, 1)
    out = augment.move(photos, seeded(0))
    ratio = out.mean(dim=(2, 3)) / photos.mean(dim=(2, 3))
    assert ratio.amin() > 0.85**2 - 0.06
    assert ratio.amax() < 1.15**2 + 0.06
    assert ratio.mean().item() == pytest.approx(1.0, abs=0.1)
    torch.testing.assert_close(out[:, 0], 2 * out[:, 1], rtol=1e-4, atol=1e-3)  # channels move together
    assert out.amax(dim=(2, 3)).sub(photos.amax(dim=(2, 3))).abs().max() < 5


def test_move_shifts_at_most_8_percent_and_mirrors_half() -> None:
    size = 48
    photos = torch.zeros(300, 3, size, size)
    photos[:, 0, 22:26, 22:26] = 255.0  # red in the middle, green to its left
    photos[:, 1, 22:26, 10:14] = 255.0
    out = augment.move(photos, seeded(1))
    grid = torch.arange(size, dtype=torch.float32) + 0.5
    mass = out.sum(dim=(2, 3))
    across = (out.sum(dim=2) * grid).sum(dim=2) / mass.clamp(min=1)
    down = (out.sum(dim=3) * grid).sum(dim=2) / mass.clamp(min=1)
    reach = 0.08 * size * 1.15 * 1.2 + 0.5  # the shift is scaled and turned with the photo
    assert (across[:, 0] - size / 2).abs().max() <= reach
    assert (down[:, 0] - size / 2).abs().max() <= reach
    left = (across[:, 1] < across[:, 0]).float().mean().item()
    assert 0.4 < left < 0.6


def test_pairs_are_mirrored_together_and_without_jitter_nothing_else_happens() -> None:
    photos = pictures(2).repeat(20, 1, 1, 1)
    out = augment.move(photos, seeded(0), jitter=0.0)
    turned = torch.stack([photo.flip(2) for photo in photos])
    mirrored = [torch.allclose(a, b, atol=0.1) for a, b in zip(out, turned, strict=True)]
    kept = [torch.allclose(a, b, atol=0.1) for a, b in zip(out, photos, strict=True)]
    assert mirrored == [not k for k in kept]
    assert mirrored[:20] == mirrored[20:]
    assert 3 < sum(mirrored[:20]) < 17


def test_thesis_makes_each_of_its_changes_at_its_rate() -> None:
    """A dark photo with one bright corner tells mirror and half a turn; a flat one the erased area and the light."""
    corner = torch.full((400, 3, 48, 48), 20.0)
    corner[:, :, 6:18, 6:18] = 200.0
    out = augment.thesis(corner, seeded(0))
    quarters = [out[:, 0, :24, :24], out[:, 0, :24, 24:], out[:, 0, 24:, :24], out[:, 0, 24:, 24:]]
    at = torch.stack([q.amax(dim=(1, 2)) for q in quarters]).argmax(dim=0)
    assert (torch.bincount(at, minlength=4) > 60).all()  # kept, mirrored, turned, both: a quarter of the photos each
    flat = torch.full((400, 3, 64, 64), 100.0)
    flat = augment.thesis(flat, seeded(1))[:, 0, 12:52, 12:52]  # rotation blackens corners only
    level = flat.amax(dim=(1, 2))
    assert 80 * 0.8 <= level.min() < 90
    assert 110 < level.max() <= 120 * 1.2
    erased = (flat == 0).flatten(1).any(dim=1)
    assert 0.3 < erased.float().mean() < 0.55
    whole = augment.thesis(torch.full((400, 3, 64, 64), 100.0), seeded(2))[:, 0]
    gone = (whole[:, 6:58, 6:58] == 0).flatten(1).float().mean(dim=1) * 52**2 / 64**2
    assert gone.max() <= 1 / 8 + 0.02


def test_thesis_leaves_torchs_own_generator_as_it_was() -> None:
    torch.manual_seed(5)
    before = torch.rand(3)
    torch.manual_seed(5)
    augment.thesis(pictures(2), seeded(0))
    assert torch.equal(before, torch.rand(3))


def test_move_of_nothing_but_background_is_background() -> None:
    assert not augment.move(torch.zeros(4, 3, 16, 16), seeded(0)).any()


def test_only_the_training_batches_are_augmented() -> None:
    """Embedding, queries and evaluation never come to the module; in training one function does."""
    root = Path(retrieval.__file__).parent
    for file in sorted(root.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        users = {
            function.name
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for node in ast.walk(function)
            if isinstance(node, ast.Name) and node.id == "augment"
        }
        if file == root / "training" / "loop.py":
            assert users == {"_batch"}
        else:
            imported = [a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names]
            assert "augment" not in imported, file
            assert not users, file
