"""The commands ``w207 fakes`` and ``w207 generalise``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pandas as pd

from w207lib import generalisation, manifest, models, pipeline, runs
from w207lib.commands import cli_train
from w207lib.making import fakes, makers
from w207lib.running import locks


def make_fakes(options) -> int:
    """Make a data set of fakes of another one's photographs, and ask what gives them away."""
    dataset = fakes.make(
        options.data, options.name, makers=tuple(options.makers or makers.MAKERS),
        images=options.images, photographs=tuple(options.photographs), seed=options.seed,
    )  # fmt: skip
    table = manifest.load(dataset)
    print(f"data set {dataset.name}: {len(table):,} images in {dataset.root}")
    print(generalisation.count(table).to_string(index=False))
    found = fakes.check(dataset)
    path = runs.write_table(dataset.cache.parent / fakes.CHECKS, found)
    print("\nAUROC of a guess from storage alone, with bytes, and from grey-level statistics")
    columns = ["generator", "family", "images", "container", "metadata", "forest"]
    print(found[columns].to_string(index=False, float_format=lambda v: f"{v:.3f}"))
    print(f"written to {path}")
    return 0


def generalise(options) -> int:
    """Train detectors with families of generators held out, and print what each one finds."""
    if options.resume:
        os.environ[runs.RESUME_VARIABLE] = "1"
    options.profile, options.image_size = None, None
    profile, root = cli_train.settings(options, epochs=options.epochs, batch_size=64)
    models.find(options.recipe)
    with locks.locked(root):
        data = pipeline.prepare(profile, root)
        trainings = generalisation.run(
            data, profile, root, recipe=options.recipe, images=options.images,
            names=options.only or None,
        )  # fmt: skip
        for name, folder in trainings:
            print(f"{name:28} {folder}", flush=True)
        checks = data.dataset.cache.parent / fakes.CHECKS
        if checks.is_file():
            shutil.copy(checks, root / checks.name)  # to be published with what was found
    print("\n" + "\n".join(lines(root)))
    return 0


def lines(root: Path) -> list[str]:
    """Return what a run of ``generalisation`` found, as lines for a terminal."""
    found = pd.read_csv(root / generalisation.MATRIX)
    alarms = pd.read_csv(root / generalisation.PHOTOGRAPHS)
    text = []
    for point in found["point"].unique():
        own = found[found["point"] == point]
        table = own.pivot(index="model", columns="generator", values="recall_fake")
        seen = own.pivot(index="model", columns="generator", values="seen")
        shown = table.map("{:.3f}".format) + seen.map(lambda known: " " if known else "*")
        by_source = alarms[alarms["point"] == point].pivot(
            index="model", columns="source", values="false_alarms"
        )
        shown = shown.join(by_source.map("{:.3f}".format).add_prefix("alarms: "))
        text += [f"Share of fakes found, threshold {point} (* family held out)", shown.to_string()]
    return [line for block in text for line in [*block.split("\n"), ""]]
