"""Millions of vectors through a gallery: build time, memory and latency, from the Parquet table to served queries.

    python -m benchmarks.scale --rows 100000 --rows 1000000 --rows 3200000 --dim 1024 --work runs/scale

Each size is written as a gallery (generated vectors, ids, two label columns; a stream, parts of 64 MB), read once for
comparison, indexed, asked, and compared with exact search, each step in a process of its own. Needs about twice the
vectors on disk (13 GB for 3.2 M x 1,024) beside the index; --remove clears a size when it is done. Finished steps are
kept: the table by its manifest, the rest in WORK/scale.json by the table's fingerprint and the code of index/.

Memory is looked at 20 times a second: "own" is anonymous memory, "total" adds pages of mapped files, which the kernel
can take back; both are of the whole process, imports included. --limit MB makes the build fail where it asks for more
private memory (RLIMIT_DATA, which counts what is asked for, not only what is touched). Cold: the files' pages were
dropped from the kernel's cache first.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import processes
from benchmarks.galleries import Served, build_index, mapped_bytes, write_gallery
from benchmarks.processes import MB, record
from index import exact, synthetic
from index.errors import FsearchError
from index.exact import as_float32
from index.files import atomic_write, remove
from index.gallery import Gallery
from index.hits import Hits, recall
from index.table import Layout

HELD_OUT, K = 1000, 4
QUERIES = "queries.f16"  # beside the gallery
STEPS = ("read", "build", "truth", "serve")


def layout_of(dim: int) -> Layout:
    """Half the dimensions say what a photo looks like, eight blocks share the rest."""
    return Layout.of({"look": dim // 2, **{f"attribute {i}": dim // 16 for i in range(8)}})


def made_from(rows: int, dim: int, seed: int) -> str:
    """Fingerprint of the generated vectors: their generator's code and its arguments."""
    source = Path(synthetic.__file__).read_bytes()
    return hashlib.sha256(source + repr((layout_of(dim), rows, HELD_OUT, seed)).encode()).hexdigest()


# each in a process of its own


def write(told: dict[str, Any], log: Path) -> None:
    """The gallery's table, and the queries that are not in it."""
    folder, rows, dim = Path(told["folder"]), told["rows"], told["dim"]
    queries: list[np.ndarray] = []

    def batches() -> Any:
        start = 0
        for batch in synthetic.vectors(layout_of(dim), rows + HELD_OUT, seed=told["seed"]):
            yield batch[: max(0, rows - start)]
            queries.append(batch[max(0, rows - start) :])
            start += len(batch)

    start = time.perf_counter()
    write_gallery(folder / "gallery", layout_of(dim), batches(), made_from(rows, dim, told["seed"]))
    atomic_write(folder / QUERIES, np.concatenate(queries).tobytes())
    record(log, "done", seconds=time.perf_counter() - start)


def read(told: dict[str, Any], log: Path) -> None:
    """The table's embeddings once from start to end, touched: the least that any build must do."""
    gallery = Gallery.open(Path(told["folder"]) / "gallery")
    processes.drop_from_cache(gallery.part_paths)
    start, total = time.perf_counter(), np.float32(0)
    for batch in gallery.embeddings():
        total += as_float32(batch[:, 0]).sum() + batch[:, -1].view(np.uint16).max()
    size = gallery.manifest.rows * gallery.manifest.layout.dim * 2
    seconds = time.perf_counter() - start
    record(log, "done", seconds=seconds, mb_per_second=size / MB / seconds)


def stage_of(stack: list[str]) -> str | None:
    """What a build is at, by the functions it is in, outermost first ("file.function"); see processes.Stages."""
    if "build.build_generation" not in stack:
        return None
    inside = stack[stack.index("build.build_generation") + 1 :]
    stages = {
        "choose": ("trial.fitted",),
        "read and write vectors": ("build._write_vectors",),
        "measure": ("tuning.measure",),
        "look for copies": ("graph.crowding",),
        "encode": ("graph.fill", "approximate._add", "training.encode"),
        "train": ("approximate.build", "accelerate.build", "recipes.build"),
        "write index": ("build._write_index", "files.sha256_file", "files.file_facts", "files.fsync"),
    }
    for stage, marks in stages.items():
        if any(mark in inside for mark in marks):
            return stage
    return inside[0] if inside else "build_generation"


