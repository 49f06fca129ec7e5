import numpy as np
import pytest

from w207lib.auditing import faults, resampling


@pytest.fixture(scope="module")
def large():
    return faults.power_law(60, 192, seed=11)


@pytest.mark.parametrize("name", resampling.FAMILIES)
@pytest.mark.parametrize("quality", [None, 80])
def test_the_family_of_a_known_filter_is_recognised(large, name, quality):
    scaled = [
        resampling._jpeg(resampling.scale(p, 48, name), quality, "4:2:0" if quality else "")
        for p in large
    ]
    table = resampling.fit(np.stack(scaled), quality=quality, subsampling="4:2:0")
    assert table["family"][0] == resampling.FAMILIES[name]
    assert table["distance"].is_monotonic_increasing and len(table) == len(resampling.FAMILIES)
    assert table["distance"][0] < resampling.FAR


def test_a_spectrum_of_one_over_f_lies_on_its_line(large):
    curve = resampling.curve(resampling.patches([p[:64, :64] for p in large]))
    assert curve["frequency"].between(0.2, 0.5).all()
    assert curve["distance"].abs().max() < 0.12


def test_patches_are_the_middle_at_the_smallest_side():
    pictures = [np.zeros((40, 60, 3), np.uint8), np.zeros((31, 200, 3), np.uint8)]
    pictures[0][20, 30] = 9
    cut = resampling.patches(pictures)
    assert cut.shape == (2, 30, 30, 3)
    assert cut[0, 15, 15, 0] == 9
    assert resampling.patches([np.zeros((500, 400, 3), np.uint8)]).shape[1] == resampling.LARGEST


@pytest.mark.parametrize("name", resampling.FAMILIES)
def test_scaling_gives_the_side_asked_for_and_keeps_a_flat_picture(name):
    flat = np.full((60, 80, 3), 77, np.uint8)
    scaled = resampling.scale(flat, 24, name)
    assert scaled.shape == (24, 24, 3) and (scaled == 77).all()


def test_the_nearest_pixel_folds_a_pattern_that_smooth_filters_remove():
    chessboard = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    chessboard = np.repeat(chessboard[..., None], 3, axis=2)
    contrast = {n: resampling.scale(chessboard, 24, n).std() for n in ("nearest", "bicubic")}
    assert contrast["nearest"] > 100 > 40 > contrast["bicubic"]


def test_an_unknown_filter_is_named():
    with pytest.raises(ValueError, match="'cubic' came; expected one of none"):
        resampling.scale(np.zeros((8, 8, 3), np.uint8), 4, "cubic")


def test_too_small_patches_are_refused():
    with pytest.raises(ValueError, match="patches of 16 pixels came; expected at least 24"):
        resampling.fit(np.zeros((2, 16, 16, 3), np.uint8), quality=None)
