"""Two models on the same images: which is better, and could chance alone have done it?

Both models judge the same images, so that what counts is the images on which they differ.
Differences are always b − a. Intervals are 95 %.

- **Accuracy, rows independent**: Newcombe's paired interval (his method 10, "square and add") and
  McNemar's mid-p test, which keeps its level where the exact test is needlessly strict and holds
  it with few discordant images, where χ² does not (Fagerland et al.).
- **Accuracy, rows in groups**: the leave-one-group-out jackknife with Student's t on G − 1
  degrees of freedom, never narrower than Newcombe's. The test swaps the models in whole groups:
  p is the share of sign patterns of the groups' differences whose sum is at least as far from 0
  (all patterns of up to 14 groups that differ, else 9,999 drawn with a fixed seed). It is an
  exact form of Durkalski's test, and for groups of one row it is McNemar's exact test. With fewer
  than six groups that differ it cannot reach 0.05.
- **AUC**: DeLong's paired test, its variance by jackknife over groups where there are any.

A percentile bootstrap over groups stands beside, for comparison; with few groups or few
discordant images it is too narrow (``tests/test_comparing.py`` measures it).

Sources: Q. McNemar, Psychometrika 12 (1947) 153. M. W. Fagerland, S. Lydersen and P. Laake, BMC
Medical Research Methodology 13 (2013) 91 (mid-p) and Statistics in Medicine 33 (2014) 2850
(intervals). R. G. Newcombe, Statistics in Medicine 17 (1998) 2635. V. L. Durkalski et al.,
Statistics in Medicine 22 (2003) 2417. E. R. DeLong et al., Biometrics 44 (1988) 837. N. A.
Obuchowski, Biometrics 53 (1997) 567. S. Holm, Scandinavian Journal of Statistics 6 (1979) 65.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import binom, norm, t

from w207lib.metrics import intervals
from w207lib.metrics.threshold import choose_threshold, found
from w207lib.schema import FAKE, check_predictions

PAIR_COLUMNS = (
    "a", "b", "split", "condition", "n", "groups",
    "both_right", "only_a_right", "only_b_right", "both_wrong",
    "accuracy_a", "accuracy_b", "difference", "difference_low", "difference_high",
    "bootstrap_low", "bootstrap_high", "p", "p_mcnemar", "p_groups",
    "auc_a", "auc_b", "auc_difference", "auc_difference_low", "auc_difference_high", "p_auc",
    "note",
)  # fmt: skip
SEED_METRICS = ("accuracy", "roc_auc", "recall_fake", "specificity")
_DRAWS, _ENUMERATED = 9999, 14


def paired(
    predictions: pd.DataFrame,
    a: str,
    b: str,
    *,
    split: str = "test",
    condition: str = "clean",
    threshold: float | Mapping[str, float] | None = None,
) -> pd.Series:
    """Compare two models on the images that both have scored.

    Args:
        predictions: Predictions table, with an optional column ``group``.
        a: One model.
        b: The other; differences are b − a.
        split: Whose images, and in which ``condition``.
        threshold: One for both models, or one for each; None chooses each model's on its clean
            validation rows.

    Returns:
        ``PAIR_COLUMNS``. ``p`` is the one to report: ``p_groups`` where rows are in groups, else
        ``p_mcnemar``, which takes rows as independent whatever the groups. Without discordant
        images both are 1. With one group the limits, ``p``, ``p_groups`` and ``p_auc`` are NaN,
        and so is all about the AUC where a class is absent. ``note`` says which test ``p`` is
        and what limits it.

    Raises:
        ValueError: A model has no such rows, the two did not score the same images, or with
            other labels, or there is no threshold.
    """
    check_predictions(predictions)
    first, second = (_rows(predictions, model, split, condition) for model in (a, b))
    first, second = _matched(first, second, a, b)
    limits = [_limit(predictions, model, threshold) for model in (a, b)]
    fake = (first["label"] == FAKE).to_numpy()
    scores = first["score"].to_numpy(float), second["score"].to_numpy(float)
    right = [(score >= limit) == fake for score, limit in zip(scores, limits, strict=True)]
    groups = intervals.group_codes(first)
    wrong = [1 - hits.astype(int) for hits in right]
    counts = np.bincount(2 * wrong[0] + wrong[1], minlength=4).tolist()
    n, count = len(fake), int(groups.max()) + 1
    gain = right[1].astype(float) - right[0]
    p_mcnemar = mcnemar(counts[1], counts[2])
    p_groups = _swapped(np.bincount(groups, gain)) if count < n else np.nan
    p = p_groups if count < n else p_mcnemar
    values = (
        a, b, split, condition, n, count, *counts, right[0].mean(), right[1].mean(), gain.mean(),
        *_difference(counts, gain, groups), *_bootstrap(gain, groups), p, p_mcnemar, p_groups,
        *_auc(fake, *scores, groups), _note(count, n, gain, groups),
    )  # fmt: skip
    return pd.Series(dict(zip(PAIR_COLUMNS, values, strict=True)), dtype=object)


def compare(
    predictions: pd.DataFrame,
    models: Sequence[str] | None = None,
    *,
    split: str = "test",
    condition: str = "clean",
    threshold: float | Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Compare every pair of models.

    Args:
        predictions: As for ``paired``.
        models: Which, in order; None takes all that have such rows.
        split: As for ``paired``, like ``condition`` and ``threshold``.

    Returns:
        A row a pair: ``PAIR_COLUMNS``, then ``p_holm`` and ``p_auc_holm``, Holm's correction
        of ``p`` and of ``p_auc``, each for the pairs here; a NaN is no test, and not counted.

    Raises:
        ValueError: There are fewer than two models, or as ``paired``.
    """
    if models is None:
        own = (predictions["split"] == split) & (predictions["condition"] == condition)
        models = predictions.loc[own, "model"].unique().tolist()
    if len(models) < 2:
        raise ValueError(
            f"compare: {len(models)} model(s) with {split} × {condition} rows "
            f"({', '.join(map(str, models)) or 'none'}); expected two or more. Join their tables."
        )
    rows = [
        paired(predictions, a, b, split=split, condition=condition, threshold=threshold)
        for a, b in combinations(models, 2)
    ]
    table = pd.DataFrame(rows).infer_objects().reset_index(drop=True)
    return table.assign(p_holm=holm(table["p"]), p_auc_holm=holm(table["p_auc"]))


