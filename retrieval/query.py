"""A query and its edits: names resolved, M v added, blocks weighted. numpy only, so a query by id needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from index import filters
from index.errors import InputError, UnknownNameError
from index.filters import Columns, Compare
from index.gallery import Gallery
from index.table import PREDICTED, Layout, nearest
from retrieval.models.memory import Memory
from retrieval.photos import Source

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Request:
    """One query as a user states it; names and values may be aliases.

    Exactly one of ``photo`` (a file, its bytes, or a call that fetches them) and ``like`` (a gallery id), or ``text``,
    which may also stand beside either: what is wanted in words. ``old`` names
    the value an edit replaces where the photo's own label or prediction should not be trusted. ``one_per``: a column,
    of whose values each has one hit at most (a blank counts as a value of its own).
    """

    photo: Source | None = None
    like: str | None = None
    set: Mapping[str, str] = field(default_factory=dict)
    old: Mapping[str, str] = field(default_factory=dict)
    weight: Mapping[str, float] = field(default_factory=dict)
    drop: str | Sequence[str] = ()
    where: str | Sequence[str] = ()
    exclude: str | Sequence[str] = ()  # ids that must not be answers
    one_per: str | None = None
    min_score: float | None = None
    text: str | None = None
    keep_reference: bool = False  # ``like``: may the row itself be an answer? (the published protocol says yes)

    def __post_init__(self) -> None:
        for name in ("drop", "exclude"):  # one name, not its letters
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, (value,))


@dataclass(frozen=True)
class Edit:
    """One resolved edit; ``old`` is None where the photo lacks the attribute (only +1 is set then)."""

    attribute: str
    new: str
    old: str | None


class Names:
    """Attributes and values by any name a user may type: exact, case fold, alias, then plural and punctuation."""

    def __init__(self, vocabulary: Mapping[str, Sequence[str]], aliases: Mapping[str, Any]) -> None:
        self.vocabulary = vocabulary
        self._attributes = _lookup(vocabulary, aliases.get("attributes", {}))
        values = aliases.get("values", {})
        self._values = {name: _lookup(known, values.get(name, {})) for name, known in vocabulary.items()}

    def attribute(self, text: str) -> str:
        """The attribute meant; UnknownNameError offers the nearest."""
        return _resolve(text, self._attributes, self.vocabulary, "attribute")

    def value(self, attribute: str, text: str) -> str:
        """The value of a (resolved) attribute meant; UnknownNameError offers the nearest."""
        return _resolve(text, self._values[attribute], self.vocabulary[attribute], f"value of {attribute}")


def _plain(text: str) -> str:
    """Letters and digits only, case folded, one plural ending dropped: "T-Shirts" and "tshirt" meet."""
    word = re.sub(r"[\W_]+", "", text.casefold())
    for ending, kept in (("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("ies", "y"), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 1 and not (ending == "s" and word.endswith("ss")):
            return word.removesuffix(ending) + kept
    return word


def _lookup(known: Iterable[str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Plain form -> name. Names that share a plain form are left to exact spelling."""
    table: dict[str, str] = {}
    clash = set()
    for name in known:
        if table.setdefault(_plain(name), name) != name:
            clash.add(_plain(name))
    for plain in clash:
        del table[plain]
    names = set(table.values()) | set(known)
    for alias, name in aliases.items():
        if name in names:  # a vocabulary learned from other labels may lack what an alias stands for
            table.setdefault(_plain(alias), name)
    return table


def _resolve(text: str, table: Mapping[str, str], known: Iterable[str], what: str) -> str:
    known = list(known)
    if text in known:
        return text
    folded = [name for name in known if name.casefold() == text.casefold()]
    if len(folded) == 1:
        return folded[0]
    if (name := table.get(_plain(text))) is not None:
        return name
    close = get_close_matches(_plain(text), table, n=3, cutoff=0.5)
    near = list(dict.fromkeys(table[word] for word in close))
    offer = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known[:20])}"
    raise UnknownNameError(f"unknown {what} {text!r}; {offer}")


_NEXT = re.compile(r";(?=[^;=!<>]*[=!<>]|[\s;]*$)")  # a ";" inside a value, as in "Mobile; Pouch", splits nothing


def _pieces(texts: Iterable[str]) -> list[str]:
    """``["color=gray; sleeve=long", ...]`` -> each NAME=VALUE."""
    return [piece for text in texts for part in _NEXT.split(text) if (piece := part.strip("; \t\r\n"))]


def assignments(texts: Iterable[str], what: str = "--set") -> dict[str, str]:
    """``["color=gray;sleeve=long", ...]`` -> {"color": "gray", "sleeve": "long"}; InputError for anything else."""
    result: dict[str, str] = {}
    for piece in _pieces(texts):
        name, equals, value = (p.strip() for p in piece.partition("="))
        if not (name and equals and value):
            such = "color=2" if what == "--weight" else "color=gray"
            raise InputError(f"{what} {piece!r}: write NAME=VALUE, for example {such}")
        if name in result and result[name] != value:
            raise InputError(f"{what}: {name} is given twice, as {result[name]!r} and {value!r}; keep one")
        result[name] = value
    return result


def weights_of(texts: Iterable[str]) -> dict[str, float]:
    """``["color=2"]`` -> {"color": 2.0}; InputError for what is not a number."""
    result = {}
    for name, value in assignments(texts, "--weight").items():
        try:
            result[name] = float(value)
        except ValueError:
            raise InputError(f"--weight {name}={value}: the weight must be a number, for example {name}=2") from None
    return result


