"""Outfits with a planted style rule, as features alone: what an outfit model must be able to learn.

An item has a kind (shape), a cloth (texture) and a color; its features are blocks of these names, each the value's
prototype with noise, made unit. The rule: all items of an outfit have cloths of one formality and colors of one
harmony; it has one item of each of its kinds. Everything follows from the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

KINDS = ("top", "outer", "bottom", "shoes", "bag", "hat")
FORMALITIES = {
    "casual": ("denim", "jersey", "canvas"),
    "formal": ("wool", "silk", "satin"),
    "sport": ("mesh", "fleece", "nylon"),
}
CLOTHS = tuple(cloth for cloths in FORMALITIES.values() for cloth in cloths)
HUES = 12  # on a wheel
BLOCKS = {"shape": 24, "texture": 24, "color": 24}
AT_ONCE = 32_768  # items of a stream together
NOISE = 0.8  # length of the noise beside a prototype of length 1


class Item(NamedTuple):
    kind: int
    cloth: int
    hue: int


class Planted(NamedTuple):
    """features (n, D) float16, every block of ``BLOCKS`` unit; items (n,); outfits: rows, in the order of KINDS."""

    features: npt.NDArray[np.float16]
    items: list[Item]
    outfits: list[tuple[int, ...]]
    styles: list[tuple[int, int]]  # of each outfit: formality, first hue of its harmony


def harmony(first: int) -> tuple[int, ...]:
    """The hues that go together: a hue, its neighbour on the wheel, and the one opposite."""
    return (first, (first + 1) % HUES, (first + HUES // 2) % HUES)


def fits(item: Item, style: tuple[int, int]) -> list[str]:
    """The blocks in which an item breaks the rule of an outfit's style, kinds apart; empty: it fits."""
    formality, first = style
    broken = [] if item.cloth // 3 == formality else ["texture"]
    return broken if item.hue in harmony(first) else [*broken, "color"]


def planted(outfits: int, items: int, seed: int = 0) -> Planted:
    """``items`` random items and ``outfits`` outfits of 3 to 6 of them that keep the rule."""
    rng = np.random.default_rng([seed, 7])
    drawn = [
        Item(*(int(rng.integers(n)) for n in (len(KINDS), len(CLOTHS), HUES))) for _ in range(items)
    ]  # fmt: skip
    features = _features(np.array(drawn, np.int64), rng)
    by: dict[tuple[int, int, int], list[int]] = {}
    for row, item in enumerate(drawn):
        by.setdefault((item.kind, item.cloth // 3, item.hue), []).append(row)
    found: list[tuple[int, ...]] = []
    styles: list[tuple[int, int]] = []
    while len(found) < outfits:
        style = int(rng.integers(len(FORMALITIES))), int(rng.integers(HUES))
        kinds = sorted(rng.permutation(len(KINDS))[: int(rng.integers(3, len(KINDS) + 1))].tolist())
        rows = [_one([r for hue in harmony(style[1]) for r in by.get((k, style[0], hue), [])], rng) for k in kinds]
        if all(row is not None for row in rows):
            found.append(tuple(row for row in rows if row is not None))
            styles.append(style)
    return Planted(features.astype(np.float16), drawn, found, styles)


def stream(items: int, seed: int = 0) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float16]]]:
    """Random items without outfits, ``AT_ONCE`` at a time: (n, 3) kinds, cloths and hues, and features (n, D) as
    ``planted`` has them. Any number of them, on the same prototypes."""
    sizes = len(KINDS), len(CLOTHS), HUES
    for start in range(0, items, AT_ONCE):
        rng = np.random.default_rng([seed, 8, start])
        codes = np.stack([rng.integers(size, size=min(AT_ONCE, items - start)) for size in sizes], axis=1)
        yield codes, _features(codes, rng).astype(np.float16)


def _features(codes: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Codes (n, 3) -> features (n, D): each block the value's prototype with noise, made unit."""
    blocks = zip((len(KINDS), len(CLOTHS), HUES), BLOCKS.values(), strict=True)
    return np.concatenate(
        [_blurred(_prototypes(size, dim, 11 * i + 1), codes[:, i], rng) for i, (size, dim) in enumerate(blocks)], axis=1
    )


def _one(rows: Sequence[int], rng: np.random.Generator) -> int | None:
    return rows[int(rng.integers(len(rows)))] if rows else None


def _prototypes(count: int, dim: int, seed: int) -> npt.NDArray[np.float64]:
    drawn = np.random.default_rng([seed, 5]).normal(size=(count, dim))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def _blurred(
    prototypes: npt.NDArray[np.float64], codes: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    noise = rng.normal(size=(len(codes), prototypes.shape[1])) * NOISE / np.sqrt(prototypes.shape[1])
    blurred = prototypes[codes] + noise
    return blurred / np.linalg.norm(blurred, axis=1, keepdims=True)
