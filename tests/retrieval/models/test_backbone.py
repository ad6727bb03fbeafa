"""Backbones: shapes, strides, and what is said when weights cannot be had."""

from __future__ import annotations

import urllib.error
from typing import Any, get_args

import pytest
import torch
import torchvision

from index.errors import ModelError
from retrieval.config import ModelConfig
from retrieval.models import backbone

CHANNELS = {
    "regnet_tiny": (32, 512),
    "resnet18": (64, 512),
    "resnet34": (64, 512),
    "resnet50": (64, 2048),
    "mobilenet_v3_small": (16, 576),
    "mobilenet_v3_large": (16, 960),
    "efficientnet_lite0": (32, 320),
    "efficientnet_lite1": (32, 320),
    "efficientnet_lite2": (32, 352),
}
STRIDED = [name for name in CHANNELS if not name.startswith("mobilenet")]


def maps(base: backbone.Backbone, size: int) -> tuple[torch.Size, torch.Size]:
    """Shapes after the stem and after the body, for a network on torch's meta device (shapes without numbers)."""
    stem = base.stem.eval()(torch.empty(1, 3, size, size, device="meta"))
    return stem.shape, base.body.eval()(stem).shape


def test_every_configurable_backbone_is_tested() -> None:
    assert set(get_args(ModelConfig.model_fields["backbone"].annotation)) == set(CHANNELS)


@pytest.mark.parametrize("name", CHANNELS)
def test_maps_have_the_stated_channels(name: str) -> None:
    with torch.device("meta"):
        base = backbone.build(name)
    assert (base.stem_channels, base.channels) == CHANNELS[name]
    for size in (64, 96):
        stem, last = maps(base, size)
        assert stem[:2] == (1, CHANNELS[name][0])
        assert last == (1, CHANNELS[name][1], size // 32, size // 32)


@pytest.mark.parametrize("last_stride", [1, 2])
@pytest.mark.parametrize("name", CHANNELS)
def test_shallow_maps_are_a_fourth_an_eighth_and_a_sixteenth_of_the_photo(name: str, last_stride: int) -> None:
    if last_stride == 1 and name not in STRIDED:
        pytest.skip("keeps its stride")
    with torch.device("meta"):
        base = backbone.build(name, last_stride=last_stride)
    places = {at: (stride, channels) for stride, (at, channels) in base.shallow.items()}
    assert list(base.shallow) == [4, 8, 16]
    x = base.stem.eval()(torch.empty(1, 3, 96, 96, device="meta"))
    for at, stage in enumerate(base.body.eval()):
        x = stage(x)
        if at in places:
            stride, channels = places[at]
            assert x.shape == (1, channels, 96 // stride, 96 // stride)
    assert max(places) < len(base.body) - 1


@pytest.mark.parametrize("name", STRIDED)
def test_last_stride_1_doubles_the_map_and_keeps_the_weights(name: str) -> None:
    with torch.device("meta"):
        fine, usual = backbone.build(name, last_stride=1), backbone.build(name)
    assert maps(fine, 64)[1] == (1, CHANNELS[name][1], 4, 4)
    assert maps(usual, 64)[1] == (1, CHANNELS[name][1], 2, 2)
    shapes = {key: value.shape for key, value in usual.body.state_dict().items()}
    assert {key: value.shape for key, value in fine.body.state_dict().items()} == shapes


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v3_large"])
def test_last_stride_1_is_refused_where_it_has_no_meaning(name: str) -> None:
    with pytest.raises(ModelError, match=f"last_stride: 1 .*{name}"):
        backbone.build(name, last_stride=1)


def test_regnet_tiny_says_that_it_has_no_pretrained_weights() -> None:
    with pytest.raises(ModelError, match="regnet_tiny has no pretrained weights: set pretrained: false"):
        backbone.build("regnet_tiny", pretrained=True)


@pytest.mark.parametrize(
    "error",
    [urllib.error.URLError("no route"), RuntimeError('invalid hash value (expected "ab")'), TimeoutError("slow")],
)
def test_weights_that_cannot_be_fetched(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fail)
    with pytest.raises(ModelError) as caught:
        backbone.build("mobilenet_v3_small", pretrained=True)
    said = str(caught.value)
    assert "mobilenet_v3_small" in said
    assert str(error) in said
    assert torch.hub.get_dir() in said
    assert "pretrained: false" in said
    assert "\n" not in said


def test_pretrained_weights_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torchvision.models.resnet18().state_dict()
    asked = []

    def give(url: str, *args: Any, **options: Any) -> dict[str, torch.Tensor]:
        asked.append(url)
        return state

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", give)
    base = backbone.build("resnet18", pretrained=True, last_stride=1)
    assert len(asked) == 1
    assert "resnet18" in asked[0]
    torch.testing.assert_close(base.stem[0].weight, state["conv1.weight"], rtol=0, atol=0)
    torch.testing.assert_close(base.body[3][1].conv2.weight, state["layer4.1.conv2.weight"], rtol=0, atol=0)


def test_pretrained_file_in_the_cache_needs_no_network(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the message tells people to put the file is where torchvision looks."""
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(folder))

    def no_network(*args: Any, **options: Any) -> Any:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(ModelError, match="no network in tests") as caught:
        backbone.build("mobilenet_v3_small", pretrained=True)
    assert f"{folder}/checkpoints" in str(caught.value)
    url = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT.url
    state = torchvision.models.mobilenet_v3_small().state_dict()
    (folder / "checkpoints").mkdir(exist_ok=True)
    torch.save(state, folder / "checkpoints" / url.rsplit("/", 1)[1])
    base = backbone.build("mobilenet_v3_small", pretrained=True)
    assert torch.equal(base.stem[0].weight, state["features.0.0.weight"])
