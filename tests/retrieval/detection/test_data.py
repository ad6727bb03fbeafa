"""What a detector learns from, its config, and the figures it is judged by."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from index.errors import ConfigError, InputError, MissingDependencyError
from retrieval.detection import config as configs
from retrieval.detection import data, judge, vary
from retrieval.detection.model import Found
from tests.retrieval.detection.conftest import CONFIG, PHOTOS, written


def test_garments_are_read_with_their_class_and_split_by_name(street: Path) -> None:
    config = configs.parse(CONFIG, "tests")
    parts = data.gather(street, config)
    every = sorted([*parts.learned, *parts.held], key=lambda each: each.path.name)
    assert [each.path.name for each in every] == [f"{n:02d}.png" for n in range(PHOTOS)]
    assert 0 < len(parts.held) < PHOTOS // 2
    told = json.loads((street / "boxes.coco.json").read_text("utf-8"))
    names = {each["id"]: each["name"] for each in told["categories"]}
    for number in (0, PHOTOS - 1):
        (own,) = (a for a in told["annotations"] if a["image_id"] == number and names[a["category_id"]] != "hair")
        left, top, width, height = own["bbox"]
        assert every[number].boxes.tolist() == [[left, top, left + width, top + height]]
        kind = list(config.classes)[every[number].labels[0] - 1]
        assert names[own["category_id"]] in config.classes[kind]
    more = data.gather(street, configs.parse({**CONFIG, "holdout": 0.5}, "tests")).held
    assert {each.path.name for each in parts.held} < {each.path.name for each in more}


def test_a_category_in_no_class_is_named(street: Path) -> None:
    config = configs.parse({**CONFIG, "ignore": []}, "tests")
    with pytest.raises(InputError, match=r"in no class: hair; add them"):
        data.gather(street, config)
    with pytest.raises(InputError, match="0 are held out"):
        data.gather(street, configs.parse({**CONFIG, "holdout": 1e-6}, "tests"))
    with pytest.raises(InputError, match="cannot be read as JSON"):
        data.gather(street / "photos", config)


def squares(path: Path) -> data.Example:
    """A black photo of 60 x 90 with a red, a green and a blue square of 12 pixels."""
    picture, boxes = np.zeros((90, 60, 3), np.uint8), np.array([[4, 6], [40, 30], [20, 70]])
    for channel, (x, y) in enumerate(boxes):
        picture[y : y + 12, x : x + 12, channel] = 255
    Image.fromarray(picture).save(path)
    return data.Example(path, np.concatenate([boxes, boxes + 12], 1).astype(np.float32), np.array([1, 2, 3]))


@pytest.mark.parametrize("canvas", [(80, 54), (66, 66), (54, 80)])
def test_boxes_follow_the_photo_wherever_it_is_placed(canvas: tuple[int, int], tmp_path: Path) -> None:
    example, kept = squares(tmp_path / "a.png"), set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        out, boxes, which = vary.placed(Image.open(example.path), example.boxes, canvas, rng)
        pixels = np.asarray(out).astype(int)
        assert pixels.shape == (*canvas, 3)
        for channel, box in zip(np.flatnonzero(which), boxes, strict=True):
            left, top, right, bottom = box.round().astype(int)
            inside = pixels[top + 1 : bottom - 1, left + 1 : right - 1]
            assert (inside[..., channel] > 128).all()
        for channel in np.flatnonzero(~which):  # what is left of it is little
            ink = (pixels[..., channel] > 192).sum()
            assert ink < 0.6 * 144 * (1.9 * min(canvas[0] / 90, canvas[1] / 60)) ** 2
        kept.add(int(which.sum()))
    assert {2, 3} <= kept  # some are cut off, some photos stay whole


def test_a_batch_is_mirrored_scaled_and_set_side_by_side(tmp_path: Path) -> None:
    example = squares(tmp_path / "a.png")
    sizes, order, counts = set(), set(), set()
    for seed in range(30):
        images, targets = vary.batch_of([example] * 2, [example], 100, np.random.default_rng(seed))
        assert len({image.shape for image in images}) == 1  # nothing is padded
        _, height, width = images[0].shape
        assert max(height, width) <= 100
        sizes.add((height, width))
        for image, target in zip(images, targets, strict=True):
            assert 0 <= image.min() <= image.max() <= 1
            boxes, labels = target["boxes"], target["labels"].tolist()
            assert (boxes >= 0).all()
            assert (boxes <= torch.tensor([width, height] * 2)).all()
            counts.add((width > height, len(labels)))
            if width <= height and {1, 2} <= set(labels):
                order.add(bool(boxes[labels.index(1), 0] < boxes[labels.index(2), 0]))
    assert sizes == {(100, 68), (82, 82), (68, 100)}
    assert order == {True, False}  # red is left of green, unless mirrored
    assert max(n for wide, n in counts if wide) > 3  # two photos
    assert max(n for wide, n in counts if not wide) == 3


def test_a_config_that_cannot_be_used(tmp_path: Path) -> None:
    for change, said in (
        ({"classes": {**CONFIG["classes"], "top": ["shirt"]}}, "in two classes, or in a class and ignored: shirt"),
        ({"classes": {}}, "at least one class"),
        ({"model": {"backbone": "efficientnet_lite0"}}, "cannot start from random weights"),
        ({"model": {"backbone": "fasterrcnn_resnet50_fpn"}, "training": {"start": "products"}}, "leave training.start"),
        ({"modle": {}}, "modle: unknown key"),
    ):
        with pytest.raises(ConfigError, match=said):
            configs.parse({**CONFIG, **change}, "tests")
    assert configs.load(written(tmp_path)) == configs.parse(CONFIG, "tests")
    shipped = configs.load("detector")
    assert list(shipped.classes) == ["upper", "lower", "full-body", "shoes", "bag", "accessory"]
    assert not {"hair", "skin"} & set(shipped.class_of())
    assert shipped.class_of()["boots"] == 4


def iou(a: Any, b: Any) -> float:
    """Of two boxes left, top, right, bottom, by counting."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(area) - width * height)


