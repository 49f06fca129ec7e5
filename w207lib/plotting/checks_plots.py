"""Plots of checks: which of them finds which mistake, and how far luck reaches."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from w207lib.plotting import style
from w207lib.plotting.style import MODEL_COLOURS

FOUND_COLOURS = ("#F2F2F2", "#56B4E9", "#000000")


def plot_found(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw mistakes against checks; a dark field is a check that found a mistake.

    Args:
        table: One row a mistake, one column a check, with the findings' severities.
    """
    level = {"fine": 0, "note": 0, "warning": 1, "severe": 2}
    values = table.map(level.get).to_numpy(float)
    ax = style.new_axes(ax, (3.4 + 1.5 * table.shape[1], 1.8 + 0.62 * len(table)))
    ax.imshow(values, cmap=ListedColormap(FOUND_COLOURS), vmin=0, vmax=2, aspect="auto")
    for (row, column), text in np.ndenumerate(table.to_numpy()):
        colour = "white" if level[text] == 2 else "#222222"
        ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=13)
    ax.set_xticks(range(table.shape[1]), [style.spaced(name) for name in table.columns])
    ax.set_yticks(range(len(table)), table.index)
    ax.set_xticks(np.arange(table.shape[1] + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(table) + 1) - 0.5, minor=True)
    ax.grid(False)
    ax.grid(which="minor", color="white", linewidth=3)
    ax.tick_params(which="both", length=0)
    ax.xaxis.tick_top()
    ax.spines[:].set_visible(False)
    return ax


def plot_luck(
    table: pd.DataFrame, claimed: float | None = None, *, ax: Axes | None = None
) -> Axes:  # fmt: skip
    """Draw the best accuracy of ever more guessers, with the range of 95 in 100 repetitions.

    Args:
        table: Columns ``tries, accuracy, low, high``.
        claimed: An accuracy to compare with; None for none.
    """
    style.require_columns(table, ("tries", "accuracy", "low", "high"))
    ax = style.new_axes(ax, (8.5, 4.8))
    ax.fill_between(table["tries"], table["low"], table["high"], color="lightgrey",
                    label="95 of 100 repetitions")  # fmt: skip
    ax.plot(table["tries"], table["accuracy"], color=MODEL_COLOURS[0], label="the luckiest, mean")
    if claimed is not None:
        ax.axhline(claimed, color=MODEL_COLOURS[2], linestyle="--", label=f"claimed {claimed:.3f}")
    ax.axhline(0.5, color="grey", linestyle=":", linewidth=2, zorder=0)
    ax.set(xlabel="coin tossers to choose from", ylabel="accuracy where chosen")
    ax.set_xlim(1, table["tries"].max())
    style.legend_above(ax, columns=3)
    return ax
