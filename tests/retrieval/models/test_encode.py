"""A golden test: pinned embeddings of fixed pictures by fixed weights. A changed preprocessing or network shows here.

If it fails and the change is meant, galleries and checkpoints made before it no longer agree with new ones: raise their
format, say so in the changelog, and pin anew (run this file as a script).
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from index.errors import PhotoError
from retrieval import config as configs
from retrieval.models import encode
from retrieval.models.checkpoint import Model
from retrieval.models.memory import Memory
from retrieval.models.network import GarmentNet

VOCABULARY = {"color": ["red", "blue", "gray"], "sleeve": ["long", "short"]}
CONFIG = {
    "name": "golden",
    "model": {
        "backbone": "regnet_tiny",
        "last_stride": 1,
        "input_size": 48,
        "branches": 2,
        "branch_dim": 4,
        "attributes": {"color": {"dim": 4}, "sleeve": {"dim": 3}},
    },
}


def golden_model() -> Model:
    """Weights by the name of each parameter, from numpy: no order of construction and no version of torch enters."""
    config = configs.parse(CONFIG, "golden")
    net = GarmentNet(config.model, VOCABULARY)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            shape = tuple(value.shape)
            if name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
                fill = rng.uniform(0.5, 1.5, shape)
            elif value.is_floating_point() and value.ndim:
                fill = rng.normal(0, (2 / max(1, value[0].numel())) ** 0.5 if value.ndim > 1 else 0.3, shape)
            else:
                continue
            value.copy_(torch.from_numpy(np.asarray(fill, np.float32)))
    matrix = np.zeros((7, 5), np.float32)
    memory = Memory(VOCABULARY, {"color": 4, "sleeve": 3}, matrix)
    return Model(net.eval(), memory, config, "golden", Path("golden"), {})


def pictures() -> list[bytes]:
    """Three PNG files: wide, tall and square, smaller and larger than the network's input."""
    files = []
    for width, height in ((120, 70), (30, 64), (48, 48)):
        y, x = np.mgrid[:height, :width]
        planes = [127 + 120 * np.sin(x / 9 + i) * np.cos(y / (5 + 3 * i)) for i in range(3)]
        out = io.BytesIO()
        Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8)).save(out, "PNG")
        files.append(out.getvalue())
    return files


UNITS = [
    [
        -0.0969,
        -0.7279,
        0.6723,
        0.0758,
        0.0238,
        -0.045,
        0.0038,
        -0.021,
        0.1698,
        0.909,
        0.0033,
        -0.3807,
        -0.9113,
        0.1723,
        0.3739,
    ],
    [
        -0.1012,
        -0.7182,
        0.6826,
        0.0466,
        0.0217,
        -0.0355,
        -0.0177,
        -0.0619,
        0.2309,
        0.8877,
        -0.3721,
        -0.1424,
        -0.6015,
        0.7964,
        -0.0623,
    ],
    [
        0.0305,
        -0.5878,
        0.7845,
        0.1147,
        0.0286,
        0.0094,
        -0.0769,
        -0.1346,
        0.0518,
        0.7977,
        -0.5919,
        0.1031,
        -0.8853,
        -0.0514,
        0.4623,
    ],
]
NORMS = [[11.4103, 1.2405, 1.2621], [13.086, 1.9872, 0.5751], [10.7363, 2.0582, 2.6317]]
PREDICTED = {"color": ["gray", "gray", "gray"], "sleeve": ["long", "short", "long"]}


def test_pinned_embeddings() -> None:
    encoded = encode.encode_photos(golden_model(), pictures())
    np.testing.assert_allclose(encoded.units, UNITS, atol=5e-3)
    np.testing.assert_allclose(encoded.norms, NORMS, rtol=1e-2)
    assert encoded.predicted == PREDICTED


def test_blocks_are_unit_norms_are_raw_and_heads_are_probabilities() -> None:
    model, rng = golden_model(), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 48, 48, 3), dtype=np.uint8)
    encoded = encode.encode(model, pixels)
    assert encoded.units.dtype == encoded.norms.dtype == np.float32
    with torch.inference_mode():
        output = model.net(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    start = 0
    for i, (name, raw) in enumerate(output.blocks.items()):
        stop = start + raw.shape[1]
        for row in range(5):
            length = float(np.sqrt(sum(float(v) ** 2 for v in raw[row])))
            assert encoded.norms[row, i] == pytest.approx(length, rel=1e-4), name
            np.testing.assert_allclose(encoded.units[row, start:stop] * length, raw[row].numpy(), atol=1e-4 * length)
        start = stop
    assert start == encoded.units.shape[1]
    for name, logits in output.logits.items():
        for row in range(5):
            odds = np.exp(logits[row].numpy().astype(np.float64))
            best = int(odds.argmax())
            assert encoded.predicted[name][row] == VOCABULARY[name][best]
            assert encoded.sure[name][row] == pytest.approx(odds[best] / odds.sum(), rel=1e-4)


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, files = golden_model(), pictures() * 2
    whole = encode.encode_photos(model, files)
    monkeypatch.setattr(encode, "BATCH", 4)
    parts = encode.encode_photos(model, files)
    np.testing.assert_allclose(parts.units, whole.units, atol=1e-5)
    assert parts.predicted == whole.predicted
    np.testing.assert_allclose(parts.sure["color"], whole.sure["color"], atol=1e-5)
    with pytest.raises(PhotoError):
        encode.encode_photos(model, [files[0], b"x"])


if __name__ == "__main__":
    made = encode.encode_photos(golden_model(), pictures())
    print("UNITS =", np.round(made.units.astype(float), 4).tolist())
    print("NORMS =", np.round(made.norms.astype(float), 4).tolist())
    print("PREDICTED =", made.predicted)
