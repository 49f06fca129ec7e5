import numpy as np
import pytest

from w207lib import models
from w207lib.nets import augmentation

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(20, 236, (8, 16, 16, 3)).astype("float32")
STRONG = {
    "rotation": 0.2, "horizontal_flip": True, "vertical_flip": True, "brightness": 0.3,
    "contrast": 0.5, "shear": 0.3, "zoom": 0.3, "shift": 0.3,
}  # fmt: skip
ALL = STRONG | {"blur": 1.0, "jpeg": 1.0, "jitter": 0.2, "erase": 1.0}


def apply(layers, training, x=IMAGES):
    for layer in layers:
        x = layer(x, training=training)
    return np.asarray(x)


def test_every_change_that_the_reports_used_has_a_default():
    assert set(augmentation.DEFAULTS) == set(STRONG)
    assert augmentation.NAMES == tuple(ALL)


@pytest.mark.parametrize("name", ALL)
def test_a_layer_changes_images_in_training_and_none_when_predicting(name):
    (layer,) = augmentation.layers(seed=1, **{name: ALL[name]})
    changed = apply([layer], training=True)
    assert changed.shape == IMAGES.shape
    assert (np.abs(changed - IMAGES).max(axis=(1, 2, 3)) > 1).any()
    assert changed.min() >= -1e-3 and changed.max() <= 255 + 1e-3
    assert np.array_equal(apply([layer], training=False), IMAGES)


@pytest.mark.parametrize(("name", "axis"), [("horizontal_flip", 2), ("vertical_flip", 1)])
def test_a_flip_flips_its_axis_alone(name, axis):
    changed = apply(augmentation.layers(seed=3, **{name: True}), training=True)
    flipped = np.flip(IMAGES, axis)
    which = [np.array_equal(a, b) for a, b in zip(changed, flipped, strict=True)]
    same = [np.array_equal(a, b) for a, b in zip(changed, IMAGES, strict=True)]
    assert all(np.logical_xor(which, same)) and any(which)


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_a_blur_smooths_half_its_strength_of_the_images_and_leaves_the_others(strength):
    """Keras draws each image's chance between 0 and the strength."""
    many = np.tile(IMAGES, (100, 1, 1, 1))
    changed = apply(augmentation.layers(seed=1, blur=strength), training=True, x=many)
    blurred = (changed != many).any(axis=(1, 2, 3))
    assert blurred.mean() == pytest.approx(strength / 2, abs=0.06)
    rough, smooth = (np.abs(np.diff(some[blurred], axis=2)).mean() for some in (many, changed))
    assert smooth < 0.9 * rough


def test_a_jitter_shifts_by_whole_pixels():
    changed = apply(augmentation.layers(seed=2, jitter=0.125), training=True)
    steps = range(-2, 3)
    found = [
        [(down, right) for down in steps for right in steps
         if np.array_equal(np.roll(image, (down, right), (0, 1))[3:-3, 3:-3], new[3:-3, 3:-3])]
        for image, new in zip(IMAGES, changed, strict=True)
    ]  # fmt: skip
    assert all(len(shifts) == 1 for shifts in found)
    assert len({shifts[0] for shifts in found}) > 3


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_erasing_turns_a_part_of_some_images_grey(share):
    many = np.tile(IMAGES, (100, 1, 1, 1))
    changed = apply(augmentation.layers(seed=1, erase=share), training=True, x=many)
    erased = (changed != many).any(axis=-1)
    assert np.all(changed[erased] == 127.5)
    touched = erased.any(axis=(1, 2))
    assert touched.mean() == pytest.approx(share, abs=0.06)
    areas = erased[touched].mean(axis=(1, 2))
    assert 0.05 < areas.mean() < 0.2 and areas.max() < 0.3


def test_layers_with_one_seed_draw_independently():
    many = np.tile(IMAGES[:1], (200, 1, 1, 1))
    layers = augmentation.layers(seed=3, horizontal_flip=True, vertical_flip=True)
    for layer in layers:
        many = np.asarray(layer(many, training=True))
    outcomes = [IMAGES[0], IMAGES[0][:, ::-1], IMAGES[0][::-1], IMAGES[0][::-1, ::-1]]
    counts = [sum(np.array_equal(one, outcome) for one in many) for outcome in outcomes]
    assert sum(counts) == 200 and min(counts) > 25


def test_layers_come_in_one_order_and_those_off_are_left_out():
    kinds = [type(layer).__name__ for layer in augmentation.layers(**ALL)]
    assert kinds == [
        "RandomRotation", "RandomFlip", "RandomFlip", "RandomBrightness", "RandomContrast",
        "RandomShear", "RandomZoom", "RandomTranslation", "RandomGaussianBlur",
        "RandomJpeg", "RandomTranslation", "RandomErasing",
    ]  # fmt: skip
    reverse = dict(reversed(ALL.items()))
    assert [type(layer).__name__ for layer in augmentation.layers(**reverse)] == kinds
    assert augmentation.layers() == augmentation.layers(rotation=0, vertical_flip=False) == []


def test_the_seed_decides_the_draws():
    one, same, other = (
        apply(augmentation.layers(seed=s, rotation=0.2, zoom=0.2), True) for s in (1, 1, 2)
    )
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_a_model_with_all_layers_is_saved_and_loaded_and_predicts_the_same(tmp_path):
    import keras

    model = models.build("two_conv", 16, augment=ALL, seed=1)
    assert sum("Random" in row["kind"] for row in models.describe(model)) == len(ALL)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    predicted = model.predict(IMAGES, verbose=0)
    assert np.array_equal(loaded.predict(IMAGES, verbose=0), predicted)
    plain = models.build("two_conv", 16)
    plain.set_weights([w for w in model.get_weights() if w.dtype != np.uint32])
    assert np.allclose(plain.predict(IMAGES, verbose=0), predicted, atol=1e-6)


def test_an_unknown_change_is_refused():
    with pytest.raises(ValueError, match="'hue' is unknown; there are rotation.*, blur"):
        augmentation.layers(hue=0.1)


@pytest.mark.parametrize("strength", [-0.1, 1.5, "much", None])
def test_a_strength_that_is_no_share_is_refused(strength):
    with pytest.raises(ValueError, match=f"rotation has strength {strength!r}"):
        augmentation.layers(rotation=strength)
