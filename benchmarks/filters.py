"""Milliseconds that filter expressions take over generated columns of 3,000,000 rows, first and later, on one core.

python benchmarks/filters.py [ROWS]
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import click
import numpy as np
import pyarrow as pa

from index import filters

CHUNKS = 30
EXPRESSIONS = (
    "gender=Women", "color=Navy Blue", "color!=Black", "color in (Navy Blue, Black, Grey)", "width>=200", "price<50",
    "price between 10 and 20", "price is null", "id=item-5-3",
    f"id in ({', '.join(f'item-{i}-3' for i in range(1000))})",
    "gender=Women and (color=Navy Blue or color=Black) and not price > 100",
)  # fmt: skip


def generated(rows: int) -> pa.Table:
    """Labels with blanks, prices as text, ids and widths, in chunks as a gallery's parts give them."""
    rng, size = np.random.default_rng(0), rows // CHUNKS
    colors = np.array(["Navy Blue", "Black", "White", "Grey", None, *(f"color {i}" for i in range(40))], object)
    genders = np.array(["Women", "Men", None], object)
    parts = [
        {
            "color": pa.array(rng.choice(colors, size), pa.string()),
            "gender": pa.array(rng.choice(genders, size), pa.string()),
            "price": pa.array([None if v < 5 else f"{v:.2f}" for v in rng.gamma(2, 30, size)], pa.string()),
            "id": pa.array([f"item-{i}-{part}" for i in range(size)], pa.string()),
            "width": pa.array(rng.integers(10, 2000, size).astype(np.int32)),
        }
        for part in range(CHUNKS)
    ]
    return pa.concat_tables([pa.table(part) for part in parts])


@click.command()
@click.argument("rows", default=3_000_000)
def main(rows: int) -> None:
    """Print a line an expression."""
    pa.set_cpu_count(1)
    table = generated(rows)
    manifest = SimpleNamespace(labels=["color", "gender", "price"], attributes=[])
    columns = filters.Columns(SimpleNamespace(manifest=manifest, columns=table.select))
    for text in EXPRESSIONS:
        taken = []
        for _ in range(4):
            start = time.perf_counter()
            read = filters.parse(text)
            assert read is not None
            passed = len(filters.passing(columns, read))
            taken.append(1000 * (time.perf_counter() - start))
        click.echo(f"{text[:70]:<72} first {taken[0]:6.1f}, then {min(taken):6.1f} ms, {passed:,} rows")


if __name__ == "__main__":
    main()
