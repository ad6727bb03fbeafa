"""The garment network: one photo in, raw block features and attribute logits out."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retrieval.config import LOOK, PARTS, ModelConfig
from retrieval.models import backbone
from retrieval.models.attention import CBAM, LocalBranch, Mean, ShallowPool, resized
from retrieval.models.parts import PartsBlock, once, polar

# torchvision's ImageNet statistics, so that its pretrained weights see what they were trained on.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SHALLOW = (4, 8)  # photo over map of the earlier maps whose means attribute blocks see


class Features(NamedTuple):
    """``blocks``: raw (n, D_b) float32 by block name, look first; ``logits``: (n, V_a) by attribute; ``styles``: (n, S)
    of each part of look or parts, by block, while they are trained; ``shares``: see AttributeBlock, by attribute, while
    regions are taught."""

    blocks: dict[str, Tensor]
    logits: dict[str, Tensor]
    styles: Mapping[str, tuple[Tensor, ...]] = MappingProxyType({})
    shares: dict[str, Tensor] | None = None


class AttributeBlock(nn.Module):
    """Attribute feature disentanglement (AFD): CBAM, global average pool, linear, ReLU, linear; a cosine head on top.

    Means of earlier maps (``shallow``: their channels) join the hidden layer.

    The head scores s * cos(f, w_v) + b_v with a learned s (Wang et al. 2017, NormFace): retrieval compares directions,
    so the head must, too. (n, c, h, w) -> raw features (n, dim) and logits (n, values). Without ``reduction`` there is
    no attention: plain means.
    """

    def __init__(self, channels: int, shallow: Sequence[int], dim: int, values: int, reduction: int | None) -> None:
        super().__init__()
        self.attend = CBAM(channels, reduction) if reduction else Mean()
        self.shallow: Any = nn.ModuleList(ShallowPool(c, 2 * dim) for c in shallow)
        self.hidden = nn.Linear(channels, 2 * dim)
        self.project = nn.Linear(2 * dim, dim)
        self.prototypes = nn.Parameter(torch.randn(values, dim) * dim**-0.5)
        self.bias = nn.Parameter(torch.zeros(values))
        self.scale = nn.Parameter(torch.tensor(10.0))

    def pooled(self, x: Tensor, shallow: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the linear layers see: the mean of T after CBAM (n, c), and those of each earlier map (n, 2 c')."""
        pooled, gate = self.attend.pooled(x)
        return pooled, *(pool.means(earlier, gate) for pool, earlier in zip(self.shallow, shallow, strict=True))

    def score(self, pooled: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Raw features (n, dim) and logits (n, values) of what ``pooled`` gives."""
        hidden = self.hidden(pooled[0])
        for pool, means in zip(self.shallow, pooled[1:], strict=True):
            hidden = hidden + pool.project(means)
        raw = self.project(F.relu(hidden))
        cosine = F.normalize(raw, dim=1) @ F.normalize(self.prototypes, dim=1).T
        return raw, self.scale * cosine + self.bias

    def forward(self, x: Tensor, shallow: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.score(self.pooled(x, shallow))

    def shares(self, x: Tensor) -> Tensor:
        """How much each cell of the map adds to the hidden layer, (n, c, h, w) -> (n, h, w) of sum 1.

        The hidden layer is the mean of W y_i over cells, y_i the attended cell: the share is |W y_i| over their sum.
        """
        y, gate = self.attend.attend(x)  # (n, h, w, c), (n, h, w)
        length = gate * torch.linalg.vector_norm(F.linear(y, self.hidden.weight), dim=3)
        return length / length.sum(dim=(1, 2), keepdim=True).clamp(min=1e-6)


class GarmentNet(nn.Module):
    """Backbone with CBAM after its stem, K local branches (look), parts if asked, one disentangled block per attribute.

    With ``detail``, look adds to its branches a linear map of every place of an earlier map.

    ``quick``: compute stem and body in bfloat16, where no gradient is asked; branches and blocks stay in float32. On
    processors made for it that is twice as fast, and no block turns by more than acos(0.99) (docs/measured.md).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, vocabulary: dict[str, list[str]]) -> None:
        super().__init__()
        base = backbone.build(config.backbone, pretrained=config.pretrained, last_stride=config.last_stride)
        self.config = config
        self.stem, self.body = base.stem, base.body
        self.quick = False
        self.telling = False  # shares, too: training sets it where regions are taught
        self.taps = {stride: at for stride, (at, _) in base.shallow.items()}  # where in the body the earlier maps are
        shallow = [base.shallow[stride][1] for stride in SHALLOW]
        self.bottom = CBAM(base.stem_channels, config.reduction) if config.attention == "all" else nn.Identity()
        self.branches = nn.ModuleList(
            LocalBranch(base.channels, config.branch_dim, config.reduction, config.grid, config.gates)
            for _ in range(config.branches)
        )
        if config.detail:
            places = (config.input_size // config.detail_stride) ** 2
            self.detail = nn.Sequential(
                nn.Conv2d(base.shallow[config.detail_stride][1], config.detail, kernel_size=1, bias=False),
                nn.BatchNorm2d(config.detail),
                nn.ReLU(inplace=True),
            )
            self.layout = nn.Linear(config.detail * places, config.branches * config.branch_dim)
        self.parts = None if config.parts is None else PartsBlock(base.channels, config.parts)
        self.style_heads = nn.ModuleDict()  # by block, put here by training and taken away again
        reduction = None if config.attention == "none" else config.reduction
        self.attributes = nn.ModuleDict()
        for name, attribute in config.attributes.items():
            # past ModuleDict's own check: it refuses what its methods are called, and "type" is a likely attribute
            self.attributes._modules[name] = AttributeBlock(
                base.channels, shallow if config.shallow else [], attribute.dim, len(vocabulary[name]), reduction
            )
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1) * 255, persistent=False)

    def feature_maps(self, photos: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Letterboxed photos, (n, 3, s, s) uint8 or float in 0..255, or their polar views -> last feature map T
        (n, c, h, w), and the maps of a fourth, an eighth and a sixteenth of the photo by 4, 8 and 16 (see Backbone).
        """
        x = (photos.to(self.mean.dtype) - self.mean) / self.std
        quick = self.quick and not torch.is_grad_enabled()
        places, shallow = {at: stride for stride, at in self.taps.items()}, {}
        with torch.autocast(x.device.type, torch.bfloat16) if quick else contextlib.nullcontext():
            x = self.bottom(self.stem(x.contiguous(memory_format=torch.channels_last)))
            for at, stage in enumerate(self.body):
                x = stage(x)
                if at in places:
                    shallow[places[at]] = x.to(self.mean.dtype)
        return x.to(self.mean.dtype), shallow

    def forward(self, photos: Tensor) -> Features:
        """(n, 3, s, s) in 0..255 -> raw features (not normalised) and logits."""
        x, shallow = self.feature_maps(photos)
        look = torch.cat([branch(x) for branch in self.branches], dim=1)  # (n, K * branch_dim)
        if self.config.detail:
            stride = self.config.detail_stride
            places = resized(self.detail(shallow[stride]), self.config.input_size // stride)
            look = look + self.layout(places.permute(0, 2, 3, 1).flatten(1))
        blocks, logits = {LOOK: look}, {}
        if self.parts is not None:
            blocks[PARTS] = self.parts(x, self._around(photos) if len(self.parts.around) else None)
        for name, block in self.attributes.items():
            blocks[name], logits[name] = block(x, self._earlier(shallow))
        heads: Any = self.attributes
        shares = {name: head.shares(x) for name, head in heads.items()} if self.telling else None
        styles = {name: head(blocks[name]) for name, head in self.style_heads.items()}
        return Features(blocks, logits, styles, shares)

    def pooled(self, photos: Tensor) -> dict[str, tuple[Tensor, ...]]:
        """What the linear layers of each attribute's block see of photos (n, 3, s, s)."""
        x, shallow = self.feature_maps(photos)
        blocks: Any = self.attributes
        return {name: block.pooled(x, self._earlier(shallow)) for name, block in blocks.items()}

    def _around(self, photos: Tensor) -> Tensor:
        """The last map of the photos' polar views: a second pass, with the same weights (and batch norms, whose
        statistics are then of both)."""
        view = polar(photos)
        return once(self.feature_maps(view)[0], view.shape[3])

    def _earlier(self, shallow: dict[int, Tensor]) -> list[Tensor]:
        return [shallow[stride] for stride in SHALLOW] if self.config.shallow else []


def block_dims(config: ModelConfig) -> dict[str, int]:
    """Block name -> width, in storing order: look, parts where there are any, the attributes in the config's order."""
    style = {LOOK: config.branches * config.branch_dim} | ({PARTS: config.parts.dim} if config.parts else {})
    return style | {name: a.dim for name, a in config.attributes.items()}
