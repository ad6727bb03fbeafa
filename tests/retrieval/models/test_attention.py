"""Attention modules against slow loops over the formulas of the design."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from retrieval.models.attention import CBAM, ChannelAttention, LocalBranch, ShallowPool, SpatialAttention, resized
from retrieval.models.network import AttributeBlock

TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
SHAPES = [(1, 8, 1, 1), (2, 8, 5, 3), (3, 40, 4, 4)]


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float64)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def linear(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    weight, bias = array(layer.weight), array(layer.bias)
    return np.array([sum(weight[o, i] * x[i] for i in range(len(x))) + bias[o] for o in range(len(bias))])


def mlp(layers: nn.Sequential, x: np.ndarray) -> np.ndarray:
    return linear(layers[2], np.maximum(linear(layers[0], x), 0))


def gap(x: np.ndarray) -> np.ndarray:
    """(c, h, w) -> (c,)"""
    return np.array([channel.sum() / channel.size for channel in x])


def slow_channel(module: ChannelAttention, x: np.ndarray) -> np.ndarray:
    return sigmoid(mlp(module.mlp, gap(x)) + mlp(module.mlp, np.array([channel.max() for channel in x])))


def slow_spatial(module: SpatialAttention, x: np.ndarray) -> np.ndarray:
    """(c, h, w) -> (h, w): sigmoid of a 7 x 7 convolution, zeros around, of the channels' mean and maximum."""
    weight, bias = array(module.conv.weight)[0], array(module.conv.bias)[0]
    height, width = x.shape[1:]
    planes = [x.sum(axis=0) / len(x), x.max(axis=0)]
    out = np.full((height, width), bias)
    for y in range(height):
        for z in range(width):
            for dy in range(7):
                for dz in range(7):
                    v, u = y + dy - 3, z + dz - 3
                    if 0 <= v < height and 0 <= u < width:
                        out[y, z] += sum(weight[p, dy, dz] * planes[p][v, u] for p in range(2))
    return sigmoid(out)


def slow_cbam(module: CBAM, x: np.ndarray) -> np.ndarray:
    x = x * slow_channel(module.channel, x)[:, None, None]
    return x * slow_spatial(module.spatial, x)[None]


@pytest.mark.parametrize("shape", SHAPES)
def test_cbam_is_channel_then_spatial_attention(shape: tuple[int, ...]) -> None:
    module = CBAM(shape[1], reduction=2)
    x = torch.randn(shape)
    out = module(x)
    assert out.shape == shape
    for photo, got in zip(array(x), array(out), strict=True):
        np.testing.assert_allclose(got, slow_cbam(module, photo), **TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES)
def test_local_branch_is_mask_times_gate_pooled_and_projected(shape: tuple[int, ...]) -> None:
    """T_i = T * M_i * C_i as a whole map, as the thesis writes it; then global average pool, then linear."""
    module = LocalBranch(shape[1], dim=6, reduction=2)
    x = torch.randn(shape)
    out = module(x)
    assert out.shape == (shape[0], 6)
    weight, bias = array(module.mask.weight)[0, :, 0, 0], array(module.mask.bias)[0]
    for photo, got in zip(array(x), array(out), strict=True):
        attended = np.empty_like(photo)
        gate = sigmoid(mlp(module.gate, gap(photo)))
        for y in range(shape[2]):
            for z in range(shape[3]):
                mask = sigmoid(weight @ photo[:, y, z] + bias)
                for channel in range(shape[1]):
                    attended[channel, y, z] = photo[channel, y, z] * mask * gate[channel]
        np.testing.assert_allclose(got, linear(module.project, gap(attended)), **TOLERANCE)


def test_a_branch_with_a_grid_sees_every_cell_apart() -> None:
    """On a map of the grid's own size the cells are its places."""
    module = LocalBranch(5, dim=6, reduction=2, grid=3)
    x = torch.randn(2, 5, 3, 3)
    out = module(x)
    weight, bias = array(module.mask.weight)[0, :, 0, 0], array(module.mask.bias)[0]
    for photo, got in zip(array(x), array(out), strict=True):
        gate = sigmoid(mlp(module.gate, gap(photo)))
        cells = []
        for y in range(3):
            for z in range(3):
                cells.append(photo[:, y, z] * sigmoid(weight @ photo[:, y, z] + bias) * gate)
        np.testing.assert_allclose(got, linear(module.project, np.concatenate(cells)), **TOLERANCE)


