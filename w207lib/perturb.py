"""What happens to pictures on their way: saved again, scaled, blurred, cropped, brightened.

A *condition* is a short text, as it stands in the predictions table: ``clean``, ``png``,
``family:strength`` with a family of ``FAMILIES``, or several of these joined by ``+``, done from
left to right. The result has the size of the image, whole grey levels, and always the same
pixels for the same image, condition and seed.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance


class Family(NamedTuple):
    """One kind of change.

    Attributes:
        change: From an RGB picture, a strength and a seed to a picture of the same size.
        low: Least strength.
        high: Greatest strength.
        unit: What a strength is.
        label: Of an axis of strengths.
        strengths: Those of the standard set, at least one.
        neutral: The strength that changes nothing; None where there is none.
        falling: Whether less is stronger.
        whole: Whether a strength must be a whole number.
    """

    change: Callable
    low: float
    high: float
    unit: str
    label: str
    strengths: tuple[float, ...]
    neutral: float | None = None
    falling: bool = False
    whole: bool = False


def parse(condition: str) -> tuple[tuple[str, float], ...]:
    """Split a condition into its steps.

    Args:
        condition: Such as ``jpeg:75``, ``png`` or ``resize:0.5+jpeg:75``.

    Returns:
        Family and strength of each step; none for ``clean``. The strength of ``png`` is NaN.

    Raises:
        ValueError: A family is unknown, or a strength is none or outside its range.
    """
    return () if condition == "clean" else tuple(_step(text) for text in condition.split("+"))


def apply(pixels: np.ndarray, condition: str, seed: int = 0) -> np.ndarray:
    """Change images as a condition says.

    Args:
        pixels: uint8 ``(H, W, 3)``, or ``(N, H, W, 3)``.
        condition: As for ``parse``.
        seed: Seed of the noise, which also depends on the image, but not on its place.

    Returns:
        uint8, ``(H, W, 3)`` or ``(N, H, W, 3)`` as ``pixels``.

    Raises:
        ValueError: As ``parse``; or ``pixels`` is no such array.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] != 3:
        raise ValueError(
            f"perturb: {pixels.dtype} pixels of shape {pixels.shape} came; expected uint8 "
            "(H, W, 3) or (N, H, W, 3), as images.read_image or pipeline.Images give them."
        )
    steps = parse(condition)
    if pixels.ndim == 3:
        return _changed(pixels, steps, seed)
    changed = np.empty_like(pixels)
    for place, image in enumerate(pixels):
        changed[place] = _changed(image, steps, seed)
    return changed


def _step(text: str) -> tuple[str, float]:
    name, _, given = text.partition(":")
    if text == "png":
        return "png", math.nan
    if name not in FAMILIES:
        raise ValueError(
            f"condition {text!r} is unknown; there are clean, png, and "
            f"{', '.join(f'{family}:<{FAMILIES[family].unit}>' for family in FAMILIES)}."
        )
    family = FAMILIES[name]
    try:
        strength = float(given)
    except ValueError:
        strength = math.nan
    if not family.low <= strength <= family.high or (family.whole and strength % 1):
        raise ValueError(
            f"condition {text!r}: strength {given or 'none'!r}; expected {family.unit}, a "
            f"{'whole ' * family.whole}number from {family.low:g} to {family.high:g}, such as "
            f"{name}:{family.strengths[0]:g}."
        )
    return name, strength


def _changed(pixels: np.ndarray, steps: tuple, seed: int) -> np.ndarray:
    image = Image.fromarray(pixels)
    for name, strength in steps:
        image = _png(image) if name == "png" else FAMILIES[name].change(image, strength, seed)
    return np.asarray(image)


def _png(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "PNG")
    return Image.open(file).convert("RGB")


def _jpeg(image: Image.Image, quality: float, seed: int) -> Image.Image:
    """Save and open again; Pillow's own chroma subsampling, 4:2:0."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(quality))
    return Image.open(file).convert("RGB")


def _resize(image: Image.Image, share: float, seed: int) -> Image.Image:
    small = [max(1, round(share * side)) for side in image.size]
    return image.resize(small, Image.Resampling.BICUBIC).resize(
        image.size, Image.Resampling.BICUBIC
    )


def _blur(image: Image.Image, sigma: float, seed: int) -> Image.Image:
    """Blur each channel; Pillow's own filter is an approximation by boxes."""
    from scipy.ndimage import gaussian_filter  # slow to import, and verdicts do without

    levels = np.asarray(image, np.float32)
    return _picture(gaussian_filter(levels, (sigma, sigma, 0), mode="reflect"))


def _noise(image: Image.Image, deviation: float, seed: int) -> Image.Image:
    levels = np.asarray(image, np.float32)
    random = np.random.default_rng([seed, zlib.crc32(image.tobytes())])
    return _picture(levels + deviation * random.standard_normal(levels.shape, np.float32))


def _brightness(image: Image.Image, factor: float, seed: int) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


def _contrast(image: Image.Image, factor: float, seed: int) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(factor)


def _crop(image: Image.Image, share: float, seed: int) -> Image.Image:
    """Keep the middle and scale it back; the edges may lie between two pixels."""
    across, down = ((1 - share) / 2 * side for side in image.size)
    box = (across, down, image.width - across, image.height - down)
    return image.resize(image.size, Image.Resampling.BICUBIC, box)


def _picture(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))


FAMILIES = {
    "jpeg": Family(
        _jpeg, 1, 100, "quality", "JPEG quality", (95, 90, 80, 70, 60, 50, 30, 10),
        falling=True, whole=True,
    ),
    "resize": Family(
        _resize, 0.01, 1, "share of the side, down and up again",
        "scaled down to", (0.75, 0.5, 0.25), neutral=1, falling=True,
    ),
    "blur": Family(
        _blur, 0.1, 20, "standard deviation in pixels", "blur, σ in pixels", (0.5, 1, 2), neutral=0
    ),
    "noise": Family(
        _noise, 0, 128, "standard deviation in grey levels", "noise, σ in grey levels",
        (2, 4, 8, 16), neutral=0,
    ),
    "brightness": Family(
        _brightness, 0.1, 5, "factor", "brightness, factor", (0.8, 1.2), neutral=1
    ),
    "contrast": Family(_contrast, 0.1, 5, "factor", "contrast, factor", (0.8, 1.2), neutral=1),
    "crop": Family(
        _crop, 0.1, 1, "share of the side that is kept", "middle share kept",
        (0.9, 0.8), neutral=1, falling=True,
    ),
}  # fmt: skip
"""By the name in a condition; panels of figures are in this order."""
CONDITIONS = (
    "png", *(f"{name}:{s:g}" for name, family in FAMILIES.items() for s in family.strengths),
)  # fmt: skip
"""The standard set, one change each."""
SOCIAL = (
    "jpeg:90+jpeg:70", "resize:0.75+jpeg:85", "resize:0.5+jpeg:75", "crop:0.9+jpeg:80",
    "brightness:1.2+jpeg:80",
)  # fmt: skip
"""Changes in a row, as when a picture is edited or scaled by a social network, then saved again."""
