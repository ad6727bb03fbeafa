"""One attribute of a photo, explained: the head's probabilities, where it looked, and what it saw there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from index.errors import ModelError
from retrieval import photos
from retrieval.explain import heat as heats
from retrieval.explain import places
from retrieval.explain.places import Box, Heat
from retrieval.models.checkpoint import Model

SIDE = 7  # of the pooled representation
DIGITS = 5


@dataclass(frozen=True)
class Explanation:
    """Why a head says ``value`` of a photo, or how it could.

    probabilities: of sum 1 where values are exclusive; of a multi-label attribute each on its own. predicted: of such
    a one all values above its threshold, joined by "|", "" where there is none.
    heat: (h, w) float32, over the photo at the scale that the network saw it, 0 to 1 at its highest; 0
    everywhere where nothing speaks for the value. box: around the largest connected component of what reaches half the
    highest heat, in pixels of the upright photo; None without heat. peak: x, y of the highest heat, likewise.
    representation: (C, 7, 7) float32, the last feature map ROI-pooled under the box (without one, the whole photo).
    """

    method: heats.Method
    attribute: str
    value: str
    predicted: str
    probabilities: dict[str, float]
    width: int
    height: int
    heat: Heat
    box: Box | None
    peak: tuple[float, float] | None
    representation: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as ``fsearch explain --json`` prints them."""
        return {
            "method": self.method,
            "attribute": self.attribute,
            "value": self.value,
            "predicted": self.predicted,
            "probabilities": {name: round(p, DIGITS) for name, p in self.probabilities.items()},
            "width": self.width,
            "height": self.height,
            "box": None if self.box is None else [round(side, 1) for side in self.box],
            "peak": None if self.peak is None else [round(place, 1) for place in self.peak],
            "heat": np.round(self.heat.astype(np.float64), 3).tolist(),
            "representation": np.round(self.representation.astype(np.float64), 4).tolist(),
        }


def explain(
    model: Model,
    sources: Sequence[photos.Source],
    attribute: str,
    value: str | None = None,
    method: heats.Method = "head-cam",
) -> list[Explanation]:
    """Explain one attribute of each photo: its likeliest value, or ``value``. Names as in the model's vocabulary.

    The photos are decoded and embedded as for a gallery. Many at once give what one by one would. Raises PhotoError at
    the first that cannot be read, ModelError for features that are not finite, MissingDependencyError without captum.
    """
    net, size = model.net, model.config.model.input_size
    loaded = [photos.load(source, size) for source in sources]
    pixels = np.stack([each.pixels for each in loaded])
    values = model.vocabulary[attribute]
    probabilities, features = _seen(model, pixels, attribute)
    best = probabilities.argmax(axis=1)
    setting = model.config.model.attributes[attribute]
    predicted = [values[code] for code in best]
    if setting.multi:
        predicted = ["|".join(np.array(values)[row > setting.threshold]) for row in probabilities]
    codes = best if value is None else np.full(len(pixels), values.index(value))
    maps = heats.attribute_heat(net, pixels, attribute, codes, method)
    areas = [places.area_of(each.width, each.height, size) for each in loaded]
    shown = [heats.normal(each[places.inside(area)][None])[0] for each, area in zip(maps, areas, strict=True)]
    boxes = [places.largest_box(each) for each in shown]
    under = [_moved(box, area) if box else area for box, area in zip(boxes, areas, strict=True)]
    stride = heats.stride_of(features.shape[-1], size)
    pooled = places.pooled(features, under, stride, SIDE).cpu().numpy()
    found = []
    for i, (photo, area, each) in enumerate(zip(loaded, areas, shown, strict=True)):
        x, y = photo.width / (area.right - area.left), photo.height / (area.bottom - area.top)
        peak = places.peak_of(each)
        found.append(
            Explanation(
                method=method,
                attribute=attribute,
                value=values[codes[i]],
                predicted=predicted[i],
                probabilities={name: float(p) for name, p in zip(values, probabilities[i], strict=True)},
                width=photo.width,
                height=photo.height,
                heat=each,
                box=places.to_photo(under[i], area, photo.width, photo.height) if boxes[i] else None,
                peak=None if peak is None else ((peak[0] + 0.5) * x, (peak[1] + 0.5) * y),
                representation=pooled[i],
            )
        )
    return found


@torch.inference_mode()
def _seen(model: Model, pixels: photos.Pixels, attribute: str) -> tuple[np.ndarray, torch.Tensor]:
    """The head's probabilities (n, V) float32 and the last feature map (n, C, h, w)."""
    net, multi = model.net, model.config.model.attributes[attribute].multi
    where = next(net.parameters()).device
    probabilities, features = [], []
    for start in range(0, len(pixels), heats.BATCH):
        batch = torch.from_numpy(pixels[start : start + heats.BATCH]).permute(0, 3, 1, 2).to(where)
        features.append(net.feature_maps(batch)[0])
        logits = net(batch).logits[attribute].float()
        probabilities.append((torch.sigmoid(logits) if multi else torch.softmax(logits, dim=1)).cpu().numpy())
    told = np.concatenate(probabilities)
    if not np.isfinite(told).all():
        raise ModelError(f"{model.path}: gives features that are not finite; its training diverged, train again")
    return told, torch.cat(features)


def _moved(box: Box, area: Box) -> Box:
    """A box of the photo's part of the letterbox, in the letterbox."""
    return Box(box.left + area.left, box.top + area.top, box.right + area.left, box.bottom + area.top)
