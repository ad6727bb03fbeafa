"""Outfits composed of catalogue photos: kinds that were worn together, colors of one palette, one gender, one occasion.

Which kinds go together is learned from people (sequences of categories); colors and occasions follow a rule that is
written in the config, not observed. The card of a model says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from index.errors import InputError
from retrieval.outfits.config import RuleConfig
from retrieval.outfits.language import plain
from retrieval.outfits.slots import Slots

LEAST = 3  # items of an outfit
TRIES = 4  # palettes and occasions tried for a sequence before it is given up


class Composed(NamedTuple):
    """Rows of the catalogue in the order of an outfit, and what the rule made them agree in."""

    rows: tuple[int, ...]
    palette: str
    same: tuple[str, ...]


class Composer:
    """Draws outfits by a rule from catalogue rows: ``labels`` are columns (n,), ``kinds`` (n,) the garments' kinds."""

    def __init__(
        self, rule: RuleConfig, slots: Slots, mapping: Mapping[str, Sequence[str]], kinds: Sequence[str | None],
        labels: Mapping[str, Sequence[str | None]], rows: npt.NDArray[np.int64],
    ) -> None:  # fmt: skip
        if missing := [name for name in (rule.color, *rule.same) if name not in labels]:
            raise InputError(
                f"the rule of outfits needs the label columns {', '.join(missing)}: the gallery lacks them"
            )
        self.rule, self.slots, self.mapping = rule, slots, mapping
        self.kinds, self.labels = kinds, labels
        held: dict[tuple[str, tuple[str, ...], str], list[int]] = defaultdict(list)
        counts: dict[tuple[str, ...], int] = defaultdict(int)
        self._slot_kinds: dict[str, set[str]] = defaultdict(set)
        values = [sorted({v for i in rows if (v := labels[n][i])} - set(rule.neutral.get(n, ()))) for n in rule.same]
        self._palettes_of = {
            color: [name for name, colors in rule.palettes.items() if color in colors]
            for color in {color for colors in rule.palettes.values() for color in colors}
        }
        for row in rows.tolist():
            kind = plain(kinds[row] or "")
            slot = slots.of(kind)
            palettes = self._palettes_of.get(labels[rule.color][row] or "", [])
            if slot not in slots.kinds or not palettes:
                continue
            for same in self._sames(row, values):
                counts[same] += 1
                self._slot_kinds[slot].add(kind)
                for palette in palettes:
                    held[kind, same, palette].append(row)
        if not held:
            raise InputError(
                "no photo of the catalogue has the kinds, colors and labels that the rule of outfits names"
            )
        self._held = {key: np.array(found) for key, found in held.items()}
        self._sames_known = list(counts)
        share = np.sqrt(np.array([counts[same] for same in self._sames_known], np.float64))
        self._share = share / share.sum()

    def _sames(self, row: int, values: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
        """The values that outfits with this row may agree in: its own, or any where its own is neutral."""
        found: list[tuple[str, ...]] = [()]
        for name, every in zip(self.rule.same, values, strict=True):
            own = self.labels[name][row]
            mine = every if own in self.rule.neutral.get(name, ()) else [own] if own else []
            found = [(*before, value) for before in found for value in mine if value]
        return found

    def draw(self, sequences: Sequence[Sequence[str]], rng: np.random.Generator) -> list[Composed]:
        """An outfit for each sequence of categories; those that cannot be filled are left out."""
        found = (self._one(sequence, rng) for sequence in sequences)
        return [outfit for outfit in found if outfit is not None]

    def _one(self, sequence: Sequence[str], rng: np.random.Generator) -> Composed | None:
        wanted = [[plain(kind) for kind in self.mapping[name]] for name in sequence if name in self.mapping]
        if len(wanted) < LEAST:
            return None
        for _ in range(TRIES):
            same = self._sames_known[int(rng.choice(len(self._sames_known), p=self._share))]
            palette = list(self.rule.palettes)[int(rng.integers(len(self.rule.palettes)))]
            by_slot: dict[str, int] = {}
            for kinds in wanted:
                slot = self.slots.of(kinds[0])
                if slot not in by_slot:
                    row = self._pick(kinds, same, palette, rng)
                    row = self._pick(sorted(self._slot_kinds[slot]), same, palette, rng) if row is None else row
                    if row is not None:
                        by_slot[slot] = row
            if len(by_slot) >= LEAST:
                order = sorted(by_slot, key=self.slots.place)
                return Composed(tuple(by_slot[slot] for slot in order), palette, same)
        return None

    def _pick(self, kinds: Sequence[str], same: tuple[str, ...], palette: str, rng: np.random.Generator) -> int | None:
        found = [rows for kind in kinds if (rows := self._held.get((kind, same, palette))) is not None]
        if not found:
            return None
        sizes = np.sqrt([len(rows) for rows in found])
        rows = found[int(rng.choice(len(found), p=sizes / sizes.sum()))] if len(found) > 1 else found[0]
        return int(rows[rng.integers(len(rows))])

    def breaks(self, outfit: Composed, row: int) -> list[str]:
        """Which columns of the rule a catalogue row would break in this outfit; a blank label breaks nothing."""
        broken = []
        color = self.labels[self.rule.color][row]
        if color and color not in self.rule.palettes[outfit.palette]:
            broken.append(self.rule.color)
        for name, value in zip(self.rule.same, outfit.same, strict=True):
            own = self.labels[name][row]
            if own and own != value and own not in self.rule.neutral.get(name, ()):
                broken.append(name)
        return broken
