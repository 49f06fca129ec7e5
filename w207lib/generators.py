"""Three small generators of fakes: a quantised autoencoder, a diffusion model, a GAN upsampler.

They exist so that the project can make images whose every step is known. Each is trained on
photographs, then redraws other photographs, so that a fake shows what a photograph shows and
only its fine structure tells it apart:

======================  =======================================================================
``autoencoder``         squeezes a picture through a grid of few-levelled numbers, a quarter
                        as wide and high as the picture, and draws it again from them
``diffusion``           lays a little noise over a picture and takes it off in a few steps
``gan``                 shrinks a picture to half and invents the lost detail, taught by a
                        discriminator that tries to catch it
======================  =======================================================================

All are fully convolutional: trained on crops of one size, they redraw any size whose sides
are multiples of 8. Nothing here sets a global seed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from w207lib.making.generator_parts import Convolutions, draw_batches, fit, require_images

GENERATORS = ("autoencoder", "diffusion", "gan")
MARGIN = 8
"""Pixels mirrored around a picture while it is redrawn; a multiple of 8 too."""


def train(name: str, images: np.ndarray, *, seed: int = 207, **options):
    """Train one generator by its name; ``options`` go to its own function.

    Args:
        name: One of ``GENERATORS``.
        images: uint8 ``(N, H, W, 3)``, photographs' crops; sides multiples of 8.
        seed: Seed of the weights and of the order of the images.
        **options: ``steps``, ``batch_size``, ``width`` and what else the generator's own
            training function takes.

    Returns:
        A Keras model for ``fake``.

    Raises:
        ValueError: The name is unknown, or the images have another shape or type.
    """
    _require_name(name)
    functions: dict[str, Callable] = {
        "autoencoder": train_autoencoder, "diffusion": train_diffusion, "gan": train_gan,
    }  # fmt: skip
    return functions[name](images, seed=seed, **options)


def fake(
    name: str,
    model,
    images: np.ndarray,
    *,
    seed: int = 207,
    noise: float = 0.3,
    denoising_steps: int = 3,
    batch_size: int = 64,
) -> np.ndarray:
    """Let a trained generator redraw photographs.

    Args:
        name: One of ``GENERATORS``; the one that ``model`` was trained as.
        model: What the training function returned.
        images: uint8 ``(N, H, W, 3)``; sides multiples of 8, not of the training's size.
        seed: Seed of the diffusion's noise; the other two draw none.
        noise: Diffusion only: the share of noise in the picture at the start, in (0, 1);
            the square root of one minus DDPM's cumulated alpha.
        denoising_steps: Diffusion only: steps in which the noise is taken off.
        batch_size: Images redrawn at a time.

    Returns:
        uint8 ``(N, H, W, 3)``.

    Raises:
        ValueError: The name is unknown, the images have another shape or type, or a setting
            is out of range.
    """
    _require_name(name)
    images = require_images(images)
    # Mirrored margins: zeros beyond the edge would leave a frame that gives the fake away.
    edge = ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
    source = np.pad(images, edge, "symmetric")
    if name == "diffusion":
        if not 0 < noise < 1 or denoising_steps < 1:
            raise ValueError(
                f"diffusion: noise {noise} and denoising_steps {denoising_steps} came; expected "
                "noise between 0 and 1 and at least one step, such as 0.3 and 3."
            )
        drawn = _denoise(model, source, seed, noise, denoising_steps, batch_size)
    else:
        drawn = source.astype(np.float32)
        drawn = np.clip(_call(model, halve(drawn) if name == "gan" else drawn, batch_size), 0, 255)
    drawn = drawn[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def _call(model, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Apply a model batch by batch, untraced: ``predict`` fails once it has seen several sizes."""
    starts = range(0, len(images), batch_size)
    batches = (images[i : i + batch_size].astype(np.float32) for i in starts)
    return np.concatenate([np.asarray(model(batch, training=False)) for batch in batches])


