"""Configs: every fault is named, all at once, in one line; nothing mistyped is dropped."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from index.errors import ConfigError
from retrieval import config

MINIMAL = {"name": "tiny", "model": {"attributes": {"color": {}}}}
FULL = {
    "name": "full",
    "model": {"backbone": "resnet18", "attributes": {"color": {"dim": 8, "color": True}, "sleeve": {"min_count": 3}}},
    "training": {"steps": 5},
    "data": {"style": "group"},
    "search": {
        "weights": {"look": 0.5, "color": 2.0},
        "attribute_aliases": {"colour": "color"},
        "value_aliases": {"color": {"grey": "gray"}},
    },
}
SECTIONS = [(), ("model",), ("model", "attributes", "color"), ("training",), ("data",), ("search",)]


def with_key(where: tuple[str, ...], key: str, value: object) -> dict:
    changed = copy.deepcopy(FULL)
    inner = changed
    for part in where:
        inner = inner[part]
    inner[key] = value
    return changed


def refusal(value: object) -> str:
    with pytest.raises(ConfigError) as caught:
        config.parse(value, "shop.yaml")
    said = str(caught.value)
    assert said.startswith("shop.yaml: ")
    assert "\n" not in said
    return said


def test_minimal_config_takes_the_defaults() -> None:
    parsed = config.parse(MINIMAL, "here")
    assert parsed.model.backbone == "resnet50"
    assert (parsed.model.branches, parsed.model.branch_dim, parsed.model.reduction) == (4, 256, 16)  # the thesis
    assert parsed.training.margin == 0.2
    assert parsed.model.attributes["color"].dim == 64


def test_full_config_keeps_what_it_says() -> None:
    parsed = config.parse(FULL, "here")
    assert list(parsed.model.attributes) == ["color", "sleeve"]
    assert parsed.model.attributes["color"].color
    assert not parsed.model.attributes["sleeve"].color
    assert parsed.search.value_aliases == {"color": {"grey": "gray"}}
    assert config.parse(parsed.model_dump(), "again") == parsed


@pytest.mark.parametrize("where", SECTIONS, ids=lambda where: ".".join(where) or "top")
def test_unknown_key_raises_with_its_path(where: tuple[str, ...]) -> None:
    assert f"{'.'.join((*where, 'stepz'))}: unknown key" in refusal(with_key(where, "stepz", 1))


def test_all_faults_are_named_at_once() -> None:
    faulty = with_key(("training",), "stepz", 1)
    faulty["model"]["input_size"] = 7
    faulty["model"]["backbone"] = "resnet19"
    faulty["modle"] = {}
    faulty["data"]["holdout"] = "much"
    said = refusal(faulty)
    for key in ("training.stepz", "model.input_size", "model.backbone", "modle", "data.holdout"):
        assert f"{key}: " in said
    assert said.count("; ") >= 4


@given(st.lists(st.sampled_from([(where, f"{k}x") for where in SECTIONS for k in "abc"]), min_size=1, unique=True))
def test_any_set_of_unknown_keys_is_named_whole(keys: list[tuple[tuple[str, ...], str]]) -> None:
    faulty = copy.deepcopy(FULL)
    for where, key in keys:
        inner = faulty
        for part in where:
            inner = inner[part]
        inner[key] = None
    said = refusal(faulty)
    assert said.count("unknown key") == len(keys)
    assert all(f"{'.'.join((*where, key))}: unknown key" in said for where, key in keys)


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        (("training",), "steps", -1),
        (("training",), "learning_rate", float("inf")),
        (("training",), "margin", float("nan")),
        (("training",), "alike_share", 1.5),
        (("data",), "holdout", 0),
        (("model",), "last_stride", 3),
        (("model",), "branches", 0),
        (("search",), "weights", {"color": -1}),
        (("search",), "weights", {"color": float("inf")}),
        (("model", "attributes", "color"), "dim", 1),
    ],
)
def test_unusable_value_is_named(where: tuple[str, ...], key: str, value: object) -> None:
    assert f"{'.'.join((*where, key))}" in refusal(with_key(where, key, value))


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_config_that_is_no_mapping(value: object) -> None:
    assert "mapping" in refusal(value)


def test_missing_keys_are_named() -> None:
    said = refusal({})
    assert "name: " in said
    assert "model: " in said


def test_look_is_no_attribute_name() -> None:
    said = refusal({"name": "x", "model": {"attributes": {"look": {}}}})
    assert "model: an attribute cannot be called 'look'" in said


@pytest.mark.parametrize("name", ["", " ", "neck.line", "training"])
def test_attribute_names_that_cannot_be_stored(name: str) -> None:
    assert repr(name) in refusal({"name": "x", "model": {"attributes": {name: {}}}})


def test_a_model_needs_an_attribute() -> None:
    assert "at least one attribute" in refusal({"name": "x", "model": {"attributes": {}}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weights", {"colr": 1.0}),
        ("attribute_aliases", {"farbe": "colr"}),
        ("value_aliases", {"colr": {"grau": "gray"}}),
    ],
)
def test_search_names_that_are_no_attribute_are_refused(key: str, value: dict) -> None:
    said = refusal(with_key(("search",), key, value))
    assert "search names attributes that the model has not: colr" in said


@pytest.mark.parametrize(
    ("style", "columns"),
    [(None, ()), ([], ()), ("group", ("group",)), (["group"], ("group",)), (["group", "style"], ("group", "style"))],
)
def test_style_is_one_column_or_several(style: object, columns: tuple[str, ...]) -> None:
    parsed = config.parse(with_key(("data",), "style", style), "here")
    assert parsed.data.style == columns
    assert config.parse(yaml.safe_load(parsed.model_dump_json()), "again") == parsed


def test_style_that_is_no_column_name() -> None:
    assert "data.style" in refusal(with_key(("data",), "style", [3]))


def test_look_may_be_weighted() -> None:
    assert config.parse(with_key(("search",), "weights", {"look": 3}), "here").search.weights == {"look": 3.0}


def shipped(kind: str = "fsearch ") -> list[Path]:
    """Those whose header has such a command."""
    return sorted(p for p in (Path(__file__).parents[2] / "configs").glob("*.yaml") if kind in p.read_text("utf-8"))


@pytest.mark.parametrize("path", shipped("fsearch train "), ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_is_called_as_its_file(path: Path) -> None:
    assert config.load(path).name == path.stem


def test_shipped_configs_are_found_by_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [path.stem for path in shipped()]
    assert {"generated", "products"} <= set(names)
    for name in names:
        for spelling in (name, f"{name}.yaml", f"configs/{name}.yaml"):
            found = config.find(spelling)
            assert yaml.safe_load(found.read_text())["name"] == name


def test_own_file_goes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "products.yaml").write_text(yaml.safe_dump(MINIMAL))
    assert config.load("products.yaml").name == "tiny"
    assert config.load(tmp_path / "products.yaml").name == "tiny"
    assert config.load("products").name == "products"


@pytest.mark.parametrize("name", ["prodcts", "prodcts.yaml", "elsewhere/products.yaml", "a/b/products.yaml"])
def test_unknown_config_lists_the_known(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no config .*generated, .*products") as caught:
        config.find(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("content", [b"a: [1, 2", b"name: x\nname: y", b"\xff\xfe\x00x", b"a: b: c", b"\t- x"])
def test_file_that_is_no_yaml(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not readable as YAML") as caught:
        config.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yaml_is_read_safely(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(f"name: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(ConfigError):
        config.load(path)
    assert not (tmp_path / "made").exists()


def test_fingerprint_follows_content_not_order() -> None:
    assert config.fingerprint({"a": 1, "b": [1, 2]}) == config.fingerprint({"b": [1, 2], "a": 1})
    assert config.fingerprint({"a": 1, "b": [1, 2]}) != config.fingerprint({"a": 1, "b": [2, 1]})
    assert config.fingerprint("é") == config.fingerprint("é")
    assert len(config.fingerprint({})) == 16


def test_a_config_cannot_be_changed() -> None:
    parsed = config.parse(MINIMAL, "here")
    with pytest.raises(ValueError, match="frozen"):
        parsed.name = "other"


def test_contrast_of_pairs_and_batches_of_ids_do_not_go_together() -> None:
    wrong = MINIMAL | {"training": {"batch": "ids"}}
    assert "training: style_loss: contrast needs batch: pairs" in refusal(wrong)
    for right in ({"style_loss": "triplet"}, {"style": 0}):
        assert config.parse(MINIMAL | {"training": {"batch": "ids", **right}}, "here").training.batch == "ids"


def test_a_model_without_attributes_of_several_values_is_dumped_as_before_there_were_any() -> None:
    """Fingerprints of checkpoints are over this."""
    plain = config.parse(MINIMAL, "here")
    assert plain.model.model_dump()["attributes"] == {"color": {"dim": 64, "color": False, "min_count": 1}}
    several = config.parse({"name": "s", "model": {"attributes": {"color": {"multi": True}}}}, "here")
    assert several.model.model_dump()["attributes"]["color"]["multi"] is True
    assert config.parse(several.model_dump(), "here") == several
