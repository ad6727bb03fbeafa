"""Parts of the last map: exact shares of cells, what turning a map does, the block in a network and a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from index.errors import ConfigError
from retrieval.config import ModelConfig, PartsConfig, parse
from retrieval.models import checkpoint
from retrieval.models.memory import Memory
from retrieval.models.network import GarmentNet, block_dims
from retrieval.models.parts import PartsBlock, part_weights, widths

VOCABULARY = {"color": ["red", "blue"]}
SIZES = {"backbone": "regnet_tiny", "last_stride": 1, "input_size": 64, "branches": 2, "branch_dim": 4}
SIZES |= {"attributes": {"color": {"dim": 6}}}
CUTS = {"stripes": [2, 3], "columns": [2, 3], "rings": [3], "dim": 26}


def sampled(kind: str, n: int, height: int, width: int, points: int = 120) -> np.ndarray:
    """(n, h * w): of the slow kind, many points in each cell, each asked which part it is in; rows of sum 1."""
    found = np.zeros((n, height, width))
    inner = (np.arange(points) + 0.5) / points
    for r in range(height):
        for c in range(width):
            y, x = np.meshgrid(r + inner, c + inner, indexing="ij")
            if kind == "rings":
                away = np.hypot(y - height / 2, x - width / 2)
                part = np.floor(away / (min(height, width) / 2) * n)
            else:
                part = np.floor(y / height * n if kind == "stripes" else x / width * n)
            for k in range(n):
                found[k, r, c] = (part == k).mean()
    return found.reshape(n, -1) / found.sum(axis=(1, 2))[:, None]


@pytest.mark.parametrize("kind", ["stripes", "columns", "rings"])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 5), (1, 1), (6, 3)])
@pytest.mark.parametrize("n", [1, 3])
def test_cells_are_weighed_by_their_share_inside_the_part(kind: str, height: int, width: int, n: int) -> None:
    cuts = {name: (n,) if name == kind else () for name in ("stripes", "columns", "rings")}
    got = part_weights(**cuts, height=height, width=width)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(got, sampled(kind, n, height, width), atol=4e-3)


def test_rings_fill_the_inscribed_circle_and_leave_the_corners_out() -> None:
    from retrieval.models.parts import _rings

    rings = _rings(7, 7, 3)
    radius = 3.5
    areas = [np.pi * radius**2 * (2 * k + 1) / 9 for k in range(3)]
    np.testing.assert_allclose(rings.sum(axis=(1, 2)), areas, rtol=1e-12)
    assert rings.sum(axis=0).max() <= 1 + 1e-12
    assert rings[:, 3, 3].tolist() == pytest.approx([1, 0, 0])  # the middle cell
    assert rings[2, 0, 0] < 0.2  # a corner cell
    assert rings[:2, 0, 0].tolist() == [0, 0]


def parts_of(block: PartsBlock, x: torch.Tensor) -> list[torch.Tensor]:
    return list(block(x).split(block.widths, dim=1))


def test_rings_of_a_map_turned_by_90_degrees_are_those_of_the_upright_one_and_stripes_become_columns() -> None:
    """With an untrained network: the last map of a photo, upright and turned. Linear maps are the same for all parts,
    so that what a stripe says can be compared with what a column says."""
    config = ModelConfig(**SIZES, parts=CUTS)
    net = GarmentNet(config, VOCABULARY).eval()
    block = net.parts
    with torch.inference_mode():
        for linear in block.project:
            linear.weight.copy_(block.project[0].weight)
            linear.bias.copy_(block.project[0].bias)
        upright, _ = net.feature_maps(torch.rand(2, 3, 64, 64) * 255)
        turned = torch.rot90(upright, 1, dims=(2, 3))  # anticlockwise: the top becomes the left side
        one, two = parts_of(block, upright), parts_of(block, turned)
    stripes, columns, rings = one[:5], one[5:10], one[10:]
    for i, ring in enumerate(rings):
        torch.testing.assert_close(two[10 + i], ring, rtol=1e-4, atol=1e-5)
    for i, stripe in enumerate(stripes):
        torch.testing.assert_close(two[5 + i], stripe, rtol=1e-4, atol=1e-5)  # the same number, counted from the left
    assert not torch.allclose(two[0], one[0], rtol=1e-3)
    back = [1, 0, 4, 3, 2]  # columns become stripes, counted from the bottom
    for i, at in enumerate(back):
        torch.testing.assert_close(two[i], columns[at], rtol=1e-4, atol=1e-5)


def test_rings_change_little_when_the_photo_itself_is_turned_by_any_angle() -> None:
    """A smooth picture on a fine map: turned by 30 degrees its rings hold nearly what they held, its stripes do not."""
    from torchvision.transforms import functional as tv

    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 2, indexing="ij")
    picture = torch.exp(-((x - 0.5) ** 2 + y**2) / 0.1)[None, None]
    turned = tv.rotate(picture, 30.0, tv.InterpolationMode.BILINEAR)
    weights = torch.from_numpy(part_weights((3,), (), (3,), 32, 32))
    before, after = weights @ picture.flatten(), weights @ turned.flatten()
    moved = (before - after).abs() / before.max()
    assert moved[3:].max() < 0.01
    assert moved[:3].max() > 0.1


def test_the_width_is_shared_and_what_is_left_over_goes_to_the_first_parts() -> None:
    assert widths(PartsConfig(stripes=[2, 3], columns=[2], rings=[3], dim=64)) == [7, 7, 7, 7, 6, 6, 6, 6, 6, 6]
    assert widths(PartsConfig(rings=[3], dim=3)) == [1, 1, 1]


def test_each_part_is_the_linear_map_of_its_weighted_mean() -> None:
    block = PartsBlock(5, PartsConfig(stripes=[2], rings=[2], dim=7))
    x = torch.rand(3, 5, 4, 4)
    weights = part_weights((2,), (), (2,), 4, 4)
    expected = []
    for i, linear in enumerate(block.project):
        mean = sum(float(weights[i, 4 * r + c]) * x[:, :, r, c] for r in range(4) for c in range(4))
        expected.append(linear(mean))
    torch.testing.assert_close(block(x), torch.cat(expected, dim=1), rtol=1e-5, atol=1e-6)


def test_the_block_stands_between_look_and_the_attributes() -> None:
    config = ModelConfig(**SIZES, parts=CUTS)
    assert list(block_dims(config).items()) == [("look", 8), ("parts", 26), ("color", 6)]
    blocks = GarmentNet(config, VOCABULARY).eval()(torch.rand(2, 3, 48, 48) * 255).blocks
    assert {name: x.shape[1] for name, x in blocks.items()} == block_dims(config)
    assert list(blocks) == list(block_dims(config))


def settings(**model: object) -> dict:
    return {"name": "tiny", "model": SIZES | {"input_size": 32} | model}


def written(path: Path, **model: object) -> str:
    torch.manual_seed(0)
    config = parse(settings(**model), "test")
    net = GarmentNet(config.model, VOCABULARY).eval()
    return checkpoint.write(path, net, Memory(VOCABULARY, {"color": 6}, np.zeros((6, 2), np.float32)), config, {})


def test_a_checkpoint_without_parts_is_what_it_was_before_there_were_any(tmp_path: Path) -> None:
    """Neither its config, nor its fingerprint, nor a gallery's fingerprint of its config knows of the key."""
    mark = written(tmp_path / "plain.safetensors")
    model = checkpoint.read(tmp_path / "plain.safetensors")
    assert model.fingerprint == mark
    dumped = json.loads(model.config.model_dump_json())
    assert "parts" not in dumped["model"]
    assert "parts" not in dumped["training"]
    assert "mine" not in dumped
    assert model.config.model_dump(mode="json", exclude={"data", "training", "mine"}).keys() == {
        "name",
        "model",
        "search",
    }
    old = ("attributes", "backbone", "branch_dim", "branches", "detail", "grid", "input_size", "last_stride")
    old += ("reduction", "shallow")
    kept = model.config.model.model_dump(exclude={"pretrained", "detail_stride", "attention"})
    assert tuple(sorted(kept)) == old


