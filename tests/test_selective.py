import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from w207lib import evaluate
from w207lib.metrics import intervals, selective
from w207lib.schema import FAKE, REAL

pytestmark = pytest.mark.filterwarnings("error")


def predictions(label, score, *, split="test", model="m", condition="clean", **columns):
    label = np.asarray(label)
    table = {
        "path": [f"{split}/{i}.png" for i in range(len(label))], "label": label,
        "generator": np.where(label == FAKE, "gan", "real"), "split": split, "model": model,
        "condition": condition, "score": np.asarray(score, float),
    }  # fmt: skip
    return pd.DataFrame(table | columns)


def noisy(seed, n=400, **columns):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    value = 1.5**2 * (label - 0.5) + 1.5 * rng.normal(size=n)
    return predictions(label, expit(value), **columns)


def both(seed=0, n=400, **options):
    parts = [noisy(seed + i, n, split=s, **options) for i, s in enumerate(("validation", "test"))]
    return pd.concat(parts, ignore_index=True)


def brute_band(label, score, limit, error):
    """Return how many rows each side's widest promise answers, by trying every cut."""
    best = []
    for called, wrong_label, beyond in (
        (score < limit, FAKE, lambda c: score <= c), (score >= limit, REAL, lambda c: score >= c),
    ):  # fmt: skip
        sizes = [0]
        for cut in np.unique(score[called]):
            rows = beyond(cut)
            if (label[rows] == wrong_label).mean() <= error:
                sizes.append(rows.sum())
        best.append(max(sizes))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_band_answers_most_of_all_that_keep_the_promise(seed):
    table = noisy(seed, n=300, split="validation")
    table["score"] = table["score"].round(2)  # ties
    label, score = table["label"].to_numpy(), table["score"].to_numpy()
    limit = evaluate.choose_threshold(table)
    low, high = selective.unsure_band(table, error=0.1)
    assert 0 <= low <= limit <= high <= 1
    expected = brute_band(label, score, limit, 0.1)
    assert [(score < low).sum(), (score >= high).sum()] == expected
    assert (label[score < low] == FAKE).mean() <= 0.1 and (
        label[score >= high] == REAL
    ).mean() <= 0.1


def test_band_lies_midway_between_scores():
    label = [0, 0, 1, 0, 1, 0, 1, 1]
    score = [0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9]
    table = predictions(label, score, split="validation")
    assert selective.unsure_band(table) == pytest.approx((0.25, 0.75))
    close = table.assign(score=np.where(table["score"] == 0.3, np.nextafter(0.2, 1), score))
    low, _ = selective.unsure_band(close)
    assert low == np.nextafter(0.2, 1)  # between neighbouring floats: the upper one


def test_band_sees_nothing_but_clean_validation_rows():
    table = both(20)
    band = selective.unsure_band(table, error=0.1)
    turned = table.assign(score=table["score"].where(table["split"] != "test", 1 - table["score"]))
    jpeg = table.assign(condition="jpeg", score=0.5)
    assert selective.unsure_band(pd.concat([turned, jpeg]), error=0.1) == band


def test_nothing_need_be_unsure_of_separated_classes():
    table = predictions([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9], split="validation")
    assert selective.unsure_band(table) == pytest.approx((0.4, 0.4))
    row = selective.selective(table).iloc[0]
    assert row["coverage"] == 1 and row["unsure"] == 0 and row["accuracy_answered"] == 1
    assert np.isnan(row["accuracy_unsure"]) and np.isnan(row["accuracy_unsure_low"])


def test_band_that_cannot_keep_its_promise_is_refused_and_leaves_nan():
    table = predictions([0, 1] * 20, [0.5] * 40, split="validation")
    with pytest.raises(ValueError, match="cannot call .* with at most 5.0% wrong .* 40 clean"):
        selective.unsure_band(table)
    rows = selective.selective(pd.concat([table, both(21, model="other")])).set_index("model")
    assert rows.loc[["m"], ["low", "coverage", "accuracy_answered_low"]].isna().to_numpy().all()
    assert rows.loc["other", "coverage"].notna().all()
    with pytest.raises(ValueError, match="error=5"):
        selective.unsure_band(table, error=5)
    with pytest.raises(ValueError, match="error=0"):
        selective.selective(table, error=0)
    with pytest.raises(ValueError, match="low <= high"):
        selective.selective(table, (0.7, 0.2))
    with pytest.raises(ValueError, match="no band for m"):
        selective.selective(table, {"other": (0.1, 0.2)})


def test_selective_counts():
    validation = predictions([0, 0, 1, 1], [0.1, 0.4, 0.6, 0.9], split="validation")  # 0.5
    test = predictions([0, 1, 0, 1, 1, 0], [0.1, 0.2, 0.3, 0.45, 0.7, 0.8])
    rows = selective.selective(pd.concat([validation, test]), (0.3, 0.7)).set_index("split")
    row = rows.loc["test"]  # unsure: 0.3 (right), 0.45 (wrong); 0.7 is answered
    assert row["unsure"] == pytest.approx(1 / 3) and row["coverage"] == pytest.approx(2 / 3)
    assert row["accuracy_unsure"] == 0.5 and row["accuracy_answered"] == 0.5
    wider = selective.selective(pd.concat([validation, test]), (0.3, 0.75)).set_index("split")
    assert wider.loc["test", "unsure"] == 0.5  # 0.3 is unsure, as high itself would not be
    at_high = selective.selective(pd.concat([validation, test]), (0.25, 0.45)).set_index("split")
    assert at_high.loc["test", "unsure"] == pytest.approx(1 / 6)
    limits = row["coverage_low"], row["coverage_high"]
    assert limits == pytest.approx(intervals.wilson(4, 6))
    grouped = pd.concat([validation, test]).assign(group=["a", "b", "c", "d", *"efxyef"])
    wide = selective.selective(grouped, {"m": (0.3, 0.7)}).set_index("split").loc["test"]
    assert wide["accuracy_answered_high"] - wide["accuracy_answered_low"] > (
        row["accuracy_answered_high"] - row["accuracy_answered_low"]
    )
