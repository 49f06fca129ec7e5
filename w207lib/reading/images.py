"""One way to read an image file: every format and mode becomes upright uint8 RGB."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from w207lib.machine import devices
from w207lib.reading.remote import Remote

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .avif".split()
)
PICTURES = SUFFIXES | {".heic", ".heif"}
"""What is looked for: a phone's own format too, which is not read, but must not vanish unsaid."""
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded, by Pillow's names, whatever a file is called. Its other decoders never see a
file: that of EPS would start Ghostscript, a program that files can program."""
HEIC = (b"ftypheic", b"ftypheix", b"ftypheim", b"ftypheis", b"ftypmif1")
"""Bytes 4 to 12 of such files (ISO/IEC 23008-12); AVIF, which shares the last, is read."""
RESAMPLING = "bicubic"
"""The one filter that resizes: Pillow's bicubic, which antialiases when it makes smaller."""
MAX_PIXELS = 178_000_000
"""Above this an image counts as a decompression bomb (for Pillow, too); cameras reach some 100
million."""
MOST_BYTES = 2**30
"""Above this a file is not read: an uncompressed picture of ``MAX_PIXELS`` is smaller."""
PICTURE_BYTES = 2 * 2**30
"""The memory that the largest picture may need while it is decoded (measured: 1.9 GiB)."""
BAND_PIXELS = 2**22
"""Pixels that are converted at a time, so that intermediate copies stay small."""


class UnreadableImage(ValueError):
    """An image file that cannot be decoded.

    Attributes:
        status: ``corrupted`` (no image) or ``incomplete`` (it breaks off).
        reason: One clause for a person.
    """

    def __init__(self, path, status: str, reason: str):
        super().__init__(f"{path}: {status}, {reason}")
        self.status, self.reason = status, reason


