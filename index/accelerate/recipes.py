"""A recipe's index built in torch, where torch can build it."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from index.accelerate.devices import device, fault, first_line
from index.accelerate.training import build_ivfpq
from index.errors import GalleryError
from index.recipe import Recipe

if TYPE_CHECKING:
    import torch


class Chosen(NamedTuple):
    """A torch device, and whether somebody asked for it by name."""

    device: torch.device
    asked: bool


def chosen(name: str | None) -> Chosen | None:
    """The device of this name, with the errors of ``device``; without one CUDA if torch is loaded already and has it,
    else None: FAISS, which is faster than torch on a CPU. So too for a CUDA that cannot be used, as stderr then says.
    """
    if name is not None:
        return Chosen(device(name), True)
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    found = Chosen(torch.device("cuda"), False)
    if why := fault(found.device):
        _say(f"device 'cuda' cannot be used ({why})")
        return None
    return found


def _say(why: str) -> None:
    tqdm.write(f"FAISS builds this index: {why}", file=sys.stderr)


def build(vectors: npt.NDArray[np.float16], recipe: Recipe, name: str | None, progress: bool = False) -> Any | None:
    """The FAISS index of a recipe, as ``index.approximate.build`` makes it, on the device ``chosen`` of this name; None
    where FAISS is to build it: no device, or a kind that torch does not build.

    Those are the graph, RaBitQ and whatever is projected first; stderr says so where the device was asked for. A GPU
    that fails, or has too little memory, is a GalleryError where it was asked for, else None and a line on stderr.
    """
    if recipe.kind not in ("ivfpq", "fastscan") or recipe.dims:
        if name is not None:
            _say(f"torch has no {recipe.kind} over a projection" if recipe.dims else f"torch has no {recipe.kind}")
        return None
    where = chosen(name)
    if where is None:
        return None
    rows = np.random.default_rng(recipe.seed).choice(len(vectors), recipe.train_rows, replace=False)
    try:
        return build_ivfpq(
            vectors, nlist=recipe.nlist, pq_m=recipe.pq_m, nbits=recipe.nbits, sample=np.sort(rows), seed=recipe.seed,
            device=where.device, progress=progress, fast_scan=recipe.kind == "fastscan",
        )  # fmt: skip
    except RuntimeError as error:
        if where.device.type == "cpu" or not _of_the_card(error):
            raise
        why = f"device '{where.device}' failed ({first_line(error)})"
    import torch  # the error is gone, and with it what held memory there

    with suppress(RuntimeError):
        torch.cuda.empty_cache()
    if where.asked:
        raise GalleryError(f"{why}; free memory on it, or use --device cpu")
    _say(why)
    return None


def _of_the_card(error: RuntimeError) -> bool:
    """Whether the GPU failed, rather than the code that uses it. Some of CUDA's errors are plain RuntimeErrors."""
    import torch

    return isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError)) or "CUDA" in str(error)
