"""Measure the embedded sample's gates: is it as hard as it should be, and free of short cuts?

    python data/check_sample.py [--sample data/sample] [--seeds 207 208 209] [--json FILE]

Pixel models see every image squashed to 32 × 32 (Pillow's bicubic). Validation is three training
photographs. Exit status 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

HERE = Path(__file__).resolve().parent
SIZE = 32
VALIDATION = ("aitzgorri", "bridge", "fig")
GATES = {
    "dummy_accuracy": (0.5, 0.5),
    "forest_auroc": (0.55, 0.80),
    "simple_cnn_accuracy": (0.80, 0.92),
    "best_cnn_accuracy": (0.0, 0.98),
    "lowpass_probe_auroc": (0.0, 0.60),
}
"""Lowest and highest value allowed. The metadata probe's gate is that its interval holds 0.5."""


def load(folder: Path) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Read one subset's ``images.csv`` and pictures.

    Args:
        folder: ``images`` or ``unseen`` of the sample.

    Returns:
        The table with ``split``, ``label`` (1 for FAKE) and ``bytes`` added, and uint8
        ``(H, W, 3)`` pictures in its order.

    Raises:
        FileNotFoundError: There is no ``images.csv``.
    """
    if not (folder / "images.csv").is_file():
        raise FileNotFoundError(
            f"{folder}: no images.csv in it; expected the sample's images or unseen folder. "
            "Give --sample, or make the sample with data/make_sample.py."
        )
    table = pd.read_csv(folder / "images.csv")
    parts = table["path"].str.split("/", expand=True)
    table["split"], table["label"] = parts[0], (parts[1] == "FAKE").astype(int)
    table["bytes"] = [(folder / path).stat().st_size for path in table["path"]]
    return table, [np.asarray(Image.open(folder / path).convert("RGB")) for path in table["path"]]


def squash(pictures: list[np.ndarray], size: int = SIZE, how=Image.Resampling.BICUBIC):
    """Resize pictures to one square size, uint8 ``(N, size, size, 3)``."""
    return np.stack([np.asarray(Image.fromarray(p).resize((size, size), how)) for p in pictures])


def grey_statistics(pictures: list[np.ndarray]) -> np.ndarray:
    """Measure Report 1's eight grey-level statistics at native size, float ``(N, 8)``."""
    rows = []
    for picture in pictures:
        grey = np.asarray(Image.fromarray(picture).convert("L"), float)
        low, high = grey.min(), grey.max()
        lower, upper = np.percentile(grey, [25, 75])
        rows.append([grey.mean(), np.median(grey), grey.std(), low, high,
                     (high + 1) / (low + 1), high - low, upper - lower])  # fmt: skip
    return np.array(rows)


def metadata(table: pd.DataFrame, pictures: list[np.ndarray]) -> np.ndarray:
    """Return width, height, aspect ratio, bytes and bytes per pixel, float ``(N, 5)``."""
    height, width = np.array([p.shape[:2] for p in pictures], float).T
    size = table["bytes"].to_numpy(float)
    return np.stack([width, height, width / height, size, size / (width * height)], axis=1)


def probe(features: np.ndarray, table: pd.DataFrame, trees: int = 200) -> np.ndarray:
    """Score every image by a forest that never saw its photograph (five folds of photographs)."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GroupKFold, cross_val_predict

    forest = RandomForestClassifier(trees, min_samples_leaf=10, random_state=207)
    folds = GroupKFold(5, shuffle=True, random_state=207)
    return cross_val_predict(
        forest, features, table["label"], groups=table["group"], cv=folds, method="predict_proba"
    )[:, 1]


def clustered_interval(table: pd.DataFrame, scores: np.ndarray, resamples: int = 1000):
    """Return the AUROC's 95 % percentile interval, resampling photographs."""
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(207)
    rows = [np.flatnonzero(table["group"] == group) for group in sorted(set(table["group"]))]
    labels = table["label"].to_numpy()
    values = []
    for _ in range(resamples):
        drawn = np.concatenate([rows[i] for i in random.integers(len(rows), size=len(rows))])
        values.append(roc_auc_score(labels[drawn], scores[drawn]))
    return [float(v) for v in np.quantile(values, [0.025, 0.975])]


def cheap_gates(folder: Path, trees: int = 200, resamples: int = 1000) -> dict:
    """Measure everything that needs no network.

    Args:
        folder: The sample.
        trees: Trees of each probe's forest.
        resamples: Resamples of photographs behind the interval.

    Returns:
        ``dummy_accuracy``, ``forest_auroc``, ``metadata_probe_auroc``,
        ``metadata_probe_interval`` and ``lowpass_probe_auroc``.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score

    table, pictures = load(folder / "images")
    label = table["label"].to_numpy()
    train, test = (table["split"] == "train").to_numpy(), (table["split"] == "test").to_numpy()
    statistics = grey_statistics(pictures)
    forest = RandomForestClassifier(300, random_state=207).fit(statistics[train], label[train])
    scores = probe(metadata(table, pictures), table, trees)
    thumbnails = squash(pictures, 8, Image.Resampling.BOX).reshape(len(table), -1)
    majority = int(label[train].mean() > 0.5)
    return {
        "dummy_accuracy": float((label[test] == majority).mean()),
        "forest_auroc": roc_auc_score(label[test], forest.predict_proba(statistics[test])[:, 1]),
        "metadata_probe_auroc": roc_auc_score(label, scores),
        "metadata_probe_interval": clustered_interval(table, scores, resamples),
        "lowpass_probe_auroc": roc_auc_score(label, probe(thumbnails / 255.0, table, trees)),
    }


def simple_cnn(seed: int):
    """Build Report 0's network at 32 × 32, compiled."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    model = keras.Sequential([
        keras.Input((SIZE, SIZE, 3)), layers.Rescaling(1 / 255),
        layers.Conv2D(64, 4, activation="relu"), layers.MaxPooling2D(2), layers.Flatten(),
        layers.Dense(32, activation="relu"), layers.Dense(24, activation="relu"),
        layers.Dense(1, activation="sigmoid"),
    ])  # fmt: skip
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", metrics=["accuracy"])
    return model


