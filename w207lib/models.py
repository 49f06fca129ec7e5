"""The reports' networks as named recipes. Every model takes raw pixels in [0, 255].

A recipe is built by ``build`` and compiled by ``compile_model``. Scaling, preprocessing and
augmentation are layers, so a saved model needs nothing beside it. Only ``keras`` is imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from w207lib import augmentation
from w207lib.devices import quiet_keras


@dataclass(frozen=True)
class Recipe:
    """A network of a report.

    Attributes:
        body: Adds the layers behind the scaled input; takes the Keras module, a tensor and
            the recipe's options, and returns a tensor.
        image_size: The report's own input side, in pixels.
        head: ``sigmoid`` (one column, P(FAKE)) or ``softmax`` (two columns, REAL and FAKE).
        optimizer: ``adam``, ``sgd`` or ``muon`` (``optimizers.ConvMuon``).
        learning_rate: The report's own.
        report: Where it comes from.
        scaling: What the pixels are scaled to: ``[0, 1]``, ``[-1, 1]``, or ``none``.
        augment: Its own strengths for ``augmentation.layers`` when it is trained.
        schedule: ``constant`` learning rate, or ``cosine``: falling to zero over the training.
        options: What ``body`` may be told, with its defaults.
        residual: Whether it sees the residual of its input too; see ``build``.
        mirror: Whether its detector averages the log odds of an image and of its mirror image.
        pace: Fields of a profile, such as ``epochs``, that ``w207 train`` takes for it unless
            told otherwise.
        assumed: What the report does not say and was chosen here.
    """

    body: Callable
    image_size: int
    head: str
    learning_rate: float
    report: str
    optimizer: str = "adam"
    scaling: str = "[0, 1]"
    schedule: str = "constant"
    augment: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    residual: bool = False
    mirror: bool = False
    pace: dict = field(default_factory=dict)
    assumed: str = ""


def build(
    recipe: str,
    image_size: int | None = None,
    *,
    scaling: str | None = None,
    augment: dict | None = None,
    residual: bool | None = None,
    seed: int | None = None,
    **options,
):
    """Build an uncompiled network.

    Args:
        recipe: One of ``RECIPES``, or ``transfer:<Backbone>`` with the name of any
            ``keras.applications`` backbone, or ``ViTB16`` (KerasHub's, an extra).
        image_size: Side of the square input, in pixels; None for the report's own.
        scaling: ``[0, 1]`` or ``[-1, 1]`` instead of the recipe's own.
        augment: Strengths for ``augmentation.layers``; None for no augmentation.
        residual: Whether the network also sees, as three further channels, what the mean of
            each pixel's neighbourhood does not foretell; None for the recipe's own. Not for
            backbones.
        seed: Seed of augmentation and dropout.
        **options: The recipe's own options, such as ``filters_1``.

    Returns:
        A ``keras.Model`` from float32 ``(B, S, S, 3)`` in [0, 255] to float32 ``(B, 1)``
        P(FAKE), or ``(B, 2)`` where its head is a softmax.

    Raises:
        ValueError: The recipe or an option is unknown, or the input is too small for it.
    """
    spec = find(recipe)
    for name in options:
        if name not in spec.options:
            raise ValueError(
                f"recipe {recipe} has no option {name!r}; it has "
                f"{', '.join(spec.options) or 'none'}."
            )
    keras = quiet_keras()
    size = spec.image_size if image_size is None else image_size
    inputs = keras.Input((size, size, 3), name="pixels")
    x = inputs
    for layer in augmentation.layers(seed, **(augment or {})):
        x = layer(x)
    x = _scale(keras, x, scaling or spec.scaling)
    if spec.residual if residual is None else residual:
        if spec.body is _transfer:
            raise ValueError(f"{recipe}: residual adds channels, and a backbone has three.")
        smooth = keras.layers.AveragePooling2D(3, strides=1, padding="same")(x)
        rest = keras.layers.Rescaling(4.0)(keras.layers.Subtract()([x, smooth]))
        x = keras.layers.Concatenate()([x, rest])
    try:
        x = spec.body(keras, x, seed=seed, **(spec.options | options))
    except ValueError as error:
        if "negative" not in str(error).lower() and "Computed output size" not in str(error):
            raise
        raise ValueError(
            f"recipe {recipe} cannot take images of {size}×{size} pixels with "
            f"{options or 'its own options'}: a layer would have no pixel left. "
            f"Give a larger image_size (its report's own is {spec.image_size})."
        ) from None
    units = 1 if spec.head == "sigmoid" else 2
    outputs = keras.layers.Dense(units, activation=spec.head, dtype="float32", name="score")(x)
    return keras.Model(inputs, outputs, name=recipe.replace(":", "_").lower())


def compile_model(
    model, recipe: str, *, learning_rate: float | None = None, optimizer: str | None = None,
    steps: int | None = None, accumulate: int = 1,
):  # fmt: skip
    """Compile a network as its report trained it; return it.

    Args:
        model: From ``build``.
        recipe: Its recipe.
        learning_rate: Instead of the report's own.
        optimizer: ``adam``, ``sgd`` or ``muon``, instead of the report's own.
        steps: Batches of the whole training, over which a ``cosine`` recipe lowers its learning
            rate; None keeps it constant.
        accumulate: Micro-batches whose mean gradient makes one update of the weights. Each
            update has the learning rate that it would have had with whole batches.
    """
    keras = quiet_keras()
    spec = find(recipe)
    rate = learning_rate or spec.learning_rate
    if spec.schedule == "cosine" and steps:
        rate = _cosine(keras, rate, steps, accumulate)
    optimizer = optimizer or spec.optimizer
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer {optimizer!r} is unknown; there are {', '.join(OPTIMIZERS)}.")
    losses = {"sigmoid": "binary_crossentropy", "softmax": "sparse_categorical_crossentropy"}
    accuracies = {"sigmoid": "binary_accuracy", "softmax": "sparse_categorical_accuracy"}
    metric = keras.metrics.get(accuracies[spec.head])
    metric.name = "accuracy"
    model.compile(
        optimizer=OPTIMIZERS[optimizer](
            keras, rate, gradient_accumulation_steps=accumulate if accumulate > 1 else None
        ),
        loss=losses[spec.head],
        metrics=[metric],
    )
    return model


def _muon(keras, rate, **options):
    from w207lib.optimizers import ConvMuon

    return ConvMuon(
        rate, weight_decay=0.01, adam_weight_decay=0.01, exclude_layers=["score"], **options
    )


OPTIMIZERS: dict[str, Callable] = {
    "adam": lambda keras, rate, **options: keras.optimizers.Adam(rate, **options),
    "sgd": lambda keras, rate, **options: keras.optimizers.SGD(rate, **options),
    "muon": _muon,
}


def _cosine(keras, rate: float, steps: int, accumulate: int):
    """Make a learning rate that rises for a twentieth of the steps, then falls to zero.

    Keras asks for it by micro-batch, and uses what it hears at the last of each update: number
    ``accumulate × update + accumulate - 1``. All numbers are moved so that this one is right.
    """
    rising, first, late = steps // 20, rate / 10, accumulate - 1
    if late:
        first -= (rate - first) * late / (accumulate * max(rising, 1))
    return keras.optimizers.schedules.CosineDecay(
        first, accumulate * (steps - rising), warmup_target=rate,
        warmup_steps=accumulate * rising + late,
    )  # fmt: skip


def find(recipe: str) -> Recipe:
    """Return a recipe by name; ValueError if it is unknown."""
    if recipe in RECIPES:
        return RECIPES[recipe]
    kind, _, backbone = recipe.partition(":")
    if kind == "transfer" and backbone:
        _backbone_class(backbone)
        return Recipe(
            _transfer, 224, "sigmoid", 1e-4, "transfer learning", scaling="none",
            options=_TRANSFER_OPTIONS | {"backbone": backbone},
        )  # fmt: skip
    raise ValueError(
        f"recipe {recipe!r} is unknown; there are {', '.join(RECIPES)}, and transfer:<Backbone> "
        "with a backbone of keras.applications, such as transfer:ResNet50."
    )


def describe(model) -> list[dict]:
    """List a model's layers, nested ones by their outer name.

    Returns:
        Dicts with ``name``, ``kind`` (class), ``output_shape`` (without the batch axis),
        ``parameters`` and ``trainable`` parameters.
    """
    rows = []
    for layer in model.layers:
        trainable = sum(_size(weight) for weight in layer.trainable_weights)
        output = getattr(layer, "output", None)
        rows.append(
            {
                "name": layer.name,
                "kind": type(layer).__name__,
                "output_shape": tuple(output.shape[1:]) if hasattr(output, "shape") else (),
                "parameters": layer.count_params(),
                "trainable": trainable,
            }  # fmt: skip
        )
    return rows


def parameter_counts(model) -> dict[str, int]:
    """Count a model's own weights: ``total``, ``trainable``, ``frozen``.

    An optimizer's slots are no parameters of the model, and are not in here.
    """
    trainable = sum(_size(weight) for weight in model.trainable_weights)
    frozen = sum(_size(weight) for weight in model.non_trainable_weights)
    return {"total": trainable + frozen, "trainable": trainable, "frozen": frozen}


def _size(weight) -> int:
    return math.prod(int(length) for length in weight.shape)


def _scale(keras, x, scaling: str):
    if scaling == "[0, 1]":
        return keras.layers.Rescaling(1 / 255)(x)
    if scaling == "[-1, 1]":
        return keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    if scaling == "none":
        return x
    raise ValueError(f"scaling {scaling!r} is unknown; expected '[0, 1]', '[-1, 1]' or 'none'.")


def _w207_simple(keras, x, *, seed, filters, kernel_size, pool_size, units_1, units_2):
    layers = keras.layers
    x = layers.Conv2D(filters, kernel_size, activation="relu")(x)
    x = layers.MaxPooling2D(pool_size)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(units_1, activation="relu")(x)
    return layers.Dense(units_2, activation="relu")(x)


def _w207_tuned(
    keras, x, *, seed, filters_1, kernel_size_1, filters_2, kernel_size_2, pool_size,
    dense_layer_units,
):  # fmt: skip
    layers = keras.layers
    x = layers.Conv2D(filters_1, kernel_size_1, activation="relu")(x)
    x = layers.MaxPooling2D(pool_size)(x)
    x = layers.Conv2D(filters_2, kernel_size_2, activation="relu")(x)
    x = layers.MaxPooling2D(pool_size)(x)
    x = layers.Flatten()(x)
    return layers.Dense(dense_layer_units, activation="relu")(x)


def _deep_vgg(keras, x, *, seed, kernel_size, dropout):
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


def _plain_blocks(keras, x, *, seed, filters, units, padding, dropout):
    layers = keras.layers
    for count in filters:
        x = layers.Conv2D(count, 3, padding=padding, activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(units, activation="relu")(x)
    return layers.Dropout(dropout, seed=seed)(x) if dropout else x


def _custom_cnn(keras, x, *, seed, dropout):
    layers = keras.layers
    for filters in (32, 64, 128):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(256, activation="relu")(x)
    x = layers.BatchNormalization()(x)
    return layers.Dropout(dropout, seed=seed)(x)


def _transfer(keras, x, *, seed, backbone, weights, frozen, inference_norm, units, dropout):
    make = _backbone_class(backbone)
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


def _compact(keras, x, *, seed, filters):
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


def _residual(keras, x, *, seed, filters, dropout):
    layers = keras.layers

    def convolve(x, count, stride=1):
        x = layers.Conv2D(count, 3, strides=stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    x = layers.ReLU()(convolve(x, filters[0]))
    for place, count in enumerate(filters):
        stride = 1 if place == 0 else 2
        shortcut = x
        if stride > 1:
            shortcut = layers.AveragePooling2D(2)(x)
            shortcut = layers.Conv2D(count, 1, use_bias=False)(shortcut)
            shortcut = layers.BatchNormalization()(shortcut)
        x = layers.ReLU()(convolve(x, count, stride))
        x = layers.ReLU()(layers.Add()([convolve(x, count), shortcut]))
    x = layers.GlobalAveragePooling2D(name="embedding")(x)
    return layers.Dropout(dropout, seed=seed)(x) if dropout else x


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


def _backbone_class(name: str) -> Callable:
    if name == "ViTB16":
        return _vit_b16
    applications = quiet_keras().applications
    found = getattr(applications, name, None)
    if not callable(found) or not name[0].isupper():
        known = ["ViTB16", *(n for n in dir(applications) if n[0].isupper())]
        raise ValueError(f"backbone {name!r} is unknown; there are {', '.join(known)}.")
    return found


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
        return _scale(keras, x, "[-1, 1]")
    for module in vars(keras.applications).values():
        if hasattr(module, "preprocess_input") and hasattr(module, make.__name__):
            return module.preprocess_input(x)
    return x


_TRANSFER_OPTIONS = {
    "weights": None, "frozen": False, "inference_norm": False, "units": 256, "dropout": 0.5,
}  # fmt: skip
"""``weights``: ``imagenet``, a file, or None; ``inference_norm``: batch norm keeps its averages
while the backbone is tuned."""

RECIPES: dict[str, Recipe] = {
    "w207_simple": Recipe(
        _w207_simple, 400, "sigmoid", 1e-3, "Report 0",
        options={"filters": 64, "kernel_size": 4, "pool_size": 2, "units_1": 32, "units_2": 24},
        assumed="input side and kernel size, worked out from the count of 80,293,777",
    ),
    "w207_tuned": Recipe(
        _w207_tuned, 400, "sigmoid", 1e-4, "Report 0",
        options={
            "filters_1": 112, "kernel_size_1": 3, "filters_2": 160, "kernel_size_2": 3,
            "pool_size": 3, "dense_layer_units": 256,
        },
    ),
    "deep_vgg": Recipe(
        _deep_vgg, 32, "sigmoid", 1e-4, "Report 1",
        options={"kernel_size": 3, "dropout": 0.3}, assumed="dropout rates and learning rate",
    ),
    "three_conv": Recipe(
        _plain_blocks, 32, "softmax", 1e-3, "Report 2",
        options={"filters": (32, 64, 128), "units": 128, "padding": "same", "dropout": 0.0},
        assumed="filters, padding and dense units",
    ),
    "custom_cnn": Recipe(
        _custom_cnn, 224, "softmax", 1e-3, "Report 3", options={"dropout": 0.5},
        assumed="dropout rate",
    ),
    "resnet101": Recipe(
        _transfer, 224, "softmax", 1e-4, "Report 3", optimizer="sgd", scaling="none",
        options=_TRANSFER_OPTIONS | {"backbone": "ResNet101"}, assumed="dropout rate",
    ),
    "two_conv": Recipe(
        _plain_blocks, 32, "sigmoid", 1e-3, "Report 4",
        options={"filters": (32, 64), "units": 64, "padding": "valid", "dropout": 0.5},
        assumed="dense units and dropout rate",
    ),
    "bird_lotfi": Recipe(
        _plain_blocks, 32, "sigmoid", 1e-3, "Bird & Lotfi 2024, the CIFAKE paper",
        options={"filters": (32, 32), "units": 64, "padding": "same", "dropout": 0.0},
        assumed="padding and dense units",
    ),
    "compact": Recipe(
        _compact, 32, "sigmoid", 1e-2, "ours: seven convolutions, pooled before they are normed",
        optimizer="muon", scaling="[-1, 1]", schedule="cosine",
        augment={"horizontal_flip": True, "blur": 0.5},
        options={"filters": (24, 64, 128)}, residual=True, mirror=True,
        pace={"epochs": 24, "batch_size": 128},
    ),
    "broad": Recipe(
        _residual, 32, "sigmoid", 2e-3,
        "ours: a small residual network (He et al. 2016), for fakes of many generators",
        scaling="[-1, 1]", schedule="cosine",
        augment={"horizontal_flip": True, "blur": 0.5, "jpeg": 0.3},
        options={"filters": (24, 64, 112), "dropout": 0.0},
    ),
}  # fmt: skip