def mcnemar(only_a: int, only_b: int) -> float:
    """Return McNemar's mid-p value, two-sided, from the numbers of discordant images."""
    n, fewer = only_a + only_b, min(only_a, only_b)
    return float(min(1, 2 * binom.cdf(fewer, n, 0.5) - binom.pmf(fewer, n, 0.5)))


def holm(p: Sequence[float]) -> np.ndarray:
    """Return Holm's step-down corrected p values, float ``(len(p),)``; NaN stays NaN."""
    values = np.asarray(p, float)
    order, result = np.argsort(values)[: np.isfinite(values).sum()], np.full(len(values), np.nan)
    stepped = values[order] * np.arange(len(order), 0, -1)
    result[order] = np.minimum(1, np.maximum.accumulate(stepped))
    return result


def _rows(predictions: pd.DataFrame, model: str, split: str, condition: str) -> pd.DataFrame:
    own = predictions[predictions["model"] == model]
    rows = own[(own["split"] == split) & (own["condition"] == condition)]
    if rows.empty:
        raise ValueError(
            f"compare: model {model!r} has no {split} × {condition} rows; it has "
            f"{found(own, 'split')} × {found(own, 'condition')}. Predict them, or take others."
        )
    return rows.set_index("path")


def _matched(first: pd.DataFrame, second: pd.DataFrame, a: str, b: str):
    """Return both tables in one order of paths."""
    for here, there, name in ((first, second, b), (second, first, a)):
        missing = here.index[~here.index.isin(there.index)]
        if len(missing):
            raise ValueError(
                f"compare: {a!r} and {b!r} did not score the same images: {name!r} lacks "
                f"{len(missing)} of {len(here)}, the first {missing[0]!r}. Score the same manifest "
                "with both, or keep the images of both."
            )
    second = second.loc[first.index]
    differ = (first["label"] != second["label"]).to_numpy()
    if differ.any():
        raise ValueError(
            f"compare: {differ.sum()} images have another label for {a!r} than for {b!r}, the "
            f"first {first.index[differ][0]!r}. Score both on one manifest."
        )
    return first, second


