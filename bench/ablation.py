"""What each part of `compact` is worth, and what was tried beside it.

    python bench/ablation.py --data cifake --csv bench/results/ablation.csv

Every way trains on 20,000 images (drawn once, the same for all) for 5 epochs and is scored on the
validation split; the test split is not read. `compact`, with flips and blur alone, has five seeds,
whose spread says what a difference is worth; every other way has the first seed alone, and ways
named by ``--again`` the others too. Rows that are in the CSV already are kept. Without arguments:
two ways on the sample, for two epochs, in a minute.
"""

import argparse
import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

SEED, SEEDS = 207, 5
AUGMENT = {"horizontal_flip": True, "blur": 0.5}
"""Of all ways but those that say otherwise. What the recipe has beside it, for long trainings, are
ways of their own."""


@dataclass(frozen=True)
class Way:
    """What differs from `compact`; ``augment`` None for ``AUGMENT``."""

    build: dict = field(default_factory=dict)
    compiled: dict = field(default_factory=dict)
    augment: dict | None = None
    body: Callable | None = None
    batch: int = 128
    precision: str = "float32"
    smoothing: float = 0.0
    average: bool = False
    extra: Callable | None = None


def without_last_pool(keras, x, *, seed, filters):
    return _blocks(keras, x, filters, pools=(2, 2, 1))


def pooled_after_the_norm(keras, x, *, seed, filters):
    return _blocks(keras, x, filters, late=True)


def with_shortcuts(keras, x, *, seed, filters):
    return _blocks(keras, x, filters, shortcut=True)


def separable(keras, x, *, seed, filters):
    return _blocks(keras, x, filters, kind=keras.layers.SeparableConv2D)


def grouped(keras, x, *, seed, filters):
    return _blocks(keras, x, filters, groups=4)


def swish(keras, x, *, seed, filters):
    return _blocks(keras, x, filters, activation="silu")


def _blocks(keras, x, filters, *, pools=(2, 2, 2), late=False, shortcut=False, kind=None,
            groups=1, activation="relu"):  # fmt: skip
    layers = keras.layers
    options = {} if kind else {"groups": groups}
    kind = kind or layers.Conv2D

    def finish(x):
        return layers.Activation(activation)(layers.BatchNormalization(momentum=0.9)(x))

    def convolve(x, count):
        return kind(count, 3, padding="same", use_bias=False, **options)(x)

    x = layers.Conv2D(filters[0], 3, padding="same", activation=activation)(x)
    for count, pool in zip(filters, pools, strict=True):
        x = convolve(x, count)
        if late:
            x = layers.MaxPooling2D(pool)(finish(x))
        else:
            x = finish(layers.MaxPooling2D(pool)(x) if pool > 1 else x)
        inner = finish(convolve(x, count))
        x = layers.Add()([inner, x]) if shortcut else inner
    return layers.GlobalAveragePooling2D(name="embedding")(x)


def mix_up(x, y):
    import tensorflow as tf

    count = tf.shape(x)[0]
    gammas = tf.random.gamma((2, count), 0.2)
    share = (gammas[0] / tf.reduce_sum(gammas, axis=0))[:, None]
    order = tf.random.shuffle(tf.range(count))
    wide = share[:, :, None, None]
    mixed = wide * x + (1 - wide) * tf.gather(x, order)
    return mixed, share * y + (1 - share) * tf.gather(y, order)


WAYS = {
    "compact": Way(),
    "Adam": Way(compiled={"optimizer": "adam", "learning_rate": 3e-3}),
    "SGD with momentum": Way(compiled={"optimizer": "nesterov", "learning_rate": 0.1}),
    "half the learning rate": Way(compiled={"learning_rate": 5e-3}),
    "twice the learning rate": Way(compiled={"learning_rate": 2e-2}),
    "without the residual input": Way(build={"residual": False}),
    "without blur": Way(augment={"horizontal_flip": True}),
    "without flips and blur": Way(augment={}),
    "last block not pooled": Way(body=without_last_pool),
    "pooled after the norm": Way(body=pooled_after_the_norm),
    "shortcuts": Way(body=with_shortcuts),
    "separable convolutions": Way(body=separable),
    "four groups": Way(body=grouped),
    "swish": Way(body=swish),
    "batches of 64": Way(batch=64),
    "batches of 256": Way(batch=256),
    "bfloat16": Way(precision="mixed_bfloat16"),
    "label smoothing 0.1": Way(smoothing=0.1),
    "moving average of weights": Way(average=True),
    "shifts of 2 pixels": Way(
        augment={**AUGMENT, "jitter": 2 / 32}
    ),
    "vertical flips": Way(
        augment={**AUGMENT, "vertical_flip": True}
    ),
    "erased parts": Way(
        augment={**AUGMENT, "erase": 1.0}
    ),
    "mixup 0.2": Way(extra=mix_up),
}  # fmt: skip


