import numpy as np
import pytest

from index.errors import InputError
from retrieval.datasets.splits import held_out


def test_groups_stay_whole_and_no_photo_ever_moves():
    rng = np.random.default_rng(0)
    groups = [f"g{value}" if value < 800 else None for value in rng.integers(0, 2000, 3000)]
    ids = [f"photo-{number}" for number in range(3000)]
    mask = held_out(groups, ids, 0.2)
    assert mask.dtype == bool
    assert 0.17 < mask.mean() < 0.23
    for group in set(groups) - {None}:
        assert len({bool(held) for held, name in zip(mask, groups, strict=True) if name == group}) == 1
    assert 0.17 < mask[[group is None for group in groups]].mean() < 0.23

    order = rng.permutation(3000)
    mixed = held_out(["new", *[groups[row] for row in order]], ["added", *[ids[row] for row in order]], 0.2)
    assert np.array_equal(mixed[1:], mask[order])
    assert not (mask & ~held_out(groups, ids, 0.5)).any()
    assert held_out(groups, ids, 1.0).all()
    assert not held_out(groups, ids, 0.0).any()
    with pytest.raises(InputError, match="0 to 1"):
        held_out(groups, ids, 20)


def test_the_parts_are_the_same_on_every_machine():
    names = [f"g{number}" for number in range(12)]
    assert np.flatnonzero(held_out(names, names, 0.3)).tolist() == [3, 5, 6, 8, 9, 11]
