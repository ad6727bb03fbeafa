"""Where each branch of look looks: its spatial mask M_i over a photo, as the network computes it; no gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from index.errors import ModelError
from retrieval import photos
from retrieval.explain import heat as heats
from retrieval.explain import places
from retrieval.models.attention import LocalBranch
from retrieval.models.checkpoint import Model
from retrieval.models.network import GarmentNet
from retrieval.photos import Pixels


class Branches(NamedTuple):
    """``masks``: (K, h, w) float32, 0 to 1, M_i of each branch over the photo at the scale that the network saw it.

    ``width``, ``height`` of the upright photo, in pixels.
    """

    masks: heats.Maps
    width: int
    height: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as ``fsearch explain --branches --json`` prints them."""
        masks = np.round(self.masks.astype(np.float64), 3).tolist()
        return {"width": self.width, "height": self.height, "masks": masks}


def branches(model: Model, sources: Sequence[photos.Source]) -> list[Branches]:
    """The masks of all look branches on each photo. Raises PhotoError at the first that cannot be read, ModelError for
    a network whose branches have no mask (``gates: channel``)."""
    if model.config.model.gates == "channel":
        raise ModelError(f"{model.path}: its branches have no spatial mask (gates: channel): nothing to show")
    size = model.config.model.input_size
    loaded = [photos.load(source, size) for source in sources]
    masks = branch_masks(model.net, np.stack([each.pixels for each in loaded]))
    areas = [places.area_of(each.width, each.height, size) for each in loaded]
    return [
        Branches(each[(slice(None), *places.inside(area))], photo.width, photo.height)
        for each, area, photo in zip(masks, areas, loaded, strict=True)
    ]


@torch.inference_mode()
def branch_masks(net: GarmentNet, pixels: Pixels) -> heats.Maps:
    """M_i = sigmoid(conv1x1(T)) of each of K branches, (n, K, s, s) float32; pixels (n, s, s, 3), letterboxed."""
    where, found = next(net.parameters()).device, []
    for start in range(0, len(pixels), heats.BATCH):
        batch = torch.from_numpy(pixels[start : start + heats.BATCH]).permute(0, 3, 1, 2).to(where)
        last = net.feature_maps(batch)[0]
        each = [_mask(branch)(last)[:, 0] for branch in net.branches]
        found.append(torch.sigmoid(torch.stack(each, dim=1)).float().cpu().numpy())  # (n, K, h, h)
    cells = np.concatenate(found)
    n, k, side, _ = cells.shape
    size = pixels.shape[1]
    return heats.grown(cells.reshape(n * k, side, side), size).reshape(n, k, size, size)


def _mask(branch: torch.nn.Module) -> torch.nn.Conv2d:
    assert isinstance(branch, LocalBranch)
    assert branch.mask is not None
    return branch.mask
