"""What a build has mapped of the vectors at once, looked at whenever it gives pages back: little of a large file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from index import approximate, create, drift, levels, tuning, vectors
from index.gallery import VECTORS, Gallery
from index.manifest import Drift
from index.table import fixed_size_list

ROWS, DIM, MB = 16_000, 768, 1 << 20  # 25 MB of vectors
STATUS = Path("/proc/self/status")
LIMIT = 6 * MB


def batches(start: int, stop: int) -> Iterator[pa.Table]:
    rng = np.random.default_rng(start)
    turn = np.random.default_rng(1).standard_normal((12, DIM), np.float32)
    for at in range(start, stop, 4000):
        rows = rng.standard_normal((min(4000, stop - at), 12), np.float32) @ turn
        ids = [f"{i:06d}" for i in range(at, at + len(rows))]
        yield pa.table({"id": ids, "embedding": fixed_size_list(rows.astype(np.float16))})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces for a table of 25 MB as a build has them for one of many gigabytes, and few queries.

    Single queries are left out: one maps up to 2 MiB around each of its candidates, and gives them back.
    """
    monkeypatch.setattr(vectors, "PIECE_BYTES", 2 * MB)
    monkeypatch.setattr(approximate, "ADD_BYTES", 4 * MB)
    monkeypatch.setattr(levels, "QUERIES", 16)  # four times as many of the only block
    monkeypatch.setattr(tuning, "_median_ms", lambda *_: 1.0)
    monkeypatch.setattr(drift, "measure", lambda *_: Drift(ROWS, 1, 10, 1.0, 1.0))


def most_mapped(work: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, gives_back: bool) -> int:
    """The most bytes of files that were mapped during ``work``, beyond those before, at each release and at the end."""
    seen, drop = [], vectors._drop

    def look() -> int:
        fields = re.findall(r"^(?:RssFile|RssShmem):\s+(\d+) kB$", STATUS.read_text(), re.M)
        return 1024 * sum(map(int, fields))

    def watched(pages: Any) -> None:
        seen.append(look())
        if gives_back:
            drop(pages)

    before = look()
    with monkeypatch.context() as patch:
        patch.setattr(vectors, "_drop", watched)
        work()
    return max(*seen, look()) - before


@pytest.mark.skipif(not STATUS.is_file(), reason="needs /proc")
@pytest.mark.usefixtures("small")
def test_a_build_has_little_of_its_vectors_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create.create(tmp_path / "warm", batches(0, 2000), kind="fastscan")  # libraries have their pages
    made = {
        name: most_mapped(
            lambda to=tmp_path / name: create.create(to, batches(0, ROWS), kind="fastscan"),  # type: ignore[misc]
            monkeypatch, gives_back,
        )
        for name, gives_back in (("kept", False), ("given back", True))
    }  # fmt: skip
    size = (tmp_path / "kept" / "gen-000001" / VECTORS).stat().st_size
    assert size == vectors.size(ROWS, DIM) > 3.9 * LIMIT

    assert made["kept"] > 0.9 * size  # a build reads all of it through its map: what is looked at is there
    assert made["given back"] < LIMIT
    added = most_mapped(
        lambda: create.add_vectors(tmp_path / "given back", batches(ROWS, ROWS + 4000), tail_rows=0),
        monkeypatch, True,
    )  # fmt: skip
    assert Gallery.open(tmp_path / "given back").manifest.indexed == ROWS + 4000

    assert added < LIMIT


def test_rows_taken_are_those_of_the_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "PIECE_BYTES", 5 * 2 * 16)
    rows = np.random.default_rng(0).standard_normal((23, 16)).astype(np.float16)
    vectors.write(tmp_path / "v", [rows[:9], rows[9:]], 23, 16)
    mapped = vectors.mapped(tmp_path / "v", 23, 16)
    asked = np.array([22, 0, 0, 7, 3, 22, 9, 1], np.int64)
    assert np.array_equal(vectors.taken(mapped, asked), rows[asked])
    assert vectors.taken(mapped, asked[:0]).shape == (0, 16)
    pieces = list(vectors.passing(mapped))
    assert [len(each) for each in pieces] == [5, 5, 5, 5, 3]
    assert np.array_equal(np.concatenate(pieces), rows)
