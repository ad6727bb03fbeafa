"""The other published data sets: counts, first and last record of each miniature, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index.errors import InputError, PhotoError
from retrieval.datasets import benchmarks, fashionai, lists, onehot, polyvore
from retrieval.datasets.readers import open_photos
from retrieval.datasets.records import Cropped
from retrieval.photos import decode
from tests.retrieval.datasets import published

WRITERS: dict[str, Callable[[Path], Path]] = {
    "edit": published.edits,
    "in-shop": published.in_shop,
    "consumer-to-shop": published.consumer_to_shop,
    "deepfashion": published.attributes,
    "fashionai": published.fashionai,
    "alisc": published.alisc,
    "polyvore": published.polyvore,
    "products": published.products,
}


def refused(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_photos(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", benchmarks.FORMATS)
def test_a_layout_is_recognised_as_itself_and_no_other(name: str, tmp_path: Path) -> None:
    root = WRITERS[name](tmp_path)
    assert [each for each, format_ in benchmarks.FORMATS.items() if format_.recognised(root)] == [name]
    source = open_photos(root)
    assert source.rows == benchmarks.FORMATS[name].read(root).rows
    assert len(source.fingerprint()) == 64
    assert all(isinstance(photo.source, Path) and photo.source.is_file() for photo in source)


def test_a_folder_of_photos_is_none_of_them(tmp_path: Path) -> None:
    published.draw(tmp_path / "a.jpg", "a")
    assert benchmarks.recognised(tmp_path) is None
    assert open_photos(tmp_path).attributes == ()


# FashionAI


def test_fashionai(tmp_path: Path) -> None:
    source = open_photos(published.fashionai(tmp_path))
    found = list(source)
    assert len(found) == 4
    assert source.attributes == ("split", "attribute", "letters", "maybe", *fashionai.VALUES)
    assert [len(values) for values in fashionai.VALUES.values()] == [6, 8, 5, 5, 5, 10, 6, 9]
    first, last = found[0], found[-1]
    assert first.id == first.path == "Images/collar_design_labels/0a1b.jpg"
    assert {name: value for name, value in first.attributes.items() if value} == {
        "attribute": "collar_design",
        "letters": "nynnm",
        "maybe": "Rib Collar",
        "collar_design": "Shirt Collar",
    }
    assert last.id == "Images/sleeve_length_labels/9e9e.jpg"
    assert last.attributes["sleeve_length"] == "Extra Long Sleeves"
    assert last.attributes["maybe"] is None
    assert found[2].attributes["neckline_design"] == "Invisible"


def test_fashionai_in_parts_has_their_names_as_splits(tmp_path: Path) -> None:
    published.fashionai(tmp_path / "base")
    published.fashionai(tmp_path / "web")
    found = list(open_photos(tmp_path))
    assert len(found) == 8
    assert found[0].path == "base/Images/collar_design_labels/0a1b.jpg"
    assert [photo.attributes["split"] for photo in found] == ["base"] * 4 + ["web"] * 4


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Images/a.jpg,hem_labels,nny", "'Images/a.jpg,hem_labels,nny' is not path,attribute,letters of a known"),
        ("Images/a.jpg,neck_design_labels,nnny", "'nnny': neck_design has 5 values, each y, m or n, and one y"),
        ("Images/a.jpg,neck_design_labels,nnnnm", "neck_design has 5 values"),
        ("Images/a.jpg,neck_design_labels,nynny", "neck_design has 5 values"),
        ("Images/a.jpg,neck_design_labels,nnxny", "neck_design has 5 values"),
        ("Images/a.jpg", "is not path,attribute,letters"),
    ],
)
def test_fashionai_lines_that_do_not_fit_are_refused(line: str, said: str, tmp_path: Path) -> None:
    published.fashionai(tmp_path)
    labels = tmp_path / "Annotations" / "label.csv"
    labels.write_text(labels.read_text() + line + "\n")
    assert "label.csv, line 5: " in refused(tmp_path)
    assert said in refused(tmp_path)


# Kaggle


def test_products(tmp_path: Path) -> None:
    source = open_photos(published.products(tmp_path))
    found = list(source)
    assert len(found) == 3
    first, last = found[0], found[-1]
    assert (first.id, first.path) == ("15970", "images/15970.jpg")
    assert first.attributes == {
        "gender": "Men",
        "masterCategory": "Apparel",
        "subCategory": "Topwear",
        "articleType": "Shirts",
        "baseColour": "Navy Blue",
        "season": "Fall",
        "year": "2011",
        "usage": "Casual",
        "productDisplayName": "Turtle Check Men Navy Blue Shirt",
    }
    assert last.id == "6044"
    assert last.attributes["season"] is None
    assert last.attributes["productDisplayName"] == "Tantra Women Printed, Peach Top"
    assert source.missing == (("12347", "images/12347.jpg", lists.LISTED),)


def test_products_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    published.products(tmp_path)
    styles = tmp_path / "styles.csv"
    whole = styles.read_text()
    styles.write_text(whole + "77,Men\n")
    assert "styles.csv, line 6: 2 cells, expected 10" in refused(tmp_path)
    styles.write_text(whole.replace("id,gender", "number,gender"))
    assert "styles.csv, line 1: no column id; it has number, gender" in refused(tmp_path)
    styles.write_text(whole.replace("39386", "15970"))
    assert "'15970' is listed twice" in refused(tmp_path)


# Polyvore


def test_polyvore(tmp_path: Path) -> None:
    source = open_photos(published.polyvore(tmp_path))
    found = list(source)
    assert len(found) == 11
    first, last = found[0], found[-1]
    assert (first.id, first.path) == ("214181831_1", "images/214181831/1.jpg")
    assert first.attributes == {
        "split": "train",
        "outfit": "214181831",
        "category": "Tops",
        "name": "piece 1 of 214181831",
        "price": "24.5",
    }
    assert (last.id, last.attributes["split"]) == ("119314458_5", "test")
    assert last.attributes["category"] == "9999"  # a number that category_id.txt does not name
    outfits = polyvore.outfits(tmp_path)
    assert len(outfits) == 4
    assert outfits[0] == ("214181831", "train", ("214181831_1", "214181831_2", "214181831_4"))
    assert outfits[-1] == ("119314458", "test", ("119314458_1", "119314458_3", "119314458_5"))


def test_polyvore_questions_and_compatibility(tmp_path: Path) -> None:
    published.polyvore(tmp_path)
    questions = polyvore.questions(tmp_path)
    assert len(questions) == 2
    assert questions[0] == (
        ("199244701_1", "199244701_3"),
        ("199244701_2", "119314458_3", "120161271_1", "214181831_2"),
        1,
        0,
    )
    assert (questions[-1].blank, questions[-1].right) == (2, 0)
    lines = polyvore.compatibility(tmp_path)
    assert len(lines) == 3
    assert lines[0] == (True, ("199244701_1", "199244701_2", "199244701_3"))
    assert lines[-1] == (False, ("199244701_1", "119314458_3", "120161271_2"))


def test_polyvore_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = published.polyvore(tmp_path) / "polyvore"
    blanks = folder / "fill_in_blank_test.json"
    whole = blanks.read_text()
    for wrong in (whole.replace('"199244701_2"', '"7_2"'), whole.replace('"blank_position": 2', '"blank_position": 4')):
        blanks.write_text(wrong)
        with pytest.raises(InputError, match="question 1: no answer is of its own outfit, or the blank"):
            polyvore.questions(tmp_path)
    (folder / "fashion_compatibility_prediction.txt").write_text("1 a_1 a_2\n2 a_1 a_2\n")
    with pytest.raises(InputError, match="line 2: '2 a_1 a_2' is not 0 or 1 and two items"):
        polyvore.compatibility(tmp_path)
    (folder / "valid_no_dup.json").unlink()
    assert "no valid_no_dup.json, which the Polyvore data set comes with" in refused(tmp_path)
    (folder / "train_no_dup.json").write_text("[{")
    assert "train_no_dup.json: not readable as JSON" in refused(tmp_path)
    (folder / "train_no_dup.json").write_text('[{"set_id": 1, "items": [{"name": "x"}]}]')
    assert "train_no_dup.json, outfit 1: an item without index" in refused(tmp_path)


# ALISC


def test_alisc(tmp_path: Path) -> None:
    source = open_photos(published.alisc(tmp_path))
    found = list(source)
    assert len(found) == 9
    first, last = found[0], found[-1]
    assert first.id == first.path == "train_image/1001.jpg"
    assert first.attributes == {
        "split": "train",
        "imgid": "1001",
        "category": "4",
        "subcategory": "176",
        "properties": "20000:29444;122216347:740132938",
        "box": None,
        "answers": None,
    }
    assert [photo.attributes["split"] for photo in found] == ["train"] * 2 + ["gallery"] * 5 + ["query"] * 2
    assert last.id == "query_image/3002.jpg"
    assert (last.attributes["box"], last.attributes["answers"]) == ("2,2,30,42", "2003")
    assert found[-2].attributes["answers"] == "2001;2002"


def test_alisc_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    published.alisc(tmp_path)
    boxes, answers = tmp_path / "query_box.txt", tmp_path / "query_answer.txt"
    published.write(boxes, "3001,4,6,28")
    assert "query_box.txt, line 1: '3001' has 4 entries, expected 5" in refused(tmp_path)
    published.write(boxes, "3001,4,6,28,40", "3009,4,6,28,40")
    assert "query_box.txt, line 2: '3009' is no photo of query_image" in refused(tmp_path)
    published.write(boxes, "3001,4,6,28,wide")
    assert "query_box.txt, line 1: '4 6 28 wide' is not a box" in refused(tmp_path)
    boxes.unlink()
    published.write(answers, "3001,2001", "3001,2002")
    assert "query_answer.txt, line 2: '3001' comes twice" in refused(tmp_path)
    published.write(answers, "3001,2001;1001")
    assert "query_answer.txt, line 1: '1001' is no photo of eval_image" in refused(tmp_path)


def test_the_part_of_a_photo_in_a_box_is_read(tmp_path: Path) -> None:
    pixels = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    part = decode(Cropped.of(tmp_path / "a.png", "4,6,10,8")).image
    assert np.array_equal(np.asarray(part), pixels[6:14, 4:14])
    beyond = decode(Cropped.of(tmp_path / "a.png", "-3,15,9,40")).image  # cut to what there is
    assert np.array_equal(np.asarray(beyond), pixels[15:, :6])
    with pytest.raises(PhotoError, match="'4,6,10' is no box x,y,w,h"):
        Cropped.of(tmp_path / "a.png", "4,6,10")
    with pytest.raises(PhotoError, match="holds nothing of 30 x 20 pixels"):
        Cropped.of(tmp_path / "a.png", "30,0,5,5")()


# Edit-retrieval splits


def test_edit_splits(tmp_path: Path) -> None:
    source = open_photos(published.edits(tmp_path))
    found = list(source)
    assert len(found) == 9
    first, last = found[0], found[-1]
    assert first.id == first.path == "img/tops/t1.jpg"
    assert first.attributes == {"split": "train", "attribute01": "01", "attribute02": "01"}
    assert last.id == "img/tops/s5.jpg"
    assert last.attributes == {"split": "test", "attribute01": "02", "attribute02": "01"}
    assert found[-2].attributes["attribute02"] is None


def test_numbered_names_sort_as_they_are_numbered() -> None:
    named = onehot.names_of(np.array([16, 2, 120]))
    assert list(named) == ["attribute01", "attribute02", "attribute03"]
    assert named["attribute03"][-1] == "120"
    assert all(values == sorted(values) for values in named.values())
    assert [len(values) for values in named.values()] == [16, 2, 120]
