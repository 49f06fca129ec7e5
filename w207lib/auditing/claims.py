"""What reported numbers imply: arithmetic on the figures of a report, with no image at hand.

A rounded figure stands for an interval, a table of such figures for the confusion matrices that
round to it, an accuracy for whole numbers of images. ``data/claims.csv`` holds what the five
reports claim, one row a figure. Class 0 and class 1 are those of the *report*: which of them is
FAKE is one of the questions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from w207lib import config
from w207lib.metrics import intervals

MATRIX = ("n_00", "n_01", "n_10", "n_11")
"""Counts of a confusion matrix: actual class, then predicted class."""
FIGURES = (
    "accuracy",
    *(f"{name}_{number}" for number in (0, 1) for name in ("precision", "recall", "f1")),
    *(f"{kind}_{name}" for kind in ("macro", "weighted") for name in ("precision", "recall", "f1")),
)
"""The figures of a classification report, as ``claims.csv`` names them."""
TIE = 1e-9
BLOCK = 4_000_000


def read(report: str | None = None) -> pd.DataFrame:
    """Return what the reports claim.

    Args:
        report: ``Report 0`` to ``Report 4``; None for all.

    Returns:
        ``data/claims.csv`` with ``value`` and ``n`` as numbers, and ``digits``: how many the
        report gave behind the decimal point, once per cent are written as shares.

    Raises:
        ValueError: There is no such report.
    """
    table = pd.read_csv(config.data_root() / "claims.csv", dtype=str, keep_default_na=False)
    digits = table["value"].map(_digits_of)
    table = table.assign(
        value=pd.to_numeric(table["value"]), n=pd.to_numeric(table["n"]).astype("Int64"),
        digits=digits,
    )  # fmt: skip
    if report is None:
        return table
    chosen = table[table["report"] == report].reset_index(drop=True)
    if chosen.empty:
        known = ", ".join(table["report"].unique())
        raise ValueError(f"there are no claims of {report!r}; there are those of {known}.")
    return chosen


def value(
    table: pd.DataFrame, metric: str, *, system: str | None = None, split: str | None = None,
    where: str | None = None,
) -> float:  # fmt: skip
    """Return the one figure of a metric; ValueError if there is none, or if they differ.

    Args:
        table: From ``read``.
        metric: As in its column ``metric``.
        system: Only of this system.
        split: Only on this split.
        where: Only from places in the report whose name begins so.
    """
    rows = _chosen(table, system, split, where)
    found = rows.loc[rows["metric"] == metric, "value"].unique()
    if len(found) != 1:
        raise ValueError(
            f"{metric}: {len(found)} different figures were found; expected one. Name system, "
            "split and where."
        )
    return float(found[0])


def reported(
    table: pd.DataFrame, *, system: str | None = None, where: str | None = None
) -> dict[str, float]:
    """Return the test figures of a classification report, by name, for ``consistent``.

    Args:
        table: From ``read``.
        system: Only of this system.
        where: Only from places in the report whose name begins so.
    """
    rows = _chosen(table, system, "test", where)
    rows = rows[rows["metric"].isin(FIGURES)]
    return dict(zip(rows["metric"], rows["value"], strict=True))


def history(table: pd.DataFrame, system: str | None = None) -> pd.DataFrame:
    """Return a printed training log: ``epoch, accuracy, loss, val_accuracy, val_loss``.

    Args:
        table: From ``read``.
        system: Only of this system.
    """
    rows = _chosen(table, system, None, None)
    parts = rows["metric"].str.extract(r"^(?P<name>accuracy|loss)_epoch_(?P<epoch>\d+)$")
    rows = rows.join(parts).dropna(subset=["epoch"])
    prefix = rows["split"].map({"train": "", "validation": "val_"})
    rows = rows.assign(name=prefix + rows["name"], epoch=rows["epoch"].astype(int))
    wide = rows.pivot(index="epoch", columns="name", values="value")
    return wide.rename_axis(columns=None).reset_index()


def rounding(value: float | str, digits: int | None = None) -> tuple[float, float]:
    """Return the least and the greatest number that round to a figure; ties count as either.

    Args:
        value: The figure; as text it keeps the zeros at its end.
        digits: Digits behind the decimal point; None for those that it is written with.
    """
    digits = _digits_of(str(value)) if digits is None else digits
    half = 0.5 * 10**-digits
    return float(value) - half, float(value) + half


def confusion_from(
    precision: float, recall: float, n_positive: int, n_negative: int, *, digits: int = 2
) -> pd.DataFrame:
    """Return which confusion matrices have this precision and recall once they are rounded.

    Args:
        precision: Of the positive class.
        recall: Of the positive class.
        n_positive: Images of the positive class.
        n_negative: Images of the other.
        digits: Digits behind the decimal point of both figures.

    Returns:
        Rows ``true_positive, false_negative, false_positive, true_negative, accuracy``; columns
        ``low`` and ``high`` over all such matrices, and ``stated``, from the figures as they are.
    """

    def counts(precision: float, recall: float) -> np.ndarray:
        hits = recall * n_positive
        alarms = hits * (1 / precision - 1)
        share = (hits + n_negative - alarms) / (n_positive + n_negative)
        return np.array([hits, n_positive - hits, alarms, n_negative - alarms, share])

    limits = [
        [np.clip(limit, 1e-12, 1) for limit in rounding(figure, digits)]
        for figure in (precision, recall)
    ]
    corners = np.array([counts(p, r) for p in limits[0] for r in limits[1]])
    least = [0, 0, 0, 0, 0]
    most = [n_positive, n_positive, n_negative, n_negative, 1]
    table = pd.DataFrame(
        {
            "low": corners.min(axis=0).clip(least, most), "stated": counts(precision, recall),
            "high": corners.max(axis=0).clip(least, most),
        },
        index=["true_positive", "false_negative", "false_positive", "true_negative", "accuracy"],
    )  # fmt: skip
    counts_only = table.index[:4]
    table.loc[counts_only, "low"] = np.ceil(table.loc[counts_only, "low"] - 1e-6)
    table.loc[counts_only, "high"] = np.floor(table.loc[counts_only, "high"] + 1e-6)
    return table


def consistent(
    reported: Mapping[str, float | str], n_0: int, n_1: int, *, digits: int = 2
) -> pd.DataFrame:
    """Return every confusion matrix that rounds to all the figures of a report.

    All whole counts are tried. As scikit-learn prints it, a precision or F1 of nothing is 0.

    Args:
        reported: Figures by name, any of ``FIGURES``.
        n_0: Images of class 0.
        n_1: Images of class 1.
        digits: Digits behind the decimal point of all figures.

    Returns:
        One row a matrix, ``n_00, n_01, n_10, n_11`` (actual, then predicted class) and the
        unrounded ``accuracy``. No row: the figures contradict each other.

    Raises:
        ValueError: A figure is unknown.
    """
    unknown = [name for name in reported if name not in FIGURES]
    if unknown:
        raise ValueError(f"{', '.join(unknown)} unknown; expected any of {', '.join(FIGURES)}.")
    limits = {name: rounding(figure, digits) for name, figure in reported.items()}
    right_0 = _candidates(n_0, limits.get("recall_0"))
    right_1 = _candidates(n_1, limits.get("recall_1"))
    if not len(right_0) or not len(right_1):
        return pd.DataFrame(columns=[*MATRIX, "accuracy"])
    found = []
    step = max(1, BLOCK // len(right_1))
    for start in range(0, len(right_0), step):
        rows, columns = right_0[start : start + step, None], right_1[None, :]
        figures = _figures(rows, columns, n_0, n_1)
        fits = np.ones((len(rows), len(right_1)), bool)
        for name, (low, high) in limits.items():
            fits &= (figures[name] >= low - TIE) & (figures[name] <= high + TIE)
        places = np.nonzero(fits)
        found.append(np.column_stack([right_0[start + places[0]], right_1[places[1]]]))
    pairs = np.concatenate(found)
    table = pd.DataFrame(
        {"n_00": pairs[:, 0], "n_01": n_0 - pairs[:, 0], "n_10": n_1 - pairs[:, 1],
         "n_11": pairs[:, 1]}
    )  # fmt: skip
    return table.assign(accuracy=(table["n_00"] + table["n_11"]) / (n_0 + n_1))


def share_as_fraction(value: float | str, n_candidates: Iterable[int]) -> pd.DataFrame:
    """Return the whole numbers of images that give a reported share.

    Args:
        value: The share, such as 0.60309; as text it keeps the zeros at its end.
        n_candidates: Numbers of images to try.

    Returns:
        Columns ``k`` (images that count) and ``n``, one row a pair.
    """
    low, high = rounding(value)
    pairs = [
        (k, n)
        for n in n_candidates
        for k in range(math.ceil((low - TIE) * n), math.floor((high + TIE) * n) + 1)
    ]
    return pd.DataFrame(pairs, columns=["k", "n"])


def interval(accuracy: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of an accuracy on ``n`` independent images."""
    return intervals.wilson(round(accuracy * n), n)


