"""Checks of networks and their trainings: counts, frozen layers, scaling, and the epoch kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from w207lib import models
from w207lib.auditing import claims
from w207lib.auditing.findings import Finding
from w207lib.machine.devices import quiet_keras

SAME_RANGE = 0.1
"""Share of the expected span by which the ends of a batch's values may miss it: a batch need
not hold a black and a white pixel."""


def parameter_count(model, claimed: int) -> Finding:
    """Say what a claimed number of parameters counts.

    Args:
        model: A Keras model, compiled or not.
        claimed: What is reported.
    """
    counts = models.parameter_counts(model)
    total, trainable = counts["total"], counts["trainable"]
    if claimed == total:
        return Finding("parameter_count", "fine", f"{claimed:,} are the network's", "")
    if claimed == trainable:
        return Finding(
            "parameter_count", "note", f"{claimed:,} are the trainable ones of {total:,}",
            "Both are right; a comparison must take the same one twice.", "Say which.",
        )  # fmt: skip
    advice = "Take models.parameter_counts, or model.count_params()."
    if claimed == claims.optimizer_state(total, trainable):
        return Finding(
            "parameter_count", "severe",
            f"{claimed:,} hold the optimizer's state; the network has {total:,}",
            "The summary of a trained model adds Adam's two moments for each trainable parameter, "
            "a counter and the learning rate to its total.", advice,
        )  # fmt: skip
    return Finding(
        "parameter_count", "severe",
        f"{claimed:,} are neither the network's {total:,} nor its trainable {trainable:,}",
        "The claim is about another network, or another image size.", advice,
    )  # fmt: skip


def frozen(model, layer: str) -> Finding:
    """Ask whether a layer that is said to be frozen has no trainable weights.

    Args:
        model: A Keras model.
        layer: The layer's name, such as that of a backbone.

    Raises:
        ValueError: There is no such layer.
    """
    part = next((each for each in model.layers if each.name == layer), None)
    if part is None:
        names = ", ".join(each.name for each in model.layers)
        raise ValueError(f"model {model.name} has no layer {layer!r}; it has {names}.")
    counts = models.parameter_counts(part)
    title = f"{layer}: {counts['trainable']:,} of {counts['total']:,} parameters are trainable"
    if not counts["trainable"]:
        return Finding("frozen", "fine", title, "")
    return Finding(
        "frozen", "severe", title,
        "Training changes them, so what the backbone had learned before may be lost.",
        f"Set model.get_layer({layer!r}).trainable = False, then compile.",
    )  # fmt: skip


def weights_moved(
    before: Sequence[np.ndarray], after: Sequence[np.ndarray], *, expected: bool = False
) -> Finding:
    """Compare a layer's weights before and after training.

    Args:
        before: From ``get_weights``, copied before: arrays of any shapes.
        after: The same weights afterwards.
        expected: Whether they were meant to move; by default they are said to be frozen.
    """
    moved = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    title = f"{sum(moved)} of {len(moved)} weight arrays moved"
    if any(moved) == expected:
        return Finding("weights_moved", "fine", title, "")
    text = (
        "The layer is said to be frozen and was trained: a trainable flag that is set after the "
        "first training step is not heard until the model is compiled again."
        if any(moved)
        else "The layer is meant to learn, and nothing happened to it."
    )
    return Finding("weights_moved", "severe", title, text, "Set the flag, compile, then compare.")


def scaling_fits(backbone: str, pixels: np.ndarray) -> Finding:
    """Ask whether pixels have the range that a pretrained backbone was trained with.

    Args:
        backbone: Name in ``keras.applications``, such as ``ResNet101``.
        pixels: What would be fed to it, ``(N, S, S, 3)``, of ordinary images.

    Raises:
        ValueError: The backbone has no ``preprocess_input`` in ``keras.applications``.
    """
    modules = vars(quiet_keras().applications).values()
    made = [m.preprocess_input for m in modules
            if hasattr(m, backbone) and hasattr(m, "preprocess_input")]  # fmt: skip
    if not made:
        raise ValueError(f"backbone {backbone!r} is not in a module of keras.applications.")
    ends = np.zeros((2, 1, 1, 3), np.float32)
    ends[1] = 255
    wanted = np.asarray(made[0](ends.copy()))
    low, high = float(wanted.min()), float(wanted.max())
    given = float(np.min(pixels)), float(np.max(pixels))
    title = f"values of {given[0]:.0f} to {given[1]:.0f}; {backbone} knows {low:.0f} to {high:.0f}"
    missed = max(abs(given[0] - low), abs(given[1] - high)) / (high - low)
    if missed <= SAME_RANGE:
        return Finding("scaling_fits", "fine", title, "")
    return Finding(
        "scaling_fits", "severe", title,
        "On another scale all images look nearly alike to pretrained weights.",
        "Use the backbone's own preprocess_input, best inside the model.",
    )  # fmt: skip


def epoch_kept(history: pd.DataFrame, kept: int) -> Finding:
    """Ask whether the weights of the best epoch were kept.

    Args:
        history: With ``epoch`` and ``val_loss``.
        kept: The epoch whose weights are reported.
    """
    by_epoch = history.set_index("epoch")["val_loss"]
    best = int(by_epoch.idxmin())
    title = f"epoch {kept} kept at a validation loss of {by_epoch[kept]:.3f}"
    if kept == best:
        return Finding("epoch_kept", "fine", title, "")
    return Finding(
        "epoch_kept", "warning", f"{title}; epoch {best} had {by_epoch[best]:.3f}",
        "Validation said that an earlier or later network was better.",
        "Keep the weights of the lowest validation loss, on images that are not the test's.",
    )  # fmt: skip
