"""Vector engines and ours over the same vectors in one run: build, memory, recall@10, batch and single-query speed.

    pip install click tqdm pyarrow faiss-cpu hnswlib usearch scann voyager scalable-vs lancedb matplotlib
    python -m benchmarks.peers --rows 100000 --dim 256 --work runs/peers --plot runs/peers.png

The peers are no dependencies of this project: the first line is for an environment of their own, in which the second is
run from the repository root; those that are not there are skipped. Each engine builds, and sweeps its search knobs, in
processes of its own. Then the settings that reached recall 0.90, 0.95 and 0.99 fastest are measured again in rounds,
all engines in turn, so that a machine whose speed drifts is the same for all: medians of rounds, and ratios to hnswlib
in the same round. Results are kept in WORK/peers.json as they come; run again, it goes on where it stopped.

Build seconds and memory are those of turning a float16 memory map into a saved index (ours: the gallery's Parquet table
into a generation), in a fresh process; memory is the peak of anonymous pages less what imports held. "Own memory" is
what the opened index holds after its first batch. Recall is tie-aware; scores are computed anew from the vectors.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from benchmarks import peers_report, processes
from benchmarks.engines import ENGINES, Engine, Opened, describe, disk_bytes
from index import exact, synthetic
from index.exact import Float32, as_float32
from index.files import atomic_path, atomic_write, remove
from index.hits import Hits, Rows, rank_keys, recall
from index.table import Layout

TARGETS = (0.90, 0.95, 0.99)
REPEATS = 5  # of a batch, of which the fastest counts
ROUGHLY = 3  # in the sweep, which only chooses what to measure
SECONDS = 2.0  # a batch that would take longer is timed on fewer queries
ALONE = 300
SATURATED = 0.0005  # two steps of a knob that gain less end its sweep


class Data(NamedTuple):
    """table: float16 (N, D) memory map. queries: float32 (q, D), none of them a row. truth: their exact k best."""

    table: np.ndarray
    queries: Float32
    truth: Hits


def make_data(folder: Path, rows: int, dim: int, queries: int, k: int, seed: int) -> None:
    """Vectors, queries and truth, each once; what is there is kept if the same code made it for the same arguments."""
    source = Path(synthetic.__file__).read_bytes()
    made = hashlib.sha256(source + repr((rows, dim, queries, k, seed)).encode()).hexdigest()
    facts = folder / "data.json"
    if facts.is_file() and json.loads(facts.read_text())["made"] == made:
        return
    remove(folder)
    folder.mkdir(parents=True)
    start, last = 0, []
    with atomic_path(folder / "table.f16") as path, path.open("wb") as file:
        for batch in synthetic.vectors(Layout.of({"look": dim}), rows + queries, seed=seed):
            file.write(np.ascontiguousarray(batch[: max(0, rows - start)]).tobytes())
            last.append(batch[max(0, rows - start) :])
            start += len(batch)
    np.save(folder / "queries.npy", as_float32(np.concatenate(last)))
    table = np.asarray(np.memmap(folder / "table.f16", np.float16, "r", shape=(rows, dim)))
    truth = exact.search(table, np.load(folder / "queries.npy"), k)
    np.savez(folder / "truth.npz", rows=truth.rows, scores=truth.scores, counts=truth.counts)
    atomic_write(facts, json.dumps({"made": made}).encode())


def read_data(folder: Path, rows: int, dim: int) -> Data:
    table = np.asarray(np.memmap(folder / "table.f16", np.float16, "r", shape=(rows, dim)))
    with np.load(folder / "truth.npz") as truth:
        return Data(table, np.load(folder / "queries.npy"), Hits(truth["rows"], truth["scores"], truth["counts"]))


def scored(data: Data, rows: Rows) -> Hits:
    """A peer's rows (q, k) with exact scores; a row returned twice counts once."""
    rows = np.sort(rows, axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
    scores = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), 256):
        part = slice(start, start + 256)
        found = as_float32(data.table[np.maximum(rows[part], 0)])
        scores[part] = (found @ data.queries[part, :, None])[:, :, 0]
    keys = rank_keys(scores, np.maximum(rows, 0))
    keys[rows < 0] = 0
    return Hits.from_keys(keys, rows.shape[1])


# in a process of its own


def build(engine: Engine, data: Data, folder: Path, threads: int, log: Path) -> None:
    __import__(engine.module)
    before = processes.Memory.of()
    start = time.perf_counter()
    engine.build(data.table, folder, threads, **engine.settings)
    processes.record(log, "built", seconds=time.perf_counter() - start, before=before.anonymous if before else 0)


