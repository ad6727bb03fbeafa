"""What a training goes on from when it was killed: weights, the best so far, the optimizer, the curves."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from index.errors import MismatchError
from index.files import atomic_path
from retrieval.models.network import GarmentNet
from retrieval.training.curves import Curves


def save(
    path: Path, mark: str, net: GarmentNet, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None,
    best: dict[str, Tensor], curves: Curves, step: int,
) -> None:  # fmt: skip
    """Write what a killed run goes on from, whole or not at all."""
    tensors = {f"net.{k}": v.contiguous() for k, v in net.state_dict().items()}
    tensors |= {f"best.{k}": v.contiguous() for k, v in best.items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"opt.{number}.{k}": v.contiguous() for k, v in moments.items()}
    notes = {"step": str(step), "fingerprint": mark, "curves": curves.to_json()}
    notes["scaler"] = json.dumps(scaler.state_dict() if scaler else {})
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, notes)


def resume(
    path: Path, mark: str, net: GarmentNet, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None,
    best: dict[str, Tensor],
) -> tuple[int, Curves | None]:  # fmt: skip
    """The step to go on from, 0 without a saved state, and the curves so far; ``net``, ``optimizer``, ``scaler`` and
    ``best`` are filled. Another run's state is a MismatchError."""
    if not path.is_file():
        return 0, None
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
    best.update({k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")})
    if scaler and (factors := json.loads(metadata["scaler"])):
        scaler.load_state_dict(factors)
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
    return int(metadata["step"]), Curves(**json.loads(metadata["curves"]))
