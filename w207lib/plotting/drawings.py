"""The figures of the slides: one function each, under ``@figure``, from committed files alone.

Large type, sized for half a slide or a whole one. Pictures are the embedded sample's alone.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nbformat
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from w207lib import clean, config, datasets, evaluate, features, manifest, plots, schema
from w207lib.plotting import comparison_plots, explain_plots, galleries, robustness_plots, style
from w207lib.reading import images

HALF, WIDE = (7.4, 4.8), (12.2, 4.9)
"""Inches; a slide is 13.3 wide, so type appears there at about its own size."""
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
                 "truck")  # fmt: skip
"""CIFAKE's file names say them: ``12.jpg`` is the first, ``12 (2).jpg`` the second."""
_SAMPLE = "data/sample/images"
_CURVES = ("random_forest", "svm", "w207_simple", "w207_tuned")


class Drawing(NamedTuple):
    """A registered function, the files it draws from, and whether it takes a run's folder."""

    function: Callable[..., Figure | bytes]
    sources: tuple[str, ...]
    of_run: bool
    needs: tuple[str, ...]


DRAWINGS: dict[str, Drawing] = {}


def figure(*sources: str, of_run: bool = False, needs: tuple[str, ...] = ()):
    """Register a function as a figure of its name.

    Args:
        *sources: What it is drawn from: globs relative to the project, or, of a run, files in
            its folder of ``results/``.
        of_run: The function takes that folder.
        needs: Files of the folder without which there is no such figure, though it is not drawn
            from them: a run of notebooks 01 to 06 has ``metrics.csv``.
    """

    def register(function: Callable) -> Callable:
        DRAWINGS[function.__name__] = Drawing(function, sources, of_run, needs)
        return function

    return register


def _half(plot: Callable, *arguments, **options) -> Figure:
    drawn, (ax,) = style.new_grid(1, 1, HALF)
    plot(*arguments, ax=ax, **options)
    return drawn


def _wide(drawn: Figure) -> Figure:
    drawn.set_size_inches(WIDE)
    return drawn


# --- the embedded sample -----------------------------------------------------------------------


def _sample() -> tuple[datasets.Dataset, pd.DataFrame]:
    dataset = datasets.locate("sample")
    return dataset, manifest.usable(clean.mark(manifest.load(dataset)))


@figure(_SAMPLE)
def sample_counts() -> Figure:
    """Images of each class and split."""
    return _half(plots.plot_class_counts, _sample()[1])


@figure(_SAMPLE)
def sample_dimensions() -> Figure:
    """Width against height."""
    drawn = _half(plots.plot_dimensions, _sample()[1])
    for axis in (drawn.axes[0].xaxis, drawn.axes[0].yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return drawn


@figure(_SAMPLE)
def sample_brightness() -> Figure:
    """Median grey level by class."""
    dataset, table = _sample()
    measured = manifest.statistics(dataset).merge(table[["path", "class_name"]], on="path")
    return _half(plots.plot_box, measured)


@figure(_SAMPLE)
def sample_pairs() -> Figure:
    """A photograph's crop of much contrast, above such a fake of the same photograph."""
    dataset, table = _sample()
    square = table[table["width"] == table["height"]]
    measured = square.merge(manifest.statistics(dataset), on="path")
    one = measured.sort_values("standard_deviation").groupby(["group", "class_name"]).last()
    both = [name for name, rows in one.groupby("group") if len(rows) == 2]
    chosen = [both[i] for i in np.linspace(0, len(both) - 1, 6).astype(int)]
    keys = [(group, name) for name in schema.CLASS_NAMES for group in chosen]
    pictures = dataset.read(one.loc[key, "path"] for key in keys)
    captions = [f"{name} · {group}" for group, name in keys]
    return _wide(galleries.contact_sheet(pictures, captions, columns=6))


def _spectra() -> dict[str, np.ndarray]:
    dataset, table = _sample()
    rows = table[table["split"] == "train"].groupby("class_name")["path"]
    return {
        name: features.log_spectrum(np.stack([images.resize(x, 32) for x in dataset.read(paths)]))
        for name, paths in rows
    }


@figure(_SAMPLE)
def sample_spectra() -> Figure:
    """Mean spectra of both classes, and their difference."""
    return _wide(plots.plot_mean_spectrum(_spectra()))


@figure(_SAMPLE)
def sample_profile() -> Figure:
    """Mean amplitude by frequency."""
    tables = [
        features.radial_profile(spectrum).assign(class_name=name)
        for name, spectrum in _spectra().items()
    ]
    return _half(plots.plot_radial_profile, pd.concat(tables))


# --- pictures that the stored notebooks hold ---------------------------------------------------


def _stored(number: str, name: str) -> bytes:
    path = next((config.home() / "notebooks").glob(f"{number}_*.ipynb"))
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []) if cell.metadata.get("figure") == name else []:
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output["data"]["image/png"])
    raise ValueError(
        f"{path.name} stores no picture {name!r}; run `w207 notebooks`, or name the cell's figure."
    )


