import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from w207lib import models
from w207lib.auditing import claims

COLUMNS = (
    "report", "system", "recipe", "metric", "value", "split", "data", "n", "positive_class",
    "where", "note",
)  # fmt: skip


def test_every_claim_says_whose_it_is_and_where_it_stands():
    table = claims.read()
    assert set(COLUMNS) < set(table.columns)
    assert set(table["report"]) == {f"Report {n}" for n in range(5)}
    assert (table[["system", "metric", "where"]] != "").all(axis=None)
    assert set(table["split"]) == {"", "train", "validation", "test"}
    assert set(table["recipe"]) - {"", "dummy_most_frequent", "random_forest"} <= set(
        models.RECIPES
    )
    assert not table.duplicated(["report", "system", "metric", "split", "where"]).any()


def test_a_report_is_asked_for_by_name():
    assert len(claims.read("Report 2")) < len(claims.read())
    with pytest.raises(ValueError, match="Report 9.*Report 0"):
        claims.read("Report 9")


def test_one_figure_is_found_and_an_ambiguous_one_is_refused():
    table = claims.read("Report 3")
    assert claims.value(table, "parameters", system="ResNet101") == 43_184_258
    with pytest.raises(ValueError, match="2 different"):
        claims.value(table, "parameters")
    with pytest.raises(ValueError, match="0 different"):
        claims.value(table, "colour")


def test_reported_accuracies_are_those_of_the_table_of_reports():
    table = claims.read()
    beside = pd.read_csv(claims.config.data_root() / "reports.csv")
    known = beside[beside["report"].str.startswith("Report")]
    for row in known.itertuples():
        rows = table[
            (table["recipe"] == row.model) & (table["split"] == row.reported_split)
            & table["metric"].str.startswith("accuracy")
        ]  # fmt: skip
        assert np.isclose(rows["value"], row.reported_accuracy, atol=0.00061).any(), row.model
    assert beside["positive_class"].notna().all()


@pytest.mark.parametrize(
    ("value", "digits", "low", "high"),
    [(0.92, 2, 0.915, 0.925), ("0.60", None, 0.595, 0.605), (0.603, None, 0.6025, 0.6035)],
)
def test_a_rounded_figure_is_an_interval(value, digits, low, high):
    assert claims.rounding(value, digits) == pytest.approx((low, high))


def test_digits_are_counted_as_written():
    table = claims.read("Report 1")
    assert set(table.loc[table["metric"] == "accuracy", "digits"]) == {2}
    assert claims.read("Report 4").set_index("metric").loc["prediction", "digits"] == 20


def test_report_1_calls_more_photographs_fake_than_fakes_real():
    table = claims.read("Report 1")
    figures = [claims.value(table, name) for name in ("precision_1", "recall_1")]
    implied = claims.confusion_from(*figures, 10_000, 10_000)
    assert implied.loc["false_negative"].tolist() == pytest.approx([750, 800, 850])
    assert implied.loc["false_positive"].tolist() == pytest.approx([140, 187.755, 237], abs=0.01)
    assert implied.loc["false_negative", "low"] > implied.loc["false_positive", "high"]
    accuracy = claims.value(table, "accuracy", system="deep CNN", split="test")
    assert implied.loc["accuracy", "low"] < accuracy < implied.loc["accuracy", "high"]


def test_report_1_trains_on_more_than_it_says():
    table = claims.read("Report 1")
    images = {
        split: sum(claims.value(table, f"images_{kind}", split=split) for kind in ("real", "fake"))
        for split in ("train", "test")
    }
    share = images["train"] / sum(images.values())
    assert round(share, 3) == 0.833 != claims.value(table, "share_of_images", split="train")


def test_an_exact_matrix_lies_within_what_its_rounded_figures_imply():
    rng = np.random.default_rng(1)
    for hits, alarms in rng.integers(1, 100, (20, 2)):
        implied = claims.confusion_from(
            round(hits / (hits + alarms), 2), round(hits / 100, 2), 100, 100
        )
        for name, count in (("true_positive", hits), ("false_positive", alarms)):
            assert implied.loc[name, "low"] <= count <= implied.loc[name, "high"]


def report(matrix):
    """Return scikit-learn's figures of a matrix, rounded."""
    label = np.repeat([0, 0, 1, 1], matrix)
    called = np.repeat([0, 1, 0, 1], matrix)
    made = metrics.classification_report(label, called, output_dict=True, zero_division=0)
    found = {"accuracy": made["accuracy"]}
    for key, name in (("0", "_0"), ("1", "_1"), ("macro avg", "macro_"),
                      ("weighted avg", "weighted_")):  # fmt: skip
        for figure, short in (("precision",) * 2, ("recall",) * 2, ("f1-score", "f1")):
            found[short + name if name[0] == "_" else name + short] = made[key][figure]
    return {name: round(value, 2) for name, value in found.items()}


@pytest.mark.parametrize(
    "matrix", [[67, 43, 39, 45], [110, 0, 84, 0], [0, 5, 3, 0], [1, 0, 0, 1], [40, 2, 30, 9]]
)
def test_the_matrix_that_made_a_report_is_among_those_found(matrix):
    figures = report(matrix)
    assert set(figures) == set(claims.FIGURES)
    found = claims.consistent(figures, matrix[0] + matrix[1], matrix[2] + matrix[3])
    assert matrix in found[list(claims.MATRIX)].to_numpy().tolist()


