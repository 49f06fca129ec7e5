import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import t
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from w207lib import evaluate
from w207lib.metrics import calibration, intervals
from w207lib.schema import FAKE

pytestmark = pytest.mark.filterwarnings("error")


def predictions(label, score, *, split="test", model="m", condition="clean", **columns):
    label = np.asarray(label)
    table = {
        "path": [f"{split}/{i}.png" for i in range(len(label))], "label": label,
        "generator": np.where(label == FAKE, "gan", "real"), "split": split, "model": model,
        "condition": condition, "score": np.asarray(score, float),
    }  # fmt: skip
    return pd.DataFrame(table | columns)


def draw(rng, n, separation, sharpness, groups=None):
    """Scores whose true logit is theirs over ``sharpness``: 1 is perfectly calibrated."""
    label = rng.integers(0, 2, n)
    codes = np.arange(n) if groups is None else np.arange(n) % groups
    noise = rng.normal(size=n)
    if groups is not None:
        noise = np.sqrt(0.3) * rng.normal(size=groups)[codes] + np.sqrt(0.7) * noise
    value = separation**2 * (label - 0.5) + separation * noise
    return label, expit(value * sharpness), codes


def noisy(seed, n=400, sharpness=1.0, separation=1.5, **columns):
    label, score, _ = draw(np.random.default_rng(seed), n, separation, sharpness)
    return predictions(label, score, **columns)


def both(seed=0, n=400, **options):
    parts = [noisy(seed + i, n, split=s, **options) for i, s in enumerate(("validation", "test"))]
    return pd.concat(parts, ignore_index=True)


# --- reliability ---------------------------------------------------------------------------


@pytest.mark.parametrize(("equal_count", "strategy"), [(True, "quantile"), (False, "uniform")])
def test_reliability_agrees_with_scikit_learn(equal_count, strategy):
    table = noisy(0)
    ours = calibration.reliability(table, bins=8, equal_count=equal_count)
    share, mean = calibration_curve(table["label"], table["score"], n_bins=8, strategy=strategy)
    np.testing.assert_allclose(ours["score"], mean)
    np.testing.assert_allclose(ours["share_fake"], share)
    if not equal_count:
        assert ours["bin"].tolist() == sorted(set(np.ceil(table["score"] * 8).astype(int) - 1))
    assert ours["n"].sum() == 400 and (not equal_count or set(ours["n"]) == {50})
    assert (ours["share_fake_low"] <= ours["share_fake"]).all()
    assert (ours["share_fake"] <= ours["share_fake_high"]).all()


