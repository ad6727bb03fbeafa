"""An index generation that torch builds, where a device is asked for."""

from __future__ import annotations

import shutil
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from index import accelerate, build, catalogue, exact, trial
from index.accelerate import recipes
from index.approximate import ApproximateIndex
from index.errors import GalleryError, UnknownNameError
from index.gallery import Gallery, verify
from index.hits import recall
from index.recipe import choose
from tests.index.conftest import rows_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"


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
    monkeypatch.setattr(recipes, "fault", lambda device: "")
    assert accelerate.chosen(None) == (CUDA, False)
    monkeypatch.delitem(sys.modules, "torch")  # then it is not loaded only to ask
    assert accelerate.chosen(None) is None


@pytest.fixture
def broken_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """One CUDA card, which hands out memory and runs nothing."""

    class Held:
        def __matmul__(self, other: object) -> None:
            raise torch.AcceleratorError(f"{NO_KERNEL}\nCompile with `TORCH_USE_CUDA_DSA`")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for maker in ("empty", "ones"):
        monkeypatch.setattr(torch, maker, lambda *_, device=None, **__: Held())


@pytest.mark.usefixtures("broken_card")
def test_a_card_that_cannot_be_used_is_not_taken_for_one_that_is_not_there() -> None:
    for name in ("cuda", "cuda:0"):
        with pytest.raises(GalleryError, match=rf"^device '{name}' cannot be used \({NO_KERNEL}\); use --device cpu$"):
            accelerate.chosen(name)
    with pytest.raises(UnknownNameError, match="device 'cuda:1' is not on this machine.*sees: cpu, cuda:0$"):
        accelerate.chosen("cuda:1")


@pytest.mark.usefixtures("broken_card")
def test_a_card_nobody_asked_for_that_cannot_be_used(capfd: pytest.CaptureFixture[str]) -> None:
    assert accelerate.chosen(None) is None
    assert capfd.readouterr().err == f"FAISS builds this index: device 'cuda' cannot be used ({NO_KERNEL})\n"


@pytest.mark.parametrize(("kind", "lines"), [("ivfpq", 1), ("graph", 0)])
def test_faiss_builds_where_the_card_cannot_be_used(
    start: Path, tmp_path: Path, kind: str, lines: int, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(recipes, "fault", lambda device: NO_KERNEL)
    path = Path(shutil.copytree(start, tmp_path / "gallery"))
    catalogue.compact(path, kind)
    assert capfd.readouterr().err.count("FAISS builds this index") == lines
    assert Gallery.open(path).manifest.current.recipe["kind"] == kind  # type: ignore[union-attr]


FAILURES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nadvice"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nadvice"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`\nadvice"),
]


def failing(monkeypatch: pytest.MonkeyPatch, device: torch.device, error: BaseException) -> list[bool]:
    """Training on the device fails. Returned: each time memory is given back, whether training still held its own."""
    held: list[weakref.ref] = []
    emptied: list[bool] = []

    def train(*_: object, **__: object) -> None:
        rows = torch.zeros(3)
        held.append(weakref.ref(rows))
        raise type(error)(*error.args)  # anew: one that lives on would keep rows too

    def empty_cache() -> None:
        emptied.append(held[0]() is not None)
        raise RuntimeError("CUDA error: nothing works any more")

    monkeypatch.setattr(recipes, "build_ivfpq", train)
    monkeypatch.setattr(recipes, "chosen", lambda name: accelerate.Chosen(device, name is not None))
    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    return emptied


@pytest.mark.parametrize("error", FAILURES)
def test_a_card_that_fails_in_a_build(
    structured: np.ndarray, error: RuntimeError, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe, first = choose(*structured.shape, "ivfpq"), str(error).splitlines()[0]
    emptied = failing(monkeypatch, CUDA, error)
    assert accelerate.build(structured, recipe, None) is None
    assert capfd.readouterr().err == f"FAISS builds this index: device 'cuda' failed ({first})\n"
    with pytest.raises(GalleryError) as caught:
        accelerate.build(structured, recipe, "cuda")
    assert str(caught.value) == f"device 'cuda' failed ({first}); free memory on it, or use --device cpu"
    assert emptied == [False, False]


@pytest.mark.parametrize("name", [None, "cuda"])
@pytest.mark.parametrize(
    ("device", "error"),
    [
        (CPU, RuntimeError("CUDA error: of no card")),
        (CUDA, RuntimeError("mat1 and mat2 shapes cannot be multiplied")),
        (CUDA, KeyboardInterrupt()),
        (CUDA, GalleryError("CUDA has no part in this")),
    ],
)
def test_errors_that_are_not_the_cards(
    structured: np.ndarray, name: str | None, device: torch.device, error: BaseException, monkeypatch: Any
) -> None:
    failing(monkeypatch, device, error)
    with pytest.raises(type(error), match=f"^{error}$"):
        accelerate.build(structured, choose(*structured.shape, "ivfpq"), name)
