"""What is no photo is a PhotoError with a short reason; nothing else is raised, warned of or left open."""

from __future__ import annotations

import os
import struct
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encode, quarters, smooth
from PIL import Image

from index.errors import InputError, PhotoError
from retrieval import photos
from retrieval.photos import Limits, decode, letterbox, load


def reason(source: photos.Source, limits: Limits = photos.LIMITS) -> str:
    with pytest.raises(PhotoError) as caught:
        decode(source, limits)
    assert "\n" not in str(caught.value)
    assert len(caught.value.reason) < 130
    return caught.value.reason


# What is refused, and why


def test_files_that_are_no_photos(tmp_path: Path) -> None:
    assert reason(tmp_path / "gone.jpg") == "no such file"
    assert reason(tmp_path) == "a folder, not a photo"
    (tmp_path / "empty.jpg").touch()
    assert reason(tmp_path / "empty.jpg") == "empty file"
    assert reason(b"") == "empty file"
    (tmp_path / "text.jpg").write_text("id,color\n1,red\n")
    assert reason(tmp_path / "text.jpg").startswith("not an image of a known format (JPEG, PNG")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    assert reason(tmp_path / "loop.jpg").startswith("cannot be read (")
    assert reason(Path("a\0b.jpg")).startswith("cannot be read (")
    with pytest.raises(InputError, match=r"gone\.jpg: no such file"):
        decode(tmp_path / "gone.jpg")


def test_a_named_pipe_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "pipe.jpg") == "not a regular file"


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.jpg"
    path.write_bytes(encode(quarters(), "JPEG"))
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything: let the system call refuse

        def refuse(*args: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(photos.os, "open", refuse)
    assert reason(path) == "permission denied"


def test_format_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    (tmp_path / "really.png").write_bytes(encode(quarters(), "JPEG"))
    assert decode(tmp_path / "really.png").image.size == (48, 64)
    only_png = Limits(formats=("PNG",))
    assert reason(tmp_path / "really.png", only_png) == "not an image of a known format (PNG)"
    assert reason(encode(quarters(), "PPM")).startswith("not an image of a known format")
    assert decode(encode(quarters(), "PNG"), Limits(formats=("NOSUCH", "PNG"))).image.size == (48, 64)


def test_byte_limit_is_applied_before_reading(tmp_path: Path) -> None:
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.truncate(2**36)  # sparse: reading it would not fit in memory
    assert reason(tmp_path / "huge.jpg") == "68,719,476,736 bytes, more than the limit of 67,108,864"
    content = encode(quarters(), "PNG")
    assert decode(content, Limits(max_bytes=len(content))).width == 48
    assert "more than the limit" in reason(content, Limits(max_bytes=len(content) - 1))


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + end


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (12_000, 12_000), (1, 2**31 - 1)])
def test_pixel_limit_is_applied_before_decoding(width: int, height: int) -> None:
    text = reason(png_header(width, height))
    assert "pixels" in text
    assert "the limit of 128,000,000" in text


def test_pixel_limit_is_exact() -> None:
    content = encode(quarters(), "PNG")
    assert decode(content, Limits(max_pixels=48 * 64)).width == 48
    assert reason(content, Limits(max_pixels=48 * 64 - 1)) == "48 x 64 pixels, more than the limit of 3,071"


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files_are_refused_wherever_they_end(format_: str) -> None:
    content = encode(smooth(96, 128), format_)
    for part in (0.3, 0.6, 0.9):
        text = reason(content[: int(len(content) * part)])
        assert text.startswith(("truncated", "damaged")), text
    assert reason(content[:14]).startswith(
        (f"damaged or truncated {format_} header", "not an image", "damaged", "trunc")
    )


