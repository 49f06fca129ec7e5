import re

import numpy as np
import pandas as pd
import pytest

from w207lib import evaluate, runs
from w207lib.metrics import calibration
from w207lib.pages import evaluation_page


def table(seed, quality, model, paths=None, group=None):
    """Return validation and test rows of a model that is right the more, the higher quality is."""
    random = np.random.default_rng(seed)
    parts = []
    for split, n in (("validation", 400), ("test", 400)):
        label = np.arange(n) % 2
        score = 1 / (1 + np.exp(-(quality * (2 * label - 1) + random.normal(0, 2, n))))
        numbers = [f" ({i % 10 + 1})" if i % 10 else "" for i in range(n)]
        part = pd.DataFrame(
            {"path": [f"{split}/{i}{numbers[i]}.jpg" for i in range(n)], "label": label,
             "generator": np.where(label, "g", "real"), "split": split, "model": model,
             "condition": "clean", "score": score}
        )  # fmt: skip
        parts.append(part.assign(group=[f"{split}{i // 8}" for i in range(n)]) if group else part)
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def predictions():
    made = [table(1, 2, "good"), table(2, 2, "good-seed208"), table(3, 1, "poor")]
    return pd.concat(made, ignore_index=True)


@pytest.fixture(scope="module")
def made(predictions):
    return evaluation_page.tables(predictions, leaked=["test/0.jpg", "test/1 (2).jpg"])


def test_seeds_of_one_model_are_summarised_and_only_the_first_is_compared(made):
    assert made["seeds"]["family"].tolist() == ["good"] and made["seeds"]["seeds"].tolist() == [2]
    assert set(made["paired"]["a"]) == {"poor"} and set(made["paired"]["b"]) == {"good"}
    assert set(made["points"]["model"]) == {"good", "poor"}
    assert set(made["scores"]["model"]) == {"good", "good-seed208", "poor"}


def test_everything_but_scores_is_about_test_and_chosen_on_validation(predictions, made):
    changed = predictions.copy()
    test = changed["split"] == "test"
    changed.loc[test, "score"] = np.random.default_rng(5).permutation(changed.loc[test, "score"])
    other = evaluation_page.tables(changed)
    for name, columns in (("points", ["threshold"]), ("unsure", ["low", "high"]),
                          ("calibration", ["temperature"])):  # fmt: skip
        pd.testing.assert_frame_equal(made[name][columns], other[name][columns])
        assert set(made[name]["split"]) == {"test"}
    assert not np.allclose(made["points"]["recall_fake"], other["points"]["recall_fake"])


def test_the_preferred_model_is_the_one_of_the_best_validation_auc():
    scores = pd.DataFrame({"model": ["a", "b", "a", "b"], "roc_auc": [0.9, 0.8, 0.1, 0.99],
                           "split": ["validation"] * 2 + ["test"] * 2})  # fmt: skip
    assert evaluation_page.preferred(scores) == "a"


def test_temperature_changes_calibration_and_no_ranking(predictions, made):
    both = made["calibration"].set_index(["model", "scores"])["log_loss"]
    warm = calibration.calibrated(predictions)
    assert not np.allclose(warm["score"], predictions["score"])
    shown = {}
    for kind, rows in (("as they come", predictions), ("with temperature", warm)):
        rows = rows[rows["split"] == "test"]
        losses = calibration.measures(rows).set_index("model")["log_loss"]
        assert both[:, kind].to_dict() == losses[["good", "poor"]].to_dict()
        shown[kind] = evaluate.score(rows, threshold=0.5)["roc_auc"]
    assert (both[:, "as they come"] != both[:, "with temperature"]).all()
    assert shown["as they come"].tolist() == shown["with temperature"].tolist()
    assert shown["as they come"].between(0.6, 0.99).all()


def test_objects_come_from_cifakes_names_alone(predictions, made):
    assert len(made["objects"]) == 2 * 10
    other = predictions.assign(path=predictions["path"] + "x")
    assert evaluation_page.tables(other)["objects"].empty


def test_the_page_states_every_table_and_its_limits(predictions, tmp_path):
    runs.log_test_scoring(tmp_path, model="good", model_digest="1", data_digest="d")
    path = evaluation_page.write(
        predictions, tmp_path / "out/page.md", source=tmp_path, title="a run",
        leaked=["test/0.jpg"],
    )  # fmt: skip
    page = path.read_text(encoding="utf-8")
    assert page.startswith("# Evaluation: a run") and "1 model scored on this test split" in page
    for words in ("frozen threshold", "Several seeds", "Operating points", "probabilities",
                  "unanswered", "Each against good", "By object", "With and without copies",
                  "do not say"):  # fmt: skip
        assert words in page
    assert "nan" not in page.lower().split()
    names = {p.name for p in path.parent.glob("*.csv")}
    assert {"page_scores.csv", "page_paired.csv", "page_calibration.csv"} <= names


def test_images_in_groups_get_clustered_limits_and_tests():
    both = pd.concat([table(1, 2, "good", group=True), table(3, 1, "poor", group=True)])
    made = evaluation_page.tables(both)
    assert (made["scores"]["groups"] == 50).all()
    assert made["paired"]["p_groups"].notna().all()
    page = evaluation_page.page(made, [], "x")
    assert "in 50 independent groups" in page and "Several seeds" not in page


def test_one_model_has_no_other_to_be_compared_with():
    made = evaluation_page.tables(table(1, 2, "good"))
    assert made["paired"].empty
    assert "Each against" not in evaluation_page.page(made, [], "x")


def test_what_is_not_defined_is_a_dash_and_no_nan():
    grouped = table(1, 2, "good", group=True)
    one = grouped.assign(group=np.where(grouped["split"] == "test", "t", grouped["group"]))
    other = one.assign(model="other", score=one["label"].map({0: 1.0, 1: 0.0}))
    page = evaluation_page.page(evaluation_page.tables(pd.concat([one, other])), [], "x")
    assert not re.search(r"\b(nan|inf)\b", page)
    assert "(–)" in page and "| above 1 |" in page


def test_a_temperature_at_an_end_of_what_is_tried_is_marked():
    wrong = table(1, 2, "wrong")
    wrong["score"] = 1 - wrong["score"]
    page = evaluation_page.page(evaluation_page.tables(wrong), [], "x")
    assert "T = 20.00 *" in page and "marked *, it lies at an end" in page
    page = evaluation_page.page(evaluation_page.tables(table(1, 2, "good")), [], "x")
    assert "marked *, it lies" not in page


def test_small_p_values_are_not_written_as_nought(tmp_path):
    rows = pd.concat([table(1, 4, "good"), table(3, -2, "poor")])
    evaluation_page.write(rows, tmp_path / "page.md")
    p = pd.read_csv(tmp_path / "page_paired.csv").iloc[0]
    assert 0 < p["p_mcnemar"] < 1e-6 and 0 < p["p_holm"] < 1e-6


def test_without_validation_it_says_so(predictions):
    with pytest.raises(ValueError, match="no clean validation rows"):
        evaluation_page.tables(predictions[predictions["split"] == "test"])
