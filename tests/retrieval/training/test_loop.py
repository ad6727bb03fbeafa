"""The loop: unbroken and resumed runs end alike, foreign states are refused, and something easy is learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from index.errors import InputError, MismatchError
from retrieval.config import Config
from retrieval.datasets.records import Photo
from retrieval.models import checkpoint, memory
from retrieval.models.encode import encode
from retrieval.models.network import GarmentNet
from retrieval.training import loop
from retrieval.training.data import TrainingSet, gather

Colored = Callable[..., list[Photo]]
Settings = Callable[..., Config]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "device", lambda: torch.device("cpu"))


@pytest.fixture
def photos(colored: Colored, settings: Settings) -> TrainingSet:
    return gather(colored(40), settings())


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on the loop is interrupted when it makes the batch of that step; returns the seeds it has drawn."""
    seen: list[int] = []
    make = loop._batch

    def batch(data: Any, rows: Any, recolored: Any, generator: torch.Generator, *rest: Any) -> Any:
        if generator.initial_seed() == step:  # with seed 0 the generator's seed is the step
            raise KeyboardInterrupt
        seen.append(generator.initial_seed())
        return make(data, rows, recolored, generator, *rest)

    monkeypatch.setattr(loop, "_batch", batch)
    return seen


def same(one: Path, two: Path) -> None:
    a, b = checkpoint.read(one), checkpoint.read(two)
    for name, tensor in a.net.state_dict().items():
        torch.testing.assert_close(b.net.state_dict()[name], tensor, rtol=1e-6, atol=1e-7, msg=name)
    np.testing.assert_allclose(b.memory.matrix, a.memory.matrix, rtol=1e-5, atol=1e-6)


def test_an_interrupted_run_ends_as_an_unbroken_one(
    photos: TrainingSet, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)
    config = settings()
    unbroken = loop.train(photos, config, tmp_path / "one" / "unbroken.safetensors")
    out = tmp_path / "two" / "broken.safetensors"
    state = tmp_path / "two" / "broken.state.safetensors"
    for stop, expected in ((1, [0]), (3, [0, 1, 2]), (5, [2, 3, 4])):  # before any state, and twice after one
        with monkeypatch.context() as patch:
            seen = interrupt_at(stop, patch)
            with pytest.raises(KeyboardInterrupt):
                loop.train(photos, config, out)
        assert seen == expected
        assert not out.exists()
        assert state.exists() == (stop > 1)
    seen = interrupt_at(-1, monkeypatch)
    resumed = loop.train(photos, config, out)
    assert seen == [4, 5]
    same(tmp_path / "one" / "unbroken.safetensors", out)
    assert resumed | {"fingerprint": ""} == unbroken | {"fingerprint": ""}
    left = sorted(p.name for p in out.parent.iterdir())  # the state is gone
    assert left == ["broken.report.html", "broken.report.json", "broken.safetensors"]


def test_a_run_interrupted_after_its_last_step_trains_no_more(
    photos: TrainingSet, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 3)
    out = tmp_path / "broken.safetensors"

    def stop(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "embed", stop)
        with pytest.raises(KeyboardInterrupt):
            loop.train(photos, settings(), out)
    seen = interrupt_at(-1, monkeypatch)
    loop.train(photos, settings(), out)
    assert seen == []
    loop.train(photos, settings(), tmp_path / "unbroken.safetensors")
    same(tmp_path / "unbroken.safetensors", out)


def test_another_runs_state_is_refused_with_both_fingerprints(
    photos: TrainingSet, colored: Colored, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 1)
    out, state = tmp_path / "m.safetensors", tmp_path / "m.state.safetensors"
    marks = [loop.train(photos, settings(), tmp_path / "whole.safetensors")["data"]]
    with monkeypatch.context() as patch:
        interrupt_at(1, patch)
        with pytest.raises(KeyboardInterrupt):
            loop.train(photos, settings(), out)
    before = state.read_bytes()
    others = [
        (photos, settings(seed=1)),
        (photos, settings(learning_rate=0.1)),
        (gather(colored(38), settings()), settings()),
    ]
    for data, config in others:
        with pytest.raises(MismatchError) as caught:
            loop.train(data, config, out)
        said = str(caught.value)
        marks.append(loop.train(data, config, tmp_path / f"{len(marks)}.safetensors")["data"])
        assert str(state) in said
        assert marks[0] in said
        assert marks[-1] in said
        assert "\n" not in said
    assert len(set(marks)) == len(marks)
    assert state.read_bytes() == before  # refusing costs nothing
    assert not out.exists()


def test_a_state_that_is_none_is_refused(photos: TrainingSet, settings: Settings, tmp_path: Path) -> None:
    out, state = tmp_path / "m.safetensors", tmp_path / "m.state.safetensors"
    state.write_bytes(b"torn")
    with pytest.raises(MismatchError, match="not a readable training state: delete it"):
        loop.train(photos, settings(), out)
    save_file({"x": torch.zeros(1)}, state)
    with pytest.raises(MismatchError, match="fingerprint none"):
        loop.train(photos, settings(), out)


