import dataclasses
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest

from w207lib import manifest, predict, runs, schema, train

PIXELS = np.zeros((3, 4, 4, 3), np.uint8)


def head(units, activation, biases):
    """Make a model that always gives the same output."""
    import keras

    model = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.GlobalAveragePooling2D(),
         keras.layers.Dense(units, activation=activation, kernel_initializer="zeros")]
    )  # fmt: skip
    model.layers[-1].bias.assign(biases)
    return model


# --- reading a head ----------------------------------------------------------------------


def test_the_one_sigmoid_column_is_the_probability_of_fake():
    found = predict.scores(head(1, "sigmoid", [math.log(3)]), PIXELS)
    assert found == pytest.approx([0.75] * 3)
    assert found.dtype == np.float32 and found.shape == (3,)


def test_of_a_softmax_the_second_column_is_the_probability_of_fake():
    assert predict.scores(head(2, "softmax", [0, math.log(3)]), PIXELS) == pytest.approx([0.75] * 3)


def test_another_number_of_columns_is_refused():
    with pytest.raises(ValueError, match=r"3 output columns; expected 1 .sigmoid. or 2"):
        predict.scores(head(3, "softmax", [0, 0, 0]), PIXELS)


@pytest.mark.parametrize("shape", [(3, 5, 5, 3), (4, 4, 3), (3, 4, 4, 1)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"expects \(B, 4, 4, 3\)"):
        predict.scores(head(1, "sigmoid", [0]), np.zeros(shape, np.uint8))


def test_a_number_that_rounding_left_above_one_is_clipped():
    assert predict.scores(head(1, "linear", [1 + 1e-6]), PIXELS).max() == 1


def test_a_mirrored_score_is_that_of_the_mean_log_odds(learnable):
    import keras

    inputs = keras.Input((16, 16, 3), name="pixels")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 2550)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", name="score")(x))
    part = learnable.split("test")
    ways = [predict.scores(model, w).astype(float) for w in (part.pixels, part.pixels[:, :, ::-1])]
    odds = np.mean([np.log(way / (1 - way)) for way in ways], axis=0)
    found = predict.scores(model, part, mirror=True)
    assert found == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-6)
    assert np.abs(found - ways[0]).max() > 1e-3
    again = predict.scores(model, part.pixels[:, :, ::-1], mirror=True)
    assert again == pytest.approx(found, abs=1e-6)


# --- the table ---------------------------------------------------------------------------


def test_the_table_is_a_predictions_table_in_the_rows_order(learnable):
    rows = manifest.usable(learnable.manifest, "test").iloc[::-1]
    scores = np.linspace(0, 1, len(rows))
    made = predict.table(rows, scores, model="m", condition="jpeg")
    assert tuple(made.columns) == schema.PREDICTION_COLUMNS
    assert made["path"].tolist() == rows["path"].tolist()
    assert made["score"].to_numpy() == pytest.approx(scores)
    assert set(made["model"]) == {"m"} and set(made["condition"]) == {"jpeg"}
    assert made["generator"].eq("real").equals(made["label"].eq(0))


def test_groups_go_with_the_table_where_rows_share_them(learnable):
    rows = manifest.usable(learnable.manifest, "test")
    made = predict.table(rows, np.zeros(len(rows)), model="m", grouped=True)
    assert list(made.columns) == [*schema.PREDICTION_COLUMNS, "group"]
    assert made["group"].tolist() == rows["group"].tolist()


def test_a_score_that_is_no_number_does_not_get_into_a_table(learnable):
    rows = manifest.usable(learnable.manifest, "test")
    with pytest.raises(ValueError, match="has score"):
        predict.table(rows, np.full(len(rows), np.nan), model="m")


# --- what a person said ------------------------------------------------------------------


def test_guesses_become_predictions_of_the_eye(learnable):
    rows = manifest.usable(learnable.manifest, "train").head(4)
    made = predict.guessed(rows, " rF fR ")
    assert made["score"].tolist() == [0, 1, 1, 0]
    assert made["path"].tolist() == rows["path"].tolist()
    assert set(made["model"]) == {"by_eye"}


@pytest.mark.parametrize("answers", ["RFR", "RFRFR", "", "RFRX"])
def test_too_few_too_many_or_other_letters_are_refused(learnable, answers):
    rows = manifest.usable(learnable.manifest, "train").head(4)
    with pytest.raises(ValueError, match="expected 4 letters, each R"):
        predict.guessed(rows, answers)


