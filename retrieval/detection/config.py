"""The config of a detector: its network, how it is trained, which categories of a data set make which class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from retrieval.config import Strict, load_as, parse_as


class DetectorSizes(Strict):
    """A Faster R-CNN (Ren et al. 2015). A ``backbone`` called fasterrcnn_... is torchvision's detector of that name
    whole, pretrained on COCO where ``pretrained`` says so, with a head of our classes; of the other settings it takes
    ``input_size`` alone. The others are those of a model (docs/training.md) under a feature pyramid (Lin et al. 2017).
    """

    backbone: Literal[
        "regnet_tiny", "resnet18", "resnet34", "resnet50", "mobilenet_v3_small", "mobilenet_v3_large",
        "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2",
        "fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_resnet50_fpn",
    ] = "efficientnet_lite0"  # fmt: skip
    pretrained: bool = False
    input_size: Annotated[int, Field(ge=64, le=2048)] = 320  # the photo's long side
    channels: Annotated[int, Field(ge=8, le=1024)] = 96  # of each map of the pyramid
    hidden: Annotated[int, Field(ge=8, le=4096)] = 256  # of the box head

    @property
    def whole(self) -> bool:
        """Whether it is one of torchvision's own detectors."""
        return self.backbone.startswith("fasterrcnn_")


class FitConfig(Strict):
    """AdamW with warm-up and cosine; photos are varied as ``retrieval.detection.vary`` says."""

    start: str | None = None  # a detector that learns on, or an image model whose backbone is taken over; path or name
    steps: Annotated[int, Field(ge=1)] = 2000
    input_size: Annotated[int, Field(ge=64, le=2048)] | None = None  # long side of what is trained on; the model's
    batch: Annotated[int, Field(ge=1)] = 8
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    backbone_rate: Annotated[float, Field(ge=0, le=1)] = 0.2  # factor on it for the backbone
    frozen: Annotated[int, Field(ge=0, le=16)] = 2  # the backbone's first stages, with its stem, that learn nothing
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    seed: int = 0


class DetectorConfig(Strict):
    """Everything that one detector needs beside its photos.

    ``classes``: class -> the data set's categories that it holds. ``ignore``: categories that are no garments. Every
    category of a data set is in one of these.
    """

    name: str
    model: DetectorSizes = DetectorSizes()
    training: FitConfig = FitConfig()
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.15  # of the photos, by hash of the file name
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.5  # the least score of what counts as found
    classes: dict[str, tuple[str, ...]]
    ignore: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> DetectorConfig:
        if not self.classes:
            raise ValueError("at least one class is needed")
        every = [*self.ignore, *(each for names in self.classes.values() for each in names)]
        if twice := sorted({each for each in every if every.count(each) > 1}):
            raise ValueError(f"in two classes, or in a class and ignored: {', '.join(twice)}")
        lite = self.model.backbone.startswith("efficientnet_lite")
        if lite and not (self.model.pretrained or self.training.start):
            raise ValueError(
                f"{self.model.backbone} cannot start from random weights: set model.pretrained: true, or "
                "training.start to a checkpoint with that backbone"
            )
        if self.model.whole and self.training.start:
            raise ValueError(f"{self.model.backbone} has no backbone of ours to start: leave training.start out")
        return self

    def class_of(self) -> dict[str, int]:
        """Category -> number of its class, from 1; 0 is the background."""
        return {each: n for n, names in enumerate(self.classes.values(), 1) for each in names}


def load(name: str | Path) -> DetectorConfig:
    """Read and check a detector's config by name or path; ConfigError."""
    return load_as(DetectorConfig, name)


def parse(value: Any, where: str) -> DetectorConfig:
    """From parsed JSON; ConfigError."""
    return parse_as(DetectorConfig, value, where)
