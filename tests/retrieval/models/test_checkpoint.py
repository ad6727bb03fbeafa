"""Checkpoints: exact round trips, and no damage that goes unnoticed."""

from __future__ import annotations

import ast
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

import retrieval
from index.errors import FsearchError, ModelError
from retrieval.config import Config, fingerprint, parse
from retrieval.models import checkpoint
from retrieval.models.memory import Memory
from retrieval.models.network import GarmentNet

VOCABULARY = {"type": ["shirt", "dréss"], "color": ["red", "blue", "gray"]}
FACTS = {"validation": {"accuracy": {"color": 0.5}}, "note": "Ärmel"}


def tiny(seed: int = 0, **search: object) -> tuple[GarmentNet, Memory, Config]:
    """A network with uneven BatchNorm statistics, as after training."""
    config = parse(
        {
            "name": "tiny",
            "model": {
                "backbone": "regnet_tiny",
                "input_size": 32,
                "branches": 2,
                "branch_dim": 4,
                "attributes": {"type": {"dim": 4}, "color": {"dim": 3, "color": True}},
            },
            "search": search,
        },
        "test",
    )
    torch.manual_seed(seed)
    net = GarmentNet(config.model, VOCABULARY).train()
    net(torch.rand(4, 3, 32, 32) * 255)
    matrix = np.random.default_rng(seed).normal(size=(7, 5)).astype(np.float32)
    return net, Memory(VOCABULARY, {"type": 4, "color": 3}, matrix), config


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    checkpoint.write(path, *tiny(), FACTS)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        checkpoint.read(path)
    said = str(caught.value)
    assert str(path) in said
    assert "\n" not in said
    return said


