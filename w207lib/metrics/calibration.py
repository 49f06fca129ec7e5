"""Are the scores probabilities? Reliability diagrams, calibration error, temperature.

A score is calibrated where, of the images scored 0.8, four in five are FAKE. That holds for the
share of FAKE that the rows have: with another share the same scores are calibrated no longer.
The temperature is fitted on clean validation rows alone.

One clip, stated once: a score counts as at least ``CLIP`` and at most 1 − ``CLIP`` in the log
loss and in a logit, so that one wrong score of exactly 0 or 1 costs 16.1 nats, not infinity.

Intervals of ``measures`` (95 %, nothing depends on chance but a fixed seed):

- **Brier score, log loss** are means of row losses: leave-one-group-out jackknife with
  Student's t on G − 1 degrees of freedom. The losses of a good model are many small ones and few
  large ones, so that the limits are the outermost of three: plain, on the log scale (upper), and
  with P. Hall's correction for skewness (JRSS B 54 (1992) 221). Simulated, of 95 % intervals of
  60 to 2,000 rows these covered 86 to 99 %, the plain ones 76 to 96 %, and bootstrap BCa ones
  82 to 95 % of independent rows but 72 to 86 % of rows in six groups. Errors rarer than one in
  the rows at hand are in no such interval: where no row is badly wrong, limits are too low.
- **ECE** is biased upwards (a sum of absolute values): percentile bootstrap intervals covered 0 %
  where scores are calibrated, the plain jackknife 2 to 62 % (of independent rows). Here, of the
  error of the bins at hand: the values ``ECE × k`` for which the ECE seen is within the middle
  95 % of what would be seen, the bins' errors being drawn from a normal (with groups: t)
  distribution with their jackknife covariance (test inversion: J. Carpenter, JRSS B 61 (1999)
  159); joined with the plain jackknife interval, which covers better far from 0; and reaching
  down to 0 where chance alone explains the ECE. Simulated, these covered 89 to 100 %.

``tests/test_calibration.py`` measures how often they cover.

Sources: M. P. Naeini et al., AAAI (2015) 2901 (ECE). C. Guo et al., ICML (2017) 1321
(temperature). J. Nixon et al., CVPR Workshops (2019) 38 (bins of equal count). G. W. Brier,
Monthly Weather Review 78 (1950) 1. A. C. Cameron et al., Review of Economics and Statistics 90
(2008) 414 (signs drawn by group).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import rankdata, t

from w207lib.evaluate import KEYS
from w207lib.metrics import intervals
from w207lib.metrics.threshold import found, require_both_classes
from w207lib.schema import FAKE, check_predictions

CLIP = 1e-7
ECE_BINS = 15
TEMPERATURES = (0.05, 20.0)
_DRAWS = 1000
_LIMIT, _ROOM = np.log1p(-CLIP) - np.log(CLIP), 0.01


def reliability(
    predictions: pd.DataFrame, *, bins: int = 10, equal_count: bool = True
) -> pd.DataFrame:
    """Set the share of FAKE against the mean score, bin by bin.

    Args:
        predictions: Predictions table, with an optional column ``group``.
        bins: How many at most; a bin without rows is left out.
        equal_count: Bins of equal numbers of rows, equal scores always sharing a bin; else
            bins of equal width, whose upper edge belongs to them.

    Returns:
        One row a model × split × condition × bin, scores rising: these, ``score`` (mean),
        ``share_fake``, ``share_fake_low``, ``share_fake_high``, ``n``.

    Raises:
        ValueError: The table is not a predictions table, or ``bins`` is below 1.
    """
    check_predictions(predictions)
    if bins < 1:
        raise ValueError(f"reliability: bins={bins}; expected 1 or more. 10 is usual.")
    rows = []
    for key, table in predictions.groupby(list(KEYS), sort=False):
        label, score = _arrays(table)
        groups = intervals.group_codes(table)
        edges = np.linspace(0, 1, bins + 1)[1:-1]
        place = _equal_count(score, bins) if equal_count else np.searchsorted(edges, score)
        for number in np.unique(place):
            inside = place == number
            low, high = intervals.proportion(label[inside] == FAKE, groups[inside])
            row = {
                "bin": int(number), "score": score[inside].mean(),
                "share_fake": label[inside].mean(), "share_fake_low": low,
                "share_fake_high": high, "n": int(inside.sum()),
            }  # fmt: skip
            rows.append(dict(zip(KEYS, key, strict=True)) | row)
    columns = ("bin", "score", "share_fake", "share_fake_low", "share_fake_high", "n")
    return pd.DataFrame(rows, columns=[*KEYS, *columns])


def measures(predictions: pd.DataFrame) -> pd.DataFrame:
    """Measure how well scores serve as probabilities.

    Args:
        predictions: Predictions table, with an optional column ``group``.

    Returns:
        One row a model × split × condition: these, then

        - ``n``, ``groups``: rows, and independent units among them;
        - ``ece``, ``ece_low``, ``ece_high``: the expected calibration error, that is the mean
          over rows of |mean score − share of FAKE| of the row's bin, in [0, 1]; 15 bins of
          equal count, equal scores sharing a bin;
        - ``ece_chance``, ``ece_chance_high``: mean and 95th percentile of the ECE that perfectly
          calibrated scores like these would show with this many rows: labels drawn from the
          scores 1,000 times, with a fixed seed (of few rows with scores near 0 and 1, a rare
          large value may lift the mean above the percentile). With groups, the larger of that
          and of what swapping the signs of whole groups' errors gives;
        - ``brier``, ``brier_low``, ``brier_high``: mean squared error, in [0, 1];
        - ``brier_skill``: 1 − ``brier`` / that of the rows' own share of FAKE; above 0 is
          better than knowing that share alone, and NaN where there is one class only;
        - ``log_loss``, ``log_loss_low``, ``log_loss_high``: in nats, scores clipped by ``CLIP``.

        One group says nothing of others: limits NaN.

    Raises:
        ValueError: The table is not a predictions table.
    """
    check_predictions(predictions)
    rows = []
    for key, table in predictions.groupby(list(KEYS), sort=False):
        label, score = _arrays(table)
        groups = intervals.group_codes(table)
        row = {"n": len(table), "groups": int(groups.max()) + 1} | _ece(label, score, groups)
        losses = {"brier": (score - label) ** 2, "log_loss": _log_losses(label, score)}
        for name, loss in losses.items():
            low, high = _mean_interval(loss, groups)
            high = min(high, 1.0) if name == "brier" else high
            row |= {name: loss.mean(), f"{name}_low": low, f"{name}_high": high}
        base = label.mean() * (1 - label.mean())
        row["brier_skill"] = 1 - row["brier"] / base if base else np.nan
        rows.append(dict(zip(KEYS, key, strict=True)) | row)
    limits = [f"{n}{e}" for n in ("brier", "log_loss") for e in ("", "_low", "_high")]
    columns = ["n", "groups", "ece", "ece_low", "ece_high", "ece_chance", "ece_chance_high"]
    return pd.DataFrame(rows, columns=[*KEYS, *columns, *limits[:3], "brier_skill", *limits[3:]])


def _ece(label: np.ndarray, score: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Return the ECE, its interval, and what chance makes of perfectly calibrated scores."""
    n, count = len(label), int(groups.max()) + 1
    order = np.argsort(score, kind="stable")
    label, score, groups = label[order], score[order], groups[order]
    bins = np.unique(_equal_count(score, ECE_BINS), return_inverse=True)[1]
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    error = score - label
    by_bin = np.add.reduceat(error, starts) / n
    ece = float(np.abs(by_bin).sum())

    rng = np.random.default_rng(207)
    expected = np.add.reduceat(score, starts)
    drawn = np.array([np.add.reduceat(rng.random(n) < score, starts) for _ in range(_DRAWS)])
    chance = np.abs(drawn - expected).sum(1) / n
    centre, top = chance.mean(), np.quantile(chance, 0.95)
    if count < n:
        sums = np.zeros((len(starts), count))
        np.add.at(sums, (bins, groups), error / n)
        flipped = np.abs(rng.choice([-1.0, 1.0], (_DRAWS, count)) @ sums.T).sum(1)
        centre, top = max(centre, flipped.mean()), max(top, np.quantile(flipped, 0.95))
    low, high = _ece_interval(by_bin, error, bins, groups, rng)
    low = 0.0 if ece <= top and count > 1 else low
    names = ("ece", "ece_low", "ece_high", "ece_chance", "ece_chance_high")
    return dict(zip(names, map(float, (ece, low, high, centre, top)), strict=True))