def least(facts: dict[str, Any]) -> float:
    """Seconds that no build can do without: the table read once, and of the build itself training and encoding."""
    stages = facts["build"]["stages"]
    return float(facts["read"]["seconds"] + stages.get("train", 0) + stages.get("encode", 0))


def build(told: dict[str, Any], log: Path) -> None:
    gallery = Gallery.open(Path(told["folder"]) / "gallery")
    processes.drop_from_cache(gallery.part_paths)
    if told["limit"]:
        resource.setrlimit(resource.RLIMIT_DATA, (told["limit"] * MB, told["limit"] * MB))
    before = processes.Memory.of()
    start = time.perf_counter()
    with processes.Stages(stage_of) as stages:
        generation = build_index(gallery, **told["build"])
    seconds = time.perf_counter() - start
    sizes = {name: facts["bytes"] for name, facts in generation.files.items()}
    record(log, "done", seconds=seconds, before=before.anonymous if before else 0, stages=stages.seconds,
           recipe=generation.recipe, files=sizes)  # fmt: skip


def queries_of(told: dict[str, Any]) -> exact.Float32:
    return as_float32(np.fromfile(Path(told["folder"]) / QUERIES, np.float16).reshape(HELD_OUT, told["dim"]))


def truth(told: dict[str, Any], log: Path) -> None:
    """The exact answers to the queries, streamed from the table."""
    gallery = Gallery.open(Path(told["folder"]) / "gallery")
    start = time.perf_counter()
    found = exact.search(gallery.embeddings(), queries_of(told), K)
    record(log, "done", seconds=time.perf_counter() - start, rows=found.rows.tolist(), scores=found.scores.tolist())


def serve(told: dict[str, Any], log: Path) -> None:
    """Open, answer the held-out queries one by one (cold, then warm), then together."""
    import faiss

    gallery = Gallery.open(Path(told["folder"]) / "gallery")
    processes.drop_from_cache(gallery.named_files())
    queries = queries_of(told)
    before = processes.Memory.of() or processes.Memory(0, 0)
    start = time.perf_counter()
    served = Served.open(gallery)
    opened = time.perf_counter() - start
    knobs = told["search"]

    def ask(asked: exact.Float32) -> Hits:
        return served.ask(asked, K, **knobs)

    faiss.omp_set_num_threads(1)
    cold = processes.latencies(lambda i: ask(queries[i : i + 1]), HELD_OUT)
    after = processes.Memory.of() or before
    warm = processes.latencies(lambda i: ask(queries[i : i + 1]), HELD_OUT)
    faiss.omp_set_num_threads(told["threads"])
    rate = HELD_OUT / processes.best_seconds(lambda: ask(queries), rounds=5)[0]
    rows, scores = (np.array(told["truth"][name], kind) for name, kind in (("rows", np.int64), ("scores", np.float32)))
    exactly = Hits(rows, scores, np.full(HELD_OUT, K))
    record(
        log, "done", seconds_to_open=opened, cold=cold, warm=warm, batch_rate=rate,
        recall=recall(ask(queries), exactly, K),
        own=after.anonymous - before.anonymous, own_with_imports=after.anonymous, total=after.total,
        mapped_file=mapped_bytes(gallery),
    )  # fmt: skip


# the run


def code() -> str:
    """Fingerprint of index/: what was measured of other code is measured again."""
    sources = sorted((processes.ROOT / "index").rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]


