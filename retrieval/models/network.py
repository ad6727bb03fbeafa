"""The garment network: one photo in, raw block features and attribute logits out."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retrieval.config import LOOK, ModelConfig
from retrieval.models import backbone
from retrieval.models.attention import CBAM, LocalBranch

# torchvision's ImageNet statistics, so that its pretrained weights see what they were trained on.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Features(NamedTuple):
    """``blocks``: raw (n, D_b) float32 by block name, look first; ``logits``: (n, V_a) by attribute."""

    blocks: dict[str, Tensor]
    logits: dict[str, Tensor]


class AttributeBlock(nn.Module):
    """Attribute feature disentanglement (AFD): CBAM, global average pool, linear, ReLU, linear; a cosine head on top.

    The head scores s * cos(f, w_v) + b_v with a learned s (Wang et al. 2017, NormFace): retrieval compares directions,
    so the head must, too. (n, c, h, w) -> raw features (n, dim) and logits (n, values).
    """

    def __init__(self, channels: int, dim: int, values: int, reduction: int) -> None:
        super().__init__()
        self.attend = CBAM(channels, reduction)
        self.project = nn.Sequential(nn.Linear(channels, 2 * dim), nn.ReLU(inplace=True), nn.Linear(2 * dim, dim))
        self.prototypes = nn.Parameter(torch.randn(values, dim) * dim**-0.5)
        self.bias = nn.Parameter(torch.zeros(values))
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raw = self.project(self.attend(x).mean(dim=(2, 3)))
        cosine = F.normalize(raw, dim=1) @ F.normalize(self.prototypes, dim=1).T
        return raw, self.scale * cosine + self.bias


class GarmentNet(nn.Module):
    """Backbone with CBAM after its stem, K local branches (look), one disentangled block per attribute."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, vocabulary: dict[str, list[str]]) -> None:
        super().__init__()
        base = backbone.build(config.backbone, pretrained=config.pretrained, last_stride=config.last_stride)
        self.config = config
        self.stem, self.body = base.stem, base.body
        self.bottom = CBAM(base.stem_channels, config.reduction)
        self.branches = nn.ModuleList(
            LocalBranch(base.channels, config.branch_dim, config.reduction) for _ in range(config.branches)
        )
        self.attributes = nn.ModuleDict()
        for name, attribute in config.attributes.items():
            # past ModuleDict's own check: it refuses what its methods are called, and "type" is a likely attribute
            self.attributes._modules[name] = AttributeBlock(
                base.channels, attribute.dim, len(vocabulary[name]), config.reduction
            )
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1) * 255, persistent=False)

    def feature_map(self, photos: Tensor) -> Tensor:
        """Letterboxed photos, (n, 3, s, s) uint8 or float in 0..255 -> last feature map T (n, c, h, w)."""
        x = (photos.to(self.mean.dtype) - self.mean) / self.std
        x = x.contiguous(memory_format=torch.channels_last)
        return self.body(self.bottom(self.stem(x)))

    def forward(self, photos: Tensor) -> Features:
        """(n, 3, s, s) in 0..255 -> raw features (not normalised) and logits."""
        x = self.feature_map(photos)
        blocks = {LOOK: torch.cat([branch(x) for branch in self.branches], dim=1)}  # (n, K * branch_dim)
        logits = {}
        for name, block in self.attributes.items():
            blocks[name], logits[name] = block(x)
        return Features(blocks, logits)


def block_dims(config: ModelConfig) -> dict[str, int]:
    """Block name -> width, in storing order: look, then the attributes in the config's order."""
    return {LOOK: config.branches * config.branch_dim} | {name: a.dim for name, a in config.attributes.items()}
