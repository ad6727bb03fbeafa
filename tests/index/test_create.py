"""Galleries made of vectors that are there already: what comes out, what is refused, what a killed call leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index import catalogue, create, source
from index.build import open_index
from index.create import add_vectors, parse_blocks
from index.errors import DamagedError, GalleryError, InputError, MismatchError, UnknownNameError
from index.exact import as_float32
from index.files import only_writer
from index.gallery import Gallery, leftovers, verify
from index.table import fixed_size_list
from tests.index.conftest import contents

make = create.create
BLOCKS = {"look": 48, "color": 24, "type": 24}
N = 700


def raw(n: int = N) -> np.ndarray:
    """float32 (n, 96) whose blocks have many lengths, from the structured vectors."""
    from tests.index.conftest import make_vectors

    lengths = np.random.default_rng(1).uniform(0.1, 30, (n, 3)).astype(np.float32)
    return as_float32(make_vectors(n)) * np.repeat(lengths, list(BLOCKS.values()), axis=1)


def rows(vectors: Any, first: int = 0, **columns: Any) -> pa.Table:
    column = fixed_size_list(vectors) if isinstance(vectors, np.ndarray) else vectors
    return pa.table({"id": [f"v{first + i}" for i in range(len(column))], "embedding": column, **columns})


def written(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path, row_group_size=200)
    return path


def unit_blocks(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The oracle: each row and each block by itself, in float64."""
    units, norms = np.zeros(vectors.shape), np.zeros((len(vectors), 3))
    for row, vector in enumerate(vectors.astype(np.float64)):
        start = 0
        for i, size in enumerate(BLOCKS.values()):
            part = vector[start : start + size]
            norms[row, i] = np.sqrt((part**2).sum())
            if norms[row, i]:
                units[row, start : start + size] = part / norms[row, i]
            start += size
    return units, norms


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", ["fixed", "list", "large"])
def test_blocks_are_unit_and_their_lengths_kept(dtype: Any, kind: str, tmp_path: Path) -> None:
    vectors = raw(60).astype(dtype)
    vectors[7, :48] = 0
    column: Any = fixed_size_list(vectors)
    if kind != "fixed":
        of = pa.from_numpy_dtype(dtype)
        column = pa.array(list(vectors), pa.list_(of) if kind == "list" else pa.large_list(of))
    gallery = make(tmp_path / "g", written(tmp_path / "v.parquet", rows(column)), blocks=BLOCKS)
    every = np.arange(60)
    units, norms = unit_blocks(vectors)
    np.testing.assert_allclose(gallery.vectors(every), units, atol=6e-4)
    np.testing.assert_allclose(gallery.norms(every), norms, rtol=1e-5)
    assert verify(gallery.path) == []