def table_is_there(folder: Path, rows: int, dim: int, seed: int) -> bool:
    """A finished gallery of the same generator and arguments, every file of its size, and its queries."""
    try:
        manifest = Gallery.open(folder / "gallery").manifest
    except FsearchError:
        return False
    queries = folder / QUERIES
    sound = queries.is_file() and queries.stat().st_size == HELD_OUT * dim * 2
    return sound and manifest.source["fingerprint"] == made_from(rows, dim, seed) and manifest.rows == rows


def measure(told: dict[str, Any], facts: dict[str, Any], save: Any, timeout: float) -> bool:
    """All steps of one size that are not done; False when one failed."""

    def step(name: str, **more: Any) -> bool:
        click.echo(f"{told['rows']:,} x {told['dim']}: {name}", err=True)
        log = Path(told["folder"]) / f"{name}.jsonl"
        arguments = ["child", name, json.dumps(told | more)]
        ran = processes.run("benchmarks.scale", arguments, log, timeout=timeout, threads=told["threads"])
        facts[name] = ran.last("done") | {"peak_own": ran.peak_anonymous, "peak_total": ran.peak_total}
        if not ran.last("done"):
            facts[name]["failed"] = f"stopped after {timeout:.0f} s" if ran.code is None else f"exit code {ran.code}"
        save()
        return bool(ran.last("done"))

    made = made_from(told["rows"], told["dim"], told["seed"])
    if not table_is_there(Path(told["folder"]), told["rows"], told["dim"], told["seed"]):
        facts.clear()
        if not step("write"):
            return False
    stamps = {
        "read": [made], "truth": [made], "build": [made, code(), told["build"], told["limit"], told["threads"]],
        "serve": [made, code(), told["build"], told["limit"], told["threads"], told["search"]],
    }  # fmt: skip
    for name in STEPS:
        current = Gallery.read_manifest(Path(told["folder"]) / "gallery").generation
        stamp = [*stamps[name], *([current] if name == "serve" else [])]
        done = facts.get(name, {}).get("stamp") == stamp and (name != "build" or current is not None)
        if not done:
            if not step(name, **({"truth": facts["truth"]} if name == "serve" else {})):
                return False
            facts[name]["stamp"] = stamp
            save()
    return True


def report(runs: dict[str, Any]) -> str:
    """Markdown: one line a size."""
    lines = [
        "| rows | read once s | build s (over reading, training, encoding) | of it | build peak MB: own, total |"
        " serving MB: own, total |"
        " open s | cold p50 / p99 ms | warm p50 / p99 ms | batch q/s | recall@4 |",
        "|---:" * 4 + "|---|---:|---:|---|---|---:|---:|",
    ]
    for facts in runs.values():
        rows = f"{facts['parameters']['rows']:,}"
        failed = [f"{name} {facts[name]['failed']}" for name in ("write", *STEPS) if "failed" in facts.get(name, {})]
        if failed or "serve" not in facts:
            lines.append(f"| {rows} | {'; '.join(failed) or 'unfinished'} |" + " |" * 9)
            continue
        reading, built, served = facts["read"]["seconds"], facts["build"], facts["serve"]
        stages = sorted(built["stages"].items(), key=lambda each: -each[1])
        split = ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages if seconds > built["seconds"] / 100)
        times = [f"{served[kind]['p50_ms']:.2f} / {served[kind]['p99_ms']:.2f}" for kind in ("cold", "warm")]
        lines.append(
            f"| {rows} | {reading:.1f} | {built['seconds']:.1f} ({built['seconds'] / least(facts):.2f}x) |"
            f" {split} | {built['peak_own'] / MB:,.0f}, {built['peak_total'] / MB:,.0f} |"
            f" {served['own_with_imports'] / MB:,.0f}, {served['total'] / MB:,.0f} | {served['seconds_to_open']:.1f} |"
            f" {times[0]} | {times[1]} | {served['batch_rate']:,.0f} | {served['recall']:.3f} |"
        )
    return "\n".join(lines)


