"""Mistakes, committed on purpose: each function does one wrong thing, so that a check can find it.

Nothing else in the package uses this module. Each docstring says what is wrong, and in which
report such a mistake was found or is inferred. Notebook 11 plants them on validation images, so
that the test split stays closed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from w207lib import baselines, features, manifest, models, predict
from w207lib.auditing import checks
from w207lib.auditing.findings import Finding
from w207lib.machine.devices import quiet_keras
from w207lib.nets import augmentation
from w207lib.pipeline import Images


@dataclass(frozen=True)
class Scored:
    """What an evaluation leaves behind, right or wrong.

    Attributes:
        predictions: Predictions table, as the evaluation believes it.
        called: int ``(N,)``: the class called for each of its rows.
        loaded: int ``(N,)``: the labels that came with the images as they were scored.
        log: Accuracy that Keras itself reports on the same images.
    """

    predictions: pd.DataFrame
    called: np.ndarray
    loaded: np.ndarray
    log: float

    @property
    def accuracy(self) -> float:
        """Share of rows whose call is the label beside it."""
        return float((self.called == self.predictions["label"]).mean())

    def examine(self, truth: pd.DataFrame) -> list[Finding]:
        """Run the four checks of an evaluation; ``truth`` is the manifest."""
        label = self.predictions["label"]
        return [
            checks.single_class(label, self.called),
            checks.agrees(self.log, label, self.called, same_images=True),
            checks.labels_match(self.predictions, truth),
            checks.order_kept(label, self.loaded),
        ]


def correct(model, images: Images) -> Scored:
    """Evaluate as it should be done: the scores' own order, and one threshold.

    Args:
        model: A compiled Keras model with one sigmoid column.
        images: The split to evaluate.
    """
    made = predict.table(images.rows, predict.scores(model, images), model=model.name)
    facts = model.evaluate(images.batches(64), verbose=0, return_dict=True)
    called = (made["score"] >= 0.5).to_numpy(int)
    return Scored(made, called, made["label"].to_numpy(), float(facts["accuracy"]))


def argmax_of_one_column(model, images: Images) -> Scored:
    """Call the class by ``argmax`` of a single sigmoid column, which is always 0 (Report 4)."""
    right = correct(model, images)
    output = model.predict(images.batches(64), verbose=0)
    return Scored(right.predictions, np.argmax(output, axis=1), right.loaded, right.log)


def shuffled(model, images: Images, *, seed: int) -> Scored:
    """Set scores of a loader that shuffles beside labels in the files' order (Report 4).

    Args:
        model: A compiled Keras model with one sigmoid column.
        images: The split to evaluate.
        seed: Seed of the loader's order.
    """
    right = correct(model, images)
    order = np.random.default_rng(seed).permutation(len(images))
    made = right.predictions.assign(score=right.predictions["score"].to_numpy()[order])
    return Scored(made, right.called[order], right.loaded[order], right.log)


def swapped_classes(model, images: Images) -> Scored:
    """Number folders by alphabet, FAKE first, and report class 1 as FAKE (Reports 2, 3; inferred).

    The network is none the worse; the names in its report are the wrong way round.
    """
    right = correct(model, images)
    made = right.predictions
    made = made.assign(label=1 - made["label"], score=1 - made["score"])
    return Scored(made, 1 - right.called, 1 - right.loaded, right.log)


def summary_total(model, images: Images, recipe: str) -> int:
    """Read the size of a network off the summary printed after its training (Report 0).

    Args:
        model: From ``models.build``; it is compiled and trained for one batch.
        images: To train on.
        recipe: The model's recipe.

    Returns:
        What the summary calls the total.
    """
    models.compile_model(model, recipe)
    model.fit(images.read(np.arange(8)).astype(np.float32), images.labels[:8], verbose=0)
    lines: list[str] = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    return int(re.findall(r"Total params: ([\d,]+)", "\n".join(lines))[0].replace(",", ""))


def frozen_too_late(
    model, images: Images, recipe: str, layer: str, *, again: bool = False
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Set a layer's ``trainable`` to False between two fits, and forget to compile again.

    Args:
        model: From ``models.build``.
        images: To train on; the first 64.
        recipe: The model's recipe.
        layer: The layer's name.
        again: Whether to compile after all, which is right.

    Returns:
        The layer's weights before and after the second fit.
    """
    models.compile_model(model, recipe)
    some = np.arange(min(64, len(images)))
    x, y = images.read(some).astype(np.float32), images.labels[some]
    model.fit(x, y, batch_size=32, verbose=0)
    part = model.get_layer(layer)
    part.trainable = False
    if again:
        models.compile_model(model, recipe)
    before = [weight.copy() for weight in part.get_weights()]
    model.fit(x, y, batch_size=32, verbose=0)
    return before, part.get_weights()


