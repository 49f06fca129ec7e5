"""How were a class's images scaled? Their mean spectrum, set against those of known filters.

Photographs' amplitude falls about as one over the frequency. What a scaling filter does to the
fine detail shows as the distance from that line: a filter that does not antialias folds detail
back and lifts the end of the spectrum, a soft one lowers it, enlarging empties it. So each class's
curve is compared with those of random images with a spectrum of 1/f that went through each filter,
and through JPEG at the class's own quality.

That tells *families* of filters apart, and says nothing of a single image. Generators leave traces
in the same frequencies: where the two classes differ, this cannot say whether the scaling or the
generator did it, only that it is there to be learnt.
"""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pandas as pd
from PIL import Image

from w207lib import features

FAMILIES = {
    "none": "unscaled", "nearest": "aliased", "bilinear, not antialiased": "aliased",
    "box": "antialiased", "hamming": "antialiased", "bicubic": "antialiased",
    "lanczos": "antialiased", "bilinear": "antialiased",
    "enlarged 1.5 times": "enlarged", "enlarged 2 times": "enlarged",
}  # fmt: skip
"""The known filters and the family of each."""
PILLOW = {"box": 4, "bilinear": 2, "hamming": 5, "bicubic": 3, "lanczos": 1}
LINE = (0.06, 0.2)
"""Cycles per pixel between which the straight line is fitted; beyond it filters are compared."""
SMALLEST, LARGEST, MOST_IMAGES, REFERENCES, TIMES = 24, 128, 600, 48, 4
LEAST_IMAGES = 50
FAR = 0.15
"""Root mean square distance, in log10 amplitude, beyond which no known filter fits."""


