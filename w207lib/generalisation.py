"""Does a detector find the fakes of generators that it never saw? Trainings by generator's family.

Each training gets the same photographs and, where there are so many, as many fakes, spread evenly
over the generators it may see. Families are held out whole: a detector that was shown one GAN
has not been shown "no GAN". Thresholds are frozen on validation images of the very generators
that it was trained on, so nothing of the held-out ones has been used when they are scored.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from w207lib import evaluate, manifest, predict, runs, train
from w207lib.config import Profile
from w207lib.machine.devices import quiet_keras
from w207lib.making import makers
from w207lib.metrics import operating
from w207lib.pipeline import Data
from w207lib.schema import FAKE, REAL

TRAININGS = "trainings.csv"
MATRIX = "matrix.csv"
PHOTOGRAPHS = "false_alarms.csv"
FALSE_ALARMS, POINT = 0.05, "5 %"
VALIDATION_SHARE = 0.2
"""Validation images of a training, as a share of its training images."""


def trainings(table: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Name the trainings: each family alone, all but each, and all.

    Args:
        table: A manifest. Fakes of other sources than most have are left out.

    Returns:
        The generators that each training may see, by its name: ``only-<family>``,
        ``without-<family>`` and ``all``. With two families, all but one is the other alone.

    Raises:
        ValueError: There are fewer than two families of fakes.
    """
    own = (table["label"] == FAKE) & (table["source"] == home(table))
    generators = sorted(set(table.loc[own, "generator"]))
    families = sorted({makers.family(name) for name in generators})
    if len(families) < 2:
        raise ValueError(
            f"the data have fakes of {', '.join(generators) or 'no generator'} only; nothing can "
            "be held out. Make more with: w207 fakes NAME"
        )

    def of(*chosen: str) -> tuple[str, ...]:
        return tuple(name for name in generators if makers.family(name) in chosen)

    found = {f"only-{name}": of(name) for name in families}
    if len(families) > 2:
        found |= {f"without-{name}": of(*(f for f in families if f != name)) for name in families}
    return found | {"all": tuple(generators)}