def _ece_interval(by_bin, error, bins, groups, rng) -> intervals.Interval:
    """Invert the test, and join the jackknife: the module's head says why."""
    n, count, ece = len(error), int(groups.max()) + 1, np.abs(by_bin).sum()
    if count == 1:
        return intervals.UNDEFINED
    left = (error - (by_bin * n / np.bincount(bins))[bins]) / n
    if count == n:
        covariance = np.diag(np.bincount(bins, left**2)) * count / (count - 1)
    else:
        sums = np.zeros((len(by_bin), count))
        np.add.at(sums, (bins, groups), left)
        covariance = sums @ sums.T * count / (count - 1)
    noise = rng.multivariate_normal(np.zeros(len(by_bin)), covariance, _DRAWS, method="eigh")
    if count < n:
        noise *= np.sqrt((count - 1) / rng.chisquare(count - 1, (_DRAWS, 1)))
    factors = np.linspace(0, 3, 121)
    seen = np.array([np.abs(factor * by_bin + noise).sum(1) for factor in factors])
    lowest, highest = np.quantile(seen, [0.025, 0.975], axis=1)
    fits = factors[(highest >= ece) & (lowest <= ece)]
    signs = np.sign(by_bin)
    half = t.ppf(0.975, count - 1) * np.sqrt(max(signs @ covariance @ signs, 0))
    least, most = (fits.min(), fits.max()) if len(fits) else (1.0, 1.0)
    return max(0.0, min(ece * least, ece - half)), min(1.0, max(ece * most, ece + half))


