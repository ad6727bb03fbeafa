"""A detector ready to use: one safetensors file, and where the garments of a photo are."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torchvision.models.detection import FasterRCNN

from index.errors import ConfigError, ModelError, UnknownNameError
from retrieval import photos
from retrieval.detection.config import DetectorConfig, parse
from retrieval.detection.network import build
from retrieval.models import sealed

WEIGHTS = Path(__file__).parent / "weights"  # what ships
TRAIN = "train one: fsearch train-detector detector --photos STREET --out detector.safetensors"
KIND = sealed.Kind("detector", 1, "a detector", TRAIN)


class Found(NamedTuple):
    """A garment in a photo. ``box``: left, top, width, height in pixels of the upright photo; score 0 to 1."""

    box: tuple[float, float, float, float]
    kind: str
    score: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; pixels to a tenth."""
        return {"class": self.kind, "score": round(self.score, 4), "box": [round(side, 1) for side in self.box]}


@dataclass(frozen=True)
class Detector:
    """A network in eval mode, float32, and what its classes are called. Safe to call from many threads."""

    net: FasterRCNN
    config: DetectorConfig
    fingerprint: str
    path: Path
    facts: dict[str, Any]

    @property
    def kinds(self) -> list[str]:
        return list(self.config.classes)

    def kind(self, text: str) -> str:
        """The class meant, without regard to case; UnknownNameError offers the nearest."""
        known = {each.casefold(): each for each in self.kinds}
        if (found := known.get(text.casefold())) is not None:
            return found
        near = get_close_matches(text.casefold(), known, n=3, cutoff=0.5)
        offer = f"nearest: {', '.join(known[each] for each in near)}" if near else f"known: {', '.join(self.kinds)}"
        raise UnknownNameError(f"unknown class {text!r}; {offer}")

    @torch.inference_mode()
    def find(self, photo: photos.Decoded, least: float | None = None) -> list[Found]:
        """Garments of a score above ``least`` (default: the config's threshold), best first."""
        least = self.config.threshold if least is None else least
        pixels = torch.from_numpy(_small(photo, self.config.model.input_size)).permute(2, 0, 1).float() / 255
        (told,) = self.net([pixels])
        x, y = photo.width / pixels.shape[2], photo.height / pixels.shape[1]
        found = [
            Found((left * x, top * y, (right - left) * x, (bottom - top) * y), self.kinds[label - 1], score)
            for (left, top, right, bottom), label, score in zip(
                told["boxes"].tolist(), told["labels"].tolist(), told["scores"].tolist(), strict=True
            )
            if score > least
        ]
        return sorted(found, key=lambda each: -each.score)

    def best(self, photo: photos.Decoded, kind: str | None = None, least: float | None = None) -> Found | None:
        """The best garment (of that class), or None."""
        return next((each for each in self.find(photo, least) if kind in (None, each.kind)), None)


def _small(photo: photos.Decoded, side: int) -> np.ndarray:
    """The photo's pixels, (h, w, 3) uint8, its long side ``side``."""
    scale = side / max(photo.width, photo.height)
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    gap = 3.0 if scale < 1 else None
    return np.array(photo.image.resize(size, Image.Resampling.BILINEAR, photo.box, reducing_gap=gap))


def write(path: Path, net: FasterRCNN, config: DetectorConfig, facts: dict[str, Any]) -> str:
    """Write a detector atomically, weights as float16. Returns its fingerprint."""
    return sealed.write(path, KIND, net.state_dict(), {"config": config.model_dump(mode="json")}, facts)


def is_detector(name: str | Path) -> bool:
    """Whether it is a detector's file, or the name of the shipped one."""
    try:
        with safe_open(str(sealed.locate(name, KIND, WEIGHTS)), framework="pt") as file:
            return f"fsearch.{KIND.key}" in (file.metadata() or {})
    except (ModelError, SafetensorError, OSError):
        return False


def read(name: str | Path | None = None) -> Detector:
    """Load a detector. ModelError for one that is missing, damaged or newer."""
    path = sealed.locate(name, KIND, WEIGHTS)
    tensors, header, facts, mark = sealed.read(path, KIND)
    try:
        config = parse(header["config"], "config")
        bare = config.model.model_copy(update={"pretrained": False})  # the weights are in the file
        net = build(bare, len(config.classes))
        net.load_state_dict(tensors)
    except (ConfigError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise sealed.damaged(path, KIND, error) from None
    net.eval().requires_grad_(False)
    return Detector(net, config, mark, path, facts)
