import numpy as np
import pandas as pd
import pytest

from w207lib import schema


@pytest.fixture
def manifest():
    table = pd.DataFrame("x", index=range(4), columns=schema.MANIFEST_COLUMNS).assign(
        path=list("abcd"), label=[0, 1, 0, 1], status="ok", split=["", *schema.SPLITS]
    )
    return table.assign(class_name=[schema.CLASS_NAMES[label] for label in table["label"]])


@pytest.fixture
def predictions():
    return pd.DataFrame(
        {
            "path": list("abc"),
            "label": [0, 1, 1],
            "generator": ["real", "gan", "gan"],
            "split": "test",
            "model": "m",
            "condition": "clean",
            "score": [0.0, 0.5, 1.0],
        }  # fmt: skip
    )


def test_real_is_0_and_fake_is_1():
    assert (schema.REAL, schema.FAKE) == (0, 1)
    assert schema.LABEL_MAP == {"REAL": 0, "FAKE": 1}
    assert [schema.LABEL_MAP[name] for name in schema.CLASS_NAMES] == [0, 1]


def test_a_good_table_comes_back_as_it_is(manifest, predictions):
    assert schema.check_manifest(manifest) is manifest
    assert schema.check_predictions(predictions) is predictions


@pytest.mark.parametrize("column", schema.MANIFEST_COLUMNS)
def test_a_manifest_without_a_column_is_refused(manifest, column):
    with pytest.raises(ValueError, match=rf"column\(s\) {column} missing"):
        schema.check_manifest(manifest.drop(columns=column))


@pytest.mark.parametrize("column", schema.PREDICTION_COLUMNS)
def test_predictions_without_a_column_are_refused(predictions, column, tally):
    with tally("evaluation", "missing column") as tried:
        with pytest.raises(ValueError, match=rf"column\(s\) {column} missing"):
            schema.check_predictions(predictions.drop(columns=column))
        tried()


@pytest.mark.parametrize("column", ["path", "generator", "model", "condition"])
@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_predictions_with_a_hole_are_refused_with_its_row(predictions, column, missing, tally):
    predictions[column] = predictions[column].astype(object)
    predictions.loc[2, column] = missing
    with tally("evaluation", "missing value") as tried:
        with pytest.raises(ValueError, match=f"row 2 has no {column}"):
            schema.check_predictions(predictions)
        tried()


@pytest.mark.parametrize("label", [2, -1, 0.5, np.nan, None, "FAKE", "1", np.inf])
def test_predictions_with_an_unknown_label_are_refused_with_its_row(predictions, label, tally):
    predictions["label"] = predictions["label"].astype(object)
    predictions.loc[1, "label"] = label
    with tally("evaluation", "unknown label") as tried:
        with pytest.raises(ValueError, match="row 1 has label .*expected one of 0, 1"):
            schema.check_predictions(predictions)
        tried()


@pytest.mark.parametrize(
    ("column", "value"), [("label", 2), ("label", -1), ("status", "fine"), ("split", "val")]
)
def test_an_unknown_value_in_a_manifest_is_refused_with_its_row(manifest, column, value):
    manifest[column] = manifest[column].astype(object)
    manifest.loc[2, column] = value
    with pytest.raises(ValueError, match=f"row 2 has {column} {value!r}"):
        schema.check_manifest(manifest)


def test_a_path_that_stands_twice_in_a_manifest_is_refused(manifest):
    manifest.loc[3, "path"] = "b"
    with pytest.raises(ValueError, match="row 3 repeats an earlier one"):
        schema.check_manifest(manifest)


@pytest.mark.parametrize("score", [-0.01, 1.01, np.nan, np.inf, -np.inf, 1e300, None, "", "high"])
def test_a_score_that_is_no_probability_is_refused_with_its_image(predictions, score, tally):
    predictions["score"] = predictions["score"].astype(object)
    predictions.loc[1, "score"] = score
    with tally("evaluation", "NaN, infinite or impossible score") as tried:
        with pytest.raises(ValueError, match=r"row 1 \(b\) has score"):
            schema.check_predictions(predictions)
        tried()


def test_a_score_that_is_no_number_is_refused(predictions):
    with pytest.raises(ValueError, match="has score 'high'"):
        schema.check_predictions(predictions.assign(score=["high", "0.1", "0.2"]))


def test_predictions_have_no_unnamed_split(predictions):
    with pytest.raises(ValueError, match="has split ''"):
        schema.check_predictions(predictions.assign(split=""))


def test_one_image_stands_once_for_each_model_and_condition(predictions, tally):
    twice = pd.concat([predictions, predictions], ignore_index=True)
    with tally("evaluation", "duplicate row") as tried:
        with pytest.raises(ValueError, match="row 3 repeats"):
            schema.check_predictions(twice)
        tried()
    for column in ("model", "condition"):
        other = pd.concat([predictions, predictions.assign(**{column: "other"})])
        schema.check_predictions(other)
