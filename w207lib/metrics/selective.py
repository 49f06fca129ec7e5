"""When to answer "unsure": a band of scores around the threshold, and what it buys.

The band is chosen on clean validation rows alone, like the threshold it lies around; scores are
read as they are, so that calibrating them first (``calibration``) changes no answer. Intervals
are 95 % (``intervals`` says how).

Source: Y. Geifman and R. El-Yaniv, NeurIPS (2017) 4878 (risk and coverage).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from w207lib.evaluate import KEYS
from w207lib.metrics import intervals
from w207lib.metrics.threshold import choose_threshold, thresholds
from w207lib.schema import CLASS_NAMES, FAKE, REAL, check_predictions

Band = tuple[float, float]


def unsure_band(predictions: pd.DataFrame, *, error: float = 0.05) -> Band:
    """Choose between which scores to answer "unsure", on one model's clean validation rows.

    Both verdicts are held to the same promise: of the rows called REAL (score < low) at most
    ``error`` are wrong, and so of those called FAKE (score >= high). Of the bands that keep it,
    the one that answers most on each side; so the accuracy outside is 1 − ``error`` or better on
    these rows. On others it may be lower: ``selective`` measures it.

    Args:
        predictions: Predictions of one model; rows of other splits and conditions are ignored.
        error: The share of wrong answers allowed, in (0, 1).

    Returns:
        ``low`` ≤ the model's threshold ≤ ``high``; all equal where nothing need be unsure.

    Raises:
        ValueError: ``error`` is out of range, a verdict cannot keep the promise (the message
            names the least error it can), or as ``choose_threshold``.
    """
    if not 0 < error < 1:
        raise ValueError(f"unsure band: error={error!r}; expected a share in (0, 1), as 0.05.")
    check_predictions(predictions)
    limit = choose_threshold(predictions)
    own = (predictions["split"] == "validation") & (predictions["condition"] == "clean")
    label, score = _arrays(predictions[own])
    edges = []
    for truth, called, sign in ((REAL, score < limit, 1), (FAKE, score >= limit, -1)):
        value, place, count = np.unique(  # from the surest score inwards
            sign * score[called], return_inverse=True, return_counts=True
        )
        wrong = np.cumsum(np.bincount(place, label[called] != truth)) / np.cumsum(count)
        if not (wrong <= error).any():
            least = f"its surest scores do with {wrong.min():.1%}" if len(wrong) else "none is"
            raise ValueError(
                f"unsure band: model {predictions['model'].iloc[0]!r} cannot call "
                f"{CLASS_NAMES[truth]} with at most {error:.1%} wrong on its {len(label)} clean "
                f"validation rows: {least}. Allow a larger error=, or take a better model."
            )
        last = int(np.flatnonzero(wrong <= error)[-1])
        whole = last == len(value) - 1
        edges.append(limit if whole else _middle(*np.sort(sign * value[last : last + 2])))
    return edges[0], edges[1]


def selective(
    predictions: pd.DataFrame,
    band: Band | Mapping[str, Band] | None = None,
    *,
    error: float = 0.05,
) -> pd.DataFrame:
    """Measure a detector that may answer "unsure": how often it does, and how right it is else.

    Args:
        predictions: Predictions table, each model with clean validation rows.
        band: ``(low, high)`` as from ``unsure_band``, or one for each model; None chooses each
            model's, and leaves NaN what follows from it where no band keeps the promise.
        error: For ``unsure_band``, where ``band`` is None.

    Returns:
        One row a model × split × condition: these, ``n``, ``threshold``, ``low``, ``high``, and
        with ``_low`` and ``_high`` each: ``coverage`` (share answered), ``unsure`` (the rest),
        ``accuracy_answered``, and ``accuracy_unsure``: that of the unsure rows, had they been
        called at the threshold. The accuracy of no rows is NaN.

    Raises:
        ValueError: The table is not a predictions table, a model has no threshold or no band,
            or a band is not ``0 <= low <= high <= 1``.
    """
    limits = thresholds(predictions)
    bands = {model: _band(predictions, model, band, error) for model in limits}
    rows = []
    for key, table in predictions.groupby(list(KEYS), sort=False):
        label, score = _arrays(table)
        groups, limit = intervals.group_codes(table), limits[key[0]]
        low, high = bands[key[0]]
        right = (score >= limit) == (label == FAKE)
        unsure = (score >= low) & (score < high)
        row = {"n": len(table), "threshold": limit, "low": low, "high": high}
        everyone = np.ones(len(table), bool)
        shares = {
            "coverage": (~unsure, everyone), "unsure": (unsure, everyone),
            "accuracy_answered": (right, ~unsure), "accuracy_unsure": (right, unsure),
        }  # fmt: skip
        for name, (hits, among) in shares.items():
            known = not np.isnan(low) and among.any()
            share = hits[among].mean() if known else np.nan
            ends = intervals.proportion(hits[among], groups[among]) if known else (np.nan, np.nan)
            row |= {name: share, f"{name}_low": ends[0], f"{name}_high": ends[1]}
        rows.append(dict(zip(KEYS, key, strict=True)) | row)
    return pd.DataFrame(rows)


def _band(predictions, model: str, band, error: float) -> Band:
    if band is None:
        if not 0 < error < 1:
            raise ValueError(f"selective: error={error!r}; expected a share in (0, 1), as 0.05.")
        try:
            return unsure_band(predictions[predictions["model"] == model], error=error)
        except ValueError:  # the promise cannot be kept
            return np.nan, np.nan
    if isinstance(band, Mapping) and model not in band:
        raise ValueError(
            f"selective: no band for {model}; received one for "
            f"{', '.join(map(str, band)) or 'none'}. Add it, or pass band=None."
        )
    low, high = band[model] if isinstance(band, Mapping) else band
    if not 0 <= low <= high <= 1:
        raise ValueError(f"selective: band ({low!r}, {high!r}); expected 0 <= low <= high <= 1.")
    return float(low), float(high)


def _arrays(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return table["label"].to_numpy(int), table["score"].to_numpy(float)


def _middle(lower: float, upper: float) -> float:
    """Return a number above ``lower`` and not above ``upper``, midway if floats allow."""
    middle = float(lower + upper) / 2
    return middle if middle > lower else float(upper)
