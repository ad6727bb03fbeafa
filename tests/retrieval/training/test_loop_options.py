"""What a config switches on in the loop: kinds of batches and losses, several values, validation, TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from index.errors import InputError
from retrieval.config import Config, parse
from retrieval.datasets.records import Photo
from retrieval.models import checkpoint
from retrieval.models.encode import encode
from retrieval.models.network import GarmentNet
from retrieval.training import loop, losses
from retrieval.training.data import TrainingSet, gather

Colored = Callable[..., list[Photo]]
Settings = Callable[..., Config]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "device", lambda: torch.device("cpu"))


@pytest.fixture
def photos(colored: Colored, settings: Settings) -> TrainingSet:
    return gather(colored(40), settings())


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the loop is interrupted when it makes the batch of that step."""
    make = loop._batch

    def batch(data: Any, rows: Any, recolored: Any, generator: torch.Generator, *rest: Any) -> Any:
        if generator.initial_seed() == step:  # with seed 0 the generator's seed is the step
            raise KeyboardInterrupt
        return make(data, rows, recolored, generator, *rest)

    monkeypatch.setattr(loop, "_batch", batch)


def same(one: Path, two: Path) -> None:
    a, b = checkpoint.read(one), checkpoint.read(two)
    for name, tensor in a.net.state_dict().items():
        torch.testing.assert_close(b.net.state_dict()[name], tensor, rtol=1e-6, atol=1e-7, msg=name)
    np.testing.assert_allclose(b.memory.matrix, a.memory.matrix, rtol=1e-5, atol=1e-6)


def dotted(photos: list[Photo]) -> list[Photo]:
    """With an attribute of several values, read off the other two."""
    cells = {"red": "warm|bright", "blue": "cold|bright", "gray": "cold"}
    return [p._replace(attributes=p.attributes | {"marks": cells[p.attributes["color"] or ""]}) for p in photos]