def test_reliability_keeps_equal_scores_together_and_takes_groups_apart():
    table = predictions([0, 1] * 30, [0.5] * 60)
    alone = calibration.reliability(table)
    assert alone["n"].tolist() == [60] and alone["share_fake"].item() == 0.5
    grouped = calibration.reliability(table.assign(group=np.arange(60) // 2 % 3))
    expected = intervals.proportion(table["label"] == 1, np.arange(60) // 2 % 3)
    ends = grouped[["share_fake_low", "share_fake_high"]].iloc[0]
    assert tuple(ends) == pytest.approx(expected)
    shuffled = table.assign(score=np.round(np.linspace(0, 1, 60), 1))
    again = shuffled.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(calibration.reliability(shuffled), calibration.reliability(again))


def test_reliability_refuses_no_bins_and_a_table_without_scores():
    with pytest.raises(ValueError, match="bins=0"):
        calibration.reliability(noisy(0), bins=0)
    with pytest.raises(ValueError, match="score missing"):
        calibration.reliability(noisy(0).drop(columns="score"))


# --- measures ------------------------------------------------------------------------------


def one(table):
    result = calibration.measures(table)
    assert len(result) == 1
    return result.iloc[0]


def test_brier_and_log_loss_agree_with_scikit_learn():
    table = noisy(1, n=300)
    row = one(table)
    label, score = table["label"], table["score"]
    assert row["brier"] == pytest.approx(metrics.brier_score_loss(label, score))
    assert row["log_loss"] == pytest.approx(metrics.log_loss(label, score))
    base = metrics.brier_score_loss(label, np.full(300, label.mean()))
    assert row["brier_skill"] == pytest.approx(1 - row["brier"] / base)
    for name in ("ece", "brier", "log_loss"):
        assert 0 <= row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]


def test_ece_agrees_with_a_loop_over_bins():
    table = noisy(2, n=450, sharpness=2).sort_values("score")
    parts = np.split(table[["score", "label"]].to_numpy(), 15)
    expected = np.mean([abs(part[:, 0].mean() - part[:, 1].mean()) for part in parts])
    assert one(table)["ece"] == pytest.approx(expected)
    assert one(table.sample(frac=1, random_state=3))["ece"] == pytest.approx(expected)


def test_ece_of_chance_is_what_calibrated_scores_show():
    rng = np.random.default_rng(4)
    score = rng.random(200)
    table = predictions(rng.integers(0, 2, 200), score)
    seen = [one_ece(predictions((rng.random(200) < score).astype(int), score)) for _ in range(400)]
    row = one(table)
    assert row["ece_chance"] == pytest.approx(np.mean(seen), rel=0.05)
    assert row["ece_chance_high"] == pytest.approx(np.quantile(seen, 0.95), rel=0.08)
    assert row["ece"] > row["ece_chance_high"] and row["ece_low"] > 0


def one_ece(table):
    bins = pd.qcut(table["score"].rank(), 15, labels=False)
    part = table.groupby(bins)[["score", "label"]].mean()
    return ((part["score"] - part["label"]).abs() * bins.value_counts() / len(table)).sum()


def test_chance_alone_reaches_down_to_no_error():
    assert one(noisy(5, n=3000))["ece_low"] == 0
    wrong = one(noisy(5, n=3000, sharpness=3))
    assert wrong["ece_low"] > wrong["ece_chance_high"] > wrong["ece_chance"]


def test_the_interval_of_ece_leaves_zero_exactly_where_chance_is_left():
    rows = calibration.measures(pd.concat([noisy(i, n=60, model=str(i)) for i in range(30)]))
    beyond = rows["ece"] > rows["ece_chance_high"]
    assert beyond.sum() <= 5 and (rows.loc[~beyond, "ece_low"] == 0).all()


def test_the_interval_of_ece_of_one_bin_is_that_of_a_mean():
    row = one(predictions(np.arange(200) % 2, np.full(200, 0.9)))
    half = t.ppf(0.975, 199) * 0.5 / np.sqrt(199)
    assert row["ece"] == pytest.approx(0.4)
    assert (row["ece_low"], row["ece_high"]) == pytest.approx((0.4 - half, 0.4 + half), abs=0.01)
    assert row["ece_low"] <= 0.4 - half + 1e-9 and row["ece_high"] >= 0.4 + half - 1e-9


def test_the_interval_of_a_mean_loss_is_nearly_normal_with_many_rows():
    table = noisy(6, n=4000)
    row, label, score = one(table), table["label"].to_numpy(), table["score"].to_numpy()
    for name, loss in (
        ("brier", (score - label) ** 2), ("log_loss", -np.log(np.where(label, score, 1 - score))),
    ):  # fmt: skip
        half = 1.96 * loss.std() / np.sqrt(4000)
        assert row[f"{name}_high"] - row[name] == pytest.approx(half, rel=0.05)
        assert row[name] - row[f"{name}_low"] == pytest.approx(half, rel=0.05)


def test_groups_widen_and_change_no_estimate():
    table = noisy(6)
    # Each group's rows agree: as many independent rows as groups.
    copies = pd.concat([table.assign(path=table["path"] + str(i)) for i in range(4)])
    grouped, alone = one(copies.assign(group=copies["path"].str[:-1])), one(copies)
    assert grouped["groups"] == 400 and alone["groups"] == 1600
    for name in ("ece", "brier", "log_loss"):
        assert grouped[name] == pytest.approx(alone[name])
        wider = (grouped[f"{name}_high"] - grouped[f"{name}_low"]) / (
            alone[f"{name}_high"] - alone[f"{name}_low"]
        )
        assert wider > 1.3
    assert grouped["ece_chance_high"] > 1.5 * alone["ece_chance_high"]
    assert grouped["brier_high"] == pytest.approx(one(table)["brier_high"], abs=1e-3)


def test_measures_are_the_same_twice_and_kept_apart():
    table = pd.concat([both(7, model="a"), both(9, model="b")])
    first, second = calibration.measures(table), calibration.measures(table)
    pd.testing.assert_frame_equal(first, second)
    assert len(first) == 4 and list(first.columns[:3]) == ["model", "split", "condition"]
    part = table[(table["model"] == "b") & (table["split"] == "test")]
    assert one(part)["ece"] == first["ece"].iloc[3]


def test_measures_at_the_edges():
    single = one(predictions([1], [0.25]))
    assert single["ece"] == 0.75 and single["brier"] == 0.5625
    assert np.isnan(single[["ece_low", "brier_high", "log_loss_low", "brier_skill"]].tolist()).all()
    together = one(noisy(8, n=50).assign(group="only"))
    assert np.isnan(together[["ece_low", "ece_high", "brier_low"]].tolist()).all()
    equal = one(predictions([0, 1] * 20, [0.5] * 40))
    assert equal["ece"] == 0 and equal["brier_low"] == equal["brier_high"] == 0.25
    sure = one(predictions([0, 1], [0.0, 1.0]))
    assert sure["log_loss"] == pytest.approx(1e-7, rel=1e-3) and sure["brier_skill"] == 1
    wrong = one(predictions([0, 1], [1.0, 0.0]))
    assert wrong["log_loss"] == pytest.approx(-np.log(1e-7)) and wrong["ece_high"] == 1
    fakes = one(predictions([1, 1, 1], [0.9, 0.7, 0.8]))
    assert fakes["ece"] == pytest.approx(0.2) and np.isnan(fakes["brier_skill"])


# --- temperature -----------------------------------------------------------------------------


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 2.5])
def test_temperature_agrees_with_logistic_regression(sharpness):
    table = noisy(10, n=2000, sharpness=sharpness, split="validation")
    x = logit(table[["score"]].to_numpy())
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(x, table["label"])
    fitted = calibration.fit_temperature(table)
    assert fitted == pytest.approx(1 / model.coef_.item(), rel=1e-3)
    assert fitted == pytest.approx(sharpness, rel=0.15)


