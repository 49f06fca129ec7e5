"""Figures of an audit: tables in, axes out."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from w207lib.auditing.resampling import FAMILIES
from w207lib.plotting import style
from w207lib.plotting.style import COLOURS
from w207lib.schema import CLASS_NAMES

PROBE_NAMES = {
    "container": "how files are stored", "metadata": "… and their bytes",
    "lowpass": "8 × 8 thumbnail",
}  # fmt: skip
_FAMILY_STYLES = {  # the unscaled are the line itself
    "aliased": ("#7F7F7F", ":"), "antialiased": ("#009E73", "--"), "enlarged": ("#CC79A7", "-."),
}  # fmt: skip


def plot_probes(probes: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw each probe's AUROC with its interval, and where chance lies.

    Args:
        probes: From ``probes.run``; with a column ``data`` a row of points for each data set.
    """
    style.require_columns(probes, ("probe", "auroc", "low", "high"))
    rows = probes.dropna(subset=["auroc"])
    data = rows["data"].unique() if "data" in rows else [""]
    ax = style.new_axes(ax, (8, 1.8 + 0.55 * len(rows)))
    names = [name for name in PROBE_NAMES if name in set(rows["probe"])]
    for i, name in enumerate(data):
        own = rows[rows["data"] == name] if name else rows
        place = own["probe"].map(names.index) + (i - (len(data) - 1) / 2) * 0.22
        errors = np.abs(own[["low", "high"]].to_numpy().T - own["auroc"].to_numpy())
        ax.errorbar(
            own["auroc"], place, xerr=errors, fmt="osD^v"[i % 5], capsize=4, linestyle="none",
            color=style.MODEL_COLOURS[i % len(style.MODEL_COLOURS)], label=name or None,
        )  # fmt: skip
    ax.axvline(0.5, color="#222222", linewidth=1.2, linestyle="--")
    ax.set_yticks(range(len(names)), [PROBE_NAMES[name] for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set(xlabel="AUROC of the guess (0.5: chance)")
    ax.set_xlim(min(0.45, rows["low"].min() - 0.02), max(0.7, rows["high"].max() + 0.02))
    ax.grid(axis="y", visible=False)
    if len(data) > 1:
        style.legend_above(ax, columns=len(data))
    return ax


def plot_spectra(spectra: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how each class's spectrum ends, between the bands of known families of filters.

    Args:
        spectra: The table ``spectra`` of an audit.
    """
    style.require_columns(spectra, ("name", "kind", "frequency", "distance"))
    ax = style.new_axes(ax, (8, 5))
    known = spectra[spectra["kind"] == "filter"]
    known = known.assign(family=known["name"].map(FAMILIES))
    for family, (colour, line) in _FAMILY_STYLES.items():
        own = known[known["family"] == family].groupby("frequency")["distance"]
        if own.ngroups:
            low, high = own.min(), own.max()
            ax.fill_between(low.index, low, high, color=colour, alpha=0.18, linewidth=0)
            ax.plot(low.index, (low + high) / 2, line, color=colour, linewidth=1.5,
                    label=f"{family} (known filters)")  # fmt: skip
    for name in CLASS_NAMES:
        own = spectra[(spectra["kind"] == "class") & (spectra["name"] == name)]
        if len(own):
            ax.plot(own["frequency"], own["distance"], color=COLOURS[name], linewidth=3, label=name)
    ax.axhline(0, color="#222222", linewidth=1)
    ax.set(xlabel="frequency (cycles per pixel)", ylabel="log₁₀ amplitude above the 1/f line")
    ax.set_xlim(0.2, 0.5)
    style.legend_above(ax)
    return ax


def plot_copies(copies: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how many images have copies, exact and near.

    Args:
        copies: ``where`` (a label), ``exact`` and ``near`` (numbers of images).
    """
    style.require_columns(copies, ("where", "exact", "near"))
    ax = style.new_axes(ax, (8, 1.6 + 0.8 * len(copies)))
    place = np.arange(len(copies))
    for (column, label), shift, colour in zip(
        (("exact", "same pixels"), ("near", "near copies")), (-0.2, 0.2),
        ("#222222", "#8B6F00"), strict=True,
    ):  # fmt: skip
        bars = ax.barh(place + shift, copies[column], 0.38, color=colour, label=label)
        ax.bar_label(bars, [f"{n:,}" for n in copies[column]], padding=4, fontsize=13)
    ax.set_yticks(place, copies["where"])
    ax.invert_yaxis()
    ax.set(xlabel="images")
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.16)
    style.legend_above(ax)
    return ax


def save(numbers: dict, tables: dict[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Draw an audit's figures into a folder, those that it has the numbers for.

    Args:
        numbers: Of the audit.
        tables: Likewise.
        folder: Gets ``copies.png``, ``probes.png`` and ``spectra.png``.

    Returns:
        The files.
    """
    style.use_style()
    drawn = {"copies": plot_copies(copies(numbers))}
    if tables["probes"]["auroc"].notna().any():
        drawn["probes"] = plot_probes(tables["probes"])
    if len(tables["spectra"]):
        drawn["spectra"] = plot_spectra(tables["spectra"])
    paths = []
    for name, ax in drawn.items():
        paths.append(Path(folder) / f"{name}.png")
        figure = ax.figure.get_figure(root=True)
        figure.savefig(paths[-1])
        plt.close(figure)
    return paths


def copies(numbers: dict) -> pd.DataFrame:
    """Return the table that ``plot_copies`` draws from an audit's numbers."""
    within = (
        sum(numbers[name].values()) for name in ("exact_duplicates", "near_duplicates_within")
    )
    across = numbers["cross_split_exact_duplicates"], numbers["cross_split_near_duplicates"]
    rows = [
        ("beyond the first within a split", *within),
        ("test images with a copy in train", *across),
    ]
    return pd.DataFrame(rows, columns=["where", "exact", "near"])