def best_cnn(seed: int):
    """Build a network of six convolutions with batch normalisation, compiled."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), layers.Rescaling(1 / 255)])
    for filters in (32, 64, 96):
        for _ in range(2):
            model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
            model.add(layers.BatchNormalization(momentum=0.9))  # few steps an epoch
            model.add(layers.ReLU())
        model.add(layers.MaxPooling2D(2) if filters < 96 else layers.GlobalAveragePooling2D())
    model.add(layers.Dropout(0.3))
    model.add(layers.Dense(1, activation="sigmoid"))
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", metrics=["accuracy"])
    return model


def train_and_test(build, folder: Path, seed: int, epochs: int) -> dict:
    """Train one network, keep its best validation loss's weights, and score both test sets."""
    import keras
    from sklearn.metrics import roc_auc_score

    table, pictures = load(folder / "images")
    unseen, unseen_pictures = load(folder / "unseen")
    x, label = squash(pictures).astype("float32"), table["label"].to_numpy()
    held = table["group"].isin(VALIDATION).to_numpy()
    train, test = (table["split"] == "train").to_numpy(), (table["split"] == "test").to_numpy()
    model = build(seed)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=6, restore_best_weights=True)
    fit = np.flatnonzero(train & ~held)
    images, answers = x[fit], label[fit]
    if build is best_cnn:  # mirrored copies, as its augmentation
        images = np.concatenate([images, images[:, :, ::-1]])
        answers = np.concatenate([answers, answers])
    history = model.fit(
        images, answers, validation_data=(x[held], label[held]), epochs=epochs, batch_size=32,
        verbose=0, callbacks=[stop],
    ).history  # fmt: skip
    score = model.predict(x[test], verbose=0)[:, 0]
    said = score >= 0.5
    rows = table[test]
    new = model.predict(squash(unseen_pictures).astype("float32"), verbose=0)[:, 0]
    fake = unseen["label"].to_numpy() == 1
    return {
        "accuracy": float((said == label[test]).mean()),
        "auroc": roc_auc_score(label[test], score),
        "validation_accuracy": float(max(history["val_accuracy"])),
        "epochs": len(history["loss"]),
        "share_called_fake": {
            name: float(said[(rows["generator"] == name).to_numpy()].mean())
            for name in sorted(set(rows["generator"]))
        },
        "unseen_recall_gan": float((new[fake] >= 0.5).mean()),
        "unseen_real_called_fake": float((new[~fake] >= 0.5).mean()),
        "unseen_auroc": roc_auc_score(unseen["label"], new),
    }


def missed(results: dict) -> list[str]:
    """Return a sentence for every gate that the results miss."""
    lines = [
        f"{name} is {results[name]:.3f}, expected {low} to {high}"
        for name, (low, high) in GATES.items()
        if name in results and not low <= results[name] <= high
    ]
    low, high = results["metadata_probe_interval"]
    if not low <= 0.5 <= high:
        lines.append(f"metadata probe's interval {low:.3f} to {high:.3f} does not hold 0.5")
    return lines


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=Path, default=HERE / "sample", metavar="DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[207, 208, 209], metavar="N")
    parser.add_argument("--best-epochs", type=int, default=30, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    options = parser.parse_args()
    results = cheap_gates(options.sample)
    for name, value in results.items():
        print(name, np.round(value, 3), flush=True)
    runs = []
    for seed in options.seeds:
        runs.append(train_and_test(simple_cnn, options.sample, seed, 20))
        print(f"simple CNN, seed {seed}:", _rounded(runs[-1]), flush=True)
    best = train_and_test(best_cnn, options.sample, options.seeds[0], options.best_epochs)
    print(f"six convolutions, seed {options.seeds[0]}:", _rounded(best), flush=True)
    results |= {
        "seeds": options.seeds, "validation": VALIDATION,
        "simple_cnn_accuracy": float(np.mean([run["accuracy"] for run in runs])),
        "best_cnn_accuracy": best["accuracy"], "simple_cnn": runs, "best_cnn": best,
    }  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    lines = missed(results)
    print("\n".join(f"MISSED: {line}" for line in lines) or "every gate is met")
    return 1 if lines else 0


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 3)


if __name__ == "__main__":
    sys.exit(main())
