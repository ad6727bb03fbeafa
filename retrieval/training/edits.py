"""Training of the memory matrix M on frozen features: quadruplets (reference, edit, positive, negative) from labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from retrieval.models.memory import Memory

BATCH = 256
RATE = 0.02  # of Adam, in units of the features' root mean square


class Edits(NamedTuple):
    """Quadruplets: rows ``reference``, ``positive``, ``negative``, (b,) int64; ``change`` (b, W) int8, the paper's v.

    With y the label rows: y[positive] = y[reference] + change; y[negative] differs from that in one attribute.
    """

    reference: np.ndarray
    change: np.ndarray
    positive: np.ndarray
    negative: np.ndarray


class EditSampler:
    """Draws edits that some photo answers. No label (an all-0 block) counts as a value that must match, as when edits
    are evaluated, but no edit asks for it.

    labels: (n, W) int8, 1 where a photo has the value; sizes: values of each attribute, W in all; multi: (A,) bool,
    attributes of which a photo may have several values: an edit then adds one or takes one away.
    """

    def __init__(self, labels: np.ndarray, sizes: list[int], multi: list[bool]) -> None:
        self.tuples, self.of = np.unique(labels, axis=0, return_inverse=True)  # different whole labels
        self.of = self.of.reshape(-1)
        self.photos = _groups(self.of)
        ends = np.cumsum(sizes)
        self.spans = [slice(int(end - size), int(end)) for end, size in zip(ends, sizes, strict=True)]
        self.multi = multi
        self.near: list[list[np.ndarray]] = []  # for each attribute: what group of tuples equal but for it, by tuple
        able = np.zeros(len(self.tuples), bool)  # is there another tuple that has a value?
        for span in self.spans:
            rest = self.tuples.copy()
            rest[:, span] = 0
            group = np.unique(rest, axis=0, return_inverse=True)[1].reshape(-1)
            members = _groups(group)
            self.near.append([members[i] for i in group])
            named = self.tuples[:, span].any(axis=1)
            able |= np.bincount(group, named)[group] > named
        self.rows = np.flatnonzero(able[self.of])  # photos with an edit to try

    def targets(self, start: int, attribute: int) -> np.ndarray:
        """The tuples that one edit of the attribute leads to from tuple ``start``."""
        others = self.near[attribute][start]
        moved = np.abs(self.tuples[others][:, self.spans[attribute]] - self.tuples[start, self.spans[attribute]])
        named = self.tuples[others][:, self.spans[attribute]].any(axis=1)  # no edit asks for "no label"
        return others[named & (moved.sum(axis=1) == 1 if self.multi[attribute] else moved.any(axis=1))]

    def draw(self, rng: np.random.Generator, n: int) -> Edits | None:
        """n quadruplets; every second negative, where there is one, is right in the edited attribute and wrong in
        another, the others still have the old value or one that was not asked for. None where no edit has an answer.
        """
        found = []
        for row in rng.choice(self.rows, n) if len(self.rows) else ():
            start = int(self.of[row])
            for attribute in rng.permutation(len(self.spans)):
                if len(ends := self.targets(start, attribute)):
                    end = int(rng.choice(ends))
                    wrong = self._wrong(end, start, int(attribute), rng)
                    found.append((row, start, end, *(rng.choice(self.photos[t]) for t in (end, wrong))))
                    break
        if not found:
            return None
        row, start, end, positive, negative = np.array(found, np.int64).T
        return Edits(row, self.tuples[end] - self.tuples[start], positive, negative)

    def _wrong(self, end: int, start: int, attribute: int, rng: np.random.Generator) -> int:
        """A tuple that differs from ``end`` in one attribute only."""
        if rng.random() < 0.5:
            for other in rng.permutation(len(self.spans)):
                near = self.near[other][end]
                if other != attribute and len(near) > 1:
                    return int(rng.choice(near[near != end]))
        if rng.random() < 0.5:
            return start
        near = self.near[attribute][end]
        return int(rng.choice(near[near != end]))


def _groups(codes: np.ndarray) -> list[np.ndarray]:
    """For each code from 0 on, the places that hold it."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def train_memory(
    start: Memory, features: Mapping[str, np.ndarray], labels: np.ndarray, multi: list[bool], steps: int, margin: float,
    squared: bool, consistency: float, sparsity: float, seed: int, progress: bool = False,
) -> Memory:  # fmt: skip
    """M trained from ``start`` by Adam on minibatches of edits; the features stay as they are (Hou et al. 2021).

    features: attribute -> raw (n, D_a) float32; labels: (n, W) int8 as ``TrainingSet.labels``. The loss is that of
    ``edit_loss``; features and M are scaled to a root mean square of 1 for the time of training. Returned is the M of
    the last step; ``start`` where the labels know no edit. Deterministic by ``seed`` on one kind of machine.
    """
    sampler = EditSampler(labels, [len(values) for values in start.vocabulary.values()], multi)
    if not len(sampler.rows):
        return start
    joined = np.concatenate([features[name] for name in start.dims], axis=1)
    scale = float(np.sqrt((joined.astype(np.float64) ** 2).mean())) or 1.0
    x, y = torch.from_numpy(joined / np.float32(scale)), torch.from_numpy(labels)
    matrix = torch.from_numpy(start.matrix / np.float32(scale)).requires_grad_()
    inside = torch.zeros_like(matrix, dtype=torch.bool)
    for name, values in start.vocabulary.items():
        first = start.column(name, values[0])
        inside[start.rows(name), first : first + len(values)] = True
    optimizer = torch.optim.Adam([matrix], lr=RATE)
    rng = np.random.default_rng([seed, 1])
    dims = list(start.dims.values())
    for step in tqdm(range(steps), "memory", unit="step", disable=None if progress else True):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        if (drawn := sampler.draw(rng, BATCH)) is None:
            continue
        change, wanted = torch.from_numpy(drawn.change).float(), y[drawn.positive].float()
        at = (x[drawn.reference], x[drawn.positive], x[drawn.negative])
        loss = edit_loss(matrix, inside, *at, change, wanted, dims, margin, squared, consistency, sparsity)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Memory(start.vocabulary, start.dims, matrix.detach().numpy() * np.float32(scale))


