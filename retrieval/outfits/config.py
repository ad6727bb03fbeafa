"""The config of an outfit model: sizes, what is learned from, which kinds of garment fill which slot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from retrieval.config import LOOK, PARTS, Config, Strict, load_as, parse_as
from retrieval.outfits.language import plain

OTHER = "other"  # the slot of what no slot names


class SizesConfig(Strict):
    """The bidirectional LSTM (Han et al. 2017): 512 hidden units, items of 512."""

    hidden: Annotated[int, Field(ge=4, le=4096)] = 512
    item: Annotated[int, Field(ge=4, le=4096)] = 512
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2  # on item features, in training


class TextConfig(Strict):
    """The visual-semantic embedding: word vectors of ``dim``, hinge loss with ``margin`` on the cosine."""

    column: str = "title"  # of the gallery
    dim: Annotated[int, Field(ge=4, le=4096)] = 512
    margin: Annotated[float, Field(gt=0)] = 0.2
    min_count: Annotated[int, Field(ge=1)] = 3  # rarer words are not learned
    aliases: dict[str, str] = {}  # what people type -> what titles say, beside the image model's aliases of values
    steps: Annotated[int, Field(ge=1)] = 3000
    batch: Annotated[int, Field(ge=2)] = 256
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3


class FitConfig(Strict):
    """How the LSTM is trained: ``steps`` batches of outfits."""

    steps: Annotated[int, Field(ge=1)] = 1500
    batch: Annotated[int, Field(ge=2)] = 64  # outfits; the softmax is over all their items
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    worn_share: Annotated[float, Field(ge=0, le=1)] = 0.25  # outfits of a batch that people wore, where there are such
    pool: Annotated[int, Field(ge=8)] = 1024  # reference items that a score is normalised over
    seed: int = 0


class RuleConfig(Strict):
    """How outfits are composed of catalogue photos: equal values in ``same``, colors of one palette."""

    color: str  # a label column of the gallery
    palettes: dict[str, tuple[str, ...]]
    same: tuple[str, ...] = ()  # columns in which all items of an outfit agree
    neutral: dict[str, tuple[str, ...]] = {}  # values of such a column that go with every other


class OutfitConfig(Strict):
    """Everything that one outfit model needs beside its data."""

    name: str
    model: SizesConfig = SizesConfig()
    text: TextConfig = TextConfig()
    training: FitConfig = FitConfig()
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of styles (by hash, as in training), sequences and people
    group: tuple[str, ...] = ("variant_group", "style")  # columns with style ids
    aspects: dict[str, tuple[str, ...]] = {}  # shape, texture, color ... -> blocks of the image model
    slots: dict[str, tuple[str, ...]]  # in the order of an outfit: slot -> kinds of garment, by any name
    kinds: dict[str, tuple[str, ...]] = {}  # category of a sequence -> kinds of the catalogue
    rule: RuleConfig | None = None

    @model_validator(mode="after")
    def _once(self) -> OutfitConfig:
        every = [plain(kind) for kinds in self.slots.values() for kind in kinds]
        if twice := sorted({kind for kind in every if every.count(kind) > 1}):
            raise ValueError(f"in two slots: {', '.join(twice)}")
        if OTHER in self.slots:
            raise ValueError(f"a slot cannot be called {OTHER!r}: that is what no slot names")
        return self


def load(name: str | Path) -> OutfitConfig:
    """Read and check an outfit config by name or path; ConfigError."""
    return load_as(OutfitConfig, name)


def parse(value: Any, where: str) -> OutfitConfig:
    """From parsed JSON; ConfigError."""
    return parse_as(OutfitConfig, value, where)


def aspects_of(wanted: dict[str, tuple[str, ...]], blocks: list[str], image: Config) -> dict[str, tuple[str, ...]]:
    """Aspect -> blocks, so that every block of the image model is in one.

    Blocks that the outfit config does not name: those of color attributes are color, look and parts are texture (what
    stays when the color changes), every other is an aspect of its own name. Names that this image model lacks are
    passed over.
    """
    result = {aspect: [name for name in names if name in blocks] for aspect, names in wanted.items()}
    named = {name for names in result.values() for name in names}
    for block in blocks:
        if block in named:
            continue
        attribute = image.model.attributes.get(block)
        style = block in (LOOK, PARTS) and attribute is None
        aspect = "texture" if style else "color" if attribute is not None and attribute.color else block
        result.setdefault(aspect, []).append(block)
    return {aspect: tuple(names) for aspect, names in result.items() if names}
