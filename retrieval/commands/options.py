"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(path_type=Path)


def gallery(command: Callable[..., Any]) -> Callable[..., Any]:
    """--gallery, which $FSEARCH_GALLERY may give."""
    return click.option(
        "--gallery", "-g", type=FOLDER, envvar="FSEARCH_GALLERY", default="gallery", show_default=True,
        help="The gallery folder; $FSEARCH_GALLERY if set.",
    )(command)  # fmt: skip
