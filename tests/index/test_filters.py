"""Filter expressions against a slow reading of each row, one cell at a time."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import filters
from index.errors import InputError, UnknownNameError
from index.filters import Columns, Compare, Every, Not, Some, parse, passing
from index.gallery import Gallery

TEXTS = ["Navy Blue", "Rock and Roll", "it's", 'a "b"', "x;y", "Top (long)", "a, b", "and", "not", "M", "10", "9.5",
         "-3", "2021-05-04", "a=b", "  7 ", "1e3", "nan", "é", "in (a)", "null", ".5", "5.", "12 cm"]  # fmt: skip
CELLS: dict[str, list[Any]] = {
    "brand": [*TEXTS, None, None],
    "price": ["10", "9.5", "100", "-3", None, "free", "007", "1e3", "", "12 cm", "10.0", "inf", ".5", *"abcdefghijklm"],
    "base color": ["Red", "Navy Blue", None, "and or", "Red or Blue"] * 5 + ["Red"],
    "width": [10, 20, None, 300, -3, 7] * 4 + [10, 9],
    "cost": ["7", "7.5", "1e+15", "1.2e-08", None, "1e3", "nan", "-3", " 10 ", "-inf", "-0.0", "20.0", "9.50"] * 2,
    "code": ["007", "7", None, "10", "0", "1e3", "12", "-3", "7.5", "20", "300", "5", "9.5"] * 2,
}  # fmt: skip
ROWS = len(CELLS["brand"])
PLAIN_NUMBER = r"-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"


class Table:
    """As much of a gallery as a filter needs, in chunks."""

    manifest = SimpleNamespace(labels=["brand", "price", "base color", "cost", "code"], attributes=["color"])

    def columns(self, names: list[str]) -> pa.Table:
        def column(name: str) -> pa.ChunkedArray:  # chunks that start inside their arrays, as slices do
            kind = pa.int32() if name == "width" else pa.string()
            return pa.chunked_array([pa.array([None, *CELLS[name][:7]], kind)[1:], pa.array(CELLS[name][4:], kind)[3:]])

        return pa.table({name: column(name) for name in names})


TABLE = Columns(Table())


def number(cell: Any) -> float | None:
    if cell is None or isinstance(cell, int):
        return cell
    plain = cell.strip()
    return float(plain) if re.fullmatch(PLAIN_NUMBER, plain) else None


def equal(column: str, cell: Any, value: str) -> bool:
    """The same text, or in a column of numbers the same number; not where it may be a code."""
    if cell == value or column in ("brand", "price", "base color", "code"):
        return bool(cell == value)
    if column == "cost" and re.match("-?0[0-9]", value):
        return False
    return number(cell) is not None and re.fullmatch(PLAIN_NUMBER, value) is not None and number(cell) == float(value)


def naive(node: filters.Node, row: int) -> bool:
    if isinstance(node, Not):
        return not naive(node.of, row)
    if isinstance(node, Every):
        return all(naive(each, row) for each in node.of)
    if isinstance(node, Some):
        return any(naive(each, row) for each in node.of)
    cell = CELLS[node.column][row]
    if node.sign == "null":
        return cell is None
    if cell is None:
        return False
    if node.sign == "=":
        return any(equal(node.column, cell, value) for value in node.values)
    limit: Any = node.values[0]
    if isinstance(cell, int) or re.fullmatch(PLAIN_NUMBER, limit):
        cell, limit = number(cell), float(limit)
    if cell is None:
        return False
    return {"<": cell < limit, "<=": cell <= limit, ">": cell > limit, ">=": cell >= limit}[node.sign]


def quoted(text: str, mark: str) -> str:
    return mark + text.replace(mark, mark * 2) + mark


PLAIN = [
    text for text in TEXTS if re.fullmatch(r"[A-Za-z0-9.é-]+( [A-Za-z0-9]+)?", text) and text not in ("and", "not")
]
NUMBERS = st.sampled_from(["10", "9.5", "-3", "0", "20", "300", ".5", "1000", "1e3", "7.50", "007", "1E+15", "12e-9"])
SPACE = st.sampled_from(["", " ", "  "])
MARK = st.sampled_from(["'", '"'])


@st.composite
def word(draw: Any, column: str, order: bool = False) -> tuple[str, str]:
    """A value and a way to write it."""
    if column == "width" or (order and column in ("cost", "code")):
        value = draw(NUMBERS)
    else:
        texts = st.sampled_from([*TEXTS, *(t for t in CELLS["price"][:12] if t)])
        value = draw(st.one_of(texts, NUMBERS)).strip()
    if order and column == "base color" and re.fullmatch(PLAIN_NUMBER, value):
        value = f"x{value}"  # a column without a number refuses one
    plain = value in PLAIN or re.fullmatch(r"[0-9.eE+-]+", value)
    return value, value if plain and draw(st.booleans()) else quoted(value, draw(MARK))


def cased(draw: Any, text: str) -> str:
    return text.upper() if draw(st.booleans()) else text


@st.composite
def comparisons(draw: Any) -> tuple[filters.Node, str]:
    column = draw(st.sampled_from(sorted(CELLS)))
    name = column if draw(st.booleans()) else quoted(column, draw(MARK))
    kind = draw(st.sampled_from(["=", "!=", "<>", "==", "<", "<=", ">", ">=", "in", "between", "null"]))
    gap, negated = draw(SPACE), draw(st.booleans())
    no = cased(draw, "not ") if negated else ""
    if kind == "null":
        node: filters.Node = Compare(column, "null")
        text = f"{name} {cased(draw, 'is')} {no}{cased(draw, 'null')}"
    elif kind == "in":
        words = draw(st.lists(word(column), min_size=1, max_size=3))
        node = Compare(column, "=", tuple(value for value, _ in words))
        text = f"{name} {no}{cased(draw, 'in')}{gap}({gap}{f'{gap},{gap}'.join(said for _, said in words)}{gap})"
    elif kind == "between":
        (low, said_low), (high, said_high) = draw(word(column, True)), draw(word(column, True))
        node = Every((Compare(column, ">=", (low,)), Compare(column, "<=", (high,))))
        text = f"{name} {no}{cased(draw, 'between')} {said_low} {cased(draw, 'and')} {said_high}"
    else:
        value, said = draw(word(column, kind[0] in "<>" and kind != "<>"))
        node = Compare(column, "=" if kind in ("=", "==", "!=", "<>") else kind, (value,))
        negated, text = kind in ("!=", "<>"), f"{name}{gap}{kind}{gap}{said}"
    return (Not(node) if negated else node), text


def combined(inner: st.SearchStrategy[tuple[filters.Node, str]]) -> st.SearchStrategy[tuple[filters.Node, str]]:
    @st.composite
    def several(draw: Any) -> tuple[filters.Node, str]:
        kind, parts = draw(st.sampled_from(["and", "or", "not"])), draw(st.lists(inner, min_size=2, max_size=3))
        if kind == "not":
            return Not(parts[0][0]), f"{cased(draw, 'not')} ({parts[0][1]})"
        joined = f" {cased(draw, kind)} ".join(f"({text})" for _, text in parts)
        return (Every if kind == "and" else Some)(tuple(node for node, _ in parts)), joined

    return several()


EXPRESSIONS = st.recursive(comparisons(), combined, max_leaves=6)


@settings(max_examples=400, deadline=None)
@given(EXPRESSIONS)
def test_an_expression_passes_the_rows_that_a_slow_reading_passes(made: tuple[filters.Node, str]) -> None:
    node, text = made
    expected = [row for row in range(ROWS) if naive(node, row)]
    read = parse(text)
    assert read is not None
    rows = passing(TABLE, read)
    assert rows.dtype == np.int64
    assert rows.tolist() == expected, text
    rest = parse(f"not ({text})")
    assert rest is not None
    assert sorted([*passing(TABLE, rest), *expected]) == list(range(ROWS)), text


@settings(max_examples=300, deadline=None)
@given(
    st.lists(comparisons(), min_size=2, max_size=5), st.lists(st.sampled_from(["and", "or"]), min_size=4, max_size=4)
)
def test_and_binds_closer_than_or_without_parentheses(parts: list[tuple[filters.Node, str]], words: list[str]) -> None:
    text, groups = parts[0][1], [[parts[0][0]]]
    for (node, said), joint in zip(parts[1:], words, strict=False):
        text += f" {joint} {said}"
        if joint == "and":
            groups[-1].append(node)
        else:
            groups.append([node])
    expected = [row for row in range(ROWS) if any(all(naive(node, row) for node in group) for group in groups)]
    read = parse(text)
    assert read is not None
    assert passing(TABLE, read).tolist() == expected, text


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*"ab=<>!();,'\" 1", " and ", " or ", " not ", " in ", " is null"]), max_size=14))
def test_any_text_is_read_or_refused_in_one_line(pieces: list[str]) -> None:
    said = "write COLUMN=VALUE"
    try:
        parse("".join(pieces))
    except InputError as error:
        said = str(error)
    assert "write COLUMN=VALUE" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("brand=Navy Blue", "Navy Blue"), (" brand  =  Navy Blue  ", "Navy Blue"),
        ("brand=Mobile; Pouch", "Mobile; Pouch"),
        ("brand=Dolce and Gabbana", "Dolce and Gabbana"),
        ("brand=Rock and (Roll)", "Rock and (Roll)"), ("brand=Top (long)", "Top (long)"), ("brand=it's", "it's"),
        ("brand='it''s'", "it's"), ('brand="x;y"', "x;y"), ("brand=Red or", None), ("brand=Jean & Co;;", "Jean & Co"),
        ("(brand=Top (long))", "Top (long)"), ("brand==M", "M"), ("brand=and", "and"), ("brand=not", "not"),
    ],
)  # fmt: skip
def test_values_without_quotes(text: str, values: str | None) -> None:
    if values is None:
        with pytest.raises(InputError, match="not understood from 'or'"):
            parse(text)
    else:
        assert parse(text) == Compare("brand", "=", (values,))


@given(st.text(), st.text())
def test_any_column_and_value_can_be_written(column: str, value: str) -> None:
    assert parse(filters.equals(column, value)) == Compare(column, "=", (value,))


def test_texts_and_semicolons_join_and_bind_least() -> None:
    a, b, c = (Compare(name, "=", ("1",)) for name in "abc")
    assert parse("a=1 or b=1; c=1") == parse(["a=1 or b=1", "c=1"]) == Every((Some((a, b)), c))
    assert parse("brand=Dolce and Gabbana and c=1") == Every((Compare("brand", "=", ("Dolce and Gabbana",)), c))
    assert parse("not a=1 and b=1") == Every((Not(a), b))
    assert parse("not not a=1") == a
    assert parse("price (EUR) >= 5") == parse("'price (EUR)'>=5") == Compare("price (EUR)", ">=", ("5",))
    assert parse("not=1") == Compare("not", "=", ("1",))
    assert parse([" ", ";;"]) is parse("") is parse([]) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("brand", "not understood from 'brand' (character 1) on"),
        ("brand=", "it ends too early"),
        ("=red", "from '=red' (character 1)"),
        ("brand=M and (width", "from '(width' (character 13)"),
        ("(brand=M", "it ends too early"),
        ("brand=M)", "from ')' (character 8)"),
        ("brand in ()", "from ')' (character 11)"),
        ("brand between 1", "it ends too early"),
        ("brand='M' and", "from 'and' (character 11)"),
        ("brand='M", "from \"'M\" (character 7)"),
        ("brand is nul", "from 'brand is nul' (character 1)"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_where(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert said in str(caught.value)


def test_names_and_numbers_that_do_not_fit() -> None:
    for text, error, said in [
        ("wdth=3", UnknownNameError, "no column 'wdth'; nearest: width"),
        ("width>wide", InputError, "width holds numbers, and 'wide' is not a number"),
        ("width in (1, nan)", InputError, "'nan' is not a number"),
    ]:
        read = parse(text)
        assert read is not None
        with pytest.raises(error, match=re.escape(said)):
            passing(TABLE, read)


def test_nesting_is_read_however_deep_and_refused_where_it_cannot_be_followed() -> None:
    assert parse("(" * 4000 + "width=1" + ")" * 4000) == Compare("width", "=", ("1",))
    nested = "width=1"
    for _ in range(3000):
        nested = f"width=2 or (width=3 and ({nested}))"
    deep = parse(nested)
    assert deep is not None
    with pytest.raises(InputError, match="nested too deep"):
        passing(TABLE, deep)


def test_a_gallery_alone_is_enough(gallery_at: Any, structured: np.ndarray, tmp_path: Any) -> None:
    gallery: Gallery = gallery_at(tmp_path / "g", structured[:50], 20)
    read = parse("color in (red, blue) and predicted_color != red and width between 1 and 30")
    assert read is not None
    expected = [i for i in range(50) if i % 2 == 0 and (i + (i % 10 == 0)) % 4 != 0]
    assert passing(Columns(gallery), read).tolist() == expected


def table_of(**cells: list[str | None]) -> Columns:
    ids: list[str | None] = [str(i) for i in range(len(next(iter(cells.values()))))]
    table = pa.table({name: pa.array(each, pa.string()) for name, each in ({"id": ids} | cells).items()})
    manifest: Any = SimpleNamespace(labels=list(cells), attributes=[])
    return Columns(SimpleNamespace(manifest=manifest, columns=table.select))


SHOP: dict[str, list[str | None]] = {
    "big": ["1e+15", "12", "1.2e-08", None, "nan", "1e999"],
    "whole": ["7", "8", "7.50", "-0.0", "1e2", "9"],
    "code": ["007", "7", "12", "8", None, "9"],
    "long": ["9007199254740993", "9007199254740992", "1", "2", "3", "4"],
    "flag": ["true", "false", "True", None, "yes", "FALSE"],
    "day": ["2024-05-01", "2025-01-01", None, "2023-12-31", "2024-05-01", "2024-01-01"],
    "none": [None] * 6,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("big >= 1000000", [0]), ("big < 1", [2]), ("big <= 1.2e1", [1, 2]), ("not big < 1e300", [3, 4, 5]),
        ("big = 1000000000000000", [0]), ("big = 0.000000012", [2]), ("big in (12.0, x, 1E15)", [0, 1]),
        ("whole = 7.0", [0]), ("whole != 7.5", [0, 1, 3, 4, 5]), ("whole in (0, 100, 8.)", [1, 3, 4]),
        ("code = 7", [1]), ("code = 7.0", []), ("code in (007, 8)", [0, 3]), ("code <= 7", [0, 1]), ("whole = 07", []),
        ("long = 9007199254740993", [0]), ("long = 1e0", [2]), ("id = 1.0", []), ("id = 1", [1]),
        ("flag = TRUE", [0, 2]), ("flag != False", [0, 2, 3, 4]), ("flag in (True, yes)", [0, 2, 4]),
        ("day >= 2024-05-01", [0, 1, 4]), ("none < 5", []), ("none > x", []), ("none = 5", []),
    ],
)  # fmt: skip
def test_numbers_and_truths_however_they_are_written(text: str, expected: list[int]) -> None:
    assert passing(table_of(**SHOP), parse(text)).tolist() == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("whole < 9 and cheap", "whole holds numbers, and '9 and cheap' is not a number"),
        ("whole < 1,000", "whole holds numbers, and '1,000' is not a number"),
        ("whole<50,", "'50,' is not a number"),
        ("whole between 1 and x", "'x' is not a number"),
        ("big > 1e999", "'1e999' is not a number"),
        ("code > abc", "code holds numbers, and 'abc'"),
        ("day between 2024 and 2025", "day holds no numbers to compare with 2024, but texts such as '2024-05-01'"),
        ("whole >= 50 <= 60", "the value '50 <= 60' holds '<'; quote it if that is meant"),
        ("whole < 50 && flag=true", "holds '&&'"),
        ("flag = true || whole", "holds '||'"),
        ("flag in (a=b, c)", "the value 'a=b' holds '='"),
        (f"flag = {'x' * 500}=1", "...' holds '='"),
    ],
)
def test_what_would_pass_wrong_rows_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        passing(table_of(**SHOP), parse(text))
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_nothing_asked_passes_all_rows() -> None:
    assert passing(table_of(**SHOP), parse("")).tolist() == [0, 1, 2, 3, 4, 5]
