"""The published text format, byte for byte as in the published splits: one space, one newline, counts pinned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from index.errors import InputError
from retrieval.evaluation import protocols, support

# Two attributes of 3 and 2 values. Test photo 2 lacks the second attribute, so query 3 has no -1.
FILES = {
    "attr_num.txt": "3\n2\n",
    "imgs_train.txt": "img/Blue Dress/1.jpg\nimg/2.jpg\n",
    "labels_train.txt": "1 0 0 0 1\n0 0 1 1 0\n",
    "imgs_test.txt": "img/3.jpg\nimg/4.jpg\nimg/5.jpg\nimg/6.jpg\n",
    "labels_test.txt": "1 0 0 1 0\n0 1 0 1 0\n0 1 0 0 0\n0 0 1 0 0\n",
    "ref_test.txt": "0\n1\n2\n2\n",
    "indfull_test.txt": "-1 1 0 0 0\n1 -1 0 0 0\n0 0 0 1 0\n0 -1 1 0 0\n",
    "gt_test.txt": "0 1 0 1 0\n1 0 0 1 0\n0 1 0 1 0\n0 0 1 0 0\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_counts_first_and_last(folder: Path):
    split = support.read_split(folder)
    assert split.sizes.tolist() == [3, 2]
    assert (len(split.train.photos), len(split.test.photos), len(split.queries.row)) == (2, 4, 4)
    assert split.train.photos[0] == "img/Blue Dress/1.jpg"
    assert split.test.photos[-1] == "img/6.jpg"
    assert split.train.labels.tolist() == [[0, 1], [2, 0]]
    assert split.test.labels.tolist() == [[0, 0], [1, 0], [1, -1], [2, -1]]
    queries = split.queries
    assert queries.row.tolist() == [0, 1, 2, 2]
    assert queries.attribute.tolist() == [0, 0, 1, 0]
    assert queries.value.tolist() == [1, 0, 0, 2]
    assert queries.target.tolist() == [[1, 0], [0, 0], [1, 0], [2, -1]]
    assert queries.valid.tolist() == [3, 1]
    assert split.test.labels.dtype == queries.target.dtype == np.int32


def test_written_files_are_the_same_bytes(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    copy = tmp_path_factory.mktemp("copy") / "new"
    support.write_split(copy, support.read_split(folder))
    assert {path.name: path.read_bytes().decode() for path in copy.iterdir()} == FILES


def test_own_queries_survive_the_format(tmp_path: Path):
    labels = np.random.default_rng(0).integers(0, 3, (40, 3)).astype(np.int32)
    queries = protocols.edit_queries(labels, np.arange(40), np.arange(40), [3, 3, 3])
    part = support.Part([f"{row}.jpg" for row in range(40)], labels)
    support.write_split(tmp_path, support.Split(np.array([3, 3, 3]), part, part, queries))
    back = support.read_split(tmp_path)
    assert len(queries.row) > 50
    for name in ("row", "attribute", "value", "target", "valid"):
        assert np.array_equal(getattr(back.queries, name), getattr(queries, name)), name
    assert np.array_equal(back.test.labels, labels)


def test_absence_must_match_when_a_published_split_is_scored(folder: Path):
    split = support.read_split(folder)
    rows = np.array([[1, 0, 2, 3], [0, 1, 2, 3], [1, 2, 0, 3], [3, 2, 1, 0]])
    report = protocols.score_edits(
        split.test.labels, split.queries, rows, np.arange(4), [1], ["category", "sleeve"], "published"
    )
    # Query 4 asks for (third value, nothing): photo 3, which lacks the second attribute too, is a whole match.
    assert report["metrics"]["hit@1"] == 1
    assert report["metrics"]["ndcg@1"] == 1


@pytest.mark.parametrize("text", ["3 2\n", "3 2", " 3  2 \r\n"])
def test_sizes_on_one_line_and_foreign_line_ends(folder: Path, text: str):
    (folder / "attr_num.txt").write_bytes(text.encode())
    (folder / "ref_test.txt").write_bytes(b"0\r\n1\r\n2\r\n2")
    (folder / "imgs_train.txt").write_bytes(b"a.jpg\r\nb.jpg\r\n\r\n")
    split = support.read_split(folder)
    assert split.sizes.tolist() == [3, 2]
    assert split.queries.row.tolist() == [0, 1, 2, 2]
    assert split.train.photos == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("name", "text", "where", "what"),
    [
        ("attr_num.txt", "3\ntwo\n", "attr_num.txt, line 2", "'two' is not a whole number"),
        ("attr_num.txt", "3\n0\n", "attr_num.txt, line 2", "'0' is not a whole number"),
        ("attr_num.txt", "", "attr_num.txt, line 1", "is empty"),
        ("attr_num.txt", "3\n3\n", "labels_train.txt, line 1", "5 numbers, expected 6"),
        ("labels_train.txt", "1 0 0 0 1\n0 0 1 1\n", "labels_train.txt, line 2", "4 numbers, expected 5"),
        ("labels_train.txt", "1 0 0 0 1\n0 0 2 1 0\n", "labels_train.txt, line 2", "'2' in column 3"),
        ("labels_train.txt", "1 0 0 0 1\n0 0 -1 1 0\n", "labels_train.txt, line 2", "'-1' in column 3"),
        ("labels_test.txt", "1 1 0 1 0\n", "labels_test.txt, line 1", "attribute 1 has two values"),
        ("labels_train.txt", "1 0 0 0 1\n", "labels_train.txt, line 2", "1 lines but imgs_train.txt has 2"),
        ("imgs_train.txt", "a.jpg\n\nb.jpg\n", "imgs_train.txt, line 2", "is empty"),
        ("ref_test.txt", "0\n1\n2\n4\n", "ref_test.txt, line 4", "'4' is not a whole number from 0 to 3"),
        ("ref_test.txt", "0\n1\n2\n", "gt_test.txt, line 4", "4 lines but ref_test.txt has 3"),
        ("indfull_test.txt", "-1 1 0 0 0\n" * 5, "indfull_test.txt, line 5", "5 lines but ref_test.txt has 4"),
        ("indfull_test.txt", "-1 0 0 0 0\n", "indfull_test.txt, line 1", "expected one 1"),
        ("indfull_test.txt", "-1 1 0 0 1\n", "indfull_test.txt, line 1", "expected one 1"),
        ("indfull_test.txt", "0 1 0 -1 0\n", "indfull_test.txt, line 1", "at most one -1 in the same attribute"),
        ("indfull_test.txt", "-1 1 0 0 0\n" * 4, "indfull_test.txt, line 2", "does not have"),
        ("gt_test.txt", "0 1 0 1 0\n", "gt_test.txt, line 2", "1 lines but ref_test.txt has 4"),
        ("imgs_test.txt", None, "imgs_test.txt", "cannot be read"),
    ],
)
def test_malformed_files_are_named_with_their_line(folder: Path, name: str, text: str | None, where: str, what: str):
    (folder / name).unlink() if text is None else (folder / name).write_text(text)
    with pytest.raises(InputError) as caught:
        support.read_split(folder)
    assert where in str(caught.value)
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(folder: Path):
    (folder / "imgs_test.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="imgs_test.txt: cannot be read"):
        support.read_split(folder)
