import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn import metrics
from statsmodels.stats.proportion import proportion_confint

from w207lib import evaluate
from w207lib.metrics import intervals
from w207lib.schema import FAKE, REAL

pytestmark = pytest.mark.filterwarnings("error")  # undefined is NaN, without a warning


def predictions(label, score, *, split="test", model="m", condition="clean", **columns):
    label = np.asarray(label)
    table = {
        "path": [f"{split}/{i}.png" for i in range(len(label))], "label": label,
        "generator": np.where(label == FAKE, "gan", "real"), "split": split, "model": model,
        "condition": condition, "score": np.asarray(score, float),
    }  # fmt: skip
    return pd.DataFrame(table | columns)


def noisy(seed, n=400, separation=1.5, **columns):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    score = 1 / (1 + np.exp(-rng.normal(size=n) - separation * (label - 0.5)))
    return predictions(label, score.round(2), **columns)  # rounded, so that there are ties


def one(table, **options):
    result = evaluate.score(table, **options)
    assert len(result) == 1
    return result.iloc[0]


# --- threshold ---------------------------------------------------------------------------


def test_threshold_lies_midway_between_separated_classes():
    table = predictions([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9], split="validation")
    assert evaluate.choose_threshold(table) == pytest.approx(0.4)


def test_threshold_maximises_balanced_accuracy_over_every_cut():
    table = noisy(0, split="validation")
    chosen = evaluate.choose_threshold(table)

    def balanced(threshold):
        return metrics.balanced_accuracy_score(table["label"], table["score"] >= threshold)

    assert balanced(chosen) == pytest.approx(max(balanced(t) for t in np.arange(0.005, 1, 0.01)))


@pytest.mark.parametrize(
    ("scores", "nearest"),
    [([0.1, 0.2, 0.5, 0.6], 0.55), ([0.4, 0.5, 0.8, 0.9], 0.45)],
)
def test_threshold_of_equally_good_cuts_is_nearest_to_one_half(scores, nearest):
    # After the first row and after the third, balanced accuracy is 0.75 alike.
    table = predictions([0, 1, 0, 1], scores, split="validation")
    assert evaluate.choose_threshold(table) == pytest.approx(nearest)


@pytest.mark.parametrize("constant", [0.0, 0.3, 1.0])
def test_threshold_of_equal_scores_is_a_probability(constant):
    table = predictions([0, 1], [constant, constant], split="validation")
    assert 0 <= evaluate.choose_threshold(table) <= 1


def test_threshold_separates_neighbouring_floats():
    low = 0.7
    table = predictions([0, 1], [low, np.nextafter(low, 1)], split="validation")
    threshold = evaluate.choose_threshold(table)
    assert evaluate.score(table, threshold=threshold)["accuracy"].item() == 1


def test_threshold_never_looks_at_test_train_or_perturbed_rows():
    validation = noisy(1, split="validation")
    others = [
        noisy(2, split="test"), noisy(3, split="train"),
        noisy(4, split="validation", condition="jpeg"),
    ]  # fmt: skip
    before = evaluate.choose_threshold(pd.concat([validation, *others]))
    turned = [table.assign(score=1 - table["score"]) for table in others]
    after = evaluate.choose_threshold(pd.concat([validation, *turned]))
    assert before == after == evaluate.choose_threshold(validation)
    moved = validation.assign(score=validation["score"] / 2)
    assert evaluate.choose_threshold(moved) != before


def test_threshold_without_validation_or_without_a_class_is_refused():
    with pytest.raises(ValueError, match="no clean validation rows"):
        evaluate.choose_threshold(noisy(0, split="test"))
    with pytest.raises(ValueError, match="REAL rows only"):
        evaluate.choose_threshold(predictions([0, 0], [0.1, 0.2], split="validation"))
    with pytest.raises(ValueError, match="2 models"):
        evaluate.choose_threshold(pd.concat([noisy(0, model="a"), noisy(0, model="b")]))


