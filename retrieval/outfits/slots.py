"""Kinds of garment and the slots of an outfit that they fill: order, one of each, names as people type them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from index.errors import UnknownNameError
from retrieval.outfits.config import OTHER
from retrieval.outfits.language import plain


class Slots:
    """slots: slot -> kinds, in the order of an outfit. What no slot names goes to ``OTHER``, at the end."""

    def __init__(self, slots: Mapping[str, Sequence[str]]) -> None:
        self.kinds = {slot: tuple(kinds) for slot, kinds in slots.items()}
        self.names = [*slots, OTHER]
        self._place = {name: i for i, name in enumerate(self.names)}
        self._of = {plain(kind): slot for slot, kinds in slots.items() for kind in kinds}

    def of(self, kind: str | None) -> str:
        """The slot that a kind of garment fills."""
        return self._of.get(plain(kind or ""), OTHER)

    def place(self, slot: str) -> int:
        """Where the slot stands in an outfit."""
        return self._place[slot]

    def order(self, slots: Sequence[str]) -> list[int]:
        """Positions of the items in the order of an outfit; equal slots stay as they are."""
        return sorted(range(len(slots)), key=lambda i: self._place[slots[i]])

    def meant(self, text: str) -> str:
        """The slot that a user's word means: a slot or a kind in it. UnknownNameError offers the nearest."""
        by = {plain(name): name for name in self.kinds} | {k: v for k, v in self._of.items() if k not in self.kinds}
        if (found := by.get(plain(text))) is not None:
            return found
        near = [by[word] for word in get_close_matches(plain(text), by, n=3, cutoff=0.6)]
        offer = f"nearest: {', '.join(dict.fromkeys(near))}" if near else f"known: {', '.join(self.kinds)}"
        raise UnknownNameError(f"no slot of an outfit is called {text!r}; {offer}")

    def kinds_in(self, slot: str, known: Iterable[str]) -> list[str]:
        """Those of ``known`` kinds that fill the slot."""
        return [kind for kind in known if self.of(kind) == slot]
