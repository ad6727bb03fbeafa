"""Attention modules: CBAM (Woo et al. 2018) and the four branches of the local alignment network.

They compute on (n, h, w, c) views: a channels-last map is contiguous there, forward and backward. On the usual axes
autograd answers reductions over channels in the other memory order, and the copies cost as much as the convolutions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelAttention(nn.Module):
    """CBAM's channel part: sigmoid(MLP(avg pool) + MLP(max pool)), (n, h, w, c) -> (n, c)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))

    def forward(self, y: Tensor) -> Tensor:
        flat = y.flatten(1, 2)  # (n, hw, c)
        return torch.sigmoid(self.mlp(flat.mean(dim=1)) + self.mlp(flat.max(dim=1).values))


class SpatialAttention(nn.Module):
    """CBAM's spatial part: sigmoid(conv7x7([mean; max over channels])), (n, h, w, c) -> (n, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size=7, padding=3)

    def forward(self, y: Tensor) -> Tensor:
        pooled = torch.stack((y.mean(dim=3), y.max(dim=3).values), dim=1)  # (n, 2, h, w)
        return torch.sigmoid(self.conv(pooled))[:, 0]


class CBAM(nn.Module):
    """Channel, then spatial attention; keeps the shape (n, c, h, w)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, reduction)
        self.spatial = SpatialAttention()

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x after the channel part, (n, h, w, c), and the spatial part's gate for it, (n, h, w)."""
        y = x.permute(0, 2, 3, 1)
        y = y * self.channel(y)[:, None, None]
        return y, self.spatial(y)

    def forward(self, x: Tensor) -> Tensor:
        y, gate = self.attend(x)
        return (y * gate[..., None]).permute(0, 3, 1, 2)

    def pooled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Global average pool of ``forward(x)``, (n, c), without building it, and the spatial gate (n, h, w)."""
        y, gate = self.attend(x)
        return (gate.flatten(1)[:, None] @ y.flatten(1, 2))[:, 0] / gate[0].numel(), gate


class Mean(nn.Module):
    """What CBAM is where there is no attention."""

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x as (n, h, w, c) and a gate (n, h, w) that is 1 everywhere."""
        return x.permute(0, 2, 3, 1), torch.ones_like(x[:, 0])

    def pooled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Global average pool of (n, c, h, w), (n, c), and a gate (n, h, w) that is 1 everywhere."""
        return x.mean(dim=(2, 3)), torch.ones_like(x[:, 0])


class ShallowPool(nn.Module):
    """What an earlier map says of an attribute: its mean under the attribute's spatial gate and its plain mean,
    batch-normalised, then linear. (n, c, h, w) and a gate (n, h', w') of any size -> (n, dim).

    Colors and textures are plain to see in the first stages; a last map made for garment types need not carry them.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2 * channels)
        self.project = nn.Linear(2 * channels, dim)

    def means(self, x: Tensor, gate: Tensor) -> Tensor:
        """Gated and plain mean, normalised: (n, 2c)."""
        weight = F.interpolate(gate[:, None], size=x.shape[-2:], mode="bilinear").flatten(2)  # (n, 1, hw)
        weight = weight / (weight.sum(dim=2, keepdim=True) + 1e-4)
        flat = x.permute(0, 2, 3, 1).flatten(1, 2)  # (n, hw, c)
        return self.norm(torch.cat(((weight @ flat)[:, 0], flat.mean(dim=1)), dim=1))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return self.project(self.means(x, gate))


class LocalBranch(nn.Module):
    """One branch of the local alignment network: T_i = T * M_i * C_i, global average pool, linear.

    M = sigmoid(conv1x1(T)) has one channel, C = sigmoid(FC(ReLU(FC(GAP(T))))). (n, c, h, w) -> (n, dim).

    With ``grid`` g above 1 the pool keeps g x g cells apart: shop photos of one product share its layout, which a pool
    over the whole map forgets (parts of Sun et al. 2018, PCB). ``gates``: both, spatial (M alone) or channel (C alone).
    """

    def __init__(self, channels: int, dim: int, reduction: int, grid: int = 1, gates: str = "both") -> None:
        super().__init__()
        self.grid = grid
        hidden = max(channels // reduction, 4)
        self.mask = None if gates == "channel" else nn.Conv2d(channels, 1, kernel_size=1)
        self.gate = None
        if gates != "spatial":
            self.gate = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))
        self.project = nn.Linear(grid * grid * channels, dim)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.permute(0, 2, 3, 1).flatten(1, 2)  # (n, hw, c)
        mask = torch.ones_like(x[:, :1]) if self.mask is None else torch.sigmoid(self.mask(x))  # (n, 1, h, w)
        mean = flat.mean(dim=1)
        gate = torch.ones_like(mean) if self.gate is None else torch.sigmoid(self.gate(mean))  # (n, c)
        if self.grid == 1:
            pooled = (mask.flatten(2) @ flat)[:, 0] / flat.shape[1]
            return self.project(pooled * gate)  # the gate is constant over the map: pool first
        cells = resized(x * mask, self.grid) * gate[:, :, None, None]
        return self.project(cells.permute(0, 2, 3, 1).flatten(1))


def resized(x: Tensor, side: int) -> Tensor:
    """A map of any size as (n, c, side, side): bilinear, antialiased; itself where it fits."""
    if x.shape[2:] == (side, side):
        return x
    return F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
