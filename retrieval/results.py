"""What the engine hands out: hits and results, and what a query is turned into before the search."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.query import Edit

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # of ids and labels: not for a terminal


@dataclass(frozen=True)
class Hit:
    """One answer. ``score`` is the weighted mean cosine over blocks, -1 to 1; 1 is the same photo unedited.

    ``attributes``: label where the gallery has one, else the prediction; all label columns beside them. ``predicted``
    names those that are predictions. ``shares``, where the query asked for it: what each block adds to the score, by
    block; they add up to it, but for rounding in float32 (1e-6).
    """

    rank: int
    id: str
    score: float
    path: str | None
    attributes: dict[str, str | None]
    predicted: tuple[str, ...] = ()
    shares: dict[str, float] | None = None

    def why(self, most: int | None = None) -> str:
        """The shares in words, largest first: "look 0.412 + color 0.301 + ..."; those after ``most`` as one."""
        named = sorted(((n, share) for n, share in (self.shares or {}).items() if share), key=lambda each: -each[1])
        if most is not None and len(named) > most + 1:
            named[most:] = [("the rest", sum(share for _, share in named[most:]))]
        return " + ".join(f"{name} {share:.3f}" for name, share in named)

    def shown(self) -> dict[str, str]:
        """The attributes that are not blank, in words for people: a prediction has "~" before it."""
        return {
            name: f"~{value}" if name in self.predicted else value for name, value in self.attributes.items() if value
        }


@dataclass(frozen=True)
class Result:
    """Answers to one query, best first, with the edits and weights as they were understood.

    Ranks count on from page to page. ``recall``: the recall@k measured at build time for the setting that searched
    (1.0: exact). ``reference``: what the query photo is, by attribute: its label, else the prediction. ``vector``: what
    was asked, (D,) float32, edited and weighted, where the shares were asked for. ``none``: what is said without hits.
    """

    hits: tuple[Hit, ...]
    edits: tuple[Edit, ...]
    weights: dict[str, float]
    recall: float
    reference: dict[str, str | None]
    vector: npt.NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    none: str = field(default="no photo is left", compare=False, repr=False)

    def __post_init__(self) -> None:
        first = self.hits[0].rank if self.hits else 1
        if first < 1 or [hit.rank for hit in self.hits] != list(range(first, first + len(self.hits))):
            raise ValueError("ranks must count up by 1")
        scores = [hit.score for hit in self.hits]
        if any(later > earlier for earlier, later in zip(scores, scores[1:], strict=False)):
            raise ValueError("scores rise with the rank")

    def text(self) -> str:
        """As ``fsearch query`` prints it: edits and recall, a line for each hit, its shares if asked."""
        said = [f"{e.attribute}: {e.old or '(none)'} -> {e.new}" for e in self.edits]
        marked = "; ~ predicted" if any(hit.predicted for hit in self.hits) else ""
        lines = [f"{'; '.join(said) or 'no edit'}   (recall {self.recall:.2f}{marked})"]
        if not self.hits:
            return f"{lines[0]}\n{self.none}"
        width = max(len(hit.id) for hit in self.hits)
        for hit in self.hits:
            attributes = "  ".join(f"{name}={value}" for name, value in hit.shown().items())
            lines.append(f"{hit.rank:>3}  {hit.id:<{width}}  {hit.score:.3f}  {attributes}")
            if hit.shares is not None:
                lines.append(f"     {'':<{width}}  = {hit.why()}")
        return "\n".join(_CONTROL.sub(" ", line) for line in lines)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as ``fsearch query --json`` prints them; ``shares`` where they were asked for."""
        value = asdict(replace(self, vector=None))
        del value["vector"], value["none"]
        for hit in value["hits"]:
            if hit["shares"] is None:
                del hit["shares"]
        return value


@dataclass(frozen=True)
class Prepared:
    """Requests turned into vectors: ``vectors`` (n, D) float32, scaled; ``total`` (n,) the sum of each one's weights;
    ``allowed``: rows per request or None; ``skip``: rows each must not return; ``one_per``: the column each wants one
    hit a value of, or None; ``least``: the score that its hits must reach, -inf for any."""

    vectors: npt.NDArray[np.float32]
    total: npt.NDArray[np.float32]
    allowed: list[npt.NDArray[np.int64] | None]
    skip: list[npt.NDArray[np.int64]]
    one_per: list[str | None]
    least: list[float]
    edits: list[tuple[Edit, ...]]
    weights: list[dict[str, float]]
    reference: list[dict[str, str | None]]
