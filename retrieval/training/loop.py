"""The training loop: batches, attribute and style losses, validation, the memory matrix, a checkpoint, a report."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from index.errors import InputError
from retrieval.config import LOOK, PARTS, Config, fingerprint
from retrieval.models import checkpoint, memory
from retrieval.models.memory import Memory
from retrieval.models.network import GarmentNet
from retrieval.training import augment, losses, regions, validate
from retrieval.training.curves import Curves, of_steps, save_report, writer
from retrieval.training.data import TrainingSet
from retrieval.training.edits import train_memory
from retrieval.training.mined import Mined, MinedPairSampler, MinedSampler, mined_sampler
from retrieval.training.parts import StyleHeads, style_classes
from retrieval.training.processes import Runner, launch
from retrieval.training.refit import refit
from retrieval.training.sampling import Draw, IdSampler, PairSampler
from retrieval.training.state import resume, save

SAVE_EVERY = 200  # steps between resumable states


def device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    data: TrainingSet,
    config: Config,
    out: Path,
    half: bool = False,
    progress: bool = False,
    runner: Runner | None = None,
    mined: Mined | None = None,
) -> dict[str, Any]:
    """Train on the training part, write ``out`` (safetensors), return what was measured on the validation part.

    Killed and run again with the same config and data, it goes on from the last saved state. Every step draws its
    batch and its augmentation from (seed, step) alone, so a resumed run sees what an unbroken one would have seen.
    Beside ``out`` come its report (.report.html, .report.json). Of several processes the first one writes.
    mined: pseudo labels of some rows of the training part, which then take their share of each batch.
    """
    if out.is_dir():
        raise InputError(f"{out} is a folder: name the checkpoint file, such as {out / 'model.safetensors'}")
    settings = config.training
    if settings.validate_every and not data.validation.any():
        raise InputError("training.validate_every needs a validation part: raise data.holdout, or set it to 0")
    fabric, scaler = runner or launch(settings.devices, settings.precision, device())
    first = fabric.global_rank == 0
    progress = progress and first
    torch.manual_seed(settings.seed)
    where = fabric.device
    net = GarmentNet(config.model, data.vocabulary).to(where, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if settings.start is not None:
        begin = checkpoint.read(settings.start)
        take_over(net, begin.net, data.vocabulary, begin.vocabulary)
    rows = np.flatnonzero(~data.validation)
    classes = style_classes(data.styles, rows)
    if classes.max() > 0:
        for name, widths in _learned_by_style(net, config).items():
            net.style_heads[name] = StyleHeads(widths, int(classes.max()) + 1).to(where)
    net.telling = data.regions is not None
    optimizer = torch.optim.AdamW(_groups(net, config), lr=settings.learning_rate, fused=scaler is None)
    sampler = _sampler(data, rows, config, mined)
    weights = _weights(data, rows, settings.balance, where)
    labels = hashlib.sha256(data.codes.tobytes() + data.styles.tobytes() + data.validation.tobytes()).hexdigest()
    pseudo = [] if mined is None else [mined.fingerprint()]
    mark = fingerprint([config.model_dump(exclude={"search"}), data.vocabulary, data.ids, labels, *pseudo])
    state = out.with_name(f"{out.stem}.state.safetensors")
    best: dict[str, Tensor] = {}
    start, curves = resume(state, mark, net, optimizer, scaler, best)
    curves = curves or of_steps(settings.steps)
    model, stepper = fabric.setup(net, optimizer)
    log = writer(out.with_name(f"{out.stem}.tensorboard"), start) if settings.tensorboard and first else None
    steps = range(start, settings.steps)
    bar = tqdm(steps, "train", settings.steps, initial=start, unit="step", disable=None if progress else True)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * group["factor"] * _schedule(step / settings.steps)
        number = step * fabric.world_size + fabric.global_rank
        drawn = sampler.draw(np.random.default_rng([settings.seed, number]))
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + number)
        picked = rows[drawn.rows]
        batch = _batch(data, picked, drawn.recolored, generator, _size(step, config), config).to(where)
        broken = torch.from_numpy(drawn.recolored).to(where)
        known = _pseudo(_labels(data, picked, where), drawn)
        known = known._replace(classes=torch.from_numpy(classes[picked]).to(where))
        loss, parts = _loss(model, batch, broken, known, weights, config)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        fabric.clip_gradients(model, stepper, max_norm=5.0, error_if_nonfinite=False)
        stepper.step()
        bar.set_postfix({name: f"{value:.2f}" for name, value in parts.items()}, refresh=False)
        due = {"losses": curves.add(step, parts)}
        if settings.validate_every and ((step + 1) % settings.validate_every == 0 or step + 1 == settings.steps):
            due["validation"] = _validate(net, data, rows, config, curves, best, step + 1) if first else None
            fabric.barrier()
        if log:
            for kind, point in due.items():
                for name, value in (point or {}).items():
                    log.add_scalar(f"{kind}/{name}", value, step + 1)
        if (step + 1) % SAVE_EVERY == 0 and first:
            save(state, mark, net, optimizer, scaler, best, curves, step + 1)
    if log:
        log.close()
    if not first:
        return {}
    if best:
        net.load_state_dict(best)
    net.telling = False
    net.style_heads.clear()  # they are for training alone, and in no checkpoint
    net.eval()
    labelled = rows if mined is None else rows[(data.codes[rows] >= 0).any(axis=1)]
    if settings.refit:
        refit(net, data, labelled, weights, settings.refit, settings.seed, progress)
    matrix = _memory(net, data, labelled, config, progress)
    facts = {"validation": _facts(net, data, matrix, settings.seed, progress), "photos": len(rows), "data": mark}
    if curves.validations:
        facts["best_step"] = int(max(curves.validations, key=lambda point: point["score"])["step"])
    facts["fingerprint"] = checkpoint.write(out, net, matrix, config, facts, torch.float16 if half else torch.float32)
    save_report(out, config, facts, curves)
    state.unlink(missing_ok=True)
    return facts


def _learned_by_style(net: GarmentNet, config: Config) -> dict[str, list[int]]:
    """Widths of the parts that learn the style as a class, by block: look whole, if ``identity`` says so."""
    settings, found = config.training, {}
    if settings.identity:
        found[LOOK] = [config.model.branches * config.model.branch_dim]
    if net.parts is not None and settings.parts:
        found[PARTS] = net.parts.widths
    return found


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


def _sampler(
    data: TrainingSet, rows: np.ndarray, config: Config, mined: Mined | None = None
) -> PairSampler | IdSampler | MinedSampler | MinedPairSampler:
    settings, styles = config.training, data.styles[rows]
    if mined is not None:
        return mined_sampler(styles, data.codes[rows], mined.within(rows), settings, config.mine.share)
    if settings.batch == "ids":
        return IdSampler(styles, settings.ids_per_batch, settings.photos_per_id)
    return PairSampler(styles, data.codes[rows, 0], settings.pairs, settings.grouped_share, settings.alike_share)


def _weights(data: TrainingSet, rows: np.ndarray, balance: float, where: torch.device) -> list[Any]:
    """For each attribute the class weights of its values; (having, lacking) where it is multi-label."""
    weights: list[Any] = []
    for i, (name, values) in enumerate(data.vocabulary.items()):
        if name in data.sets:
            both = losses.value_weights(torch.from_numpy(data.sets[name][rows]), balance)
            weights.append(tuple(weight.to(where) for weight in both))
        else:
            codes = torch.from_numpy(data.codes[rows, i])
            weights.append(losses.class_weights(codes, len(values), balance).to(where))
    return weights


def take_over(
    net: GarmentNet, other: GarmentNet, vocabulary: dict[str, list[str]], known: dict[str, list[str]]
) -> list[str]:
    """Copy every weight of ``other`` that has the same name and shape in ``net``; returns the names copied.

    Fine-tuning on another catalogue: the backbone fits whatever the attributes are, their blocks only where names and
    sizes agree. A head's row goes to the value of the same name: ``vocabulary`` orders those of ``net``, ``known``
    those of ``other``; values that are new begin anew.
    """
    mine, theirs = net.state_dict(), other.state_dict()
    for name, values in vocabulary.items():
        place = {value: row for row, value in enumerate(known.get(name, ()))}
        both = [(row, place[value]) for row, value in enumerate(values) if value in place]
        to, of = torch.tensor(both, dtype=torch.int64).reshape(-1, 2).T
        for key in (f"attributes.{name}.prototypes", f"attributes.{name}.bias"):
            if key in theirs and theirs[key].shape[1:] == mine[key].shape[1:]:
                theirs[key] = mine[key].index_copy(0, to, theirs[key][of])
    fit = {name: value for name, value in theirs.items() if name in mine and mine[name].shape == value.shape}
    net.load_state_dict(fit, strict=False)
    return list(fit)


def _schedule(progress: float) -> float:
    """5% linear warm-up, then cosine to zero."""
    return progress / 0.05 if progress < 0.05 else 0.5 * (1 + float(np.cos(np.pi * (progress - 0.05) / 0.95)))


def _size(step: int, config: Config) -> int | None:
    """The photo side of a step: ``coarse_size`` in the first coarse_share of the steps, None for the input size."""
    settings = config.training
    coarse = settings.coarse_size is not None and step < settings.coarse_share * settings.steps
    return settings.coarse_size if coarse else None


def _batch(
    data: TrainingSet,
    rows: np.ndarray,
    recolored: np.ndarray,
    generator: torch.Generator,
    size: int | None,
    config: Config,
) -> Tensor:
    """Augmented photos (n, 3, s, s) float32, of ``rows``; those of them that are ``recolored`` lose their color. Where
    there are regions their masks follow as A more channels, moved with the photos.

    s is the input size, or ``size``: most of the training on smaller photos, the rest on whole ones, learns as much in
    a fraction of the time (progressive resizing; Touvron et al. 2019 for why the last steps see the final size).
    """
    views = torch.from_numpy(data.pixels[rows]).permute(0, 3, 1, 2).float()
    if size is not None:
        views = F.interpolate(views, size=(size, size), mode="bilinear", antialias=True)
    shop = config.training.augment == "shop"
    views = augment.light(views, generator) if shop else augment.thesis(views, generator)
    broken = torch.from_numpy(recolored)
    if broken.any():
        views[broken] = augment.recolor(views[broken], generator)
    if data.regions is not None:
        views = torch.cat((views, regions.grown(data.regions[rows], views.shape[-1])), dim=1)
    return augment.move(views, generator, config.training.jitter) if shop else views


class Labels(NamedTuple):
    """Of a batch: ``codes`` (n, A), ``sets`` (n, V) by multi-label attribute, ``styles`` (n,), all int64.

    ``classes`` (n,) int64: the style's number among those that parts learn, -1 none of them. ``anchors`` (n,) bool:
    which photos may be anchors and positives of triplets on look; None: all.
    """

    codes: Tensor
    sets: dict[str, Tensor]
    styles: Tensor
    classes: Tensor | None = None
    anchors: Tensor | None = None


def _labels(data: TrainingSet, rows: np.ndarray, where: torch.device) -> Labels:
    codes, styles = torch.from_numpy(data.codes[rows]).to(where), torch.from_numpy(data.styles[rows]).to(where)
    return Labels(codes, {name: torch.from_numpy(sets[rows]).to(where) for name, sets in data.sets.items()}, styles)


def _pseudo(labels: Labels, drawn: Draw) -> Labels:
    """With the styles that a draw made up, where it did."""
    if drawn.ids is None or drawn.anchors is None:
        return labels
    where = labels.styles.device
    return labels._replace(
        styles=torch.from_numpy(drawn.ids).to(where), anchors=torch.from_numpy(drawn.anchors).to(where)
    )


def _loss(
    net: nn.Module, batch: Tensor, broken: Tensor, labels: Labels, weights: list[Any], config: Config
) -> tuple[Tensor, dict[str, float]]:
    settings = config.training
    output = net(batch[:, :3])
    classify, tuples = [], []
    for i, (name, attribute) in enumerate(config.model.attributes.items()):
        code = labels.codes[:, i].masked_fill(broken, -1) if attribute.color else labels.codes[:, i]
        if name in labels.sets:
            sets = labels.sets[name].masked_fill((code < 0)[:, None], -1)
            classify.append(losses.binary_cross_entropy(output.logits[name], sets, weights[i]))
        else:
            classify.append(losses.cross_entropy(output.logits[name], code, weights[i]))
        tuples.append(code)
    look = output.blocks[LOOK]
    if settings.style_loss == "contrast":
        (first, second), styles, away = look.chunk(2), labels.styles.chunk(2)[0], None
        if labels.anchors is not None:
            pairs = labels.anchors.chunk(2)[0]  # both halves end in photos that are only negatives
            away = torch.cat((first[~pairs], second[~pairs]))
            first, second, styles = first[pairs], second[pairs], styles[pairs]
        style = losses.style_contrast(first, second, styles, settings.temperature, away)
    else:
        style = losses.triplet(look, labels.styles, settings.margin, "batch-all", "euclidean", labels.anchors)
    ce = torch.stack(classify).mean()
    whole = settings.triplet if settings.tuples is None else settings.tuples
    each = joined = ce.new_zeros(())
    if settings.triplet or whole:
        each, joined = _triplets(output.blocks, tuples, broken, config)
    total = settings.classify * ce + settings.triplet * each + whole * joined + settings.style * style
    told = {"ce": ce.item(), "triplet": each.item(), "tuples": joined.item(), "style": style.item()}
    if labels.classes is not None:
        for name, weight, told_as in ((LOOK, settings.identity, "identity"), (PARTS, settings.parts, "parts")):
            if name in output.styles:
                loss = losses.parts(output.styles[name], labels.classes)
                total, told[told_as] = total + weight * loss, loss.item()
    if output.shares is not None:
        masks = batch[:, 3:].unbind(dim=1)
        taught = [regions.loss(output.shares[name], mask) for name, mask in zip(output.shares, masks, strict=True)]
        where = torch.stack(taught).mean()
        total, told["regions"] = total + settings.regions * where, where.item()
    return total, told


def _triplets(blocks: dict[str, Tensor], codes: list[Tensor], broken: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """The mean of the per-attribute triplets, and the global one, which compares whole label tuples; codes: A of (n,).

    A missing label rules a photo out of the latter, or is a value (``blanks``); a broken color always rules it out.
    """
    names, settings = list(config.model.attributes), config.training
    how = settings.margin, settings.mining, settings.distance
    each = [losses.triplet(blocks[name], code, *how) for name, code in zip(names, codes, strict=True)]
    table = torch.stack(codes, dim=1)  # (n, A)
    out = (table < 0).any(dim=1)
    if settings.blanks == "match":
        out = broken & any(attribute.color for attribute in config.model.attributes.values())
    whole = torch.unique(table, dim=0, return_inverse=True)[1].masked_fill(out, -1)
    unit = torch.cat([F.normalize(blocks[name], dim=1) for name in names], dim=1)
    return torch.stack(each).mean(), losses.triplet(unit, whole, *how)


@torch.inference_mode()
def embed(
    net: GarmentNet, data: TrainingSet, rows: np.ndarray, progress: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Raw features and logits of the given rows, by block and by attribute, float32, without any randomness."""
    where = next(net.parameters()).device
    blocks: dict[str, list[np.ndarray]] = {}
    logits: dict[str, list[np.ndarray]] = {}
    for pixels in data.passing(rows, "features", progress):
        output = net(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(where))
        for name, value in output.blocks.items():
            blocks.setdefault(name, []).append(value.float().cpu().numpy())
        for name, value in output.logits.items():
            logits.setdefault(name, []).append(value.float().cpu().numpy())
    return {k: np.concatenate(v) for k, v in blocks.items()}, {k: np.concatenate(v) for k, v in logits.items()}


