"""The block of parts in a gallery: its weight, its share of a score, and that it is nobody's attribute."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from index.errors import UnknownNameError
from retrieval.config import parse
from retrieval.datasets import garments
from retrieval.datasets.readers import open_photos
from retrieval.embed import build_gallery
from retrieval.engine import Engine
from retrieval.models import checkpoint
from retrieval.models.memory import Memory
from retrieval.models.network import GarmentNet
from retrieval.outfits.config import aspects_of

CONFIG = {
    "name": "parts",
    "model": {
        "backbone": "regnet_tiny", "last_stride": 1, "input_size": 32, "branches": 1, "branch_dim": 4,
        "parts": {"stripes": [2], "rings": [2], "dim": 8}, "attributes": {"color": {"dim": 4}},
    },
    "search": {"weights": {"parts": 1.5}},
}  # fmt: skip


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("parts")
    photos = garments.generate(folder / "garments", 24, seed=4)
    config = parse(CONFIG, "tests")
    torch.manual_seed(0)
    net = GarmentNet(config.model, {"color": ["black", "red"]})
    memory = Memory({"color": ["black", "red"]}, {"color": 4}, np.ones((4, 2), np.float32))
    checkpoint.write(folder / "parts.safetensors", net, memory, config, {})
    build_gallery(open_photos(photos), folder / "parts.gallery", folder / "parts.safetensors")
    return Engine.open(folder / "parts.gallery")


def test_parts_are_weighed_dropped_and_explained_like_any_block(parted: Engine) -> None:
    ids = parted.gallery.columns(["id"])["id"].to_pylist()
    units = parted.gallery.vectors(np.arange(24)).astype(np.float64)
    spans = {name: parted.layout.slice(name) for name in parted.layout.names}
    asked = {
        name: units[0, span] / np.linalg.norm(units[0, span]) for name, span in spans.items()
    }  # float16 is rounded
    cosine = {name: units[:, span] @ asked[name] for name, span in spans.items()}
    assert list(cosine) == ["look", "parts", "color"]
    hits = parted.query(like=ids[0], weight={"Parts": 2.0}, drop=["color"], topk=5, explain=True).hits
    for hit in hits:
        row = ids.index(hit.id)
        expected = {"look": cosine["look"][row] / 4, "parts": 3 * cosine["parts"][row] / 4, "color": 0.0}
        assert hit.shares == pytest.approx(expected, abs=2e-6)
        assert hit.score == pytest.approx(sum(expected.values()), abs=2e-6)
    best = np.sort((cosine["look"] + 3 * cosine["parts"])[1:] / 4)[::-1]
    assert [hit.score for hit in hits] == pytest.approx(best[:5], abs=2e-6)
    assert parted.query(like=ids[0], drop=["parts"], topk=1).weights == {"look": 1.0, "parts": 0.0, "color": 1.0}


def test_a_photo_is_embedded_with_its_parts_as_the_table_is(parted: Engine) -> None:
    hit = parted.query(parted.photo_path(parted.describe([3])[0].path), topk=1).hits[0]
    assert hit.score == pytest.approx(1, abs=2e-3)
    assert parted.info()["blocks"]["parts"] == "8 dimensions, weight 1.5"


def test_parts_cannot_be_edited_and_are_no_block_where_there_are_none(parted: Engine, engine: Engine) -> None:
    with pytest.raises(UnknownNameError, match="unknown attribute 'parts'"):
        parted.query(like="s00000-0", set={"parts": "red"})
    with pytest.raises(UnknownNameError, match="unknown attribute 'parts'"):
        engine.query(like="s00001-0", weight={"parts": 2.0})


def test_parts_are_texture_in_outfits_as_look_is() -> None:
    config = parse(CONFIG, "tests")
    assert aspects_of({}, ["look", "parts", "color"], config) == {"texture": ("look", "parts"), "color": ("color",)}