def patches(images: list[np.ndarray]) -> np.ndarray:
    """Cut the middle square out of each image, at its own resolution.

    Args:
        images: uint8 ``(H, W, 3)`` each, of any sizes.

    Returns:
        uint8 ``(N, S, S, 3)``; S is the smallest image's shorter side, at most ``LARGEST``, even.
    """
    side = min([LARGEST, *(min(image.shape[:2]) for image in images)]) // 2 * 2
    cut = []
    for image in images:
        top, left = ((length - side) // 2 for length in image.shape[:2])
        cut.append(image[top : top + side, left : left + side])
    return np.stack(cut)


def curve(images: np.ndarray) -> pd.DataFrame:
    """Return how far a mean spectrum lies off the straight line of its low frequencies.

    Args:
        images: uint8 ``(N, S, S, 3)``.

    Returns:
        Columns ``frequency`` (cycles per pixel, from the line's end to 0.5) and ``distance``
        (log10 of amplitude; above 0 is more fine detail than the line would have).
    """
    profile = features.radial_profile(features.log_spectrum(images)).iloc[1:]
    frequency, power = profile["frequency"].to_numpy(), profile["power"].to_numpy()
    on_line = (frequency >= LINE[0]) & (frequency <= LINE[1])
    line = np.polyfit(np.log(frequency[on_line]), power[on_line], 1)
    off = power - np.polyval(line, np.log(frequency))
    beyond = frequency >= LINE[1]
    return pd.DataFrame({"frequency": frequency[beyond], "distance": off[beyond]})


def references(side: int, contrast: float, quality: float | None, subsampling: str) -> pd.DataFrame:
    """Return the curve of every known filter.

    Args:
        side: Of the patches, in pixels.
        contrast: Standard deviation of the class's grey levels, 0 to 128.
        quality: The class's JPEG quality; None or NaN where its files are no JPEGs.
        subsampling: Of that JPEG's chroma, such as ``4:2:0``.

    Returns:
        Columns ``filter, frequency, distance``.
    """
    quality = None if quality is None or np.isnan(quality) else int(quality)
    return _references(side, round(float(contrast)), quality, subsampling).copy()


def fit(images: np.ndarray, *, quality: float | None, subsampling: str = "") -> pd.DataFrame:
    """Set a class's curve against every known filter's.

    Args:
        images: uint8 ``(N, S, S, 3)`` from ``patches``, of one class.
        quality: As for ``references``.
        subsampling: Likewise.

    Returns:
        One row a filter, the nearest first: ``filter, family, distance`` (root mean square over
        the frequencies, in log10 of amplitude).

    Raises:
        ValueError: The patches are smaller than ``SMALLEST`` pixels.
    """
    side = images.shape[1]
    if side < SMALLEST:
        raise ValueError(
            f"spectra: patches of {side} pixels came; expected at least {SMALLEST}. There is too "
            "little spectrum in smaller ones."
        )
    contrast = features.grey(images).std(axis=(1, 2)).mean()
    own = curve(images)["distance"].to_numpy()
    rows = [
        (name, FAMILIES[name], float(np.sqrt(((own - known["distance"].to_numpy()) ** 2).mean())))
        for name, known in references(side, contrast, quality, subsampling).groupby("filter")
    ]
    table = pd.DataFrame(rows, columns=["filter", "family", "distance"])
    return table.sort_values("distance", ignore_index=True)


def scale(pixels: np.ndarray, side: int, name: str) -> np.ndarray:
    """Scale an image to a square by one of the known filters.

    Args:
        pixels: uint8 ``(H, W, 3)``.
        side: Of the result, in pixels.
        name: One of ``FAMILIES``. The enlarging ones reduce first, to the side they enlarge;
            ``none`` cuts the middle out.

    Returns:
        uint8 ``(side, side, 3)``.

    Raises:
        ValueError: The filter is unknown.
    """
    if name not in FAMILIES:
        raise ValueError(f"filter {name!r} came; expected one of {', '.join(FAMILIES)}.")
    if name == "none":
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        return pixels[top : top + side, left : left + side]
    image = Image.fromarray(pixels)
    if name in PILLOW:
        return np.asarray(image.resize((side, side), PILLOW[name]))
    if name.startswith("enlarged"):
        less = max(1, round(side / float(name.split()[1])))
        small = image.resize((less, less), Image.Resampling.BICUBIC)
        return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))
    y, x = (((np.arange(side) + 0.5) * length / side - 0.5) for length in pixels.shape[:2])
    if name == "nearest":
        return pixels[np.rint(y).astype(int)][:, np.rint(x).astype(int)]
    return np.rint(_between(_between(pixels.astype(float), y, 0), x, 1)).astype(np.uint8)


def _between(values: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
    """Interpolate linearly between the two nearest rows or columns alone."""
    at = np.clip(at, 0, values.shape[axis] - 1)
    low = np.minimum(np.floor(at).astype(int), values.shape[axis] - 2)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(3)])
    return values.take(low, axis) * (1 - share) + values.take(low + 1, axis) * share


@cache
def _references(side: int, contrast: int, quality: int | None, subsampling: str) -> pd.DataFrame:
    random = np.random.default_rng(207)
    large = side * TIMES
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(large), np.fft.rfftfreq(large), indexing="ij"))
    frequency[0, 0] = np.inf
    scaled: dict[str, list] = {name: [] for name in FAMILIES}
    for _ in range(REFERENCES):
        waves = np.exp(2j * np.pi * random.random(frequency.shape)) / frequency
        levels = np.fft.irfft2(waves, s=(large, large))
        levels = np.clip(128 + contrast * levels / levels.std(), 0, 255).astype(np.uint8)
        image = np.repeat(levels[..., None], 3, axis=2)
        for name, kept in scaled.items():
            kept.append(_jpeg(scale(image, side, name), quality, subsampling))
    return pd.concat(
        [curve(np.stack(kept)).assign(filter=name) for name, kept in scaled.items()],
        ignore_index=True,
    )[["filter", "frequency", "distance"]]


def _jpeg(pixels: np.ndarray, quality: int | None, subsampling: str) -> np.ndarray:
    if quality is None:
        return pixels
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer, "JPEG", quality=quality, **({"subsampling": subsampling} if subsampling else {})
    )
    return np.asarray(Image.open(buffer).convert("RGB"))
