"""gallery.json: what a gallery's manifest says, and how it is read and written.

Format 1 knows a table and an index of all its rows. What came later is written only where a gallery has it, as a format
that older code refuses instead of misreading it: rows added behind the index, removed rows and drift as format 2; an
index whose vectors.f16 begins with a header (``index.vectors``), or that has a cap on its memory, as format 3; an
index that may have a copy of the vectors, and whose graph has a map to row numbers, as format 4.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from index.errors import DamagedError, FsearchError, GalleryError
from index.names import MANIFEST, PART, PLAN, TABLE, own
from index.table import Layout, Part

FORMAT = 4
REMOVED = "removed-"  # removed-000007.npy: the rows of the table that are no longer in the gallery
DRIFTED = 0.03  # recall on new rows this far below the promised one is drift; sampling alone moves it by about 0.01
NO_MODEL = {"name": "none", "fingerprint": ""}
_NO_CHECKSUM = "0" * 64


@dataclass(frozen=True)
class Drift:
    """How well an index finds rows that came after its training.

    recall: tie-aware recall@k at the default setting, of queries made of ``rows`` rows indexed since it was trained on
    ``trained``; promised: what was measured of the default setting then.
    """

    trained: int
    rows: int
    k: int
    recall: float
    promised: float

    @property
    def drifted(self) -> bool:
        return self.recall < self.promised - DRIFTED


@dataclass(frozen=True)
class Changes:
    """What happened to a gallery since it was built: rows added, rows removed (replaced ones count as both).

    last: fingerprint of the listing added last, "" when something else was changed after it.
    """

    added: int = 0
    removed: int = 0
    last: str = ""


@dataclass(frozen=True)
class Generation:
    """One index over the table, in a folder of its own. ``files``: name -> {"bytes", "sha256"}, and of vectors.f16
    the checksum of its "head".

    It indexes the first ``parts`` parts (None: all of them), whose fingerprint it remembers. memory: the bytes that it
    may hold beside the mapped vectors, if it was built with such a cap; a later build keeps to it.
    """

    name: str
    recipe: dict[str, Any]
    files: dict[str, dict[str, Any]]
    table_fingerprint: str
    parts: int | None = None
    drift: Drift | None = None
    memory: int | None = None

    @property
    def headed(self) -> bool:
        """Whether its vectors.f16 begins with a header: since then recipes name their projection."""
        return "dims" in self.recipe


@dataclass(frozen=True)
class Manifest:
    """All that gallery.json holds. Files and parts are named relative to the gallery and to its table folder."""

    layout: Layout
    attributes: dict[str, list[str]]  # the vocabulary that the model edits: attribute -> values
    aliases: dict[str, Any]  # {"attributes": ..., "values": ...}: read and written by retrieval.query
    weights: dict[str, float]  # default block weights
    model: dict[str, str]  # name, fingerprint
    source: dict[str, str]  # path, fingerprint of the input
    config_fingerprint: str
    labels: list[str]  # label columns of the table
    parts: list[Part]
    rows: int  # of the table, removed ones too
    rejected: int
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # e.g. rejected.parquet -> {"bytes", "sha256"}
    generations: list[Generation] = field(default_factory=list)
    generation: str | None = None  # the current one
    created_by: str = ""  # code version
    removed: int = 0  # rows of the table that are no longer in the gallery
    changes: Changes = Changes()

    def __post_init__(self) -> None:
        if sum(part.rows for part in self.parts) != self.rows:
            raise ValueError(f"{self.rows} rows, but the parts hold {sum(part.rows for part in self.parts)}")
        if self.generation is not None and self.generation not in [each.name for each in self.generations]:
            raise ValueError(f"no generation {self.generation}")
        if not 0 <= self.removed <= self.rows or (self.removed > 0) != (self.removed_file is not None):
            raise ValueError(f"{self.removed} of {self.rows} rows removed, named by {self.removed_file}")
        self.layout.scale(self.weights)

    @property
    def table_fingerprint(self) -> str:
        return table_fingerprint(self.parts)

    @property
    def has_model(self) -> bool:
        """Whether a network made the embeddings; not where they were given (``index.create``)."""
        return bool(self.model["fingerprint"])

    @property
    def photos(self) -> int:
        """The rows that are in the gallery: those of the table that were not removed."""
        return self.rows - self.removed

    @property
    def removed_file(self) -> str | None:
        """The file that lists the removed rows."""
        return next((name for name in self.files if name.startswith(REMOVED)), None)

    @property
    def current(self) -> Generation | None:
        """The generation that searches use; None before the first build."""
        return next((each for each in self.generations if each.name == self.generation), None)

    @property
    def indexed_parts(self) -> int:
        """How many parts, from the first, the current generation indexes; 0 when it is of another table."""
        current = self.current
        if current is None:
            return 0
        count = len(self.parts) if current.parts is None else current.parts
        return count if current.table_fingerprint == table_fingerprint(self.parts[:count]) else 0

    @property
    def indexed(self) -> int:
        """How many rows, from row 0, the current generation indexes; the others are the tail."""
        return sum(part.rows for part in self.parts[: self.indexed_parts])

    @property
    def next_part(self) -> int:
        """The number of the next new part: one that no part had."""
        return 1 + max((int(part.name[5:-8]) for part in self.parts), default=-1)

    @property
    def next_generation(self) -> str:
        return f"gen-{1 + max((int(each.name.removeprefix('gen-')) for each in self.generations), default=0):06d}"

    def to_bytes(self) -> bytes:
        """gallery.json: readable JSON whose ``checksum`` covers every other byte."""
        body = {**asdict(self), "layout": self.layout.to_json()}
        later = [*_drop_defaults(body, {"removed": 0, "changes": asdict(Changes())})]
        for each in body["generations"]:
            later += _drop_defaults(each, {"parts": None, "drift": None, "memory": None})
        headed = any(each.headed for each in self.generations)
        version = 3 if headed or "memory" in later else 2 if later else 1
        version = FORMAT if any("copied" in each.recipe for each in self.generations) else version
        body = {"checksum": _NO_CHECKSUM, "format": version, **body}
        text = json.dumps(body, indent=1, ensure_ascii=False) + "\n"
        return text.replace(_NO_CHECKSUM, hashlib.sha256(text.encode()).hexdigest(), 1).encode()

    @classmethod
    def from_bytes(cls, content: bytes, where: Path | str = MANIFEST) -> Manifest:
        """Read gallery.json; DamagedError when a byte changed, GalleryError for a newer format."""
        try:
            body = json.loads(content)
            checksum, version = body.pop("checksum"), body.pop("format")
            plain = content.replace(checksum.encode(), _NO_CHECKSUM.encode(), 1)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DamagedError(f"{where}: damaged (not a gallery manifest); build the gallery again") from error
        if isinstance(version, int) and version > FORMAT:
            raise GalleryError(f"{where}: format {version} is newer than {FORMAT}, the newest known; upgrade fsearch")
        if hashlib.sha256(plain).hexdigest() != checksum:
            raise DamagedError(f"{where}: damaged (its checksum does not match); build the gallery again")
        try:
            body["layout"] = Layout.from_json(body["layout"])
            body["parts"] = [Part(**part) for part in body["parts"]]
            body["generations"] = [_generation(each) for each in body["generations"]]
            body["changes"] = Changes(**body.get("changes", {}))
            return cls(**body)
        except (ValueError, KeyError, TypeError, FsearchError) as error:
            raise DamagedError(f"{where}: damaged ({error}); build the gallery again") from error


def committed(path: Path | str) -> Manifest:
    """That of the gallery at ``path``."""
    path = Path(path)
    try:
        content = (path / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        what = "no gallery here; make one"
        if (path / PLAN).is_file():
            what = "unfinished; go on"
        elif own(path / TABLE, PART):
            what = f"has lost its {MANIFEST}; restore that file, or make it anew with --replace,"
        raise GalleryError(f"{path}: {what} with `fsearch build-index PHOTOS --gallery {path}`") from None
    except OSError as error:
        why = f"cannot be read ({error.strerror}); mend that and run again"
        raise GalleryError(f"{path / MANIFEST}: {why}") from error
    return Manifest.from_bytes(content, path / MANIFEST)


def sound(path: Path) -> Manifest | None:
    """The same; None where it is lost or damaged, so that nobody knows which files are the gallery's."""
    try:
        return committed(path) if (path / MANIFEST).is_file() else None
    except DamagedError:
        return None


def _drop_defaults(body: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    """Take out the keys that say nothing new; the names of those that stay."""
    for name, default in defaults.items():
        if body[name] == default:
            del body[name]
    return [name for name in defaults if name in body]


def _generation(body: dict[str, Any]) -> Generation:
    drift = body.pop("drift", None)
    return Generation(**body, drift=None if drift is None else Drift(**drift))


def table_fingerprint(parts: Sequence[Part]) -> str:
    """What a generation remembers of the table it indexes: the hash of its parts' checksums, in order."""
    return hashlib.sha256("\n".join(part.sha256 for part in parts).encode()).hexdigest()


def with_generation(manifest: Manifest, generation: Generation) -> Manifest:
    """The manifest whose only index is this one."""
    return replace(manifest, generations=[generation], generation=generation.name)
