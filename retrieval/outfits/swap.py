"""The paper's test of an explanation: spoil one item of a good outfit, and see whether it, and its fault, is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from retrieval.outfits.judge import Outfit, Score
from retrieval.outfits.model import OutfitModel

CHANCES = 200  # items tried for a swap that breaks one aspect alone


class Swap(NamedTuple):
    """An outfit whose item at ``place`` was swapped for one of the same slot that is wrong in ``aspect`` alone."""

    outfit: tuple[int, ...]
    place: int
    aspect: str


def make_swaps(
    outfits: Sequence[Outfit], pool: npt.NDArray[np.int64], slots: npt.NDArray[np.int64],
    faults: Callable[[int, int], Sequence[str]], aspects: Sequence[str], score: Score, rng: np.random.Generator,
) -> list[Swap]:  # fmt: skip
    """One swap an outfit, the aspects in turn; only those that lower the score are kept (Pang et al. 2021).

    faults: (number of the outfit, row) -> the aspects in which that row breaks the outfit's rule.
    """
    by_slot = {slot: pool[slots[pool] == slot] for slot in np.unique(slots[pool]).tolist()}
    made: list[Swap] = []
    whole: list[Outfit] = []
    for number, outfit in enumerate(outfits):
        place, aspect = int(rng.integers(len(outfit))), aspects[number % len(aspects)]
        rows = by_slot.get(int(slots[outfit[place]]), pool[:0])
        for row in rng.permutation(rows)[:CHANCES].tolist():
            if row not in outfit and list(faults(number, row)) == [aspect]:
                made.append(Swap((*outfit[:place], row, *outfit[place + 1 :]), place, aspect))
                whole.append(outfit)
                break
    lower: Any = score([each.outfit for each in made]) < score(whole) if made else []
    return [each for each, kept in zip(made, lower, strict=True) if kept]


def named(model: OutfitModel, table: npt.NDArray, swaps: Sequence[Swap]) -> dict[str, dict[str, float]]:
    """Share of swaps whose item is named worst, and whose aspect is named as its fault, by method.

    influence: gradient x feature, the item with the least of all values (``OutfitModel.worst``); influence, summed: the
    item with the least sum. The aspect is the least of the swapped item. left out: the item without which
    the rest scores best; the aspect without which (made that of an average item) the outfit scores best. chance.
    """
    aspects = list(model.aspects)
    right: dict[str, list[tuple[bool, bool]]] = {"influence": [], "influence, summed": [], "left out": []}
    for swap in swaps:
        items = table[list(swap.outfit)].astype(np.float32)
        by = model.by_aspect(model.influence(items))
        total = np.sum(list(by.values()), axis=0)
        worst, _ = model.worst(by)
        least = aspects[int(np.argmin([by[aspect][swap.place] for aspect in aspects]))]
        right["influence"].append((worst == swap.place, least == swap.aspect))
        right["influence, summed"].append((int(total.argmin()) == swap.place, least == swap.aspect))
        without = model.raw([np.delete(items, i, axis=0) for i in range(len(items))])
        faded = model.raw([_faded(model, items, swap.place, aspect) for aspect in aspects])
        right["left out"].append((int(without.argmax()) == swap.place, aspects[int(faded.argmax())] == swap.aspect))
    report = {
        method: {"item": float(np.mean([i for i, _ in each])), "aspect": float(np.mean([a for _, a in each]))}
        for method, each in right.items()
    }
    chance = float(np.mean([1 / len(swap.outfit) for swap in swaps]))
    return report | {"chance": {"item": chance, "aspect": 1 / len(aspects)}}


def _faded(model: OutfitModel, items: npt.NDArray, place: int, aspect: str) -> npt.NDArray[np.float32]:
    """The outfit with one aspect of one item made that of the average item."""
    changed, start = items.copy(), 0
    for block, dim in model.blocks.items():
        if block in model.aspects[aspect]:
            changed[place, start : start + dim] = model.net.mean[start : start + dim].numpy()
        start += dim
    return changed
