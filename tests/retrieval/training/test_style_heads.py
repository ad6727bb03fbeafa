"""Parts in training: a head for each, over styles of several photos; gone from what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from retrieval.models import checkpoint
from retrieval.training import loop, losses
from retrieval.training.data import gather
from retrieval.training.parts import StyleHeads, style_classes

PARTS = {"stripes": [2], "columns": [2], "rings": [2], "dim": 12}


def test_classes_are_the_styles_of_several_photos_of_the_training_part() -> None:
    styles = np.array([7, 3, 7, 5, 3, 9, 5])
    rows = np.array([0, 1, 2, 3, 4, 5])  # the second photo of style 5 is held out
    assert style_classes(styles, rows).tolist() == [1, 0, 1, -1, 0, -1, -1]


def test_a_head_is_the_scaled_cosine_of_its_own_part() -> None:
    heads = StyleHeads([2, 3], 4)
    with torch.no_grad():
        heads.scale.copy_(torch.tensor([5.0, 8.0]))
    block = torch.randn(6, 5)
    for i, (got, part) in enumerate(zip(heads(block), (block[:, :2], block[:, 2:]), strict=True)):
        expected = torch.empty(6, 4)
        for n in range(6):
            for s in range(4):
                own = heads.prototypes[i][s]
                expected[n, s] = heads.scale[i] * torch.dot(part[n], own) / part[n].norm() / own.norm()
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_mean_cross_entropy_and_styles_of_one_photo_take_no_part() -> None:
    logits = [torch.randn(5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)]
    classes = torch.tensor([2, -1, 0, 0, -1])
    each = [-torch.log_softmax(x, dim=1)[[0, 2, 3], [2, 0, 0]].mean() for x in logits]
    loss = losses.parts(logits, classes)
    assert loss.item() == pytest.approx(sum(each).item() / 2, rel=1e-5)
    loss.backward()
    assert logits[0].grad is not None
    assert not logits[0].grad[[1, 4]].any()
    none = losses.parts(logits, torch.full((5,), -1))
    assert none.item() == 0
    none.backward()


def test_parts_are_trained_and_their_heads_are_not_kept(
    colored: Callable[..., Any], settings: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off and gone on with, it ends as an unbroken run, heads and all."""
    monkeypatch.setattr(loop, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(loop, "SAVE_EVERY", 1)
    config = settings({"parts": PARTS}, steps=3)
    data = gather(colored(24), config)
    out, told = tmp_path / "m.safetensors", []
    compute = loop._loss

    def kept(*args: Any) -> Any:
        loss, parts = compute(*args)
        told.append(parts)
        return loss, parts

    monkeypatch.setattr(loop, "_loss", kept)
    whole = loop.train(data, config, out)
    assert [each["parts"] > 0 for each in told] == [True] * 3
    with safe_open(str(out), framework="pt") as file:
        assert not [key for key in file.keys() if "style_heads" in key]  # noqa: SIM118
    model = checkpoint.read(out)
    assert model.fingerprint == whole["fingerprint"]
    assert not model.net.style_heads

    again = tmp_path / "again.safetensors"

    def stop(*args: Any) -> Any:
        if len(told) == 3 + 2:
            raise KeyboardInterrupt
        return kept(*args)

    monkeypatch.setattr(loop, "_loss", stop)
    with pytest.raises(KeyboardInterrupt):
        loop.train(data, config, again)
    monkeypatch.setattr(loop, "_loss", kept)
    loop.train(data, config, again)
    assert len(told) == 3 + 2 + 1
    for name, tensor in model.net.state_dict().items():
        torch.testing.assert_close(
            checkpoint.read(again).net.state_dict()[name], tensor, rtol=1e-5, atol=1e-6, msg=name
        )


def test_look_as_a_whole_learns_the_style_where_identity_is_weighed(
    colored: Callable[..., Any], settings: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is the cross entropy of a cosine head on all of look; the total holds it at its weight."""
    monkeypatch.setattr(loop, "device", lambda: torch.device("cpu"))
    seen: list[tuple[Any, ...]] = []
    compute = loop._loss

    def kept(net: Any, batch: Any, broken: Any, labels: Any, weights: Any, config: Any) -> Any:
        loss, parts = compute(net, batch, broken, labels, weights, config)
        seen.append((net(batch), labels.classes, loss.item(), parts))
        return loss, parts

    monkeypatch.setattr(loop, "_loss", kept)
    alone = {"classify": 0, "triplet": 0, "style": 0}
    config = settings({}, steps=1, identity=2.0, **alone)
    loop.train(gather(colored(24), config), config, tmp_path / "m.safetensors")
    output, classes, total, told = seen[0]
    assert list(output.styles) == ["look"]
    (logits,) = output.styles["look"]
    assert logits.shape[1] == int(classes.max()) + 1
    known = classes >= 0
    expected = torch.nn.functional.cross_entropy(logits[known], classes[known]).item()
    assert told["identity"] == pytest.approx(expected, rel=1e-4)
    assert total == pytest.approx(2 * expected, rel=1e-4)
    assert not checkpoint.read(tmp_path / "m.safetensors").net.style_heads


def test_with_the_loss_off_there_are_no_heads(
    colored: Callable[..., Any], settings: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(loop, "StyleHeads", None)  # would raise where it is called
    config = settings({"parts": PARTS}, steps=1, parts=0)
    loop.train(gather(colored(24), config), config, tmp_path / "m.safetensors")
    assert checkpoint.read(tmp_path / "m.safetensors").config.model.parts is not None
