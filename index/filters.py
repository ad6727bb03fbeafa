"""Filter expressions over a gallery's columns: ``price < 50 and not (usage = Sports or color in (Red, Navy Blue))``.

A text becomes a tree of tests (a grammar, read by lark; nothing is evaluated), the tree becomes one boolean a row with
Arrow. Logic has two values: a test is true or false of every row, blanks included, so ``not`` is the exact complement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from index.errors import InputError, UnknownNameError
from index.hits import Rows
from index.table import PREDICTED, nearest

Mask = npt.NDArray[np.bool_]
# what of a text column compares as a number
NUMBER = r"-?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?"
CODE = r"-?0[0-9]"  # how a number begins that is a code, such as 007
_NAMES = ("id", "path", "content_hash")  # texts, whatever they look like, where equality is asked
EXACT = 2.0**53  # whole numbers below it are float64 exactly
FEW = 1000  # rows by which most columns of texts are told


@dataclass(frozen=True)
class Compare:
    """One comparison. ``sign``: "=" (the cell is one of ``values``), "<", "<=", ">", ">=" (one value) or "null"."""

    column: str
    sign: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Not:
    of: Node


@dataclass(frozen=True)
class Every:
    of: tuple[Node, ...]


@dataclass(frozen=True)
class Some:
    of: tuple[Node, ...]


Node = Compare | Not | Every | Some
Resolve = Callable[[Compare], Compare]


class Columns:
    """The columns of a gallery that filters read; the numbers and the codes of a text column are made once.

    gallery: anything with ``columns(names)`` and a manifest with ``labels`` and ``attributes``.
    """

    def __init__(self, gallery: Any) -> None:
        self._gallery, manifest = gallery, gallery.manifest
        plain = [*manifest.labels, "id", "path", "content_hash", "width", "height"]
        self.names = [*plain, *(PREDICTED + name for name in manifest.attributes)]
        self._numbers: dict[str, npt.NDArray[np.float64]] = {}
        self._kinds: dict[str, str] = {}
        self._codes: dict[str, npt.NDArray[np.int64]] = {}

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        return self._gallery.columns([name])[name]

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """The column as float64 (rows,), NaN where a cell is blank, no number or beyond float64."""
        if name not in self._numbers:
            data = self[name]
            if _is_text(data):
                plain = pc.utf8_trim_whitespace(data)
                data = pc.if_else(pc.match_substring_regex(plain, f"^{NUMBER}$"), plain, pa.scalar(None, pa.string()))
            try:
                numbers = np.asarray(pc.fill_null(pc.cast(data, pa.float64()), np.nan))
            except pa.ArrowInvalid:  # a number so large or small that Arrow does not read it
                numbers = np.array([np.nan if cell is None else float(cell) for cell in data.to_pylist()])
            self._numbers[name] = np.where(np.isinf(numbers), np.nan, numbers)
        return self._numbers[name]

    def kind(self, name: str) -> str:
        """What its filled cells are: "numbers" (or NaN, infinity), "codes" if one of them is as 007, else "texts"."""
        if name not in self._kinds:
            data = self[name]
            kind = "numbers"
            if _is_text(data):
                every = all(_all_match(each, rf"^\s*({NUMBER}|nan|-?inf)?\s*$") for each in (data.slice(0, FEW), data))
                if not every or np.isnan(self.numbers(name)).all():
                    kind = "texts"
                elif pc.any(pc.match_substring_regex(data, rf"^\s*{CODE}")).as_py():
                    kind = "codes"
            self._kinds[name] = kind
        return self._kinds[name]

    def codes(self, name: str) -> npt.NDArray[np.int64]:
        """A number from 0 for each row, int64 (rows,), the same where the cells are; each blank has its own."""
        if name not in self._codes:
            encoded = pc.dictionary_encode(self[name]).unify_dictionaries().combine_chunks()
            values = np.asarray(pc.fill_null(encoded.indices, -1)).astype(np.int64)
            self._codes[name] = np.where(values < 0, len(encoded.dictionary) + np.arange(len(values)), values)
        return self._codes[name]


def _exactly(columns: Columns, test: Compare) -> Compare:
    """The test, if its column is spelled as the gallery spells it; UnknownNameError offers the nearest names."""
    if test.column in columns.names:
        return test
    raise UnknownNameError(f"--where: no column {test.column!r}; {nearest(test.column, columns.names)}")


def passing(columns: Columns, node: Node | None, resolve: Resolve | None = None) -> Rows:
    """The rows that pass, rising int64; all rows where nothing is asked (None). ``resolve`` turns the names a user
    typed into columns and their values.

    Raises UnknownNameError for a column that is not there, InputError for a comparison that means nothing.
    """
    if node is None:
        return np.arange(len(columns["id"]))
    try:
        return np.flatnonzero(_mask(columns, node, resolve or (lambda test: _exactly(columns, test)))).astype(np.int64)
    except RecursionError:
        raise InputError("--where: conditions nested too deep; write it flatter") from None


def _mask(columns: Columns, node: Node, resolve: Resolve) -> Mask:
    if isinstance(node, Not):
        return ~_mask(columns, node.of, resolve)
    if isinstance(node, Compare):
        return _tested(columns, resolve(node))
    first, *rest = (_mask(columns, each, resolve) for each in node.of)
    for each in rest:
        first = first & each if isinstance(node, Every) else first | each
    return first


def _tested(columns: Columns, test: Compare) -> Mask:
    data = columns[test.column]
    if test.sign == "null":
        return _bits(pc.is_null(data))
    if test.sign == "=":
        return _equal(columns, data, test)
    compare, kernel = _ORDER[test.sign]
    limit = _number(test.values[0])
    if np.isnan(limit):
        _numbers_only(columns, test.column, test.values[0])
        return _bits(kernel(data, pa.scalar(test.values[0], data.type)))  # null for null
    passed: Mask = compare(columns.numbers(test.column), limit)  # false for NaN
    if not passed.any() and np.isnan(columns.numbers(test.column)).all() and (cell := _filled(data)) is not None:
        raise InputError(
            f"--where: {test.column} holds no numbers to compare with {test.values[0]}, but texts such as"
            f" {cell!r}; give one of that kind"
        )
    return passed


_ORDER: dict[str, tuple[Any, Any]] = {
    "<": (np.less, pc.less),
    "<=": (np.less_equal, pc.less_equal),
    ">": (np.greater, pc.greater),
    ">=": (np.greater_equal, pc.greater_equal),
}


def _equal(columns: Columns, data: pa.ChunkedArray, test: Compare) -> Mask:
    """The cell is one of the values: as text, as a number where all of the column are, as true or false in any case."""
    limits = [_number(value) for value in test.values]
    if not _is_text(data):
        for value, limit in zip(test.values, limits, strict=True):
            if np.isnan(limit):
                _numbers_only(columns, test.column, value)
        return np.isin(columns.numbers(test.column), limits)
    texts = dict.fromkeys(test.values)
    for value in test.values:
        if value.casefold() in ("true", "false"):
            texts |= dict.fromkeys([value.lower(), value.upper(), value.capitalize()])
    if len(texts) > 1:
        passed = _bits(pc.is_in(data, value_set=pa.array(list(texts), data.type)))  # false for null
    else:
        passed = _bits(pc.equal(data, pa.scalar(test.values[0], data.type)))  # null for null
    alike = [
        limit
        for value, limit in zip(test.values, limits, strict=True)
        if abs(limit) < EXACT and not re.match(CODE, value)
    ]
    if alike and test.column not in _NAMES and columns.kind(test.column) == "numbers":
        passed |= np.isin(columns.numbers(test.column), alike)
    return passed


def _numbers_only(columns: Columns, name: str, value: str) -> None:
    """InputError if the column holds numbers, as the value is none."""
    if columns.kind(name) != "texts":
        raise InputError(f"--where: {name} holds numbers, and {value!r} is not a number")


def _filled(data: pa.ChunkedArray) -> str | None:
    """The first text that is not blank, if there is one; None of a column of numbers."""
    filled = data.filter(pc.not_equal(data, "")) if _is_text(data) else data.slice(0, 0)
    return filled[0].as_py() if len(filled) else None


def _all_match(data: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(data, pattern, ignore_case=True), min_count=0).as_py())


def _bits(mask: pa.ChunkedArray) -> Mask:
    """A column of booleans, null as false. Unpacking its bitmaps is 30 times as fast as Arrow's fill_null."""
    parts = [np.zeros(0, bool)]
    for chunk in mask.chunks:
        bits = [
            np.unpackbits(np.frombuffer(each, np.uint8), count=chunk.offset + len(chunk), bitorder="little")
            for each in chunk.buffers()
            if each is not None and len(chunk)
        ]
        if bits:
            parts.append(np.logical_and.reduce(bits)[chunk.offset :])  # valid and true
    return np.concatenate(parts)


