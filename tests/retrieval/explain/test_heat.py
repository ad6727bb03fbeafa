"""Heat maps: gradients against an oracle of plain autograd, no hooks left, many at once as one by one."""

from __future__ import annotations

import builtins
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from index.errors import MissingDependencyError, PhotoError
from retrieval import photos
from retrieval.explain import heat as heats
from retrieval.explain.attribute import Explanation, explain
from retrieval.explain.similar import similar
from retrieval.models import checkpoint
from retrieval.models.checkpoint import Model

SIDE = 32  # of the tiny model's letterbox


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    read = checkpoint.read(tiny_model)
    read.net.quick = False  # gradients never are; what they are compared with must not be either
    return read


@pytest.fixture(scope="module")
def files(garment_photos: Path) -> list[Path]:
    return sorted((garment_photos / "photos").iterdir())[:5]


@pytest.fixture(scope="module")
def pixels(files: list[Path]) -> np.ndarray:
    return np.stack([photos.load(file, SIDE).pixels for file in files])


def hooks(net: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in net.modules() for kind in kinds)


def oracle(model: Model, pixels: np.ndarray, answer: Any) -> np.ndarray:
    """Grad-CAM by hand: the network run from its last feature map on, one photo at a time."""
    maps = []
    for photo in pixels:
        with torch.no_grad():
            last, shallow = model.net.feature_maps(torch.from_numpy(photo)[None].permute(0, 3, 1, 2))
        last = last.clone().requires_grad_()
        earlier = [shallow[4], shallow[8]]
        (gradient,) = torch.autograd.grad(answer(last, earlier), last)
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        maps.append((weights * last).sum(dim=1).clamp(min=0)[0].detach().numpy())
    return heats.normal(heats.grown(np.stack(maps), SIDE))


def test_attribute_heat_is_grad_cam(model: Model, pixels: np.ndarray) -> None:
    codes = np.array([0, 1, 2, 0, 1])
    got = heats.attribute_heat(model.net, pixels, "sleeve", codes, "grad-cam")
    assert got.shape == (5, SIDE, SIDE)
    assert got.dtype == np.float32
    block = model.net.attributes["sleeve"]
    for i, code in enumerate(codes):
        expected = oracle(model, pixels[i : i + 1], lambda x, s, code=code: block(x, s)[1][0, code])
        np.testing.assert_allclose(got[i], expected[0], rtol=1e-4, atol=1e-6)
    assert got.max() > 0


@pytest.mark.parametrize("block", ["look", "color"])
def test_block_heat_is_that_of_the_similarity(block: str, model: Model, pixels: np.ndarray) -> None:
    dim = 16
    directions = np.random.default_rng(0).normal(size=(5, dim)).astype(np.float32)
    got = heats.block_heat(model.net, pixels, block, directions, "grad-cam")

    def feature(x: torch.Tensor, shallow: list[torch.Tensor]) -> torch.Tensor:
        if block == "look":
            return torch.cat([branch(x) for branch in model.net.branches], dim=1)[0]
        return model.net.attributes[block](x, shallow)[0][0]

    for i in range(5):
        asked = torch.from_numpy(directions[i])
        expected = oracle(model, pixels[i : i + 1], lambda x, s, asked=asked: (feature(x, s) * asked).sum())
        np.testing.assert_allclose(got[i], expected[0], rtol=1e-4, atol=1e-6)
    assert got.max() > 0


def test_layer_cam_is_what_each_cell_of_both_maps_adds(model: Model, pixels: np.ndarray) -> None:
    codes = np.array([0, 1, 2, 0, 1])
    got = heats.attribute_heat(model.net, pixels, "sleeve", codes, "layer-cam")
    assert got.shape == (5, SIDE, SIDE)
    net = model.net
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - net.mean) / net.std
    with torch.no_grad():
        fourth = net.body[0](net.bottom(net.stem(x)))
        eighth = net.body[1](fourth)
    eighth = eighth.clone().requires_grad_()
    last = net.body[3](net.body[2](eighth))
    logits = net.attributes["sleeve"](last, [fourth, eighth])[1]
    gradients = torch.autograd.grad(logits[torch.arange(5), torch.from_numpy(codes)].sum(), [eighth, last])
    expected = np.ones((5, SIDE, SIDE), np.float32)
    for x, gradient in zip((eighth, last), gradients, strict=True):
        heat = torch.stack([(gradient[:, k] * x[:, k]).clamp(min=0) for k in range(x.shape[1])]).sum(dim=0)
        whole = heats.grown(heat.detach().numpy(), SIDE)
        expected *= whole / whole.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(got, expected / expected.max(axis=(1, 2), keepdims=True), rtol=1e-3, atol=1e-5)


