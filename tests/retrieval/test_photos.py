"""Every kind of photo decodes to the right colours; everything else is a PhotoError with a short reason."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import BLUE, GREEN, RED, YELLOW, encode, quarters, smooth
from PIL import Image, ImageOps, features

from retrieval.photos import decode, letterbox, load


def pixels_of(content: bytes) -> np.ndarray:
    return np.asarray(decode(content).image)


# Formats and modes


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "MPO"])
def test_every_format_decodes_to_the_colours_it_was_made_of(format_: str) -> None:
    if format_ == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    decoded = decode(encode(quarters(), format_))
    assert (decoded.image.mode, decoded.image.size) == ("RGB", (48, 64))
    assert decoded[1:] == (48, 64, (0, 0, 48, 64))
    found = np.asarray(decoded.image).astype(int)
    for (y, x), colour in {(16, 12): RED, (16, 36): GREEN, (48, 12): BLUE, (48, 36): YELLOW}.items():
        assert np.abs(found[y, x] - colour).max() <= 8


def test_gray_one_bit_palette_and_gray_with_alpha() -> None:
    gray = quarters().convert("L")
    assert np.array_equal(pixels_of(encode(gray, "PNG")), np.repeat(np.asarray(gray)[..., None], 3, axis=2))
    bits = gray.convert("1")
    assert np.array_equal(pixels_of(encode(bits, "PNG"))[..., 0], np.asarray(bits) * np.uint8(255))
    palette = quarters().quantize(4)
    assert np.array_equal(pixels_of(encode(palette, "PNG")), np.asarray(palette.convert("RGB")))
    gray_alpha = Image.merge("LA", (gray, Image.new("L", gray.size, 0)))
    assert (pixels_of(encode(gray_alpha, "PNG")) == 255).all()


def test_alpha_is_composited_on_white() -> None:
    alpha = np.zeros((64, 48), np.uint8)
    alpha[:, :24] = 255
    alpha[:, 24:36] = 128
    rgba = quarters()
    rgba.putalpha(Image.fromarray(alpha))
    expected = np.asarray(quarters(), float) * (alpha / 255.0)[..., None] + 255 * (1 - alpha / 255.0)[..., None]
    for format_ in ("PNG", "TIFF"):
        assert np.abs(pixels_of(encode(rgba, format_)) - expected).max() <= 1


def test_transparency_kept_beside_the_pixels_is_white_too() -> None:
    palette = quarters().quantize(4)
    index = palette.getpixel((0, 0))
    for content in (
        encode(palette, "PNG", transparency=index),
        encode(palette, "GIF", transparency=index),
        encode(palette, "PNG", transparency=bytes(0 if i == index else 255 for i in range(4))),
        encode(quarters(), "PNG", transparency=RED),
    ):
        found = pixels_of(content)
        assert found[0, 0].tolist() == [255, 255, 255]
        assert np.abs(found[0, 47].astype(int) - GREEN).max() <= 3


def test_cmyk_of_adobe_is_inverted_in_the_file_and_not_in_the_picture() -> None:
    content = encode(quarters().convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in content
    assert Image.open(io.BytesIO(content)).mode == "CMYK"
    assert np.abs(pixels_of(content).astype(int) - np.asarray(quarters())).mean() < 4
    assert np.abs(pixels_of(encode(quarters().convert("CMYK"), "TIFF")).astype(int) - np.asarray(quarters())).max() <= 2


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_sixteen_bit_gray_is_scaled_not_clipped(format_: str) -> None:
    ramp = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(64, 48)
    found = pixels_of(encode(Image.fromarray(ramp), format_))
    assert np.array_equal(found[..., 0], (ramp // 256).astype(np.uint8))
    assert len(np.unique(found)) == 256  # clipping would leave half of it white


@pytest.mark.parametrize(("top", "full"), [(1.0, 1.0), (0.5, 1.0), (255.0, 255.0), (65535.0, 65535.0), (1e6, 1e6)])
def test_float_gray_is_scaled_by_its_full_scale(top: float, full: float) -> None:
    ramp = np.linspace(0, top, 64 * 48, dtype=np.float32).reshape(64, 48)
    found = pixels_of(encode(Image.fromarray(ramp), "TIFF"))[..., 0]
    assert np.abs(found - ramp.astype(float) * 255 / full).max() <= 0.51


def test_float_gray_with_nan_infinities_and_negatives_decodes() -> None:
    odd = np.array([[np.nan, np.inf], [-np.inf, 1.0], [-3.0, 0.5]], np.float32)
    assert pixels_of(encode(Image.fromarray(odd), "TIFF"))[..., 0].tolist() == [[0, 0], [0, 255], [0, 128]]


def test_animated_files_give_their_first_frame() -> None:
    later = [Image.new("RGB", (48, 64), BLUE), Image.new("RGB", (48, 64), GREEN)]
    for format_ in ("GIF", "PNG", "WEBP", "TIFF"):
        content = encode(quarters(), format_, save_all=True, append_images=later)
        assert Image.open(io.BytesIO(content)).n_frames == 3
        assert np.abs(pixels_of(content)[16, 12].astype(int) - RED).max() <= 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation(format_: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(quarters(), format_, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")  # the oracle
    decoded = decode(content)
    assert (decoded.width, decoded.height) == decoded.image.size == ((48, 64) if orientation < 5 else (64, 48))
    assert np.array_equal(np.asarray(decoded.image), np.asarray(upright))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_of_a_jpeg_decoded_at_reduced_scale(orientation: int) -> None:
    """1/8 of 603 x 805 is no whole number: the fraction must end up on the side that the turn sends it to."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(smooth(603, 805), "JPEG", quality=95, exif=exif)
    reduced, whole = decode(content, long_side=50), decode(content)
    assert reduced[1:3] == whole[1:3] == whole.image.size
    assert max(reduced.image.size) == 101
    box = reduced.box
    assert sorted((box[2] - box[0], box[3] - box[1])) == [603 / 8, 805 / 8]
    difference = np.abs(letterbox(whole.image, 50).astype(int) - load(content, 50).pixels)
    assert difference.mean() < 0.5
    assert difference.max() <= 8