def test_report_2_has_a_table_that_fits_and_a_text_that_does_not():
    table = claims.read("Report 2")
    printed = claims.reported(table, where="Fig.1")
    text = claims.reported(table, where="section VI")
    assert len(printed) == len(text) == len(claims.FIGURES)
    assert len(claims.consistent(printed, 10_000, 10_000)) > 1000
    assert claims.consistent(text, 10_000, 10_000).empty
    differing = {name for name in text if text[name] != printed[name]}
    assert differing == {"macro_precision", "weighted_precision"}
    assert len(claims.consistent(text | {n: printed[n] for n in differing}, 10_000, 10_000)) > 1000


@pytest.mark.parametrize(
    ("system", "where", "matrix"),
    [("custom CNN", "Fig6", [67, 43, 39, 45]), ("ResNet101", "Fig7", [108, 2, 75, 9])],
)
def test_report_3s_tables_have_one_matrix_each(system, where, matrix):
    figures = claims.reported(claims.read("Report 3"), system=system, where=where)
    found = claims.consistent(figures, 110, 84)
    assert found[list(claims.MATRIX)].to_numpy().tolist() == [matrix]


def test_report_3s_best_validation_accuracy_is_its_test_result():
    table = claims.read("Report 3")
    log = claims.history(table, "ResNet101")
    assert log["epoch"].tolist() == [1, 2, 3]
    matrix = claims.consistent(claims.reported(table, where="Fig7"), 110, 84).iloc[0]
    right = matrix["n_00"] + matrix["n_11"]
    found = claims.share_as_fraction("0.60309", range(100, 300))
    assert found.to_numpy().tolist() == [[right, 194]]
    both = set(found["n"]) & set(claims.share_as_fraction("0.4433", range(100, 300))["n"])
    assert both == {194}


def test_report_4s_table_fits_its_matrix_and_not_its_log():
    table = claims.read("Report 4")
    found = claims.consistent(claims.reported(table, where="Figure 4"), 10_000, 10_000)
    printed = [claims.value(table, f"matrix_{cell}") for cell in ("00", "01", "10", "11")]
    assert printed in found[list(claims.MATRIX)].to_numpy().tolist()
    log = claims.history(table)
    assert len(log) == claims.value(table, "epochs_said")
    assert log["val_accuracy"].idxmax() + 1 == 5 and log["val_loss"].idxmin() + 1 == 3
    assert claims.interval(log["val_accuracy"].iloc[-1], 20_000)[0] > found["accuracy"].max()


def test_report_4s_last_epoch_is_not_its_best():
    log = claims.history(claims.read("Report 4")).set_index("epoch")["val_accuracy"]
    assert log.idxmax() == 5 and log.max() == pytest.approx(0.8778)
    assert log.iloc[-1] == pytest.approx(0.7994) and log.index[-1] == 10


def test_without_recalls_all_counts_are_tried_and_an_unknown_figure_is_refused():
    assert len(claims.consistent({"accuracy": 1.0}, 3, 4)) == 1
    assert len(claims.consistent({}, 3, 4)) == 20
    assert claims.consistent({"recall_0": 0.33}, 2, 2).empty
    with pytest.raises(ValueError, match="auc unknown"):
        claims.consistent({"auc": 0.5}, 2, 2)


def test_report_3s_accuracies_do_not_beat_its_majority():
    table = claims.read("Report 3")
    for system in ("custom CNN", "ResNet101"):
        accuracy = claims.value(table, "accuracy", system=system, split="test", where="Performance")
        assert claims.interval(accuracy, 194)[0] <= 110 / 194
    assert claims.interval(0.8, 194)[0] > 110 / 194


def test_report_0s_dummy_has_two_explanations():
    shares = claims.dummy_shares(0.576)
    assert shares["most_frequent"] == 0.576
    p = shares["stratified"]
    assert p == pytest.approx(0.695, abs=5e-4) and p**2 + (1 - p) ** 2 == pytest.approx(0.576)
    assert np.isnan(claims.dummy_shares(0.45)["stratified"])


def test_report_0_counts_its_two_networks_differently():
    table = claims.read("Report 0")
    tuned = claims.value(table, "parameters", system="tuned CNN")
    simple = claims.value(table, "parameters", system="simple CNN")
    assert claims.without_optimizer(int(tuned)) == 75_900_129 < simple
    assert claims.optimizer_state(75_900_129) == tuned
    assert claims.without_optimizer(int(simple)) is None
    assert claims.optimizer_state(10, 4) == 20


def test_megabytes_are_four_bytes_a_parameter():
    table = claims.read("Report 3")
    for system in ("custom CNN", "ResNet101"):
        count = claims.value(table, "parameters", system=system)
        megabytes = claims.value(table, "megabytes", system=system)
        assert count * 4 / 2**20 == pytest.approx(megabytes, abs=0.005)
        parts = [claims.value(table, n, system=system) for n in ("trainable", "not_trainable")]
        assert sum(parts) == count


def test_precision_depends_on_how_many_are_positive():
    assert claims.precision_elsewhere(0.98, 0.92, 0.5) == pytest.approx(0.98)
    assert claims.precision_elsewhere(0.98, 0.92, 0.1) == pytest.approx(0.845, abs=1e-3)
    assert claims.precision_elsewhere(1.0, 0.5, 0.01) == 1


def test_report_3s_classes_fit_its_folders_the_other_way_round():
    assert claims.chance_of_support(110, 194, 436, 975) < 0.001
    assert claims.chance_of_support(110, 194, 539, 975) > 0.5
    assert claims.chance_of_support(5, 10, 50, 100) == 1
