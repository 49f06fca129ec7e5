"""Images changed on purpose, so that a model errs: by one step of its gradient, or by many.

An attack may change every value by at most ``epsilon`` grey levels (the L-infinity ball; of 255,
so 2 is what papers call 2/255) and stays within 0 to 255. It raises the loss of the true label,
through the logit, so that a saturated score gives no shelter. Results are whole grey levels,
because a file holds no others; an attack that needs halves does not survive saving.

Sources: I. Goodfellow et al., "Explaining and harnessing adversarial examples", ICLR 2015 (FGSM);
A. Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018 (PGD).
"""

from __future__ import annotations

import numpy as np

from w207lib.nets import gradients

BATCH = 256
"""Images that are differentiated at a time."""
PIXELS = 2**20
"""Pixels that are differentiated at a time, where images are large."""
STEPS = 10
"""Steps of PGD, unless told."""


def fgsm(model, x: np.ndarray, labels: np.ndarray, epsilon: int) -> np.ndarray:
    """Attack by one step: every value moves by ``epsilon``, to the side of a higher loss.

    Args:
        model: A Keras model as ``gradients.fake_logit`` takes it.
        x: uint8 ``(N, S, S, 3)``.
        labels: The truth, 0 REAL or 1 FAKE, ``(N,)`` or ``(N, 1)``.
        epsilon: Most grey levels a value changes; whole, 0 to 255.

    Returns:
        uint8 ``(N, S, S, 3)``.

    Raises:
        ValueError: ``x``, ``labels`` or ``epsilon`` are not of that kind.
        RuntimeError: Keras runs on a backend that has no gradients.
    """
    x, labels = _checked(x, labels, epsilon)
    logit = gradients.fake_logit(model)
    attacked = x.copy()
    for part in _batches(x):
        _, ascent = _ascent(logit, x[part], labels[part])
        attacked[part] = _whole(x[part] + epsilon * np.sign(ascent))
    return attacked


def pgd(
    model, x: np.ndarray, labels: np.ndarray, epsilon: int, *, steps: int = STEPS,
    step_size: float | None = None, seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """Attack by many small steps from a random start, each brought back into the ball.

    The gradient is taken at whole grey levels, and of all steps each image keeps the one with
    the highest loss.

    Args:
        model: As for ``fgsm``.
        x: uint8 ``(N, S, S, 3)``.
        labels: The truth, 0 REAL or 1 FAKE, ``(N,)`` or ``(N, 1)``.
        epsilon: Most grey levels a value changes; whole, 0 to 255.
        steps: Number of steps, 1 or more.
        step_size: Grey levels a step; None for ``2.5 × epsilon / steps``, Madry's choice.
        seed: Seed of the start.

    Returns:
        uint8 ``(N, S, S, 3)``.

    Raises:
        ValueError: As ``fgsm``; or there is no step.
        RuntimeError: As ``fgsm``.
    """
    x, labels = _checked(x, labels, epsilon)
    if steps < 1:
        raise ValueError(f"pgd: steps={steps!r}; expected 1 or more.")
    size = 2.5 * epsilon / steps if step_size is None else step_size
    random = np.random.default_rng(seed)
    logit = gradients.fake_logit(model)
    attacked = x.copy()
    for part in _batches(x):
        start, truth = x[part].astype(np.float32), labels[part]
        place = start + random.uniform(-epsilon, epsilon, start.shape).astype(np.float32)
        highest = np.full(len(start), -np.inf, np.float32)
        for _ in range(steps + 1):  # the last one only looks where the last step led
            whole = _whole(place)
            loss, ascent = _ascent(logit, whole, truth)
            better = loss > highest
            attacked[part][better] = whole[better]
            highest = np.maximum(loss, highest)
            place = np.clip(place + size * np.sign(ascent), start - epsilon, start + epsilon)
    return attacked


def random_noise(x: np.ndarray, epsilon: int, seed: int = 0) -> np.ndarray:
    """Move every value by ``epsilon`` to a random side: as large as an attack, but aimless.

    Args:
        x: uint8 ``(N, S, S, 3)``.
        epsilon: Grey levels each value changes; whole, 0 to 255.
        seed: Seed of the signs.

    Returns:
        uint8 ``(N, S, S, 3)``.
    """
    x, _ = _checked(x, np.zeros(len(x)), epsilon)
    signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.int16), x.shape)
    return _whole(x + epsilon * signs)


def _ascent(logit, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how wrong each image's logit is, and its gradient; both rise with the loss."""
    side = np.where(labels == 1, -1, 1).astype(np.float32)
    values, gradient = gradients.input_gradient(logit, pixels)
    return side * values, side[:, None, None, None] * gradient


def _whole(levels: np.ndarray) -> np.ndarray:
    """Bring values to whole grey levels in [0, 255]; that takes none out of a ball around some."""
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def at_once(size: int) -> int:
    """Return how many images of this side, in pixels, are attacked at a time."""
    return max(8, min(BATCH, PIXELS // size**2))


def _batches(x: np.ndarray) -> list[slice]:
    step = at_once(x.shape[1])
    return [slice(start, start + step) for start in range(0, len(x), step)]


def _checked(x: np.ndarray, labels: np.ndarray, epsilon: int) -> tuple[np.ndarray, np.ndarray]:
    x, labels = np.asarray(x), np.asarray(labels)
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[-1] != 3:
        raise ValueError(
            f"attack: {x.dtype} pixels of shape {x.shape} came; expected uint8 (N, S, S, 3), "
            "as in pipeline.Images.pixels."
        )
    if labels.size != len(x) or not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"attack: labels of shape {labels.shape} came for {len(x)} images; expected the "
            "truth of each, 0 (REAL) or 1 (FAKE)."
        )
    if not 0 <= epsilon <= 255 or epsilon % 1:
        raise ValueError(
            f"attack: epsilon={epsilon!r}; expected whole grey levels from 0 to 255, such as 2."
        )
    return x, labels.reshape(-1)
