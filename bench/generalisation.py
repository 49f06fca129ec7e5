"""What helps a detector with fakes of generators that it never saw, and what gives nothing.

    w207 fakes cifake --photographs photos && w207 generalise cifake-made
    python bench/generalisation.py [--data cifake-made] [--seeds 2] [--csv FILE]

Every way has the images and epochs of `w207 generalise`, and each family of our own generators is
held out in turn. `several` (all families but the held-out one) is trained with several seeds,
whose spread says what a difference is worth; the other ways with the first seed alone. Nothing of
the held-out family is used before it is scored: thresholds come from the validation images of the
others. Trainings that are there are kept, those of `w207 generalise` too. Writes one row a way,
held-out family and seed into the run's folder, and the means into
`bench/results/generalisation.csv`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

import numpy as np
import pandas as pd

from w207lib import (
    clean,
    config,
    datasets,
    generalisation,
    manifest,
    pipeline,
    predict,
    runs,
    split,
    train,
)
from w207lib.making import makers
from w207lib.metrics import operating  # fmt: skip

RECIPE, SEED = "three_conv", 207
RESULT = config.home() / "bench" / "results" / "generalisation.csv"
WAYS: dict[str, dict | None] = {
    "one generator": {},
    "several": {},
    "several, redrawn alone": {},
    "several, saved and blurred": {"augment": {"blur": 0.5, "jpeg": 0.5}},
    "several, residual input": {"residual": True},
    "several, other photographs": {},
    "ensemble of specialists": None,
    "distance from photographs": None,
}
"""Options of ``train.fit``; None for what is made of other ways' networks, without a training."""


MATRIX = {"one generator": "only-{first}", "several": "without-{held_out}"}
"""Ways whose first seed is a training of `w207 generalise`, by its name."""


def selection(way: str, held_out: str, data: pipeline.Data, images: int, seed: int):
    table = data.manifest
    home = generalisation.home(table)
    if way == "several, redrawn alone":
        real = set(table.loc[table["label"] == 0, "group"])
        invented = table["generator"].isin(makers.MAKERS) & ~table["group"].isin(real)
        hidden = invented & (table["split"] != "test")
        table = table.assign(status=table["status"].mask(hidden, "excluded"))
    known = generalisation.trainings(data.manifest)
    name = MATRIX.get(way, MATRIX["several"]).format(first=first_family(data), held_out=held_out)
    usable = set(manifest.usable(table, "train")["generator"])
    generators = [maker for maker in known[name] if maker in usable]
    sources = set(table["source"]) if way.endswith("other photographs") else [home]
    return generalisation.choose(table, generators, images=images, seed=seed, sources=sources)


def first_family(data: pipeline.Data) -> str:
    """The family of the fakes that the data set came with."""
    counts = data.manifest.query("label == 1")["generator"].value_counts()
    return makers.family(counts.index[0])


def trained(way, held_out, data, profile, root, images):
    name = f"{way}-{held_out}-{profile.seed}".replace(",", "").replace(" ", "_")
    folder = root / "ablation"
    if way in MATRIX and profile.seed == SEED:
        name = MATRIX[way].format(first=first_family(data), held_out=held_out)
        folder = root / "models"
    chosen = selection(way, held_out, data, images, profile.seed)
    own = dataclasses.replace(data, manifest=chosen)
    options = WAYS[way] or {}
    folder = train.fit(RECIPE, own, profile, root / "models", name=name, images=images, **options)
    kept = pd.read_parquet(folder / "predictions.parquet")
    scored = predict.score_test(folder, own, None, root=root)
    return folder, own, pd.concat([kept[kept["split"] == "validation"], scored])


def measured(predictions: pd.DataFrame, held_out: str, origin: pd.Series) -> dict:
    """Recall of the held-out family and what it costs, of one model's predictions."""
    table = predictions.assign(model="m", source=predictions["path"].map(origin))
    table["family"] = table["generator"].map(makers.family)
    home = generalisation.home(table)
    validation, test = (table[table["split"] == part] for part in ("validation", "test"))
    own = test[test["source"] == home]
    unseen = own[(own["label"] == 0) | (own["family"] == held_out)]
    points = operating.operating_points(
        pd.concat([validation, unseen]), false_alarms=(generalisation.FALSE_ALARMS,)
    )
    points = points[points["split"] == "test"].set_index("point")
    threshold = points.loc["frozen", "threshold"]
    plain = own[(own["label"] == 0) | (own["family"] == "stable_diffusion")]
    right = (plain["score"] >= threshold) == (plain["label"] == 1)
    others = test[(test["label"] == 0) & (test["source"] != home)]
    return {
        "recall_5": points.loc["5 %", "recall_fake"],
        "recall_frozen": points.loc["frozen", "recall_fake"],
        "specificity": points.loc["frozen", "specificity"],
        "cifake_accuracy": np.nan if held_out == "stable_diffusion" else right.mean(),
        "photographs_called_fake": (others["score"] >= threshold).mean(),
    }


