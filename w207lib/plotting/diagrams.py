"""Block diagrams of networks."""

from __future__ import annotations

import re
import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from w207lib.plotting.style import new_axes, require_columns

COLUMNS = ("name", "kind", "output_shape", "parameters")
KIND_COLOURS = (
    ("input", "#BBBBBB"), ("conv", "#56B4E9"), ("pool", "#F0A07C"), ("dense", "#009E73"),
    ("norm", "#E8D44D"), ("dropout", "#E0E0E0"), ("flatten", "#CC79A7"), ("", "#D8C8E8"),
)  # fmt: skip
"""By the first word found in a layer's kind; the last stands for every other kind."""
_TEXT = 12.5


def plot_architecture(layers: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw a network as a row of blocks from input to output, wrapped where it is long.

    A block's height grows with the logarithm of the image's side, or of a flat layer's length;
    its width with the logarithm of the channels. Below it: kind, output shape, parameters.

    Args:
        layers: One row a layer, in order: ``name``, ``kind`` (Keras's class name),
            ``output_shape`` (tuple, with or without the batch's None), ``parameters`` (count).
        ax: Axes to draw on; by default a new figure of fitting size.

    Returns:
        The axes.

    Raises:
        ValueError: A column is missing, or there is no layer.
    """
    require_columns(layers, COLUMNS)
    if layers.empty:
        raise ValueError("architecture: received 0 layers; expected at least one.")
    rows = -(-len(layers) // 9)
    across = -(-len(layers) // rows)
    shapes = [_shape(shape) for shape in layers["output_shape"]]
    heights, widths = _sizes(shapes)
    texts = [
        _describe(layer, shape)
        for layer, shape in zip(layers.itertuples(index=False), shapes, strict=True)
    ]
    pitch = 0.9 + 0.115 * max(text.count("\n") + 1 for text in texts)
    ax = new_axes(ax, (1.6 * max(across, 4), 2.1 * pitch * rows + 0.5))
    for number, layer in enumerate(layers.itertuples(index=False)):
        x, y = number % across, -pitch * (number // across)
        box = FancyBboxPatch(
            (x - widths[number] / 2, y - heights[number] / 2), widths[number], heights[number],
            boxstyle="round,pad=0,rounding_size=0.02", facecolor=_colour(layer.kind),
            edgecolor="#222222", linewidth=1.2,
        )  # fmt: skip
        ax.add_patch(box)
        ax.text(x, y - 0.4, texts[number], ha="center", va="top",
                fontsize=_TEXT, linespacing=1.25)  # fmt: skip
        if number + 1 < len(layers) and (number + 1) % across:
            start, end = x + widths[number] / 2 + 0.03, x + 1 - widths[number + 1] / 2 - 0.03
            _arrow(ax, start, end, y)
        elif number + 1 < len(layers):
            _arrow(ax, x + widths[number] / 2 + 0.03, x + 0.5, y)
        if number and not number % across:
            _arrow(ax, x - 0.5, x - widths[number] / 2 - 0.03, y)
    total = int(layers["parameters"].sum())
    ax.set(xlim=(-0.55, max(across, 4) - 0.45), ylim=(0.45 - pitch * rows, 0.45))
    ax.set_title(f"{len(layers)} layers, {total:,} parameters", fontsize=16, color="#222222")
    ax.axis("off")
    return ax


def _shape(shape: tuple) -> tuple[int, ...]:
    """Drop the batch axis where it is given."""
    sizes = tuple(shape)
    return sizes[1:] if len(sizes) in (2, 4) and sizes[0] is None else sizes


def _sizes(shapes: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the blocks' heights and widths, in units of the distance between blocks."""
    side = np.log2([1 + (shape[0] or 1) for shape in shapes])
    channels = np.log2([1 + (shape[-1] or 1) for shape in shapes])
    image = np.array([len(shape) == 3 for shape in shapes])
    heights = np.empty(len(shapes))
    for kind in (image, ~image):
        if kind.any():
            heights[kind] = 0.12 + 0.58 * side[kind] / side[kind].max()
    widest = channels[image].max(initial=1)
    return heights, np.where(image, 0.1 + 0.5 * channels / widest, 0.14)


def _describe(layer, shape: tuple[int, ...]) -> str:
    """Return the lines below a block: kind, output shape, parameters."""
    words = str(layer.kind)
    if len(words) > 13:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", words)
    size = "×".join("?" if side is None else f"{side:,}" for side in shape)
    count = f"{int(layer.parameters):,}" if layer.parameters else ""
    return "\n".join([*textwrap.wrap(words, 14), size, count]).rstrip()


def _colour(kind: str) -> str:
    return next(colour for word, colour in KIND_COLOURS if word in str(kind).lower())


def _arrow(ax: Axes, start: float, end: float, y: float) -> None:
    style = {"arrowstyle": "-|>", "color": "#222222", "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (end, y), (start, y), arrowprops=style)
