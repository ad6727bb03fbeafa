"""ALISC, the Alibaba large-scale image search challenge (Tianchi 2015): queries with boxes against a gallery of items.

Known from the challenge's page: the archives train_image, train_label, eval_image and query_image; that a label has the
fields imgid, cid (category), subcid and pid:vid;pid:vid;... (attribute and value), where imgid is the name of a photo's
file without its ending; and that each query is answered by the 20 most similar photos of eval_image. Not public are the
separators, and the files of the boxes and of the right answers. What is assumed of those:

    train_image/ valid_image/ eval_image/ query_image/    photos; any but one of eval and query may be absent
    train_label.txt valid_label.txt ...                   imgid,cid,subcid,pid:vid;pid:vid
    query_box.txt                                         imgid,x,y,width,height in pixels
    query_answer.txt                                      imgid,imgid;imgid;... the query and what is right for it

Spaces or tabs may stand for the commas.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from index.errors import InputError
from retrieval.datasets import lists
from retrieval.datasets.scan import scan
from retrieval.datasets.source import PhotoSource

PARTS = {"train": "train", "valid": "valid", "eval": "gallery", "query": "query"}  # folder -> split
BOXES, ANSWERS = "query_box.txt", "query_answer.txt"


def is_alisc(root: Path) -> bool:
    """Whether a folder holds query_image/ and eval_image/."""
    return (root / "query_image").is_dir() and (root / "eval_image").is_dir()


def alisc(root: Path) -> PhotoSource:
    """Photos by path, part after part, with columns split (train, valid, gallery, query), imgid, category, subcategory,
    properties, box ("x,y,w,h") and answers: for a query, the imgids of the gallery that are right, joined by ";".

    A box or answer of a query that has no photo is an InputError, as is an answer that is no photo of the gallery.
    """
    paths: list[str] = []
    columns: dict[str, list[str | None]] = {
        name: [] for name in ("split", "imgid", "category", "subcategory", "properties", "box", "answers")
    }
    boxes = _records(root / BOXES, 5)
    answers = _records(root / ANSWERS, 2)
    held: dict[str, set[str]] = {}
    for part, split in PARTS.items():
        found = scan(root, f"{part}_image")[0] if (root / f"{part}_image").is_dir() else []
        labels = _records(root / f"{part}_label.txt", 3)
        held[split] = set()
        for path in found:
            imgid = posixpath.splitext(posixpath.basename(path))[0]
            held[split].add(imgid)
            paths.append(path)
            cells = labels.get(imgid, (0, ["", ""]))[1]
            known = (cells[0], cells[1], ";".join(_several(cells[2:])))
            asked = split == "query"
            box = lists.whole(root / BOXES, *boxes[imgid]) if asked and imgid in boxes else ()
            right = _several(answers[imgid][1]) if asked and imgid in answers else ()
            row = (split, imgid, *known, ",".join(map(str, box)), ";".join(right))
            for column, cell in zip(columns.values(), row, strict=True):
                column.append(cell)
    for file, records in ((BOXES, boxes), (ANSWERS, answers)):
        if spare := sorted(set(records) - held["query"]):
            line = records[spare[0]][0]
            raise InputError(f"{root / file}, line {line}: {spare[0]!r} is no photo of query_image")
    for number, cells in answers.values():
        if spare := sorted(set(_several(cells)) - held["gallery"]):
            raise InputError(f"{root / ANSWERS}, line {number}: {spare[0]!r} is no photo of eval_image")
    return lists.listing(root, paths, columns, inside=("",))


def _records(file: Path, entries: int) -> dict[str, tuple[int, list[str]]]:
    """imgid -> (line number, the other entries, ``entries`` - 1 of them at least); {} if there is no such file."""
    found: dict[str, tuple[int, list[str]]] = {}
    for number, line in lists.lines(file) if file.is_file() else ():
        imgid, *cells = re.split(r"[,\s]+", line.strip().rstrip(";"))
        if not imgid:
            continue
        if len(cells) < entries - 1 or imgid in found:
            why = "comes twice" if imgid in found else f"has {len(cells) + 1} entries, expected {entries}"
            raise InputError(f"{file}, line {number}: {imgid[:40]!r} {why}")
        found[imgid] = (number, cells)
    return found


def _several(cells: list[str]) -> list[str]:
    """What semicolons (and spaces after them) keep apart."""
    return [piece for cell in cells for piece in cell.split(";") if piece]
