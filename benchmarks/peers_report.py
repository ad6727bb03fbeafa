"""Tables and plot of what peers.py measured."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import click

from benchmarks.processes import MB

BASE = "hnswlib"


class Result(NamedTuple):
    """What an engine does at a target: medians of rounds. ratio: to hnswlib's best setting there, same round."""

    recall: float
    knobs: dict[str, Any]
    rate: float
    ratio: float | None
    p50_ms: float
    p99_ms: float
    over_raw: tuple[float, float, float] | None  # in batch: percent, microseconds a query; alone: microseconds


def result(run: dict[str, Any], name: str, target: float, session: dict[str, Any] | None = None) -> Result | None:
    """From the last session of rounds with this engine as it is; None when no setting measured reaches the target."""
    facts = run["engines"].get(name, {})
    having = [each for each in run.get("sessions", []) if each["made"].get(name, "") == facts.get("fingerprint")]
    if session is None and having:
        session = having[-1]
    if session is None:
        return None
    recalls = {json.dumps(point["knobs"]): point["recall"] for point in facts.get("points", [])}
    by_knobs: dict[str, dict[int, Any]] = {}
    for number, done in enumerate(session["done"]):
        for each in done.get(name, []):
            if recalls.get(json.dumps(each["knobs"]), 0) >= target:
                by_knobs.setdefault(json.dumps(each["knobs"]), {})[number] = each
    if not by_knobs:
        return None
    medians = {knobs: statistics.median(e["rate"] for e in rounds.values()) for knobs, rounds in by_knobs.items()}
    best = max(medians, key=lambda knobs: medians[knobs])
    rounds = by_knobs[best]
    ratio = None
    if name != BASE and (base := result(run, BASE, target, session)):
        theirs = {
            number: each["rate"]
            for number, done in enumerate(session["done"])
            for each in done.get(BASE, [])
            if each["knobs"] == base.knobs
        }
        if both := [each["rate"] / theirs[number] for number, each in rounds.items() if number in theirs]:
            ratio = statistics.median(both)
    raw = [each for each in rounds.values() if "raw_rate" in each]
    percent = [100 * (each["raw_rate"] / each["rate"] - 1) for each in raw]
    micro = [1e6 / each["rate"] - 1e6 / each["raw_rate"] for each in raw]
    micro_alone = [1000 * (each["p50_ms"] - each["raw_p50_ms"]) for each in raw]
    over = (statistics.median(percent), statistics.median(micro), statistics.median(micro_alone)) if raw else None
    return Result(
        recalls[best], json.loads(best), medians[best], ratio,
        *(statistics.median(e[key] for e in rounds.values()) for key in ("p50_ms", "p99_ms")),
        over_raw=over,
    )  # fmt: skip


def report(run: dict[str, Any], targets: tuple[float, ...]) -> str:
    """Two Markdown tables: what an index costs, and what it does at each recall."""
    n, lines = run["parameters"]["rows"], []
    lines += [
        "| engine | build s | build MB | bytes a vector: own memory | mapped | on disk | |",
        "|---|" + "---:|" * 5 + "---|",
    ]
    for name, facts in run["engines"].items():
        own, mapped = ((facts.get("memory") or {}).get(key) for key in ("anonymous", "mapped"))
        state = "" if facts["state"] == "finished" else facts["state"]
        cells = [
            _cell(facts.get("build_seconds"), 1), _cell(facts.get("build_memory"), 0, MB),
            _cell(own, 0, n), _cell(mapped, 0, n), _cell(facts.get("disk"), 0, n),
        ]  # fmt: skip
        lines.append(f"| {name} | {' | '.join(cells)} | {state} |")
    heads = [f"{target:.2f}: batch q/s (to {BASE}), p50 / p99 ms" for target in targets]
    lines += ["", f"| engine | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    layer = []
    for name, facts in run["engines"].items():
        cells = []
        for target in targets:
            if found := result(run, name, target):
                ratio = "" if found.ratio is None else f" ({found.ratio:.2f}x)"
                cells.append(f"{found.rate:,.0f}{ratio}, {found.p50_ms:.2f} / {found.p99_ms:.2f}")
                if found.over_raw:
                    percent, micro, one = found.over_raw
                    layer.append(f"- {name} at {target:.2f}: {percent:.0f}%, {micro:.1f} us; alone {one:.0f} us")
            else:
                best = max((point["recall"] for point in facts.get("points", [])), default=None)
                ended = "stalls at" if facts["state"] == "finished" else "sweep cut at"
                cells.append("-" if best is None else f"{ended} {best:.3f}" if best < target else "not measured")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if layer:
        lines += ["", "A query above the library's own call, in batch (rerank, ids and columns included):", "", *layer]
    return "\n".join(lines)


def _cell(value: float | None, digits: int, unit: float = 1) -> str:
    return "" if value is None else f"{value / unit:,.{digits}f}"


def plot(run: dict[str, Any], path: Path, ours: set[str]) -> None:
    """Recall against batch queries a second, from the sweeps."""
    try:
        import matplotlib
    except ImportError:
        return click.echo("no plot: pip install matplotlib", err=True)
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6))
    for i, (name, facts) in enumerate(run["engines"].items()):
        best, front = 0.0, []  # points that no other beats in both
        for point in sorted(facts.get("points", []), key=lambda each: -each["recall"]):
            if point["rate"] > best:
                best = point["rate"]
                front.append((point["recall"], best))
        if front:
            style = {
                "color": f"C{i % 10}",
                "linestyle": "-" if i < 10 else "--",
                "marker": "os^vD*PX"[i % 8],
                "markersize": 4,
                "linewidth": 2.5 if name in ours else 1.2,
            }
            axes.plot(*zip(*front, strict=True), label=name, **style)
    told = run["parameters"]
    axes.set(yscale="log", xlabel=f"recall@{told['k']}", ylabel="queries a second in batch", xlim=(0.7, 1.005))
    axes.set_title(f"{told['rows']:,} x {told['dim']}, {told['threads']} threads")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120, bbox_inches="tight")
