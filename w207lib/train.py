"""Training: one run folder a model, written as it goes, resumable after a kill."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import joblib
import pandas as pd

from w207lib import baselines, evaluate, features, manifest, models, predict, runs
from w207lib.config import Profile
from w207lib.machine import accelerators, devices
from w207lib.machine.devices import quiet_keras
from w207lib.nets import epochs
from w207lib.nets.epochs import HISTORY, LAST, read_history
from w207lib.pipeline import Data, Images
from w207lib.running import provenance

log = logging.getLogger(__name__)

PIECES = ("micro_batch", "accumulation")
"""What ``config.json`` and ``metrics.json`` say beside the batch size where it did not fit."""


def fit(
    recipe: str,
    data: Data,
    profile: Profile,
    folder: Path,
    *,
    name: str | None = None,
    learning_rate: float | None = None,
    optimizer: str | None = None,
    augment: dict | None = None,
    start: Path | None = None,
    images: int | None = None,
    head_only: bool = False,
    minutes: float | None = None,
    tensorboard: bool = False,
    **options,
) -> Path:
    """Train a recipe and leave a whole run folder.

    After each epoch the state is saved; a training that was stopped goes on where it was, with
    the batches it would have had. The weights kept are those of the lowest validation loss.
    The test split is not read.

    Where there are several GPUs they share each batch. Where a batch does not fit the memory it
    is cut into micro-batches whose gradients are averaged: the same training, but for batch
    norm, which sees the images of one micro-batch on one device; ``config.json`` then says
    ``micro_batch`` and ``accumulation``. A training that goes on keeps its micro-batch.

    Args:
        recipe: As for ``models.build``. The file of your own goes into the run folder, too.
        data: Images with splits.
        profile: Gives epochs, patience, batch size, precision and seed. A recipe whose
            learning rate falls over the whole training takes all epochs.
        folder: Parent of the run folder.
        name: Name of the model and of its folder; None for the recipe's.
        learning_rate: Instead of the recipe's own.
        optimizer: ``adam`` or ``sgd``, instead of the recipe's own.
        augment: Strengths for ``augmentation.layers``, instead of the recipe's own.
        start: Run folder, or ``.keras`` file, of the same recipe whose weights it starts from;
            None for random ones.
        images: Most training images, drawn with the profile's seed; None for all.
        head_only: Whether every layer but the last keeps the weights it starts from.
        minutes: Time after which no further epoch is begun; None for no limit. One is always
            trained.
        tensorboard: Whether to write TensorBoard's logs into the run folder.
        **options: The recipe's options.

    Returns:
        The run folder: ``config.json``, ``history.csv``, ``model.keras``, ``model.json``,
        ``predictions.parquet`` (train and validation), ``metrics.json``, ``provenance.json``.

    Raises:
        ValueError: As ``models.build`` and ``models.choose_rate``; or a loss that is no longer a
            number; or ``start`` has weights of other shapes; or as ``epochs.go_on``.
        RuntimeError: Not even one image at a time fits the memory.
        ImportError: TensorBoard's logs are asked for where TensorFlow is not installed.
    """
    name = name or models.model_name(recipe)
    spec = models.find(recipe)
    if spec.schedule != "constant":
        profile = dataclasses.replace(profile, patience=profile.epochs)
    augment = spec.augment if augment is None else augment
    configuration = {
        "name": name, "recipe": recipe, "options": options, "augment": augment,
        "learning_rate": models.choose_rate(spec, learning_rate),
        "optimizer": optimizer or spec.optimizer, "images": images,
        "start": None if start is None else runs.file_digest(weights_file(start)),
        "head_only": head_only, **settings(data, profile),
    }  # fmt: skip
    own = models.own_file(recipe)
    if own is not None:
        configuration["recipe_digest"], source = runs.file_digest(own), own.read_bytes()
    path = Path(folder) / name
    run = run_folder(path, configuration, profile, free=PIECES, goes_on=_can_go_on)
    precision = configuration["precision"] = run.configuration["precision"]
    if run.kept():
        (run.path / LAST).unlink(missing_ok=True)
        return run.path
    if tensorboard:
        _require_tensorboard()
    runs.open_log(Path(folder).parent)
    training = data.split("train", most=images, seed=profile.seed)
    validation = data.split("validation")
    keras = quiet_keras()
    keras.utils.set_random_seed(profile.seed)
    steps = training.steps(profile.batch_size)
    going_on = _can_go_on(run.partial)

    def make(pieces):
        model = models.build(recipe, data.size, augment=augment, seed=profile.seed, **options)
        if start is not None:
            _set_weights(model, start)
        for layer in model.layers[:-1] if head_only else ():
            layer.trainable = False
        return models.compile_model(
            model, recipe, learning_rate=learning_rate, optimizer=optimizer,
            steps=steps * profile.epochs, accumulate=pieces,
        )  # fmt: skip

    with precision_policy(precision):
        if going_on:
            pieces = run.configuration.get("accumulation", 1)
            shared = accelerators.count(profile.batch_size, pieces)
            place = run.open()
            model, history = epochs.go_on(place, steps, shared)
            log.info("%s: going on after epoch %d", name, len(history))
        else:
            model, pieces, shared = accelerators.fitted(make, profile.batch_size)
            if pieces > 1:
                micro = math.ceil(profile.batch_size / pieces)
                configuration |= {"micro_batch": micro, "accumulation": pieces}
            run = runs.RunFolder(run.path, configuration)
            place = run.open()
            (place / HISTORY).unlink(missing_ok=True)
            history = read_history(place)
        with accelerators.strategy(shared):
            epochs.run(
                model, training, validation, profile, place, history, minutes=minutes,
                tensorboard=tensorboard, pieces=pieces, shared=shared,
                weights=class_weights(training.labels),
            )  # fmt: skip
        best = keras.models.load_model(place / predict.WEIGHTS)
        _finish(best, training, validation, data, run.configuration, place, shared)
    if own is not None:
        (place / predict.OWN_RECIPE).write_bytes(source)
    run.finish()
    (run.path / LAST).unlink(missing_ok=True)  # until here a kill goes on from it
    return run.path


def choose_precision(profile: Profile) -> str:
    """Return a profile's precision; for ``auto`` the one that is measured to be faster here."""
    if profile.precision != "auto":
        return profile.precision
    chosen, reason = devices.choose_precision()
    _tell_precision(chosen, reason)
    return chosen


