"""Where to operate: what each threshold costs photographs, and what it finds of the fakes.

A false alarm is a photograph called FAKE. Thresholds are chosen on clean validation rows alone
and then held fixed: the false alarms of another split or condition are what they turn out to be.
A metric without rows is NaN. Intervals are 95 % (``intervals`` says how).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from w207lib.evaluate import KEYS, parts
from w207lib.metrics import intervals
from w207lib.metrics.threshold import thresholds
from w207lib.schema import FAKE, REAL

FROZEN = "frozen"
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
POINT_COLUMNS = (
    "point", "target", "threshold", "too_few", "n_real", "n_fake",
    "specificity", "specificity_low", "specificity_high",
    "recall_fake", "recall_fake_low", "recall_fake_high",
    "accuracy", "accuracy_low", "accuracy_high",
    "false_alarms", "false_alarms_low", "false_alarms_high", "oracle_recall_fake",
)  # fmt: skip
_NUMBERED = re.compile(r"\d{1,4}(?: ?\((\d+)\))?\.(?:jpe?g|png)", re.IGNORECASE)


def operating_points(
    predictions: pd.DataFrame,
    *,
    false_alarms: Sequence[float] = (0.01, 0.05),
    by: str | None = None,
) -> pd.DataFrame:
    """Measure every model at its frozen threshold and at those of given false alarms.

    Args:
        predictions: Predictions table, each model with clean validation rows of both classes;
            with an optional column ``group``.
        false_alarms: Shares of photographs called FAKE, in (0, 1). Each one's threshold is the
            smallest at which no more of the model's clean validation photographs are: midway to
            the next higher validation score, or to 1; infinite, so that nothing is called FAKE,
            where a score of 1 is too common among them.
        by: A further column to group by, such as the kind of object. ``"generator"`` sets each
            generator's images against all photographs of the same model, split and condition.

    Returns:
        One row a model × split × condition (× value of ``by``) × point: these, then
        ``POINT_COLUMNS``. ``point`` is ``frozen`` (``threshold.choose_threshold``) or like
        ``1 %``; ``target`` is its share, NaN for ``frozen``. ``specificity`` is the photographs'
        accuracy, ``recall_fake`` the fakes', ``false_alarms`` is 1 − ``specificity``.
        ``too_few``: validation has fewer independent photographs (groups) than 1 / ``target``,
        so that such a share cannot be told from none. ``oracle_recall_fake`` is read off these
        very rows' ROC curve: the largest recall of any threshold at which at most ``target`` of
        their photographs are false alarms. It uses their labels, so it describes the scores; it
        is no promise of what a detector will do, and NaN for ``frozen``.

    Raises:
        ValueError: A share or ``by`` is not as above, or as ``threshold.thresholds``.
    """
    points = _named(false_alarms)
    taken = {*KEYS, *POINT_COLUMNS, "label", "score"}
    if by is not None and (by not in predictions.columns or by in taken):
        usable = [str(name) for name in predictions.columns if name not in taken]
        raise ValueError(f"operating points: by={by!r}; expected None or one of {usable}.")
    frozen = thresholds(predictions)
    rows = []
    for model, own in predictions.groupby("model", sort=False):
        chosen = [(FROZEN, np.nan, frozen[model], False)]
        clean = own[(own["split"] == "validation") & (own["condition"] == "clean")]
        units = intervals.group_codes(clean)[(clean["label"] == REAL).to_numpy()]
        for name, target in points.items():
            few = len(np.unique(units)) < 1 / target - 1e-9
            chosen.append((name, target, _threshold(clean, target), few))
        for key, table in own.groupby(list(KEYS), sort=False):
            for value, part in parts(table, by):
                start = dict(zip(KEYS, key, strict=True)) | ({} if by is None else {by: value})
                rows += [start | _measure(part, *point) for point in chosen]
    return pd.DataFrame(rows, columns=[*KEYS, *([by] if by else []), *POINT_COLUMNS])


def _named(false_alarms: Sequence[float]) -> dict[str, float]:
    wrong = [share for share in false_alarms if not 0 < share < 1]
    if wrong:
        raise ValueError(
            f"operating points: false_alarms={wrong[0]!r}; expected shares in (0, 1), "
            "such as 0.01 for 1 %."
        )
    return {f"{100 * share:g} %": float(share) for share in false_alarms}


def _allowed(target: float, n_real: int) -> int:
    """Return how many of ``n_real`` false alarms are at most ``target`` of them."""
    return int(np.floor(target * n_real + 1e-9))  # 0.07 of 100 is 7, whatever the last bit says


def _threshold(clean: pd.DataFrame, target: float) -> float:
    """Return the smallest threshold with at most ``target`` false alarms among these rows."""
    score = clean["score"].to_numpy(float)
    real = np.sort(score[(clean["label"] == REAL).to_numpy()])[::-1]
    spared = real[_allowed(target, len(real))]  # this photograph and all below it are called REAL
    if spared == 1:
        return np.inf
    upper = score[score > spared].min(initial=1)
    middle = (spared + upper) / 2
    return float(middle if middle > spared else upper)


def _measure(rows: pd.DataFrame, name: str, target: float, threshold: float, few: bool) -> dict:
    fake = (rows["label"] == FAKE).to_numpy()
    score, groups = rows["score"].to_numpy(float), intervals.group_codes(rows)
    called = score >= threshold
    result = {
        "point": name, "target": target, "threshold": threshold, "too_few": few,
        "n_real": int((~fake).sum()), "n_fake": int(fake.sum()),
    }  # fmt: skip
    shares = {
        "specificity": (~called, ~fake), "recall_fake": (called, fake),
        "accuracy": (called == fake, fake | ~fake), "false_alarms": (called, ~fake),
    }  # fmt: skip
    for column, (hits, among) in shares.items():
        low, high = intervals.proportion(hits[among], groups[among])
        share = hits[among].mean() if among.any() else np.nan
        result |= {column: share, f"{column}_low": low, f"{column}_high": high}
    oracle = np.nan
    if fake.any() and not fake.all() and not np.isnan(target):
        real = np.sort(score[~fake])[::-1]
        oracle = (score[fake] > real[_allowed(target, len(real))]).mean()
    return result | {"oracle_recall_fake": oracle}


def object_class(paths: Iterable[str]) -> pd.Series:
    r"""Name the object of each CIFAKE image, from the number in its file name's brackets.

    CIFAKE numbers CIFAR-10's classes so: none airplane, (2) automobile, … (10) truck
    (J. J. Bird and A. Lotfi, IEEE Access 12 (2024) 15642, and the data set's file names).

    Args:
        paths: Such as ``cifake/test/FAKE/0 (10).jpg``; ``\`` separates folders as well as ``/``.

    Returns:
        str ``(len(paths),)``, named ``object``, with the index of ``paths`` if it is a Series;
        empty where a file's name does not fit, and everywhere where no name has brackets: then
        the numbers are of somebody else's.
    """
    index = paths.index if isinstance(paths, pd.Series) else None
    names = [_object(str(path)) for path in paths]
    if not set(names) & set(OBJECTS[1:]):
        names = [""] * len(names)
    return pd.Series(names, index=index, name="object", dtype="str")


def _object(path: str) -> str:
    match = _NUMBERED.fullmatch(path.replace("\\", "/").rpartition("/")[2])
    if not match:
        return ""
    number = int(match[1] or 1)
    given = match[1] is None or 2 <= number <= len(OBJECTS)
    return OBJECTS[number - 1] if given else ""
