"""Polyvore outfits (Han et al., ACM Multimedia 2017), as xthan/polyvore-dataset describes its files.

    train_no_dup.json, valid_no_dup.json, test_no_dup.json   outfits: set_id, name, items (index, name, categoryid, ...)
    fill_in_blank_test.json                    questions: question, answers, blank_position; items as SETID_INDEX
    fashion_compatibility_prediction.txt       1 or 0, then the items of an outfit
    category_id.txt                            number and name of each category
    images/SETID/INDEX.jpg                     the photos

The files may lie in the folder, or in polyvore/ or label/ below it. The right answer of a question is the first one
that is of the question's own outfit (the authors' code takes answers[0]).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from index.errors import InputError
from retrieval.datasets import lists
from retrieval.datasets.source import PhotoSource

SPLITS = {"train": "train_no_dup.json", "valid": "valid_no_dup.json", "test": "test_no_dup.json"}
BLANKS = ("fill_in_blank_test.json", "fill_in_the_blank_test.json")
COMPATIBLE = ("fashion_compatibility_prediction.txt", "fashion-compatibility-prediction.txt")
FOLDERS = ("", "polyvore", "label")
WHAT = "the Polyvore data set"


class Outfit(NamedTuple):
    """An outfit as its owner arranged it; ``items``: ids of photos (SETID_INDEX) in that order."""

    id: str
    split: str
    items: tuple[str, ...]


class Question(NamedTuple):
    """Fill in the blank: ``items`` of an outfit without the one at ``blank`` (from 0), the candidates, the right one's
    place among them."""

    items: tuple[str, ...]
    answers: tuple[str, ...]
    blank: int
    right: int


def is_polyvore(root: Path) -> bool:
    """Whether a folder holds the outfits for testing."""
    return lists.find(root, SPLITS["test"], FOLDERS) is not None


def polyvore(root: Path) -> PhotoSource:
    """One photo an item, in the order of the outfits (train, valid, test), with columns split, outfit, category (its
    name where category_id.txt has it), name and price. Ids are SETID_INDEX."""
    named = _categories(root)
    paths, ids = [], []
    columns: dict[str, list[str | None]] = {name: [] for name in ("split", "outfit", "category", "name", "price")}
    for split, file, number, outfit in _outfits(root):
        for item in outfit["items"]:
            try:
                index, category = str(item["index"]), str(item.get("categoryid", ""))
            except (KeyError, TypeError, AttributeError):
                raise InputError(f"{file}, outfit {number}: an item without index") from None
            ids.append(f"{outfit['set_id']}_{index}")
            paths.append(f"images/{outfit['set_id']}/{index}.jpg")
            cells = (split, str(outfit["set_id"]), named.get(category, category), item.get("name"), item.get("price"))
            for column, cell in zip(columns.values(), cells, strict=True):
                column.append(None if cell is None else " ".join(str(cell).split()))
    return lists.listing(root, paths, columns, inside=FOLDERS, ids=ids)


def outfits(root: Path) -> list[Outfit]:
    """Every outfit, train before valid before test."""
    return [
        Outfit(str(each["set_id"]), split, tuple(f"{each['set_id']}_{item['index']}" for item in each["items"]))
        for split, _, _, each in _outfits(root)
    ]


def questions(root: Path) -> list[Question]:
    """The fill-in-the-blank questions; [] if their file is not there."""
    file = next((path for name in BLANKS if (path := lists.find(root, name, FOLDERS))), None)
    found = []
    for number, each in enumerate(_json(file) if file else (), 1):
        try:
            items, answers = tuple(map(str, each["question"])), tuple(map(str, each["answers"]))
            blank = int(each["blank_position"]) - 1  # counted from 1 in the file
            own = [place for place, answer in enumerate(answers) if _set(answer) == _set(items[0])]
        except (KeyError, TypeError, ValueError, IndexError):
            raise InputError(f"{file}, question {number}: no question, answers and blank_position in it") from None
        if not own or not 0 <= blank <= len(items):
            raise InputError(
                f"{file}, question {number}: no answer is of its own outfit, or the blank is none of {len(items) + 1}"
            )
        found.append(Question(items, answers, blank, own[0]))
    return found


def compatibility(root: Path) -> list[tuple[bool, tuple[str, ...]]]:
    """(whether they go together, items) of each line for compatibility prediction; [] if the file is not there."""
    file = next((path for name in COMPATIBLE if (path := lists.find(root, name, FOLDERS))), None)
    found = []
    for number, line in lists.lines(file) if file else ():
        words = line.split()
        if words and (words[0] not in ("0", "1") or len(words) < 3):
            raise InputError(f"{file}, line {number}: {line[:60]!r} is not 0 or 1 and two items or more")
        if words:
            found.append((words[0] == "1", tuple(words[1:])))
    return found


def _outfits(root: Path) -> Iterator[tuple[str, Path, int, dict[str, Any]]]:
    for split, name in SPLITS.items():
        file = lists.need(root, name, WHAT, FOLDERS)
        for number, each in enumerate(_json(file), 1):
            if not isinstance(each, dict) or "set_id" not in each or not isinstance(each.get("items"), list):
                raise InputError(f"{file}, outfit {number}: no set_id and items in it")
            yield split, file, number, each


def _json(file: Path) -> list[Any]:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable as JSON ({error}); download it again") from None
    if not isinstance(held, list):
        raise InputError(f"{file}: holds no list; take the file as it was published")
    return held


def _categories(root: Path) -> dict[str, str]:
    """Number -> name; {} if the file is not there."""
    file = lists.find(root, "category_id.txt", FOLDERS)
    pairs = (line.strip().partition(" ") for _, line in lists.lines(file)) if file else ()
    return {number: name.strip() for number, _, name in pairs if number}


def _set(item: str) -> str:
    return item.rpartition("_")[0]
