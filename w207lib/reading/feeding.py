"""Batches for Keras where its backend is not TensorFlow; nothing of TensorFlow is imported."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from w207lib.machine.devices import quiet_keras

PyDataset: Any = quiet_keras().utils.PyDataset


class Batches(PyDataset):
    """Batches of images, in order, or in passes without end that are shuffled anew.

    The next batch is read while the network works on this one. A batch depends on its number
    alone, so a training that was stopped goes on with the very batches it would have had. The
    order of a shuffled pass is another than that of ``tf.data`` with the same seed.

    Args:
        read: Function of int64 ``(B,)`` positions, giving uint8 ``(B, S, S, 3)``.
        labels: float32 ``(N, 1)``.
        batch_size: Images a batch; the last one of a pass may be smaller.
        shuffle_seed: None for one pass in order.
        first_epoch: The shuffled pass to start with.
    """

    def __init__(self, read, labels, batch_size, *, shuffle_seed=None, first_epoch=0):
        super().__init__(workers=1)
        self.read, self.labels, self.batch = read, labels, batch_size
        self.seed, self.first = shuffle_seed, first_epoch
        self.steps = math.ceil(len(labels) / batch_size)
        self.order: tuple = (None, np.arange(len(labels)))
        self.ahead: tuple = (None, None)
        self.reader = ThreadPoolExecutor(1)

    @property
    def num_batches(self):
        """Batches of one pass; None for passes without end."""
        return self.steps if self.seed is None else None

    def __getitem__(self, number):
        """Return batch ``number``: float32 ``(B, S, S, 3)`` in [0, 255] and ``(B, 1)``."""
        waiting, future = self.ahead
        batch = future.result() if waiting == number else self._load(number)
        if self.seed is not None or number + 1 < self.steps:
            self.ahead = (number + 1, self.reader.submit(self._load, number + 1))
        return batch

    def _load(self, number):
        epoch, step = divmod(number, self.steps)
        index = self._order(self.first + epoch)[step * self.batch : (step + 1) * self.batch]
        return self.read(index).astype(np.float32), self.labels[index]

    def _order(self, epoch):
        known, order = self.order
        if self.seed is None or known == epoch:
            return order
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.labels))
        self.order = (epoch, order)
        return order
