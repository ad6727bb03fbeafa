"""Backbones, cut before their classifier: photos in, last feature map out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.resnet import ResNet

from index.errors import ModelError
from retrieval.models import efficientnet_lite


class Backbone(NamedTuple):
    """``stem`` then ``body``; the bottom attention sits between them. Channels after each.

    ``shallow``: side of the photo over side of the map -> place in the body and channels of the last stage with that
    map, for a fourth, an eighth and, where there is one, a sixteenth of the photo.
    """

    stem: nn.Module
    body: nn.Sequential
    stem_channels: int
    channels: int
    shallow: dict[int, tuple[int, int]]


def build(name: str, *, pretrained: bool = False, last_stride: int = 2) -> Backbone:
    """A torchvision network without its head.

    ``regnet_tiny`` is torchvision's RegNetX (Radosavovic et al. 2020) with 1, 1, 3, 1 blocks of 32 to 512 channels,
    made for training on a CPU; it has no pretrained weights. ``efficientnet_lite0`` to ``2``: see that module; their
    batch norms are folded into the convolutions, so they start from pretrained weights or a checkpoint.
    ``last_stride=1`` keeps the last stages of a ResNet, RegNet or EfficientNet-Lite at stride 16 ("last stride" of the
    re-identification literature, Luo et al. 2019), so that small photos keep a map worth attending to.

    Raises ModelError when pretrained weights are asked for and cannot be had.
    """
    if name.startswith("efficientnet_lite"):
        start, stages = efficientnet_lite.build(name, pretrained=pretrained, last_stride=last_stride)
        first, last = start[0], stages[-1]
        assert isinstance(first, nn.Conv2d)
        assert isinstance(last, efficientnet_lite.Stage)
        return _backbone(start, stages, first.out_channels, last.channels, 5)
    network: Any = _network(name, pretrained)
    if isinstance(network, ResNet):
        if last_stride == 1:
            _unstride(network.layer4)
        stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        body = nn.Sequential(network.layer1, network.layer2, network.layer3, network.layer4)
        return _backbone(stem, body, network.conv1.out_channels, network.fc.in_features, 3)
    if isinstance(network, RegNet):
        if last_stride == 1:
            _unstride(network.trunk_output[-1])
        return _backbone(network.stem, network.trunk_output, network.stem[0].out_channels, network.fc.in_features, 3)
    if last_stride == 1:
        raise ModelError(f"last_stride: 1 is for ResNets, RegNets and EfficientNet-Lites; {name} keeps 2")
    layers = list(network.features.children())
    return _backbone(layers[0], nn.Sequential(*layers[1:]), layers[0].out_channels, layers[-1].out_channels, None)


@torch.inference_mode()
def _backbone(stem: nn.Module, body: nn.Sequential, stem_channels: int, channels: int, deep: int | None) -> Backbone:
    """``deep``: where the stages begin whose stride is ``last_stride``; what is earlier counts as shallow."""
    side, last = 64, {}
    stem.eval(), body.eval()  # this pass shall leave no trace in the batch norms
    x = stem(torch.zeros(1, 3, side, side))
    for at, stage in enumerate(body[:deep]):
        x = stage(x)
        last[side // x.shape[-1]] = (at, x.shape[1])
    stem.train(), body.train()
    return Backbone(
        stem, body, stem_channels, channels, {stride: last[stride] for stride in (4, 8, 16) if stride in last}
    )


def _network(name: str, pretrained: bool) -> nn.Module:
    if name == "regnet_tiny":
        if pretrained:
            raise ModelError("regnet_tiny has no pretrained weights: set pretrained: false, or take resnet18")
        return RegNet(BlockParams([1, 1, 3, 1], [32, 96, 256, 512], [32] * 4, [1.0] * 4, [2] * 4))
    weights = "DEFAULT" if pretrained else None
    try:
        return torchvision.models.get_model(name, weights=weights)
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; a broken download is a RuntimeError
        cache = f"{torch.hub.get_dir()}/checkpoints"
        raise ModelError(
            f"pretrained weights of {name} cannot be fetched ({error}): connect to the network, put the file that "
            f"torchvision names into {cache}, or set pretrained: false to start from random weights"
        ) from None


def _unstride(stage: nn.Module) -> None:
    for module in stage.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (1, 1)
