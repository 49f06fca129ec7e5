"""A training's epochs: each leaves its history and its state, so that a killed one goes on.

All state is the history and the last checkpoint, and the order of batches depends on seed and
epoch alone.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import pandas as pd

from w207lib import predict, runs
from w207lib.config import Profile
from w207lib.machine import accelerators
from w207lib.machine.devices import quiet_keras
from w207lib.pipeline import Images

log = logging.getLogger(__name__)

HISTORY = "history.csv"
LAST = "last.keras"
DRAWS = 2**20
"""More than a layer's random draws in one epoch, so that no two epochs share any."""


def run(
    model, training: Images, validation: Images, profile: Profile, place: Path,
    history: pd.DataFrame, *, minutes: float | None, tensorboard: bool, pieces: int, shared: int,
    weights: dict[int, float] | None,
) -> None:  # fmt: skip
    """Train a compiled network, epoch by epoch, until its history says that it is over.

    Args:
        model: The network.
        training: Images it learns from.
        validation: Images that say which epoch is the best.
        profile: Gives epochs, patience, batch size and seed.
        place: The run folder; after each epoch it holds the history, the last state and, of the
            best epoch, the network.
        history: From ``read_history``: the epochs that were trained before.
        minutes: Time after which no further epoch is begun; None for no limit.
        tensorboard: Whether to write TensorBoard's logs.
        pieces: Micro-batches a batch.
        shared: Devices that share each micro-batch.
        weights: Of the two classes; None where they count alike.

    Raises:
        ValueError: The validation loss is no finite number.
    """
    keras = quiet_keras()
    base: Any = keras.callbacks.Callback

    class Keeper(base):
        """Writes the history, keeps the best and the last state, stops when it is time.

        All it knows is the history, so it needs no state of its own after a restart.
        """

        def on_epoch_begin(self, epoch, logs=None):
            self.started = time.perf_counter()
            states = [v for v in self.model.variables if v.name == "seed_generator_state"]
            for place, state in enumerate(states):  # Keras does not save them with a model
                state.assign([profile.seed + place, epoch * DRAWS])

        def on_epoch_end(self, epoch, logs=None):
            nonlocal history
            seconds = time.perf_counter() - self.started
            row = {"epoch": epoch + 1, **{key: float(value) for key, value in logs.items()}}
            if not math.isfinite(row["val_loss"]):
                raise ValueError(
                    f"{model.name}: the validation loss of epoch {epoch + 1} is "
                    f"{row['val_loss']}. Give a smaller learning rate."
                )
            row = pd.DataFrame([row | {"seconds": round(seconds, 3)}])
            history = row if history.empty else pd.concat([history, row], ignore_index=True)
            best = int(history["val_loss"].idxmin())
            if best == len(history) - 1:
                save(self.model, place / predict.WEIGHTS)
            runs.write_table(place / HISTORY, history)  # before the state, which decides
            save(self.model, place / LAST)
            log.info(
                "%s: epoch %d of %d, loss %.4f, validation loss %.4f, accuracy %.4f, %.0f s",
                model.name, epoch + 1, profile.epochs, *history.iloc[-1][
                    ["loss", "val_loss", "val_accuracy", "seconds"]
                ],
            )  # fmt: skip
            bar.set_postfix(validation_accuracy=f"{row['val_accuracy'].iloc[0]:.3f}")
            bar.update()
            if _is_over(history, profile, minutes):
                self.model.stop_training = True

    done = len(history)
    if done >= profile.epochs or (done and _is_over(history, profile, minutes)):
        return
    callbacks = [Keeper()]
    if tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(place / "tensorboard"))
    batch = profile.batch_size
    most = accelerators.fit_evaluation(model, max(batch, 256), devices_used=shared)
    given = training.batches(batch, shuffle_seed=profile.seed, first_epoch=done)
    checked = validation.batches(most)
    if pieces > 1 or shared > 1:
        given = accelerators.parts(given, pieces=pieces, devices=shared, class_weight=weights)
        weights = None
    if shared > 1:
        checked = accelerators.parts(checked, devices=shared)
    with runs.notebook_bar(profile.epochs - done, model.name, "epoch") as bar:
        model.fit(
            given,
            steps_per_epoch=training.steps(batch) * pieces,
            validation_data=checked,
            epochs=profile.epochs,
            initial_epoch=done,
            shuffle=False,  # the batches are shuffled already
            class_weight=weights,
            callbacks=callbacks,
            verbose=0,
        )


def _is_over(history: pd.DataFrame, profile: Profile, minutes: float | None) -> bool:
    taken = history["seconds"]
    if minutes is not None and taken.sum() + taken.iloc[-1] > 60 * minutes:
        return True  # the next epoch would not fit
    return len(history) - 1 - int(history["val_loss"].idxmin()) >= profile.patience


def save(model, path: Path) -> None:
    """Save a network with its optimizer, whole or not at all.

    Raises:
        ValueError: The clock says a year that Keras cannot write into its file.
    """
    if time.localtime().tm_year < 1980:
        raise ValueError(
            f"this machine's clock says {time.strftime('%Y-%m-%d')}, and Keras saves no network "
            "before 1980. Set the clock, and run the command again; it goes on."
        )
    with runs.replacing(path) as temporary:
        model.save(temporary)


def go_on(place: Path, steps: int, shared: int) -> tuple[Any, pd.DataFrame]:
    """Return the network and the history of a training that was stopped, of one epoch both.

    Args:
        place: The run folder.
        steps: Updates of the weights an epoch.
        shared: Devices that share each micro-batch.

    Returns:
        The network, compiled; and the rows of the epochs that it was trained for: a kill may
        fall between an epoch's row and its state.

    Raises:
        ValueError: The network was trained for more epochs than the history has.
    """
    keras = quiet_keras()
    with accelerators.strategy(shared):
        model = keras.models.load_model(place / LAST)
    done = int(keras.ops.convert_to_numpy(model.optimizer.iterations)) // steps
    history = read_history(place)
    if len(history) < done:
        raise ValueError(
            f"{place}: {HISTORY} has {len(history)} epochs, {LAST} {done}, as in a copy that was "
            "made while the training ran. Copy the folder again, or remove it to begin afresh."
        )
    return model, history.head(done)


def read_history(folder: Path) -> pd.DataFrame:
    """Return a run's history, one row an epoch; empty before the first."""
    path = Path(folder) / HISTORY
    columns = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"]
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    return pd.read_csv(path, float_precision="round_trip")
