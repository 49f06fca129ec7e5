"""Scores from a trained model: the only place that reads a head."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import runpy
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from scipy.special import expit, logit

from w207lib import baselines, config, manifest, runs, schema
from w207lib.machine import accelerators
from w207lib.machine.devices import has_gpu, quiet_keras
from w207lib.pipeline import Data, Images
from w207lib.reading import images
from w207lib.schema import FAKE

FACTS = "model.json"
WEIGHTS = "model.keras"
CLASSIFIER = "model.joblib"
OWN_RECIPE = "recipe.py"
"""In a run folder, the file that a recipe ``FILE.py:NAME`` came from."""
MIRRORED = 4096
"""Images that are turned round at a time."""
LEAST_ODDS = 1e-7
"""Scores nearer to 0 or 1 have no log odds in float32."""


def scores(model, x, *, batch_size: int = 256, mirror: bool = False) -> np.ndarray:
    """Return P(FAKE).

    Args:
        model: A Keras model with one sigmoid column, or with a softmax over REAL and FAKE.
        x: Pixels in [0, 255], ``(B, S, S, 3)``, any numeric dtype; or a ``pipeline.Images``.
        batch_size: Images at a time; fewer where so many do not fit the memory.
        mirror: Whether to give P(FAKE) of the mean log odds of each image and its mirror image.

    Returns:
        float32 ``(B,)`` in [0, 1].

    Raises:
        ValueError: The model's output has neither one nor two columns, or ``x`` does not fit
            its input.
        RuntimeError: The memory does not hold the network and a single image.
    """
    column = fake_column(model)
    if mirror:
        return _mirrored(model, x, batch_size)
    if not has_gpu():
        batch_size = accelerators.fit_evaluation(model, max(1, min(batch_size, len(x))))
    if isinstance(x, Images):
        output, _ = accelerators.halving(
            lambda size: model.predict(x.batches(size), verbose=0), batch_size
        )
    else:
        x = np.asarray(x)
        if x.ndim != 4 or x.shape[1:] != tuple(model.input_shape[1:]):
            raise ValueError(
                f"images of shape {x.shape} came; model {model.name} expects "
                f"(B, {', '.join(map(str, model.input_shape[1:]))}). Resize them with "
                "images.resize."
            )
        pixels = x.astype(np.float32)
        output, _ = accelerators.halving(
            lambda size: model.predict(pixels, batch_size=size, verbose=0), batch_size
        )
    return np.clip(np.asarray(output, np.float32)[:, column], 0, 1)


def _mirrored(model, x, batch_size: int) -> np.ndarray:
    found = []
    for start in range(0, len(x), MIRRORED):
        places = np.arange(start, min(start + MIRRORED, len(x)))
        pixels = x.read(places) if isinstance(x, Images) else np.asarray(x)[places]
        ways = (scores(model, way, batch_size=batch_size) for way in (pixels, pixels[:, :, ::-1]))
        clipped = (np.clip(way.astype(float), LEAST_ODDS, 1 - LEAST_ODDS) for way in ways)
        found.append(expit(np.mean([logit(way) for way in clipped], axis=0)))
    return np.concatenate(found).astype(np.float32)


def fake_column(model) -> int:
    """Return which column of a model's output is P(FAKE).

    Raises:
        ValueError: The output has neither one nor two columns.
    """
    columns = model.output_shape[-1]
    if columns not in (1, 2):
        raise ValueError(
            f"model {model.name} has {columns} output columns; expected 1 (sigmoid) or 2 "
            "(softmax over REAL, FAKE)."
        )
    return 0 if columns == 1 else FAKE


def table(
    rows: pd.DataFrame, scores: np.ndarray, *, model: str, condition: str = "clean",
    grouped: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Make a predictions table of one model.

    Args:
        rows: Manifest rows, one an image.
        scores: P(FAKE) of each, ``(N,)``.
        model: The model's name.
        condition: ``clean``, or what was done to the images.
        grouped: Whether rows share groups; then the column ``group`` goes with them, and
            intervals are clustered.

    Returns:
        ``schema.PREDICTION_COLUMNS``, and ``group`` where ``grouped``.
    """
    columns = ["path", "label", "generator", "split"] + ["group"] * grouped
    made = rows[columns].reset_index(drop=True)
    made = made.assign(model=model, condition=condition, score=np.asarray(scores, np.float32))
    order = [*schema.PREDICTION_COLUMNS, *columns[4:]]
    return schema.check_predictions(made[order])


def save_facts(folder: Path, **facts) -> Path:
    """Write beside a model what must be known to use it: label map, size, filter, digests."""
    return runs.write_json(
        Path(folder) / FACTS,
        {"label_map": schema.LABEL_MAP, "resampling": images.RESAMPLING, **facts},
    )


