import numpy as np
import pytest

from w207lib import predict, train
from w207lib.nets import attacks, gradients

RNG = np.random.default_rng(5)
SIDE = 4
WEIGHTS = RNG.normal(0, 0.01, (SIDE, SIDE, 3)).astype(np.float32)
PIXELS = RNG.integers(0, 256, (6, SIDE, SIDE, 3), np.uint8)
LABELS = np.array([0, 1, 0, 1, 1, 0])


@pytest.fixture(scope="module")
def linear():
    import keras

    model = keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), keras.layers.Flatten(),
         keras.layers.Dense(1, activation="sigmoid")]
    )  # fmt: skip
    model.set_weights([WEIGHTS.reshape(-1, 1), np.zeros(1)])
    return model


@pytest.fixture(scope="module")
def trained(learnable, tiny_profile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "models"
    place = train.fit("two_conv", learnable, tiny_profile(epochs=4), folder)
    return predict.load(place)[0], learnable.split("test")


def losses(model, pixels, labels):
    """How far each logit is on the wrong side."""
    values, _ = gradients.input_gradient(gradients.fake_logit(model), pixels)
    return np.where(labels.ravel() == 1, -values, values)


ATTACKS = [
    attacks.fgsm, attacks.pgd, lambda model, x, labels, e: attacks.random_noise(x, e, seed=1)
]  # fmt: skip


def test_one_step_on_a_linear_model_is_the_sign_of_its_weights(linear):
    side = np.where(LABELS == 1, -1, 1)[:, None, None, None]
    expected = np.clip(PIXELS + side * 5 * np.sign(WEIGHTS), 0, 255)
    found = attacks.fgsm(linear, PIXELS, LABELS, 5)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


def test_on_a_linear_model_many_steps_end_where_one_does(linear):
    one = attacks.fgsm(linear, PIXELS, LABELS, 5)
    assert np.array_equal(attacks.pgd(linear, PIXELS, LABELS, 5, steps=10), one)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("epsilon", [1, 3, 40])
def test_the_result_is_in_the_ball_and_in_range(linear, attack, epsilon):
    extremes = np.concatenate([PIXELS[:2], np.zeros_like(PIXELS[:2]), PIXELS[:2] * 0 + 255])
    found = attack(linear, extremes.astype(np.uint8), LABELS, epsilon)
    assert found.dtype == np.uint8 and found.shape == extremes.shape
    moved = np.abs(found.astype(int) - extremes)
    assert moved.max() == epsilon


@pytest.mark.parametrize("attack", ATTACKS)
def test_of_size_zero_it_changes_nothing(linear, attack):
    assert np.array_equal(attack(linear, PIXELS, LABELS, 0), PIXELS)


def test_labels_may_stand_in_a_column(linear):
    flat = attacks.fgsm(linear, PIXELS, LABELS, 2)
    assert np.array_equal(attacks.fgsm(linear, PIXELS, LABELS[:, None].astype(np.float32), 2), flat)


def test_batches_make_no_difference(linear, monkeypatch):
    together = attacks.fgsm(linear, PIXELS, LABELS, 3)
    monkeypatch.setattr(attacks, "BATCH", 4)
    assert np.array_equal(attacks.fgsm(linear, PIXELS, LABELS, 3), together)
    # the random starts do differ, but on a linear model all of them lead to one corner
    assert np.array_equal(attacks.pgd(linear, PIXELS, LABELS, 3), together)


def test_attacks_raise_the_loss_and_many_steps_raise_it_no_less_than_one(trained):
    model, part = trained
    clean, one, many = (
        losses(model, x, part.labels)
        for x in (
            part.pixels,
            attacks.fgsm(model, part.pixels, part.labels, 4),
            attacks.pgd(model, part.pixels, part.labels, 4),
        )
    )
    assert one.mean() > clean.mean() + 0.1
    assert many.mean() >= one.mean() - 0.01
    assert (many >= clean - 1e-3).all()


def test_random_signs_do_far_less_than_an_attack(trained):
    model, part = trained
    before = losses(model, part.pixels, part.labels)
    noise = losses(model, attacks.random_noise(part.pixels, 4, seed=2), part.labels) - before
    one = losses(model, attacks.fgsm(model, part.pixels, part.labels, 4), part.labels) - before
    assert np.abs(noise.mean()) < one.mean() / 3


def test_a_seed_makes_it_repeatable(trained):
    model, part = trained
    runs = [attacks.pgd(model, part.pixels, part.labels, 4, steps=1, seed=s) for s in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])
    noise = [attacks.random_noise(part.pixels, 4, seed=s) for s in (1, 1, 2)]
    assert np.array_equal(noise[0], noise[1]) and not np.array_equal(noise[0], noise[2])


def test_the_last_step_counts(linear):
    one = attacks.fgsm(linear, PIXELS, LABELS, 5)
    found = attacks.pgd(linear, PIXELS, LABELS, 5, steps=1, step_size=10)
    assert np.array_equal(found, one)  # from wherever it started


def test_of_all_steps_the_worst_is_kept():
    """A logit that swings with the mean grey level: no step can tell what the next one brings."""
    import keras

    inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Dense(1, kernel_initializer="ones")(keras.layers.Flatten()(inputs))
    x = keras.layers.Activation(keras.ops.sin)(x)
    outputs = keras.layers.Dense(1, activation="sigmoid", kernel_initializer="ones")(x)
    model = keras.Model(inputs, outputs)
    found = [
        losses(model, attacks.pgd(model, PIXELS, LABELS, 9, steps=n, step_size=3, seed=1), LABELS)
        for n in (2, 3, 4, 5, 6)
    ]
    assert (np.diff(found, axis=0) >= -1e-3).all()
    assert (found[-1] > found[0] + 0.1).any()


@pytest.mark.parametrize("epsilon", [-1, 0.5, 256])
def test_a_size_that_is_no_whole_grey_level_is_refused(linear, epsilon):
    with pytest.raises(ValueError, match="expected whole grey levels from 0 to 255"):
        attacks.fgsm(linear, PIXELS, LABELS, epsilon)


def test_pixels_labels_and_steps_of_another_kind_are_refused(linear):
    with pytest.raises(ValueError, match=r"expected uint8 \(N, S, S, 3\)"):
        attacks.fgsm(linear, PIXELS.astype(np.float32), LABELS, 1)
    with pytest.raises(ValueError, match="labels of shape"):
        attacks.fgsm(linear, PIXELS, LABELS[:3], 1)
    with pytest.raises(ValueError, match="labels of shape"):
        attacks.fgsm(linear, PIXELS, LABELS - 1, 1)
    with pytest.raises(ValueError, match="steps=0; expected 1 or more"):
        attacks.pgd(linear, PIXELS, LABELS, 1, steps=0)
