"""A gallery made of vectors, through the engine and the command line: what works without a model, and what says so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.create import create
from index.errors import InputError, UnknownNameError
from index.gallery import Gallery
from index.synthetic import vectors
from index.table import Layout, fixed_size_list
from retrieval.catalogue import add_photos
from retrieval.datasets.readers import open_photos
from retrieval.engine import Engine
from retrieval.evaluation import bench
from retrieval.query import Request
from tests.test_cli import refused, run

BLOCKS = {"Shape": 32, "color": 16}
N = 400


def rows(first: int = 0, n: int = N) -> pa.Table:
    pool = np.concatenate(list(vectors(Layout.of(BLOCKS), N + 100, clusters=30, seed=2)))[first : first + n]
    return pa.table(
        {
            "id": [f"v{first + i}" for i in range(n)],
            "embedding": fixed_size_list(pool.astype(np.float32) * 3),
            "brand": [f"b{(first + i) % 4}" for i in range(n)],
            "predicted_sleeve": ["long" if i % 2 else "short" for i in range(n)],
        }
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create(tmp_path_factory.mktemp("vectors") / "g", rows(), blocks=BLOCKS).path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "g"))


def test_queries_by_id_agree_with_an_oracle(made: Path) -> None:
    engine = Engine.open(made)
    units = engine.gallery.vectors(np.arange(N)).astype(np.float64)
    brand = np.arange(N) % 4
    for row in (0, 17, 250):
        asked = engine.query(like=f"v{row}", weight={"shape": 2}, drop=["COLOR"], where="brand in (b1, b2)", topk=5)
        scores = units[:, :32] @ units[row, :32]
        allowed = np.flatnonzero(((brand == 1) | (brand == 2)) & (np.arange(N) != row))
        best = np.sort(scores[allowed])[::-1][:5]
        np.testing.assert_allclose([hit.score for hit in asked.hits], best, atol=1e-3)
        assert all(scores[int(hit.id[1:])] >= best[-1] - 1e-3 for hit in asked.hits)
        assert {hit.attributes["brand"] for hit in asked.hits} <= {"b1", "b2"}
        assert (asked.weights, asked.edits, asked.reference) == ({"Shape": 2.0, "color": 0.0}, (), {})
    whole = engine.query(like="v3", topk=3)
    scores = (units @ units[3]) / 2
    np.testing.assert_allclose([hit.score for hit in whole.hits], np.sort(scores)[::-1][1:4], atol=1e-3)
    only = engine.query(like="v3", where="predicted_sleeve = long", one_per="brand").hits
    assert [int(hit.id[1:]) % 2 for hit in only] == [1, 1]


def test_what_needs_a_model_says_so(made: Path, tmp_path: Path, garment_photos: Path) -> None:
    engine = Engine.open(made)
    photo = garment_photos / "photos" / "s00001-0.jpg"
    for options in ({"set": {"color": "red"}}, {"old": {"color": "red"}}):
        with pytest.raises(InputError, match=r"was made from vectors and has no attributes to edit; --weight"):
            engine.query(like="v1", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no model that could embed a photo: query by --like"):
        engine.query(photo)
    with pytest.raises(UnknownNameError, match="no block 'shap' in this gallery; nearest: Shape"):
        engine.query(like="v1", weight={"shap": 2})
    with pytest.raises(InputError, match="has no model that could embed a photo; add vectors"):
        add_photos(open_photos(garment_photos), made)
    with pytest.raises(InputError, match=r"no labels of the model's attributes \(none\)"):
        bench.run(engine, 4)
    assert "was made by model none" in refused("build-index", garment_photos, "-g", made)


def test_the_commands(path: Path, tmp_path: Path) -> None:
    file, more = tmp_path / "v.parquet", tmp_path / "more.parquet"
    pq.write_table(rows(), file)
    pq.write_table(rows(N - 5, 20), more)
    assert "to index its vectors, say --vectors embedding" in refused("build-index", file, "-g", tmp_path / "new")
    blank = refused("build-index", file, "--vectors", "embedding", "--blocks", "", "-g", tmp_path / "new")
    assert "blocks '': write each name once" in blank
    assert "is there and is no gallery" in refused("build-index", file, "--vectors", "embedding", "-g", file)
    words: list[Any] = ["build-index", file, "--vectors", "embedding", "--blocks", "Shape=32,color=16"]
    words += ["-g", tmp_path / "new"]
    said = "400 vectors, 48 dimensions, exact index, no model\n"
    assert run(*words).stdout == said
    before = (tmp_path / "new" / "gallery.json").read_bytes()
    assert run(*words).stdout == said
    assert (tmp_path / "new" / "gallery.json").read_bytes() == before
    assert Gallery.open(tmp_path / "new").columns().equals(Gallery.open(path).columns())

    said = run("add", more, "--vectors", "embedding", "-g", path).stdout
    assert said == "20 added, 5 of them in place of old ones: 415 vectors, 48 dimensions, exact index, no model\n"
    assert run("remove", "v0", "v1", "-g", path).stdout.startswith("2 removed: 413 vectors")
    assert run("compact", "-g", path).stdout.startswith("7 rows dropped: 413 vectors")
    assert run("verify", "-g", path).stdout == f"{path} is sound\n"
    facts = json.loads(run("info", "--json", "-g", path).stdout)
    assert (facts["photos"], facts["model"], facts["attributes"]) == (413, "none", {})
    assert facts["index"]["made of"] == "brute force over all 48 dimensions"
    head, *lines = run("query", "--like", "v9", "-g", path, "-k", 2, "--save", tmp_path / "s.html").stdout.splitlines()
    assert head == "no edit   (recall 1.00)"
    assert len(lines) == 3
    assert "0 of them the very same file" in run("duplicates", "-g", path).stdout
    assert "has no attributes to edit" in refused("query", "--like", "v9", "--set", "color=red", "-g", path)


def test_a_gallery_of_vectors_is_kept_without_torch(path: Path, tmp_path: Path) -> None:
    """Loading it takes seconds, and nothing here needs it."""
    pq.write_table(rows(N, 20), tmp_path / "more.parquet")
    (tmp_path / "ids.csv").write_text("id\nv1\nv2\n", encoding="utf-8")
    commands = [
        ["query", "--like", "v9", "--explain", "--save", str(tmp_path / "sheet.html")],
        ["query", "--batch", str(tmp_path / "ids.csv"), "--out", str(tmp_path / "out.csv")],
        ["add", str(tmp_path / "more.parquet"), "--vectors", "embedding"],
        ["remove", "v0"],
        ["remove", "--ids", str(tmp_path / "ids.csv")],
        *(["info"], ["verify"], ["duplicates", "--save", str(tmp_path / "pairs.html")], ["compact"]),
    ]
    code = (
        "import json, sys; sys.modules['torch'] = None  # whoever imports it fails\n"
        "from cli import main\n"
        "for words in json.loads(sys.argv[1]): main([*words, '-g', sys.argv[2]], standalone_mode=False)"
    )
    command = [sys.executable, "-c", code, json.dumps(commands), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "2 queries answered, 0 failed" in done.stdout
    assert "3 rows dropped: 417 vectors" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["build-index", "v.parquet", "--blocks", "a=3"], "--vectors COLUMN goes with a Parquet"),
        (["build-index", "v.parquet", "--blocks", ""], "--vectors COLUMN goes with a Parquet"),
        (["build-index", "v.parquet", "--vectors", "e", "--labels", "l.csv"], "--vectors COLUMN goes with"),
        (["build-index", "--reindex", "--vectors", "e"], "--vectors COLUMN goes with"),
        (["add", "v.parquet", "--vectors", "e", "--labels", "l.csv"], "not from --labels"),
        (["compact", "--recipe", "hnsw"], "'hnsw' is not one of"),
    ],
)
def test_wrong_usage(words: list[str], said: str) -> None:
    assert said in refused(*words, code=2)


def test_sizes_and_devices_on_the_command_line(large: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(large, tmp_path / "large"))
    again = ("build-index", "--reindex", "-g", path)
    assert "is no size" in refused(*again, "--memory", "2 gigs")
    assert "raise --memory" in refused(*again, "--recipe", "ivfpq", "--memory", "10KB")
    assert "is not on this machine" in refused(*again, "--device", "nonesuch")
    assert "3,600 photos, 64 dimensions, rabitq index" in run(*again, "--recipe", "rabitq", "--memory", "1MB").stdout
    facts = json.loads(run("info", "--json", "-g", path).stdout)["index"]
    assert facts["kind"] == "rabitq"
    assert facts["in memory"].endswith("1,000,000 allowed")
    assert "rabitq index" in run("compact", "-g", path).stdout
    assert Gallery.open(path).manifest.current.memory == 10**6  # type: ignore[union-attr]
    assert "exact index" in run("compact", "-g", path, "--memory", "0").stdout  # auto's choice for 3,600 rows
    assert Gallery.open(path).manifest.current.memory is None  # type: ignore[union-attr]


def test_knobs_reach_the_index(large: Path, tmp_path: Path) -> None:
    words = ("query", "--like", "s00003-1/2", "-g", large, "--json")
    low, high = (json.loads(run(*words, "--nprobe", n, "--rerank", 16 * n).stdout) for n in (1, 64))
    assert low["recall"] < high["recall"] <= 1
    engine = Engine.open(large, nprobe=1, rerank=16)
    assert json.loads(json.dumps(engine.query(like="s00003-1/2").to_json())) == low
    exact = engine.search(engine.prepare([Request(like="s00003-1/2")]), 10, exact=True)[0][1]
    np.testing.assert_allclose([hit["score"] for hit in high["hits"]], exact / sum(high["weights"].values()), atol=1e-3)
    assert engine.info()["index"]["recall@10"] == Engine.open(large).info()["index"]["recall@10"]
    assert "0 is not in the range" in refused("query", "--like", "a", "--nprobe", "0", code=2)