def edit_loss(
    matrix: Tensor, inside: Tensor, reference: Tensor, positive: Tensor, negative: Tensor, change: Tensor,
    wanted: Tensor, dims: list[int], margin: float, squared: bool, consistency: float, sparsity: float,
) -> Tensor:  # fmt: skip
    """Triplet + consistency * C + sparsity * S of a batch of edits.

    f' = f + M v. Triplet: max(0, |f' - p| - |f' - n| + margin), mean over the batch; every attribute's block of each
    is made unit, as the search compares them, and the distance (squared or not) is that of the joined blocks over
    sqrt(A). C: mean |M y - f'| + mean |M y - p|, y the target's labels, over the blocks in which y has a value.
    S: mean over the columns of the L1 norm off the blocks (``inside`` is (D, W) bool).

    reference, positive, negative (b, D) raw; change, wanted (b, W).
    """
    edited = reference + change @ matrix.T  # (b, D)
    near, far = _apart(edited, positive, dims), _apart(edited, negative, dims)
    if not squared:
        near, far = torch.sqrt(near + 1e-8), torch.sqrt(far + 1e-8)
    total = (near - far + margin).clamp(min=0).mean()
    if consistency:
        known = (wanted @ inside.T.to(wanted.dtype)) > 0  # (b, D)
        ideal = wanted @ matrix.T
        gap = (ideal - edited).abs() + (ideal - positive).abs()
        total = total + consistency * (gap * known).sum() / known.sum().clamp(min=1)
    return total + sparsity * matrix.masked_fill(inside, 0).abs().sum() / matrix.shape[1]


def _apart(a: Tensor, b: Tensor, dims: list[int]) -> Tensor:
    """(b,) mean over the blocks of the squared distance of unit blocks."""
    pairs = zip(a.split(dims, dim=1), b.split(dims, dim=1), strict=True)
    return torch.stack([2 - 2 * F.cosine_similarity(u, v, dim=1) for u, v in pairs]).mean(dim=0)
