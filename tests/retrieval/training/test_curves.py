"""Curves average what they are given, survive a saved state, and are drawn where they should."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from index.errors import MissingDependencyError
from retrieval.config import Config
from retrieval.training import curves as c

Settings = Callable[..., Config]


def test_losses_are_means_over_spans_also_across_a_saved_state() -> None:
    values = np.random.default_rng(0).normal(size=(10, 2))
    whole = c.Curves(3)
    for step, (one, two) in enumerate(values):
        whole.add(step, {"one": one, "two": two})
    broken = c.Curves(3)
    for step, (one, two) in enumerate(values):
        broken = c.Curves(**json.loads(broken.to_json()))
        broken.add(step, {"one": one, "two": two})
    assert broken == whole
    assert [point["step"] for point in whole.losses] == [3, 6, 9]
    for i, point in enumerate(whole.losses):
        assert [point["one"], point["two"]] == pytest.approx(values[3 * i : 3 * i + 3].mean(axis=0))


def test_a_long_run_has_few_points() -> None:
    for steps in (1, 399, 400, 1000, 123_456):
        assert steps / c.of_steps(steps).every <= 2 * c.POINTS


def test_points_lie_where_their_values_say() -> None:
    drawn = c.chart("x", [{"step": 10, "a": 1.0}, {"step": 20, "a": 3.0, "b": 2.0}, {"step": 30, "a": 2.0, "b": 1.0}])
    assert drawn is not None
    assert (drawn.low, drawn.high, drawn.first, drawn.last) == (1, 3, 10, 30)
    w, h = c.WIDTH, c.HEIGHT
    assert drawn.lines[0].points == f"0.0,{h:.1f} {w / 2:.1f},0.0 {w:.1f},{h / 2:.1f}"
    assert drawn.lines[1].points == f"{w / 2:.1f},{h / 2:.1f} {w:.1f},{h:.1f}"
    assert [line.last for line in drawn.lines] == [2, 1]
    assert c.chart("x", []) is None


def test_a_report_is_one_page_and_one_json(settings: Settings, tmp_path: Path) -> None:
    made = c.Curves(1, [{"step": 1, "ce": 2.0}, {"step": 2, "ce": 1.0}], [{"step": 2, "score": 0.5}])
    config = settings().model_copy(update={"name": "<b>&"})
    facts = {"validation": {"accuracy": {"cut": 0.25}}, "photos": 7}
    c.save_report(tmp_path / "m.safetensors", config, facts, made)
    report = json.loads((tmp_path / "m.report.json").read_text())
    assert report["losses"] == made.losses
    assert report["validations"] == made.validations
    assert report["facts"] == facts
    assert report["config"]["training"]["seed"] == 0
    page = (tmp_path / "m.report.html").read_text()
    assert "&lt;b&gt;&amp;" in page
    assert "<b>" not in page
    assert "validation.accuracy.cut" in page
    assert "http" not in page.replace("http-equiv", "")
    start = page.index("<svg")
    svg = ElementTree.fromstring(page[start : page.index("</svg>", start) + 6])
    assert svg.find("polyline").get("points") == f"0.0,0.0 {c.WIDTH:.1f},{c.HEIGHT:.1f}"  # type: ignore[union-attr]
    assert page.count("<polyline") == 2


def test_tensorboard_that_is_not_installed_is_said_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match="pip install 'tensorboard>=2.16'"):
        c.writer(tmp_path, 0)
