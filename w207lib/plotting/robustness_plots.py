"""Figures of how a model holds under changes and attacks: tables in, axes out, as in ``plots``."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from w207lib.perturb import FAMILIES
from w207lib.plotting import style
from w207lib.plotting.style import COLOURS, LINE_STYLES, MODEL_COLOURS

ATTACKS = {"random": "random signs (control)", "fgsm": "FGSM, one step", "pgd": "PGD, many steps"}
_CLASSES = (("REAL", "specificity", "o-"), ("FAKE", "recall_fake", "D--"))
_MARKERS = ("o", "s", "D", "^", "v", "P")


def plot_strengths(table: pd.DataFrame) -> Figure:
    """Draw the shares classified correctly of each class, against each change's strength.

    Dotted are the clean images; the stronger change lies to the right, where there is one side.

    Args:
        table: As ``robustness.summary`` gives it, one model and split; rows of other conditions
            than single changes are left out, but for ``clean``.

    Raises:
        ValueError: A column is missing, or there is no row of a single change.
    """
    style.require_columns(table, ("family", "strength", "specificity", "recall_fake"))
    clean = _clean(table)
    families = [name for name in FAMILIES if name in set(table["family"])]
    if not families:
        raise ValueError(
            f"plot: no row is of a family {', '.join(FAMILIES)}; score such conditions first, for "
            "instance perturb.CONDITIONS."
        )
    across = min(4, len(families))
    down = -(-len(families) // across)
    size = (3.9 * across, 3.3 * down + 0.6)
    figure, axes = style.new_grid(down, across, size, len(families), sharey=True)
    # Else one panel's last tick meets the next's first.
    figure.set_layout_engine("constrained", w_pad=0.12)
    for ax, name in zip(axes, families, strict=True):
        family = FAMILIES[name]
        rows = table[table["family"] == name]
        if family.neutral is not None:
            rows = pd.concat([rows, clean.to_frame().T.assign(strength=family.neutral)])
        rows = rows.sort_values("strength")
        for actual, column, line in _CLASSES:
            ax.axhline(clean[column], color=COLOURS[actual], linestyle=":", linewidth=1.5)
            value = rows[["strength", column]].astype(float).to_numpy().T
            ax.plot(*value, line, color=COLOURS[actual], label=f"actual {actual}")
        if family.falling:
            ax.invert_xaxis()
        ax.set_xlabel(family.label)
    _as_share(axes[0])
    figure.supylabel("classified correctly", fontsize=15)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def plot_attacks(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the accuracy against the size of attacks and of their control; dotted is chance.

    Args:
        table: As ``robustness.summary`` gives it, one model and split, with ``clean``.
    """
    style.require_columns(table, ("family", "strength", "accuracy"))
    clean = _clean(table)["accuracy"]
    ax = style.new_axes(ax, (8, 5))
    for number, (family, label) in enumerate(ATTACKS.items()):
        rows = table[table["family"] == family].sort_values("strength")
        if rows.empty:
            continue
        line = _MARKERS[number] + LINE_STYLES[number]
        ax.plot([0, *rows["strength"]], [clean, *rows["accuracy"]], line,
                color=MODEL_COLOURS[number], label=label)  # fmt: skip
    ax.axhline(0.5, color="grey", linestyle=":", linewidth=1.5, zorder=0)
    ax.set(xlabel="largest change of a value, ε in grey levels of 255", ylabel="accuracy")
    _as_share(ax)
    style.legend_above(ax, columns=3)
    return ax


def plot_against(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw, for each training, the accuracy on each condition with its 95 % interval.

    Args:
        table: Columns ``trained_against, condition, accuracy, accuracy_low, accuracy_high``.
    """
    style.require_columns(
        table, ("trained_against", "condition", "accuracy", "accuracy_low", "accuracy_high")
    )
    trainings, conditions = (list(table[c].unique()) for c in ("trained_against", "condition"))
    ax = style.new_axes(ax, (9, 1.9 + 0.3 * len(trainings) * len(conditions)))
    shifts = np.linspace(-0.3, 0.3, len(conditions)) if len(conditions) > 1 else [0]
    for number, (condition, shift) in enumerate(zip(conditions, shifts, strict=True)):
        rows = table[table["condition"] == condition]
        value = rows["accuracy"].to_numpy(float)
        error = np.vstack([value - rows["accuracy_low"], rows["accuracy_high"] - value])
        place = [trainings.index(name) + shift for name in rows["trained_against"]]
        ax.errorbar(
            value, place, xerr=error.clip(min=0), fmt=_MARKERS[number % len(_MARKERS)],
            color=MODEL_COLOURS[number % len(MODEL_COLOURS)], markersize=10, capsize=4,
            elinewidth=1.5, label=condition,
        )  # fmt: skip
    ax.axvline(0.5, color="grey", linestyle=":", linewidth=1.5, zorder=0)
    ax.set_yticks(range(len(trainings)), trainings)
    ax.set_ylim(len(trainings) - 0.5, -0.5)
    ax.set(xlabel="accuracy and 95 % interval", ylabel="trained against")
    style.legend_above(ax, columns=len(conditions), title="tested on")
    return ax


def _clean(table: pd.DataFrame) -> pd.Series:
    rows = table[table["family"] == "clean"]
    if len(rows) != 1:
        raise ValueError(
            f"plot: {len(rows)} rows have family 'clean'; expected one. Score the condition "
            "'clean' too, and keep one model and one split."
        )
    return rows.iloc[0]


def _as_share(ax: Axes) -> None:
    ax.set_ylim(-0.05, 1.05)  # a marker at the end is whole
    ax.yaxis.set_major_formatter(PercentFormatter(1))