def test_temperature_sees_nothing_but_clean_validation_rows():
    table = both(11)
    other = table.assign(condition="jpeg", score=1 - table["score"])
    expected = calibration.fit_temperature(table[table["split"] == "validation"])
    assert calibration.fit_temperature(pd.concat([table, other])) == expected
    moved = table.assign(
        score=table["score"].where(table["split"] == "test", 0.5 + table["score"] / 9)
    )
    assert calibration.fit_temperature(moved) != expected


def test_temperature_at_the_edges():
    low, high = calibration.TEMPERATURES
    separated = predictions([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9], split="validation")
    assert calibration.fit_temperature(separated) == pytest.approx(low, rel=1e-3)
    backwards = predictions([1, 1, 0, 0], [0.1, 0.2, 0.6, 0.9], split="validation")
    assert calibration.fit_temperature(backwards) == pytest.approx(high, rel=1e-3)
    extreme = predictions([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 0.0], split="validation")
    # Two in three right at a logit of 16.1: the temperature that says two thirds.
    room = logit(1 - 1e-7) + 0.01
    fitted = calibration.fit_temperature(extreme)
    assert fitted == pytest.approx(min(high, room / np.log(2)), rel=1e-3)
    with pytest.raises(ValueError, match="FAKE rows only"):
        calibration.fit_temperature(predictions([1, 1], [0.2, 0.3], split="validation"))
    with pytest.raises(ValueError, match="no clean validation rows"):
        calibration.fit_temperature(noisy(0))
    with pytest.raises(ValueError, match="2 models"):
        calibration.fit_temperature(pd.concat([both(model="a"), both(model="b")]))


@pytest.mark.parametrize("temperature", [0.05, 0.5, 1, 3, 20])
def test_another_temperature_keeps_every_rank(temperature):
    score = np.unique(np.concatenate([
        [0, 1e-300, 1e-30, 1e-9, 1e-7, 1 - 1e-9, np.nextafter(np.float32(1), 0), 1],
        np.random.default_rng(0).random(200), expit(np.linspace(-16, 16, 99)),
    ]))  # fmt: skip
    scaled = calibration.apply_temperature(score, temperature)
    assert (np.diff(scaled) > 0).all() and scaled.min() >= 0 and scaled.max() <= 1
    middle = (score > 0.1) & (score < 0.9)
    if temperature >= 0.5:
        np.testing.assert_allclose(scaled[middle], expit(logit(score[middle]) / temperature))


