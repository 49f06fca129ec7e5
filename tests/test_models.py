import itertools
from pathlib import Path

import numpy as np
import pytest

from w207lib import models
from w207lib.machine import devices

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype("float32")

COUNTS = [
    # recipe, its report's own size, options, parameters, of them trainable
    ("w207_simple", 400, {}, 80_293_777, 80_293_777),
    ("w207_tuned", 400, {}, 75_900_129, 75_900_129),
    ("deep_vgg", 32, {}, 21_838_105, 21_836_185),
    ("three_conv", 32, {}, 355_778, 355_778),
    ("custom_cnn", 224, {}, 25_786_050, 25_785_090),
    ("resnet101", 224, {}, 43_184_258, 43_078_402),
    ("resnet101", 224, {"frozen": True}, 43_184_258, 525_570),
    ("two_conv", 32, {}, 166_977, 166_977),
    ("bird_lotfi", 32, {}, 141_345, 141_345),
    ("bird_lotfi", 32, {"residual": True}, 141_345 + 27 * 32, 141_345 + 27 * 32),
    ("compact", 32, {}, 285_417, 284_553),
    ("compact", 32, {"residual": False}, 285_417 - 27 * 24, 284_553 - 27 * 24),
    ("broad", 32, {}, 285_417, 284_553),
]
SMALL = ["w207_simple", "w207_tuned", "three_conv", "custom_cnn", "two_conv", "bird_lotfi"]


def small(recipe, **options):
    """Build a recipe at 16 pixels; Report 0's tuned one needs smaller pools for that."""
    pools = {"pool_size": 2} if recipe == "w207_tuned" else {}
    return models.build(recipe, 16, **pools | options)


# --- the reports' counts -----------------------------------------------------------------


@pytest.mark.parametrize(("recipe", "size", "options", "total", "trainable"), COUNTS)
def test_a_recipe_has_its_reports_parameters(recipe, size, options, total, trainable):
    model = models.build(recipe, **options)
    counted = models.parameter_counts(model)
    assert counted == {"total": total, "trainable": trainable, "frozen": total - trainable}
    assert model.count_params() == total
    assert model.input_shape == (None, size, size, 3)


def test_every_recipe_is_counted_here():
    assert set(models.RECIPES) == {row[0] for row in COUNTS}


def test_the_residual_is_what_a_neighbourhood_does_not_foretell():
    import keras

    model = models.build("two_conv", 16, residual=True)
    (joined,) = [one for one in model.layers if isinstance(one, keras.layers.Concatenate)]
    look = keras.Model(model.input, joined.output)
    ramp = np.broadcast_to(np.arange(16, dtype=np.float32)[:, None], (16, 16))
    dot = np.zeros((16, 16), np.float32)
    dot[8, 8] = 90
    pictures = np.stack([np.repeat(one[..., None], 3, axis=-1) for one in (ramp, dot)])
    plain, rest = np.split(np.asarray(look(pictures, training=False)), 2, axis=-1)
    assert np.allclose(plain, pictures / 255)
    assert np.abs(rest[0, 1:-1, 1:-1]).max() < 1e-5
    assert np.allclose(rest[1, 8, 8], 4 * (90 - 10) / 255)
    assert np.allclose(rest[1, 7, 9], 4 * -10 / 255)


def test_a_backbone_takes_no_residual():
    with pytest.raises(ValueError, match="a backbone has three"):
        models.build("transfer:MobileNetV2", 32, residual=True)


def test_report_0s_larger_count_is_adams_two_moments_and_two_scalars():
    model = models.compile_model(small("w207_tuned"), "w207_tuned")
    model.optimizer.build(model.trainable_variables)
    slots = sum(int(np.prod(v.shape)) for v in model.optimizer.variables)
    total = models.parameter_counts(model)["total"]
    assert total + slots == 3 * total + 2
    assert 3 * 75_900_129 + 2 == 227_700_389


def test_the_published_code_of_report_1_has_smaller_kernels():
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512]
    pairs = sum(a * b for a, b in itertools.pairwise(channels))
    model = models.build("deep_vgg", kernel_size=2)
    assert models.parameter_counts(model)["total"] == 21_838_105 - (9 - 4) * pairs


# --- heads, scaling, options -------------------------------------------------------------


