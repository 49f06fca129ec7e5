"""Items of work, and what each takes of time, disk and memory; ``costs.Bench`` measures."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from w207lib import robustness
from w207lib.machine import accelerators
from w207lib.nets import attacks
from w207lib.running.network_costs import Network

SAVE_RATE = 200e6
"""Bytes a second that Keras saves a network at."""
ROW = 100
"""Bytes of a prediction on disk."""


def _halved(need: tuple[int, int], batch: int, room: int) -> int:
    """Return the bytes of a batch that is halved until it fits, as ``accelerators`` does."""
    base, each = need
    while batch > 1 and base + batch * each > accelerators.SHARE * room:
        batch = math.ceil(batch / 2)
    return base + batch * each


@dataclass(frozen=True)
class Use:
    """What a work item takes.

    Attributes:
        seconds: At most.
        least: Seconds if all goes well, where that is another number.
        disk: Bytes that stay, ``passing`` those that are removed again.
        passing: As above.
        host: Bytes of the machine's memory, and ``device`` of what the network is computed on.
        device: As above.
    """

    seconds: float
    least: float | None = None
    disk: int = 0
    passing: int = 0
    host: int = 0
    device: int = 0


@dataclass(frozen=True)
class Decode:
    """Bring all readable images to a size; once, and not where that is done already."""

    size: int

    def use(self, bench) -> Use:
        """Return what it takes."""
        bytes_ = bench.missing_bytes(self.size)
        count = bytes_ / (3 * self.size**2)
        if not count:
            return Use(0.0)
        processes = bench.processes()
        starting = 2 if processes > 1 else 0
        return Use(starting + count * bench.decode(self.size) / processes, disk=bytes_)

    def __str__(self):
        return f"decoding to {self.size} pixels"


@dataclass(frozen=True)
class Read:
    """Read image files at their own sizes, one after the other."""

    images: int
    times: int = 1

    def use(self, bench) -> Use:
        """Return what it takes."""
        return Use(self.images * self.times * bench.decode(None))

    def __str__(self):
        return "reading image files"


@dataclass(frozen=True)
class Train:
    """Train a network; see ``train.fit``.

    ``minutes`` is the time after which no epoch is begun; ``least`` another network that it may
    be instead, for the least time; ``times`` how often all of it is done; ``kept`` whether the
    networks stay on the disk.
    """

    network: Network
    images: int
    validation: int
    epochs: int
    minutes: float | None = None
    least: Network | None = None
    times: int = 1
    kept: bool = True

    def _seconds(self, bench, network: Network) -> float:
        cost = bench.network(network)
        epoch = math.ceil(self.images / network.batch) * cost.step
        epoch += self.validation * cost.predict + 2 * cost.saved() / SAVE_RATE
        training = epoch * self.epochs
        if self.minutes is not None:
            training = min(training, max(60 * self.minutes, epoch))
        scoring = (self.images + self.validation) * cost.predict
        return self.times * (1.5 * cost.first + training + scoring + 1)

    def use(self, bench) -> Use:
        """Return what it takes."""
        cost = bench.network(self.network)
        seconds = self._seconds(bench, self.network)
        rows = (self.images + self.validation) * ROW
        pixels = sum(bench.held(n, self.network.size) for n in (self.images, self.validation))
        once = bench.at_once(self.network.batch)
        memory = max(
            _halved(cost.training, self.network.batch, bench.room),
            _halved(cost.predicting, once, bench.room),
        )
        return Use(
            seconds,
            None if self.least is None else self._seconds(bench, self.least),
            disk=self.kept * self.times * (cost.saved() + rows), passing=2 * cost.saved(),
            host=2 * pixels, device=memory,
        )  # fmt: skip

    def __str__(self):
        times = f"{self.times} trainings of " if self.times > 1 else "training "
        return f"{times}{self.network.recipe}, {self.epochs} epochs"


@dataclass(frozen=True)
class Search:
    """Train each of some networks; see ``tune.search``. Which ones may be known beforehand."""

    networks: tuple[Network, ...]
    epochs: int
    images: int
    validation: int

    def use(self, bench) -> Use:
        """Return what it takes."""
        trials = [
            Train(network, self.images, self.validation, self.epochs, kept=False).use(bench)
            for network in self.networks
        ]
        costliest = max(trials, key=lambda use: use.device)
        weights = [4 * bench.network(network).parameters for network in self.networks]
        seconds = sum(use.seconds for use in trials)
        return dataclasses.replace(costliest, seconds=seconds, passing=sum(weights))

    def __str__(self):
        return f"a search of {len(self.networks)} trials, {self.epochs} epochs"


@dataclass(frozen=True)
class Limited:
    """Train a network until its time is over; it is not measured."""

    name: str
    minutes: float

    def use(self, bench) -> Use:
        """Return what it takes."""
        return Use(60 * self.minutes + 30, disk=int(5e8), passing=int(1e9))

    def __str__(self):
        return f"training {self.name} until its {self.minutes:g} minutes are over"


@dataclass(frozen=True)
class Predict:
    """Score images ``times`` times; ``least`` as for ``Train``."""

    network: Network
    images: int
    times: int = 1
    least: Network | None = None

    def use(self, bench) -> Use:
        """Return what it takes."""
        cost = bench.network(self.network)
        seconds = self.images * self.times * cost.predict + cost.first / 4 + 0.5
        least = None
        if self.least is not None:
            small = bench.network(self.least)
            least = self.images * self.times * small.predict + small.first / 4 + 0.5
        chunk = min(self.images, robustness.CHUNK) * 12 * self.network.size**2
        return Use(
            seconds, least, disk=self.images * self.times * ROW // 4,
            host=bench.held(self.images, self.network.size) + 2 * chunk,
            device=_halved(cost.predicting, bench.at_once(self.network.batch), bench.room),
        )  # fmt: skip

    def __str__(self):
        times = f" {self.times} times" if self.times > 1 else ""
        return f"scoring {self.images:,} images{times}"


@dataclass(frozen=True)
class Attack:
    """Take ``steps`` gradients of each image; ``least`` as for ``Train``."""

    network: Network
    images: int
    steps: int
    least: Network | None = None

    def use(self, bench) -> Use:
        """Return what it takes."""
        count = self.images * self.steps
        cost = bench.network(self.network)
        batch = min(attacks.at_once(self.network.size), self.images)
        return Use(
            count * bench.gradient(self.network),
            None if self.least is None else count * bench.gradient(self.least),
            host=4 * batch * 12 * self.network.size**2,
            device=cost.training[0] + batch * cost.training[1],
        )  # fmt: skip

    def __str__(self):
        return f"attacking {self.images:,} images in {self.steps} steps"


@dataclass(frozen=True)
class Change:
    """Change images by conditions of ``perturb``."""

    images: int
    size: int
    conditions: tuple[str, ...]

    def use(self, bench) -> Use:
        """Return what it takes."""
        seconds = sum(bench.change(condition, self.size) for condition in self.conditions)
        return Use(self.images * seconds)

    def __str__(self):
        return f"changing {self.images:,} images in {len(self.conditions)} ways"


@dataclass(frozen=True)
class Spectra:
    """Transform images to frequencies."""

    images: int
    size: int

    def use(self, bench) -> Use:
        """Return what it takes."""
        pixels = 3 * self.images * self.size**2
        part = 20 * min(512, self.images) * 3 * self.size**2
        return Use(self.images * bench.spectrum(self.size), host=2 * pixels + part)

    def __str__(self):
        return f"spectra of {self.images:,} images"


@dataclass(frozen=True)
class Forest:
    """Fit the random forest."""

    rows: int

    def use(self, bench) -> Use:
        """Return what it takes."""
        seconds, rows = bench.forest()
        share = self.rows * math.log2(self.rows + 2) / (rows * math.log2(rows + 2))
        return Use(seconds * max(share, 1.0), disk=self.rows * 2_000, host=self.rows * 6_000)

    def __str__(self):
        return f"the forest, {self.rows:,} rows"


@dataclass(frozen=True)
class Vectors:
    """Fit the support vector machine, quadratic in its rows, and score others by it."""

    rows: int
    scored: int

    def use(self, bench) -> Use:
        """Return what it takes."""
        fitting, scoring, rows = bench.svm()
        share = max(self.rows / rows, 1.0)
        return Use(fitting * share**2 + scoring * share * max(self.scored / rows, 1.0))

    def __str__(self):
        return f"the support vector machine, {self.rows:,} rows"


@dataclass(frozen=True)
class Hold:
    """Keep copies of images in memory."""

    images: int
    size: int
    copies: int

    def use(self, bench) -> Use:
        """Return what it takes."""
        return Use(0.0, host=3 * self.images * self.copies * self.size**2)

    def __str__(self):
        return "images in memory"


@dataclass(frozen=True)
class Fixed:
    """What takes as long whatever the data: drawing, building, loading."""

    seconds: float

    def use(self, bench) -> Use:
        """Return what it takes."""
        return Use(self.seconds)

    def __str__(self):
        return "drawing and loading"
