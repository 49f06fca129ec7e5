import numpy as np
import pytest

from w207lib import predict
from w207lib.nets import gradients

SIDE = 3
RNG = np.random.default_rng(4)
WEIGHTS = RNG.normal(0, 0.01, (SIDE * SIDE * 3, 2)).astype(np.float32)
BIAS = np.array([0.5, -1], np.float32)
PIXELS = RNG.uniform(0, 255, (4, SIDE, SIDE, 3)).astype(np.float32)


def linear(columns, scale=1.0):
    """Make a dense layer on the flattened pixels; with one column, the second one's weights."""
    import keras

    activation = "sigmoid" if columns == 1 else "softmax"
    model = keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), keras.layers.Flatten(),
         keras.layers.Dense(columns, activation=activation)]
    )  # fmt: skip
    model.set_weights([scale * WEIGHTS[:, -columns:], BIAS[-columns:]])
    return model


def by_hand(columns, scale=1.0):
    """Return the logits of PIXELS and their gradient at one image."""
    flat = PIXELS.reshape(len(PIXELS), -1) @ (scale * WEIGHTS) + BIAS
    if columns == 1:
        return flat[:, 1], (scale * WEIGHTS[:, 1]).reshape(SIDE, SIDE, 3)
    difference = scale * (WEIGHTS[:, 1] - WEIGHTS[:, 0])
    return flat[:, 1] - flat[:, 0], difference.reshape(SIDE, SIDE, 3)


@pytest.mark.parametrize("columns", [1, 2])
def test_the_logit_of_a_linear_model_and_its_gradient_are_those_by_hand(columns):
    found, gradient = gradients.input_gradient(gradients.fake_logit(linear(columns)), PIXELS)
    logit, weights = by_hand(columns)
    assert found == pytest.approx(logit, abs=1e-4)
    assert gradient.shape == PIXELS.shape and gradient.dtype == np.float32
    assert np.allclose(gradient, weights, atol=1e-6)


@pytest.mark.parametrize("columns", [1, 2])
def test_a_saturated_score_has_no_gradient_but_its_logit_has(columns):
    model = linear(columns, scale=100)
    full = np.abs(by_hand(columns, 100)[0]) > 110  # beyond float32, where exp(-110) is 0
    assert full.any()
    _, flat = gradients.input_gradient(lambda x: model(x)[:, columns - 1], PIXELS[full])
    _, gradient = gradients.input_gradient(gradients.fake_logit(model), PIXELS[full])
    assert not flat.any()
    assert np.allclose(gradient, by_hand(columns, 100)[1], atol=1e-4)


def nested():
    """A backbone as one layer of the model, as ``transfer:`` recipes have it, with dropout."""
    import keras

    inner_in = keras.Input((8, 8, 3))
    inner = keras.Model(inner_in, keras.layers.Conv2D(4, 3, activation="relu")(inner_in))
    inputs = keras.Input((8, 8, 3))
    x = inner(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.Dropout(0.9)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))


def test_of_a_nested_model_the_gradient_is_the_slope_of_its_logit():
    model = nested()
    logit = gradients.fake_logit(model)
    x = RNG.uniform(0, 255, (3, 8, 8, 3)).astype(np.float32)
    values, gradient = gradients.input_gradient(logit, x)
    score = predict.scores(model, x).astype(float)
    assert values == pytest.approx(np.log(score / (1 - score)), abs=1e-3)
    step = 0.5 * np.sign(gradient)
    higher, lower = (gradients.input_gradient(logit, x + s)[0] for s in (step, -step))
    assert higher - lower == pytest.approx(np.abs(gradient).sum((1, 2, 3)), rel=0.05)
    assert (higher > lower).all()


def test_an_entry_depends_on_its_own_image_alone():
    logit = gradients.fake_logit(nested())
    x = RNG.uniform(0, 255, (3, 8, 8, 3)).astype(np.float32)
    together = gradients.input_gradient(logit, x)[1]
    alone = gradients.input_gradient(logit, x[1:2])[1]
    assert np.allclose(together[1], alone[0], atol=1e-6)


def test_further_inputs_are_given_but_not_differentiated():
    import keras

    x, factor = np.ones((2, 3)), np.arange(6).reshape(2, 3)
    values, gradient = gradients.input_gradient(
        lambda x, factor: keras.ops.sum(x * factor, axis=1), x, factor
    )
    assert values.tolist() == [3, 12]
    assert gradient.tolist() == factor.tolist()


def test_a_function_that_does_not_look_at_its_input_is_refused():
    import keras

    with pytest.raises(ValueError, match="does not depend on its first input"):
        gradients.input_gradient(lambda x, y: keras.ops.sum(y, axis=1), PIXELS[:, 0, 0], PIXELS)


def test_a_model_that_does_not_end_in_a_dense_layer_has_no_logit_here():
    import keras

    model = keras.Sequential([
        keras.Input((SIDE, SIDE, 3)), keras.layers.Flatten(), keras.layers.Dense(1),
        keras.layers.Activation("sigmoid"),
    ])  # fmt: skip
    with pytest.raises(ValueError, match="ends in Activation; expected a Dense layer"):
        gradients.fake_logit(model)
