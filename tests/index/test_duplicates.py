"""Near-duplicates by neighbours, against comparing every row with every other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index import duplicates
from index.approximate import ApproximateIndex
from index.exact import ExactIndex, as_float32
from index.table import Layout

WEIGHTS = {"look": 1.0, "color": 2.0, "type": 0.5}
N = 500


class Shop:
    """As much of a gallery as the search for duplicates needs."""

    def __init__(self, units: np.ndarray, layout: Layout, hashes: list[str | None]) -> None:
        self.units, self.hashes = units, hashes
        self.manifest = SimpleNamespace(layout=layout, rows=len(units), labels=[], attributes=[])
        self.manifest.__dict__.update(table_fingerprint="t", current=None, removed_file=None, files={})

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        return self.units[rows]

    def columns(self, names: list[str]) -> pa.Table:
        return pa.table({"content_hash": pa.chunked_array([self.hashes[:100], self.hashes[100:]], pa.string())})


@pytest.fixture(scope="module")
def shop(structured: np.ndarray, layout: Layout) -> Any:
    """Rows of which some are the same file: 3 is 7 and 8, 40 is 400; two have no hash."""
    units, hashes = structured[:N].copy(), [f"{row:064x}" for row in range(N)]
    for row, of in {7: 3, 8: 3, 400: 40}.items():
        units[row], hashes[row] = units[of], hashes[of]
    units[20], units[300] = units[10], units[11]  # the same photo in other files
    return Shop(units, layout, [*hashes[:5], None, None, *hashes[7:]])


def scores_of(shop: Any) -> np.ndarray:
    scale = shop.manifest.layout.scale(WEIGHTS)
    raw, layout = as_float32(shop.units).astype(np.float64), shop.manifest.layout
    starts = [block.start for block in layout.blocks]
    lengths = np.sqrt(np.add.reduceat(raw**2, starts, axis=1))
    units = raw / np.repeat(lengths, [block.stop - block.start for block in layout.blocks], axis=1)
    return (units * scale) @ units.T / sum(WEIGHTS.values())


@pytest.mark.parametrize("threshold", [0.999, 0.95, 0.8])
@pytest.mark.parametrize("some", [False, True])
def test_all_pairs_above_the_threshold_and_no_other(
    shop: Any, threshold: float, some: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "ROWS_AT_ONCE", 64)
    rows = np.arange(0, N, 2) if some else None
    found = duplicates.pairs(shop, ExactIndex(shop.units), WEIGHTS, threshold, rows=rows)
    scores, asked = scores_of(shop), range(N) if rows is None else rows.tolist()
    stands: dict[str | None, int] = {}
    expected: dict[tuple[int, int], bool] = {}
    for row in asked:
        key = shop.hashes[row]
        if key is not None and stands.setdefault(key, row) != row:
            expected[stands[key], row] = True
    heads = [row for row in asked if row not in {b for _, b in expected}]
    for place, a in enumerate(heads):
        for b in heads[place + 1 :]:
            if scores[a, b] >= threshold:
                expected[a, b] = False
    got = dict(zip(zip(found.first.tolist(), found.second.tolist(), strict=True), found.exact.tolist(), strict=True))
    edge = {pair for pair in got.keys() ^ expected.keys() if abs(scores[pair] - threshold) < 1e-5}
    assert {p: e for p, e in got.items() if p not in edge} == {p: e for p, e in expected.items() if p not in edge}
    assert sorted(got) == list(got)
    np.testing.assert_allclose(found.score, scores[found.first, found.second], atol=1e-6)
    assert got[10, 20] is False
    assert ((3, 7) in got, (40, 400) in got, (7, 8) in got) == (not some, True, False)


@pytest.mark.parametrize("dims", [8, 96])
def test_equal_vectors_reach_a_threshold_of_1(dims: int) -> None:
    """However their blocks were rounded to float16."""
    layout = Layout.of({"look": dims // 2, "color": dims // 2})
    different = layout.units(np.random.default_rng(3).normal(size=(20, dims)))[0]
    shop: Any = Shop(np.repeat(different, 6, axis=0).astype(np.float16), layout, [None] * 120)
    found = duplicates.pairs(shop, ExactIndex(shop.units), {"look": 1.0, "color": 0.7}, 1.0)
    expected = [(a, b) for a in range(120) for b in range(a + 1, 120) if a // 6 == b // 6]
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == expected
    np.testing.assert_allclose(found.score, 1, atol=1e-6)


def test_an_approximate_index_finds_nearly_all_of_them(
    ivf: ApproximateIndex, structured: np.ndarray, layout: Layout
) -> None:
    shop: Any = Shop(structured, layout, [f"{row}" for row in range(len(structured))])
    found, exact = (duplicates.pairs(shop, index, WEIGHTS, 0.97) for index in (ivf, ExactIndex(structured)))
    pairs, truth = ({(int(a), int(b)) for a, b in zip(p.first, p.second, strict=True)} for p in (found, exact))
    assert len(truth) > 100
    assert len(pairs - truth) <= 2  # at the edge of the threshold
    assert len(pairs & truth) > 0.97 * len(truth)


def test_a_crowd_of_copies_costs_a_pair_each(structured: np.ndarray, layout: Layout) -> None:
    shop: Any = Shop(np.repeat(structured[:2], 300, axis=0), layout, ["a"] * 300 + ["b"] * 300)
    found = duplicates.pairs(shop, ExactIndex(shop.units), WEIGHTS, 0.99)
    assert (len(found.first), found.exact.sum()) == (598, 598)
    assert np.unique(duplicates.groups(600, found.first, found.second)).tolist() == [0, 300]


class Counted(ExactIndex):
    """Exact search that remembers how many queries came, and is interrupted before the one at ``stop``."""

    def __init__(self, units: np.ndarray, stop: int | None = None) -> None:
        super().__init__(units)
        self.asked, self.stop = 0, stop

    def search(self, queries: np.ndarray, k: int, **options: Any) -> Any:
        if k == duplicates.FIRST:
            if self.stop is not None and self.asked >= self.stop:
                raise KeyboardInterrupt
            self.asked += len(queries)
        return super().search(queries, k, **options)


def test_interrupted_it_goes_on(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(duplicates, "ROWS_AT_ONCE", 64)
    part, whole = tmp_path / "pairs.csv.part", Counted(shop.units)
    unbroken = duplicates.pairs(shop, whole, WEIGHTS, 0.9)
    first = Counted(shop.units, stop=200)
    with pytest.raises(KeyboardInterrupt):
        duplicates.pairs(shop, first, WEIGHTS, 0.9, part=part)
    assert first.asked == 256
    assert [each.name for each in tmp_path.iterdir()] == [part.name]

    def resumed(threshold: float = 0.9, weights: Any = WEIGHTS, rows: Any = None, shop: Any = shop) -> int:
        index, kept = Counted(shop.units), part.read_bytes()
        found = duplicates.pairs(shop, index, weights, threshold, rows=rows, part=part)
        expected = duplicates.pairs(shop, ExactIndex(shop.units), weights, threshold, rows=rows)
        for name in ("first", "second", "score", "exact"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name
        part.write_bytes(kept)
        return index.asked

    assert len(unbroken.first) > 60
    assert resumed() == whole.asked - 256
    assert capfd.readouterr().err == ""
    assert resumed(threshold=0.91) == resumed(weights=WEIGHTS | {"look": 1.1}) == whole.asked
    assert resumed(rows=np.arange(1, N)) == whole.asked - 1
    changed = Shop(shop.units, shop.manifest.layout, shop.hashes)
    changed.manifest.table_fingerprint = "another"
    assert resumed(shop=changed) == whole.asked
    said = f"{part}: kept by another search, or the gallery has changed since; all rows are asked anew"
    assert capfd.readouterr().err.splitlines() == [said] * 4
    content = bytearray(part.read_bytes())
    for damaged in (content[:-1], content[:20], b"", content[:100] + b"?" + content[101:]):
        part.write_bytes(damaged)
        assert resumed() == whole.asked
    assert capfd.readouterr().err.splitlines() == [f"{part}: damaged; all rows are asked anew"] * 4


def test_it_is_kept_now_and_then(shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed without a chance to write, no more than what came after the last write is lost."""
    monkeypatch.setattr(duplicates, "ROWS_AT_ONCE", 64)
    written: list[int] = []
    write = duplicates._write
    monkeypatch.setattr(duplicates, "_write", lambda *args: written.append(args[2][-1].asked) or write(*args))
    part, index = tmp_path / "part", Counted(shop.units)
    duplicates.pairs(shop, index, WEIGHTS, 0.9, part=part)
    assert written == [64, index.asked]  # an unwritable place is found out at once; the rest took no 30 s
    written.clear()
    monkeypatch.setattr(duplicates, "KEEP_EVERY", 0)
    monkeypatch.setattr(duplicates, "KEEP_SHARE", 0)
    duplicates.pairs(shop, Counted(shop.units), WEIGHTS, 0.91, part=part)
    assert written[:4] == [64, 128, 192, 256]
    kept = part.read_bytes()
    index = Counted(shop.units)
    duplicates.pairs(shop, index, WEIGHTS, 0.91, part=part)  # whole: nothing to ask, nothing to write
    assert (index.asked, part.read_bytes()) == (0, kept)


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=60))
    )
)
def test_groups_are_connected_components(graph: tuple[int, list[tuple[int, int]]]) -> None:
    n, edges = graph
    near: dict[int, set[int]] = {row: {row} for row in range(n)}
    for a, b in edges:
        near[a].add(b)
        near[b].add(a)
    first, second = (np.array([edge[i] for edge in edges], np.int64) for i in (0, 1))
    got = duplicates.groups(n, first, second)
    for row in range(n):
        reached, front = {row}, [row]
        while front:
            front = [each for at in front for each in near[at] - reached]
            reached |= set(front)
        assert got[row] == min(reached)


def test_a_pair_is_told_once_and_in_order() -> None:
    one, score = np.array([1]), np.ones(1, np.float32)
    with pytest.raises(ValueError, match="lower one"):
        duplicates.Pairs(one, one, score, np.array([False]))
