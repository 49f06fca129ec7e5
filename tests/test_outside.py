import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from w207lib.metrics import outside


def textures(count, seed, *, size=16, sigma=1.0):
    """Return smoothed noise, uint8 (count, size, size, 3): one kind of texture."""
    noise = np.random.default_rng(seed).normal(size=(count, size, size, 3))
    smooth = gaussian_filter(noise, (0, sigma, sigma, 0), mode="wrap")
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def fitted():
    return outside.fit(textures(600, 1), textures(300, 2), flagged=0.1)


def test_an_image_is_described_by_eighteen_finite_numbers():
    images = np.stack([np.zeros((16, 16, 3), np.uint8), *textures(2, 3)])
    rows = outside.measure(images)
    assert rows.shape == (3, 18) and rows.dtype == np.float64 and np.isfinite(rows).all()
    assert rows[0] == pytest.approx([np.log(0.05)] * 3 + [0] * 15)


def test_finer_texture_has_more_power_in_the_highest_band_and_changes_more_in_a_jpeg():
    fine, coarse = (outside.measure(textures(50, 4, sigma=s)).mean(axis=0) for s in (0.5, 2))
    assert fine[7] > coarse[7] + 1 and fine[0] > coarse[0] + 0.5


def test_the_distance_is_mahalanobis():
    images = textures(400, 5)
    model = outside.fit(images, images)
    rows = outside.measure(images)
    inverse = np.linalg.inv(np.cov(rows.T))
    apart = rows - rows.mean(axis=0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", apart, inverse, apart))
    assert outside.distance(images, model) == pytest.approx(expected, rel=1e-2)


def test_at_the_mean_the_distance_is_nought(fitted):
    (image,) = textures(1, 6)
    model = fitted | {"mean": outside.measure(image[None])[0].tolist()}
    assert outside.distance(image[None], model) == pytest.approx([0], abs=1e-9)


@pytest.mark.parametrize("flagged", [0.02, 0.1, 0.3])
def test_the_share_asked_for_is_flagged_of_the_held_out_and_about_it_of_others(flagged):
    held_out = textures(500, 2)
    model = outside.fit(textures(800, 1), held_out, flagged=flagged)
    assert (outside.distance(held_out, model) > model["limit"]).mean() == pytest.approx(
        flagged, abs=0.004
    )
    others = outside.distance(textures(500, 7), model) > model["limit"]
    assert others.mean() == pytest.approx(flagged, abs=0.06)


def test_another_texture_is_flagged(fitted):
    for sigma in (0.3, 2.5):
        assert (outside.distance(textures(50, 8, sigma=sigma), fitted) > fitted["limit"]).all()


def test_a_model_survives_its_card(fitted):
    import json

    assert json.loads(json.dumps(fitted)) == fitted
    assert np.shape(fitted["whitening"]) == (18, 18) and len(fitted["mean"]) == 18


def test_of_no_images_there_are_no_distances(fitted):
    assert outside.distance(np.empty((0, 16, 16, 3), np.uint8), fitted).shape == (0,)


@pytest.mark.parametrize(
    ("width", "height", "far"),
    [(32, 32, False), (64, 64, False), (16, 16, False), (64, 16, False), (65, 32, True),
     (32, 65, True), (15, 32, True), (32, 15, True), (640, 480, True), (1, 1, True)],
)  # fmt: skip
def test_up_to_twice_and_down_to_half_the_side_is_inside(width, height, far):
    assert outside.scaled_too_far(width, height, 32) is far


def test_what_storing_did_shows_though_the_pixels_hardly_differ(fitted):
    """JPEG at quality 75 with halved chroma, as all of CIFAKE was stored."""
    raw = textures(200, 9, size=32)
    stored = []
    for image in raw:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=75, subsampling=2)
        stored.append(np.asarray(Image.open(buffer).convert("RGB")))
    model = outside.fit(np.stack(stored[:150]), np.stack(stored[150:]), flagged=0.1)
    assert (outside.distance(raw, model) > model["limit"]).all()
