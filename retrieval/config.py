"""One YAML a runnable thing. Unknown keys and unusable values raise, all of them at once.

Configs sit beside the package (``retrieval/configs`` once installed, ``configs`` in a checkout) and are named without
their folder or ending: ``load("generated")``. A path works too.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_serializer, model_validator

from index.errors import ConfigError

LOOK = "look"  # the one block that every network has
PARTS = "parts"  # the block of stripes, columns and rings, where a network has it


class _OnceOnly(yaml.SafeLoader):
    """YAML in which a key given twice is a fault, not the last one's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} given twice", node.start_mark)
        return super().construct_mapping(node, deep)


class Strict(BaseModel):
    """A part of a config: unknown keys raise, nothing changes once read.

    ``LATER``: keys left out of dumps where they are at their defaults, so that what was made before there were such
    keys keeps its fingerprint.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    LATER: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _dumped(self, dump: Any) -> dict[str, Any]:
        fields = type(self).model_fields
        plain = {name for name in self.LATER if getattr(self, name) == fields[name].default}
        return {name: value for name, value in dump(self).items() if name not in plain}


class AttributeConfig(Strict):
    """One disentangled attribute. ``color`` marks it as carried by color: views with broken color do not train it.

    ``multi``: a label cell holds several values, as in ``striped|floral``; the head says those of a probability above
    ``threshold``.
    """

    dim: Annotated[int, Field(ge=2, le=4096)] = 64
    color: bool = False
    multi: bool = False
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    min_count: Annotated[int, Field(ge=1)] = 1  # rarer values are left out of the vocabulary

    LATER = ("multi", "threshold")


Counts = tuple[Annotated[int, Field(ge=1, le=16)], ...]


class PartsConfig(Strict):
    """The last map cut into so many parts, several cuts side by side; ``dim``: of the whole block, shared by them.

    ``rings`` are of the map of the photo's polar view, a second pass through the backbone.
    """

    stripes: Counts = ()
    columns: Counts = ()
    rings: Counts = ()
    dim: Annotated[int, Field(ge=1, le=4096)] = 64

    @model_validator(mode="after")
    def _enough(self) -> PartsConfig:
        parts = sum((*self.stripes, *self.columns, *self.rings))
        if not parts:
            raise ValueError("name stripes, columns or rings, such as rings: [3]")
        if self.dim < parts:
            raise ValueError(f"dim: {parts} parts need one dimension each at least")
        return self


class ModelConfig(Strict):
    """Sizes of the network (design section 4)."""

    backbone: Literal[
        "regnet_tiny", "resnet18", "resnet34", "resnet50", "mobilenet_v3_small", "mobilenet_v3_large",
        "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2",
    ] = "resnet50"  # fmt: skip
    pretrained: bool = False
    last_stride: Literal[1, 2] = 2  # not for MobileNets: 1 keeps the last map twice as fine
    input_size: Annotated[int, Field(ge=32, le=1024)] = 224
    branches: Annotated[int, Field(ge=1, le=16)] = 4
    branch_dim: Annotated[int, Field(ge=2, le=4096)] = 256
    reduction: Annotated[int, Field(ge=1)] = 16
    shallow: bool = True  # attribute blocks see means of earlier maps, too
    grid: Annotated[int, Field(ge=1, le=8)] = 1  # look pools each of grid x grid cells; 1: the whole map, as the paper
    detail: Annotated[int, Field(ge=0, le=256)] = 0  # channels of an earlier map that look sees place by place
    detail_stride: Literal[8, 16] = 8  # that map's side: input_size over this
    attention: Literal["all", "blocks", "none"] = (
        "all"  # CBAM after the stem and in attribute blocks; there alone; nowhere
    )
    parts: PartsConfig | None = None  # a block of its own: stripes, columns, rings
    gates: Literal["both", "spatial", "channel"] = (
        "both"  # of the branches: the mask M_i and the channel gate C_i, or one
    )
    attributes: dict[str, AttributeConfig]

    LATER = ("parts", "gates")

    @model_validator(mode="after")
    def _names(self) -> ModelConfig:
        if not self.attributes:
            raise ValueError("at least one attribute is needed")
        if LOOK in self.attributes:
            raise ValueError(f"an attribute cannot be called {LOOK!r}: that is the style block's name")
        if self.parts is not None and PARTS in self.attributes:
            raise ValueError(f"an attribute cannot be called {PARTS!r} beside the block of that name")
        # torch names parameters by dotted paths, and every module has a flag called training
        if unusable := [name for name in self.attributes if not name.strip() or "." in name or name == "training"]:
            raise ValueError(f"not usable as attribute names: {', '.join(map(repr, unusable))}")
        return self


class TrainingConfig(Strict):
    """Batches, losses and the loop: attribute cross entropy, per-attribute and global triplets, a style loss."""

    start: str | None = None  # a checkpoint, by path or shipped name, whose weights are taken over where they fit
    steps: Annotated[int, Field(ge=0)] = 2000  # 0: only refit what start names
    batch: Literal["pairs", "ids"] = "pairs"  # two photos of many styles, or many photos of a few
    pairs: Annotated[int, Field(ge=2)] = 64  # photos a batch are twice this: two views of each style
    ids_per_batch: Annotated[int, Field(ge=2)] = 7
    photos_per_id: Annotated[int, Field(ge=2)] = 10
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    backbone_rate: Annotated[float, Field(ge=0, le=1)] = 1.0  # factor on it for stem and body; 0 freezes them
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    grouped_share: Annotated[float, Field(ge=0, le=1)] = 0.4  # pairs drawn from styles with several photos
    alike_share: Annotated[float, Field(ge=0, le=1)] = 0.5  # pairs drawn from few values of the first attribute
    margin: Annotated[float, Field(gt=0)] = 0.2
    mining: Literal["batch-all", "semi-hard"] = "batch-all"  # triplets of attributes
    distance: Literal["euclidean", "squared"] = "euclidean"  # in them
    blanks: Literal["skip", "match"] = "skip"  # whole label tuples: a missing label rules a photo out, or is a value
    temperature: Annotated[float, Field(gt=0)] = 0.1
    classify: Annotated[float, Field(ge=0)] = 1.0  # loss weights
    triplet: Annotated[float, Field(ge=0)] = 1.0  # of each attribute's triplets
    tuples: Annotated[float, Field(ge=0)] | None = None  # of the triplets on whole label tuples; null: as triplet
    style: Annotated[float, Field(ge=0)] = 1.0
    style_loss: Literal["contrast", "triplet"] = "contrast"
    regions: Annotated[float, Field(ge=0)] = 0.3  # of the share of reasons outside the regions, where data has them
    identity: Annotated[float, Field(ge=0)] = 0.0  # of look's cross entropy over styles
    parts: Annotated[float, Field(ge=0)] = 1.0  # of each part's cross entropy over styles, where the model has parts
    augment: Literal["shop", "thesis"] = "shop"
    jitter: Annotated[float, Field(ge=0, le=3)] = 1.0  # shop: factor on random shift, scale and rotation
    balance: Annotated[float, Field(ge=0, le=1)] = 0.5  # class weights n^-balance in the cross entropy; 0: none
    coarse_size: Annotated[int, Field(ge=32, le=1024)] | None = None  # photo side in the first coarse_share of steps
    coarse_share: Annotated[float, Field(ge=0, lt=1)] = 0.7
    refit: Annotated[int, Field(ge=0)] = 0  # last: epochs of the attribute blocks' linear layers on unchanged photos
    memory: Literal["means", "heads", "trained"] = "means"  # M: class means, the heads' prototypes, trained from means
    memory_steps: Annotated[int, Field(ge=1)] = 1000
    consistency: Annotated[float, Field(ge=0)] = 1.0  # weights of M's training
    sparsity: Annotated[float, Field(ge=0)] = 0.05
    validate_every: Annotated[int, Field(ge=0)] = 0  # steps between validations, the best is kept; 0: at the end only
    tensorboard: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    devices: Annotated[int, Field(ge=1)] = 1  # GPUs, or processes where there is none
    seed: int = 0
    cache_mb: Annotated[int, Field(ge=0)] = 4096  # decoded photos kept in memory up to this

    LATER = ("identity", "parts", "refit", "regions")

    @model_validator(mode="after")
    def _contrast_needs_pairs(self) -> TrainingConfig:
        if self.batch == "ids" and self.style_loss == "contrast" and self.style:
            raise ValueError("style_loss: contrast needs batch: pairs; with batch: ids write style_loss: triplet")
        if self.steps == 0 and self.start is None:
            raise ValueError("steps: 0 needs start, the checkpoint whose heads are fitted again")
        return self


def _names_of(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value or ()


class DataConfig(Strict):
    """What is trained on. ``photos`` may be relative to the working folder.

    ``style``: the columns with style ids, one name or several; a photo's style is the first that is not blank.
    ``split``: the column that says train, val or test (or query, gallery); what is not train or val is never touched.
    ``maybe``: the column with values that a photo may have, of any multi-label attribute that it is labelled for: each
    counts as had or lacked with probability one half (FashionAI's m).
    ``regions``: a folder of masks, relative to the photos: which pixels show which attribute.
    """

    photos: str | None = None
    labels: str | None = None
    style: Annotated[tuple[str, ...], BeforeValidator(_names_of)] = ()
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.1  # share of styles kept for validation, by hash of the style id
    split: str | None = None
    maybe: str | None = None
    regions: str | None = None

    LATER = ("maybe", "regions")


class SearchConfig(Strict):
    """Defaults of a query; they travel with the model into the gallery and change no embedding."""

    weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    edited: Annotated[float, Field(gt=0)] = 1.0  # factor on the weight of an edited block
    keep: Annotated[float, Field(ge=0, le=1)] = 1.0  # f' = keep (f - m_old) + m_new; 1: the paper's f + M v
    attribute_aliases: dict[str, str] = {}
    value_aliases: dict[str, dict[str, str]] = {}  # attribute -> {what people type: value}


class MineConfig(Strict):
    """Rounds of ``fsearch mine``: pseudo labels by rank, and the training on them."""

    queries: Annotated[int, Field(ge=2)] = 1000  # target photos searched by in a round, at most
    confident: Annotated[float, Field(gt=0, le=1)] = 0.3  # share of them that is kept, the surest
    positives: Annotated[int, Field(ge=1)] = 3  # ranks 1 to this are of the query's style
    negatives: tuple[Annotated[int, Field(ge=2)], Annotated[int, Field(ge=2)]] = (30, 40)  # ranks that are not
    loss: Literal["contrast", "triplet"] = "contrast"  # batches of pairs, or of ids, as published
    share: Annotated[float, Field(gt=0, le=1)] = 0.5  # of the ids (pairs) of a batch that are mined
    steps: Annotated[int, Field(ge=1)] = 300  # of a round
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4

    @model_validator(mode="after")
    def _apart(self) -> MineConfig:
        first, last = self.negatives
        if not self.positives < first <= last:
            raise ValueError(
                f"negatives: ranks [{first}, {last}] must rise and come after the {self.positives} positives"
            )
        return self


class Config(Strict):
    """Everything one run needs."""

    name: str
    model: ModelConfig
    training: TrainingConfig = TrainingConfig()
    data: DataConfig = DataConfig()
    search: SearchConfig = SearchConfig()
    mine: MineConfig = MineConfig()

    LATER = ("mine",)

    @model_validator(mode="after")
    def _fits(self) -> Config:
        lite = self.model.backbone.startswith("efficientnet_lite")
        if lite and not (self.model.pretrained or self.training.start):
            raise ValueError(
                f"{self.model.backbone} has its batch norms folded into its weights and cannot start from random ones: "
                "set model.pretrained: true, or training.start to a checkpoint with that backbone"
            )
        if self.data.maybe and not any(attribute.multi for attribute in self.model.attributes.values()):
            raise ValueError("data.maybe needs an attribute with multi: true, of which a photo can have several values")
        if self.data.regions and self.training.augment != "shop":
            raise ValueError("data.regions needs training.augment: shop, which moves the masks with the photos")
        known = set(self.model.attributes)
        blocks = {LOOK} if self.model.parts is None else {LOOK, PARTS}
        wrong = sorted(set(self.search.weights) - known - blocks)
        wrong += sorted(set(self.search.attribute_aliases.values()) - known)
        wrong += sorted(set(self.search.value_aliases) - known)
        if wrong:
            raise ValueError(f"search names attributes that the model has not: {', '.join(wrong)}")
        return self


def fingerprint(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of ``value`` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def folders() -> list[Path]:
    """Where named configs are looked for: the installed folder, then the checkout's."""
    here = Path(__file__).resolve().parent
    return [here / "configs", here.parent / "configs"]


def find(name: str | Path) -> Path:
    """The config file of that name or path; ConfigError lists the known names."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        named = path.parts[:-1] in ((), ("configs",))  # as it is called in a checkout
        candidates = [path, *(folder / path.name for folder in folders() if named)]
    else:
        candidates = [folder / f"{path}.yaml" for folder in folders()]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = sorted({p.stem for folder in folders() for p in folder.glob("*.yaml")})
    raise ConfigError(f"no config {str(name)!r}: give a .yaml file, or one of {', '.join(known)}")


def parse(value: Any, where: str) -> Config:
    """A Config from parsed YAML or JSON; every fault is in the one ConfigError."""
    return parse_as(Config, value, where)


S = TypeVar("S", bound=Strict)


def parse_as(kind: type[S], value: Any, where: str) -> S:
    """``parse`` for another kind of config."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: a config is a mapping of keys, not {type(value).__name__}")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            key = ".".join(str(part) for part in fault["loc"]) or "config"
            said = "unknown key" if fault["type"] == "extra_forbidden" else fault["msg"].removeprefix("Value error, ")
            faults.append(f"{key}: {said}")
        raise ConfigError(f"{where}: {'; '.join(faults)}") from None


def load(name: str | Path) -> Config:
    """Read and check one config by name or path."""
    return load_as(Config, name)


def load_as(kind: type[S], name: str | Path) -> S:
    """``load`` for another kind of config."""
    path = find(name)
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), _OnceOnly)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    return parse_as(kind, value, str(path))