def load(folder: str | Path):
    """Load a trained Keras model and check what lies beside it.

    Args:
        folder: A run folder with ``model.keras`` and ``model.json``. Where a recipe of one's own
            was trained, its file in the folder is executed, for the layers that it registers.

    Returns:
        The model and its facts: ``label_map, threshold, image_size, resampling,
        data_digest, splits, recipe``; older ones have no ``splits``.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Label map, resampling filter or input size are not what this version of
            the project uses, the weights are not those that the facts are of, or the file is
            damaged, or needs code of its own to be loaded.
    """
    folder = Path(folder)
    for name in (WEIGHTS, FACTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}; expected the folder of a finished training, such as "
                "runs/sample/models/w207_simple."
            )
    try:
        facts = dict(json.loads((folder / FACTS).read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(
            f"{folder / FACTS} says nothing about a model: it is damaged. Train the model again."
        ) from None
    expected = {"label_map": schema.LABEL_MAP, "resampling": images.RESAMPLING}
    for key, value in expected.items():
        if facts.get(key) != value:
            raise ValueError(
                f"{folder / FACTS}: {key} is {facts.get(key)!r}, expected {value!r}. "
                "Train the model again with this version."
            )
    if (folder / OWN_RECIPE).is_file():
        runpy.run_path(str(folder / OWN_RECIPE))  # registers its layers
    model = _load_network(folder / WEIGHTS)
    if facts.get("weights_digest") not in (None, weights_digest(model)):  # older ones have none
        raise ValueError(
            f"{folder / WEIGHTS} holds other weights than {FACTS} was written for. One of the "
            "files is of another training; train the model again."
        )
    if model.input_shape[1] != facts.get("image_size"):
        raise ValueError(
            f"{folder}: the model takes images of side {model.input_shape[1]}, its facts say "
            f"{facts.get('image_size')!r}. One of the files is of another training."
        )
    return model, facts


def _load_network(path: Path):
    """Load a ``.keras`` file that needs no code of its own."""
    keras = quiet_keras()
    try:
        model = keras.models.load_model(path, safe_mode=True)
        _ = model.input_shape[1], fake_column(model)
        return model
    except Exception as error:  # Keras raises whatever a hostile file makes it stumble over
        reason = " ".join((str(error) or type(error).__name__).split())
        raise ValueError(
            f"{path} is refused: it is no network that can be loaded without code of its own "
            f"({reason[:200]}). Train the model again, or get its file again from whom you trust."
        ) from error


def weights_digest(model) -> str:
    """Return the SHA-256 of a network's weights; its file has a date in it, so no digest helps."""
    total = hashlib.sha256()
    for weight in model.get_weights():
        total.update(np.ascontiguousarray(weight).tobytes())
    return total.hexdigest()


def guessed(rows: pd.DataFrame, answers: str) -> pd.DataFrame:
    """Make a predictions table, of the model ``by_eye``, from a person's answers.

    Args:
        rows: Manifest rows of the images, in the order in which they were shown.
        answers: A letter an image: R for a photograph, F for a fake; spaces do not count.

    Raises:
        ValueError: There are too few or too many letters, or other ones.
    """
    letters = "".join(answers.upper().split())
    if len(letters) != len(rows) or set(letters) - {"R", "F"}:
        raise ValueError(
            f"guesses {answers!r} came ({len(letters)} letters); expected {len(rows)} letters, "
            "each R for a photograph or F for a fake."
        )
    given = [float(letter == "F") for letter in letters]
    return table(rows.assign(split="train"), np.array(given), model="by_eye")


def stored_guesses(rows: pd.DataFrame) -> str | None:
    """Return the stored answers to just these images in this order, None where there are none."""
    path = config.data_root() / "guesses.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return stored.get(runs.digest(rows["pixel_hash"].tolist())[:16])


def check_data(name: str, facts: dict, data: Data) -> None:
    """Refuse data that a model was not trained on, and another split of the data it was.

    Args:
        name: The model's name.
        facts: Its ``model.json``. Of models made before splits were written down, which have
            no ``splits``, the data alone are compared.
        data: What it is to be used on.

    Raises:
        ValueError: The data are others, or split otherwise.
    """
    split = data.split_digest
    for what, known, found in (
        ("data", facts["data_digest"], data.digest),
        ("data split as", facts.get("splits", split), split),
    ):
        if known != found:
            raise ValueError(
                f"{name} was trained on {what} {known[:12]}, these are {found[:12]}: its test "
                "images may have been in its training. Train it again, or use it with the data "
                "and the split that it was trained on."
            )


def score_test(
    folder: str | Path, data: Data, statistics: pd.DataFrame, *, root: Path
) -> pd.DataFrame:
    """Score the test split with a trained model, once, and write that down.

    The scores are kept in the run folder as ``test.parquet``; asked again for the same model
    and data, they come from there, and the log has no new line.

    Args:
        folder: A run folder of ``train.fit`` or ``train.fit_baseline``.
        data: The data it was trained on.
        statistics: ``manifest.statistics`` of the data set, for baselines.
        root: The run's folder with the log of test scorings.

    Returns:
        A predictions table of the test split.

    Raises:
        ValueError: The model was trained on other data, or another split of them.
    """
    folder = Path(folder)
    kept = folder / "test.parquet"
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    check_data(folder.name, facts, data)
    if kept.is_file():
        return pd.read_parquet(kept)
    classical = (folder / CLASSIFIER).is_file()
    weights = folder / (CLASSIFIER if classical else WEIGHTS)
    if classical:
        rows = manifest.usable(data.manifest, "test")
        measured = statistics.set_index("path").loc[rows["path"]]
        given = baselines.scores(joblib.load(weights), measured)
    else:
        part = dataclasses.replace(data, size=facts["image_size"]).split("test")
        model = load(folder)[0]
        rows, given = part.rows, scores(model, part, mirror=facts.get("mirror", False))
    runs.log_test_scoring(
        root, model=folder.name, data_digest=data.digest,
        model_digest=runs.file_digest(weights) if classical else weights_digest(model),
    )  # fmt: skip
    made = table(rows, given, model=folder.name, grouped=data.grouped)
    runs.write_table(kept, made)
    return made
