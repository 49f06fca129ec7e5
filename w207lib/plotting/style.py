"""The colours and the type of every figure, each defined once.

REAL is blue and FAKE is orange everywhere, from the colour-blind-safe palette of Okabe and Ito
(2008); models take others of it, a dark brown and a dark grey, so that a model is never mistaken
for a class. A test holds them apart for each kind of colour blindness.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"REAL": "#0072B2", "FAKE": "#D55E00"}
MODEL_COLOURS = ("#000000", "#009E73", "#CC79A7", "#56B4E9", "#663311", "#555555")
LINE_STYLES = ("-", "--", "-.", ":")


def use_style() -> None:
    """Set the project's rcParams: large type, and dark on opaque white in any notebook theme."""
    dark = "#222222"
    sns.set_theme(style="whitegrid", rc={
        "figure.dpi": 90, "figure.figsize": (8, 5), "figure.constrained_layout.use": True,
        "figure.facecolor": "white", "savefig.facecolor": "white", "axes.facecolor": "white",
        "font.size": 14, "axes.labelsize": 15, "axes.titlesize": 16, "figure.titlesize": 18,
        "xtick.labelsize": 13, "ytick.labelsize": 13, "legend.fontsize": 13,
        "legend.title_fontsize": 13, "lines.linewidth": 2.5, "lines.markersize": 8,
        "text.color": dark, "axes.labelcolor": dark, "axes.titlecolor": dark,
        "xtick.color": dark, "ytick.color": dark, "axes.edgecolor": dark, "grid.color": "#dddddd",
        "axes.spines.top": False, "axes.spines.right": False,
    })  # fmt: skip


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return ``ax``, or the axes of a new white figure of ``size`` inches."""
    return ax or plt.subplots(figsize=size, layout="constrained", facecolor="white")[1]


def new_grid(
    down: int, across: int, size: tuple[float, float], panels: int | None = None, **options
) -> tuple[Figure, np.ndarray]:
    """Return a new white figure of ``size`` inches and its first ``panels`` axes, flat.

    Args:
        down: Rows of panels.
        across: Columns of panels.
        size: Width and height, in inches.
        panels: How many are used; the others are hidden. None for all.
        **options: For ``plt.subplots``.

    Returns:
        The figure, and an object array ``(panels,)`` of axes.
    """
    figure, axes = plt.subplots(down, across, figsize=size, layout="constrained", squeeze=False,
                                facecolor="white", **options)  # fmt: skip
    axes = axes.ravel()
    for ax in axes[panels:] if panels else ():
        ax.set_visible(False)
    return figure, axes[:panels]


def legend_above(ax: Axes, columns: int = 2, title: str | None = None) -> None:
    """Put the legend above the axes, where it hides nothing.

    Args:
        ax: Axes whose artists have labels.
        columns: Entries side by side.
        title: Of the legend; None for none.
    """
    ax.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns, frameon=False, title=title
    )


def spaced(column: str) -> str:
    """Return a column's name as a label."""
    return str(column).replace("_", " ")


def require_columns(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise ValueError where a table lacks a column that a plot needs."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(
            f"plot: column(s) {', '.join(missing)} missing; received "
            f"{', '.join(map(str, table.columns)) or 'none'}, expected {', '.join(columns)}. "
            "Join the missing ones from the manifest, or pass another table."
        )
