"""The three DeepFashion benchmarks as published: counts, first and last record, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from index.errors import InputError
from retrieval.datasets import deepfashion, lists
from retrieval.datasets.readers import open_photos
from tests.retrieval.datasets import published


def refused(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_photos(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


# In-shop


def test_in_shop(tmp_path: Path) -> None:
    source = open_photos(published.in_shop(tmp_path))
    found = list(source)
    assert len(found) == 10
    assert source.missing == ()
    assert Counter(photo.attributes["split"] for photo in found) == {"train": 2, "query": 4, "gallery": 4}
    first, last = found[0], found[-1]
    assert first.id == "img/WOMEN/Dresses/id_00000002/02_1_front.jpg"
    assert first.path == "Img/img/WOMEN/Dresses/id_00000002/02_1_front.jpg"
    assert first.source == tmp_path / first.path
    assert first.attributes == {
        "split": "train",
        "item": "id_00000002",
        "gender": "Women",
        "category": "Dresses",
        "worn": "full",
        "pose": "front",
        "box": "5,8,25,36",
    }
    assert last.id == "img/WOMEN/Jackets_Coats/id_00000055/03_2_side.jpg"
    assert (last.attributes["split"], last.attributes["item"]) == ("gallery", "id_00000055")
    assert (last.attributes["pose"], last.attributes["worn"]) == ("side", "upper")


def test_a_listed_photo_that_is_not_there_is_counted_and_left_out(tmp_path: Path) -> None:
    published.in_shop(tmp_path)
    gone = "Img/img/MEN/Pants/id_00000042/01_2_side.jpg"
    (tmp_path / gone).unlink()
    source = open_photos(tmp_path)
    assert len(source) == 9
    assert source.missing == (("img/MEN/Pants/id_00000042/01_2_side.jpg", gone, lists.LISTED),)


def test_lists_without_their_boxes_leave_the_columns_blank(tmp_path: Path) -> None:
    published.in_shop(tmp_path)
    (tmp_path / "Anno" / "list_bbox_inshop.txt").unlink()
    assert {photo.attributes["box"] for photo in open_photos(tmp_path)} == {None}


def test_in_shop_files_that_do_not_fit_are_refused_by_name_and_line(tmp_path: Path) -> None:
    published.in_shop(tmp_path)
    partition = tmp_path / "Eval" / "list_eval_partition.txt"
    edit(partition, "10\n", "52712\n")
    assert "list_eval_partition.txt: holds 10 of 52,712 records" in refused(tmp_path)
    edit(partition, "52712\n", "ten\n")
    assert "line 1: 'ten' is not the number of records" in refused(tmp_path)
    edit(partition, "ten\n", "10\n")
    edit(partition, "id_00000042 gallery", "")
    assert "line 10: 1 entries, expected 3" in refused(tmp_path)
    edit(partition, "additional.jpg ", "additional.jpg id_00000042 gallery")
    edit(partition, "02_2_side.jpg ", "02_1_front.jpg")
    assert "'img/WOMEN/Dresses/id_00000002/02_1_front.jpg' is listed twice" in refused(tmp_path)


def test_lists_without_photos_are_refused(tmp_path: Path) -> None:
    published.in_shop(tmp_path)
    (tmp_path / "Img").rename(tmp_path / "Pictures")
    said = refused(tmp_path)
    assert "none of the 10 photos listed is there" in said
    assert "img/WOMEN/Dresses/id_00000002/02_1_front.jpg" in said


def test_a_box_that_is_no_box_is_refused(tmp_path: Path) -> None:
    published.in_shop(tmp_path)
    edit(tmp_path / "Anno" / "list_bbox_inshop.txt", "005 008 030 044", "005 008 x 044")
    assert "list_bbox_inshop.txt, line 3: '005 008 x 044' is not a box of four numbers" in refused(tmp_path)


# Consumer to shop


def test_consumer_to_shop(tmp_path: Path) -> None:
    source = open_photos(published.consumer_to_shop(tmp_path))
    found = list(source)
    assert len(found) == 11
    counts = Counter((photo.attributes["split"], photo.attributes["domain"]) for photo in found)
    assert counts == {
        ("train", "consumer"): 2,
        ("train", "shop"): 1,
        ("test", "consumer"): 3,
        ("test", "shop"): 3,
        ("val", "consumer"): 1,
        ("val", "shop"): 1,
    }
    first, last = found[0], found[-1]
    assert first.id == first.path == "img/TROUSERS/Skirt/id_00000182/comsumer_01.jpg"
    assert first.attributes == {
        "split": "train",
        "item": "id_00000182",
        "domain": "consumer",
        "category": "Skirt",
        "worn": "lower",
        "box": "1,2,32,38",
    }
    assert last.id == "img/CLOTHING/Coat/id_00000511/shop_01.jpg"
    assert last.attributes["domain"] == "shop"
    assert last.attributes["split"] == "val"
    assert deepfashion.pairs(tmp_path) == 8


def test_a_photo_cannot_be_of_two_items(tmp_path: Path) -> None:
    published.consumer_to_shop(tmp_path)
    edit(tmp_path / "list_eval_partition.txt", "shop_02.jpg id_00000218 test", "shop_01.jpg id_00000219 test")
    said = refused(tmp_path)
    assert (
        "line 6: img/TOPS/T_Shirt/id_00000218/comsumer_01.jpg is test/id_00000218/consumer in an earlier line" in said
    )


# Category and attributes


def test_categories_and_attributes(tmp_path: Path) -> None:
    source = open_photos(published.attributes(tmp_path))
    found = list(source)
    assert len(found) == 4
    assert source.attributes == (
        "split", "category", "worn", "box", "texture", "fabric", "shape", "part", "style"
    )  # fmt: skip
    first, last = found[0], found[-1]
    assert first.id == "img/Sheer_Pleated-Front_Blouse/img_00000001.jpg"
    assert first.attributes == {
        "split": "train",
        "category": "Blouse",
        "worn": "upper",
        "box": "72,79,160,194",
        "texture": None,
        "fabric": "chiffon",
        "shape": None,
        "part": None,
        "style": "classic",
    }
    assert found[1].attributes["texture"] == "abstract chevron print"
    assert found[2].attributes["shape"] == "a-line"
    assert last.id == "img/Crochet_Dress/img_00000009.jpg"
    assert last.attributes["category"] == "Dress"
    assert last.attributes["worn"] == "full"
    assert {last.attributes[kind] for kind in deepfashion.KINDS.values()} == {None}
    assert deepfashion.marks(tmp_path) == (5, 12, 7)


def test_attribute_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    published.attributes(tmp_path)
    marks = tmp_path / "Anno" / "list_attr_img.txt"
    edit(marks, "-1 -1 -1  1  1 -1", "-1 -1 -1  1  1 2")
    assert "list_attr_img.txt, line 3: expected 6 labels, each 1, -1 or 0" in refused(tmp_path)
    edit(marks, "-1 -1 -1  1  1 2", "-1 -1 -1  1  1 -1")
    edit(tmp_path / "Anno" / "list_category_img.txt", "00001.jpg  ", "00001.jpg 9")
    assert "list_category_img.txt, line 3: '9' is not a number from 1 to 5" in refused(tmp_path)


def test_without_the_attribute_lists_there_are_categories_alone(tmp_path: Path) -> None:
    published.attributes(tmp_path)
    (tmp_path / "Anno" / "list_attr_img.txt").unlink()
    assert open_photos(tmp_path).attributes == ("split", "category", "worn", "box")
    assert deepfashion.marks(tmp_path) == (0, 0, 0)