@pytest.mark.parametrize("recipe", SMALL)
def test_a_recipe_has_its_reports_head(recipe):
    last = small(recipe).layers[-1]
    columns = 2 if recipe in ("three_conv", "custom_cnn") else 1
    assert last.units == columns
    assert last.activation.__name__ == {1: "sigmoid", 2: "softmax"}[columns]


@pytest.mark.parametrize(("recipe", "columns"), [("two_conv", 1), ("three_conv", 2)])
def test_both_heads_train_on_labels_in_one_column(recipe, columns):
    import keras

    keras.utils.set_random_seed(1)
    model = models.compile_model(small(recipe), recipe)
    before = model.get_weights()
    labels = np.array([[0], [1], [0], [1]], "float32")
    logs = model.train_on_batch(PIXELS, labels, return_dict=True)
    assert np.isfinite(logs["loss"]) and 0 <= logs["accuracy"] <= 1
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    scores = model.predict(PIXELS, verbose=0)
    assert scores.dtype == np.float32 and scores.shape == (4, columns)
    assert (scores >= 0).all() and (scores <= 1).all()
    assert columns == 1 or np.allclose(scores.sum(axis=1), 1)


def inputs_to_the_network(model, behind):
    """Return what goes into the first layer of class ``behind``, for black and for white."""
    import keras

    (layer, *_) = [op for op in model.operations if type(op).__name__ == behind]
    tensor = layer._inbound_nodes[-1].input_tensors[0]  # a backbone's first node is its own
    extremes = np.stack([np.zeros((32, 32, 3)), np.full((32, 32, 3), 255)])
    found = keras.Model(model.inputs, tensor).predict(extremes, verbose=0)
    return found.reshape(2, -1)[:, 0].tolist()


@pytest.mark.parametrize(
    ("scaling", "expected"), [(None, [0, 1]), ("[0, 1]", [0, 1]), ("[-1, 1]", [-1, 1]),
                              ("none", [0, 255])]
)  # fmt: skip
def test_pixels_are_scaled_inside_the_model(scaling, expected):
    model = models.build("two_conv", scaling=scaling)
    assert inputs_to_the_network(model, "Conv2D") == pytest.approx(expected)


def test_a_backbone_gets_its_own_preprocessing():
    model = models.build("transfer:MobileNetV2", 32)
    assert model.output_shape == (None, 1)
    assert inputs_to_the_network(model, "Functional") == pytest.approx([-1, 1])


def test_a_transfer_model_is_frozen_on_request_and_saved_and_loaded(tmp_path):
    import keras

    model = models.build("transfer:MobileNet", 32, frozen=True, units=8)
    counts = models.parameter_counts(model)
    assert counts["trainable"] == (1024 * 8 + 8) + 2 * 8 + (8 + 1)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    assert np.array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert models.parameter_counts(loaded) == counts


@pytest.mark.filterwarnings("ignore:Skipping variable loading")  # it was never trained
@pytest.mark.parametrize("recipe", ["two_conv", "custom_cnn"])
def test_a_recipe_is_saved_and_loaded_without_code(tmp_path, recipe):
    import keras

    model = models.compile_model(small(recipe, seed=1), recipe)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    expected = model.predict(PIXELS, verbose=0)
    assert np.array_equal(loaded.predict(PIXELS, verbose=0), expected)
    assert loaded.optimizer.learning_rate == model.optimizer.learning_rate


def test_a_recipe_is_compiled_as_its_report_trained_it():
    for recipe, optimizer, rate in (("three_conv", "Adam", 1e-3), ("custom_cnn", "Adam", 1e-3)):
        compiled = models.compile_model(small(recipe), recipe).optimizer
        assert type(compiled).__name__ == optimizer
        assert float(compiled.learning_rate) == pytest.approx(rate)
    assert models.find("resnet101").optimizer == "sgd"
    assert models.find("w207_tuned").learning_rate == models.find("resnet101").learning_rate == 1e-4
    other = models.compile_model(small("two_conv"), "two_conv", learning_rate=0.5)
    assert float(other.optimizer.learning_rate) == 0.5


@pytest.mark.parametrize("rate", [0, -1e-3, float("nan"), float("inf")])
def test_a_learning_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match=r"learning rate \S+; expected .* above 0, such as 0.001"):
        models.compile_model(small("two_conv"), "two_conv", learning_rate=rate)