def every_epoch(
    recipe: str, training: Images, held_out: Images, *, epochs: int, seed: int
) -> pd.DataFrame:
    """Train, and score the same held-out images after each epoch, to choose among them.

    Args:
        recipe: As for ``models.build``.
        training: Images to train on.
        held_out: Images that are scored each time.
        epochs: How many.
        seed: Of weights and batches.

    Returns:
        Predictions table; the models are called ``epoch 1``, ``epoch 2``, …
    """
    quiet_keras().utils.set_random_seed(seed)
    model = models.compile_model(models.build(recipe, training.size, seed=seed), recipe)
    batches = training.batches(32, shuffle_seed=seed)
    tables = []
    for epoch in range(1, epochs + 1):
        model.fit(batches, steps_per_epoch=training.steps(32), shuffle=False, verbose=0)
        scores = predict.scores(model, held_out)
        tables.append(predict.table(held_out.rows, scores, model=f"epoch {epoch}"))
    return pd.concat(tables, ignore_index=True)


def chosen_on_test(predictions: pd.DataFrame, *, repeats: int, seed: int) -> pd.DataFrame:
    """Choose the best of several models on the images that its result is reported on (Report 3).

    The images are halved at random, again and again. The winner of the first half is reported
    on that half, which is the mistake, and on the other one, which is honest.

    Args:
        predictions: Predictions table of several models on the same images.
        repeats: How many halvings.
        seed: Seed of the halvings.

    Returns:
        One row a halving: ``model, where_chosen, elsewhere`` (accuracies).
    """
    right = (predictions["score"] >= 0.5) == (predictions["label"] == 1)
    wide = predictions.assign(right=right).pivot(index="path", columns="model", values="right")
    names, hits = wide.columns.to_numpy(), wide.to_numpy(float)
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(repeats):
        order = generator.permutation(len(hits))
        first, second = np.array_split(order, 2)
        best = int(hits[first].mean(axis=0).argmax())
        rows.append((names[best], hits[first, best].mean(), hits[second, best].mean()))
    return pd.DataFrame(rows, columns=["model", "where_chosen", "elsewhere"])


def best_guessers(n: int, tries: int, *, repeats: int, seed: int) -> pd.DataFrame:
    """Toss coins for ``n`` balanced images, and report the luckiest of ever more tries.

    Args:
        n: Images.
        tries: Most guessers.
        repeats: How often all is repeated.
        seed: Seed of the coins.

    Returns:
        Columns ``tries``, ``accuracy`` (mean of the best so far), ``low`` and ``high`` (its
        central 95 %).
    """
    hits = np.random.default_rng(seed).binomial(n, 0.5, (repeats, tries)) / n
    best = np.maximum.accumulate(hits, axis=1)
    low, high = np.quantile(best, [0.025, 0.975], axis=0)
    number = np.arange(1, tries + 1)
    return pd.DataFrame(
        {"tries": number, "accuracy": best.mean(axis=0), "low": low, "high": high}
    )  # fmt: skip


