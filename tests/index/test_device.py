"""An index generation that torch builds, where a device is asked for."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from index import accelerate, build, catalogue, exact, trial
from index.accelerate import recipes
from index.approximate import ApproximateIndex
from index.errors import UnknownNameError
from index.gallery import Gallery, verify
from index.hits import recall
from tests.index.conftest import rows_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("kind", ["ivfpq", "fastscan"])
def test_a_generation_is_built_on_the_device_asked_for(
    start: Path, tmp_path: Path, structured: np.ndarray, queries: np.ndarray, kind: str, monkeypatch: Any
) -> None:
    path = Path(shutil.copytree(start, tmp_path / "gallery"))
    monkeypatch.setattr(trial, "choose_dims", lambda sample, *_: sample.shape[1])  # no projection
    monkeypatch.setattr(build.approximate, "build", lambda *_: pytest.fail("FAISS was asked"))
    build.build_generation(Gallery.open(path), kind, device="cpu")
    assert verify(path) == []
    index = build.open_index(Gallery.open(path))
    assert isinstance(index, ApproximateIndex)
    assert type(index.base.index).__name__ == ("IndexIVFPQ" if kind == "ivfpq" else "IndexIVFPQFastScan")
    truth = exact.search(structured[:1500], queries, 10)
    assert recall(index.search(queries, 10, recall=0.95), truth, 10) >= 0.9
    monkeypatch.undo()
    catalogue.add(path, rows_of(["a", "b"], structured[3000:3002]), tail_rows=0)  # it can be added to
    assert build.open_index(Gallery.open(path)).search(queries, 5).counts.tolist() == [5] * len(queries)


@pytest.mark.parametrize(("kind", "said"), [("graph", "graph"), ("rabitq", "rabitq"), ("fastscan", "fastscan over")])
def test_a_kind_that_torch_has_not_is_said_in_one_line(
    start: Path, tmp_path: Path, kind: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copytree(start, tmp_path / "gallery"))
    build.build_generation(Gallery.open(path), kind, device="cpu")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"FAISS builds this index: torch has no {said}")
    assert Gallery.open(path).manifest.current.recipe["kind"] == kind  # type: ignore[union-attr]


def test_which_device_builds(monkeypatch: pytest.MonkeyPatch, start: Path) -> None:
    assert accelerate.chosen("cpu") == (CPU, True)
    with pytest.raises(UnknownNameError, match="device 'nonsense'"):
        build.build_generation(Gallery.open(start), device="nonsense")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert accelerate.chosen(None) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(recipes, "device", lambda name: name)
    assert accelerate.chosen(None) == ("cuda", False)
    monkeypatch.delitem(sys.modules, "torch")  # then it is not loaded only to ask
    assert accelerate.chosen(None) is None
