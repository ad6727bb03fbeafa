"""Index builds and exact search in torch on a device, beside FAISS on the CPU, in one run; JSON.

    python benchmarks/accelerate.py --rows 100000 --dim 256 --device cpu --out accelerate.json

Generated structured vectors in a memory-mapped file. For each way: seconds to read the table, to train (k-means and
codebooks on the same sample) and to assign and encode all rows, and recall@10 of both indexes at the same probes and
rerank. Then exact search: queries a second alone and together over the table held by the device, and over the file.
Bounds, measured first: bytes a second of a large copy, FLOP a second of a large matrix product (float16 on CUDA, else
float32). "of bound" is the least time that these allow divided by the time taken. Threads: OMP_NUM_THREADS for both.
The warm-up is a build of 20,000 rows. Under a minute at the size above, on one core.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import faiss
import numpy as np
import torch

from index import accelerate, exact
from index.approximate import ApproximateIndex
from index.exact import as_float32
from index.hits import recall
from index.recipe import choose
from index.synthetic import vectors
from index.table import Layout

QUERIES, K, ROUNDS = 256, 10, (10, 12)
SETTINGS = ((8, 64), (32, 64), (32, 256))  # (lists probed, rows reranked)


def seconds(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result), the device's own work waited for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result


def bounds(device: torch.device) -> dict[str, float]:
    """The best of five: bytes a second that a copy reads and writes, FLOP a second of a matrix product."""
    cuda = device.type == "cuda"
    source = torch.ones((1 << 32) if cuda else (1 << 28), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    side, kind = (8192, torch.float16) if cuda else (2048, torch.float32)
    a, b = (torch.rand(side, side, device=device).to(kind) for _ in range(2))
    copied = min(seconds(device, lambda: target.copy_(source))[0] for _ in range(5))
    multiplied = min(seconds(device, lambda: a @ b)[0] for _ in range(5))
    return {"bytes_a_second": 2 * len(source) / copied, "flop_a_second": 2 * side**3 / multiplied}


def build_with_faiss(table: np.ndarray, knobs: dict[str, Any], sample: np.ndarray) -> tuple[Any, dict[str, float]]:
    dim, cpu = table.shape[1], torch.device("cpu")
    padded = -(-dim // knobs["pq_m"]) * knobs["pq_m"]
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(padded), padded, knobs["nlist"], knobs["pq_m"], 8, faiss.METRIC_INNER_PRODUCT
    )
    for clustering, rounds in zip((index.cp, index.pq.cp), ROUNDS, strict=True):
        clustering.niter, clustering.seed, clustering.min_points_per_centroid = rounds, 0, 1
    pieces = [table[at : at + 8192] for at in range(0, len(table), 8192)]

    def wide(piece: np.ndarray) -> np.ndarray:
        return np.pad(as_float32(piece), ((0, 0), (0, padded - dim)))

    read = seconds(cpu, lambda: [wide(piece)[-1] for piece in pieces])[0]
    train = seconds(cpu, lambda: index.train(wide(table.take(sample, axis=0))))[0]
    encode = seconds(cpu, lambda: [index.add(wide(piece)) for piece in pieces])[0]
    return index, {"read": read, "train": train, "read and encode": encode, "total": train + encode}


def build_with_torch(
    table: np.ndarray, knobs: dict[str, Any], sample: np.ndarray, device: torch.device
) -> tuple[Any, dict[str, float]]:
    read = seconds(device, lambda: [len(batch) for batch in accelerate.stream(table, device)])[0]
    train, (centroids, codebooks) = seconds(
        device, lambda: accelerate.train(
            table, **knobs, nbits=8, sample=sample, seed=0, device=device, rounds=ROUNDS
        )
    )  # fmt: skip
    encode, (lists, codes) = seconds(device, lambda: accelerate.encode(table, centroids, codebooks))
    fill, index = seconds(
        device, lambda: accelerate.assemble(centroids.cpu().numpy(), codebooks.cpu().numpy(), lists, codes)
    )
    return index, {
        "read": read, "train": train, "read and encode": encode, "fill lists": fill, "total": train + encode + fill,
    }  # fmt: skip


def flops(rows: int, dim: int, knobs: dict[str, Any], sample: int) -> dict[str, float]:
    """Of the matrix products only: comparing rows with centroids, sub-vectors with codebooks."""
    centroids, codes = 2 * dim * knobs["nlist"], 2 * dim * 256
    training = ROUNDS[0] * sample * centroids + ROUNDS[1] * min(sample, 256 * 256) * codes
    return {"train": training, "read and encode": rows * (centroids + codes)}


def searches(table: np.ndarray, queries: np.ndarray, device: torch.device, bound: dict[str, float]) -> dict[str, Any]:
    held = accelerate.resident(table, device)
    accelerate.exact_search(held, queries[:8], K, device)

    def rate(vectors: Any, asked: np.ndarray, times: int) -> float:
        def work() -> None:
            for _ in range(times):
                accelerate.exact_search(vectors, asked, K, device)

        return times * len(asked) / seconds(device, work)[0]

    alone, together = rate(held, queries[:1], 10), rate(held, queries, 2)
    numbers = table.size
    # alone: the table is read once; together: as float16 halves two products for each number, on the CPU one
    products = 2 if device.type == "cuda" else 1
    once = bound["bytes_a_second"] / (2 * numbers)  # readings of the table a second
    most = min(bound["flop_a_second"] / (2 * products * numbers), len(queries) * once)
    return {
        "queries a second, alone": alone,
        "alone, of bound": alone / once,
        f"queries a second, {len(queries)} together": together,
        "together, of bound": together / most,
        f"queries a second, {len(queries)} together, from the file": rate(table, queries, 1),
        "index.exact, together": len(queries) / seconds(device, lambda: exact.search(table, queries, K))[0],
    }


@click.command()
@click.option("--rows", default=100_000, show_default=True)
@click.option("--dim", default=256, show_default=True, help="Dimensions, two blocks.")
@click.option("--device", "name", help="torch device; a GPU if there is one.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON.")
def main(rows: int, dim: int, name: str | None, out: Path | None) -> None:
    device = accelerate.device(name)
    layout = Layout.of({"look": dim - dim // 4, "color": dim // 4})
    recipe = choose(rows, dim, "ivfpq")
    knobs = {"nlist": recipe.nlist, "pq_m": recipe.pq_m}
    sample = np.sort(np.random.default_rng(0).choice(rows, recipe.train_rows, replace=False))
    with tempfile.TemporaryDirectory() as folder:
        fresh, left, path = [], rows, Path(folder) / "vectors.f16"
        with path.open("wb") as file:
            for batch in vectors(layout, rows + QUERIES):
                file.write(batch[:left].tobytes())
                fresh.append(batch[left:])
                left = max(0, left - len(batch))
        table = np.asarray(np.memmap(path, np.float16, "r", shape=(rows, dim)))
        queries = as_float32(np.concatenate(fresh))
        few = np.arange(min(rows, 20_000))
        accelerate.build_ivfpq(
            table[:20_000], nlist=64, pq_m=recipe.pq_m, sample=few, device=device, rounds=(1, 1)
        )  # fmt: skip
        bound = bounds(device)
        theirs, faiss_seconds = build_with_faiss(table, knobs, sample)
        ours, torch_seconds = build_with_torch(table, knobs, sample, device)
        truth = exact.search(table, queries, K)
        recalls = {
            f"{nprobe} lists, {rerank} reranked": {
                way: recall(ApproximateIndex(index, table).search(queries, K, nprobe=nprobe, rerank=rerank), truth, K)
                for way, index in (("faiss", theirs), ("torch", ours))
            }
            for nprobe, rerank in SETTINGS
        }
        least = {phase: work / bound["flop_a_second"] for phase, work in flops(rows, dim, knobs, len(sample)).items()}
        report = {
            "rows": rows, "dim": dim, **knobs, "train rows": len(sample), "device": str(device),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "threads": torch.get_num_threads(), "torch": torch.__version__, "faiss": faiss.__version__,
            "bounds": bound, "faiss on the CPU, seconds": faiss_seconds, "torch, seconds": torch_seconds,
            "torch, of bound": {phase: least[phase] / torch_seconds[phase] for phase in least},
            "faiss / torch": faiss_seconds["total"] / torch_seconds["total"],
            "recall@10": recalls, "exact search": searches(table, queries, device, bound),
        }  # fmt: skip
    text = json.dumps(report, indent=1)
    click.echo(text)
    if out:
        out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
