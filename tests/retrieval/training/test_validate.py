"""Figures of a validation against plain loops over photos."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from retrieval.models import memory
from retrieval.training import validate


def unit(v: np.ndarray) -> np.ndarray:
    return v / np.sqrt((v**2).sum())


def test_style_hit_is_the_loop() -> None:
    rng = np.random.default_rng(0)
    look, styles = rng.normal(size=(60, 3)), rng.integers(0, 25, 60)
    look += styles[:, None] % 5
    asked = found = 0
    for i in range(60):
        mates = [j for j in range(60) if j != i and styles[j] == styles[i]]
        if mates:
            near = sorted((j for j in range(60) if j != i), key=lambda j: -float(unit(look[i]) @ unit(look[j])))[:4]
            asked, found = asked + 1, found + bool(set(near) & set(mates))
    assert 0 < found < asked
    assert validate.style_hit(look, styles) == pytest.approx(found / asked, abs=1e-4)
    assert validate.style_hit(look[:3], np.arange(3)) is None


def test_edit_hit_asks_what_the_sampler_draws_and_ranks_by_unit_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    codes = np.stack((rng.integers(0, 3, 50), rng.integers(0, 2, 50)), axis=1)
    labels = np.concatenate((codes[:, :1] == np.arange(3), codes[:, 1:] == np.arange(2)), axis=1).astype(np.int8)
    blocks = {"a": rng.normal(size=(50, 4)).astype("f4"), "b": rng.normal(size=(50, 3)).astype("f4")}
    m = memory.Memory({"a": list("xyz"), "b": list("pq")}, {"a": 4, "b": 3}, rng.normal(size=(7, 5)).astype("f4"))
    drawn: list[Any] = []
    draw = validate.EditSampler.draw
    monkeypatch.setattr(validate.EditSampler, "draw", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    got = validate.edit_hit(blocks, labels, m, [False, False], 0)
    hits = []
    for i, change in zip(drawn[0].reference, drawn[0].change, strict=True):
        edited = np.concatenate([blocks["a"][i], blocks["b"][i]]) + m.matrix @ change
        score = [unit(edited[:4]) @ unit(blocks["a"][j]) + unit(edited[4:]) @ unit(blocks["b"][j]) for j in range(50)]
        near = sorted((j for j in range(50) if j != i), key=lambda j: -score[j])[:10]
        hits.append(any((labels[j] == labels[i] + change).all() for j in near))
    assert 0 < np.mean(hits) < 1
    assert got == pytest.approx(np.mean(hits), abs=1e-4)


def test_heads_by_hand() -> None:
    data: Any = SimpleNamespace(
        vocabulary={"kind": ["a", "b"], "marks": ["s", "f"], "none": ["x", "y"]},
        codes=np.array([[0, 0, -1], [1, 1, -1], [-1, -1, -1], [0, 2, -1]]),
        sets={"marks": np.array([[1, 0], [1, 1], [-1, -1], [0, 1]])},
    )
    logits = {
        "kind": np.array([[1.0, 0], [1, 0], [1, 0], [2, 1]]),
        "marks": np.array([[1.0, 1], [1, -1], [5, 5], [-1, 1]]),
        "none": np.zeros((4, 2)),
    }
    found = validate.heads(logits, data, np.arange(4))
    assert found == {"accuracy": {"kind": 0.6667}, "f1": {"marks": 0.75}}  # 3 right, of 4 said and 4 true
    assert validate.score({**found, "style hit@4": 0.5}) == pytest.approx((np.mean([0.6667, 0.75]) + 0.5) / 2)


def test_a_sample_keeps_whole_styles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "SAMPLE", 21)
    data: Any = SimpleNamespace(styles=np.repeat(np.arange(50), 2)[np.random.default_rng(0).permutation(100)])
    rows = np.arange(0, 100)
    chosen = validate.sample(data, rows, 0)
    assert len(chosen) == len(set(chosen)) == 21
    _, counts = np.unique(data.styles[chosen], return_counts=True)
    assert sorted(counts)[:2] == [1, 2]  # only the last style may be cut
    np.testing.assert_array_equal(chosen, validate.sample(data, rows, 0))
    assert not np.array_equal(chosen, validate.sample(data, rows, 1))
    np.testing.assert_array_equal(validate.sample(data, rows[:20], 0), rows[:20])
