"""Text as words: what titles, typed queries and names of kinds are compared by."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W_]+")
_JOINED = re.compile(r"['’](?=s\b)|(?<=\w)-(?=\w)")  # T-Shirt and Tshirt are one word, and so are men's and mens


def words_of(text: str) -> list[str]:
    """Words in lower case, one plural ending dropped: "Men's T-Shirts" -> ["men", "tshirt"]."""
    return [_singular(word) for word in _WORD.findall(_JOINED.sub("", text.casefold()))]


def _singular(word: str) -> str:
    for ending, kept in (("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("ies", "y")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word.removesuffix(ending) + kept
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


def plain(name: str) -> str:
    """A name in one word: "T-Shirts", "tshirt" and "Tshirts" meet."""
    return "".join(words_of(name))
