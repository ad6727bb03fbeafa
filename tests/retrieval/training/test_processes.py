"""Several processes and mixed precision, on CPUs: what they compute, and what is said where the library lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import retrieval
from index.errors import MissingDependencyError
from retrieval.config import Config, load
from retrieval.datasets import garments
from retrieval.datasets.readers import open_photos
from retrieval.datasets.records import Photo
from retrieval.models import checkpoint
from retrieval.models.network import GarmentNet
from retrieval.training import loop, processes
from retrieval.training.data import gather
from retrieval.training.run import train_from

CPU = torch.device("cpu")
Colored = Callable[..., list[Photo]]
Settings = Callable[..., Config]


def test_one_process_in_float32_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    assert isinstance(processes.launch(1, "fp32", CPU).fabric, processes.Alone)
    for devices, precision in ((2, "fp32"), (1, "bf16")):
        with pytest.raises(MissingDependencyError, match="need lightning-fabric: pip install 'lightning-fabric>=2.4'"):
            processes.launch(devices, precision, CPU)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_comes_close_and_resumes(
    precision: str, colored: Colored, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lightning_fabric")
    monkeypatch.setattr(loop, "device", lambda: CPU)
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)
    config = settings(precision=precision, steps=4)
    data = gather(colored(40), config)
    first: list[float] = []
    compute = loop._loss
    monkeypatch.setattr(loop, "_loss", lambda *args: first.append((out := compute(*args))[0].item()) or out)
    loop.train(data, config, tmp_path / "unbroken.safetensors")
    loop.train(data, settings(steps=4), tmp_path / "full.safetensors")
    assert first[0] != first[4]
    assert first[0] == pytest.approx(first[4], rel=0.05)  # before any step: the same loss, to the precision
    make = loop._batch
    seen: list[int] = []

    def batch(*args: object) -> torch.Tensor:
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return make(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_batch", batch)
    with pytest.raises(KeyboardInterrupt):
        loop.train(data, config, tmp_path / "broken.safetensors")
    loop.train(data, config, tmp_path / "broken.safetensors")
    one, two = (checkpoint.read(tmp_path / f"{n}.safetensors").net.state_dict() for n in ("unbroken", "broken"))
    for name, value in one.items():
        assert value.dtype in (torch.float32, torch.int64)
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)


def test_two_processes_step_by_the_mean_of_their_gradients(tmp_path: Path) -> None:
    """Against one process that computes both batches of every step by hand."""
    pytest.importorskip("lightning_fabric")
    garments.generate(tmp_path / "garments", 16, photos_per_style=2)
    value = {
        "name": "two",
        "model": {"backbone": "regnet_tiny", "input_size": 32, "branches": 1, "branch_dim": 4,
                  "attributes": {"category": {"dim": 4}, "color": {"dim": 4, "color": True}}},
        "training": {"steps": 2, "pairs": 2, "devices": 2},
        "data": {"style": "style"},
    }  # fmt: skip
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(value))
    command = ["cli.py", "train", str(tmp_path / "two.yaml"), "--photos", str(tmp_path / "garments")]
    root = Path(retrieval.__file__).parent.parent
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command, "--out", str(tmp_path / "two.safetensors")], cwd=root, env=hidden,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"checkpoint"') == 1
    config = load(tmp_path / "two.yaml")
    data = gather(open_photos(tmp_path / "garments"), config)
    rows = np.flatnonzero(~data.validation)
    torch.manual_seed(0)
    net = GarmentNet(config.model, data.vocabulary).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    groups = [{"params": [p for p in net.parameters() if (p.ndim > 1) == many], "weight_decay": 0.05 * many}
              for many in (True, False)]  # fmt: skip
    optimizer = torch.optim.AdamW(groups)
    sampler, weights = loop._sampler(data, rows, config), loop._weights(data, rows, 0.5, CPU)
    for step in range(2):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * loop._schedule(step / 2)
        before = {name: buffer.clone() for name, buffer in net.named_buffers()}
        optimizer.zero_grad()
        for number in (2 * step + 1, 2 * step):  # the first process last: its running statistics are kept
            for name, buffer in net.named_buffers():
                buffer.copy_(before[name])
            drawn = sampler.draw(np.random.default_rng([0, number]))
            picked, generator = rows[drawn.rows], torch.Generator().manual_seed(number)
            batch = loop._batch(data, picked, drawn.recolored, generator, None, config)
            labels, broken = loop._labels(data, picked, CPU), torch.from_numpy(drawn.recolored)
            (loop._loss(net, batch, broken, labels, weights, config)[0] / 2).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
    made = checkpoint.read(tmp_path / "two.safetensors").net.state_dict()
    for name, expected in net.state_dict().items():
        torch.testing.assert_close(made[name], expected, rtol=1e-3, atol=1e-5, msg=name)


def test_only_the_first_process_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Second(processes.Alone):
        global_rank, world_size = 1, 2

    garments.generate(tmp_path / "garments", 12, photos_per_style=2)
    value = {"name": "x", "model": {"backbone": "regnet_tiny", "input_size": 32, "branches": 1, "branch_dim": 4,
             "attributes": {"category": {"dim": 4}}}, "training": {"steps": 1, "pairs": 2}}  # fmt: skip
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(value))
    monkeypatch.setattr(processes, "launch", lambda *_: processes.Runner(Second(CPU)))
    with pytest.raises(SystemExit) as ended:
        train_from(tmp_path / "x.yaml", tmp_path / "garments", out=tmp_path / "out" / "x.safetensors")
    assert ended.value.code == 0
    assert not (tmp_path / "out").exists()
