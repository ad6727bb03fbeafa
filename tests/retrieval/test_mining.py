"""Rounds of mining: pseudo labels against brute force, a run from end to end, killed and gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from cli import main
from index.errors import InputError, MismatchError
from retrieval import mining
from retrieval.config import parse
from retrieval.datasets import garments
from retrieval.datasets.readers import open_photos
from retrieval.engine import Engine
from retrieval.models import checkpoint
from retrieval.training import loop


def near(oracle: Any, row: int) -> list[int]:
    """All other rows by the dot product of look, best first, by hand."""
    look = oracle.units[:, oracle.gallery.manifest.layout.slice("look")]
    order = np.argsort(-(look @ look[row]), kind="stable")
    return [int(each) for each in order if each != row]


def test_pseudo_labels_are_the_ranks_of_a_search_by_look(engine: Engine, oracle: SimpleNamespace) -> None:
    pairs = mining.mined_pairs(engine, 15, 4, (9, 12), np.random.default_rng(0))
    ids = [row["id"] for row in oracle.rows]
    assert len(pairs.queries) == len(set(pairs.queries)) == 15
    for query, same, away in zip(*pairs, strict=True):
        order = [ids[row] for row in near(oracle, ids.index(query))]
        assert query not in same + away
        assert (len(same), len(away)) == (4, 4)
        assert sorted(same) == sorted(order[:4])  # ranks 1 to 4, and 9 to 12
        assert sorted(away) == sorted(order[8:12])


def test_the_surest_queries_are_those_whose_positives_score_the_most_above_their_negatives(
    engine: Engine, oracle: SimpleNamespace
) -> None:
    every = mining.mined_pairs(engine, 40, 2, (9, 12), np.random.default_rng(0))
    some = mining.mined_pairs(engine, 40, 2, (9, 12), np.random.default_rng(0), confident=0.25)
    assert len(some.queries) == 10
    look = oracle.units[:, oracle.gallery.manifest.layout.slice("look")]
    ids = [row["id"] for row in oracle.rows]

    def gap(query: str) -> float:
        scores = np.sort(np.delete(look @ look[ids.index(query)], ids.index(query)))[::-1]
        return float(scores[1] - scores[8])  # rank 2, the last positive, and rank 9, the first negative

    left = set(every.queries) - set(some.queries)
    assert min(map(gap, some.queries)) >= max(map(gap, left)) - 1e-3
    assert [each for each in zip(*every, strict=True) if each[0] not in left] == list(zip(*some, strict=True))


def test_same_style_asks_photos_with_a_mate_and_counts_those_with_one_near(
    engine: Engine, oracle: SimpleNamespace
) -> None:
    rows = oracle.rows
    styles = {row["id"]: row["style"] for row in rows[:-3]}  # the last three are nobody's mates
    hits = []
    for i, row in enumerate(rows[:-3]):
        if sum(styles.get(other["id"]) == row["style"] for other in rows) > 1:
            hits.append(any(styles.get(rows[at]["id"]) == row["style"] for at in near(oracle, i)[:4]))
    assert mining.same_style(engine, styles) == pytest.approx(np.mean(hits), abs=1e-4)
    assert mining.same_style(engine, {row["id"]: row["id"] for row in rows}) is None


def test_the_share_of_right_labels_is_of_pairs_whose_styles_are_known() -> None:
    truth = {"a": "1", "b": "1", "c": "2", "d": "2"}
    assert mining.share(["a", "c", "x"], [["b", "c", "x"], ["d"], ["a"]], truth) == pytest.approx(2 / 3, abs=1e-4)
    assert mining.share(["x"], [["a"]], truth) is None


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Shop photos of ten garments, and phone photos of ten others, as two folders with labels.csv."""
    folder = tmp_path_factory.mktemp("domains")
    made = []
    for name, seed, share in (("shop", 1, 0.0), ("phone", 2, 1.0)):
        made.append(garments.generate(folder / name, 30, seed=seed, photos_per_style=3, phone_share=share))
    return made[0], made[1]


