"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


class Share(click.FloatRange):
    """A number from 0 to 1; click's own range lets nan through."""

    def __init__(self, min_open: bool = False) -> None:
        super().__init__(0, 1, min_open=min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is no number from 0 to 1.", param, ctx)
        return number


FOLDER = click.Path(path_type=Path)
INTERRUPTED = "fsearch.interrupted"  # key of a context's meta: what Ctrl-C says, where a command knows better
RESUMES = "the same command goes on where it stopped"


def gallery(command: Callable[..., Any]) -> Callable[..., Any]:
    """--gallery, which $FSEARCH_GALLERY may give."""
    return click.option(
        "--gallery", "-g", type=FOLDER, envvar="FSEARCH_GALLERY", default="gallery", show_default=True,
        help="The gallery folder; $FSEARCH_GALLERY if set.",
    )(command)  # fmt: skip
