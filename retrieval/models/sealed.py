"""A model file of any kind: tensors, what they mean and what was measured in one safetensors file, sealed.

The fingerprint is of tensors and header; the checksum is of all that is said beside them. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from index.errors import ModelError
from index.files import atomic_write
from retrieval.config import fingerprint as checksum


class Kind(NamedTuple):
    """A kind of model file: its key in the file, the newest format that is read, its name in errors, and how one is
    made ("fsearch train-outfits makes one")."""

    key: str
    version: int
    what: str  # with its article
    remedy: str


class Sealed(NamedTuple):
    """What a file holds; ``header`` is what its tensors mean, ``facts`` what was measured."""

    tensors: dict[str, Tensor]
    header: dict[str, Any]
    facts: dict[str, Any]
    fingerprint: str


def write(
    path: Path, kind: Kind, tensors: Mapping[str, Tensor], header: Mapping[str, Any], facts: Mapping[str, Any]
) -> str:
    """Write a model file atomically, float tensors as float16. Returns its fingerprint."""
    kept = {
        name: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in tensors.items()
    }
    mark = fingerprint(kept, header)
    told = {f"fsearch.{kind.key}": str(kind.version), "fsearch.header": json.dumps(header, ensure_ascii=False)}
    told |= {"fsearch.facts": json.dumps(facts, ensure_ascii=False), "fsearch.fingerprint": mark}
    atomic_write(path, save(kept, told | {"fsearch.checksum": checksum(told)}))
    return mark


def locate(name: str | Path | None, kind: Kind, shipped: Path) -> Path:
    """A model file by path or by the name of one in the folder ``shipped``; ``None``: the one named as its kind.

    ModelError says how to make one.
    """
    path = Path(name if name is not None else kind.key)
    for candidate in (path, shipped / f"{path}.safetensors"):
        if candidate.is_file():
            return candidate
    raise ModelError(f"no {kind.what.partition(' ')[2]} {str(path)!r}: {kind.remedy}")


def read(path: Path, kind: Kind) -> Sealed:
    """The content of a model file, its float tensors as float32. ModelError for one that is damaged, newer, or of
    another kind."""
    try:
        with safe_open(str(path), framework="pt") as file:
            told = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not readable as {kind.what} ({error}): restore it, or {kind.remedy}") from None
    if f"fsearch.{kind.key}" not in told:
        raise ModelError(f"{path}: not {kind.what}: {kind.remedy}")
    try:
        if int(version := told[f"fsearch.{kind.key}"]) > kind.version:
            raise ModelError(f"{path}: written by a newer fsearch (format {version}): upgrade fsearch")
        if told.pop("fsearch.checksum") != checksum(told):
            raise ValueError("its checksum differs")
        header, facts = json.loads(told["fsearch.header"]), json.loads(told["fsearch.facts"])
        if fingerprint(tensors, header) != told["fsearch.fingerprint"]:
            raise ValueError("its weights are not those that were written")
    except (KeyError, ValueError, TypeError) as error:
        raise damaged(path, kind, error) from None
    full = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    return Sealed(full, header, facts, told["fsearch.fingerprint"])


def damaged(path: Path, kind: Kind, error: Exception) -> ModelError:
    """The one line for a file whose content does not hold together."""
    said = " ".join(str(error).split())[:200]
    return ModelError(f"{path}: damaged ({said}): restore the file, or {kind.remedy}")


def fingerprint(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """16 hex digits of the SHA-256 of the header as canonical JSON and of all tensors by name."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, ensure_ascii=False).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