def run_folder(
    path: Path, configuration: dict, profile: Profile, *, free: tuple[str, ...] = (),
    goes_on: Callable[[Path], bool] = Path.is_dir,
) -> runs.RunFolder:  # fmt: skip
    """Return a run's folder, the profile's ``precision`` added to its configuration.

    For ``auto`` a run that is kept, or was begun, decides: another measurement may differ.

    Args:
        path: As for ``runs.earlier``.
        configuration: Likewise, without the precision.
        profile: Names the precision, or ``auto``.
        free: As for ``runs.earlier``, and so is ``goes_on``.
    """
    auto = profile.precision == "auto"
    wanted = configuration | {"precision": profile.precision}
    free = (*free, "precision") if auto else free
    run = runs.earlier(path, wanted, free=free, goes_on=goes_on)
    if run is None:
        return runs.RunFolder(path, wanted | {"precision": choose_precision(profile)})
    if auto:
        _tell_precision(run.configuration["precision"], f"{path.name} was begun with it")
    return run


@functools.lru_cache
def _tell_precision(chosen: str, reason: str) -> None:
    log.info("precision %s: %s", chosen, reason)  # once a process


def settings(data: Data, profile: Profile) -> dict:
    """Return what every training's ``config.json`` says of data and profile."""
    return {
        "image_size": data.size, "batch_size": profile.batch_size, "epochs": profile.epochs,
        "patience": profile.patience, "seed": profile.seed, "data_digest": data.digest,
        "splits": data.split_digest,
    }  # fmt: skip


def weights_file(start: str | Path) -> Path:
    """Return the ``.keras`` file of a run folder, or the file itself; FileNotFoundError if none."""
    path = Path(start)
    path = path / predict.WEIGHTS if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; expected a finished run folder or a .keras file to start from."
        )
    return path


def _can_go_on(place: Path) -> bool:
    return bool((place / LAST).is_file() and len(read_history(place)))


def _require_tensorboard() -> None:
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        raise ImportError(
            "TensorBoard's logs were asked for and Keras writes them by TensorFlow, which is not "
            "installed here. Install it, or leave tensorboard out."
        ) from None


def _set_weights(model, start: Path) -> None:
    path = weights_file(start)
    given = quiet_keras().models.load_model(path, compile=False).weights
    shapes = [[tuple(weight.shape) for weight in weights] for weights in (given, model.weights)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{path} holds {len(given)} weights, {model.name} has {len(model.weights)}, and their "
            "shapes differ; start from a network of the same recipe, options and image size."
        )
    for own, weight in zip(model.weights, given, strict=True):
        own.assign(weight)


@contextmanager
def precision_policy(precision: str):
    """Make Keras layers with this dtype policy inside a ``with`` block."""
    keras = quiet_keras()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def class_weights(labels) -> dict[int, float] | None:
    """Return weights that make both classes count alike; None where they are even.

    Args:
        labels: Array of 0 and 1.

    Returns:
        ``{0: n / 2n₀, 1: n / 2n₁}`` (scikit-learn's "balanced"), or None where the smaller
        class has at least 45 % of the images.
    """
    fakes = float(labels.mean(dtype="float64"))
    if not 0 < fakes < 1 or 0.45 <= fakes <= 0.55:
        return None
    return {0: 0.5 / (1 - fakes), 1: 0.5 / fakes}


