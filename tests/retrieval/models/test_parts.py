"""Parts: exact shares of cells, the polar view, what turning a photo does, the block in a network and a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from index.errors import ConfigError, ModelError
from retrieval.config import ModelConfig, PartsConfig, parse
from retrieval.models import checkpoint
from retrieval.models.memory import Memory
from retrieval.models.network import GarmentNet, block_dims
from retrieval.models.parts import OVERLAP, STRIDE, PartsBlock, once, part_weights, polar, widths

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
            part = np.floor(y / height * n if kind == "stripes" else x / width * n)
            for k in range(n):
                found[k, r, c] = (part == k).mean()
    return found.reshape(n, -1) / found.sum(axis=(1, 2))[:, None]


@pytest.mark.parametrize("kind", ["stripes", "columns"])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 5), (1, 1), (6, 3)])
@pytest.mark.parametrize("n", [1, 3])
def test_cells_are_weighed_by_their_share_inside_the_part(kind: str, height: int, width: int, n: int) -> None:
    cuts = {name: (n,) if name == kind else () for name in ("stripes", "columns")}
    got = part_weights(**cuts, height=height, width=width)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(got, sampled(kind, n, height, width), atol=4e-3)


def slow_polar(photo: np.ndarray, h: int, w: int) -> np.ndarray:
    """(s, s) -> (h, w): each place of the view looked up in the photo by hand, bilinear, nearest beyond the edge."""
    side = len(photo)
    found = np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            radius, angle = (i + 0.5) / h * side / 2, (j + 0.5) / w * 2 * np.pi
            x, y = (
                side / 2 + radius * np.cos(angle) - 0.5,
                side / 2 + radius * np.sin(angle) - 0.5,
            )  # pixel 0's middle: 0
            left, top = int(np.floor(x)), int(np.floor(y))
            for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
                for column, right in ((left, 1 - (x - left)), (left + 1, x - left)):
                    at = min(max(row, 0), side - 1), min(max(column, 0), side - 1)
                    found[i, j] += down * right * photo[at]
    return found


@pytest.mark.parametrize(("side", "h", "w"), [(32, 32, 64), (20, 32, 64), (80, 64, 160)])
def test_a_polar_view_is_the_photo_looked_up_by_radius_and_angle(side: int, h: int, w: int) -> None:
    photos = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(side))
    view = polar(photos)
    assert view.shape == (2, 3, h, w + 2 * OVERLAP)
    for n, channel in ((0, 2), (1, 0)):
        middle = view[n, channel, :, OVERLAP : OVERLAP + w].numpy()
        np.testing.assert_allclose(middle, slow_polar(photos[n, channel].numpy(), h, w), atol=0.05)
    torch.testing.assert_close(view[..., :OVERLAP], view[..., w : w + OVERLAP], atol=0.01, rtol=0)
    torch.testing.assert_close(view[..., w + OVERLAP :], view[..., OVERLAP : 2 * OVERLAP], atol=0.01, rtol=0)


def test_a_quarter_turn_shifts_the_view_along_its_rows_and_a_map_of_it_loses_what_is_there_twice() -> None:
    photos = torch.rand(1, 3, 64, 64) * 255
    upright, turned = (once(polar(x), 128 + 2 * OVERLAP) for x in (photos, torch.rot90(photos, 1, dims=(2, 3))))
    assert upright.shape[3] == 128
    torch.testing.assert_close(turned, upright.roll(-32, dims=3), atol=0.01, rtol=0)  # anticlockwise, angles go down
    x = torch.arange(12.0).expand(1, 5, 2, 12)  # a map at stride 16
    assert once(x, 12 * 16)[0, 0, 0].tolist() == list(range(STRIDE // 16, 12 - STRIDE // 16))


def parts_of(block: PartsBlock, *maps: torch.Tensor) -> list[torch.Tensor]:
    return list(block(*maps).split(block.widths, dim=1))


def test_stripes_of_a_map_turned_by_90_degrees_are_columns_and_rings_forget_a_shift_of_theirs() -> None:
    """Linear maps are the same for all parts, so that what a stripe says can be compared with what a column says."""
    block = PartsBlock(5, PartsConfig(**CUTS | {"dim": 26}))
    with torch.inference_mode():
        for linear in (*block.project, *block.around):
            linear.weight.copy_(torch.ones(2, 5) * torch.arange(1, 6)) if len(linear.bias) == 2 else None
            linear.bias.zero_()
        upright, around = torch.rand(2, 5, 4, 4), torch.rand(2, 5, 3, 8)
        turned = torch.rot90(upright, 1, dims=(2, 3))  # anticlockwise: the top becomes the left side
        one, two = parts_of(block, upright, around), parts_of(block, turned, around.roll(3, dims=3))
    stripes, columns, rings = one[:5], one[5:10], one[10:]
    for i, ring in enumerate(rings):
        torch.testing.assert_close(two[10 + i], ring, rtol=1e-4, atol=1e-5)
    for i, stripe in enumerate(stripes):
        torch.testing.assert_close(two[5 + i], stripe, rtol=1e-4, atol=1e-5)  # the same number, counted from the left
    assert not torch.allclose(two[0], one[0], rtol=1e-3)
    back = [1, 0, 4, 3, 2]  # columns become stripes, counted from the bottom
    for i, at in enumerate(back):
        torch.testing.assert_close(two[i], columns[at], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("angle", "little"), [(90.0, 0.05), (37.0, 0.4)])
def test_rings_hardly_move_when_the_photo_is_turned_and_look_and_stripes_do(angle: float, little: float) -> None:
    """With random weights: how far features move, over how far apart photos lie."""
    from torchvision.transforms import functional as tv

    torch.manual_seed(0)
    sizes = SIZES | {"branch_dim": 16, "parts": {"stripes": [3], "rings": [3], "dim": 48}}
    net = GarmentNet(ModelConfig(**sizes), VOCABULARY).eval()
    coarse = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 255
    photos = torch.nn.functional.interpolate(coarse, size=64, mode="bicubic").clamp(0, 255)
    turned = tv.rotate(photos, angle, tv.InterpolationMode.BILINEAR)
    with torch.inference_mode():
        before, after = (
            {"look": blocks["look"], "stripes": blocks["parts"][:, :24], "rings": blocks["parts"][:, 24:]}
            for blocks in (net(photos).blocks, net(turned).blocks)
        )
    moved = {
        name: float((after[name] - x).norm(dim=1).mean() / (x - x.mean(dim=0)).norm(dim=1).mean())
        for name, x in before.items()
    }
    assert moved["rings"] < little, moved
    assert min(moved["look"], moved["stripes"]) > 0.8, moved


def test_a_network_without_rings_looks_at_a_photo_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    maps = GarmentNet.feature_maps
    monkeypatch.setattr(GarmentNet, "feature_maps", lambda net, x: (seen.append(x.shape[2:]), maps(net, x))[1])
    for cuts, times in ((None, 1), ({"stripes": [2], "columns": [2]}, 1), ({"rings": [2]}, 2)):
        seen.clear()
        GarmentNet(ModelConfig(**SIZES, parts=cuts), VOCABULARY).eval()(torch.zeros(1, 3, 64, 64))
        assert len(seen) == times


def test_the_width_is_shared_and_what_is_left_over_goes_to_the_first_parts() -> None:
    assert widths(PartsConfig(stripes=[2, 3], columns=[2], rings=[3], dim=64)) == [7, 7, 7, 7, 6, 6, 6, 6, 6, 6]
    assert widths(PartsConfig(rings=[3], dim=3)) == [1, 1, 1]


def test_each_part_is_the_linear_map_of_its_weighted_mean() -> None:
    block = PartsBlock(5, PartsConfig(stripes=[2], rings=[2], dim=7))
    x, around = torch.rand(3, 5, 4, 4), torch.rand(3, 5, 3, 6)
    top, bottom = x[:, :, :2].mean(dim=(2, 3)), x[:, :, 2:].mean(dim=(2, 3))
    rows = around.mean(dim=3)
    inner, outer = (rows[:, :, 0] + rows[:, :, 1] / 2) / 1.5, (rows[:, :, 2] + rows[:, :, 1] / 2) / 1.5
    expected = [block.project[0](top), block.project[1](bottom), block.around[0](inner), block.around[1](outer)]
    torch.testing.assert_close(block(x, around), torch.cat(expected, dim=1), rtol=1e-5, atol=1e-6)


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


def test_a_checkpoint_with_rings_of_the_ordinary_map_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there were polar views, rings had their linear maps in the one list, behind the others."""
    state = GarmentNet.state_dict

    def old(net: GarmentNet) -> dict[str, torch.Tensor]:
        flat = len(net.parts.project)
        return {
            key.replace(f"parts.around.{i}.", f"parts.project.{flat + i}."): value
            for key, value in state(net).items()
            for i in (int(key.split(".")[2]) if key.startswith("parts.around.") else 0,)
        }

    with monkeypatch.context() as patch:
        patch.setattr(GarmentNet, "state_dict", old)
        written(tmp_path / "old.safetensors", parts=CUTS)
    with pytest.raises(ModelError, match=r"weights do not fit the config inside it .*parts\.around.*: train again"):
        checkpoint.read(tmp_path / "old.safetensors")
    written(tmp_path / "flat.safetensors", parts={"stripes": [2], "columns": [3]})  # named as it was
    held = checkpoint.read(tmp_path / "flat.safetensors").net.state_dict()
    assert [key for key in held if key.startswith("parts.") and key.endswith("weight")] == [
        f"parts.project.{i}.weight" for i in range(5)
    ]


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
