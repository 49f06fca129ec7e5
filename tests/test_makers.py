import pytest

from w207lib.making import makers


@pytest.mark.parametrize(
    ("generator", "family"),
    [("gan", "GAN"), ("dcgan", "GAN"), ("ddpm", "diffusion"), ("midjourney", "midjourney"),
     ("stable_diffusion_1.4", "stable_diffusion"), ("stable_diffusion_1", "stable_diffusion")],
)  # fmt: skip
def test_versions_of_one_generator_are_one_family(generator, family):
    assert makers.family(generator) == family
