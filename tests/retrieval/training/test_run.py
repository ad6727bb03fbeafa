"""One run from a config file: drawn garments in, a checkpoint out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from index.errors import ConfigError, InputError
from retrieval.datasets import garments
from retrieval.models import checkpoint
from retrieval.training.run import train_from


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return garments.generate(tmp_path_factory.mktemp("run") / "garments", 40, photos_per_style=2)


def write_config(path: Path, **data: Any) -> Path:
    value = {
        "name": "mine",
        "model": {
            "backbone": "regnet_tiny",
            "input_size": 32,
            "branches": 1,
            "branch_dim": 4,
            "attributes": {"category": {"dim": 4}, "color": {"dim": 4, "color": True}},
        },
        "training": {"steps": 2, "pairs": 2},
        "data": {"style": "style"} | data,
    }
    path.write_text(yaml.safe_dump(value))
    return path


def test_from_a_config_to_a_checkpoint(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    by_config = train_from(write_config(tmp_path / "mine.yaml", photos=str(shop)))
    assert by_config["checkpoint"] == str(Path("runs") / "mine.safetensors")
    model = checkpoint.read("runs/mine.safetensors")
    assert model.fingerprint == by_config["fingerprint"]
    assert list(model.vocabulary) == ["category", "color"]
    assert by_config["photos"] + by_config["validation"].get("photos", 0) == 40
    assert by_config["rejected"] == 0
    min((shop / "photos").glob("*.jpg")).write_bytes(b"")
    out = tmp_path / "elsewhere" / "m.safetensors"
    by_hand = train_from(write_config(tmp_path / "mine.yaml", photos="nowhere"), shop, out=out)
    assert by_hand["checkpoint"] == str(out)
    assert by_hand["rejected"] == 1
    assert by_hand["photos"] + by_hand["validation"].get("photos", 0) == 39
    assert list(checkpoint.read(out).vocabulary) == ["category", "color"]


def test_a_run_without_photos(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mine names no data.photos: give --photos"):
        train_from(write_config(tmp_path / "mine.yaml"))
    with pytest.raises(InputError):
        train_from(write_config(tmp_path / "mine.yaml", photos=str(tmp_path / "nowhere")))
    with pytest.raises(ConfigError, match="no config"):
        train_from("mien")
    assert not list(tmp_path.rglob("*.safetensors"))
