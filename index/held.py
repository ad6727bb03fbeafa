"""Files kept open: a reader goes on with them after a writer removed them from the folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from index.errors import GalleryError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_BY_HANDLE = Path("/proc/self/fd").is_dir()  # where every open file has a name, whatever became of its own


class Held:
    """One open file. As a path (``os.fspath``) it names the open file itself; as text, where it lay.

    So a library that takes a path reads the very file that was opened, and an error names what users know. Where the
    system names no open files (other than Linux) the path is the file's own, and a removed file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        """FileNotFoundError when it is not there."""
        self.path = path
        self._handle = _open(path)

    def __fspath__(self) -> str:
        return f"/proc/self/fd/{self._handle}" if _BY_HANDLE else str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def size(self) -> int:
        return os.fstat(self._handle).st_size

    @property
    def where(self) -> Path:
        """The file's own path while it still leads to it, else that of the open file."""
        try:
            if os.path.samestat(os.stat(self.path), os.fstat(self._handle)):
                return self.path
        except OSError:
            pass
        return Path(os.fspath(self))

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)


def _open(path: Path) -> int:
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    try:
        _allow_more()
        return os.open(path, flags)
    except (OSError, ValueError) as error:
        raise GalleryError(f"{path}: too many files are open; raise the limit (ulimit -n) and run again") from error


def _allow_more() -> None:
    """Raise the limit of open files as far as this process may: a gallery of 10 million rows has 1,200 parts."""
    if resource is not None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
