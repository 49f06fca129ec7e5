"""The commands ``w207 train`` and ``w207 tune``."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from w207lib import baselines, config, datasets, models, pipeline, runs, train, tune
from w207lib.config import Profile
from w207lib.nets import augmentation, experiments
from w207lib.running import locks, signals


def train_recipes(options) -> int:
    """Train recipes with one seed or several, and print their accuracies."""
    if options.seeds < 1:
        raise ValueError(f"--seeds {options.seeds}; expected at least 1.")
    if options.resume:
        os.environ[runs.RESUME_VARIABLE] = "1"
    profile, root = settings(
        options, epochs=options.epochs, batch_size=options.batch_size, patience=options.patience,
        precision=options.precision,
    )  # fmt: skip
    paces = {}
    for recipe in options.recipes:
        if recipe not in baselines.names():
            models.build(recipe, profile.image_size)  # whatever is wrong shows here
            spec = models.find(recipe)
            models.choose_rate(spec, options.learning_rate)
            paces[recipe] = {k: spec.pace[k] for k in spec.pace if getattr(options, k) is None}
    seeds = range(profile.seed, profile.seed + options.seeds)
    experiments.check_names(options.recipes, root / "models", seeds=seeds)
    with locks.locked(root):
        data = pipeline.prepare(profile, root)
        for folder in experiments.train_seeds(
            options.recipes, data, profile, root / "models", seeds=seeds, paces=paces,
            minutes=options.minutes,
            learning_rate=options.learning_rate, tensorboard=options.tensorboard,
            augment=augmentation.DEFAULTS if options.augment else None, start=options.start,
        ):  # fmt: skip
            for row in train.read_metrics(folder)["scores"]:
                print(
                    f"{folder.name:20} {row['split']:10} accuracy {row['accuracy']:.4f} "
                    f"({row['accuracy_low']:.4f} to {row['accuracy_high']:.4f}), n {row['n']:,}",
                    flush=True,
                )
            print(f"run folder {folder}", flush=True)
    return 0


def search_hyperparameters(options) -> int:
    """Search over Report 0's space, here or as the chief of others, and print the trials."""
    if options.worker is None and options.name is not None:
        raise ValueError("--name is a worker's; expected --worker HOST:PORT with it.")
    if options.resume:
        os.environ[runs.RESUME_VARIABLE] = "1"
    profile, root = settings(options, tuning_trials=options.trials, precision=options.precision)
    with signals.stoppable():
        if options.worker is not None:
            return _work_at_search(options, profile, root)
        with locks.locked(root):
            data = pipeline.prepare(profile, root)
            folder = tune.search(
                data, profile, root / "tuning", kind=options.kind, serve=options.chief,
                minutes=options.wait,
            )  # fmt: skip
    print(tune.read_trials(folder).to_string(index=False))
    print(f"best {tune.read_best(folder)}\nsearch folder {folder}")
    return 0


def _work_at_search(options, profile: Profile, root: Path) -> int:
    trained = tune.work(
        pipeline.assemble(profile), profile, root / "tuning", options.worker, kind=options.kind,
        name=options.name, minutes=options.wait,
    )  # fmt: skip
    print(f"the search is over; this worker trained {trained} of its trials")
    return 0


def settings(options, **changes) -> tuple[Profile, Path]:
    """Return the profile and run folder of a training command.

    Data are what ``--data`` names, else the profile's, else the sample; the profile is what
    ``--profile`` names, else the data set's own, else the sample's.
    """
    name = options.profile or (options.data if options.data in config.PROFILES else "sample")
    found = config.load(name, seed=options.seed, image_size=options.image_size, **changes)
    if options.data not in (None, found.dataset):
        found = dataclasses.replace(found, name=options.data, dataset=options.data)
    datasets.locate(found.dataset)
    return found, (options.out or runs.run_root(found)).resolve()
