import io

import numpy as np
import pytest
from PIL import Image

from w207lib import perturb

RNG = np.random.default_rng(8)
NOISE = RNG.integers(0, 256, (24, 32, 3), np.uint8)
SMOOTH = np.linspace(60, 190, 32).astype(np.uint8)[None, :, None] * np.ones((24, 1, 3), np.uint8)
EVERY = (*perturb.CONDITIONS, *perturb.SOCIAL)


def roughness(pixels):
    return np.abs(np.diff(pixels.astype(float), axis=1)).mean()


# --- any condition -----------------------------------------------------------------------


@pytest.mark.parametrize("condition", EVERY)
def test_every_standard_change_keeps_size_and_type_and_leaves_the_original(condition):
    before = NOISE.copy()
    changed = perturb.apply(NOISE, condition)
    assert changed.shape == NOISE.shape and changed.dtype == np.uint8
    assert np.array_equal(NOISE, before)
    assert np.array_equal(changed, NOISE) == (condition == "png")


@pytest.mark.parametrize("condition", EVERY)
def test_a_batch_is_its_images_one_by_one(condition):
    batch = RNG.integers(0, 256, (3, 9, 8, 3), np.uint8)
    together = perturb.apply(batch, condition, seed=3)
    assert together.shape == batch.shape
    for image, changed in zip(batch, together, strict=True):
        assert np.array_equal(changed, perturb.apply(image, condition, seed=3))


@pytest.mark.parametrize("condition", ["clean", "png", "resize:1", "crop:1", "brightness:1",
                                       "contrast:1", "noise:0"])  # fmt: skip
def test_what_changes_nothing_changes_nothing(condition):
    assert np.array_equal(perturb.apply(NOISE, condition), NOISE)


def test_no_image_is_a_batch_too():
    assert perturb.apply(np.empty((0, 8, 8, 3), np.uint8), "jpeg:50").shape == (0, 8, 8, 3)


@pytest.mark.parametrize("pixels", [NOISE.astype(float), NOISE[..., 0], NOISE[..., :2]])
def test_pixels_of_another_kind_are_refused(pixels):
    with pytest.raises(ValueError, match=r"came; expected uint8 \(H, W, 3\)"):
        perturb.apply(pixels, "clean")


# --- each family -------------------------------------------------------------------------


def test_jpeg_is_pillows_at_that_quality():
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, "JPEG", quality=40)
    expected = np.asarray(Image.open(file).convert("RGB"))
    assert np.array_equal(perturb.apply(NOISE, "jpeg:40"), expected)


@pytest.mark.parametrize("family", [["jpeg:95", "jpeg:50", "jpeg:10"],
                                    ["noise:2", "noise:8", "noise:16"],
                                    ["resize:0.75", "resize:0.5", "resize:0.25"],
                                    ["blur:0.5", "blur:1", "blur:2"]])  # fmt: skip
def test_the_stronger_the_further_from_the_image(family):
    image = NOISE if not family[0].startswith("noise") else SMOOTH
    far = [np.abs(perturb.apply(image, c).astype(float) - image).mean() for c in family]
    assert 0 < far[0] < far[1] < far[2]


@pytest.mark.parametrize("family", perturb.FAMILIES.values(), ids=perturb.FAMILIES)
def test_a_familys_strengths_go_away_from_what_changes_nothing(family):
    first, last = family.strengths[0], family.strengths[-1]
    if family.neutral is not None and first < family.neutral < last:
        assert not family.falling, "it changes in both directions"
        return
    if family.neutral is not None:
        assert (first < family.neutral) == family.falling
    assert sorted(family.strengths, reverse=family.falling) == list(family.strengths)


def test_down_and_up_again_and_blur_take_fine_detail_away():
    for condition in ("resize:0.5", "blur:1"):
        assert roughness(perturb.apply(NOISE, condition)) < 0.6 * roughness(NOISE)


def test_a_blurred_point_is_the_gaussian():
    point = np.zeros((33, 33, 3), np.uint8)
    point[16, 16, 0] = 255
    distance = np.arange(-3, 4)
    bell = np.exp(-(distance**2) / 2 / 1.5**2) / (1.5 * np.sqrt(2 * np.pi))
    found = perturb.apply(point, "blur:1.5")
    assert found[16, 13:20, 0] == pytest.approx(255 * bell * bell[3], abs=1)
    assert not found[..., 1:].any()