# --- recipes of one's own ----------------------------------------------------------------

OWN = """from w207lib.models import Recipe

WIDTH = 3

def tiny(keras, x, *, seed):
    x = keras.layers.Conv2D(WIDTH, 3, activation="relu")(x)
    return keras.layers.GlobalAveragePooling2D()(x)

Two = Recipe(tiny, 16, "softmax", 0.5, "mine", optimizer="sgd")
"""


LAYER = """import keras

{registered}
class Edges(keras.layers.Layer):
    def call(self, x):
        return x[:, 1:] - x[:, :-1]

def edges(keras, x, *, seed):
    return keras.layers.Flatten()(Edges()(x))
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "my-recipes.py").write_text(OWN)
    return tmp_path / "my-recipes.py"


def test_a_function_in_a_file_of_ones_own_is_a_recipe(own):
    model = models.build(f"{own}:tiny")
    assert model.name == "tiny" and model.output_shape == (None, 1)
    assert model.input_shape == (None, 32, 32, 3)
    assert models.parameter_counts(model)["total"] == 3 * 27 + 3 + 3 + 1
    assert inputs_to_the_network(model, "Conv2D") == pytest.approx([0, 1])
    compiled = models.compile_model(model, f"{own}:tiny")
    assert float(compiled.optimizer.learning_rate) == pytest.approx(1e-3)
    assert "my-recipes.py" in models.find(f"{own}:tiny").report


def test_a_recipe_in_a_file_of_ones_own_says_the_rest_itself(own):
    model = models.compile_model(models.build(f"{own}:Two"), f"{own}:Two")
    assert model.name == "two" and model.output_shape == (None, 2)
    assert model.input_shape == (None, 16, 16, 3)
    assert float(model.optimizer.learning_rate) == 0.5


def test_a_layer_of_ones_own_must_be_registered_and_that_is_said_before_training(own):
    own.write_text(LAYER.format(registered=""))
    with pytest.raises(ValueError, match=r"know the class Edges.*register_keras_serializable\(\)"):
        models.build(f"{own}:edges")
    own.write_text(LAYER.format(registered="@keras.saving.register_keras_serializable()"))
    assert models.build(f"{own}:edges", 8).output_shape == (None, 1)


def test_a_file_of_ones_own_is_read_anew_each_time(own):
    before = models.build(f"{own}:tiny").count_params()
    own.write_text(OWN.replace("WIDTH = 3", "WIDTH = 4"))
    assert models.build(f"{own}:tiny").count_params() > before


@pytest.mark.parametrize(
    ("name", "message"),
    [("Tiny", r"no function or Recipe 'Tiny'; it has tiny, Two\."), ("WIDTH", "it has tiny, Two"),
     ("Recipe", "it has tiny, Two")],
)  # fmt: skip
def test_what_is_no_recipe_in_a_file_is_told_what_there_is(own, name, message):
    with pytest.raises(ValueError, match=message):
        models.find(f"{own}:{name}")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no file .*none.py"):
        models.find(f"{tmp_path / 'none.py'}:tiny")
    with pytest.raises(ValueError, match="and FILE.py:NAME"):
        models.find("none.py")


@pytest.mark.parametrize(
    ("recipe", "file", "name"),
    [("two_conv", None, "two_conv"), ("transfer:ResNet50", None, "transfer_resnet50"),
     ("dummy:most_frequent", None, "dummy_most_frequent"), ("mine.py:Tiny", "mine.py", "tiny"),
     ("../a b/mine.py:tiny", "../a b/mine.py", "tiny"),
     (r"C:\x\mine.py:tiny", r"C:\x\mine.py", "tiny"), ("mine.py", None, "mine_py")],
)  # fmt: skip
def test_a_models_name_can_be_a_folders(recipe, file, name):
    assert models.own_file(recipe) == (None if file is None else Path(file))
    assert models.model_name(recipe) == name


def test_options_change_the_network():
    model = models.build("two_conv", filters=(4, 8), units=5, dropout=0.0)
    kinds = {row["name"]: row for row in models.describe(model)}
    assert [row["output_shape"][-1] for row in kinds.values()][-1] == 1
    assert "Dropout" not in {row["kind"] for row in kinds.values()}
    dense = [row["parameters"] for row in kinds.values() if row["kind"] == "Dense"]
    assert dense == [6 * 6 * 8 * 5 + 5, 5 + 1]


def test_the_description_accounts_for_every_parameter():
    model = models.build("custom_cnn", 16)
    rows = models.describe(model)
    assert [row["name"] for row in rows] == [layer.name for layer in model.layers]
    counts = models.parameter_counts(model)
    assert sum(row["parameters"] for row in rows) == counts["total"]
    assert sum(row["trainable"] for row in rows) == counts["trainable"]
    assert rows[0]["output_shape"] == (16, 16, 3) and rows[-1]["output_shape"] == (2,)


# --- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["vgg", "", "transfer:", "transfer", "Transfer:ResNet50"])
def test_an_unknown_recipe_is_refused_with_those_there_are(recipe):
    with pytest.raises(ValueError, match=f"recipe '{recipe}' is unknown; there are w207_simple"):
        models.build(recipe)


@pytest.mark.parametrize("backbone", ["ResNet51", "resnet50", "keras", "resnet"])
def test_an_unknown_backbone_is_refused(backbone):
    with pytest.raises(ValueError, match=f"backbone '{backbone}' is unknown; there are ViTB16"):
        models.build(f"transfer:{backbone}")


def test_the_vision_transformer_has_its_papers_parameters_and_survives_saving(tmp_path):
    pytest.importorskip("keras_hub")
    model = models.build("transfer:ViTB16", 224)
    heads = 768 * 256 + 256 + 4 * 256 + 256 + 1
    assert models.parameter_counts(model)["total"] == 85_798_656 + heads  # ViT-B/16 without top


def test_weights_that_are_no_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no such file; expected a .weights.h5"):
        models.build("transfer:MobileNetV2", 32, weights=str(tmp_path / "none.weights.h5"))


def test_a_backbones_weights_come_from_a_local_file(tmp_path):
    make = devices.quiet_keras().applications.MobileNetV2
    donor = make(include_top=False, weights=None, input_shape=(32, 32, 3))
    path = tmp_path / "donor.weights.h5"
    donor.save_weights(path)
    model = models.build("transfer:MobileNetV2", 32, weights=str(path), frozen=True)
    (base,) = [layer for layer in model.layers if layer.name.startswith("mobilenet")]
    for own, given in zip(base.weights, donor.weights, strict=True):
        np.testing.assert_array_equal(own, given)


def test_batch_norm_keeps_its_averages_where_asked():
    x = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    for keeps in (True, False):
        model = models.build("transfer:MobileNetV2", 32, inference_norm=keeps)
        models.compile_model(model, "transfer:MobileNetV2")
        (base,) = [layer for layer in model.layers if layer.name.startswith("mobilenet")]
        before = [np.array(w) for w in base.weights if "moving_mean" in w.path]
        model.train_on_batch(x, np.tile([[0.0], [1.0]], (4, 1)))
        after = [np.array(w) for w in base.weights if "moving_mean" in w.path]
        same = all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        assert before and same == keeps


def test_a_cosine_recipe_warms_up_and_falls_to_nothing():
    model = models.compile_model(models.build("compact"), "compact", steps=1000)
    rate = model.optimizer._learning_rate
    values = [float(rate(step)) for step in (0, 50, 500, 1000)]
    assert values == pytest.approx([1e-3, 1e-2, 5.4e-3, 0], abs=2e-4)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="'adagrad' is unknown; there are adam, sgd, muon"):
        models.compile_model(small("two_conv"), "two_conv", optimizer="adagrad")


def test_an_unknown_option_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="two_conv has no option 'filter'; it has filters, units"):
        models.build("two_conv", filter=3)


def test_an_unknown_scaling_is_refused():
    with pytest.raises(ValueError, match="scaling '0-1' is unknown"):
        models.build("two_conv", scaling="0-1")


@pytest.mark.parametrize(
    ("recipe", "size"), [("w207_tuned", 16), ("w207_simple", 3), ("two_conv", 8)]
)
def test_a_too_small_input_is_refused_in_the_recipes_words(recipe, size):
    with pytest.raises(ValueError, match=rf"{recipe} cannot take images of {size}×{size} pixels"):
        models.build(recipe, size)
