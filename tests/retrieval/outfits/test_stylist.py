"""The stylist on drawn garments: training, the file, scores, explanations, completion, generation, texts, commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from cli import main
from index.errors import InputError, MismatchError, ModelError, UnknownNameError
from retrieval import stylist as stylists
from retrieval.datasets.garments import ATTRIBUTES
from retrieval.datasets.readers import open_photos
from retrieval.embed import build_gallery
from retrieval.engine import Engine
from retrieval.outfits import model as models
from retrieval.outfits.config import OTHER
from retrieval.outfits.slots import Slots
from retrieval.serving.batch import run_batch
from retrieval.serving.outfits import influence_bars
from retrieval.stylist import Piece, Scored, Stylist, train_from
from tests.conftest import flip
from tests.retrieval.datasets import published
from tests.retrieval.outfits.conftest import CONFIG


@pytest.fixture(scope="module")
def stylist(dressed: Path, outfits: Path) -> Stylist:
    return Stylist(Engine.open(dressed), outfits)


@pytest.fixture(scope="module")
def table(dressed: Path) -> list[dict[str, str]]:
    return Engine.open(dressed).gallery.columns(["id", "category", "color", "title"]).to_pylist()


@pytest.fixture(scope="module")
def color(stylist: Stylist) -> str:
    """A color that the training photos have."""
    return next(word for word in stylist.model.words.known if word in ATTRIBUTES["color"])


def ids_of(table: list[dict[str, str]], *categories: str) -> list[str]:
    return [next(row["id"] for row in table if row["category"] == category) for category in categories]


@pytest.fixture(scope="module")
def outfit(table: list[dict[str, str]]) -> list[str]:
    kinds = [row["category"] for row in table]
    top = next(k for k in ("t-shirt", "shirt", "sweater", "hoodie") if k in kinds)
    outer = next(k for k in ("coat", "jacket", "cardigan", "vest") if k in kinds)
    bottom = next(k for k in ("trousers", "skirt", "shorts") if k in kinds)
    return ids_of(table, bottom, top, outer)


# The file


def test_training_again_makes_the_same_model(
    dressed: Path, sequences: Path, outfit_config: Path, outfits: Path, tmp_path: Path
) -> None:
    facts = train_from(outfit_config, dressed, None, sequences, tmp_path / "again.safetensors")
    assert facts["fingerprint"] == models.read(outfits).fingerprint
    words = models.read(outfits).words
    assert words.codes("Brand") == words.codes("acme") == ([words.code["acme"]], [])  # an alias of the config
    told = facts["outfits"]["composed"]
    assert set(told) >= {"chance", "outfit model", "kinds seen together", "pairwise distance", "explained"}
    assert facts["text"]["asked"] > 0
    assert models.read(outfits).facts == {key: value for key, value in facts.items() if key != "fingerprint"}


def test_a_model_that_is_damaged_or_of_another_image_model_is_refused(
    outfits: Path, shop: Path, other_model: Path, tiny_model: Path, tmp_path: Path, build: object
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(outfits.read_bytes())
    flip(broken, 0.9)
    with pytest.raises(ModelError, match="damaged"):
        models.read(broken)
    with pytest.raises(ModelError, match="not an outfit model"):
        models.read(tiny_model)
    with pytest.raises(ModelError, match="no outfit model"):
        models.read(tmp_path / "none")
    with pytest.raises(MismatchError, match="belongs to image model .* but .*other.safetensors is of"):
        Stylist(None, outfits, other_model).pieces([shop / "gallery.json"])
    own = models.read(outfits)
    own.check(own.image["fingerprint"], "itself")


def test_the_published_protocol_runs_on_a_gallery_of_its_photos(tmp_path: Path, tiny_model: Path) -> None:
    root = published.polyvore(tmp_path / "Polyvore")
    build_gallery(open_photos(root), tmp_path / "poly.gallery", tiny_model)
    config = CONFIG | {
        "text": {"column": "name", "dim": 4, "steps": 2, "batch": 2, "min_count": 1},
        "group": ["outfit"],
    }
    (tmp_path / "poly.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    facts = train_from(
        tmp_path / "poly.yaml", tmp_path / "poly.gallery", out=tmp_path / "poly.safetensors", polyvore=root
    )
    told = facts["outfits"]["published"]
    assert (told["questions"], told["pairs"]) == (2, 3)
    for method in ("outfit model", "kinds seen together", "pairwise distance"):
        assert 0 <= told[method]["fitb"] <= 1
        assert told[method]["auc"] in (0, 0.25, 0.5, 0.75, 1)
    assert models.read(tmp_path / "poly.safetensors").config.group == ("outfit",)
    arguments = ("bench", "--protocol", "polyvore", "-g", tmp_path / "poly.gallery")
    printed = run(*arguments, "--outfits", tmp_path / "poly.safetensors", "--out", tmp_path / "asked.json")
    asked = json.loads((tmp_path / "asked.json").read_text(encoding="utf-8"))
    assert asked["polyvore"] == told  # the same questions and lines, whether training asks or the bench
    assert "2 questions of four choices, 3 outfits to tell apart" in printed
    assert f"{told['outfit model']['fitb']:.3f}   {told['outfit model']['auc']:.3f}" in printed
    refused = CliRunner().invoke(main, [*map(str, arguments), "--queries", "3"])
    assert refused.exit_code == 2
    assert "asks every outfit" in refused.stderr


# What it says


def test_an_outfit_scores_the_same_in_any_order_and_by_photo_or_id(
    stylist: Stylist, outfit: list[str], dressed: Path, outfits: Path, tiny_model: Path
) -> None:
    by_id = stylist.score(stylist.pieces(outfit))
    assert [piece.slot for piece in by_id.pieces] == ["top", "outer", "bottom"]
    assert 0 <= by_id.score <= 1
    assert 0 <= by_id.percentile <= 100
    assert stylist.score(stylist.pieces(outfit[::-1])).score == by_id.score
    files = [dressed.parent / "photos" / f"{name}.jpg" for name in outfit]
    alone = Stylist(None, outfits, tiny_model)  # without a gallery, the slots told
    told = [f"{slot}={file}" for slot, file in zip(("bottom", "top", "outer"), files, strict=True)]
    assert alone.score(alone.pieces(told)).score == pytest.approx(by_id.score, abs=2e-3)  # rows are float16
    np.testing.assert_array_equal(
        alone.pieces([files[0].read_bytes()])[0].features, alone.pieces([files[0]])[0].features
    )
    assert alone.pieces([Image.open(files[0])])[0].features.shape == (64,)
    with pytest.raises(InputError, match="needs a gallery"):
        alone.complete(alone.pieces(told[:2]), "outer")


def test_items_that_cannot_be_an_outfit_are_refused_in_one_line(
    stylist: Stylist, outfit: list[str], dressed: Path, outfits: Path, tmp_path: Path
) -> None:
    bottom, top, _ = outfit
    for items, wanted in (
        ([top, f"top={bottom}"], f"{top} and {bottom} both fill the slot top, and an outfit has one of each"),
        ([top, "nowhere.jpg"], "nowhere.jpg: no such file, and no id 'nowhere.jpg' in"),
        ([top, f"hat={bottom}"], "no slot of an outfit is called 'hat'"),
        ([top], "an outfit has at least two items"),
    ):
        told = CliRunner().invoke(main, ["outfit", "score", *items, "-g", str(dressed), "--outfits", str(outfits)])
        assert (told.exit_code, told.stdout) == (1, "")
        assert told.stderr.startswith(f"fsearch: {wanted}")
        assert told.stderr.count("\n") == 1
    for text, wanted in (("zebra", "fsearch: text 'zebra': none of its words"), (" ", "fsearch: the text is empty")):
        told = CliRunner().invoke(
            main, ["outfit", "generate", top, "--text", text, "-g", str(dressed), "--outfits", str(outfits)]
        )
        assert told.exit_code == 1
        assert told.stderr.startswith(wanted)
        assert told.stderr.count("\n") == 1
    with pytest.raises(InputError, match="both fill the slot top"):
        stylist.generate(stylist.pieces([top, f"top={outfit[2]}"]))


def test_what_fills_no_slot_is_said(
    stylist: Stylist, outfit: list[str], dressed: Path, outfits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = stylist.pieces([outfit[0]])[0]
    monkeypatch.setattr(Slots, "of", lambda self, kind: OTHER if kind == piece.kind else "top")
    told = CliRunner().invoke(main, ["outfit", "score", *outfit[:2], "-g", str(dressed), "--outfits", str(outfits)])
    assert told.exit_code == 0
    assert told.stderr == f"{piece.name} ({piece.kind}) fills no slot of an outfit: SLOT={piece.name} says one\n"


def test_influence_is_drawn_as_bars_about_the_middle() -> None:
    picture = np.asarray(influence_bars({"shape": 0.5, "color": -1.0}, 1.0, "color")).astype(int)
    green, red = (np.abs(picture - tone).sum(axis=2) == 0 for tone in ((10, 116, 80), (176, 67, 26)))
    right, left = np.flatnonzero(green.any(axis=0)), np.flatnonzero(red.any(axis=0))
    assert right.min() >= left.max()
    assert np.ptp(left) == pytest.approx(2 * np.ptp(right), abs=6)  # to one scale
    assert (
        np.flatnonzero(green.any(axis=1)).max() < np.flatnonzero(red.any(axis=1)).min()
    )  # in order, one below the other
    nothing = np.asarray(influence_bars({"shape": 0.0}, 0.0)).astype(int)
    assert np.abs(nothing - (10, 116, 80)).sum(axis=2).min() > 0


def test_completion_is_what_a_search_of_all_rows_would_find(stylist: Stylist, outfit: list[str]) -> None:
    bottom, top, _ = outfit
    pieces = stylist.pieces([bottom, top])
    found = stylist.complete(pieces, "coats", topk=3)
    engine = stylist.engine
    assert engine is not None
    rows = [row for row in range(120) if stylist.row(row).slot == "outer"]
    ordered = [pieces[1], pieces[0]]
    every = [stylist._scored([[ordered[0], stylist.row(row), ordered[1]]])[0] for row in rows]
    best = sorted(every, key=lambda each: -each.score)[:3]
    assert [each.score for each in found] == pytest.approx([each.score for each in best], abs=1e-6)
    assert [each.pieces[1].slot for each in found] == ["outer"] * 3
    with pytest.raises(InputError, match="fills top already"):
        stylist.complete(pieces, "hoodie")
    with pytest.raises(UnknownNameError, match="no slot of an outfit is called 'zzzz'"):
        stylist.complete(pieces, "zzzz")


def test_only_candidates_from_the_index_are_scored(
    stylist: Stylist, outfit: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The few that the index returns are those with the greatest logit among all rows of the slot."""
    monkeypatch.setattr(stylists, "CANDIDATES", 4)
    pieces = stylist.pieces(outfit[:2])
    before, after = [pieces[1]], [pieces[0]]
    found = stylist._candidates(before, after, ["outer"], pieces)
    vector, _ = stylist.model.expects(before[0].features[None], after[0].features[None])
    rows = [row for row in range(120) if stylist.row(row).slot == "outer"]
    logits = {stylist.row(row).id: float(stylist.row(row).features @ vector) for row in rows}
    best = sorted(logits.values(), reverse=True)[:4]
    assert [logits[piece.id] for piece in found] == pytest.approx(best, rel=1e-4)