def train_one(name: str, data, images: int, epochs: int, seed: int) -> dict:
    """Train one way; return its row."""
    from w207lib import models, predict, train
    from w207lib.machine.devices import quiet_keras

    keras, way = quiet_keras(), WAYS[name]
    spec = models.RECIPES["compact"]
    if way.body:
        models.RECIPES["compact"] = dataclasses.replace(spec, body=way.body)
    training = data.split("train", most=images, seed=SEED)
    validation = data.split("validation")
    keras.utils.set_random_seed(seed)
    steps = training.steps(way.batch)
    augment = AUGMENT if way.augment is None else way.augment
    try:
        with train.precision_policy(way.precision):
            model = models.build("compact", augment=augment, seed=seed, **way.build)
            compiled(keras, model, way, steps * epochs)
    finally:
        models.RECIPES["compact"] = spec
    batches = training.batches(way.batch, shuffle_seed=seed)
    if way.extra:
        batches = batches.map(way.extra)
    started = time.perf_counter()
    history = model.fit(batches, steps_per_epoch=steps, epochs=epochs, shuffle=False, verbose=0)
    seconds = time.perf_counter() - started
    if way.average:
        model.optimizer.finalize_variable_values(model.trainable_variables)
    labels = validation.labels[:, 0] > 0.5
    found = {}
    for column, mirror in (("accuracy", False), ("mirrored", True)):
        scores = predict.scores(model, validation, mirror=mirror)
        found[column] = round(float(((scores > 0.5) == labels).mean()), 5)
    keras.backend.clear_session()
    return {
        "way": name, "seed": seed, **found, "loss": round(history.history["loss"][-1], 4),
        "parameters": model.count_params(), "images": len(training), "epochs": epochs,
        "validation": len(labels), "seconds": round(seconds, 1),
        "processors": len(os.sched_getaffinity(0)),
    }  # fmt: skip


def compiled(keras, model, way: Way, steps: int) -> None:
    from w207lib import models

    given = dict(way.compiled)
    sgd = given.get("optimizer") == "nesterov"
    if sgd:
        given["optimizer"] = "sgd"
    models.compile_model(model, "compact", steps=steps, **given)
    optimizer = model.optimizer
    if sgd or way.average:
        changed = optimizer.get_config() | (
            {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4} if sgd else
            {"use_ema": True, "ema_momentum": 0.99}  # of 780 steps
        )  # fmt: skip
        optimizer = type(optimizer).from_config(changed)
    loss = keras.losses.BinaryCrossentropy(label_smoothing=way.smoothing)
    model.compile(optimizer=optimizer, loss=loss)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a way: how far it is from `compact`, in that one's standard deviations."""
    base = rows[rows["way"] == "compact"]["mirrored"]
    table = rows.groupby("way", sort=False).agg(
        seeds=("seed", "nunique"), accuracy=("accuracy", "mean"), mirrored=("mirrored", "mean"),
        seconds=("seconds", "median"),
    )  # fmt: skip
    table["difference"] = table["mirrored"] - base.mean()
    table["in_sd"] = table["difference"] / base.std()
    return table.sort_values("mirrored", ascending=False).round(4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="sample")
    parser.add_argument("--ways", nargs="+", choices=WAYS, metavar="WAY")
    parser.add_argument("--again", nargs="+", choices=WAYS, default=[], metavar="WAY",
                        help="ways with five seeds, too")  # fmt: skip
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    from w207lib import clean, config, datasets, manifest, pipeline, split

    whole = options.data != "sample"
    epochs = options.epochs or (5 if whole else 2)
    ways = options.ways or (list(WAYS) if whole else ["compact", "Adam"])
    seeds = range(SEED, SEED + (SEEDS if whole else 2))
    dataset = datasets.locate(options.data)
    fraction = config.load(options.data if whole else "sample").validation_fraction
    table = split.assign(
        clean.mark(manifest.load(dataset)), validation_fraction=fraction, seed=SEED
    )
    data = pipeline.Data(dataset, table, 32)
    rows = pd.DataFrame()
    if options.csv and options.csv.is_file():
        rows = pd.read_csv(options.csv)
    repeated = {"compact", *options.again}
    todo = [(way, seed) for seed in seeds for way in ways if seed == SEED or way in repeated]
    for way, seed in todo:
        if len(rows) and ((rows["way"] == way) & (rows["seed"] == seed)).any():
            continue
        row = pd.DataFrame([train_one(way, data, options.images, epochs, seed)])
        if options.csv and options.csv.is_file():  # another process may have written since
            rows = pd.read_csv(options.csv)
        rows = pd.concat([rows, row], ignore_index=True)
        print(row.to_string(index=False, header=len(rows) == 1), flush=True)
        if options.csv:
            options.csv.parent.mkdir(parents=True, exist_ok=True)
            rows.to_csv(options.csv, index=False)
    print(summary(rows).to_string())


if __name__ == "__main__":
    main()
