"""What networks and images cost here: measured in a few steps, each thing once."""

from __future__ import annotations

import dataclasses
import functools
import gc
import inspect
import logging
import math
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from w207lib import (
    accelerators,
    attacks,
    augmentation,
    baselines,
    devices,
    features,
    gradients,
    images,
    manifest,
    models,
    perturb,
    pipeline,
    predict,
    shards,
    train,
)

log = logging.getLogger(__name__)
PER_NETWORK = 12.0
"""Seconds after which a network is measured no more, and the rest is extrapolated."""
LARGE = 128
"""Side from which on a network may be too large to be built at all."""
KERNEL = 2.5
"""Seconds that papermill takes to start and end a kernel that does nothing."""
START = "from w207lib import plots, style, train, tune; train.quiet_keras()"


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


def _once(method):
    """Let a method measure a thing once for each of its arguments."""

    @functools.wraps(method)
    def kept(self, *arguments):
        key = (method.__name__, *arguments)
        if key not in self.measured:
            self.measured[key] = method(self, *arguments)
        return self.measured[key]

    return kept


class Bench:
    """Measures what work items cost, each thing once, and only what is asked for.

    Args:
        dataset: The data set.
        table: Its manifest, cleaned and split.
        statistics: ``manifest.statistics`` of it.
        precision: Precision of networks.
    """

    def __init__(self, dataset, table: pd.DataFrame, statistics: pd.DataFrame, precision: str):
        self.dataset, self.table, self.precision = dataset, table, precision
        self.statistics = statistics
        self.sizes: set[int] = set()
        self.measured: dict = {}
        self.others: dict[Network, tuple[Network, Network]] = {}
        memory = free_memory()
        self.room = memory["host"] if memory["device"] is None else memory["device"]

    @_once
    def startup(self) -> float:
        """Return the seconds of a kernel's start, imports included."""
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", START], capture_output=True, check=True)
        return KERNEL + time.perf_counter() - begun

    def processes(self) -> int:
        """Return how many processes decode."""
        return shards.usual_processes(shards.readable(self.table))

    def missing_bytes(self, size: int) -> int:
        """Return the bytes of pixels that must be made; of a size that was asked for before, 0."""
        if size in self.sizes:
            return 0
        self.sizes.add(size)
        return shards.needed_bytes(self.dataset, self.table, size)

    def held(self, count: int, size: int) -> int:
        """Return the bytes of images that are kept in memory; 0 where they are streamed."""
        bytes_ = 3 * count * size**2
        return bytes_ if bytes_ <= pipeline.MEMORY_LIMIT else 0

    def at_once(self, batch: int) -> int:
        """Return how many images are predicted at a time."""
        usual = inspect.signature(predict.scores).parameters["batch_size"].default
        return max(batch, usual or 0)

    @_once
    def decode(self, size: int | None) -> float:
        """Return the seconds to read an image and to resize it, from a draw of 40."""
        paths = shards.readable(self.table)["path"].tolist()
        drawn = random.Random(0).sample(paths, min(40, len(paths)))
        begun, done = time.perf_counter(), 0
        for path in drawn:
            pixels = images.read_image(self.dataset.root / path)
            done += 1
            if size is not None:
                images.resize(pixels, size)
            if time.perf_counter() - begun > 8:
                break
        return (time.perf_counter() - begun) / done

    def network(self, network: Network) -> Cost:
        """Return what a network costs; its times are NaN where memory does not even hold it.

        Of the search's networks the costliest and the middle one of those asked for by
        ``between`` are measured; the others lie between, by their multiplications.
        """
        if network not in self.others:
            return self._measured(network)
        low, high = (self._measured(other) for other in self.others[network])
        cost = _sizes(network, self.precision)
        return _between(cost, low, high)

    @_once
    def _measured(self, network: Network) -> Cost:
        log.info("measuring: %s at %d pixels", network.recipe, network.size)
        return _measure(network, self.precision, self.room)

    def between(self, networks) -> None:
        """Let all but the middle one and the costliest of some networks be interpolated."""
        found = sorted(set(networks), key=multiplications)
        if len(found) > 2:
            ends = (found[(len(found) - 1) // 2], found[-1])
            self.others |= {network: ends for network in found if network not in ends}

    def gradient(self, network: Network) -> float:
        """Return the seconds of a gradient with respect to an image."""
        if network not in self.others:
            return self._gradient(network)
        low, high = self.others[network]
        share = multiplications(network) / multiplications(high)
        return max(share, 0.1) * self._gradient(high)

    @_once
    def _gradient(self, network: Network) -> float:
        cost = self.network(network)
        if math.isnan(cost.step):
            return math.nan
        with train.precision_policy(self.precision):
            logit = gradients.fake_logit(_build(network))
            guess = cost.step / network.batch
            most = _fitting(cost.training, self.room, attacks.at_once(network.size))
            count = max(1, min(most, int(2 / guess)))
            pixels = _noise(count, network.size).astype(np.float32)
            gradients.input_gradient(logit, pixels[:1])
            begun = time.perf_counter()
            gradients.input_gradient(logit, pixels)
        return (time.perf_counter() - begun) / count

    @_once
    def change(self, condition: str, size: int) -> float:
        """Return the seconds to change an image."""
        pixels = _noise(4, size)
        begun = time.perf_counter()
        perturb.apply(pixels, condition)
        return (time.perf_counter() - begun) / len(pixels)

    @_once
    def spectrum(self, size: int) -> float:
        """Return the seconds of an image's spectrum, there and back again."""
        pixels = _noise(4, size)
        begun = time.perf_counter()
        features.band_filter(pixels, 0, 0.25)
        return (time.perf_counter() - begun) / len(pixels)

    def _rows(self, most: int) -> tuple[pd.DataFrame, pd.Series]:
        rows = manifest.usable(self.table, "train")
        rows = rows.sample(min(most, len(rows)), random_state=0)
        return self.statistics.set_index("path").loc[rows["path"]], rows["label"]

    @_once
    def forest(self) -> tuple[float, int]:
        """Return the seconds to fit a forest to a number of rows, and that number."""
        x, y = self._rows(5_000)
        begun = time.perf_counter()
        baselines.build("random_forest").fit(x[list(features.STATISTICS)], y)
        return time.perf_counter() - begun, len(x)

    @_once
    def svm(self) -> tuple[float, float, int]:
        """Return the seconds to fit a number of rows, those to score as many, and the number."""
        x, y = self._rows(1_000)
        begun = time.perf_counter()
        machine = baselines.build("svm").fit(x[list(features.STATISTICS)], y)
        fitted = time.perf_counter()
        baselines.scores(machine, x)
        return fitted - begun, time.perf_counter() - fitted, len(x)


def _noise(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def _images(count: int, size: int) -> pipeline.Images:
    rows = pd.DataFrame({"label": np.arange(count) % 2})
    return pipeline.Images(rows, Path(), size, None, np.arange(count), _noise(count, size))


def _build(network: Network):
    return models.build(
        network.recipe, network.size, seed=0, **dict(network.options),
        augment=augmentation.DEFAULTS if network.augmented else models.find(network.recipe).augment,
    )  # fmt: skip


@functools.cache
def _sizes(network: Network, precision: str) -> Cost:
    """Return a network's sizes alone, without memory for its weights."""
    keras = train.quiet_keras()
    with train.precision_policy(precision), keras.StatelessScope(initialize_variables=False):
        cost = _sizes_of(_build(network), network.recipe)
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
    return _sizes(network, "float32").work


def _multiplications(layer) -> int:
    """Count a layer's: each weight of a kernel is used at each place of the output."""
    kernel = getattr(layer, "kernel", None)
    if kernel is None:
        return 0
    return math.prod(kernel.shape) * math.prod(layer.output.shape[1:-1])


def _between(cost: Cost, low: Cost, high: Cost) -> Cost:
    """Return a cost with the times of two others, by the multiplications."""
    share = (cost.work - low.work) / max(1, high.work - low.work)

    def time_of(name):
        small, large = getattr(low, name), getattr(high, name)
        return max(small + share * (large - small), small * min(1.0, cost.work / low.work), 0.0)

    times = {name: time_of(name) for name in ("step", "predict")}
    return dataclasses.replace(cost, first=low.first, **times)


def _walk(model):
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _walk(layer)
        else:
            yield layer


def _fitting(need: tuple[int, int], room: int, most: int) -> int:
    """Return the largest batch that takes no more than a third of the memory; 0 if none does."""
    base, each = need
    return max(0, min(most, int((room / 3 - base) // max(1, each))))


def _measure(network: Network, precision: str, room: int) -> Cost:
    if network.size >= LARGE:
        cost = _sizes(network, precision)
        if not _fitting(cost.training, room, network.batch):
            return cost
    with train.precision_policy(precision):
        begun = time.perf_counter()
        model = models.compile_model(_build(network), network.recipe)
        cost = _sizes_of(model, network.recipe)
        most = max(1, _fitting(cost.training, room, network.batch))
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
    most = max(1, _fitting(cost.predicting, room, 256))
    count = max(1, min(most, int(1e8 / (3 * network.size**2)), int(4 / training)))
    few, many = (_images(n, network.size) for n in (max(1, count // 4), count))
    predict.scores(model, few)
    taken = []
    for part in (few, many):
        begun = time.perf_counter()
        predict.scores(model, part)
        taken.append(time.perf_counter() - begun)
    return max(np.subtract(*taken[::-1]) / max(1, len(many) - len(few)), taken[1] / len(many) / 8)


def free_memory() -> dict[str, int | None]:
    """Return free bytes of the machine (``host``) and of its GPU (``device``; None: none)."""
    told = devices.nvidia("memory.free")
    first = told[0].split()[0] if told else ""  # "40536 MiB"; "[N/A]" where the driver won't say
    free = int(first) * 2**20 if first.isdecimal() else None
    return {"host": devices.memory()["available"], "device": free}