# Autoencoder -----------------------------------------------------------------------------------


def build_autoencoder(*, seed: int = 207, width: int = 32, channels: int = 12, levels: int = 9):
    """Build the quantised autoencoder, untrained.

    The code has a quarter of the picture's width and height, ``channels`` channels, each rounded
    to ``levels`` values: finite scalar quantisation (Mentzer et al., 2023, arXiv:2309.15505).
    Rounding has no slope, so training passes the gradient straight through it.

    Args:
        seed: Seed of the weights.
        width: Channels of the first convolution; the inner ones have twice as many.
        channels: Numbers at each place of the code.
        levels: Values that each of them can take, at least 2.

    Returns:
        Keras model, float32 ``(B, H, W, 3)`` in [0, 255] to the same, not clipped.

    Raises:
        ValueError: ``levels`` is smaller than 2.
    """
    import keras
    from keras import layers, ops

    if levels < 2:
        raise ValueError(f"autoencoder: levels is {levels}; expected at least 2, such as 9.")
    conv = Convolutions(seed)
    pixels = keras.Input((None, None, 3))
    x = layers.Rescaling(1 / 255)(pixels)  # (B, H, W, 3)
    x = conv(width, 4, strides=2)(x)  # (B, H/2, W/2, width)
    x = conv(2 * width, 4, strides=2)(x)  # (B, H/4, W/4, 2·width)
    x = conv.residual(x, 2 * width)
    half = (levels - 1) / 2
    code = half * ops.tanh(conv(channels, 1, activation=None)(x))  # (B, H/4, W/4, channels)
    code = code + ops.stop_gradient(ops.round(code) - code)
    x = conv(2 * width, 3)(code * (1 / half))
    x = conv.residual(x, 2 * width)
    x = conv.widen(width)(x)  # (B, H/2, W/2, width)
    x = conv.widen(3, activation=None)(x)  # (B, H, W, 3)
    return keras.Model(pixels, layers.Rescaling(255)(x), name="autoencoder")


def train_autoencoder(
    images: np.ndarray,
    *,
    seed: int = 207,
    steps: int = 2000,
    batch_size: int = 16,
    **network,
):
    """Train the quantised autoencoder to redraw photographs (mean absolute error).

    Args:
        images: uint8 ``(N, H, W, 3)``, photographs' crops; sides multiples of 8.
        seed: Seed of the weights and of the order of the images.
        steps: Training steps, of ``batch_size`` images each.
        batch_size: Images a step.
        **network: ``width``, ``channels`` and ``levels`` of ``build_autoencoder``.

    Returns:
        The trained model; see ``build_autoencoder``.

    Raises:
        ValueError: The images have another shape or type, or a setting is out of range.
    """
    images = require_images(images)
    model = build_autoencoder(seed=seed, **network)

    def pair(batch, random):
        return batch, batch

    fit(model, images, pair, steps, batch_size, seed, "mae")
    return model


# Diffusion -------------------------------------------------------------------------------------


def build_diffusion(*, seed: int = 207, width: int = 24):
    """Build the diffusion model's network, untrained: a small U-Net that sees through noise.

    It has ``width`` channels at full size, twice and thrice as many at a half and a quarter.

    Returns:
        Keras model of two inputs, the noisy picture float32 ``(B, H, W, 3)`` around [-1, 1] and
        its share of noise ``(B, 1, 1, 1)`` in (0, 1), to the picture without noise
        ``(B, H, W, 3)`` in [0, 255], not clipped.
    """
    import keras
    from keras import layers

    conv = Convolutions(seed)
    noisy = keras.Input((None, None, 3))
    share = keras.Input((1, 1, 1))

    def level(x, filters):
        x = conv(filters, 3)(x)
        scale = conv(filters, 1, activation=None)(share)  # how noisy it is, for each channel
        return conv(filters, 3)(layers.Add()([x, scale]))

    full = conv(width, 3)(noisy)  # (B, H, W, width)
    half = level(layers.AveragePooling2D(2)(full), 2 * width)  # (B, H/2, W/2, 2·width)
    quarter = level(layers.AveragePooling2D(2)(half), 3 * width)  # (B, H/4, W/4, 3·width)
    x = layers.Concatenate()([conv.widen(2 * width)(quarter), half])
    x = conv.widen(3, activation=None)(level(x, 2 * width))  # (B, H, W, 3)
    x = layers.Add()([x, conv(3, 1, activation=None)(full)])
    return keras.Model([noisy, share], layers.Rescaling(255)(x), name="diffusion")


