"""What recipes put between their scaled pixels and their head: layers, one network a function.

Each takes the Keras module, a tensor ``(B, H, W, C)``, a seed and the options of its recipe, and
returns a tensor ``(B, N)``.
"""

from __future__ import annotations


def scale(keras, x, scaling: str):
    """Scale pixels in [0, 255] to ``[0, 1]``, to ``[-1, 1]``, or not (``none``).

    Raises:
        ValueError: ``scaling`` is none of these.
    """
    if scaling == "[0, 1]":
        return keras.layers.Rescaling(1 / 255)(x)
    if scaling == "[-1, 1]":
        return keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    if scaling == "none":
        return x
    raise ValueError(f"scaling {scaling!r} is unknown; expected '[0, 1]', '[-1, 1]' or 'none'.")


def w207_simple(keras, x, *, seed, filters, kernel_size, pool_size, units_1, units_2):
    """Report 0: one convolution and two dense layers."""
    layers = keras.layers
    x = layers.Conv2D(filters, kernel_size, activation="relu")(x)
    x = layers.MaxPooling2D(pool_size)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(units_1, activation="relu")(x)
    return layers.Dense(units_2, activation="relu")(x)


def w207_tuned(
    keras, x, *, seed, filters_1, kernel_size_1, filters_2, kernel_size_2, pool_size,
    dense_layer_units,
):  # fmt: skip
    """Report 0: two convolutions of any width, as its search tried them."""
    layers = keras.layers
    x = layers.Conv2D(filters_1, kernel_size_1, activation="relu")(x)
    x = layers.MaxPooling2D(pool_size)(x)
    x = layers.Conv2D(filters_2, kernel_size_2, activation="relu")(x)
    x = layers.MaxPooling2D(pool_size)(x)
    x = layers.Flatten()(x)
    return layers.Dense(dense_layer_units, activation="relu")(x)


def deep_vgg(keras, x, *, seed, kernel_size, dropout):
    """Report 1: four blocks of convolutions after VGG, and two wide dense layers."""
    layers = keras.layers
    for filters, depth in ((64, 2), (128, 2), (256, 3), (512, 3)):
        for _ in range(depth):
            x = layers.Conv2D(filters, kernel_size, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
        x = layers.BatchNormalization()(x)
        x = layers.Dropout(dropout, seed=seed)(x)
    x = layers.Flatten()(x)
    for units in (4000, 1500):
        x = layers.Dense(units, activation="relu")(x)
    return x


def plain_blocks(keras, x, *, seed, filters, units, padding, dropout):
    """Reports 2 and 4, the CIFAKE paper: convolution and pooling by turns, then a dense layer."""
    layers = keras.layers
    for count in filters:
        x = layers.Conv2D(count, 3, padding=padding, activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(units, activation="relu")(x)
    return layers.Dropout(dropout, seed=seed)(x) if dropout else x


def custom_cnn(keras, x, *, seed, dropout):
    """Report 3: three blocks with batch norm, then a dense layer."""
    layers = keras.layers
    for filters in (32, 64, 128):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(256, activation="relu")(x)
    x = layers.BatchNormalization()(x)
    return layers.Dropout(dropout, seed=seed)(x)


def compact(keras, x, *, seed, filters):
    """Ours: convolutions by pairs, pooled before they are normed."""
    layers = keras.layers

    def finish(x):
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    def convolve(x, count):
        return layers.Conv2D(count, 3, padding="same", use_bias=False)(x)

    x = layers.Conv2D(filters[0], 3, padding="same", activation="relu")(x)
    for count in filters:
        x = layers.MaxPooling2D(2)(convolve(x, count))  # before the norm, which has less to do
        x = finish(convolve(finish(x), count))
    return layers.GlobalAveragePooling2D(name="embedding")(x)