def _mean_interval(loss: np.ndarray, groups: np.ndarray) -> intervals.Interval:
    """Return the interval of a mean of losses, none of them negative."""
    n, count, mean = len(loss), int(groups.max()) + 1, loss.mean()
    if count == 1:
        return intervals.UNDEFINED
    sums = np.bincount(groups, loss - mean)
    change = sums / (n - np.bincount(groups))
    error = np.sqrt((count - 1) / count * (change**2).sum())
    if error <= 1e-12 * mean:
        return float(mean), float(mean)
    quantile = t.ppf(0.975, count - 1)
    skew = (sums**3).sum() / (sums**2).sum() ** 1.5

    def corrected(x: float) -> float:
        return 3 / skew * (np.cbrt(1 + skew * (x - skew / 6)) - 1) if abs(skew) > 1e-6 else x

    low = mean - error * max(quantile, corrected(quantile))
    plain, skewed = mean * np.exp(quantile * error / mean), mean - error * corrected(-quantile)
    return float(max(0, low)), float(max(plain, skewed))


def fit_temperature(predictions: pd.DataFrame) -> float:
    """Fit one model's temperature on its clean validation rows.

    Args:
        predictions: Predictions of one model; rows of other splits and conditions are ignored.

    Returns:
        The T in ``TEMPERATURES`` with the least log loss of logit(score) / T; above 1 the scores
        were too sure. Classes that the scores separate perfectly have no best T: it comes out
        at the lower bound, and makes every score as good as certain; do not rely on it.

    Raises:
        ValueError: There is not exactly one model, no clean validation row, or only one class.
    """
    label, score = _arrays(_validation(predictions, "temperature"))
    margin = _logit(score) * np.where(label == FAKE, 1, -1)

    def loss(log_temperature: float) -> float:
        return np.logaddexp(0, -margin / np.exp(log_temperature)).mean()

    low, high = np.log(TEMPERATURES)  # the loss is convex in 1 / T, so it has one minimum
    fit = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(fit.x))


