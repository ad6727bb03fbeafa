"""Batches and triplets of mined ids: negatives that are never anchors, against slow loops; a round of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from index.errors import MismatchError
from retrieval.models import checkpoint
from retrieval.training import loop, losses
from retrieval.training.data import gather
from retrieval.training.mined import AWAY, Mined, MinedPairSampler, MinedSampler
from retrieval.training.sampling import PairSampler

seeds = st.integers(0, 2**32 - 1)


def slow(features: np.ndarray, codes: list[int], anchors: list[bool], margin: float, mining: str) -> float:
    """Every triplet by hand: a and p of one code, both of them anchors; n of any other code."""
    x = features / np.linalg.norm(features, axis=1, keepdims=True)
    known = [i for i, code in enumerate(codes) if code >= 0]
    apart = {(i, j): float(np.linalg.norm(x[i] - x[j])) for i in known for j in known}
    hinges = []
    for a in known:
        for p in known:
            if a == p or codes[a] != codes[p] or not (anchors[a] and anchors[p]):
                continue
            away = [apart[a, n] for n in known if codes[n] != codes[a]]
            if mining == "batch-all":
                hinges += [h for n in away if (h := apart[a, p] - n + margin) > 0]
            elif away:
                beyond = [n for n in away if n > apart[a, p]]
                hinges.append(max(0.0, apart[a, p] - (min(beyond) if beyond else max(away)) + margin))
    return float(np.mean(hinges)) if hinges else 0.0


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 12), st.sampled_from(["batch-all", "semi-hard"]))
def test_photos_that_are_no_anchors_are_only_negatives(seed: int, n: int, mining: str) -> None:
    rng = np.random.default_rng(seed)
    features, codes, anchors = rng.normal(size=(n, 3)) + 0.1, rng.integers(-1, 3, n), rng.random(n) < 0.6
    got = losses.triplet(
        torch.tensor(features), torch.tensor(codes), 0.3, mining, "euclidean", torch.from_numpy(anchors)
    )
    assert got.item() == pytest.approx(slow(features, codes.tolist(), anchors.tolist(), 0.3, mining), abs=3e-4)


def test_negatives_that_lie_apart_from_each_other_are_not_drawn_together() -> None:
    """Two photos of the extra id, far apart: as an ordinary id they would be pulled together."""
    features = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [0.0, -1.0]], requires_grad=True)
    codes, anchors = torch.tensor([5, 5, 6, 6]), torch.tensor([True, True, False, False])
    assert losses.triplet(features, codes, 0.2, "batch-all", "euclidean", anchors).item() == 0
    assert losses.triplet(features, codes, 0.2, "batch-all", "euclidean").item() > 0.5


def pseudo(rng: np.random.Generator, first: int, n: int, ids: int) -> Mined:
    """Of the rows first to first + n: ids of 4 photos and 3 negatives each."""
    drawn = [first + rng.permutation(n)[:7] for _ in range(ids)]
    return Mined([each[:4] for each in drawn], [each[4:] for each in drawn])


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(2, 8), st.integers(2, 6), st.sampled_from([0.3, 1.0]))
def test_a_batch_holds_each_mined_id_with_one_id_of_its_negatives(
    seed: int, ids: int, photos: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    styles = np.concatenate((np.repeat(np.arange(10), 3), 100 + np.arange(60)))  # 10 styles, then 60 target photos
    mined = pseudo(rng, 30, 60, 12)
    batch = MinedSampler(styles, mined, ids, photos, share).draw(rng)
    assert batch.ids is not None
    assert batch.anchors is not None
    assert not batch.recolored.any()
    own = batch.rows < 30
    np.testing.assert_array_equal(batch.ids[own], styles[batch.rows[own]])
    assert batch.anchors[own].all()
    assert own.sum() == (ids - max(round(ids * share), 1)) * photos
    wanted = {tuple(sorted(p)): set(n.tolist()) for p, n in zip(mined.positives, mined.negatives, strict=True)}
    drawn = sorted(set(batch.ids[~own].tolist()))
    assert 2 <= len(drawn) <= 2 * max(round(ids * share), 1)
    assert min(drawn) > styles.max()
    for same, away in zip(drawn[::2], drawn[1::2], strict=True):
        positives, negatives = batch.rows[batch.ids == same], batch.rows[batch.ids == away]
        assert batch.anchors[batch.ids == same].all()
        assert not batch.anchors[batch.ids == away].any()
        assert len(positives) == len(set(positives.tolist())) == min(photos, 4)
        assert len(negatives) == len(set(negatives.tolist())) == min(photos, 3)
        holders = [
            i for i, each in enumerate(mined.positives) if set(positives.tolist()) <= set(each.tolist())
            and positives[0] == each[0]
        ]  # fmt: skip
        assert any(set(negatives.tolist()) <= wanted[tuple(sorted(mined.positives[i]))] for i in holders)
    target = batch.rows[~own].tolist()
    assert len(target) == len(set(target))  # no photo twice, and none both for and against


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 6), st.booleans())
def test_a_batch_of_pairs_holds_each_mined_query_with_a_positive(seed: int, count: int, alone: bool) -> None:
    rng = np.random.default_rng(seed)
    styles = np.concatenate((100 + np.arange(60), np.repeat(np.arange(10), 3)))  # 60 target photos, then 10 styles
    mined = pseudo(rng, 0, 60, 12)
    known = np.arange(60, 90)
    source = None if alone else PairSampler(styles[known], np.zeros(30, np.int64), 5, 1.0, 0.0)
    batch = MinedPairSampler(source, known, styles, mined, count).draw(rng)
    assert batch.ids is not None
    assert batch.anchors is not None
    assert not batch.recolored.any()
    assert len(batch.rows) % 2 == 0
    first, second = batch.rows.reshape(2, -1)
    for values in (batch.ids, batch.anchors):
        np.testing.assert_array_equal(*values.reshape(2, -1))
    ids, pairs = batch.ids.reshape(2, -1)[0], batch.anchors.reshape(2, -1)[0]
    of_source = pairs & (first >= 60)
    assert of_source.sum() == (0 if alone else 5)
    np.testing.assert_array_equal(styles[first[of_source]], ids[of_source])
    np.testing.assert_array_equal(styles[second[of_source]], ids[of_source])
    mine = pairs & (first < 60)
    assert 1 <= mine.sum() <= count
    assert ids[mine].min() > styles.max()
    assert len(set(ids[mine])) == mine.sum()
    allowed = {(int(p[0]), int(each)) for p in mined.positives for each in p[1:]}
    assert set(zip(first[mine].tolist(), second[mine].tolist(), strict=True)) <= allowed
    paired = [*first[mine].tolist(), *second[mine].tolist()]
    assert len(paired) == len(set(paired))
    away = [*first[~pairs].tolist(), *second[~pairs].tolist()]
    assert len(away) == len(set(away)) <= AWAY * mine.sum()
    assert not set(away) & set(paired)
    queries = set(first[mine].tolist())
    assert set(away) <= {
        int(each) for p, n in zip(mined.positives, mined.negatives, strict=True) if p[0] in queries for each in n
    }


def test_contrast_against_photos_that_are_only_negatives() -> None:
    """By hand: each view must find its other among all but its own style's, and the photos that are away."""
    rng = np.random.default_rng(3)
    one, two, away = (rng.normal(size=(n, 4)) for n in (3, 3, 2))
    styles = [7, 8, 7]
    every = np.concatenate((one, two, away))
    every /= np.linalg.norm(every, axis=1, keepdims=True)
    terms = []
    for i in range(6):
        mate = (i + 3) % 6
        others = [j for j in range(6) if j == mate or styles[j % 3] != styles[i % 3]] + [6, 7]
        scores = np.exp([every[i] @ every[j] / 0.5 for j in others])
        terms.append(-np.log(np.exp(every[i] @ every[mate] / 0.5) / scores.sum()))
    got = losses.style_contrast(*map(torch.tensor, (one, two, styles)), 0.5, torch.tensor(away))
    assert got.item() == pytest.approx(np.mean(terms), rel=1e-6)