def _memory(net: GarmentNet, data: TrainingSet, rows: np.ndarray, config: Config, progress: bool = False) -> Memory:
    """M from the features of the rows, as ``training.memory`` says."""
    settings = config.training
    features, _ = embed(net, data, rows, progress)
    sets = {name: values[rows] for name, values in data.sets.items()}
    if settings.memory == "heads":
        blocks: Any = net.attributes
        prototypes = {name: blocks[name].prototypes.detach().cpu().numpy() for name in data.vocabulary}
        return memory.from_heads(prototypes, features, data.codes[rows], data.vocabulary, sets)
    means = memory.from_means(features, data.codes[rows], data.vocabulary, sets)
    if settings.memory == "means":
        return means
    multi = [name in data.sets for name in data.vocabulary]
    return train_memory(
        means, features, data.labels()[rows], multi, settings.memory_steps, settings.margin,
        settings.distance == "squared", settings.consistency, settings.sparsity, settings.seed, progress,
    )  # fmt: skip


def _facts(net: GarmentNet, data: TrainingSet, matrix: Memory, seed: int, progress: bool) -> dict[str, Any]:
    """What the finished network reaches on the validation part; the searches on a sample of it."""
    rows = np.flatnonzero(data.validation)
    if not len(rows):
        return {}
    blocks, logits = embed(net, data, rows, progress)
    chosen = validate.sample(data, rows, seed)
    at = np.searchsorted(rows, chosen)
    picked = validate.Outputs({name: block[at] for name, block in blocks.items()}, {})
    return {
        "photos": len(rows),
        **validate.heads(logits, data, rows),
        **validate.searches(picked, data, chosen, matrix, seed),
    }


