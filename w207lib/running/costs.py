"""What work costs here: networks, images, classifiers, each measured once and when asked for."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import random
import subprocess
import sys
import time
from typing import TypedDict

import numpy as np
import pandas as pd

from w207lib import baselines, features, manifest, perturb, pipeline, predict, train
from w207lib.machine import devices
from w207lib.nets import attacks, gradients
from w207lib.reading import images, shards
from w207lib.running import network_costs
from w207lib.running.network_costs import Cost, Network

log = logging.getLogger(__name__)
KERNEL = 2.5
"""Seconds that papermill takes to start and end a kernel that does nothing."""
START = (
    "from w207lib import plots, train, tune; from w207lib.plotting import style; "
    "train.quiet_keras()"
)


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
        cost = network_costs.sizes(network, self.precision)
        return network_costs.between(cost, low, high)

    @_once
    def _measured(self, network: Network) -> Cost:
        log.info("measuring: %s at %d pixels", network.recipe, network.size)
        return network_costs.measure(network, self.precision, self.room)

    def between(self, networks) -> None:
        """Let all but the middle one and the costliest of some networks be interpolated."""
        found = sorted(set(networks), key=network_costs.multiplications)
        if len(found) > 2:
            ends = (found[(len(found) - 1) // 2], found[-1])
            self.others |= {network: ends for network in found if network not in ends}

    def gradient(self, network: Network) -> float:
        """Return the seconds of a gradient with respect to an image."""
        if network not in self.others:
            return self._gradient(network)
        low, high = self.others[network]
        share = network_costs.multiplications(network) / network_costs.multiplications(high)
        return max(share, 0.1) * self._gradient(high)

    @_once
    def _gradient(self, network: Network) -> float:
        cost = self.network(network)
        if math.isnan(cost.step):
            return math.nan
        with train.precision_policy(self.precision):
            logit = gradients.fake_logit(network_costs.build(network))
            guess = cost.step / network.batch
            most = network_costs.fitting(cost.training, self.room, attacks.at_once(network.size))
            count = max(1, min(most, int(2 / guess)))
            pixels = network_costs.noise(count, network.size).astype(np.float32)
            gradients.input_gradient(logit, pixels[:1])
            begun = time.perf_counter()
            gradients.input_gradient(logit, pixels)
        return (time.perf_counter() - begun) / count

    @_once
    def change(self, condition: str, size: int) -> float:
        """Return the seconds to change an image."""
        pixels = network_costs.noise(4, size)
        begun = time.perf_counter()
        perturb.apply(pixels, condition)
        return (time.perf_counter() - begun) / len(pixels)

    @_once
    def spectrum(self, size: int) -> float:
        """Return the seconds of an image's spectrum, there and back again."""
        pixels = network_costs.noise(4, size)
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


class Free(TypedDict):
    """Free bytes of memory, as ``free_memory`` says."""

    host: int
    device: int | None


def free_memory() -> Free:
    """Return free bytes of the machine (``host``) and of its GPU (``device``; None: none)."""
    told = devices.nvidia("memory.free")
    first = told[0].split()[0] if told else ""  # "40536 MiB"; "[N/A]" where the driver won't say
    free = int(first) * 2**20 if first.isdecimal() else None
    return {"host": devices.memory()["available"], "device": free}
