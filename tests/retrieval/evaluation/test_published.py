"""Published benchmarks on miniatures, against slow loops over single queries to the same engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from index.errors import InputError
from retrieval import config as configs
from retrieval import photos
from retrieval.datasets import onehot
from retrieval.datasets.readers import open_photos
from retrieval.embed import build_gallery
from retrieval.engine import Engine
from retrieval.evaluation import published as runs
from retrieval.evaluation import support
from retrieval.models import checkpoint, memory
from retrieval.models.network import GarmentNet
from tests.retrieval.datasets import published


@pytest.fixture(scope="module")
def opened(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Engine]:
    """A gallery of a miniature, built once for each."""
    made: dict[str, Engine] = {}

    def engine(write: Callable[[Path], Path], model: Path = tiny_model) -> Engine:
        name = write.__name__ + model.stem
        if name not in made:
            root = write(tmp_path_factory.mktemp("data") / "set")
            path = tmp_path_factory.mktemp("galleries") / "mini.gallery"
            build_gallery(open_photos(root), path, model)
            made[name] = Engine.open(path)
        return made[name]

    return engine


def rows_of(engine: Engine) -> list[dict[str, Any]]:
    labels = engine.gallery.manifest.labels
    rows: list[dict[str, Any]] = engine.gallery.columns(["id", *labels]).to_pylist()
    return rows


def accuracy(engine: Engine, k: int, asked: dict[str, str], filed: dict[str, str]) -> tuple[int, float]:
    """Queries and top-k accuracy by item, one public query at a time over the whole gallery."""
    rows, hits = rows_of(engine), []
    held = {row["id"]: row for row in rows if all(row[name] == value for name, value in filed.items())}
    for row in rows:
        if all(row[name] == value for name, value in asked.items()):
            found = engine.query(like=row["id"], topk=len(rows)).hits
            best = [held[hit.id] for hit in found if hit.id in held][:k]
            hits.append(any(each["item"] == row["item"] for each in best))
    return len(hits), sum(hits) / len(hits)


def test_in_shop(opened: Callable[..., Engine]) -> None:
    engine = opened(published.in_shop)
    report = runs.run(engine, "in-shop", 2)
    assert report["facts"]["k"] == [1, 2, 10, 20, 30, 50]
    for method in ("image only", "image only, exact"):
        judged = report["in-shop"][method]
        for k in (1, 2):
            queries, expected = accuracy(engine, k, {"split": "query"}, {"split": "gallery"})
            assert (judged["queries"], judged["metrics"][f"accuracy@{k}"]) == (queries, pytest.approx(expected))
        assert queries == 4
        assert judged["metrics"]["accuracy@10"] == 1  # the gallery partition has 4 photos, one of each query's item
        assert judged["gallery"] == report["facts"]["gallery"] == 4
        assert judged["right_answers_per_query"] == 5 / 4
    json.dumps(report)
    text = runs.table(report)
    assert "accuracy@20" in text.splitlines()[0]
    assert "4 photos in the gallery, 4 queries" in text


def test_consumer_to_shop(opened: Callable[..., Engine]) -> None:
    engine = opened(published.consumer_to_shop)
    judged = runs.run(engine, "consumer-to-shop", 2)["consumer-to-shop"]["image only"]
    asked, filed = {"split": "test", "domain": "consumer"}, {"split": "test", "domain": "shop"}
    for k in (1, 2):
        assert (judged["queries"], judged["metrics"][f"accuracy@{k}"]) == accuracy(engine, k, asked, filed)
    assert judged["queries"] == 3
    assert judged["gallery"] == 3


def test_a_sample_of_the_queries_can_be_asked(opened: Callable[..., Engine]) -> None:
    report = runs.run(opened(published.in_shop), "in-shop", queries=2, seed=1)
    assert report["in-shop"]["image only"]["queries"] == 2


def test_alisc_asks_for_what_is_in_the_box(opened: Callable[..., Engine]) -> None:
    engine = opened(published.alisc)
    report = runs.run(engine, "alisc")
    assert list(report["alisc"]["image only"]["metrics"]) == ["map@20"]
    root, values = Path(engine.gallery.manifest.source["path"]), []
    for imgid, box, right in (("3001", (4, 6, 32, 46), {"2001", "2002"}), ("3002", (2, 2, 32, 44), {"2003"})):
        part = photos.decode(root / "query_image" / f"{imgid}.jpg").image.crop(box)
        hits = engine.query(part, where=["split = gallery"], topk=20).hits
        found = [hit.attributes["imgid"] in right for hit in hits]
        assert len(found) == 5
        values.append(sum(sum(found[: i + 1]) / (i + 1) for i in range(5) if found[i]) / len(right))
    for method in ("image only", "image only, exact"):
        judged = report["alisc"][method]
        assert judged["queries"] == 2
        assert judged["gallery"] == 5
        assert judged["metrics"]["map@20"] == pytest.approx(np.mean(values))


def test_a_right_answer_that_was_not_indexed_counts_as_missed(tmp_path: Path, tiny_model: Path) -> None:
    published.alisc(tmp_path / "set")
    published.write(tmp_path / "set" / "query_answer.txt", "3001,2001;2002")
    (tmp_path / "set" / "eval_image" / "2002.jpg").write_bytes(b"no photo")
    build_gallery(open_photos(tmp_path / "set"), tmp_path / "g", tiny_model)
    engine = Engine.open(tmp_path / "g")
    judged = runs.run(engine, "alisc")["alisc"]["image only"]
    found = [hit.attributes["imgid"] for hit in engine.query(_box(tmp_path), where="split = gallery", topk=20).hits]
    assert judged["gallery"] == len(found) == 4
    assert judged["metrics"]["map@20"] == pytest.approx(1 / (found.index("2001") + 1) / 2)


def _box(folder: Path) -> Any:
    return photos.decode(folder / "set" / "query_image" / "3001.jpg").image.crop((4, 6, 32, 46))


def test_alisc_queries_without_a_box_are_asked_whole(
    tmp_path: Path, tiny_model: Path, opened: Callable[..., Engine]
) -> None:
    published.alisc(tmp_path / "set")
    published.write(tmp_path / "set" / "query_box.txt", "3001,0,0,36,48")  # all of it
    build_gallery(open_photos(tmp_path / "set"), tmp_path / "g", tiny_model)
    (tmp_path / "set" / "query_image" / "3002.jpg").unlink()  # its row answers for it
    engine = Engine.open(tmp_path / "g")
    judged = runs.run(engine, "alisc")["alisc"]["image only"]["metrics"]["map@20"]
    values = []
    for query, right in (("query_image/3001.jpg", ("2001", "2002")), ("query_image/3002.jpg", ("2003",))):
        hits = engine.query(like=query, where=["split = gallery"], topk=20).hits
        found = [hit.attributes["imgid"] in right for hit in hits]
        values.append(sum(sum(found[: i + 1]) / (i + 1) for i in range(5) if found[i]) / len(right))
    assert judged == pytest.approx(np.mean(values))
    published.draw(tmp_path / "set" / "query_image" / "3002.jpg", "d")
    published.write(tmp_path / "set" / "query_box.txt", "3001,40,50,9,9")
    build_gallery(open_photos(tmp_path / "set"), tmp_path / "g2", tiny_model)
    with pytest.raises(InputError, match=r"3001.jpg: box \(40, 50, 9, 9\) holds nothing of 36 x 48 pixels"):
        runs.run(Engine.open(tmp_path / "g2"), "alisc")


# Edits


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a network for the miniature split, as a training would name its attributes."""
    root = published.edits(tmp_path_factory.mktemp("split"))
    source = open_photos(root)
    vocabulary = onehot.names_of(np.array([3, 2]))
    model = {"backbone": "regnet_tiny", "last_stride": 1, "input_size": 32, "branches": 1, "branch_dim": 8}
    attributes = {name: {"dim": 8} for name in vocabulary}
    config = configs.parse({"name": "numbered", "model": model | {"attributes": attributes}}, "tests")
    torch.manual_seed(0)
    net = GarmentNet(config.model, vocabulary).eval()
    pixels = np.stack([photos.load(photo.source, 32).pixels for photo in source])
    with torch.no_grad():
        raw = {name: value.numpy() for name, value in net(torch.from_numpy(pixels).permute(0, 3, 1, 2)).blocks.items()}
    labels = [source.rows[name].to_pylist() for name in vocabulary]
    codes = [[values.index(v) if v else -1 for v in c] for values, c in zip(vocabulary.values(), labels, strict=True)]
    known = memory.from_means({name: raw[name].copy() for name in vocabulary}, np.array(codes).T, vocabulary)
    path = tmp_path_factory.mktemp("model") / "numbered.safetensors"
    checkpoint.write(path, net, known, config, {"steps": 0})
    return path


