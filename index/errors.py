"""One exception tree. The command line turns these into one line and exit code 1; nothing else catches them to print.

A message says what is wrong, where, and what to do, in one line.
"""

from __future__ import annotations


class FsearchError(Exception):
    """Base of every error a user can cause or mend."""


class InputError(FsearchError):
    """A photo folder, label file or query file that cannot be used."""


class PhotoError(InputError):
    """One photo that cannot be read. ``reason`` is the short text kept in rejected.parquet."""

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(f"{where}: {reason}" if where else reason)
        self.reason = reason


class ConfigError(FsearchError):
    """A config file with unknown keys or unusable values; all faults are named at once."""


class UnknownNameError(FsearchError):
    """An attribute, value, column or id that does not exist; the nearest known ones are offered."""


class GalleryError(FsearchError):
    """A gallery that is missing, unfinished or used wrongly."""


class CapError(GalleryError):
    """No index of so many rows, or none of a kind, fits the bytes ``allowed``; the least takes ``needed``."""

    def __init__(self, rows: int, needed: int, allowed: int, kind: str = "auto") -> None:
        what, other = ("index", "use exact") if kind == "auto" else (f"{kind} index", "ask for another kind")
        least = f"the least is {needed}: raise --memory, or {other}"
        super().__init__(f"no {what} of {rows} rows fits {allowed} bytes, {least}")
        self.rows, self.needed, self.allowed = rows, needed, allowed


class DamagedError(GalleryError):
    """A file whose content does not match its checksum or cannot be parsed."""


class MismatchError(GalleryError):
    """Two artefacts made by different models, configs or inputs; both fingerprints are named."""


class ModelError(FsearchError):
    """A checkpoint or pretrained weights that cannot be loaded."""


class MissingDependencyError(FsearchError):
    """An optional library is absent; the message holds the pip line that installs it."""