def plot(runs: dict[str, Any], path: Path) -> None:
    """Build seconds, memory and latency against the number of vectors."""
    try:
        import matplotlib
    except ImportError:
        return click.echo("no plot: pip install matplotlib", err=True)
    matplotlib.use("agg")
    from matplotlib import pyplot

    good = sorted(
        (each for each in runs.values() if "recall" in each.get("serve", {})), key=lambda e: e["parameters"]["rows"]
    )
    rows = [each["parameters"]["rows"] for each in good]
    figure, (time_axes, memory_axes, latency_axes) = pyplot.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    time_axes.plot(rows, [each["read"]["seconds"] for each in good], "o--", label="reading the table once")
    time_axes.plot(rows, [least(each) for each in good], "o--", label="and training and encoding alone")
    time_axes.plot(rows, [each["build"]["seconds"] for each in good], "o-", label="build")
    memory_axes.plot(rows, [each["build"]["peak_total"] / MB for each in good], "o-", label="build, peak")
    memory_axes.plot(rows, [each["build"]["peak_own"] / MB for each in good], "o-", label="build, peak, own")
    memory_axes.plot(rows, [each["serve"]["own_with_imports"] / MB for each in good], "o-", label="serving, own")
    memory_axes.plot(rows, [each["serve"]["mapped_file"] / MB for each in good], "o:", label="vectors on disk, mapped")
    for kind, quantile in (("warm", "p50_ms"), ("warm", "p99_ms"), ("cold", "p99_ms")):
        latency_axes.plot(rows, [e["serve"][kind][quantile] for e in good], "o-", label=f"{kind} {quantile[:3]}")
    for axes, label in ((time_axes, "seconds"), (memory_axes, "MB"), (latency_axes, "ms, one query")):
        axes.set(xscale="log", yscale="log", xlabel="vectors", ylabel=label)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


@click.command()
@click.option("--rows", "sizes", type=int, multiple=True, default=(100_000, 1_000_000, 3_200_000), show_default=True)
@click.option("--dim", default=1024, show_default=True, help="A multiple of 16.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=os.cpu_count(), show_default="all cores")
@click.option("--limit", default=0, metavar="MB", help="Private memory that the build may ask for; 0: any.")
@click.option("--build", default="{}", metavar="JSON", help="Arguments of build_generation, as a memory cap.")
@click.option("--search", default="{}", metavar="JSON", help="Arguments of each search, as recall.")
@click.option("--timeout", default=14_400.0, show_default=True, help="Seconds for one step.")
@click.option("--remove", "clear", is_flag=True, help="Remove each gallery when all of it is measured.")
@click.option("--work", type=click.Path(path_type=Path), default="runs/scale", show_default=True)
@click.option("--plot", "picture", type=click.Path(path_type=Path))
def main(
    sizes: tuple[int, ...], build: str, search: str, timeout: float, clear: bool, work: Path, picture: Path | None,
    **told: int,
) -> None:  # fmt: skip
    """Measure each size, print Markdown; exit code 1 when a step failed."""
    if told["dim"] % 16:
        raise click.UsageError("--dim must be a multiple of 16")
    work = work.resolve()
    path = work / "scale.json"
    runs = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    good = True
    for rows in sizes:
        name = f"{rows}x{told['dim']}-seed{told['seed']}"
        settings = {"build": json.loads(build), "search": json.loads(search), "folder": str(work / name)}
        every: dict[str, Any] = told | settings | {"rows": rows}
        facts = runs.setdefault(name, {})

        def save(facts: dict[str, Any] = facts, every: dict[str, Any] = every) -> None:
            facts |= {"parameters": every, "machine": processes.machine()}
            atomic_write(path, (json.dumps(runs, indent=1) + "\n").encode())

        done = measure(every, facts, save, timeout)
        good &= done
        if done and clear:
            remove(work / name)
    click.echo(report(runs))
    if picture:
        plot(runs, picture)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    if sys.argv[2:3] == ["child"]:
        steps = {"write": write, "read": read, "build": build, "truth": truth, "serve": serve}
        steps[sys.argv[3]](json.loads(sys.argv[4]), Path(sys.argv[1]))
    else:
        main()
