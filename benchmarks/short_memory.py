"""What a gallery reads from the disk where memory cannot hold its vectors, in a memory group of the caller's (Linux).

    systemd-run --scope -p MemoryMax=1700M python -m benchmarks.short_memory GALLERY

Queries are rows of the gallery, others in each batch; its files are dropped from the system's cache first. For each
batch: queries a second, and pages of 4 KiB that had to be read for a query (major faults), which are the same on a busy
machine.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path

import click
import numpy as np

from benchmarks.galleries import Served
from benchmarks.processes import Memory, drop_from_cache
from index.exact import as_float32
from index.gallery import Gallery

BATCHES, K = 8, 10


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--queries", default=2000, show_default=True, help="In a batch.")
@click.option("--recall", default=0.95, show_default=True)
def main(path: Path, queries: int, recall: float) -> None:
    """Drop the gallery from the cache, open it, ask BATCHES batches."""
    gallery = Gallery.open(path)
    rows = np.random.default_rng(0).choice(gallery.manifest.rows, BATCHES * queries, replace=False)
    asked, at = np.empty((len(rows), gallery.manifest.layout.dim), np.float32), 0
    for piece in gallery.embeddings():  # from the table: reading them warms no page of the mapped vectors
        here = np.flatnonzero((rows >= at) & (rows < at + len(piece)))
        asked[here] = as_float32(piece[rows[here] - at])
        at += len(piece)
    drop_from_cache(gallery.named_files())
    served = Served.open(gallery)
    for batch in range(BATCHES):
        faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_majflt, time.perf_counter()
        served.ask(asked[batch * queries : (batch + 1) * queries], K, recall=recall)
        seconds = time.perf_counter() - start
        pages = (resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults) / queries
        click.echo(f"batch {batch + 1}: {queries / seconds:,.0f} queries a second, {pages:.1f} pages a query")
    click.echo(f"resident at the end: {Memory.of()}")


if __name__ == "__main__":
    main()