def _limit(predictions: pd.DataFrame, model: str, threshold) -> float:
    if threshold is None:
        return choose_threshold(predictions[predictions["model"] == model])
    limit = threshold.get(model, np.nan) if isinstance(threshold, Mapping) else threshold
    if not 0 <= limit <= 1:
        raise ValueError(
            f"compare: threshold {limit!r} for {model!r}; expected P(FAKE), a number in [0, 1]. "
            "Give one for each model, or pass threshold=None."
        )
    return float(limit)


def _newcombe(both: float, only_a: float, only_b: float, neither: float) -> intervals.Interval:
    """Return Newcombe's paired interval of the difference b − a (method 10)."""
    n = both + only_a + only_b + neither
    right = (both + only_b, both + only_a)
    b, a = (k / n for k in right)
    (low_b, high_b), (low_a, high_a) = (intervals.wilson(k, n) for k in right)
    product = float(right[0]) * (n - right[0]) * right[1] * (n - right[1])
    across = float(both * neither - only_a * only_b)
    across = max(across - n / 2, 0) if across > 0 else across  # his continuity correction of φ
    phi = across / np.sqrt(product) if product else 0.0

    def reach(x: float, y: float) -> float:
        return np.sqrt(max(x**2 - 2 * phi * x * y + y**2, 0))

    return float(b - a - reach(b - low_b, high_a - a)), float(b - a + reach(high_b - b, a - low_a))


def _difference(counts, gain: np.ndarray, groups: np.ndarray) -> intervals.Interval:
    count, n, mean = int(groups.max()) + 1, len(gain), gain.mean()
    if count == 1:
        return intervals.UNDEFINED
    # Without a discordant image no variance between groups is seen: each then counts as one.
    low, high = _newcombe(*(k if gain.any() else k * count / n for k in counts))
    if count == n:
        return low, high
    variance = _jackknife(gain, groups, [np.ones(n, bool)])
    half = t.ppf(0.975, count - 1) * np.sqrt(variance)
    return max(-1.0, min(low, mean - half)), min(1.0, max(high, mean + half))


def _jackknife(gain: np.ndarray, groups: np.ndarray, parts: list[np.ndarray]) -> float:
    """Return the variance of the sum of the parts' mean gains, one group left out at a time."""
    count = int(groups.max()) + 1
    change = np.zeros(count)
    for rows in parts:
        left = rows.sum() - np.bincount(groups[rows], minlength=count)
        change += np.bincount(groups[rows], gain[rows] - gain[rows].mean(), count) / left
    return float((count - 1) / count * (change**2).sum())


def _bootstrap(gain: np.ndarray, groups: np.ndarray) -> intervals.Interval:
    """Return the percentile bootstrap interval of the mean, whole groups drawn."""
    size = np.bincount(groups)
    if len(size) == 1:
        return intervals.UNDEFINED
    # Groups of one size and sum are alike: drawing how often each kind comes is the same.
    kinds, often = np.unique([size, np.bincount(groups, gain)], axis=1, return_counts=True)
    drawn = np.random.default_rng(207).multinomial(len(size), often / len(size), _DRAWS)
    low, high = np.quantile((drawn @ kinds[1]) / (drawn @ kinds[0]), [0.025, 0.975])
    return float(low), float(high)


def _swapped(sums: np.ndarray) -> float:
    """Return the two-sided p of the groups' summed differences, signs swapped by group."""
    moved = np.abs(sums[sums != 0])
    if len(sums) == 1 or not len(moved):
        return 1.0 if len(sums) > 1 else np.nan
    seen = abs(sums.sum()) - 1e-9
    if len(moved) <= _ENUMERATED:
        patterns = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float((np.abs((2 * patterns - 1) @ moved) >= seen).mean())
    kinds, often = np.unique(moved, return_counts=True)
    plus = np.random.default_rng(207).binomial(often, 0.5, (_DRAWS, len(kinds)))
    beyond = (np.abs((2 * plus - often) @ kinds) >= seen).sum()
    return float((1 + beyond) / (1 + _DRAWS))


