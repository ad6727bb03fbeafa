"""Every layout is listed in a stable order with its labels; what makes a listing unusable is one line."""

from __future__ import annotations

import io
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from index.errors import InputError, PhotoError
from retrieval.datasets.readers import NO_PHOTO, SUFFIXES, PhotoSource, open_photos
from retrieval.datasets.records import Missing, Photo, RowBytes
from retrieval.photos import decode


def png(shade: int = 0) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (3, 4), (shade % 256, shade // 256, 0)).save(out, "PNG")
    return out.getvalue()


def fill(root: Path, *paths: str) -> Path:
    for shade, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(shade))
    return root


def complaint(root: Path, labels: Path | None = None) -> str:
    with pytest.raises(InputError) as caught:
        open_photos(root, labels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ids(source: PhotoSource) -> list[str]:
    return [photo.id for photo in source]


# A folder


def test_a_folder_is_read_recursively_in_path_order(tmp_path: Path) -> None:
    fill(tmp_path, "b/2.PNG", "a b/ü 1.jpeg", "z.Jpg", "b/c/d/3.tiff", "服装/裙子.webp")
    fill(tmp_path, ".hidden.jpg", ".git/x.png", "b/.t/y.png")
    (tmp_path / "README").write_text("not a photo")
    (tmp_path / "labels.csv").write_text("id,color\n1,red\n")
    (tmp_path / "b/garbage.jpg").write_text("listed here, rejected later")
    (tmp_path / "folder.jpg").mkdir()
    source = open_photos(tmp_path)
    found = list(source)
    assert len(source) == len(found) == 6
    assert found[0] == Photo("a b/ü 1.jpeg", "a b/ü 1.jpeg", tmp_path / "a b/ü 1.jpeg", {})
    assert found[-1] == Photo("服装/裙子.webp", "服装/裙子.webp", tmp_path / "服装/裙子.webp", {})
    assert [photo.path for photo in found] == sorted(photo.path for photo in found)
    assert "b/garbage.jpg" in ids(source)
    assert source.missing == ()
    assert source.attributes == ()
    assert decode(found[0].source).width == 3
    assert [photo.id for photo in source.photos(start=4)] == ids(source)[4:]
    assert list(source) == found


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_known_suffix_in_any_case(tmp_path: Path, suffix: str) -> None:
    fill(tmp_path, f"a{suffix}", f"b{suffix.upper()}", "c.txt", "nosuffix")
    assert ids(open_photos(tmp_path)) == [f"a{suffix}", f"b{suffix.upper()}"]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    fill(tmp_path / "shop", "a/1.jpg")
    fill(tmp_path / "elsewhere", "2.jpg")
    (tmp_path / "shop/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "shop/a/up").symlink_to(tmp_path / "shop")
    (tmp_path / "shop/self").symlink_to(tmp_path / "shop/self")
    (tmp_path / "shop/self.jpg").symlink_to(tmp_path / "shop/self.jpg")
    (tmp_path / "shop/dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    source = open_photos(tmp_path / "shop")
    assert ids(source) == ["a/1.jpg", "dangling.jpg", "linked/2.jpg", "self.jpg"]
    with pytest.raises(PhotoError):
        decode(next(photo.source for photo in source if photo.id == "self.jpg"))


def test_names_not_in_utf8_and_closed_folders_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "good.jpg", "closed/1.jpg")
    try:
        with open(os.path.join(os.fsencode(tmp_path), b"bad\xff.jpg"), "wb") as file:
            file.write(png())
    except OSError:
        pytest.skip("this file system has text names only")
    real = os.scandir

    def scandir(path: Path) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("retrieval.datasets.readers.os.scandir", scandir)
    source = open_photos(tmp_path)
    assert ids(source) == ["good.jpg"]
    assert source.missing == (
        Missing("", "bad\\xff.jpg", "its name is not UTF-8; rename it"),
        Missing("", "closed", "a folder that cannot be listed (Permission denied)"),
    )


def test_fingerprint_follows_the_listing_and_not_its_place(tmp_path: Path) -> None:
    fill(tmp_path / "one", "a.jpg", "b/c.jpg")
    (tmp_path / "labels.csv").write_text("id,color\na,red\nc,blue\n")

    def print_of(root: str = "one", labels: bool = False) -> str:
        return open_photos(tmp_path / root, tmp_path / "labels.csv" if labels else None).fingerprint()

    first, labelled = print_of(), print_of(labels=True)
    assert len(first) == 64
    assert first != labelled
    (tmp_path / "one").rename(tmp_path / "two")
    assert print_of("two") == first
    (tmp_path / "labels.csv").write_text("id,color\na,red\nc,green\n")
    assert print_of("two", labels=True) != labelled
    os.utime(tmp_path / "two/a.jpg", ns=(1, 1))
    touched = print_of("two")
    (tmp_path / "two/a.jpg").write_bytes(png() + b"\0")
    os.utime(tmp_path / "two/a.jpg", ns=(1, 1))
    grown = print_of("two")
    fill(tmp_path / "two", "d.jpg")
    assert len({first, touched, grown, print_of("two")}) == 4


# Labels


def test_labels_csv_beside_photos(tmp_path: Path) -> None:
    fill(tmp_path, "photos/0012.jpg", "photos/sub/7.PNG", "photos/extra.jpg", "outside.jpg")
    (tmp_path / "labels.csv").write_bytes(
        b"\xef\xbb\xbfid,color,title,empty\r\n"
        b'7, Grey ,"a ""red"", dress\r\non two lines",\r\n0012,,NA,\r\n99,red,null,\r\n'
    )
    source = open_photos(tmp_path)
    assert list(source) == [
        Photo("0012", "photos/0012.jpg", tmp_path / "photos/0012.jpg", {"color": None, "title": "NA", "empty": None}),
        Photo("extra", "photos/extra.jpg", tmp_path / "photos/extra.jpg", dict.fromkeys(("color", "title", "empty"))),
        Photo(
            "7",
            "photos/sub/7.PNG",
            tmp_path / "photos/sub/7.PNG",
            {"color": "Grey", "title": 'a "red", dress\r\non two lines', "empty": None},
        ),
    ]
    assert len(source) == 3
    assert source.attributes == ("color", "title", "empty")
    assert source.missing == (Missing("99", "", NO_PHOTO),)
    assert NO_PHOTO == "labelled, but no photo"


def test_a_folder_joined_by_id_from_a_file_elsewhere(tmp_path: Path) -> None:
    fill(tmp_path / "photos", "0012.jpg", "b.c.jpg", "ungelabelt.jpg")
    labels = tmp_path / "elsewhere.csv"
    labels.write_text("color,id\nred,b.c\nblue,0012\n")
    source = open_photos(tmp_path / "photos", labels)
    assert [(p.id, p.path, p.attributes["color"]) for p in source] == [
        ("0012", "0012.jpg", "blue"),
        ("b.c", "b.c.jpg", "red"),
        ("ungelabelt", "ungelabelt.jpg", None),
    ]
    table = pa.table({"id": pa.array(["0012", "b.c"]), "price": [3, None]})
    pq.write_table(table, tmp_path / "labels.parquet")
    assert [p.attributes for p in open_photos(tmp_path / "photos", tmp_path / "labels.parquet")][0] == {"price": "3"}


def test_a_folder_joined_by_path(tmp_path: Path) -> None:
    fill(tmp_path / "photos", "a/1.jpg", "b/1.jpg", "b/2.jpg", "raw")
    labels = tmp_path / "labels.csv"
    labels.write_text(
        f"path,id,color\n./b//1.jpg,second,red\n{tmp_path}/photos/a/1.jpg,first,blue\nraw,third,gray\nb/9.jpg,ninth,x\n"
    )
    source = open_photos(tmp_path / "photos", labels)
    assert [(p.id, p.path, p.attributes) for p in source] == [
        ("first", "a/1.jpg", {"color": "blue"}),
        ("second", "b/1.jpg", {"color": "red"}),
        ("b/2.jpg", "b/2.jpg", {"color": None}),
        ("third", "raw", {"color": "gray"}),
    ]
    assert source.missing == (Missing("ninth", "b/9.jpg", NO_PHOTO),)
    labels.write_text("path\na/1.jpg\n")
    assert ids(open_photos(tmp_path / "photos", labels)) == ["a/1.jpg", "b/1.jpg", "b/2.jpg"]


def test_accents_join_however_they_are_written(tmp_path: Path) -> None:
    fill(tmp_path / "photos", "robe e\u0301te\u0301.jpg")
    (tmp_path / "labels.csv").write_text("id,color\nrobe \u00e9t\u00e9,red\n", encoding="utf-8")
    (found,) = open_photos(tmp_path)
    assert (found.id, found.attributes) == ("robe \u00e9t\u00e9", {"color": "red"})
    assert decode(found.source).width == 3


def test_labels_at_fault(tmp_path: Path) -> None:
    fill(tmp_path / "photos", "1.jpg", "2.jpg")
    labels = tmp_path / "labels.csv"

    def after(content: str | bytes) -> str:
        labels.write_bytes(content if isinstance(content, bytes) else content.encode())
        return complaint(tmp_path)

    assert after('id,t\n1,a\n2,"x\ny"\n\n1,c\n3,d\n3,e\n') == (
        f"{labels}: 2 values of id appear more than once: '1' at lines 2, 6; '3' at lines 7, 8; make them unique"
    )
    assert after("id,t\n1,a\n,b\n").startswith(f"{labels}: 1 rows have no id (lines 3)")
    assert after("name,color\n1,a\n") == f"{labels}: no column id or path; it has name, color"
    assert "Expected 2 columns, got 3" in after("id,t\n1,a\n2,b,c\n")
    assert "#3" in after("id,t\n1,a\n2,b,c\n")
    assert after(b"id,t\n1,caf\xe9\n") == f"{labels}: not UTF-8 text; save it as UTF-8 CSV"
    assert after("id,t\n1,a\n".encode("utf-16")) == f"{labels}: not UTF-8 text; save it as UTF-8 CSV"
    assert after("").startswith(f"{labels}: not a readable CSV (Empty CSV file")
    assert after("id,t\n") == f"{labels}: no rows in it; nothing to list"
    assert after("id,t,t\n1,a,b\n").startswith(f"{labels}: two columns have one name")
    assert "no row belongs to a photo (first id: '1.jpg'; first photo: '1')" in after("id,t\n1.jpg,a\n")
    assert "1 values of path appear more than once" in after("path,t\nphotos/1.jpg,a\n./photos/1.jpg,b\n")
    labels.unlink()
    assert complaint(tmp_path / "photos", labels) == f"{labels}: no such file"
    assert complaint(tmp_path / "photos", tmp_path) == f"{tmp_path}: not a file"


def test_two_photos_of_one_id_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "photos", "a/1.jpg", "b/1.png", "2.jpg")
    (tmp_path / "labels.csv").write_text("id,t\n1,x\n")
    text = complaint(tmp_path)
    assert "1 photos share an id: photos/a/1.jpg and photos/b/1.png are both '1'" in text


def test_folders_at_fault(tmp_path: Path) -> None:
    assert complaint(tmp_path / "gone").startswith(f"{tmp_path / 'gone'}: no such folder or file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/readme.txt").touch()
    assert complaint(tmp_path / "empty").startswith(f"{tmp_path / 'empty'}: no photos in it")
    (tmp_path / "labels.csv").write_text("id\n1\n")
    assert complaint(tmp_path / "empty", tmp_path / "labels.csv").startswith(f"{tmp_path / 'empty'}: no photos in it")
    (tmp_path / "photo.jpg").write_bytes(png())
    assert "neither a folder nor a .csv or .parquet file" in complaint(tmp_path / "photo.jpg")
    assert "holds its own columns" in complaint(tmp_path / "labels.csv", tmp_path / "labels.csv")
    assert "cannot be read" in complaint(Path("a\0b")) or "no such folder" in complaint(Path("a\0b"))


# Lists


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_that_lists_paths(tmp_path: Path, kind: str) -> None:
    fill(tmp_path, "lists/in/2.jpg", "elsewhere/1.jpg")
    paths = ["in/2.jpg", str(tmp_path / "elsewhere/1.jpg"), "gone.jpg"]
    file = tmp_path / f"lists/photos.{kind}"

    def write(columns: dict[str, list[str | None]]) -> PhotoSource:
        if kind == "csv":
            rows = [",".join(columns), *(",".join(v or "" for v in row) for row in zip(*columns.values(), strict=True))]
            file.write_text("\n".join(rows))
        else:
            pq.write_table(pa.table({name: pa.array(v, pa.string()) for name, v in columns.items()}), file)
        return open_photos(file)

    source = write({"color": ["red", None, "blue"], "path": paths, "id": ["007", "b", "a"]})
    assert list(source) == [
        Photo("007", "in/2.jpg", tmp_path / "lists/in/2.jpg", {"color": "red"}),
        Photo("b", paths[1], tmp_path / "elsewhere/1.jpg", {"color": None}),
        Photo("a", "gone.jpg", tmp_path / "lists/gone.jpg", {"color": "blue"}),
    ]
    assert [decode(photo.source).width for photo in list(source)[:2]] == [3, 3]
    assert len(source.fingerprint()) == 64
    assert ids(write({"path": paths})) == paths
    with pytest.raises(InputError, match=r"'x' at (lines 2, 4|rows 0, 2); make them unique"):
        write({"path": paths, "id": ["x", "y", "x"]})
    with pytest.raises(InputError, match=r"1 rows have no path \((lines 3|rows 1)\)"):
        write({"path": ["a", None], "id": ["x", "y"]})
    with pytest.raises(InputError, match=r"no column path.*it has id, color; to label a folder"):
        write({"id": ["x"], "color": ["red"]})


# Parquet with image bytes


@pytest.mark.parametrize("column", ["image", "bytes"])
def test_a_parquet_with_bytes(tmp_path: Path, column: str) -> None:
    file = tmp_path / "photos.parquet"
    count = 103
    table = pa.table(
        {
            "id": [f"{n:04d}" for n in range(count)],
            column: pa.array([png(n) if n != 50 else None for n in range(count)], pa.binary()),
            "color": pa.array(["red", None] * 51 + ["blue"]).dictionary_encode(),
            "price": pa.array(range(count)),
            "tags": [["a"]] * count,
        }
    )
    pq.write_table(table, file, row_group_size=40)
    source = open_photos(file)
    found = list(source)
    assert len(source) == len(found) == count
    assert found[0] == Photo("0000", "", RowBytes(file, column, 0), {"color": "red", "price": "0"})
    assert found[-1] == Photo("0102", "", RowBytes(file, column, 102), {"color": "blue", "price": "102"})

    def shade(photo: Photo) -> int:
        red, green, _ = decode(photo.source).image.getpixel((0, 0))
        return red + 256 * green

    readable = [n for n in range(count) if n != 50]
    assert [shade(found[n]) for n in readable] == readable
    jumbled = np.random.default_rng(0).permutation(readable).tolist()
    assert [shade(found[n]) for n in jumbled] == jumbled
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(shade, [found[n] for n in readable])) == readable
    assert pickle.loads(pickle.dumps(found[7])) == found[7]
    with pytest.raises(PhotoError, match="row 50 holds no image bytes"):
        decode(found[50].source)
    assert [photo.source.row for photo in source.photos(start=100)] == [100, 101, 102]  # type: ignore[union-attr]
    before = source.fingerprint()
    os.utime(file, ns=(1, 1))
    assert source.fingerprint() != before