def test_head_cam_is_the_heads_share_times_what_the_earlier_map_adds(model: Model, pixels: np.ndarray) -> None:
    codes = np.array([0, 1, 2, 0, 1])
    got = heats.attribute_heat(model.net, pixels, "sleeve", codes)
    net, head = model.net, model.net.attributes["sleeve"]
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - net.mean) / net.std
    with torch.no_grad():
        fourth = net.body[0](net.bottom(net.stem(x)))
        eighth = net.body[1](fourth)
        attended = head.attend(net.body[3](net.body[2](eighth)))  # type: ignore[operator]
        share = torch.stack(
            [(head.hidden.weight @ cell.T).norm(dim=0) for cell in attended.flatten(2).unbind(dim=2)], dim=1
        ).reshape(5, *attended.shape[2:])
    eighth = eighth.clone().requires_grad_()
    logits = head(net.body[3](net.body[2](eighth)), [fourth, eighth])[1]
    (gradient,) = torch.autograd.grad(logits[torch.arange(5), torch.from_numpy(codes)].sum(), eighth)
    expected = np.ones((5, SIDE, SIDE), np.float32)
    for each in ((gradient * eighth).clamp(min=0).sum(dim=1).detach(), share):
        expected *= heats.normal(heats.grown(each.numpy(), SIDE))
    np.testing.assert_allclose(got, heats.normal(expected), rtol=1e-3, atol=1e-5)
    assert got.max() == 1


def test_many_at_once_give_what_one_by_one_gives(model: Model, files: list[Path], monkeypatch: Any) -> None:
    together = explain(model, files, "category")
    monkeypatch.setattr(heats, "BATCH", 2)  # and cut into batches
    for file, each, cut in zip(files, together, explain(model, files, "category"), strict=True):
        (alone,) = explain(model, [file], "category")
        for other in (alone, cut):
            assert (other.value, other.predicted) == (each.value, each.predicted)
            np.testing.assert_allclose(other.heat, each.heat, atol=0.01)  # some processors round a batch otherwise
            np.testing.assert_allclose(other.representation, each.representation, atol=1e-4)
            assert other.probabilities == pytest.approx(each.probabilities, abs=1e-5)


def test_no_hook_and_no_gradient_is_left(model: Model, files: list[Path], pixels: np.ndarray) -> None:
    before = hooks(model.net)
    for _ in range(3):
        explain(model, files, "sleeve")
        similar(model, files, "look", np.ones((5, 16), np.float32))
    with pytest.raises((IndexError, RuntimeError)):  # captum breaks off in the middle: a value that is none
        heats.attribute_heat(model.net, pixels, "sleeve", np.full(5, 99))
    assert hooks(model.net) == before == 0
    assert all(p.grad is None and not p.requires_grad for p in model.net.parameters())
    assert not model.net.training


def test_an_explanation_says_what_the_head_says(model: Model, files: list[Path]) -> None:
    found = explain(model, files, "color")
    values = model.vocabulary["color"]
    for file, each in zip(files, found, strict=True):
        net_says = torch.softmax(
            model.net(torch.from_numpy(photos.load(file, SIDE).pixels)[None].permute(0, 3, 1, 2)).logits["color"], 1
        )[0]
        assert list(each.probabilities) == values
        np.testing.assert_allclose(list(each.probabilities.values()), net_says, atol=1e-5)
        assert each.predicted == each.value == values[int(net_says.argmax())]
        assert (each.width, each.height) == (120, 160)
        assert each.heat.shape == (32, 24)
        assert each.representation.shape == (512, 7, 7)
        checked_box(each)
    other = explain(model, files, "color", "gray")
    assert {each.value for each in other} == {"gray"}
    assert [each.predicted for each in other] == [each.predicted for each in found]


def checked_box(each: Explanation) -> None:
    if each.heat.max() == 0:
        assert each.box is None
        assert each.peak is None
        return
    assert each.heat.max() == 1
    assert each.box is not None
    assert each.peak is not None
    assert 0 <= each.box.left < each.box.right <= 120
    assert 0 <= each.box.top < each.box.bottom <= 160
    x, y = each.peak
    assert each.heat[int(y / 5), int(x / 5)] == 1  # 160 pixels, seen at 32