def _auc(fake: np.ndarray, a: np.ndarray, b: np.ndarray, groups: np.ndarray) -> tuple:
    """Return both AUCs, b − a with its limits, and the p of DeLong's paired test."""
    if fake.all() or not fake.any():
        return (np.nan,) * 6
    places = [intervals.placements(fake, score) for score in (a, b)]
    areas = [float(place[fake].mean()) for place in places]
    gain = places[1] - places[0]
    difference, count = areas[1] - areas[0], int(groups.max()) + 1
    classes = [fake, ~fake]
    units = min(len(np.unique(groups[rows])) for rows in classes)
    if units == 1:
        return (*areas, difference, *intervals.UNDEFINED, np.nan)
    variance, spread = sum(gain[rows].var(ddof=1) / rows.sum() for rows in classes), norm
    if count < len(fake):
        variance, spread = max(variance, _jackknife(gain, groups, classes)), t(units - 1)
    error = np.sqrt(variance)
    if error < 1e-12:  # all ranked alike, or a difference without anything to judge it by
        ends = (0.0, 0.0, 1.0) if abs(difference) < 1e-12 else (*intervals.UNDEFINED, np.nan)
        return (*areas, difference, *ends)
    half = spread.ppf(0.975) * error
    p = float(2 * spread.sf(abs(difference) / error))
    return (*areas, difference, max(-1.0, difference - half), min(1.0, difference + half), p)


def _note(count: int, n: int, gain: np.ndarray, groups: np.ndarray) -> str:
    if count == 1 or not gain.any():
        return "no discordant image" if count > 1 else "one group: nothing is known of others"
    if count == n:
        return "McNemar mid-p; rows independent"
    moved = int((np.bincount(groups, gain) != 0).sum())
    few = "; too few to reach 0.05" if moved < 6 else ""
    return f"models swapped in {count} groups, {moved} of which differ{few}"


def family(name: str) -> str:
    r"""Return a model's name without ``-seed`` and a number at its end."""
    return re.sub(r"-seed\d+$", "", str(name))


def over_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    """Summarise trainings that differ in nothing but their seed.

    The standard deviation covers what the seed decides: initial weights, the order of batches,
    augmentation, dropout. It does not cover the choice of test images, which all seeds share
    (``evaluate.score`` has those intervals), nor the choice of training images.

    Args:
        scores: From ``evaluate.score``; models ``NAME``, ``NAME-seed208``, … are repetitions of
            ``NAME``.

    Returns:
        One row a family × split × condition: these, of each of ``SEED_METRICS`` ``_mean``, ``_sd``
        (n − 1 in the denominator; NaN for one training), ``_min``, ``_max``, and ``seeds``, how
        many.

    Raises:
        ValueError: A column is missing, or a model stands twice for a split and condition.
    """
    keys = ["split", "condition"]
    missing = [name for name in ("model", *keys, *SEED_METRICS) if name not in scores]
    if missing:
        raise ValueError(
            f"over_seeds: column(s) {', '.join(missing)} missing; received "
            f"{', '.join(map(str, scores.columns)) or 'none'}. Pass the table of evaluate.score."
        )
    twice = scores.duplicated(["model", *keys])
    if twice.any():
        raise ValueError(
            f"over_seeds: {scores.loc[twice, 'model'].iloc[0]!r} stands twice for a split and "
            "condition; expected one row. Score without by=, or keep one value of it."
        )
    parts = scores.groupby([scores["model"].map(family).rename("family"), *keys], sort=False)
    table = parts[list(SEED_METRICS)].agg(["mean", "std", "min", "max"])
    table.columns = [f"{name}_{what}".replace("_std", "_sd") for name, what in table.columns]
    return table.assign(seeds=parts.size()).reset_index()
