"""Saving as JPEG as a Keras layer: a random change of training images, on every backend.

Imported only where a network is built or loaded, because a layer's class needs Keras.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99), (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)  # fmt: skip
"""The tables of ITU-T T.81, annex K, which the IJG library scales by quality."""
TO_YCC = ((0.299, -0.168736, 0.5), (0.587, -0.331264, -0.418688), (0.114, 0.5, -0.081312))
FROM_YCC = ((1.0, 1.0, 1.0), (0.0, -0.344136, 1.772), (1.402, -0.714136, 0.0))
"""JFIF's conversion of colours, as right factors of a row of channels."""


@keras.saving.register_keras_serializable("w207lib")
class RandomJpeg(keras.layers.Layer):
    """Saves some of the images of a batch as JPEG while training, each at a quality of its own.

    Colour is halved (4:2:0) as most encoders do; what is left out is the rounding to whole
    levels at the end. Sides must be multiples of 16.

    Args:
        share: Share of the images that are saved, in [0, 1].
        low: Lowest quality drawn, at least 1.
        high: Highest, at most 100.
        seed: Seed of the draws.
    """

    def __init__(self, share=0.5, low=40, high=95, seed=None, **options):
        super().__init__(**({"dtype": "float32"} | options))
        self.share, self.low, self.high, self.seed = share, low, high, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        """Take and give float ``(B, H, W, 3)`` in [0, 255].

        Raises:
            ValueError: A side is no multiple of 16.
        """
        if images.shape[1] % 16 or images.shape[2] % 16:
            raise ValueError(
                f"jpeg: images of {images.shape[1]}×{images.shape[2]} pixels came; expected sides "
                "that are multiples of 16. Leave jpeg out of the augmentation, or resize."
            )
        if not training:
            return images
        count = ops.shape(images)[0]
        draw = keras.random.uniform((2, count), seed=self.seed_generator)
        saved = jpeg(images, self.low + (self.high - self.low) * draw[0])
        return ops.where(ops.reshape(draw[1] < self.share, (-1, 1, 1, 1)), saved, images)

    def get_config(self):
        """Return what the layer is made from."""
        own = {"share": self.share, "low": self.low, "high": self.high, "seed": self.seed}
        return super().get_config() | own


def jpeg(images, quality):
    """Quantise images as the IJG library's JPEG does, colour at half the size.

    Args:
        images: float32 ``(B, H, W, 3)`` in [0, 255]; H and W multiples of 16.
        quality: float32 ``(B,)``, 1 to 100.

    Returns:
        float32 ``(B, H, W, 3)`` in [0, 255], not rounded.
    """
    factor = ops.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
    levels = ops.matmul(images, np.array(TO_YCC, np.float32))  # (B, H, W, 3)
    grey = _quantise(levels[..., :1] - 128, LUMINANCE, factor) + 128
    colour = ops.average_pool(levels[..., 1:], 2, 2)  # (B, H/2, W/2, 2)
    colour = _quantise(colour, CHROMINANCE, factor)
    colour = ops.repeat(ops.repeat(colour, 2, axis=1), 2, axis=2)
    levels = ops.concatenate([grey, colour], axis=-1)
    return ops.clip(ops.matmul(levels, np.array(FROM_YCC, np.float32)), 0, 255)


def _quantise(levels, table, factor):
    """Round the cosine coefficients of each 8 × 8 block to multiples of a scaled table."""
    _, height, width, bands = levels.shape
    place, wave = np.arange(8), np.arange(8)[:, None]
    cosine = np.sqrt(np.where(wave == 0, 1, 2) / 8) * np.cos((2 * place + 1) * wave * np.pi / 16)
    cosine = cosine.astype(np.float32)
    blocks = ops.reshape(levels, (-1, height // 8, 8, width // 8, 8, bands))
    found = ops.einsum("ui,bhiwjc,vj->bhwuvc", cosine, blocks, cosine)
    found = ops.reshape(found, (-1, height * width // 64, 64, bands))
    steps = np.array(table, np.float32).reshape(1, 64) * ops.reshape(factor, (-1, 1))
    steps = ops.reshape(ops.clip(ops.floor(steps + 0.5), 1, 255), (-1, 1, 64, 1))
    kept = ops.round(found / steps) * steps
    kept = ops.reshape(kept, (-1, height // 8, width // 8, 8, 8, bands))
    blocks = ops.einsum("ui,bhwuvc,vj->bhiwjc", cosine, kept, cosine)
    return ops.reshape(blocks, (-1, height, width, bands))
