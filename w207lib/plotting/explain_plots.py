"""Maps of evidence over their pictures, and what is left in bands of frequency.

Maps are drawn in ``inferno``, which grows evenly in brightness and is read by colour-blind eyes.
No function shows or saves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from w207lib import features, plots
from w207lib.plotting import style
from w207lib.schema import CLASS_NAMES

COLOUR_MAP = "inferno"
STRENGTH = 0.75
"""Share of the map's colour where a map is highest; where it is 0, the picture shows alone."""


def overlay(image: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Lay a map over its picture.

    Args:
        image: uint8 ``(H, W, 3)``.
        evidence: float ``(H, W)``. What is below 0 counts as 0; the rest is divided by its
            largest value, so colours compare places of one picture, not pictures.

    Returns:
        uint8 ``(H, W, 3)``: the picture in grey, towards the map's colours where evidence is.

    Raises:
        ValueError: Picture and map do not fit together.
    """
    image, evidence = np.asarray(image), np.asarray(evidence, float)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape != (*evidence.shape, 3):
        raise ValueError(
            f"overlay: a picture {image.dtype} {image.shape} and a map {evidence.shape} came; "
            "expected uint8 (H, W, 3) and (H, W)."
        )
    heat = np.clip(evidence, 0, None)
    heat = heat / (heat.max() or 1)
    grey = features.grey(image)[..., None].astype(float)
    colours = plt.get_cmap(COLOUR_MAP)(heat)[..., :3] * 255
    share = STRENGTH * heat[..., None] ** 0.5  # the root lets weaker places show as well
    return np.rint(grey * (1 - share) + colours * share).astype(np.uint8)


def plot_heat_maps(
    images: Sequence[np.ndarray], maps: Mapping[str, np.ndarray], captions: Sequence[str]
) -> Figure:
    """Draw pictures in a row, and below each what every method says of it.

    Args:
        images: uint8 ``(H, W, 3)`` each.
        maps: By the method's name, float ``(N, H, W)``, a row each; scaled picture by picture.
        captions: One above each picture; it has its class's colour where it starts with ``REAL``
            or ``FAKE``, followed by a comma or nothing.

    Returns:
        The figure.

    Raises:
        ValueError: There is no picture or no map, or their numbers or sizes differ.
    """
    counts = {name: len(rows) for name, rows in maps.items()}
    if not len(images) or not maps or {len(captions), *counts.values()} != {len(images)}:
        raise ValueError(
            f"heat maps: {len(images)} pictures, {len(captions)} captions and maps {counts} came; "
            "expected at least one picture, and a caption and a map of each method for each."
        )
    rows = {"picture": images}
    for name, own in maps.items():
        rows[name] = [overlay(image, one) for image, one in zip(images, own, strict=True)]
    size = (1.9 * len(images) + 1.6, 1.95 * len(rows) + 0.6)
    figure, axes = style.new_grid(len(rows), len(images), size)
    axes = axes.reshape(len(rows), -1)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for ax, picture in zip(line, pictures, strict=True):
            ax.imshow(picture, interpolation="nearest")
            _bare(ax)
        line[0].set_ylabel(name, fontsize=14)
    for ax, caption in zip(axes[0], captions, strict=True):
        colour = style.COLOURS.get(caption.partition(",")[0], "#222222")
        ax.set_title(caption, fontsize=14, color=colour)
    bar = figure.colorbar(
        ScalarMappable(cmap=COLOUR_MAP), ax=axes[1:].ravel().tolist(), ticks=[0, 1], pad=0.02
    )
    bar.ax.set_yticklabels(["none", "most"])
    bar.set_label("evidence", labelpad=-20)
    return figure


def plot_mean_maps(means: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw mean maps by class: a row a method, a column a class, one scale a method.

    Args:
        means: By the method's name, what ``maps.mean_by_class`` gives.

    Raises:
        ValueError: There is no map of either class.
    """
    names = [name for name in CLASS_NAMES if any(name in mean for mean in means.values())]
    if not names:
        raise ValueError(f"mean maps: received {dict(means)}; expected maps of REAL or FAKE.")
    figure, axes = style.new_grid(
        len(means), len(names), (4.2 * len(names) + 1, 3.9 * len(means) + 0.3)
    )
    axes = axes.reshape(len(means), -1)
    for line, (method, mean) in zip(axes, means.items(), strict=True):
        limits = np.min([*mean.values()]), np.max([*mean.values()])
        for ax, name in zip(line, names, strict=True):
            picture = ax.imshow(mean[name], vmin=limits[0], vmax=limits[1], cmap=COLOUR_MAP)
            _bare(ax)
            if ax in axes[0]:
                ax.set_title(name, color=style.COLOURS[name], fontweight="bold")
        line[0].set_ylabel(method)
        figure.colorbar(picture, ax=line.tolist(), label="mean share of the maximum")
    return figure


def plot_radial_bands(
    profiles: pd.DataFrame,
    bands: Mapping[str, tuple[float, float]] = features.BANDS,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw each class's spectrum by frequency, with the bands shaded.

    Args:
        profiles: As for ``plots.plot_radial_profile``.
        bands: By name, the lowest frequency and the one after the highest, in cycles per pixel.
    """
    ax = plots.plot_radial_profile(profiles, ax=ax)
    end = profiles["frequency"].max()
    for number, (name, (low, high)) in enumerate(bands.items()):
        if low < end:
            high = min(high, end)
            ax.axvspan(low, high, color="#E3E3E3" if number % 2 else "#F5F5F5", zorder=0)
            ax.text((low + high) / 2, 0.03, name, transform=ax.get_xaxis_transform(),
                    ha="center", fontsize=13)  # fmt: skip
    ax.grid(axis="x", visible=False)
    ax.set_xlim(0, end)
    style.legend_above(ax)
    return ax


def plot_band_scores(
    scores: pd.DataFrame,
    bands: Mapping[str, tuple[float, float]] = features.BANDS,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw accuracy and AUC by condition, with 95 % intervals, on a line at one half.

    Args:
        scores: Rows of one model and split from ``evaluate.score``, one a condition.
        bands: By name, their limits, to name the conditions ``band:<low>-<high>``.

    Raises:
        ValueError: A column is missing, or a condition occurs twice.
    """
    columns = [f"{m}{end}" for m in ("accuracy", "roc_auc") for end in ("", "_low", "_high")]
    style.require_columns(scores, ("condition", *columns))
    if scores["condition"].duplicated().any():
        raise ValueError("band scores: a condition occurs twice; keep one model and one split.")
    ax = style.new_axes(ax, (8, 5))
    marks = {"roc_auc": ("s", 1, "AUC"), "accuracy": ("o", 0, "accuracy, threshold as it was")}
    for shift, (metric, (mark, colour, label)) in zip((-0.1, 0.1), marks.items(), strict=True):
        value = scores[metric].to_numpy(float)
        error = np.vstack([value - scores[f"{metric}_low"], scores[f"{metric}_high"] - value])
        place = np.arange(len(scores)) + shift
        ax.errorbar(place, value, yerr=error.clip(min=0), fmt=mark, markersize=9, capsize=5,
                    color=style.MODEL_COLOURS[colour], label=label)  # fmt: skip
    ax.axhline(0.5, color="grey", linestyle=":", linewidth=2, zorder=0)
    names = {f"band:{low:.2f}-{high:.2f}": f"{name}\n{low:g} to {high:g}"
             for name, (low, high) in bands.items()}  # fmt: skip
    ax.set_xticks(range(len(scores)), [names.get(c, c) for c in scores["condition"]])
    ax.set(xlabel="what is left (cycles per pixel)", ylabel="score and 95 % interval",
           ylim=(-0.02, 1.02))  # fmt: skip
    ax.grid(axis="x", visible=False)
    style.legend_above(ax)
    return ax


def _bare(ax: Axes) -> None:
    """Take ticks, grid and frame away from a picture."""
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
