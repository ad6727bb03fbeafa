"""The training loop: batches of style pairs, attribute and style losses, memory from means, a checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from index.errors import InputError, MismatchError
from index.files import atomic_path
from retrieval.config import LOOK, Config, fingerprint
from retrieval.models import checkpoint, memory
from retrieval.models.network import GarmentNet
from retrieval.training import augment, losses
from retrieval.training.data import TrainingSet
from retrieval.training.sampling import PairSampler

SAVE_EVERY = 200  # steps between resumable states


def device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(data: TrainingSet, config: Config, out: Path, half: bool = False, progress: bool = False) -> dict[str, Any]:
    """Train on the training part, write ``out`` (safetensors), return what was measured on the validation part.

    Killed and run again with the same config and data, it goes on from the last saved state. Every step draws its
    batch and its augmentation from (seed, step) alone, so a resumed run sees what an unbroken one would have seen.
    """
    if out.is_dir():
        raise InputError(f"{out} is a folder: name the checkpoint file, such as {out / 'model.safetensors'}")
    settings = config.training
    torch.manual_seed(settings.seed)
    where = device()
    net = GarmentNet(config.model, data.vocabulary).to(where, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if settings.start is not None:
        take_over(net, checkpoint.read(settings.start).net)
    optimizer = torch.optim.AdamW(_groups(net, config), lr=settings.learning_rate, fused=True)
    rows = np.flatnonzero(~data.validation)
    sampler = PairSampler(
        data.styles[rows], data.codes[rows, 0], settings.pairs, settings.grouped_share, settings.alike_share
    )
    codes = torch.from_numpy(data.codes[rows])
    weights = [
        losses.class_weights(codes[:, i], len(v), settings.balance).to(where)
        for i, v in enumerate(data.vocabulary.values())
    ]
    labels = hashlib.sha256(data.codes.tobytes() + data.styles.tobytes() + data.validation.tobytes()).hexdigest()
    mark = fingerprint([config.model_dump(exclude={"search"}), data.vocabulary, data.ids, labels])
    state = out.with_name(f"{out.stem}.state.safetensors")
    start = _resume(state, mark, net, optimizer)
    steps = range(start, settings.steps)
    bar = tqdm(steps, "train", settings.steps, initial=start, unit="step", disable=None if progress else True)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * group["factor"] * _schedule(step / settings.steps)
        rng = np.random.default_rng([settings.seed, step])
        first, second = sampler.draw(rng)
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
        coarse = settings.coarse_size is not None and step < settings.coarse_share * settings.steps
        size = settings.coarse_size if coarse else None
        batch, broken = _batch(data, rows[first], rows[second], generator, size, settings.jitter)
        picked = codes[np.concatenate((first, second))].to(where)
        styles = torch.from_numpy(data.styles[rows[first]]).to(where)
        loss, parts = _loss(net, batch.to(where), broken.to(where), picked, styles, weights, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        bar.set_postfix({name: f"{value:.2f}" for name, value in parts.items()}, refresh=False)
        if (step + 1) % SAVE_EVERY == 0:
            _save(state, mark, net, optimizer, step + 1)
    net.eval()
    features, _ = embed(net, data, rows, progress)
    if settings.memory == "means":
        matrix = memory.from_means(features, data.codes[rows], data.vocabulary)
    else:
        prototypes = {name: net.attributes[name].prototypes.detach().cpu().numpy() for name in data.vocabulary}
        matrix = memory.from_heads(prototypes, features, data.codes[rows], data.vocabulary)
    facts = _facts(net, data, progress) | {"photos": len(rows), "data": mark}
    facts["fingerprint"] = checkpoint.write(out, net, matrix, config, facts, torch.float16 if half else torch.float32)
    state.unlink(missing_ok=True)
    return facts


def _groups(net: GarmentNet, config: Config) -> list[dict[str, Any]]:
    """Parameters by decay (matrices and kernels alone) and rate; a frozen backbone is in none."""
    settings, groups = config.training, []
    base = {id(p) for part in (net.stem, net.body) for p in part.parameters()}
    for factor, inside in ((1.0, False), (settings.backbone_rate, True)):
        chosen = [p for p in net.parameters() if (id(p) in base) == inside]
        if factor == 0:
            for parameter in chosen:
                parameter.requires_grad_(False)
            continue
        for decay, matrix in ((settings.weight_decay, True), (0.0, False)):
            params = [p for p in chosen if (p.ndim > 1) == matrix]
            groups.append({"params": params, "weight_decay": decay, "factor": factor})
    return groups


def take_over(net: GarmentNet, other: GarmentNet) -> list[str]:
    """Copy every weight of ``other`` that has the same name and shape in ``net``; returns the names copied.

    Fine-tuning on another catalogue: the backbone fits whatever the attributes are, their blocks only where names and
    sizes agree.
    """
    mine, theirs = net.state_dict(), other.state_dict()
    fit = {name: value for name, value in theirs.items() if name in mine and mine[name].shape == value.shape}
    net.load_state_dict(fit, strict=False)
    return list(fit)


def _schedule(progress: float) -> float:
    """5% linear warm-up, then cosine to zero."""
    return progress / 0.05 if progress < 0.05 else 0.5 * (1 + float(np.cos(np.pi * (progress - 0.05) / 0.95)))


def _batch(
    data: TrainingSet,
    first: np.ndarray,
    second: np.ndarray,
    generator: torch.Generator,
    size: int | None,
    jitter: float,
) -> tuple[Tensor, Tensor]:
    """Augmented photos (2n, 3, s, s) float32, and which of them have a broken color (2n,) bool.

    s is the input size, or ``size``: most of the training on smaller photos, the rest on whole ones, learns as much in
    a fraction of the time (progressive resizing; Touvron et al. 2019 for why the last steps see the final size).

    Where a style has but one photo, the second view is that photo recolored: the style must survive the color.
    """
    pixels = torch.from_numpy(data.pixels[np.concatenate((first, second))])
    views = pixels.permute(0, 3, 1, 2).float()
    if size is not None:
        views = F.interpolate(views, size=(size, size), mode="bilinear", antialias=True)
    views = augment.light(views, generator)
    broken = torch.from_numpy(np.concatenate((np.zeros(len(first), bool), first == second)))
    if broken.any():
        views[broken] = augment.recolor(views[broken], generator)
    return augment.move(views, generator, jitter), broken


def _loss(
    net: GarmentNet, batch: Tensor, broken: Tensor, codes: Tensor, styles: Tensor, weights: list[Tensor], config: Config
) -> tuple[Tensor, dict[str, float]]:
    settings = config.training
    output = net(batch)
    classify, tuples = [], []
    for i, (name, attribute) in enumerate(config.model.attributes.items()):
        code = codes[:, i].masked_fill(broken, -1) if attribute.color else codes[:, i]
        classify.append(losses.cross_entropy(output.logits[name], code, weights[i]))
        tuples.append(code)
    first, second = output.blocks[LOOK].chunk(2)
    style = losses.style_contrast(first, second, styles, settings.temperature)
    ce = torch.stack(classify).mean()
    triplet = _triplets(output.blocks, tuples, config) if settings.triplet else ce.new_zeros(())
    total = settings.classify * ce + settings.triplet * triplet + settings.style * style
    return total, {"ce": ce.item(), "triplet": triplet.item(), "style": style.item()}


def _triplets(blocks: dict[str, Tensor], codes: list[Tensor], config: Config) -> Tensor:
    """Mean of the per-attribute triplets plus the global one, which compares whole label tuples; codes: A of (2n,)."""
    names, margin = list(config.model.attributes), config.training.margin
    each = [losses.batch_all_triplet(blocks[name], code, margin) for name, code in zip(names, codes, strict=True)]
    table = torch.stack(codes, dim=1)  # (2n, A)
    whole = torch.unique(table, dim=0, return_inverse=True)[1].masked_fill((table < 0).any(dim=1), -1)
    unit = torch.cat([F.normalize(blocks[name], dim=1) for name in names], dim=1)
    return torch.stack(each).mean() + losses.batch_all_triplet(unit, whole, margin)


@torch.inference_mode()
def embed(
    net: GarmentNet, data: TrainingSet, rows: np.ndarray, progress: bool = False, batch: int = 256
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Raw features and logits of the given rows, by block and by attribute, float32, without any randomness."""
    where = next(net.parameters()).device
    blocks: dict[str, list[np.ndarray]] = {}
    logits: dict[str, list[np.ndarray]] = {}
    spans = range(0, len(rows), batch)
    for start in tqdm(spans, "features", unit="batch", disable=None if progress else True):
        pixels = torch.from_numpy(data.pixels[rows[start : start + batch]]).permute(0, 3, 1, 2).to(where)
        output = net(pixels)
        for name, value in output.blocks.items():
            blocks.setdefault(name, []).append(value.float().cpu().numpy())
        for name, value in output.logits.items():
            logits.setdefault(name, []).append(value.float().cpu().numpy())
    return {k: np.concatenate(v) for k, v in blocks.items()}, {k: np.concatenate(v) for k, v in logits.items()}


