"""A part of a listing is a listing: the same photos, also where they lie in one Parquet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.datasets.readers import open_photos


def test_some_rows_of_a_parquet_of_bytes_keep_their_own_bytes(tmp_path: Path) -> None:
    content = [bytes([65 + row]) * 9 for row in range(8)]
    columns = {"id": [f"p{row}" for row in range(8)], "image": content, "color": ["red", None] * 4}
    pq.write_table(pa.table(columns), tmp_path / "photos.parquet")
    whole = open_photos(tmp_path / "photos.parquet")
    part = whole.take(np.array([6, 1, 3]))
    assert [photo.id for photo in part] == ["p6", "p1", "p3"]
    assert [photo.source() for photo in part] == [content[6], content[1], content[3]]  # type: ignore[operator]
    assert [photo.attributes for photo in part] == [{"color": "red"}, {"color": None}, {"color": None}]
    again = part.take(np.array([2, 0]))
    assert [(photo.id, photo.source()) for photo in again] == [("p3", content[3]), ("p6", content[6])]  # type: ignore[operator]
    assert len({whole.fingerprint(), part.fingerprint(), again.fingerprint()}) == 3


def test_some_rows_of_a_list_of_paths(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,color\na.jpg,red\nb.jpg,\nc.jpg,blue\n", encoding="utf-8")
    part = open_photos(tmp_path / "list.csv").take(np.array([2]))
    (photo,) = part
    assert (photo.id, photo.source, photo.attributes) == ("c.jpg", tmp_path / "c.jpg", {"color": "blue"})
    assert len(part) == 1
