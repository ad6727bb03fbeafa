"""Words for photos: the vector of a text, how it is learned, how it is judged, and what a query makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from index.errors import InputError
from index.table import Layout
from retrieval import query as q
from retrieval.outfits import text
from retrieval.outfits.config import TextConfig

COLORS, KINDS = ("red", "blue", "green", "black"), ("shirt", "shoe", "bag")


def titled(n: int, seed: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Photos of a color and a kind, a block each, with titles that say so in either order."""
    codes = np.stack([np.random.default_rng(seed).integers(m, size=n) for m in (len(COLORS), len(KINDS))], 1)
    fixed = np.random.default_rng(99)
    parts = []
    for column, size in enumerate((len(COLORS), len(KINDS))):
        prototypes = fixed.normal(size=(size, 8))
        block = prototypes[codes[:, column]] + np.random.default_rng(seed + 1).normal(size=(n, 8)) * 0.3
        parts.append(block / np.linalg.norm(block, axis=1, keepdims=True))
    titles = [
        f"Acme {COLORS[c]} {KINDS[k]}s" if i % 2 else f"{KINDS[k]}, {COLORS[c]}" for i, (c, k) in enumerate(codes)
    ]
    return titles, codes, np.concatenate(parts, 1).astype(np.float16)


@pytest.fixture(scope="module")
def words() -> text.Words:
    titles, _, units = titled(400, 0)
    config = TextConfig(dim=16, steps=150, batch=64, learning_rate=0.02, min_count=2)
    net, known = text.fit(titles, titles, units, config)
    return text.Words(net, known, {"crimson": "Red", "sneakers": "shoe", "nothing": "unheard"})


def test_unseen_photos_are_found_by_their_titles(words: text.Words) -> None:
    titles, codes, units = titled(300, 7)
    best = np.argmax(words.encode(titles) @ units.astype(np.float32).T, axis=1)
    assert (codes[best] == codes).all(axis=1).mean() > 0.95


def test_a_word_is_long_in_the_block_that_it_speaks_of(words: text.Words) -> None:
    color, kind = words.encode(["blue", "bag"])
    assert np.linalg.norm(color[:8]) > 2 * np.linalg.norm(color[8:])
    assert np.linalg.norm(kind[8:]) > 2 * np.linalg.norm(kind[:8])
    np.testing.assert_allclose(np.linalg.norm(words.encode(["a red bag"]), axis=1), 1, rtol=1e-5)


def test_aliases_stand_for_words_and_unknown_words_are_passed_over(words: text.Words) -> None:
    said = words.encode(["crimson sneakers", "red shoe", "red zebra shoe", "Red-shoes red shoe"])
    np.testing.assert_allclose(said[0], said[1], atol=1e-6)
    np.testing.assert_allclose(said[2], said[1], atol=1e-6)
    assert words.codes("a zebra bag nothing")[1] == ["a", "zebra", "nothing"]
    with pytest.raises(InputError, match="none of its words was ever learned; nearest: .*shirt"):
        words.encode(["skirt"])


def test_the_loss_is_the_hinge_over_all_violating_pairs() -> None:
    rng = np.random.default_rng(0)
    texts, photos, same = rng.normal(size=(7, 5)), rng.normal(size=(7, 5)), np.array([0, 1, 2, 3, 1, 4, 5])
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (texts, photos)]
    cosines = unit[0] @ unit[1].T
    expected = 0.0
    for way in (cosines, cosines.T):
        found = [0.2 - way[i, i] + way[i, j] for i in range(7) for j in range(7) if same[i] != same[j]]
        expected += np.mean([value for value in found if value > 0])
    loss = text.hinge(torch.from_numpy(texts), torch.from_numpy(photos), same, 0.2)
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_recall_counts_the_very_photo() -> None:
    rng = np.random.default_rng(0)
    units = rng.integers(-2, 3, size=(40, 6)).astype(np.float16)
    texts = rng.integers(-2, 3, size=(30, 6)).astype(np.float32)
    right = rng.integers(40, size=30)
    found = text.recall_at(texts, right, units, (1, 5))
    for k in (1, 5):
        ranked = [sorted(range(40), key=lambda row, t=t: (-float(t @ units[row]), row))[:k] for t in texts]
        assert found[f"recall@{k}"] == pytest.approx(
            np.mean([r in own for r, own in zip(right, ranked, strict=True)]), abs=1e-4
        )


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(InputError, match="3 texts to learn from"):
        text.fit(["red bag"] * 3, [""] * 3, np.ones((3, 4), np.float16), TextConfig(batch=8))


def test_a_text_joins_a_photo_block_by_block() -> None:
    layout = Layout.of({"look": 3, "color": 2})
    rng = np.random.default_rng(0)
    photo, said = rng.normal(size=5).astype(np.float32), rng.normal(size=5).astype(np.float32)
    factors, defaults = np.array([1.0, 4.0], np.float32), np.array([1.0, 2.0], np.float32)  # color asked for twice
    lengths = np.array([np.linalg.norm(said[:3]), np.linalg.norm(said[3:])])
    own = lengths / lengths.sum() * 3.0 * (1, 2)
    expected = np.concatenate([said[:3] / lengths[0] * own[0], said[3:] / lengths[1] * own[1]])
    vector, weights = q.with_text(photo, factors, said, defaults, layout, alone=True)
    np.testing.assert_allclose(vector, expected, rtol=1e-5)
    np.testing.assert_allclose(weights, own, rtol=1e-5)
    both, weights = q.with_text(photo, factors, said, defaults, layout, alone=False)
    np.testing.assert_allclose(both, photo + expected, rtol=1e-5)
    np.testing.assert_allclose(weights, own + factors, rtol=1e-5)