def combined(members: list[pd.DataFrame]) -> pd.DataFrame:
    """Mean log odds of several models' predictions on the rows that all of them have."""
    key = ["path", "split"]
    odds = []
    for table in members:
        score = table.set_index(key)["score"].astype(float).clip(1e-6, 1 - 1e-6)
        odds.append(np.log(score / (1 - score)))
    mean = pd.concat(odds, axis=1, join="inner").mean(axis=1)
    first = members[0].set_index(key).loc[mean.index].reset_index()
    return first.assign(score=1 / (1 + np.exp(-mean.to_numpy())))


def specialists(held_out, data, profile, root, images) -> pd.DataFrame:
    """Networks of one family each, asked together: the mean of their log odds."""
    known = generalisation.trainings(data.manifest)
    families = [n.removeprefix("only-") for n in known if n.startswith("only-")]
    chosen = generalisation.choose(
        data.manifest, known[f"without-{held_out}"], images=images, seed=profile.seed
    )
    asked = dataclasses.replace(data, manifest=chosen)
    tables = []
    for family in (f for f in families if f != held_out):
        name = f"only-{family}"
        one = generalisation.choose(
            data.manifest, known[f"only-{family}"], images=images, seed=profile.seed
        )
        own = dataclasses.replace(data, manifest=one)
        folder = train.fit(RECIPE, own, profile, root / "models", name=name, images=images)
        model, _ = predict.load(folder)
        parts = [asked.split(part) for part in ("validation", "test")]
        tables.append(
            pd.concat([
                predict.table(part.rows, predict.scores(model, part), model="m",
                              grouped=data.grouped)
                for part in parts
            ])
        )  # fmt: skip
    return combined(tables)


def distances(folder, own: pipeline.Data) -> pd.DataFrame:
    """Mahalanobis distance of a network's last features from those of training photographs."""
    import keras

    model, _ = predict.load(folder)
    features = keras.Model(model.input, model.layers[-1].input)

    def embed(part):
        return features.predict(part.batches(256), verbose=0)

    training = own.split("train")
    real = embed(training)[training.labels[:, 0] == 0]
    mean, covariance = real.mean(axis=0), np.cov(real.T) + 1e-3 * np.eye(real.shape[1])
    whiten = np.linalg.cholesky(np.linalg.inv(covariance))
    tables = []
    for name in ("validation", "test"):
        part = own.split(name)
        distance = np.sqrt((((embed(part) - mean) @ whiten) ** 2).sum(axis=1))
        score = distance / (distance + np.sqrt(real.shape[1]))
        tables.append(predict.table(part.rows, score, model="m", grouped=own.grouped))
    return pd.concat(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cifake-made")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--out", type=Path, default=None, help="run folder")
    parser.add_argument("--csv", type=Path, default=RESULT)
    options = parser.parse_args()
    os.environ[runs.RESUME_VARIABLE] = "1"
    profile = dataclasses.replace(
        config.PROFILES["sample"], name="ablation", dataset=options.data, batch_size=64,
        epochs=options.epochs, seed=SEED,
    )  # fmt: skip
    root = options.out or config.runs_root() / options.data
    dataset = datasets.locate(options.data)
    table = split.assign(clean.mark(manifest.load(dataset)), validation_fraction=0.1, seed=207)
    data = pipeline.Data(dataset, table, 32)
    origin = table.set_index("path")["source"]
    families = sorted({spec.family for spec in makers.MAKERS.values()})
    rows = []
    for way in options.ways:
        for number in range(options.seeds if way == "several" else 1):
            own_profile = dataclasses.replace(profile, seed=profile.seed + number)
            for held_out in families:
                if way == "ensemble of specialists":
                    found = specialists(held_out, data, own_profile, root, options.images)
                else:
                    base = "several" if WAYS[way] is None else way
                    folder, own, found = trained(
                        base, held_out, data, own_profile, root, options.images
                    )
                    if way == "distance from photographs":
                        found = distances(folder, own)
                row = {"way": way, "held_out": held_out, "seed": own_profile.seed}
                rows.append(row | measured(found, held_out, origin))
                print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()},
                      flush=True)  # fmt: skip
                runs.write_table(root / "ablation" / "trials.csv", pd.DataFrame(rows))
    trials = pd.DataFrame(rows)
    grouped = trials.drop(columns="seed").groupby(["way", "held_out"], sort=False)
    summary = grouped.mean().join(grouped.std().add_suffix("_sd"))
    summary.insert(0, "seeds", grouped.size())
    print(runs.write_table(options.csv, summary.reset_index().round(4)))


if __name__ == "__main__":
    main()
