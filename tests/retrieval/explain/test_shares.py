"""A score is the sum of its blocks' shares, whatever was asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.engine import Engine
from retrieval.explain.shares import deciding, shares
from retrieval.query import Request

ROUNDING = 1e-6

ASKED: dict[str, dict[str, Any]] = {
    "plain": {},
    "edit": {"set": {"color": "gray"}},
    "two edits": {"set": {"color": "orange", "sleeve": "long"}, "old": {"color": "blue"}},
    "weights": {"weight": {"color": 3, "look": 0.25}},
    "dropped": {"drop": ["look", "category"]},
    "one block": {"drop": ["look", "category", "pattern", "sleeve"]},
    "filter": {"where": ["domain=shop and not color=orange"]},
    "all": {
        "set": {"color": "gray"},
        "weight": {"pattern": 2},
        "drop": ["sleeve"],
        "where": "domain=phone",
        "offset": 3,
    },
    "one per": {"one_per": "style", "exclude": ["s00000-0"]},
    "least": {"topk": None, "min_score": 0.2},
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("photo", [True, False])
def test_the_shares_add_up_to_the_score(name: str, photo: bool, engine: Engine, garment_photos: Path) -> None:
    what: dict[str, Any] = {"photo": garment_photos / "photos" / "s00002-1.jpg"} if photo else {"like": "s00002-1"}
    result = engine.query(**what, **ASKED[name], explain=True)
    assert result.hits
    for hit in result.hits:
        assert hit.shares is not None
        assert list(hit.shares) == list(engine.layout.names)
        assert sum(hit.shares.values()) == pytest.approx(hit.score, abs=ROUNDING)
        assert [hit.shares[block] for block in ASKED[name].get("drop", ())] == [0] * len(ASKED[name].get("drop", ()))
    told = result.to_json()
    assert told["hits"][0]["shares"] == result.hits[0].shares
    assert "vector" not in told
    without = engine.query(**what, **ASKED[name])
    assert without == bare(result)
    assert "shares" not in without.to_json()["hits"][0]


def bare(result: Any) -> Any:
    from dataclasses import replace

    return replace(result, hits=tuple(replace(hit, shares=None) for hit in result.hits), vector=None)


def test_they_add_up_behind_an_approximate_index_too(large: Path) -> None:
    engine = Engine.open(large)
    asked = [Request(like=f"s0000{i}-1/{i}", set={"color": "gray"}, where="domain=shop") for i in range(5)]
    for result in engine.query_many(asked, 20, explain=True):
        for hit in result.hits:
            assert hit.shares is not None
            assert sum(hit.shares.values()) == pytest.approx(hit.score, abs=ROUNDING)


def test_a_share_is_weight_times_cosine_over_the_sum_of_weights(engine: Engine, oracle: Any) -> None:
    result = engine.query(like="s00003-2", weight={"color": 2}, explain=True)
    ids = [row["id"] for row in oracle.rows]
    query = oracle.units[ids.index("s00003-2")]
    total = sum(result.weights.values())
    for hit in result.hits:
        row = oracle.units[ids.index(hit.id)]
        for block in engine.layout.blocks:
            span = slice(block.start, block.stop)
            unit = query[span] / np.linalg.norm(query[span])
            expected = result.weights[block.name] * float(unit @ row[span]) / total
            assert (hit.shares or {})[block.name] == pytest.approx(expected, abs=1e-6)


def test_shares_of_nothing_and_a_query_without_weight() -> None:
    spans = {"a": slice(0, 2), "b": slice(2, 3)}
    assert shares(np.ones(3, np.float32), np.zeros((0, 3), np.float16), spans, 2.0) == []
    assert shares(np.zeros(3, np.float32), np.ones((1, 3), np.float16), spans, 0.0) == [{"a": 0.0, "b": 0.0}]


def test_the_blocks_that_decided() -> None:
    told = [
        {"look": 0.5, "color": 0.1, "sleeve": 0.2, "length": 0.0},
        {"look": 0.4, "color": 0.2, "sleeve": 0.2, "length": 0.0},
    ]
    assert deciding(told, ()) == ["look", "sleeve"]
    assert deciding(told, ("color",)) == ["color", "look"]
    assert deciding(told, ("length",), 9) == ["look", "sleeve", "color"]
    assert deciding([], ("color",)) == []


def test_why_in_words(engine: Engine) -> None:
    hit = engine.query(like="s00003-2", topk=1, explain=True).hits[0]
    assert hit.why().count(" + ") == 4
    named = [float(part.rsplit(" ", 1)[1]) for part in hit.why().split(" + ")]
    assert named == sorted(named, reverse=True)
    first = max(hit.shares or {}, key=lambda name: (hit.shares or {})[name])
    assert hit.why(2).startswith(f"{first} ")
    assert "the rest" in hit.why(2)
