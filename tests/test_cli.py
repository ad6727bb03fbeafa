"""The command line as a person and a script meet it: output, exit codes, one-line errors, help that can be run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from cli import main
from index.gallery import Gallery
from retrieval.models import checkpoint

COMMANDS = ("build-index", "add", "remove", "compact", "query", "detect", "explain", "bench", "duplicates", "outfit")
COMMANDS += ("info", "verify", "train", "train-detector", "train-outfits", "mine", "generate", "data")


def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
    result = CliRunner().invoke(main, [str(each) for each in arguments], env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception  # a traceback in a user's face
    return result


def refused(*arguments: object, code: int = 1) -> str:
    """The one line of an error."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    if code == 1:
        assert len(lines) == 1
        assert lines[0].startswith("fsearch: ")
    return lines[-1]


# Help


def test_the_commands_are_listed_in_the_order_of_use() -> None:
    listed = re.findall(r"^  ([a-z-]+) ", run("--help").stdout.partition("Commands:")[2], flags=re.MULTILINE)
    assert tuple(listed) == COMMANDS
    assert run("--version").stdout.startswith("fsearch, version 0.")
    assert run("-h").exit_code == 0


def examples(name: str) -> list[list[str]]:
    """The command lines in a command's help."""
    text = main.commands[name].help or ""
    return [shlex.split(line) for line in text.split("\b")[1].strip().splitlines()]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_a_sentence_and_an_example_that_parses(name: str) -> None:
    said = (main.commands[name].help or "").split("\b")[0].strip()
    assert re.fullmatch(r"[A-Z].*\w\.", said), said
    assert ". " not in said
    assert run(name, "--help").exit_code == 0
    assert examples(name)
    for words in examples(name):
        assert words[:2] == ["fsearch", name]
        main.commands[name].make_context(name, words[2:])  # raises UsageError for an unknown option or a bad value


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name: str) -> None:
    for parameter in main.commands[name].params:
        if isinstance(parameter, click.Option) and parameter.name not in ("topk", "recipe", "seed"):
            assert parameter.help, parameter.name


