"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(path_type=Path)
INTERRUPTED = "fsearch.interrupted"  # key of a context's meta: what Ctrl-C says, where a command knows better
RESUMES = "the same command goes on where it stopped"


def gallery(command: Callable[..., Any]) -> Callable[..., Any]:
    """--gallery, which $FSEARCH_GALLERY may give."""
    return click.option(
        "--gallery", "-g", type=FOLDER, envvar="FSEARCH_GALLERY", default="gallery", show_default=True,
        help="The gallery folder; $FSEARCH_GALLERY if set.",
    )(command)  # fmt: skip
