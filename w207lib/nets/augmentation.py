"""Random changes of training images, as layers of the model: off when it predicts."""

from __future__ import annotations

from w207lib.machine.devices import quiet_keras

DEFAULTS = {
    "rotation": 0.05, "horizontal_flip": True, "vertical_flip": True, "brightness": 0.1,
    "contrast": 0.1, "shear": 0.1, "zoom": 0.1, "shift": 0.1,
}  # fmt: skip
"""Every change that the five reports used, at a moderate strength."""
NAMES = (*DEFAULTS, "blur", "jpeg", "jitter", "erase")
"""In the order in which they are applied; new ones come last, since a place is a seed."""
BLUR = (0.01, 1.0)
"""Least and most standard deviation of a blur, in pixels: about what halving and doubling does."""
ERASED = (0.05, 0.2)
"""Least and most share of an image's area that is erased."""
QUALITIES = (40, 95)
"""Lowest and highest quality of images that are saved as JPEG again."""


def layers(seed: int | None = None, **strengths) -> list:
    """Make augmentation layers for images in [0, 255].

    Args:
        seed: Seed of the random draws; each layer draws by itself.
        **strengths: ``rotation`` (share of a full turn), ``horizontal_flip``,
            ``vertical_flip`` (True or False), ``brightness``, ``contrast`` (shares of their
            range), ``shear``, ``zoom``, ``shift`` (shares of the side). What is not named is
            left out. ``jitter`` shifts as ``shift`` does, but by whole pixels, which keeps their
            finest detail; ``erase`` is the share of images of which a part turns grey, by
            ``ERASED`` (random erasing, Zhong et al. 2020). ``blur`` is twice the share of
            images that are blurred, by ``BLUR``: Keras draws each image's chance between 0 and
            it. ``jpeg`` is the share of images that are saved again, at a quality of
            ``QUALITIES``.

    Returns:
        Keras layers, in the order of ``NAMES``.

    Raises:
        ValueError: A name is unknown or a strength is outside [0, 1].
    """
    for name, value in strengths.items():
        if name not in NAMES:
            raise ValueError(f"augmentation {name!r} is unknown; there are {', '.join(NAMES)}.")
        if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
            raise ValueError(
                f"augmentation {name} has strength {value!r}; expected a share between 0 and 1, "
                "or True or False for a flip."
            )
    kinds = quiet_keras().layers
    span = (0, 255)
    makers = {
        "rotation": lambda s, seed: kinds.RandomRotation(s, fill_mode="reflect", seed=seed),
        "horizontal_flip": lambda s, seed: kinds.RandomFlip("horizontal", seed=seed),
        "vertical_flip": lambda s, seed: kinds.RandomFlip("vertical", seed=seed),
        "brightness": lambda s, seed: kinds.RandomBrightness(s, value_range=span, seed=seed),
        "contrast": lambda s, seed: kinds.RandomContrast(s, value_range=span, seed=seed),
        # a pair, because Keras 3.15 cannot load what it saves of a single number; it draws the
        # direction by itself
        "shear": lambda s, seed: kinds.RandomShear(
            (0.0, s), (0.0, s), fill_mode="reflect", seed=seed
        ),
        "zoom": lambda s, seed: kinds.RandomZoom((-s, s), fill_mode="reflect", seed=seed),
        "shift": lambda s, seed: kinds.RandomTranslation(s, s, fill_mode="reflect", seed=seed),
        "jitter": lambda s, seed: kinds.RandomTranslation(
            s, s, fill_mode="reflect", interpolation="nearest", seed=seed
        ),
        "erase": lambda s, seed: kinds.RandomErasing(
            (s, s), scale=ERASED, fill_value=127.5, value_range=span, seed=seed
        ),
        "blur": lambda s, seed: kinds.RandomGaussianBlur(
            factor=s, kernel_size=3, sigma=BLUR, value_range=span, seed=seed
        ),
        "jpeg": _random_jpeg,
    }
    return [
        makers[name](strengths[name], None if seed is None else seed + place)
        for place, name in enumerate(NAMES)  # with one seed both flips would always coincide
        if strengths.get(name)
    ]


def _random_jpeg(share, seed):
    from w207lib.nets.recompression import RandomJpeg

    return RandomJpeg(share, *QUALITIES, seed=seed)
