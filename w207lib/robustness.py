"""How a model's scores hold when images are changed, scaled otherwise, or attacked.

A condition is one of ``perturb``; or ``resample:<filter>``, the image files brought to the
model's size by another filter than the project's own; or ``fgsm:<ε>``, ``pgd:<ε>`` and
``random:<ε>``, the attacks and their control, with ε in grey levels.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from PIL import Image

from w207lib import evaluate, models, perturb, predict, runs, train
from w207lib.config import Profile
from w207lib.machine.devices import quiet_keras
from w207lib.nets import attacks, epochs
from w207lib.pipeline import Data, Images
from w207lib.reading import images
from w207lib.schema import FAKE, REAL

log = logging.getLogger(__name__)

RESAMPLING = ("resample:box", "resample:bilinear", "resample:bicubic", "resample:lanczos")
"""How an image may be made smaller; all four antialias. ``images.RESAMPLING`` is the project's."""
ATTACKS = ("fgsm", "pgd", "random")
CHUNK = 1024
"""Images that are changed and scored at a time."""


def predictions_under(
    model, part: Images, conditions: Iterable[str], *, name: str, grouped: bool = False,
    seed: int = 0, mirror: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Score images as they are after each change.

    Args:
        model: A Keras model.
        part: The images, at the model's size; changes are made at that size.
        conditions: Which changes, ``clean`` among them or not.
        name: The model's name.
        grouped: As for ``predict.table``.
        seed: Seed of noise and of attacks' starts.
        mirror: As for ``predict.scores``; attacks follow the network's own gradient either way.

    Returns:
        A predictions table, one block a condition.

    Raises:
        ValueError: A condition is unknown, or its strength out of range.
    """
    conditions = list(conditions)
    for condition in conditions:
        _check(condition)
    tables = []
    with runs.notebook_bar(len(conditions), name, "condition") as bar:
        for condition in conditions:
            scores = np.concatenate([
                predict.scores(model, changed(model, chunk, condition, seed=seed), mirror=mirror)
                for chunk in _chunks(part)
            ])  # fmt: skip
            tables.append(
                predict.table(part.rows, scores, model=name, condition=condition, grouped=grouped)
            )
            bar.update()
    return pd.concat(tables, ignore_index=True)


def changed(model, part: Images, condition: str, *, seed: int = 0) -> np.ndarray:
    """Return images after a change.

    Args:
        model: The model that attacks are against; other conditions do not look at it.
        part: The images.
        condition: As the module says.
        seed: Seed of noise and of attacks' starts.

    Returns:
        uint8 ``(N, S, S, 3)``.
    """
    family, strength = _check(condition)
    if family == "resample":
        return _read(part, strength)
    pixels = part.read(slice(None))
    if family not in ATTACKS:
        return perturb.apply(pixels, condition, seed)
    if family == "random":
        return attacks.random_noise(pixels, int(strength), seed)
    if family == "fgsm":
        return attacks.fgsm(model, pixels, part.labels, int(strength))
    return attacks.pgd(model, pixels, part.labels, int(strength), seed=seed)


def score_test(
    folder: str | Path, data: Data, conditions: Iterable[str], *, root: Path,
    most: int | None = None, seed: int = 0,
) -> tuple[pd.DataFrame, float]:  # fmt: skip
    """Score the test split under each condition, and write down that it was looked at.

    Args:
        folder: A run folder with a network trained on these data.
        data: The data it was trained on.
        conditions: As for ``predictions_under``.
        root: The run's folder with the log of test scorings.
        most: Most test images; None for all.
        seed: Seed of their draw, of noise and of attacks' starts.

    Returns:
        A predictions table of the test split, and the threshold that was frozen with the model.

    Raises:
        ValueError: The model was trained on other data or another split of them, or a
            condition is unknown.
    """
    folder = Path(folder)
    model, facts = predict.load(folder)
    predict.check_data(folder.name, facts, data)
    made = predictions_under(
        model, data.split("test", most=most, seed=seed), conditions, name=folder.name,
        grouped=data.grouped, seed=seed, mirror=facts.get("mirror", False),
    )  # fmt: skip
    runs.log_test_scoring(
        root, model=folder.name, data_digest=data.digest, model_digest=predict.weights_digest(model)
    )
    return made, facts["threshold"]


def summary(predictions: pd.DataFrame, threshold: float | Mapping[str, float]) -> pd.DataFrame:
    """Measure each condition at a threshold that was chosen before, on clean images.

    Args:
        predictions: From ``predictions_under``, with ``clean`` rows of every model and split.
        threshold: One, or one for each model.

    Returns:
        The rows and columns of ``evaluate.score`` (``specificity`` is the accuracy on
        photographs, ``recall_fake`` that on fakes), and ``family, strength`` (``chain`` and NaN
        for changes in a row), ``shift_real, shift_fake``: how far the change moved the mean
        score of photographs and of fakes from ``clean``.

    Raises:
        ValueError: A model has no clean rows on a split.
    """
    keys = ["model", "split", "condition"]
    scores = evaluate.score(predictions, threshold=threshold)
    kinds = pd.DataFrame([_kind(condition) for condition in scores["condition"]])
    mean = predictions.astype({"score": float}).pivot_table("score", keys, "label")
    mean = mean.reindex(columns=[REAL, FAKE]).set_axis(["shift_real", "shift_fake"], axis=1)
    clean = mean[mean.index.get_level_values("condition") == "clean"].droplevel("condition")
    missing = mean.index.droplevel("condition").difference(clean.index)
    if len(missing):
        raise ValueError(
            f"summary: model {missing[0][0]!r} has no clean rows on {missing[0][1]}, so no change "
            "can be measured against them. Score the condition 'clean' too."
        )
    return scores.join(kinds).join(mean - clean, on=keys)


def train_against(
    recipe: str, data: Data, profile: Profile, folder: Path, condition: str, *,
    name: str | None = None, learning_rate: float | None = None, most: int | None = None, **options,
) -> Path:  # fmt: skip
    """Train a recipe on its images and, beside them, the same images changed.

    Every epoch draws the changes anew; attacks are made with the weights of that moment
    (adversarial training). The weights kept are those of the lowest validation loss, on clean
    and changed validation images together. Against ``clean`` every image is seen twice an epoch:
    the fair comparison, with as many steps. The learning rate is constant, and the recipe's own
    augmentation is left out. A training that was stopped starts afresh.

    Args:
        recipe: As for ``models.build``.
        data: Images with splits; the test split is not read.
        profile: Gives epochs, patience, batch size, precision and seed.
        folder: Parent of the run folder.
        condition: As for ``predictions_under``.
        name: Name of the model and its folder; None for ``<recipe>-against-<condition>``.
        learning_rate: Instead of the recipe's own.
        most: Most training images; None for all.
        **options: The recipe's options.

    Returns:
        The run folder, as ``train.fit`` leaves it. Its predictions also have the validation
        images under the condition.

    Raises:
        ValueError: The recipe, an option or the condition is unknown; or as
            ``models.choose_rate``.
    """
    _check(condition)
    name = name or f"{models.model_name(recipe)}-against-{condition.replace(':', '')}".lower()
    configuration = {
        "name": name, "recipe": recipe, "options": options, "condition": condition, "most": most,
        "learning_rate": models.choose_rate(models.find(recipe), learning_rate),
        **train.settings(data, profile),
    }  # fmt: skip
    run = train.run_folder(Path(folder) / name, configuration, profile)
    precision = run.configuration["precision"]
    if run.kept():
        return run.path
    place = run.open()
    runs.open_log(Path(folder).parent)
    training = data.split("train", most=most, seed=profile.seed)
    validation = data.split("validation", most=most, seed=profile.seed)
    keras = quiet_keras()
    keras.utils.set_random_seed(profile.seed)
    with train.precision_policy(precision):
        model = models.build(recipe, data.size, seed=profile.seed, **options)
        models.compile_model(model, recipe, learning_rate=learning_rate)
        history = _train(model, training, validation, condition, profile, place)
        model = keras.models.load_model(place / predict.WEIGHTS)
    scored: dict = {"name": name, "grouped": data.grouped, "seed": profile.seed}
    conditions = ["clean"] + [condition] * (condition != "clean")
    predictions = pd.concat(
        [
            predictions_under(model, training, ["clean"], **scored),
            predictions_under(model, validation, conditions, **scored),
        ],
        ignore_index=True,
    )
    train.write_results(
        place, predictions, data, seed=profile.seed,
        facts={
            "recipe": recipe, "condition": condition, "parameters": models.parameter_counts(model),
            "epochs": len(history), "best_epoch": int(history["val_loss"].idxmin()) + 1,
            "seconds": round(float(history["seconds"].sum()), 1), "precision": precision,
        },
        weights_digest=predict.weights_digest(model),
    )  # fmt: skip
    return run.finish()


def _train(
    model, training: Images, validation: Images, condition: str, profile: Profile, place: Path
) -> pd.DataFrame:
    """Train, writing history and best weights as it goes; return the history."""
    rows = []
    with runs.notebook_bar(profile.epochs, model.name, "epoch") as bar:
        for epoch in range(profile.epochs):
            started = time.perf_counter()
            seed = profile.seed + epoch
            x, labels = _both(model, training, condition, seed)
            order = np.random.default_rng(seed).permutation(len(x))
            fitted = model.fit(
                x[order], labels[order], batch_size=profile.batch_size, shuffle=False, verbose=0,
                class_weight=train.class_weights(labels),
            ).history  # fmt: skip
            x, labels = _both(model, validation, condition, profile.seed)
            tried = model.evaluate(x, labels, batch_size=256, return_dict=True, verbose=0)
            row = {key: values[0] for key, values in fitted.items()}
            row |= {f"val_{key}": value for key, value in tried.items()}
            seconds = round(time.perf_counter() - started, 3)
            rows.append({"epoch": epoch + 1, **row, "seconds": seconds})
            history = pd.DataFrame(rows)
            runs.write_table(place / train.HISTORY, history)
            best = int(history["val_loss"].idxmin())
            if best == epoch:
                epochs.save(model, place / predict.WEIGHTS)
            log.info("%s against %s: epoch %d of %d, validation loss %.4f, %.0f s", model.name,
                     condition, epoch + 1, profile.epochs, row["val_loss"], seconds)  # fmt: skip
            bar.update()
            if epoch - best >= profile.patience:
                break
    return history


def _both(model, part: Images, condition: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images as they are and changed, uint8 ``(2N, S, S, 3)``, and their labels."""
    pixels = [changed(model, part, name, seed=seed) for name in ("clean", condition)]
    return np.concatenate(pixels), np.concatenate([part.labels] * 2)


def _check(condition: str) -> tuple[str, str]:
    """Return a condition's family, and what stands behind the colon: a filter, an ε."""
    family, _, strength = condition.partition(":")
    if family == "resample":
        if condition not in RESAMPLING:
            raise ValueError(
                f"condition {condition!r} is unknown; there are {', '.join(RESAMPLING)}."
            )
        return family, strength
    if family in ATTACKS:
        if not strength.isdecimal() or int(strength) > 255:
            raise ValueError(
                f"condition {condition!r}: ε {strength or 'none'!r}; expected whole grey levels "
                f"from 0 to 255, such as {family}:2."
            )
        return family, strength
    perturb.parse(condition)
    return family, strength


def _kind(condition: str) -> dict:
    family, strength = _check(condition)
    if family in ATTACKS:
        return {"family": family, "strength": float(strength)}
    steps = () if family == "resample" else perturb.parse(condition)
    if len(steps) == 1:
        return dict(zip(("family", "strength"), steps[0], strict=True))
    return {"family": "chain" if steps else family, "strength": np.nan}


def _read(part: Images, resampling: str) -> np.ndarray:
    """Read the files again and bring them to size by a filter; uint8 ``(N, S, S, 3)``."""
    kind, size = Image.Resampling[resampling.upper()], (part.size, part.size)

    def read(path):
        return np.asarray(images.open_image(part.root / path)[0].resize(size, kind))

    at_once = min(joblib.cpu_count(), images.most_at_once())
    threads = joblib.Parallel(n_jobs=at_once, prefer="threads")  # Pillow lets go
    return np.stack(threads(joblib.delayed(read)(path) for path in part.rows["path"]))


def _chunks(part: Images):
    """Yield the images in pieces of ``CHUNK``."""
    for start in range(0, len(part), CHUNK):
        here = slice(start, start + CHUNK)
        pixels = None if part.pixels is None else part.pixels[here]
        yield dataclasses.replace(
            part, rows=part.rows.iloc[here], positions=part.positions[here], pixels=pixels
        )
