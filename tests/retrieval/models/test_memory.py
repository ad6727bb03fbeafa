"""The memory matrix against loops, its edits by hand, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from index.errors import DamagedError
from retrieval.models import memory
from retrieval.models.memory import Memory

VOCABULARY = {"color": ["red", "blue", "gray"], "sleeve": ["long", "short"]}
DIMS = {"color": 4, "sleeve": 3}


def filled(seed: int = 0) -> Memory:
    """Every entry set, also off the blocks, as after a training of the matrix."""
    matrix = np.random.default_rng(seed).normal(size=(7, 5)).astype(np.float32)
    return Memory(VOCABULARY, DIMS, matrix)


def slow_means(features: dict[str, np.ndarray], codes: np.ndarray, vocabulary: dict[str, list[str]]) -> np.ndarray:
    """Column by column, photo by photo."""
    columns = []
    for a, (name, values) in enumerate(vocabulary.items()):
        labelled = [i for i in range(len(codes)) if codes[i, a] >= 0]
        for v in range(len(values)):
            chosen = [i for i in labelled if codes[i, a] == v] or labelled
            column = []
            for other in vocabulary:
                for d in range(features[other].shape[1]):
                    mean = sum(float(features[other][i, d]) for i in chosen) / len(chosen) if chosen else 0.0
                    column.append(mean if other == name else 0.0)
            columns.append(column)
    return np.array(columns, np.float32).T


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_from_means_is_the_loop(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = {name: rng.normal(size=(n, d)).astype(np.float32) for name, d in DIMS.items()}
    codes = np.stack([rng.integers(-1, len(values), n) for values in VOCABULARY.values()], axis=1)
    made = memory.from_means(features, codes, VOCABULARY)
    assert made.matrix.dtype == np.float32
    assert list(made.dims.items()) == list(DIMS.items())
    np.testing.assert_allclose(made.matrix, slow_means(features, codes, VOCABULARY), rtol=1e-5, atol=1e-6)


def test_a_value_no_photo_has_is_typical_of_its_attribute() -> None:
    features = {"color": np.array([[1.0], [3.0], [9.0]], np.float32)}
    codes = np.array([[0], [1], [-1]])  # nobody is gray, and the last photo has no label
    made = memory.from_means(features, codes, {"color": ["red", "blue", "gray"]})
    assert made.matrix.tolist() == [[1.0, 3.0, 2.0]]


def test_look_and_other_features_take_no_part() -> None:
    features = {"look": np.ones((2, 9), np.float32), "color": np.array([[1.0], [3.0]], np.float32)}
    assert memory.from_means(features, np.array([[0], [1]]), {"color": ["a", "b"]}).matrix.shape == (1, 2)


def test_many_photos_do_not_lose_precision() -> None:
    features = {"color": np.full((200_000, 1), 1000.1, np.float32)}
    made = memory.from_means(features, np.zeros((200_000, 1), int), {"color": ["a", "b"]})
    np.testing.assert_allclose(made.matrix, 1000.1, rtol=1e-6)


def test_rows_and_columns() -> None:
    m = filled()
    assert m.rows("color") == slice(0, 4)
    assert m.rows("sleeve") == slice(4, 7)
    assert [m.column(a, v) for a, values in VOCABULARY.items() for v in values] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError):
        m.rows("length")


@pytest.mark.parametrize(("attribute", "new", "old"), [("color", "gray", "red"), ("sleeve", "long", "short")])
def test_residual_is_m_times_e_new_minus_e_old(attribute: str, new: str, old: str) -> None:
    m = filled()
    before = m.matrix.copy()
    change = np.zeros(5, np.float32)
    change[m.column(attribute, new)], change[m.column(attribute, old)] = 1, -1
    expected = m.matrix @ change
    residual = m.residual(attribute, new, old)
    assert set(residual) == {"color", "sleeve"}  # off-block entries carry the edit into the other block
    np.testing.assert_allclose(residual["color"], expected[:4], rtol=1e-6)
    np.testing.assert_allclose(residual["sleeve"], expected[4:], rtol=1e-6)
    np.testing.assert_array_equal(m.matrix, before)


def test_a_photo_that_lacks_the_attribute_is_only_given_it() -> None:
    m = filled()
    residual = m.residual("sleeve", "short", None)
    np.testing.assert_array_equal(residual["sleeve"], m.matrix[4:, 4])
    np.testing.assert_array_equal(residual["color"], m.matrix[:4, 4])


def test_block_diagonal_memory_touches_its_own_block_only() -> None:
    matrix = filled().matrix
    matrix[4:, :3] = matrix[:4, 3:] = 0
    m = Memory(VOCABULARY, DIMS, matrix)
    assert list(m.residual("color", "blue", "red")) == ["color"]
    nothing = m.residual("color", "blue", "blue")
    assert list(nothing) == ["color"]
    assert not nothing["color"].any()


def test_the_parts_of_a_residual_can_be_changed_without_harm() -> None:
    m = filled()
    before = m.matrix.copy()
    m.residual("color", "red", None)["color"] += 1
    np.testing.assert_array_equal(m.matrix, before)


@pytest.mark.parametrize(
    ("vocabulary", "dims", "matrix"),
    [
        (VOCABULARY, {"sleeve": 3, "color": 4}, np.zeros((7, 5), np.float32)),
        (VOCABULARY, {"color": 4}, np.zeros((7, 5), np.float32)),
        (VOCABULARY, DIMS, np.zeros((5, 7), np.float32)),
        (VOCABULARY, DIMS, np.zeros((7, 5))),
    ],
)
def test_a_memory_that_does_not_fit_together_is_refused(vocabulary: dict, dims: dict, matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="memory matrix|same attributes"):
        Memory(vocabulary, dims, matrix)


def test_bytes_round_trip(tmp_path: Path) -> None:
    m = Memory({"color": ["røde", "blue", "gray"], "sleeve": ["long", "short"]}, DIMS, filled().matrix)
    path = tmp_path / "memory.safetensors"
    path.write_bytes(memory.to_bytes(m, "0123456789abcdef"))
    again = memory.read(path)
    assert again.matrix.dtype == np.float32
    np.testing.assert_array_equal(again.matrix, m.matrix)
    assert list(again.vocabulary.items()) == list(m.vocabulary.items())
    assert list(again.dims.items()) == list(m.dims.items())


def test_damaged_bytes_are_a_damaged_error_that_names_the_file(tmp_path: Path) -> None:
    """Numbers in the matrix can only be told by the manifest's checksum; whatever else is hurt raises here."""
    content = memory.to_bytes(filled(), "0123456789abcdef")
    path = tmp_path / "memory.safetensors"
    header = len(content) - filled().matrix.nbytes
    refused = []
    for at in range(header):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x01 << at % 8]) + content[at + 1 :])
        try:
            memory.read(path)  # a changed letter in a value's name leaves a readable memory
        except DamagedError as error:
            refused.append(str(error))
    assert len(refused) > header / 2
    assert all(str(path) in said and "fsearch verify" in said and "\n" not in said for said in refused)
    for cut in (0, 4, header - 5, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(DamagedError):
            memory.read(path)


def test_files_that_are_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "memory.safetensors"
    matrix = {"matrix": np.zeros((7, 5), np.float32)}
    for content in (
        save({"other": np.zeros(3)}),
        save(matrix),
        save(matrix, {"vocabulary": "[]", "dims": "{}"}),
        save(matrix, {"vocabulary": "[]", "dims": "[]"}),
        save(matrix, {"vocabulary": '{"a": 3}', "dims": '{"a": "x"}'}),
        b"not safetensors at all",
    ):
        path.write_bytes(content)
        with pytest.raises(DamagedError):
            memory.read(path)
    with pytest.raises(DamagedError):
        memory.read(tmp_path / "missing.safetensors")


def test_heads_prototypes_take_the_length_of_their_photos_features() -> None:
    rng = np.random.default_rng(0)
    vocabulary = {"color": ["red", "blue", "gray"], "sleeve": ["long", "short"]}
    features = {"color": rng.normal(size=(7, 3)).astype(np.float32), "sleeve": rng.normal(size=(7, 2)).astype("f4")}
    codes = np.array([[0, 0], [0, 1], [1, -1], [0, 1], [-1, 0], [1, 0], [1, 1]])  # no gray one
    prototypes = {"color": rng.normal(size=(3, 3)).astype("f4"), "sleeve": rng.normal(size=(2, 2)).astype("f4")}
    got = memory.from_heads(prototypes, features, codes, vocabulary)
    for i, (name, values) in enumerate(vocabulary.items()):
        for v, value in enumerate(values):
            mine = codes[:, i] == v if (codes[:, i] == v).any() else codes[:, i] >= 0
            length = sum(float(np.sqrt((row**2).sum())) for row in features[name][mine]) / mine.sum()
            unit = prototypes[name][v] / np.sqrt((prototypes[name][v] ** 2).sum())
            np.testing.assert_allclose(got.mean(name, value), unit * length, rtol=1e-4)
    assert not got.matrix[:3, 3:].any()
    assert not got.matrix[3:, :3].any()


@pytest.mark.parametrize("kind", ["means", "heads"])
def test_a_value_of_a_multi_label_attribute_is_the_mean_of_the_photos_that_have_it(kind: str) -> None:
    rng = np.random.default_rng(1)
    vocabulary = {"color": ["red", "blue"], "marks": ["dots", "lines", "none has it"]}
    features = {"color": rng.normal(size=(8, 3)).astype("f4"), "marks": rng.normal(size=(8, 2)).astype("f4")}
    codes = np.stack((rng.integers(0, 2, 8), np.zeros(8, int)), axis=1)  # the second column is not looked at
    sets = np.array([[1, 0, 0], [1, 1, 0], [-1, -1, -1], [0, 1, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0], [-1, -1, -1]])
    prototypes = {
        name: rng.normal(size=(len(v), features[name].shape[1])).astype("f4") for name, v in vocabulary.items()
    }
    if kind == "means":
        got = memory.from_means(features, codes, vocabulary, {"marks": sets})
    else:
        got = memory.from_heads(prototypes, features, codes, vocabulary, {"marks": sets})
    for v, value in enumerate(vocabulary["marks"]):
        having = [i for i in range(8) if sets[i, v] == 1] or [i for i in range(8) if sets[i, 0] >= 0]
        expected = sum(features["marks"][i].astype(float) for i in having) / len(having)
        if kind == "heads":
            length = sum(float(np.sqrt((features["marks"][i] ** 2).sum())) for i in having) / len(having)
            expected = prototypes["marks"][v] / np.sqrt((prototypes["marks"][v] ** 2).sum()) * length
        np.testing.assert_allclose(got.mean("marks", value), expected, rtol=1e-4)
    plain = memory.from_means(features, codes, vocabulary)
    if kind == "means":
        np.testing.assert_array_equal(got.mean("color", "blue"), plain.mean("color", "blue"))
