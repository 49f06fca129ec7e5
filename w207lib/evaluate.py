"""From the predictions table to metrics, with no model and no image at hand.

A row is called FAKE where ``score >= threshold``. The threshold is chosen on clean validation
rows alone; rows of other splits cannot move it. A metric that is not defined (the AUC of one
class, the precision of a class that was never predicted) is NaN, never 0.

Intervals are 95 % (``intervals`` says how). An optional column ``group`` names each row's
photograph; rows of one group are then not counted as independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from sklearn import metrics

from w207lib.metrics import intervals
from w207lib.metrics.threshold import choose_threshold, found, require_both_classes, thresholds
from w207lib.schema import CLASS_NAMES, FAKE, REAL, check_predictions

__all__ = [
    "METRIC_COLUMNS", "choose_threshold", "classification_report", "confusion",
    "most_confident_errors", "outcome", "pr_curve", "roc_curve", "score", "thresholds",
]  # fmt: skip

KEYS = ("model", "split", "condition")
METRIC_COLUMNS = (
    "n", "n_real", "n_fake", "groups", "threshold",
    "accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy",
    "precision_real", "recall_real", "f1_real",
    "precision_fake", "recall_fake", "recall_fake_low", "recall_fake_high", "f1_fake",
    "specificity", "specificity_low", "specificity_high",
    "macro_precision", "macro_recall", "macro_f1",
    "weighted_precision", "weighted_recall", "weighted_f1",
    "roc_auc", "roc_auc_low", "roc_auc_high", "average_precision",
)  # fmt: skip


def score(
    predictions: pd.DataFrame,
    *,
    by: str | None = None,
    threshold: float | Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Score every model on every split and condition.

    Args:
        predictions: Predictions table, with an optional column ``group``.
        by: A further column to group by. ``"generator"`` sets each generator's images against
            all photographs of the same model, split and condition.
        threshold: One threshold, or one for each model; None chooses each model's on its clean
            validation rows.

    Returns:
        One row a model × split × condition (× value of ``by``): these, then
        ``METRIC_COLUMNS``. ``groups`` counts the independent units: groups, or rows without
        ``group``. Precision, recall and F1 stand for each class; ``specificity`` is
        ``recall_real``, and ``recall_fake`` is sensitivity. ``macro_`` is the mean of both
        classes, ``weighted_`` weighs them by their rows; each is NaN if a class it needs is.

    Raises:
        ValueError: The table is not a predictions table, ``by`` is not one of its columns, a
            model has no threshold, or none can be chosen.
    """
    check_predictions(predictions)
    if by is not None and (by not in predictions.columns or by in (*KEYS, *METRIC_COLUMNS)):
        usable = [c for c in predictions.columns if c not in (*KEYS, *METRIC_COLUMNS)]
        raise ValueError(
            f"score: by={by!r}; expected None or one of {', '.join(map(str, usable))}. Model, "
            "split and condition are always kept apart."
        )
    limits = _limits(predictions, threshold)
    rows = []
    for key, table in predictions.groupby(list(KEYS), sort=False):
        for value, part in parts(table, by):
            extra = {} if by is None else {by: value}
            rows.append(dict(zip(KEYS, key, strict=True)) | extra | _measure(part, limits[key[0]]))
    columns = [*KEYS, *([by] if by else []), *METRIC_COLUMNS]
    return pd.DataFrame(rows, columns=columns)


def _limits(
    predictions: pd.DataFrame, threshold: float | Mapping[str, float] | None
) -> Mapping[str, float]:
    """Return each model's threshold."""
    models = predictions["model"].unique()
    if threshold is None:
        if predictions.empty:
            raise ValueError("score: the table is empty, so no threshold can be chosen on it.")
        return thresholds(predictions)
    if not isinstance(threshold, Mapping):
        return dict.fromkeys(models, _checked(threshold))
    missing = [str(model) for model in models if model not in threshold]
    if missing:
        raise ValueError(
            f"score: no threshold for {', '.join(missing)}; received one for "
            f"{', '.join(map(str, threshold)) or 'none'}. Add it, or pass threshold=None."
        )
    return {model: _checked(threshold[model]) for model in models}


def _checked(threshold: float) -> float:
    if not 0 <= float(threshold) <= 1:
        raise ValueError(f"threshold {threshold!r}; expected P(FAKE), a number in [0, 1].")
    return float(threshold)


