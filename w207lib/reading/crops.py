"""Pieces of larger pictures at a small size, scaled and saved as pictures are on their way."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

FILTERS = ("BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS")
QUALITIES = (60, 70, 80, 85, 90, 95)
RESAVED = 0.5
"""Share of the pieces that are saved as JPEG after they were scaled."""


def cut(picture: np.ndarray, size: int, count: int, *, seed) -> np.ndarray:
    """Cut pieces of a picture and scale them.

    The first is the whole picture, by the project's own filter, as a detector sees it. The
    others are squares at random places, their sides drawn evenly by ratio between ``size`` and
    the picture's shorter side, scaled by a filter of ``FILTERS``; half of them are saved again
    at a quality of ``QUALITIES``.

    Args:
        picture: uint8 ``(H, W, 3)``, no side shorter than ``size``.
        size: Side of the pieces, in pixels.
        count: Pieces, at least 1.
        seed: Seed for ``numpy.random.default_rng``.

    Returns:
        uint8 ``(count, size, size, 3)``.

    Raises:
        ValueError: The picture is smaller than ``size``.
    """
    height, width = picture.shape[:2]
    shorter = min(height, width)
    if shorter < size:
        raise ValueError(
            f"a picture of {width}×{height} pixels came; expected at least {size} a side, so that "
            "pieces are scaled down, never up."
        )
    random = np.random.default_rng(seed)
    image = Image.fromarray(picture)
    pieces = np.empty((count, size, size, 3), np.uint8)
    pieces[0] = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    for place in range(1, count):
        side = size * (shorter / size) ** random.random()
        left, top = random.random() * (width - side), random.random() * (height - side)
        chosen = Image.Resampling[FILTERS[random.integers(len(FILTERS))]]
        piece = image.resize((size, size), chosen, box=(left, top, left + side, top + side))
        if random.random() < RESAVED:
            piece = _saved(piece, QUALITIES[random.integers(len(QUALITIES))])
        pieces[place] = np.asarray(piece)
    return pieces


def _saved(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")
