"""Where a training runs: alone in float32, else through lightning-fabric (several processes, mixed precision)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from index.errors import InputError, MissingDependencyError


class Runner(NamedTuple):
    """``fabric``: a lightning_fabric.Fabric, or ``Alone`` with the part of it that the loop calls; ``scaler``: of the
    loss, for float16 only, or None."""

    fabric: Any
    scaler: torch.amp.GradScaler | None = None


class Alone:
    """One process in float32: what the loop asks of a Fabric, without lightning-fabric."""

    global_rank, world_size = 0, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def setup(self, net: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        return net, optimizer

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_gradients(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float, error_if_nonfinite: bool = False
    ) -> None:
        nn.utils.clip_grad_norm_(net.parameters(), max_norm, error_if_nonfinite=error_if_nonfinite)

    def barrier(self) -> None:
        pass


def launch(devices: int, precision: str, device: torch.device) -> Runner:
    """Start ``devices`` processes, each with a GPU of its own if ``device`` is one, and return this one's Runner.

    The other processes run the same command line from its beginning (or torchrun started them all). precision: fp32,
    or bf16 or fp16, in which the network's forward pass is autocast; losses and weights stay float32.
    """
    if devices == 1 and precision == "fp32":
        return Runner(Alone(device))
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins import MixedPrecision
    except ImportError:
        raise MissingDependencyError(
            "several devices and mixed precision need lightning-fabric: pip install 'lightning-fabric>=2.4', "
            "or set training.devices: 1 and training.precision: fp32"
        ) from None
    kind = device.type
    if kind == "cuda" and devices > torch.cuda.device_count():
        raise InputError(f"training.devices is {devices}, this machine has {torch.cuda.device_count()} GPU(s)")
    scaler = torch.amp.GradScaler(kind) if precision == "fp16" else None
    names = {"bf16": "bf16-mixed", "fp16": "16-mixed"}
    plugin: Any = MixedPrecision(names[precision], kind, scaler) if precision != "fp32" else None  # type: ignore[arg-type]
    fabric = Fabric(accelerator=kind, strategy="ddp" if devices > 1 else "auto", devices=devices, plugins=plugin)
    fabric.launch()
    return Runner(fabric, scaler)