def apply_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return the scores at another temperature, in their order.

    Args:
        scores: P(FAKE), float ``(N,)`` in [0, 1].
        temperature: Above 0; 1 changes nothing but scores within ``CLIP`` of 0 or 1.

    Returns:
        float64 ``(N,)``: expit(logit(score) / T). Neither logit passes that of ``CLIP`` by more
        than 0.01; within that room the order is kept, so that ranks and AUC stay as they were.

    Raises:
        ValueError: ``temperature`` is not a number above 0.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise ValueError(
            f"temperature {temperature!r}; expected a number above 0, from `fit_temperature`."
        )
    return expit(_squash(_logit(np.asarray(scores, float)) / temperature))


def calibrated(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the table with every model's scores at its own fitted temperature.

    Args:
        predictions: Predictions table, each model with clean validation rows.

    Returns:
        A copy with other scores. Choose thresholds anew on it: the old ones do not fit.

    Raises:
        ValueError: As ``fit_temperature``, for any model.
    """
    check_predictions(predictions)
    result = predictions.assign(score=predictions["score"].astype(float))
    for model in predictions["model"].unique():
        rows = (predictions["model"] == model).to_numpy()
        temperature = fit_temperature(predictions[rows])
        result.loc[rows, "score"] = apply_temperature(predictions.loc[rows, "score"], temperature)
    return result


def _validation(predictions: pd.DataFrame, what: str) -> pd.DataFrame:
    """Return one model's clean validation rows, of both classes."""
    check_predictions(predictions)
    models = predictions["model"].unique()
    if len(models) != 1:
        raise ValueError(
            f"{what}: the table holds {len(models)} models ({', '.join(map(str, models))}); "
            "expected one. Keep one model's rows."
        )
    own = (predictions["split"] == "validation") & (predictions["condition"] == "clean")
    if not own.any():
        raise ValueError(
            f"{what}: model {models[0]!r} has no clean validation rows; it has "
            f"{found(predictions, 'split')} × {found(predictions, 'condition')}. Predict the "
            "validation split too."
        )
    rows = predictions[own]
    require_both_classes(rows["label"], f"{what}: model {models[0]!r}, clean validation rows")
    return rows


def _arrays(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return table["label"].to_numpy(int), table["score"].to_numpy(float)


def _equal_count(score: np.ndarray, bins: int) -> np.ndarray:
    return np.floor(bins * (rankdata(score) - 0.5) / len(score)).astype(int)


def _log_losses(label: np.ndarray, score: np.ndarray) -> np.ndarray:
    score = score.clip(CLIP, 1 - CLIP)
    return -np.where(label == FAKE, np.log(score), np.log1p(-score))


def _logit(score: np.ndarray) -> np.ndarray:
    """Return the logit, scores within ``CLIP`` of 0 or 1 squashed together in their order."""
    score = score.clip(np.finfo(float).smallest_subnormal, np.nextafter(1, 0))
    return _squash(np.log(score) - np.log1p(-score))


def _squash(value: np.ndarray) -> np.ndarray:
    """Keep a logit within that of ``CLIP``, but for 0.01 in which the order is kept."""
    size = np.maximum(np.abs(value), _LIMIT)
    return np.where(size > _LIMIT, np.sign(value) * (_LIMIT + _ROOM * (1 - _LIMIT / size)), value)