def test_mined_rows_are_places_of_the_training_part() -> None:
    rows = np.array([2, 3, 5, 8, 9])
    mined = Mined([np.array([3, 9])], [np.array([8])])
    placed = mined.within(rows)
    assert [each.tolist() for each in placed.positives] == [[1, 4]]
    assert [each.tolist() for each in placed.negatives] == [[3]]
    assert mined.fingerprint() == Mined([np.array([3, 9])], [np.array([8])]).fingerprint()
    assert mined.fingerprint() != Mined([np.array([3])], [np.array([9, 8])]).fingerprint()


def test_a_round_of_contrast_trains_on_mined_pairs(
    colored: Callable[..., Any], settings: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "device", lambda: torch.device("cpu"))
    config = settings(pairs=4, steps=1)
    data = gather(colored(40), config)
    rows = np.flatnonzero(~data.validation)
    mined = Mined([rows[[0, 5]], rows[[8, 9]]], [rows[[20, 21]], rows[[22, 23]]])
    data.codes[rows[[0, 5, 8, 9, 20, 21, 22, 23]]] = -1  # photos of the target have no labels
    seen: list[Any] = []
    compute = loop._loss

    def kept(net: Any, batch: Any, broken: Any, labels: Any, *rest: Any) -> Any:
        seen.append((labels, broken))
        return compute(net, batch, broken, labels, *rest)

    monkeypatch.setattr(loop, "_loss", kept)
    loop.train(data, config, tmp_path / "m.safetensors", mined=mined)
    labels, broken = seen[0]
    assert len(labels.styles) == len(broken) == 2 * (2 + 2 + 2)  # known pairs, mined pairs, negatives
    np.testing.assert_array_equal(labels.anchors.reshape(2, -1)[0], [True] * 4 + [False] * 2)
    unlabelled = (labels.codes < 0).all(dim=1).reshape(2, -1)
    np.testing.assert_array_equal(unlabelled[0], [False] * 2 + [True] * 4)
    assert labels.styles.reshape(2, -1)[0][2:4].min() > data.styles[rows].max()


