"""A recipe's index built in torch, where torch can build it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from index.accelerate.devices import device
from index.accelerate.training import build_ivfpq
from index.recipe import Recipe

if TYPE_CHECKING:
    import torch


class Chosen(NamedTuple):
    """A torch device, and whether somebody asked for it by name."""

    device: torch.device
    asked: bool


def chosen(name: str | None) -> Chosen | None:
    """The device of this name; without one CUDA if torch is loaded already and has it, else None: FAISS, which is
    faster than torch on a CPU. UnknownNameError for one that is not there."""
    if name is not None:
        return Chosen(device(name), True)
    torch = sys.modules.get("torch")
    return Chosen(device("cuda"), False) if torch is not None and torch.cuda.is_available() else None


def build(vectors: npt.NDArray[np.float16], recipe: Recipe, where: Chosen, progress: bool = False) -> Any | None:
    """The FAISS index of a recipe, as ``index.approximate.build`` makes it; None for kinds that torch does not build.

    Those are the graph, RaBitQ and whatever is projected first; stderr says so where the device was asked for.
    """
    if recipe.kind not in ("ivfpq", "fastscan") or recipe.dims:
        if where.asked:
            what = f"{recipe.kind} over a projection" if recipe.dims else recipe.kind
            tqdm.write(f"FAISS builds this index: torch has no {what}", file=sys.stderr)
        return None
    rows = np.random.default_rng(recipe.seed).choice(len(vectors), recipe.train_rows, replace=False)
    return build_ivfpq(
        vectors, nlist=recipe.nlist, pq_m=recipe.pq_m, nbits=recipe.nbits, sample=np.sort(rows), seed=recipe.seed,
        device=where.device, progress=progress, fast_scan=recipe.kind == "fastscan",
    )  # fmt: skip
