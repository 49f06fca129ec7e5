"""Where to call an image FAKE: chosen on clean validation rows, never on test rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn import metrics

from w207lib.schema import CLASS_NAMES, FAKE, REAL, check_predictions


def choose_threshold(predictions: pd.DataFrame) -> float:
    """Choose one model's threshold on its clean validation rows.

    The threshold maximises balanced accuracy, that is Youden's J = sensitivity + specificity − 1
    (W. J. Youden, Cancer 3 (1950) 32). It lies midway between two neighbouring scores, 0 and 1
    counting as the outermost; of equally good ones it is the nearest to 0.5.

    Args:
        predictions: Predictions of one model; rows of other splits and conditions are ignored.

    Returns:
        The threshold, in [0, 1].

    Raises:
        ValueError: There is not exactly one model, no clean validation row, or only one class.
    """
    models = predictions["model"].unique()
    if len(models) != 1:
        raise ValueError(
            f"threshold: the table holds {len(models)} models ({', '.join(map(str, models))}); "
            "expected one. Keep one model's rows, or call `thresholds` for all of them."
        )
    rows = predictions[
        (predictions["split"] == "validation") & (predictions["condition"] == "clean")
    ]
    if rows.empty:
        raise ValueError(
            f"threshold: model {models[0]!r} has no clean validation rows; it has "
            f"{found(predictions, 'split')} × {found(predictions, 'condition')}. Predict the "
            "validation split too, or pass threshold=."
        )
    label, score = rows["label"].to_numpy(), rows["score"].to_numpy(float)
    require_both_classes(label, f"threshold: model {models[0]!r}, clean validation rows")
    n_real, n_fake = (label == REAL).sum(), (label == FAKE).sum()
    false_rate, true_rate, edges = metrics.roc_curve(label, score, drop_intermediate=False)
    # Whole numbers, so that equal J compare equal.
    gain = np.rint(true_rate * n_fake) * n_real - np.rint(false_rate * n_real) * n_fake

    upper = np.append(1.0, edges[1:])  # falling; the first calls nothing FAKE, the last all
    lower = np.append(edges[1:], 0.0)
    middle = (upper + lower) / 2
    middle = np.where((middle <= lower) & (upper > lower), upper, middle)  # neighbouring floats
    if score.max() == 1:  # no threshold in [0, 1] calls nothing FAKE
        gain, middle = gain[1:], middle[1:]
    best = middle[gain == gain.max()]
    return float(best[np.abs(best - 0.5).argmin()])


def thresholds(predictions: pd.DataFrame) -> dict[str, float]:
    """Choose each model's threshold on its own clean validation rows.

    Args:
        predictions: Predictions of any number of models.

    Returns:
        Threshold by model, in the order of appearance.

    Raises:
        ValueError: The table is not a predictions table, or a model has no clean validation
            rows, or only one class there.
    """
    check_predictions(predictions)
    return {
        model: choose_threshold(rows) for model, rows in predictions.groupby("model", sort=False)
    }


def require_both_classes(label: np.ndarray, what: str) -> None:
    """Raise ValueError, which begins with ``what``, unless ``label`` ``(N,)`` has both classes."""
    if len(np.unique(label)) != 2:
        only = ", ".join(CLASS_NAMES[value] for value in np.unique(label)) or "no"
        raise ValueError(f"{what}: {only} rows only; expected REAL and FAKE. Predict both classes.")


def found(table: pd.DataFrame, column: str) -> str:
    """Name the values of a column, for an error message."""
    return ", ".join(map(repr, table[column].unique().tolist())) or "none"
