"""Torch devices, and tables that reach them batch by batch."""

from __future__ import annotations

import textwrap
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from index.errors import GalleryError, MissingDependencyError, UnknownNameError
from index.hits import Rows
from index.vectors import release, taken

if TYPE_CHECKING:
    import torch

    Vectors = npt.NDArray[np.float16] | torch.Tensor  # (N, D), a memory map or what ``resident`` returned

READERS = 3  # threads that read ahead of the device
CPU_BLOCK, GPU_BLOCK = 1 << 22, 1 << 31  # bytes of scores held at once: about what a processor's cache holds; enough
LEAST_ROWS, MOST_ROWS = 4096, 1 << 18  # of one batch


def device(name: str | None = None) -> torch.device:
    """The torch device of this name; without one CUDA where there is a GPU, else the CPU.

    UnknownNameError for one that is not there, GalleryError for one that is and cannot be used, MissingDependencyError
    without torch.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("a device needs torch; pip install torch") from error
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found, why = None, ""
    with suppress(RuntimeError):  # torch knows no such name
        found = torch.device(name)
        why = fault(found)
        if not why:
            return found
    known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if found is not None and f"{found.type}:{found.index or 0}" in known:
        raise GalleryError(f"device {name!r} cannot be used ({why}); use --device cpu")
    raise UnknownNameError(
        f"device {name!r} is not on this machine, torch {torch.__version__} sees: {', '.join(known)}"
    )


def fault(device: torch.device) -> str:
    """Why nothing runs on the device, in a line; "" where a small kernel did: a full card has no room for its context,
    and one that this torch has no kernels for still hands out memory."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a card too old; the error says so
            ones = torch.ones(2, 2, device=device)
            (ones @ ones).sum().item()
    except Exception as error:  # of a class for each way that a backend is missing or broken
        return first_line(error)
    return ""


def first_line(error: Exception) -> str:
    """The reason torch gives, without the advice below it."""
    return textwrap.shorten((str(error).strip() or type(error).__name__).splitlines()[0], 160, placeholder=" ...")


def on_device(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """The array as a tensor there. One that is read-only is copied: torch warns of sharing it."""
    import torch

    return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)


def block_bytes(device: torch.device) -> int:
    """Bytes for one block of scores, a power of two: a little more free memory may not change how sums are rounded."""
    import torch

    if device.type != "cuda":
        return CPU_BLOCK
    sixteenth = torch.cuda.mem_get_info(device)[0] // 16
    return max(CPU_BLOCK, min(GPU_BLOCK, 1 << max(0, sixteenth.bit_length() - 1)))


def _batch_rows(device: torch.device, dim: int) -> int:
    """Rows of one batch: as float16, float32, residuals and these by sub-vector they take about 16 bytes a number."""
    return min(MOST_ROWS, max(LEAST_ROWS, block_bytes(device) // (16 * dim)))


def stream(
    vectors: Vectors, device: torch.device, at_once: int | None = None, rows: Rows | None = None
) -> Iterator[torch.Tensor]:
    """The rows (all, or those named) in order, in batches float16 (up to at_once, D) on the device.

    Threads read ahead; on CUDA through pinned memory, the next batch on its way while this one is worked on.
    """
    import torch

    at_once = at_once or _batch_rows(device, vectors.shape[1])
    parts = [slice(at, at + at_once) for at in range(0, len(vectors) if rows is None else len(rows), at_once)]
    if isinstance(vectors, torch.Tensor):
        for part in parts:
            yield vectors[part] if rows is None else vectors[on_device(rows[part], vectors.device)]
        return
    table, cuda = vectors, device.type == "cuda"

    def read(part: slice) -> torch.Tensor:
        found = table[part] if rows is None else taken(table, rows[part])
        held = torch.empty(found.shape, dtype=torch.float16, pin_memory=cuda)
        np.copyto(held.numpy(), found)  # here the pages of a memory map are read, and other threads may run
        release(table)
        return held

    copier = torch.cuda.Stream(device) if cuda else None

    def moved(held: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        if copier is None:
            return held.to(device), None
        with torch.cuda.stream(copier):
            batch = held.to(device, non_blocking=True)
            return batch, copier.record_event()

    def arrived(batch: torch.Tensor, event: torch.cuda.Event | None) -> torch.Tensor:
        if event is not None:
            user = torch.cuda.current_stream(device)
            user.wait_event(event)
            batch.record_stream(user)  # its memory is the copier's: not to be reused before the user is done
        return batch

    with ThreadPoolExecutor(READERS) as pool:
        ahead = deque(pool.submit(read, part) for part in parts[: READERS + 1])
        following = None
        for number in range(len(parts)):
            waiting, following = following, moved(ahead.popleft().result())
            if number + READERS + 1 < len(parts):
                ahead.append(pool.submit(read, parts[number + READERS + 1]))
            if waiting is not None:
                yield arrived(*waiting)
        if following is not None:
            yield arrived(*following)


def resident(vectors: npt.NDArray[np.float16], device: torch.device) -> torch.Tensor:
    """All rows on the device, float16 (N, D), for ``exact_search`` and ``rerank_scores`` that are asked again."""
    import torch

    held = torch.empty(vectors.shape, dtype=torch.float16, device=device)
    start = 0
    for batch in stream(vectors, device):
        held[start : start + len(batch)] = batch
        start += len(batch)
    return held