def test_where_nothing_speaks_for_a_value_there_is_no_box(model: Model, files: list[Path], monkeypatch: Any) -> None:
    monkeypatch.setattr(
        heats, "attribute_heat", lambda net, pixels, *_: np.zeros((len(pixels), SIDE, SIDE), np.float32)
    )
    for each in explain(model, files, "sleeve"):
        assert each.box is None
        assert each.peak is None
        assert not each.heat.any()
        told = json.loads(json.dumps(each.to_json()))
        assert told["box"] is None
        assert np.shape(told["representation"]) == (512, 7, 7)
        assert np.shape(told["heat"]) == (32, 24)


def test_cells_are_put_where_the_network_looks(model: Model) -> None:
    """The centre of gravity of what a cell depends on, away from the borders, is the pixel it is drawn at."""
    size, cells = 256, 16
    net, cell = model.net, 7
    photo = torch.full((1, 3, size, size), 128.0).requires_grad_()
    x = (photo - net.mean) / net.std
    x = net.body(net.stem(x))  # without the attention, which sees everything
    assert x.shape[-1] == cells
    torch.manual_seed(0)
    (gradient,) = torch.autograd.grad((x[0, :, cell, cell] * torch.randn(x.shape[1])).sum(), photo)
    weight = gradient[0].abs().sum(dim=0)
    centre = float((weight.sum(dim=0) * torch.arange(size)).sum() / weight.sum())
    stride = heats.stride_of(cells, size)
    assert centre == pytest.approx(cell * stride, abs=stride / 4)
    maps = np.zeros((1, cells, cells), np.float32)
    maps[0, 5, cell] = 1
    y, x_ = np.unravel_index(heats.grown(maps, size)[0].argmax(), (size, size))
    assert (x_, y) == (cell * stride, 5 * stride)


@pytest.mark.parametrize(
    ("cells", "size", "stride"), [(2, 32, 16), (4, 64, 16), (5, 80, 16), (7, 100, 16), (7, 224, 32)]
)
def test_strides(cells: int, size: int, stride: int) -> None:
    assert heats.stride_of(cells, size) == stride


def test_grown_is_bilinear_between_the_centres() -> None:
    maps = np.random.default_rng(0).random((2, 4, 4)).astype(np.float32)
    got = heats.grown(maps, 64)
    assert got.shape == (2, 64, 64)
    for y in range(0, 64, 5):
        for x in range(0, 64, 7):
            u, v = min(x / 16, 3), min(y / 16, 3)
            i, j = min(int(v), 2), min(int(u), 2)
            a, b = v - i, u - j
            cell = maps[:, i : i + 2, j : j + 2]
            expected = (1 - a) * ((1 - b) * cell[:, 0, 0] + b * cell[:, 0, 1])
            expected += a * ((1 - b) * cell[:, 1, 0] + b * cell[:, 1, 1])
            np.testing.assert_allclose(got[:, y, x], expected, atol=1e-5)


def test_photos_that_are_not_there(model: Model, files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(PhotoError):
        explain(model, [tmp_path / "none.jpg"], "sleeve")
    found = similar(model, [None, files[0], tmp_path / "none.jpg"], "look", np.ones((3, 16), np.float32))
    assert [each is None for each in found] == [True, False, True]
    assert similar(model, [None], "look", np.ones((1, 16), np.float32)) == [None]


def test_without_captum_the_pip_line_is_said(model: Model, files: list[Path], monkeypatch: Any) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("captum"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"pip install 'fsearch\[explain\]'"):
        explain(model, files, "sleeve")


def test_several_values_are_probable_each_on_its_own(model: Model, files: list[Path], pixels: np.ndarray) -> None:
    settings = model.config.model
    color = settings.attributes["color"].model_copy(update={"multi": True, "threshold": 0.2})
    changed = settings.model_copy(update={"attributes": {**settings.attributes, "color": color}})
    several = replace(model, config=model.config.model_copy(update={"model": changed}))
    values = model.vocabulary["color"]
    with torch.inference_mode():
        logits = model.net(torch.from_numpy(pixels).permute(0, 3, 1, 2)).logits["color"].numpy()
    for said, each in zip(logits, explain(several, files, "color"), strict=True):
        own = 1 / (1 + np.exp(-said))
        np.testing.assert_allclose(list(each.probabilities.values()), own, atol=1e-5)
        assert each.value == values[int(own.argmax())]
        assert each.predicted == "|".join(v for v, p in zip(values, own, strict=True) if p > 0.2)
    assert sum(each.probabilities.values()) != pytest.approx(1, abs=0.01)
