"""The network: names, shapes and order of its blocks, and the preprocessing inside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from retrieval.config import ModelConfig
from retrieval.models.network import MEAN, STD, GarmentNet, block_dims

VOCABULARY = {"sleeve": ["long", "short"], "color": ["red", "blue", "gray"]}
SIZES = {"backbone": "regnet_tiny", "input_size": 32, "branches": 3, "branch_dim": 4}
CONFIG = ModelConfig(**SIZES, attributes={"sleeve": {"dim": 5}, "color": {"dim": 6}})


def test_blocks_come_in_the_configs_order_with_the_stated_widths() -> None:
    net = GarmentNet(CONFIG, VOCABULARY).eval()
    with torch.inference_mode():
        output = net(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    assert block_dims(CONFIG) == {"look": 12, "sleeve": 5, "color": 6}
    assert list(output.blocks) == ["look", "sleeve", "color"]
    assert {name: tuple(block.shape) for name, block in output.blocks.items()} == {
        name: (2, width) for name, width in block_dims(CONFIG).items()
    }
    assert {name: tuple(x.shape) for name, x in output.logits.items()} == {"sleeve": (2, 2), "color": (2, 3)}


def test_look_is_the_branches_side_by_side() -> None:
    net = GarmentNet(CONFIG, VOCABULARY).eval()
    photos = torch.rand(2, 3, 32, 32) * 255
    with torch.inference_mode():
        features, _ = net.feature_maps(photos)
        look = net(photos).blocks["look"]
        for i, branch in enumerate(net.branches):
            torch.testing.assert_close(look[:, 4 * i : 4 * i + 4], branch(features))


@pytest.mark.parametrize("stride", [8, 16])
def test_detail_adds_a_linear_map_of_an_earlier_map_to_look(stride: int) -> None:
    changed = CONFIG.model_copy(update={"detail": 2, "grid": 2, "detail_stride": stride})
    net = GarmentNet(changed, VOCABULARY).eval()
    photos = torch.rand(2, 3, 32, 32) * 255
    with torch.inference_mode():
        last, shallow = net.feature_maps(photos)
        assert shallow[stride].shape[2:] == (32 // stride, 32 // stride)
        places = net.detail(shallow[stride]).permute(0, 2, 3, 1).reshape(2, -1)  # row by row, channels together
        branches = torch.cat([branch(last) for branch in net.branches], dim=1)
        torch.testing.assert_close(net(photos).blocks["look"], branches + net.layout(places), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [32, 40, 64])
def test_photos_of_another_size_than_the_configs_give_the_same_widths(size: int) -> None:
    """Training starts on smaller ones."""
    net = GarmentNet(CONFIG.model_copy(update={"detail": 2, "grid": 3, "input_size": 48}), VOCABULARY).eval()
    with torch.inference_mode():
        blocks = net(torch.rand(2, 3, size, size) * 255).blocks
    assert {name: block.shape[1] for name, block in blocks.items()} == block_dims(CONFIG)


def test_without_shallow_maps_attributes_see_the_last_one_alone() -> None:
    net = GarmentNet(CONFIG.model_copy(update={"shallow": False}), VOCABULARY)
    assert not any(block.shallow for block in net.attributes.values())
    assert all(len(block.shallow) == 2 for block in GarmentNet(CONFIG, VOCABULARY).attributes.values())


def test_attention_can_be_left_out_of_the_stem_and_of_the_attribute_blocks() -> None:
    nets = {
        kind: GarmentNet(CONFIG.model_copy(update={"attention": kind}), VOCABULARY)
        for kind in ("all", "blocks", "none")
    }
    found = {
        kind: (any("bottom." in n for n in net.state_dict()), any(".attend." in n for n in net.state_dict()))
        for kind, net in nets.items()
    }
    assert found == {"all": (True, True), "blocks": (False, True), "none": (False, False)}
    plain = nets["none"].eval()
    photos = torch.rand(2, 3, 32, 32) * 255
    with torch.inference_mode():
        last, shallow = plain.feature_maps(photos)
        block = plain.attributes["color"]
        hidden = block.hidden(last.mean(dim=(2, 3)))
        for pool, stride in zip(block.shallow, (4, 8), strict=True):
            mean = shallow[stride].mean(dim=(2, 3))
            hidden = hidden + pool.project(pool.norm(torch.cat((mean, mean), dim=1)))
        expected = block.project(torch.relu(hidden))
        torch.testing.assert_close(plain(photos).blocks["color"], expected, rtol=1e-3, atol=1e-4)


def test_photos_are_normalised_by_imagenets_statistics_on_0_to_255() -> None:
    net = GarmentNet(CONFIG, VOCABULARY).eval()
    seen = []
    net.stem.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    photos = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        first, again = net(photos).blocks["color"], net(photos.float()).blocks["color"]
    expected = (photos.numpy() / 255.0 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    np.testing.assert_allclose(seen[0].numpy(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(first, again)


def test_a_photos_features_do_not_depend_on_its_batch() -> None:
    net = GarmentNet(CONFIG, VOCABULARY).eval()
    photos = torch.rand(5, 3, 32, 32) * 255
    with torch.inference_mode():
        together = net(photos).blocks
        for i in range(5):
            for name, alone in net(photos[i : i + 1]).blocks.items():
                torch.testing.assert_close(alone[0], together[name][i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["type", "items", "half", "sleeve length", "Ärmel"])
def test_any_column_name_can_be_an_attribute(name: str) -> None:
    config = ModelConfig(**SIZES, attributes={name: {"dim": 5}})
    net = GarmentNet(config, {name: ["a", "b"]})
    state = net.state_dict()
    assert f"attributes.{name}.bias" in state
    other = GarmentNet(config, {name: ["a", "b"]}).eval()
    other.load_state_dict(state)
    photos = torch.rand(2, 3, 32, 32) * 255
    with torch.inference_mode():
        torch.testing.assert_close(other(photos).blocks[name], net.eval()(photos).blocks[name])
    assert net.attributes.to("cpu") is net.attributes


def test_bfloat16_maps_turn_no_block_far_and_leave_gradients_alone() -> None:
    torch.manual_seed(3)
    net = GarmentNet(CONFIG.model_copy(update={"detail": 2}), VOCABULARY).eval()
    photos = torch.rand(16, 3, 32, 32) * 255
    with torch.inference_mode():
        exact = net(photos)
        net.quick = True
        quick = net(photos)
        assert all(x.dtype == torch.float32 for x in net.feature_maps(photos)[1].values())
    for name, block in exact.blocks.items():
        assert quick.blocks[name].dtype == torch.float32
        assert not torch.equal(quick.blocks[name], block)
        assert torch.cosine_similarity(quick.blocks[name], block).min() > 0.99, name
    assert torch.equal(net(photos).blocks["color"].detach(), exact.blocks["color"])
