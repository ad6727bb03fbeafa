"""What is left out of an answer, and its pages: against the whole list, walked down."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from retrieval.engine import Engine
from retrieval.query import Request


def listed(engine: Engine, **asked: Any) -> list[tuple[int, str]]:
    return [(hit.rank, hit.id) for hit in engine.query(like="s00004-1", **asked).hits]


def test_pages_go_on_where_the_one_before_ended(engine: Engine) -> None:
    everything = listed(engine, topk=200)
    assert [rank for rank, _ in everything] == list(range(1, 120))
    pages = [listed(engine, topk=25, offset=start) for start in range(0, 150, 25)]
    assert [len(page) for page in pages] == [25, 25, 25, 25, 19, 0]
    assert sum(pages, []) == everything
    assert listed(engine, topk=10, offset=10) == listed(engine, topk=20)[10:]


def test_no_more_is_asked_for_than_there_is(engine: Engine, large: Path) -> None:
    assert listed(engine, topk=10**15) == listed(engine, topk=200)
    assert listed(engine, topk=10**15, offset=100) == listed(engine, topk=200)[100:]
    assert listed(engine, topk=10**15, one_per="color") == listed(engine, topk=200, one_per="color")
    assert listed(engine, offset=10**30) == listed(engine, topk=None, min_score=0.1, offset=10**30) == []
    ivf = Engine.open(large)
    hits = ivf.query(like="s00003-1/2", topk=10**15, offset=10).hits
    assert (len({hit.id for hit in hits}), hits[0].rank) == (ivf.gallery.manifest.rows - 11, 11)


def test_what_is_said_where_nothing_is_left(engine: Engine) -> None:
    everything = [key for _, key in listed(engine, topk=200)]
    assert engine.query(like="s00004-1", exclude=everything).text().endswith("\nno other photo is left")
    assert "none" not in engine.query(like="s00004-1", exclude=everything).to_json()


def test_excluded_ids_are_left_out_and_the_answer_stays_full(engine: Engine) -> None:
    everything = [key for _, key in listed(engine, topk=200)]
    for out in (everything[:1], everything[2:60:3], everything[:100]):
        kept = [key for key in everything if key not in out]
        assert [key for _, key in listed(engine, topk=12, exclude=out)] == kept[:12]
    assert listed(engine, exclude=everything) == []
    assert listed(engine, exclude=everything[0]) == listed(engine, exclude=everything[:1])  # one id, not its letters
    assert engine.query(like="s00004-1", drop="color") == engine.query(like="s00004-1", drop=["color"])


@pytest.mark.parametrize("column", ["style", "color", "sleeve", "domain", "id", "width", "predicted_color"])
def test_one_per_keeps_the_best_of_each_value(engine: Engine, oracle: SimpleNamespace, column: str) -> None:
    cells = {row["id"]: row[column] for row in oracle.rows}
    expected: list[str] = []
    for _, key in listed(engine, topk=200):
        if cells[key] is None or cells[key] not in [cells[each] for each in expected]:  # each blank is its own
            expected.append(key)
    for topk in (1, 4, 200):
        assert [key for _, key in listed(engine, one_per=column, topk=topk)] == expected[:topk]
    assert [key for _, key in listed(engine, one_per=column, topk=3, offset=3)] == expected[3:6]


def test_a_least_score_is_that_which_is_shown(engine: Engine) -> None:
    hits = engine.query(like="s00004-1", topk=200).hits
    for place in (0, 7, 60):
        for asked in ({"topk": 200}, {"topk": None}):
            found = engine.query(like="s00004-1", min_score=hits[place].score, **asked).hits  # type: ignore[arg-type]
            assert [hit.id for hit in found] == [hit.id for hit in hits if hit.score >= hits[place].score]
    assert engine.query(like="s00004-1", min_score=1.5).hits == ()
    some = engine.query(like="s00004-1", topk=None, min_score=hits[60].score, one_per="color", exclude=[hits[0].id])
    assert len({hit.attributes["color"] for hit in some.hits}) == len(some.hits)
    assert some.hits[0].id == hits[1].id


def test_what_is_left_out_is_asked_for_each_query_of_many(engine: Engine) -> None:
    requests = [
        Request(like="s00000-0", exclude=("s00000-1",), one_per="style"),
        Request(like="s00001-1", one_per="color", where="domain=shop"),
        Request(like="s00002-2", min_score=0.5, exclude=("s00000-1", "s00003-1")),
        Request(like="s00003-3", one_per="style"),
    ]
    for request, result in zip(requests, engine.query_many(requests, 8, offset=2), strict=True):
        alone = engine.query_many([request], 8, offset=2)[0]
        assert [(hit.rank, hit.id) for hit in result.hits] == [(hit.rank, hit.id) for hit in alone.hits]


def test_predictions_are_told_from_labels(engine: Engine, oracle: SimpleNamespace) -> None:
    rows = {row["id"]: row for row in oracle.rows}
    hits = engine.query(like="s00000-0", topk=200).hits
    assert any(hit.predicted for hit in hits)
    for hit in hits:
        blank = {name for name in engine.names.vocabulary if rows[hit.id][name] is None}
        assert set(hit.predicted) == blank
        assert all(hit.shown()[name] == f"~{rows[hit.id][f'predicted_{name}']}" for name in blank)


def test_pages_of_an_approximate_index_hold_no_row_twice(large: Path) -> None:
    engine = Engine.open(large)
    for asked in ({}, {"one_per": "style"}, {"where": "domain=phone", "exclude": ["s00003-1/3"]}):
        pages = [
            engine.query(like="s00003-1/2", recall=0.5, topk=10, offset=start, **asked).hits  # type: ignore[arg-type]
            for start in range(0, 60, 10)
        ]
        ids = [hit.id for page in pages for hit in page]
        assert len(set(ids)) == len(ids) == (30 if "one_per" in asked else 60)
        assert [hit.rank for page in pages for hit in page] == list(range(1, len(ids) + 1))
    for column, values in {"style": 30, "color": 12}.items():
        found = engine.query(like="s00003-1/2", one_per=column, topk=100).hits
        labels = [hit.attributes[column] for hit in found if column not in hit.predicted]
        assert len(labels) == len(set(labels)) <= values