def slow_edits(engine: Engine, root: Path, k: int, strict: bool, exact: bool = False) -> float:
    """hit@k of the split's queries, one at a time, matching whole label lines of the files."""
    lines = {name: (root / f"{name}.txt").read_text().splitlines() for name in ("imgs_test", "labels_test", "gt_test")}
    named = [(a, v) for a, values in onehot.names_of(np.array([3, 2])).items() for v in values]
    rows = {row["id"]: row for row in rows_of(engine)}
    hits = []
    asked = zip(
        (root / "ref_test.txt").read_text().splitlines(), (root / "indfull_test.txt").read_text().splitlines(),
        lines["gt_test"], strict=True,
    )  # fmt: skip
    for reference, marks, target in asked:
        path = lines["imgs_test"][int(reference)]
        attribute, value = named[marks.split().index("1")]
        at = list(rows).index(path)
        (found,) = engine.rank([at], [{attribute: value}], ["split = test"], 100, exact=exact)
        results = [list(rows)[row] for row in found if not (strict and row == at)][:k]
        hits.append(any(lines["labels_test"][lines["imgs_test"].index(each)] == target for each in results))
    return sum(hits) / len(hits)


def test_a_published_split_runs_unchanged(opened: Callable[..., Engine], numbered: Path) -> None:
    engine = opened(published.edits, numbered)
    root = Path(engine.gallery.manifest.source["path"])
    report = runs.run(engine, "edit", 2)
    assert list(report) == ["facts", "edit_published", "edit_strict"]
    for rule in ("published", "strict"):
        for method in ("edit", "edit, exact"):
            judged = report[f"edit_{rule}"][method]
            assert judged["queries"] == 4
            assert judged["gallery"] == 6
            for k in (2, 10):
                expected = slow_edits(engine, root, k, rule == "strict", method == "edit, exact")
                assert judged["metrics"][f"hit@{k}"] == pytest.approx(expected)
        # of 6 test photos 10 are the best: a query is missed only where no test photo has its target
        assert report[f"edit_{rule}"]["edit"]["metrics"]["hit@10"] == 3 / 4
    assert report["facts"]["references_without_the_attribute"] == 0
    assert not any(report["facts"]["left_out"].values())
    assert "hit@2 published" in runs.table(report)
    json.dumps(report)


