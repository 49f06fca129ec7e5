"""How fast `compact` trains beside what this processor can do, and where the rest goes.

    python bench/training.py --csv bench/results/training.csv
    python bench/training.py --threads 2

Ways of doing the same work, timed in turns, so that a busy machine slows all alike; figures are
medians, with the range, of images a second. From the convolutions alone, forward and back, each
line adds something: norm and activation, augmentation, the optimizer, the loop and the input
that ``w207 train`` uses. The ceiling is the best rate of single convolutions of several shapes,
forward, in either precision; the roofline adds to their time that of carrying each layer's
numbers through memory once forward and twice back, at the rate of a large array's sum.
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

BATCH = 128
SHAPES = ((32, 64), (16, 64), (16, 256), (8, 128), (8, 512))
"""Sides and channels of the convolutions whose best rate is the ceiling."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="compact")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: options.threads]))
    import tensorflow as tf

    for set_threads in (
        tf.config.threading.set_intra_op_parallelism_threads,
        tf.config.threading.set_inter_op_parallelism_threads,
    ):
        set_threads(options.threads)
    import pandas as pd

    rows = []
    for precision in ("float32", "mixed_bfloat16"):
        rows += measure(options.recipe, precision, options.threads, options.rounds)
        print(pd.DataFrame(rows).to_string(index=False), "\n", flush=True)
    if options.csv:
        table = pd.DataFrame(rows)
        if options.csv.is_file():
            old = pd.read_csv(options.csv)
            table = pd.concat([old[old["threads"] != options.threads], table])
        table.to_csv(options.csv, index=False)


def measure(recipe: str, precision: str, threads: int, rounds: int) -> list[dict]:
    import numpy as np
    import tensorflow as tf

    from w207lib import models, train
    from w207lib.machine.devices import quiet_keras
    from w207lib.running import network_costs

    keras = quiet_keras()
    rng = np.random.default_rng(207)
    pixels = rng.integers(0, 256, (20 * BATCH, 32, 32, 3), np.uint8)
    labels = (np.arange(len(pixels)) % 2).astype(np.float32)[:, None]
    x, y = tf.constant(pixels[:BATCH], tf.float32), tf.constant(labels[:BATCH])
    spec = models.find(recipe)
    with train.precision_policy(precision):
        plain = models.build(recipe)
        changed = models.build(recipe, augment=spec.augment, seed=1)
        full = models.compile_model(
            models.build(recipe, augment=spec.augment, seed=1), recipe, steps=10_000
        )
        bare = keras.models.clone_model(plain, clone_function=lambda layer: _bare(keras, layer))
    multiplications = network_costs.multiplications(network_costs.Network(recipe, 32, BATCH))
    batches = _batches(pixels, labels)

    def gradients(model):
        @tf.function
        def step():
            with tf.GradientTape() as tape:
                loss = keras.losses.binary_crossentropy(y, model(x, training=True))
                total = tf.reduce_mean(loss)
            return [tf.reduce_sum(g) for g in tape.gradient(total, model.trainable_weights)]

        return step, 1

    @tf.function
    def whole():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.binary_crossentropy(y, full(x, training=True)))
        found = tape.gradient(loss, full.trainable_weights)
        full.optimizer.apply_gradients(zip(found, full.trainable_weights, strict=True))
        return loss

    ways = {
        "convolutions alone": gradients(bare),
        "+ norm and activation": gradients(plain),
        "+ augmentation": gradients(changed),
        "+ optimizer": (whole, 1),
        "as w207 train does it": (
            lambda: full.fit(batches, steps_per_epoch=20, verbose=0), 20,
        ),
    }  # fmt: skip
    peaks = {f"{side}×{side}, {count} channels": _convolution(tf, precision, side, count)
             for side, count in SHAPES}  # fmt: skip
    rates: dict[str, list] = {name: [] for name in (*ways, *peaks, "memory")}
    large = np.ones(2**25, np.float32)
    for number in range(rounds + 1):
        for name, (way, steps) in ways.items():
            repeats = max(1, 10 // steps)
            seconds = _seconds(way, repeats)
            rates[name].append(BATCH * steps * repeats / seconds)
        for name, (way, work) in peaks.items():
            rates[name].append(work / _seconds(way, 3))
        rates["memory"].append(2 * large.nbytes / _seconds(large.sum, 2))
        if number == 0:  # traced and warmed up
            rates = {name: [] for name in rates}
    ceiling = max(statistics.median(rates[name]) for name in peaks)
    floats = 6 * multiplications  # forward, and back to the input and to the kernel
    carried = 3 * _bytes(plain, 4 if precision == "float32" else 2)
    memory = statistics.median(rates["memory"])
    facts = {
        "recipe": recipe, "precision": precision, "threads": threads, "batch": BATCH,
        "megamultiplications": round(multiplications / 1e6, 1),
        "ceiling_gflops": round(ceiling / 1e9, 1), "memory_gb_s": round(memory / 1e9, 1),
        "megabytes_an_image": round(carried / 1e6, 2),
        "roofline_images_s": round(1 / (floats / ceiling + carried / memory)),
    }  # fmt: skip
    rows = []
    for name in ways:
        rate = statistics.median(rates[name])
        rows.append(facts | {
            "way": name, "images_s": round(rate), "low": round(min(rates[name])),
            "high": round(max(rates[name])), "gflops": round(rate * floats / 1e9, 1),
            "of_ceiling": round(rate * floats / ceiling, 3),
            "of_roofline": round(rate / facts["roofline_images_s"], 3),
        })  # fmt: skip
    return rows


def _bare(keras, layer):
    """Return a layer as it is, or nothing in the place of what is no convolution."""
    if isinstance(layer, keras.layers.BatchNormalization | keras.layers.ReLU):
        return _nothing(keras)
    return type(layer).from_config(layer.get_config())


def _nothing(keras):
    base: Any = keras.layers.Layer

    class Nothing(base):
        def call(self, x, training=False, mask=None):
            return x

    return Nothing()


def _bytes(model, size: int) -> int:
    """Return the bytes that the layers of a network give out for one image."""
    import math

    return size * sum(
        math.prod(layer.output.shape[1:]) for layer in model.layers if layer.name != "pixels"
    )


def _convolution(tf, precision: str, side: int, count: int):
    kind = tf.float32 if precision == "float32" else tf.bfloat16
    batch = max(8, 2**21 // (side * side * count))
    x = tf.cast(tf.random.normal((batch, side, side, count)), kind)
    kernel = tf.cast(tf.random.normal((3, 3, count, count)), kind)

    @tf.function
    def many():
        return [tf.reduce_sum(tf.nn.conv2d(x * (i + 1), kernel, 1, "SAME")) for i in range(4)]

    work = 3 * 4 * 2 * 9 * side * side * count * count * batch
    return many, work


def _batches(pixels, labels):
    import numpy as np
    import pandas as pd

    from w207lib import pipeline

    rows = pd.DataFrame({"label": labels[:, 0]})
    part = pipeline.Images(rows, Path(), 32, None, np.arange(len(rows)), pixels)
    return part.batches(BATCH, shuffle_seed=1)


def _seconds(function, repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        found = function()
    if hasattr(found, "numpy"):
        found.numpy()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