def config(**mine: Any) -> Any:
    small = {"backbone": "regnet_tiny", "last_stride": 1, "input_size": 32, "branches": 1, "branch_dim": 8}
    return parse(
        {
            "name": "tiny",
            "model": small | {"attributes": {"color": {"dim": 4}}},
            "training": {"steps": 2, "pairs": 4, "ids_per_batch": 3, "photos_per_id": 3},
            "data": {"style": "style", "holdout": 0.3},
            "mine": {"queries": 8, "positives": 2, "negatives": [5, 7], "steps": 2, "confident": 1.0} | mine,
        },
        "test",
    )


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "device", lambda: torch.device("cpu"))


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("loss", ["contrast", "triplet"])
def test_a_run_from_end_to_end_and_what_it_leaves(
    loss: str, domains: tuple[Path, Path], tmp_path: Path, monkeypatch: Any
) -> None:
    source, target = domains
    out, told = tmp_path / "fitted.safetensors", []
    monkeypatch.setattr(mining.Round, "score", property(lambda self: float(self.round)))  # every round gains
    report = mining.mine(
        config(loss=loss), target, photos=source, truth="style", rounds=2, out=out, say=lambda line: told.append(line)
    )
    work = tmp_path / "fitted.mining"
    assert report == json.loads((tmp_path / "fitted.mining.json").read_text())
    assert [each["round"] for each in report["rounds"]] == [0, 1, 2]
    assert report["best"] == 2
    assert checkpoint.read(out).fingerprint == report["rounds"][2]["model"]
    assert checkpoint.read(out).config.training.style_loss == loss
    styles = {row["id"]: row["style"] for row in open_photos(target).rows.to_pylist()}
    for number in (1, 2):
        pairs = pq.read_table(work / f"round-{number}.parquet")
        assert pairs.schema.metadata[b"model"].decode() == report["rounds"][number - 1]["model"]
        rows = pairs.to_pylist()
        assert report["rounds"][number]["mined"] == len(rows) == 8
        right = [styles[row["query"]] == styles[each] for row in rows for each in row["positives"]]
        assert report["rounds"][number]["right"] == pytest.approx(np.mean(right), abs=1e-4)
        away = [styles[row["query"]] != styles[each] for row in rows for each in row["negatives"]]
        assert report["rounds"][number]["apart"] == pytest.approx(np.mean(away), abs=1e-4)
    assert len(told) == 3
    assert "8 ids mined" in told[1]
    judging = Engine.open(work / "target-held.gallery").gallery.columns(["id"])["id"].to_pylist()
    held = {styles[each] for each in judging}
    mined = {styles[each] for row in rows for each in (row["query"], *row["positives"], *row["negatives"])}
    assert held
    assert not held & mined  # what judges was never mined

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr(mining, "train", never)
    assert mining.mine(config(loss=loss), target, photos=source, truth="style", rounds=2, out=out) == report
    with pytest.raises(MismatchError, match=r"holds rounds of another run: config \w+, this is \w+"):
        mining.mine(config(loss=loss, queries=7), target, photos=source, truth="style", rounds=2, out=out)
    shutil.copy(work / "round-1.safetensors", work / "round-2.safetensors")
    with pytest.raises(MismatchError, match="speaks of model"):
        mining.mine(config(loss=loss), target, photos=source, truth="style", rounds=2, out=out)


@pytest.mark.usefixtures("on_the_cpu")
def test_it_goes_on_at_the_round_it_was_killed_in_and_stops_without_a_gain(
    domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = domains
    out, trained = tmp_path / "fitted.safetensors", []
    train = mining.train

    def counted(data: Any, settings: Any, path: Path, **kwargs: Any) -> Any:
        trained.append(path.stem)
        if trained == ["round-0", "round-1"]:
            raise KeyboardInterrupt
        return train(data, settings, path, **kwargs)

    monkeypatch.setattr(mining, "train", counted)
    monkeypatch.setattr(mining.Round, "score", property(lambda self: -float(self.round)))  # no round gains
    with pytest.raises(KeyboardInterrupt):
        mining.mine(config(), target, photos=source, rounds=3, out=out)
    assert not out.exists()
    report = mining.mine(config(), target, photos=source, rounds=3, out=out)
    assert trained == ["round-0", "round-1", "round-1"]
    assert [each["round"] for each in report["rounds"]] == [0, 1]
    assert report["best"] == 0
    assert report["rounds"][1]["right"] is None  # without a truth nothing is said of the labels
    assert report["rounds"][1]["target"] is None
    assert out.read_bytes() == (tmp_path / "fitted.mining" / "round-0.safetensors").read_bytes()


def test_what_it_refuses(domains: tuple[Path, Path], tiny_model: Path, tmp_path: Path) -> None:
    source, target = domains
    with pytest.raises(InputError, match="has no column 'styl'; it has category"):
        mining.mine(config(), target, photos=source, truth="styl", out=tmp_path / "a.safetensors")
    bare = config().model_copy(update={"data": config().data.model_copy(update={"style": ()})})
    with pytest.raises(InputError, match=r"names no data\.style"):
        mining.mine(bare, target, photos=source, out=tmp_path / "a.safetensors")
    far = config(negatives=[30, 40])
    with pytest.raises(InputError, match="30 photos to mine, and ranks up to 40 need more"):
        mining.mine(far, target, photos=source, model=tiny_model, out=tmp_path / "b.safetensors")


def test_the_command_prints_a_line_a_round(domains: tuple[Path, Path], tmp_path: Path, monkeypatch: Any) -> None:
    asked: dict[str, Any] = {}

    def run(config: Any, target: Path, **options: Any) -> dict[str, Any]:
        asked.update(options, config=config, target=target)
        options["say"]("round 0: something")
        return {"best": 0, "checkpoint": "x.safetensors"}

    monkeypatch.setattr(mining, "mine", run)
    words = ["mine", "generated", "--photos", "a", "--target", "b", "--truth", "style", "--rounds", "2"]
    result = CliRunner().invoke(main, [*words, "--out", "x.safetensors"])
    assert result.exit_code == 0, result.output
    assert result.stdout == "round 0: something\nround 0 is the best: x.safetensors\n"
    assert (asked["target"], asked["photos"], asked["truth"], asked["rounds"]) == (Path("b"), Path("a"), "style", 2)
