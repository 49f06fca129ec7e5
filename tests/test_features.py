import numpy as np
import pytest
from PIL import Image

from w207lib import features

RNG = np.random.default_rng(1)


def test_grey_is_pillows_luma():
    pixels = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    assert np.array_equal(features.grey(pixels), np.asarray(Image.fromarray(pixels).convert("L")))
    extremes = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    assert features.grey(extremes).tolist() == [[0, 255]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (3, 5), (17, 23)])
@pytest.mark.parametrize("levels", [(0, 256), (40, 44), (0, 2)])
def test_the_eight_statistics_are_numpys(shape, levels):
    pixels = RNG.integers(*levels, (*shape, 3), np.uint8)
    grey = np.asarray(Image.fromarray(pixels).convert("L"), float)
    lower, upper = np.quantile(grey, [0.25, 0.75])
    expected = {
        "mean": grey.mean(), "median": np.median(grey), "standard_deviation": grey.std(),
        "minimum": grey.min(), "maximum": grey.max(),
        "max_over_min": (grey.max() + 1) / (grey.min() + 1), "range": np.ptp(grey),
        "interquartile_range": upper - lower,
    }  # fmt: skip
    assert features.statistics(pixels) == pytest.approx(expected)
    assert tuple(features.statistics(pixels)) == features.STATISTICS


def test_a_black_pixel_does_not_make_a_statistic_infinite():
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0] = 255
    assert features.statistics(pixels)["max_over_min"] == 256


def test_many_histograms_are_measured_as_each_image_is():
    images = RNG.integers(0, 256, (5, 6, 7, 3), np.uint8)
    images[0] = 9
    counts = np.array([Image.fromarray(image).convert("L").histogram() for image in images])
    alone = [list(features.statistics(image).values()) for image in images]
    assert np.array_equal(features.histogram_statistics(counts), alone)


def wave(size, across, down=0):
    y, x = np.mgrid[:size, :size]
    levels = np.rint(127.5 + 100 * np.cos(2 * np.pi * (across * x + down * y) / size))
    return np.repeat(levels.astype(np.uint8)[None, :, :, None], 3, axis=3)


@pytest.mark.parametrize(("across", "down"), [(8, 0), (0, 5), (6, 8), (20, 0)])
def test_the_spectrum_of_a_wave_peaks_at_its_frequency_and_at_its_mirror(across, down):
    spectrum = features.log_spectrum(wave(64, across, down))
    peaks = np.argwhere(spectrum >= spectrum.max() - 1e-6) - 32
    assert {tuple(p) for p in peaks.tolist()} == {(down, across), (-down, -across)}


@pytest.mark.parametrize(("down", "across"), [(0, 10), (6, 8), (-8, 6), (-10, 0), (7, -7)])
def test_the_radial_profile_has_each_frequency_in_its_ring_in_cycles_per_pixel(down, across):
    spectrum = np.zeros((64, 64))
    spectrum[32 + down, 32 + across] = 1
    profile = features.radial_profile(spectrum)
    assert profile["frequency"].iloc[[0, -1]].tolist() == [0, 0.5]
    assert profile.loc[profile["power"] > 0, "frequency"].tolist() == [10 / 64]


def test_the_radial_profile_is_a_mean_over_rings():
    assert features.radial_profile(np.full((32, 32), 3.5))["power"].tolist() == [3.5] * 17


def test_spectra_are_averaged_over_images_and_brightness_does_not_count():
    one, other = wave(32, 4), wave(32, 0, 9)
    both = features.log_spectrum(np.concatenate([one, other]))
    mean = (features.log_spectrum(one) + features.log_spectrum(other)) / 2
    assert np.allclose(both, mean)
    assert np.allclose(features.log_spectrum(np.full((3, 16, 16, 3), 200, np.uint8)), 0)


def test_spectra_of_many_images_are_those_of_each_part(monkeypatch):
    images = RNG.integers(0, 256, (513, 8, 8, 3), np.uint8)
    parts = [features.log_spectrum(images[:512]) * 512, features.log_spectrum(images[512:])]
    assert np.allclose(features.log_spectrum(images), sum(parts) / 513)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (2, 8, 6, 3), (8, 8, 3)])
def test_spectra_need_square_images(shape):
    with pytest.raises(ValueError, match="expected .N, S, S, 3."):
        features.log_spectrum(np.zeros(shape, np.uint8))


def test_a_band_keeps_its_own_waves_and_the_mean_and_drops_all_others():
    slow, fast = wave(40, 2), wave(40, 0, 12)  # 0.05 and 0.3 cycles per pixel
    both = ((slow.astype(int) + fast) // 2).astype(np.uint8)
    low = features.band_filter(both, *features.BANDS["low"])
    middle = features.band_filter(both, *features.BANDS["middle"])
    high = features.band_filter(both, *features.BANDS["high"])
    assert np.abs(low.astype(int) - (slow.astype(int) + 127) // 2).max() <= 2
    assert np.abs(high.astype(int) - (fast.astype(int) + 127) // 2).max() <= 2
    assert np.ptp(middle) <= 2
    assert low.dtype == np.uint8
    for made in (low, middle, high):
        assert made.mean() == pytest.approx(both.mean(), abs=0.6)


@pytest.mark.parametrize("shape", [(3, 16, 16, 3), (2, 9, 14, 3)])
def test_the_bands_together_are_the_image(shape):
    images = RNG.integers(90, 160, shape, np.uint8)
    mean = images.mean(axis=(1, 2), keepdims=True)
    parts = [features.band_filter(images, *limits) - mean for limits in features.BANDS.values()]
    assert np.abs(sum(parts) + mean - images).max() <= 2
    assert np.array_equal(features.band_filter(images, 0, 0.75), images)


def test_colours_are_filtered_by_themselves_and_frequencies_count_in_every_direction():
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[..., 0] = wave(32, 6, 6)[..., 0]  # 0.265 cycles per pixel along the diagonal
    image[..., 1] = 77
    kept = features.band_filter(image, 0.25, 0.75)
    assert np.abs(kept.astype(int) - image).max() <= 1
    gone = features.band_filter(image, 0.0, 0.25)
    assert np.ptp(gone[..., 0]) <= 2 and (gone[..., 1] == 77).all() and not gone[..., 2].any()


def test_a_band_does_not_hold_its_upper_limit():
    image = wave(32, 8)  # 0.25 cycles per pixel
    assert np.ptp(features.band_filter(image, 0.1, 0.25)) <= 2
    assert np.ptp(features.band_filter(image, 0.25, 0.5)) > 190


def test_many_images_are_filtered_as_each_is():
    images = RNG.integers(0, 256, (513, 8, 8, 3), np.uint8)
    last = features.band_filter(images[-1:], 0.1, 0.25)
    assert np.array_equal(features.band_filter(images, 0.1, 0.25)[-1:], last)


@pytest.mark.parametrize("limits", [(-0.1, 0.2), (0.2, 0.2), (0.3, 0.1)])
def test_a_band_must_hold_something(limits):
    with pytest.raises(ValueError, match="expected 0 ≤ low < high"):
        features.band_filter(np.zeros((1, 8, 8, 3), np.uint8), *limits)


@pytest.mark.parametrize("images", [np.zeros((1, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)])
def test_a_band_is_of_uint8_images(images):
    with pytest.raises(ValueError, match="expected uint8"):
        features.band_filter(images, 0, 0.1)