def test_a_training_on_pseudo_labels_sees_them_and_is_another_run_than_one_without(
    colored: Callable[..., Any], settings: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(loop, "SAVE_EVERY", 1)
    config = settings(batch="ids", style_loss="triplet", ids_per_batch=4, photos_per_id=2, steps=2)
    data = gather(colored(40), config)
    rows = np.flatnonzero(~data.validation)
    mined = Mined([rows[[0, 5]], rows[[8, 9]]], [rows[[20, 21]], rows[[22, 23]]])
    seen: list[Any] = []
    compute = loop._loss

    def kept(net: Any, batch: Any, broken: Any, labels: Any, *rest: Any) -> Any:
        seen.append(labels)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return compute(net, batch, broken, labels, *rest)

    monkeypatch.setattr(loop, "_loss", kept)
    out = tmp_path / "m.safetensors"
    with pytest.raises(KeyboardInterrupt):
        loop.train(data, config, out, mined=mined)
    labels = seen[0]
    assert labels.styles.shape == labels.anchors.shape == labels.codes.shape[:1]
    extra = ~labels.anchors
    assert extra.sum() == 4  # two mined ids of 4, each with its two negatives
    assert labels.styles[extra].min() > data.styles[rows].max()
    with pytest.raises(MismatchError):
        loop.train(data, config, out)
    monkeypatch.setattr(loop, "_loss", compute)
    loop.train(data, config, out, mined=mined)
    assert checkpoint.read(out).facts["photos"] == len(rows)


def test_a_part_of_the_pixels_is_the_same_pixels(colored: Callable[..., Any], settings: Callable[..., Any]) -> None:
    data = gather(colored(10), settings())
    part = data.pixels.part(np.array([3, 7]))
    np.testing.assert_array_equal(part[np.array([0, 1])], data.pixels[np.array([3, 7])])
    assert part.kept is data.pixels.kept
