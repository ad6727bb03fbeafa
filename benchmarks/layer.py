"""What our layer takes over FAISS's own call: settings, checks, order and ties, ids and two labels joined.

    OMP_NUM_THREADS=1 python -m benchmarks.layer --rows 100000 --dim 256 --work runs/layer

The gallery is that of ``benchmarks.peers``. Processor time of one thread, so that other work on the machine counts
little; ours and FAISS's own call (candidates and rerank at the same setting) in turn, medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import faiss
import numpy as np

from benchmarks import engines
from benchmarks.galleries import Served
from benchmarks.peers import make_data, read_data
from index.exact import Float32
from index.gallery import Gallery

ROUNDS, ALONE, QUERIES, K = 12, 800, 2000, 10


def taken(ask: Callable[..., Any], queries: Float32, recall: float) -> float:
    """Seconds of this thread's processor time."""
    start = time.thread_time()
    ask(queries, K, recall=recall)
    return time.thread_time() - start


@click.command()
@click.option("--rows", default=100_000, show_default=True)
@click.option("--dim", default=256, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/layer"), show_default=True)
def main(rows: int, dim: int, work: Path) -> None:
    """Build the gallery if it is not there, ask it many queries together and one by one."""
    make_data(work / "data", rows, dim, QUERIES, K, 0)
    data = read_data(work / "data", rows, dim)
    if not (work / "gallery").is_dir():
        engines.ours_prepare(data.table, work / "gallery")
        engines.ours_build(data.table, work / "gallery", 1, kind="auto")
    served = Served.open(Gallery.open(work / "gallery"))
    if not served.has_raw:
        raise click.ClickException("this kind of index has no single call of FAISS to compare with")
    faiss.omp_set_num_threads(1)
    for asked in (0.90, 0.95, 0.99):
        ways, singles = (served.ask, served.raw), [data.queries[i % QUERIES][None] for i in range(ALONE)]
        together = [[taken(way, data.queries, asked) for way in ways] for _ in range(ROUNDS)]
        one_by_one = [[taken(way, query, asked) for way in ways] for query in singles]
        ours, raw = np.median(together, axis=0) / QUERIES * 1e6
        alone = np.median(one_by_one, axis=0) * 1e6
        click.echo(
            f"recall {asked}: in batch {ours:.2f} us a query, FAISS {raw:.2f} ({100 * (ours / raw - 1):+.1f}%); "
            f"alone {alone[0]:.0f} us, FAISS {alone[1]:.0f} (+{alone[0] - alone[1]:.0f} us)"
        )


if __name__ == "__main__":
    main()
