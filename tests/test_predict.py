import base64
import dataclasses
import json
import math
import pickle
import shutil
import zipfile
from pathlib import Path

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
        "label_map", "threshold", "image_size", "resampling", "data_digest", "splits",
        "recipe", "weights_digest",
    }  # fmt: skip
    assert facts["label_map"] == {"REAL": 0, "FAKE": 1}
    assert facts["data_digest"] == learnable.digest


@pytest.mark.parametrize(
    ("facts", "match"),
    [({"label_map": {"FAKE": 0, "REAL": 1}}, "label_map is .*expected .*Train the model again"),
     ({"resampling": "nearest"}, "resampling is 'nearest', expected 'bicubic'"),
     ({"image_size": 32}, "takes images of side 16, its facts say 32")],
)  # fmt: skip
def test_a_model_whose_facts_do_not_fit_is_refused(copy, facts, match, tally):
    change(copy, **facts)
    with tally("models", "Keras file that its facts do not fit") as tried:
        with pytest.raises(ValueError, match=match):
            predict.load(copy)
        tried()


@pytest.mark.parametrize("name", [predict.WEIGHTS, predict.FACTS])
def test_a_folder_that_is_no_finished_training_is_refused(copy, name):
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}; expected the folder of a finish"):
        predict.load(copy)


def rewritten(path, **members):
    """Change members of a ``.keras`` file, which is a zip."""
    with zipfile.ZipFile(path) as file:
        held = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in (held | members).items():
            file.writestr(name, data)


def configured(path, change):
    """Change a ``.keras`` file's configuration; ``change`` gets it as a dict."""
    with zipfile.ZipFile(path) as file:
        config = json.loads(file.read("config.json"))
    rewritten(path, **{"config.json": json.dumps(change(config) or config)})


def with_layer(path, kind, module="keras.layers", **config):
    """Put a layer of another kind in the place of the first that is none of the inputs."""

    def change(facts):
        layer = facts["config"]["layers"][1]
        layer |= {"module": module, "class_name": kind, "registered_name": None}
        layer["config"] = {"name": layer["config"]["name"], **config}
        layer.pop("build_config", None)

    configured(path, change)


TOUCH = "__import__('pathlib').Path({!r}).touch()"


class Pickled:
    """Touches a file where it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return exec, (TOUCH.format(self.place),)


def lambda_layer(path, mark):
    """A Lambda layer, whose bytecode lies in the file."""
    import keras

    inputs = keras.Input((16, 16, 3))
    code = eval(f"lambda x: ({TOUCH.format(mark)}, x[:, 0, 0, :1] / 255)[1]")
    keras.Model(inputs, keras.layers.Lambda(code, output_shape=(1,))(inputs)).save(path)


def function_as_lambda(path, mark):
    """A Lambda that names a function of the standard library instead of bytecode."""
    function = {"class_name": "function", "module": "subprocess", "config": "check_call",
                "registered_name": "function"}  # fmt: skip
    with_layer(path, "Lambda", function=function, arguments={"args": ["touch", mark]})


def lambda_in_a_nested_network(path, mark):
    """A Lambda layer inside a network that is a layer of the network."""
    import keras

    code = eval(f"lambda x: ({TOUCH.format(mark)}, x[:, 0, 0, :1] / 255)[1]")
    inner = [keras.Input((16, 16, 3)), keras.layers.Lambda(code, output_shape=(1,))]
    keras.Sequential([keras.Input((16, 16, 3)), keras.Sequential(inner)]).save(path)
    Path(mark).unlink(missing_ok=True)


POPEN = {"module": "subprocess", "class_name": "Popen", "registered_name": None}


def initializer_of_another_module(path, mark):
    """A class of the standard library where a layer's weights are drawn."""

    def change(facts):
        layers = [layer["config"] for layer in facts["config"]["layers"]]
        drawn = [config for config in layers if "kernel_initializer" in config]
        drawn[0]["kernel_initializer"] = POPEN | {"config": {"args": ["touch", mark]}}

    configured(path, change)


def loss_of_another_module(path, mark):
    """A class of the standard library as the loss, which is made where the network is."""
    loss = POPEN | {"config": {"args": ["touch", mark]}}
    configured(path, lambda facts: facts.update(compile_config={"optimizer": "sgd", "loss": loss}))


def loss_that_is_a_function(path, mark):
    """A function of the standard library as the loss."""
    loss = {"class_name": "function", "module": "subprocess", "config": "check_call",
            "registered_name": "function"}  # fmt: skip
    configured(path, lambda facts: facts.update(compile_config={"optimizer": "sgd", "loss": loss}))


def saved_model_of_tensorflow(path, mark):
    """A layer that loads a program of TensorFlow's from another folder."""
    with_layer(path, "TFSMLayer", filepath=mark, call_endpoint="serve")


def whole_model_is_a_call(path, mark):
    """A class of another module in the model's place, whose constructor acts."""
    config = {"args": ["touch", mark]}
    configured(path, lambda _: {"module": "subprocess", "class_name": "Popen", "config": config,
                                "registered_name": None})  # fmt: skip


