"""One run from a config file: drawn garments in, a checkpoint out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from index.errors import ConfigError, InputError
from retrieval.config import load
from retrieval.datasets import garments
from retrieval.datasets.readers import open_photos
from retrieval.models import checkpoint
from retrieval.training.data import gather
from retrieval.training.run import train_from
from tests.retrieval.datasets import published


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


def test_fashionais_letters_reach_training(tmp_path: Path) -> None:
    """y is had, n lacked, m either by a coin; the seven attributes that a photo is not labelled for are unknown."""
    shipped = load("fashionai")
    two = {name: shipped.model.attributes[name] for name in ("collar_design", "skirt_length")}
    assert all(attribute.multi and attribute.threshold == 0.6 for attribute in shipped.model.attributes.values())
    config = shipped.model_copy(update={"model": shipped.model.model_copy(update={"attributes": two})})
    letters = ["collar_design_labels,ynnnm", "collar_design_labels,nnmny", "skirt_length_labels,nymnnn"]
    letters += ["skirt_length_labels,nnynnm"]
    lines = [f"Images/{number}.jpg,{letters[number % 4]}" for number in range(80)]
    published.write(tmp_path / "Annotations" / "label.csv", *lines)
    for line in lines:
        published.draw(tmp_path / line.split(",")[0], line)
    data = gather(open_photos(tmp_path), config)
    assert set(data.vocabulary["collar_design"]) == {"Invisible", "Rib Collar"}
    sure, maybe = (data.vocabulary["collar_design"].index(value) for value in ("Invisible", "Rib Collar"))
    collars = data.sets["collar_design"]
    assert (collars[0::4, sure] == 1).all()
    assert set(collars[0::4, maybe]) == {0, 1}
    assert (collars[1::4] == np.eye(2, dtype=int)[maybe]).all()  # Puritan Collar, only ever an m, is no value
    assert (collars[2::4] == -1).all()
    assert (data.sets["skirt_length"][0::4] == -1).all()
    knee = data.vocabulary["skirt_length"].index("Knee Length")
    assert set(data.sets["skirt_length"][2::4, knee]) == {0, 1}
