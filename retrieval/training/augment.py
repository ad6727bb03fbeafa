"""Random changes of training photos, on whole batches. Evaluation and queries never come here."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def move(photos: Tensor, generator: torch.Generator, jitter: float = 1.0) -> Tensor:
    """Mirror, shift (8%), scale (0.85 to 1.15), rotate (10 degrees); photos (2n, 3, s, s) float, zeros around.

    The n pairs, i and n + i, are mirrored together: which way a shoe points is part of a shop's layout. ``jitter`` is a
    factor on the other three.
    """
    n = len(photos)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    angle = uniform(-1, 1) * math.radians(10) * jitter
    scale = 1 + uniform(-0.15, 0.15) * jitter
    mirror = (torch.rand((n + 1) // 2, generator=generator) < 0.5).float().repeat(2)[:n] * 2 - 1
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    theta = torch.stack(
        (
            torch.stack((cos * mirror, -sin, uniform(-0.16, 0.16) * jitter), dim=1),
            torch.stack((sin * mirror, cos, uniform(-0.16, 0.16) * jitter), dim=1),
        ),
        dim=1,
    )  # (n, 2, 3)
    grid = F.affine_grid(theta, list(photos.shape), align_corners=False)
    return F.grid_sample(photos, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def light(photos: Tensor, generator: torch.Generator) -> Tensor:
    """Small contrast (10%) and brightness (5% of the range) changes that keep colors their names."""
    n = len(photos)
    gain = 1 + 0.1 * (torch.rand(n, 1, 1, 1, generator=generator) * 2 - 1)
    shift = 0.05 * 255 * (torch.rand(n, 1, 1, 1, generator=generator) * 2 - 1)
    return (photos * gain + shift).clamp(0, 255)


def thesis(photos: Tensor, generator: torch.Generator) -> Tensor:
    """The changes of the first thesis, for square photos (n, 3, s, s) in 0..255, each photo by draws of its own.

    Mirror and half a turn (one in two), rotation to 10 degrees, brightness and contrast to 20%, and one in two an
    erased rectangle of 1/16 to 1/8 of the area, filled with zeros like the letterbox. torchvision's transforms draw
    from torch's global generator, which is seeded here from ``generator`` and put back.
    """
    change = v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.RandomRotation((180, 180))], 0.5),
            v2.RandomRotation(10, v2.InterpolationMode.BILINEAR),
            v2.ColorJitter(brightness=0.2, contrast=0.2),
            v2.RandomErasing(0.5, scale=(1 / 16, 1 / 8)),
        ]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return torch.stack([change(photo / 255) for photo in photos]) * 255


def recolor(photos: Tensor, generator: torch.Generator) -> Tensor:
    """Break the color, keep the garment: random hue turn, saturation 0 to 1.5, and tone curve (gamma 0.4 to 2.5).

    Black, white and gray backgrounds keep their hue, so the background does not give the change away.
    """
    n = len(photos)
    turn = torch.rand(n, generator=generator) * 2 * math.pi
    saturation = torch.rand(n, generator=generator) * 1.5
    rotate = torch.zeros(n, 3, 3)
    rotate[:, 0, 0] = 1
    rotate[:, 1, 1] = rotate[:, 2, 2] = torch.cos(turn) * saturation
    rotate[:, 1, 2], rotate[:, 2, 1] = -torch.sin(turn) * saturation, torch.sin(turn) * saturation
    mix = torch.linalg.inv(_YIQ) @ rotate @ _YIQ  # (n, 3, 3)
    gamma = torch.exp((torch.rand(n, 1, 1, 1, generator=generator) * 2 - 1) * math.log(2.5))
    shape = photos.shape
    mixed = (mix @ photos.reshape(n, 3, -1)).reshape(shape).clamp(0, 255)
    return 255 * (mixed / 255) ** gamma