def test_noise_has_the_deviation_asked_for_and_no_bias():
    grey = np.full((200, 200, 3), 128, np.uint8)
    added = perturb.apply(grey, "noise:8").astype(float) - 128
    assert added.std() == pytest.approx(8, rel=0.02)
    assert abs(added.mean()) < 0.15


def test_noise_depends_on_seed_and_image_but_not_on_place():
    images = RNG.integers(100, 150, (3, 8, 8, 3), np.uint8)
    noisy = perturb.apply(images, "noise:8", seed=1)
    assert np.array_equal(noisy[::-1], perturb.apply(images[::-1], "noise:8", seed=1))
    assert not np.array_equal(noisy, perturb.apply(images, "noise:8", seed=2))
    added = noisy.astype(int) - images
    assert not np.array_equal(added[0], added[1])


def test_noise_does_not_run_over():
    white = np.full((50, 50, 3), 255, np.uint8)
    assert perturb.apply(white, "noise:16").min() > 150


def test_brightness_multiplies_and_contrast_spreads_about_the_mean():
    assert perturb.apply(SMOOTH, "brightness:1.2") == pytest.approx(SMOOTH * 1.2, abs=1)
    mean = round(SMOOTH.mean())
    expected = mean + 0.8 * (SMOOTH - float(mean))
    assert perturb.apply(SMOOTH, "contrast:0.8") == pytest.approx(expected, abs=1.5)


def test_a_crop_keeps_the_middle():
    left, right = perturb.apply(SMOOTH, "crop:0.8")[12, [0, -1], 0].astype(int)
    middle = SMOOTH[12, 15:17, 0].astype(int).mean()
    span = int(SMOOTH[12, -1, 0]) - int(SMOOTH[12, 0, 0])
    assert right - left == pytest.approx(0.8 * span, abs=4)
    assert (left + right) / 2 == pytest.approx(middle, abs=2)


def test_steps_are_done_from_left_to_right():
    first = perturb.apply(perturb.apply(NOISE, "resize:0.5"), "jpeg:75")
    assert np.array_equal(perturb.apply(NOISE, "resize:0.5+jpeg:75"), first)
    assert not np.array_equal(perturb.apply(NOISE, "jpeg:75+resize:0.5"), first)


# --- reading a condition -----------------------------------------------------------------


def test_a_condition_is_read():
    assert perturb.parse("clean") == ()
    assert perturb.parse("jpeg:75") == (("jpeg", 75),)
    assert perturb.parse("resize:0.5+jpeg:75") == (("resize", 0.5), ("jpeg", 75))
    ((name, strength),) = perturb.parse("png")
    assert name == "png" and np.isnan(strength)


def test_the_standard_set_has_each_condition_once():
    assert len(set(EVERY)) == len(EVERY)
    assert {perturb.parse(c)[0][0] for c in perturb.CONDITIONS} == {"png", *perturb.FAMILIES}
    assert all(len(perturb.parse(c)) == 2 for c in perturb.SOCIAL)


@pytest.mark.parametrize("condition", ["sharpen:2", "", "JPEG:75", "jpeg:75+", "clean+jpeg:75",
                                       "png:3", "pgd:2"])  # fmt: skip
def test_an_unknown_condition_is_refused_and_told_what_there_is(condition):
    with pytest.raises(ValueError, match=r"unknown; there are clean, png, and jpeg:<quality>"):
        perturb.apply(NOISE, condition)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("jpeg", "strength 'none'; expected quality, a whole number from 1 to 100, such as jpeg:"),
        ("jpeg:0", "from 1 to 100"), ("jpeg:75.5", "whole"), ("jpeg:good", "'good'"),
        ("resize:0", "from 0.01 to 1"), ("resize:2", "from 0.01 to 1"), ("noise:-1", "from 0 to"),
        ("blur:nan", "pixels"), ("noise:inf", "grey levels"), ("crop:1.2", "from 0.1 to 1"),
    ],
)  # fmt: skip
def test_a_strength_out_of_range_is_refused(condition, expected):
    with pytest.raises(ValueError, match=expected):
        perturb.parse(condition)