def dummy_shares(accuracy: float) -> dict[str, float]:
    """Return the share of the larger class with which a dummy classifier has this accuracy.

    Returns:
        ``most_frequent``: p itself. ``stratified``: the p ≥ ½ of p² + (1 − p)² = accuracy; NaN
        below ½, which a stratified guess does not reach but by bad luck.
    """
    inside = 2 * accuracy - 1
    stratified = (1 + math.sqrt(inside)) / 2 if inside >= 0 else math.nan
    return {"most_frequent": accuracy, "stratified": stratified}


def optimizer_state(total: int, trainable: int | None = None) -> int:
    """Return what a compiled and trained Keras model prints as its total with Adam.

    Two moments for each trainable parameter, a counter and the learning rate come on top.

    Args:
        total: Parameters of the model.
        trainable: Of these; None for all.
    """
    return total + 2 * (total if trainable is None else trainable) + 2


def without_optimizer(count: int) -> int | None:
    """Return the n of 3 n + 2 = ``count``; None where it is no whole number."""
    n, rest = divmod(count - 2, 3)
    return None if rest else n


def precision_elsewhere(precision: float, recall: float, share: float) -> float:
    """Return the precision where the positive class has another share of the images.

    Args:
        precision: As measured on as many images of either class.
        recall: As measured; it does not depend on the share.
        share: Of the positive class, where the model is to be used.
    """
    alarms = recall * (1 / precision - 1)  # of the negative class
    return recall * share / (recall * share + alarms * (1 - share))