def _is_text(data: Any) -> bool:
    return pa.types.is_string(data.type) or pa.types.is_large_string(data.type)


def _number(value: str) -> float:
    """A value as a number; NaN if it is none, or one beyond float64."""
    number = float(value) if re.fullmatch(NUMBER, value) else np.nan
    return number if np.isfinite(number) else np.nan


# The grammar. Bare names and values may hold spaces, so where one ends is said by what follows: an "and" or a ";" ends
# a value only if a condition comes after it ("Dolce and Gabbana", "Mobile; Pouch").
_QUOTED = r"""(?:'(?:[^']|'')*'|"(?:[^"]|"")*")"""
_BEGINS = (  # the operator behind a column
    r"(?:\s*(?:[=<>]|!=)|\s+(?:not\s+)?in\s*\(|\s+(?:not\s+)?between\s|\s+is\s+(?:not\s+)?null\b)"
)
_NAME = rf"(?:[^\s=!<>;()'\"](?:[^=!<>;()]|\([^()=!<>;]*\))*?(?={_BEGINS}))"
_ONE_NAME = rf"(?:[^\s=!<>;()'\"](?:(?!\s(?:and|or)\s)[^=!<>;()]|\([^()=!<>;]*\))*?(?={_BEGINS}))"
_CONDITION = rf"(?:\s*\(|\s*not\b(?!\s*(?:[=<>]|!=)))*\s*(?:{_QUOTED}(?={_BEGINS})|{_ONE_NAME})"
_ENDS = rf"(?:\s*(?:\Z|\)|;[\s;]*(?:\Z|{_CONDITION}))|\s(?:and|or)\b(?:\s*\Z|{_CONDITION}))"
_TERMINALS = {
    "NAME": _NAME,
    "NOT.2": r"not\b(?!\s*(?:[=<>]|!=))",
    "QUOTED.2": _QUOTED,
    "COMPARE": r"==?|!=|<>|<=|>=|<|>",
    "VALUE": rf"(?![\s'\"])(?!(?:and|or)\b{_CONDITION})(?:\([^()]*\)|(?!{_ENDS})[^()])+",
    "LOW": r"[^\s'\"=<>;()](?:(?!\s+and\s)[^=<>;()])*",
    "ITEM": r"(?:\([^()]*\)|[^\s,()'\"])(?:\([^()]*\)|[^,()])*",
    "IN": r"in\b", "IS": r"is\b", "NULL": r"null\b", "BETWEEN": r"between\b", "TO": r"and\b", "SEP": ";",
    "AND": rf"and\b(?={_CONDITION})", "OR": rf"or\b(?={_CONDITION})",
}  # fmt: skip
_RULES = r"""
start: any? (SEP any?)*
?any: all (OR all)*
?all: not (AND not)*
?not: NOT not -> negated | "(" any ")" | test
?test: (NAME | QUOTED) COMPARE (VALUE | QUOTED) -> compared
     | (NAME | QUOTED) NOT? IN "(" item ("," item)* ")" -> listed
     | (NAME | QUOTED) NOT? BETWEEN (LOW | QUOTED) TO (VALUE | QUOTED) -> spanned
     | (NAME | QUOTED) IS NOT? NULL -> blank
?item: ITEM | QUOTED
%ignore /\s+/
"""