@pytest.mark.parametrize(("side", "grid"), [(5, 3), (6, 3), (2, 3), (3, 3)])
def test_resizing_keeps_a_constant_map_and_a_slope(side: int, grid: int) -> None:
    constant = torch.full((1, 2, side, side), 7.0)
    torch.testing.assert_close(resized(constant, grid), torch.full((1, 2, grid, grid), 7.0))
    slope = torch.arange(side, dtype=torch.float32).expand(1, 1, side, side)
    out = resized(slope, grid)[0, 0]
    assert (out.diff(dim=1) > 0).all()
    assert (out.diff(dim=0).abs() < 1e-5).all()
    assert out.mean().item() == pytest.approx((side - 1) / 2, abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_attribute_block_is_cbam_pool_linear_relu_linear_and_a_cosine_head(shape: tuple[int, ...]) -> None:
    module = AttributeBlock(shape[1], [], dim=5, values=3, reduction=2)
    with torch.no_grad():
        module.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
        module.scale.copy_(torch.tensor(7.0))
    x = torch.randn(shape)
    raw, logits = module(x, [])
    assert raw.shape == (shape[0], 5)
    assert logits.shape == (shape[0], 3)
    prototypes, bias = array(module.prototypes), array(module.bias)
    for photo, feature, scores in zip(array(x), array(raw), array(logits), strict=True):
        slow = linear(module.project, np.maximum(linear(module.hidden, gap(slow_cbam(module.attend, photo))), 0))
        np.testing.assert_allclose(feature, slow, **TOLERANCE)
        for value in range(3):
            cosine = slow @ prototypes[value] / np.sqrt(slow @ slow) / np.sqrt(prototypes[value] @ prototypes[value])
            np.testing.assert_allclose(scores[value], 7.0 * cosine + bias[value], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_earlier_maps_join_the_hidden_layer_by_their_gated_and_plain_means(shape: tuple[int, ...]) -> None:
    """The gate is spread over the larger map, one value for 2 x 2 places where it is constant."""
    pool = ShallowPool(3, dim=4).eval()
    with torch.no_grad():
        pool.norm.running_mean.uniform_(-1, 1)
        pool.norm.running_var.uniform_(0.5, 2)
    x, gate = torch.randn(shape[0], 3, 6, 4), torch.rand(shape[0], 1, 1)  # one gate value: every place weighs the same
    mean = np.array([gap(photo) for photo in array(x)])
    both = np.concatenate((mean, mean), axis=1)
    normal = (both - array(pool.norm.running_mean)) / np.sqrt(array(pool.norm.running_var) + pool.norm.eps)
    expected = np.array([linear(pool.project, row) for row in normal])
    np.testing.assert_allclose(array(pool(x, gate)), expected, rtol=1e-3, atol=1e-3)  # 1e-4 keeps a zero gate finite


def test_a_gate_on_one_side_leaves_the_other_sides_colors_out() -> None:
    pool = ShallowPool(1, dim=1).eval()
    with torch.no_grad():
        pool.project.weight.copy_(torch.tensor([[1.0, 0.0]]))
        pool.project.bias.zero_()
    x = torch.zeros(1, 1, 4, 8)
    x[..., 4:] = 5.0
    gate = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]])
    left, right = pool(x, gate).item(), pool(x, gate.flip(2)).item()
    assert left == pytest.approx(5 / 16, rel=0.01)  # bilinear: a quarter of one column of four crosses the border
    assert left + right == pytest.approx(5, rel=0.01)


def test_hidden_layers_shrink_by_the_reduction_but_never_below_four() -> None:
    assert ChannelAttention(64, 16).mlp[0].out_features == 4
    assert ChannelAttention(128, 16).mlp[0].out_features == 8
    assert LocalBranch(512, 4, 16).gate[0].out_features == 32
    assert LocalBranch(8, 4, 16).gate[0].out_features == 4


def test_every_parameter_gets_a_gradient() -> None:
    x = torch.randn(4, 8, 5, 5)
    raw, logits = (block := AttributeBlock(8, [3], 6, 3, 2))(x, [torch.randn(4, 3, 10, 10)])
    branch = LocalBranch(8, 6, 2)
    (raw.square().sum() + logits.square().sum() + branch(x).square().sum()).backward()
    for module in (block, branch):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("grid", [1, 2])
@pytest.mark.parametrize(("gates", "lacks"), [("spatial", "gate"), ("channel", "mask")])
def test_a_branch_with_one_gate_is_the_other_gate_at_one(gates: str, lacks: str, grid: int) -> None:
    branch, both = LocalBranch(8, 3, 4, grid, gates), LocalBranch(8, 3, 4, grid)
    assert not [name for name in branch.state_dict() if name.startswith(lacks)]
    both.load_state_dict(branch.state_dict(), strict=False)
    with torch.no_grad():  # sigmoid(large) = 1
        last = both.mask if lacks == "mask" else both.gate[2]
        last.weight.zero_()
        last.bias.fill_(40.0)
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(branch(x), both(x), rtol=1e-4, atol=1e-5)
