"""Generators that need no picture to start from: a diffusion model and a GAN, from noise alone.

``w207lib.generators`` redraws photographs. These two invent pictures, as the generators do that
a detector meets outside: ``ddpm`` takes pure noise off in a few steps, ``dcgan`` turns a hundred
numbers into a picture in one. Trained for minutes on small photographs, they paint textures and
rough shapes; what matters here is how their pixels are made.
"""

from __future__ import annotations

import numpy as np

from w207lib.making.generator_parts import Convolutions, draw_batches, fit, require_images

LATENT = 100
"""Numbers from which ``dcgan`` makes a picture."""
MOST_NOISE = 0.995
"""Share of noise at which ``ddpm`` starts a picture of its own."""


# Diffusion -------------------------------------------------------------------------------------


def build_ddpm(*, seed: int = 207, width: int = 32):
    """Build the diffusion model's network, untrained: a U-Net of four sizes without attention.

    It names the velocity ``√(1-s²)·noise - s·picture`` (Salimans & Ho 2022, arXiv:2202.00512),
    which has the same size at every share of noise s.

    Args:
        seed: Seed of the weights.
        width: Channels at full size; twice, three and four times as many at smaller ones.

    Returns:
        Keras model of two inputs, the noisy picture float32 ``(B, H, W, 3)`` around [-1, 1] and
        its share of noise ``(B, 1, 1, 1)`` in (0, 1), to the velocity, of the picture's shape.
    """
    import keras
    from keras import layers, ops

    conv = Convolutions(seed)
    noisy = keras.Input((None, None, 3))
    share = keras.Input((1, 1, 1))
    told = layers.Concatenate()([share, ops.sqrt(1 - share**2), ops.log(share) / 4])
    told = conv(2 * width, 1)(conv(2 * width, 1)(told))

    def level(x, filters):
        x = layers.Add()([conv(filters, 3)(x), conv(filters, 1, activation=None)(told)])
        return conv(filters, 3)(x)

    skips = []
    x = noisy
    for times in (1, 2, 3):
        x = level(x, times * width)
        skips.append(x)
        x = layers.AveragePooling2D(2)(x)
    x = conv.residual(level(x, 4 * width), 4 * width)  # (B, H/8, W/8, 4·width)
    for times in (3, 2, 1):
        x = conv(times * width, 3)(layers.UpSampling2D()(x))
        x = level(layers.Concatenate()([x, skips.pop()]), times * width)
    return keras.Model([noisy, share], conv(3, 3, activation=None)(x), name="ddpm")


def train_ddpm(
    images: np.ndarray, *, seed: int = 207, steps: int = 6000, batch_size: int = 32,
    width: int = 32,
):  # fmt: skip
    """Train the diffusion model (Ho et al. 2020, arXiv:2006.11239; mean squared error).

    Args:
        images: uint8 ``(N, H, W, 3)``, photographs; sides multiples of 8.
        seed: Seed of the weights, of the order of the images and of the noise.
        steps: Training steps, of ``batch_size`` images each.
        batch_size: Images a step.
        width: As for ``build_ddpm``.

    Returns:
        The trained network, its weights averaged over the last thousand steps or so.

    Raises:
        ValueError: The images have another shape or type, or a setting is out of range.
    """
    images = require_images(images)
    model = build_ddpm(seed=seed, width=width)

    def pair(batch, random):
        angle = random.uniform(0.02, np.arcsin(MOST_NOISE), (len(batch), 1, 1, 1))
        share, rest = np.sin(angle).astype(np.float32), np.cos(angle).astype(np.float32)
        picture = batch / 127.5 - 1
        noise = random.standard_normal(batch.shape).astype(np.float32)
        return (rest * picture + share * noise, share), rest * noise - share * picture

    fit(model, images, pair, steps, batch_size, seed, "mse", average=steps > 3000)
    return model


def sample_ddpm(
    model, count: int, size: int, *, seed: int = 207, steps: int = 16, fresh_noise: float = 0.0,
    start: np.ndarray | None = None, most_noise: float = MOST_NOISE, batch_size: int = 128,
) -> np.ndarray:  # fmt: skip
    """Let the diffusion model invent pictures, or redraw some from a share of noise on.

    Args:
        model: From ``train_ddpm``.
        count: Pictures.
        size: Their side, in pixels; a multiple of 8.
        seed: Seed of the noise.
        steps: Steps in which the noise is taken off.
        fresh_noise: 0 takes the same noise off all the way (DDIM, Song et al. 2020,
            arXiv:2010.02502); 1 lays new noise over it at every step (DDPM).
        start: uint8 ``(count, size, size, 3)``: pictures to redraw; None to invent.
        most_noise: Share of noise to start at, in (0, 1).
        batch_size: Pictures at a time.

    Returns:
        uint8 ``(count, size, size, 3)``.

    Raises:
        ValueError: A setting is out of range, or ``start`` has another shape.
    """
    if not 0 < most_noise < 1 or steps < 1 or not 0 <= fresh_noise <= 1:
        raise ValueError(
            f"ddpm: most_noise {most_noise}, steps {steps} and fresh_noise {fresh_noise} came; "
            "expected shares between 0 and 1 and at least one step, such as 0.995, 16 and 0."
        )
    shape = (count, size, size, 3)
    if start is not None and require_images(start).shape != shape:
        raise ValueError(f"ddpm: start has shape {start.shape}; expected {shape}.")
    random = np.random.default_rng(seed)
    angles = np.linspace(np.arcsin(most_noise), 0, steps + 1)
    drawn = np.empty(shape, np.uint8)
    for first in range(0, count, batch_size):
        part = slice(first, min(first + batch_size, count))
        x = random.standard_normal((part.stop - first, *shape[1:])).astype(np.float32)
        if start is not None:
            x = np.cos(angles[0]) * (start[part] / 127.5 - 1) + np.sin(angles[0]) * x
        for angle, following in zip(angles[:-1], angles[1:], strict=True):
            x = _step(model, x.astype(np.float32), angle, following, fresh_noise, random)
        drawn[part] = np.clip(np.rint((x + 1) * 127.5), 0, 255)
    return drawn


