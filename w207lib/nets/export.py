"""Turning a trained network into a detector: ONNX file, calibration, limits, measurements."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from w207lib import (
    datasets,
    detector,
    evaluate,
    manifest,
    models,
    pipeline,
    predict,
    runs,
    schema,
    train,
)
from w207lib.machine.devices import quiet_keras
from w207lib.metrics import intervals, outside
from w207lib.nets import model_card
from w207lib.pipeline import Data
from w207lib.running import provenance

UNSURE = (0.2, 0.8)
"""Calibrated P(FAKE) between these is UNSURE: there the better guess is wrong one time in five
or more. A threshold beyond them widens the band."""
MOST_DESCRIBED = 20_000
TOLERANCE = 1e-3


def export(
    folder: str | Path, data: Data, *, root: Path, name: str | None = None,
    target: Path | None = None, photographs: tuple[str, ...] = (), purpose: str = "",
) -> Path:  # fmt: skip
    """Make a detector of a trained network, and measure it.

    Calibration, threshold and the limit of what is outside come from the validation split; the
    test split is scored once with all of that frozen, and the scoring is logged.

    Args:
        folder: A run folder of ``train.fit``.
        data: The data it was trained on.
        root: The run's folder, with the log of test scorings.
        name: The detector's name; None for the run folder's.
        target: Folder to write to; None for ``data/models``.
        photographs: Data sets whose photographs show how often it accuses ordinary ones; of one
            that is a source of the training data, those of its test split alone.
        purpose: One sentence on what it is good at, for whoever has to choose.

    Returns:
        The ONNX file; beside it lie the card (``.json``, and ``.md`` to read) and the network
        (``.keras``, without optimizer).

    Raises:
        ValueError: The model was trained on other data or another split of them, or its ONNX
            file answers differently; or a data set of photographs is unknown, or the converter
            is not installed.
    """
    if not importlib.util.find_spec("tf2onnx"):
        raise ValueError("the ONNX converter is not installed. Run: python make.py setup --export")
    for other in photographs:
        datasets.locate(other)  # before the test split is looked at
    folder = Path(folder)
    name = name or folder.name
    trained, facts = predict.load(folder)
    predict.check_data(folder.name, facts, data)
    target = Path(target) if target else detector.models_folder()
    target.mkdir(parents=True, exist_ok=True)
    configuration = _configuration(folder)
    with tempfile.TemporaryDirectory(dir=target, prefix=".export-") as scratch:
        path = Path(scratch) / f"{name}.onnx"
        network = _rebuild(trained, configuration)
        network.save(path.with_suffix(".keras"))
        with_logit = _with_logit(network)
        with_logit.export(path, format="onnx", verbose=False)
        made = detector.Detector(path, model_card.begin(name, data, configuration, purpose))
        validation = data.split("validation")
        logit = _run(made, validation)
        own = predict.scores(network, validation, mirror=made.card["mirror"])
        difference = float(np.abs(expit(logit) - own).max())
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{name}: the ONNX file's scores differ from Keras's by up to {difference:.2g}; "
                f"{TOLERANCE} is allowed. The converter does not fit this network."
            )
        card = made.card
        card["parameters"] = network.count_params()
        card["calibration"] = calibrate(logit, validation.labels[:, 0])
        calibrated = predict.table(
            validation.rows, made.calibrate(logit), model=name, grouped=data.grouped
        )
        threshold = card["threshold"] = round(evaluate.choose_threshold(calibrated), 6)
        card["unsure"] = [min(UNSURE[0], threshold), max(UNSURE[1], threshold)]
        known, held_out = (
            _described(data.dataset, data.rows(split, most=MOST_DESCRIBED), data.size)
            for split in ("train", "validation")
        )
        card["outside"] = outside.fit(known, held_out)
        card["onnx_digest"] = runs.file_digest(path)
        card["measured"] = measure(made, data, root=root, photographs=photographs)
        card["measured"]["largest_difference_from_keras"] = difference
        card["provenance"] = provenance.gather(seed=configuration["seed"], data=data.digest) | {
            "trained": train.read_metrics(folder)["seconds"]
        }
        runs.write_json(path.with_suffix(".json"), card)
        path.with_suffix(".md").write_text(model_card.page(card), encoding="utf-8")
        for file in Path(scratch).iterdir():
            shutil.move(file, target / file.name)
    return target / f"{name}.onnx"


def calibrate(logit: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Fit Platt's scaling of log odds (J. Platt 1999) on the validation split.

    Args:
        logit: Log odds of FAKE, ``(N,)``.
        labels: 0 or 1, ``(N,)``.

    Returns:
        ``slope`` and ``intercept``: calibrated log odds are slope × logit + intercept.
    """
    fitted = LogisticRegression(C=1e6).fit(logit.astype(float)[:, None], labels)
    return {
        "slope": round(float(fitted.coef_[0, 0]), 6),
        "intercept": round(float(fitted.intercept_[0]), 6),
    }


