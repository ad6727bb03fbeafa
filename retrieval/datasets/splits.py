"""Parts of a data set that do not move when photos are added."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from index.errors import InputError


def held_out(groups: Iterable[str | None], ids: Iterable[str], share: float) -> npt.NDArray[np.bool_]:
    """(n,) True for the photos held out for validation: whole groups, close to ``share`` of them.

    A photo without a group (blank or None) is its own, by its id. A group's place depends on its name alone (SHA-256),
    so photos added later move no other, and a larger share holds out a superset.
    """
    if not 0 <= share <= 1:
        raise InputError(f"held-out share {share}: expected 0 to 1")
    keys = (group or f"\0{name}" for group, name in zip(groups, ids, strict=True))
    places = (int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") for key in keys)
    return np.fromiter((place < share * 2**32 for place in places), dtype=bool)
