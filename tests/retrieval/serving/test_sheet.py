"""Sheets and report pages, read back as a browser and an eye would: parsed HTML, decoded photos, pixels."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index.errors import FsearchError, PhotoError
from retrieval.serving import picture
from retrieval.serving.report import Section, Table, save_report
from retrieval.serving.sheet import Row, Tile, save_sheet
from retrieval.serving.tiles import ID_CHARACTERS, shorten

COLORS = {"red": (220, 20, 30), "blue": (20, 40, 220), "green": (20, 180, 40)}
VOID = {"meta", "img", "br", "link", "hr"}


def encoded(color: str, size: tuple[int, int] = (60, 80)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, COLORS[color]).save(buffer, "PNG")
    return buffer.getvalue()


def a_row(**changes: object) -> Row:
    query = Tile(encoded("red"), "10001", ("baseColour: Red", "gender: Women"), "query")
    results = (
        Tile(encoded("blue"), "10002", ("score 0.931", "baseColour: Blue"), "hit"),
        Tile(encoded("green"), "10003", ("score 0.802", "baseColour: Green"), "miss"),
    )
    return Row("baseColour: Red -> Blue", query, results, edited=("baseColour",))._replace(**changes)


class Page(HTMLParser):
    """Elements in order; fails at a tag that is closed out of turn or never."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open[-1:] != ["style"]:
            self.texts.append(" ".join(data.split()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def classes(self, tag: str) -> list[str]:
        return [attributes.get("class") or "" for attributes in self.all(tag)]


def page_of(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def embedded(attributes: dict[str, str | None]) -> Image.Image:
    head, _, data = (attributes["src"] or "").partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def near(pixels: np.ndarray, color: str) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) bool: within JPEG's error of the color."""
    return (np.abs(pixels.astype(int) - COLORS[color]) < 12).all(-1)


def test_page_tells_query_edit_ranks_and_marks(tmp_path: Path) -> None:
    save_sheet(tmp_path / "a.html", [a_row(note="2 of 9 rows")], "A sheet", {"photos": "35,470"})
    page = page_of(tmp_path / "a.html")
    assert page.classes("figure") == ["tile query", "tile hit", "tile miss"]
    for text in ("A sheet", "photos", "35,470", "baseColour: Red → Blue", "2 of 9 rows", "score 0.931", "hit", "miss"):
        assert text in page.texts
    assert [page.texts[i + 1] for i, text in enumerate(page.texts) if text == "#"] == ["1", "2"]
    # the edited attribute, and nothing else, is emphasised: in the query and in each result
    emphasised = [line for line in page.classes("div") if "edited" in line]
    assert len(emphasised) == len(page.all("strong")) == 3


def test_page_embeds_small_photos_in_order_with_words_for_those_who_cannot_see(tmp_path: Path) -> None:
    big = Tile(encoded("green", (1500, 1000)), "big", (), "miss")
    save_sheet(tmp_path / "a.html", [a_row(results=(a_row().results[0], big))], "t", {})
    images = page_of(tmp_path / "a.html").all("img")
    assert [image["alt"] for image in images] == [
        "query: 10001 (baseColour: Red, gender: Women)",
        "rank 1, hit: 10002 (score 0.931, baseColour: Blue)",
        "rank 2, miss: big",
    ]
    photos = [embedded(image) for image in images]
    assert [photo.size for photo in photos] == [(60, 80), (60, 80), (360, 240)]
    assert [(image["width"], image["height"]) for image in images] == [("60", "80"), ("60", "80"), ("360", "240")]
    for photo, color in zip(photos, ("red", "blue", "green"), strict=True):
        assert near(np.asarray(photo), color).all()


def test_page_fetches_nothing_and_runs_nothing(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>'
    tile = Tile(encoded("red"), evil, (f"{evil}: {evil}", evil), "hit")
    rows = [Row(evil, tile, (tile, tile._replace(image=None)), evil, (evil,))]
    save_sheet(tmp_path / "a.html", rows, evil, {evil: evil})
    tables = [Table(evil, [evil], [[evil]], evil)]
    save_report(tmp_path / "b.html", evil, {evil: evil}, tables, [Section(evil, evil, rows)])
    for name in ("a.html", "b.html"):
        page = page_of(tmp_path / name)
        assert page.all("script") == []
        assert page.all("link") == []
        assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in page.all("img"))
        assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
        assert evil in page.texts
        assert "default-src 'none'" in str(page.all("meta"))
        assert not re.search(r"url\(|@import", (tmp_path / name).read_text())


def test_page_serves_light_dark_and_narrow_screens(tmp_path: Path) -> None:
    save_sheet(tmp_path / "a.html", [a_row()], "t", {})
    text = (tmp_path / "a.html").read_text()
    dark, narrow = text.index("prefers-color-scheme: dark"), text.index("max-width: 620px")
    assert text.index("<style>") < dark < narrow < text.index("</style>")
    # every color used is defined for light, and every tone redefined for dark
    light_names = set(re.findall(r"(--[a-z]+):", text[:dark]))
    assert set(re.findall(r"var\((--[a-z]+)\)", text)) <= light_names | {"--tone"}
    assert {"--page", "--ink", "--quiet", "--hit", "--miss", "--query"} <= set(
        re.findall(r"(--[a-z]+):", text[dark : text.index("box-sizing")])
    )


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def test_picture_shows_query_left_and_results_by_rank(tmp_path: Path) -> None:
    save_sheet(tmp_path / "a.png", [a_row()], "t", {"photos": "3"})
    pixels = pixels_of(tmp_path / "a.png")
    spans = [np.flatnonzero(near(pixels, color).any(0)) for color in ("red", "blue", "green")]
    assert all(len(span) > picture.TILE / 2 for span in spans)
    assert spans[0].max() < spans[1].min()
    assert spans[1].max() < spans[2].min()


def test_picture_wraps_many_results_below_in_reading_order(tmp_path: Path) -> None:
    most = picture.COLUMNS[1]
    results = tuple(Tile(encoded("blue" if i != most else "green"), str(i)) for i in range(most + 1))
    save_sheet(tmp_path / "a.png", [a_row(results=results)], "t", {})
    pixels = pixels_of(tmp_path / "a.png")
    blue, green = (np.argwhere(near(pixels, color)) for color in ("blue", "green"))  # (n, 2): y, x
    assert green[:, 0].min() > blue[:, 0].max()
    assert green[:, 1].min() == blue[:, 1].min()


def test_picture_marks_hit_and_miss_by_shape_too(tmp_path: Path) -> None:
    def tone_by_x(mark: str) -> np.ndarray:
        """(W,) bool: where the top edge of the only result's frame is drawn."""
        save_sheet(tmp_path / "a.png", [a_row(results=(Tile(encoded("green"), "x", (), mark),))], "t", {})
        tone = [int(picture.TONES[mark][i : i + 2], 16) for i in (1, 3, 5)]
        drawn = (pixels_of(tmp_path / "a.png") == tone).all(-1)
        left = picture.MARGIN + picture.TILE + 2 * picture.GAP
        top = np.argwhere(drawn[:, left + 40 : left + 80].any(1))[0, 0]  # the pill is on the right
        return drawn[top + 1, left + 12 : left + picture.TILE - 12]

    assert tone_by_x("hit").all()
    dashed = tone_by_x("miss")
    assert 0.4 < dashed.mean() < 0.8
    assert np.count_nonzero(np.diff(dashed.astype(int)) == 1) > 5


def test_picture_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_sheet(tmp_path / name, [a_row()], "t", {"a": "b"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def fetch_fails() -> bytes:
    raise PhotoError("row group is gone")


@pytest.mark.parametrize("ending", ["html", "png"])
def test_unreadable_photos_become_gray_tiles_with_a_reason(tmp_path: Path, ending: str) -> None:
    (tmp_path / "text.jpg").write_text("not a photo")
    (tmp_path / "half.png").write_bytes(encoded("red", (400, 400))[:200])
    lazy = Image.open(tmp_path / "half.png")
    images = [tmp_path / "gone.jpg", tmp_path / "text.jpg", tmp_path, b"", encoded("red")[:60], None, lazy, fetch_fails]
    results = tuple(Tile(image, str(i)) for i, image in enumerate(images))
    save_sheet(tmp_path / f"a.{ending}", [a_row(query=Tile(None, "q"), results=results)], "t", {})
    if ending == "html":
        page = page_of(tmp_path / "a.html")
        blanks = [attributes for attributes in page.all("div") if attributes.get("role") == "img"]
        assert page.all("img") == []
        assert len(blanks) == 1 + len(images)
        assert all("photo not shown: " in (blank["aria-label"] or "") for blank in blanks)
        assert {"no such file", "no photo", "row group is gone"} <= set(page.texts)
    else:
        gray = (pixels_of(tmp_path / "a.png") == int(picture.NO_PHOTO[1:3], 16)).any(-1)
        assert gray.sum() > 0.9 * (1 + len(images)) * picture.TILE * picture.PHOTO * 0.8
    lazy.close()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_pillow_images_of_every_mode_are_shown_and_left_alone(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (800, 400), "white").convert(mode)
    if mode == "RGBA":
        image = Image.new("RGBA", (800, 400), (0, 0, 0, 0))  # transparent lies on white, not on black
    save_sheet(tmp_path / "a.html", [a_row(query=Tile(image, "q"))], "t", {})
    shown = embedded(page_of(tmp_path / "a.html").all("img")[0])
    assert shown.size == (360, 180)
    assert np.asarray(shown).min() > 245
    assert (image.size, image.mode) == ((800, 400), mode)


def test_long_ids_are_cut_in_the_middle_and_kept_whole_on_hover(tmp_path: Path) -> None:
    long = "shoes/" + "very-long-folder/" * 30 + "IMG_0042.jpg"
    row = a_row(query=Tile(encoded("red"), long, (f"title: {'x' * 5000}",)))
    save_sheet(tmp_path / "a.html", [row], "t", {})
    page = page_of(tmp_path / "a.html")
    (short,) = [text for text in page.texts if text.startswith("shoes/")]
    assert len(short) == ID_CHARACTERS
    assert re.fullmatch(r"shoes/.*….*IMG_0042\.jpg", short)
    assert [div["title"] for div in page.all("div") if div.get("class") == "id"][0] == long
    save_sheet(tmp_path / "a.png", [row], "t", {})
    save_sheet(tmp_path / "b.png", [a_row(query=Tile(encoded("red"), "short", ("title: x",)))], "t", {})
    assert pixels_of(tmp_path / "a.png").shape[1] == pixels_of(tmp_path / "b.png").shape[1]
    # nothing is written across the rule between the query and its results
    x = picture.MARGIN + picture.TILE
    below = picture.MARGIN + 400
    assert (pixels_of(tmp_path / "a.png")[below:, x + 1 : x + picture.GAP - 2] == 255).all()


def test_shorten_keeps_start_and_end() -> None:
    assert shorten("abcdefgh", 8) == "abcdefgh"
    assert shorten("abcdefgh", 7) == "abc…fgh"
    assert shorten("abcdefgh", 4) == "ab…h"
    assert [len(shorten("abcdefgh", n)) for n in range(1, 9)] == list(range(1, 9))


@pytest.mark.parametrize("ending", ["html", "png"])
def test_unicode_and_undecodable_words_crash_nothing(tmp_path: Path, ending: str) -> None:
    words = "Blüe ❤️ 漢字 שלום \u202egnp.exe naïve e\u0301 \udcff\x00 tab\tnew\nline 👗🏽"
    tile = Tile(encoded("red"), words, (f"{words}: {words}", "", ": ", "a:b"), "hit")
    save_sheet(tmp_path / f"a.{ending}", [Row(words, tile, (tile,), words, (words,))], words, {words: words})
    if ending == "html":
        text = (tmp_path / "a.html").read_text(encoding="utf-8")
        assert "Blüe ❤️ 漢字 שלום \ufffdgnp.exe naïve e\u0301 \ufffd\ufffd tab new line 👗🏽" in text
        assert not set("\u202e\x00") & set(text)
        assert page_of(tmp_path / "a.html").classes("div").count("line edited") == 2


def test_picture_writes_letters_it_lacks_without_accents(tmp_path: Path) -> None:
    save_sheet(tmp_path / "a.png", [a_row(heading="Ärmel → e\u0301 漢")], "naïve", {})
    save_sheet(tmp_path / "b.png", [a_row(heading="Armel -> e ?")], "naive", {})
    save_sheet(tmp_path / "c.png", [a_row(heading="Armel -> e !")], "naive", {})
    assert (pixels_of(tmp_path / "a.png") == pixels_of(tmp_path / "b.png")).all()
    assert (pixels_of(tmp_path / "a.png") != pixels_of(tmp_path / "c.png")).any()


@pytest.mark.parametrize("ending", ["html", "png"])
def test_nothing_found_is_said(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    save_sheet(path, [a_row(results=())], "t", {})
    with_row = path.read_bytes()
    save_sheet(path, [], "t", {})
    assert path.read_bytes() != with_row
    if ending == "html":
        assert "Nothing to show here." in page_of(path).texts
        assert b"No results." in with_row


def test_another_ending_or_place_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    for name in ("a.pdf", "a", "a.htm"):
        with pytest.raises(FsearchError, match=r"saved as \.html or \.png; give a name") as raised:
            save_sheet(tmp_path / name, [a_row()], "t", {})
        assert "\n" not in str(raised.value)
    with pytest.raises(FsearchError, match="no folder"):
        save_sheet(tmp_path / "nowhere" / "a.html", [a_row()], "t", {})
    with pytest.raises(FsearchError, match=r"saved as \.html; give"):
        save_report(tmp_path / "a.png", "t", {}, [], [])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "taken.html").mkdir()
    with pytest.raises(FsearchError, match="a folder; give the name of a file"):
        save_sheet(tmp_path / "taken.html", [a_row()], "t", {})
    assert [path.name for path in tmp_path.iterdir()] == ["taken.html"]
    save_sheet(str(tmp_path / "UPPER.HTML"), [a_row()], "t", {})
    assert (tmp_path / "UPPER.HTML").stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_sheet(tmp_path / "a.html", [a_row()], "old", {})
    before = (tmp_path / "a.html").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("index.files.os.fsync", full)
    with pytest.raises(FsearchError, match="No space left on device"):
        save_sheet(tmp_path / "a.html", [a_row()], "new", {})
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.html", before)]


def test_too_many_rows_for_a_picture_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "MAX_PIXELS", 1_500_000)
    save_sheet(tmp_path / "a.png", [a_row()], "t", {})
    with pytest.raises(FsearchError, match=r"9 queries are more than one picture holds; save a page"):
        save_sheet(tmp_path / "b.png", [a_row()] * 9, "t", {})
    assert not (tmp_path / "b.png").exists()


def test_an_unknown_mark_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mark"):
        save_sheet(tmp_path / "a.html", [a_row(results=(Tile(None, "x", (), "HIT"),))], "t", {})


def test_report_prints_figures_and_sections(tmp_path: Path) -> None:
    tables = [
        Table(
            "Edit retrieval",
            ["method", "hit@4", "queries"],
            [["fsearch", 0.31249, 12000], ["image only", None, 12000], ["odd", float("nan"), 0], ["tiny", 4e-5, 1]],
            "strict: the reference is removed",
        )
    ]
    sections = [Section("Best", "All hit.", [a_row()]), Section("Worst", "None hit.", [a_row(), a_row()])]
    save_report(tmp_path / "r.html", "Bench", {"seed": "0"}, tables, sections)
    page = page_of(tmp_path / "r.html")
    assert len(page.all("tr")) == 5
    start = page.texts.index("method")
    assert page.texts[start : start + 15] == [
        *("method", "hit@4", "queries"),
        *("fsearch", "0.312", "12,000"),
        *("image only", "–", "12,000"),
        *("odd", "–", "0"),
        *("tiny", "4.0e-05", "1"),
    ]
    assert page.classes("td") == ["number"] * 8  # and the first column, words, is not
    assert [header.get("scope") for header in page.all("th")] == ["col"] * 3 + ["row"] * 4
    assert page.classes("th") == ["", "number", "number", "", "", "", ""]
    assert [text for text in page.texts if text in ("Best", "Worst", "None hit.")] == ["Best", "Worst", "None hit."]
    assert len(page.all("figure")) == 9
    assert "strict: the reference is removed" in page.texts


def test_report_refuses_a_ragged_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 columns, but a row of 1"):
        save_report(tmp_path / "r.html", "t", {}, [Table("x", ["a", "b"], [[1]])], [])


def test_serving_needs_no_network_library_and_no_index() -> None:
    code = "import sys, retrieval.serving.report; print(*{'torch', 'faiss', 'pyarrow'} & set(sys.modules))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == ""