@figure("notebooks/02_*.ipynb")
def augmentation() -> bytes:
    """One image, changed at random."""
    return _stored("02", "augmentation")


@figure("notebooks/04_*.ipynb")
def architecture() -> bytes:
    """The simple network's layers."""
    return _stored("04", "architecture")


@figure("notebooks/06_*.ipynb")
def sample_errors() -> bytes:
    """The most confident errors on the sample."""
    return _stored("06", "confident_errors")


# --- published runs ----------------------------------------------------------------------------


def read_predictions(folder: Path) -> pd.DataFrame:
    """Return the clean predictions of a folder of ``results/``."""
    table = pd.read_parquet(folder / "predictions.parquet")
    table = table.astype({name: object for name in table.select_dtypes("category")})
    return table[table["condition"] == "clean"].reset_index(drop=True)


def _tested(folder: Path, *models: str) -> pd.DataFrame:
    table = read_predictions(folder)
    return table[table["model"].isin(models) & (table["split"] == "test")]


def _threshold(folder: Path, model: str) -> float:
    table = read_predictions(folder)
    return evaluate.choose_threshold(table[table["model"] == model])


@figure(
    "history_w207_simple.csv", "history_w207_tuned.csv", needs=("notebooks.csv",), of_run=True
)  # fmt: skip
def learning_curves(folder: Path) -> Figure:
    """Accuracy by epoch of both networks."""
    drawn, axes = style.new_grid(1, 2, WIDE, sharey=True)
    for ax, model in zip(axes, ("w207_simple", "w207_tuned"), strict=True):
        plots.plot_history(pd.read_csv(folder / f"history_{model}.csv"), "accuracy", ax=ax)
        ax.set_title(model)
    return drawn


@figure("trials_random.csv", of_run=True)
def trials(folder: Path) -> Figure:
    """The search's score by hyperparameter."""
    return _wide(plots.plot_trials(pd.read_csv(folder / "trials_random.csv")))


def _confusion(folder: Path, model: str) -> Figure:
    counts = evaluate.confusion(_tested(folder, model), _threshold(folder, model))
    return _half(plots.plot_confusion, counts)


@figure("predictions.parquet", needs=("metrics.csv", "notebooks.csv"), of_run=True)
def confusion_simple(folder: Path) -> Figure:
    """The simple network's confusion matrix on test."""
    return _confusion(folder, "w207_simple")


@figure("predictions.parquet", needs=("metrics.csv", "notebooks.csv"), of_run=True)
def confusion_tuned(folder: Path) -> Figure:
    """The tuned network's confusion matrix on test."""
    return _confusion(folder, "w207_tuned")


@figure("predictions.parquet", needs=("metrics.csv", "notebooks.csv"), of_run=True)
def roc(folder: Path) -> Figure:
    """ROC curves on test."""
    return _half(plots.plot_roc, evaluate.roc_curve(_tested(folder, *_CURVES)))


@figure("predictions.parquet", needs=("metrics.csv", "notebooks.csv"), of_run=True)
def precision_recall(folder: Path) -> Figure:
    """Precision-recall curves on test."""
    drawn = _half(plots.plot_precision_recall, evaluate.pr_curve(_tested(folder, *_CURVES)))
    drawn.axes[0].set_ylabel("right among those called FAKE")
    return drawn


@figure("predictions.parquet", needs=("metrics.csv", "notebooks.csv"), of_run=True)
def scores(folder: Path) -> Figure:
    """The tuned network's scores on test, by class."""
    rows, threshold = _tested(folder, "w207_tuned"), _threshold(folder, "w207_tuned")
    return _half(plots.plot_score_histogram, rows, threshold)


@figure("metrics.csv", needs=("notebooks.csv",), of_run=True)
def accuracies(folder: Path) -> Figure:
    """Every model's test accuracy with its interval."""
    table = pd.read_csv(folder / "metrics.csv").dropna(subset=["test_auc"])  # not the eye
    names = {"test": "accuracy", "test_low": "accuracy_low", "test_high": "accuracy_high"}
    table = table.rename(columns=names)[["model", *names.values()]]
    return _half(plots.plot_interval_comparison, table)


@figure("reports.csv", needs=("notebooks.csv",), of_run=True)
def claims(folder: Path) -> Figure:
    """Our test accuracies beside what the reports said, on their own data."""
    table = pd.read_csv(folder / "reports.csv")
    drawn, (ax,) = style.new_grid(1, 1, HALF)
    place = np.arange(len(table))
    error = [table["test"] - table["test_low"], table["test_high"] - table["test"]]
    ax.errorbar(table["test"], place - 0.12, xerr=error, fmt="o", color="black", capsize=6,
                label=f"measured here, {folder.name}")  # fmt: skip
    ax.plot(table["reported_accuracy"], place + 0.12, "D", color=style.MODEL_COLOURS[2],
            markerfacecolor="white", markeredgewidth=2.5, label="as reported")  # fmt: skip
    said = table["report"] + ", " + table["reported_data"] + ", " + table["reported_split"]
    ax.set_yticks(place, table["model"] + "\n" + said)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set(xlabel="accuracy and 95 % interval")
    drawn.legend(loc="outside upper center", ncols=2, frameon=False)
    return drawn