def measure(
    made: detector.Detector, data: Data, *, root: Path, photographs: tuple[str, ...]
) -> dict:
    """Measure a whole detector on image files: verdicts, doubts, and false accusations.

    Args:
        made: The detector, its card whole but for this.
        data: The data it was trained on; its test split is scored, and that is logged.
        root: The run's folder.
        photographs: Names of data sets; their photographs of every split are judged.

    Returns:
        ``test`` with shares, intervals (95 %) and counts; ``photographs``, one entry a name.
    """
    rows = manifest.usable(data.manifest, "test")
    judged = _judge(made, data.dataset, rows)
    runs.log_test_scoring(
        root, model=f"{made.card['name']}.onnx", data_digest=data.digest,
        model_digest=made.card["onnx_digest"],
    )  # fmt: skip
    groups = intervals.group_codes(rows) if data.grouped else np.arange(len(rows))
    scored = evaluate.score(
        predict.table(rows, judged["score"], model=made.card["name"], grouped=data.grouped),
        threshold=made.card["threshold"],
    ).iloc[0]
    columns = ("n", "n_real", "n_fake", "accuracy", "accuracy_low", "accuracy_high", "roc_auc",
               "roc_auc_low", "roc_auc_high", "recall_fake", "specificity")  # fmt: skip
    test = {column: _plain(scored[column]) for column in columns}
    sure = (judged["label"] != "UNSURE").to_numpy()
    right = judged["label"].to_numpy() == np.where(rows["label"] == schema.FAKE, "FAKE", "REAL")
    test |= _share("unsure", ~sure, groups) | _share("right_when_sure", right[sure], groups[sure])
    real = (rows["label"] == schema.REAL).to_numpy()
    test |= _share("accused", (judged["label"] == "FAKE").to_numpy()[real], groups[real])
    test |= _share("outside", (judged["status"] == "outside").to_numpy(), groups)
    test["brier"] = _plain(metrics.brier_score_loss(rows["label"], judged["score"]))
    test["log_loss"] = _plain(_log_loss(rows["label"], judged["score"]))
    found: dict = {"test": test, "parts": _parts(made, rows, judged, groups), "photographs": {}}
    inside = outside.distance(_described(data.dataset, rows, made.size), made.card["outside"])
    for name in photographs:
        dataset = datasets.locate(name)
        table = manifest.usable(manifest.load(dataset))
        table = table[table["label"] == schema.REAL]
        pieces = name != data.dataset.name and name in set(data.manifest["source"])
        if pieces:  # of its other splits some were trained on
            table = table[table["split"] == "test"]
        table = table.reset_index(drop=True)
        judged = _judge(made, dataset, table)
        groups = intervals.group_codes(table)
        described = _described(dataset, table, made.size)
        distance = outside.distance(described, made.card["outside"])
        unlike = np.r_[np.zeros(len(inside)), np.ones(len(distance))]
        entry: dict = {"n": len(table)}
        entry |= _share("accused", (judged["label"] == "FAKE").to_numpy(), groups)
        entry |= _share("unsure", (judged["label"] == "UNSURE").to_numpy(), groups)
        entry |= _share("outside", (judged["status"] == "outside").to_numpy(), groups)
        beyond = distance > made.card["outside"]["limit"]
        entry |= _share("outside_by_texture", beyond, groups)
        both = np.r_[inside, distance]
        entry["outside_auroc"] = _plain(metrics.roc_auc_score(unlike, both))
        found["photographs"][name] = entry
    return found


def _log_loss(label: pd.Series, score: pd.Series) -> float:
    """Return the mean log loss of scores that were rounded to four digits, in nats.

    A rounded 0 or 1 counts as half a last digit away from it: a wrong one costs 9.9 nats, where
    scikit-learn would take it for certain and count 36.
    """
    return float(metrics.log_loss(label, score.clip(5e-5, 1 - 5e-5), labels=[0, 1]))


