"""Comparing training strategies: every combination of a few choices, and what each one is worth."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from w207lib import baselines, manifest, models, train, transfer
from w207lib.config import Profile
from w207lib.machine.devices import quiet_keras
from w207lib.nets import augmentation
from w207lib.pipeline import Data

LARGE: tuple[tuple[str, str, dict], ...] = (
    ("custom_cnn", "custom_cnn", {}),
    ("w207_simple-400", "w207_simple", {}),
    ("w207_tuned-400", "w207_tuned", {}),
    ("resnet101-frozen", "resnet101", {"frozen": True}),
    ("resnet101", "resnet101", {}),
)
"""The reports' large networks: name of the model, recipe, options; the cheapest first."""
FACTORS = ("recipe", "optimizer", "learning_rate", "augmented")


def train_large(data: Data, profile: Profile, folder: Path, *, minutes: float | None) -> list[Path]:
    """Train the reports' large networks, each at its report's own input size.

    ``w207_tuned`` at 400 pixels once took 17 GB of memory, most likely when 256 images were
    validated at a time: a step on 16 images in mixed_bfloat16 takes 2.6 GB.

    Args:
        data: Images with splits, at any size.
        profile: Gives epochs, patience, batch size, precision and seed.
        folder: Parent of the run folders.
        minutes: Time for each, after which no further epoch is begun; None for no limit.

    Returns:
        The run folders, in the order of ``LARGE``.
    """
    found = []
    for name, recipe, options in LARGE:
        own = dataclasses.replace(data, size=models.find(recipe).image_size)
        found.append(train.fit(recipe, own, profile, folder, name=name, minutes=minutes, **options))
        quiet_keras().backend.clear_session()
        gc.collect()  # the next one needs the memory
    return found


def train_seeds(
    recipes: Iterable[str], data: Data, profile: Profile, folder: Path, *, seeds: Iterable[int],
    paces: dict[str, dict] | None = None, **options,
) -> Iterator[Path]:  # fmt: skip
    """Train recipes with several seeds on one and the same split.

    The seed draws first weights, order of batches, dropout and a forest's trees; the images of
    train and validation stay those of the profile's own seed, so that what differs is training
    alone.

    Args:
        recipes: Networks and baselines by name.
        data: Images with splits.
        profile: Gives epochs, patience, batch size and precision.
        folder: Parent of the run folders.
        seeds: The seeds, at least one.
        paces: Fields of the profile that a recipe has its own of, by recipe.
        **options: As for ``train.fit``; baselines take none of them.

    Yields:
        Each run folder when it is finished, all recipes of one seed before the next. The first
        seed's is called like its recipe, the others have ``-seedN`` behind it.
    """
    recipes, seeds = list(recipes), list(seeds)
    for seed in seeds:
        for recipe in recipes:
            own = dataclasses.replace(profile, seed=seed, **(paces or {}).get(recipe, {}))
            name = _name(recipe, seed, seeds[0])
            if recipe in baselines.names():
                measured = manifest.statistics(data.dataset)
                yield train.fit_baseline(recipe, data, measured, own, folder, name=name)
                continue
            yield train.fit(recipe, data, own, folder, name=name, **options)
            quiet_keras().backend.clear_session()
            gc.collect()


def check_names(recipes: Sequence[str], folder: Path, *, seeds: Sequence[int]) -> None:
    """Refuse trainings that would replace each other, or one of another recipe.

    Args:
        recipes: As for ``train_seeds``, and so are ``folder`` and ``seeds``.

    Raises:
        ValueError: Two recipes would have one name, or a run folder of that name is another
            recipe's.
    """
    named: dict[str, str] = {}
    for recipe in recipes:
        name = models.model_name(recipe)
        if name in named:
            raise ValueError(
                f"recipes {named[name]} and {recipe} would both be called {name}, and the second "
                "would replace the first. Rename a function, or give each its own --out."
            )
        named[name] = recipe
    for recipe, seed in itertools.product(recipes, seeds):
        path = Path(folder) / _name(recipe, seed, seeds[0])
        if not (path / "config.json").is_file():
            continue
        kept = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if (found := kept.get("recipe", recipe)) != recipe:
            raise ValueError(
                f"{path} holds a training of recipe {found}, which {recipe} would replace. Give "
                "another folder with --out, rename the function, or move that training away."
            )