def test_a_gallery_of_vectors_is_searched_and_joined(tmp_path: Path) -> None:
    vectors = raw()
    labels = {
        "price": np.arange(N) * 0.5,
        "brand": pa.array([f" b{i % 5}" if i % 7 else "" for i in range(N)]),
        "kind": pa.array(["x", "y"] * (N // 2)).dictionary_encode(),
    }
    more = {"path": [f"p/{i}.jpg" for i in range(N)], "width": pa.array([640] * N, pa.int64())}
    unread = {"tags": [["a"]] * N, "content": [b"bytes"] * N, "embedding2": fixed_size_list(vectors)}
    table = rows(vectors, **labels, **more, **unread)
    gallery = make(tmp_path / "g", written(tmp_path / "v.parquet", table), blocks=BLOCKS, weights={"color": 2})
    manifest = gallery.manifest
    assert (manifest.photos, manifest.labels, manifest.has_model) == (N, ["price", "brand", "kind"], False)
    assert manifest.weights == {"look": 1, "color": 2, "type": 1}
    assert manifest.source["path"] == str(tmp_path)
    assert leftovers(gallery.path) == []
    assert sorted(each.name for each in gallery.path.iterdir()) == ["gallery.json", "gen-000001", "table"]

    layout = manifest.layout
    queries = layout.units(raw(N)[5:25])[0] * layout.scale(manifest.weights)
    hits = open_index(gallery).search(queries, 10)
    scores = queries.astype(np.float64) @ gallery.vectors(np.arange(N)).astype(np.float64).T
    best = -np.sort(-scores, axis=1)[:, :10]
    np.testing.assert_allclose(hits.scores, best, atol=1e-3)
    np.testing.assert_allclose(np.take_along_axis(scores, hits.rows, axis=1), best, atol=1e-3)
    assert hits.rows[:, 0].tolist() == list(range(5, 25))
    joined = gallery.columns(["id", "price", "brand", "kind", "path", "width"]).take(hits.rows[:3, 0]).to_pylist()
    assert joined[0] == {"id": "v5", "price": "2.5", "brand": "b0", "kind": "y", "path": "p/5.jpg", "width": 640}
    assert gallery.columns(["brand"])["brand"][7].as_py() is None


def test_numbers_keep_their_text(tmp_path: Path) -> None:
    table = pa.table({"key": [7, 10**15], "v": fixed_size_list(raw(2)), "n": pa.array([3, None], pa.int8())})
    gallery = make(tmp_path / "g", table, id_column="key", vector_column="v")
    assert gallery.columns(["id", "n"]).to_pylist() == [{"id": "7", "n": "3"}, {"id": str(10**15), "n": None}]
    assert gallery.manifest.layout.names == ("vector",)


def test_a_stream_is_written_as_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is cut, the same table; no more than a part and a piece are held."""
    monkeypatch.setattr(create, "ROWS_PER_PART", 200)
    monkeypatch.setattr(source, "ROWS_PER_GROUP", 64)
    vectors = raw()
    table = rows(vectors, n=list(range(N)))
    given = 0

    def pieces() -> Iterator[Any]:
        nonlocal given
        for size in (0, 1, 150, 3, 300, N):
            piece = table.slice(given, size)
            given += len(piece)
            yield piece if size != 3 else piece.to_batches()[0]
            parts = list((tmp_path / "stream" / "table").glob("part-*"))
            assert 200 * len(parts) >= given - 200 - 300

    of_stream = make(tmp_path / "stream", pieces(), blocks=BLOCKS)
    folder = tmp_path / "files"
    folder.mkdir()
    files = [written(folder / f"{i}.parquet", table.slice(start, 100)) for i, start in enumerate(range(0, N, 100))]
    of_files = make(tmp_path / "several", files, blocks=BLOCKS)
    of_folder = make(tmp_path / "folder", folder, blocks=BLOCKS)
    assert [part.rows for part in of_stream.manifest.parts] == [200, 200, 200, 100]
    for other in (of_files, of_folder):
        assert other.columns().equals(of_stream.columns())
        assert np.array_equal(other.vectors(np.arange(N)), of_stream.vectors(np.arange(N)))


LISTS = pa.list_(pa.float32())


@pytest.mark.parametrize("name", ["id", "embedding", "price"])
def test_a_column_that_is_there_twice(name: str, tmp_path: Path) -> None:
    table = rows(raw(2), price=[1, 2])
    table = table.append_column(name, table[name])
    for given in (written(tmp_path / "v.parquet", table), table):
        with pytest.raises(InputError, match=rf"column '{name}' is there twice; rename one"):
            make(tmp_path / "g", given)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"embedding": 2}, "no column 'id'; nearest|known: "),
        ({"id": ["a", "b"], "vec": 2}, "no column 'embedding'"),
        ({"id": ["a", "b"], "embedding": ["x", "y"]}, "column 'embedding' holds string, not lists of floats"),
        ({"id": ["a", "b"], "embedding": [[1, 2], [3, 4]]}, "not lists of floats"),
        ({"id": ["a", None], "embedding": 2}, "column 'id' has a blank cell"),
        ({"id": ["a", ""], "embedding": 2}, "column 'id' has a blank cell"),
        ({"id": ["a", "a"], "embedding": 2}, "id 'a' is given twice"),
        ({"id": ["a", "b"], "embedding": pa.array([[1, 2], None], LISTS)}, "id 'b' is null; every row needs 2"),
        ({"id": ["a", "b"], "embedding": pa.array([None, [1, 2]], LISTS)}, "the first vector is null"),
        ({"id": ["a", "b"], "embedding": pa.array([[], [1, 2]], LISTS)}, "the first vector is empty"),
        ({"id": ["a", "b"], "embedding": pa.array([[1, 2], [1]], LISTS)}, "id 'b' has 1 dimensions; every row needs 2"),
        ({"id": ["a", "b"], "embedding": pa.array([[1, 2], [1, None]], LISTS)}, "id 'b' has an empty place"),
        ({"id": ["a", "b"], "embedding": pa.array([[1, 2], [1, np.nan]], LISTS)}, "id 'b' holds NaN"),
        ({"id": ["a", "b"], "embedding": pa.array([[1, 2], [np.inf, 1]], LISTS)}, "id 'b' holds NaN, infinity"),
        ({"id": ["a", "b"], "embedding": pa.array([[1, 2], [1e30, 1]], LISTS)}, "id 'b' holds .* beyond 1e\\+18"),
        ({"id": ["a", "b"], "embedding": 2, "norms": ["x", "y"]}, "label column 'norms' has a name"),
        ({"id": ["a", "b"], "embedding": 2, "width": ["wide", "x"]}, "does not fit a gallery"),
        ({"id": pa.array([], pa.string()), "embedding": pa.array([], LISTS)}, "no rows; nothing to index"),
    ],
)
@pytest.mark.parametrize("as_file", [True, False])
def test_what_cannot_be_used_is_one_line_and_leaves_nothing(
    columns: dict[str, Any], said: str, as_file: bool, tmp_path: Path
) -> None:
    table = pa.table({name: fixed_size_list(raw(2)) if value == 2 else value for name, value in columns.items()})
    given: Any = written(tmp_path / "v.parquet", table) if as_file else [table]
    with pytest.raises(InputError, match=said) as caught:
        make(tmp_path / "g", given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "g").exists()


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    one = written(tmp_path / "a.parquet", rows(raw(3)))
    other = written(tmp_path / "b.parquet", rows(raw(3), first=3, more=["x"] * 3))
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    (tmp_path / "empty").mkdir()
    cut = tmp_path / "cut.parquet"
    content = bytearray(written(cut, rows(raw(600))).read_bytes())
    content[5000:9000] = bytes(4000)
    cut.write_bytes(content)
    for given, said in (
        (tmp_path / "none.parquet", "no such file"),
        (tmp_path / "bad.parquet", "not a readable Parquet"),
        (tmp_path / "empty", "no .parquet files"),
        ([one, other], r"b\.parquet: its columns are not those of .*a\.parquet \(see 'more'\)"),
        ([rows(raw(3)), rows(raw(3), first=3, more=["x"] * 3)], r"table 2: its columns .* \(see 'more'\)"),
        ([], "no table of vectors was given"),
        ([one, one], "id 'v0' is given twice"),
        (tmp_path.glob("a*"), "Arrow tables, not as PosixPath in a (generator|map)"),
        (np.zeros((2, 4)), "not as ndarray in a ndarray"),
        ({"id": ["a"], "embedding": [[1.0]]}, "not as str in a dict"),
        ([one, rows(raw(3))], "not as PosixPath in a list"),
        (None, "Arrow tables, not as NoneType"),
    ):
        with pytest.raises(InputError, match=said):
            make(tmp_path / "g", given)
        assert not (tmp_path / "g").exists()
    for wrong, said in (
        ({"look": 95}, "look=95 are 95 dimensions, the vectors have 96"),
        ({}, "are 0 dimensions, the vectors have 96"),
        ({"look": 96, "no": 0}, "no=0: each needs a name and 1 dimension or more"),
        ({"look": -1, "color": 97}, "look=-1, color=97: each needs a name and 1 dimension"),
    ):
        with pytest.raises(InputError, match=said):
            make(tmp_path / "g", one, blocks=wrong)
    with pytest.raises(UnknownNameError, match="no block 'colour'"):
        make(tmp_path / "g", one, blocks=BLOCKS, weights={"colour": 2})
    with pytest.raises(InputError, match="every block has weight 0"):
        make(tmp_path / "g", one, weights={"vector": 0})
    with pytest.raises(GalleryError, match="3 rows are too few to train ivfpq"):
        make(tmp_path / "g", one, kind="ivfpq")
    with pytest.raises(GalleryError, match="3 rows are too few to train ivfpq"):
        make(tmp_path / "g", [rows(raw(3))], kind="ivfpq")
    with pytest.raises(UnknownNameError, match="device 'tpu'"):
        make(tmp_path / "g", one, device="tpu")
    assert not (tmp_path / "g").exists()


def test_places_that_are_taken(tmp_path: Path, start: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(GalleryError, match="is there and is no gallery"):
        make(tmp_path / "other", rows(raw(3)))
    assert [each.name for each in (tmp_path / "other").iterdir()] == ["file"]
    before = (start / "gallery.json").read_bytes()
    with pytest.raises(MismatchError, match="was made of source s+ and config c+, this is source unknown"):
        make(start, rows(raw(3)))
    assert (start / "gallery.json").read_bytes() == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "building.json").write_text('{"model": "m"}')
    with pytest.raises(MismatchError, match="unfinished build of photos"):
        make(tmp_path / "photos", rows(raw(3)))
    assert make(tmp_path / "photos", rows(raw(3)), replace=True).manifest.photos == 3


def test_a_gallery_whose_manifest_is_damaged_or_lost_is_replaced(tmp_path: Path) -> None:
    file = written(tmp_path / "v.parquet", rows(raw(40)))
    expected = make(tmp_path / "whole", file).manifest
    path = make(tmp_path / "g", file).path
    catalogue.remove(path, ["v1"])
    manifest = path / "gallery.json"
    for spoil, error, said in (
        (lambda: manifest.write_bytes(manifest.read_bytes()[:-9]), DamagedError, r"gallery\.json: damaged.*--replace"),
        (manifest.unlink, GalleryError, r"g has lost its gallery\.json: restore that file, or --replace"),
    ):
        spoil()
        with pytest.raises(error, match=said):
            make(path, file)
        made = make(path, file, replace=True)
        assert made.manifest.table_fingerprint == expected.table_fingerprint
        assert verify(path) == leftovers(path) == []
        assert set(contents(path)) == {*made.named_files(), manifest}
    with pytest.raises(GalleryError, match=r"v\.parquet is there and is no gallery"):
        make(file, file, replace=True)


def test_again_and_replaced(tmp_path: Path) -> None:
    file = written(tmp_path / "v.parquet", rows(raw()))
    path = make(tmp_path / "g", file, blocks=BLOCKS).path
    before = (path / "gallery.json").read_bytes()
    make(path, file, blocks=BLOCKS)
    assert (path / "gallery.json").read_bytes() == before
    with pytest.raises(MismatchError, match="this is source"):
        make(path, file)
    reader = Gallery.open(path)
    with pytest.raises(InputError, match="given twice"):
        make(path, [rows(raw(3)), rows(raw(3))], replace=True)
    assert (path / "gallery.json").read_bytes() == before
    assert verify(path) == []
    assert leftovers(path) == []
    made = make(path, [rows(raw(3))], replace=True)
    assert [part.name for part in made.manifest.parts] == ["part-00001.parquet"]
    assert sorted(each.name for each in path.glob("*/*.parquet")) == ["part-00001.parquet"]
    assert verify(path) == []
    assert reader.columns(["id"]).num_rows == N
    with pytest.raises(MismatchError, match="source unknown"):
        make(path, [rows(raw(3))])
    catalogue.remove(path, ["v1"])
    with pytest.raises(MismatchError, match="was changed since"):
        make(path, [rows(raw(3))])
    with only_writer(path), pytest.raises(GalleryError, match="another process is writing"):
        make(path, [rows(raw(3))], replace=True)


def test_vectors_are_added_and_replace(tmp_path: Path, start: Path) -> None:
    vectors = raw(N + 40)
    path = make(tmp_path / "g", rows(vectors[:N], n=list(range(N))), blocks=BLOCKS).path
    change = add_vectors(path, [rows(vectors[N - 10 + 40 * i :][:40], first=N - 10 + 40 * i) for i in range(2)])
    assert (change.added, change.removed, change.gallery.manifest.photos) == (50, 10, N + 40)
    gallery = change.gallery
    found = gallery.rows_of([f"v{i}" for i in range(N + 40)])
    units, norms = unit_blocks(vectors)
    order = [gallery.row_by_id[f"v{i}"] for i in range(N + 40)]
    assert sorted(order) == found.tolist()
    np.testing.assert_allclose(gallery.vectors(np.array(order)), units, atol=6e-4)
    np.testing.assert_allclose(gallery.norms(np.array(order)), norms, rtol=1e-5)
    assert gallery.columns(["n"])["n"].to_pylist()[-1] is None
    assert verify(path) == []
    before = {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}
    for wrong, said in (
        (None, "not as NoneType"),
        (rows(raw(2), m=["x", "y"]), "no column 'm'"),
        (rows(raw(2)[:, :50]), "id 'v0' has 50 dimensions; every row needs 96"),
        (pa.concat_tables([rows(raw(2)), rows(raw(2))]), "given twice"),
    ):
        with pytest.raises(InputError, match=said):
            add_vectors(path, wrong)
        assert before == {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}
    assert catalogue.compact(path).gallery.manifest.rows == N + 40
    assert verify(path) == []


def test_what_names_blocks() -> None:
    assert parse_blocks("look=256, color=64") == {"look": 256, "color": 64}
    for wrong in ("", "look", "look=", "look=0", "look=x", "look=-3", "look=1.5", "a=1,a=2", "=3", "look=²"):
        with pytest.raises(InputError, match="write each name once"):
            parse_blocks(wrong)


def test_units_agree_with_the_definition(layout: Any) -> None:
    vectors = raw(50)
    vectors[3, 48:72], vectors[4] = 1e-14, 0
    units, norms = layout.units(vectors)
    vectors[3, 48:72] = 0
    expected, lengths = unit_blocks(vectors)
    np.testing.assert_allclose(units, expected, atol=1e-6)
    np.testing.assert_allclose(norms, lengths, rtol=1e-6)
    assert (units.dtype, norms.dtype) == (np.float32, np.float32)


# Kills itself at the n-th step that touches the disk, for n = 1, 2, ... until a call lives
KILLER = """
    import os, signal, sys
    from index.create import create
    from tests.index.kill import die_at, finish, in_fork

    file, target = sys.argv[1:]
    for step in range(1, 100):
        path = f"{target}/{step:02d}"
        child = in_fork(lambda: (die_at(step), create(path, file)))
        if finish(child) != -signal.SIGKILL:
            break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_anywhere_it_can_be_called_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "v.parquet", rows(raw(40)))
    target = tmp_path / "runs"
    target.mkdir()
    root = Path(create.__file__).parents[1]
    command = [sys.executable, "-c", textwrap.dedent(KILLER), str(file), str(target)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    assert done.returncode == 0, done.stderr
    whole = 0
    runs: list[Path] = sorted(target.iterdir())
    for path in runs:
        if (path / "gallery.json").exists():
            whole += 1
            assert verify(path) == []
        else:
            with pytest.raises(GalleryError, match="unfinished|no gallery here"):
                Gallery.open(path)
        gallery = make(path, file)
        assert (gallery.manifest.photos, verify(path), leftovers(path)) == (40, [], [])
        found = {str(each.relative_to(path)) for each in path.rglob("*") if each.is_file()}
        assert found == {"gallery.json", "table/part-00000.parquet", "gen-000001/vectors.f16"}
    assert 0 < whole < len(runs)
    assert len(runs) > 8


def test_nothing_of_retrieval_or_torch_is_loaded(tmp_path: Path, gallery_at: Callable[..., Gallery]) -> None:
    code = "import sys, index.create, index.facts; assert not {'torch', 'retrieval', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(create.__file__).parents[1])
