"""Checkpoints: one safetensors file holds the weights, the memory matrix, the config and the fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from index.errors import ConfigError, ModelError
from index.files import atomic_write
from retrieval.config import Config, parse
from retrieval.config import fingerprint as checksum
from retrieval.models.memory import Memory
from retrieval.models.network import GarmentNet, block_dims

FORMAT = 1
WEIGHTS = Path(__file__).resolve().parent / "weights"
DEFAULT = "products"  # the model that ships
LATER = ("detail_stride", "attention")  # keys younger than the format: at their defaults they change no fingerprint


@dataclass(frozen=True)
class Model:
    """A network ready to embed, with everything a query needs. ``net`` is in eval mode, its weights float32."""

    net: GarmentNet
    memory: Memory
    config: Config
    fingerprint: str  # of weights, memory, vocabulary and the config's model section: what an embedding depends on
    path: Path
    facts: dict[str, Any]  # what training measured, and on what data

    @property
    def vocabulary(self) -> dict[str, list[str]]:
        return {name: list(values) for name, values in self.memory.vocabulary.items()}


def write(
    path: Path,
    net: GarmentNet,
    memory: Memory,
    config: Config,
    facts: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> str:
    """Write a checkpoint atomically; float weights are stored as ``dtype``. Returns the fingerprint."""
    tensors = {
        f"net.{name}": tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in net.state_dict().items()
    }
    tensors["memory.matrix"] = torch.from_numpy(memory.matrix)
    vocabulary = {name: list(values) for name, values in memory.vocabulary.items()}
    mark = _fingerprint(tensors, config, vocabulary)
    metadata = {
        "fsearch.format": str(FORMAT),
        "fsearch.config": config.model_dump_json(),
        "fsearch.vocabulary": json.dumps(vocabulary, ensure_ascii=False),
        "fsearch.facts": json.dumps(facts, ensure_ascii=False),
        "fsearch.fingerprint": mark,
    }
    atomic_write(path, save(tensors, metadata | {"fsearch.checksum": checksum(metadata)}))
    return mark


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself (AVX-512 BF16 or AMX); others would only imitate it, slowly."""
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def locate(name: str | Path | None) -> Path:
    """A checkpoint by path, or a shipped one by name (``None``: the default)."""
    path = Path(name if name is not None else DEFAULT)
    for candidate in (path, path / "model.safetensors", WEIGHTS / f"{path}.safetensors"):
        if candidate.is_file():
            return candidate
    shipped = ", ".join(sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))) or "none"
    raise ModelError(
        f"no model {str(path)!r}: give a .safetensors checkpoint (fsearch train makes one) or a shipped one ({shipped})"
    )


def read(name: str | Path | None = None) -> Model:
    """Load a checkpoint by path or shipped name.

    Raises ModelError for a missing, damaged or newer file. Nothing is unpickled.
    """
    path = locate(name)
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable checkpoint ({error}): restore it or train again") from None
    if "fsearch.format" not in metadata:
        raise ModelError(f"{path}: a safetensors file, but not one that fsearch wrote: fsearch train makes one")
    try:
        if int(metadata["fsearch.format"]) > FORMAT:
            version = metadata["fsearch.format"]
            raise ModelError(f"{path}: written by a newer fsearch (format {version}): upgrade fsearch")
        if metadata.pop("fsearch.checksum") != checksum(metadata):
            raise ValueError("its checksum differs")
        said, facts = metadata["fsearch.fingerprint"], json.loads(metadata["fsearch.facts"])
        config = parse(json.loads(metadata["fsearch.config"]), "config")
        vocabulary = json.loads(metadata["fsearch.vocabulary"])
    except (ConfigError, KeyError, ValueError) as error:
        raise ModelError(f"{path}: the header is damaged ({error}): restore the file or train again") from None
    mark = _fingerprint(tensors, config, vocabulary)
    if mark != said:
        raise ModelError(
            f"{path}: content has fingerprint {mark}, its header says {said}: "
            "the file is damaged, restore it or train again"
        )
    bare = config.model.model_copy(update={"pretrained": False})  # the weights are in the file
    net = GarmentNet(bare, vocabulary)
    state = {key.removeprefix("net."): value for key, value in tensors.items() if key.startswith("net.")}
    try:
        net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: weights do not fit the config inside it ({said}): train again") from None
    net.eval().requires_grad_(False)
    net.quick = has_bfloat16()
    dims = {name: d for name, d in block_dims(config.model).items() if name in vocabulary}
    memory = Memory(vocabulary, dims, np.ascontiguousarray(tensors["memory.matrix"].float().numpy()))
    return Model(net, memory, config, mark, path, facts)


def _fingerprint(tensors: dict[str, torch.Tensor], config: Config, vocabulary: dict[str, list[str]]) -> str:
    digest = hashlib.sha256()
    plain = {name for name in LATER if getattr(config.model, name) == type(config.model).model_fields[name].default}
    parts = {"model": config.model.model_dump(exclude={"pretrained"} | plain), "vocabulary": vocabulary}
    digest.update(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
