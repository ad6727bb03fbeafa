"""The network, its training, its file, and where it says the garments are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from index.errors import MismatchError, ModelError, UnknownNameError
from retrieval.detection import config as configs
from retrieval.detection import data, fit, frame, model, vary
from retrieval.detection.config import DetectorSizes
from retrieval.detection.network import Pyramid, build, freeze
from retrieval.models import checkpoint
from retrieval.photos import Decoded, decode
from tests.retrieval.detection.conftest import CONFIG, written


def test_the_pyramid_has_maps_at_an_eighth_a_sixteenth_and_the_last_stride() -> None:
    sizes = DetectorSizes(backbone="regnet_tiny", input_size=96, channels=8, hidden=16)
    maps = Pyramid(sizes)(torch.zeros(1, 3, 96, 64))
    assert [tuple(each.shape) for each in maps.values()] == [(1, 8, 12, 8), (1, 8, 6, 4), (1, 8, 3, 2)]


def test_the_first_photos_shape_does_not_change_what_is_pooled_later() -> None:
    square, panorama = torch.rand(3, 96, 96), torch.rand(3, 10, 96)
    found = []
    for first in (square, panorama):
        torch.manual_seed(0)
        net = build(DetectorSizes(backbone="regnet_tiny", input_size=96, channels=8, hidden=16), 2).eval()
        net.roi_heads.score_thresh = 0
        with torch.inference_mode():
            net([first])
            found.append(net([square])[0]["scores"])
    assert len(found[0]) > 0
    assert torch.equal(*found)


def test_frozen_stages_learn_nothing() -> None:
    net = build(DetectorSizes(backbone="regnet_tiny", channels=8, hidden=16), 2)
    freeze(net, 0)
    assert all(each.requires_grad for each in net.parameters())
    freeze(net, 2)
    held = {name.split(".")[1] + name.split(".")[2] for name, each in net.named_parameters() if not each.requires_grad}
    assert {name for name in held if name.startswith("body")} == {"bodyblock1", "bodyblock2"}
    assert all(not each.requires_grad for each in net.backbone.stem.parameters())


def test_pretrained_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    sizes = DetectorSizes(backbone="fasterrcnn_mobilenet_v3_large_320_fpn", pretrained=True)
    with pytest.raises(ModelError, match="cannot be fetched .no route to host.*or take a backbone"):
        build(sizes, 6)


def test_torchvisions_detector_gets_a_head_of_our_classes() -> None:
    net: Any = build(DetectorSizes(backbone="fasterrcnn_mobilenet_v3_large_320_fpn", input_size=64), 6).eval()
    assert net.roi_heads.box_predictor.cls_score.out_features == 7
    assert net.transform.min_size == (64,)


def test_training_finds_drawn_garments(trained: tuple[Path, dict[str, Any]], street: Path) -> None:
    out, told = trained
    assert told["validation"]["classes"]["upper"]["ap50"] > 0.3  # untrained: next to nothing
    assert told["photos"] + told["validation"]["photos"] == 24
    detector = model.read(out)
    assert detector.fingerprint == told["fingerprint"]
    assert detector.facts["validation"] == told["validation"]
    parts = data.gather(street, detector.config)
    assert fit.measured(detector, parts.held)["map"] == pytest.approx(told["validation"]["map"], abs=0.05)  # float16
    assert not out.with_name("detector.state.safetensors").exists()


def test_a_killed_run_goes_on_as_if_it_had_not_been(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "SAVE_EVERY", 2)
    config = configs.load(written(tmp_path, training={"steps": 4, "batch": 2}))
    examples = data.gather(street, config).learned
    whole, _ = fit.fit(examples, config, tmp_path / "whole.state")
    draw, seen = vary.batch_of, []

    def killed(batch: list[data.Example], *others: Any) -> Any:
        seen.append(len(batch))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return draw(batch, *others)

    monkeypatch.setattr(vary, "batch_of", killed)
    with pytest.raises(KeyboardInterrupt):
        fit.fit(examples, config, tmp_path / "state")
    monkeypatch.setattr(vary, "batch_of", draw)
    again, _ = fit.fit(examples, config, tmp_path / "state")
    for (name, value), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.allclose(value, other, atol=1e-6), name
    with pytest.raises(MismatchError, match="delete it to start again"):
        fit.fit(examples[1:], config, tmp_path / "state")


def test_every_photo_is_drawn_once_an_epoch() -> None:
    drawn = [i for step in range(6) for i in fit._drawn(5, 5, 0, step)]
    assert all(sorted(drawn[at : at + 5]) == list(range(5)) for at in range(0, 30, 5))
    assert drawn[:5] != drawn[5:10]


def test_a_backbone_is_taken_over_from_an_image_model(tiny_model: Path, tmp_path: Path) -> None:
    net: Any = build(DetectorSizes(backbone="regnet_tiny", channels=8, hidden=16), 2)
    start = {"training": {"start": str(tiny_model)}}
    sizes = {"backbone": "regnet_tiny", "channels": 8, "hidden": 16}
    config = configs.parse({**CONFIG, **start, "model": sizes}, "tests")
    fit.take_over(net, config)
    source = checkpoint.read(tiny_model).net
    assert torch.equal(net.backbone.stem.state_dict()["0.weight"], source.stem.state_dict()["0.weight"])
    for name, value in source.body.state_dict().items():
        assert torch.equal(net.backbone.body.state_dict()[name], value)
    config = configs.parse({**CONFIG, **start, "model": {"backbone": "resnet18"}}, "tests")
    with pytest.raises(ModelError, match=r"its backbone is regnet_tiny, the config's resnet18"):
        fit.take_over(net, config)


def test_a_detector_learns_on(trained: tuple[Path, dict[str, Any]]) -> None:
    start = {"training": {"start": str(trained[0])}}
    known = model.read(trained[0]).net.state_dict()
    for classes, heads in ((CONFIG["classes"], True), ({"worn": ["shirt"], "else": ["coat"]}, False)):
        config = configs.parse({**CONFIG, **start, "classes": classes}, "tests")
        net = build(config.model, len(config.classes))
        fit.take_over(net, config)
        for name, value in net.state_dict().items():
            taken = heads or not name.startswith("roi_heads.box_predictor")
            assert (value.shape == known[name].shape and torch.equal(value, known[name])) == taken, name
    config = configs.parse({**CONFIG, **start, "model": {"backbone": "regnet_tiny"}}, "tests")
    with pytest.raises(ModelError, match=r"'channels': 16.*the config's has .*'channels': 96"):
        fit.take_over(build(config.model, 3), config)


# The file


def test_a_file_that_is_no_detector(trained: tuple[Path, dict[str, Any]], tiny_model: Path, tmp_path: Path) -> None:
    out, _ = trained
    with safe_open(str(out), framework="pt") as file:
        assert json.loads(file.metadata()["fsearch.header"])["config"]["name"] == "tiny-detector"
    with pytest.raises(ModelError, match="no detector .*none.*: train one: fsearch train-detector detector --photos"):
        model.read(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="not a detector: train one"):
        model.read(tiny_model)
    content = bytearray(out.read_bytes())
    content[-10] ^= 0xFF
    (tmp_path / "broken.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="damaged .its weights are not those that were written"):
        model.read(tmp_path / "broken.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(content[:100])
    with pytest.raises(ModelError, match="not readable as a detector"):
        model.read(tmp_path / "cut.safetensors")


# Where garments are


def seeing(*boxes: tuple[list[float], int, float], seen: list[Any] | None = None) -> model.Detector:
    """A detector that says these boxes (left, top, right, bottom in pixels of what it is given), labels, scores."""

    def net(images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        if seen is not None:
            seen.append(images[0])
        columns = list(zip(*boxes, strict=True)) or [[], [], []]
        named = zip(("boxes", "labels", "scores"), columns, strict=True)
        return [{name: torch.tensor(list(values)) for name, values in named}]

    return model.Detector(net, configs.parse(CONFIG, "tests"), "0" * 16, Path("d"), {})  # type: ignore[arg-type]


def test_boxes_are_in_pixels_of_the_photo() -> None:
    seen: list[Any] = []
    detector = seeing(([10, 20, 40, 80], 2, 0.6), ([0, 0, 48, 96], 1, 0.9), ([0, 0, 5, 5], 3, 0.05), seen=seen)
    photo = Image.new("RGB", (200, 400), (255, 0, 0))
    found = detector.find(Decoded(photo, 200, 400, (0, 0, 200, 400)))
    assert seen[0].shape == (3, 96, 48)
    assert seen[0][0].min() == 1
    assert seen[0][1:].max() == 0
    scale = 400 / 96
    assert [(each.kind, round(each.score, 2)) for each in found] == [("upper", 0.9), ("lower", 0.6)]
    assert found[1].box == pytest.approx((10 * scale, 20 * scale, 30 * scale, 60 * scale), rel=1e-5)
    assert len(detector.find(Decoded(photo, 200, 400, (0, 0, 200, 400)), least=0)) == 3


def test_boxes_of_a_photo_decoded_at_an_eighth_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.new("RGB", (1501, 2003), (200, 30, 30)).save(path)
    small = decode(path, long_side=96)
    assert small.image.width < 400
    detector = seeing(([0, 0, 72, 96], 1, 0.9))
    assert frame.all_of(path, detector) == [frame.Frame((0, 0, 1501, 2003), "upper", 0.9)]


def test_the_best_of_a_class(tmp_path: Path) -> None:
    detector = seeing(([0, 0, 48, 48], 1, 0.9), ([48, 0, 96, 48], 2, 0.8), ([0, 48, 20, 90], 2, 0.7))
    Image.new("RGB", (96, 96)).save(tmp_path / "a.png")
    assert frame.best(tmp_path / "a.png", detector) == frame.Frame((0, 0, 48, 48), "upper", 0.9)
    assert frame.best(tmp_path / "a.png", detector, "lower") == frame.Frame((48, 0, 48, 48), "lower", 0.8)
    assert frame.best(tmp_path / "a.png", detector, "full-body") is None
    assert frame.best(tmp_path / "a.png", seeing()) is None


def test_classes_go_by_any_case_and_the_nearest_is_named() -> None:
    assert seeing().kind("UPPER") == "upper"
    with pytest.raises(UnknownNameError, match="unknown class 'uper'; nearest: upper"):
        seeing().kind("uper")
    with pytest.raises(UnknownNameError, match="unknown class 'street.jpg'; known: upper, lower, full-body"):
        seeing().kind("street.jpg")