def test_the_examples_run_one_after_another(
    garment_photos: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(garment_photos / "photos", "photos")
    shutil.copy(garment_photos / "labels.csv", "labels.csv")
    shutil.copy(garment_photos / "photos" / "s00001-0.jpg", "img.jpg")
    Path("queries.csv").write_text("id,set\ns00001-0,color=gray\n", encoding="utf-8")
    monkeypatch.setenv("FSEARCH_GALLERY", "shop.gallery")
    shutil.copytree(garment_photos / "photos", "new-photos")
    for name in COMMANDS[: COMMANDS.index("train")]:
        for words in examples(name):
            more = ["--model", str(tiny_model)] if name == "build-index" else []
            if name in ("outfit", "detect") or "--text" in words:
                continue  # these need titles, a model of outfits, or a detector: tests/retrieval/outfits and detection
            words = [word.replace("gender=Women", "domain=shop") for word in words]
            result = run(*words[1:], *more)
            assert result.exit_code == 0, (words, result.output)
            assert result.stderr == ""
    for made in (
        "sheet.html",
        "results.parquet",
        "bench.json",
        "bench.html",
        "duplicates.csv",
        "duplicates.html",
        "why.png",
    ):
        assert Path(made).stat().st_size > 0
    assert run("generate", "garments", "--photos", 3).stdout == "3 photos and labels.csv in garments\n"


# Answers


def test_a_query_prints_rank_id_score_and_attributes(shop: Path, engine: Any) -> None:
    result = run("query", "--like", "s00001-0", "--set", "colour=GREY", "-k", 3, "--gallery", shop)
    assert result.exit_code == 0
    assert result.stderr == ""  # no bar, no warning where nobody watches
    hits = engine.query(like="s00001-0", set={"color": "gray"}, topk=3).hits
    head, *lines = result.stdout.splitlines()
    assert re.fullmatch(r"color: [a-z]+ -> gray   \(recall 1\.00(; ~ predicted)?\)", head)
    for line, hit in zip(lines, hits, strict=True):
        assert line.split()[:3] == [str(hit.rank), hit.id, f"{hit.score:.3f}"]
        assert f"color={hit.attributes['color']}" in line


def test_all_the_options_reach_the_engine(shop: Path, engine: Any, garment_photos: Path) -> None:
    photo = garment_photos / "photos" / "s00001-0.jpg"
    result = run(
        "query", photo, "--gallery", shop, "--set", "color=gray;sleeve=long", "--set", "pattern=striped",
        "--from", "color=black", "--weight", "color=2", "--weight", "look=0.5", "--drop", "type",
        "--where", "domain=shop", "--where", "width>=100 and not width>5000", "--topk", 4, "--recall", "0.5", "--json",
        "--exclude", "s00000-0", "--exclude", "s00001-1", "--one-per", "style", "--min-score", "0.1", "--page", 2,
    )  # fmt: skip
    expected = engine.query(
        photo, set={"color": "gray", "sleeve": "long", "pattern": "striped"}, old={"color": "black"},
        weight={"color": 2, "look": 0.5}, drop=["type"], where=["domain=shop", "width>=100"], topk=4, recall=0.5,
        exclude=["s00000-0", "s00001-1"], one_per="style", min_score=0.1, offset=4,
    )  # fmt: skip
    assert json.loads(result.stdout) == json.loads(json.dumps(expected.to_json()))
    assert [hit.rank for hit in expected.hits] == [5, 6, 7, 8]


def test_a_query_says_why(shop: Path, engine: Any, tmp_path: Path) -> None:
    words = ("query", "--like", "s00001-0", "--set", "color=gray", "-k", 3, "--gallery", shop, "--explain")
    result = run(*words, "--save", tmp_path / "why.html")
    assert result.exit_code == 0
    hits = engine.query(like="s00001-0", set={"color": "gray"}, topk=3, explain=True).hits
    lines = result.stdout.splitlines()
    for hit, line, why in zip(hits, lines[1:7:2], lines[2:7:2], strict=True):
        assert line.split()[1] == hit.id
        shares = [float(part.rsplit(" ", 1)[1]) for part in why.strip().removeprefix("= ").split(" + ")]
        assert sum(shares) == pytest.approx(hit.score, abs=0.003)  # five numbers of three digits
    assert (tmp_path / "why.html").read_text("utf-8").count("why: color") == 1
    told = json.loads(run(*words, "--json").stdout)
    assert [hit["shares"] for hit in told["hits"]] == [hit.shares for hit in hits]


def test_explain(shop: Path, tiny_model: Path, garment_photos: Path, tmp_path: Path) -> None:
    photo, other = (garment_photos / "photos" / f"s0000{i}-0.jpg" for i in (1, 2))
    result = run("explain", photo, other, "-a", "Sleeves", "-g", shop)
    assert result.exit_code == 0, result.output
    assert [line.partition(": ")[0] for line in result.stdout.splitlines()] == [str(photo), str(other)]
    assert re.search(r": sleeve [a-z-]+ [01]\.\d\d \([a-z-]+ 0\.\d\d, .*\); (box x|no place)", result.stdout)
    by_model = run("explain", photo, other, "-a", "sleeve", "--model", tiny_model, "-g", tmp_path / "none")
    assert by_model.stdout == result.stdout
    words = ("explain", photo, "-a", "colour", "--value", "GREY", "-g", shop, "--json")
    told = run(*words, "--save", tmp_path / "a.html")
    (each,) = json.loads(told.stdout)
    assert told.stderr == f"saved {tmp_path / 'a.html'}\n"
    assert each["photo"] == str(photo)
    assert (each["attribute"], each["value"], each["method"]) == ("color", "gray", "head-cam")
    assert json.loads(run(*words, "--method", "grad-cam").stdout)[0]["heat"] != each["heat"]


def test_explain_branches(shop: Path, garment_photos: Path, tmp_path: Path) -> None:
    photo = garment_photos / "photos" / "s00001-0.jpg"
    result = run("explain", photo, "--branches", "-g", shop, "--save", tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    first, second, saved = result.stdout.splitlines()
    assert re.fullmatch(r".*s00001-0\.jpg: branch 1 0\.\d\d to 0\.\d\d, highest at x \d+, y \d+", first)
    assert "branch 2" in second
    assert saved == f"saved {tmp_path / 'a.png'}"
    (told,) = json.loads(run("explain", photo, "--branches", "-g", shop, "--json").stdout)
    assert (told["width"], told["height"], len(told["masks"])) == (120, 160, 2)


def test_json_is_alone_on_stdout(shop: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.html"
    result = run("query", "--like", "s00001-0", "--json", "--save", sheet, "-g", shop)
    assert len(json.loads(result.stdout)["hits"]) == 10
    assert result.stderr == f"saved {sheet}\n"
    assert json.loads(run("info", "--json", "-g", shop).stdout)["photos"] == 120


def test_the_gallery_comes_from_the_environment(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no gallery here" in refused("info")
    assert run("info", env={"FSEARCH_GALLERY": str(shop)}).exit_code == 0
    (tmp_path / "gallery").symlink_to(shop)
    assert run("info").stdout.startswith("gallery")


def test_nothing_found_is_said(shop: Path) -> None:
    result = run("query", "--like", "s00001-0", "--where", "style=none", "-g", shop)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1:] == ["no photo passes the filters"]
    for asked, said in [
        (("--min-score", "2"), "no photo reaches --min-score"),
        (("--min-score", "2", "--where", "style=none"), "no photo passes the filters and reaches --min-score"),
        (("--page", "100000000000000000000", "-k", "3"), "no photo on this page"),
        (("--page", "30000000"), "no photo on this page"),
    ]:
        assert run("query", "--like", "s00001-0", *asked, "-g", shop).stdout.splitlines()[1:] == [said]


def test_a_batch(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("id\ns00001-0\nnone\n", encoding="utf-8")
    result = run("query", "--batch", tmp_path / "q.csv", "-g", shop, "-k", 3, "--out", tmp_path / "r.parquet")
    assert result.stdout == (
        f"1 queries answered, 1 failed (see the error column); results in {tmp_path / 'r.parquet'}\n"
    )
    assert pq.read_table(tmp_path / "r.parquet")["rank"].to_pylist() == [1, 2, 3, 0]


def test_duplicates(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.json"
    head, *groups, wrote = run("duplicates", "-g", shop, "--threshold", "0.7", "--out", out).stdout.splitlines()
    assert re.fullmatch(
        r"\d+ groups hold \d+ of 120 photos: \d+ beyond one each, 0 of them the very same file \(threshold 0\.7\)", head
    )
    assert groups
    assert wrote == f"wrote {out}"
    assert json.loads(out.read_text("utf-8"))["threshold"] == 0.7
    assert run("duplicates", "-g", shop, "--threshold", "1").stdout.startswith("0 groups hold 0 of 120 photos")
    assert "can be saved as .csv or .parquet or .json" in refused(
        "duplicates", "-g", shop, "--out", tmp_path / "pairs.txt"
    )
    assert [each.name for each in tmp_path.iterdir()] == ["pairs.json"]
    assert "can be saved as .html or .png" in refused("duplicates", "-g", shop, "--save", tmp_path / "page.pdf")
    assert "0 is not in the range" in refused("duplicates", "--threshold", "0", code=2)


def test_build_index_says_what_it_did_and_what_it_left_out(
    garment_photos: Path, tiny_model: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted((garment_photos / "photos").iterdir())[:6]:
        shutil.copy(path, photos)
    (photos / "bad.jpg").write_bytes(b"")
    words = ["build-index", photos, "--labels", garment_photos / "labels.csv", "-g", tmp_path / "g"]
    words += ["--model", tiny_model]
    first = run(*words)
    assert first.exit_code == 0
    assert first.stderr == ""
    line, left = first.stdout.splitlines()
    mark = checkpoint.read(tiny_model).fingerprint
    assert line == f"6 photos, 64 dimensions, exact index, model tiny {mark}"
    assert re.match(r"115 not indexed \(114 labelled, but no photo, 1 empty file\); see .*rejected.parquet$", left)
    again = run(*words)
    assert again.stdout.startswith(f"{tmp_path / 'g'} is up to date: 6 photos")
    anew = run("build-index", "--reindex", "-g", tmp_path / "g")
    assert anew.stdout.splitlines() == [line]
    assert [path.name for path in (tmp_path / "g").glob("gen-*")] == ["gen-000002"]
    assert Gallery.open(tmp_path / "g").columns(["id"])["id"].to_pylist()[0] == "s00000-0"


def test_verify(shop: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shop, tmp_path / "copy"))
    assert run("verify", "-g", copy).stdout == f"{copy} is sound\n"
    (copy / "gen-000009").mkdir()
    assert "left by an interrupted build or change" in run("verify", "-g", copy).stdout
    part = copy / "table" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[::-1])
    result = run("verify", "-g", copy)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "part-00000.parquet: damaged" in result.stderr


# Bad input: one line, exit code 1, nothing written half


def test_photos_that_cannot_be_used(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"x")
    (tmp_path / "list.csv").write_text("nothing\n1\n", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    more = ("--model", tiny_model, "-g", tmp_path / "g")
    assert "no such folder" in refused("build-index", tmp_path / "none", *more)
    assert "no photos in it" in refused("build-index", tmp_path / "empty", *more)
    assert "none of 1 photos can be read (a.jpg: " in refused("build-index", tmp_path / "bad", *more)
    assert "no column" in refused("build-index", tmp_path / "list.csv", *more)
    assert "no such file" in refused("build-index", tmp_path / "bad", "--labels", tmp_path / "no.csv", *more)
    assert "no model 'none'" in refused("build-index", tmp_path / "bad", "--model", "none", "-g", tmp_path / "g")
    assert sorted(tmp_path.rglob("*")) == before


def test_queries_that_cannot_be_asked(shop: Path, tmp_path: Path, garment_photos: Path) -> None:
    like = ("query", "--like", "s00001-0", "-g", shop)
    assert "unknown attribute 'colr'; nearest: color" in refused(*like, "--set", "colr=gray")
    assert "unknown value of color 'grye'; nearest: gray" in refused(*like, "--set", "color=grye")
    assert "write NAME=VALUE" in refused(*like, "--set", "color")
    assert "must be a number" in refused(*like, "--weight", "color=x")
    for weight in ("-1", "1e39", "1e-50", "nan"):
        assert "a weight is 0, or from 0.000001 to 1,000,000" in refused(*like, "--weight", f"color={weight}")
    assert "color is set to gray, and has weight 0" in refused(*like, "--set", "color=gray", "--drop", "color")
    assert "no column 'domian'; nearest: domain" in refused(*like, "--where", "domian=shop")
    assert "there is no --set color" in refused(*like, "--from", "color=gray")
    assert "no id 's1'" in refused("query", "--like", "s1", "-g", shop)
    assert len(refused("query", "--like", "qqq", "-g", shop)) < 200
    assert "no model 'none'" in refused("query", tmp_path / "a.jpg", "-g", shop, "--model", "none")
    assert "no such file" in refused("query", tmp_path / "none.jpg", "-g", shop)
    assert "can be saved as .html or .png" in refused(*like, "--save", tmp_path / "sheet.pdf")
    assert "no such file" in refused("query", "--batch", tmp_path / "n.csv", "--out", tmp_path / "r.csv", "-g", shop)
    assert "no gallery here" in refused("query", "--like", "a", "-g", tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_explanations_that_cannot_be_given(shop: Path, tmp_path: Path, garment_photos: Path) -> None:
    photo = garment_photos / "photos" / "s00001-0.jpg"
    assert "unknown attribute 'slave'; nearest: sleeve" in refused("explain", photo, "-a", "slave", "-g", shop)
    assert "unknown value of color" in refused("explain", photo, "-a", "color", "--value", "grye", "-g", shop)
    assert "no such file" in refused("explain", tmp_path / "none.jpg", "-a", "color", "-g", shop)
    assert "no model 'none'" in refused("explain", photo, "-a", "color", "--model", "none")
    assert "no gallery here" in refused("explain", photo, "-a", "color", "-g", tmp_path / "none")
    assert "can be saved as .html or .png" in refused("explain", photo, "-a", "color", "-g", shop, "--save", "a.pdf")
    assert list(tmp_path.iterdir()) == []


def test_a_gallery_of_another_model_names_both(
    shop: Path, tiny_model: Path, other_model: Path, garment_photos: Path
) -> None:
    marks = [checkpoint.read(path).fingerprint for path in (tiny_model, other_model)]
    photo = garment_photos / "photos" / "s00001-0.jpg"
    for said in (
        refused("query", photo, "-g", shop, "--model", other_model),
        refused("build-index", garment_photos, "-g", shop, "--model", other_model),
    ):
        assert all(mark in said for mark in marks)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("gen-000001/vectors.f16", "build-index --reindex"),
        ("table/part-00001.parquet", "fsearch build-index /"),
        ("gallery.json", "build the gallery again"),
    ],
)
def test_damaged_files_are_named_with_what_to_run(name: str, remedy: str, shop: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shop, tmp_path / "copy"))
    (copy / name).write_bytes((copy / name).read_bytes()[:-3])
    for words in (["info"], ["query", "--like", "s00001-0"]):
        said = refused(*words, "-g", copy)
        assert Path(name).name in said
        assert remedy in said


def test_every_wrong_key_of_a_config_is_named_at_once(tmp_path: Path, garment_photos: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: x\nmodle: {}\nmodel: {attributes: {color: {dimm: 3}}}\ntraining: {steps: -1}\n")
    said = refused("train", wrong, "--photos", garment_photos, "--out", tmp_path / "m.safetensors")
    for key in ("modle", "model.attributes.color.dimm", "training.steps"):
        assert key in said
    assert "no config 'nonesuch'" in refused("train", "nonesuch")
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.yaml"]


def test_a_bench_without_labels(garment_photos: Path, tiny_model: Path, tmp_path: Path) -> None:
    assert run("build-index", garment_photos / "photos", "-g", tmp_path / "g", "--model", tiny_model).exit_code == 0
    assert "no labels of the model's attributes" in refused("bench", "-g", tmp_path / "g", "--out", tmp_path / "b.json")
    assert not (tmp_path / "b.json").exists()


# Wrong usage: exit code 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["query"], "give one of PHOTO, --like ID, --text WORDS and --batch FILE"),
        (["query", "a.jpg", "--like", "b"], "give one of"),
        (["query", "--batch", "q.csv"], "--batch FILE and --out FILE go together"),
        (["query", "a.jpg", "--out", "r.csv"], "--batch FILE and --out FILE go together"),
        (["query", "--batch", "q.csv", "--out", "r.csv", "--set", "color=red"], "from the file's columns"),
        (["query", "--batch", "q.csv", "--out", "r.csv", "--min-score", "0"], "from the file's columns"),
        (["query", "a.jpg", "--topk", "0"], "0 is not in the range"),
        (["query", "a.jpg", "--page", "0"], "0 is not in the range"),
        (["query", "a.jpg", "--recall", "2"], "2.0 is not in the range"),
        (["query", "--batch", "q.csv", "--out", "r.csv", "--recall", "nan"], "'nan' is no number from 0 to 1"),
        (["query", "a.jpg", "--colour", "red"], "No such option"),
        (["build-index"], "give PHOTOS, or --reindex"),
        (["build-index", "photos", "--reindex"], "give PHOTOS, or --reindex"),
        (["build-index", "photos", "--recipe", "hnsw"], "'hnsw' is not one of"),
        (["query", "--batch", "q.csv", "--out", "r.csv", "--explain"], "from the file's columns"),
        (["explain", "a.jpg"], "Missing option '--attribute'"),
        (["explain", "-a", "sleeve"], "Missing argument 'PHOTO...'"),
        (["explain", "a.jpg", "-a", "sleeve", "--branches"], "do not go together"),
        (["explain", "a.jpg", "--branches", "--method", "grad-cam"], "not with --value or --method"),
        (["bench", "--seed", "-1"], "-1 is not in the range"),
        (["bench", "--save", "bench.png"], "ends in .html"),
        (["serch"], "No such command"),
        (["add"], "Missing argument 'PHOTOS'"),
        (["remove"], "give IDs, or --ids FILE"),
        (["remove", "a", "--ids", "ids.txt"], "give IDs, or --ids FILE"),
    ],
)
def test_wrong_usage(words: list[str], said: str) -> None:
    assert said in refused(*words, code=2)


def test_an_interrupted_command_says_that_it_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("retrieval.datasets.garments.generate", stop)
    result = run("generate", "garments")
    assert result.exit_code == 130
    assert result.stderr == "fsearch: interrupted; the same command goes on where it stopped\n"
    monkeypatch.setattr("retrieval.engine.Engine.open", stop)
    assert run("duplicates").stderr == "fsearch: interrupted; nothing was written\n"
    for name in ("remove", "compact"):
        monkeypatch.setattr(f"index.catalogue.{name}", stop)
        words = (name, "a") if name == "remove" else (name,)
        assert run(*words).stderr.endswith("all of it was done or nothing: `fsearch info` says which\n")
