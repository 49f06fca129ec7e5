"""Training spread over several devices, and in batches that fit their memory.

Neither changes what is learnt: the profile's batch stays the one of every weight update, but for
batch norm, whose statistics are those of the images that one device sees at once.
``devices.wanted_devices`` says how ``W207_DEVICES`` chooses the devices.
"""

from __future__ import annotations

import gc
import logging
import math
import random
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import numpy as np

from w207lib.machine import devices
from w207lib.machine.devices import GIB, quiet_keras

log = logging.getLogger(__name__)

SHARE = 0.8
"""Share of the available memory that a training may take."""
ACTIVATIONS = 1.75
"""Bytes of a training step for each byte that the layers give out; see ``bytes_needed``."""
WIDEST = 1.5
"""Bytes of a prediction for each byte of the two widest neighbouring layers."""
FIXED = 2**27
"""Bytes that the first step takes at any size: compiled code and scratch space."""


# --- several devices ---------------------------------------------------------------------


def used(batch_size: int | None = None) -> list[str]:
    """Return the devices that share a batch, one at the least, none without a name for it.

    Args:
        batch_size: Images of a batch; there are never more devices than images.
    """
    logical, most = devices.wanted_devices()
    name = quiet_keras().backend.backend()
    if name == "tensorflow":
        import tensorflow as tf

        kind = "CPU" if logical else "GPU"
        found = tf.config.list_logical_devices(kind) if logical or _gpus(tf) > 1 else []
        names = [device.name for device in found]
    elif name == "jax":
        names = list(quiet_keras().distribution.list_devices())
    else:
        names = []  # torch spreads over processes, which is not supported here
    limits = [n for n in (most, batch_size) if n is not None]
    return names[: min([len(names), *limits])]


def count(batch_size: int | None = None, pieces: int = 1) -> int:
    """Return the number of devices that share a batch.

    Args:
        batch_size: As for ``used``.
        pieces: Micro-batches a batch; TensorFlow's mirrored variables can't be accumulated
            (Keras 3.15), so with more than one, a single device has to do there.
    """
    if pieces > 1 and quiet_keras().backend.backend() == "tensorflow":
        return 1
    return max(1, len(used(batch_size)))


def strategy(number: int):
    """Return a context in which a network is built, loaded, compiled and trained.

    Args:
        number: Devices, from ``count``. With one, the context does nothing.

    Returns:
        ``MirroredStrategy`` of TensorFlow or ``DataParallel`` of Keras on JAX, entered by
        ``with``.
    """
    return nullcontext() if number < 2 else distribution(number).scope()


def distribution(number: int):
    """Return what spreads over the first ``number`` devices, None for one."""
    return None if number < 2 else _distribution(tuple(used()[:number]))


@lru_cache(maxsize=1)
def _distribution(names: tuple[str, ...]):
    log.info("training is spread over %d devices: %s", len(names), ", ".join(names))
    keras = quiet_keras()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.distribute.MirroredStrategy(list(names))
    return keras.distribution.DataParallel(devices=list(names), auto_shard_dataset=False)


def _gpus(tf) -> int:
    return len(tf.config.list_physical_devices("GPU"))


# --- parts of a batch --------------------------------------------------------------------


