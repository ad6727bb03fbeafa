from __future__ import annotations

import hashlib
from pathlib import Path

import faiss
import numpy as np
import pytest

from index import vectors
from index.errors import DamagedError
from index.exact import as_float32


@pytest.mark.parametrize(("rows", "dim"), [(1, 1), (3, 7), (700, 96), (65, 1024), (5, 577)])
def test_what_is_written_is_read(tmp_path: Path, rows: int, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vectors.f16"
    made = np.random.default_rng(0).standard_normal((rows, dim)).astype(np.float16)
    cut = rows // 3
    facts = vectors.write(path, iter([made[:cut], made[cut:][::-1][::-1]]), rows, dim)
    content = path.read_bytes()
    head = hashlib.sha256(vectors.header(rows, dim)).hexdigest()
    assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "head": head}
    assert len(content) == vectors.size(rows, dim) == len(vectors.header(rows, dim)) + rows * dim * 2
    assert vectors.before(path, rows, dim) == vectors.header(rows, dim)
    assert len(vectors.header(rows, dim)) % 2 == 0  # numpy maps float16 from an even byte
    mapped = vectors.mapped(path, rows, dim)
    assert mapped.dtype == np.float16
    assert np.array_equal(mapped, made)
    assert not mapped.flags.writeable
    monkeypatch.setattr(vectors, "PIECE_BYTES", 2 * dim * 4)
    pieces = list(vectors.streamed(path, rows, dim))
    assert max(map(len, pieces)) <= 4
    assert np.array_equal(np.concatenate(pieces), made)


def test_faiss_reads_it_in_place(tmp_path: Path, structured: np.ndarray, queries: np.ndarray) -> None:
    path = tmp_path / "vectors.f16"
    vectors.write(path, [structured], *structured.shape)
    scorer = vectors.scorer(path, *structured.shape)
    assert scorer is not None
    assert (scorer.ntotal, scorer.d) == structured.shape
    assert scorer.metric_type == faiss.METRIC_INNER_PRODUCT
    scores, rows = scorer.search(queries[:5], 8)
    truth = queries[:5] @ as_float32(structured).T
    assert np.allclose(scores, -np.sort(-truth, axis=1)[:, :8], atol=1e-5)
    assert np.allclose(np.take_along_axis(truth, rows, axis=1), scores, atol=1e-5)
    # mapped, not copied: the same bytes as the file's, and it outlives the file's name
    path.unlink()
    assert np.array_equal(scorer.reconstruct(4321), as_float32(structured[4321]))


def test_a_header_that_is_not_what_was_written_is_not_believed(tmp_path: Path, structured: np.ndarray) -> None:
    """FAISS takes the metric from it: by another one, answers would be wrong and nobody told."""
    path, few = tmp_path / "vectors.f16", structured[:50]
    vectors.write(path, [few], *few.shape)
    content = path.read_bytes()
    size = len(vectors.header(*few.shape))
    for byte in range(size):
        path.write_bytes(content[:byte] + bytes([content[byte] ^ 1]) + content[byte + 1 :])
        with pytest.raises(DamagedError, match="fsearch verify"):
            vectors.scorer(path, *few.shape)
    # as another FAISS may have written it
    path.write_bytes(content)
    head = hashlib.sha256(content[:size]).hexdigest()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "header", lambda *_: b"another")
        assert vectors.scorer(path, *few.shape, head) is not None
        with pytest.raises(DamagedError):
            vectors.scorer(path, *few.shape)


def test_numbers_at_the_edges_of_float16(tmp_path: Path) -> None:
    """FAISS widens as numpy does: largest, smallest, subnormal, signed zero."""
    made = np.array([[65504, -65504, 6.1e-5, 6e-8, -6e-8, 0.0, -0.0, 1]], np.float16)
    vectors.write(tmp_path / "v", [made], *made.shape)
    scorer = vectors.scorer(tmp_path / "v", *made.shape)
    assert scorer is not None
    assert np.array_equal(scorer.reconstruct(0), as_float32(made)[0])


def test_a_file_of_before_has_no_header(tmp_path: Path, structured: np.ndarray) -> None:
    path = tmp_path / "vectors.f16"
    structured.tofile(path)
    assert vectors.before(path, *structured.shape) == b""
    assert vectors.scorer(path, *structured.shape) is None
    assert np.array_equal(vectors.mapped(path, *structured.shape), structured)
    assert np.array_equal(np.concatenate(list(vectors.streamed(path, *structured.shape))), structured)


@pytest.mark.parametrize("lost", [2, 50, 192, 6000])
@pytest.mark.parametrize("headed", [True, False])
def test_a_truncated_file_is_noticed(tmp_path: Path, structured: np.ndarray, lost: int, headed: bool) -> None:
    """A header looks like more of the vectors when the end is gone: rows would be read from a wrong place."""
    path, few = tmp_path / "vectors.f16", structured[:500]
    if headed:
        vectors.write(path, [few], *few.shape)
    else:
        few.tofile(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - lost)
    with pytest.raises(DamagedError, match=r"vectors\.f16: does not hold 96000 bytes"):
        vectors.mapped(path, *few.shape)
    with pytest.raises(DamagedError, match=r"vectors\.f16: does not hold 96000 bytes"):
        list(vectors.streamed(path, *few.shape))
    with pytest.raises(DamagedError, match=r"vectors\.f16: does not hold 96000 bytes"):
        vectors.scorer(path, *few.shape)


def test_fewer_rows_than_said_are_seen_in_the_size(tmp_path: Path, structured: np.ndarray) -> None:
    facts = vectors.write(tmp_path / "v", [structured[:10]], 11, 96)
    assert facts["bytes"] == vectors.size(11, 96) - 192
