import pandas as pd
import pytest

from w207lib import config, report
from w207lib.metrics import comparing
from w207lib.pages import recipes

RESULTS = config.results_root()


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / recipes.FOLDER
    folder.mkdir()
    names = ["two_conv", "deep_vgg", "two_conv-seed208"]
    pd.DataFrame(
        {"model": names, "parameters": [10, 20, 10], "train": 0.9, "validation": 0.9,
         "test": [0.90, 0.8, 0.92], "test_low": 0.7, "test_high": 0.95, "test_auc": 0.97,
         "n": 100, "seconds": [5.0, 6.0, 7.0]}
    ).to_csv(folder / "metrics.csv", index=False)  # fmt: skip
    pd.DataFrame({"model": names, "recipe": ["two_conv", "deep_vgg", "two_conv"],
                  "epochs": [8, 1, 7]}).to_csv(folder / "models.csv", index=False)  # fmt: skip
    large = tmp_path / recipes.LARGE_FOLDER
    large.mkdir()
    pd.DataFrame(
        {"model": ["w207_simple-400", "resnet101"], "parameters": [80, 43], "test": [0.7, 0.5],
         "test_low": 0.4, "test_high": 0.8, "test_auc": 0.6, "n": 280, "seconds": 9.0,
         "epochs": [4, 1]}
    ).to_csv(large / "large.csv", index=False)  # fmt: skip
    return tmp_path


def test_each_recipe_has_one_row_with_its_seeds_and_its_report(results):
    table = recipes.table(results).set_index(["recipe", "data"])
    row = table.loc[("two_conv", "cifake")]
    assert row["seeds"] == 2 and row["test"] == 0.90 and row["epochs"] == 8
    assert row["test_sd"] == pytest.approx(pd.Series([0.90, 0.92]).std())
    assert row["report"] == "Report 4" and "real" in row["positive_class"]
    assert table.loc[("w207_simple", "photos"), "image_size"] == 400
    assert table.loc[("resnet101", "photos"), "reported_accuracy"] == 0.603
    assert pd.isna(table.loc[("deep_vgg", "cifake"), "test_sd"])


def test_what_was_not_finished_says_so(results):
    recipes.write(results)
    text = recipes.markdown(results / recipes.FOLDER)
    assert "| deep\\_vgg | cifake, 32 px | 20 | 1* |" in text
    assert "deep_vgg on cifake: 350 epochs in Report 1" in text
    assert "± 0.0141 (2)" in text and "nan" not in text
    minutes = [line.split("|")[5].strip() for line in text.splitlines() if "two\\_conv" in line]
    assert minutes == ["0.1"], "five seconds of the first seed"


def test_without_results_nothing_is_written(tmp_path):
    assert recipes.write(tmp_path) is None


# --- the published results -----------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    return RESULTS / recipes.FOLDER


def test_the_published_table_is_that_of_the_published_metrics(published):
    stored = pd.read_csv(published / recipes.TABLE)
    fresh = recipes.table()
    pd.testing.assert_series_equal(stored["test"], fresh["test"])
    wanted = {"dummy_most_frequent", "random_forest", "svm", "two_conv", "three_conv", "bird_lotfi",
              "w207_simple", "w207_tuned", "deep_vgg"}  # fmt: skip
    assert wanted <= set(stored.loc[stored["data"] == "cifake", "recipe"])


def test_every_published_accuracy_follows_from_the_published_predictions(published):
    from w207lib import evaluate

    table = report.read_predictions(published, "two_conv", "deep_vgg", "random_forest")
    scores = evaluate.score(table).query("split == 'test'").set_index("model")
    metrics = pd.read_csv(published / "metrics.csv").set_index("model")
    for name in ("two_conv", "deep_vgg", "random_forest"):
        assert scores.loc[name, "accuracy"] == pytest.approx(metrics.loc[name, "test"], abs=2e-4)
        assert comparing.family(name) == name


def test_the_docs_show_the_published_numbers(published):
    text = (config.home() / "docs" / "results.md").read_text(encoding="utf-8")
    assert recipes.markdown(published) in text
