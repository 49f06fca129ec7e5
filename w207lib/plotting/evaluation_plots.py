"""Plots of what a score is worth: calibration, thresholds, classes, pairs of models, seeds.

As in ``plots``: a table in, axes out; nothing is shown or saved. Every bar is a 95 % interval
unless its axis says otherwise.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from w207lib.plotting import style
from w207lib.plotting.style import COLOURS, LINE_STYLES, MODEL_COLOURS
from w207lib.schema import CLASS_NAMES

_KEYS = ("model", "split", "condition")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_CLASS_MARKERS = {"REAL": "o", "FAKE": "D"}
_METRICS = {"REAL": "specificity", "FAKE": "recall_fake"}


def plot_reliability(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the share of FAKE against the mean score; on the dotted line they agree.

    Args:
        table: From ``calibration.reliability``, a curve a model × split × condition. A marker's
            area grows with the number of images in its bin.
    """
    style.require_columns(
        table, (*_KEYS, "score", "share_fake", "share_fake_low", "share_fake_high", "n")
    )
    ax = style.new_axes(ax, (7.5, 7))
    ax.plot([0, 1], [0, 1], ":", color="grey", linewidth=2, zorder=0)
    most = max(table["n"].max(), 1)
    for number, (name, rows) in enumerate(_curves(table)):
        colour, marker = _look(number)
        rows = rows.sort_values("score")
        ax.errorbar(rows["score"], rows["share_fake"], yerr=_bars(rows, "share_fake"),
                    fmt="none", ecolor=colour, elinewidth=1.8, capsize=3)  # fmt: skip
        ax.plot(rows["score"], rows["share_fake"], LINE_STYLES[number % len(LINE_STYLES)],
                color=colour, linewidth=1.8)  # fmt: skip
        ax.scatter(rows["score"], rows["share_fake"], 25 + 110 * rows["n"] / most, color=colour,
                   marker=marker, edgecolor="white", zorder=3)  # fmt: skip
        ax.plot([], [], marker + LINE_STYLES[number % len(LINE_STYLES)], color=colour, label=name)
    ax.set(xlabel="mean score, P(FAKE)", ylabel="share of FAKE among the images", aspect="equal",
           xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))  # fmt: skip
    style.legend_above(ax, columns=1 if _longest(ax) > 28 else 2)
    return ax


