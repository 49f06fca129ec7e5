"""The reports' networks as named recipes. Every model takes raw pixels in [0, 255].

A recipe is built by ``build`` and compiled by ``compile_model``. Scaling, preprocessing and
augmentation are layers, so a saved model needs nothing beside it. Only ``keras`` is imported.
"""

from __future__ import annotations

import inspect
import math
import re
import runpy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w207lib.machine.devices import quiet_keras
from w207lib.nets import augmentation, backbones, networks


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
        recipe: One of ``RECIPES``; or ``transfer:<Backbone>`` with the name of any
            ``keras.applications`` backbone, or ``ViTB16`` (KerasHub's, an extra); or
            ``FILE.py:NAME``, your own, as ``find`` says.
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
        ValueError: The recipe or an option is unknown, or the input is too small for it, or it
            has a layer of your own that is not registered with Keras.
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
    x = networks.scale(keras, x, scaling or spec.scaling)
    if spec.residual if residual is None else residual:
        if spec.body is backbones.transfer:
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
    model = keras.Model(inputs, outputs, name=model_name(recipe))
    if own_file(recipe) is not None:
        _check_savable(keras, model, recipe)
    return model


def _check_savable(keras, model, recipe: str) -> None:
    """Refuse, before a training, a network whose saved file Keras could not open again."""
    try:
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    except TypeError as error:
        lost = re.search(r"Could not locate class '(\w+)'", str(error))
        if lost is None:
            raise
        raise ValueError(
            f"recipe {recipe!r}: Keras could not open the trained network again, for it does not "
            f"know the class {lost[1]}. Write above it: @keras.saving.register_keras_serializable()"
        ) from None


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

    Raises:
        ValueError: The recipe or the optimizer is unknown, or as ``choose_rate``.
    """
    keras = quiet_keras()
    spec = find(recipe)
    rate: Any = choose_rate(spec, learning_rate)
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


def choose_rate(spec: Recipe, given: float | None) -> float:
    """Return the learning rate that was given; for None the recipe's own.

    Raises:
        ValueError: It is not above 0, or not finite.
    """
    if given is None:
        return spec.learning_rate
    if not 0 < given < math.inf:  # NaN is neither
        raise ValueError(
            f"learning rate {given:g}; expected a number above 0, such as {spec.learning_rate:g}."
        )
    return given


def _muon(keras, rate, **options):
    from w207lib.nets.optimizers import ConvMuon

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
    """Return a recipe by name.

    Args:
        recipe: One of ``RECIPES``; or ``transfer:<Backbone>``; or ``FILE.py:NAME`` with what a
            Python file of your own calls a ``Recipe``, or the function that is its ``body``, to
            which ``OWN`` adds the rest. The file is executed.

    Raises:
        ValueError: It is unknown, or the file has nothing of that name that is a recipe.
    """
    if recipe in RECIPES:
        return RECIPES[recipe]
    if (path := own_file(recipe)) is not None:
        return _own(recipe, path)
    kind, _, backbone = recipe.partition(":")
    if kind == "transfer" and backbone:
        backbones.find(backbone)
        return Recipe(
            backbones.transfer, 224, "sigmoid", 1e-4, "transfer learning", scaling="none",
            options=backbones.OPTIONS | {"backbone": backbone},
        )  # fmt: skip
    raise ValueError(
        f"recipe {recipe!r} is unknown; there are {', '.join(RECIPES)}, and transfer:<Backbone> "
        "with a backbone of keras.applications, such as transfer:ResNet50, and FILE.py:NAME."
    )


def own_file(recipe: str) -> Path | None:
    """Return the Python file of a recipe ``FILE.py:NAME``; None for any other."""
    file, _, name = recipe.rpartition(":")
    return Path(file) if file.endswith(".py") and name else None


def model_name(recipe: str) -> str:
    """Return what a model of a recipe is called, as are its folder and its rows."""
    name = recipe.rpartition(":")[2] if own_file(recipe) else recipe
    return re.sub(r"\W", "_", name).lower()


def _own(recipe: str, path: Path) -> Recipe:
    name = recipe.rpartition(":")[2]
    if not path.is_file():
        raise ValueError(f"recipe {recipe!r}: there is no file {path}; expected FILE.py:NAME.")
    made = runpy.run_path(str(path), run_name=path.stem)
    found = made.get(name)
    if isinstance(found, Recipe):
        return found
    if inspect.isfunction(found):
        return Recipe(found, report=f"your own, in {path.name}", **OWN)
    here = [
        other for other, value in made.items()
        if isinstance(value, Recipe) or getattr(value, "__module__", None) == path.stem
    ]  # fmt: skip
    raise ValueError(
        f"recipe {recipe!r}: {path} has no function or Recipe {name!r}; it has "
        f"{', '.join(here) or 'none'}."
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
        shape = getattr(getattr(layer, "output", None), "shape", ())
        rows.append(
            {
                "name": layer.name,
                "kind": type(layer).__name__,
                "output_shape": tuple(shape[1:]),
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


OWN: dict[str, Any] = {"image_size": 32, "head": "sigmoid", "learning_rate": 1e-3}
"""Of a recipe that is a function in a file of one's own."""
RECIPES: dict[str, Recipe] = {
    "w207_simple": Recipe(
        networks.w207_simple, 400, "sigmoid", 1e-3, "Report 0",
        options={"filters": 64, "kernel_size": 4, "pool_size": 2, "units_1": 32, "units_2": 24},
        assumed="input side and kernel size, worked out from the count of 80,293,777",
    ),
    "w207_tuned": Recipe(
        networks.w207_tuned, 400, "sigmoid", 1e-4, "Report 0",
        options={
            "filters_1": 112, "kernel_size_1": 3, "filters_2": 160, "kernel_size_2": 3,
            "pool_size": 3, "dense_layer_units": 256,
        },
    ),
    "deep_vgg": Recipe(
        networks.deep_vgg, 32, "sigmoid", 1e-4, "Report 1",
        options={"kernel_size": 3, "dropout": 0.3}, assumed="dropout rates and learning rate",
    ),
    "three_conv": Recipe(
        networks.plain_blocks, 32, "softmax", 1e-3, "Report 2",
        options={"filters": (32, 64, 128), "units": 128, "padding": "same", "dropout": 0.0},
        assumed="filters, padding and dense units",
    ),
    "custom_cnn": Recipe(
        networks.custom_cnn, 224, "softmax", 1e-3, "Report 3", options={"dropout": 0.5},
        assumed="dropout rate",
    ),
    "resnet101": Recipe(
        backbones.transfer, 224, "softmax", 1e-4, "Report 3", optimizer="sgd", scaling="none",
        options=backbones.OPTIONS | {"backbone": "ResNet101"}, assumed="dropout rate",
    ),
    "two_conv": Recipe(
        networks.plain_blocks, 32, "sigmoid", 1e-3, "Report 4",
        options={"filters": (32, 64), "units": 64, "padding": "valid", "dropout": 0.5},
        assumed="dense units and dropout rate",
    ),
    "bird_lotfi": Recipe(
        networks.plain_blocks, 32, "sigmoid", 1e-3, "Bird & Lotfi 2024, the CIFAKE paper",
        options={"filters": (32, 32), "units": 64, "padding": "same", "dropout": 0.0},
        assumed="padding and dense units",
    ),
    "compact": Recipe(
        networks.compact, 32, "sigmoid", 1e-2,
        "ours: seven convolutions, pooled before they are normed",
        optimizer="muon", scaling="[-1, 1]", schedule="cosine",
        augment={"horizontal_flip": True, "blur": 0.5, "jitter": 0.0625, "erase": 0.25},
        options={"filters": (24, 64, 128)}, residual=True, mirror=True,
        pace={"epochs": 32, "batch_size": 128},
    ),
    "broad": Recipe(
        networks.compact, 32, "sigmoid", 5e-3,
        "ours: compact's layers, for fakes of many generators",
        optimizer="muon", scaling="[-1, 1]", schedule="cosine",
        augment={"horizontal_flip": True, "blur": 0.5, "jpeg": 0.3},
        options={"filters": (24, 64, 128)}, residual=True, mirror=True,
        pace={"epochs": 6, "batch_size": 128},
    ),
}  # fmt: skip
