"""Regions: masks as they are read, moved with their photos, laid over a map's cells; and that they teach."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from index.errors import ConfigError, InputError
from retrieval.config import Config
from retrieval.datasets.garments import generate
from retrieval.datasets.readers import open_photos
from retrieval.datasets.records import Photo
from retrieval.models import checkpoint
from retrieval.models.network import GarmentNet
from retrieval.photos import letterbox
from retrieval.training import loop, regions
from retrieval.training.data import TrainingSet, gather

Settings = Callable[..., Config]
Colored = Callable[..., list[Photo]]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "device", lambda: torch.device("cpu"))


def masks_of(photos: list[Photo], folder: Path, attribute: str) -> None:
    """The block of every photo of ``colored`` as its region."""
    (folder / attribute).mkdir(parents=True)
    for photo in photos:
        mask = np.zeros((32, 32), bool)
        wide = photo.attributes["cut"] == "wide"
        mask[(slice(10, 22), slice(4, 28)) if wide else (slice(4, 28), slice(10, 22))] = True
        Image.fromarray(mask).save(folder / attribute / f"{photo.id}.png")


def taught(folder: Path, colored: Colored, settings: Settings, **training: Any) -> tuple[TrainingSet, Config]:
    photos = colored(40)
    masks_of(photos, folder, "cut")
    config = settings(data={"regions": str(folder)}, model={"shallow": False}, **training)
    return gather(photos, config), config


def test_masks_are_read_into_the_letterbox(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((40, 30)) < 0.5
    (tmp_path / "sleeve").mkdir()
    Image.fromarray(mask).save(tmp_path / "sleeve" / "a.png")
    got = regions.read(tmp_path, ["a", "b"], ["sleeve", "length"], 80)
    assert got.shape == (2, 2, 20, 20)
    assert not got[1].any()
    assert not got[0, 1].any()
    whole = letterbox(np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255, 80)[..., 0]
    for y in range(20):
        for x in range(20):
            assert got[0, 0, y, x] == int(whole[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean())
    assert regions.grown(got, 80).shape == (2, 2, 80, 80)
    assert regions.grown(got, 80).max() <= 1
    with pytest.raises(InputError, match=r"no masks of the photos, such as length/a.png .*--regions"):
        regions.read(tmp_path, ["a"], ["length"], 80)
    (tmp_path / "sleeve" / "b.png").write_text("no picture")
    with pytest.raises(InputError, match=r"sleeve/b.png: not a mask"):
        regions.read(tmp_path, ["a", "b"], ["sleeve"], 80)


def test_cells_see_a_stride_around_their_pixel() -> None:
    masks = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0))
    got = regions.cells_of(masks, 4)
    expected = torch.zeros(2, 4, 4)
    for i in range(4):
        for j in range(4):
            part = masks[:, max(16 * i - 8, 0) : 16 * i + 8, max(16 * j - 8, 0) : 16 * j + 8]
            expected[:, i, j] = part.sum(dim=(1, 2)) / 256  # beyond the border nothing shows
    torch.testing.assert_close(got, expected / expected.amax(dim=(1, 2), keepdim=True))
    assert not regions.cells_of(torch.zeros(1, 96, 96), 6).any()


def test_the_loss_is_minus_log_of_the_share_inside() -> None:
    shares = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]] * 3)
    masks = torch.zeros(3, 32, 32)
    masks[0, 16:24] = 1  # half of what either lower cell sees: as good as all of it
    masks[1] = 1
    got = regions.loss(shares, masks)
    quarter = torch.tensor([[1, 1], [1, 1]]) * torch.tensor([[0.25, 0.5], [0.5, 1.0]])  # the border's cells see less
    inside = [0.3 * 0.5 + 0.4, float((shares[1] * quarter).sum())]
    assert got == pytest.approx(-np.mean(np.log(inside)), abs=1e-5)
    nothing = shares.clone().requires_grad_()
    none = regions.loss(nothing, torch.zeros(3, 32, 32))
    none.backward()
    assert none == 0
    assert nothing.grad is not None


@pytest.mark.parametrize("attention", ["blocks", "none"])
def test_shares_are_what_cells_add_to_the_hidden_layer(attention: str, settings: Settings) -> None:
    config = settings(model={"shallow": False, "attention": attention, "input_size": 64}).model
    net = GarmentNet(config, {"cut": ["wide", "tall"], "color": ["red", "blue", "gray"]}).eval()
    photos = torch.rand(2, 3, 64, 64) * 255
    with torch.inference_mode():
        assert net(photos).shares is None
        net.telling = True
        shares = net(photos).shares
        last, _ = net.feature_maps(photos)
        for name, block in net.attributes.items():
            attended = last if attention == "none" else block.attend(last)  # type: ignore[operator]
            each = torch.stack(
                [block.hidden(cell) - block.hidden.bias for cell in attended.flatten(2).unbind(dim=2)], dim=1
            )  # (n, cells, hidden)
            hidden, bias = each.mean(dim=1), block.hidden.bias
            whole = block.project(torch.relu(hidden + bias))
            torch.testing.assert_close(net(photos).blocks[name], whole, rtol=1e-4, atol=1e-5)
            length = each.norm(dim=2)
            torch.testing.assert_close(shares[name].flatten(1), length / length.sum(dim=1, keepdim=True))


def test_masks_move_with_their_photos(colored: Colored, settings: Settings, tmp_path: Path) -> None:
    """What is dark in a moved photo (the block; white around it) is what its moved mask says."""
    data, config = taught(tmp_path, colored, settings)
    rows = np.arange(8)
    views = loop._batch(data, rows, np.zeros(8, bool), torch.Generator().manual_seed(0), None, config)
    assert views.shape == (8, 5, 32, 32)
    assert not views[:, 4].any()  # the color has no masks
    white = views[:, :3].amin(dim=1) > 190
    outside = views[:, :3].amax(dim=1) == 0  # of the photo, once moved
    block = ~white & ~outside
    mask = views[:, 3] > 0.5
    assert (block & mask).sum() / (block | mask).sum() > 0.7


def test_the_head_learns_to_look_there(colored: Colored, settings: Settings, tmp_path: Path) -> None:
    """On held-out photos more of the cut's reasons lie in the block than the block's own share of the photo."""
    found = {}
    for weight in (0.0, 1.0):
        folder = tmp_path / str(weight)
        data, config = taught(folder, colored, settings, steps=40, pairs=8, regions=weight)
        loop.train(data, config, tmp_path / "m.safetensors")
        net = checkpoint.read(tmp_path / "m.safetensors").net
        assert not net.telling
        net.telling = True
        held = np.flatnonzero(data.validation)
        with torch.inference_mode():
            said = net(torch.from_numpy(data.pixels[held]).permute(0, 3, 1, 2)).shares["cut"]
        masks = regions.grown(data.regions[held], 32)[:, 0]
        found[weight] = float(regions.loss(said, masks))
    assert found[1.0] < 0.6 * found[0.0]
    assert found[1.0] < math.log(2)


def test_regions_of_drawn_garments_are_found_beside_the_photos(settings: Settings, tmp_path: Path) -> None:
    generate(tmp_path / "garments", 24, regions=True)
    model = {"attributes": {"sleeve": {"dim": 4}, "category": {"dim": 4}}}
    data = gather(
        open_photos(tmp_path / "garments"), settings(model=model, data={"style": "style", "regions": "regions"})
    )
    assert data.regions is not None
    assert data.regions.shape == (24, 2, 8, 8)
    known = data.codes[:, 0] >= 0
    assert (data.regions[:, 0].any(axis=(1, 2)) == known).all()
    assert not data.regions[:, 1].any()


def test_regions_need_changes_that_move_masks(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="augment: shop"):
        settings(data={"regions": "regions"}, augment="thesis")
