"""FashionAI's letters as targets."""

from __future__ import annotations

import numpy as np
import pytest

from index.errors import InputError
from retrieval.datasets.letters import targets, values_in, written


def test_y_is_1_n_is_0_and_a_blank_is_unknown() -> None:
    np.testing.assert_array_equal(
        targets(["nyn", "ynn", None, "", "nny"]), [[0, 1, 0], [1, 0, 0], [-1] * 3, [-1] * 3, [0, 0, 1]]
    )
    assert targets([]).shape == (0, 0)
    assert targets([None, ""]).shape == (2, 0)
    assert targets(["ny"]).dtype == np.int8


def test_m_is_either_with_probability_one_half_and_follows_the_seed() -> None:
    letters = ["nymm"] * 5000
    drawn = targets(letters, seed=3)
    np.testing.assert_array_equal(drawn[:, :2], [[0, 1]] * 5000)
    assert abs(drawn[:, 2:].mean() - 0.5) < 0.02
    assert abs((drawn[:, 2] == drawn[:, 3]).mean() - 0.5) < 0.03  # each on its own
    np.testing.assert_array_equal(drawn, targets(letters, seed=3))
    assert (drawn != targets(letters, seed=4)).any()


@pytest.mark.parametrize("bad", [["nyx"], ["ny", "nyn"], ["NY"], ["n y"]])
def test_other_letters_are_refused(bad: list[str]) -> None:
    with pytest.raises(InputError, match="each y, m or n"):
        targets(bad)


def test_cells_are_written_in_letters() -> None:
    assert values_in("striped| floral;striped") == ["striped", "floral"]
    assert values_in(None) == values_in("") == values_in(" | ") == []
    assert written(["a", "b", "c"], ["b"], ["c"]) == "nym"
    assert written(["a", "b"], ["a"], ["a"]) == "yn"  # sure beats maybe
    assert written(["a", "b"], [], ["a"]) is None
    assert written(["a", "b"], ["z"], ["a"]) is None  # its value is not known
