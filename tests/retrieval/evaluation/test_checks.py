"""``fsearch data check`` and ``bench --protocol`` from the command line, on miniatures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli import main
from index.errors import InputError
from retrieval.commands import bench as bench_command
from retrieval.commands import data as data_command
from retrieval.datasets.benchmarks import FORMATS
from retrieval.evaluation import checks
from retrieval.evaluation import published as runs
from tests.retrieval.datasets import published
from tests.retrieval.datasets.test_benchmarks import WRITERS


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


FOUND = {
    "edit": {"listed": 9, "photos": 9, "train": 3, "test": 6, "attributes": 2, "queries": 4},
    "in-shop": {"listed": 10, "photos": 10, "items": 4, "train": 2, "query": 4, "gallery": 4},
    "consumer-to-shop": {"listed": 11, "photos": 11, "items": 4, "train": 3, "test": 6, "val": 2, "pairs": 8},
    "deepfashion": {
        "listed": 4, "photos": 4, "train": 2, "val": 1, "test": 1, "positive attribute labels": 5,
        "negative attribute labels": 12, "unknown attribute labels": 7,
    },
    "fashionai": {"listed": 4, "photos": 4},
    "alisc": {"listed": 9, "photos": 9, "train": 2, "gallery": 5, "query": 2},
    "polyvore": {
        "listed": 11, "photos": 11, "train": 3, "valid": 2, "test": 6, "outfits": 4, "outfits train": 1,
        "outfits valid": 1, "outfits test": 2, "fill-in-the-blank questions": 2, "compatible outfits": 2,
        "incompatible outfits": 1,
    },
    "products": {"listed": 4, "photos": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_a_data_set_is_counted_beside_what_was_published(name: str, tmp_path: Path) -> None:
    root = WRITERS[name](tmp_path)
    report = checks.check(name, root)
    counts = report["counts"]
    assert {each: count["found"] for each, count in counts.items() if count["found"]} == FOUND[name]
    assert {each: c["published"] for each, c in counts.items() if c["published"]} == FORMATS[name].published
    assert json.loads(json.dumps(report)) == report
    said = checks.text(report)
    assert said.startswith(f"{FORMATS[name].title}: {root}\n")
    ending = said.splitlines()[-1]
    assert ending.startswith("usable; not as many as published: ") if FORMATS[name].published else ending == "usable"


def test_what_a_check_says_of_labels_files_and_missing_photos(tmp_path: Path) -> None:
    root = published.products(tmp_path)
    report = checks.check("products", root)
    assert report["labels"]["season"] == {"filled": 2, "values": 2}
    assert report["labels"]["gender"] == {"filled": 3, "values": 2}
    assert report["files"] == {"styles.csv": "styles.csv"}
    assert report["missing"] == {"photos": 1, "first": ["images/12347.jpg"]}
    assert "1 listed photos are not there, such as images/12347.jpg" in checks.text(report)
    partition = checks.check("in-shop", published.in_shop(tmp_path / "in-shop"))["files"]
    assert partition["list_eval_partition.txt"] == "Eval/list_eval_partition.txt"
    (tmp_path / "in-shop" / "Anno" / "list_item_inshop.txt").unlink()
    report = checks.check("in-shop", tmp_path / "in-shop")
    assert report["files"]["list_item_inshop.txt"] is None
    assert "not there: list_item_inshop.txt" in checks.text(report)


def test_the_command_prints_text_or_json(tmp_path: Path) -> None:
    root = published.in_shop(tmp_path)
    result = run("data", "check", "in-shop", root)
    assert result.exit_code == 0
    assert result.stdout == checks.text(checks.check("in-shop", root)) + "\n"
    assert "  query                                  4      14,218\n" in result.stdout
    result = run("data", "check", "in-shop", root, "--json")
    assert json.loads(result.stdout) == checks.check("in-shop", root)


def test_a_folder_that_cannot_be_used_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    root = published.in_shop(tmp_path)
    for path in root.glob("Img/img/*/*/*/*_1_front.jpg"):  # every query but one
        path.unlink()
    assert run("data", "check", "in-shop", root).exit_code == 0
    (root / "Img/img/MEN/Pants/id_00000042/01_2_side.jpg").unlink()
    lines = []
    for name, folder in (("in-shop", root), ("polyvore", root), ("in-shop", tmp_path / "nowhere")):
        result = run("data", "check", name, folder)
        assert (result.exit_code, result.stdout) == (1, "")
        (line,) = result.stderr.splitlines()
        lines.append(line.removeprefix("fsearch: "))
    assert "none of the photos of query is there" in lines[0]
    assert "does not look like Polyvore outfits (Han et al., 2017) (looked for train_no_dup.json" in lines[1]
    assert lines[2] == f"{tmp_path / 'nowhere'}: no such folder; name the folder of {FORMATS['in-shop'].title}"
    assert run("data", "check", "imagenet", root).exit_code == 2
    split = published.edits(tmp_path / "edits")
    (split / "ref_test.txt").unlink()
    with pytest.raises(InputError, match="ref_test.txt: cannot be read"):
        checks.check("edit", split)


def test_the_commands_know_every_format_and_protocol() -> None:
    assert sorted(data_command.NAMES) == sorted(FORMATS)
    assert bench_command.PROTOCOLS == runs.PROTOCOLS
    for name in ("check",):
        said = (data_command.data.commands[name].help or "").split("\b")[0].strip()
        assert said.endswith(".")
        assert ". " not in said


def test_a_protocol_from_the_command_line(tmp_path: Path, tiny_model: Path) -> None:
    root = published.in_shop(tmp_path / "set")
    gallery, out = tmp_path / "in-shop.gallery", tmp_path / "in-shop.json"
    built = run("build-index", root, "--gallery", gallery, "--model", tiny_model)
    assert built.exit_code == 0
    assert built.stdout.startswith("10 photos, ")
    result = run("bench", "--protocol", "in-shop", "--gallery", gallery, "--out", out)
    assert result.exit_code == 0
    head, first, second, said, wrote = result.stdout.splitlines()
    assert head.split() == [f"accuracy@{k}" for k in (1, 4, 10, 20, 30, 50)]
    assert first.startswith("image only  ")
    assert second.startswith("image only, exact  ")
    assert said == "4 photos in the gallery, 4 queries; recall promised 1.00"
    assert wrote == f"wrote {out}"
    report = json.loads(out.read_text())
    assert report["in-shop"]["image only"]["queries"] == 4
    assert first.split()[2] == f"{report['in-shop']['image only']['metrics']['accuracy@1']:.3f}"
    refused = run("bench", "--protocol", "in-shop", "--gallery", gallery, "--holdout", 0.1)
    assert refused.exit_code == 2
    assert "--protocol has its own partition" in refused.stderr
    assert run("bench", "--protocol", "alisc", "--gallery", gallery).exit_code == 1