def test_a_hugging_face_parquet(tmp_path: Path) -> None:
    file = tmp_path / "train-00000.parquet"
    images = [{"bytes": png(n), "path": f"{n}.png"} for n in range(40)]
    label = {"names": ["Shoes", "Dress"], "_type": "ClassLabel"}
    kinds = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    table = pa.table({"image": images, "label": [n % 3 - 1 for n in range(40)]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(kinds)}), file)
    found = list(open_photos(file))
    assert [photo.id for photo in found] == [f"{n}.png" for n in range(40)]
    assert [photo.attributes["label"] for photo in found[:3]] == [None, "Shoes", "Dress"]
    assert [decode(photo.source).image.getpixel((0, 0))[0] for photo in found] == list(range(40))
    for row in images:
        row["path"] = None
    pq.write_table(pa.table({"image": images}), file)
    found = list(open_photos(file))
    assert (found[0].id, found[-1].id) == ("train-00000.parquet#0", "train-00000.parquet#39")
    assert found[-1].source() == png(39)  # type: ignore[operator]


def test_bytes_are_streamed_and_listing_reads_none(tmp_path: Path) -> None:
    """One row group of 32 MB: neither the listing nor the reading in order may hold more than a few images of it."""
    file = tmp_path / "one_group.parquet"
    rng = np.random.default_rng(0)
    images = [rng.bytes(64 * 1024) for _ in range(500)]
    pq.write_table(
        pa.table({"id": [str(n) for n in range(500)], "image": images}), file, compression="none", write_batch_size=8
    )
    most = 0
    before = pa.total_allocated_bytes()
    photos = list(open_photos(file))
    assert pa.total_allocated_bytes() - before < 2**20
    for photo, image in zip(photos, images, strict=True):
        assert photo.source() == image  # type: ignore[operator]
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 6 * 2**20