def _name(recipe: str, seed: int, first: int) -> str:
    return models.model_name(recipe) + ("" if seed == first else f"-seed{seed}")


def factorial(
    data: Data, profile: Profile, folder: Path, *, recipes: tuple[str, ...],
    optimizers: tuple[str, ...], learning_rates: tuple[float, ...],
    augmented: tuple[bool, ...] = (False, True), seeds: tuple[int, ...],
) -> pd.DataFrame:  # fmt: skip
    """Train every combination of the choices, once a seed.

    Args:
        data: Images with splits; the test split is not read.
        profile: Gives epochs, patience, batch size and precision.
        folder: Parent of the run folders.
        recipes: As for ``models.build``.
        optimizers: ``adam``, ``sgd``.
        learning_rates: Each with each optimizer.
        augmented: Whether with ``augmentation.DEFAULTS``.
        seeds: One training each.

    Returns:
        One row a training: ``FACTORS``, ``seed, accuracy, roc_auc`` (validation), ``seconds``.
    """
    rows = []
    choices = itertools.product(recipes, optimizers, learning_rates, augmented, seeds)
    for recipe, optimizer, rate, changed, seed in choices:
        words = (recipe, optimizer, f"{rate:g}", "augmented" if changed else "plain", seed)
        run = train.fit(
            recipe, data, dataclasses.replace(profile, seed=seed), folder,
            name="-".join(map(str, words)).replace(":", "_"), learning_rate=rate,
            optimizer=optimizer, augment=augmentation.DEFAULTS if changed else {},
        )  # fmt: skip
        key = dict(zip(FACTORS, (recipe, optimizer, rate, changed), strict=True))
        rows.append(key | {"seed": seed} | transfer.validation_scores(run))
    return pd.DataFrame(rows)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Average the seeds of each combination.

    Args:
        table: From ``factorial``.

    Returns:
        One row a combination, best first: ``FACTORS``, ``seeds``, ``accuracy`` (mean), ``spread``
        (standard deviation over seeds, NaN for one), ``seconds`` (mean).
    """
    grouped = table.groupby(list(FACTORS), sort=False)
    made = grouped.agg(
        seeds=("seed", "size"), accuracy=("accuracy", "mean"), spread=("accuracy", "std"),
        seconds=("seconds", "mean"),
    )  # fmt: skip
    return made.sort_values("accuracy", ascending=False, kind="stable").reset_index()


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """Average each choice over all others: its main effect.

    Args:
        table: From ``factorial``.

    Returns:
        One row a factor and level that varies: ``factor, level`` (text), ``accuracy``,
        ``spread`` (standard deviation over the trainings), ``trainings``, and
        ``seed_spread``: the standard deviation that the seed alone makes, pooled over all
        combinations. Two levels differ by more than luck where they are further apart than two
        standard errors of their difference, ``2 * seed_spread * sqrt(2 / trainings)``; of eight
        trainings a level that is ``seed_spread`` itself. A hint: where three seeds made
        ``seed_spread``, luck alone passes this in 18 % of cases (Student's t, two degrees of
        freedom), and in 5 % what is 4.3 standard errors apart.
    """
    within = table.groupby(list(FACTORS))["accuracy"].var(ddof=1)
    pooled = float(within.mean() ** 0.5) if within.notna().any() else float("nan")
    rows = []
    for factor in FACTORS:
        if table[factor].nunique() < 2:
            continue
        for level, part in table.groupby(factor, sort=True)["accuracy"]:
            text = f"{level:g}" if isinstance(level, float) else str(level)
            rows.append({
                "factor": factor, "level": text, "accuracy": part.mean(), "spread": part.std(),
                "trainings": len(part), "seed_spread": pooled,
            })  # fmt: skip
    return pd.DataFrame(rows)
