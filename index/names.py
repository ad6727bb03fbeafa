"""The names under which files of a gallery are written. All else that lies in its folder is the user's."""

from __future__ import annotations

import re
from pathlib import Path

from index.files import TEMPORARY

MANIFEST = "gallery.json"
PLAN = "building.json"  # what an unfinished build is making; gone once it is committed
TABLE = "table"
MODEL = "model.safetensors"
MEMORY = "memory.safetensors"
REJECTED = "rejected.parquet"

PART = re.compile(r"part-[0-9]{5,}\.parquet")
BESIDE = re.compile(r"(model|memory)(-[0-9]{5,})?\.safetensors|rejected(-[0-9]{5,})?\.parquet")
GENERATION = re.compile(r"gen-[0-9]{6,}")
ROWS_REMOVED = re.compile(r"removed-[0-9]{6,}\.npy")
_ANY = "|".join(each.pattern for each in (PART, BESIDE, GENERATION, ROWS_REMOVED))
UNFINISHED = re.compile(rf"{re.escape(TEMPORARY)}({_ANY}|{re.escape(MANIFEST)}|{re.escape(PLAN)})-[0-9]+")


def own(folder: Path, *patterns: re.Pattern[str]) -> list[Path]:
    """What lies in a folder under a name of one of these patterns."""
    return [each for each in sorted(folder.glob("*")) if any(one.fullmatch(each.name) for one in patterns)]


def number(name: str) -> int:
    """That of a part, a generation or a file beside them; 0 where it has none."""
    found = re.search(r"-([0-9]+)", name)
    return int(found[1]) if found else 0
