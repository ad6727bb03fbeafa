"""Photos in: bytes of any common image format -> one upright RGB picture -> the letterbox every model sees.

Whatever is wrong with a photo raises :class:`index.errors.PhotoError` with a short reason, and nothing else, so a run
over millions of photos can count and go on. Limits are applied before work is done: the byte limit before the file is
read, the pixel limit after its header and before its pixels are decoded.

Colours are taken as sRGB; embedded ICC profiles are not applied.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from index.errors import PhotoError

Pixels: TypeAlias = npt.NDArray[np.uint8]
Source: TypeAlias = Path | bytes | Callable[[], bytes]
"""Where a photo is: a file, its encoded bytes, or a call that fetches the bytes (or raises PhotoError)."""
Box: TypeAlias = tuple[float, float, float, float]
"""left, top, right, bottom in pixels of the image it is for."""


@dataclass(frozen=True)
class Limits:
    """What is accepted. ``max_pixels`` cannot lift Pillow's own ceiling (twice ``Image.MAX_IMAGE_PIXELS``, 179 MP)."""

    max_bytes: int = 64 * 2**20
    max_pixels: int = 128_000_000  # holds a 108 megapixel phone photo
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # told by content, never by name


LIMITS = Limits()


class Decoded(NamedTuple):
    """An upright RGB image, perhaps decoded at a reduced scale, and the photo's true upright size in pixels.

    ``box`` is the part of ``image`` that the photo covers: all of it, but for a fraction of the last row or column when
    the reduced scale does not divide the size (1500 / 8 = 187.5 columns in 188).
    """

    image: Image.Image
    width: int
    height: int
    box: Box


class Loaded(NamedTuple):
    """Letterboxed pixels, np.uint8 (size, size, 3) RGB, and the photo's true upright size in pixels."""

    pixels: Pixels
    width: int
    height: int


def load(source: Source, size: int, limits: Limits = LIMITS) -> Loaded:
    """Decode and letterbox: the whole way from a photo to what training, embedding and queries feed the network.

    One core does 2,000 to 2,800 JPEGs of 60 x 80 a second into size 96, and 200 of 1500 x 2000.
    Raises PhotoError.
    """
    decoded = decode(source, limits, long_side=size)
    return Loaded(letterbox(decoded.image, size, decoded.box), decoded.width, decoded.height)


def source_of(photo: Any) -> Any:
    """A path, bytes, PIL image or None -> what ``decode`` takes (an image is encoded without loss)."""
    if photo is None or isinstance(photo, bytes):
        return photo
    if isinstance(photo, str | Path):
        return Path(photo)
    content = BytesIO()
    photo.save(content, "PNG")
    return content.getvalue()


def clipped(box: Box, width: int, height: int, where: str = "") -> tuple[int, int, int, int]:
    """The whole pixels of a photo that a box left, top, width, height touches, in the same form.

    What of it lies outside the photo is left off; PhotoError where nothing is left.
    """
    left, top = max(math.floor(box[0]), 0), max(math.floor(box[1]), 0)
    right, bottom = min(math.ceil(box[0] + box[2]), width), min(math.ceil(box[1] + box[3]), height)
    if right <= left or bottom <= top:
        said = ", ".join(f"{side:g}" for side in box)
        raise PhotoError(f"box ({said}) holds nothing of {width} x {height} pixels; x, y, w, h lie within them", where)
    return left, top, right - left, bottom - top


def letterbox(image: Image.Image | Pixels, size: int, box: Box | None = None) -> Pixels:
    """Long side to ``size`` (antialiased bilinear), aspect ratio kept, centred, zeros around.

    image: RGB, a PIL image or np.uint8 (H, W, 3). box: the part of it to take (default all), such as a detector's.
    Returns np.uint8 (size, size, 3), C-contiguous and writable. A side never shrinks below one pixel, so a 1 x 10000
    photo still leaves a line.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    left, top, right, bottom = box or (0, 0, *picture.size)
    scale = size / max(right - left, bottom - top)
    width, height = (max(1, round(side * scale)) for side in (right - left, bottom - top))
    if (width, height) != picture.size or box is not None:
        gap = 3.0 if scale < 1 else None  # first a cheap box average, to 3 x the size: no more than 1 level off
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, box, reducing_gap=gap)
    out = np.zeros((size, size, 3), np.uint8)
    y, x = (size - height) // 2, (size - width) // 2
    out[y : y + height, x : x + width] = np.asarray(picture)
    return out


def decode(source: Source, limits: Limits = LIMITS, long_side: int | None = None) -> Decoded:
    """Any accepted photo as upright 8-bit RGB: EXIF rotation applied, first frame, transparency over white.

    16-bit and float grays are scaled into 0..255, not clipped. With ``long_side``, a JPEG is decoded at 1/2, 1/4 or 1/8
    of its size, the smallest that keeps its long side at least 2 x ``long_side``; the true size is returned either way.
    Safe to call from many threads. Raises PhotoError and nothing else, whatever the bytes are.
    """
    where = str(source) if isinstance(source, Path) else ""
    content = fetch(source, limits, where)
    try:
        with _quiet_pillow(), _identify(content, limits) as image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise PhotoError(f"{width} x {height} pixels, more than the limit of {limits.max_pixels:,}")
            covered = None
            if long_side is not None and image.format in ("JPEG", "MPO") and 4 * long_side <= max(width, height):
                # draft() takes the largest reduction that still covers the size it is given
                ratio = 2 * long_side / max(width, height)
                drafted = image.draft(image.mode, (max(1, int(width * ratio)), max(1, int(height * ratio))))
                covered = drafted[1][2:] if drafted else None
            image.load()
            if covered is None:  # some formats find their size only now
                width, height = covered = image.size
            orientation = _orientation(image)
            rgb = _to_rgb(image)
            if orientation in _TURNS:
                rgb = rgb.transpose(_TURNS[orientation])
                if orientation >= 5:
                    width, height, covered = height, width, covered[::-1]
            # what was not covered lay at the right and the bottom; the turn may have brought it to the left or the top
            x = rgb.width - covered[0] if orientation in (2, 3, 6, 7) else 0
            y = rgb.height - covered[1] if orientation in (3, 4, 7, 8) else 0
            return Decoded(rgb, width, height, (x, y, x + covered[0], y + covered[1]))
    except PhotoError as error:
        raise PhotoError(error.reason, where) from None
    except Image.DecompressionBombError:
        ceiling = min(limits.max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or limits.max_pixels))
        raise PhotoError(f"more pixels than the limit of {ceiling:,}", where) from None
    except MemoryError:
        raise PhotoError("too large to decode in memory", where) from None
    except Exception as error:  # a decoder may raise anything at hostile bytes: struct.error, KeyError, SyntaxError ...
        text = " ".join(str(error).split())
        reason = "truncated" if "truncated" in text.lower() else f"damaged ({text[:80] or type(error).__name__})"
        raise PhotoError(reason, where) from None


def fetch(source: Source, limits: Limits = LIMITS, where: str = "") -> bytes:
    """The encoded bytes, refused before they are read where a file's size already says so. Raises PhotoError."""
    if isinstance(source, Path):
        try:
            with open(source, "rb", buffering=0, opener=_open_without_waiting) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise PhotoError("not a regular file", where)
                _check_bytes(status.st_size, limits, where)
                content = file.read(status.st_size) or b""
        except IsADirectoryError:
            raise PhotoError("a folder, not a photo", where) from None
        except FileNotFoundError:
            raise PhotoError("no such file", where) from None
        except PermissionError:
            raise PhotoError("permission denied", where) from None
        except (OSError, ValueError) as error:  # ValueError: a path with a null byte
            text = error.strerror if isinstance(error, OSError) else str(error)
            raise PhotoError(f"cannot be read ({text})", where) from None
    else:
        content = source if isinstance(source, bytes) else source()
    _check_bytes(len(content), limits, where)
    return content


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a named pipe would else wait for its writer for ever


