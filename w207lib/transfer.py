"""Transfer learning: what weights from elsewhere are worth, in two phases or at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd

from w207lib import train
from w207lib.config import Profile
from w207lib.pipeline import Data


def fine_tune(
    backbone: str, data: Data, profile: Profile, folder: Path, *, weights: str | None,
    head_epochs: int, tune_epochs: int, head_rate: float = 1e-3, tune_rate: float = 1e-5,
) -> tuple[Path, Path]:  # fmt: skip
    """Train a head on a frozen backbone, then everything at a smaller rate.

    In both phases the backbone's batch norm keeps its averages: they are of the data it was
    trained on, and a few small batches would spoil them (Keras's guide to transfer learning).

    Args:
        backbone: As in ``transfer:<Backbone>``.
        data: Images with splits, at the size to train at.
        profile: Gives batch size, precision and seed.
        folder: Parent of the two run folders.
        weights: ``imagenet``, a local file, or None for random ones; never chosen silently.
        head_epochs: Most epochs of the first phase.
        tune_epochs: Most epochs of the second.
        head_rate: Learning rate of the first phase.
        tune_rate: Learning rate of the second.

    Returns:
        Run folders of both phases, ``<backbone>-head`` and ``<backbone>-tuned``.

    Raises:
        ConnectionError: The ImageNet weights are not here and cannot be fetched.
        ValueError: The backbone or its weights file are unknown.
    """
    recipe = f"transfer:{backbone}"
    head = train.fit(
        recipe, data, dataclasses.replace(profile, epochs=head_epochs), folder,
        name=f"{backbone.lower()}-head", learning_rate=head_rate, optimizer="adam",
        weights=weights, frozen=True,
    )  # fmt: skip
    tuned = train.fit(
        recipe, data, dataclasses.replace(profile, epochs=tune_epochs), folder,
        name=f"{backbone.lower()}-tuned", learning_rate=tune_rate, optimizer="adam",
        start=head, inference_norm=True,
    )  # fmt: skip
    return head, tuned


def learning_curve(
    recipe: str, start: Path, data: Data, profile: Profile, folder: Path, *,
    sizes: tuple[int, ...], seeds: tuple[int, ...],
) -> pd.DataFrame:  # fmt: skip
    """Train from random and from given weights on growing shares of the training images.

    All starts have the same images, batches and epochs. The test split is not read.

    Args:
        recipe: The recipe of the given weights.
        start: Run folder or ``.keras`` file with them.
        data: Images with splits.
        profile: Gives epochs, batch size and precision.
        folder: Parent of the run folders.
        sizes: Numbers of training images.
        seeds: One training each; they draw the images, too.

    Returns:
        One row a training: ``images, start`` (``random``; ``head``: the given weights, of which
        only the last layer is trained; ``transfer``: all of them are), ``seed, accuracy,
        roc_auc`` (validation), ``seconds``.
    """
    rows = []
    for seed in seeds:
        for size in sizes:
            for name in ("random", "head", "transfer"):
                run = train.fit(
                    recipe, data, dataclasses.replace(profile, seed=seed), folder,
                    name=f"{recipe}-{name}-{size}-{seed}".replace(":", "_"), images=size,
                    start=None if name == "random" else start, head_only=name == "head",
                )  # fmt: skip
                key = {"images": size, "start": name, "seed": seed}
                rows.append(key | validation_scores(run))
    return pd.DataFrame(rows)


def validation_scores(run: Path) -> dict:
    """Return a run folder's validation ``accuracy``, ``roc_auc``, and its ``seconds``."""
    facts = train.read_metrics(run)
    (scores,) = [row for row in facts["scores"] if row["split"] == "validation"]
    return {
        "accuracy": scores["accuracy"], "roc_auc": scores["roc_auc"], "seconds": facts["seconds"],
    }  # fmt: skip
