"""``fsearch detect``, and the options that frame a garment for other commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.commands.options import FOLDER, Share

if TYPE_CHECKING:
    from retrieval.detection.frame import Frame
    from retrieval.detection.model import Detector

ANY = "best"  # what --detect without a class means


def _box(_: Any, __: Any, text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    try:
        left, top, width, height = map(int, text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no box: write x,y,w,h in pixels, such as 40,60,120,200") from None
    return left, top, width, height


detector_option = click.option(
    "--detector", type=FOLDER, metavar="FILE", envvar="FSEARCH_DETECTOR",
    help="The detector; $FSEARCH_DETECTOR if set.  [default: the shipped one]",
)  # fmt: skip


def detecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """--detect and --detector, for commands that put photos into a gallery."""
    said = "Crop each photo to its best garment; the column box notes where."
    return click.option("--detect", is_flag=True, help=said)(detector_option(command))


def framing(command: Callable[..., Any]) -> Callable[..., Any]:
    """--box, --detect and --detector, for a command that takes one photo."""
    box = click.option("--box", callback=_box, metavar="X,Y,W,H", help="Ask for this part of the photo, in pixels.")
    detect = click.option(
        "--detect", is_flag=False, flag_value=ANY, metavar="[CLASS]",
        help="Ask for the best garment in the photo, or each of --batch, or the best of a class such as upper.",
    )  # fmt: skip
    return box(detect(detector_option(command)))


def wanted(detect: bool, detector: Path | None) -> Detector | None:
    """The detector, where one is asked for."""
    if detector is not None and not detect and not _from_environment():
        raise click.UsageError("--detector FILE goes with --detect")
    if not detect:
        return None  # and torch stays unloaded
    from retrieval.detection.model import read

    return read(detector)


def finding(detect: str | None, detector: Path | None) -> Callable[[Path], tuple[int, int, int, int] | None] | None:
    """What --detect finds in each photo of a --batch: a box, None where the whole photo is asked."""
    if (network := wanted(detect is not None, detector)) is None:
        return None
    from retrieval.detection import frame

    kind = _kind(network, detect)

    def find(photo: Path) -> tuple[int, int, int, int] | None:
        found = frame.best(photo, network, kind)
        return None if found is None else found.box

    return find


def _kind(network: Detector, detect: str | None) -> str | None:
    return None if detect in (None, ANY) else network.kind(str(detect))


def framed(
    photo: Path | None, box: tuple[int, int, int, int] | None, detect: str | None, detector: Path | None
) -> Frame | None:
    """What --box or --detect frame of the photo; None without them, and where no garment is found, which is said."""
    if box is None and detect is None:
        wanted(False, detector)
        return None
    if photo is None or (box is not None and detect is not None):
        raise click.UsageError("--box X,Y,W,H or --detect frames a PHOTO: give one of them, and a PHOTO")
    from retrieval.detection import frame

    if box is not None:
        return frame.given(photo, box, str(photo))
    network = wanted(True, detector)
    assert network is not None
    kind = _kind(network, detect)
    if (found := frame.best(photo, network, kind)) is None:
        what = f"no garment of class {kind}" if kind else "no garment"
        click.echo(
            f"{what} found in {photo} (score above {network.config.threshold:g}): the whole photo is searched", err=True
        )
    return found


def _from_environment() -> bool:
    context = click.get_current_context()
    return context.get_parameter_source("detector") == click.core.ParameterSource.ENVIRONMENT


@click.command()
@click.argument("photo", type=FOLDER)
@detector_option
@click.option("--threshold", type=Share(), help="The least score.  [default: the detector's]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--save", type=FOLDER, metavar="FILE", help="Save the photo with its boxes: .png.")
def detect(photo: Path, detector: Path | None, threshold: float | None, as_json: bool, save: Path | None) -> None:
    """Find the garments in a photo: class, score and box of each, best first.

    \b
    fsearch detect street.jpg --save boxes.png
    """
    from retrieval.detection.frame import all_of
    from retrieval.detection.model import read
    from retrieval.serving.boxes import save_boxes
    from retrieval.serving.sheet import checked

    if save is not None:
        checked(save, (".png",), [photo])
    found = all_of(photo, read(detector), threshold)
    if save is not None:
        save_boxes(save, photo, found)
    if as_json:
        click.echo(json.dumps({"photo": str(photo), "garments": [each.to_json() for each in found]}))
    else:
        click.echo("\n".join(each.words() for each in found) or "no garment found")
    if save is not None:
        click.echo(f"saved {save}", err=as_json)