def train_diffusion(
    images: np.ndarray,
    *,
    seed: int = 207,
    steps: int = 2000,
    batch_size: int = 16,
    width: int = 24,
    most_noise: float = 0.6,
):
    """Train the diffusion model to see through noise laid over photographs (absolute error).

    Like Ho et al. (2020, arXiv:2006.11239), but asked for the picture, not the noise, and with
    the share of noise drawn evenly between 0.02 and ``most_noise`` instead of from a schedule
    of steps: redrawing a picture starts at a small share, so no other has to be learnt.

    Args:
        images: uint8 ``(N, H, W, 3)``, photographs' crops; sides multiples of 8.
        seed: Seed of the weights, of the order of the images and of the noise.
        steps: Training steps, of ``batch_size`` images each.
        batch_size: Images a step.
        width: As for ``build_diffusion``.
        most_noise: Largest share of noise learnt, in (0.02, 1).

    Returns:
        The trained model; see ``build_diffusion``.

    Raises:
        ValueError: The images have another shape or type, or a setting is out of range.
    """
    images = require_images(images)
    if not 0.02 < most_noise < 1:
        raise ValueError(
            f"diffusion: most_noise is {most_noise}; expected a share between 0.02 and 1, "
            "such as 0.6."
        )
    model = build_diffusion(seed=seed, width=width)

    def pair(batch, random):
        share = random.uniform(0.02, most_noise, (len(batch), 1, 1, 1)).astype(np.float32)
        drawn = random.standard_normal(batch.shape).astype(np.float32)
        noisy = np.sqrt(1 - share**2) * (batch / 127.5 - 1) + share * drawn
        return (noisy, share), batch

    fit(model, images, pair, steps, batch_size, seed, "mae")
    return model


def _denoise(model, images, seed, noise, denoising_steps, batch_size) -> np.ndarray:
    """Lay noise over pictures and take it off by DDIM steps (Song et al., arXiv:2010.02502)."""
    random = np.random.default_rng(seed)
    x = images.astype(np.float32) / 127.5 - 1
    drawn = random.standard_normal(x.shape).astype(np.float32)
    x = np.sqrt(1 - noise**2) * x + noise * drawn
    shares = np.linspace(noise, 0, denoising_steps + 1)
    for share, following in zip(shares[:-1], shares[1:], strict=True):
        told = np.full((len(x), 1, 1, 1), share, np.float32)
        seen = model.predict([x, told], batch_size=batch_size, verbose=0)
        clean = np.clip(seen / 127.5 - 1, -1, 1)
        named = (x - np.sqrt(1 - share**2) * clean) / share  # the noise
        x = np.sqrt(1 - following**2) * clean + following * named
    return (x + 1) * 127.5


# GAN -------------------------------------------------------------------------------------------


