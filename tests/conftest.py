"""Drawn garments, a tiny model of them and a gallery built by it, made once for all tests."""

from __future__ import annotations

import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for each other make small work slow

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from index.gallery import Gallery
from retrieval import config as configs
from retrieval import photos
from retrieval.datasets import garments
from retrieval.datasets.readers import open_photos
from retrieval.engine import Engine
from retrieval.models import checkpoint, memory
from retrieval.models.network import GarmentNet

PHOTOS, PART = 120, 32  # photos drawn, rows to a part
DIMS = {"category": 16, "color": 16, "pattern": 8, "sleeve": 8}
CONFIG = {
    "name": "tiny",
    "model": {
        "backbone": "regnet_tiny",
        "last_stride": 1,
        "input_size": 32,
        "branches": 2,
        "branch_dim": 8,
        "attributes": {name: {"dim": dim} for name, dim in DIMS.items()},
    },
    "search": {
        "weights": {"color": 1.5},
        "edited": 2.0,
        "attribute_aliases": {"type": "category", "colour": "color"},
        "value_aliases": {"color": {"grey": "gray"}},
    },
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def garment_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ``PHOTOS`` drawn photos with labels.csv; four of each style."""
    return garments.generate(tmp_path_factory.mktemp("drawn") / "garments", PHOTOS, seed=3)


def make_model(folder: Path, out: Path, seed: int = 0) -> Path:
    """A checkpoint that was never trained, but sees: batch statistics and memory are those of the folder's photos, and
    every block and head is centred on them, so that photos lie apart."""
    source = open_photos(folder)
    labels = {name: source.rows[name].to_pylist() for name in DIMS}
    vocabulary = {name: sorted({v for v in values if v}) for name, values in labels.items()}
    config = configs.parse(CONFIG, "tests")
    torch.manual_seed(seed)
    net = GarmentNet(config.model, vocabulary)
    pixels = np.stack([photos.load(photo.source, 32).pixels for photo in source])
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (n, 3, 32, 32)
    for module in net.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.momentum = None  # the running mean is the mean
    with torch.no_grad():
        net.train()(batch)
        blocks = {name: value.clone() for name, value in net.eval()(batch).blocks.items()}
        look = blocks["look"].mean(0).split(8)
        for branch, mean in zip(net.branches, look, strict=True):
            next(m for m in reversed(list(branch.modules())) if isinstance(m, torch.nn.Linear)).bias.sub_(mean)
        for name, block in net.attributes.items():
            block.project.bias.sub_(blocks[name].mean(0))
        raw = {name: value.numpy().copy() for name, value in net(batch).blocks.items() if name in DIMS}
        code = [[vocabulary[n].index(v) if v else -1 for v in values] for n, values in labels.items()]
        known = memory.from_means(raw, np.array(code).T, vocabulary)
        for name, block in net.attributes.items():
            values = len(vocabulary[name])
            first = known.column(name, vocabulary[name][0])
            block.prototypes.copy_(torch.from_numpy(known.matrix[known.rows(name), first : first + values].T.copy()))
    checkpoint.write(out, net, known, config, {"steps": 0})
    return out


@pytest.fixture(scope="session")
def tiny_model(garment_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(garment_photos, tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="session")
def other_model(garment_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(garment_photos, tmp_path_factory.mktemp("model") / "other.safetensors", seed=1)


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """``build_gallery`` with small parts."""
    from retrieval.embed import build_gallery

    def built(folder: Path, gallery: Path, model: Path, **options: Any) -> Any:
        return build_gallery(open_photos(folder), gallery, model, **{"rows_per_part": PART} | options)

    return built


@pytest.fixture(scope="session")
def shop(garment_photos: Path, tiny_model: Path, build: Callable[..., Any], tmp_path_factory: Any) -> Path:
    """A gallery of the drawn photos. Never write to it: copy it."""
    path = tmp_path_factory.mktemp("galleries") / "shop.gallery"
    build(garment_photos, path, tiny_model)
    return path


@pytest.fixture(scope="session")
def engine(shop: Path) -> Engine:
    return Engine.open(shop)


@pytest.fixture(scope="session")
def oracle(shop: Path) -> SimpleNamespace:
    """The gallery as plain lists and arrays: ``rows`` (a dict a photo), ``units`` (n, D), ``norms`` (n, B) float64."""
    gallery = Gallery.open(shop)
    every = np.arange(gallery.manifest.rows)
    rows: list[dict[str, Any]] = gallery.columns().to_pylist()
    units, norms = gallery.vectors(every).astype(np.float64), gallery.norms(every).astype(np.float64)
    return SimpleNamespace(gallery=gallery, rows=rows, units=units, norms=norms)


def table_of(gallery: Path) -> pa.Table:
    """All columns of all rows, vectors too."""
    import pyarrow.parquet as pq

    return pa.concat_tables(
        [pq.read_table(file).replace_schema_metadata() for file in Gallery.open(gallery).part_paths]
    )


@pytest.fixture
def copy(shop: Path, tmp_path: Path) -> Path:
    """A copy of the shop that a test may break."""
    return Path(shutil.copytree(shop, tmp_path / "copy"))


def sums(gallery: Path) -> list[str]:
    return [part.sha256 for part in Gallery.open(gallery).manifest.parts]


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def flip(path: Path, at: float = 0.5) -> None:
    """Change one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory, shop: Path) -> Path:
    """An IVF-PQ gallery: the shop's rows many times over, each a little moved."""
    from dataclasses import replace

    from index import table
    from index.build import build_generation

    path = tmp_path_factory.mktemp("large") / "large.gallery"
    shutil.copytree(shop, path)
    for file in (path / "table").iterdir():
        file.unlink()
    gallery, rows = Gallery.open(shop), table_of(shop)
    layout, rng = gallery.manifest.layout, np.random.default_rng(0)
    units = gallery.vectors(np.arange(120)).astype(np.float32)
    copies = []
    for number in range(30):
        moved = units + rng.normal(size=units.shape).astype(np.float32) * 0.15
        for block in layout.blocks:
            part = moved[:, block.start : block.stop]
            part /= np.linalg.norm(part, axis=1, keepdims=True)
        ids = pa.array([f"{key}/{number}" for key in rows["id"].to_pylist()])
        batch = rows.set_column(0, rows.schema.field("id"), ids)
        at = batch.column_names.index("embedding")
        column = table.fixed_size_list(moved.astype(np.float16))
        copies.append(batch.set_column(at, batch.schema.field(at), column))
    part = table.write_part(path / "table" / "part-00000.parquet", pa.concat_tables(copies), {})
    manifest = replace(gallery.manifest, parts=[part], rows=3600)
    build_generation(Gallery(path, manifest), "ivfpq")
    return path
