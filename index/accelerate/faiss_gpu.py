"""An index on the GPU by FAISS itself, where the FAISS installed is its GPU build."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import faiss
from tqdm import tqdm


class OnGpu(NamedTuple):
    """index: on the GPU, or the one given. reason: why it stayed on the CPU, "" where it did not."""

    index: Any
    reason: str


def to_gpu(index: Any, *, filtered: bool = False, faiss: Any = faiss) -> OnGpu:
    """The index on the first GPU, to train, add to or search; else as it is, and why (said on stderr too).

    filtered: it will be searched with allowed rows, which FAISS's GPU indexes cannot do. There k and nprobe are at most
    2,048. ``faiss.index_gpu_to_cpu`` brings it back.
    """
    kind = type(index).__name__
    if not hasattr(faiss, "StandardGpuResources"):
        reason = f"FAISS {faiss.__version__} is the CPU build"
    elif faiss.get_num_gpus() < 1:
        reason = "FAISS sees no GPU"
    elif filtered:
        reason = "FAISS has no filters on the GPU"
    elif kind != "IndexIVFPQ":
        reason = f"only plain 8-bit IVF-PQ goes there, not {kind}"
    elif index.pq.nbits != 8:
        reason = f"FAISS has no codes of {index.pq.nbits} bits on the GPU"
    else:
        options = faiss.GpuClonerOptions()
        options.useFloat16 = index.pq.M > 48  # look-up tables of more parts fit the shared memory as float16 only
        try:
            return OnGpu(faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index, options), "")
        except RuntimeError as error:  # a number of parts it has no kernel for, or too little memory
            reason = str(error).strip().splitlines()[-1]
    tqdm.write(f"on the CPU: {reason}", file=sys.stderr)
    return OnGpu(index, reason)