def test_a_checkpoint_with_parts_comes_back_and_holds_no_heads(tmp_path: Path) -> None:
    mark = written(tmp_path / "parts.safetensors", parts=CUTS)
    model = checkpoint.read(tmp_path / "parts.safetensors")
    assert model.fingerprint == mark
    assert model.config.model.parts == PartsConfig(**CUTS)
    assert mark != written(tmp_path / "others.safetensors", parts=CUTS | {"rings": [2, 1]})


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"dim": 8}, "name stripes, columns or rings"),
        ({"rings": [9], "dim": 8}, "9 parts need one dimension each at least"),
        ({"rings": [0]}, "model.parts.rings.0"),
        ({"circles": [2]}, "model.parts.circles: unknown key"),
    ],
)
def test_parts_that_cannot_be_made(parts: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(settings(parts=parts), "test")


def test_an_attribute_called_parts_is_refused_only_beside_the_block(tmp_path: Path) -> None:
    named = {"attributes": {"parts": {"dim": 6}}}
    assert parse(settings(**named), "test").model.parts is None
    with pytest.raises(ConfigError, match="beside the block of that name"):
        parse(settings(**named, parts=CUTS), "test")


def test_the_blocks_weight_is_a_default_of_queries_only_where_there_is_the_block() -> None:
    search = {"search": {"weights": {"parts": 2.0}}}
    assert parse(settings(parts=CUTS) | search, "test").search.weights == {"parts": 2.0}
    with pytest.raises(ConfigError, match="parts"):
        parse(settings() | search, "test")