MARKS = {"attributes": {"cut": {"dim": 4}, "color": {"dim": 6, "color": True}, "marks": {"dim": 6, "multi": True}}}
VARIANTS: dict[str, dict[str, Any]] = {
    "ids": {"batch": "ids", "style_loss": "triplet", "ids_per_batch": 3, "photos_per_id": 3},
    "adde": {"mining": "semi-hard", "distance": "squared", "margin": 0.5, "tuples": 0.5, "blanks": "match", "style": 0},
    "thesis": {"augment": "thesis"},
    "trained": {"memory": "trained", "memory_steps": 5},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_a_config_switches_trains_and_resumes(
    name: str, colored: Colored, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(model=MARKS, steps=3, **VARIANTS[name])
    data = gather(dotted(colored(40)), config)
    plain = loop.train(data, config, tmp_path / "unbroken.safetensors")
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)
    with monkeypatch.context() as patch:
        interrupt_at(2, patch)
        with pytest.raises(KeyboardInterrupt):
            loop.train(data, config, tmp_path / "broken.safetensors")
    resumed = loop.train(data, config, tmp_path / "broken.safetensors")
    same(tmp_path / "unbroken.safetensors", tmp_path / "broken.safetensors")
    assert set(plain["validation"]) == set(resumed["validation"])
    assert set(plain["validation"]["f1"]) == {"marks"}
    model = checkpoint.read(tmp_path / "unbroken.safetensors")
    inside = {a: model.memory.residual(a, *model.vocabulary[a][:2]) for a in model.vocabulary}
    assert all((len(parts) > 1) == (name == "trained") for parts in inside.values())


def test_several_values_are_learned_and_predicted(colored: Colored, settings: Settings, tmp_path: Path) -> None:
    config = settings(model=MARKS, steps=60, pairs=8)
    data = gather(dotted(colored(40)), config)
    facts = loop.train(data, config, tmp_path / "m.safetensors")
    model = checkpoint.read(tmp_path / "m.safetensors")
    held = np.flatnonzero(data.validation)
    encoded = encode(model, data.pixels[held])
    said = [set(cell.split("|")) if cell else set() for cell in encoded.predicted["marks"]]
    values = data.vocabulary["marks"]
    true = [{values[v] for v in np.flatnonzero(data.sets["marks"][row] == 1)} for row in held]
    both = sum(len(a & b) for a, b in zip(said, true, strict=True))
    f1 = 2 * both / sum(len(a) + len(b) for a, b in zip(said, true, strict=True))
    assert facts["validation"]["f1"]["marks"] == pytest.approx(f1, abs=1e-4)
    assert f1 > 0.8
    with torch.inference_mode():
        chances = torch.sigmoid(model.net(torch.from_numpy(data.pixels[held]).permute(0, 3, 1, 2)).logits["marks"])
    for cell, row, sure in zip(encoded.predicted["marks"], chances.tolist(), encoded.sure["marks"], strict=True):
        assert cell == ("|".join(v for v, c in zip(values, row, strict=True) if c > 0.5) or None)
        assert sure == pytest.approx(np.prod([max(c, 1 - c) for c in row]), rel=1e-4)


def test_whole_tuples_of_photos_without_some_label() -> None:
    """Skipped, or matched as if a blank were a value; a broken color says nothing either way."""
    codes = torch.tensor([[0, -1], [0, -1], [1, 0], [1, 0], [1, -1], [1, -1]])
    blocks = {"cut": torch.randn(6, 4), "color": torch.randn(6, 6)}
    config = {"name": "t", "model": {"attributes": {"cut": {"dim": 4}, "color": {"dim": 6, "color": True}}}}
    nothing = torch.zeros(6, dtype=torch.bool)
    unit = torch.cat([torch.nn.functional.normalize(block, dim=1) for block in blocks.values()], dim=1)

    def whole(blanks: str, broken: torch.Tensor) -> float:
        made = parse(config | {"training": {"blanks": blanks, "margin": 1.0}}, "test")
        known = [codes[:, 0], codes[:, 1].masked_fill(broken, -1)]
        return loop._triplets(blocks, known, broken, made)[1].item()

    def direct(tuples: list[int]) -> float:
        return losses.triplet(unit, torch.tensor(tuples), 1.0, "batch-all", "euclidean").item()

    assert whole("skip", nothing) == pytest.approx(direct([-1, -1, 0, 0, -1, -1])) == 0
    assert whole("match", nothing) == pytest.approx(direct([0, 0, 1, 1, 2, 2])) != 0
    broken = torch.tensor([False] * 4 + [True] * 2)
    assert whole("match", broken) == pytest.approx(direct([0, 0, 1, 1, -1, -1])) != 0


def test_the_best_by_validation_is_kept_across_an_interruption(
    photos: TrainingSet, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores are rigged so that the second of three validations is best."""
    scores = {2: 0.1, 4: 0.9, 6: 0.5}
    weights: dict[int, torch.Tensor] = {}
    monkeypatch.setattr(loop, "SAVE_EVERY", 1)
    rate = loop._validate

    def rigged(net: GarmentNet, *args: Any) -> dict[str, float]:
        step = args[-1]
        monkeypatch.setattr(loop.validate, "score", lambda facts: scores[step])
        weights[step] = net.stem[0].weight.detach().clone()  # type: ignore[union-attr,operator]
        point = rate(net, *args)
        assert net.training
        return point

    monkeypatch.setattr(loop, "_validate", rigged)
    config = settings(validate_every=2)
    for stop in (3, 5, -1):
        with monkeypatch.context() as patch:
            interrupt_at(stop, patch)
            if stop < 0:
                facts = loop.train(photos, config, tmp_path / "m.safetensors")
                break
            with pytest.raises(KeyboardInterrupt):
                loop.train(photos, config, tmp_path / "m.safetensors")
    assert sorted(weights) == [2, 4, 6]
    assert not torch.equal(weights[4], weights[6])
    kept = checkpoint.read(tmp_path / "m.safetensors").net.stem[0].weight  # type: ignore[index]
    torch.testing.assert_close(kept, weights[4], rtol=0, atol=0)
    assert facts["best_step"] == 4
    report = json.loads((tmp_path / "m.report.json").read_text())
    assert [(point["step"], point["score"]) for point in report["validations"]] == list(scores.items())
    assert {"accuracy cut", "accuracy color", "style hit@4"} <= set(report["validations"][0])
    assert [point["step"] for point in report["losses"]] == [1, 2, 3, 4, 5, 6]


def test_validation_takes_nothing_from_the_run(photos: TrainingSet, settings: Settings, tmp_path: Path) -> None:
    """The last weights are those of a run without it, whenever it looked."""
    loop.train(photos, settings(), tmp_path / "plain.safetensors")
    last = at_the_end(photos, settings(validate_every=4), tmp_path)
    plain = checkpoint.read(tmp_path / "plain.safetensors").net.state_dict()
    for name, value in last.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-6, atol=1e-7)


def at_the_end(photos: TrainingSet, config: Config, tmp_path: Path) -> dict[str, torch.Tensor]:
    """The network as it is at the last validation, which is after the last step."""
    seen: list[dict[str, torch.Tensor]] = []
    rate = loop._validate

    def watch(net: GarmentNet, *args: Any) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in net.state_dict().items()})
        return rate(net, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_validate", watch)
        loop.train(photos, config, tmp_path / "watched.safetensors")
    return seen[-1]


def test_validation_without_held_out_photos_is_refused(colored: Colored, settings: Settings, tmp_path: Path) -> None:
    config = settings(data={"holdout": 1e-6}, steps=1, validate_every=1)
    with pytest.raises(InputError, match="validate_every needs a validation part"):
        loop.train(gather(colored(20), config), config, tmp_path / "m.safetensors")


def test_tensorboard_gets_every_point(photos: TrainingSet, settings: Settings, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loop.train(photos, settings(steps=2, validate_every=1, tensorboard=True), tmp_path / "m.safetensors")
    events = EventAccumulator(str(tmp_path / "m.tensorboard"))
    events.Reload()
    report = json.loads((tmp_path / "m.report.json").read_text())
    for tag, kind, name in (("losses/ce", "losses", "ce"), ("validation/score", "validations", "score")):
        assert [e.step for e in events.Scalars(tag)] == [1, 2]
        assert [e.value for e in events.Scalars(tag)] == pytest.approx([p[name] for p in report[kind]], rel=1e-5)