def choose(
    table: pd.DataFrame, generators: Iterable[str], *, images: int, seed: int,
    sources: Iterable[str] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Leave in a manifest what one training may see; the test split stays whole.

    Args:
        table: After ``split.assign``.
        generators: Whose fakes it may see.
        images: Training images, half of them photographs, where there are so many: of a
            generator with too few all are taken, and nothing is put in their place. Validation
            has ``VALIDATION_SHARE`` as many.
        seed: Seed of the draw. The photographs are the same for every choice of generators.
        sources: Whose images it may see; None for the ``home`` of most fakes alone.

    Returns:
        A copy in which all other usable rows of train and validation have status ``excluded``.

    Raises:
        ValueError: A generator has no image.
    """
    generators = tuple(generators)
    left = np.zeros(len(table), bool)
    usable = (table["status"] == "ok").to_numpy()
    sources = [home(table)] if sources is None else list(sources)
    eligible = usable & table["source"].isin(sources).to_numpy()
    for part, share in (("train", 1.0), ("validation", VALIDATION_SHARE)):
        inside = eligible & (table["split"] == part).to_numpy()
        half = int(images * share) // 2
        wanted = {"real": half, **dict.fromkeys(generators, half // len(generators))}
        for name, count in wanted.items():
            at = np.flatnonzero(inside & (table["generator"] == name).to_numpy())
            if not len(at):
                raise ValueError(
                    f"no usable image of generator {name!r} in {part}; there are "
                    f"{', '.join(sorted(set(table['generator'])))}."
                )
            left[np.random.default_rng(seed).permutation(at)[:count]] = True
    excluded = usable & (table["split"] != "test").to_numpy() & ~left
    status = table["status"].mask(excluded, "excluded")
    return table.assign(
        status=status, reason=table["reason"].mask(excluded, "not for this training")
    )


def run(
    data: Data, profile: Profile, root: Path, *, recipe: str, images: int,
    names: Iterable[str] | None = None, **options,
) -> Iterator[tuple[str, Path]]:  # fmt: skip
    """Train one detector for each set of generators, and score the test split with each.

    Args:
        data: Photographs and fakes of several families, split.
        profile: Gives epochs, patience, batch size, precision and seed.
        root: The run's folder; the trainings lie in its ``models``.
        recipe: As for ``models.build``.
        images: Training images of each, at most; as for ``choose``.
        names: Which of ``trainings``; None for all. The tables hold these alone.
        **options: As for ``train.fit``.

    Yields:
        Each training's name and run folder, when it is finished. Afterwards the run's folder
        holds ``trainings.csv`` (its ``images`` are those that each training had), ``matrix.csv``
        and ``false_alarms.csv``.

    Raises:
        ValueError: A name is unknown, or as ``trainings`` and ``train.fit``.
    """
    known = trainings(data.manifest)
    names = list(known) if names is None else list(names)
    for name in names:
        if name not in known:
            raise ValueError(f"training {name!r} is unknown; there are {', '.join(known)}.")
    statistics = manifest.statistics(data.dataset)
    tables, rows = [], []
    for name in names:
        chosen = choose(data.manifest, known[name], images=images, seed=profile.seed)
        own = dataclasses.replace(data, manifest=chosen)
        folder = train.fit(
            recipe, own, profile, root / "models", name=name, images=images, **options
        )
        scored = predict.score_test(folder, own, statistics, root=root)
        kept = pd.read_parquet(folder / "predictions.parquet")
        tables += [kept[kept["split"] == "validation"], scored]
        rows.append(
            {
                "model": name,
                "generators": " ".join(known[name]),
                "recipe": recipe,
                "images": len(own.rows("train")),
                "seed": profile.seed,
                "epochs": profile.epochs,
                "seconds": train.read_metrics(folder)["seconds"],
            }  # fmt: skip
        )
        quiet_keras().backend.clear_session()
        gc.collect()
        yield name, folder
    predictions = pd.concat(tables, ignore_index=True)
    done = pd.DataFrame(rows)
    origin = data.manifest.set_index("path")["source"]
    runs.write_table(root / TRAININGS, done)
    runs.write_table(root / MATRIX, matrix(predictions, done, origin))
    runs.write_table(root / PHOTOGRAPHS, false_alarms(predictions, origin))


def matrix(predictions: pd.DataFrame, done: pd.DataFrame, origin: pd.Series) -> pd.DataFrame:
    """Say of every training what it finds of each generator's fakes.

    Args:
        predictions: Validation and test rows of all trainings.
        done: One row a training, ``model`` and ``generators`` (blank between them).
        origin: The ``source`` of each image, by path. The photographs that fakes are set
            against are those of the source that most fakes have.

    Returns:
        One row a training × generator × point: ``model, generator, family, seen`` (whether any
        generator of its family was trained on), ``point`` (``frozen``, or ``5 %``: the threshold
        that validation's photographs pass but for one in twenty), ``threshold``; ``recall_fake``
        of that generator's test fakes and ``specificity`` of the test photographs, with 95 %
        limits and counts; ``roc_auc``.
    """
    seen = {
        row.model: {makers.family(name) for name in row.generators.split()}
        for row in done.itertuples()
    }
    own = predictions.assign(source=predictions["path"].map(origin))
    own = own[own["source"] == home(own)].drop(columns="source")
    points = operating.operating_points(own, false_alarms=(FALSE_ALARMS,), by="generator")
    points = points[points["split"] == "test"]
    family = points["generator"].map(makers.family)
    known = [kind in seen[model] for model, kind in zip(points["model"], family, strict=True)]
    columns = ["threshold", "recall_fake", "recall_fake_low", "recall_fake_high", "specificity",
               "specificity_low", "specificity_high", "n_fake", "n_real"]  # fmt: skip
    found = points[["model", "generator"]].assign(family=family, seen=known)
    found = found.join(points[["point", *columns]]).reset_index(drop=True)
    tested = own[own["split"] == "test"]
    areas = {}
    for model, generator in found[["model", "generator"]].drop_duplicates().to_numpy():
        rows = tested[tested["model"] == model]
        rows = rows[(rows["label"] == REAL) | (rows["generator"] == generator)]
        areas[model, generator] = float(roc_auc_score(rows["label"], rows["score"]))
    found["roc_auc"] = [areas[key] for key in zip(found["model"], found["generator"], strict=True)]
    return found


def false_alarms(predictions: pd.DataFrame, origin: pd.Series) -> pd.DataFrame:
    """Say how many test photographs of each source every training calls FAKE.

    Args:
        predictions: As for ``matrix``.
        origin: As for ``matrix``.

    Returns:
        One row a training × source × point: ``model, source, point, threshold, n_real`` and
        ``false_alarms`` with 95 % limits.
    """
    points = operating.operating_points(
        predictions.assign(source=predictions["path"].map(origin)),
        false_alarms=(FALSE_ALARMS,), by="source",
    )  # fmt: skip
    columns = ["model", "source", "point", "threshold", "n_real", "false_alarms",
               "false_alarms_low", "false_alarms_high"]  # fmt: skip
    return points.loc[points["split"] == "test", columns].reset_index(drop=True)


def elsewhere(folders: Mapping[str, Path], data: Data, *, root: Path) -> pd.DataFrame:
    """Score test images of data that detectors need not have been trained on.

    Nothing is chosen on these images: the thresholds are those that were frozen with the models.
    Each scoring is written down.

    Args:
        folders: Run folders of trained networks, by the name to be given to each.
        data: Images with a test split; its size is not used, each network has its own.
        root: The run's folder with the log of test scorings.

    Returns:
        As ``evaluate.score`` by generator: one row a network × generator.

    Raises:
        ValueError: The test split has no usable image.
    """
    tables, frozen = [], {}
    for name, folder in folders.items():
        model, facts = predict.load(folder)
        part = dataclasses.replace(data, size=facts["image_size"]).split("test")
        runs.log_test_scoring(
            root, model=name, data_digest=data.digest, model_digest=predict.weights_digest(model)
        )
        scored = predict.scores(model, part, mirror=facts.get("mirror", False))
        tables.append(predict.table(part.rows, scored, model=name, grouped=data.grouped))
        frozen[name] = facts["threshold"]
    return evaluate.score(pd.concat(tables, ignore_index=True), by="generator", threshold=frozen)


def home(table: pd.DataFrame) -> str:
    """Return the source that most fakes of a manifest have."""
    sources = table.loc[table["label"] == FAKE, "source"].mode()
    return str(sources.iloc[0]) if len(sources) else ""


def count(table: pd.DataFrame) -> pd.DataFrame:
    """Count usable images by source, generator and split, with each generator's family."""
    rows = manifest.usable(table)
    counts = rows.groupby(["source", "generator", "split"]).size().unstack(fill_value=0)
    counts = counts.reset_index()
    counts.insert(2, "family", [makers.family(name) for name in counts["generator"]])
    return counts


def overview(folder: Path) -> str:
    """Return the published matrix as Markdown, for a page of docs.

    Args:
        folder: With ``matrix.csv`` and ``false_alarms.csv``, as ``run`` leaves them.

    Returns:
        One row a training: the share of each generator's fakes that it finds at 5 % false alarms
        (in bold where it was trained on that family), the photographs right at that threshold,
        and the photographs of other sources called FAKE.
    """
    found = pd.read_csv(folder / MATRIX)
    alarms = pd.read_csv(folder / PHOTOGRAPHS)
    found, alarms = (table[table["point"] == POINT] for table in (found, alarms))
    generators = list(found.sort_values(["family", "generator"])["generator"].unique())
    own = alarms.loc[alarms["n_real"].idxmax(), "source"]
    alarms = alarms.pivot(index="model", columns="source", values="false_alarms")
    others = [name for name in alarms if name != own]
    lines = [
        f"| trained | {' | '.join(_escaped(generators))} | photographs right |"
        + "".join(f" photographs of {name} called FAKE |" for name in others),
        "|---|" + "--:|" * (len(generators) + 1 + len(others)),
    ]
    for model, rows in found.groupby("model", sort=False):
        rows = rows.set_index("generator")
        cells = []
        for name in generators:
            text = f"{rows.loc[name, 'recall_fake']:.2f}"
            cells.append(f"**{text}**" if rows.loc[name, "seen"] else text)
        cells.append(f"{rows['specificity'].iloc[0]:.3f}")
        cells += [f"{alarms.loc[model, name]:.2f}" for name in others]
        lines.append(f"| {_escaped([model])[0]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _escaped(names: Iterable[str]) -> list[str]:
    return [name.replace("_", "\\_") for name in names]