def sweep(engine: Engine, data: Data, folder: Path, threads: int, k: int, log: Path) -> None:
    """Every knob from low to high until recall 0.99 or no more gain; a rough speed for each."""
    __import__(engine.module)
    before = processes.Memory.of()
    opened = engine.open(folder, data.table, **engine.settings)
    first = True
    for knobs in engine.knobs(len(data.table)):
        gains: list[float] = []
        last = 0.0
        for setting in knobs:
            rows = opened.search(data.queries, k, threads, **setting)
            if first and (after := processes.Memory.of()) and before:
                held = max(0, after.anonymous - before.anonymous)
                processes.record(log, "memory", anonymous=held, mapped=opened.mapped)
                first = False
            reached = recall(scored(data, rows), data.truth, k)
            rate = batch_rates([opened.search], data.queries, k, threads, setting, ROUGHLY)[0]
            processes.record(log, "point", knobs=setting, recall=reached, rate=rate)
            gains.append(reached - last)
            last = reached
            # several recalls asked for may come to one setting of ours: no end of its curve
            if reached >= TARGETS[-1] or (not engine.ours and len(gains) > 4 and max(gains[-2:]) < SATURATED):
                break


def measure(engine: Engine, data: Data, folder: Path, threads: int, k: int, log: Path, chosen: Any) -> None:
    """One round: batches, and queries one by one, of the chosen settings."""
    opened = engine.open(folder, data.table, **engine.settings)
    for setting in chosen:
        calls = [opened.search, *filter(None, [opened.raw])]
        rates = batch_rates(calls, data.queries, k, threads, setting, REPEATS)
        facts: dict[str, Any] = {"rate": rates[0], **alone(opened, data.queries, k, setting)}
        if opened.raw is not None:
            facts["raw_rate"] = rates[1]
            facts["raw_p50_ms"] = alone(Opened(opened.raw), data.queries, k, setting)["p50_ms"]
        processes.record(log, "measured", knobs=setting, **facts)


def batch_rates(
    searches: list[Any], queries: Float32, k: int, threads: int, setting: dict[str, Any], rounds: int
) -> list[float]:
    """Queries a second asked together, for each of these calls, after a warm-up that says how many can be asked."""
    few = queries[:100]
    guess = processes.best_seconds(lambda: searches[0](few, k, threads, **setting), rounds=1, at_least=0)[0] / len(few)
    asked = queries[: max(100, int(SECONDS / guess))]
    works = [functools.partial(search, asked, k, threads, **setting) for search in searches]
    return [len(asked) / each for each in processes.best_seconds(*works, rounds=rounds)]


def alone(opened: Opened, queries: Float32, k: int, setting: dict[str, Any]) -> dict[str, float]:
    """p50 and p99 of queries asked one by one, on one thread."""

    def ask(i: int) -> Any:
        if opened.alone is not None:
            return opened.alone(queries[i % len(queries)], k, **setting)
        return opened.search(queries[i % len(queries)][None], k, 1, **setting)

    processes.latencies(ask, 20)
    return processes.latencies(ask, ALONE)


def child(arguments: list[str]) -> None:
    """LOG STAGE NAME JSON: one stage of one engine."""
    log, stage, name, told = Path(arguments[0]), arguments[1], arguments[2], json.loads(arguments[3])
    engine, folder = ENGINES[name], Path(told["folder"])
    data = read_data(Path(told["data"]), told["rows"], told["dim"])
    if stage == "prepare" and engine.prepare:
        engine.prepare(data.table, folder)
    elif stage == "build":
        build(engine, data, folder, told["threads"], log)
    elif stage == "sweep":
        sweep(engine, data, folder, told["threads"], told["k"], log)
    elif stage == "measure":
        measure(engine, data, folder, told["threads"], told["k"], log, told["chosen"])
    processes.record(log, "done", stage=stage)


# the run