def most_at_once() -> int:
    """Return how many images may be decoded side by side: processors, or what memory holds."""
    return max(1, min(os.cpu_count() or 1, devices.memory()["available"] // PICTURE_BYTES))


def read_image(path: str | Path | Remote) -> np.ndarray:
    """Read an image file as upright RGB.

    EXIF orientation is applied, transparency is laid over white, 16-bit greys and floats up to 1
    are scaled to 8 bits, CMYK and palettes are converted; of an animation the first frame is taken.

    Args:
        path: An image file of any format that Pillow reads.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        UnreadableImage: The file is not an image, breaks off, or is larger than
            ``MAX_PIXELS``.
        OSError: The file cannot be opened at all.
    """
    return as_array(open_image(path)[0])


def open_image(path: str | Path | Remote) -> tuple[Image.Image, dict]:
    """Read an image file as upright RGB, with what its header says.

    Args:
        path: As for ``read_image``.

    Returns:
        The RGB picture, and ``width, height`` (upright, in pixels), ``format``, ``mode`` (as
        stored) and ``bytes`` of the file.

    Raises:
        UnreadableImage: As for ``read_image``.
        OSError: The file cannot be opened at all.
    """
    too_large = f"more than {MOST_BYTES / 2**30:g} GiB"
    if isinstance(path, Remote):
        if len(data := path.read_bytes()) > MOST_BYTES:
            raise UnreadableImage(path, "corrupted", too_large)
        return decode(data, path)
    kind = os.stat(path).st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # a pipe would be waited for, for ever
        raise UnreadableImage(path, "corrupted", "it is no file but a pipe or a device")
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise UnreadableImage(path, "corrupted", too_large)
        return decode(file.read(), path)


def decode(
    data: bytes, name: str | Path | Remote, *, most_pixels: int | None = None,
    formats: tuple[str, ...] | None = None,
) -> tuple[Image.Image, dict]:  # fmt: skip
    """Decode an image file's bytes, as ``open_image`` does.

    Args:
        data: The whole file.
        name: What an error calls it.
        most_pixels: Larger images are refused by their header; None for ``MAX_PIXELS``.
        formats: Pillow's names of the only formats tried; None for ``FORMATS``.

    Returns:
        As ``open_image``.

    Raises:
        UnreadableImage: As for ``read_image``, or the image has more than ``most_pixels``.
    """
    most_pixels = most_pixels or MAX_PIXELS
    if not data:
        raise UnreadableImage(name, "corrupted", "the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size limit; ours follows
            image: Image.Image = Image.open(io.BytesIO(data), formats=formats or FORMATS)
    except UnidentifiedImageError:
        expected = f"none of {', '.join(formats)}" if formats else "no image format"
        if data[4:12] in HEIC:
            expected = "HEIC, which is not read; save it as JPEG or PNG"
        raise UnreadableImage(name, "corrupted", f"the content is {expected}") from None
    except Exception as error:
        raise UnreadableImage(name, "corrupted", _clause(error)) from None
    facts = {"format": image.format, "mode": image.mode, "bytes": len(data)}
    if image.width * image.height > most_pixels:
        raise UnreadableImage(
            name, "corrupted", f"{image.width}×{image.height} pixels are more than {most_pixels:,}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            image = to_rgb(image)
    except Exception as error:
        raise UnreadableImage(name, "incomplete", _clause(error)) from None
    return image, {"width": image.width, "height": image.height, **facts}


def to_rgb(image: Image.Image) -> Image.Image:
    """Return any Pillow image as 8-bit RGB, transparency over white."""
    deep = image.mode.startswith("I") or image.mode == "F"
    clear = "A" in image.getbands() or "transparency" in image.info
    if not deep and not clear:
        return image if image.mode == "RGB" else image.convert("RGB")
    divisor = _divisor(image) if deep else 1.0
    rgb = Image.new("RGB", image.size)
    for box in _bands(image):
        part = image.crop(box)
        rgb.paste(_from_deep(part, divisor) if deep else _over_white(part), box)
    return rgb


def as_array(image: Image.Image) -> np.ndarray:
    """Return an RGB image's pixels, uint8 ``(H, W, 3)``, with no second copy of a large one."""
    if image.width * image.height <= BAND_PIXELS:
        return np.asarray(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for left, top, right, bottom in _bands(image):
        pixels[top:bottom] = np.asarray(image.crop((left, top, right, bottom)))
    return pixels


def _bands(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes that cover an image from top to bottom, ``BAND_PIXELS`` each, or one row."""
    rows = max(1, BAND_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _divisor(image: Image.Image) -> float:
    """Return by what greys of more than 8 bits are divided, so that white becomes 255."""
    if image.mode.startswith("I;16"):
        return 257.0
    largest = 0.0
    for box in _bands(image):
        values = np.asarray(image.crop(box))
        largest = max(largest, float(values.max(initial=0, where=np.isfinite(values))))
    if image.mode == "F":  # in [0, 1], or in [0, 255]
        return 1 / 255 if largest <= 1 else 1.0
    return 257.0 if largest > 255 else 1.0  # 32 bits, but mostly used for 16, or for 8


def _from_deep(image: Image.Image, divisor: float) -> Image.Image:
    """Scale greys of more than 8 bits to 8: by 257, 65535 becomes 255."""
    values = np.nan_to_num(np.asarray(image, np.float64) / divisor)  # a float may be no number
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize an image to a square, antialiased; the aspect ratio is not kept.

    Args:
        pixels: uint8 ``(H, W, 3)``.
        size: Side of the result, in pixels.

    Returns:
        uint8 ``(size, size, 3)``.
    """
    if pixels.shape[:2] == (size, size):
        return pixels
    image = Image.fromarray(pixels).resize((size, size), Image.Resampling[RESAMPLING.upper()])
    return np.asarray(image)


def pixel_hash(pixels: np.ndarray) -> str:
    """Return the SHA-256 over shape and RGB bytes of a uint8 ``(H, W, 3)`` image."""
    shape = ",".join(map(str, pixels.shape)).encode()
    digest = hashlib.sha256(shape + b":")
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def perceptual_hash(image: Image.Image) -> str:
    """Return the 64-bit difference hash of an RGB image, 16 hexadecimal digits.

    The grey image is reduced to 9 × 8 pixels; a bit says whether a pixel is brighter than its
    right neighbour (N. Krawetz, "Kind of like that", 2013).
    """
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX))
    return np.packbits(small[:, :-1] > small[:, 1:]).tobytes().hex()


def _clause(error: Exception) -> str:
    text = str(error).strip().rstrip(".") or type(error).__name__
    return text.splitlines()[0][:160]


ImageFile.LOAD_TRUNCATED_IMAGES = False
