"""Pixels -> embeddings: the one way, for tables and for queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from index.errors import ModelError
from retrieval import photos
from retrieval.models.checkpoint import Model

BATCH = 64  # larger batches are no faster on a CPU and hold more memory


class Encoded(NamedTuple):
    """Embeddings of n photos: ``units`` (n, D) float32, every block of length 1; ``norms`` (n, B) float32, the blocks'
    raw lengths; ``predicted``: attribute -> the head's value for each photo; ``sure``: its softmax probability.

    Of a multi-label attribute, predicted are all values of a probability above its threshold, joined by "|", or None
    for none of them; sure is the probability of the whole answer, were its values independent."""

    units: npt.NDArray[np.float32]
    norms: npt.NDArray[np.float32]
    predicted: dict[str, list[str | None]]
    sure: dict[str, npt.NDArray[np.float32]]


@torch.inference_mode()
def encode(model: Model, pixels: npt.NDArray[np.uint8]) -> Encoded:
    """Letterboxed photos (n, s, s, 3) uint8 -> their embeddings. The same code for tables and for queries.

    ModelError when a feature is not finite.
    """
    where = next(model.net.parameters()).device
    output = model.net(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(where))
    units, norms = [], []
    for block in output.blocks.values():
        length = torch.linalg.vector_norm(block, dim=1, keepdim=True)
        units.append(block / length.clamp(min=1e-12))
        norms.append(length)
    predicted, sure = {}, {}
    for name, logits in output.logits.items():
        values = model.memory.vocabulary[name]
        if (attribute := model.config.model.attributes[name]).multi:
            chance = torch.sigmoid(logits.float())
            said = chance > attribute.threshold
            chosen = said.cpu().numpy()
            predicted[name] = ["|".join(v for v, has in zip(values, row, strict=True) if has) or None for row in chosen]
            sure[name] = torch.where(said, chance, 1 - chance).prod(dim=1).cpu().numpy()
            continue
        best, code = torch.softmax(logits.float(), dim=1).max(dim=1)
        predicted[name] = [values[i] for i in code.tolist()]
        sure[name] = best.cpu().numpy()
    together, lengths = torch.cat(units, 1).float().cpu().numpy(), torch.cat(norms, 1).float().cpu().numpy()
    if not np.isfinite(lengths).all():
        raise ModelError(f"{model.path}: gives features that are not finite; its training diverged, train again")
    return Encoded(together, lengths, predicted, sure)


def encode_photos(model: Model, sources: Sequence[photos.Source]) -> Encoded:
    """Photos decoded, letterboxed and encoded, in order; PhotoError at the first that cannot be read."""
    size = model.config.model.input_size
    encoded = [
        encode(model, np.stack([photos.load(source, size).pixels for source in sources[at : at + BATCH]]))
        for at in range(0, len(sources), BATCH)
    ]
    return Encoded(
        np.concatenate([e.units for e in encoded]),
        np.concatenate([e.norms for e in encoded]),
        {name: [value for e in encoded for value in e.predicted[name]] for name in encoded[0].predicted},
        {name: np.concatenate([e.sure[name] for e in encoded]) for name in encoded[0].sure},
    )