def test_parquet_at_fault(tmp_path: Path) -> None:
    file = tmp_path / "photos.parquet"
    file.write_text("no parquet")
    assert complaint(file).startswith(f"{file}: not a readable Parquet file")
    file.write_bytes(b"")
    assert complaint(file).startswith(f"{file}: not a readable Parquet file")
    pq.write_table(pa.table({"img": [b"1"], "color": ["red"]}), file)
    assert complaint(file) == f"{file}: no column path, or of image bytes; it has color"
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), file)
    assert complaint(file) == f"{file}: no rows in it; nothing to list"
    pq.write_table(pa.table({"id": ["a", "b"], "image": [png(0), png(1)]}), file, compression="zstd")
    photos = list(open_photos(file))
    column = pq.ParquetFile(file).metadata.row_group(0).column(1)
    content = bytearray(file.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    file.write_bytes(content)
    os.utime(file, ns=(1, 1))
    with pytest.raises(PhotoError, match="row 1 cannot be read"):
        decode(photos[1].source)
    file.unlink()
    with pytest.raises(PhotoError, match="row 0 cannot be read"):
        decode(photos[0].source)


def test_labels_name_no_photo_outside_the_folder(tmp_path: Path) -> None:
    fill(tmp_path, "in/a.jpg", "out/o.jpg", "out/p.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text(f"path,color\na.jpg,red\n{tmp_path}/out/o.jpg,blue\n../out/p.jpg,green\n")
    source = open_photos(tmp_path / "in", labels)
    assert ids(source) == ["a.jpg"]
    assert len(source.missing) == 2


def test_a_quotation_mark_that_is_never_closed_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    labels = tmp_path / "labels.csv"
    labels.write_text('id,color\na,red\nb,"blue\nc,green\n')
    assert "a quotation mark of line 3 is never closed" in complaint(tmp_path, labels)
    labels.write_text('id,size\na,12" wide\nb,"9"" wide"\nc,1\n')  # an odd number of them, and all of them closed
    assert open_photos(tmp_path, labels).rows["size"].to_pylist() == ['12" wide', '9" wide', "1"]
