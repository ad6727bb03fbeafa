"""Miniatures of published data sets, in the very formats of their files, with photos drawn on the spot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def draw(path: Path, looks: str, view: str = "") -> None:
    """A JPEG of 36 x 48: a figure and two colours that depend on ``looks``, moved a little by ``view``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(hashlib.sha256(looks.encode()).digest()[:8]))
    ground, cloth, trim = (rng.integers(0, 256, 3) for _ in range(3))
    pixels = np.empty((48, 36, 3), np.uint8)
    pixels[:] = ground
    top, left = rng.integers(2, 12), rng.integers(2, 9)
    shift = hashlib.sha256(view.encode()).digest()[0] % 3
    pixels[top + shift : 44, left + shift : 32] = cloth
    pixels[top + shift : 44 : int(rng.integers(3, 9)), left + shift : 32] = trim
    Image.fromarray(pixels).save(path, "JPEG", quality=90)


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return path


def counted(path: Path, header: str, records: Iterable[str]) -> Path:
    """A DeepFashion list: the number of records, the entry names, the records."""
    every = list(records)
    return write(path, str(len(every)), header, *every)


IN_SHOP = """\
img/WOMEN/Dresses/id_00000002/02_1_front.jpg                           id_00000002 train
img/WOMEN/Dresses/id_00000002/02_2_side.jpg                            id_00000002 train
img/WOMEN/Blouses_Shirts/id_00000001/02_1_front.jpg                    id_00000001 query
img/WOMEN/Blouses_Shirts/id_00000001/02_3_back.jpg                     id_00000001 gallery
img/WOMEN/Blouses_Shirts/id_00000001/02_4_full.jpg                     id_00000001 gallery
img/MEN/Pants/id_00000042/01_1_front.jpg                               id_00000042 query
img/MEN/Pants/id_00000042/01_2_side.jpg                                id_00000042 query
img/MEN/Pants/id_00000042/01_7_additional.jpg                          id_00000042 gallery
img/WOMEN/Jackets_Coats/id_00000055/03_1_front.jpg                     id_00000055 query
img/WOMEN/Jackets_Coats/id_00000055/03_2_side.jpg                      id_00000055 gallery
"""


def in_shop(root: Path) -> Path:
    """4 items, 10 photos: 2 for training, 4 queries, 4 in the gallery."""
    records = IN_SHOP.splitlines()
    counted(root / "Eval" / "list_eval_partition.txt", "image_name item_id evaluation_status", records)
    paths = [record.split()[0] for record in records]
    worn = {"Dresses": 3, "Pants": 2}
    poses = {"front": 1, "side": 2, "back": 3, "full": 6, "additional": 5}
    counted(
        root / "Anno" / "list_bbox_inshop.txt",
        "image_name clothes_type pose_type x_1 y_1 x_2 y_2",
        [
            f"{path:<70} {worn.get(path.split('/')[2], 1)} {poses[path[:-4].split('_')[-1]]} 005 008 030 044"
            for path in paths
        ],
    )
    write(root / "Anno" / "list_item_inshop.txt", "4", *dict.fromkeys(record.split()[1] for record in records))
    for path in paths:
        draw(root / "Img" / path, path.split("/")[3], path)
    return root


CONSUMER = """\
img/TROUSERS/Skirt/id_00000182/comsumer_01.jpg img/TROUSERS/Skirt/id_00000182/shop_01.jpg id_00000182 train
img/TROUSERS/Skirt/id_00000182/comsumer_02.jpg img/TROUSERS/Skirt/id_00000182/shop_01.jpg id_00000182 train
img/TOPS/T_Shirt/id_00000218/comsumer_01.jpg img/TOPS/T_Shirt/id_00000218/shop_01.jpg id_00000218 test
img/TOPS/T_Shirt/id_00000218/comsumer_01.jpg img/TOPS/T_Shirt/id_00000218/shop_02.jpg id_00000218 test
img/TOPS/T_Shirt/id_00000218/comsumer_02.jpg img/TOPS/T_Shirt/id_00000218/shop_01.jpg id_00000218 test
img/TOPS/T_Shirt/id_00000218/comsumer_02.jpg img/TOPS/T_Shirt/id_00000218/shop_02.jpg id_00000218 test
img/DRESSES/Dress/id_00000400/comsumer_01.jpg img/DRESSES/Dress/id_00000400/shop_01.jpg id_00000400 test
img/CLOTHING/Coat/id_00000511/comsumer_01.jpg img/CLOTHING/Coat/id_00000511/shop_01.jpg id_00000511 val
"""