def parts(table: pd.DataFrame, by: str | None) -> Iterator[tuple[object, pd.DataFrame]]:
    """Yield each value of a column with its rows; for ``generator``, with all photographs too.

    Args:
        table: Predictions.
        by: The column; None for all rows, once, under None.

    Yields:
        Value and rows, in the order of appearance.
    """
    if by is None:
        yield None, table
    elif by == "generator":
        real = table["label"] == REAL
        for generator in table.loc[~real, "generator"].unique():
            yield generator, table[real | (table["generator"] == generator)]
    else:
        yield from table.groupby(by, sort=False, dropna=False)


def _measure(rows: pd.DataFrame, threshold: float) -> dict[str, float]:
    """Return ``METRIC_COLUMNS`` of one set of rows."""
    label, value = rows["label"].to_numpy(int), rows["score"].to_numpy(float)
    predicted = np.where(value >= threshold, FAKE, REAL)
    groups = intervals.group_codes(rows)
    fake, right = label == FAKE, predicted == label
    result = {
        "n": len(rows), "n_real": int((~fake).sum()), "n_fake": int(fake.sum()),
        "groups": int(groups.max()) + 1, "threshold": threshold, "accuracy": right.mean(),
    }  # fmt: skip
    by_class = _by_class(label, predicted)
    for name in ("precision", "recall", "f1"):
        for class_name in ("REAL", "FAKE"):
            result[f"{name}_{class_name.lower()}"] = by_class.loc[class_name, name]
        for average in ("macro", "weighted"):
            result[f"{average}_{name}"] = by_class.loc[f"{average} avg", name]
    result["specificity"] = result["recall_real"]
    result["balanced_accuracy"] = result["macro_recall"]
    both = fake.any() and not fake.all()
    result["roc_auc"] = metrics.roc_auc_score(label, value) if both else np.nan
    result["average_precision"] = metrics.average_precision_score(label, value) if both else np.nan
    limits = {
        "accuracy": intervals.proportion(right, groups),
        "recall_fake": intervals.proportion(right[fake], groups[fake]),
        "specificity": intervals.proportion(right[~fake], groups[~fake]),
        "roc_auc": intervals.auc(label, value, groups),
    }
    for name, (low, high) in limits.items():  # scikit-learn's last digit may differ from ours
        result[f"{name}_low"] = np.minimum(low, result[name])
        result[f"{name}_high"] = np.maximum(high, result[name])
    return result


def _by_class(label: np.ndarray, predicted: np.ndarray) -> pd.DataFrame:
    """Return precision, recall, F1 and support of each class and of their averages."""
    values = metrics.precision_recall_fscore_support(
        label, predicted, labels=[REAL, FAKE], zero_division=np.nan
    )
    columns = ["precision", "recall", "f1", "support"]
    table = pd.DataFrame(dict(zip(columns, values, strict=True)), index=list(CLASS_NAMES))
    scores, support = table[columns[:3]], table["support"]
    present = support > 0
    # Not scikit-learn's averages: those leave an undefined class out without a word.
    table.loc["macro avg", columns[:3]] = scores.mean(skipna=False)
    weighted = scores[present].mul(support[present], axis=0).sum(skipna=False) / support.sum()
    table.loc["weighted avg", columns[:3]] = weighted
    table.loc[["macro avg", "weighted avg"], "support"] = support.sum()
    return table.astype({"support": int})