def test_out_may_not_be_a_folder(photos: TrainingSet, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder: name the checkpoint file"):
        loop.train(photos, settings(), tmp_path)


def test_something_easy_is_learned_and_the_facts_are_right(
    photos: TrainingSet, colored: Colored, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history: list[dict[str, float]] = []
    compute = loop._loss

    def recorded(*args: Any) -> Any:
        loss, parts = compute(*args)
        history.append(parts | {"loss": loss.item()})
        return loss, parts

    monkeypatch.setattr(loop, "_loss", recorded)
    out = tmp_path / "m.safetensors"
    facts = loop.train(photos, settings(steps=60, pairs=8), out)
    assert len(history) == 60
    first, last = ({k: np.mean([h[k] for h in part]) for k in history[0]} for part in (history[:6], history[-6:]))
    assert last["loss"] < 0.7 * first["loss"]
    assert last["ce"] < 0.5 * first["ce"]
    for h in history:
        assert h["loss"] == pytest.approx(h["ce"] + h["triplet"] + h["tuples"] + h["style"], rel=1e-4)  # all weigh 1
    model = checkpoint.read(out)
    assert facts["fingerprint"] == model.fingerprint
    assert model.facts | {"fingerprint": model.fingerprint} == facts
    rows, held = np.flatnonzero(~photos.validation), np.flatnonzero(photos.validation)
    assert facts["photos"] == len(rows)
    assert facts["validation"]["photos"] == len(held)
    labels = {r.id: r.attributes for r in colored(40)}
    predicted = encode(model, photos.pixels[held]).predicted
    for name in ("cut", "color"):
        right = [labels[photos.ids[row]][name] == value for row, value in zip(held, predicted[name], strict=True)]
        assert facts["validation"]["accuracy"][name] == pytest.approx(np.mean(right), abs=1e-4)
        assert np.mean(right) > 0.8
    raw: dict[str, list[np.ndarray]] = {}
    model.net.quick = False  # as training is
    with torch.inference_mode():
        for row in rows:
            pixels = torch.from_numpy(photos.pixels[row : row + 1]).permute(0, 3, 1, 2)
            for name, block in model.net(pixels).blocks.items():
                raw.setdefault(name, []).append(block[0].numpy())
    means = memory.from_means({k: np.stack(v) for k, v in raw.items()}, photos.codes[rows], photos.vocabulary)
    np.testing.assert_allclose(model.memory.matrix, means.matrix, rtol=1e-3, atol=1e-4)


def test_half_precision_weights(photos: TrainingSet, settings: Settings, tmp_path: Path) -> None:
    loop.train(photos, settings(steps=2), tmp_path / "full.safetensors")
    facts = loop.train(photos, settings(steps=2), tmp_path / "half.safetensors", half=True)
    full, half = checkpoint.read(tmp_path / "full.safetensors"), checkpoint.read(tmp_path / "half.safetensors")
    assert half.fingerprint == facts["fingerprint"] != full.fingerprint
    weight = full.net.stem[0].weight
    torch.testing.assert_close(half.net.stem[0].weight, weight.half().float(), rtol=0, atol=0)
    assert half.path.stat().st_size < 0.6 * full.path.stat().st_size


def test_weights_are_taken_over_where_they_fit(photos: TrainingSet, settings: Settings, tmp_path: Path) -> None:
    loop.train(photos, settings(steps=1), tmp_path / "first.safetensors")
    start = checkpoint.read(tmp_path / "first.safetensors").net
    vocabulary = {name: ["new", *reversed(values)] for name, values in photos.vocabulary.items()}
    net = GarmentNet(start.config, vocabulary)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert set(loop.take_over(net, start, vocabulary, photos.vocabulary)) == set(before)
    after, given = net.state_dict(), start.state_dict()
    heads = {f"attributes.{name}.{part}": name for name in vocabulary for part in ("prototypes", "bias")}
    for name in after.keys() - heads.keys():
        torch.testing.assert_close(after[name], given[name], rtol=0, atol=0)
    for name, attribute in heads.items():  # a row goes to the value of its name
        for row, value in enumerate(vocabulary[attribute]):
            of = photos.vocabulary[attribute]
            expected = given[name][of.index(value)] if value in of else before[name][row]
            torch.testing.assert_close(after[name][row], expected, rtol=0, atol=0)
    wider = start.config.model_copy(update={"branch_dim": 2 * start.config.branch_dim})
    taken = loop.take_over(GarmentNet(wider, vocabulary), start, vocabulary, photos.vocabulary)
    assert set(before) - set(taken) == {
        f"branches.{k}.project.{part}" for k in range(wider.branches) for part in ("weight", "bias")
    }


def test_training_starts_from_the_checkpoint_that_is_named(
    photos: TrainingSet, settings: Settings, tmp_path: Path
) -> None:
    loop.train(photos, settings(steps=3), tmp_path / "first.safetensors")
    still = settings(steps=1, learning_rate=1e-12, start=str(tmp_path / "first.safetensors"))
    loop.train(photos, still, tmp_path / "second.safetensors")
    one, two = (checkpoint.read(tmp_path / f"{name}.safetensors").net for name in ("first", "second"))
    torch.testing.assert_close(one.stem[0].weight, two.stem[0].weight, rtol=0, atol=1e-6)


def test_no_validation_part(colored: Colored, settings: Settings, tmp_path: Path) -> None:
    config = settings(data={"holdout": 1e-6}, steps=1)
    facts = loop.train(gather(colored(20), config), config, tmp_path / "m.safetensors")
    assert facts["validation"] == {}
    assert facts["photos"] == 20


def test_embedding_has_no_randomness_and_any_batch_size(
    photos: TrainingSet, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = GarmentNet(settings().model, photos.vocabulary).eval()
    rows = np.array([5, 0, 39, 7, 7])
    blocks, logits = loop.embed(net, photos, rows)
    monkeypatch.setattr("retrieval.training.data.AT_ONCE", 2)
    again, _ = loop.embed(net, photos, rows)
    assert {k: v.shape for k, v in blocks.items()} == {"look": (5, 8), "cut": (5, 4), "color": (5, 6)}
    assert {k: v.shape for k, v in logits.items()} == {"cut": (5, 2), "color": (5, 3)}
    with torch.inference_mode():
        direct = net(torch.from_numpy(photos.pixels[rows]).permute(0, 3, 1, 2))
    for name, block in blocks.items():
        np.testing.assert_allclose(again[name], block, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(direct.blocks[name].numpy(), block, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(block[3], block[4])


def test_only_a_photo_paired_with_itself_is_recolored(
    photos: TrainingSet, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second view: the first keeps its color, so that they must find each other by the cut."""
    recolored: list[int] = []

    def count(views: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        recolored.append(len(views))
        return views * 0

    monkeypatch.setattr(loop.augment, "recolor", count)
    rows, broken = np.array([0, 2, 4, 1, 2, 4]), np.array([False, False, False, False, True, True])
    views = loop._batch(photos, rows, broken, torch.Generator().manual_seed(0), None, settings())
    assert views.shape == (6, 3, 32, 32)
    assert recolored == [2]
    assert [bool(view.any()) for view in views] == [True, True, True, True, False, False]


def test_the_first_share_of_the_steps_sees_coarse_photos(
    colored: Colored, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[int] = []
    compute = loop._loss

    def seen(net: Any, batch: torch.Tensor, *others: Any) -> Any:
        sides.append(batch.shape[2])
        return compute(net, batch, *others)

    monkeypatch.setattr(loop, "_loss", seen)
    config = settings(steps=5, coarse_size=32, coarse_share=0.6)
    config = config.model_copy(update={"model": config.model.model_copy(update={"input_size": 48})})
    loop.train(gather(colored(40), config), config, tmp_path / "model.safetensors")
    assert sides == [32, 32, 32, 48, 48]


def test_a_broken_color_does_not_train_the_color(photos: TrainingSet, settings: Settings) -> None:
    config = settings(style=0)  # the style loss reaches no attribute block, but be sure
    net = GarmentNet(config.model, photos.vocabulary).train()
    rows = np.arange(8)
    batch = torch.from_numpy(photos.pixels[rows]).permute(0, 3, 1, 2).float()
    weights = [torch.ones(len(v)) for v in photos.vocabulary.values()]
    labels = loop._labels(photos, rows, torch.device("cpu"))._replace(styles=torch.arange(4).repeat(2))
    for broken, trained in ((torch.ones(8, dtype=torch.bool), False), (torch.zeros(8, dtype=torch.bool), True)):
        net.zero_grad()
        loop._loss(net, batch, broken, labels, weights, config)[0].backward()
        grads = [net.attributes[name].prototypes.grad for name in ("color", "cut")]
        assert all(g is not None for g in grads)
        assert bool(grads[0].any()) == trained
        assert bool(grads[1].any())


def test_schedule_warms_up_then_falls_to_zero() -> None:
    steps = np.linspace(0, 1, 1001)
    rates = np.array([loop._schedule(float(s)) for s in steps])
    assert rates[0] == 0
    assert rates[50] == pytest.approx(1)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert rates[525] == pytest.approx(0.5, abs=1e-3)  # half way down the cosine
    assert (np.diff(rates[:51]) > 0).all()
    assert (np.diff(rates[50:]) <= 1e-12).all()
    assert np.abs(np.diff(rates)).max() < 0.021