def test_a_temperature_must_be_above_zero():
    for wrong in (0, -1, np.nan):
        with pytest.raises(ValueError, match="number above 0"):
            calibration.apply_temperature(np.array([0.5]), wrong)


def test_calibrated_scores_have_the_same_auc_and_less_log_loss():
    table = pd.concat([both(12, sharpness=3, model="a"), both(14, sharpness=0.5, model="b")])
    before, after = calibration.measures(table), calibration.measures(calibration.calibrated(table))
    assert (after["log_loss"] < before["log_loss"]).all() and (after["ece"] < before["ece"]).all()
    scores = [evaluate.score(t) for t in (table, calibration.calibrated(table))]
    np.testing.assert_array_equal(scores[0]["roc_auc"], scores[1]["roc_auc"])
    np.testing.assert_array_equal(scores[0]["average_precision"], scores[1]["average_precision"])
    # Each model has its own temperature, and the table is a copy.
    alone = calibration.calibrated(table[table["model"] == "b"])
    kept = calibration.calibrated(table)
    np.testing.assert_array_equal(alone["score"], kept.loc[kept["model"] == "b", "score"])
    assert (table["score"] != kept["score"]).all()


# --- how often the intervals cover -----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("groups", [None, 10])
@pytest.mark.parametrize(
    ("separation", "sharpness"), [(1.0, 1.0), (1.0, 2.5), (3.5, 1.0), (3.5, 2.5)]
)
def test_the_interval_of_ece_covers(groups, separation, sharpness, monkeypatch, capsys):
    monkeypatch.setattr(calibration, "_DRAWS", 300)
    rng, trials, n = np.random.default_rng(0), 150, 300
    covered = chance = percentile = 0
    for _ in range(trials):
        label, score, codes = draw(rng, n, separation, sharpness, groups)
        truth = expit(logit(score.clip(1e-15, 1 - 1e-15)) / sharpness)
        bins = calibration._equal_count(score, 15)
        error = np.abs(np.bincount(bins, score - truth)).sum() / n
        row = calibration._ece(label, score, codes)
        covered += row["ece_low"] <= error + 1e-12 and error <= row["ece_high"]
        chance += row["ece"] > row["ece_chance_high"]
        if groups is None:
            picks = rng.integers(0, n, (100, n))
            values = [np.abs(np.bincount(bins[p], (score - label)[p])).sum() / n for p in picks]
            low, high = np.quantile(values, [0.025, 0.975])
            percentile += low <= error <= high
    with capsys.disabled():
        simple = f", percentile bootstrap {percentile}" if groups is None else ""
        print(f"\nECE {groups=} {separation=} {sharpness=} of {trials}: {covered} covered, "
              f"{chance} beyond chance{simple}")  # fmt: skip
    assert covered / trials >= 0.9
    if sharpness == 1:
        assert chance / trials <= 0.1 and percentile / trials < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "least"), [(None, 0.92), (6, 0.85), (30, 0.92)])
@pytest.mark.parametrize("separation", [1.0, 3.5])
def test_the_intervals_of_mean_losses_cover(groups, least, separation, capsys):
    rng, trials, n = np.random.default_rng(0), 400, 300
    label, score, _ = draw(np.random.default_rng(1), 1_000_000, separation, 2.5)
    losses = (lambda y, s: (s - y) ** 2, calibration._log_losses)
    truth = [loss(label, score).mean() for loss in losses]
    covered = np.zeros(2)
    for _ in range(trials):
        label, score, codes = draw(rng, n, separation, 2.5, groups)
        for place, loss in enumerate(losses):
            low, high = calibration._mean_interval(loss(label, score), codes)
            covered[place] += low <= truth[place] <= high
    with capsys.disabled():
        print(f"\nBrier, log loss {groups=} {separation=}: cover {covered / trials}")
    assert (covered / trials >= least).all()
