"""The small generators: shapes, ranges, seeds, errors, and that training does something."""

import numpy as np
import pytest

from w207lib import generators

TINY = {
    "autoencoder": dict(steps=2, width=8),
    "diffusion": dict(steps=2, width=4),
    "gan": dict(steps=2, width=8),
}


@pytest.fixture(scope="module")
def images():
    """Twelve smooth 16 × 16 pictures, uint8."""
    random = np.random.default_rng(0)
    corners = random.uniform(0, 255, (12, 2, 2, 3))
    ramp = np.linspace(0, 1, 16)
    rows = corners[:, :1] * (1 - ramp)[:, None, None] + corners[:, 1:] * ramp[:, None, None]
    left, right = rows[:, :, :1], rows[:, :, 1:]
    return (left * (1 - ramp)[:, None] + right * ramp[:, None]).astype(np.uint8)


@pytest.fixture(scope="module")
def models(images):
    return {
        name: generators.train(name, images, batch_size=4, **TINY[name])
        for name in generators.GENERATORS
    }


@pytest.mark.parametrize("name", generators.GENERATORS)
def test_fakes_have_the_shape_of_their_originals(models, images, name):
    wide = np.concatenate([images[:3], images[3:6], images[6:9]], axis=2)  # (3, 16, 48, 3)
    fakes = generators.fake(name, models[name], wide)
    assert fakes.dtype == np.uint8
    assert fakes.shape == wide.shape
    assert not np.array_equal(fakes, wide)


def test_the_same_seed_trains_the_same_generator(models, images):
    again = generators.train("autoencoder", images, batch_size=4, **TINY["autoencoder"])
    for one, other in zip(again.weights, models["autoencoder"].weights, strict=True):
        assert np.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("name", generators.GENERATORS)
def test_another_seed_gives_other_weights(name):
    def first(seed):
        made = getattr(generators, f"build_{name}")(seed=seed, width=8)
        return (made[0] if name == "gan" else made).get_weights()[0]

    assert np.array_equal(first(1), first(1))
    assert not np.array_equal(first(1), first(2))


def test_nothing_touches_the_global_random_state(models, images):
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    generators.fake("diffusion", models["diffusion"], images)
    generators.build_autoencoder(width=8)
    assert np.array_equal(before, np.random.get_state()[1])


def test_diffusion_draws_its_noise_by_the_seed(models, images):
    def draw(seed, noise=0.3):
        return generators.fake("diffusion", models["diffusion"], images, seed=seed, noise=noise)

    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))
    little, much = (np.abs(draw(1, noise) - images.astype(int)).mean() for noise in (0.02, 0.5))
    assert little < much


def test_training_brings_the_autoencoder_nearer_to_its_originals(models, images):
    better = generators.train_autoencoder(images, steps=80, batch_size=4, width=16)
    errors = [
        np.abs(generators.fake("autoencoder", model, images) - images.astype(int)).mean()
        for model in (models["autoencoder"], better)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_training_teaches_the_diffusion_to_see_through_noise(images):
    random = np.random.default_rng(1)
    noise = random.standard_normal(images.shape).astype("float32")
    share = np.full((len(images), 1, 1, 1), 0.5, "float32")
    noisy = np.sqrt(0.75) * (images / 127.5 - 1).astype("float32") + 0.5 * noise
    errors = []
    for steps in (1, 40):
        model = generators.train_diffusion(images, steps=steps, batch_size=4, width=4)
        errors.append(np.abs(model.predict([noisy, share], verbose=0) - images).mean())
    assert errors[1] < 0.8 * errors[0]


def test_the_code_of_the_autoencoder_has_few_levels():
    import keras

    model = generators.build_autoencoder(width=8, channels=2, levels=3)
    x = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    before = next(  # the layer that widens the code again takes it as its input
        layer for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel.shape[2] == 2
    )  # fmt: skip
    code = keras.Model(model.input, before.input).predict(x, verbose=0)
    assert code.shape == (4, 8, 8, 2)
    assert set(np.round(np.unique(code), 4)) <= {-1.0, 0.0, 1.0}


def test_a_generator_can_be_saved_and_loaded(models, images, tmp_path):
    import keras

    models["diffusion"].save(tmp_path / "diffusion.keras")
    again = keras.models.load_model(tmp_path / "diffusion.keras", compile=False)
    before = generators.fake("diffusion", models["diffusion"], images).astype(int)
    assert np.abs(generators.fake("diffusion", again, images) - before).max() <= 1


def test_halve_takes_the_mean_of_four():
    picture = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(1, 4, 4, 3)
    assert generators.halve(picture).shape == (1, 2, 2, 3)
    assert generators.halve(picture)[0, 0, 0, 0] == np.mean([0, 3, 12, 15])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (np.zeros((2, 16, 16, 3)), "float64"),
        (np.zeros((16, 16, 3), np.uint8), r"\(16, 16, 3\)"),
        (np.zeros((2, 16, 16, 1), np.uint8), r"\(N, H, W, 3\)"),
        (np.zeros((0, 16, 16, 3), np.uint8), "N ≥ 1"),
        (np.zeros((2, 16, 12, 3), np.uint8), "multiples of 8"),
    ],
)
def test_wrong_images_are_refused(models, wrong, says):
    with pytest.raises(ValueError, match=says):
        generators.train("autoencoder", wrong)
    with pytest.raises(ValueError, match=says):
        generators.fake("gan", models["gan"], wrong)


def test_wrong_settings_are_refused(models, images):
    with pytest.raises(ValueError, match="'vae' is unknown; there are autoencoder"):
        generators.train("vae", images)
    with pytest.raises(ValueError, match="'vae' is unknown"):
        generators.fake("vae", models["gan"], images)
    with pytest.raises(ValueError, match="levels is 1"):
        generators.train_autoencoder(images, levels=1)
    with pytest.raises(ValueError, match="steps 0"):
        generators.train_gan(images, steps=0)
    with pytest.raises(ValueError, match="most_noise is 1"):
        generators.train_diffusion(images, most_noise=1)
    with pytest.raises(ValueError, match="noise 0"):
        generators.fake("diffusion", models["diffusion"], images, noise=0)
