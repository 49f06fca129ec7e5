import shutil

import numpy as np
import pandas as pd
import pytest

from w207lib import evaluate, manifest, predict, report, runs

# --- gathering ---------------------------------------------------------------------------


def test_finished_models_come_in_the_notebooks_order(finished_run):
    assert [p.name for p in report.model_folders(finished_run)] == ["dummy_prior", "random_forest"]
    facts = report.model_facts(finished_run)
    assert facts["recipe"].tolist() == ["dummy:prior", "random_forest"]
    assert facts["parameters"].isna().all() and (facts["seconds"] >= 0).all()


def test_predictions_of_all_models_and_splits_are_gathered(finished_run):
    table = report.predictions(finished_run)
    assert table.groupby(["model", "split"]).size().to_dict() == {
        (model, split): count
        for model in ("dummy_prior", "random_forest")
        for split, count in (("train", 60), ("validation", 20), ("test", 20))
    }  # fmt: skip
    with pytest.raises(ValueError, match="no finished model svm"):
        report.predictions(finished_run, "svm")


def test_a_name_means_one_model_and_a_pattern_a_family(finished_run):
    def found(*names):
        return set(report.predictions(finished_run, *names)["model"])

    models = finished_run / "models"
    for name in ("random_forest-400", "random_forest-seed208"):
        shutil.copytree(models / "random_forest", models / name)
        for path in (models / name).glob("*.parquet"):
            runs.write_table(path, pd.read_parquet(path).assign(model=name))
    assert found("random_forest", "svm") == {"random_forest"}
    evaluate.choose_threshold(report.predictions(finished_run, "random_forest"))
    assert found("dummy_*") == {"dummy_prior"} and len(found("random_forest*")) == 3
    with pytest.raises(ValueError, match="no finished model random or dummy"):
        found("random", "dummy")


def test_the_comparison_has_a_row_a_model_with_its_metrics(finished_run):
    scores = evaluate.score(report.predictions(finished_run))
    table = report.comparison(scores, report.model_facts(finished_run)).set_index("model")
    assert table.columns.tolist() == [
        "parameters", "train", "validation", "test", "test_low", "test_high", "test_auc", "n",
        "seconds",
    ]  # fmt: skip
    for row in scores.to_dict(orient="records"):
        assert table.loc[row["model"], row["split"]] == row["accuracy"]
    assert table["n"].tolist() == [20, 20]
    assert table.loc["dummy_prior", "test"] == 0.5
    assert (table["test_low"] <= table["test"]).all()
    assert (table["test_high"] >= table["test"]).all()


def test_the_eye_is_one_more_row_of_the_comparison(finished_run, learnable):
    assert report.by_eye(finished_run).empty
    rows = manifest.usable(learnable.manifest, "train").head(4)
    answers = "".join("RF"[label] for label in rows["label"])
    runs.write_table(finished_run / "by_eye.parquet", predict.guessed(rows, answers))
    scores = evaluate.score(report.predictions(finished_run))
    table = report.comparison(scores, report.model_facts(finished_run), report.by_eye(finished_run))
    assert table["model"].tolist() == ["dummy_prior", "random_forest", "by_eye"]
    last = table.iloc[-1]
    assert (last["test"], last["n"]) == (1.0, 4) and last["test_low"] < 1
    assert pd.isna(last["train"]) and pd.isna(last["parameters"])


def test_a_table_for_showing_has_per_cents_and_dashes():
    table = pd.DataFrame({"n": pd.array([1234, None], "Int64"), "test": [0.9151, np.nan]})
    shown = report.as_percent(table, ["test"])
    assert shown.to_numpy().tolist() == [["1,234", "91.5 %"], ["–", "–"]]
    assert table["test"][0] == 0.9151


def test_a_run_without_models_has_an_empty_table(tmp_path):
    assert report.results_table(tmp_path).empty
