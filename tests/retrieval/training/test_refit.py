"""The last fit of the linear layers: what it sees, what it leaves alone, and that it learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from index.errors import ConfigError
from retrieval.config import Config
from retrieval.datasets.records import Photo
from retrieval.models import checkpoint
from retrieval.models.network import GarmentNet
from retrieval.training import loop, losses
from retrieval.training.data import TrainingSet, gather
from retrieval.training.refit import gather as pooled_means
from retrieval.training.refit import refit

Colored = Callable[..., list[Photo]]
Settings = Callable[..., Config]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "device", lambda: torch.device("cpu"))


def dotted(photos: list[Photo]) -> list[Photo]:
    """With an attribute of several values, read off the color."""
    cells = {"red": "warm|bright", "blue": "cold|bright", "gray": "cold"}
    return [p._replace(attributes=p.attributes | {"marks": cells[p.attributes["color"] or ""]}) for p in photos]


MODEL = {"attributes": {"cut": {"dim": 4}, "color": {"dim": 6, "color": True}, "marks": {"dim": 4, "multi": True}}}


@pytest.fixture
def photos(colored: Colored, settings: Settings) -> tuple[TrainingSet, Config]:
    config = settings(model=MODEL)
    return gather(dotted(colored(60)), config), config


def fresh(config: Config, data: TrainingSet) -> GarmentNet:
    torch.manual_seed(3)
    return GarmentNet(config.model, data.vocabulary).eval()


def accuracy(net: GarmentNet, data: TrainingSet, rows: np.ndarray, name: str) -> float:
    logits = loop.embed(net, data, rows)[1][name]
    if name in data.sets:
        return float(((logits > 0) == (data.sets[name][rows] == 1)).mean())
    return float((logits.argmax(1) == data.codes[rows, list(data.vocabulary).index(name)]).mean())


def test_pooled_means_are_what_the_blocks_score(photos: tuple[TrainingSet, Config]) -> None:
    data, config = photos
    net, rows = fresh(config, data), np.arange(10)
    means = pooled_means(net, data, rows)
    blocks, logits = loop.embed(net, data, rows)
    for name, block in net.attributes.items():
        raw, scores = block.score([each.float() for each in means[name]])  # type: ignore[operator]
        np.testing.assert_allclose(raw.detach().numpy(), blocks[name], atol=2e-3)
        np.testing.assert_allclose(scores.detach().numpy(), logits[name], atol=2e-2)


def test_it_learns_one_value_and_several_and_touches_nothing_else(photos: tuple[TrainingSet, Config]) -> None:
    data, config = photos
    net, rows = fresh(config, data), np.flatnonzero(~data.validation)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    weights = loop._weights(data, rows, 0.0, torch.device("cpu"))
    names = ("color", "marks")  # the means of random filters know colors, but no shapes
    was = {name: accuracy(net, data, rows, name) for name in names}
    refit(net, data, rows, weights, 150, seed=0)
    assert not net.training
    for name in names:
        assert accuracy(net, data, rows, name) > was[name] + 0.2, name
    after = net.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved
    assert all(name.startswith("attributes.") for name in moved)
    assert not any(".attend." in name or ".norm." in name for name in moved)


def test_a_seed_repeats_it_and_an_unlabelled_attribute_stays(photos: tuple[TrainingSet, Config]) -> None:
    data, config = photos
    rows = np.flatnonzero(~data.validation)
    data.codes[:, 0] = -1
    weights = loop._weights(data, rows, 0.0, torch.device("cpu"))
    nets = [fresh(config, data) for _ in range(2)]
    untouched = {name: value.clone() for name, value in nets[0].state_dict().items() if ".cut." in name}
    for net in nets:
        refit(net, data, rows, weights, 3, seed=5)
    for name, value in nets[0].state_dict().items():
        assert torch.equal(nets[1].state_dict()[name], value)
    for name, value in untouched.items():
        assert torch.equal(nets[0].state_dict()[name], value)


def test_zero_steps_fit_the_heads_of_a_checkpoint(
    photos: tuple[TrainingSet, Config], settings: Settings, tmp_path: Path
) -> None:
    data, config = photos
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    loop.train(data, settings(model=MODEL, steps=1), first)
    facts = loop.train(data, settings(model=MODEL, steps=0, start=str(first), refit=150, memory="heads"), second)
    a, b = checkpoint.read(first).net, checkpoint.read(second).net
    kept = [name for name in a.state_dict() if name.startswith(("stem.", "body.", "branches."))]
    assert kept
    assert all(torch.equal(a.state_dict()[name], b.state_dict()[name]) for name in kept)
    assert facts["validation"]["accuracy"]["color"] > 0.75
    with pytest.raises(ConfigError, match="steps: 0 needs start"):
        settings(model=MODEL, steps=0)


def test_photo_contrast_is_the_mean_over_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, has = rng.normal(size=(7, 4)), rng.random((7, 4)) < 0.4
    has[:, 2] = False
    slow = [-np.log(np.exp(scores[i, v]) / np.exp(scores[:, v]).sum()) for i in range(7) for v in range(4) if has[i, v]]
    told = losses.photo_contrast(torch.from_numpy(scores), torch.from_numpy(has))
    assert abs(told.item() - np.mean(slow)) < 1e-9
    assert losses.photo_contrast(torch.zeros(3, 2, requires_grad=True), torch.zeros(3, 2, dtype=torch.bool)).item() == 0