def split(content: bytes) -> tuple[dict, bytes]:
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def join(header: dict, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def test_float32_round_trip_is_exact(written: Path) -> None:
    net, memory, config = tiny()
    model = checkpoint.read(written)
    assert not model.net.training
    assert not any(p.requires_grad for p in model.net.parameters())
    state, again = net.state_dict(), model.net.state_dict()
    assert list(state) == list(again)
    for name in state:
        assert torch.equal(state[name], again[name]), name
        assert again[name].dtype == state[name].dtype, name
    np.testing.assert_array_equal(model.memory.matrix, memory.matrix)
    assert list(model.memory.vocabulary.items()) == list(VOCABULARY.items())
    assert dict(model.memory.dims) == dict(memory.dims)
    assert model.vocabulary == VOCABULARY
    assert (model.config, model.facts, model.path) == (config, FACTS, written)
    photos = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert model.net.quick is checkpoint.has_bfloat16()
    model.net.quick = False
    with torch.inference_mode():
        for name, block in net.eval()(photos).blocks.items():
            assert torch.equal(block, model.net(photos).blocks[name])


def test_float16_round_trip_is_close_and_its_fingerprint_is_stable(tmp_path: Path) -> None:
    net, memory, config = tiny()
    path = tmp_path / "half.safetensors"
    mark = checkpoint.write(path, net, memory, config, {}, torch.float16)
    model = checkpoint.read(path)
    assert model.fingerprint == checkpoint.read(path).fingerprint == mark
    state, again = net.state_dict(), model.net.state_dict()
    for name in state:
        torch.testing.assert_close(again[name], state[name], rtol=2**-10, atol=1e-7)
    np.testing.assert_array_equal(model.memory.matrix, memory.matrix)  # queries add it to raw features: kept whole
    # written again from what was read, nothing moves any more
    second = tmp_path / "second.safetensors"
    assert checkpoint.write(second, model.net, model.memory, model.config, {}, torch.float16) == mark


def test_the_fingerprint_covers_what_an_embedding_depends_on(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    net, memory, config = tiny()
    mark = checkpoint.write(path, net, memory, config, FACTS)
    assert checkpoint.write(path, *tiny(weights={"color": 2.0}), {}) == mark  # defaults of a query change no embedding
    pretrained = config.model_copy(update={"model": config.model.model_copy(update={"pretrained": True})})
    assert checkpoint.write(path, net, memory, pretrained, {}) == mark  # where the weights began is not what they are
    checkpoint.read(path)  # and reading it fetches nothing
    larger = config.model_copy(update={"model": config.model.model_copy(update={"input_size": 64})})
    words = Memory(VOCABULARY | {"color": ["red", "blue", "grey"]}, memory.dims, memory.matrix)
    moved = Memory(VOCABULARY, memory.dims, memory.matrix + 1)
    marks = {
        mark,
        checkpoint.write(path, net, memory, larger, FACTS),
        checkpoint.write(path, net, words, config, FACTS),
        checkpoint.write(path, net, moved, config, FACTS),
        checkpoint.write(path, *tiny(seed=1), FACTS),
    }
    with torch.no_grad():
        net.bottom.spatial.conv.bias.add_(1e-6)
    marks.add(checkpoint.write(path, net, memory, config, FACTS))
    assert len(marks) == 6


def test_one_flipped_byte_anywhere_is_a_model_error(written: Path, tmp_path: Path) -> None:
    content = written.read_bytes()
    path = tmp_path / "damaged.safetensors"
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = content[:start]
    rng = np.random.default_rng(0)
    places = {0, 1, 7, 8, start - 1, start, len(content) - 1, *rng.integers(start, len(content), 8).tolist()}
    for key in ("format", "config", "vocabulary", "facts", "fingerprint", "checksum"):
        key_at = header.index(f'"fsearch.{key}":"'.encode())
        value_at = key_at + len(key) + 12
        places |= {key_at + 4, value_at, value_at + 1}
    inside = content.index(b'"fsearch.facts":"') + 17
    places |= set(rng.integers(inside, inside + 60, 6).tolist())  # nothing but the checksum covers the facts
    places |= set(rng.integers(8, start, 30).tolist())
    for place in sorted(places):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        refusal(path)


@pytest.mark.parametrize("cut", [0, 5, 8, 300, -1, -1000])
def test_truncated(cut: int, written: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(written.read_bytes()[:cut])
    assert "restore it or train again" in refusal(path)


def test_foreign_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    for metadata in (None, {"format": "pt"}):
        path.write_bytes(save({"weight": torch.zeros(3)}, metadata))
        assert "not one that fsearch wrote" in refusal(path)


def test_newer_format(written: Path, tmp_path: Path) -> None:
    header, body = split(written.read_bytes())
    header["__metadata__"]["fsearch.format"] = "2"
    path = tmp_path / "newer.safetensors"
    path.write_bytes(join(header, body))
    assert "newer fsearch (format 2): upgrade fsearch" in refusal(path)


@pytest.mark.parametrize("key", ["config", "vocabulary", "facts", "fingerprint"])
@pytest.mark.parametrize("value", [None, "{", '{"name": 3}'])
def test_header_without_its_parts(key: str, value: str | None, written: Path, tmp_path: Path) -> None:
    header, body = split(written.read_bytes())
    metadata = header["__metadata__"]
    if value is None:
        del metadata[f"fsearch.{key}"]
    else:
        metadata[f"fsearch.{key}"] = value
    metadata["fsearch.checksum"] = fingerprint({k: v for k, v in metadata.items() if k != "fsearch.checksum"})
    path = tmp_path / "parts.safetensors"
    path.write_bytes(join(header, body))
    if (key, value) == ("facts", '{"name": 3}'):
        assert checkpoint.read(path).facts == {"name": 3}
    else:
        refusal(path)


def test_weights_that_do_not_fit_the_config(tmp_path: Path) -> None:
    net, memory, config = tiny()
    wider = config.model_copy(update={"model": config.model.model_copy(update={"branches": 3})})
    path = tmp_path / "unfit.safetensors"
    checkpoint.write(path, net, memory, wider, {})
    assert "do not fit the config" in refusal(path)


def test_names(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "weights"
    shipped.mkdir()
    monkeypatch.setattr(checkpoint, "WEIGHTS", shipped)
    with pytest.raises(ModelError, match=r"no model 'nothing': .*\(none\)"):
        checkpoint.read("nothing")
    for name in ("products", "other"):
        (shipped / f"{name}.safetensors").write_bytes(written.read_bytes())
    with pytest.raises(ModelError, match=r"no model 'nothing': .*\(other, products\)"):
        checkpoint.locate("nothing")
    assert checkpoint.locate("other") == shipped / "other.safetensors"
    assert checkpoint.locate(None) == shipped / "products.safetensors"
    assert checkpoint.locate(written) == written
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes(written.read_bytes())
    assert checkpoint.locate(tmp_path / "run") == tmp_path / "run" / "model.safetensors"


def test_writing_replaces_whole_and_leaves_nothing_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "model.safetensors"
    mark = checkpoint.write(path, *tiny(), FACTS)

    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("index.files.os.replace", full_disk)
        with pytest.raises(FsearchError, match="No space left"):
            checkpoint.write(path, *tiny(seed=1), FACTS)
    assert checkpoint.read(path).fingerprint == mark
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]
    assert checkpoint.write(path, *tiny(seed=1), FACTS) != mark
    assert "memory.matrix" in load(path.read_bytes())


def test_nothing_is_unpickled() -> None:
    """No torch.load, no pickle in what ships: a checkpoint from a stranger can run no code."""
    files = sorted(Path(retrieval.__file__).parent.rglob("*.py"))
    assert len(files) > 20
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "load":
                assert not (isinstance(node.value, ast.Name) and node.value.id in ("torch", "np", "numpy")), file
            imported = {a.name for a in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom):
                imported = {node.module or ""}
            assert not imported & {"pickle", "cPickle", "joblib", "dill", "cloudpickle", "shelve"}, file
