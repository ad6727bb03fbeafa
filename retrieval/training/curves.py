"""What a run logs: losses averaged over spans of steps, and validations; to TensorBoard and to a report beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from index.errors import MissingDependencyError
from index.files import atomic_write
from retrieval.config import Config

POINTS = 400  # of a loss curve, at most about twice this
WIDTH, HEIGHT = 640, 220


@dataclass
class Curves:
    """``losses``: a mean for every ``every`` steps; ``validations``: as they came. Each has its ``step``, from 1.

    Plain numbers, so that a saved state holds it as JSON and a resumed run has the same curves.
    """

    every: int
    losses: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    waiting: dict[str, float] = field(default_factory=dict)  # sums of the steps since the last mean
    count: int = 0

    def add(self, step: int, parts: dict[str, float]) -> dict[str, float] | None:
        """The losses of a step (from 0); returns the mean when it is due."""
        for name, value in parts.items():
            self.waiting[name] = self.waiting.get(name, 0.0) + value
        self.count += 1
        if (step + 1) % self.every:
            return None
        mean = {"step": step + 1, **{name: value / self.count for name, value in self.waiting.items()}}
        self.losses.append(mean)
        self.waiting, self.count = {}, 0
        return mean

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def of_steps(steps: int) -> Curves:
    """Empty curves for a run of so many steps."""
    return Curves(max(1, steps // POINTS))


def writer(folder: Path, start: int) -> Any:
    """A TensorBoard writer; points from step ``start`` on, of a run that was interrupted, give way to the new ones."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingDependencyError(
            "training.tensorboard needs tensorboard: pip install 'tensorboard>=2.16', or set it to false"
        ) from None
    return SummaryWriter(str(folder), purge_step=start + 1)


class Line(NamedTuple):
    name: str
    points: str  # of an SVG polyline
    last: float


class Chart(NamedTuple):
    name: str
    lines: list[Line]
    low: float
    high: float
    first: int
    last: int


def save_report(out: Path, config: Config, facts: dict[str, Any], curves: Curves) -> None:
    """Write ``<out>.report.json`` and a page of its own, ``<out>.report.html``, beside the checkpoint ``out``."""
    try:
        version = metadata.version("fsearch")
    except metadata.PackageNotFoundError:
        version = "not installed"
    report: dict[str, Any] = {
        "fsearch": version, "checkpoint": out.name, "config": config.model_dump(mode="json"), "facts": facts,
        "losses": curves.losses, "validations": curves.validations,
    }  # fmt: skip
    text = json.dumps(report, indent=1, ensure_ascii=False)
    atomic_write(out.with_name(f"{out.stem}.report.json"), text.encode())
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("retrieval.training").joinpath("report.html").read_text(encoding="utf-8")
    charts = [chart("Losses", curves.losses), chart("Validation", curves.validations)]
    rows = [(name, value) for name, value in _flat(facts) if not isinstance(value, (dict, list))]
    settings = [(key, json.dumps(value)) for key, value in _flat(report["config"])]
    page = environment.from_string(source).render(
        title=f"Training of {config.name}", charts=[c for c in charts if c], facts=rows, settings=settings,
        version=version, width=WIDTH, height=HEIGHT,
    )  # fmt: skip
    atomic_write(out.with_name(f"{out.stem}.report.html"), page.encode())


def chart(name: str, rows: Sequence[dict[str, float]]) -> Chart | None:
    """Curves over steps as polylines in a box of WIDTH x HEIGHT, the y axis from the least value to the greatest."""
    names = list(dict.fromkeys(key for row in rows for key in row if key != "step"))
    values = [row[key] for row in rows for key in names if key in row]
    if not values:
        return None
    low, high = min(values), max(values)
    first, last = rows[0]["step"], rows[-1]["step"]

    def place(step: float, value: float) -> str:
        x = (step - first) / max(last - first, 1)
        y = (high - value) / (high - low) if high > low else 0.5
        return f"{x * WIDTH:.1f},{y * HEIGHT:.1f}"

    lines = []
    for key in names:
        mine = [(row["step"], row[key]) for row in rows if key in row]
        if len(mine) == 1:  # a level line: a polyline of one point is not drawn
            mine = [(first, mine[0][1]), (last + (first == last), mine[0][1])]
        lines.append(Line(key, " ".join(place(*point) for point in mine), mine[-1][1]))
    return Chart(name, lines, low, high, int(first), int(last))


def _flat(value: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as ("a.b", leaf)."""
    found: list[tuple[str, Any]] = []
    for key, inner in value.items():
        name = f"{prefix}{key}"
        found += _flat(inner, f"{name}.") if isinstance(inner, dict) and inner else [(name, inner)]
    return found