def test_thresholds_gives_each_model_its_own():
    low = predictions([0, 1], [0.1, 0.2], split="validation", model="low")
    high = predictions([0, 1], [0.8, 0.9], split="validation", model="high")
    chosen = evaluate.thresholds(pd.concat([low, high]))
    assert chosen == pytest.approx({"low": 0.15, "high": 0.85})


def test_models_may_be_called_by_numbers():
    tables = [
        predictions([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], split=split, model=number)
        for number in (1, 2)
        for split in ("validation", "test")
    ]
    assert evaluate.score(pd.concat(tables))["model"].unique().tolist() == [1, 2]


# --- metrics -----------------------------------------------------------------------------


def test_perfect_scores():
    row = one(predictions([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]), threshold=0.5)
    for name in ("accuracy", "balanced_accuracy", "f1_real", "macro_f1", "roc_auc", "specificity"):
        assert row[name] == 1
    assert row["accuracy_high"] == 1 and row["accuracy_low"] < 0.6  # four rows prove little


def test_score_at_the_threshold_is_fake():
    row = one(predictions([1, 0], [0.5, 0.4999]), threshold=0.5)
    assert row["accuracy"] == 1


def test_metrics_agree_with_scikit_learn():
    table = noisy(5)
    row = one(table, threshold=0.4)
    label, score = table["label"], table["score"]
    called = (score >= 0.4).astype(int)
    report = metrics.classification_report(label, called, output_dict=True)
    for name, key in (("real", "0"), ("fake", "1")):
        for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert row[f"{ours}_{name}"] == pytest.approx(report[key][theirs])
    for average in ("macro", "weighted"):
        assert row[f"{average}_f1"] == pytest.approx(report[f"{average} avg"]["f1-score"])
        assert row[f"{average}_precision"] == pytest.approx(report[f"{average} avg"]["precision"])
    assert row["accuracy"] == pytest.approx(report["accuracy"])
    assert row["roc_auc"] == pytest.approx(metrics.roc_auc_score(label, score))
    assert row["average_precision"] == pytest.approx(metrics.average_precision_score(label, score))
    assert row["specificity"] == row["recall_real"]
    assert (row["n"], row["n_fake"], row["groups"]) == (400, label.sum(), 400)


def test_one_class_leaves_undefined_values_nan():
    row = one(predictions([1, 1, 1], [0.2, 0.7, 0.9]), threshold=0.5)
    undefined = ["roc_auc", "roc_auc_low", "average_precision", "specificity", "specificity_low",
                 "balanced_accuracy", "recall_real", "macro_recall"]  # fmt: skip
    assert row[undefined].isna().all()
    assert row["recall_fake"] == row["accuracy"] == pytest.approx(2 / 3)
    assert row["weighted_recall"] == pytest.approx(2 / 3)


def test_precision_of_a_class_never_predicted_is_nan_and_so_are_its_averages():
    row = one(predictions([0, 1], [0.9, 0.9]), threshold=0.5)
    assert row[["precision_real", "macro_precision", "weighted_precision"]].isna().all()
    assert row["recall_real"] == 0 and row["roc_auc"] == 0.5 and row["accuracy"] == 0.5


def test_a_row_a_model_split_and_condition():
    parts = [
        noisy(i, model=model, split=split, condition=condition)
        for i, (model, split, condition) in enumerate(
            [(m, s, c) for m in "ab" for s in ("validation", "test") for c in ("clean", "jpeg")]
        )
    ]
    result = evaluate.score(pd.concat(parts))
    assert len(result) == 8 and list(result.columns[:3]) == ["model", "split", "condition"]
    assert result.groupby("model")["threshold"].nunique().tolist() == [1, 1]
    first = parts[0]
    assert result["threshold"].iloc[0] == evaluate.choose_threshold(first)
    named = evaluate.score(pd.concat(parts), threshold={"a": 0.2, "b": 0.7})
    assert set(zip(named["model"], named["threshold"], strict=True)) == {("a", 0.2), ("b", 0.7)}


