"""Pictures in, figures out: contact sheets, comparisons, outcomes.

Images are uint8 ``(H, W, 3)`` and may differ in size. Each is enlarged by whole pixels (nearest
neighbour), so that what is seen is what the file holds. No function shows or saves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from w207lib.plotting.style import COLOURS, new_grid
from w207lib.schema import CLASS_NAMES

OUTCOMES = tuple(f"actual {a}, predicted {p}" for a in CLASS_NAMES for p in CLASS_NAMES)
"""As ``evaluate.outcome`` names them, in the order of a confusion matrix."""


def contact_sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[str] | None = None,
    *,
    columns: int = 10,
    title: str | None = None,
    numbers: bool = False,
) -> Figure:
    """Draw many images in rows.

    Args:
        images: uint8 ``(H, W, 3)`` each.
        captions: One below each image; REAL and FAKE are written in their colours.
        columns: Images in a row, at least 1.
        title: Above all.
        numbers: Number the images from 1, for the guessing game.

    Returns:
        The figure.

    Raises:
        ValueError: There is no image, one is not uint8 ``(H, W, 3)``, or captions do not match.
    """
    return _sheet(images, captions, columns, title, numbers, 1.35 if columns > 6 else 2.0)


def side_by_side(images: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """Draw a few images large, in one row, each under its title.

    Args:
        images: uint8 ``(H, W, 3)`` each: a photograph and a fake, the steps of an augmentation.
        titles: One an image; REAL and FAKE are written in their colours.

    Returns:
        The figure.

    Raises:
        ValueError: As for ``contact_sheet``.
    """
    _check(images, titles)
    each = max(1.9, min(4.5, 15 / len(images)))
    figure, axes = new_grid(1, len(images), (each * len(images), each + 0.6))
    for ax, image, title in zip(axes, images, titles, strict=True):
        _draw(ax, image)
        ax.set_anchor("N")  # titles in one line
        ax.set_title(title, fontsize=15, color=_colour(title), wrap=True)
    return figure


def outcome_gallery(outcomes: Mapping[str, Sequence[tuple[np.ndarray, str]]]) -> Figure:
    """Draw examples of the four outcomes, actual class down and predicted class across.

    Args:
        outcomes: By ``actual REAL, predicted FAKE`` and the like (``OUTCOMES``), pairs of a
            uint8 ``(H, W, 3)`` image and its caption; an outcome may be empty or absent.

    Returns:
        The figure: a two-by-two grid of small galleries.

    Raises:
        ValueError: An outcome is unknown, all are empty, or an image is not uint8 ``(H, W, 3)``.
    """
    unknown = [name for name in outcomes if name not in OUTCOMES]
    most = max((len(pairs) for pairs in outcomes.values()), default=0)
    if unknown or not most:
        raise ValueError(
            f"outcomes: received {', '.join(map(repr, outcomes)) or 'none'}, at most {most} images "
            f"in one; expected at least one image, under {', '.join(OUTCOMES)}."
        )
    columns = min(most, max(3, int(np.ceil(np.sqrt(most)))))
    rows = -(-most // columns)
    width, height = 2 * max(1.6 * columns, 4.2), 2 * (1.95 * rows + 0.5)
    blank, spare = new_grid(1, 1, (width, height))
    spare[0].remove()
    for part, name in zip(np.array(blank.subfigures(2, 2)).flat, OUTCOMES, strict=True):
        actual, predicted = name.split(", predicted ")
        right = actual.endswith(predicted)
        part.set_facecolor("#F1F6F1" if right else "#FBF0F0")
        part.suptitle(f"{name} {'✓' if right else '✗'}", fontsize=15, fontweight="bold")
        pairs = outcomes.get(name, ())
        axes = part.subplots(rows, columns, squeeze=False).ravel()
        for ax in axes:
            ax.axis("off")
        if not pairs:
            part.text(0.5, 0.45, "no such image", ha="center", fontsize=14, color="#555555")
            continue
        _check([image for image, _ in pairs], [caption for _, caption in pairs])
        for ax, (image, caption) in zip(axes, pairs, strict=False):
            _draw(ax, image)
            _caption(ax, caption, 12)
    return blank


def errors_gallery(images: Sequence[np.ndarray], captions: Sequence[str]) -> Figure:
    """Draw wrongly called images, the most confident first, large enough to ask why.

    Args:
        images: uint8 ``(H, W, 3)`` each, in the order of ``evaluate.most_confident_errors``.
        captions: One below each image, such as ``FAKE, score 0.02``.

    Returns:
        The figure.

    Raises:
        ValueError: As for ``contact_sheet``.
    """
    return _sheet(images, captions, 6, None, False, 2.3)


def _sheet(images, captions, columns: int, title, numbers: bool, inches: float) -> Figure:
    _check(images, captions)
    if columns < 1:
        raise ValueError(f"gallery: columns={columns}; expected at least 1.")
    across = min(columns, len(images))
    down = -(-len(images) // across)
    lines = max((caption.count("\n") + 1 for caption in captions or ()), default=0)
    extra = 0.24 * lines + (0.3 if numbers else 0.05)
    size = (max(inches * across, 4), down * (inches + extra) + (0.6 if title else 0.1))
    figure, axes = new_grid(down, across, size, len(images))
    for index, (ax, image) in enumerate(zip(axes, images, strict=False)):
        _draw(ax, image)
        if numbers:
            ax.set_title(str(index + 1), fontsize=14, fontweight="bold", pad=3)
        if captions is not None:
            _caption(ax, captions[index], 11 if inches < 2 else 13)
    if title:
        figure.suptitle(title, fontsize=18)
    return figure


def _draw(ax: Axes, image: np.ndarray) -> None:
    """Show the pixels as they are, with neither ticks nor smoothing."""
    ax.imshow(image, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_anchor("S")


def _caption(ax: Axes, text: str, size: int) -> None:
    ax.set_xlabel(text, fontsize=size, color=_colour(text), labelpad=3)
    ax.axis("on")


def _colour(text: str) -> str:
    """Return a class's colour where the text names that class alone, else dark grey."""
    named = [name for name in CLASS_NAMES if name in text.upper().replace(",", " ").split()]
    return COLOURS[named[0]] if len(named) == 1 else "#222222"


def _check(images: Sequence[np.ndarray], captions: Sequence[str] | None) -> None:
    if len(images) == 0:
        raise ValueError("gallery: received no image; expected at least one. Pick rows first.")
    for number, image in enumerate(images):
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"gallery: image {number} is {image.dtype} {image.shape}; expected uint8 "
                "(H, W, 3) in 0 to 255. Convert it with np.clip(x, 0, 255).astype('uint8')."
            )
    if captions is not None and len(captions) != len(images):
        raise ValueError(
            f"gallery: {len(captions)} captions for {len(images)} images; expected one each."
        )
