"""A photo made ready for the network, whole or cropped to its best garment; or why it is not in the table."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from index.errors import PhotoError
from index.files import atomic_path
from retrieval import photos
from retrieval.datasets.records import Photo
from retrieval.detection.frame import around

if TYPE_CHECKING:
    from retrieval.detection.model import Detector

BOX = "box"  # the label column that notes what a photo was cropped to: x,y,w,h in pixels


@dataclass(frozen=True)
class Rejected:
    """A photo that is not in the table, and why. ``id`` or ``path`` is "" where there is none."""

    id: str
    path: str
    reason: str


class Ready(NamedTuple):
    """A photo that decoded: letterboxed pixels, the whole photo's size, the hash of its bytes; ``box``: what it was
    cropped to, None where it is whole."""

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int
    content_hash: str
    box: str | None = None


def ready(photo: Photo, size: int, limits: photos.Limits, detector: Detector | None = None) -> Ready | Rejected:
    """The photo in a letterbox of ``size``; with a detector its best garment, or all of it where none is found."""
    try:
        content = photos.fetch(photo.source, limits)
        mark = hashlib.sha256(content).hexdigest()
        if detector is not None:
            rough = photos.decode(content, limits, long_side=detector.config.model.input_size)
            if (found := detector.best(rough)) is not None:
                box = around(found.box, rough.width, rough.height)
                pixels = _cut(content, box, rough, size, limits)
                return Ready(pixels, rough.width, rough.height, mark, ",".join(map(str, box)))
        loaded = photos.load(content, size, limits)
    except PhotoError as error:
        return Rejected(photo.id, photo.path, error.reason)
    return Ready(loaded.pixels, loaded.width, loaded.height, mark)


def _cut(
    content: bytes, box: tuple[int, int, int, int], rough: photos.Decoded, size: int, limits: photos.Limits
) -> npt.NDArray[np.uint8]:
    """The box in a letterbox, from a photo decoded just finely enough for it."""
    fine = photos.decode(content, limits, long_side=-(-size * max(rough.width, rough.height) // max(box[2:])))
    left, top, right, bottom = fine.box
    x, y = (right - left) / fine.width, (bottom - top) / fine.height
    corner = math.floor(left + box[0] * x), math.floor(top + box[1] * y)
    end = math.ceil(left + (box[0] + box[2]) * x), math.ceil(top + (box[1] + box[3]) * y)
    return photos.letterbox(fine.image.crop((*corner, *end)), size)  # cropped first: a resize would look beyond the box


def write_rejected(path: Path, rejected: Sequence[Rejected]) -> None:
    """rejected.parquet: id, path, reason."""
    columns = {key: [getattr(r, key) for r in rejected] for key in ("id", "path", "reason")}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({key: pa.array(values, pa.string()) for key, values in columns.items()}), temporary)
