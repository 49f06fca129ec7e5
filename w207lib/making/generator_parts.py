"""What the generators share: seeded convolutions, batches, a training loop, checks of images."""

from __future__ import annotations

import numpy as np

MULTIPLE = 8
"""Sides of pictures have to be multiples of this: diffusion models halve them thrice."""


class Convolutions:
    """Makes convolutions, each with its own seed, so that a network needs no global one."""

    def __init__(self, seed: int):
        self.seeds = np.random.default_rng(seed)

    def __call__(self, filters, size, *, strides=1, activation="silu"):
        """Make a convolution that keeps the sides, or divides them by ``strides``."""
        import keras

        start = keras.initializers.HeNormal(seed=int(self.seeds.integers(2**31)))
        return keras.layers.Conv2D(
            filters, size, strides=strides, padding="same", activation=activation,
            kernel_initializer=start,
        )  # fmt: skip

    def widen(self, filters, activation="silu"):
        """Double the sides by a transposed convolution.

        Its kernel of 3 at a stride of 2 covers pixels unevenly and so leaves a faint grid, the
        fingerprint of many generators (Odena et al., 2016, "Deconvolution and checkerboard
        artifacts"). Here that is welcome: it is what a detector can learn.
        """
        import keras

        start = keras.initializers.HeNormal(seed=int(self.seeds.integers(2**31)))
        return keras.layers.Conv2DTranspose(
            filters, 3, strides=2, padding="same", activation=activation, kernel_initializer=start
        )

    def residual(self, x, filters):
        """Add to ``x``, of ``filters`` channels, what two convolutions make of it."""
        import keras

        change = self(filters, 3, activation=None)(self(filters, 3)(x))
        return keras.layers.Add()([x, change])


def draw_batches(images, pair, steps, batch_size, seed):
    """Return ``steps`` batches, each drawn by its own seed: flipped images, through ``pair``.

    Args:
        images: uint8 ``(N, H, W, 3)``.
        pair: Function of a float32 batch and its random generator to what the network
            takes and should give.
        steps: Batches, at least 1.
        batch_size: Images a batch, at least 1.
        seed: Of the draws.

    Raises:
        ValueError: ``steps`` or ``batch_size`` is smaller than 1.
    """
    import keras

    if steps < 1 or batch_size < 1:
        raise ValueError(
            f"training: steps {steps} and batch_size {batch_size} came; expected at least 1 each."
        )

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return steps

        def __getitem__(self, step):
            random = np.random.default_rng([seed, step])
            batch = images[random.integers(len(images), size=batch_size)].astype(np.float32)
            flipped = random.random(batch_size) < 0.5
            batch[flipped] = batch[flipped, :, ::-1]
            return pair(batch, random)

    return Batches()


def fit(model, images, pair, steps, batch_size, seed, loss, *, average=False):
    """Train with Adam, its rate falling from 0.001 to zero along a cosine.

    Args:
        model: A Keras model; it is compiled and trained in place.
        images: As for ``draw_batches``, like the four that follow.
        pair: What makes inputs and targets of a batch.
        steps: How many batches.
        batch_size: Images in each.
        seed: Seed of the batches.
        loss: Keras's name of a loss, or a function.
        average: Whether the weights end as their moving average over some thousand steps.
    """
    import keras

    drawn = draw_batches(images, pair, steps, batch_size, seed)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    adam = keras.optimizers.Adam(rate, use_ema=average, ema_momentum=0.999)
    model.compile(adam, loss=loss)
    model.fit(drawn, epochs=1, shuffle=False, verbose=0)


def require_images(images) -> np.ndarray:
    """Return images as an array; ValueError unless uint8 ``(N, H, W, 3)``, sides of eights."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise ValueError(
            f"generators: images of {images.dtype} {images.shape} came; expected uint8 "
            "(N, H, W, 3), N ≥ 1. Read them with w207lib.reading.images.read_image and stack them."
        )
    height, width = images.shape[1:3]
    if height % MULTIPLE or width % MULTIPLE or not height or not width:
        raise ValueError(
            f"generators: images of {height}×{width} pixels came; expected sides that are "
            f"multiples of {MULTIPLE}. Crop or resize them first."
        )
    return images