def test_broken_exif_counts_as_upright() -> None:
    content = encode(quarters(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xfe" * 40)
    assert decode(content).image.size == (48, 64)
    exif = Image.Exif()
    exif[0x0112] = 77
    assert decode(encode(quarters(), "JPEG", exif=exif)).image.size == (48, 64)


@pytest.mark.parametrize("size", [(60, 80), (400, 533), (533, 400), (750, 1000), (1500, 2000), (2400, 300)])
def test_reduced_scale_never_falls_below_twice_the_long_side_and_keeps_the_quality(size: tuple[int, int]) -> None:
    content = encode(smooth(*size), "JPEG", quality=92)
    reduced = decode(content, long_side=96)
    assert reduced[1:3] == size
    reduction = max(s for s in (1, 2, 4, 8) if max(size) >= 192 * s or s == 1)
    assert reduced.image.size == tuple(-(-side // reduction) for side in size)
    scale = 96 / max(size)
    plain = decode(content).image.resize(tuple(round(n * scale) for n in size), Image.Resampling.BILINEAR)
    left, top = (96 - plain.width) // 2, (96 - plain.height) // 2
    found = load(content, 96).pixels[top : top + plain.height, left : left + plain.width]
    difference = np.abs(found.astype(int) - np.asarray(plain))
    assert difference.mean() < 0.6
    assert difference.max() <= 8


# Letterbox


def letterbox_oracle(image: np.ndarray, size: int) -> np.ndarray:
    """Antialiased bilinear by its definition: a triangle as wide as the reduction, one output pixel at a time."""

    def weights(n: int, m: int) -> np.ndarray:
        reach = max(1.0, n / m)
        centres = (np.arange(m)[:, None] + 0.5) * n / m
        triangle = np.maximum(0, 1 - np.abs(np.arange(n)[None] + 0.5 - centres) / reach)
        return triangle / triangle.sum(axis=1, keepdims=True)

    height, width = image.shape[:2]
    scale = size / max(height, width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    resized = np.einsum("ah,hwc,bw->abc", weights(height, h), image.astype(float), weights(width, w))
    out = np.zeros((size, size, 3))
    out[(size - h) // 2 : (size - h) // 2 + h, (size - w) // 2 : (size - w) // 2 + w] = resized
    return out


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_letterbox_equals_its_definition(height: int, width: int, size: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found = letterbox(image, size)
    assert (found.shape, found.dtype) == ((size, size, 3), np.uint8)
    assert found.flags.writeable
    assert found.flags.c_contiguous
    expected = letterbox_oracle(image, size)
    assert ((found == 0) | (expected > 0)).all()  # the same padding
    # on noise, the worst case: exact but for rounding where nothing is averaged in advance (both sides below 6 x)
    scale = size / max(height, width)
    reduction = max(side / max(1, round(side * scale)) for side in (height, width))
    assert np.abs(found - expected).max() <= (1.5 if reduction < 6 else 40)


def test_letterbox_averages_in_advance_only_where_a_smooth_picture_does_not_show_it() -> None:
    image = np.asarray(smooth(300, 400))
    assert np.abs(letterbox(image, 24) - letterbox_oracle(image, 24)).max() <= 4


def test_letterbox_centres_keeps_the_aspect_and_pads_with_zeros() -> None:
    white = np.full((40, 20, 3), 255, np.uint8)
    found = letterbox(white, 96)
    assert (found[:, 24:72] == 255).all()
    assert (found[:, :24] == 0).all()
    assert (found[:, 72:] == 0).all()
    line = letterbox(np.full((10_000, 1, 3), 255, np.uint8), 64)
    assert (line[:, 31] == 255).all()
    assert line.sum() == 64 * 3 * 255
    same = np.asarray(smooth(64, 64))
    assert np.array_equal(letterbox(same, 64), same)
    assert np.array_equal(letterbox(Image.fromarray(same), 32), letterbox(same, 32))


def test_letterbox_of_a_box_is_the_letterbox_of_the_crop() -> None:
    image = np.asarray(smooth(90, 120))
    boxed, cropped = letterbox(image, 48, (10, 20, 70, 110)), letterbox(image[20:110, 10:70], 48)
    assert np.array_equal(boxed[1:-1, 9:-9], cropped[1:-1, 9:-9])  # on its edges, pixels outside the box weigh in
    assert np.array_equal(boxed == 0, cropped == 0)


def test_load_is_decode_and_letterbox_from_a_file_bytes_or_a_call(tmp_path: Path) -> None:
    content = encode(quarters(60, 80), "PNG")
    (tmp_path / "a photo ü.png").write_bytes(content)
    expected = letterbox(quarters(60, 80), 96)
    for source in (tmp_path / "a photo ü.png", content, lambda: content):
        loaded = load(source, 96)
        assert np.array_equal(loaded.pixels, expected)
        assert loaded[1:] == (60, 80)
