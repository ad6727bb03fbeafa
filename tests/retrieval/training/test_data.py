"""Gathering: vocabulary, codes, splits and rejects, and pixels that stay with their photo however small the cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from index.errors import ConfigError, InputError
from retrieval import photos
from retrieval.config import Config
from retrieval.datasets.records import Photo
from retrieval.datasets.splits import held_out
from retrieval.training import data

Colored = Callable[..., list[Photo]]
Settings = Callable[..., Config]


def with_attributes(photo: Photo, **attributes: str | None) -> Photo:
    return photo._replace(attributes=photo.attributes | attributes)


def test_codes_styles_and_split_match_the_labels(colored: Colored, settings: Settings) -> None:
    records = colored(40)
    records[3] = with_attributes(records[3], color=None)
    records[5] = with_attributes(records[5], group=None)
    got = data.gather(iter(records), settings())
    assert got.ids == [r.id for r in records]
    assert list(got.vocabulary) == ["cut", "color"]
    assert got.codes.dtype == got.styles.dtype == np.int64
    assert 0 < got.validation.sum() < 40
    assert got.rejected == []
    for i, record in enumerate(records):
        for a, name in enumerate(got.vocabulary):
            value = record.attributes[name]
            assert got.codes[i, a] == (-1 if value is None else got.vocabulary[name].index(value))
        for j, other in enumerate(records):
            group = record.attributes["group"]
            together = i == j or (group is not None and group == other.attributes["group"])
            assert (got.styles[i] == got.styles[j]) == together
            if together:
                assert got.validation[i] == got.validation[j]
    expected = held_out([r.attributes["group"] for r in records], got.ids, 0.2)
    np.testing.assert_array_equal(got.validation, expected)


def test_without_a_style_column_every_photo_is_its_own(colored: Colored, settings: Settings) -> None:
    got = data.gather(colored(40), settings(data={"style": None}))
    assert len(set(got.styles.tolist())) == 40


def test_a_photos_style_is_its_first_column_that_is_not_blank(colored: Colored, settings: Settings) -> None:
    records = colored(40)
    wanted = []
    for i, record in enumerate(records):
        family, group = (None, "f0", "f1")[i % 3], record.attributes["group"] if i % 4 else None
        records[i] = with_attributes(record, family=family, group=group)
        wanted.append(family or group or record.id)
    got = data.gather(records, settings(data={"style": ["family", "group"]}))
    for i in range(40):
        for j in range(40):
            assert (got.styles[i] == got.styles[j]) == (wanted[i] == wanted[j])
            assert got.validation[i] == got.validation[j] or wanted[i] != wanted[j]


def test_vocabulary_is_of_the_training_part_most_frequent_first(colored: Colored, settings: Settings) -> None:
    records = colored(60)
    held = held_out([r.attributes["group"] for r in records], [r.id for r in records], 0.2)
    inside, outside = np.flatnonzero(held), np.flatnonzero(~held)
    for row in inside:  # a value seen in validation only, however often
        records[row] = with_attributes(records[row], color="pink")
    for row, color in zip(outside, ["gray"] * 20 + ["red"] * 5 + ["blue"] * 11 + ["gold"] * 3, strict=False):
        records[row] = with_attributes(records[row], color=color)
    got = data.gather(records, settings())
    counts = Counter(records[row].attributes["color"] for row in outside)
    assert set(got.vocabulary["color"]) == set(counts)
    frequencies = [counts[value] for value in got.vocabulary["color"]]
    assert frequencies == sorted(frequencies, reverse=True)
    assert len(set(frequencies)) > 1
    assert (got.codes[inside, 1] == -1).all()


def test_rare_values_are_left_out(colored: Colored, settings: Settings) -> None:
    records = colored(40)
    held = held_out([r.attributes["group"] for r in records], [r.id for r in records], 0.2)
    rare = np.flatnonzero(~held)[:3]
    for row in rare:
        records[row] = with_attributes(records[row], color="gold")

    def gathered(least: int) -> data.TrainingSet:
        model = {"attributes": {"cut": {}, "color": {"min_count": least}}}
        return data.gather(records, settings(model=model))

    assert "gold" in gathered(3).vocabulary["color"]
    assert "gold" not in gathered(4).vocabulary["color"]
    assert (gathered(4).codes[rare, 1] == -1).all()
    with pytest.raises(InputError, match="attribute color has fewer than two values"):
        gathered(1000)


def test_missing_columns_are_all_named(colored: Colored, settings: Settings) -> None:
    config = settings(model={"attributes": {"cut": {}, "neck": {}}}, data={"style": "stile"})
    with pytest.raises(InputError) as caught:
        data.gather(colored(4), config)
    assert "no column neck, stile," in str(caught.value)
    assert "they have color, cut, group" in str(caught.value)


def test_no_photos(settings: Settings) -> None:
    with pytest.raises(InputError, match="no photos to train on"):
        data.gather([], settings())


def test_no_readable_photo(colored: Colored, settings: Settings) -> None:
    records = [photo._replace(source=b"nonsense") for photo in colored(4)]
    with pytest.raises(InputError, match="none of the 4 photos can be read; the first, p000: not an image"):
        data.gather(records, settings())


def test_rejected_photos_are_dropped_and_listed(colored: Colored, settings: Settings) -> None:
    records = colored(40)
    records[0] = records[0]._replace(source=b"")
    records[7] = records[7]._replace(source=records[7].source[:200])
    records[39] = records[39]._replace(source=b"nonsense")
    got = data.gather(records, settings())
    kept = [r for i, r in enumerate(records) if i not in (0, 7, 39)]
    assert [name for name, _ in got.rejected] == ["p000", "p007", "p039"]
    assert [reason for _, reason in got.rejected][0] == "empty file"
    assert all(reason for _, reason in got.rejected)
    assert got.ids == [r.id for r in kept]
    assert len(got.codes) == len(got.styles) == len(got.validation) == 37
    for row, record in enumerate(kept):
        assert got.vocabulary["color"][got.codes[row, 1]] == record.attributes["color"]
    np.testing.assert_array_equal(got.pixels[np.arange(37)], np.stack([photos.load(r.source, 32).pixels for r in kept]))


@pytest.mark.parametrize("broken", [[], [0, 3, 9, 11], [0, 1, 2, 3, 5, 6]])
@pytest.mark.parametrize(("cache_mb", "held"), [(0, 0), (1, 5), (64, 12)])
def test_pixels_stay_with_their_photo_however_small_the_cache(
    cache_mb: int, held: int, broken: list[int], colored: Colored, settings: Settings
) -> None:
    """At 256 pixels a megabyte holds five photos; rejects before, inside and after the cached ones move the rows."""
    records = colored(12)
    for place in broken:
        records[place] = records[place]._replace(source=b"nonsense")
    config = settings(model={"input_size": 256}, data={"holdout": 0.001}, cache_mb=cache_mb)
    got = data.gather(records, config)
    assert len(got.pixels.kept) == held
    expected = np.stack([photos.load(r.source, 256).pixels for i, r in enumerate(records) if i not in broken])
    assert [r.id for i, r in enumerate(records) if i not in broken] == got.ids
    order = np.random.default_rng(0).permutation(len(expected))
    for _ in range(2):
        np.testing.assert_array_equal(got.pixels[order], expected[order])
        np.testing.assert_array_equal(got.pixels[order[:1].repeat(3)], expected[order[:1].repeat(3)])


def test_cached_photos_are_decoded_once(colored: Colored, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Any] = []
    load = photos.load

    def counted(source: photos.Source, size: int) -> photos.Loaded:
        decoded.append(source)
        return load(source, size)

    monkeypatch.setattr(data.photos, "load", counted)
    records = colored(12)
    config = settings(model={"input_size": 256}, data={"holdout": 0.001}, cache_mb=1)
    got = data.gather(records, config)
    assert Counter(decoded) == Counter(r.source for r in records)
    decoded.clear()
    got.pixels[np.arange(12)]
    assert Counter(decoded) == Counter(r.source for r in records[5:])


def test_cells_of_several_values(colored: Colored, settings: Settings) -> None:
    records = colored(40)
    rng = np.random.default_rng(0)
    wanted: list[set[str] | None] = []
    for i, record in enumerate(records):
        marks = {value for value in ("dots", "lines", "checks") if rng.random() < 0.5}
        wanted.append(marks or None)
        cell = (" | " if i % 3 else ";").join(sorted(marks, key=lambda value: rng.random())) or None
        records[i] = with_attributes(record, marks=f"{cell}|{sorted(marks)[0]}" if marks and i % 2 else cell)
    model = {"attributes": {"cut": {}, "marks": {"multi": True}}}
    got = data.gather(records, settings(model=model))
    values = got.vocabulary["marks"]
    assert set(values) == {"dots", "lines", "checks"}
    assert list(got.sets) == ["marks"]
    assert got.sets["marks"].shape == (40, 3)
    labels = got.labels()
    assert labels.shape == (40, 5)
    for i, marks in enumerate(wanted):
        expected = [-1] * 3 if marks is None else [int(value in marks) for value in values]
        assert got.sets["marks"][i].tolist() == expected
        assert labels[i].tolist() == [int(got.codes[i, 0] == v) for v in range(2)] + [max(v, 0) for v in expected]
        assert (got.codes[i, 1] < 0) == (marks is None)
        for j in range(i):
            assert (got.codes[i, 1] == got.codes[j, 1]) == (marks == wanted[j])


def test_a_split_column_says_what_is_trained_on(colored: Colored, settings: Settings) -> None:
    """The test part is gone before a photo is opened, and its values are in no vocabulary."""
    records = colored(40)
    parts = [("train", "Train", "val", "test", "validation", "query", "gallery")[i % 7] for i in range(40)]
    for i, part in enumerate(parts):
        records[i] = with_attributes(records[i], part=part)
        if part in ("test", "query", "gallery"):
            records[i] = with_attributes(records[i]._replace(source=b"never read"), color="secret")
    got = data.gather(records, settings(data={"split": "part"}))
    used = [i for i, part in enumerate(parts) if part not in ("test", "query", "gallery")]
    assert got.ids == [records[i].id for i in used]
    assert got.rejected == []
    assert got.validation.tolist() == [parts[i] in ("val", "validation") for i in used]
    assert "secret" not in got.vocabulary["color"]


def test_a_split_without_a_val_part_holds_styles_out(colored: Colored, settings: Settings) -> None:
    records = [with_attributes(record, part="train") for record in colored(40)]
    got = data.gather(records, settings(data={"split": "part"}))
    np.testing.assert_array_equal(got.validation, data.gather(records, settings()).validation)
    assert got.validation.any()


@pytest.mark.parametrize(("part", "said"), [("tarin", "part of photo p000 is 'tarin'"), (None, "p000 is None")])
def test_a_split_that_says_something_else_is_refused(
    part: str | None, said: str, colored: Colored, settings: Settings
) -> None:
    records = [with_attributes(record, part=part) for record in colored(4)]
    with pytest.raises(InputError, match=said):
        data.gather(records, settings(data={"split": "part"}))
    with pytest.raises(InputError, match="no photo whose part is train"):
        data.gather([with_attributes(record, part="test") for record in records], settings(data={"split": "part"}))


def test_what_a_photo_may_have_it_has_with_probability_one_half(colored: Colored, settings: Settings) -> None:
    records = [
        with_attributes(record, marks=("dots", "lines", None)[i % 3], maybe=("checks;lines", "checks", "dots")[i % 3])
        for i, record in enumerate(colored(600))
    ] + [with_attributes(record, marks="checks", maybe=None) for record in colored(40)]
    model = {"attributes": {"cut": {}, "marks": {"multi": True}}}
    got = data.gather(records, settings(model=model, data={"maybe": "maybe"}))
    sets = got.sets["marks"][:600]
    dots, lines, checks = (got.vocabulary["marks"].index(value) for value in ("dots", "lines", "checks"))
    assert (sets[2::3] == -1).all()  # without a y there is no label
    assert (sets[0::3, dots] == 1).all()
    assert (sets[1::3, lines] == 1).all()
    assert (sets[1::3, dots] == 0).all()
    assert abs(sets[0::3, lines].mean() - 0.5) < 0.1
    assert abs(sets[[i for i in range(600) if i % 3 < 2], checks].mean() - 0.5) < 0.08
    again, other = (
        data.gather(records, settings(model=model, data={"maybe": "maybe"}, seed=seed)).sets["marks"] for seed in (0, 1)
    )
    np.testing.assert_array_equal(again, got.sets["marks"])
    assert (other != again).any()
    sure = data.gather(records, settings(model=model)).sets["marks"]
    assert (sure[:600:3] == np.eye(3, dtype=int)[dots]).all()
    with pytest.raises(ConfigError, match="data.maybe needs an attribute with multi: true"):
        settings(data={"maybe": "maybe"})
    with pytest.raises(InputError, match="no column perhaps"):
        data.gather(records, settings(model=model, data={"maybe": "perhaps"}))