def _check_bytes(count: int, limits: Limits, where: str) -> None:
    if count == 0:
        raise PhotoError("empty file", where)
    if count > limits.max_bytes:
        raise PhotoError(f"{count:,} bytes, more than the limit of {limits.max_bytes:,}", where)


def _identify(content: bytes, limits: Limits) -> Image.Image:
    """Pillow's lazy image of an accepted format, header read, no pixel decoded."""
    try:
        return Image.open(BytesIO(content), formats=limits.formats)
    except KeyError:  # a format that this Pillow was built without
        known = tuple(name for name in limits.formats if name in Image.OPEN)
        return _identify(content, Limits(limits.max_bytes, limits.max_pixels, known))
    except UnidentifiedImageError:
        for name in limits.formats:
            accept = Image.OPEN[name][1] if name in Image.OPEN else None
            if accept is not None and accept(content[:16]) is True:
                raise PhotoError(f"damaged or truncated {name} header") from None
        raise PhotoError(f"not an image of a known format ({', '.join(limits.formats)})") from None


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8. Broken EXIF data says nothing about the pixels, so it counts as upright."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # hostile EXIF raises as freely as hostile pixels do
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Mode RGB from every mode that Pillow decodes to."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode[0] in "IF":  # I;16 in its byte orders, I, F: Pillow's own convert() clips these at 255
        return Image.fromarray(_scale_to_bytes(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")


def _scale_to_bytes(gray: npt.NDArray[Any]) -> Pixels:
    """(H, W) integers or floats -> np.uint8, by the full scale of the type: 16 bits, else the least of 1, 255, 65535 or
    the maximum itself that holds every value (TIFF does not say what its wide samples mean)."""
    if gray.dtype.itemsize == 2:
        return (gray.astype(np.uint16) >> 8).astype(np.uint8)
    values = np.clip(np.nan_to_num(gray.astype(np.float64), posinf=0.0, neginf=0.0), 0, None)
    top = float(values.max())
    scales = (1.0, 255.0, 65535.0) if gray.dtype.kind == "f" else (255.0, 65535.0)
    full = next((scale for scale in scales if top <= scale), top)
    return np.rint(values * (255.0 / full)).astype(np.uint8)


def _mute_libtiff() -> None:
    """libtiff writes its complaints about a damaged file straight to stderr, in C, past every Python setting.

    Pillow passes the failure on as an exception; its own copy of libtiff is silenced, once, for this process.
    """
    try:
        library = ctypes.CDLL(Image.core.__file__)  # a look-up through it searches what it is linked with
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            handler = getattr(library, name)
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)
    except (AttributeError, OSError):  # a Pillow without libtiff, or linked otherwise: the lines are only noise
        pass


_mute_libtiff()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else unconfigured logging prints its errors to stderr

_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_quiet_lock = threading.Lock()
_quiet_depth = 0


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Pillow's warnings ignored while any thread decodes; everybody else's filters stay as they are.

    ``warnings.catch_warnings`` would not do: it swaps the whole process's filters, so threads that overlap undo one
    another and can leave everything silent.
    """
    global _quiet_depth
    filters = cast("list[Any]", warnings.filters)
    with _quiet_lock:
        _quiet_depth += 1
        if _quiet_depth == 1 or _IGNORE_PILLOW not in filters:
            filters.insert(0, _IGNORE_PILLOW)
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                filters = cast("list[Any]", warnings.filters)
                filters[:] = [entry for entry in filters if entry is not _IGNORE_PILLOW]
