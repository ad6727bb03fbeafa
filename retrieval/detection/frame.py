"""The part of a photo that is asked: a box that was given, or the best garment that a detector finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from retrieval.photos import Source, clipped, decode

if TYPE_CHECKING:
    from retrieval.detection.model import Detector, Found


MARGIN = 0.1  # of its width and height, taken along on each side of a garment that is searched (docs/detection.md)


class Frame(NamedTuple):
    """``box``: left, top, width, height in whole pixels of the upright photo, inside it; the class and the score of the
    garment in it, None where the box was given."""

    box: tuple[int, int, int, int]
    kind: str | None = None
    score: float | None = None

    def words(self) -> str:
        """ "upper 0.93, box 40,60,120,200"."""
        found = "" if self.kind is None else f"{self.kind} {self.score:.2f}, "
        return f"{found}box {','.join(map(str, self.box))}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"class": self.kind, "score": self.score, "box": list(self.box)}


def given(photo: Source, box: tuple[float, float, float, float], where: str = "") -> Frame:
    """A box of the photo, less what lies outside it. PhotoError where nothing is left, or the photo cannot be read."""
    decoded = decode(photo)
    return Frame(clipped(box, decoded.width, decoded.height, where))


def all_of(photo: Source, detector: Detector, least: float | None = None) -> list[Frame]:
    """Every garment of a score above ``least`` (default: the detector's threshold), best first. PhotoError."""
    decoded = decode(photo, long_side=detector.config.model.input_size)
    return [_of(each, decoded.width, decoded.height) for each in detector.find(decoded, least)]


def best(photo: Source, detector: Detector, kind: str | None = None) -> Frame | None:
    """The best garment (of that class) with a margin, None where the detector finds none. PhotoError."""
    decoded = decode(photo, long_side=detector.config.model.input_size)
    if (found := detector.best(decoded, kind)) is None:
        return None
    return Frame(around(found.box, decoded.width, decoded.height), found.kind, round(found.score, 4))


def around(box: tuple[float, float, float, float], width: int, height: int) -> tuple[int, int, int, int]:
    """The box of a garment with ``MARGIN``, inside a photo of that size: what is cut out to be embedded."""
    left, top, wide, high = box
    x, y = MARGIN * wide, MARGIN * high
    return clipped((left - x, top - y, wide + 2 * x, high + 2 * y), width, height)


def _of(found: Found, width: int, height: int) -> Frame:
    return Frame(clipped(found.box, width, height), found.kind, round(found.score, 4))
