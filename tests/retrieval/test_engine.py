"""The engine against brute force over the table, row by row, and against what it promises its users."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from index.errors import DamagedError, GalleryError, InputError, MismatchError, PhotoError, UnknownNameError
from index.hits import TIE_TOLERANCE
from retrieval.engine import Engine, Hit, Result
from retrieval.models import checkpoint, memory
from retrieval.query import Request
from tests.conftest import flip

DEFAULT = {"look": 1.0, "category": 1.0, "color": 1.5, "pattern": 1.0, "sleeve": 1.0}


def expected_scores(
    oracle: SimpleNamespace, row: int, edits: list[tuple[str, str, str | None]], weights: dict[str, float]
) -> np.ndarray:
    """Weighted mean cosine of every row with the edited row, straight from the formulas of the design, in float64."""
    manifest = oracle.gallery.manifest
    known = memory.read(oracle.gallery.file("memory.safetensors"))
    scores = np.zeros(manifest.rows)
    for i, block in enumerate(manifest.layout.blocks):
        span = slice(block.start, block.stop)
        f = oracle.units[row, span] * oracle.norms[row, i]
        for attribute, new, old in edits:
            if attribute == block.name:
                f = f + known.matrix[known.rows(attribute), known.column(attribute, new)]
                if old is not None:
                    f = f - known.matrix[known.rows(attribute), known.column(attribute, old)]
        f = f / np.linalg.norm(f)
        for other in range(manifest.rows):
            scores[other] += weights[block.name] * float(f @ oracle.units[other, span])
    return scores / sum(weights.values())


def check_ranking(result: Result, oracle: SimpleNamespace, scores: np.ndarray, allowed: list[int], topk: int) -> None:
    """The hits are the best of the allowed rows; a hit may differ from the oracle's only where their scores tie."""
    row_of = {row["id"]: number for number, row in enumerate(oracle.rows)}
    found = [row_of[hit.id] for hit in result.hits]
    assert len(set(found)) == len(found) == min(topk, len(allowed))
    assert set(found) <= set(allowed)
    best = np.sort(scores[allowed])[::-1][: len(found)]
    np.testing.assert_allclose([hit.score for hit in result.hits], scores[found], atol=1e-4)
    np.testing.assert_allclose([hit.score for hit in result.hits], best, atol=1e-4)


def label(row: dict[str, Any], name: str) -> str:
    return row[name] or row[f"predicted_{name}"]


CASES: list[tuple[dict[str, Any], dict[str, float]]] = [
    ({}, {}),
    ({"set": {"color": "gray"}}, {"color": 3.0}),
    ({"set": {"colour": "GREY", "sleeve": "short"}}, {"color": 3.0, "sleeve": 2.0}),
    ({"set": {"color": "blue"}, "old": {"color": "black"}}, {"color": 3.0}),
    ({"weight": {"type": 4.0, "look": 0.25}}, {"category": 4.0, "look": 0.25}),
    ({"set": {"color": "blue"}, "weight": {"color": 2.0}}, {"color": 6.0}),
    ({"drop": ["color", "pattern"]}, {"color": 0.0, "pattern": 0.0}),
    ({"set": {"pattern": "striped"}, "where": ["domain=shop", "color!=white"]}, {"pattern": 2.0}),
]


@pytest.mark.parametrize(("asked", "weights"), CASES)
@pytest.mark.parametrize("row", [0, 57])
def test_a_query_by_id_against_brute_force(
    engine: Engine, oracle: SimpleNamespace, asked: dict[str, Any], weights: dict[str, float], row: int
) -> None:
    known = {"colour": "color", "GREY": "gray"}
    reference = oracle.rows[row]
    edits = []
    for name, value in asked.get("set", {}).items():
        attribute = known.get(name, name)
        edits.append(
            (attribute, known.get(value, value), asked.get("old", {}).get(name) or label(reference, attribute))
        )
    scores = expected_scores(oracle, row, edits, DEFAULT | weights)
    allowed = [n for n in range(120) if n != row]
    if "where" in asked:
        allowed = [n for n in allowed if oracle.rows[n]["domain"] == "shop" and oracle.rows[n]["color"] != "white"]
    for topk in (1, 7, 200):
        result = engine.query(like=reference["id"], topk=topk, **asked)
        check_ranking(result, oracle, scores, allowed, topk)
    assert [(edit.attribute, edit.new, edit.old) for edit in result.edits] == edits
    assert result.weights == DEFAULT | weights
    assert result.reference == {name: label(reference, name) for name in ("category", "color", "pattern", "sleeve")}
    for hit in result.hits:
        row_of_hit = next(each for each in oracle.rows if each["id"] == hit.id)
        assert hit.path == row_of_hit["path"]
        assert hit.attributes["color"] == label(row_of_hit, "color")
        assert hit.attributes["sleeve"] == label(row_of_hit, "sleeve")  # blank where it has none: predicted
        assert hit.attributes["style"] == row_of_hit["style"]


