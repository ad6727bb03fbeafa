"""The outfit model: one safetensors file of the LSTM, the text encoder, the reference pool and how scores are read.

It belongs to one image model, whose fingerprint it carries: its items are that model's embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from index.errors import ConfigError, InputError, MismatchError
from retrieval.models import sealed
from retrieval.outfits.config import OutfitConfig, parse
from retrieval.outfits.network import OutfitNet, log_likelihood
from retrieval.outfits.slots import Slots
from retrieval.outfits.text import TextNet, Words

WEIGHTS = Path(__file__).resolve().parent / "weights"
AT_ONCE = 512  # outfits scored together
TRAIN = "fsearch train-outfits makes one"
KIND = sealed.Kind("outfits", 1, "an outfit model", TRAIN)

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Reading:
    """How a raw score is read: probability = sigmoid(slope * raw + offset), fitted to tell known outfits from shuffled
    ones; ``known``: the raw scores of held-out known outfits, rising, for percentiles."""

    slope: float
    offset: float
    known: tuple[float, ...]

    def probability(self, raw: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """0 to 1; one half where known and shuffled outfits are equally likely."""
        return 1 / (1 + np.exp(-np.clip(self.slope * raw + self.offset, -60, 60)))

    def percentile(self, raw: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Per cent of the known outfits that score lower."""
        return 100 * np.searchsorted(np.asarray(self.known), raw, side="left") / max(len(self.known), 1)


@dataclass(frozen=True)
class OutfitModel:
    """An outfit model ready to use; both nets are in eval mode and float32, the pool is in item space (m, p)."""

    net: OutfitNet
    words: Words
    config: OutfitConfig
    blocks: Mapping[str, int]  # of the image embedding, in order: name -> dimensions
    aspects: Mapping[str, Sequence[str]]  # shape, texture, color ... -> blocks
    image: Mapping[str, str]  # the image model: name and fingerprint
    pool: Tensor
    reading: Reading
    fingerprint: str
    path: Path
    facts: Mapping[str, Any]

    @property
    def slots(self) -> Slots:
        return Slots(self.config.slots)

    @property
    def dim(self) -> int:
        return sum(self.blocks.values())

    def check(self, image: str, what: str) -> None:
        """MismatchError unless ``image`` is the fingerprint of the image model that this one belongs to."""
        if image != self.image["fingerprint"]:
            raise MismatchError(
                f"{self.path} belongs to image model {self.image['fingerprint']}, but {what} is of {image or 'none'}: "
                "use the outfit model of that image model, or train one with fsearch train-outfits"
            )

    @torch.inference_mode()
    def raw(self, outfits: Sequence[Array]) -> npt.NDArray[np.float64]:
        """Mean log likelihood of outfits, each (n_i, D) float32 in order. InputError for one of fewer than 2 items."""
        scores = []
        for start in range(0, len(outfits), AT_ONCE):
            padded, lengths = pad(outfits[start : start + AT_ONCE], self.dim)
            scores.append(log_likelihood(self.net, self.net.items(padded), lengths, self.pool).double().numpy())
        return np.concatenate(scores) if scores else np.zeros(0)

    @torch.inference_mode()
    def raw_rows(self, table: npt.NDArray[Any], outfits: Sequence[Sequence[int]]) -> npt.NDArray[np.float64]:
        """``raw`` of rows of a feature table (n, D)."""
        return self.raw([table[list(rows)].astype(np.float32) for rows in outfits])

    @torch.inference_mode()
    def expects(self, before: Array, after: Array) -> tuple[Array, float]:
        """What belongs between two parts of an outfit, (a, D) and (b, D): a query vector (D,) for the image index, and
        the probability that nothing more comes (over the reference pool).

        <vector, x> + a constant is the sum of the two softmax logits of item x (``OutfitNet``); a part without items
        says nothing.
        """
        out = torch.zeros(self.pool.shape[1])
        ends = []
        for part, lstm, head in (
            (before, self.net.ahead, self.net.next),
            (after[::-1], self.net.behind, self.net.before),
        ):
            if len(part):
                items = self.net.items(torch.from_numpy(part.copy())[None])
                said = head(lstm(items)[0])[0, -1]
                out = out + said
                ends.append(torch.sigmoid(-torch.logsumexp(self.pool @ said, 0)))
        vector = (out @ self.net.project.weight).numpy()  # P^T o
        return vector.astype(np.float32), float(max(ends)) if ends else 0.0

    def influence(self, items: Array) -> Array:
        """Gradient x feature of an outfit's score, by item and block: (n, D) -> (n, B) float32.

        The feature is what sets the item apart from the average one (x - mean), as the network reads it; the score is
        the raw one. The sum over items and blocks is the score's first-order change against an outfit of average items.
        """
        padded, lengths = pad([items], self.dim)
        padded.requires_grad_(True)
        score = log_likelihood(self.net, self.net.items(padded), lengths, self.pool).sum()
        (gradient,) = torch.autograd.grad(score, padded)
        product = (gradient * (padded.detach() - self.net.mean))[0]
        return torch.stack([part.sum(1) for part in product.split(list(self.blocks.values()), dim=1)], 1).numpy()

    def worst(self, by: Mapping[str, Array]) -> tuple[int, str]:
        """The item and the aspect of the least influence of all. A fault lies in one aspect: on planted outfits this
        names the spoilt item more often than the item of the least sum does (benchmarks/outfits.py)."""
        aspect = min(by, key=lambda name: float(by[name].min()))
        return int(by[aspect].argmin()), aspect

    def by_aspect(self, influence: Array) -> dict[str, Array]:
        """Influence (n, B) summed into aspects, (n,) each."""
        names = list(self.blocks)
        return {aspect: influence[:, [names.index(b) for b in own]].sum(1) for aspect, own in self.aspects.items()}