def consumer_to_shop(root: Path) -> Path:
    """8 pairs of 4 items; 6 consumer and 5 shop photos, of which 3 and 3 are for testing."""
    records = CONSUMER.splitlines()
    header = "image_pair_name_1 image_pair_name_2 item_id evaluation_status"
    counted(root / "list_eval_partition.txt", header, records)
    paths = sorted({path for record in records for path in record.split()[:2]})
    counted(
        root / "list_bbox_consumer2shop.txt",
        "image_name clothes_type source_type x_1 y_1 x_2 y_2",
        [f"{path} {2 if 'Skirt' in path else 1} {2 if 'comsumer' in path else 1} 1 2 33 40" for path in paths],
    )
    write(root / "list_item_consumer2shop.txt", "4", *sorted({record.split()[2] for record in records}))
    for path in paths:
        draw(root / path, path.split("/")[3], path)
    return root


def attributes(root: Path) -> Path:
    """4 photos of 3 categories with 6 attributes of all five types."""
    counted(
        root / "Anno" / "list_category_cloth.txt",
        "category_name  category_type",
        ["Anorak         1", "Blazer         1", "Blouse         1", "Skirt          2", "Dress          3"],
    )
    names = ["a-line", "abstract chevron print", "applique", "chiffon", "classic", "crew neck"]
    counted(
        root / "Anno" / "list_attr_cloth.txt",
        "attribute_name  attribute_type",
        [f"{name:<29}{kind}" for name, kind in zip(names, "315254", strict=True)],
    )
    paths = [f"img/Sheer_Pleated-Front_Blouse/img_0000000{n}.jpg" for n in (1, 2)]
    paths += ["img/A-Line_Skirt/img_00000001.jpg", "img/Crochet_Dress/img_00000009.jpg"]
    counted(
        root / "Anno" / "list_category_img.txt",
        "image_name  category_label",
        [f"{path:<70} {code}" for path, code in zip(paths, (3, 3, 4, 5), strict=True)],
    )
    marks = ["-1 -1 -1  1  1 -1", "-1  1  0  1 -1 -1", " 1 -1 -1 -1 -1 -1", " 0  0  0  0  0  0"]
    counted(
        root / "Anno" / "list_attr_img.txt",
        "image_name  attribute_labels",
        [f"{path:<70} {mark}" for path, mark in zip(paths, marks, strict=True)],
    )
    boxes = ["072 079 232 273", "067 059 155 161", "065 065 156 200", "051 062 167 182"]
    counted(
        root / "Anno" / "list_bbox.txt",
        "image_name  x_1  y_1  x_2  y_2",
        [f"{path:<70} {corners}" for path, corners in zip(paths, boxes, strict=True)],
    )
    splits = ("train", "val", "test", "train")
    counted(
        root / "Eval" / "list_eval_partition.txt",
        "image_name evaluation_status",
        [f"{path:<70} {split}" for path, split in zip(paths, splits, strict=True)],
    )
    for path in paths:
        draw(root / "Img" / path, path)
    return root


FASHIONAI = """\
Images/collar_design_labels/0a1b.jpg,collar_design_labels,nynnm
Images/skirt_length_labels/77c0.jpg,skirt_length_labels,nnmynn
Images/neckline_design_labels/f00d.jpg,neckline_design_labels,ynnnnnnnnn
Images/sleeve_length_labels/9e9e.jpg,sleeve_length_labels,nnnnnnnny
"""


def fashionai(root: Path) -> Path:
    """4 photos of four attributes."""
    write(root / "Annotations" / "label.csv", *FASHIONAI.splitlines())
    for line in FASHIONAI.splitlines():
        draw(root / line.split(",")[0], line)
    return root


STYLES = """\
id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName
15970,Men,Apparel,Topwear,Shirts,Navy Blue,Fall,2011,Casual,Turtle Check Men Navy Blue Shirt
39386,Men,Apparel,Bottomwear,Jeans,Blue,Summer,2012,Casual,Peter England Men Party Blue Jeans
6044,Women,Apparel,Topwear,Tops,NA,,2016,Casual,Tantra Women Printed, Peach Top
12347,Unisex,Accessories,Watches,Watches,Silver,Winter,2016,Casual,"Titan ""Raga"", Silver Watch"
"""


def products(root: Path) -> Path:
    """4 products, of which the last has no photo; one name holds a comma without quotes."""
    write(root / "styles.csv", *STYLES.splitlines())
    for id_ in ("15970", "39386", "6044"):
        draw(root / "images" / f"{id_}.jpg", id_)
    return root


