"""What our layer takes over FAISS's own call: settings, checks, order and ties, ids and two labels joined.

    python -m benchmarks.layer --rows 100000 --dim 256 --work runs/layer

The gallery is that of ``benchmarks.peers``. Ours and FAISS's own call (candidates and rerank at the same setting) in
turn: a batch on all cores by the clock, the median ratio of two that follow each other; one query after another on one
core in processor time, medians.
"""

from __future__ import annotations

import os
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

ROUNDS, ALONE, QUERIES, K = 50, 800, 2000, 10


def taken(clock: Callable[[], float], ask: Callable[..., Any], queries: Float32, recall: float) -> float:
    start = clock()
    ask(queries, K, recall=recall)
    return clock() - start


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
    for asked in (0.90, 0.95, 0.99):
        ways, singles = (served.ask, served.raw), [data.queries[i % QUERIES][None] for i in range(ALONE)]
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        together = np.array(
            [[taken(time.perf_counter, way, data.queries, asked) for way in ways] for _ in range(ROUNDS)]
        )
        faiss.omp_set_num_threads(1)
        alone = np.median([[taken(time.thread_time, way, each, asked) for way in ways] for each in singles], axis=0)
        ours, raw = np.median(together, axis=0) / QUERIES * 1e6
        more = 100 * (np.median(together[:, 0] / together[:, 1]) - 1)
        alone *= 1e6
        click.echo(
            f"recall {asked}: in batch {ours:.2f} us a query, FAISS {raw:.2f} ({more:+.1f}%); "
            f"alone {alone[0]:.0f} us, FAISS {alone[1]:.0f} (+{alone[0] - alone[1]:.0f} us)"
        )


if __name__ == "__main__":
    main()