def test_by_generator_sets_each_against_all_photographs():
    table = noisy(6, separation=0)
    fake = table["label"] == FAKE
    table.loc[fake, "generator"] = np.where(np.arange(fake.sum()) % 3, "gan", "diffusion")
    table.loc[table["generator"] == "gan", "score"] = 1.0
    result = evaluate.score(table, by="generator", threshold=0.5).set_index("generator")
    assert set(result.index) == {"gan", "diffusion"}
    assert (result["n_real"] == (~fake).sum()).all()
    assert result["n_fake"].sum() == fake.sum()
    kept = table[table["generator"].isin(["real", "diffusion"])]
    expected = metrics.roc_auc_score(kept["label"], kept["score"])
    assert result.loc["diffusion", "roc_auc"] == pytest.approx(expected)
    assert result.loc["gan", "recall_fake"] == 1 > result.loc["diffusion", "recall_fake"]


def test_by_another_column_groups_alone():
    table = noisy(7).assign(side=["left", "right"] * 200)
    result = evaluate.score(table, by="side", threshold=0.5)
    assert result["n"].tolist() == [200, 200] and result["side"].tolist() == ["left", "right"]


def test_wrong_arguments_are_refused():
    table = noisy(8)
    with pytest.raises(ValueError, match="no clean validation rows"):
        evaluate.score(table)
    with pytest.raises(ValueError, match="by='colour'"):
        evaluate.score(table, by="colour", threshold=0.5)
    with pytest.raises(ValueError, match="no threshold for m"):
        evaluate.score(table, threshold={"other": 0.5})
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        evaluate.score(table, threshold=50)
    with pytest.raises(ValueError, match="score missing"):
        evaluate.score(table.drop(columns="score"), threshold=0.5)


# --- intervals ---------------------------------------------------------------------------


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (7, 7), (3, 10), (117, 194), (9500, 10000)])
def test_wilson_agrees_with_statsmodels(successes, n):
    expected = proportion_confint(successes, n, method="wilson")
    assert intervals.wilson(successes, n) == pytest.approx(expected, abs=1e-12)
    hits = np.arange(n) < successes
    assert intervals.proportion(hits, np.arange(n)) == intervals.wilson(successes, n)


def test_wilson_of_nothing_is_nan():
    assert np.isnan(intervals.wilson(0, 0)).all()


def test_delong_agrees_with_all_pairs():
    table = noisy(9, n=120)
    label, score = table["label"].to_numpy(), table["score"].to_numpy()
    fake, real = score[label == FAKE], score[label == REAL]
    wins = (fake[:, None] > real) + 0.5 * (fake[:, None] == real)  # (fakes, reals)
    area = wins.mean()
    variance = wins.mean(1).var(ddof=1) / len(fake) + wins.mean(0).var(ddof=1) / len(real)
    half = norm.ppf(0.975) * np.sqrt(variance) / (area * (1 - area))
    expected = 1 / (1 + np.exp(-(np.log(area / (1 - area)) + np.array([-half, half]))))
    assert intervals.auc(label, score, np.arange(120)) == pytest.approx(tuple(expected))


def clustered(rng, groups, mean=0.85, correlation=0.1):
    concentration = (1 - correlation) / correlation
    share = rng.beta(mean * concentration, (1 - mean) * concentration, groups)
    codes = np.repeat(np.arange(groups), rng.integers(20, 140, groups))
    return rng.random(len(codes)) < share[codes], codes


@pytest.mark.parametrize("groups", [4, 10])
def test_proportion_covers_with_few_groups_where_the_bootstrap_does_not(groups):
    rng = np.random.default_rng(groups)
    covered, bootstrap, rowwise, trials = 0, 0, 0, 400
    for _ in range(trials):
        hits, codes = clustered(rng, groups)
        low, high = intervals.proportion(hits, codes)
        covered += low <= 0.85 <= high
        low, high = intervals.proportion(hits, np.arange(len(hits)))
        rowwise += low <= 0.85 <= high
        drawn = rng.integers(0, groups, (300, groups))
        means = np.bincount(codes, hits)[drawn].sum(1) / np.bincount(codes)[drawn].sum(1)
        low, high = np.percentile(means, [2.5, 97.5])
        bootstrap += low <= 0.85 <= high
    assert covered / trials >= 0.9
    assert bootstrap / trials < 0.9 and rowwise / trials < 0.75


