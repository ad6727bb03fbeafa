"""Why a result came: its score as a sum over blocks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


def shares(
    query: npt.NDArray[np.float32], units: npt.NDArray[np.floating], spans: Mapping[str, slice], total: float
) -> list[dict[str, float]]:
    """What each block adds to the score of each row: w_b <q_b, x_b> / sum w, by block name, in storing order.

    query: (D,), every block q_b of length 1 scaled by its weight w_b, as ``Prepared.vectors`` has it. units: (n, D),
    rows as they are stored. total: the sum of the weights. A row's shares add up to its score; a search sums the same
    products in float32 and in another order, so the two differ by rounding, 1e-6 at most. A dropped block's is 0.
    """
    products = units.astype(np.float64) * (query.astype(np.float64) / max(float(total), 1e-12))  # (n, D)
    columns = {name: products[:, span].sum(axis=1) for name, span in spans.items()}
    return [{name: float(column[i]) for name, column in columns.items()} for i in range(len(units))]


def deciding(shares_: list[dict[str, float]], edited: tuple[str, ...], most: int = 2) -> list[str]:
    """The blocks that decided a list of results, ``most`` at most: those that were edited, then those with the largest
    mean share. Blocks that add nothing are none of them.
    """
    mean = {name: float(np.mean([each[name] for each in shares_])) for name in (shares_[0] if shares_ else {})}
    order = sorted(mean, key=lambda name: (name not in edited, -mean[name]))
    return [name for name in order if mean[name] > 0][:most]
