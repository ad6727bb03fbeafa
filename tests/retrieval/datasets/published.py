"""Miniatures of published data sets, in the very formats of their files, with photos drawn on the spot."""

from __future__ import annotations

import hashlib
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