def polyvore(root: Path) -> Path:
    """4 outfits of 11 items, 2 questions, 3 lines for compatibility."""
    kinds = {"11": "Tops", "27": "Jeans", "41": "Shoes", "262": "Mid Calf Boots"}
    write(root / "polyvore" / "category_id.txt", *(f"{number} {name}" for number, name in kinds.items()))
    sets = {
        "train": [("214181831", (1, 2, 4))],
        "valid": [("120161271", (1, 2))],
        "test": [("199244701", (1, 2, 3)), ("119314458", (1, 3, 5))],
    }
    for split, outfits in sets.items():
        held = [
            {
                "name": f"Outfit {name}",
                "views": 8743,
                "items": [
                    {
                        "index": index,
                        "name": f"piece {index}\u00a0of {name}",
                        "price": 24.5 * index,
                        "likes": 3,
                        "image": "http://img2.polyvoreimg.com/cgi/img-thing?tid=1",
                        "categoryid": (11, 27, 41, 262, 9999)[index - 1],
                    }
                    for index in indices
                ],
                "image": "http://ak2.polyvoreimg.com/cgi/img-set.jpg",
                "likes": 394,
                "date": "Two months",
                "set_url": f"http://www.polyvore.com/x/set?id={name}",
                "set_id": name,
                "desc": "",
            }
            for name, indices in outfits
        ]
        write(root / "polyvore" / f"{split}_no_dup.json", json.dumps(held))
        for name, indices in outfits:
            for index in indices:
                draw(root / "images" / name / f"{index}.jpg", f"{index % 2}", name)
    questions = [
        {
            "question": ["199244701_1", "199244701_3"],
            "answers": ["199244701_2", "119314458_3", "120161271_1", "214181831_2"],
            "blank_position": 2,
        },
        {
            "question": ["119314458_1", "119314458_3"],
            "answers": ["119314458_5", "199244701_1", "199244701_2", "120161271_2"],
            "blank_position": 3,
        },
    ]
    write(root / "polyvore" / "fill_in_blank_test.json", json.dumps(questions))
    write(
        root / "polyvore" / "fashion_compatibility_prediction.txt",
        "1 199244701_1 199244701_2 199244701_3",
        "1 119314458_1 119314458_3 119314458_5",
        "0 199244701_1 119314458_3 120161271_2",
    )
    return root


def alisc(root: Path) -> Path:
    """2 photos for training, 5 in the gallery, 2 queries with boxes; one query has two right answers."""
    looks = {
        "train_image/1001.jpg": "a", "train_image/1002.jpg": "b", "eval_image/2001.jpg": "c",
        "eval_image/2002.jpg": "c", "eval_image/2003.jpg": "d", "eval_image/2004.jpg": "e", "eval_image/2005.jpg": "f",
        "query_image/3001.jpg": "c", "query_image/3002.jpg": "d",
    }  # fmt: skip
    for path, look in looks.items():
        draw(root / path, look, path)
    write(root / "train_label.txt", "1001,4,176,20000:29444;122216347:740132938;", "1002,4,177,")
    write(root / "query_box.txt", "3001,4,6,28,40", "3002 2 2 30 42")
    write(root / "query_answer.txt", "3001,2001;2002", "3002,2003;")
    return root


def edits(root: Path) -> Path:
    """A split of 3 training and 6 test photos, 2 attributes of 3 and 2 values, 4 queries; one reference lacks the
    second attribute."""
    write(root / "attr_num.txt", "3 2")
    train = ["img/tops/t1.jpg", "img/tops/t2.jpg", "img/tops/t3.jpg"]
    test = [f"img/tops/s{number}.jpg" for number in range(6)]
    write(root / "imgs_train.txt", *train)
    write(root / "labels_train.txt", "1 0 0 1 0", "0 1 0 0 1", "0 0 1 1 0")
    write(root / "imgs_test.txt", *test)
    labels = ["1 0 0 1 0", "1 0 0 0 1", "0 1 0 1 0", "0 1 0 0 1", "0 0 1 0 0", "0 1 0 1 0"]
    write(root / "labels_test.txt", *labels)
    write(root / "ref_test.txt", "0", "0", "3", "4")
    write(root / "indfull_test.txt", "0 0 0 -1 1", "-1 1 0 0 0", "0 0 0 1 -1", "1 0 -1 0 0")
    write(root / "gt_test.txt", labels[1], labels[2], labels[5], "1 0 0 0 0")
    for path in (*train, *test):
        draw(root / path, path)
    return root
