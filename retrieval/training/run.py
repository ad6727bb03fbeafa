"""One training run from a config: photos found, network trained, checkpoint written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from index.errors import InputError
from retrieval import config as configs
from retrieval.datasets.readers import open_photos


def train_from(
    config: str | Path,
    photos: Path | None = None,
    labels: Path | None = None,
    out: Path | None = None,
    *,
    half: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """``fsearch train``: the config's photos (or ``photos``) to the checkpoint ``out``; returns what was measured.

    half: store float16 weights. Raises ConfigError, InputError, ModelError; MismatchError for another run's state.
    """
    from retrieval.training.data import gather
    from retrieval.training.loop import device, train
    from retrieval.training.processes import launch

    settings = configs.load(config)
    where = photos or (Path(settings.data.photos) if settings.data.photos else None)
    if where is None:
        raise InputError(f"config {settings.name} names no data.photos: give --photos")
    label_file = labels or (Path(settings.data.labels) if settings.data.labels else None)
    out = out or Path("runs") / f"{settings.name}.safetensors"
    listing = open_photos(where, label_file)
    runner = launch(settings.training.devices, settings.training.precision, device())  # others start from the top
    first = runner.fabric.global_rank == 0
    data = gather(listing, settings, progress and first)
    facts = train(data, settings, out, half=half, progress=progress, runner=runner)
    if not first:
        sys.exit(0)  # the first process reports
    return {"checkpoint": str(out), "rejected": len(data.rejected)} | facts
