import numpy as np
import pytest
from scipy.stats import spearmanr

from w207lib.metrics import maps

pytestmark = pytest.mark.filterwarnings("error")
RNG = np.random.default_rng(5)


def test_similarity_is_spearmans_correlation_of_each_pair_with_ties():
    first, second = RNG.integers(0, 9, (2, 6, 7, 5)).astype(float)
    expected = [spearmanr(a.ravel(), b.ravel())[0] for a, b in zip(first, second, strict=True)]
    assert maps.similarity(first, second) == pytest.approx(np.array(expected))
    assert maps.similarity(first, np.exp(first)) == pytest.approx(1)
    assert maps.similarity(first, -first) == pytest.approx(-1)


def test_a_map_of_one_value_orders_nothing():
    found = maps.similarity(np.zeros((2, 4, 4)), RNG.random((2, 4, 4)))
    assert found.shape == (2,) and np.isnan(found).all()


@pytest.mark.parametrize("shapes", [((2, 4, 4), (2, 4, 5)), ((4, 4), (4, 4))])
def test_similarity_needs_maps_of_the_same_images(shapes):
    with pytest.raises(ValueError, match=r"expected \(B, H, W\) twice"):
        maps.similarity(*map(np.zeros, shapes))


def test_a_planted_texture_is_in_its_box_and_nowhere_else():
    images = RNG.integers(60, 190, (40, 16, 16, 3), np.uint8)
    before = images.copy()
    planted, boxes = maps.plant_patch(images, seed=1, side=4, contrast=50)
    assert np.array_equal(images, before) and planted.dtype == np.uint8
    assert boxes.min() >= 0 and boxes.max() == 16
    assert len(np.unique(boxes, axis=0)) > 20
    for image, old, (top, left, bottom, right) in zip(planted, images, boxes, strict=True):
        change = image.astype(int) - old
        inside = change[top:bottom, left:right].copy()
        change[top:bottom, left:right] = 0
        assert inside.shape == (4, 4, 3) and not change.any()
        assert inside[0, 0].tolist() == [50] * 3 and inside[0, 1].tolist() == [-50] * 3
        assert np.abs(inside).min() == 50 and inside.sum() == 0


def test_the_seed_decides_the_places_and_colours_stay_in_their_range():
    images = np.full((9, 16, 16, 3), 250, np.uint8)
    first, places = maps.plant_patch(images, seed=1)
    again, same = maps.plant_patch(images, seed=1)
    assert np.array_equal(first, again) and np.array_equal(places, same)
    assert not np.array_equal(places, maps.plant_patch(images, seed=2)[1])
    assert first.max() == 255 and first.min() == 202


@pytest.mark.parametrize("side", [0, 17])
def test_a_texture_has_to_fit(side):
    with pytest.raises(ValueError, match=f"side {side} came; expected 1 to 16"):
        maps.plant_patch(np.zeros((1, 16, 16, 3), np.uint8), seed=0, side=side)


def test_a_hit_is_a_highest_point_within_the_box():
    drawn = np.zeros((4, 20, 20))
    boxes = np.array([[5, 8, 9, 12]] * 4)
    drawn[0, 5, 8] = drawn[1, 8, 11] = 1  # first and last place that count
    drawn[2, 9, 11] = 1
    drawn[3, 8, 12] = 1
    rate, (low, high) = maps.hit_rate(drawn, boxes)
    assert rate == 0.5 and 0 < low < 0.5 < high < 1
    assert maps.hit_rate(drawn[:2], boxes[:2])[0] == 1
    assert maps.hit_rate(drawn[2:], boxes[2:])[0] == 0


def test_smoothing_prefers_a_region_to_a_single_pixel():
    drawn = np.zeros((1, 20, 20))
    drawn[0, 15, 15], drawn[0, 3:7, 3:7] = 1.0, 0.8
    box = np.array([[3, 3, 7, 7]])
    assert maps.hit_rate(drawn, box)[0] == 1
    assert maps.hit_rate(drawn, box, smoothing=0)[0] == 0


def test_an_empty_map_misses_even_a_box_in_the_first_corner():
    assert maps.hit_rate(np.zeros((1, 8, 8)), np.array([[0, 0, 4, 4]]))[0] == 0


def test_noise_hits_as_often_as_chance():
    images = np.zeros((3000, 16, 16, 3), np.uint8)
    _, boxes = maps.plant_patch(images, seed=3, side=6)
    low, high = maps.hit_rate(RNG.random((3000, 16, 16)), boxes, smoothing=0)[1]
    assert low - 0.02 < (6 / 16) ** 2 < high + 0.02


def test_maps_and_boxes_must_be_as_many():
    with pytest.raises(ValueError, match=r"expected \(N, H, W\) and \(N, 4\)"):
        maps.hit_rate(np.zeros((2, 4, 4)), np.zeros((3, 4)))


def test_mean_maps_weigh_every_image_alike():
    drawn = np.array([[[2.0, 0.0]], [[0.0, 500.0]], [[-4.0, 2.0]], [[0.0, 0.0]]])
    found = maps.mean_by_class(drawn, np.array([[0], [0], [1], [1]]))
    assert list(found) == ["REAL", "FAKE"]
    assert found["REAL"].tolist() == [[0.5, 0.5]]
    assert found["FAKE"].tolist() == [[-0.5, 0.25]]
    assert list(maps.mean_by_class(drawn, np.ones(4))) == ["FAKE"]
    whole = maps.mean_by_class(drawn.astype(int), np.array([0, 0, 1, 1]))
    assert whole["FAKE"].tolist() == [[-0.5, 0.25]]