class AugmentedBatches:
    """Batches of an evaluation split that go through augmentation, anew in each pass.

    Args:
        images: The split.
        strengths: As for ``augmentation.layers``.
        seed: Seed of the changes.
    """

    def __init__(self, images: Images, strengths: dict, seed: int):
        self.images = images
        self.layers = augmentation.layers(seed, **strengths)

    def __iter__(self):
        for pixels, labels in self.images.batches(128):
            for layer in self.layers:
                pixels = layer(pixels, training=True)
            yield np.asarray(pixels), np.asarray(labels)


def rescored(model, batches: AugmentedBatches) -> pd.DataFrame:
    """Score an evaluation split as its batches come, changed; return a predictions table."""
    pixels = np.concatenate([images for images, _ in batches])
    return predict.table(
        batches.images.rows, predict.scores(model, pixels), model=model.name, condition="augmented"
    )


def duplicates(
    table: pd.DataFrame, statistics: pd.DataFrame, share: float, *, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Copy a share of the validation images into train, under other names (as in CIFAKE).

    Args:
        table: A manifest with splits.
        statistics: ``manifest.statistics`` of it.
        share: Of that split's usable images, 0 to 1.
        seed: Seed of the draw.

    Returns:
        Both tables with the copies' rows at their end.
    """
    copies = manifest.usable(table, "validation").sample(frac=share, random_state=seed)
    renamed = "train/copy_of/" + copies["path"]
    measured = statistics.set_index("path").loc[copies["path"]].reset_index()
    copies = copies.assign(path=renamed, split="train")
    measured = measured.assign(path=renamed.to_numpy())
    return (
        pd.concat([table, copies], ignore_index=True),
        pd.concat([statistics, measured], ignore_index=True),
    )


def fit_on_statistics(table: pd.DataFrame, statistics: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Fit a forest and a nearest neighbour on train's statistics, and score the validation split.

    Args:
        table: A manifest with splits, with copies or without.
        statistics: Of the same paths.
        seed: Seed of the forest.

    Returns:
        Predictions table of ``random_forest`` and ``nearest_neighbour``, with ``leaked``:
        whether the image's pixels are in train, too.
    """
    train, rows = (manifest.usable(table, split) for split in ("train", "validation"))
    measured = statistics.set_index("path")[list(features.STATISTICS)]
    nearest = make_pipeline(StandardScaler(), KNeighborsClassifier(1))
    made = []
    for name, learner in (
        ("random_forest", baselines.build("random_forest", seed=seed).set_params(n_jobs=1)),
        ("nearest_neighbour", nearest),
    ):
        learner.fit(measured.loc[train["path"]], train["label"])
        scores = baselines.scores(learner, measured.loc[rows["path"]])
        made.append(predict.table(rows, scores, model=name))
    leaked = rows["pixel_hash"].isin(set(train["pixel_hash"])).to_numpy()
    return pd.concat([each.assign(leaked=leaked) for each in made], ignore_index=True)


def with_and_without(clean: pd.DataFrame, leaky: pd.DataFrame) -> pd.DataFrame:
    """Set accuracies side by side: without copies, with them, and on images not copied.

    Args:
        clean: From ``fit_on_statistics``, without copies.
        leaky: The same with copies.

    Returns:
        One row a model.
    """

    def accuracies(rows: pd.DataFrame) -> pd.Series:
        return ((rows["score"] >= 0.5) == (rows["label"] == 1)).groupby(rows["model"]).mean()

    return pd.DataFrame(
        {
            "no copies": accuracies(clean), "with copies": accuracies(leaky),
            "with copies, on images not copied": accuracies(leaky[~leaky["leaked"]]),
        }
    )  # fmt: skip


def uneven(predictions: pd.DataFrame, counts: dict[int, int], *, seed: int) -> pd.DataFrame:
    """Draw so many rows of each label: a small test split with a larger class (Report 3).

    Args:
        predictions: Predictions table of one model.
        counts: Rows by label.
        seed: Seed of the draw.
    """
    drawn = [
        predictions[predictions["label"] == label].sample(count, random_state=seed)
        for label, count in counts.items()
    ]
    return pd.concat(drawn, ignore_index=True)