def parse(texts: str | Sequence[str]) -> Node | None:
    """What several texts ask for together; None where they ask nothing. InputError says where one cannot be read."""
    from lark import UnexpectedInput

    found: list[Node] = []
    for text in [texts] if isinstance(texts, str) else texts:
        try:
            found += _parser().parse(text)
        except UnexpectedInput as error:
            ended = getattr(getattr(error, "token", None), "type", "") == "$END"
            at = len(text) if ended else error.pos_in_stream or 0
            where = (
                f"not understood from {text[at:][:40]!r} (character {at + 1}) on" if not ended else "it ends too early"
            )
            shown = text if len(text) <= 120 else f"{text[:117]}..."
            raise InputError(f"--where {shown!r}: {where}; write COLUMN=VALUE, for example gender=Women") from None
    return None if not found else found[0] if len(found) == 1 else Every(tuple(found))


def equals(column: str, value: str) -> str:
    """The text of ``column = value``, whatever characters they hold."""
    return "=".join("'" + text.replace("'", "''") + "'" for text in (column, value))


@lru_cache(1)
def _parser() -> Any:
    """The parser; lark is loaded at the first filter."""
    from lark import Lark, Token, Transformer

    def text(token: Any) -> str:
        if token.type == "QUOTED":
            return str(token[1:-1].replace(token[0] * 2, token[0]))
        said = str(token.strip())
        if token.type in ("VALUE", "ITEM") and (sign := re.search(r"&&|\|\||[=<>]", said)):
            shown = said if len(said) <= 60 else f"{said[:57]}..."
            raise InputError(
                f"--where: the value {shown!r} holds {sign[0]!r}; quote it if that is meant, else write"
                " COLUMN=VALUE and COLUMN=VALUE"
            )
        return said

    def words(tokens: Sequence[Any]) -> list[str]:
        return [text(token) for token in tokens if token.type in ("NAME", "QUOTED", "VALUE", "LOW", "ITEM")]

    def unless(tokens: Sequence[Any], node: Node) -> Node:
        return _negated(node) if any(token.type == "NOT" for token in tokens) else node

    class Build(Transformer):  # type: ignore[type-arg]
        def start(self, parts: list[Any]) -> list[Node]:
            return [part for part in parts if not isinstance(part, Token)]

        def any(self, parts: list[Any]) -> Node:
            return Some(tuple(parts[::2]))

        def all(self, parts: list[Any]) -> Node:
            return Every(tuple(parts[::2]))

        def negated(self, parts: list[Any]) -> Node:
            return _negated(parts[1])

        def compared(self, parts: list[Any]) -> Node:
            column, value = words(parts)
            sign = str(parts[1])
            if sign in ("!=", "<>"):
                return Not(Compare(column, "=", (value,)))
            return Compare(column, "=" if sign == "==" else sign, (value,))

        def listed(self, parts: list[Any]) -> Node:
            column, *values = words(parts)
            return unless(parts, Compare(column, "=", tuple(values)))

        def spanned(self, parts: list[Any]) -> Node:
            column, low, high = words(parts)
            return unless(parts, Every((Compare(column, ">=", (low,)), Compare(column, "<=", (high,)))))

        def blank(self, parts: list[Any]) -> Node:
            return unless(parts, Compare(words(parts)[0], "null"))

    grammar = _RULES + "".join(f"{name}: /{pattern}/i\n" for name, pattern in _TERMINALS.items())
    return Lark(grammar, parser="lalr", transformer=Build())


def _negated(node: Node) -> Node:
    return node.of if isinstance(node, Not) else Not(node)
