"""How good a detector is: average precision as COCO defines it, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from index.errors import MissingDependencyError
from retrieval.detection.data import Example
from retrieval.detection.model import Found


def tools() -> Any:
    """pycocotools' two classes; MissingDependencyError holds the pip line."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise MissingDependencyError(
            "a detector is measured by pycocotools, which is not installed: pip install 'fsearch[detect]'"
        ) from None
    return COCO, COCOeval


def average_precision(
    truth: Sequence[Example], found: Sequence[Sequence[Found]], kinds: Sequence[str]
) -> dict[str, Any]:
    """COCO's figures for what was found in each photo: ``map`` (mean over classes and IoU thresholds 0.50 to 0.95 in
    steps of 0.05), ``map50`` (at 0.50 alone), and by class ``ap``, ``ap50`` and how many garments there are.

    A class without a garment in ``truth`` has no figure, and is in no mean; at most 100 boxes of a photo count.
    """
    coco, evaluation = tools()
    given: dict[str, Any] = {
        "images": [{"id": i} for i in range(len(truth))],
        "categories": [{"id": n, "name": kind} for n, kind in enumerate(kinds, 1)],
        "annotations": [],
    }
    for i, example in enumerate(truth):
        for (left, top, right, bottom), label in zip(example.boxes.tolist(), example.labels.tolist(), strict=True):
            box = [left, top, right - left, bottom - top]
            own = {"id": len(given["annotations"]) + 1, "image_id": i, "category_id": label, "iscrowd": 0}
            given["annotations"].append(own | {"bbox": box, "area": box[2] * box[3]})
    told = [
        {"image_id": i, "category_id": kinds.index(each.kind) + 1, "bbox": list(each.box), "score": each.score}
        for i, own in enumerate(found)
        for each in own
    ]
    count = dict.fromkeys(kinds, 0)
    for each in given["annotations"]:
        count[kinds[each["category_id"] - 1]] += 1
    if not told:  # pycocotools takes no empty list
        nothing = {kind: {"garments": n, "ap": 0.0, "ap50": 0.0} for kind, n in count.items() if n}
        return {"map": 0.0, "map50": 0.0, "classes": nothing}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        known = coco()
        known.dataset = given
        known.createIndex()
        judged = evaluation(known, known.loadRes(told), "bbox")
        judged.evaluate()
        judged.accumulate()
    precision = judged.eval["precision"][:, :, :, 0, -1]  # (IoU thresholds, recalls, classes); -1: no such garment
    by = {
        kind: {
            "garments": count[kind],
            "ap": round(float(precision[:, :, n].mean()), 4),
            "ap50": round(float(precision[0, :, n].mean()), 4),
        }
        for n, kind in enumerate(kinds)
        if count[kind]
    }
    held = precision[:, :, [n for n, kind in enumerate(kinds) if count[kind]]]
    return {"map": round(float(held.mean()), 4), "map50": round(float(np.mean(held[0])), 4), "classes": by}
