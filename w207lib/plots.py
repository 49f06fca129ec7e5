"""Tables in, axes out: ``plot_x(table, *, ax=None) -> Axes``; a grid returns a Figure.

No function shows or saves. Call ``style.use_style()`` once at the top of a notebook. Colours and
type are in ``style``, block diagrams of networks in ``diagrams``, pictures in ``galleries``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from w207lib.plotting import style
from w207lib.plotting.style import COLOURS, LINE_STYLES, MODEL_COLOURS
from w207lib.schema import CLASS_NAMES, LABEL_MAP, SPLITS

HYPERPARAMETERS = (
    "filters_1", "kernel_size_1", "filters_2", "kernel_size_2", "pool_size",
    "dense_layer_units", "learning_rate",
)  # fmt: skip
METRIC_NAMES = {
    "roc_auc": "area under the ROC curve", "recall_fake": "fakes found (recall)",
    "specificity": "photographs kept (specificity)",
}  # fmt: skip
_MARKERS = {"REAL": "o", "FAKE": "D"}


def plot_class_counts(manifest: pd.DataFrame, by: str = "split", *, ax: Axes | None = None) -> Axes:
    """Draw the number of images of each class, for each value of a column.

    Args:
        manifest: With ``class_name`` and ``by``; an empty value is shown as ``none``.
        by: ``split``, ``generator``, ``source``, ``status``, …
    """
    style.require_columns(manifest, ("class_name", by))
    value = manifest[by].astype(str).replace("", "none")
    counts = pd.crosstab(value, manifest["class_name"]).reindex(columns=CLASS_NAMES, fill_value=0)
    first = [name for name in SPLITS if name in counts.index]
    counts = counts.loc[first + [name for name in counts.index if name not in first]]
    ax = style.new_axes(ax, (8, 1.6 + 0.8 * len(counts)))
    place = np.arange(len(counts))
    for name, shift in zip(CLASS_NAMES, (-0.2, 0.2), strict=True):
        bars = ax.barh(place + shift, counts[name], 0.38, color=COLOURS[name], label=name)
        ax.bar_label(bars, [f"{n:,}" if n else "" for n in counts[name]], padding=4, fontsize=13)
    ax.set_yticks(place, counts.index)
    ax.invert_yaxis()
    ax.set(xlabel="images", ylabel=by)
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.16)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    style.legend_above(ax)
    return ax


def plot_dimensions(manifest: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw width against height, one marker a size and class, its area growing with the count.

    Args:
        manifest: With ``width`` and ``height`` in pixels and ``class_name``.
    """
    style.require_columns(manifest, ("width", "height", "class_name"))
    ax = style.new_axes(ax, (8, 6))
    counts = manifest.groupby(["class_name", "width", "height"], as_index=False).size()
    area = 40 + 560 * counts["size"] / max(counts["size"].max(), 2)
    # The larger marker first, so that classes of equal size both show.
    for row in area.sort_values(ascending=False).index:
        name, width, height, _ = counts.loc[row]
        ax.scatter(width, height, area[row], color=COLOURS[name], marker=_MARKERS[name],
                   alpha=0.55, edgecolor="white", gid=name)  # fmt: skip
    for name in [name for name in CLASS_NAMES if (counts["class_name"] == name).any()]:
        ax.scatter([], [], 120, color=COLOURS[name], marker=_MARKERS[name], label=name)
    sizes = counts[["width", "height"]]
    if len(sizes) and sizes.max().max() > 20 * sizes.min().min():
        ax.set(xscale="log", yscale="log")
    else:  # whole pixels, also where all images have one size
        low, high = sizes.min().min(), sizes.max().max()
        room = max(4.0, 0.12 * (high - low))
        ax.set(xlim=(low - room, high + room), ylim=(low - room, high + room))
    ax.set_aspect("equal", adjustable="datalim")
    side = manifest["height"].median()  # within the data, so that the line moves no limit
    dotted: dict = {"color": "grey", "linestyle": ":", "linewidth": 1.5, "zorder": 0}
    ax.axline((side, side), (1.001 * side, 1.001 * side), **dotted)
    ax.set(xlabel="width (pixels)", ylabel="height (pixels)")
    style.legend_above(ax, title="dotted: square · area: images")
    return ax