def test_a_photo_of_the_gallery_finds_itself(engine: Engine, garment_photos: Path, oracle: SimpleNamespace) -> None:
    for row in (0, 31, 64, 119):
        result = engine.query(garment_photos / oracle.rows[row]["path"], topk=3)
        assert result.hits[0].id == oracle.rows[row]["id"]
        assert result.hits[0].score == pytest.approx(1, abs=2e-3)
        assert result.hits[1].score < 0.99
        predicted = {name: oracle.rows[row][f"predicted_{name}"] for name in engine.names.vocabulary}
        assert result.reference == predicted


def test_a_path_bytes_and_an_image_are_the_same_photo(engine: Engine, garment_photos: Path) -> None:
    path = garment_photos / "photos" / "s00004-1.jpg"

    def ask(photo: Any) -> Result:
        return engine.query(photo, set={"color": "blue"}, topk=5)

    assert ask(str(path)) == ask(path)
    assert ask(path.read_bytes()) == ask(path)
    # a Pillow image carries pixels decoded in full; the JPEG file itself is decoded at a reduced scale
    assert ask(Image.open(path)) == ask(_png(path))
    assert ask(Image.open(path)).hits[0].score == pytest.approx(ask(path).hits[0].score, abs=0.1)
    unedited = engine.query(Image.open(path), topk=1).hits[0]
    assert (unedited.id, unedited.score > 0.9) == ("s00004-1", True)


def _png(path: Path) -> bytes:
    out = io.BytesIO()
    Image.open(path).save(out, "PNG")
    return out.getvalue()


