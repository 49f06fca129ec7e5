"""Plots of generalisation: what each training finds of each generator's fakes."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from w207lib.plotting import style

PHOTOGRAPHS = "photographs"
COLUMNS = ("model", "generator", "family", "seen", "point", "recall_fake", "specificity")
GAP = 0.25
"""Cells between the generators and the photographs."""


def plot_generalisation(
    matrix: pd.DataFrame, point: str = "5 %", *, ax: Axes | None = None
) -> Axes:  # fmt: skip
    """Draw each training's recall of each generator's fakes, and its photographs' accuracy.

    Args:
        matrix: From ``generalisation.matrix``; rows of one training and generator, such as those
            of several seeds, are averaged.
        point: Which operating point of it.

    Returns:
        The axes: trainings down, generators by family across, photographs last. A cell with a
        broken outline is of a family that the training was not shown.

    Raises:
        ValueError: A column is missing, or the matrix has no such point.
    """
    style.require_columns(matrix, COLUMNS)
    rows = matrix[matrix["point"] == point]
    if rows.empty:
        raise ValueError(
            f"matrix: point {point!r} is not in it; there are "
            f"{', '.join(map(repr, matrix['point'].unique())) or 'none'}."
        )
    models = list(rows["model"].unique())
    order = rows[["family", "generator"]].drop_duplicates()
    order = order.sort_values(["family", "generator"], key=lambda names: names.str.lower())
    generators = list(order["generator"])
    recall = rows.pivot_table(index="model", columns="generator", values="recall_fake")
    seen = rows.pivot_table(index="model", columns="generator", values="seen", aggfunc="all")
    real = rows.groupby("model")["specificity"].mean()
    ax = style.new_axes(ax, (3.6 + 1.5 * (len(generators) + 1), 1.9 + 0.7 * len(models)))
    last = len(generators) + GAP
    for down, model in enumerate(models):
        for across, generator in enumerate(generators):
            value = recall.reindex(columns=generators).loc[model, generator]
            _draw_cell(ax, across, down, value, "Oranges")
            if seen.loc[model, generator] == False:  # noqa: E712 (NaN where it was not tested)
                ax.add_patch(_outline((across + 0.05, down + 0.06), 0.9, 0.88))
        _draw_cell(ax, last, down, real[model], "Blues")
    places = [*np.arange(len(generators)) + 0.5, last + 0.5]
    names = [style.spaced(name).replace(" ", "\n") for name in generators]
    ax.set_xticks(places, [*names, PHOTOGRAPHS])
    ax.set_yticks(np.arange(len(models)) + 0.5, models)
    ax.set(xlim=(0, last + 1), ylim=(len(models), 0))
    where = f"at {point} false alarms" if point.endswith("%") else f"at the {point} threshold"
    ax.set(xlabel=f"share called rightly, {where}", ylabel="trained on")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    if not seen.fillna(True).all(axis=None):
        key = Patch(fill=False, edgecolor="black", linestyle="--", linewidth=2.5)
        ax.legend(
            [key], ["family not seen in training"], loc="lower center", bbox_to_anchor=(0.5, 1),
            frameon=False,
        )  # fmt: skip
    return ax


def _outline(corner: tuple[float, float], width: float, height: float) -> Rectangle:
    return Rectangle(
        corner, width, height, fill=False, edgecolor="black", linestyle="--", linewidth=2.5
    )


def _draw_cell(ax: Axes, across: float, down: int, value: float, colours: str) -> None:
    """Draw one cell, its number on it; nothing but a dash where there is none."""
    known = np.isfinite(value)
    # Only the lighter part of the scale, so that dark type can be read on all of it.
    face = mpl.colormaps[colours](0.05 + 0.5 * value) if known else "white"
    ax.add_patch(Rectangle((across, down), 1, 1, facecolor=face, edgecolor="white", linewidth=2))
    text = f"{value:.2f}" if known else "–"
    ax.text(across + 0.5, down + 0.5, text, ha="center", va="center", fontsize=15)