def parts(batches, *, pieces: int = 1, devices: int = 1, class_weight: dict | None = None):
    """Cut batches into equal pieces that weigh as the whole batch does.

    A batch that can't be cut evenly (the last of a pass) is filled up with its own first images
    at weight 0. Summed over its pieces the gradient is that of the batch, whatever its size.
    Keras's unweighted accuracy counts the filling, too.

    Args:
        batches: A ``tf.data.Dataset`` or ``keras.utils.PyDataset`` of pairs.
        pieces: Micro-batches a batch.
        devices: Devices that share each micro-batch.
        class_weight: Weight of label 0 and 1; Keras takes none beside weights an image.

    Returns:
        The same kind of thing, of triples: pixels ``(M, S, S, 3)``, labels ``(M, 1)``, weights
        float32 ``(M,)``; ``pieces`` of them for each batch.
    """
    weights = [(class_weight or {}).get(label, 1.0) for label in (0, 1)]
    keras = quiet_keras()
    if isinstance(batches, keras.utils.PyDataset):
        return _numpy_parts(keras)(batches, pieces, devices, weights)
    import tensorflow as tf

    def cut(x, y):
        number = tf.shape(x)[0]
        size = -(-number // (pieces * devices)) * pieces * devices
        place = tf.range(size)
        index = place % number
        labels = tf.gather(y, index)
        factor = tf.where(place < number, tf.cast(size / number, tf.float32), 0.0)
        weight = factor * tf.gather(tf.constant(weights), tf.cast(labels[:, 0], tf.int32))
        whole = (tf.gather(x, index), labels, weight)
        if pieces == 1:
            return whole
        return tuple(
            tf.reshape(part, tf.concat([[pieces, size // pieces], tf.shape(part)[1:]], 0))
            for part in whole
        )

    def shaped(x, y, weight):  # reshaping has lost the image's sides
        return tf.ensure_shape(x, (None, *sides)), tf.ensure_shape(y, (None, 1)), weight

    sides = batches.element_spec[0].shape[1:]
    made = batches.map(cut)
    made = made if pieces == 1 else made.unbatch()
    return made.map(shaped).prefetch(2)


@lru_cache(maxsize=1)
def _numpy_parts(keras):
    base: Any = keras.utils.PyDataset

    class Parts(base):
        """As ``parts`` says, without TensorFlow."""

        def __init__(self, batches, pieces, devices, weights):
            super().__init__(workers=1)
            self.batches, self.pieces, self.devices = batches, pieces, devices
            self.weights = np.asarray(weights, np.float32)
            self.kept: tuple = (None, None)

        @property
        def num_batches(self):
            """Pieces of one pass; None for passes without end."""
            number = self.batches.num_batches
            return None if number is None else number * self.pieces

        def __getitem__(self, number):
            """Return piece ``number``: pixels, labels, weights."""
            batch, piece = divmod(number, self.pieces)
            if self.kept[0] != batch:
                self.kept = (batch, self._filled(*self.batches[batch]))
            size = len(self.kept[1][0]) // self.pieces
            return tuple(part[piece * size : (piece + 1) * size] for part in self.kept[1])

        def on_epoch_end(self):
            """Let the batches under it know."""
            self.batches.on_epoch_end()
            self.kept = (None, None)

        def _filled(self, x, y):
            number = len(x)
            least = self.pieces * self.devices
            place = np.arange(-(-number // least) * least)
            x, y = x[place % number], y[place % number]
            factor = np.where(place < number, np.float32(len(place) / number), np.float32(0))
            return x, y, factor * self.weights[y[:, 0].astype(int)]

    return Parts


# --- memory ------------------------------------------------------------------------------


def bytes_needed(model, batch_size: int, *, training: bool = True) -> int:
    """Estimate the memory that a network takes beyond an idle process, on a processor.

    Weights, and in training their gradient and Adam's two moments, in float32; then, for each
    image, the layers' outputs: all of them in training, the widest neighbours in predicting.
    The factors are measured with TensorFlow on a CPU (see the project's decisions); what layers
    keep inside them, such as attention, is not seen.

    Args:
        model: A built Keras model.
        batch_size: Images at a time on one device.
        training: Whether it learns.

    Returns:
        Bytes.
    """
    sizes = [size for layer in model.layers for size in _output_bytes(layer)]
    pixels = 4 * math.prod(model.input_shape[1:])
    if training:
        weights, image = 4, pixels + ACTIVATIONS * sum(sizes)
    else:
        widest = max(map(sum, zip([0, *sizes], [*sizes, 0], strict=True)))
        weights, image = 1, 2 * pixels + WIDEST * widest
    return int(FIXED + 4 * weights * model.count_params() + batch_size * image)


def _output_bytes(layer) -> list[int]:
    """Return the bytes that a layer, or each one nested in it, gives out for an image."""
    if hasattr(layer, "layers"):
        return [size for inner in layer.layers for size in _output_bytes(inner)]
    try:
        shape = layer.output.shape[1:]
    except (AttributeError, ValueError):
        return []
    if type(layer).__name__ == "InputLayer" or None in shape:
        return []
    halves = "16" in layer.compute_dtype
    return [math.prod(shape) * (3 if halves else 4)]  # some of it is kept in float32, too


def is_out_of_memory(error: BaseException) -> bool:
    """Whether TensorFlow, JAX, PyTorch or Python ran out of memory."""
    text = f"{type(error).__name__}: {error}"
    signs = ("ResourceExhausted", "RESOURCE_EXHAUSTED", "OutOfMemory", "out of memory")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def halving(function: Callable, size: int):
    """Call a function with a size, halved for as long as the memory is too small for it.

    Args:
        function: Takes a number of images.
        size: The first one it is given.

    Returns:
        What the function returned, and the size at which it did.
    """
    while True:
        try:
            return function(size), size
        except Exception as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        gc.collect()
        log.info("a batch of %d images does not fit the memory; trying half of it", size)
        size = math.ceil(size / 2)


def fit_batch(model, batch_size: int, *, devices_used: int = 1) -> tuple[int, int]:
    """Find the largest micro-batch that fits the memory.

    On a GPU a step is tried on a copy of the network. A process that asks a CPU for too much is
    killed, so there the need is estimated.

    Args:
        model: A compiled network that has not been trained yet.
        batch_size: Images of a weight update.
        devices_used: Devices that share them.

    Returns:
        Images of a micro-batch, and how many make up ``batch_size``: 1 where it fits whole.

    Raises:
        RuntimeError: Not even one image a device fits.
    """
    _, micro = _fitting(model, batch_size, devices_used, training=True)
    return micro, math.ceil(batch_size / micro)


def fitted(make: Callable, batch_size: int) -> tuple:
    """Make a network whose batches fit the devices and memory there are.

    Args:
        make: Takes a number of micro-batches, and builds and compiles a network for them.
        batch_size: Images of a weight update.

    Returns:
        The network, the number of micro-batches a batch, and the number of devices that
        share each.

    Raises:
        RuntimeError: As ``fit_batch``.
    """
    state, shared = random.getstate(), count(batch_size)
    with strategy(shared):
        model = make(1)
        micro, pieces = fit_batch(model, batch_size, devices_used=shared)
    if pieces == 1:
        return model, 1, shared
    if count(batch_size, pieces) < shared:
        log.info("%s: a batch does not fit %d devices at once; one is used", model.name, shared)
        shared = 1
        micro, pieces = fit_batch(model, batch_size)
    log.info("%s: %d micro-batches of %d images make a batch", model.name, pieces, micro)
    del model
    random.setstate(state)  # Keras draws an initializer's seed from it
    with strategy(shared):
        return make(pieces), pieces, shared


def fit_evaluation(model, most: int = 256, *, devices_used: int = 1) -> int:
    """Return how many images can be predicted at a time: ``most``, or a half, a quarter … of it.

    Args:
        model: The network.
        most: Images at a time, at most.
        devices_used: Devices that share them.

    Raises:
        RuntimeError: Not even one fits.
    """
    return _fitting(model, most, devices_used, training=False)[1]


def _fitting(model, batch_size: int, devices_used: int, *, training: bool):
    def attempt(size):
        share = math.ceil(size / devices_used)
        if devices.has_gpu():
            return _try(model, share, devices_used, training=training)
        needed = bytes_needed(model, share, training=training) * devices_used
        available = devices.memory()["available"]
        if needed > SHARE * available:
            raise MemoryError(
                f"needs about {needed / GIB:.1f} GiB and {available / GIB:.1f} GiB are free, of "
                f"which {SHARE:.0%} may be used"
            )

    try:
        return halving(attempt, batch_size)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        side = model.input_shape[1]
        why = f" ({error})" if isinstance(error, MemoryError) else ""
    raise RuntimeError(
        f"{model.name} at {side}×{side} pixels does not fit this machine's memory even with one "
        f"image at a time{why}. Give a smaller --image-size, another recipe, or a machine with "
        "more memory."
    )


def _try(model, share: int, devices_used: int, *, training: bool) -> None:
    """Predict once, or train a copy by one step, whose memory is free afterwards.

    Args:
        model: A compiled network.
        share: Images a device.
        devices_used: Devices; TensorFlow gives each all it is handed, JAX its share of it.
        training: Whether to train.
    """
    keras = quiet_keras()
    rows = share if keras.backend.backend() == "tensorflow" else share * devices_used
    pixels = np.zeros((rows, *model.input_shape[1:]), np.float32)
    if not training:
        model.predict_on_batch(pixels)
        return
    copy = keras.models.clone_model(model)
    try:
        copy.compile_from_config(model.get_compile_config())
        copy.train_on_batch(pixels, np.zeros((rows, 1), np.float32))
    finally:
        del copy
        gc.collect()
