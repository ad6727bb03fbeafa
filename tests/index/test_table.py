from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index import table
from index.errors import DamagedError, InputError, UnknownNameError
from index.files import sha256_file
from index.table import Block, Layout, Part

TableOf = Callable[..., pa.Table]


def test_layout_knows_its_blocks(layout: Layout) -> None:
    assert layout.blocks == (Block("look", 0, 48), Block("color", 48, 72), Block("type", 72, 96))
    assert layout.dim == 96
    assert layout.names == ("look", "color", "type")
    assert layout.slice("color") == slice(48, 72)
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


@pytest.mark.parametrize(
    "blocks",
    [
        (),
        (Block("a", 1, 2),),
        (Block("a", 0, 2), Block("b", 3, 4)),
        (Block("a", 0, 2), Block("b", 1, 4)),
        (Block("a", 0, 0),),
        (Block("a", 0, 2), Block("a", 2, 4)),
    ],
)
def test_layout_without_gaps_or_repeats(blocks: tuple[Block, ...]) -> None:
    with pytest.raises(ValueError, match="block"):
        Layout(blocks)


def test_scale_is_the_weight_of_each_dimension(layout: Layout) -> None:
    scale = layout.scale({"color": 2.5, "type": 0})
    assert scale.dtype == np.float32
    assert scale.tolist() == [1.0] * 48 + [2.5] * 24 + [0.0] * 24


def test_scale_refuses_what_it_does_not_know(layout: Layout) -> None:
    with pytest.raises(UnknownNameError, match="'colour'.*nearest: color"):
        layout.scale({"colour": 2})
    for weight in (-1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="color"):
            layout.scale({"color": weight})


def test_schema(layout: Layout) -> None:
    fields = table.schema(layout, ["baseColour"], ["baseColour"])
    assert [field.name for field in fields] == [
        *("id", "path", "width", "height", "content_hash"),
        *("baseColour", "predicted_baseColour", "norms", "embedding"),
    ]
    assert fields.field("norms").type == pa.list_(pa.float32(), 3)
    assert fields.field("embedding").type == pa.list_(pa.float16(), 96)
    assert fields.field("width").type == pa.int32()
    assert fields.field("baseColour").nullable


@pytest.mark.parametrize(("labels", "name"), [(["id"], "id"), (["a", "a"], "a"), (["predicted_x"], "predicted_x")])
def test_schema_refuses_label_columns_it_needs_itself(layout: Layout, labels: list[str], name: str) -> None:
    with pytest.raises(InputError, match=repr(name)):
        table.schema(layout, labels, ["x"])


@pytest.fixture
def parts(tmp_path: Path, structured: np.ndarray, table_of: TableOf) -> list[Path]:
    """Two parts, of 5000 and 100 rows."""
    paths = [tmp_path / "part-00000.parquet", tmp_path / "part-00001.parquet"]
    table.write_part(paths[0], table_of(structured[:5000]), {"model": "abc"})
    table.write_part(paths[1], table_of(structured[5000:5100], 5000), {})
    return paths


def test_write_part_says_what_it_wrote(tmp_path: Path, structured: np.ndarray, table_of: TableOf) -> None:
    path = tmp_path / "table" / "part-00000.parquet"
    part = table.write_part(path, table_of(structured[:5000]), {"model": "abc", "first": "0"})
    assert part == Part("part-00000.parquet", 5000, path.stat().st_size, sha256_file(path))
    assert table.read_metadata(path) == {"model": "abc", "first": "0"}
    assert [pq.read_metadata(path).row_group(i).num_rows for i in range(2)] == [4096, 904]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_same_rows_write_the_same_bytes(tmp_path: Path, structured: np.ndarray, table_of: TableOf) -> None:
    sums = {table.write_part(tmp_path / name, table_of(structured[:50]), {}).sha256 for name in ("a", "b")}
    assert len(sums) == 1


