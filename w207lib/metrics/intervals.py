"""95 % confidence intervals for proportions and for the area under the ROC curve.

Images cut from one photograph are not independent: a detector that fails on one of its crops
tends to fail on the others. A *group* is a set of rows that stand or fall together.

- **Rows independent**: Wilson's score interval for a proportion, DeLong's variance on the logit
  scale for the AUC.
- **Rows in groups**: the leave-one-group-out jackknife variance, on the logit scale, with
  Student's t on G − 1 degrees of freedom for G groups; never narrower than the interval that
  takes the rows as independent. The percentile bootstrap over groups is not used: with few
  groups its resamples are too alike, and it covers too rarely (Cameron, Gelbach and Miller
  2008; ``tests/test_evaluate.py`` measures it). For many groups the two agree.
- **At the limit**, where every row is right or every row is wrong and no variance can be seen:
  Wilson's interval with the number of groups (of rows, where independent) as its n. For an AUC
  of 0 or 1, the smaller class's number. With few groups this is wide, and means to be.
- **One group** says nothing about others: [0, 1].

Simulated with the sample's seven unequal test photographs (16 to 144 rows), 95 % intervals of a
share covered 92 to 98 % at shares of 0.5 and 0.8, and 89 % at 0.95 where rows of one photograph
were strongly alike (correlation 0.3); those of seven equal ones 94 to 98 %, and 89 % there.

Nothing here is random. Every interval contains its estimate and lies within [0, 1].

Sources: E. B. Wilson, JASA 22 (1927) 209. E. R. DeLong et al., Biometrics 44 (1988) 837, in the
rank form of X. Sun and W. Xu, IEEE Signal Processing Letters 21 (2014) 1389. N. A. Obuchowski,
Biometrics 53 (1997) 567 (AUC of clustered rows). R. M. Bell and D. F. McCaffrey, Survey
Methodology 28 (2002) 169, and J. G. MacKinnon et al., Journal of Econometrics 232 (2023) 272
(jackknife with t on G − 1). A. C. Cameron et al., Review of Economics and Statistics 90 (2008)
414. M. S. Pepe, The Statistical Evaluation of Medical Tests (2003), 5.2 (AUC on the logit scale).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import norm, rankdata, t

CONFIDENCE = 0.95
_TAIL = (1 + CONFIDENCE) / 2

Interval = tuple[float, float]
NOTHING_KNOWN: Interval = (0.0, 1.0)
UNDEFINED: Interval = (np.nan, np.nan)


def group_codes(table: pd.DataFrame) -> np.ndarray:
    """Number each row's group.

    Args:
        table: Any table; the column ``group`` is used if there. A row whose group is missing
            or empty is a group of its own, and so is each row where there is no such column.

    Returns:
        int64 ``(len(table),)``, 0 to G − 1.
    """
    if "group" not in table.columns:
        return np.arange(len(table))
    codes = pd.factorize(table["group"])[0]
    alone = (codes < 0) | (table["group"].astype(str) == "").to_numpy()
    codes[alone] = len(table) + np.arange(alone.sum())
    return pd.factorize(codes)[0]


def wilson(successes: float, n: float) -> Interval:
    """Return Wilson's score interval of ``successes`` out of ``n`` independent trials.

    Args:
        successes: 0 to ``n``.
        n: Number of trials; 0 gives NaN.

    Returns:
        Lower and upper limit, within [0, 1].
    """
    if n == 0:
        return UNDEFINED
    z = norm.ppf(_TAIL)
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return _around(p, centre - half, centre + half)


def proportion(hits: np.ndarray, groups: np.ndarray) -> Interval:
    """Return the interval of the share of ``hits``.

    Args:
        hits: bool ``(N,)``, True where the row counts (correct, detected, …).
        groups: int ``(N,)``, as from ``group_codes``.

    Returns:
        Lower and upper limit, within [0, 1]; NaN where N is 0.
    """
    hits = np.asarray(hits, float)
    n, successes = len(hits), hits.sum()
    _, codes = np.unique(groups, return_inverse=True)
    count = int(codes.max(initial=-1)) + 1
    independent = wilson(successes, n)
    if count == n:
        return independent
    if count == 1:
        return NOTHING_KNOWN
    p = successes / n
    if p in (0, 1):
        return wilson(p * count, count)
    size = np.bincount(codes)
    change = np.bincount(codes, hits - p) / (n - size)  # p without the group, minus p, negated
    return _wider(p, independent, _on_logit(p, _jackknife(change), t.ppf(_TAIL, count - 1)))


def placements(fake: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return the share of the other class that each row is on the right side of.

    Args:
        fake: bool ``(N,)``; both classes are there.
        score: float ``(N,)``, higher for FAKE; ties count one half.

    Returns:
        float ``(N,)`` in [0, 1]; its mean over either class is the area under the ROC curve
        (DeLong and others 1988).
    """
    ranks, place = rankdata(score), np.empty(len(score))
    place[fake] = (ranks[fake] - rankdata(score[fake])) / (~fake).sum()
    place[~fake] = 1 - (ranks[~fake] - rankdata(score[~fake])) / fake.sum()
    return place