def plot_box(statistics: pd.DataFrame, column: str = "median", *, ax: Axes | None = None) -> Axes:
    """Draw a box plot of one image statistic by class; whiskers reach 1.5 interquartile ranges.

    Args:
        statistics: One row an image, with ``class_name`` and ``column``.
        column: A statistic of ``features.STATISTICS``.
    """
    style.require_columns(statistics, ("class_name", column))
    ax = style.new_axes(ax, (7, 5))
    values = [statistics.loc[statistics["class_name"] == n, column].dropna() for n in CLASS_NAMES]
    dark = {"color": "#222222", "linewidth": 2}
    boxes = ax.boxplot(
        values, widths=0.5, patch_artist=True, tick_labels=CLASS_NAMES,
        medianprops={"color": "black", "linewidth": 3}, whiskerprops=dark, capprops=dark,
        flierprops={"marker": ".", "markeredgecolor": "#222222", "alpha": 0.5},
    )  # fmt: skip
    for box, name in zip(boxes["boxes"], CLASS_NAMES, strict=True):
        box.set(facecolor=COLOURS[name], edgecolor="#222222", linewidth=2)
    ax.grid(axis="x", visible=False)
    ax.set(xlabel="", ylabel=_with_unit(column))
    return ax


def plot_distributions(statistics: pd.DataFrame, columns: Sequence[str]) -> Figure:
    """Draw a histogram by class of each statistic; each class's area is 1.

    Args:
        statistics: One row an image, with ``class_name`` and ``columns``.
        columns: Statistics of ``features.STATISTICS``, in grey levels, one panel each.
    """
    style.require_columns(statistics, ("class_name", *columns))
    across = min(4, len(columns))
    down = -(-len(columns) // across)
    figure, axes = style.new_grid(down, across, (3.9 * across, 3.2 * down + 0.5), len(columns))
    for ax, column in zip(axes, columns, strict=True):
        edges = np.histogram_bin_edges(statistics[column].dropna(), 24)
        for name, rows in statistics.groupby("class_name"):
            ax.hist(rows[column].dropna(), edges, density=True, histtype="stepfilled", alpha=0.45,
                    color=COLOURS[name], edgecolor=COLOURS[name], linewidth=2)  # fmt: skip
        ax.set(xlabel=_with_unit(column), yticks=[])
    for ax in axes[::across]:
        ax.set_ylabel("density")
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[name], alpha=0.6) for name in CLASS_NAMES]
    figure.legend(handles, CLASS_NAMES, loc="outside upper center", ncols=2)
    return figure


