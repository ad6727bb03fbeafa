"""Whatever was added, replaced, removed and compacted, a catalogue answers as brute force over a plain dict does."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from index import catalogue
from index.build import build_generation, kept_kind, open_index
from index.exact import as_float32
from index.gallery import Gallery, leftovers, verify
from index.hits import TIE_TOLERANCE
from index.live import exact_of
from tests.index.conftest import make_vectors, rows_of

K = 10
POOL = make_vectors(9000)[6000:]  # photos that are not in the gallery, from the same clusters


def brute_force(held: dict[str, np.ndarray], query: np.ndarray, allowed: set[str] | None = None) -> dict[str, float]:
    """id -> score of everything that may answer."""
    ids = [each for each in held if allowed is None or each in allowed]
    if not ids:
        return {}
    scores = np.stack([held[each] for each in ids]).astype(np.float64) @ query.astype(np.float64)
    return dict(zip(ids, scores.tolist(), strict=True))


def check_answers(
    gallery: Gallery,
    index: Any,
    held: dict[str, np.ndarray],
    queries: np.ndarray,
    allowed: set[str] | None,
    floor: float,
) -> None:
    """Right ids with right scores, none twice, as many as there are; recall of at least ``floor`` (1: the truth)."""
    rows = None
    if allowed is not None:  # a filter knows nothing of removed rows
        ids = gallery.columns(["id"])["id"].to_pylist()
        rows = np.array([row for row, each in enumerate(ids) if each in allowed], np.int64)
    hits = index.search(queries, K, rows=rows)
    ids = gallery.columns(["id"])["id"]
    shares = []
    for i, query in enumerate(queries):
        truth = brute_force(held, query, allowed)
        found, scores = hits.query(i)
        names = [ids[int(row)].as_py() for row in found]
        assert len(set(names)) == len(names) == min(K, len(truth))
        if not names:
            continue
        slack = TIE_TOLERANCE * max(abs(each) for each in truth.values())
        assert all(name in truth for name in names)
        np.testing.assert_allclose(scores, [truth[name] for name in names], atol=slack)
        last = sorted(truth.values(), reverse=True)[len(names) - 1]
        shares.append(np.mean([truth[name] >= last - slack for name in names]))
    if shares:
        assert np.mean(shares) >= floor


class Catalogue(RuleBasedStateMachine):
    """Any sequence of changes against a plain dict of vectors. $FSEARCH_EXAMPLES says how many sequences."""

    start: Path
    floor = 1.0
    kind = "exact"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "gallery"
        self.held: dict[str, np.ndarray] = {}

    @initialize()
    def copy(self) -> None:
        shutil.copytree(self.start, self.path)
        self._reopen()
        ids = self.gallery.columns(["id"])["id"].to_pylist()
        self.held = dict(zip(ids, self.gallery.vectors(np.arange(len(ids))), strict=True))
        self.fresh = 0

    def _reopen(self) -> None:
        self.gallery = Gallery.open(self.path)
        self.index = open_index(self.gallery)

    def _pick(self, data: st.DataObject, most: int) -> list[str]:
        ids = sorted(self.held)
        first = data.draw(st.integers(0, len(ids) - 1), label="first")
        return ids[first : first + data.draw(st.integers(1, most), label="count")]

    @rule(seed=st.integers(0, 10**6), count=st.integers(1, 40), tail=st.sampled_from([10**6, 60]))
    def add(self, seed: int, count: int, tail: int) -> None:
        vectors = POOL[np.random.default_rng(seed).choice(len(POOL), count)]  # also equal ones: ties
        ids = [f"new-{self.fresh + i:04d}" for i in range(count)]
        self.fresh += count
        catalogue.add(self.path, rows_of(ids, vectors), tail_rows=tail)
        self.held |= dict(zip(ids, vectors, strict=True))
        self._reopen()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), seed=st.integers(0, 10**6))
    def replace_rows(self, data: st.DataObject, seed: int) -> None:
        ids = self._pick(data, 30)
        vectors = POOL[np.random.default_rng(seed).choice(len(POOL), len(ids))]
        change = catalogue.add(self.path, rows_of(ids, vectors))
        assert (change.added, change.removed) == (len(ids), len(ids))
        self.held |= dict(zip(ids, vectors, strict=True))
        self._reopen()

    @precondition(lambda self: len(self.held) > 50)
    @rule(data=st.data(), near=st.booleans())
    def remove_rows(self, data: st.DataObject, near: bool) -> None:
        ids = self._pick(data, len(self.held) // 3)
        if near:  # all that lies about one row: a query there meets hardly anything else
            scores = brute_force(self.held, as_float32(self.held[ids[0]]))
            ids = sorted(scores, key=lambda each: -scores[each])[: len(ids)]
        assert catalogue.remove(self.path, ids).removed == len(ids)
        self.held = {each: vector for each, vector in self.held.items() if each not in set(ids)}
        self._reopen()

    @precondition(lambda self: self.held)
    @rule()
    def compact(self) -> None:
        catalogue.compact(self.path, self.kind if len(self.held) >= 1024 else None)
        self._reopen()
        assert self.gallery.manifest.rows == len(self.held)

    @rule()
    def reindex(self) -> None:
        build_generation(self.gallery, kept_kind(self.gallery.manifest))
        self._reopen()

    @rule(seed=st.integers(0, 10**6), filtered=st.booleans())
    def ask(self, seed: int, filtered: bool) -> None:
        rng = np.random.default_rng(seed)
        weights = np.repeat(rng.uniform(0, 3, 3).astype(np.float32), [48, 24, 24])
        some = sorted(self.held)[:: max(1, len(self.held) // 8)] or ["none"]
        near = [as_float32(self.held[each]) for each in some if each in self.held]
        queries = np.stack([*near, *as_float32(POOL[rng.choice(len(POOL), 24)])]) * weights
        allowed = None
        if filtered:
            allowed = {each for each in self.held if rng.random() < 0.1} | {"item-00003", "gone"}
        check_answers(self.gallery, self.index, self.held, queries, allowed, self.floor)
        check_answers(self.gallery, exact_of(self.index), self.held, queries[:5], allowed, 1.0)

    @invariant()
    def every_id_leads_to_its_row(self) -> None:
        assert self.gallery.manifest.photos == len(self.held)
        assert self.gallery.row_by_id.keys() == self.held.keys()
        for each in list(self.held)[:: max(1, len(self.held) // 4)]:
            row = self.gallery.row_of(each)
            assert row == self.gallery.row_by_id[each]
            assert np.array_equal(self.gallery.vectors(np.array([row]))[0], self.held[each])

    def teardown(self) -> None:
        assert verify(self.path) == []
        assert leftovers(self.path) == []
        shutil.rmtree(self.folder)


@pytest.mark.parametrize("kind", ["exact", "ivfpq"])
def test_any_sequence_of_changes_answers_as_brute_force(kind: str, start: Path, start_ivfpq: Path) -> None:
    class Machine(Catalogue):
        pass

    # an approximate answer is judged over 32 queries: the promise of 0.95 less what so few may miss it by
    Machine.start, Machine.kind, Machine.floor = (start, kind, 1.0) if kind == "exact" else (start_ivfpq, kind, 0.85)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=int(os.environ.get("FSEARCH_EXAMPLES", 8 if kind == "exact" else 2)),
            stateful_step_count=12, deadline=None, derandomize=True, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