def test_a_generated_outfit_has_one_of_each_kind_in_order(stylist: Stylist, outfit: list[str]) -> None:
    made = stylist.generate(stylist.pieces([outfit[1]]), items=4)
    places = [stylist.slots.place(piece.slot) for piece in made.pieces]
    assert places == sorted(set(places))
    assert 2 <= len(made.pieces) <= 4
    assert outfit[1] in [piece.id for piece in made.pieces]
    assert stylist.generate(stylist.pieces([outfit[1]]), items=2).pieces[0].slot in ("dress", "top")
    assert len(stylist.generate(stylist.pieces([outfit[1]]), "Acme", items=3).pieces) <= 3


def test_an_outfit_grows_by_turns_and_not_by_what_lowers_its_score(
    stylist: Stylist, outfit: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (outer,) = stylist.pieces([outfit[2]])
    rows = [stylist.row(row) for row in range(120)]
    known = {slot: next(piece for piece in rows if piece.slot == slot) for slot in ("dress", "top", "bottom")}
    tried: list[tuple[bool, list[str]]] = []
    monkeypatch.setattr(models.OutfitModel, "expects", lambda *_: (np.zeros(64, np.float32), 0.0))

    def grown(scores: dict[str, float]) -> list[str]:
        def filled(own: list[Piece], at: int, slots: list[str], _: str | None) -> list[Scored]:
            tried.append((at > 0, slots))
            new = known[slots[-1]]
            return [Scored((*own[:at], new, *own[at:]), scores[new.slot], 0.0)]

        def scored(outfits: list[list[Piece]]) -> list[Scored]:
            return [Scored(tuple(each), 0.5, 0.0) for each in outfits]

        tried.clear()
        monkeypatch.setattr(stylist, "_filled", filled)
        monkeypatch.setattr(stylist, "_scored", scored)
        return [piece.slot for piece in stylist.generate([outer], items=4).pieces]

    assert grown({"bottom": 0.5, "top": 0.6, "dress": 0.7}) == ["dress", "top", "outer", "bottom"]
    assert tried == [(True, ["bottom"]), (False, ["dress", "top"]), (False, ["dress"])]
    assert grown({"bottom": 0.5, "top": 0.6, "dress": 0.4}) == ["top", "outer", "bottom"]


def test_words_move_a_completion(
    stylist: Stylist, outfit: list[str], color: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stylists, "TEXT_SHARE", 1.0)
    bottom, top, _ = outfit
    said = stylist.model.words.encode([color])[0]
    found = stylist.complete(stylist.pieces([bottom, top]), "outer", color, topk=4)
    rows = [row for row in range(120) if stylist.row(row).slot == "outer"]
    best = sorted((float(stylist.row(row).features @ said) for row in rows), reverse=True)[:4]
    assert [float(each.pieces[1].features @ said) for each in found] == pytest.approx(best, abs=1e-5)


def test_an_explanation_names_the_worst_and_what_is_better(stylist: Stylist, outfit: list[str]) -> None:
    found = stylist.explain(stylist.pieces(outfit), 3)
    assert found.influence[found.aspect][found.worst] == min(v for own in found.influence.values() for v in own)
    assert set(found.influence) == {"texture", "category", "color", "pattern", "sleeve"}
    assert len(found.without) == 3
    for each in found.better:
        assert each.score > found.outfit.score
        assert each.pieces[found.worst].slot == found.outfit.pieces[found.worst].slot
        assert each.pieces[found.worst].id not in outfit
    assert [each.score for each in found.better] == sorted((each.score for each in found.better), reverse=True)


# Texts in queries


def test_a_text_is_a_query_of_the_same_index(stylist: Stylist, dressed: Path, outfits: Path, color: str) -> None:
    engine = Engine.open(dressed)
    engine.outfits = outfits
    said = stylist.model.words.encode([f"{color} dress"])[0]
    units = engine.gallery.vectors(np.arange(120)).astype(np.float32)
    scores = units @ said
    found = engine.query(text=f"{color} dress", topk=10)
    assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)
    rows = [engine.gallery.row_of(hit.id) for hit in found.hits]
    np.testing.assert_allclose(scores[rows], np.sort(scores)[::-1][:10], atol=1e-4)
    lengths = [float(np.linalg.norm(said[b.start : b.stop])) for b in engine.layout.blocks]
    assert list(found.weights.values()) == pytest.approx(
        [length / sum(lengths) * sum(engine.weights({}).values()) for length in lengths], abs=1e-3
    )
    doubled = engine.query(text=f"{color} dress", weight={"color": 2}, topk=3)
    assert doubled.weights["color"] == pytest.approx(2 * found.weights["color"], abs=1e-3)