def halve(images: np.ndarray) -> np.ndarray:
    """Shrink pictures to half, each pixel the mean of four.

    Args:
        images: uint8 or float ``(N, H, W, 3)`` in [0, 255]; even sides.

    Returns:
        float32 ``(N, H/2, W/2, 3)`` in [0, 255].
    """
    n, height, width, bands = images.shape
    cells = images.reshape(n, height // 2, 2, width // 2, 2, bands)
    return cells.mean(axis=(2, 4), dtype=np.float32)


def build_gan(*, seed: int = 207, width: int = 24):
    """Build the upsampler (``width`` channels) and its discriminator, untrained.

    Returns:
        The upsampler, float32 ``(B, H, W, 3)`` in [0, 255] to ``(B, 2H, 2W, 3)``, not clipped;
        and the discriminator, float32 ``(B, H, W, 3)`` in [0, 255] to logits
        ``(B, H/4, W/4, 1)``, one a patch, high for a photograph.
    """
    import keras
    from keras import layers

    conv = Convolutions(seed)
    small = keras.Input((None, None, 3))
    x = conv(width, 3)(layers.Rescaling(1 / 127.5, offset=-1)(small))
    x = conv.residual(x, width)
    x = conv.residual(x, width)
    x = conv(width, 3)(layers.UpSampling2D()(x))
    detail = layers.Rescaling(127.5)(conv(3, 3, activation=None)(x))
    plain = layers.UpSampling2D(interpolation="bilinear")(small)
    upsampler = keras.Model(small, layers.Add()([plain, detail]), name="gan")

    picture = keras.Input((None, None, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(picture)
    x = conv(width // 2, 4, strides=2, activation="leaky_relu")(x)
    x = conv(width, 4, strides=2, activation="leaky_relu")(x)
    x = conv(width, 3, activation="leaky_relu")(x)
    verdict = conv(1, 3, activation=None)(x)
    return upsampler, keras.Model(picture, verdict, name="discriminator")


def train_gan(
    images: np.ndarray,
    *,
    seed: int = 207,
    steps: int = 1000,
    batch_size: int = 16,
    width: int = 24,
    adversarial: float = 0.02,
):
    """Train the upsampler against its discriminator (SRGAN's recipe, arXiv:1609.04802, with L1).

    Args:
        images: uint8 ``(N, H, W, 3)``, photographs' crops; sides multiples of 8.
        seed: Seed of the weights and of the order of the images.
        steps: Training steps, of ``batch_size`` images each, for both networks.
        batch_size: Images a step.
        width: As for ``build_gan``.
        adversarial: Weight of the discriminator's verdict against the mean absolute error
            (of pixels in [0, 1]).

    Returns:
        The trained upsampler; see ``build_gan``.

    Raises:
        ValueError: The images have another shape or type, or a setting is out of range.
    """
    import keras

    images = require_images(images)
    upsampler, discriminator = build_gan(seed=seed, width=width)
    # A copy that never learns lets `train_on_batch` do it all, on every backend.
    judge = keras.models.clone_model(discriminator)
    judge.trainable = False
    both = keras.Model(upsampler.input, [upsampler.output, judge(upsampler.output)])
    verdict = keras.losses.BinaryCrossentropy(from_logits=True)
    weights = [1 / 255, adversarial]
    both.compile(keras.optimizers.Adam(2e-4, beta_1=0.5), ["mae", verdict], weights)
    discriminator.compile(keras.optimizers.Adam(2e-4, beta_1=0.5), verdict)

    def pair(batch, random):
        return halve(batch), batch

    drawn_batches = draw_batches(images, pair, steps, batch_size, seed)
    for step in range(steps):
        small, true = drawn_batches[step]
        drawn = np.asarray(upsampler(small, training=False))
        patches = (len(true), true.shape[1] // 4, true.shape[2] // 4, 1)
        told = np.concatenate([np.full(patches, 0.9), np.zeros(patches)])  # one-sided smoothing
        discriminator.train_on_batch(np.concatenate([true, drawn]), told)
        judge.set_weights(discriminator.get_weights())
        both.train_on_batch(small, [true, np.ones(patches)])
    return upsampler


def _require_name(name: str) -> None:
    if name not in GENERATORS:
        raise ValueError(
            f"generator {name!r} is unknown; there are {', '.join(GENERATORS)}. Choose one."
        )
