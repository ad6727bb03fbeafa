"""Pairs are of one style, the shares are honoured, and a seed draws the same batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.training.sampling import IdSampler, PairSampler


def drawn(sampler: PairSampler, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The firsts and the seconds of a batch."""
    rows = sampler.draw(rng).rows
    assert len(rows) == 2 * sampler.pairs
    return rows[: sampler.pairs], rows[sampler.pairs :]


def catalogue(rng: np.random.Generator, n: int, kinds: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Styles of 1 to 5 photos, with arbitrary codes; photos of a style share their kind; some kinds unknown."""
    styles = rng.choice(10 * n, n, replace=False)[rng.integers(0, max(n // 2, 1), n)]
    return styles, styles % (kinds + 1) - 1


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 120),
    st.integers(2, 16),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_pairs_are_of_one_style_and_singles_pair_with_themselves(
    seed: int, n: int, pairs: int, grouped: float, alike: float
) -> None:
    rng = np.random.default_rng(seed)
    styles, kinds = catalogue(rng, n)
    rows, recolored, *_ = PairSampler(styles, kinds, pairs, grouped, alike).draw(rng)
    first, second = rows[:pairs], rows[pairs:]
    assert first.shape == second.shape == (pairs,)
    assert rows.dtype == np.int64
    assert recolored.tolist() == [False] * pairs + (first == second).tolist()
    for a, b in zip(first, second, strict=True):
        assert styles[a] == styles[b]
        assert (a == b) == ((styles == styles[a]).sum() == 1)


def test_every_other_photo_of_a_style_is_a_mate() -> None:
    styles = np.array([3, 9, 3, 3, 9])
    sampler = PairSampler(styles, np.zeros(5, int), 50, 0.5, 0.5)
    pairs = set()
    for seed in range(20):
        first, second = drawn(sampler, np.random.default_rng(seed))
        pairs |= set(zip(first.tolist(), second.tolist(), strict=True))
    assert pairs == {(a, b) for a in range(5) for b in range(5) if a != b and styles[a] == styles[b]}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_grouped_share(share: float) -> None:
    """4 photos in groups among 1,000 alone: without a share they would hardly ever be drawn."""
    styles = np.concatenate(([7, 7, 8, 8], np.arange(100, 1100)))
    sampler = PairSampler(styles, np.full(len(styles), -1), 40, share, 0.0)
    counts = [(drawn(sampler, np.random.default_rng(seed))[0] < 4).sum() for seed in range(30)]
    assert min(counts) >= 40 * share
    assert np.mean(counts) <= 40 * share + 1


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_alike_share_comes_from_two_kinds(share: float) -> None:
    n, kinds = 2000, 50
    sampler = PairSampler(np.arange(n), np.arange(n) % kinds, 40, 0.0, share)
    for seed in range(10):
        first, _ = drawn(sampler, np.random.default_rng(seed))
        alike = round(40 * share) // 2
        one, two = first[:alike] % kinds, first[alike : 2 * alike] % kinds
        assert len(set(one)) == len(set(two)) == 1
        assert one[0] != two[0]
        assert len(set(first[2 * alike :] % kinds)) > 5 or share == 1.0


def test_grouped_share_holds_inside_a_kind() -> None:
    kinds = np.repeat([0, 1], 100)
    styles = np.arange(200)
    styles[1], styles[101] = styles[0], styles[100]  # one group in each kind
    sampler = PairSampler(styles, kinds, 20, 0.5, 1.0)
    first, second = drawn(sampler, np.random.default_rng(0))
    assert (first != second).sum() >= 10


def test_rare_and_unknown_kinds_make_no_pool() -> None:
    kinds = np.array([0] * 20 + [1] * 20 + [2] * 7 + [-1] * 30)
    sampler = PairSampler(np.arange(77), kinds, 10, 0.0, 1.0)
    assert [sorted(set(kinds[pool])) for pool in sampler.pools] == [[0], [1]]
    rows = np.concatenate([drawn(sampler, np.random.default_rng(seed))[0] for seed in range(20)])
    assert set(kinds[rows]) == {0, 1}


def test_one_kind_only_draws_from_all() -> None:
    sampler = PairSampler(np.arange(40), np.zeros(40, int), 20, 0.4, 0.5)
    rows = np.concatenate([drawn(sampler, np.random.default_rng(seed))[0] for seed in range(20)])
    assert set(rows) == set(range(40))


def test_common_kinds_are_drawn_more_often_but_less_than_by_their_size() -> None:
    kinds = np.repeat([0, 1, 2], [900, 100, 100])
    sampler = PairSampler(np.arange(1100), kinds, 2, 0.0, 1.0)
    seen = [kinds[drawn(sampler, np.random.default_rng(seed))[0][0]] for seed in range(600)]
    share = np.mean(np.array(seen) == 0)  # by the root of the sizes: 30 of 30 + 10 + 10
    assert share == pytest.approx(0.6, abs=0.08)


def test_drawing_is_deterministic_in_rng_alone() -> None:
    styles, kinds = catalogue(np.random.default_rng(5), 100)
    one, two = (PairSampler(styles, kinds, 16, 0.4, 0.5) for _ in range(2))
    one.draw(np.random.default_rng(1))  # what was drawn before leaves no trace
    a, b = one.draw(np.random.default_rng(2)), two.draw(np.random.default_rng(2))
    np.testing.assert_array_equal(a.rows, b.rows)
    assert not np.array_equal(a.rows, one.draw(np.random.default_rng(3)).rows)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 120), st.integers(2, 9), st.integers(2, 12))
def test_a_batch_of_ids_has_as_many_photos_of_each(seed: int, n: int, ids: int, photos: int) -> None:
    rng = np.random.default_rng(seed)
    styles, _ = catalogue(rng, n)
    counts = {style: int((styles == style).sum()) for style in set(styles.tolist())}
    several = [style for style, count in counts.items() if count > 1]
    rows, recolored, *_ = IdSampler(styles, ids, photos).draw(rng)
    assert rows.dtype == np.int64
    assert not recolored.any()
    assert len(recolored) == len(rows)
    seen = styles[rows].reshape(-1, photos)
    assert (seen == seen[:, :1]).all()
    assert len(set(seen[:, 0].tolist())) == len(seen) == min(ids, len(counts))
    if len(several) >= ids:
        assert set(seen[:, 0].tolist()) <= set(several)
    for mine in rows.reshape(-1, photos):  # no photo twice before each was drawn once
        count = counts[styles[mine[0]]]
        assert len(set(mine.tolist())) == min(count, photos)


def test_every_id_and_every_photo_of_it_is_drawn() -> None:
    styles = np.repeat(np.arange(9), 4)
    sampler = IdSampler(styles, 2, 3)
    rows = np.concatenate([sampler.draw(np.random.default_rng(seed)).rows for seed in range(200)])
    assert set(rows.tolist()) == set(range(36))
    np.testing.assert_array_equal(
        sampler.draw(np.random.default_rng(3)).rows, sampler.draw(np.random.default_rng(3)).rows
    )
