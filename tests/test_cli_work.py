"""Work from the command line: interrupted and resumed, where memory does not suffice, or results have no place."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from index import create, ranges
from index.gallery import Gallery
from index.recipe import Recipe
from index.synthetic import vectors
from index.table import Layout
from tests.test_cli import refused, run


def test_interrupted_duplicates_go_on(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("duplicates", "-g", shop, "--threshold", "0.7")
    unbroken = run(*words, "--out", tmp_path / "whole.csv").stdout.splitlines()[:-1]
    out, above, asked = tmp_path / "pairs.csv", ranges.above, []

    def stop(index: Any, queries: Any, *args: Any, **options: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(queries))
        return above(index, queries, *args, **options)

    monkeypatch.setattr("index.duplicates.ROWS_AT_ONCE", 50)
    monkeypatch.setattr("index.ranges.above", stop)
    goes_on = "the same command goes on where it stopped\n"
    result = run(*words, "--out", out)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", f"fsearch: interrupted; {goes_on}")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["pairs.csv.part", "whole.csv"]
    assert run(*words).stderr == (f"fsearch: interrupted; nothing was kept: with --out FILE or --save FILE {goes_on}")
    asked[:] = [0]
    result = run(*words, "--out", out)
    assert (result.exit_code, result.stderr, result.stdout.splitlines()) == (0, "", [*unbroken, f"wrote {out}"])
    assert asked == [0, 20]
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["pairs.csv", "whole.csv"]


def test_added_beyond_the_cap_is_there_and_the_advice_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, path, more = Layout.of({"vector": 64}), tmp_path / "shop", tmp_path / "more.parquet"
    units = np.concatenate(list(vectors(layout, 2000, clusters=100)))
    for file, rows in ((tmp_path / "first.parquet", range(1500)), (more, range(1500, 2000))):
        pq.write_table(pa.table({"id": [f"v{i}" for i in rows], "e": list(units[rows].astype(np.float32))}), file)
    monkeypatch.setattr("index.recipe.EXACT_BELOW", 1200)
    monkeypatch.setitem(create.add_vectors.__kwdefaults__, "tail_rows", 100)
    rabitq = ("-g", path, "--recipe", "rabitq", "--memory")
    run("build-index", tmp_path / "first.parquet", "--vectors", "e", *rabitq, "1MB")
    recipe = Recipe(**json.loads((path / "gallery.json").read_text("utf-8"))["generations"][0]["recipe"])
    run("build-index", "--reindex", *rabitq, math.ceil(recipe.resident(1500, 64)))
    result = run("add", more, "--vectors", "e", "-g", path)
    assert (result.exit_code, result.stderr) == (0, "")
    done, said = result.stdout.splitlines()
    assert done.startswith("500 added, 0 of them in place of old ones: 2,000 vectors")
    assert said.startswith("500 rows behind the index are searched exactly")
    assert run("query", "--like", "v1700", "-g", path, "-k", 1).exit_code == 0
    commands = re.findall("`fsearch ([^`]+)`", said)
    assert len(commands) == 2
    for words, kinds in zip(commands, ("fastscan|rabitq", "exact"), strict=True):
        shutil.copytree(path, copy := tmp_path / kinds.replace("|", "-"))
        result = run(*words.replace(str(path), str(copy)).split())
        assert (result.exit_code, result.stderr) == (0, "")
        assert re.search(rf"2,000 vectors, 64 dimensions, ({kinds}) index", result.stdout)
        assert run("add", more, "--vectors", "e", "-g", copy).stdout.count("\n") == 1
        assert Gallery.open(copy).manifest.indexed == 2500


def test_what_is_written_never_replaces_what_is_read(shop: Path, tmp_path: Path, garment_photos: Path) -> None:
    queries, photo = tmp_path / "q.csv", tmp_path / "q.png"
    queries.write_text("id\ns00001-0\n")
    Image.new("RGB", (60, 80), "red").save(photo)
    before = queries.read_bytes(), photo.read_bytes()
    for words in (
        ("query", "--batch", queries, "--out", queries, "-g", shop),
        ("query", photo, "--save", photo, "-g", shop),
        ("explain", photo, "-a", "color", "--save", photo, "-g", shop),
        ("detect", photo, "--save", photo),
    ):
        assert "is what is read; choose another name" in refused(*words)
    assert before == (queries.read_bytes(), photo.read_bytes())
    (tmp_path / "taken.csv").mkdir()
    assert "taken.csv: a folder" in refused("query", "--batch", queries, "--out", tmp_path / "taken.csv", "-g", shop)
    assert "there is no folder" in refused("bench", "--out", tmp_path / "none" / "b.json", "-g", shop)
    assert "saved as .json" in refused("bench", "--out", tmp_path / "b.csv", "-g", shop)


def test_a_full_standard_output_is_one_line(shop: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "cli", "info", "-g", str(shop)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 1
    assert done.stderr == "fsearch: the output cannot be written (No space left on device)\n"
