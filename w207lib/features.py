"""What can be measured of an image without a network: grey-level statistics and spectra."""

from __future__ import annotations

import numpy as np
import pandas as pd
from PIL import Image

STATISTICS = (
    "mean", "median", "standard_deviation", "minimum", "maximum", "max_over_min", "range",
    "interquartile_range",
)  # fmt: skip
"""Report 1's eight statistics of an image's grey levels."""
BANDS = {"low": (0.0, 0.1), "middle": (0.1, 0.25), "high": (0.25, 0.75)}
"""Bands of spatial frequency by name, in cycles per pixel, ``[low, high)``: waves longer than ten
pixels, of ten to four, and shorter. Together they hold all: the highest, a one-pixel chessboard,
has 0.71."""


def grey(pixels: np.ndarray) -> np.ndarray:
    """Return luma (ITU-R BT.601, as Pillow's mode L) of uint8 ``(..., 3)``, as uint8."""
    weights = np.array([19595, 38470, 7471], np.uint32)
    return ((pixels.astype(np.uint32) @ weights + 0x8000) >> 16).astype(np.uint8)


def statistics(pixels: np.ndarray) -> dict[str, float]:
    """Measure an image's grey levels.

    Args:
        pixels: uint8 ``(H, W, 3)``.

    Returns:
        ``STATISTICS`` by name, in grey levels 0 to 255; ``max_over_min`` is
        ``(maximum + 1) / (minimum + 1)``, so that a black pixel does not make it infinite.
    """
    counts = np.array([Image.fromarray(pixels).convert("L").histogram()])
    return dict(zip(STATISTICS, histogram_statistics(counts)[0].tolist(), strict=True))


def histogram_statistics(counts: np.ndarray) -> np.ndarray:
    """Measure many images by their histograms, as ``statistics`` does one.

    Args:
        counts: int ``(N, 256)``, the pixels of each grey level; no row of zeros alone.

    Returns:
        float64 ``(N, 8)``, the ``STATISTICS`` of each.
    """
    levels = np.arange(256.0)
    total = counts.sum(axis=1)
    cumulated = np.cumsum(counts, axis=1)
    mean = counts @ levels / total
    spread = (counts * (levels - mean[:, None]) ** 2).sum(axis=1) / total
    lower, median, upper = (_quantiles(cumulated, total, q) for q in (0.25, 0.5, 0.75))
    minimum = (counts > 0).argmax(axis=1).astype(float)
    maximum = 255.0 - (counts[:, ::-1] > 0).argmax(axis=1)
    return np.stack([
        mean, median, np.sqrt(spread), minimum, maximum, (maximum + 1) / (minimum + 1),
        maximum - minimum, upper - lower,
    ], axis=1)  # fmt: skip


def _quantiles(cumulated: np.ndarray, total: np.ndarray, q: float) -> np.ndarray:
    """Return the linearly interpolated quantile of each histogram of whole levels."""
    position = q * (total - 1)
    below = (cumulated <= np.floor(position)[:, None]).sum(axis=1)
    above = (cumulated <= np.ceil(position)[:, None]).sum(axis=1)
    return below + (above - below) * (position - np.floor(position))


def log_spectrum(images: np.ndarray) -> np.ndarray:
    """Average the log-amplitude spectra of many images.

    Each grey image loses its mean and is faded out by a Hann window before the transform.

    Args:
        images: uint8 ``(N, S, S, 3)``.

    Returns:
        float64 ``(S, S)``, the mean of ``log10(1 + |FFT|)``; zero frequency in the middle.

    Raises:
        ValueError: There is no image, or they are not square.
    """
    images = np.asarray(images)
    if images.ndim != 4 or not len(images) or images.shape[1] != images.shape[2]:
        raise ValueError(
            f"spectra: images of shape {images.shape} came; expected (N, S, S, 3) with N ≥ 1. "
            "Resize them to one square size first."
        )
    side = np.hanning(images.shape[1])
    window = np.outer(side, side)
    total = np.zeros(images.shape[1:3])
    for start in range(0, len(images), 512):
        levels = grey(images[start : start + 512]).astype(float)
        levels -= levels.mean(axis=(1, 2), keepdims=True)
        total += np.log10(1 + np.abs(np.fft.fft2(levels * window))).sum(axis=0)
    return np.fft.fftshift(total / len(images))


def radial_profile(spectrum: np.ndarray) -> pd.DataFrame:
    """Average a centred spectrum over rings of equal frequency.

    Args:
        spectrum: float ``(S, S)`` as ``log_spectrum`` gives it.

    Returns:
        Columns ``frequency`` (cycles per pixel, 0 to 0.5) and ``power`` (the spectrum's unit).
    """
    size = spectrum.shape[0]
    axis = np.arange(size) - size // 2
    radius = np.rint(np.hypot(*np.meshgrid(axis, axis))).astype(int)
    keep = radius <= size // 2
    sums = np.bincount(radius[keep], spectrum[keep])
    counts = np.bincount(radius[keep])
    return pd.DataFrame({"frequency": np.arange(len(sums)) / size, "power": sums / counts})


def band_filter(images: np.ndarray, low: float, high: float) -> np.ndarray:
    """Keep only one band of an image's spatial frequencies, and its mean colour.

    The transform takes an image for a tile that is repeated, so the jump from one border to the
    opposite one counts as structure too.

    Args:
        images: uint8 ``(N, H, W, 3)``; each colour is filtered by itself.
        low: Lowest frequency that stays, in cycles per pixel, at least 0.
        high: Frequency from which on nothing stays; 0.75 keeps all that are not too low.

    Returns:
        uint8 ``(N, H, W, 3)``, rounded, and clipped to 0 to 255.

    Raises:
        ValueError: The images are not uint8 ``(N, H, W, 3)``, or the band is empty.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ValueError(
            f"band filter: {images.dtype} {images.shape} came; expected uint8 (N, H, W, 3)."
        )
    if not 0 <= low < high:
        raise ValueError(
            f"band filter: low={low}, high={high}; expected 0 ≤ low < high, in cycles per pixel."
        )
    height, width = images.shape[1:3]
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij"))
    keep = (low <= radius) & (radius < high)
    keep[0, 0] = True
    filtered = np.empty_like(images)
    for start in range(0, len(images), 512):
        part = images[start : start + 512].astype(np.float32)
        waves = np.fft.rfft2(part, axes=(1, 2)) * keep[..., None]
        levels = np.fft.irfft2(waves, s=(height, width), axes=(1, 2))
        filtered[start : start + 512] = np.clip(np.rint(levels), 0, 255)
    return filtered