def test_a_query_by_id_needs_no_torch(shop: Path) -> None:
    code = (
        "import sys; from retrieval.engine import Engine; e = Engine.open(sys.argv[1])\n"
        "r = e.query(like='s00001-0', set={'color': 'gray'}, where=['domain=shop'], topk=3)\n"
        "assert len(r.hits) == 3 and 'torch' not in sys.modules and 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(shop)], check=True)


def test_like_never_answers_itself(engine: Engine, oracle: SimpleNamespace) -> None:
    results = engine.query_many([Request(like=row["id"]) for row in oracle.rows], 119)
    for row, result in zip(oracle.rows, results, strict=True):
        assert row["id"] not in [hit.id for hit in result.hits]
        assert len(result.hits) == 119


def test_an_attribute_that_the_photo_lacks_or_the_model_never_learned_sets_only_the_new_value(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"color": "teal", "sleeve": None}
    edits = engine._edits(Request(like="x", set={"color": "blue", "sleeve": "long"}), known)
    assert [(edit.attribute, edit.new, edit.old) for edit in edits] == [
        ("color", "blue", None), ("sleeve", "long", None)
    ]  # fmt: skip


def test_many_queries_answer_as_one_by_one(
    engine: Engine, oracle: SimpleNamespace, garment_photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.engine.AT_ONCE", 4)
    requests = [
        Request(like="s00000-0", set={"color": "blue"}),
        Request(photo=garment_photos / "photos" / "s00001-0.jpg", where=("domain=phone",)),
        Request(like="s00007-2", weight={"look": 3}),
        Request(photo=garment_photos / "photos" / "s00002-3.jpg", set={"sleeve": "long"}),
        Request(like="s00008-1", where=("style=none",)),
        Request(like="s00009-1", drop=("color",), where=("domain=phone",)),
    ]
    together = engine.query_many(requests, 6)
    for request, result in zip(requests, together, strict=True):
        alone = engine.query_many([request], 6)[0]
        assert [hit.id for hit in result.hits] == [hit.id for hit in alone.hits]
        np.testing.assert_allclose([h.score for h in result.hits], [h.score for h in alone.hits], atol=1e-4)
        assert (result.edits, result.weights, result.reference) == (alone.edits, alone.weights, alone.reference)
    assert together[4].hits == ()
    assert engine.query_many([]) == []


def test_rank_keeps_the_reference_and_answers_as_query_does(engine: Engine, oracle: SimpleNamespace) -> None:
    ranked = engine.rank([3, 50], [{}, {"color": "gray"}], ["", "domain=shop"], 8)
    assert ranked[0][0] == 3
    ids = [oracle.rows[row]["id"] for row in ranked[1] if row != 50]
    asked = engine.query(like=oracle.rows[50]["id"], set={"color": "gray"}, where=["domain=shop"], topk=len(ids))
    assert ids == [hit.id for hit in asked.hits]
    exact = engine.rank([3, 50], [{}, {"color": "gray"}], ["", "domain=shop"], 8, exact=True)
    assert [rows.tolist() for rows in exact] == [rows.tolist() for rows in ranked]


def test_nothing_passes_the_filter(engine: Engine) -> None:
    result = engine.query(like="s00000-0", where=["color=gray", "color!=gray"])
    assert result.hits == ()
    assert result.recall == 1.0


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"like": "s00000-9"}, UnknownNameError, "nearest: s0000"),
        ({"like": "s00000-0", "set": {"colr": "blue"}}, UnknownNameError, "unknown attribute 'colr'; nearest: color"),
        ({"like": "s00000-0", "set": {"color": "bleu"}}, UnknownNameError, "nearest: blue"),
        ({"like": "s00000-0", "set": {"color": "blue", "colour": "gray"}}, InputError, "color is set twice"),
        ({"like": "s00000-0", "old": {"color": "blue"}}, InputError, "--from color"),
        ({"like": "s00000-0", "weight": {"lok": 2}}, UnknownNameError, "'lok'"),
        ({"like": "s00000-0", "weight": {"color": -1}}, InputError, "a weight is 0, or from 0.000001 to"),
        ({"like": "s00000-0", "weight": {"color": float("nan")}}, InputError, "a weight is 0, or from 0.000001 to"),
        ({"like": "s00000-0", "drop": list(DEFAULT)}, InputError, "every block has weight 0"),
        ({"like": "s00000-0", "topk": 0}, InputError, "topk 0"),
        ({"like": "s00000-0", "offset": -1}, InputError, "offset -1"),
        *(({"like": "s00000-0", "recall": n}, InputError, f"recall {n}: ") for n in (95, 1.5, -1, float("nan"))),
        ({"like": "s00000-0", "recall": 2, "topk": None, "min_score": 0.5}, InputError, "a share from 0 to 1"),
        ({"like": "s00000-0", "topk": None}, InputError, "give min_score too"),
        ({"like": "s00000-0", "min_score": float("nan")}, InputError, "min_score nan"),
        ({"like": "s00000-0", "one_per": "colr"}, UnknownNameError, "--one-per: no column 'colr'; nearest: color"),
        ({"like": "s00000-0", "exclude": ["s00000-9"]}, UnknownNameError, "no id 's00000-9'"),
        ({"like": "s00000-0", "where": "color"}, InputError, "write COLUMN=VALUE"),
        ({}, InputError, "either a photo or the id"),
        ({"photo": b"x", "like": "s00000-0"}, InputError, "either a photo or the id"),
        ({"photo": "none.jpg"}, PhotoError, "none.jpg: no such file"),
        ({"photo": b"not a photo"}, PhotoError, "not an image"),
    ],
)
def test_what_cannot_be_asked(engine: Engine, asked: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        engine.query(**asked)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_text_is_one_item(engine: Engine) -> None:
    first = engine.query(like="s00000-0").hits[0].id
    for one, several in [({"exclude": first}, {"exclude": [first]}), ({"drop": "color"}, {"drop": ["color"]})]:
        assert engine.query(like="s00000-0", **one) == engine.query(like="s00000-0", **several)  # type: ignore[arg-type]


def test_another_model_is_refused_and_both_are_named(
    shop: Path, tiny_model: Path, other_model: Path, garment_photos: Path
) -> None:
    photo = garment_photos / "photos" / "s00000-0.jpg"
    with pytest.raises(MismatchError) as caught:
        Engine.open(shop, other_model).query(photo)
    for path in (tiny_model, other_model):
        assert checkpoint.read(path).fingerprint in str(caught.value)
    assert Engine.open(shop, tiny_model).query(photo).hits[0].id == "s00000-0"


def test_a_gallery_copied_elsewhere_answers_the_same(
    engine: Engine, shop: Path, garment_photos: Path, tmp_path: Path
) -> None:
    there = Engine.open(shutil.copytree(shop, tmp_path / "far" / "copy"))
    photo = garment_photos / "photos" / "s00003-0.jpg"
    assert there.query(photo, set={"color": "gray"}) == engine.query(photo, set={"color": "gray"})
    assert there.photo_path("photos/s00003-0.jpg") == photo.resolve()
    assert there.photo_path(None) is None


def test_galleries_that_cannot_be_opened(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="no gallery here; make one with `fsearch build-index"):
        Engine.open(tmp_path / "none")
    copy = Path(shutil.copytree(shop, tmp_path / "copy"))
    (copy / "memory.safetensors").write_bytes(b"x" * (copy / "memory.safetensors").stat().st_size)
    with pytest.raises(DamagedError, match="memory.safetensors: damaged"):
        Engine.open(copy)


def test_a_memory_with_a_flipped_byte_is_refused(copy: Path) -> None:
    flip(copy / "memory.safetensors", 0.9)  # among the numbers: the file can still be read
    with pytest.raises(DamagedError, match=r"memory\.safetensors: damaged \(its checksum .* run `fsearch build-index"):
        Engine.open(copy)


def test_a_result_is_json_and_checks_itself(engine: Engine) -> None:
    result = engine.query(like="s00000-0", set={"color": "gray"}, topk=3)
    back = json.loads(json.dumps(result.to_json()))
    assert back == {
        "hits": [
            {k: v for k, v in vars(h).items() if k != "shares"} | {"predicted": list(h.predicted)} for h in result.hits
        ],
        "edits": [{"attribute": "color", "new": "gray", "old": "white"}],
        "weights": result.weights,
        "recall": 1.0,
        "reference": result.reference,
    }
    hits = [Hit(rank, str(rank), 0.5, None, {}) for rank in (1, 2)]
    with pytest.raises(ValueError, match="ranks"):
        Result(tuple(hits[::-1]), (), {}, 1.0, {})
    with pytest.raises(ValueError, match="scores rise"):
        Result((hits[0], Hit(2, "b", 0.6, None, {})), (), {}, 1.0, {})


def test_info_and_describe(engine: Engine, oracle: SimpleNamespace) -> None:
    facts = json.loads(json.dumps(engine.info()))
    assert facts["photos"] == 120
    assert list(facts["blocks"]) == list(DEFAULT)
    assert facts["blocks"]["color"] == "16 dimensions, weight 1.5"
    assert facts["index"]["kind"] == "exact"
    assert facts["index"]["recall@10"] == 1.0
    assert [hit.id for hit in engine.describe([5, 2])] == [oracle.rows[5]["id"], oracle.rows[2]["id"]]


def test_threads_share_an_engine(shop: Path, garment_photos: Path) -> None:
    engine = Engine.open(shop)  # fresh: nothing is loaded yet
    paths = sorted((garment_photos / "photos").iterdir())[:24]

    def ask(number: int) -> str:
        if number % 2:
            return engine.query(paths[number], topk=1, where=["width>1"]).hits[0].id
        return engine.query(like=paths[number].stem, topk=1, where=[f"style={paths[number].stem[:6]}"]).hits[0].id[:6]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(24)))
    assert answers == [path.stem if i % 2 else path.stem[:6] for i, path in enumerate(paths)]


