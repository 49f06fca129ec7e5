"""The JPEG layer: near Pillow's own, off when predicting, saved with its network."""

import io

import keras
import numpy as np
import pytest
from PIL import Image

from w207lib.nets import augmentation, recompression


def pictures(count=6, size=32):
    random = np.random.default_rng(3)
    coarse = random.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(c).resize((size, size), Image.Resampling.BICUBIC))
         for c in coarse]
    )  # fmt: skip


def pillow(picture, quality):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).astype(float)


@pytest.mark.parametrize("quality", [20, 50, 75, 95])
def test_it_does_to_images_what_pillow_does(quality):
    images = pictures()
    ours = np.asarray(
        recompression.jpeg(images.astype(np.float32), np.full(len(images), quality, np.float32))
    )
    theirs = np.stack([pillow(image, quality) for image in images])
    grey = np.array([0.299, 0.587, 0.114])
    change = np.abs((theirs - images) @ grey).mean()
    assert np.abs((ours - theirs) @ grey).mean() < 0.25 * change + 0.35  # rounding, colour
    assert np.abs((ours - images) @ grey).mean() == pytest.approx(change, rel=0.2, abs=0.3)


def test_lower_quality_changes_more():
    images = pictures().astype(np.float32)
    changes = [
        np.abs(np.asarray(recompression.jpeg(images, np.full(6, q, np.float32))) - images).mean()
        for q in (10, 30, 60, 95)
    ]
    assert changes == sorted(changes, reverse=True)


def test_each_image_has_its_own_quality():
    images = np.repeat(pictures(1), 2, axis=0).astype(np.float32)
    first, second = np.asarray(recompression.jpeg(images, np.array([10, 90], np.float32)))
    assert np.abs(first - images[0]).mean() > 2 * np.abs(second - images[1]).mean()


def test_the_share_of_images_is_saved_and_none_when_predicting():
    layer = recompression.RandomJpeg(0.5, 10, 20, seed=1)
    images = pictures(200).astype(np.float32)
    changed = np.abs(np.asarray(layer(images, training=True)) - images).max(axis=(1, 2, 3)) > 0
    assert 0.35 < changed.mean() < 0.65
    assert np.array_equal(np.asarray(layer(images, training=False)), images)


def test_a_network_with_the_layer_can_be_saved_and_loaded(tmp_path):
    (layer,) = augmentation.layers(seed=5, jpeg=0.5)
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, keras.layers.Flatten()(layer(inputs)))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    (again,) = [one for one in loaded.layers if isinstance(one, recompression.RandomJpeg)]
    assert again.get_config() == layer.get_config()


def test_sides_that_have_no_whole_blocks_are_refused():
    with pytest.raises(ValueError, match="20×20 .* multiples of 16"):
        recompression.RandomJpeg()(np.zeros((1, 20, 20, 3), np.float32), training=True)