def auc(label: np.ndarray, score: np.ndarray, groups: np.ndarray) -> Interval:
    """Return the interval of the area under the ROC curve.

    Args:
        label: ``(N,)``, 0 for REAL and 1 for FAKE.
        score: float ``(N,)``, higher for FAKE; ties count one half.
        groups: int ``(N,)``, as from ``group_codes``; a group may hold both classes.

    Returns:
        Lower and upper limit, within [0, 1]; NaN where a class is absent. Where all scores are
        equal the AUC is 0.5 whatever the images, and so are both limits.
    """
    fake = np.asarray(label) == 1
    score = np.asarray(score, float)
    n_fake, n_real = int(fake.sum()), int((~fake).sum())
    if not n_fake or not n_real:
        return UNDEFINED
    placement = placements(fake, score)
    area = placement[fake].mean()

    _, codes = np.unique(groups, return_inverse=True)
    clustered = codes.max() + 1 < len(codes)
    units = min(len(np.unique(codes[fake])), len(np.unique(codes[~fake])))
    if units == 1:
        return NOTHING_KNOWN
    if min(area, 1 - area) < 1e-12:
        return wilson(round(area) * units, units)
    variance = placement[fake].var(ddof=1) / n_fake + placement[~fake].var(ddof=1) / n_real
    delong = _on_logit(area, variance, norm.ppf(_TAIL))
    if not clustered:
        return delong
    change = np.zeros(codes.max() + 1)
    for rows, n in ((fake, n_fake), (~fake, n_real)):
        size = np.bincount(codes[rows], minlength=len(change))
        change += np.bincount(codes[rows], placement[rows] - area, len(change)) / (n - size)
    return _wider(area, delong, _on_logit(area, _jackknife(change), t.ppf(_TAIL, units - 1)))


def _jackknife(change: np.ndarray) -> float:
    """Return the variance from each group's effect on the estimate when it is left out."""
    return float((len(change) - 1) / len(change) * (change**2).sum())


def _on_logit(estimate: float, variance: float, quantile: float) -> Interval:
    """Return the symmetric interval on the logit scale (delta method), brought back."""
    half = quantile * np.sqrt(variance) / (estimate * (1 - estimate))
    centre = logit(estimate)
    return _around(estimate, expit(centre - half), expit(centre + half))


def _wider(estimate: float, *intervals: Interval) -> Interval:
    return _around(estimate, min(i[0] for i in intervals), max(i[1] for i in intervals))


def _around(estimate: float, low: float, high: float) -> Interval:
    """Keep rounding from putting a limit past its estimate, or outside [0, 1]."""
    return float(max(0, min(low, estimate))), float(min(1, max(high, estimate)))
