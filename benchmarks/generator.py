"""Photos a second a core that the garment generator draws and encodes: ``python benchmarks/generator.py [photos]``.

CPU time of this process, in runs of 25 photos; the median, and the fastest tenth, which a busy machine disturbs least.
"""

from __future__ import annotations

import io
import sys
import time

import numpy as np

from retrieval.datasets.garments import draw, photo_rng, sample_styles


def main(photos: int = 600, batch: int = 25) -> None:
    styles = sample_styles(photos, seed=0)
    for domain in ("shop", "phone"):
        seconds = []
        for first in range(0, photos - batch + 1, batch):
            start = time.process_time()
            for number in range(first, first + batch):
                draw(styles[number], photo_rng(0, number, 0), domain).save(io.BytesIO(), "JPEG", quality=90)
            seconds.append((time.process_time() - start) / batch)
        median, fast = 1 / np.median(seconds), 1 / np.quantile(seconds, 0.1)
        print(f"{domain:5s} {median:4.0f} photos/s a core (median), {fast:4.0f} (fastest tenth)")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