def auc_data(rng, groups, rows):
    codes = np.repeat(np.arange(groups), rows)
    label = np.tile([0, 1], groups * rows // 2)
    shift = 1.5 + 0.4 * rng.normal(size=groups)
    level = 0.2 * rng.normal(size=groups)
    return label, label * shift[codes] + level[codes] + rng.normal(size=len(codes)), codes


def test_auc_covers_with_few_groups():
    # Two scores of different photographs differ by 1.5, variance 2 + 0.4² + 2 · 0.2².
    truth = norm.cdf(1.5 / np.sqrt(2 + 0.4**2 + 2 * 0.2**2))
    rng = np.random.default_rng(0)
    limits = np.array([intervals.auc(*auc_data(rng, 5, 40)) for _ in range(300)])
    inside = (limits[:, 0] <= truth) & (truth <= limits[:, 1])
    assert inside.mean() >= 0.9
    assert np.diff(limits).mean() < 0.4  # and not by saying nothing


def test_many_groups_agree_with_the_cluster_bootstrap():
    rng = np.random.default_rng(1)
    label, score, codes = auc_data(rng, 80, 20)
    members = [np.flatnonzero(codes == group) for group in range(80)]
    areas = []
    for _ in range(200):
        rows = np.concatenate([members[group] for group in rng.integers(0, 80, 80)])
        areas.append(metrics.roc_auc_score(label[rows], score[rows]))
    low, high = intervals.auc(label, score, codes)
    assert high - low == pytest.approx(np.diff(np.percentile(areas, [2.5, 97.5]))[0], rel=0.25)


def test_groups_widen_every_interval_and_change_no_estimate():
    rng = np.random.default_rng(2)
    label, score, codes = auc_data(rng, 6, 60)
    table = predictions(label, 1 / (1 + np.exp(-score)))
    alone = one(table, threshold=0.6)
    grouped = one(table.assign(group=[f"photograph {c}" for c in codes]), threshold=0.6)
    assert grouped["groups"] == 6
    for name in ("accuracy", "recall_fake", "specificity", "roc_auc"):
        assert grouped[name] == alone[name]
        assert grouped[f"{name}_low"] <= alone[f"{name}_low"]
        assert grouped[f"{name}_high"] >= alone[f"{name}_high"]
    assert grouped["accuracy_low"] < alone["accuracy_low"] - 0.01


def test_a_row_without_group_stands_alone():
    table = pd.DataFrame({"group": ["a", None, "", "a", np.nan, "b"]})
    codes = intervals.group_codes(table)
    assert codes[0] == codes[3] and len(set(codes)) == 5
    assert len(set(intervals.group_codes(pd.DataFrame({"group": [None, 3.0, 3.0]})))) == 2
    assert len(set(intervals.group_codes(table.drop(columns="group")))) == 6


def test_one_group_says_nothing_about_others():
    row = one(noisy(3, n=50).assign(group="only"), threshold=0.5)
    assert row[["accuracy_low", "accuracy_high"]].tolist() == [0, 1]
    assert row[["roc_auc_low", "roc_auc_high"]].tolist() == [0, 1]


def test_all_right_in_few_groups_is_wilson_of_the_groups():
    hits, codes = np.ones(400, bool), np.arange(400) % 4
    assert intervals.proportion(hits, codes) == intervals.wilson(4, 4)
    label = np.tile([0, 1], 200)
    assert intervals.auc(label, label * 0.9, np.arange(400) // 100) == intervals.wilson(4, 4)


@pytest.mark.parametrize("group_count", [None, 2, 3, 15])
@pytest.mark.parametrize("separation", [-8, -1, 0, 1, 8])
def test_every_interval_holds_its_estimate_within_zero_and_one(group_count, separation):
    for seed in range(3):
        table = noisy(seed, n=40, separation=separation)
        if group_count:
            table["group"] = np.random.default_rng(seed).integers(0, group_count, 40)
        row = one(table, threshold=0.5)
        for name in ("accuracy", "recall_fake", "specificity", "roc_auc"):
            assert 0 <= row[f"{name}_low"] <= row[name] <= row[f"{name}_high"] <= 1


def test_equal_scores_have_auc_one_half():
    assert intervals.auc([0, 1, 0, 1], [0.3] * 4, np.arange(4)) == pytest.approx((0.5, 0.5))


# --- tables ------------------------------------------------------------------------------


def test_confusion_and_report_of_report_one():
    """Report 1's precision 0.98 and recall 0.92 mean 188 fakes called real, 800 reals fake."""
    label = np.repeat([REAL, REAL, FAKE, FAKE], [9200, 800, 188, 9812])
    score = np.repeat([0.1, 0.9, 0.1, 0.9], [9200, 800, 188, 9812])
    table = predictions(label, score)
    counts = evaluate.confusion(table, 0.5)
    assert counts.loc["REAL"].tolist() == [9200, 800] and counts.loc["FAKE", "REAL"] == 188
    assert (counts.index.name, counts.columns.name) == ("actual", "predicted")
    report = evaluate.classification_report(table, 0.5)
    assert list(report.index) == ["REAL", "FAKE", "macro avg", "weighted avg", "accuracy"]
    assert report.loc["REAL", ["precision", "recall"]].round(2).tolist() == [0.98, 0.92]
    assert report.loc["accuracy", "f1"] == pytest.approx(0.9506)
    assert report["support"].tolist() == [10000, 10000, 20000, 20000, 20000]


def test_tables_of_several_models_are_refused():
    table = pd.concat([noisy(0, model="a"), noisy(0, model="b")])
    for function in (evaluate.confusion, evaluate.classification_report):
        with pytest.raises(ValueError, match="'a', 'b'"):
            function(table, 0.5)
    with pytest.raises(ValueError, match="split 'test', 'train'"):
        evaluate.roc_curve(pd.concat([noisy(0), noisy(0, split="train")]))


def test_curves_hold_the_area_and_the_average_precision():
    table = pd.concat([noisy(0, model="a"), noisy(1, model="b")])
    scores = evaluate.score(table, threshold=0.5).set_index("model")
    for model, rows in evaluate.roc_curve(table).groupby("model"):
        area = metrics.auc(rows["false_positive_rate"], rows["true_positive_rate"])
        assert area == pytest.approx(scores.loc[model, "roc_auc"])
    for model, rows in evaluate.pr_curve(table).groupby("model"):
        average = -(np.diff(rows["recall"]) * rows["precision"].to_numpy()[:-1]).sum()
        assert average == pytest.approx(scores.loc[model, "average_precision"])
    with pytest.raises(ValueError, match="FAKE rows only"):
        evaluate.pr_curve(predictions([1, 1], [0.2, 0.3]))


def test_outcome_names_each_row():
    table = predictions([0, 0, 1, 1], [0.1, 0.9, 0.1, 0.9]).set_index(pd.Index([4, 3, 2, 1]))
    named = evaluate.outcome(table, 0.5)
    assert named.to_dict() == {
        4: "actual REAL, predicted REAL", 3: "actual REAL, predicted FAKE",
        2: "actual FAKE, predicted REAL", 1: "actual FAKE, predicted FAKE",
    }  # fmt: skip


def test_most_confident_errors_are_sorted_and_wrong():
    table = predictions([0, 0, 0, 1, 1, 1], [0.85, 0.99, 0.1, 0.7, 0.04, 0.95])
    errors = evaluate.most_confident_errors(table, 0.8, 3)
    # Of a threshold of 0.8: 0.99 has gone 95 % of its way, 0.04 as much, 0.85 a quarter.
    assert errors["score"].tolist()[2] == 0.85 and set(errors["score"][:2]) == {0.99, 0.04}
    assert errors["confidence"].tolist() == pytest.approx([0.95, 0.95, 0.25])
    assert len(evaluate.most_confident_errors(table, 0.8, 1)) == 1
    assert evaluate.most_confident_errors(table.iloc[[2]], 0.8).empty
