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
NUMBER = r"-?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})"  # what of a text column compares as a number


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
        self._codes: dict[str, npt.NDArray[np.int64]] = {}

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        return self._gallery.columns([name])[name]

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """The column as float64 (rows,), NaN where a cell is blank or no number."""
        if name not in self._numbers:
            data = self[name]
            if _is_text(data):
                plain = pc.utf8_trim_whitespace(data)
                data = pc.if_else(pc.match_substring_regex(plain, f"^{NUMBER}$"), plain, pa.scalar(None, pa.string()))
            self._numbers[name] = np.asarray(pc.fill_null(pc.cast(data, pa.float64()), np.nan))
        return self._numbers[name]

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


def passing(columns: Columns, node: Node, resolve: Resolve | None = None) -> Rows:
    """The rows that pass, rising int64. ``resolve`` turns the names a user typed into columns and their values.

    Raises UnknownNameError for a column that is not there, InputError for a comparison that means nothing.
    """
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
    if not _is_text(data) or (test.sign != "=" and re.fullmatch(NUMBER, test.values[0])):
        numbers = columns.numbers(test.column)
        limits = [_number(test.column, value) for value in test.values]
        if test.sign == "=":
            return np.isin(numbers, limits)
        compare: dict[str, Any] = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}
        return compare[test.sign](numbers, limits[0])  # false for NaN
    if len(test.values) > 1:
        return _bits(pc.is_in(data, value_set=pa.array(test.values, data.type)))  # false for null
    kernel = {"=": pc.equal, "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}[test.sign]
    return _bits(kernel(data, pa.scalar(test.values[0], data.type)))  # null for null


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


def _number(column: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = np.nan
    if np.isnan(number):
        raise InputError(f"--where: {column} holds numbers, and {value!r} is not a number")
    return number


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
        return str(token.strip())

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
