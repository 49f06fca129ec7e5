"""Gradients with respect to a model's input, on whichever backend Keras runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from w207lib import predict
from w207lib.machine.devices import quiet_keras


def input_gradient(function: Callable, *inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differentiate one number an image with respect to the first input.

    Args:
        function: Takes tensors of the backend, as many as ``inputs``, and returns a tensor
            ``(B,)`` in which entry i depends on row i of the inputs alone.
        *inputs: float32 arrays, each with B rows.

    Returns:
        The values, float32 ``(B,)``, and their gradient, float32, shaped as the first input.

    Raises:
        RuntimeError: Keras runs on a backend that has no gradients (NumPy, OpenVINO).
    """
    keras = quiet_keras()
    arrays = [np.asarray(array, np.float32) for array in inputs]
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tensors = [tf.constant(array) for array in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors[0])
            values = function(*tensors)
        gradient = tape.gradient(values, tensors[0])
    elif backend == "jax":
        import jax

        def total(first, *rest):
            values = function(first, *rest)
            return values.sum(), values

        gradient, values = jax.grad(total, has_aux=True)(*map(jax.numpy.asarray, arrays))
    elif backend == "torch":
        tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
        first = tensors[0].detach().clone().requires_grad_(True)
        values = function(first, *tensors[1:])
        values.sum().backward()
        gradient = first.grad
    else:
        raise RuntimeError(
            f"Keras runs on {backend!r}, which has no gradients; set KERAS_BACKEND to "
            "tensorflow, jax or torch before Python starts."
        )
    if gradient is None:
        raise ValueError("the function does not depend on its first input: no gradient.")
    return _numpy(values), _numpy(gradient)


def fake_logit(model) -> Callable:
    """Return the function from pixels to log(P(FAKE) / P(REAL)) ``(B,)``, as tensors.

    Taken from the last layer's linear part, so that a saturated score (0 or 1 in float32) still
    has a gradient.

    Raises:
        ValueError: The model's last layer is no dense layer of one or two columns.
    """
    keras = quiet_keras()
    head = model.layers[-1]
    column = predict.fake_column(model)
    if not isinstance(head, keras.layers.Dense):
        raise ValueError(
            f"model {model.name} ends in {type(head).__name__}; expected a Dense layer."
        )
    features = keras.Model(model.inputs, head.input)

    def logit(pixels):
        x = keras.ops.cast(features(pixels, training=False), "float32")
        linear = keras.ops.matmul(x, head.kernel) + head.bias
        if linear.shape[-1] == 1:
            return linear[:, 0]
        return linear[:, column] - linear[:, 1 - column]

    return logit


def _numpy(tensor) -> np.ndarray:
    return np.asarray(quiet_keras().ops.convert_to_numpy(tensor), np.float32)
