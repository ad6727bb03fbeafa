"""Names, edits, weights and filters, each against the slow and obvious way."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.errors import InputError, UnknownNameError
from index.table import Layout
from retrieval import query as q
from retrieval.models.memory import Memory
from retrieval.query import Edit, Names

VOCABULARY = {
    "articleType": ["Dresses", "Tshirts", "Shirts", "Watches", "Jeans", "Accessory Gift Set", "Boxers"],
    "baseColour": ["Grey", "Navy Blue", "Off White", "red", "Red"],
    "kind": ["Top", "Tops", "Saree"],
}
ALIASES = {
    "attributes": {"type": "articleType", "color": "baseColour"},
    "values": {"baseColour": {"gray": "Grey", "ghost": "Neon"}, "kind": {"upper": "Top"}},
}


@pytest.fixture
def names() -> Names:
    return Names(VOCABULARY, ALIASES)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("articleType", "articleType"), ("ARTICLETYPE", "articleType"), ("article type", "articleType"),
        ("article_types", "articleType"), ("type", "articleType"), ("Types", "articleType"),
        ("color", "baseColour"), ("colors", "baseColour"), ("base-colour", "baseColour"),
    ],
)  # fmt: skip
def test_attributes_by_any_name(names: Names, typed: str, meant: str) -> None:
    assert names.attribute(typed) == meant


@pytest.mark.parametrize(
    ("attribute", "typed", "meant"),
    [
        ("baseColour", "gray", "Grey"), ("baseColour", "GRAY", "Grey"), ("baseColour", "grey", "Grey"),
        ("baseColour", "navy-blue", "Navy Blue"), ("baseColour", "offwhite", "Off White"),
        ("articleType", "dress", "Dresses"), ("articleType", "Dresses", "Dresses"), ("articleType", "watch", "Watches"),
        ("articleType", "T-Shirts", "Tshirts"), ("articleType", "t shirt", "Tshirts"),
        ("articleType", "shirt", "Shirts"), ("articleType", "boxer", "Boxers"),
        ("articleType", "jean", "Jeans"), ("articleType", "accessory gift sets", "Accessory Gift Set"),
        # names that share a plain form are told apart by exact spelling only
        ("baseColour", "red", "red"), ("baseColour", "Red", "Red"), ("kind", "top", "Top"), ("kind", "TOPS", "Tops"),
        ("kind", "upper", "Top"), ("kind", "sarees", "Saree"),
    ],
)  # fmt: skip
def test_values_by_any_name(names: Names, attribute: str, typed: str, meant: str) -> None:
    assert names.value(attribute, typed) == meant


@pytest.mark.parametrize(
    ("attribute", "typed", "said"),
    [
        ("baseColour", "gry", "nearest: Grey"),
        ("baseColour", "RED", "unknown value of baseColour 'RED'"),
        ("baseColour", "ghost", "unknown value"),  # an alias for a value that was never learned
        ("articleType", "dreses", "nearest: Dresses"),
        ("articleType", "zzzzzz", "known: Dresses, Tshirts"),
        ("kind", "to-p", "unknown value of kind"),
    ],
)
def test_unknown_values_offer_the_nearest(names: Names, attribute: str, typed: str, said: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        names.value(attribute, typed)
    assert said in str(caught.value)


def test_unknown_attributes_offer_the_nearest(names: Names) -> None:
    with pytest.raises(UnknownNameError, match="unknown attribute 'colr'; nearest: baseColour"):
        names.attribute("colr")
    with pytest.raises(UnknownNameError, match="known: articleType, baseColour, kind"):
        names.attribute("xyzzy")


def test_every_value_resolves_to_itself(names: Names) -> None:
    for attribute, values in VOCABULARY.items():
        assert [names.value(attribute, value) for value in values] == values


@given(st.text(max_size=12))
def test_any_text_resolves_or_is_refused(text: str) -> None:
    try:
        found = Names(VOCABULARY, ALIASES).value("articleType", text)
    except UnknownNameError:
        return
    assert found in VOCABULARY["articleType"]


def test_assignments() -> None:
    assert q.assignments(["color=gray; sleeve = long;", "kind=a b=c"]) == {
        "color": "gray", "sleeve": "long", "kind": "a b=c"
    }  # fmt: skip
    assert q.assignments(["type=Mobile; Pouch;color=red"]) == {"type": "Mobile; Pouch", "color": "red"}
    assert q.assignments(["color=red", "color=red"]) == {"color": "red"}
    assert q.assignments(["", ";;"]) == {}


@pytest.mark.parametrize("text", ["color", "color=", "=gray", "color gray", "=", "red;color=blue"])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write NAME=VALUE"):
        q.assignments([text])


def test_an_attribute_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r"--from: color is given twice, as 'a' and 'b'"):
        q.assignments(["color=a", "color=b"], "--from")


def test_weights() -> None:
    assert q.weights_of(["color=2;look=0.5", "kind=0"]) == {"color": 2.0, "look": 0.5, "kind": 0.0}
    with pytest.raises(InputError, match="must be a number"):
        q.weights_of(["color=much"])


# Vectors


def small_memory(seed: int = 0) -> Memory:
    vocabulary = {"color": ["red", "blue", "gray"], "sleeve": ["long", "short"]}
    dims = {"color": 3, "sleeve": 2}
    return Memory(vocabulary, dims, np.random.default_rng(seed).normal(size=(5, 5)).astype(np.float32))


@pytest.mark.parametrize("keep", [1.0, 0.25, 0.0])
def test_edits_put_the_new_values_column_for_the_old_ones(keep: float) -> None:
    memory, rng = small_memory(), np.random.default_rng(1)
    raw = {n: rng.normal(size=(4, d)).astype(np.float32) for n, d in {"look": 4, "color": 3, "sleeve": 2}.items()}
    kept = {name: values.copy() for name, values in raw.items()}
    edits = [
        [Edit("color", "gray", "red")],
        [],
        [Edit("sleeve", "long", None)],
        [Edit("color", "blue", "red"), Edit("sleeve", "short", "long")],
    ]
    got = q.edited(raw, edits, memory, keep)
    columns = {"red": 0, "blue": 1, "gray": 2, "long": 3, "short": 4}
    for row, wanted in enumerate(edits):
        v = np.zeros(5)
        for edit in wanted:
            v[columns[edit.new]] += 1
            if edit.old is not None:
                v[columns[edit.old]] -= 1
        moved = memory.matrix.astype(np.float64) @ v  # M v, off-block entries and all
        if len(wanted) < 2:  # of one edit's own block, keep (f - m_old) + m_new; with two, M's entries cross
            for edit in wanted:
                rows = slice(0, 3) if edit.attribute == "color" else slice(3, 5)
                old = memory.matrix[rows, columns[edit.old]] if edit.old is not None else 0
                moved[rows] -= (1 - keep) * (kept[edit.attribute][row] - old)
        elif keep < 1:
            continue
        np.testing.assert_allclose(got["look"][row], kept["look"][row])
        np.testing.assert_allclose(got["color"][row], kept["color"][row] + moved[:3], atol=1e-5)
        np.testing.assert_allclose(got["sleeve"][row], kept["sleeve"][row] + moved[3:], atol=1e-5)
    assert all((raw[name] == kept[name]).all() for name in raw)


def test_with_nothing_kept_the_block_is_the_new_value_whatever_the_photo_shows() -> None:
    memory = small_memory()
    raw = {"color": np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32), "sleeve": np.zeros((2, 2), "f4")}
    got = q.edited(raw, [[Edit("color", "gray", "red")], [Edit("color", "gray", None)]], memory, keep=0.0)
    np.testing.assert_allclose(got["color"], np.stack([memory.mean("color", "gray")] * 2), rtol=1e-5, atol=1e-6)


def test_a_block_without_response_takes_the_values_own_column() -> None:
    memory = small_memory()
    raw = {"look": np.ones((1, 4), np.float32), "color": np.zeros((1, 3), np.float32), "sleeve": np.zeros((1, 2), "f4")}
    got = q.edited(raw, [[Edit("color", "gray", None)]], memory)
    np.testing.assert_array_equal(got["color"][0], memory.matrix[:3, 2])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    weights=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.5]), min_size=4, max_size=4),
)
def test_the_inner_product_ranks_as_weighted_squared_distance_does(
    seed: int, sizes: list[int], weights: list[float]
) -> None:
    rng = np.random.default_rng(seed)
    layout = Layout.of({f"b{i}": size for i, size in enumerate(sizes)})
    raw = {name: rng.normal(size=(1, size)).astype(np.float32) for name, size in zip(layout.names, sizes, strict=True)}
    factors = np.array([weights[: len(sizes)]], np.float32)
    vector = q.vectors(raw, layout, factors)[0].astype(np.float64)
    stored = []
    distances = np.zeros(30)
    for i, (name, size) in enumerate(zip(layout.names, sizes, strict=True)):
        block = rng.normal(size=(30, size))
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        stored.append(block)
        mine = raw[name][0] / np.linalg.norm(raw[name][0])
        for row in range(30):
            distances[row] += float(factors[0, i]) * sum((mine[d] - block[row, d]) ** 2 for d in range(size))
    scores = np.concatenate(stored, axis=1) @ vector
    np.testing.assert_allclose(distances, 2 * factors.sum() - 2 * scores, atol=1e-4)


def test_raw_blocks_undo_the_normalisation() -> None:
    layout = Layout.of({"a": 2, "b": 3})
    raw = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    raw[2, 2:] = 0  # no response
    norms = np.stack([np.linalg.norm(raw[:, :2], axis=1), np.linalg.norm(raw[:, 2:], axis=1)], axis=1)
    blocks = {"a": raw[:, :2], "b": raw[:, 2:]}
    units = q.vectors(blocks, layout, np.ones((5, 2), np.float32))
    assert (units[2, 2:] == 0).all()
    for name, values in q.raw_blocks(units, norms, layout).items():
        np.testing.assert_allclose(values, blocks[name], atol=1e-6)


# Filters


def naive(rows: list[dict[str, Any]], column: str, sign: str, value: str) -> list[int]:
    """Rows that pass, one comparison at a time."""
    kept = []
    for number, row in enumerate(rows):
        cell = row[column]
        if column in ("width", "height"):
            number_, limit = float(cell), float(value)
            passes = {
                "=": number_ == limit, "!=": number_ != limit, "<": number_ < limit, "<=": number_ <= limit,
                ">": number_ > limit, ">=": number_ >= limit,
            }[sign]  # fmt: skip
        else:
            passes = (cell == value) if sign == "=" else (cell != value)
        kept += [number] if passes else []
    return kept


@pytest.mark.parametrize(
    ("condition", "column", "sign", "value"),
    [
        ("color=gray", "color", "=", "gray"), ("color!=gray", "color", "!=", "gray"),
        ("Colour = GREY", "color", "=", "gray"), ("sleeve=long", "sleeve", "=", "long"),
        ("sleeve!=long", "sleeve", "!=", "long"),  # blanks pass
        ("type=t-shirts", "category", "=", "t-shirt"), ("domain=phone", "domain", "=", "phone"),
        ("predicted_color=blue", "predicted_color", "=", "blue"), ("width>=144", "width", ">=", "144"),
        ("height<190.5", "height", "<", "190.5"), ("width!=144", "width", "!=", "144"),
        ("width=144", "width", "=", "144"),
        ("id=s00003-2", "id", "=", "s00003-2"), ("style!=s00001", "style", "!=", "s00001"),
        ("length=mini", "length", "=", "mini"), ("style=nothing", "style", "=", "nothing"),
    ],
)  # fmt: skip
def test_filters_against_a_loop(
    engine: Any, oracle: SimpleNamespace, condition: str, column: str, sign: str, value: str
) -> None:
    rows = q.filter_rows(engine.gallery, engine.names, [condition])
    assert rows is not None
    assert rows.dtype == np.int64
    assert rows.tolist() == naive(oracle.rows, column, sign, value)


def test_several_conditions_all_hold(engine: Any, oracle: SimpleNamespace) -> None:
    parts = [("domain", "=", "shop"), ("color", "!=", "gray"), ("sleeve", "=", "long")]
    expected = set.intersection(*(set(naive(oracle.rows, *part)) for part in parts))
    assert 0 < len(expected) < 120
    texts = ["".join(part) for part in parts]
    for conditions in (texts, [";".join(texts)], [" ; ".join(texts[:2]), texts[2]]):
        assert set(q.filter_rows(engine.gallery, engine.names, conditions)) == expected
    assert q.filter_rows(engine.gallery, engine.names, []) is None
    assert q.filter_rows(engine.gallery, engine.names, [" ", ";"]) is None


@pytest.mark.parametrize(
    ("condition", "error", "said"),
    [
        ("colur=red", UnknownNameError, "no column 'colur'; nearest: color"),
        ("color=grren", UnknownNameError, "unknown value of color 'grren'; nearest"),
        ("color", InputError, "write COLUMN=VALUE"),
        ("color=", InputError, "write COLUMN=VALUE"),
        ("=red", InputError, "write COLUMN=VALUE"),
        ("width>wide", InputError, "'wide' is not a number"),
        ("zzzzz=1", UnknownNameError, "no column 'zzzzz'; known: "),
        ("color=gray and (width>3", InputError, "it ends too early"),
        ("color='gray", InputError, 'not understood from "\'gray" (character 7) on'),
    ],
)
def test_unusable_conditions(engine: Any, condition: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        q.filter_rows(engine.gallery, engine.names, [condition])
    assert said in str(caught.value)


class Columns:
    """As much of a gallery as a filter needs."""

    def __init__(self, columns: dict[str, list[Any]], labels: list[str]) -> None:
        import pyarrow as pa

        self.table = pa.table(columns)
        attributes = [name.removeprefix("predicted_") for name in columns if name.startswith("predicted_")]
        self.manifest = SimpleNamespace(labels=labels, attributes=attributes)
        self.path = "shop"

    def columns(self, names: list[str]) -> Any:
        return self.table.select(names)


def test_labels_with_spaces_signs_and_values_that_the_model_never_learned() -> None:
    gallery: Any = Columns(
        {
            "kind": ["Dress", "Dresses", "Mobile; Pouch", "a=b", None],
            "brand": ["Jean & Co", "x", "Jean & Co", None, "x<y"],
            "predicted_kind": ["Dresses"] * 5,
        },
        ["kind", "brand"],
    )
    names = Names({"kind": ["Dresses", "Tops"]}, {})
    for condition, expected in {
        "kind=Dress": [0],  # rare, so the model calls it Dresses; the label says otherwise
        "kind=Dresses": [1],
        "kind=DRESSES": [1],
        "kind=Mobile; Pouch": [2],
        "kind='a=b'": [3],
        "kind!=Dress": [1, 2, 3, 4],
        "brand = Jean & Co": [0, 2],
        "brand='x<y'": [4],
        "brand=Jean & Co;kind=Mobile; Pouch": [2],
        "predicted_kind=dress": [0, 1, 2, 3, 4],
    }.items():
        found = q.filter_rows(gallery, names, [condition])
        assert found is not None
        assert found.tolist() == expected, condition
    with pytest.raises(UnknownNameError, match="nearest: Tops"):
        q.filter_rows(gallery, names, ["kind=Topz"])


def test_a_label_column_is_preferred_to_the_prediction(engine: Any) -> None:
    assert q.label_column(engine.gallery, "color") == "color"
    gallery: Any = Columns({"predicted_color": ["red"]}, [])
    assert q.label_column(gallery, "color") == "predicted_color"
    for pair in itertools.product(["color", "Colors"], ["red", "RED"]):
        rows = q.filter_rows(gallery, Names({"color": ["red", "blue"]}, {}), ["=".join(pair)])
        assert rows is not None
        assert rows.tolist() == [0]
