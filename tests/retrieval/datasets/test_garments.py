"""The garment generator: same seed, same bytes; the labels say what was drawn; a user's files are never overwritten."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from index.errors import InputError
from retrieval.datasets import garments, garments_regions
from retrieval.datasets.garments import ATTRIBUTES, COMBINATIONS, Garment, draw, draw_parts, generate, sample_styles
from retrieval.datasets.garments_draw import SIZE
from retrieval.datasets.garments_style import RGB

STYLES = sample_styles(600, seed=5)


def rng(number: int = 0) -> np.random.Generator:
    return np.random.default_rng([99, number])


def changed(garment: Garment, **values: str) -> Garment:
    return garment._replace(attributes={**garment.attributes, **values})


def some(count: int, **values: str) -> list[Garment]:
    """Sampled styles that have these attribute values."""
    found = [g for g in STYLES if all(g.attributes[k] == v for k, v in values.items())]
    assert len(found) >= count, f"only {len(found)} of {len(STYLES)} styles have {values}"
    return found[:count]


def labels(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_attributes_in_order_and_number() -> None:
    assert list(ATTRIBUTES) == ["category", "color", "pattern", "sleeve", "neckline", "length"]
    assert sum(map(len, ATTRIBUTES.values())) == 52
    for values in ATTRIBUTES.values():
        assert len(set(values)) == len(values)
    assert set(RGB) == set(ATTRIBUTES["color"])


def test_styles_are_valid_and_use_every_value() -> None:
    used: dict[str, set[str]] = {name: set() for name in ATTRIBUTES}
    for garment in STYLES:
        assert list(garment.attributes) == list(ATTRIBUTES)
        for name, value in garment.attributes.items():
            used[name].add(value)
        choices = COMBINATIONS[garment.attributes["category"]]
        for name, allowed in zip(("sleeve", "neckline", "length"), choices, strict=True):
            assert garment.attributes[name] in (allowed or ("",))
    for name, values in ATTRIBUTES.items():
        assert used[name] - {""} == set(values)
    assert not any(g.attributes["sleeve"] or g.attributes["neckline"] for g in some(5, category="skirt"))


def test_style_ids_are_unique_and_a_longer_list_starts_with_the_shorter_one() -> None:
    assert len({g.style for g in STYLES}) == len(STYLES)
    short = sample_styles(100, seed=5)
    assert [g._replace(variant_group="") for g in short] == [g._replace(variant_group="") for g in STYLES[:100]]
    assert sample_styles(50, seed=6) != sample_styles(50, seed=5)


def test_variant_groups_differ_in_color_only_and_hold_a_third_of_the_styles() -> None:
    groups: dict[str, list[Garment]] = {}
    for garment in STYLES:
        if garment.variant_group:
            groups.setdefault(garment.variant_group, []).append(garment)
    assert 0.23 < sum(map(len, groups.values())) / len(STYLES) < 0.43
    for members in groups.values():
        assert 2 <= len(members) <= 4
        assert len({g.attributes["color"] for g in members}) == len(members)
        assert len({(g.cut, *changed(g, color="").attributes.values()) for g in members}) == 1


def test_the_same_seed_draws_the_same_photo_and_others_differ() -> None:
    garment = STYLES[0]
    for domain in ("shop", "phone"):
        first = draw(garment, rng(1), domain)
        assert first.mode == "RGB"
        assert first.size == SIZE
        assert first.tobytes() == draw(garment, rng(1), domain).tobytes()
        assert first.tobytes() != draw(garment, rng(2), domain).tobytes()
        assert draw(garment, rng(1), domain, (61, 80)).size == (61, 80)
    with pytest.raises(ValueError, match="domain"):
        draw(garment, rng(1), "studio")


def body_color(garment: Garment, number: int) -> np.ndarray:
    """Median RGB in the middle of the body."""
    drawn = draw_parts(garment, rng(number))
    x, y, w, h = drawn.parts["body"][0]
    patch = np.asarray(drawn.image)[y + h * 2 // 5 : y + h * 9 // 10, x + w // 5 : x + w * 4 // 5]
    return np.median(patch.reshape(-1, 3), axis=0)


@pytest.mark.parametrize("color", ATTRIBUTES["color"])
def test_a_plain_garment_has_the_color_of_its_label(color: str) -> None:
    for number, garment in enumerate(some(6, pattern="plain")):
        seen = body_color(changed(garment, color=color), number)
        nearest = min(RGB, key=lambda name: float(np.linalg.norm(seen - RGB[name])))
        assert nearest == color


@pytest.mark.parametrize("pattern", [p for p in ATTRIBUTES["pattern"] if p != "plain"])
def test_a_pattern_changes_the_cloth_and_color_stays_the_larger_share(pattern: str) -> None:
    for number, garment in enumerate(some(4, pattern=pattern)):
        drawn = np.asarray(draw(garment, rng(number)), np.int16)
        plain = np.asarray(draw(changed(garment, pattern="plain"), rng(number)), np.int16)
        second = np.asarray(draw(changed(garment, pattern="plain", color=garment.cut.second), rng(number)), np.int16)
        cloth = np.abs(plain - second).sum(2) > 60  # where the base color shows at all
        patterned = np.abs(drawn - plain).sum(2) > np.abs(drawn - second).sum(2)
        share = (patterned & cloth).sum() / cloth.sum()
        assert 0.02 < share < 0.6, garment


def test_stripes_run_across_and_pinstripes_down() -> None:
    for number, garment in enumerate(some(3, category="dress", pattern="striped")):
        garment = changed(garment, sleeve="sleeveless", color="black")
        garment = garment._replace(cut=garment.cut._replace(second="white"))
        across, down = (_variation(changed(garment, pattern=p), number) for p in ("striped", "pinstriped"))
        assert across[0] > 1.5 * across[1]
        assert down[1] > 1.5 * down[0]


def _variation(garment: Garment, number: int) -> tuple[float, float]:
    """Mean brightness step downwards and sideways in the middle of the body."""
    drawn = draw_parts(garment, rng(number))
    x, y, w, h = drawn.parts["body"][0]
    gray = np.asarray(drawn.image.convert("L"), np.float64)
    patch = gray[y + h // 2 : y + h * 9 // 10, x + w * 2 // 5 : x + w * 3 // 5]
    return float(np.abs(np.diff(patch, axis=0)).mean()), float(np.abs(np.diff(patch, axis=1)).mean())


def test_part_boxes_lie_in_the_frame_and_follow_the_labels() -> None:
    for number, garment in enumerate(STYLES[:120]):
        for domain in ("shop", "phone"):
            parts = draw_parts(garment, rng(number), domain).parts
            for x, y, w, h in (box for boxes in parts.values() for box in boxes):
                assert x >= 0
                assert y >= 0
                assert w > 0
                assert h > 0
                assert x + w <= SIZE[0]
                assert y + h <= SIZE[1]
            assert len(parts["sleeve"]) == (0 if garment.attributes["sleeve"] in ("", "sleeveless") else 2)
            assert len(parts["neckline"]) == (1 if garment.attributes["neckline"] else 0)
            assert len(parts["garment"]) == len(parts["body"]) == len(parts["hem"]) == 1


def test_longer_sleeves_reach_lower() -> None:
    for number, garment in enumerate(some(5, category="t-shirt")):
        reach = []
        for sleeve in ("short", "three-quarter", "long"):
            parts = draw_parts(changed(garment, sleeve=sleeve), rng(number)).parts
            body = parts["body"][0]
            lowest = max(y + h for _, y, _, h in parts["sleeve"])
            reach.append((lowest - body[1]) / body[2])  # in body widths: the scale differs between photos
        assert reach == sorted(reach)
        assert len(set(reach)) == 3


@pytest.mark.parametrize(
    ("category", "lengths"),
    [
        ("shirt", ("cropped", "regular", "long")),
        ("dress", ("mini", "knee", "midi", "maxi")),
        ("skirt", ("mini", "knee", "midi", "maxi")),
        ("trousers", ("cropped", "regular")),
        ("shorts", ("mini", "knee")),
    ],
)
def test_longer_garments_are_longer_for_their_width(category: str, lengths: tuple[str, ...]) -> None:
    for number, garment in enumerate(some(3, category=category)):
        garment = garment._replace(cut=garment.cut._replace(flare=0.2))
        shapes = [draw_parts(changed(garment, length=length), rng(number)).parts["body"][0] for length in lengths]
        ratios = [h / w for _, _, w, h in shapes]
        assert ratios == sorted(ratios)


def test_a_sleeve_is_seen_where_its_box_is() -> None:
    for number, garment in enumerate(some(4, category="t-shirt", pattern="plain")):
        garment = changed(garment, color="red", sleeve="long", neckline="crew")
        drawn = draw_parts(garment, rng(number))
        for x, y, w, h in drawn.parts["sleeve"]:
            box = np.asarray(drawn.image, np.int16)[y : y + h, x : x + w]
            assert ((box[:, :, 0] - box[:, :, 1]) > 60).mean() > 0.3


def test_phone_photos_are_cluttered_and_shop_photos_are_not() -> None:
    def surround(image: Image.Image) -> float:
        pixels = np.asarray(image, np.float64)
        return float(np.concatenate([pixels[:6].reshape(-1, 3), pixels[-6:].reshape(-1, 3)]).std(0).mean())

    shop = [surround(draw(g, rng(i), "shop")) for i, g in enumerate(STYLES[:30])]
    phone = [surround(draw(g, rng(i), "phone")) for i, g in enumerate(STYLES[:30])]
    assert np.median(phone) > 4 * np.median(shop)


def test_generate_writes_a_photo_folder_whose_labels_are_the_styles(tmp_path: Path) -> None:
    out = generate(tmp_path / "g", photos=22, seed=3)
    rows = labels(out)
    assert list(rows[0]) == ["id", *ATTRIBUTES, "style", "variant_group", "domain"]
    assert [r["id"] for r in rows][:5] == ["s00000-0", "s00000-1", "s00000-2", "s00000-3", "s00001-0"]
    assert rows[-1]["id"] == "s00005-1"
    assert {p.stem for p in (out / "photos").iterdir()} == {r["id"] for r in rows}
    assert sum(r["domain"] == "phone" for r in rows) == 5
    styles = {g.style: g for g in sample_styles(6, seed=3)}
    for row in rows:
        garment = styles[row["style"]]
        assert {name: row[name] for name in ATTRIBUTES} == garment.attributes
        assert row["variant_group"] == garment.variant_group
    style, photo = 2, 1
    expected = draw(styles["s00002"], garments.photo_rng(3, style, photo), "shop")
    with Image.open(out / "photos" / "s00002-1.jpg") as written:
        difference = np.asarray(ImageChops.difference(written, expected), np.float64)
    assert difference.mean() < 6  # what JPEG takes away


def test_the_bytes_do_not_depend_on_what_else_is_made(tmp_path: Path) -> None:
    few = snapshot(generate(tmp_path / "few", photos=4, seed=7) / "photos")
    many = snapshot(generate(tmp_path / "many", photos=12, seed=7) / "photos")
    assert few.items() <= many.items()
    other = snapshot(generate(tmp_path / "other", photos=4, seed=8) / "photos")
    assert not few.items() & other.items()


def test_the_same_generation_again_does_nothing_and_completes_a_broken_one(tmp_path: Path) -> None:
    out = generate(tmp_path / "g", photos=8, seed=1)
    whole = snapshot(out)
    stamp = (out / "labels.csv").stat().st_mtime_ns
    generate(out, photos=8, seed=1)
    assert (out / "labels.csv").stat().st_mtime_ns == stamp
    (out / "labels.csv").unlink()
    (out / "photos" / "s00001-2.jpg").unlink()
    (out / "photos" / "s00001-3.jpg").rename(out / "photos" / "s00001-3.jpg.part")  # killed while writing this one
    generate(out, photos=8, seed=1)
    assert snapshot(out) == whole


def test_a_users_files_are_never_overwritten(tmp_path: Path) -> None:
    taken = tmp_path / "mine"
    taken.mkdir()
    (taken / "labels.csv").write_text("id\n1\n")
    with pytest.raises(InputError, match="other files"):
        generate(taken, photos=2)
    assert snapshot(taken) == {"labels.csv": b"id\n1\n"}

    out = generate(tmp_path / "g", photos=2, seed=1)
    before = snapshot(out)
    with pytest.raises(InputError, match="another generation"):
        generate(out, photos=2, seed=2)
    (out / "garments.json").write_text("{not json")
    with pytest.raises(InputError):
        generate(out, photos=2, seed=1)
    assert snapshot(out) == {**before, "garments.json": b"{not json"}

    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError):
        generate(file, photos=2)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("bad", [{"photos": 0}, {"photos_per_style": 0}, {"seed": -1}, {"phone_share": 1.5}])
def test_numbers_out_of_range_write_nothing(tmp_path: Path, bad: dict[str, int]) -> None:
    with pytest.raises(InputError, match="cannot generate"):
        generate(tmp_path / "g", **{"photos": 2, **bad})
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize(("share", "phones"), [(0.0, 0), (0.5, 4), (1.0, 8)])
def test_phone_share(tmp_path: Path, share: float, phones: int) -> None:
    rows = labels(generate(tmp_path / "g", photos=8, phone_share=share))
    assert sum(row["domain"] == "phone" for row in rows) == phones
    assert json.loads((tmp_path / "g" / "garments.json").read_text())["phone_share"] == share


def test_regions_are_written_beside_the_same_photos(tmp_path: Path) -> None:
    out = generate(tmp_path / "with", photos=12, seed=3, regions=True)
    assert snapshot(out / "photos") == snapshot(generate(tmp_path / "without", photos=12, seed=3) / "photos")
    styles, written = sample_styles(3, seed=3), set()
    for number, row in enumerate(labels(out)):
        style, photo = divmod(number, 4)
        rng = garments.photo_rng(3, style, photo)
        true = garments_regions.draw_regions(styles[style], rng, row["domain"]).masks
        for name in ("sleeve", "neckline", "length"):
            if row[name]:
                file = out / "regions" / name / f"{row['id']}.png"
                with Image.open(file) as mask:
                    np.testing.assert_array_equal(np.asarray(mask), true[name])
                written.add(file)
    assert {file for file in (out / "regions").rglob("*") if file.is_file()} == written
    with pytest.raises(InputError, match="another generation"):
        generate(out, photos=12, seed=3)