def _step(model, x, angle, following, fresh_noise, random) -> np.ndarray:
    """Go from one share of noise, the sine of ``angle``, to the next."""
    told = np.full((len(x), 1, 1, 1), np.sin(angle), np.float32)
    velocity = np.asarray(model([x, told], training=False))
    picture = np.clip(np.cos(angle) * x - np.sin(angle) * velocity, -1, 1)
    noise = (x - np.cos(angle) * picture) / np.sin(angle)
    kept = np.cos(angle) / np.cos(following)
    new = fresh_noise * np.sin(following) / np.sin(angle) * np.sqrt(1 - kept**2)
    x = np.cos(following) * picture + np.sqrt(np.sin(following) ** 2 - new**2) * noise
    return x + new * random.standard_normal(x.shape)


# GAN -------------------------------------------------------------------------------------------


def build_dcgan(*, seed: int = 207, size: int = 32, width: int = 48):
    """Build generator and discriminator, untrained (Radford et al. 2016, arXiv:1511.06434).

    Args:
        seed: Seed of the weights.
        size: Side of the pictures, in pixels; a multiple of 8.
        width: Channels of the generator's last hidden layer; the earlier have up to four
            times as many.

    Returns:
        The generator, float32 ``(B, LATENT)`` to ``(B, size, size, 3)`` in [0, 255]; and the
        discriminator, from such a picture to a logit ``(B, 1)``, high for a photograph.
    """
    import keras
    from keras import layers

    conv = Convolutions(seed)

    def start():
        return keras.initializers.RandomNormal(0, 0.02, seed=int(conv.seeds.integers(2**31)))

    side = size // 8
    numbers = keras.Input((LATENT,))
    x = layers.Dense(side * side * 4 * width, use_bias=False, kernel_initializer=start())(numbers)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Reshape((side, side, 4 * width))(x)))
    for times in (2, 1):
        x = layers.Conv2DTranspose(
            times * width, 4, strides=2, padding="same", use_bias=False,
            kernel_initializer=start(),
        )(x)  # fmt: skip
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2DTranspose(
        3, 4, strides=2, padding="same", activation="tanh", kernel_initializer=start()
    )(x)
    generator = keras.Model(numbers, layers.Rescaling(127.5, offset=127.5)(x), name="dcgan")

    picture = keras.Input((size, size, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(picture)
    for times in (1, 2, 4):
        x = layers.Conv2D(
            times * width, 4, strides=2, padding="same", kernel_initializer=start()
        )(x)  # fmt: skip
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    x = layers.Dropout(0.3, seed=seed)(layers.Flatten()(x))
    verdict = layers.Dense(1, kernel_initializer=start())(x)
    return generator, keras.Model(picture, verdict, name="discriminator")


def train_dcgan(
    images: np.ndarray, *, seed: int = 207, steps: int = 6000, batch_size: int = 64,
    width: int = 48,
):  # fmt: skip
    """Train the GAN from noise (non-saturating loss, one-sided label smoothing).

    Args:
        images: uint8 ``(N, S, S, 3)``, photographs; S a multiple of 8.
        seed: Seed of the weights, of the order of the images and of the noise.
        steps: Training steps of both networks, of ``batch_size`` images each.
        batch_size: Images a step.
        width: As for ``build_dcgan``.

    Returns:
        The trained generator.

    Raises:
        ValueError: The images have another shape or type, or a setting is out of range.
    """
    import keras

    images = require_images(images)
    generator, discriminator = build_dcgan(seed=seed, size=images.shape[1], width=width)
    judge = keras.models.clone_model(discriminator)  # a copy that never learns
    judge.trainable = False
    both = keras.Model(generator.input, judge(generator.output))
    verdict = keras.losses.BinaryCrossentropy(from_logits=True)
    both.compile(keras.optimizers.Adam(2e-4, beta_1=0.5), verdict)
    discriminator.compile(keras.optimizers.Adam(2e-4, beta_1=0.5), verdict)

    def pair(batch, random):
        return random.standard_normal((2, len(batch), LATENT)).astype(np.float32), batch

    drawn = draw_batches(images, pair, steps, batch_size, seed)
    told = np.concatenate([np.full((batch_size, 1), 0.9), np.zeros((batch_size, 1))])
    for step in range(steps):
        (first, second), true = drawn[step]
        fakes = np.asarray(generator(first, training=True))
        discriminator.train_on_batch(np.concatenate([true, fakes]), told)
        judge.set_weights(discriminator.get_weights())
        both.train_on_batch(second, np.ones((batch_size, 1)))
    return generator


def sample_dcgan(model, count: int, *, seed: int = 207, batch_size: int = 256) -> np.ndarray:
    """Let the GAN invent pictures.

    Args:
        model: From ``train_dcgan``.
        count: Pictures.
        seed: Seed of the numbers they are made from.
        batch_size: Pictures at a time.

    Returns:
        uint8 ``(count, S, S, 3)``.
    """
    random = np.random.default_rng(seed)
    numbers = random.standard_normal((count, LATENT)).astype(np.float32)
    pixels = model.predict(numbers, batch_size=batch_size, verbose=0)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