def layer_of_another_module(path, mark):
    """A class of the standard library in a layer's place."""
    with_layer(path, "Popen", "subprocess", args=["touch", mark])


def unknown_layer(path, mark):
    """A layer class that only its author has."""
    with_layer(path, "MyLayer", "mine.layers")


def safety_switched_off(path, mark):
    """A call in the file that would switch the check off for what follows."""
    with_layer(path, "enable_unsafe_deserialization", "keras.config")


def torch_wrapper(path, mark):
    """A wrapped PyTorch module, which is a pickle."""
    data = base64.b64encode(pickle.dumps(Pickled(mark))).decode()
    with_layer(path, "TorchModuleWrapper", module_pickle=data, output_shape=[None, 1])


def file_as_vocabulary(path, mark):
    """A layer that reads a file of this machine as its vocabulary."""
    with_layer(path, "StringLookup", vocabulary=__file__)


def plain_pickle(path, mark):
    """A pickle with the ending of a network."""
    path.write_bytes(pickle.dumps(Pickled(mark)))


def pickled_weights(path, mark):
    """A pickle where the weights should be."""
    rewritten(path, **{"model.weights.h5": pickle.dumps(Pickled(mark))})


def hdf5_with_lambda(path, mark):
    """The older format, in which Lambda layers were once loaded unasked."""
    lambda_layer(path.with_suffix(".h5"), mark)
    path.with_suffix(".h5").rename(path)


def cut_in_half(path, mark):
    """Half a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path, mark):
    """No byte at all."""
    path.write_bytes(b"")


def without_configuration(path, mark):
    """No JSON in the configuration."""
    rewritten(path, **{"config.json": b"{"})


def other_sizes(path, mark):
    """A layer of another size than its weights."""
    configured(path, lambda facts: facts["config"]["layers"][-1]["config"].update(units=3))


def far_too_large(path, mark):
    """A layer whose weights would need terabytes."""

    def change(facts):
        facts["config"]["layers"][-2]["config"]["units"] = 2**40

    configured(path, change)


HOSTILE = [
    lambda_layer, function_as_lambda, lambda_in_a_nested_network, initializer_of_another_module,
    loss_of_another_module, loss_that_is_a_function, saved_model_of_tensorflow,
    whole_model_is_a_call, layer_of_another_module,
    unknown_layer, safety_switched_off, torch_wrapper, file_as_vocabulary, plain_pickle,
    pickled_weights, hdf5_with_lambda, cut_in_half, empty, without_configuration, other_sizes,
    far_too_large,
]  # fmt: skip


@pytest.mark.parametrize("spoil", HOSTILE, ids=lambda spoil: spoil.__name__)
def test_a_network_file_with_code_in_it_or_damaged_is_refused(copy, tmp_path, spoil, tally):
    mark = tmp_path / "executed"
    spoil(copy / predict.WEIGHTS, str(mark))
    with tally("models", "Keras file with code in it, or damaged") as tried:
        with pytest.raises(ValueError, match="is refused: it is no network that can") as caught:
            predict.load(copy)
        tried(survived=not mark.exists())
    assert not mark.exists() and "\n" not in str(caught.value)


def test_weights_of_another_training_are_refused(copy, tally):
    import keras

    model = keras.models.load_model(copy / predict.WEIGHTS)
    model.set_weights([weight + 0.01 for weight in model.get_weights()])
    model.save(copy / predict.WEIGHTS)
    with tally("models", "Keras file that its facts do not fit") as tried:
        with pytest.raises(ValueError, match="holds other weights than model.json was written for"):
            predict.load(copy)
        tried()


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "null", "\xff"])
def test_facts_that_are_none_are_refused(copy, text, tally):
    (copy / predict.FACTS).write_bytes(text.encode("latin-1"))
    with tally("models", "Keras file that its facts do not fit") as tried:
        with pytest.raises(ValueError, match="model.json says nothing about a model"):
            predict.load(copy)
        tried()


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


def test_other_data_than_the_model_was_trained_on_are_refused(copy, learnable, tmp_path, tally):
    other = dataclasses.replace(learnable, manifest=learnable.manifest.iloc[1:])
    with tally("models", "Keras file that its facts do not fit") as tried:
        with pytest.raises(ValueError, match="model was trained on data .*Train it again"):
            predict.score_test(copy, other, None, root=tmp_path)
        tried()
    assert runs.test_scorings(tmp_path).empty and not (copy / "test.parquet").exists()


def test_another_split_of_the_same_data_is_refused_where_the_model_says_its_own(copy, learnable):
    rows = learnable.manifest
    moved = rows["split"].mask(rows.index == rows.index[rows["split"] == "test"][0], "train")
    other = dataclasses.replace(learnable, manifest=rows.assign(split=moved))
    facts = predict.load(copy)[1]
    predict.check_data("model", facts, learnable)
    with pytest.raises(ValueError, match="model was trained on data split as"):
        predict.check_data("model", facts, other)
    del facts["splits"]  # a model made before splits were written down
    predict.check_data("model", facts, other)