class Bench:
    """What one run of the command knows: parameters, where things lie, and the results so far."""

    def __init__(self, work: Path, told: dict[str, Any], timeout: float) -> None:
        name = f"{told['rows']}x{told['dim']}-q{told['queries']}-k{told['k']}-seed{told['seed']}-t{told['threads']}"
        self.folder, self.told, self.timeout = work / name, told | {"data": str(work / name / "data")}, timeout
        self.path = work / "peers.json"
        self.all = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}
        self.run = self.all.setdefault(name, {"parameters": told, "machine": processes.machine(), "engines": {}})

    def save(self) -> None:
        atomic_write(self.path, (json.dumps(self.all, indent=1) + "\n").encode())

    def stage(self, name: str, stage: str, **more: Any) -> processes.Ran:
        told = self.told | {"folder": str(self.folder / name)} | more
        log = self.folder / f"{name}.jsonl"
        arguments = ["child", stage, name, json.dumps(told)]
        return processes.run("benchmarks.peers", arguments, log, timeout=self.timeout, threads=self.told["threads"])

    def engine(self, name: str) -> None:
        """Build and sweep, unless the results of the same engine are there."""
        engine, folder = ENGINES[name], self.folder / name
        found = self.run["engines"].get(name, {})
        if found.get("fingerprint") == engine.fingerprint() and (
            found["state"] == "finished" or found.get("timeout", 0) >= self.timeout
        ):
            return click.echo(f"{name}: {found['state']} before")
        facts: dict[str, Any] = {"fingerprint": engine.fingerprint(), "what": describe(engine), "timeout": self.timeout}
        self.run["engines"][name] = facts
        remove(folder)
        folder.mkdir(parents=True)
        for stage in ("prepare", "build", "sweep"):
            if stage == "prepare" and engine.prepare is None:
                continue
            click.echo(f"{name}: {stage}", err=True)
            ran = self.stage(name, stage)
            done = bool(ran.last("done"))
            facts["state"] = "finished" if done else _why(ran, stage, self.timeout)
            if stage == "build" and done:
                built = ran.last("built")
                facts |= {
                    "build_seconds": built["seconds"],
                    "build_memory": max(0, ran.peak_anonymous - built["before"]),
                    "disk": disk_bytes(folder, engine),
                }
            if stage == "sweep":
                facts["memory"] = ran.last("memory")
                facts["points"] = [each for each in ran.records if each["kind"] == "point"]
            self.save()
            if not done:
                break
        best = max((point["recall"] for point in facts.get("points", [])), default=0.0)
        click.echo(f"{name}: {facts['state']}, recall up to {best:.3f}")

    def rounds(self, names: list[str], count: int) -> None:
        """The chosen settings of these engines, all in turn, ``count`` times; goes on where it was stopped.

        A session is rounds of the same engines: another choice of engines, or one built anew, begins another.
        """
        finger = {name: self.run["engines"][name]["fingerprint"] for name in names}
        chosen = {name: candidates(self.run["engines"][name]["points"]) for name in names}
        sessions = self.run.setdefault("sessions", [])
        if not sessions or (sessions[-1]["made"], sessions[-1]["chosen"]) != (finger, chosen):
            sessions.append({"made": finger, "chosen": chosen, "done": []})
        rounds = sessions[-1]
        for number in range(count):
            if number == len(rounds["done"]):
                rounds["done"].append({})
            for name in names:
                if chosen[name] and name not in rounds["done"][number]:
                    click.echo(f"round {number + 1}: {name}", err=True)
                    ran = self.stage(name, "measure", chosen=chosen[name])
                    measured = [each for each in ran.records if each["kind"] == "measured"]
                    rounds["done"][number][name] = measured
                    self.save()


def _why(ran: processes.Ran, stage: str, timeout: float) -> str:
    if ran.code is None:
        return f"{stage} not finished in {timeout:.0f} s"
    return f"{stage} failed (exit code {ran.code})"


def candidates(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Settings worth measuring with care: for each target the two that seemed fastest; without any, the best recall."""
    found: list[dict[str, Any]] = []
    for target in TARGETS:
        reaching = sorted((each for each in points if each["recall"] >= target), key=lambda each: -each["rate"])
        found += [each["knobs"] for each in reaching[:2] if each["knobs"] not in found]
    return found or [max(points, key=lambda each: each["recall"])["knobs"]] if points else []


@click.command()
@click.option("--rows", default=100_000, show_default=True)
@click.option("--dim", default=256, show_default=True, help="A multiple of 8.")
@click.option("--queries", default=1000, show_default=True)
@click.option("--topk", "k", default=10, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=os.cpu_count(), show_default="all cores")
@click.option("--rounds", default=3, show_default=True)
@click.option("--timeout", default=1800.0, show_default=True, help="Seconds for one stage of one engine.")
@click.option("--only", default="", metavar="NAME,NAME", help=f"Of: {', '.join(ENGINES)}.")
@click.option("--work", type=click.Path(path_type=Path), default="runs/peers", show_default=True)
@click.option("--plot", "picture", type=click.Path(path_type=Path))
def main(only: str, rounds: int, timeout: float, work: Path, picture: Path | None, **told: int) -> None:
    """Build, sweep, measure in rounds, print Markdown."""
    names = only.split(",") if only else list(ENGINES)
    if unknown := [name for name in names if name not in ENGINES]:
        raise click.UsageError(f"no engine {unknown[0]!r}; known: {', '.join(ENGINES)}")
    if told["dim"] % 8:
        raise click.UsageError("--dim must be a multiple of 8")
    bench = Bench(work.resolve(), told, timeout)
    make_data(bench.folder / "data", *(told[key] for key in ("rows", "dim", "queries", "k", "seed")))
    for name in names:
        if ENGINES[name].missing():
            click.echo(f"{name}: skipped, it needs `pip install {ENGINES[name].pip}`")
        else:
            bench.engine(name)
    done = [
        name
        for name, facts in bench.run["engines"].items()
        if facts.get("points") and name in {*names, peers_report.BASE}
    ]
    bench.rounds(done, rounds)
    click.echo(f"\n{peers_report.report(bench.run, TARGETS)}")
    if picture:
        peers_report.plot(bench.run, picture, {name for name, engine in ENGINES.items() if engine.ours})


if __name__ == "__main__":
    if sys.argv[2:3] == ["child"]:
        child([sys.argv[1], *sys.argv[3:]])
    else:
        main()