def _finish(
    model, training: Images, validation: Images, data: Data, configuration: dict, place: Path,
    shared: int,
) -> None:  # fmt: skip
    """Write predictions, metrics, facts and provenance of a trained model."""
    name, mirror = configuration["name"], models.find(configuration["recipe"]).mirror
    history = read_history(place)
    predictions = pd.concat(
        [
            predict.table(
                part.rows, predict.scores(model, part, mirror=mirror), model=name,
                grouped=data.grouped,
            )
            for part in (training, validation)
        ],
        ignore_index=True,
    )  # fmt: skip
    write_results(
        place, predictions, data, seed=configuration["seed"],
        facts={
            "recipe": configuration["recipe"], "parameters": models.parameter_counts(model),
            "epochs": len(history), "best_epoch": int(history["val_loss"].idxmin()) + 1,
            "seconds": round(float(history["seconds"].sum()), 1),
            "precision": configuration["precision"],
            **{key: configuration[key] for key in PIECES if key in configuration},
            **({"mirror": True} if mirror else {}),
            **({"devices": shared} if shared > 1 else {}),
        },
        weights_digest=predict.weights_digest(model),
    )  # fmt: skip


def write_results(
    place: Path, predictions: pd.DataFrame, data: Data, *, seed: int, facts: dict,
    weights_digest: str | None = None,
) -> None:  # fmt: skip
    """Write what every run folder has, network or not.

    Args:
        place: The run folder.
        predictions: Train and validation rows of one model.
        data: What it was trained on.
        seed: Its seed.
        facts: More for ``metrics.json``, such as parameters and seconds.
        weights_digest: Of a network, ``predict.weights_digest``.
    """
    threshold = evaluate.choose_threshold(predictions)
    scored = evaluate.score(predictions, threshold=threshold)
    runs.write_table(place / "predictions.parquet", predictions)
    runs.write_json(
        place / "metrics.json",
        facts | {"threshold": threshold, "scores": scored.to_dict(orient="records")},
    )
    predict.save_facts(
        place, recipe=facts["recipe"], image_size=data.size, threshold=threshold,
        data_digest=data.digest, splits=data.split_digest,
        **({"mirror": True} if facts.get("mirror") else {}),
        **({"weights_digest": weights_digest} if weights_digest else {}),
    )  # fmt: skip
    runs.write_json(place / "provenance.json", provenance.gather(seed=seed, data=data.digest))


def read_metrics(folder: Path) -> dict:
    """Return a run folder's ``metrics.json``."""
    return json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))


def fit_baseline(
    baseline: str, data: Data, statistics: pd.DataFrame, profile: Profile, folder: Path, *,
    name: str | None = None,
) -> Path:  # fmt: skip
    """Fit a dummy, forest or support vector machine and leave a whole run folder.

    Args:
        baseline: As for ``baselines.build``.
        data: Images with splits.
        statistics: ``manifest.statistics`` of the data set.
        profile: Gives the seed, and the most rows for the support vector machine.
        folder: Parent of the run folder.
        name: Name of the model and of its folder; None for the baseline's.

    Returns:
        The run folder, as ``fit`` leaves it, but for the history, and with ``model.joblib``.
    """
    name = name or baseline.replace(":", "_")
    configuration: dict = {
        "name": name, "recipe": baseline, "seed": profile.seed, "data_digest": data.digest,
        "splits": data.split_digest,
        "most_rows": profile.svm_rows if baseline == "svm" else None,
    }  # fmt: skip
    run = runs.RunFolder(Path(folder) / name, configuration)
    if run.kept():
        return run.path
    place = run.open()
    rows = {split: manifest.usable(data.manifest, split) for split in ("train", "validation")}
    train = rows["train"]
    most = configuration["most_rows"]
    if most is not None and most < len(train):
        train = train.sample(most, random_state=profile.seed)
    columns = list(features.STATISTICS)
    measured = statistics.set_index("path")
    started = time.perf_counter()
    classifier = baselines.build(baseline, seed=profile.seed)
    classifier.fit(measured.loc[train["path"], columns], train["label"])
    seconds = time.perf_counter() - started
    joblib.dump(classifier, place / predict.CLASSIFIER)
    predictions = pd.concat(
        [
            predict.table(
                part, baselines.scores(classifier, measured.loc[part["path"]]),
                model=name, grouped=data.grouped,
            )
            for part in rows.values()
        ],
        ignore_index=True,
    )  # fmt: skip
    write_results(
        place, predictions, data, seed=profile.seed,
        facts={"recipe": baseline, "rows": len(train), "seconds": round(seconds, 1)},
    )  # fmt: skip
    return run.finish()
