"""Maps of evidence (``explain`` draws them up) compared, put to a test, and averaged."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

from w207lib.metrics import intervals
from w207lib.schema import CLASS_NAMES, LABEL_MAP


def similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation of each pair of maps.

    Args:
        first: float ``(B, H, W)``.
        second: Likewise, the maps of the same images.

    Returns:
        float64 ``(B,)`` in [-1, 1]: 1 where both order the pixels alike; NaN where a map has
        one value only, so that it orders nothing.

    Raises:
        ValueError: The shapes differ, or are no ``(B, H, W)``.
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.shape != second.shape or first.ndim != 3:
        raise ValueError(
            f"maps of shapes {first.shape} and {second.shape} came; expected (B, H, W) twice."
        )
    ranks = [rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (first, second)]
    one, other = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    scale = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    return np.divide((one * other).sum(axis=1), scale, np.full(len(one), np.nan), where=scale > 0)


def plant_patch(
    images: np.ndarray, *, seed: int, side: int = 6, contrast: int = 48
) -> tuple[np.ndarray, np.ndarray]:
    """Plant one small texture into each image, at a random place.

    A network that is trained to tell these images from the untouched ones can only go by the
    texture: where it looks is known, and a map of it can be right or wrong.

    Args:
        images: uint8 ``(N, S, S, 3)``.
        seed: Seed of the places.
        side: Of the square, in pixels.
        contrast: Grey levels by which the squares of its one-pixel chessboard are lightened and
            darkened.

    Returns:
        The images, uint8, and int ``(N, 4)``: first row, first column, and the row and column
        after the last, of each texture.

    Raises:
        ValueError: The texture is larger than the images.
    """
    size = min(np.shape(images)[1:3])
    if not 1 <= side <= size:
        raise ValueError(f"a texture of side {side} came; expected 1 to {size} pixels.")
    corners = np.random.default_rng(seed).integers(0, size - side + 1, (len(images), 2))
    texture = contrast * (-1) ** np.add.outer(np.arange(side), np.arange(side))[..., None]
    planted = np.array(images)
    for image, (top, left) in zip(planted, corners, strict=True):
        place = image[top : top + side, left : left + side]
        place[:] = np.clip(place.astype(int) + texture, 0, 255)
    return planted, np.hstack([corners, corners + side])


def hit_rate(
    maps: np.ndarray, boxes: np.ndarray, *, smoothing: float = 1.0
) -> tuple[float, intervals.Interval]:
    """Return the share of maps whose highest point lies in the box, with its 95 % interval.

    Args:
        maps: float ``(N, H, W)``.
        boxes: int ``(N, 4)`` as ``plant_patch`` gives them. Chance is a box's share of the area.
        smoothing: Standard deviation in pixels of the Gaussian that the maps are smoothed by.

    Returns:
        The share and its limits. A map with one value only has no highest point, and misses.

    Raises:
        ValueError: Maps or boxes have another shape.
    """
    maps, boxes = np.asarray(maps, float), np.asarray(boxes)
    if maps.ndim != 3 or boxes.shape != (len(maps), 4):
        raise ValueError(
            f"maps of shape {maps.shape} and boxes of shape {boxes.shape} came; expected "
            "(N, H, W) and (N, 4)."
        )
    smooth = gaussian_filter(maps, (0, smoothing, smoothing))
    highest = smooth.reshape(len(maps), -1).argmax(axis=1)
    row, column = np.unravel_index(highest, maps.shape[1:])
    top, left, bottom, right = boxes.T
    inside = (top <= row) & (row < bottom) & (left <= column) & (column < right)
    hits = inside & (np.ptp(maps, axis=(1, 2)) > 0)
    return float(hits.mean()), intervals.proportion(hits, np.arange(len(hits)))


def mean_by_class(maps: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Average many maps by class, each divided by its largest absolute value first.

    Args:
        maps: float ``(N, H, W)``; a map of zeros stays one.
        labels: ``(N,)`` or ``(N, 1)``, 0 for REAL and 1 for FAKE.

    Returns:
        float ``(H, W)`` in [-1, 1] for each class that occurs.
    """
    maps, labels = np.asarray(maps, float), np.ravel(labels)
    largest = np.abs(maps).max(axis=(1, 2), keepdims=True)
    scaled = np.divide(maps, largest, np.zeros_like(maps), where=largest > 0)
    return {
        name: scaled[labels == LABEL_MAP[name]].mean(axis=0)
        for name in CLASS_NAMES
        if (labels == LABEL_MAP[name]).any()
    }
