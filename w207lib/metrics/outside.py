"""Is an image unlike what a detector was trained on? A distance from its pixels alone.

What distinguishes data sets is often how they were stored: all of CIFAKE, for one, went
through JPEG at quality 75 with its chroma halved, at 32×32 pixels. So an image is described by
how much one more JPEG changes it, and by the power in bands of its spectrum; a Gaussian is fitted
to the training images alone, and the distance is Mahalanobis's.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

QUALITY = 75
EDGES = (0.05, 0.15, 0.25, 0.35, 0.5, 0.8)
"""Limits of the bands, in cycles per pixel."""
LARGEST_SCALE = 2.0
"""An image may have this many times the training images' side, or this part of it, and still be
inside."""


def measure(images: np.ndarray) -> np.ndarray:
    """Describe images by what storing and scaling did to them.

    Args:
        images: uint8 ``(N, S, S, 3)``, at the detector's input size.

    Returns:
        float64 ``(N, 18)``: for Y, Cb and Cr the log of the mean absolute change under a JPEG
        round trip at ``QUALITY`` without chroma subsampling, then the log power in five bands.
    """
    size = images.shape[1]
    window = np.outer(np.hanning(size), np.hanning(size))
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    masks = np.stack([(radius >= a) & (radius < b) for a, b in zip(EDGES, EDGES[1:], strict=False)])
    masks = masks.reshape(len(masks), -1) / masks.sum(axis=(1, 2))[:, None]
    rows = np.empty((len(images), 3 + 3 * len(masks)))
    for row, image in zip(rows, images, strict=True):
        levels = _levels(Image.fromarray(image))
        change = np.abs(_levels(_jpeg(image)) - levels).mean(axis=(1, 2))
        spectrum = np.fft.fft2((levels - levels.mean(axis=(1, 2), keepdims=True)) * window)
        power = (np.abs(spectrum) ** 2).reshape(3, -1) @ masks.T
        row[:3], row[3:] = np.log(0.05 + change), np.log1p(power).ravel()
    return rows


def fit(images: np.ndarray, held_out: np.ndarray, *, flagged: float = 0.03) -> dict:
    """Learn what the training images look like.

    Args:
        images: uint8 ``(N, S, S, 3)`` of the training split, or what ``measure`` says of them.
        held_out: Likewise of the validation split; they set the limit.
        flagged: Share of them that may lie beyond it.

    Returns:
        ``mean`` (18), ``whitening`` (18 × 18) and ``limit``, as plain lists and numbers.
    """
    described = _described(images)
    mean = described.mean(axis=0)
    covariance = np.cov(described.T) + 1e-6 * np.eye(described.shape[1])
    whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T
    model = {"mean": mean.round(6).tolist(), "whitening": whitening.round(6).tolist()}
    limit = float(np.quantile(distance(held_out, model), 1 - flagged))
    return model | {"limit": round(limit, 4)}


def distance(images: np.ndarray, model: dict) -> np.ndarray:
    """Return each image's Mahalanobis distance from the training images.

    Args:
        images: uint8 ``(N, S, S, 3)``, or what ``measure`` says of them.
        model: From ``fit``.

    Returns:
        float64 ``(N,)``, 0 or more; beyond ``model["limit"]`` an image is outside.
    """
    if not len(images):
        return np.empty(0)
    whitened = (_described(images) - np.array(model["mean"])) @ np.array(model["whitening"])
    return np.sqrt((whitened**2).sum(axis=1))


def scaled_too_far(width: int, height: int, side: int) -> bool:
    """Return whether an image is far larger or smaller than the training images' side.

    Args:
        width: Of the image, in pixels.
        height: Likewise.
        side: Of the training images, in pixels.
    """
    largest, smallest = max(width, height) / side, min(width, height) / side
    return largest > LARGEST_SCALE or smallest < 1 / LARGEST_SCALE


def _described(images: np.ndarray) -> np.ndarray:
    return images if images.ndim == 2 else measure(images)


def _levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("YCbCr"), float).transpose(2, 0, 1)


def _jpeg(image: np.ndarray) -> Image.Image:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return Image.open(buffer)
