"""Where two photos are alike: the heat of one block's similarity to a direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from index.errors import PhotoError
from retrieval import photos
from retrieval.explain import heat as heats
from retrieval.explain import places
from retrieval.explain.places import Heat
from retrieval.models.checkpoint import Model


class Alike(NamedTuple):
    """A photo (RGB, long side at least that of ``similar``) and the heat over it, (h, w), 0 to 1 at its highest."""

    image: Image.Image
    heat: Heat


def similar(
    model: Model,
    sources: Sequence[photos.Source | None],
    block: str,
    directions: npt.NDArray[np.float32],
    long_side: int = 480,
) -> list[Alike | None]:
    """The heat of <d_i, f_b(photo i)> of each photo; None for one that is not there or cannot be read.

    directions: (n, D_b), such as a query's block for its results. MissingDependencyError without captum.
    """
    size = model.config.model.input_size
    read = [_read(source, max(size, long_side)) for source in sources]
    there = [i for i, each in enumerate(read) if each is not None]
    found: list[Alike | None] = [None] * len(read)
    if there:
        decoded = [each for each in read if each is not None]
        pixels = np.stack([photos.letterbox(each.image, size, each.box) for each in decoded])
        maps = heats.block_heat(model.net, pixels, block, directions[there])
        for i, each, values in zip(there, decoded, maps, strict=True):
            area = places.area_of(each.width, each.height, size)
            found[i] = Alike(each.image, heats.normal(values[places.inside(area)][None])[0])
    return found


def _read(source: photos.Source | None, long_side: int) -> photos.Decoded | None:
    try:
        return None if source is None else photos.decode(source, long_side=long_side)
    except PhotoError:
        return None