def plot_correlation(
    statistics: pd.DataFrame, columns: Sequence[str], *, ax: Axes | None = None
) -> Axes:
    """Draw Pearson's correlation between image statistics; a constant statistic has none.

    Args:
        statistics: One row an image, with numeric ``columns``.
        columns: Two or more.
    """
    style.require_columns(statistics, columns)
    ax = style.new_axes(ax, (3.2 + 0.85 * len(columns), 2 + 0.7 * len(columns)))
    table = statistics[list(columns)].corr().round(2) + 0.0  # no "-0.00"
    table = table.rename(style.spaced, axis=0).rename(style.spaced, axis=1)
    sns.heatmap(table, vmin=-1, vmax=1, cmap="vlag", annot=True, fmt=".2f", ax=ax,
                annot_kws={"size": 12}, cbar_kws={"label": "Pearson correlation"})  # fmt: skip
    ax.set_facecolor("#EEEEEE")
    ax.grid(False)
    ax.set_xticklabels(ax.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    return ax


def plot_mean_spectrum(spectra: Mapping[str, np.ndarray]) -> Figure:
    """Draw the classes' mean spectra on one scale, and their difference.

    Args:
        spectra: float ``(S, S)`` for REAL and for FAKE, as ``features.log_spectrum`` gives them.

    Raises:
        ValueError: A class is missing.
    """
    if set(spectra) != set(CLASS_NAMES):
        raise ValueError(f"spectra: received {sorted(spectra)}; expected REAL and FAKE.")
    difference = spectra["FAKE"] - spectra["REAL"]
    low, high = np.min(list(spectra.values())), np.max(list(spectra.values()))
    limit = float(np.abs(difference).max()) or 1.0
    figure, axes = style.new_grid(1, 3, (15, 4.8))
    extent = (-0.5, 0.5, 0.5, -0.5)
    for ax, name in zip(axes, CLASS_NAMES, strict=False):
        image = ax.imshow(spectra[name], vmin=low, vmax=high, cmap="magma", extent=extent)
        ax.set_title(name, color=COLOURS[name], fontweight="bold")
    figure.colorbar(image, ax=axes[:2], label="log₁₀(1 + amplitude)", shrink=0.85)
    image = axes[2].imshow(difference, vmin=-limit, vmax=limit, cmap="RdBu_r", extent=extent)
    axes[2].set_title("FAKE − REAL")
    figure.colorbar(image, ax=axes[2], label="difference", shrink=0.85)
    for ax in axes:
        ax.set(xlabel="cycles per pixel", xticks=[-0.5, 0, 0.5], yticks=[-0.5, 0, 0.5])
        ax.grid(False)
    axes[0].set_ylabel("cycles per pixel")
    return figure


def plot_radial_profile(profiles: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw each class's spectrum, averaged over rings of equal frequency.

    Args:
        profiles: Columns ``frequency`` (cycles per pixel, 0 to 0.5), ``class_name``, ``power``.
    """
    style.require_columns(profiles, ("frequency", "class_name", "power"))
    ax = style.new_axes(ax, (8, 5))
    styles = {"REAL": "-", "FAKE": "--"}
    for name, rows in profiles.groupby("class_name", sort=False):
        rows = rows.sort_values("frequency")
        ax.plot(rows["frequency"], rows["power"], styles[name], color=COLOURS[name], label=name)
    ax.set(xlabel="frequency (cycles per pixel)", ylabel="mean log₁₀(1 + amplitude)")
    ax.legend()
    return ax


def plot_history(history: pd.DataFrame, metric: str = "loss", *, ax: Axes | None = None) -> Axes:
    """Draw a metric by epoch in training and validation, and mark validation's best epoch.

    Args:
        history: One row an epoch; columns ``metric`` and, where validated, ``val_<metric>``;
            ``epoch`` if there, counted from 0 or 1. Drawn from 1.
        metric: Best is lowest where the name holds ``loss`` or ``error``, else highest.
    """
    style.require_columns(history, (metric,))
    ax = style.new_axes(ax, (8, 5))
    epoch = history.get("epoch", pd.Series(range(len(history)), index=history.index)).to_numpy()
    epoch = epoch + 1 if len(epoch) and epoch.min() == 0 else epoch
    ax.plot(epoch, history[metric], "o--", color=MODEL_COLOURS[5], label="training")
    validation = history.get(f"val_{metric}")
    if validation is not None and validation.notna().any():
        ax.plot(epoch, validation, "o-", color=MODEL_COLOURS[1], label="validation")
        value = validation.to_numpy(float)
        lower = "loss" in metric or "error" in metric
        best = np.nanargmin(value) if lower else np.nanargmax(value)
        ax.plot(epoch[best], value[best], "*", color="black", markersize=20, zorder=3,
                label=f"best: epoch {epoch[best]}, {value[best]:.3f}")  # fmt: skip
    ax.set(xlabel="epoch", ylabel=style.spaced(metric))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(epoch) == 1:
        ax.set_xticks(epoch)
    ax.legend()
    return ax


def plot_confusion(confusion: pd.DataFrame, *, small: bool = False, ax: Axes | None = None) -> Axes:
    """Draw a confusion matrix: counts, and per cent of the actual class.

    Args:
        confusion: int ``(2, 2)`` as ``evaluate.confusion`` gives it.
        small: Smaller type and no colour bar, for a panel among others.

    Raises:
        ValueError: The table has another shape.
    """
    if confusion.shape != (2, 2):
        raise ValueError(f"confusion: shape {confusion.shape}; expected (2, 2), from evaluate.")
    ax = style.new_axes(ax, (6.4, 5))
    counts = confusion.to_numpy()
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.full((2, 2), np.nan), where=total > 0)
    text = [[f"{n:,}\n" + ("–" if np.isnan(s) else f"{s:.1%}") for n, s in zip(*row, strict=True)]
            for row in zip(counts, share, strict=True)]  # fmt: skip
    sns.heatmap(np.nan_to_num(100 * share), vmin=0, vmax=100, cmap="Greys", annot=np.array(text),
                fmt="", annot_kws={"size": 13 if small else 18}, square=True, linewidths=2,
                ax=ax, cbar=not small, cbar_kws={"label": "% of the actual class"})  # fmt: skip
    ax.set(xlabel="predicted", ylabel="actual")
    ax.set_xticklabels(CLASS_NAMES)
    ax.set_yticklabels(CLASS_NAMES, rotation=90, va="center")
    for label in (*ax.get_xticklabels(), *ax.get_yticklabels()):
        label.set(color=COLOURS[label.get_text()], fontweight="bold", fontsize=15)
    return ax


def plot_roc(curves: pd.DataFrame | Mapping[str, pd.DataFrame], *, ax: Axes | None = None) -> Axes:
    """Draw ROC curves, the area under each in the legend; dotted is chance.

    Args:
        curves: As ``evaluate.roc_curve`` gives them, or one such table by model.
    """
    ax = style.new_axes(ax, (7.5, 6.5))
    x, y = "false_positive_rate", "true_positive_rate"
    for line, model, rows in _by_model(curves, (x, y)):
        area = np.trapezoid(rows[y], rows[x])
        ax.plot(rows[x], rows[y], **line, label=f"{model}, AUC {area:.3f}")
    ax.plot([0, 1], [0, 1], ":", color="grey", linewidth=1.5)
    ax.set(xlabel="photographs called FAKE (false positive rate)", xlim=(-0.01, 1.01))
    ax.set(ylabel="fakes found (true positive rate)", ylim=(-0.01, 1.01), aspect="equal")
    ax.legend(loc="lower right")
    return ax


def plot_precision_recall(
    curves: pd.DataFrame | Mapping[str, pd.DataFrame], *, ax: Axes | None = None
) -> Axes:
    """Draw precision-recall curves, the average precision in the legend; dotted is chance.

    Args:
        curves: As ``evaluate.pr_curve`` gives them (recall falling), or one such table by model.
    """
    ax = style.new_axes(ax, (7.5, 6))
    for line, model, rows in _by_model(curves, ("recall", "precision")):
        average = -np.sum(np.diff(rows["recall"]) * rows["precision"].to_numpy()[:-1])
        ax.step(rows["recall"], rows["precision"], where="post", **line,
                label=f"{model}, AP {average:.3f}")  # fmt: skip
        ax.axhline(rows["precision"].iloc[0], color="grey", linestyle=":", linewidth=1.5, zorder=0)
    ax.set(xlabel="fakes found (recall)", ylabel="fakes among those called FAKE (precision)",
           xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))  # fmt: skip
    ax.legend(loc="lower left")
    return ax


def plot_interval_comparison(
    scores: pd.DataFrame, metric: str = "accuracy", *, ax: Axes | None = None
) -> Axes:
    """Draw each row's metric with its 95 % interval, on a line at one half.

    Args:
        scores: As ``evaluate.score`` gives them, one row a dot. A row's name is its model, and
            whichever of split, condition, generator and further text columns differ.
        metric: One with an interval: ``accuracy``, ``recall_fake``, ``specificity``, ``roc_auc``.
    """
    low, high = f"{metric}_low", f"{metric}_high"
    style.require_columns(scores, ("model", metric, low, high))
    text = scores.drop(columns="model").select_dtypes(exclude="number")
    varying = ["model", *(name for name in text if text[name].nunique(dropna=False) > 1)]
    names = scores[varying].astype(str).agg(" · ".join, axis=1)
    ax = style.new_axes(ax, (9, 1.5 + 0.55 * len(scores)))
    place, value = np.arange(len(scores)), scores[metric].to_numpy(float)
    error = np.vstack([value - scores[low], scores[high] - value]).clip(min=0)
    ax.errorbar(value, place, xerr=error, fmt="o", color="black", markersize=10, capsize=6)
    ax.axvline(0.5, color="grey", linestyle=":", linewidth=2, zorder=0)
    ax.set_yticks(place, names)
    ax.set_ylim(len(scores) - 0.5, -0.5)
    ax.set(xlabel=f"{METRIC_NAMES.get(metric, style.spaced(metric))} and 95 % interval")
    return ax


def plot_score_histogram(
    predictions: pd.DataFrame, threshold: float, *, ax: Axes | None = None
) -> Axes:
    """Draw the scores of each class, and the threshold.

    Args:
        predictions: Rows of one model, split and condition.
        threshold: In [0, 1].
    """
    style.require_columns(predictions, ("label", "score"))
    ax = style.new_axes(ax, (8, 5))
    bins = np.linspace(0, 1, 41).tolist()
    for name in CLASS_NAMES:
        value = predictions.loc[predictions["label"] == LABEL_MAP[name], "score"]
        ax.hist(value, bins, histtype="stepfilled", alpha=0.5, linewidth=2,
                color=COLOURS[name], edgecolor=COLOURS[name], label=f"actual {name}")  # fmt: skip
    ax.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.3f}")
    ax.set(xlabel="score, P(FAKE)", ylabel="images", xlim=(0, 1))
    style.legend_above(ax, columns=3)
    return ax


def plot_trials(trials: pd.DataFrame) -> Figure:
    """Draw a search's score against each hyperparameter, and in the order of the trials.

    Args:
        trials: One row a trial, with ``trial``, ``score`` (validation accuracy; NaN where the
            trial failed) and ``HYPERPARAMETERS``, one panel each.
    """
    style.require_columns(trials, ("trial", "score", *HYPERPARAMETERS))
    trials = trials.reset_index(drop=True)
    panels = [*HYPERPARAMETERS, "trial"]
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    size = (3.9 * across, 3.4 * down + 0.4)
    figure, axes = style.new_grid(down, across, size, len(panels), sharey=True)
    best = trials.loc[trials["score"].idxmax()] if trials["score"].notna().any() else None
    for ax, column in zip(axes, panels, strict=True):
        place = pd.to_numeric(trials[column])
        ax.plot(place, trials["score"], "o", color=MODEL_COLOURS[1], alpha=0.65)
        if best is not None:
            ax.plot(place[best.name], best["score"], "*", color="black", markersize=20,
                    label=f"best: trial {best['trial']}, {best['score']:.3f}")  # fmt: skip
        if column == "learning_rate":
            ax.set_xscale("log")
        elif place.nunique() <= 6:
            ax.set_xticks(sorted(place.unique()))
        ax.set_xlabel(style.spaced(column))
        ax.margins(0.12)
    figure.supylabel("validation accuracy", fontsize=15)
    if best is not None:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center")
    return figure


def _by_model(curves: pd.DataFrame | Mapping[str, pd.DataFrame], columns: tuple[str, ...]):
    """Yield line style, model and rows of each curve."""
    if isinstance(curves, Mapping):
        curves = pd.concat([table.assign(model=model) for model, table in curves.items()])
    style.require_columns(curves, ("model", *columns))
    for number, (model, rows) in enumerate(curves.groupby("model", sort=False)):
        colour = MODEL_COLOURS[number % len(MODEL_COLOURS)]
        line = LINE_STYLES[(number + number // len(MODEL_COLOURS)) % len(LINE_STYLES)]
        yield {"color": colour, "linestyle": line}, model, rows


def _with_unit(column: str) -> str:
    return style.spaced(column) + (" (ratio)" if column == "max_over_min" else " (grey level)")