def classification_report(predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Return scikit-learn's classification report as a table.

    Args:
        predictions: Rows of one model, split and condition.
        threshold: Called FAKE where ``score >= threshold``.

    Returns:
        Rows REAL, FAKE, macro avg, weighted avg, accuracy; columns precision, recall, f1,
        support. As in scikit-learn, accuracy stands in the column f1.

    Raises:
        ValueError: There is not exactly one model, split and condition.
    """
    label, predicted = _called(_require_one(predictions, "classification report"), threshold)
    table = _by_class(label, predicted)
    table.loc["accuracy"] = [np.nan, np.nan, (label == predicted).mean(), len(label)]
    return table.astype({"support": int})


def confusion(predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Count actual against predicted classes, of one model, split and condition.

    Args:
        predictions: Rows of one model, split and condition.
        threshold: Called FAKE where ``score >= threshold``.

    Returns:
        int ``(2, 2)``: index ``actual`` and columns ``predicted``, each REAL, FAKE.

    Raises:
        ValueError: There is not exactly one model, split and condition.
    """
    label, predicted = _called(_require_one(predictions, "confusion"), threshold)
    return pd.DataFrame(
        metrics.confusion_matrix(label, predicted, labels=[REAL, FAKE]),
        index=pd.Index(CLASS_NAMES, name="actual"),
        columns=pd.Index(CLASS_NAMES, name="predicted"),
    )


def roc_curve(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return each model's ROC curve on one split and condition.

    Args:
        predictions: Rows of one split and condition, of any number of models.

    Returns:
        Columns model, false_positive_rate, true_positive_rate, threshold; FAKE is positive.

    Raises:
        ValueError: There is not exactly one split and condition, or a model has one class only.
    """
    names = ("false_positive_rate", "true_positive_rate", "threshold")
    return _curves(predictions, "ROC curve", names, metrics.roc_curve)


def pr_curve(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return each model's precision-recall curve on one split and condition.

    Args:
        predictions: Rows of one split and condition, of any number of models.

    Returns:
        Columns model, recall, precision, threshold; FAKE is positive, recall falls, and the
        last point (recall 0, precision 1) has an infinite threshold.

    Raises:
        ValueError: There is not exactly one split and condition, or a model has one class only.
    """

    def curve(label: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, ...]:
        precision, recall, edges = metrics.precision_recall_curve(label, value)
        return recall, precision, np.append(edges, np.inf)

    return _curves(
        predictions, "precision-recall curve", ("recall", "precision", "threshold"), curve
    )


def _curves(predictions: pd.DataFrame, what: str, names: tuple[str, ...], curve) -> pd.DataFrame:
    tables = []
    for model, rows in _require_one(predictions, what, KEYS[1:]).groupby("model", sort=False):
        label = rows["label"].to_numpy(int)
        require_both_classes(label, f"{what}: model {model!r}")
        values = curve(label, rows["score"].to_numpy(float))
        tables.append(pd.DataFrame({"model": model} | dict(zip(names, values, strict=True))))
    return pd.concat(tables, ignore_index=True)


def outcome(predictions: pd.DataFrame, threshold: float) -> pd.Series:
    """Name each row's outcome, such as ``actual REAL, predicted FAKE``.

    Args:
        predictions: Any rows of a predictions table.
        threshold: Called FAKE where ``score >= threshold``.

    Returns:
        str ``(len(predictions),)`` with the table's index, named ``outcome``.
    """
    names = np.array(CLASS_NAMES)
    pairs = zip(*_called(predictions, threshold), strict=True)
    text = [f"actual {names[label]}, predicted {names[call]}" for label, call in pairs]
    return pd.Series(text, index=predictions.index, name="outcome", dtype="str")


def most_confident_errors(predictions: pd.DataFrame, threshold: float, n: int = 12) -> pd.DataFrame:
    """Return the wrong rows whose scores lie farthest from the threshold.

    Args:
        predictions: Any rows of a predictions table.
        threshold: Called FAKE where ``score >= threshold``.
        n: How many rows at most.

    Returns:
        The wrong rows, most confident first, with ``outcome`` and ``confidence``: how far from
        the threshold (0) to its side's end of the scale (1) the score lies.
    """
    label, predicted = _called(predictions, threshold)
    distance = predictions["score"].to_numpy(float) - threshold
    room = np.where(predicted == FAKE, 1 - threshold, threshold)
    confidence = np.abs(np.divide(distance, room, out=np.ones(len(room)), where=room > 0))
    table = predictions.assign(outcome=outcome(predictions, threshold), confidence=confidence)
    wrong = table[label != predicted]
    return wrong.sort_values(["confidence", "path"], ascending=[False, True]).head(n)


def _called(predictions: pd.DataFrame, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return true and predicted labels, int ``(N,)`` each."""
    called = predictions["score"].to_numpy(float) >= _checked(threshold)
    return predictions["label"].to_numpy(int), np.where(called, FAKE, REAL)


def _require_one(
    predictions: pd.DataFrame, what: str, columns: tuple[str, ...] = KEYS
) -> pd.DataFrame:
    check_predictions(predictions)
    for column in columns:
        if predictions[column].nunique() != 1:
            raise ValueError(
                f"{what}: the table holds {column} {found(predictions, column)}; expected rows "
                f"of exactly one. Keep one, as in predictions[predictions[{column!r}] == …]."
            )
    return predictions