def test_columns_come_back_in_order(parts: list[Path]) -> None:
    read = table.read_columns(parts, ["color", "id"])
    assert read.column_names == ["color", "id"]
    assert read["id"][0].as_py() == "item-00000"
    assert read["id"][-1].as_py() == "item-05099"
    assert read.num_rows == 5100
    with pytest.raises(DamagedError, match="no column 'hue'"):
        table.read_columns(parts, ["hue"])


def test_embeddings_stream_in_batches(parts: list[Path], structured: np.ndarray) -> None:
    read = list(table.embeddings(parts, rows_per_batch=700))
    assert max(len(each) for each in read) == 700
    assert {each.dtype for each in read} == {np.dtype(np.float16)}
    assert np.array_equal(np.concatenate(read), structured[:5100])


def test_embeddings_hold_a_batch_at_a_time(tmp_path: Path, table_of: TableOf) -> None:
    rows = np.zeros((20_000, 96), np.float16)
    table.write_part(tmp_path / "part", table_of(rows), {})
    before = pa.total_allocated_bytes()
    most = 0
    for batch in table.embeddings([tmp_path / "part"], rows_per_batch=256):
        assert batch.shape[1] == 96
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < rows.nbytes / 2


def test_vectors_are_not_copied(structured: np.ndarray) -> None:
    column = table.fixed_size_list(structured)
    assert np.shares_memory(table.to_numpy(column), structured)
    assert np.array_equal(table.to_numpy(column.slice(10, 5)), structured[10:15])
    with pytest.raises(ValueError, match="empty"):
        table.to_numpy(pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)))


def test_take_reads_rows_in_any_order(parts: list[Path], structured: np.ndarray) -> None:
    rows = np.array([5099, 3, 4096, 3, 4999, 5000])
    assert np.array_equal(table.take(parts, "embedding", rows), structured[rows])
    assert table.take(parts, "norms", rows).shape == (6, 3)
    assert table.take(parts, "norms", rows[:0]).shape == (0, 3)
    for outside in (5100, -1):
        with pytest.raises(IndexError, match="5099"):
            table.take(parts, "embedding", np.array([outside]))


def test_values_that_are_not_finite_are_not_stored(tmp_path: Path, table_of: TableOf) -> None:
    rows = np.zeros((3, 96), np.float16)
    rows[1, 5] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        table.write_part(tmp_path / "part", table_of(rows), {})
    assert list(tmp_path.iterdir()) == []


def _read_all(path: Path) -> None:
    table.read_columns([path], ["id", "path", "width", "height", "content_hash", "color", "predicted_color", "norms"])
    list(table.embeddings([path]))


def test_damage_is_noticed_when_read(tmp_path: Path, structured: np.ndarray, table_of: TableOf) -> None:
    path = tmp_path / "part-00000.parquet"
    table.write_part(path, table_of(structured[:60]), {})
    whole = path.read_bytes()
    embedding = pq.read_metadata(path).row_group(0).column(8)
    assert embedding.path_in_schema.startswith("embedding")
    data = embedding.data_page_offset + embedding.total_uncompressed_size - 1000
    for at in (data, data + 500, 100, len(whole) - 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        with pytest.raises(DamagedError, match=r"part-00000\.parquet: .*fsearch verify"):
            _read_all(path)
    for broken in (whole[:-100], whole[:1000], b"", b"not parquet at all"):
        path.write_bytes(broken)
        with pytest.raises(DamagedError, match=r"part-00000\.parquet: damaged .*fsearch verify"):
            _read_all(path)
        with pytest.raises(DamagedError, match=r"part-00000\.parquet"):
            table.read_metadata(path)
    path.unlink()
    with pytest.raises(DamagedError, match=r"part-00000\.parquet: missing"):
        _read_all(path)


def test_nearest_names() -> None:
    assert table.nearest("GRAY", ["Grey", "Blue"]) == "nearest: Grey"
    assert table.nearest("zzzz", ["Grey", "Blue"]) == "known: Grey, Blue"
