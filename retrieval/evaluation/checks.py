"""What a folder holds of a published data set, counted beside what was published: ``fsearch data check``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from index.errors import InputError
from retrieval.datasets import deepfashion, polyvore
from retrieval.datasets.benchmarks import FORMATS
from retrieval.evaluation import support

BELOW = 3  # how deep lists may lie below the folder


def check(name: str, root: Path) -> dict[str, Any]:
    """Read a folder as the data set ``name`` and count it; no photo is opened. JSON values.

    counts: name -> {found, published (None: no sure source)}; labels: column -> {filled, values}; files: name -> where
    it lies below the folder, or None; missing: the listed photos that are not there, with the first three. Raises
    InputError, one line, where the folder cannot be used as that data set.
    """
    format_ = FORMATS[name]
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; name the folder of {format_.title}")
    if not format_.recognised(root):
        looked = ", ".join(format_.files[:3])
        raise InputError(f"{root}: does not look like {format_.title} (looked for {looked}; docs/benchmarks.md)")
    try:
        source = format_.read(root)
        extra = _extra(name, root)
    except OSError as error:
        raise InputError(f"{error.filename or root}: cannot be read ({error.strerror or error})") from None
    columns = {column: source.rows[column].to_pylist() for column in source.attributes}
    splits = Counter(columns.get("split", ()))
    if empty := [split for split in format_.needs if not splits[split]]:
        raise InputError(
            f"{root}: none of the photos of {empty[0]} is there; unpack them, nothing can be asked without"
        )
    found = {"listed": len(source) + len(source.missing), "photos": len(source)}
    if "item" in columns:
        found["items"] = len(set(columns["item"]))
    found |= {str(split): count for split, count in splits.items() if split} | extra
    return {
        "name": name,
        "title": format_.title,
        "root": str(root),
        "counts": {
            each: {"found": found.get(each, 0), "published": format_.published.get(each)}
            for each in dict.fromkeys((*found, *format_.published))
        },
        "labels": {
            column: {"filled": sum(cell is not None for cell in cells), "values": len({*cells} - {None})}
            for column, cells in columns.items()
        },
        "files": {file: _place(root, file) for file in format_.files},
        "missing": {"photos": len(source.missing), "first": [each.path for each in source.missing[:3]]},
    }


def text(report: dict[str, Any]) -> str:
    """A report of ``check`` for people."""
    lines = [f"{report['title']}: {report['root']}", f"  {'':<28}{'found':>12}{'published':>12}"]
    for name, each in report["counts"].items():
        published = "-" if each["published"] is None else f"{each['published']:,}"
        lines.append(f"  {name:<28}{each['found']:>12,}{published:>12}")
    labels = (f"{name} ({each['values']:,} in {each['filled']:,})" for name, each in report["labels"].items())
    lines.append(f"  labels (values in photos): {', '.join(labels)}")
    lines.append(f"  files: {', '.join(place for place in report['files'].values() if place)}")
    if absent := [name for name, place in report["files"].items() if not place]:
        lines.append(f"  not there: {', '.join(absent)}")
    if count := report["missing"]["photos"]:
        lines.append(f"  {count:,} listed photos are not there, such as {report['missing']['first'][0]}")
    counts = report["counts"].items()
    other = [name for name, each in counts if each["published"] is not None and each["published"] != each["found"]]
    lines.append(f"usable; not as many as published: {', '.join(other)}" if other else "usable")
    return "\n".join(lines)


def _extra(name: str, root: Path) -> dict[str, int]:
    """Counts that the photos and their labels do not show."""
    if name == "consumer-to-shop":
        return {"pairs": deepfashion.pairs(root)}
    if name == "deepfashion":
        return {f"{kind} attribute labels": count for kind, count in deepfashion.marks(root)._asdict().items()}
    if name == "edit":
        split = support.read_split(root)
        return {"attributes": len(split.sizes), "queries": len(split.queries.row)}
    if name == "polyvore":
        by_split = Counter(outfit.split for outfit in polyvore.outfits(root))
        counts = {"outfits": sum(by_split.values())} | {f"outfits {split}": count for split, count in by_split.items()}
        lines = polyvore.compatibility(root)
        together = sum(right for right, _ in lines)
        blanks = {"fill-in-the-blank questions": len(polyvore.questions(root))}
        return counts | blanks | {"compatible outfits": together, "incompatible outfits": len(lines) - together}
    return {}


def _place(root: Path, name: str) -> str | None:
    """Where a file lies below root, nearest first; None if it does not."""
    for depth in range(BELOW):
        for path in sorted(root.glob("/".join(["*"] * depth + [name]))):
            if path.is_file():
                return path.relative_to(root).as_posix()
    return None