def test_what_is_not_in_the_gallery_is_said(tmp_path: Path, numbered: Path) -> None:
    root = published.edits(tmp_path / "set")
    (root / "img" / "tops" / "s0.jpg").unlink()
    build_gallery(open_photos(root), tmp_path / "g", numbered)
    report = runs.run(Engine.open(tmp_path / "g"), "edit")
    assert report["edit_published"]["edit"]["queries"] == 2  # two asked about s0
    assert report["facts"]["left_out"] == {
        "test_photos_not_in_the_gallery": 1,
        "queries_whose_reference_is_not_in_the_gallery": 2,
        "queries_for_values_the_model_never_learned": 0,
    }
    assert "1 test photos not in the gallery" in runs.table(report)


def test_a_value_the_model_never_learned_is_missed(tmp_path: Path, numbered: Path) -> None:
    root = published.edits(tmp_path / "set")
    published.write(root / "attr_num.txt", "4 2")  # one value more than the model knows
    for name in ("labels_train", "labels_test", "indfull_test", "gt_test"):
        file = root / f"{name}.txt"
        file.write_text("".join(f"{' '.join(w[:3])} 0 {' '.join(w[3:])}\n" for w in map(str.split, file.open())))
    lines = (root / "indfull_test.txt").read_text().splitlines()
    targets = (root / "gt_test.txt").read_text().splitlines()
    lines[1], targets[1] = "-1 0 0 1 0 0", "0 0 0 1 1 0"
    published.write(root / "indfull_test.txt", *lines)
    published.write(root / "gt_test.txt", *targets)
    assert len(support.read_split(root).queries.row) == 4
    build_gallery(open_photos(root), tmp_path / "g", numbered)
    report = runs.run(Engine.open(tmp_path / "g"), "edit")
    assert report["facts"]["left_out"]["queries_for_values_the_model_never_learned"] == 1
    assert report["edit_published"]["edit"]["queries"] == 4


# What is refused


def test_a_gallery_of_something_else_is_refused(engine: Engine, opened: Callable[..., Engine]) -> None:
    with pytest.raises(InputError, match="no label item, which in-shop is judged by"):
        runs.run(engine, "in-shop")
    with pytest.raises(InputError, match="attr_num.txt: cannot be read"):
        runs.run(engine, "edit")
    with pytest.raises(InputError, match="its model has no attribute attribute01, attribute02 of the split"):
        runs.run(opened(published.edits), "edit")
    with pytest.raises(InputError, match="none of its photos is a query of consumer-to-shop|no label domain"):
        runs.run(opened(published.in_shop), "consumer-to-shop")
    with pytest.raises(InputError, match="none of its photos is a query of in-shop"):
        runs.run(opened(published.consumer_to_shop), "in-shop")