def pad(outfits: Sequence[Array], dim: int) -> tuple[Tensor, Tensor]:
    """Outfits (n_i, D) -> (n, T, D) float32 with zeros behind, lengths (n,). InputError for fewer than 2 items."""
    lengths = [len(each) for each in outfits]
    if min(lengths) < 2:
        raise InputError("an outfit has at least two items; give two photos or more")
    padded = np.zeros((len(outfits), max(lengths), dim), np.float32)
    for i, each in enumerate(outfits):
        padded[i, : len(each)] = each
    return torch.from_numpy(padded), torch.tensor(lengths)


def write(
    path: Path, net: OutfitNet, words: Words, config: OutfitConfig, blocks: Mapping[str, int],
    aspects: Mapping[str, Sequence[str]], image: Mapping[str, str], pool: Tensor, reading: Reading,
    facts: Mapping[str, Any], aliases: Mapping[str, str],
) -> str:  # fmt: skip
    """Write a model atomically, weights as float16. Returns its fingerprint."""
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    tensors |= {f"text.{name}": value for name, value in words.net.state_dict().items()} | {"pool": pool}
    header = {
        "config": config.model_dump(mode="json"),
        "blocks": dict(blocks),
        "aspects": {name: list(own) for name, own in aspects.items()},
        "image": dict(image),
        "words": words.known,
        "aliases": dict(aliases),
        "reading": [reading.slope, reading.offset, list(reading.known)],
    }
    return sealed.write(path, KIND, tensors, header, facts)


def read(name: str | Path | None = None) -> OutfitModel:
    """Load an outfit model by path or shipped name. ModelError for one that is missing, damaged or newer."""
    path = sealed.locate(name, KIND, WEIGHTS)
    tensors, header, facts, mark = sealed.read(path, KIND)
    try:
        config = parse(header["config"], "config")
        blocks: dict[str, int] = header["blocks"]
        net = OutfitNet(sum(blocks.values()), config.model.item, config.model.hidden)
        text = TextNet(len(header["words"]), config.text.dim, sum(blocks.values()))
        for part, module in (("net.", net), ("text.", text)):
            module.load_state_dict({k.removeprefix(part): each for k, each in tensors.items() if k.startswith(part)})
            module.eval().requires_grad_(False)
        slope, offset, known = header["reading"]
    except (ConfigError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise sealed.damaged(path, KIND, error) from None
    return OutfitModel(
        net, Words(text, header["words"], header["aliases"]), config, blocks, header["aspects"], header["image"],
        tensors["pool"], Reading(slope, offset, tuple(known)), mark, path, facts,
    )  # fmt: skip
