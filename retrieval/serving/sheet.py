"""Contact sheets: a query on the left, its edit in words, the ranked results to the right. Plain data in, one file out.

``.html`` is one self-contained page (photos embedded, works offline, light and dark). ``.png`` is a picture for a
README or a slide; its built-in font covers plain Latin letters only: accents are dropped, other scripts become "?".
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from index.errors import FsearchError
from index.files import atomic_write
from retrieval.serving.picture import draw_rows
from retrieval.serving.tiles import Row, Tile, Words, clean, fit, photo_of, words_of

__all__ = ["Row", "Tile", "save_sheet"]

THUMBNAIL = 360  # long side in pixels of a photo in a page: about twice what the page shows, for dense screens


def save_sheet(path: str | Path, rows: Sequence[Row], title: str, facts: Mapping[str, str]) -> None:
    """Write ``rows`` to ``path`` as a page (.html) or a picture (.png); the file appears whole or not at all.

    A photo that cannot be read becomes a gray tile that says why. Raises FsearchError for another ending, a folder that
    cannot be written, and more rows than a picture holds.
    """
    writers: dict[str, Callable[[], bytes]] = {
        ".html": lambda: render_page(title, facts, [("", "", rows)]),
        ".png": lambda: draw_rows(rows, title, facts),
    }
    write_as(Path(path), writers)


def checked(path: Path, endings: Iterable[str] = (".html", ".png"), inputs: Iterable[Path | str | None] = ()) -> Path:
    """``path``, if it can be written to and is none of the inputs: asked before the work. Raises FsearchError."""
    if path.suffix.lower() not in endings:
        raise FsearchError(f"{path}: can be saved as {' or '.join(endings)}; give a name that ends so")
    if not path.parent.is_dir():
        raise FsearchError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise FsearchError(f"{path}: a folder; give the name of a file")
    if path.exists() and any(each is not None and os.path.exists(each) and path.samefile(each) for each in inputs):
        raise FsearchError(f"{path}: is what is read; choose another name for what is written")
    return path


def write_as(path: Path, writers: Mapping[str, Callable[[], bytes]]) -> None:
    """Write what the writer for this ending makes, all or nothing. Raises FsearchError."""
    checked(path, writers)
    try:
        atomic_write(path, writers[path.suffix.lower()]())
    except OSError as error:
        raise FsearchError(f"{path}: cannot be written ({error.strerror}); choose another place") from error


@lru_cache(1)
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("retrieval.serving").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(source)


def render_page(
    title: str,
    facts: Mapping[str, str],
    sections: Iterable[tuple[str, str, Sequence[Row]]],
    tables: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """The page as UTF-8. A section is (heading, text, rows); tables come ready to print from ``report``."""
    views: list[dict[str, Any]] = [
        {"heading": clean(heading), "text": clean(text), "rows": [_row(row) for row in rows]}
        for heading, text, rows in sections
    ]
    marks = {result["mark"] for section in views for row in section["rows"] for result in row["results"]}
    page = _template().render(
        title=clean(title),
        facts=[(clean(name), clean(value)) for name, value in facts.items()],
        sections=views,
        tables=tables,
        legend=bool(marks & {"hit", "miss"}),
    )
    return page.encode("utf-8")


def _row(row: Row) -> dict[str, Any]:
    query, *results = (_tile(tile, words) for tile, words in words_of(row))
    heading = clean(row.heading).replace(" -> ", " → ")
    return {"heading": heading, "note": clean(row.note), "query": query, "results": results}


def _tile(tile: Tile, words: Words) -> dict[str, Any]:
    photo, reason = photo_of(tile, THUMBNAIL)
    place = ", ".join(filter(None, [f"rank {words.rank}" if words.rank else "", words.word]))
    fields = ", ".join(f"{line.name}: {line.value}" if line.name else line.value for line in words.lines)
    alt = (f"{place}: " if place else "") + words.title + (f" ({fields})" if fields else "")
    if photo is None:
        return {**words._asdict(), "uri": "", "reason": reason, "alt": f"{alt}; photo not shown: {reason}"}
    photo = fit(photo, THUMBNAIL, THUMBNAIL, enlarge=False)
    jpeg = io.BytesIO()
    photo.save(jpeg, "JPEG", quality=85, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode("ascii")
    return {**words._asdict(), "uri": uri, "alt": alt, "width": photo.width, "height": photo.height}
