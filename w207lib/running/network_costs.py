"""What a network costs here: its memory, and the times of a few steps of its training."""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from w207lib import models, pipeline, predict, train
from w207lib.machine import accelerators, devices
from w207lib.nets import augmentation

PER_NETWORK = 12.0
"""Seconds after which a network is measured no more, and the rest is extrapolated."""
LARGE = 128
"""Side from which on a network may be too large to be built at all."""


@dataclass(frozen=True)
class Network:
    """A network as it is trained: what its cost depends on.

    Attributes:
        recipe: As for ``models.build``.
        size: Side of its input, in pixels.
        batch: Images a training step.
        options: The recipe's options, as pairs.
        augmented: Whether with ``augmentation.DEFAULTS``.
    """

    recipe: str
    size: int
    batch: int
    options: tuple = ()
    augmented: bool = False


@dataclass(frozen=True)
class Cost:
    """What a network costs here.

    Attributes:
        parameters: Its weights.
        slots: Numbers that its optimizer keeps for a weight.
        work: Multiplications for an image.
        training: Bytes of memory while it is trained: without images, and for each.
        predicting: Bytes while it predicts, likewise.
        first: Seconds to build and compile it and to take its first step.
        step: Seconds a training step.
        predict: Seconds to score an image.
    """

    parameters: int
    slots: int
    work: int
    training: tuple[int, int]
    predicting: tuple[int, int]
    first: float = math.nan
    step: float = math.nan
    predict: float = math.nan

    def saved(self) -> int:
        """Bytes of its file, with the optimizer's state."""
        return 4 * self.parameters * (1 + self.slots)


def measure(network: Network, precision: str, room: int) -> Cost:
    """Measure a network in a few steps of its training.

    Args:
        network: What to measure.
        precision: Its dtype policy.
        room: Free bytes of memory. A network that they do not hold is not built; its times are
            NaN.
    """
    if network.size >= LARGE:
        cost = sizes(network, precision)
        if not fitting(cost.training, room, network.batch):
            return cost
    with train.precision_policy(precision):
        begun = time.perf_counter()
        model = models.compile_model(build(network), network.recipe)
        cost = _sizes_of(model, network.recipe)
        most = max(1, fitting(cost.training, room, network.batch))
        small = most if devices.has_gpu() else min(2, most)
        _fit(model, network.size, small, 1)
        first = time.perf_counter() - begun
        one = _fit(model, network.size, small, 2) / 2
        batch = max(small, min(most, int(small * PER_NETWORK / 4 / one)))
        step = one if batch == small < network.batch else _step(model, network.size, batch)
        if batch < network.batch:
            slope = one / small if batch == small else max(0.0, (step - one) / (batch - small))
            step += slope * (network.batch - batch)
        scored = _predicting(model, network, cost, room, step / network.batch)
    del model
    train.quiet_keras().backend.clear_session()
    gc.collect()
    return dataclasses.replace(cost, first=first, step=step, predict=scored)


@functools.cache
def sizes(network: Network, precision: str) -> Cost:
    """Return a network's sizes alone, without memory for its weights."""
    keras = train.quiet_keras()
    with train.precision_policy(precision), keras.StatelessScope(initialize_variables=False):
        cost = _sizes_of(build(network), network.recipe)
    keras.backend.clear_session()
    return cost


def _sizes_of(model, recipe: str) -> Cost:
    def need(training):
        one, two = (accelerators.bytes_needed(model, n, training=training) for n in (1, 2))
        return 2 * one - two, two - one

    work = sum(_multiplications(layer) for layer in _walk(model))
    slots = {"adam": 2, "muon": 1}.get(models.find(recipe).optimizer, 0)
    return Cost(model.count_params(), slots, work, need(True), need(False))


def multiplications(network: Network) -> int:
    """Return how many multiplications a network needs for an image."""
    return sizes(network, "float32").work


def _multiplications(layer) -> int:
    """Count a layer's: each weight of a kernel is used at each place of the output."""
    kernel = getattr(layer, "kernel", None)
    if kernel is None:
        return 0
    return math.prod(kernel.shape) * math.prod(layer.output.shape[1:-1])


def _walk(model):
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _walk(layer)
        else:
            yield layer


def between(cost: Cost, low: Cost, high: Cost) -> Cost:
    """Return a cost with the times of two others, by the multiplications.

    Args:
        cost: A network's sizes; its times are not read.
        low: Of a measured network with fewer multiplications.
        high: Of one with more.
    """
    share = (cost.work - low.work) / max(1, high.work - low.work)

    def time_of(name):
        small, large = getattr(low, name), getattr(high, name)
        return max(small + share * (large - small), small * min(1.0, cost.work / low.work), 0.0)

    times = {name: time_of(name) for name in ("step", "predict")}
    return dataclasses.replace(cost, first=low.first, **times)


def fitting(need: tuple[int, int], room: int, most: int) -> int:
    """Return the largest batch that takes no more than a third of the memory; 0 if none does.

    Args:
        need: Bytes without an image, and bytes an image.
        room: Free bytes of memory.
        most: The largest batch asked for.
    """
    base, each = need
    return max(0, min(most, int((room / 3 - base) // max(1, each))))


def build(network: Network):
    """Build a network as it is trained, uncompiled."""
    return models.build(
        network.recipe, network.size, seed=0, **dict(network.options),
        augment=augmentation.DEFAULTS if network.augmented else models.find(network.recipe).augment,
    )  # fmt: skip


def noise(count: int, size: int) -> np.ndarray:
    """Return images of noise, uint8 ``(count, size, size, 3)``."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def _images(count: int, size: int) -> pipeline.Images:
    rows = pd.DataFrame({"label": np.arange(count) % 2})
    return pipeline.Images(rows, Path(), size, None, np.arange(count), noise(count, size))


def _fit(model, size: int, batch: int, steps: int) -> float:
    """Train as ``train.fit`` does; return the seconds."""
    batches = _images(2 * batch, size).batches(batch, shuffle_seed=0)
    begun = time.perf_counter()
    model.fit(batches, steps_per_epoch=steps, verbose=0, shuffle=False)
    return time.perf_counter() - begun


def _step(model, size: int, batch: int, seconds: float = 2.0) -> float:
    """Return the seconds of a training step: of some steps more, without what begins an epoch."""
    few = _fit(model, size, batch, 2)
    if few > seconds:
        return few / 2
    steps = max(3, min(40, int(seconds / (few / 2))))
    return max((_fit(model, size, batch, 2 + steps) - few) / steps, few / (4 * (2 + steps)))


def _predicting(model, network: Network, cost: Cost, room: int, training: float) -> float:
    """Return the seconds to score an image; an image's training takes so many."""
    most = max(1, fitting(cost.predicting, room, 256))
    count = max(1, min(most, int(1e8 / (3 * network.size**2)), int(4 / training)))
    few, many = (_images(n, network.size) for n in (max(1, count // 4), count))
    predict.scores(model, few)
    taken = []
    for part in (few, many):
        begun = time.perf_counter()
        predict.scores(model, part)
        taken.append(time.perf_counter() - begun)
    return max((taken[1] - taken[0]) / max(1, len(many) - len(few)), taken[1] / len(many) / 8)