REAL = [
    encode(smooth(40, 52), "JPEG", quality=80),
    encode(smooth(40, 52).convert("CMYK"), "JPEG", quality=80),
    encode(smooth(40, 52), "JPEG", quality=80, progressive=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03"),
    encode(smooth(24, 32), "PNG"),
    encode(smooth(24, 32).quantize(16), "PNG", transparency=3),
    encode(smooth(24, 32), "WEBP"),
    encode(smooth(24, 32), "GIF", save_all=True, append_images=[quarters(24, 32)]),
    encode(smooth(24, 32), "BMP"),
    encode(smooth(24, 32), "TIFF", compression="tiff_lzw"),
    encode(Image.fromarray(np.arange(768, dtype=np.uint16).reshape(32, 24) * 80), "TIFF"),
]


def survives(content: bytes) -> None:
    """Decodes to an RGB image within the limits, or raises PhotoError."""
    limits = Limits(max_pixels=1_000_000)
    for long_side in (None, 8):
        try:
            decoded = decode(content, limits, long_side)
        except PhotoError as error:
            found = error.reason
        else:
            found = "decoded"
            assert decoded.image.mode == "RGB"
            assert 0 < decoded.width * decoded.height <= limits.max_pixels
            assert letterbox(decoded.image, 8, decoded.box).shape == (8, 8, 3)
        assert found
        assert "\n" not in found


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([b"", *(content[:12] for content in REAL)]), st.binary(max_size=300))
def test_random_bytes_never_raise_anything_but_photo_error(start: bytes, rest: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        survives(start + rest)


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_damaged_photos_never_raise_anything_but_photo_error(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(REAL)))
    # headers and chunk lengths sit at the start: half the damage goes there
    places = st.integers(0, len(content) - 1) | st.integers(0, min(200, len(content) - 1))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)):
        content[place] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        survives(bytes(content[: data.draw(st.integers(1, len(content)))] if data.draw(st.booleans()) else content))


# Manners


def test_no_warning_leaks_and_everybody_elses_filters_stay(capfd: pytest.CaptureFixture[str]) -> None:
    noisy = [
        encode(quarters(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0" + b"\x12\x01\x03\0" * 3),  # corrupt EXIF
        png_header(10_000, 9_900),  # within our limit, beyond the size at which Pillow warns
        b"\0\0\0\x20ftypavif" + bytes(40),
        encode(quarters(), "TIFF", compression="tiff_deflate").replace(b"\x78\x9c", b"\x78\x9d"),  # libtiff prints
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        for content in noisy:
            survives(content)
            with pytest.raises(PhotoError, match="."):
                decode(content, Limits(max_pixels=100_000_000, formats=("PNG",)) if content is noisy[1] else Limits(1))
        assert warnings.filters == before
        assert [str(w.message) for w in caught] == []
        warnings.warn("somebody else's", stacklevel=1)
        assert len(caught) == 1
    assert capfd.readouterr() == ("", "")


def test_many_threads_decode_at_once_and_leave_no_filter_behind() -> None:
    contents = [encode(smooth(60 + n, 80), "JPEG", quality=90) for n in range(8)] + [REAL[0][:200], b"junk"]
    before = list(warnings.filters)

    def one(content: bytes) -> bytes:
        try:
            return load(content, 32).pixels.tobytes()
        except PhotoError as error:
            return error.reason.encode()

    alone = [one(content) for content in contents]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(one, contents * 20)) == alone * 20
    finally:
        sys.setswitchinterval(interval)
    assert list(warnings.filters) == before
    assert threading.active_count() < 20


def test_no_file_handle_leaks(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files are counted through /proc")
    for n, content in enumerate([*REAL, REAL[0][:300], b"junk", b""]):
        (tmp_path / f"{n}.jpg").write_bytes(content)
    before = len(os.listdir("/proc/self/fd"))
    kept = []
    for path in sorted(tmp_path.iterdir()):
        try:
            kept.append(decode(path))
        except PhotoError as error:
            kept.append(error)
    assert len(os.listdir("/proc/self/fd")) == before
    assert sum(isinstance(item, photos.Decoded) for item in kept) == len(REAL)