def raw_blocks(units: Array, norms: Array, layout: Layout) -> dict[str, Array]:
    """Unit vectors (n, D) and raw norms (n, B) -> raw features by block, (n, D_b) float32."""
    return {
        block.name: units[:, block.start : block.stop].astype(np.float32) * norms[:, i : i + 1]
        for i, block in enumerate(layout.blocks)
    }


def edited(
    raw: Mapping[str, Array], edits: Sequence[Sequence[Edit]], memory: Memory, keep: float = 1.0
) -> dict[str, Array]:
    """f' = keep (f - m_old) + m_new in the edited block: raw blocks (n, D_b) float32 by name; the input is kept.

    m are the values' own columns of M. keep = 1 is the paper's f + M v: what of the photo's block is not its old value
    stays. keep = 0 puts the new value in its place (a prototype, as in AMNet, Zhao et al. 2017), which serves better
    where the rest is mostly doubt about the old value; it is chosen on validation (benchmarks/weights.py). Other
    blocks get M's off-block entries. A block of several edits takes them one after the other.
    """
    result = {name: values.copy() for name, values in raw.items()}
    for row, wanted in enumerate(edits):
        for edit in wanted:
            own = result[edit.attribute][row]
            rest = own - memory.mean(edit.attribute, edit.old) if edit.old is not None else own.copy()
            for name, residual in memory.residual(edit.attribute, edit.new, edit.old).items():
                result[name][row] += residual
            own -= (1.0 - keep) * rest
    return result


def vectors(raw: Mapping[str, Array], layout: Layout, weights: Array) -> Array:
    """Raw blocks (n, D_b) -> query vectors (n, D) float32: each block made unit, then scaled by its weight (n, B).

    With x the stored units, <query, x> = sum_b w_b <q_b, x_b>, which ranks as weighted squared Euclidean distance does.
    """
    out = np.zeros((len(weights), layout.dim), np.float32)
    for i, block in enumerate(layout.blocks):
        values = raw[block.name]
        length = np.linalg.norm(values, axis=1, keepdims=True)
        out[:, block.start : block.stop] = values / np.maximum(length, 1e-12) * weights[:, i : i + 1]
    return out


def with_text(
    vector: Array, factors: Array, text: Array, defaults: Array, layout: Layout, alone: bool
) -> tuple[Array, Array]:
    """A text's vector (D,), in which a block's length says how much it asks of it, added to a photo's (D,).

    factors, defaults: (B,) the request's block weights and the gallery's. The text's weights are its blocks' lengths,
    scaled so that they sum to what the defaults do, times whatever the request made of each default: so photo and text
    have an equal voice. ``alone``: there is no photo. Returns the query vector and the weights of all of it.
    """
    lengths = np.array([np.linalg.norm(text[block.start : block.stop]) for block in layout.blocks], np.float32)
    asked = np.where(defaults > 0, factors / np.maximum(defaults, 1e-12), 1.0)
    own = lengths / max(float(lengths.sum()), 1e-12) * defaults.sum() * asked
    out = np.zeros_like(vector) if alone else vector.copy()
    for i, block in enumerate(layout.blocks):
        at = slice(block.start, block.stop)
        out[at] += text[at] / max(float(lengths[i]), 1e-12) * own[i]
    return out.astype(np.float32), (own if alone else own + factors).astype(np.float32)


def filter_rows(
    gallery: Gallery, names: Names, conditions: str | Sequence[str], columns: Columns | None = None
) -> npt.NDArray[np.int64] | None:
    """Rows of the gallery that meet all conditions, rising int64; None without conditions.

    Conditions are expressions of ``index.filters``. An attribute of the model filters its label column where the
    gallery has one, else its predicted column; attribute and value aliases apply. Other columns compare exactly.
    columns: kept from call to call, it need not parse a column's numbers again.
    """
    wanted = filters.parse(conditions)
    if wanted is None:
        return None
    known = columns or Columns(gallery)
    return filters.passing(known, wanted, lambda test: _meant(gallery, known, names, test))


def label_column(gallery: Gallery, attribute: str) -> str:
    """Where an attribute's values lie in the table: the label column if there is one, else the predicted one."""
    return attribute if attribute in gallery.manifest.labels else PREDICTED + attribute


def column_meant(
    gallery: Gallery, columns: Columns, names: Names, name: str, what: str = "--where"
) -> tuple[str, str | None]:
    """The column that a user's name means, and the attribute it holds (None: another column). UnknownNameError."""
    if name in columns.names and name.removeprefix(PREDICTED) not in names.vocabulary:
        return name, None
    try:
        attribute = names.attribute(name.removeprefix(PREDICTED))
    except UnknownNameError:
        known = [*(each for each in columns.names if not each.startswith(PREDICTED)), *names.vocabulary]
        raise UnknownNameError(f"{what}: no column {name!r}; {nearest(name, list(dict.fromkeys(known)))}") from None
    return (PREDICTED + attribute if name.startswith(PREDICTED) else label_column(gallery, attribute)), attribute


def _meant(gallery: Gallery, columns: Columns, names: Names, test: Compare) -> Compare:
    column, attribute = column_meant(gallery, columns, names, test.column)
    if attribute is None or test.sign != "=":
        return replace(test, column=column)

    def value(text: str) -> str:  # a label that the model never learned is still a label
        if text in names.vocabulary[attribute] or pc.any(pc.equal(columns[column], text)).as_py():
            return text
        return names.value(attribute, text)

    return replace(test, column=column, values=tuple(map(value, test.values)))
