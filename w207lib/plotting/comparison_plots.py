"""Plots of training strategies: learning curves over the number of images, and main effects."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from w207lib import plots
from w207lib.plotting import style
from w207lib.plotting.style import LINE_STYLES, MODEL_COLOURS

START_NAMES = {
    "random": "from random weights", "head": "given weights, head alone trained",
    "transfer": "given weights, all trained",
}  # fmt: skip
_OURS, _RECIPES, _PEERS = ("*", "P", "H"), ("o", "s", "^", "v", "X", ">", "<"), ("D", "d")


def plot_learning_curve(
    curve: pd.DataFrame, metric: str = "roc_auc", *, ax: Axes | None = None
) -> Axes:
    """Draw a metric against the number of training images, a line a start.

    Args:
        curve: From ``transfer.learning_curve``; the mean over seeds is drawn, and each training
            as a dot.
        metric: ``roc_auc`` or ``accuracy``, of the validation split.
    """
    style.require_columns(curve, ("images", "start", metric))
    ax = style.new_axes(ax, (9, 5.2))
    for number, (start, rows) in enumerate(curve.groupby("start", sort=False)):
        colour = MODEL_COLOURS[number % len(MODEL_COLOURS)]
        mean = rows.groupby("images")[metric].mean()
        ax.plot(mean.index, mean, LINE_STYLES[number % len(LINE_STYLES)], color=colour,
                label=START_NAMES.get(start, start))  # fmt: skip
        ax.plot(rows["images"], rows[metric], "o", color=colour)
    sizes = sorted(curve["images"].unique())
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.axhline(0.5, color="grey", linestyle=":", linewidth=2, zorder=0)
    names = {"roc_auc": "validation ROC AUC", "accuracy": "validation accuracy"}
    ax.set(xlabel="training images", ylabel=names.get(metric, style.spaced(metric)))
    style.legend_above(ax, columns=1)
    return ax


def plot_effects(effects: pd.DataFrame) -> Figure:
    """Draw each factor's levels with the spread of their trainings, and what the seed alone does.

    Args:
        effects: From ``experiments.effects``.

    Returns:
        A panel a factor: dots are the means of a level's trainings, bars their standard
        deviation, which holds what the other factors do. The grey band around the grand mean is
        two standard errors of a difference high, as far as the seed makes them: of two levels
        that differ by more than luck, as ``experiments.effects`` says, both lie outside.
    """
    columns = ("factor", "level", "accuracy", "spread", "trainings", "seed_spread")
    style.require_columns(effects, columns)
    factors = list(effects["factor"].unique())
    figure, axes = style.new_grid(1, len(factors), (3.2 * len(factors) + 0.8, 4.4), sharey=True)
    for ax, factor in zip(axes, factors, strict=True):
        rows = effects[effects["factor"] == factor]
        mean, seed = rows["accuracy"].mean(), rows["seed_spread"].iloc[0]
        if np.isfinite(seed):
            error = seed * (2 / rows["trainings"].min()) ** 0.5  # of the difference of two means
            ax.axhspan(mean - error, mean + error, color="lightgrey", zorder=0)
        ax.errorbar(range(len(rows)), rows["accuracy"], yerr=rows["spread"].fillna(0), fmt="o",
                    color="black", markersize=10, capsize=6)  # fmt: skip
        ax.set_xticks(range(len(rows)), rows["level"])
        ax.set_xlim(-0.6, len(rows) - 0.4)
        ax.set_xlabel(style.spaced(factor))
    axes[0].set_ylabel("validation accuracy")
    return figure


def plot_histories(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the accuracy by epoch of each model, side by side on one scale.

    Args:
        histories: Tables as for ``plots.plot_history``, by model.
    """
    across = min(3, len(histories))
    down = -(-len(histories) // across)
    size = (4.8 * across, 4 * down)
    figure, axes = style.new_grid(down, across, size, len(histories), sharey=True)
    for ax, (name, history) in zip(axes, histories.items(), strict=True):
        plots.plot_history(history, "accuracy", ax=ax)
        ax.set_title(name)
        ax.get_legend().remove()
    handles = axes[0].get_legend_handles_labels()[0]
    names = ("training", "validation", "best epoch")
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False)
    return figure


def plot_confusions(confusions: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw a confusion matrix a model, side by side.

    Args:
        confusions: Tables as for ``plots.plot_confusion``, by model.
    """
    across = min(3, len(confusions))
    down = -(-len(confusions) // across)
    figure, axes = style.new_grid(down, across, (4.6 * across, 4.2 * down), len(confusions))
    for ax, (name, table) in zip(axes, confusions.items(), strict=True):
        plots.plot_confusion(table, small=True, ax=ax)
        ax.set_title(name)
    return figure


def plot_accuracy_time(
    trained: pd.DataFrame, peers: pd.DataFrame, *, ax: Axes | None = None
) -> Axes:
    """Draw test accuracy against the minutes of a training, a marker a label.

    Args:
        trained: One row a training: ``label, seconds, accuracy``, and ``ours`` where it is the
            project's own network. Those of one label, which differ in their seed, are joined.
        peers: Of others: ``model, accuracy, seconds``; without seconds it is a line at its
            accuracy.
    """
    style.require_columns(trained, ("label", "seconds", "accuracy", "ours"))
    style.require_columns(peers, ("model", "accuracy", "seconds"))
    ax = style.new_axes(ax, (10.5, 6.6))
    timed = peers.dropna(subset=["seconds"]).assign(label=lambda rows: rows["model"])
    for rows, colour, markers, size in (
        (trained[trained["ours"]], MODEL_COLOURS[1], _OURS, 15),
        (trained[~trained["ours"]], MODEL_COLOURS[0], _RECIPES, 9),
        (timed, MODEL_COLOURS[4], _PEERS, 9),
    ):
        for marker, (label, seeds) in zip(
            itertools.cycle(markers), rows.groupby("label", sort=False), strict=False
        ):
            line = seeds.sort_values("seconds")
            ax.plot(line["seconds"] / 60, line["accuracy"], marker=marker, color=colour,
                    markersize=size, linewidth=1, label=label)  # fmt: skip
    ax.figure.legend(loc="outside upper center", ncols=5, frameon=False, handlelength=1,
                     columnspacing=1.2)  # fmt: skip
    shown = pd.concat([trained, timed])
    longest = shown["seconds"].max() / 60
    ax.set_xscale("log")
    minutes = [t for t in (1, 2, 5, 10, 20, 50, 100, 200) if t < 2 * longest]
    ax.set_xlim(min(1.2, shown["seconds"].min() / 80), 1.5 * longest)
    ax.set_xticks(minutes, [str(t) for t in minutes])
    ax.xaxis.set_minor_locator(NullLocator())
    lines = peers[peers["seconds"].isna()].sort_values("accuracy")
    low, high = ax.get_ylim()
    least, free = (high - low) / 18, -np.inf
    for row in lines.itertuples():
        ax.axhline(row.accuracy, color="grey", linestyle=":", linewidth=1.5, zorder=0)
        free = max(row.accuracy, free + least)  # names that would lie on each other move up
        ax.annotate(row.model, (1.01, free), xycoords=("axes fraction", "data"), va="center",
                    fontsize="small", color="dimgrey", annotation_clip=False)  # fmt: skip
    ax.set(xlabel="minutes of training", ylabel="test accuracy on CIFAKE")
    return ax