def chance_of_support(drawn: int, n: int, of_class: int, total: int) -> float:
    """Return how likely a random test split has a class count at least as odd as this one.

    Args:
        drawn: Images of the class in the test split.
        n: Images in the test split.
        of_class: Images of the class in all.
        total: All images.

    Returns:
        Twice the smaller tail of the hypergeometric distribution, at most 1.
    """
    law = hypergeom(total, of_class, n)
    return float(min(1, 2 * min(law.cdf(drawn), law.sf(drawn - 1))))


def _chosen(
    table: pd.DataFrame, system: str | None, split: str | None, where: str | None
) -> pd.DataFrame:
    for column, wanted in (("system", system), ("split", split)):
        table = table if wanted is None else table[table[column] == wanted]
    return table if where is None else table[table["where"].str.startswith(where)]


def _digits_of(text: str) -> int:
    mantissa, _, exponent = text.lower().partition("e")
    return max(0, len(mantissa.partition(".")[2]) - int(exponent or 0))


def _candidates(n: int, limits: tuple[float, float] | None) -> np.ndarray:
    """Return the whole numbers of hits among ``n`` that a recall allows."""
    low, high = (0.0, 1.0) if limits is None else limits
    first, last = math.ceil((low - TIE) * n), math.floor((high + TIE) * n)
    return np.arange(max(first, 0), min(last, n) + 1)


def _figures(right_0, right_1, n_0: int, n_1: int) -> dict[str, np.ndarray]:
    """Return ``FIGURES`` of all pairs of hits, ``(len(right_0), len(right_1))`` or broadcast."""
    made = {"accuracy": (right_0 + right_1) / (n_0 + n_1)}
    called = (right_0 + n_1 - right_1, n_0 - right_0 + right_1)
    for number, (hits, n) in enumerate(((right_0, n_0), (right_1, n_1))):
        given = np.maximum(called[number], 1)
        made[f"precision_{number}"] = hits / given
        made[f"recall_{number}"] = hits / max(n, 1)
        made[f"f1_{number}"] = 2 * hits / np.maximum(called[number] + n, 1)
    for name in ("precision", "recall", "f1"):
        first, second = made[f"{name}_0"], made[f"{name}_1"]
        made[f"macro_{name}"] = (first + second) / 2
        made[f"weighted_{name}"] = (n_0 * first + n_1 * second) / (n_0 + n_1)
    return made