def plot_operating_points(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw photographs kept against fakes found, a cross of intervals a threshold.

    Args:
        table: From ``operating.operating_points``, of one split and condition: a colour and a
            kind of line a model, through its thresholds; a marker a threshold, hollow where
            validation has too few photographs for it.
        ax: Where to draw; None for a new figure.
    """
    columns = [f"{name}{end}" for name in _METRICS.values() for end in ("", "_low", "_high")]
    style.require_columns(table, (*_KEYS, "point", "too_few", *columns))
    ax = style.new_axes(ax, (12, 6.5))
    points = list(table["point"].unique())
    for number, (name, rows) in enumerate(_curves(table)):
        colour = MODEL_COLOURS[number % len(MODEL_COLOURS)]
        line = LINE_STYLES[number % len(LINE_STYLES)]  # told apart without colours, too
        path = rows.sort_values("recall_fake")
        ax.plot(path["recall_fake"], path["specificity"], line, color=colour, label=name)
        for row in rows.itertuples():
            ax.errorbar(
                row.recall_fake, row.specificity,
                xerr=[[max(0, row.recall_fake - row.recall_fake_low)],
                      [max(0, row.recall_fake_high - row.recall_fake)]],
                yerr=[[max(0, row.specificity - row.specificity_low)],
                      [max(0, row.specificity_high - row.specificity)]],
                fmt=_MARKERS[points.index(row.point) % len(_MARKERS)], color=colour, markersize=10,
                markerfacecolor="white" if row.too_few else colour, markeredgewidth=2,
                elinewidth=1.8, capsize=4, gid=f"{name} {row.point}",
            )  # fmt: skip
    for place, point in enumerate(points):
        text = point if point == "frozen" else f"{point} false alarms in validation"
        marker = _MARKERS[place % len(_MARKERS)]
        ax.plot([], [], marker, color="#555555", markersize=10, label=f"threshold: {text}")
    if table["too_few"].any():
        ax.plot([], [], "o", color="#555555", markerfacecolor="white", markeredgewidth=2,
                label="hollow: too few photographs in validation")  # fmt: skip
    ax.set(xlabel="fakes found (recall)", ylabel="photographs kept (specificity)")
    _per_cent(ax)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return ax


def plot_by_class(table: pd.DataFrame, *, point: str = "frozen", ax: Axes | None = None) -> Axes:
    """Draw the accuracy of photographs and of fakes for each kind of object shown.

    Args:
        table: From ``operating.operating_points`` by ``object``, of one model, split and condition.
        point: Which threshold's rows.

    Raises:
        ValueError: There is no such point, or more than one model, split or condition.
    """
    columns = [f"{name}{end}" for name in _METRICS.values() for end in ("", "_low", "_high")]
    style.require_columns(table, (*_KEYS, "object", "point", *columns))
    rows = table[table["point"] == point]
    if len(rows[list(_KEYS)].drop_duplicates()) != 1:
        raise ValueError(
            f"plot by class: {len(rows)} rows at point {point!r}, of "
            f"{len(rows[list(_KEYS)].drop_duplicates())} model × split × condition; expected one "
            f"such, at one of {', '.join(map(repr, table['point'].unique()))}."
        )
    value = rows[list(_METRICS.values())].astype(float)
    rows = rows.loc[value.mean(axis=1).sort_values().index]
    ax = style.new_axes(ax, (9, 1.9 + 0.5 * len(rows)))
    place = np.arange(len(rows))
    ends = rows[list(_METRICS.values())].to_numpy(float).T
    ax.plot(ends, [place - 0.13, place + 0.13], color="#BBBBBB", linewidth=4, zorder=1)
    for name, shift in zip(CLASS_NAMES, (-0.13, 0.13), strict=True):
        metric = _METRICS[name]
        ax.errorbar(rows[metric], place + shift, xerr=_bars(rows, metric), capsize=4,
                    fmt=_CLASS_MARKERS[name], color=COLOURS[name], markersize=9, elinewidth=1.8,
                    label=f"actual {name}, called so")  # fmt: skip
    ax.set_yticks(place, rows["object"].astype(str).replace("", "unnamed"))
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set(xlabel="accuracy", ylabel="object")
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.grid(axis="y", visible=False)
    style.legend_above(ax)
    return ax


def plot_paired(table: pd.DataFrame, metric: str = "accuracy", *, ax: Axes | None = None) -> Axes:
    """Draw each pair's difference, right of the line where the second-named is better.

    Args:
        table: From ``comparing.compare``; the corrected p stands at the right.
        metric: ``accuracy`` or ``auc``.

    Raises:
        ValueError: ``metric`` is neither.
    """
    if metric not in ("accuracy", "auc"):
        raise ValueError(f"plot paired: metric={metric!r}; expected 'accuracy' or 'auc'.")
    name, p = ("difference", "p_holm") if metric == "accuracy" else ("auc_difference", "p_auc_holm")
    style.require_columns(table, ("a", "b", name, f"{name}_low", f"{name}_high", p))
    ax = style.new_axes(ax, (10, 1.8 + 0.55 * len(table)))
    place, scale = np.arange(len(table)), 100 if metric == "accuracy" else 1
    ax.errorbar(scale * table[name].astype(float), place, xerr=scale * _bars(table, name), fmt="o",
                color="black", markersize=9, capsize=5)  # fmt: skip
    ax.axvline(0, color="grey", linestyle=":", linewidth=2, zorder=0)
    ax.set_yticks(place, table["b"].astype(str) + " − " + table["a"].astype(str))
    ax.annotate("Holm's p", (1, 1), (8, 0), "axes fraction", fontsize=13, va="bottom",
                textcoords="offset points", annotation_clip=False)  # fmt: skip
    for height, value in zip(place, table[p].astype(float), strict=True):
        text = "no test" if np.isnan(value) else "p < 0.001" if value < 0.001 else f"p {value:.3f}"
        ax.annotate(text, (1, height), (8, 0), ("axes fraction", "data"), fontsize=13, va="center",
                    textcoords="offset points", annotation_clip=False)  # fmt: skip
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_xlabel("difference in accuracy (percentage points)" if scale == 100
                  else "difference in area under the ROC curve")  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.grid(axis="y", visible=False)
    return ax


def _curves(table: pd.DataFrame):
    """Yield each curve's name, its model and whatever else differs, and its rows."""
    shown = ["model", *(name for name in _KEYS[1:] if table[name].nunique() > 1)]
    for key, rows in table.groupby(list(_KEYS), sort=False):
        values = dict(zip(_KEYS, key, strict=True))
        yield " · ".join(str(values[name]) for name in shown), rows


def _look(number: int) -> tuple[str, str]:
    return MODEL_COLOURS[number % len(MODEL_COLOURS)], _MARKERS[number % len(_MARKERS)]


def _bars(rows: pd.DataFrame, name: str) -> np.ndarray:
    """Return the interval's reach below and above its estimate, float ``(2, N)``."""
    value = rows[name].to_numpy(float)
    low, high = (rows[f"{name}_{end}"].to_numpy(float) for end in ("low", "high"))
    return np.vstack([value - low, high - value]).clip(min=0)


def _longest(ax: Axes) -> int:
    return max(map(len, ax.get_legend_handles_labels()[1]), default=0)


def _per_cent(ax: Axes) -> None:
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
