"""Generators from noise: shapes, seeds, errors, and that training does something."""

import numpy as np
import pytest

from w207lib.making import inventing


@pytest.fixture(scope="module")
def photographs():
    """Sixteen 16 × 16 pictures: a bright disc on a dark ground, at various places."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    centres = random.uniform(4, 12, (16, 2))
    discs = [np.hypot(y - a, x - b) < 4 for a, b in centres]
    return np.stack([np.where(d[..., None], (220, 160, 90), (30, 40, 60)) for d in discs]).astype(
        np.uint8
    )


@pytest.fixture(scope="module")
def ddpm(photographs):
    return inventing.train_ddpm(photographs, steps=250, batch_size=8, width=8)


@pytest.fixture(scope="module")
def dcgan(photographs):
    return inventing.train_dcgan(photographs, steps=2, batch_size=8, width=4)


def test_diffusion_invents_pictures_by_its_seed(ddpm):
    first = inventing.sample_ddpm(ddpm, 5, 16, seed=1, steps=3, batch_size=2)
    assert first.shape == (5, 16, 16, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, inventing.sample_ddpm(ddpm, 5, 16, seed=1, steps=3, batch_size=2))
    other = inventing.sample_ddpm(ddpm, 5, 16, seed=2, steps=3, batch_size=2)
    assert not np.array_equal(first, other)


def test_redrawing_stays_nearer_to_the_originals_the_less_noise_there_was(ddpm, photographs):
    def distance(share):
        drawn = inventing.sample_ddpm(
            ddpm, 16, 16, steps=4, start=photographs, most_noise=share, seed=3
        )
        return np.abs(drawn.astype(int) - photographs).mean()

    assert distance(0.1) < distance(0.6) < distance(0.95)


def test_training_teaches_the_diffusion_what_pictures_are_like(ddpm, photographs):
    untrained = inventing.build_ddpm(width=8)

    def error(model):
        random = np.random.default_rng(1)
        noise = random.standard_normal(photographs.shape).astype(np.float32)
        share = np.full((16, 1, 1, 1), 0.6, np.float32)
        picture = photographs / np.float32(127.5) - 1
        velocity = np.asarray(model([0.8 * picture + 0.6 * noise, share], training=False))
        return np.abs(velocity - (0.8 * noise - 0.6 * picture)).mean()

    assert error(ddpm) < 0.8 * error(untrained)


def test_fresh_noise_gives_other_pictures_from_the_same_start(ddpm):
    same, fresh = (
        inventing.sample_ddpm(ddpm, 3, 16, seed=5, steps=4, fresh_noise=share) for share in (0, 1)
    )
    assert not np.array_equal(same, fresh)


def test_a_step_without_error_ends_at_the_picture():
    """A network that knows the answer, by the definition of the velocity."""
    picture = np.full((2, 8, 8, 3), 0.25, np.float32)

    def knows(inputs, training):
        x, share = inputs
        rest = np.sqrt(1 - share**2)
        noise = (x - rest * picture) / share
        return rest * noise - share * picture

    for fresh in (0.0, 0.5, 1.0):
        drawn = inventing.sample_ddpm(knows, 2, 8, steps=5, fresh_noise=fresh)
        assert np.abs(drawn - (0.25 + 1) * 127.5).max() <= 1


def test_the_gan_invents_pictures_by_its_seed(dcgan, photographs):
    first = inventing.sample_dcgan(dcgan, 7, seed=1, batch_size=4)
    assert first.shape == (7, 16, 16, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, inventing.sample_dcgan(dcgan, 7, seed=1, batch_size=4))
    assert not np.array_equal(first, inventing.sample_dcgan(dcgan, 7, seed=2))


def test_training_moves_the_gan_towards_the_colours_of_its_photographs(dcgan, photographs):
    trained = inventing.train_dcgan(photographs, steps=40, batch_size=8, width=8)
    mean = photographs.mean((0, 1, 2))

    def distance(model):
        return np.abs(inventing.sample_dcgan(model, 32).mean((0, 1, 2)) - mean).mean()

    assert distance(trained) < distance(dcgan)


@pytest.mark.parametrize("train", [inventing.train_ddpm, inventing.train_dcgan])
def test_the_same_seed_trains_the_same_generator(train, photographs):
    options = {"steps": 2, "batch_size": 4, "width": 4}
    first, again = (train(photographs, seed=1, **options).get_weights() for _ in range(2))
    assert all(np.abs(a - b).mean() < 1e-5 for a, b in zip(first, again, strict=True))


def test_another_seed_gives_other_weights():
    for build in (inventing.build_ddpm, lambda **options: inventing.build_dcgan(**options)[0]):
        first, other = (build(seed=seed, width=4).get_weights() for seed in (1, 2))
        assert any(not np.allclose(a, b, atol=1e-3) for a, b in zip(first, other, strict=True))


def test_wrong_settings_are_refused(ddpm, photographs):
    with pytest.raises(ValueError, match="uint8"):
        inventing.train_ddpm(photographs.astype(float), steps=1)
    with pytest.raises(ValueError, match="multiples of 8"):
        inventing.train_dcgan(photographs[:, :12, :12], steps=1)
    with pytest.raises(ValueError, match="most_noise 1"):
        inventing.sample_ddpm(ddpm, 1, 16, most_noise=1)
    with pytest.raises(ValueError, match="steps 0"):
        inventing.sample_ddpm(ddpm, 1, 16, steps=0)
    with pytest.raises(ValueError, match="start has shape"):
        inventing.sample_ddpm(ddpm, 3, 16, start=photographs)
