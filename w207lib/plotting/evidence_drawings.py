"""The figures of audits and of the reports' recipes on CIFAKE, from committed tables alone."""

from __future__ import annotations

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from w207lib import config
from w207lib.auditing import audit_page
from w207lib.metrics import comparing
from w207lib.plotting import (
    audit_plots,
    comparison_plots,
    evaluation_plots,
    generalisation_plots,
    style,
)
from w207lib.plotting.drawings import HALF, WIDE, figure

AUDITED = ("sample", "cifake", "photos")
_AUDITS = "results/audit"
_RECIPES = "results/recipes"
_TRAININGS = ("results/compact_training", "results/compact_quick")


def _audited(name: str, table: str) -> pd.DataFrame:
    return pd.read_csv(config.home() / _AUDITS / name / f"{table}.csv")


def _drawn(plot, *arguments, size=HALF, **options) -> Figure:
    drawn, (ax,) = style.new_grid(1, 1, size)
    plot(*arguments, ax=ax, **options)
    return drawn


@figure(*(f"{_AUDITS}/{name}/probes.csv" for name in AUDITED))
def audit_probes() -> Figure:
    """What can be guessed without fine detail, of three data sets."""
    rows = [_audited(name, "probes").assign(data=name) for name in AUDITED]
    return _drawn(audit_plots.plot_probes, pd.concat(rows))


@figure(f"{_AUDITS}/cifake/audit.json")
def audit_copies() -> Figure:
    """Exact and near copies in CIFAKE."""
    text = (config.home() / _AUDITS / "cifake" / audit_page.NUMBERS).read_text(encoding="utf-8")
    return _drawn(audit_plots.plot_copies, audit_plots.copies(json.loads(text)))


@figure(*(f"{_AUDITS}/{name}/spectra.csv" for name in AUDITED))
def audit_spectra() -> Figure:
    """How the classes' spectra end, beside known filters', of three data sets."""
    drawn, axes = style.new_grid(1, 3, (12.2, 5.2), sharey=True)
    for name, ax in zip(AUDITED, axes, strict=True):
        audit_plots.plot_spectra(_audited(name, "spectra"), ax=ax)
        ax.set_title(name)
        ax.get_legend().remove()
        ax.set_xticks([0.2, 0.3, 0.4, 0.5])
    for ax in axes[1:]:
        ax.set_ylabel("")
    handles, labels = axes[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return drawn


@figure(f"{_RECIPES}/evaluation_scores.csv", f"{_RECIPES}/evaluation_points.csv")
def recipes_points() -> Figure:
    """Photographs kept against fakes found, at the frozen threshold and at 1 and 5 %."""
    table = pd.read_csv(config.home() / _RECIPES / "evaluation_points.csv")
    names = ("three_conv", "two_conv", "w207_tuned", "deep_vgg")
    shown = table[table["model"].isin(names)]
    return _drawn(evaluation_plots.plot_operating_points, shown, size=WIDE)


@figure(f"{_RECIPES}/evaluation_reliability.csv")
def recipes_reliability() -> Figure:
    """Scores against shares of fakes, before and after the temperature."""
    table = pd.read_csv(config.home() / _RECIPES / "evaluation_reliability.csv")
    table = table[table["model"].isin(["random_forest", "three_conv"])]
    drawn, axes = style.new_grid(1, 2, WIDE)
    for kind, ax in zip(("as they come", "with temperature"), axes, strict=True):
        evaluation_plots.plot_reliability(table[table["scores"] == kind], ax=ax)
        ax.set_title(kind, pad=40)
    return drawn


@figure(f"{_RECIPES}/evaluation_objects.csv")
def recipes_objects() -> Figure:
    """Photographs kept and fakes found of each of CIFAKE's object classes."""
    table = pd.read_csv(config.home() / _RECIPES / "evaluation_objects.csv")
    best = table[table["model"] == table["model"].iloc[0]]
    return _drawn(evaluation_plots.plot_by_class, best, size=(HALF[0], 5.4))


@figure(f"{_RECIPES}/evaluation_paired.csv")
def recipes_paired() -> Figure:
    """Every recipe's accuracy against that of the one that validation prefers."""
    table = pd.read_csv(config.home() / _RECIPES / "evaluation_paired.csv")
    networks = table[~table["a"].str.contains("dummy|forest|svm")].reset_index(drop=True)
    return _drawn(evaluation_plots.plot_paired, networks)


@figure(f"{_RECIPES}/table.csv")
def recipes_claims() -> Figure:
    """The reports' accuracies beside ours, ours with intervals."""
    return plot_claims(pd.read_csv(config.home() / _RECIPES / "table.csv"))


def plot_claims(table: pd.DataFrame) -> Figure:
    """Draw each recipe's test accuracy beside what its report said.

    Args:
        table: ``recipe, data, test, test_low, test_high, epochs, report, reported_accuracy,
            reported_data, reported_split``; no report: empty.
    """
    drawn, ax = plt.subplots(figsize=(12.2, 1.1 + 0.29 * len(table)), layout="constrained")
    place = np.arange(len(table))
    error = [table["test"] - table["test_low"], table["test_high"] - table["test"]]
    ax.errorbar(table["test"], place, xerr=error, fmt="o", color="black", capsize=5,
                label="measured here, 95 % interval")  # fmt: skip
    ax.plot(
        table["reported_accuracy"], place, "D", color=style.MODEL_COLOURS[2], markersize=9,
        markerfacecolor="none", markeredgewidth=2.2, label="as reported, on its own data",
    )  # fmt: skip
    epochs = table["epochs"].map(lambda n: "" if pd.isna(n) else f", {n:.0f} epoch{'s' * (n > 1)}")
    said = (
        table["report"] + " on " + table["reported_data"] + ", " + table["reported_split"]
    ).fillna("")
    ax.set_yticks(place, table["recipe"] + " on " + table["data"] + epochs)
    right = ax.secondary_yaxis("right")
    right.set_yticks(place, said.fillna(""))
    right.tick_params(length=0)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set(xlabel="accuracy")
    drawn.legend(loc="outside upper center", ncols=2, frameon=False)
    return drawn


@figure("results/generalise/matrix.csv")
def generalise_matrix() -> Figure:
    """What each training finds of each generator's fakes, CIFAKE's and our own."""
    table = pd.read_csv(config.home() / "results" / "generalise" / "matrix.csv")
    return _drawn(generalisation_plots.plot_generalisation, table, size=WIDE)


@figure(
    f"{_RECIPES}/metrics.csv", "data/peers.csv",
    *(f"{folder}/{name}.csv" for folder in _TRAININGS for name in ("metrics", "models")),
)  # fmt: skip
def accuracy_time() -> Figure:
    """Accuracy on CIFAKE against training time: ours, the reports' recipes, and peers."""
    home, tables = config.home(), []
    for folder in (_RECIPES, *_TRAININGS):
        rows = pd.read_csv(home / folder / "metrics.csv").dropna(subset=["parameters"])
        epochs = pd.read_csv(home / folder / "models.csv").set_index("model")["epochs"]
        label, ours = rows["model"].map(comparing.family), folder != _RECIPES
        if ours:
            label += rows["model"].map(epochs).map(", {:.0f} epochs".format)
        tables.append(rows.assign(label=label, ours=ours))
    trained = pd.concat(tables).rename(columns={"test": "accuracy"})
    trained["seconds"] = trained.groupby("label")["seconds"].transform("min")  # least disturbed
    peers = pd.read_csv(home / "data" / "peers.csv")
    return _drawn(comparison_plots.plot_accuracy_time, trained, peers, size=(WIDE[0], 5.6))