def _parts(made: detector.Detector, rows: pd.DataFrame, judged, groups) -> list[dict]:
    """Measure the photographs of each source and the fakes of each generator by themselves.

    Returns:
        Dicts with ``source, generator, n`` and, each with limits, ``called_fake`` (the score is
        at least the threshold) and ``verdict_fake``; none where there is one source and one
        generator alone.
    """
    places = rows.groupby(["source", "generator"]).indices
    if len(places) <= 2:
        return []
    found = []
    for (source, generator), at in places.items():
        called = (judged["score"] >= made.card["threshold"]).to_numpy()[at]
        verdict = (judged["label"] == "FAKE").to_numpy()[at]
        row = {"source": source, "generator": generator, "n": len(at)}
        row |= _share("called_fake", called, groups[at])
        found.append(row | _share("verdict_fake", verdict, groups[at]))
    return sorted(found, key=lambda row: row["generator"] != "real")


def _configuration(folder: Path) -> dict:
    """Return a run folder's ``config.json``; a recipe of one's own is the folder's copy of it."""
    found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if models.own_file(found["recipe"]):
        name = found["recipe"].rpartition(":")[2]
        found["recipe"] = f"{folder / predict.OWN_RECIPE}:{name}"
    return found


def _rebuild(trained, configuration: dict):
    """Return the network in float32 and without augmentation, with the trained weights."""
    options = configuration["options"]
    if "weights" in options:
        options = options | {"weights": None}  # a backbone's first weights are not asked for again
    with train.precision_policy("float32"):
        network = models.build(configuration["recipe"], configuration["image_size"], **options)
    network.set_weights(trained.get_weights())
    return network


def _with_logit(network):
    """Return a network that gives log odds of FAKE, and where it can the share of each place."""
    keras = quiet_keras()
    head = network.layers[-1]
    kernel, bias = (np.asarray(weight, np.float32) for weight in head.get_weights())
    if kernel.shape[1] == 2:
        kernel, bias = kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]
    linear = keras.layers.Dense(1, name="logit")
    outputs = [linear(head.input)]
    pooled = next((layer for layer in network.layers if layer.name == "embedding"), None)
    places = None
    if pooled is not None and isinstance(pooled, keras.layers.GlobalAveragePooling2D):
        places = keras.layers.Conv2D(1, 1, name="heat")  # class activation map, Zhou et al. 2016
        outputs.append(places(pooled.input))
    both = keras.Model(network.input, outputs)
    linear.set_weights([kernel, bias])
    if places is not None:
        places.set_weights([kernel[None, None], bias])
    both(np.zeros((1, *network.input_shape[1:]), np.float32), training=False)  # export asks for it
    return both


def _run(made: detector.Detector, part: pipeline.Images) -> np.ndarray:
    return np.concatenate([made.run(np.asarray(pixels))[0] for pixels, _ in part.batches(256)])


def _described(dataset: datasets.Dataset, rows: pd.DataFrame, size: int) -> np.ndarray:
    """Describe images as ``outside.measure`` does, few in memory at once; float64 ``(N, 18)``."""
    starts = range(0, max(1, len(rows)), detector.CHUNK)
    chunks = (rows.iloc[start : start + detector.CHUNK] for start in starts)
    return np.concatenate([
        outside.measure(pipeline.load_pixels(dataset, chunk, size)) for chunk in chunks
    ])  # fmt: skip


def _judge(made: detector.Detector, dataset, rows: pd.DataFrame) -> pd.DataFrame:
    return detector.as_table(made.judge(dataset.root / path for path in rows["path"]))


def _share(name: str, hits: np.ndarray, groups: np.ndarray) -> dict[str, float | None]:
    low, high = intervals.proportion(hits, groups)
    share = float(np.mean(hits)) if len(hits) else float("nan")
    return {name: _plain(share), f"{name}_low": _plain(low), f"{name}_high": _plain(high)}


def _plain(value) -> float | int | None:
    """Return a number that JSON has: a plain int, a rounded float, None for NaN."""
    if isinstance(value, int | np.integer):
        return int(value)
    return None if np.isnan(value) else round(float(value), 5)