def test_a_photo_and_a_text_ask_together(dressed: Path, outfits: Path, color: str) -> None:
    engine = Engine.open(dressed)
    engine.outfits = outfits
    photo = dressed.parent / "photos" / "s00001-0.jpg"
    alone, text = engine.query(photo, topk=120), engine.query(text=color, topk=120)
    both = engine.query(photo, text=color, topk=120)
    of = [{hit.id: hit.score for hit in result.hits} for result in (alone, text)]
    for hit in both.hits:  # two equal voices
        assert hit.score == pytest.approx((of[0][hit.id] + of[1][hit.id]) / 2, abs=1e-4)
    like = engine.query(like="s00001-0", text=color, where="category=dress", topk=3)
    assert {hit.attributes["category"] for hit in like.hits} <= {"dress"}


def test_a_batch_takes_texts(dressed: Path, outfits: Path, color: str, tmp_path: Path) -> None:
    lines = ["id,text", f"s00001-0,{color}", f",{color}", "s00001-0,", ",zebra"]
    (tmp_path / "queries.csv").write_text("\n".join(lines), encoding="utf-8")
    engine = Engine.open(dressed)
    engine.outfits = outfits
    assert run_batch(engine, tmp_path / "queries.csv", tmp_path / "out.csv", 3) == (3, 1)
    found = list(csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8")))
    wanted = [{"like": "s00001-0", "text": color}, {"text": color}, {"like": "s00001-0"}]
    for number, request in enumerate(wanted):
        ids = [hit.id for hit in engine.query(**request, topk=3).hits]
        assert [row["id"] for row in found if row["query"] == str(number)] == ids
    assert "none of its words" in found[-1]["error"]


def test_a_text_of_another_model_or_with_an_edit_is_refused(
    shop: Path, dressed: Path, outfits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine.open(dressed)
    engine.outfits = outfits
    with pytest.raises(InputError, match="say it in the text"):
        engine.query(text="red dress", set={"color": "blue"})
    with pytest.raises(InputError, match="not both"):
        engine.query("a.jpg", like="s00001-0", text="red")
    with pytest.raises(InputError, match="not both"):
        engine.query()
    monkeypatch.setitem(engine.gallery.manifest.model, "fingerprint", "0123")
    fresh = Engine(engine.gallery)
    fresh.outfits = outfits
    with pytest.raises(MismatchError, match="is of 0123"):
        fresh.query(text="red")


# Commands


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_commands_answer_in_text_json_and_pictures(
    dressed: Path, outfits: Path, outfit: list[str], color: str, tmp_path: Path
) -> None:
    bottom, top, outer = outfit
    options = ("--gallery", dressed, "--outfits", outfits)
    assert run("outfit", "score", *outfit, *options).count("=") == 3
    scored = json.loads(run("outfit", "score", *outfit, *options, "--json", "--save", tmp_path / "score.png"))
    assert [each["slot"] for each in scored["items"]] == ["top", "outer", "bottom"]
    why = json.loads(run("outfit", "explain", *outfit, *options, "--json", "--save", tmp_path / "why.html"))
    assert why["worst"] in outfit
    assert why["because"] in why["influence"]
    assert f"{why['worst']} " in run("outfit", "explain", *outfit, *options, "--save", tmp_path / "why.png")
    added = json.loads(run("outfit", "complete", top, bottom, "--missing", "outer", "-k", 2, *options, "--json"))
    assert [each["items"][1]["slot"] for each in added] == ["outer"] * 2
    grown = run("outfit", "generate", top, "--text", color, "--items", 3, *options, "--save", tmp_path / "grown.png")
    assert f"top={top}" in grown
    for name in ("score.png", "why.html", "why.png", "grown.png"):
        assert (tmp_path / name).stat().st_size > 1000
    told = run(
        "query", "--text", f"{color} dress", "-g", dressed, "--outfits", outfits, "--save", tmp_path / "text.png"
    )
    assert len(told.splitlines()) == 12
    refused = CliRunner().invoke(main, ["outfit", "complete", top, "--missing", "zzzz", *map(str, options)])
    assert refused.exit_code == 1
    assert refused.stderr.startswith("fsearch: no slot of an outfit is called 'zzzz'")


def test_every_command_of_the_group_has_a_sentence_and_an_example() -> None:
    group = main.commands["outfit"]
    assert isinstance(group, click.Group)
    for name, command in group.commands.items():
        sentence, _, example = (command.help or "").partition("\b")
        assert sentence.strip().endswith(".")
        assert f"fsearch outfit {name} " in example
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help or parameter.name == "topk"
