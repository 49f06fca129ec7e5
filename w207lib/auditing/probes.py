"""Short cuts: what can be guessed of an image's class without looking for a generator's traces.

A *probe* is a small classifier that gets only what should not matter. If it scores, then so may
a network, for the same wrong reason. Each is cross-validated by group, so that it never sees a
photograph that it is tested on, and its AUROC has a 95 % interval (``intervals``). That takes the
folds' models as given, though each row also trains those that test the others: simulated, it
covered 74 to 90 % where a probe guesses little (200 to 2,000 rows), and half as wide again it
covered 96 % and more (C. Nadeau and Y. Bengio, Machine Learning 52 (2003) 239, variance times
1 + K / (K − 1) for K folds).

- ``container``: format, colour mode, width, height, aspect, JPEG quantisation tables, chroma
  subsampling, EXIF, colour profile, progressive. Nothing of it is a picture.
- ``metadata``: all that, with bytes and bytes per pixel. At one encoder's one setting these say
  how busy a picture is, so this probe also looks through the encoder's eyes.
- ``lowpass``: colours of an 8 × 8 thumbnail. A generator's traces lie in fine detail, so what is
  found here is content, colour or exposure.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from w207lib.metrics import intervals
from w207lib.schema import CLASS_NAMES, FAKE, REAL

CONTAINER = (
    "format", "mode", "width", "height", "aspect", "tables", "quality", "subsampling", "exif",
    "profile", "progressive",
)  # fmt: skip
METADATA = (*CONTAINER, "bytes", "bytes_per_pixel")
CATEGORIES = ("format", "mode", "tables", "subsampling")
PROBES = ("container", "metadata", "lowpass")
FOLDS = 5
MOST_ROWS = 20_000
"""More rows than this are drawn by group: the interval is ±0.01 wide by then."""
FEW_ROWS = 5_000
RESOLUTION = 0.02
LOWPASS_SIDE = 8
LEAST_PER_CLASS = 20


def facts(manifest: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """Join what manifest and headers say of each readable image.

    Args:
        manifest: From ``manifest.load``.
        traces: The first of what ``traces.read`` returns.

    Returns:
        One row a readable image, in the manifest's order: ``path, label, class_name, split,
        group, status`` and ``METADATA``. Sides are in pixels, ``aspect`` is width over height.
    """
    rows = manifest[manifest["pixel_hash"] != ""]
    table = rows[["path", "label", "class_name", "split", "group", "status", "format", "mode",
                  "width", "height", "bytes"]].merge(traces, on="path", validate="1:1")  # fmt: skip
    area = table["width"] * table["height"]
    return table.assign(
        aspect=table["width"] / table["height"], bytes_per_pixel=table["bytes"] / area
    )


def run(
    facts: pd.DataFrame, thumbnails: np.ndarray, *, probes: tuple[str, ...] = PROBES,
    seed: int = 207,
) -> pd.DataFrame:  # fmt: skip
    """Cross-validate probes.

    Args:
        facts: From ``facts``.
        thumbnails: uint8 ``(len(facts), S, S, 3)``, S a multiple of ``LOWPASS_SIDE``.
        probes: Which ones.
        seed: Seed of folds, forests and of the rows that are drawn from many.

    Returns:
        One row a probe: ``probe, auroc, low, high, n, groups``. NaN where a class has
        fewer than ``LEAST_PER_CLASS`` groups and one (it or the other) fewer rows, too.
    """
    at = _draw(facts, seed)
    rows = facts.iloc[at]
    label, group = rows["label"].to_numpy(int), pd.factorize(rows["group"])[0]
    found = []
    for name in probes:
        x = _lowpass(thumbnails[at]) if name == "lowpass" else _encode(rows, name)
        auroc, (low, high) = _auroc(x, label, group, name, seed)
        found.append((name, auroc, low, high, len(at), len(np.unique(group))))
    return pd.DataFrame(found, columns=["probe", "auroc", "low", "high", "n", "groups"])


def by_class(facts: pd.DataFrame) -> pd.DataFrame:
    """Say of each fact how the classes differ.

    Args:
        facts: From ``facts``.

    Returns:
        One row a fact: ``fact``, ``REAL`` and ``FAKE`` (median and quartiles of a number, the
        commonest values and their shares otherwise, as text), ``auroc`` of guessing FAKE by this
        fact alone (by the class shares of each value where it is no number; at least 0.5), and
        ``constant``, whether all images agree.
    """
    rows = []
    for name in METADATA:
        values = facts[name]
        described = {
            c: _describe(values[facts["class_name"] == c], name in CATEGORIES) for c in CLASS_NAMES
        }
        constant = values.nunique(dropna=False) < 2
        auroc = 0.5 if constant else _alone(values, facts["label"], name in CATEGORIES)
        rows.append({"fact": name, **described, "auroc": auroc, "constant": constant})
    return pd.DataFrame(rows).sort_values(
        "auroc", ascending=False, kind="stable", ignore_index=True
    )


def _draw(facts: pd.DataFrame, seed: int) -> np.ndarray:
    """Return row numbers: all usable, or whole groups until ``MOST_ROWS`` are reached."""
    at = np.flatnonzero((facts["status"] == "ok").to_numpy())
    if len(at) <= MOST_ROWS:
        return at
    codes = pd.factorize(facts["group"].iloc[at])[0]
    order = np.random.default_rng(seed).permutation(codes.max() + 1)
    sizes = np.bincount(codes)[order]
    chosen = order[: np.searchsorted(np.cumsum(sizes), MOST_ROWS) + 1]
    return at[np.isin(codes, chosen)]


def _encode(rows: pd.DataFrame, probe: str) -> np.ndarray:
    names = CONTAINER if probe == "container" else METADATA
    columns = [
        pd.factorize(rows[name], sort=True)[0] if name in CATEGORIES else rows[name].astype(float)
        for name in names
    ]
    # Of other formats than JPEG there is no quality; scikit-learn fails on a column of NaN alone.
    return np.nan_to_num(np.column_stack(columns).astype(float), nan=-1)


def _lowpass(thumbnails: np.ndarray) -> np.ndarray:
    n, side = thumbnails.shape[:2]
    step = side // LOWPASS_SIDE
    blocks = thumbnails.reshape(n, LOWPASS_SIDE, step, LOWPASS_SIDE, step, 3)
    return blocks.mean(axis=(2, 4), dtype=np.float32).reshape(n, 3 * LOWPASS_SIDE**2)


def _auroc(x, label, group, name, seed) -> tuple[float, tuple[float, float]]:
    units = [len(np.unique(group[label == value])) for value in (REAL, FAKE)]
    if min(units) < LEAST_PER_CLASS and min(np.bincount(label, minlength=2)) < LEAST_PER_CLASS:
        return np.nan, (np.nan, np.nan)
    folds = min(FOLDS, *units)
    if folds < 2:
        return np.nan, (np.nan, np.nan)
    if np.all(x == x[:1]):
        return 0.5, (0.5, 0.5)  # nothing to learn from: every image says the same
    model = HistGradientBoostingClassifier(
        max_iter=60, min_samples_leaf=20, max_leaf_nodes=15, random_state=seed
    )
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    threads = 1 if len(x) < FEW_ROWS else None  # more would only wait for each other
    with threadpool_limits(threads, user_api="openmp"):
        score = _held_out_scores(model, x, label, split.split(x, label, group))
    return float(roc_auc_score(label, score)), intervals.auc(label, score, group)


def _held_out_scores(model, x, label, folds) -> np.ndarray:
    """Return each row's score by a model of the other folds, less those folds' share of FAKE.

    A fold with more fakes leaves fewer to learn from: uncorrected, rows that no model can tell
    apart would be ordered by that, against the truth. Scores are rounded, so that they tie.
    """
    score = np.empty(len(x))
    for train, test in folds:
        fitted = clone(model).fit(x[train], label[train])
        score[test] = fitted.predict_proba(x[test])[:, FAKE] - label[train].mean()
    return np.round(score / RESOLUTION) * RESOLUTION


def _describe(values: pd.Series, category: bool) -> str:
    if not len(values):
        return "–"
    if category or values.dtype == bool:
        shares = values.value_counts(normalize=True).head(3)
        return ", ".join(f"{_name(value)} {share:.0%}" for value, share in shares.items())
    if values.isna().all():
        return "–"
    low, middle, high = values.quantile([0.25, 0.5, 0.75])
    return f"{middle:.4g} ({low:.4g}–{high:.4g})"


def _name(value) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return str(value) or "none"


def _alone(values: pd.Series, label: pd.Series, category: bool) -> float:
    if category:
        values = values.map(label.groupby(values).mean())
    area = roc_auc_score(label, values.astype(float).fillna(-1)) if label.nunique() == 2 else np.nan
    return float(max(area, 1 - area))
