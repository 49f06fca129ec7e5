"""Pieces of larger pictures: the whole one first, scaled down only, the same by seed."""

import numpy as np
import pytest

from w207lib.reading import crops, images


@pytest.fixture
def photograph():
    ramp = np.linspace(0, 255, 96)
    channels = [np.add.outer(ramp[:64] / 2, ramp / 2), np.add.outer(ramp[:64], 0 * ramp)]
    return np.stack([*channels, channels[0][:, ::-1]], axis=-1).astype(np.uint8)


def test_the_first_piece_is_what_a_detector_sees_of_the_whole(photograph):
    pieces = crops.cut(photograph, 32, 5, seed=1)
    assert pieces.shape == (5, 32, 32, 3)
    assert np.array_equal(pieces[0], images.resize(photograph, 32))


def test_pieces_differ_and_hang_on_the_seed_alone(photograph):
    pieces = crops.cut(photograph, 32, 6, seed=[1, 2])
    assert len({piece.tobytes() for piece in pieces}) == 6
    assert np.array_equal(pieces, crops.cut(photograph, 32, 6, seed=[1, 2]))
    assert not np.array_equal(pieces[1:], crops.cut(photograph, 32, 6, seed=[1, 3])[1:])


def test_pieces_show_parts_between_their_own_size_and_the_shorter_side(photograph):
    spans = [np.ptp(p[..., 1].astype(int)) for p in crops.cut(photograph, 32, 60, seed=4)[1:]]
    whole = np.ptp(photograph[..., 1].astype(int))
    assert min(spans) > 0.3 * whole  # half of the rows, less what filters and JPEG blur
    assert max(spans) > 0.9 * whole


def test_a_picture_that_would_have_to_grow_is_refused(photograph):
    with pytest.raises(ValueError, match="96×64 pixels.*at least 80"):
        crops.cut(photograph, 80, 2, seed=1)