def _facts(net: GarmentNet, data: TrainingSet, progress: bool) -> dict[str, Any]:
    rows = np.flatnonzero(data.validation)
    if not len(rows):
        return {"validation": {}}
    _, logits = embed(net, data, rows, progress)
    accuracy = {}
    for i, name in enumerate(data.vocabulary):
        code = data.codes[rows, i]
        if (code >= 0).any():
            accuracy[name] = round(float((logits[name].argmax(1) == code)[code >= 0].mean()), 4)
    return {"validation": {"photos": len(rows), "accuracy": accuracy}}


def _save(path: Path, mark: str, net: GarmentNet, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"net.{k}": v.contiguous() for k, v in net.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"opt.{number}.{k}": v.contiguous() for k, v in moments.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"step": str(step), "fingerprint": mark})


def _resume(path: Path, mark: str, net: GarmentNet, optimizer: torch.optim.Optimizer) -> int:
    """The step to go on from; 0 without a saved state. Another run's state is a MismatchError."""
    if not path.is_file():
        return 0
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError):
        raise MismatchError(f"{path}: not a readable training state: delete it to start again") from None
    if metadata.get("fingerprint") != mark:
        raise MismatchError(
            f"{path}: saved by a run with fingerprint {metadata.get('fingerprint', 'none')}, this one is {mark}: "
            "delete it to start again, or run with the config and data that made it"
        )
    net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("opt."):
            _, number, name = key.split(".", 2)
            state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    for parameter, moments in optimizer.state.items():  # fused steps read memory as it lies: channels-last, too
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(value)
    return int(metadata["step"])