def test_stored_guesses_are_for_just_these_images_in_this_order(learnable, home):
    rows = manifest.usable(learnable.manifest, "train").head(4)
    assert predict.stored_guesses(rows) is None
    key = runs.digest(rows["pixel_hash"].tolist())[:16]
    runs.write_json(home / "data" / "guesses.json", {key: "RRFF"})
    assert predict.stored_guesses(rows) == "RRFF"
    assert predict.stored_guesses(rows.iloc[::-1]) is None


# --- a trained model ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(learnable, tiny_profile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "models"
    return train.fit(
        "three_conv", learnable, tiny_profile(epochs=1), folder, filters=(4, 4), units=8
    )


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "model")


def change(folder, **facts):
    path = folder / predict.FACTS
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def test_a_model_is_loaded_with_all_that_must_be_known_to_use_it(trained, learnable):
    model, facts = predict.load(trained)
    assert model.input_shape == (None, 16, 16, 3)
    assert set(facts) == {
        "label_map", "threshold", "image_size", "resampling", "data_digest", "recipe",
        "weights_digest",
    }  # fmt: skip
    assert facts["label_map"] == {"REAL": 0, "FAKE": 1}
    assert facts["data_digest"] == learnable.digest


@pytest.mark.parametrize(
    ("facts", "match"),
    [({"label_map": {"FAKE": 0, "REAL": 1}}, "label_map is .*expected .*Train the model again"),
     ({"resampling": "nearest"}, "resampling is 'nearest', expected 'bicubic'"),
     ({"image_size": 32}, "takes images of side 16, its facts say 32")],
)  # fmt: skip
def test_a_model_whose_facts_do_not_fit_is_refused(copy, facts, match):
    change(copy, **facts)
    with pytest.raises(ValueError, match=match):
        predict.load(copy)


@pytest.mark.parametrize("name", [predict.WEIGHTS, predict.FACTS])
def test_a_folder_that_is_no_finished_training_is_refused(copy, name):
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}; expected the folder of a finish"):
        predict.load(copy)


def test_a_model_that_brings_code_is_refused(copy):
    import keras

    inputs = keras.Input((16, 16, 3))
    outputs = keras.layers.Lambda(lambda x: x[:, 0, 0, :1] / 255)(inputs)
    keras.Model(inputs, outputs).save(copy / predict.WEIGHTS)
    with pytest.raises(
        ValueError, match="is refused: it is no network that can be loaded without code"
    ):
        predict.load(copy)


def test_batches_and_arrays_give_the_same_scores(trained, learnable):
    model, _ = predict.load(trained)
    part = learnable.split("validation")
    assert np.array_equal(predict.scores(model, part), predict.scores(model, part.pixels))


# --- scoring the test split --------------------------------------------------------------


def test_the_test_split_is_scored_once_and_that_is_written_down(copy, learnable, tmp_path):
    first = predict.score_test(copy, learnable, None, root=tmp_path)
    assert schema.check_predictions(first)["path"].tolist() == (
        manifest.usable(learnable.manifest, "test")["path"].tolist()
    )
    assert set(first["split"]) == {"test"} and set(first["model"]) == {"model"}
    model, _ = predict.load(copy)
    assert np.array_equal(first["score"], predict.scores(model, learnable.split("test")))
    pd.testing.assert_frame_equal(predict.score_test(copy, learnable, None, root=tmp_path), first)
    log = runs.test_scorings(tmp_path)
    assert log["model"].tolist() == ["model"]
    assert log["model_digest"].tolist() == [predict.weights_digest(model)]
    assert log["data_digest"].tolist() == [learnable.digest]


def test_the_digest_of_weights_is_the_same_in_every_file_and_differs_for_others(tmp_path):
    import keras

    model = head(1, "sigmoid", [0.25])
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert predict.weights_digest(loaded) == predict.weights_digest(model)
    assert predict.weights_digest(head(1, "sigmoid", [0.5])) != predict.weights_digest(model)


def test_a_baseline_is_scored_by_its_statistics(learnable, tiny_profile, tmp_path):
    statistics = manifest.statistics(learnable.dataset)
    folder = train.fit_baseline("random_forest", learnable, statistics, tiny_profile(), tmp_path)
    made = predict.score_test(folder, learnable, statistics, root=tmp_path)
    assert ((made["score"] > 0.5) == made["label"]).mean() > 0.8
    assert len(runs.test_scorings(tmp_path)) == 1


def test_other_data_than_the_model_was_trained_on_are_refused(copy, learnable, tmp_path):
    other = dataclasses.replace(learnable, manifest=learnable.manifest.iloc[1:])
    with pytest.raises(ValueError, match="model was trained on data .*Train it again"):
        predict.score_test(copy, other, None, root=tmp_path)
    assert runs.test_scorings(tmp_path).empty and not (copy / "test.parquet").exists()