def _validate(
    net: GarmentNet,
    data: TrainingSet,
    rows: np.ndarray,
    config: Config,
    curves: Curves,
    best: dict[str, Tensor],
    step: int,
) -> dict[str, float]:
    """Measure the network as it is on a sample of the validation part (M: means of a sample of the training part).

    The point goes to ``curves``; the best network so far, the first of equals, is kept in ``best``.
    """
    held = np.flatnonzero(data.validation)
    seed = config.training.seed
    net.eval()
    chosen, known = validate.sample(data, held, seed), validate.sample(data, rows, seed)
    outputs = validate.Outputs(*embed(net, data, chosen))
    sets = {name: values[known] for name, values in data.sets.items()}
    means = memory.from_means(embed(net, data, known)[0], data.codes[known], data.vocabulary, sets)
    net.train()
    by_head = validate.heads(outputs.logits, data, chosen)
    found = validate.searches(outputs, data, chosen, means, seed)
    flat = {f"{kind} {name}": value for kind, each in by_head.items() for name, value in each.items()}
    point = {"step": step, "score": validate.score({**by_head, **found}), **flat, **found}
    if all(point["score"] > earlier["score"] for earlier in curves.validations):
        best.update({name: value.detach().clone() for name, value in net.state_dict().items()})
    curves.validations.append(point)
    return point
