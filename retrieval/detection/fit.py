"""Training a detector: ``fsearch train-detector``."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from tqdm import tqdm

from index.errors import InputError, MismatchError, ModelError
from index.files import atomic_path, remove
from retrieval.config import fingerprint
from retrieval.detection import data, judge, model, vary
from retrieval.detection.config import DetectorConfig, load
from retrieval.detection.network import Pyramid, build, freeze, hold_norms, resize_to
from retrieval.models import checkpoint
from retrieval.photos import decode

SAVE_EVERY = 50  # steps between resumable states


def train_from(config: str | Path, photos: Path, out: Path | None = None, progress: bool = False) -> dict[str, Any]:
    """A folder of worn outfits to the detector ``out``; returns what was measured on the held-out photos.

    Interrupted, the same call goes on from the last saved state beside ``out``: every step draws its photos from
    (seed, step) alone. Raises ConfigError, InputError, ModelError; MissingDependencyError without pycocotools;
    MismatchError for another run's state.
    """
    settings = load(config)
    judge.tools()  # what cannot be measured is refused before the work
    out = out or Path("runs") / f"{settings.name}.safetensors"
    if out.is_dir():
        raise InputError(f"{out} is a folder: name the file, such as {out / model.DEFAULT}")
    parts = data.gather(photos, settings)
    net, seconds = fit(parts.learned, settings, out.with_name(f"{out.stem}.state.safetensors"), progress)
    facts: dict[str, Any] = {"photos": len(parts.learned), "garments": sum(len(each.labels) for each in parts.learned)}
    facts |= {"steps": settings.training.steps, "seconds": round(seconds), "validation": {"photos": len(parts.held)}}
    draft = model.Detector(net, settings, "", out, {})
    facts["validation"] |= measured(draft, parts.held, progress)
    made = model.write(out, net, settings, facts)
    remove(out.with_name(f"{out.stem}.state.safetensors"))
    return {"detector": str(out), "fingerprint": made} | facts


def measured(detector: model.Detector, held: list[data.Example], progress: bool = False) -> dict[str, Any]:
    """``judge.average_precision`` of what the detector finds in these photos."""
    found = [
        detector.find(decode(each.path), least=0)
        for each in tqdm(held, "judge", unit="photo", disable=None if progress else True)
    ]
    return judge.average_precision(held, found, detector.kinds)


def fit(
    examples: list[data.Example], config: DetectorConfig, state: Path, progress: bool = False
) -> tuple[FasterRCNN, float]:
    """The trained network, in eval mode, and the seconds that this call took."""
    settings, began = config.training, time.monotonic()
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings.seed)
    net = build(config.model, len(config.classes))
    if settings.start is not None:
        take_over(net, config)
    freeze(net, settings.frozen)
    net.to(where).train()
    net.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on a CPU
    side = settings.input_size or config.model.input_size
    resize_to(net, side)
    if config.model.pretrained or settings.start is not None:
        hold_norms(net)
    optimizer = torch.optim.AdamW(_groups(net, config), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    listed = [[each.path.name, each.boxes.tolist(), each.labels.tolist()] for each in examples]
    mark = fingerprint([config.model_dump(mode="json"), listed])
    first = _resume(state, mark, net, optimizer)
    bar = tqdm(
        range(first, settings.steps), "train", settings.steps, initial=first, unit="step",
        disable=None if progress else True,
    )  # fmt: skip
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * group["factor"] * _schedule(step / settings.steps)
        images, targets = vary.batch_of(
            [examples[i] for i in _drawn(len(examples), settings.batch, settings.seed, step)],
            examples, side, np.random.default_rng([settings.seed, 1, step]),
        )  # fmt: skip
        torch.manual_seed(settings.seed * 1_000_003 + step)  # which proposals are looked at is drawn, too
        losses = net([image.to(where) for image in images], [_on(target, where) for target in targets])
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            raise ModelError(f"the loss is not finite at step {step}: lower training.learning_rate in the config")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if (step + 1) % SAVE_EVERY == 0:
            _save(state, mark, net, optimizer, step + 1)
    resize_to(net, config.model.input_size)
    return net.cpu().eval(), time.monotonic() - began


def _drawn(n: int, batch: int, seed: int, step: int) -> list[int]:
    """Which photos step ``step`` sees: all of them once an epoch, in an order of its own."""
    at = [divmod(i, n) for i in range(step * batch, (step + 1) * batch)]
    orders = {epoch: np.random.default_rng([seed, 2, epoch]).permutation(n) for epoch, _ in at}
    return [int(orders[epoch][place]) for epoch, place in at]


def _on(target: dict[str, Tensor], where: torch.device) -> dict[str, Tensor]:
    return {name: value.to(where) for name, value in target.items()}


def _groups(net: FasterRCNN, config: DetectorConfig) -> list[dict[str, Any]]:
    """Parameters that learn: those of the backbone with their own rate, the rest."""
    maps: Any = net.backbone
    own = [maps.stem, maps.body] if isinstance(maps, Pyramid) else [maps.body]
    slow = {id(each) for part in own for each in part.parameters()}
    learning = [each for each in net.parameters() if each.requires_grad]
    groups = [
        {"params": [each for each in learning if id(each) in slow], "factor": config.training.backbone_rate},
        {"params": [each for each in learning if id(each) not in slow], "factor": 1.0},
    ]
    return [group for group in groups if group["params"]]


def _schedule(done: float) -> float:
    """5% linear warm-up, then cosine to zero; ``done``: 0 to 1."""
    return min(1.0, (done + 1e-3) / 0.05) * (0.5 + 0.5 * math.cos(math.pi * done))


def take_over(net: FasterRCNN, config: DetectorConfig) -> None:
    """The weights of ``training.start``: a detector's, but for the last layer where its classes are others; or stem and
    body of an image model's backbone. ModelError where the network is another."""
    start = str(config.training.start)
    if model.is_detector(start):
        whole = model.read(start)
        theirs, own = (each.model_dump(exclude={"pretrained"}) for each in (whole.config.model, config.model))
        if theirs != own:
            raise ModelError(f"{whole.path}: a detector with {theirs}, the config's has {own}: both must be the same")
        heads = () if whole.config.classes.keys() == config.classes.keys() else ("roi_heads.box_predictor.",)
        kept = {name: value for name, value in whole.net.state_dict().items() if not name.startswith(heads)}
        net.load_state_dict(net.state_dict() | kept)
        return
    source = checkpoint.read(start)
    backbone = config.model.backbone
    if source.config.model.backbone != backbone:
        raise ModelError(
            f"{source.path}: its backbone is {source.config.model.backbone}, the config's {backbone}: training.start "
            "takes a model of the same backbone"
        )
    maps: Any = net.backbone
    maps.stem.load_state_dict(source.net.stem.state_dict())
    maps.body.load_state_dict(source.net.body.state_dict())


def _save(path: Path, mark: str, net: FasterRCNN, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"net.{name}": value.contiguous() for name, value in net.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"opt.{number}.{name}": value.contiguous() for name, value in moments.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"step": str(step), "fingerprint": mark})


def _resume(path: Path, mark: str, net: FasterRCNN, optimizer: torch.optim.Optimizer) -> int:
    """The step to go on from, 0 without a saved state; ``net`` and ``optimizer`` are filled. MismatchError."""
    if not path.is_file():
        return 0
    try:
        with safe_open(str(path), framework="pt") as file:
            told = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError):
        raise MismatchError(f"{path}: not a readable training state: delete it to start again") from None
    if told.get("fingerprint") != mark:
        raise MismatchError(
            f"{path}: saved by a run with fingerprint {told.get('fingerprint', 'none')}, this one is {mark}: delete it "
            "to start again, or run with the config and photos that made it"
        )
    net.load_state_dict({key.removeprefix("net."): each for key, each in tensors.items() if key.startswith("net.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, each in tensors.items():
        if key.startswith("opt."):
            _, number, name = key.split(".", 2)
            state.setdefault(int(number), {})[name] = each
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return int(told["step"])
