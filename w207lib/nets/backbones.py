"""Networks trained elsewhere, as bodies of recipes: ``keras.applications`` and KerasHub's ViT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from w207lib.machine.devices import quiet_keras
from w207lib.nets.networks import scale

OPTIONS = {
    "weights": None, "frozen": False, "inference_norm": False, "units": 256, "dropout": 0.5,
}  # fmt: skip
"""``weights``: ``imagenet``, a file, or None; ``inference_norm``: batch norm keeps its averages
while the backbone is tuned."""


def transfer(keras, x, *, seed, backbone, weights, frozen, inference_norm, units, dropout):
    """Put dense layers behind a backbone of ``keras.applications``, with its own preprocessing.

    Args:
        keras: The module.
        x: Tensor of pixels in [0, 255], ``(B, H, W, 3)``.
        seed: Of the dropout.
        backbone: As ``find`` takes it.
        weights: ``imagenet``, a file, or None for random ones.
        frozen: Whether the backbone keeps its weights.
        inference_norm: Whether its batch norms keep their statistics, also in training.
        units: Of the dense layer.
        dropout: Share of its outputs that are dropped in training.

    Returns:
        Tensor ``(B, units)``.

    Raises:
        ValueError: There is no such backbone, or no such file of weights.
        ConnectionError: ImageNet's weights cannot be downloaded.
    """
    make = find(backbone)
    x = _preprocess(keras, x, make)
    base = _pretrained(make, weights, tuple(x.shape[1:]))
    base.trainable = not frozen
    layers = keras.layers
    for layer in base.layers if inference_norm else ():
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False  # base(x, training=False) would not outlast fit (Keras 3.15)
    x = layers.GlobalAveragePooling2D()(base(x))
    x = layers.Dense(units, activation="relu")(x)
    x = layers.BatchNormalization()(x)
    return layers.Dropout(dropout, seed=seed)(x)


def find(name: str) -> Callable:
    """Return what builds a backbone of this name; ValueError if it is unknown."""
    if name == "ViTB16":
        return _vit_b16
    applications = quiet_keras().applications
    found = getattr(applications, name, None)
    if not callable(found) or not name[0].isupper():
        known = ["ViTB16", *(n for n in dir(applications) if n[0].isupper())]
        raise ValueError(f"backbone {name!r} is unknown; there are {', '.join(known)}.")
    return found


def _pretrained(make: Callable, weights: str | None, shape: tuple[int, ...]):
    """Build a backbone with the weights asked for, or say why it cannot have them."""
    if weights not in (None, "imagenet") and not Path(weights).is_file():
        raise ValueError(
            f"weights {weights!r}: there is no such file; expected a .weights.h5 or .h5 file, "
            "'imagenet' (downloaded once by Keras), or None for random ones."
        )
    try:
        return make(include_top=False, weights=weights, input_shape=shape)
    except Exception as error:
        if weights != "imagenet" or "fetch" not in str(error):
            raise
        raise ConnectionError(
            f"the ImageNet weights of {make.__name__} could not be downloaded ({error}). Give a "
            "local file by weights=, or weights=None to start from random ones."
        ) from None


def _vit_b16(include_top: bool, weights: str | None, input_shape: tuple[int, ...]):
    """Build KerasHub's ViT-B/16 (Dosovitskiy et al. 2021) as ``keras.applications`` would.

    The patches come as a picture; the class token is dropped.
    """
    quiet_keras()
    try:
        import keras_hub
    except ImportError:
        raise ValueError(
            "backbone ViTB16 is KerasHub's, which is not installed. Run: python make.py setup --vit"
        ) from None
    kind = keras_hub.models.ViTBackbone
    if weights == "imagenet":
        base = kind.from_preset("vit_base_patch16_224_imagenet", image_shape=input_shape)
    else:
        base = kind(
            image_shape=input_shape, patch_size=16, num_layers=12, num_heads=12, hidden_dim=768,
            mlp_dim=3072,
        )  # fmt: skip
        if weights:
            base.load_weights(weights)
    layers = quiet_keras().layers
    inputs = layers.Input(input_shape)
    side = input_shape[0] // 16
    patches = layers.Cropping1D((1, 0))(base(inputs))
    outputs = layers.Reshape((side, side, 768))(patches)
    return quiet_keras().Model(inputs, outputs, name="vitb16")


def _preprocess(keras, x, make: Callable):
    """Apply a backbone family's own preprocessing to pixels in [0, 255]."""
    if make is _vit_b16:
        return scale(keras, x, "[-1, 1]")
    for module in vars(keras.applications).values():
        if hasattr(module, "preprocess_input") and hasattr(module, make.__name__):
            return module.preprocess_input(x)
    return x