def test_the_promised_recall_is_kept(large: Path) -> None:
    engine = Engine.open(large)
    assert engine.info()["index"]["kind"] == "ivfpq"
    requests = [
        Request(like=f"s{style:05d}-{photo}/7", set={"color": "gray"} if photo else {}, weight={"look": 0.5 + photo})
        for style in range(30)
        for photo in range(4)
    ]
    prepared = engine.prepare(requests)
    for recall in (0.8, 0.99):
        promised = engine.promised(10, recall)
        assert promised >= recall
        found = engine.search(prepared, 10, recall)
        exact = engine.search(prepared, 10, exact=True)
        shares = []
        for (_, scores), (_, best) in zip(found, exact, strict=True):
            assert (scores <= best + TIE_TOLERANCE * abs(best[0]) * 10).all()
            shares.append((scores >= best[-1] - TIE_TOLERANCE * abs(best[0])).mean())
        assert np.mean(shares) >= promised - 0.05
        assert engine.query_many(requests[:1], 10, recall)[0].recall == promised


def test_a_filter_holds_in_an_approximate_index(large: Path) -> None:
    engine = Engine.open(large)
    result = engine.query(like="s00003-1/2", set={"color": "blue"}, where=["domain=phone", "color=blue"], topk=50)
    assert len(result.hits) == 50
    assert {(hit.attributes["domain"], hit.attributes["color"]) for hit in result.hits} == {("phone", "blue")}


def test_a_damaged_index_file_is_named_with_what_to_run(large: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(large, tmp_path / "copy"))
    file = next(copy.glob("gen-*/index.faiss"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedError, match=r"index.faiss: damaged.*build-index --reindex --gallery"):
        Engine.open(copy)