@figure("predictions.parquet", needs=("metrics.csv", "notebooks.csv"), of_run=True)
def errors(folder: Path) -> Figure:
    """The tuned network's wrong calls on test, by what the image shows or by its class."""
    rows, threshold = _tested(folder, "w207_tuned"), _threshold(folder, "w207_tuned")
    wrong = (rows["score"] >= threshold) != rows["label"]
    content = pd.Series("all", rows.index)
    if folder.name == "cifake":
        number = rows["path"].str.extract(r" \((\d+)\)\.", expand=False).fillna("1").astype(int)
        content = number.map(dict(enumerate(CIFAR_CLASSES, 1)))
    truth = rows["label"].map(dict(enumerate(schema.CLASS_NAMES)))
    share = 100 * wrong.groupby([content, truth]).mean().unstack()
    share = share.loc[share.mean(axis=1).sort_values().index]
    drawn, (ax,) = style.new_grid(1, 1, HALF)
    for name, shift in zip(schema.CLASS_NAMES, (0.2, -0.2), strict=True):
        ax.barh(np.arange(len(share)) + shift, share[name], 0.38, color=style.COLOURS[name],
                label=f"actual {name}")  # fmt: skip
    ax.set_yticks(np.arange(len(share)), share.index)
    ax.set(xlabel="called wrongly (% of the images)")
    ax.grid(axis="y", visible=False)
    style.legend_above(ax)
    return drawn


@figure("robustness.csv", of_run=True)
def robustness(folder: Path) -> Figure:
    """The network's accuracy on clean images, and under the worst change of each kind."""
    table = _of_network(folder / "robustness.csv").sort_values("accuracy")
    worst = table.drop_duplicates("family").iloc[::-1].drop(columns="model")
    columns = ["accuracy", "accuracy_low", "accuracy_high"]
    shown = worst.rename(columns={"condition": "model"})[["model", *columns]]
    return _half(plots.plot_interval_comparison, shown)


@figure("robustness.csv", of_run=True)
def strengths(folder: Path) -> Figure:
    """Photographs and fakes classified correctly, against the strength of each change."""
    return _wide(robustness_plots.plot_strengths(_of_network(folder / "robustness.csv")))


@figure("robustness.csv", of_run=True)
def attacks(folder: Path) -> Figure:
    """Accuracy under attacks and their control, against their size."""
    return _half(robustness_plots.plot_attacks, _of_network(folder / "robustness.csv"))


@figure("robustness_against.csv", of_run=True)
def against(folder: Path) -> Figure:
    """What training against a change buys, and what it costs."""
    return _half(robustness_plots.plot_against, pd.read_csv(folder / "robustness_against.csv"))


@figure("bands.csv", of_run=True)
def bands(folder: Path) -> Figure:
    """What the network keeps when only a band of frequencies is left."""
    return _half(explain_plots.plot_band_scores, pd.read_csv(folder / "bands.csv"))


@figure("transfer.csv", of_run=True)
def transfer(folder: Path) -> Figure:
    """Learning curves from random and from given weights."""
    return _half(comparison_plots.plot_learning_curve, pd.read_csv(folder / "transfer.csv"))


@figure("effects.csv", of_run=True)
def effects(folder: Path) -> Figure:
    """Main effects of architecture and training strategy, beside the seed's."""
    table = pd.read_csv(folder / "effects.csv", dtype={"level": str})
    return _wide(comparison_plots.plot_effects(table))


@figure("large.csv", of_run=True)
def large(folder: Path) -> Figure:
    """Test accuracies of the reports' large networks, and how many epochs they had."""
    table = pd.read_csv(folder / "large.csv")
    table["model"] += (
        "\n"
        + table["epochs"].astype(str)
        + table["epochs"].map(lambda count: " epoch" if count == 1 else " epochs")
    )
    names = {"test": "accuracy", "test_low": "accuracy_low", "test_high": "accuracy_high"}
    table = table.rename(columns=names)[["model", *names.values()]]
    return _half(plots.plot_interval_comparison, table)


@figure("large.csv", "predictions.parquet", of_run=True)
def large_curves(folder: Path) -> Figure:
    """Accuracy by epoch of the reports' large networks."""
    models = pd.read_csv(folder / "large.csv")["model"]
    histories = {model: pd.read_csv(folder / f"history_{model}.csv") for model in models}
    return _wide(comparison_plots.plot_histories(histories))


@figure("large.csv", "predictions.parquet", of_run=True)
def large_confusions(folder: Path) -> Figure:
    """Confusion matrices of the reports' large networks on test."""
    models = pd.read_csv(folder / "large.csv")["model"]
    tables = {
        model: evaluate.confusion(_tested(folder, model), _threshold(folder, model))
        for model in models
    }
    return _wide(comparison_plots.plot_confusions(tables))


def _of_network(path: Path) -> pd.DataFrame:
    """Return the rows of a table's first model."""
    table = pd.read_csv(path)
    return table[table["model"] == table["model"].iloc[0]].reset_index(drop=True)