def naive(truth: list[data.Example], found: list[list[Found]], label: int, kind: str, least: float) -> float:
    """COCO's average precision of one class at one IoU threshold, word by word: each box, best score first, takes the
    free garment that it overlaps most; precision at recall r is the best one at any recall of at least r; the mean over
    r = 0, 0.01 ... 1."""
    told = sorted(
        ((f.score, i, f.box) for i, own in enumerate(found) for f in own if f.kind == kind), key=lambda each: -each[0]
    )
    free = {i: [box for box, k in zip(e.boxes, e.labels, strict=True) if k == label] for i, e in enumerate(truth)}
    total = sum(map(len, free.values()))
    right: list[bool] = []
    for _, i, (x, y, w, h) in told:
        best = max(free[i], key=lambda box: iou(box, (x, y, x + w, y + h)), default=None)
        hit = best is not None and iou(best, (x, y, x + w, y + h)) >= least
        if hit:
            free[i] = [box for box in free[i] if box is not best]
        right.append(hit)
    points = [(sum(right[:n]) / total, sum(right[:n]) / n) for n in range(1, len(right) + 1)]
    return sum(max((p for r, p in points if r >= at / 100 - 1e-9), default=0.0) for at in range(101)) / 101


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_cocos(seed: int) -> None:
    rng, kinds = np.random.default_rng(seed), ["upper", "shoes", "bag"]
    truth, found = [], []
    for _ in range(8):
        corner, sides = rng.uniform(0, 60, (3, 2)), rng.uniform(12, 40, (3, 2))
        boxes = np.concatenate([corner, corner + sides], 1).astype(np.float32)
        labels = rng.integers(1, 3, 3)  # no bag anywhere
        truth.append(data.Example(Path("x"), boxes, labels))
        own = []
        for box, label in zip(boxes, labels, strict=True):
            for _ in range(int(rng.integers(0, 3))):
                left, top, right, bottom = (box + rng.normal(0, 2.5, 4)).tolist()
                kind = kinds[label - 1] if rng.random() < 0.8 else "bag"
                own.append(Found((left, top, max(right - left, 1), max(bottom - top, 1)), kind, float(rng.random())))
        found.append(own)
    told = judge.average_precision(truth, found, kinds)
    assert list(told["classes"]) == ["upper", "shoes"]
    thresholds = [0.5 + 0.05 * i for i in range(10)]
    by = {k: [naive(truth, found, n, k, t) for t in thresholds] for n, k in ((1, "upper"), (2, "shoes"))}
    for kind, values in by.items():
        assert told["classes"][kind]["ap"] == pytest.approx(np.mean(values), abs=0.002)
        assert told["classes"][kind]["ap50"] == pytest.approx(values[0], abs=0.002)
    assert told["map"] == pytest.approx(np.mean(list(by.values())), abs=0.002)
    assert told["map50"] == pytest.approx(np.mean([values[0] for values in by.values()]), abs=0.002)
    assert 0.05 < told["map"] < told["map50"] < 1


def test_what_is_found_exactly_counts_whole_and_nothing_counts_nothing() -> None:
    truth = [data.Example(Path("x"), np.array([[0, 0, 30, 40]], np.float32), np.array([1]))]
    right = [[Found((0, 0, 30, 40), "upper", 0.9)]]
    assert judge.average_precision(truth, right, ["upper"])["map"] == 1
    assert judge.average_precision(truth, [[]], ["upper"])["map"] == 0
    assert judge.average_precision(truth, [[Found((50, 50, 9, 9), "upper", 0.9)]], ["upper"])["map50"] == 0


def test_without_pycocotools_the_pip_line_is_said(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval.detection.fit import train_from

    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'fsearch\[detect\]'"):
        train_from(written(tmp_path), street, tmp_path / "d.safetensors")
    assert not (tmp_path / "d.safetensors").exists()
