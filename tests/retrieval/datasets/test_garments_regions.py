"""True regions of drawn garments: the photo is the same, pixel for pixel; each region shows its attribute."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.datasets.garments import ATTRIBUTES, COMBINATIONS, Garment, draw, draw_parts, photo_rng, sample_styles
from retrieval.datasets.garments_draw import SIZE
from retrieval.datasets.garments_regions import Regions, draw_regions

STYLES = sample_styles(60, seed=4)
DOMAINS = ("shop", "phone")
PINNED = [
    [192.11, 202.46, 151.52, 166.35, 187.26, 190.58, 205.76, 210.04],
    [185.97, 206.49, 184.78, 170.58, 182.7, 123.58, 152.85, 144.39],
    [235.36, 233.38, 131.75, 118.95, 129.75, 126.86, 214.93, 207.79],
]


def test_the_photo_is_the_one_that_draw_draws() -> None:
    for number, garment in enumerate(STYLES[:20]):
        for domain in DOMAINS:
            found = draw_regions(garment, photo_rng(4, number, 1), domain)
            assert found.image.tobytes() == draw(garment, photo_rng(4, number, 1), domain).tobytes()
            again = draw_regions(garment, photo_rng(4, number, 1), domain)
            assert all((again.masks[name] == mask).all() for name, mask in found.masks.items())


def test_the_generator_draws_what_it_drew_before_there_were_regions() -> None:
    """Means of a photo's eighths, taken at the commit before: a change of one drawn part by a few pixels shows."""
    seen = [np.asarray(draw(STYLES[i], photo_rng(4, i, 0), DOMAINS[i % 2]), np.float64) for i in range(3)]
    means = [photo.reshape(4, 40, 2, 60, 3).mean(axis=(1, 3, 4)).ravel() for photo in seen]
    np.testing.assert_allclose(means, PINNED, atol=0.1)


def test_regions_follow_the_labels_and_lie_within_the_garment_but_for_bare_arms() -> None:
    for number, garment in enumerate(STYLES):
        found = draw_regions(garment, photo_rng(4, number, 0), DOMAINS[number % 2])
        assert list(found.masks) == [name for name in ATTRIBUTES if garment.attributes[name]]
        whole = found.masks["category"]
        for name, mask in found.masks.items():
            assert mask.shape == (SIZE[1], SIZE[0])
            assert mask.dtype == bool
            assert mask.any(), (garment.style, name)
            assert not (mask & ~found.reach[name]).any()
            if garment.attributes.get(name) != "sleeveless":
                assert not (mask & ~whole).any()
        assert (found.masks["color"] == whole).all()


def test_regions_lie_in_the_boxes_of_the_parts() -> None:
    for number, garment in enumerate(STYLES):
        rng = photo_rng(4, number, 0)
        parts = draw_parts(garment, photo_rng(4, number, 0)).parts
        masks = draw_regions(garment, rng).masks
        for name, part in (("sleeve", "sleeve"), ("neckline", "neckline"), ("length", "hem"), ("category", "garment")):
            if name not in masks or garment.attributes[name] == "sleeveless":
                continue
            within = np.zeros((SIZE[1], SIZE[0]), bool)
            for x, y, w, h in parts[part]:
                x, w = (0, SIZE[0]) if part == "hem" else (x, w)  # that box is around the outline's corners only
                within[max(y - 1, 0) : y + h + 1, max(x - 1, 0) : x + w + 1] = True
            assert not (masks[name] & ~within).any(), (garment.style, name)


def test_a_sleeveless_garment_has_a_region_on_either_side_where_a_short_sleeve_is() -> None:
    bare = [g for g in STYLES if g.attributes["sleeve"] == "sleeveless"][:5]
    assert bare
    for number, garment in enumerate(bare):
        mask = draw_regions(garment, photo_rng(4, number, 0)).masks["sleeve"]
        x, _, w, _ = draw_parts(garment, photo_rng(4, number, 0)).parts["body"][0]
        columns = np.flatnonzero(mask.any(axis=0))
        assert columns[0] < x + w / 3
        assert columns[-1] > x + 2 * w / 3
        assert not mask[:, int(x + 0.45 * w) : int(x + 0.55 * w)].any()


def test_the_reach_is_wherever_another_value_would_show() -> None:
    """Down to a long sleeve's cuff for a short one; no farther than its own for a long one."""
    for number, garment in enumerate([g for g in STYLES if g.attributes["category"] == "t-shirt"][:4]):
        for sleeve, more in (("short", 15), ("long", 0)):
            found = _turned(garment, "sleeve", sleeve, number)
            own, reach = (np.flatnonzero(mask["sleeve"].any(axis=1))[-1] for mask in (found.masks, found.reach))
            assert reach >= min(own + more, SIZE[1] - 1)
            assert more or reach == own
        for neckline in COMBINATIONS["t-shirt"][1]:
            found = _turned(garment, "neckline", neckline, number)
            assert found.reach["neckline"].sum() > 1.3 * found.masks["neckline"].sum()
        rows = [np.flatnonzero(_turned(garment, "length", v, number).reach["length"].any(axis=1)) for v in LENGTHS]
        bottoms = [draw_parts(_with(garment, "length", v), photo_rng(4, number, 0)).parts["body"][0] for v in LENGTHS]
        cropped, _, long = (y + h for _, y, _, h in bottoms)
        assert rows[0][-1] > cropped + 10  # a cropped one reaches below its hem
        assert rows[2][0] < long - 20  # a long one far above it


LENGTHS = COMBINATIONS["t-shirt"][2]


def _with(garment: Garment, name: str, value: str) -> Garment:
    return garment._replace(attributes={**garment.attributes, name: value})


def _turned(garment: Garment, name: str, value: str, number: int) -> Regions:
    return draw_regions(_with(garment, name, value), photo_rng(4, number, 0))


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_region_is_where_the_attribute_changes_the_photo(domain: str) -> None:
    """The same garment with another neckline, drawn from the same randomness, differs in the two regions."""
    for number, garment in enumerate([g for g in STYLES if g.attributes["category"] == "t-shirt"][:3]):
        both = [draw_regions(_with(garment, "neckline", n), photo_rng(4, number, 0), domain) for n in ("crew", "scoop")]
        first, second = (np.asarray(each.image, np.int16) for each in both)
        changed = np.abs(first - second).sum(axis=2) > 120
        either = both[0].masks["neckline"] | both[1].masks["neckline"]
        assert changed[either].mean() > 5 * changed[~either].mean()
