"""The memory matrix M: what each attribute value looks like in feature space (numpy only, so queries need no torch)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from index.errors import DamagedError


@dataclass(frozen=True)
class Memory:
    """M, (sum D_a, sum V_a) float32: column v of attribute a starts as the mean raw feature of photos with v.

    The edit of the paper is f' = f + M v with v in {-1, 0, 1} (Hou et al. 2021, attribute-driven disentangled
    representations): ``residual`` is M (e_new - e_old), by block. Off the blocks of its diagonal M is zero unless it
    was trained (retrieval/training/edits.py).
    """

    vocabulary: Mapping[str, Sequence[str]]  # attribute -> values, in column order
    dims: Mapping[str, int]  # attribute -> D_a, in row order
    matrix: np.ndarray  # (sum D_a, sum V_a) float32

    def __post_init__(self) -> None:
        if list(self.vocabulary) != list(self.dims):
            raise ValueError("vocabulary and dims must name the same attributes in the same order")
        expected = (sum(self.dims.values()), sum(len(v) for v in self.vocabulary.values()))
        if self.matrix.shape != expected or self.matrix.dtype != np.float32:
            raise ValueError(f"memory matrix is {self.matrix.dtype} {self.matrix.shape}, not float32 {expected}")

    def rows(self, attribute: str) -> slice:
        """The rows of one attribute's block."""
        return _span(self.dims, attribute)

    def column(self, attribute: str, value: str) -> int:
        """The column of one value."""
        start = _span({a: len(v) for a, v in self.vocabulary.items()}, attribute).start
        return start + list(self.vocabulary[attribute]).index(value)

    def mean(self, attribute: str, value: str) -> np.ndarray:
        """The value's column in its own attribute's rows, (D_a,) float32."""
        return self.matrix[self.rows(attribute), self.column(attribute, value)]

    def residual(self, attribute: str, new: str, old: str | None) -> dict[str, np.ndarray]:
        """M (e_new - e_old) by attribute, each (D_a,) float32; ``old=None`` (the photo lacks it) sets only +1.

        With a block-diagonal M only ``attribute`` itself is touched; other blocks appear once M has off-block entries.
        """
        delta = self.matrix[:, self.column(attribute, new)].copy()
        if old is not None:
            delta -= self.matrix[:, self.column(attribute, old)]
        parts = {name: delta[self.rows(name)] for name in self.dims}
        return {name: part for name, part in parts.items() if name == attribute or part.any()}


NONE = Memory({}, {}, np.zeros((0, 0), np.float32))  # of a gallery without attributes


def from_means(
    features: Mapping[str, np.ndarray],
    codes: np.ndarray,
    vocabulary: Mapping[str, Sequence[str]],
    sets: Mapping[str, np.ndarray] | None = None,
) -> Memory:
    """Fill M with class means.

    features: attribute -> raw (n, D_a) float32; codes: (n, A) integer value codes in vocabulary order, -1 = unlabelled.
    sets: for each multi-label attribute (n, V_a), 1 has, 0 lacks, -1 unlabelled, in place of its column of codes; a
    value's column is then the mean of the photos that have it. A value no photo has keeps the mean of the attribute's
    labelled features: editing to it then means "typical".
    """
    dims = {name: int(features[name].shape[1]) for name in vocabulary}
    matrix = np.zeros((sum(dims.values()), sum(len(v) for v in vocabulary.values())), np.float32)
    row = column = 0
    for i, (name, values) in enumerate(vocabulary.items()):
        rows, code, known = _having(codes[:, i], (sets or {}).get(name))
        block = features[name].astype(np.float64)
        sums = np.zeros((len(values), dims[name]))
        np.add.at(sums, code, block[rows])
        counts = np.bincount(code, minlength=len(values))[:, None]
        overall = block[known].mean(axis=0) if known.any() else np.zeros(dims[name])
        means = np.where(counts > 0, sums / np.maximum(counts, 1), overall)
        matrix[row : row + dims[name], column : column + len(values)] = means.T
        row, column = row + dims[name], column + len(values)
    return Memory(dict(vocabulary), dims, matrix)


def from_heads(
    prototypes: Mapping[str, np.ndarray],
    features: Mapping[str, np.ndarray],
    codes: np.ndarray,
    vocabulary: Mapping[str, Sequence[str]],
    sets: Mapping[str, np.ndarray] | None = None,
) -> Memory:
    """Fill M with the cosine heads' prototypes, each as long as the features of its value's photos are on average.

    prototypes: attribute -> (V_a, D_a) float32; the rest as in ``from_means``. A mean is shorter than what it averages
    and leans towards what its photos have in common beside the value; a prototype is trained to tell the value apart.
    A value no photo has gets the average length of all.
    """
    means = from_means(features, codes, vocabulary, sets)
    matrix = np.zeros_like(means.matrix)
    for i, (name, values) in enumerate(vocabulary.items()):
        rows, code, known = _having(codes[:, i], (sets or {}).get(name))
        length = np.linalg.norm(features[name].astype(np.float64), axis=1)
        counts = np.bincount(code, minlength=len(values))
        sums = np.bincount(code, weights=length[rows], minlength=len(values))
        overall = length[known].mean() if known.any() else 1.0
        lengths = np.where(counts > 0, sums / np.maximum(counts, 1), overall)
        unit = prototypes[name] / np.linalg.norm(prototypes[name], axis=1, keepdims=True)
        first = means.column(name, values[0])
        matrix[means.rows(name), first : first + len(values)] = (unit * lengths[:, None]).T
    return Memory(means.vocabulary, means.dims, matrix)


def _having(codes: np.ndarray, sets: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which row has which value, two arrays of one length, and (n,) bool: which rows have a label at all."""
    if sets is None:
        known = codes >= 0
        return np.flatnonzero(known), codes[known], known
    rows, code = np.nonzero(sets == 1)
    return rows, code, np.asarray((sets >= 0).all(axis=1))


def _span(sizes: Mapping[str, int], name: str) -> slice:
    start = 0
    for other, size in sizes.items():
        if other == name:
            return slice(start, start + size)
        start += size
    raise KeyError(name)


def to_bytes(memory: Memory, fingerprint: str) -> bytes:
    """memory.safetensors: M with its vocabulary and dims, and the fingerprint of the model it belongs to."""
    vocabulary = {name: list(values) for name, values in memory.vocabulary.items()}
    header = {"vocabulary": json.dumps(vocabulary), "dims": json.dumps(dict(memory.dims)), "model": fingerprint}
    return save({"matrix": memory.matrix}, header)


def read(path: Path) -> Memory:
    """Read what ``to_bytes`` wrote; DamagedError names the file."""
    try:
        with safe_open(str(path), framework="numpy") as file:
            header = file.metadata()
            matrix = file.get_tensor("matrix")
        return Memory(json.loads(header["vocabulary"]), json.loads(header["dims"]), matrix)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise DamagedError(f"{path}: damaged ({said}); run `fsearch verify` on its gallery") from None
