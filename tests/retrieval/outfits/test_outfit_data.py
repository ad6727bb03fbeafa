"""Where outfits come from: worn garments, category sequences, the rule of composed ones and the planted rule; slots."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index.errors import ConfigError, InputError, UnknownNameError
from retrieval import config as image_configs
from retrieval.datasets import planted, worn
from retrieval.outfits import config as configs
from retrieval.outfits.compose import Composer
from retrieval.outfits.language import plain, words_of
from retrieval.outfits.slots import Slots

SLOTS = {"top": ("Tshirts", "shirt"), "bottom": ("Jeans", "Skirts"), "shoes": ("Casual Shoes", "Heels")}


def test_words_are_compared_without_case_hyphens_and_plurals() -> None:
    assert words_of("Men's T-Shirts, (Navy_Blue) 2-pack") == ["men", "tshirt", "navy", "blue", "2pack"]
    assert words_of("Dresses watches berries glass gas") == ["dress", "watch", "berry", "glass", "gas"]
    assert plain("T-Shirts") == plain("tshirt") == plain("TSHIRTS")


def test_a_slot_is_found_by_its_name_or_a_kind_in_it() -> None:
    slots = Slots(SLOTS)
    assert slots.of("t-shirt") == "top"
    assert slots.of("Umbrella") == slots.of(None) == "other"
    assert [slots.meant(word) for word in ("shoes", "Shoe", "heel", "jeans")] == ["shoes", "shoes", "shoes", "bottom"]
    assert slots.order(["shoes", "other", "top", "bottom", "top"]) == [2, 4, 3, 0, 1]
    with pytest.raises(UnknownNameError, match="no slot of an outfit is called 'shoos'; nearest: shoes"):
        slots.meant("shoos")
    with pytest.raises(UnknownNameError, match="known: top, bottom, shoes"):
        slots.meant("qqqq")


def test_the_shipped_config_is_whole() -> None:
    config = configs.load("outfits")
    slots = Slots(config.slots)
    assert {slots.of(kind) for kinds in config.kinds.values() for kind in kinds} <= set(config.slots)
    assert config.text.margin == 0.2
    with pytest.raises(ConfigError, match="in two slots: shirt; |in two slots: shirt$"):
        configs.parse({"name": "x", "slots": {"a": ["Shirts"], "b": ["shirt"]}}, "x")
    with pytest.raises(ConfigError, match="hiden"):
        configs.parse({"name": "x", "slots": {}, "model": {"hiden": 4}}, "x")
    assert (configs.SizesConfig().hidden, configs.SizesConfig().item, configs.TextConfig().dim) == (512, 512, 512)


def test_every_block_of_the_image_model_is_in_an_aspect() -> None:
    attributes = {"kind": {"dim": 4}, "tint": {"dim": 4, "color": True}, "sleeve": {"dim": 4}, "mood": {"dim": 4}}
    image = image_configs.parse({"name": "x", "model": {"attributes": attributes}}, "x")
    wanted = {"shape": ("kind", "sleeve", "gone"), "nothing": ("gone",)}
    assert configs.aspects_of(wanted, ["look", "kind", "tint", "sleeve", "mood"], image) == {
        "shape": ("kind", "sleeve"), "texture": ("look",), "color": ("tint",), "mood": ("mood",),
    }  # fmt: skip


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """Two people: one with regions, one without."""
    for folder in ("photos", "regions"):
        (tmp_path / folder).mkdir()
    pixels = np.zeros((60, 40, 3), np.uint8)
    pixels[10:40, 5:35] = (200, 30, 30)
    for name in ("a", "b"):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    region = np.zeros((60, 40), np.uint8)
    region[10:40, 5:20] = 2
    Image.fromarray(region).save(tmp_path / "regions" / "a.png")
    boxes = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "hair"}, {"id": 2, "name": "shirt"}, {"id": 3, "name": "skirt"}],
        "annotations": [
            {"id": 7, "image_id": 2, "category_id": 2, "bbox": [5, 10, 30, 30]},
            {"id": 4, "image_id": 1, "category_id": 2, "bbox": [5, 10, 30, 30]},
            {"id": 5, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 40]},
            {"id": 6, "image_id": 1, "category_id": 3, "bbox": [0, 0, 9, 9]},
        ],
    }
    (tmp_path / "boxes.coco.json").write_text(json.dumps(boxes), encoding="utf-8")
    return tmp_path


def test_worn_garments_are_those_asked_for_cut_out_on_white(street: Path) -> None:
    assert worn.categories(street) == ["hair", "shirt", "skirt"]
    garments = worn.read_worn(street, ["shirt", "skirt"])
    assert [(each.id, each.outfit, each.kind) for each in garments] == [("a/4", "a", "shirt"), ("b/7", "b", "shirt")]
    own, box = (worn.cut(each) for each in garments)
    assert own.shape == box.shape == (30, 30, 3)
    assert (own[:, :15] == (200, 30, 30)).all()
    assert (own[:, 15:] == 255).all()
    assert (box == (200, 30, 30)).all()
    with pytest.raises(InputError, match="no box of these kinds: boots"):
        worn.read_worn(street, ["boots"])
    (street / "boxes.coco.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="not the COCO format"):
        worn.read_worn(street, ["shirt"])


def test_category_sequences_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "category_id.txt").write_text("4 Day Dresses\n49 Sneakers\n", encoding="utf-8")
    (tmp_path / "train_all.json").write_text('[{"set_id": "9", "items_category": [49, 4, 777]}]', encoding="utf-8")
    assert worn.read_sequences(tmp_path) == [("9", ("Sneakers", "Day Dresses"))]
    with pytest.raises(InputError, match=r"0 files test_\*.json"):
        worn.read_sequences(tmp_path, "test")
    (tmp_path / "train_all.json").write_text('[{"set": 1}]', encoding="utf-8")
    with pytest.raises(InputError, match="not category sequences"):
        worn.read_sequences(tmp_path)


def composer(n: int = 600, seed: int = 0) -> Composer:
    rng = np.random.default_rng(seed)
    pick = lambda *values: [str(v) or None for v in rng.choice(values, n)]  # noqa: E731
    labels = {"color": pick("Red", "Blue", "Black", "Green", ""), "gender": pick("Men", "Women", "Unisex", "")}
    kinds = pick("Tshirts", "Jeans", "Skirts", "Heels", "Casual Shoes", "Books")
    rule = configs.RuleConfig(
        color="color", palettes={"dark": ("Black", "Blue"), "warm": ("Red", "Black")}, same=("gender",),
        neutral={"gender": ("Unisex",)},
    )  # fmt: skip
    mapping = {
        "Tops": ("Tshirts",),
        "Pants": ("Jeans",),
        "Skirts": ("Skirts",),
        "Pumps": ("Heels",),
        "Lamps": ("Books",),
    }
    return Composer(rule, Slots(SLOTS), mapping, kinds, labels, np.arange(0, n, 2))


def test_composed_outfits_keep_the_rule() -> None:
    made = composer()
    outfits = made.draw([("Tops", "Pumps", "Pants", "Lamps", "Skirts", "unknown")] * 200, np.random.default_rng(1))
    assert len(outfits) == 200
    for outfit in outfits:
        assert all(row % 2 == 0 for row in outfit.rows)  # none of the rows that were held back
        assert [made.slots.of(made.kinds[row]) for row in outfit.rows] == ["top", "bottom", "shoes"]
        assert {made.labels["color"][row] for row in outfit.rows} <= set(made.rule.palettes[outfit.palette])
        assert {made.labels["gender"][row] for row in outfit.rows} <= {*outfit.same, "Unisex"}
        assert [made.breaks(outfit, row) for row in outfit.rows] == [[]] * 3
    assert {outfit.palette for outfit in outfits} == {"dark", "warm"}
    assert {outfit.same for outfit in outfits} == {("Men",), ("Women",)}
    assert made.draw([("Tops", "Pants")], np.random.default_rng(1)) == []
    again = composer().draw([("Tops", "Pumps", "Pants")] * 50, np.random.default_rng(2))
    assert again == made.draw([("Tops", "Pumps", "Pants")] * 50, np.random.default_rng(2))


def test_what_breaks_the_rule_is_named() -> None:
    made = composer()
    (outfit,) = made.draw([("Tops", "Pumps", "Pants")], np.random.default_rng(3))
    for row in range(600):
        color, gender = made.labels["color"][row], made.labels["gender"][row]
        expected = ["color"] if color and color not in made.rule.palettes[outfit.palette] else []
        expected += ["gender"] if gender and gender not in (*outfit.same, "Unisex") else []
        assert made.breaks(outfit, row) == expected


def test_a_stream_of_items_stands_on_the_prototypes_of_planted_outfits(monkeypatch: pytest.MonkeyPatch) -> None:
    made = planted.planted(10, 4000, seed=2)
    monkeypatch.setattr(planted, "AT_ONCE", 2500)
    codes, features = (np.concatenate(each) for each in zip(*planted.stream(4000, seed=5), strict=True))
    assert features.shape == made.features.shape
    assert codes.max(axis=0).tolist() == [len(planted.KINDS) - 1, len(planted.CLOTHS) - 1, planted.HUES - 1]
    start = 0
    for block, (own, dim) in enumerate(zip(codes.T, planted.BLOCKS.values(), strict=True)):
        theirs = np.array([item[block] for item in made.items])
        mine, known = (
            np.stack(
                [
                    np.asarray(x, np.float64)[of == value, start : start + dim].mean(axis=0)
                    for value in range(own.max() + 1)
                ]
            )
            for x, of in ((features, own), (made.features, theirs))
        )
        cosines = (mine @ known.T) / np.outer(np.linalg.norm(mine, axis=1), np.linalg.norm(known, axis=1))
        assert cosines.diagonal().min() > 0.95
        assert (cosines.argmax(axis=1) == np.arange(len(mine))).all()
        start += dim


def test_planted_outfits_keep_their_rule_and_repeat() -> None:
    made = planted.planted(300, 500, seed=2)
    assert made.features.shape == (500, sum(planted.BLOCKS.values()))
    start = 0
    for dim in planted.BLOCKS.values():
        lengths = np.linalg.norm(made.features[:, start : start + dim].astype(np.float64), axis=1)
        np.testing.assert_allclose(lengths, 1, atol=2e-3)
        start += dim
    for outfit, style in zip(made.outfits, made.styles, strict=True):
        kinds = [made.items[row].kind for row in outfit]
        assert 3 <= len(outfit) <= 6
        assert kinds == sorted(set(kinds))
        assert all(planted.fits(made.items[row], style) == [] for row in outfit)
    again = planted.planted(300, 500, seed=2)
    assert again.outfits == made.outfits
    np.testing.assert_array_equal(again.features, made.features)
    assert planted.harmony(11) == (11, 0, 5)
    assert planted.fits(planted.Item(0, 4, 3), (0, 3)) == ["texture"]
    assert planted.fits(planted.Item(0, 4, 9), (1, 0)) == ["color"]
