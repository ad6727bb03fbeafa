"""Attention modules: CBAM (Woo et al. 2018) and the four branches of the local alignment network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelAttention(nn.Module):
    """CBAM's channel part: sigmoid(MLP(avg pool) + MLP(max pool)), (n, c, h, w) -> (n, c, 1, 1)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.mlp(x.mean(dim=(2, 3))) + self.mlp(x.amax(dim=(2, 3)))  # (n, c)
        return torch.sigmoid(pooled)[:, :, None, None]


class SpatialAttention(nn.Module):
    """CBAM's spatial part: sigmoid(conv7x7([mean; max over channels])), (n, c, h, w) -> (n, 1, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size=7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.stack((x.mean(dim=1), x.amax(dim=1)), dim=1)  # (n, 2, h, w)
        return torch.sigmoid(self.conv(pooled))


class CBAM(nn.Module):
    """Channel, then spatial attention; keeps the shape."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, reduction)
        self.spatial = SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.channel(x)
        return x * self.spatial(x)


class LocalBranch(nn.Module):
    """One branch of the local alignment network: T_i = T * M_i * C_i, global average pool, linear.

    M = sigmoid(conv1x1(T)) has one channel, C = sigmoid(FC(ReLU(FC(GAP(T))))). (n, c, h, w) -> (n, dim).
    """

    def __init__(self, channels: int, dim: int, reduction: int) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.mask = nn.Conv2d(channels, 1, kernel_size=1)
        self.gate = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))
        self.project = nn.Linear(channels, dim)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.sigmoid(self.mask(x))  # (n, 1, h, w)
        gate = torch.sigmoid(self.gate(x.mean(dim=(2, 3))))  # (n, c)
        pooled = (x * mask).mean(dim=(2, 3)) * gate  # the gate is constant over the map: pool first
        return self.project(pooled)
