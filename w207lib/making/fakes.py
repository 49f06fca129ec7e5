"""Fakes of a data set's own photographs, by generators trained here: a data set of many makers.

A detector that has seen one generator says nothing about the next. So generators of several
families are trained on a data set's REAL *training* images, and their pictures go through the
same encoder with the same tables as the photographs: neither content nor storage gives them
away. What comes out is a data set like any other, with the photographs, the fakes it had, and
the new ones, split as before; a redrawn photograph keeps its original's group.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from w207lib import baselines, clean, config, datasets, features, manifest, runs, split
from w207lib.auditing import probes, traces
from w207lib.datasets import Dataset
from w207lib.machine.devices import quiet_keras
from w207lib.making.makers import MAKERS, family
from w207lib.metrics import intervals
from w207lib.reading import crops, importing
from w207lib.running import locks

log = logging.getLogger(__name__)

SEED = 207
FOLDER = "generators"
CHECKS = "checks.csv"
SHARES = {"train": 1.0, "validation": 0.125, "test": 0.125}
"""Of the images asked for, how many each split gets."""


def make(
    source: str, name: str | None = None, *, makers: tuple[str, ...] = tuple(MAKERS),
    images: int = 8000, steps: dict[str, int] | None = None, photographs: tuple[str, ...] = (),
    pieces: int = 8, seed: int = SEED, folder: Path | None = None,
) -> Dataset:  # fmt: skip
    """Train generators on a data set's photographs and make a data set of their fakes.

    What is finished is kept in ``.<name>.partial`` beside the new data set; the same call goes
    on with it.

    Args:
        source: Name of the data set; the sides of its images are multiples of 8. Makers that
            invent pictures want one square size; others redraw each photograph at its own.
        name: The new data set's; None for ``<source>-made``.
        makers: Which of ``MAKERS``.
        images: Fakes of each maker for training; an eighth as many for validation and for test.
        steps: Training steps by maker, instead of its own.
        photographs: Data sets of larger pictures; pieces of both their classes, scaled to the
            source's size, are added under their own ``source``.
        pieces: Pieces of each such picture for training; half as many elsewhere.
        seed: Seed of the generators, of which photographs they redraw, and of the pieces.
        folder: Parent of the new data set's folder; None for ``data/``, where it is found by its
            name.

    Returns:
        The new data set.

    Raises:
        ValueError: The source is unknown, its images have sizes that a maker cannot take, a
            maker is unknown, or the name is ill-formed or taken by another data set.
        RuntimeError: Another process is making it.
    """
    name = name or f"{source}-made"
    importing.require_name(name)
    unknown = [maker for maker in makers if maker not in MAKERS]
    if unknown or not makers:
        raise ValueError(
            f"makers of fakes: {', '.join(unknown) or 'none'} came; there are {', '.join(MAKERS)}."
        )
    if images < 8:
        raise ValueError(f"{images} fakes of each maker were asked for; expected at least 8.")
    steps = {maker: (steps or {}).get(maker, MAKERS[maker].steps) for maker in makers}
    root = datasets.locate(source).root
    if not isinstance(root, Path):
        raise ValueError(
            f"data set {source} lies in {root}; expected one on this disk. Copy it first: "
            f"w207 sync {root} FOLDER"
        )
    given, table = _photographs(source)
    invents = any(MAKERS[maker].redrawn < 1 for maker in makers)
    _require_sizes(source, table, one=invents or bool(photographs))
    others = {other: _photographs(other) for other in photographs}
    settings = {
        "source": f"fakes of {source}", "digest": manifest.digest(table), "images": images,
        "steps": steps, "photographs": {n: manifest.digest(t) for n, (_, t) in others.items()},
        "pieces": pieces, "seed": seed,
    }  # fmt: skip
    target = (config.data_root() if folder is None else Path(folder)) / name
    made = Dataset(name, target / "images", target / "cache")
    if (target / "dataset.json").is_file():
        old = json.loads((target / "dataset.json").read_text(encoding="utf-8"))
        if {key: old.get(key) for key in settings} == settings:
            return made
    if target.exists():
        raise ValueError(
            f"{target} is already there, made otherwise. Choose another name, or move it away."
        )
    staging = target.with_name(f".{name}.partial")
    _claim(staging, settings)
    with locks.locked(staging):
        rows = _write(given, table, staging, makers, images, steps, seed)
        for number, (pictures, own) in enumerate(others.values()):
            rows += _cut(pictures, own, staging / "images", rows[0][0], pieces, [seed, number])
    sidecar = pd.DataFrame(rows, columns=["path", "generator", "source", "group"])
    runs.write_table(
        staging / "images" / datasets.SIDECAR, sidecar.sort_values("path", ignore_index=True)
    )
    datasets.find_images(Dataset(name, staging / "images", staging / "cache"))  # labels fit makers
    runs.write_json(
        staging / "dataset.json",
        settings | {"name": name, "root": "images", "real": None, "fake": None},
    )
    staging.rename(target)
    return made


def check(dataset: Dataset) -> pd.DataFrame:
    """Ask of each generator's fakes whether storage or simple statistics give them away.

    Args:
        dataset: From ``make``.

    Returns:
        One row a generator: ``generator, family, images``; AUROC of the audit's ``container``
        and ``metadata`` probes (bytes counted) with 95 % limits; and ``forest``, the AUROC of a
        random forest on the grey-level statistics, trained on the training split and asked
        about the test split.
    """
    table = clean.mark(manifest.load(dataset))
    stored, thumbnails = traces.read(dataset, table)
    known = probes.facts(table, stored)
    measured = manifest.statistics(dataset).set_index("path")
    made_by = table.set_index("path")["generator"].reindex(known["path"]).to_numpy()
    rows = []
    for name in sorted(set(made_by) - {"real"}):
        chosen = np.isin(made_by, ("real", name))
        asked = probes.run(
            known[chosen].reset_index(drop=True), thumbnails[chosen],
            probes=("container", "metadata"), seed=SEED,
        ).set_index("probe")  # fmt: skip
        row = {"generator": name, "family": family(name), "images": int((made_by == name).sum())}
        for probe in ("container", "metadata"):
            row |= {probe: asked.loc[probe, "auroc"], f"{probe}_low": asked.loc[probe, "low"],
                    f"{probe}_high": asked.loc[probe, "high"]}  # fmt: skip
        parts = {}
        for part in ("train", "test"):
            own = manifest.usable(table[table["generator"].isin(("real", name))], part)
            fakes = int(own["label"].sum())
            real = own[own["label"] == 0].sample(
                min(fakes, int((own["label"] == 0).sum())), random_state=SEED
            )
            parts[part] = pd.concat([real, own[own["label"] == 1]], ignore_index=True)
        rows.append(row | _forest(parts["train"], parts["test"], measured))
    return pd.DataFrame(rows)


def _forest(train: pd.DataFrame, test: pd.DataFrame, measured: pd.DataFrame) -> dict:
    """Return a forest's AUROC with limits; NaN where a split lacks a class (all copies, say)."""
    if min(train["label"].nunique(), test["label"].nunique()) < 2:
        return dict.fromkeys(("forest", "forest_low", "forest_high"), np.nan)
    forest = baselines.build("random_forest", seed=SEED)
    forest.fit(measured.loc[train["path"], list(features.STATISTICS)], train["label"])
    score = baselines.scores(forest, measured.loc[test["path"]])
    label = test["label"].to_numpy()
    low, high = intervals.auc(label, score, intervals.group_codes(test))
    return {"forest": roc_auc_score(label, score), "forest_low": low, "forest_high": high}


def encoder(path: Path) -> tuple[str, Callable[[np.ndarray], bytes]]:
    """Return a file's suffix, and a function that stores pixels as that file is stored.

    Args:
        path: A JPEG, whose quantisation tables and chroma subsampling are taken over, or a
            file of another format, for which PNG is written.

    Returns:
        ``.jpg`` or ``.png``, and a function from uint8 ``(H, W, 3)`` to the file's bytes.
    """
    with Image.open(path) as example:
        options: dict = {"format": "PNG"}
        if isinstance(example, JpegImageFile):
            options = {
                "format": "JPEG", "qtables": example.quantization,
                "subsampling": get_sampling(example),
            }  # fmt: skip

    def encode(pixels: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, **options)
        return file.getvalue()

    return ".jpg" if options["format"] == "JPEG" else ".png", encode


def _photographs(source: str) -> tuple[Dataset, pd.DataFrame]:
    """Return a data set and its usable rows, split as its profile splits them."""
    dataset = datasets.locate(source)
    profile = config.PROFILES.get(source, config.PROFILES["sample"])
    table = split.assign(
        clean.mark(manifest.load(dataset)),
        validation_fraction=profile.validation_fraction, seed=profile.seed,
    )  # fmt: skip
    return dataset, manifest.usable(table)


def _require_sizes(source: str, rows: pd.DataFrame, *, one: bool) -> None:
    sizes = sorted(set(zip(rows["width"], rows["height"], strict=True)))
    wrong = [(w, h) for w, h in sizes if w % 8 or h % 8]
    if wrong or (one and (len(sizes) > 1 or sizes[0][0] != sizes[0][1])):
        raise ValueError(
            f"data set {source} has images of {len(sizes)} sizes, such as "
            f"{' and '.join(f'{w}×{h}' for w, h in (wrong or sizes)[:2])}; expected "
            + ("one square size whose side is a multiple of 8. " if one else "multiples of 8. ")
            + "Resize the images first, or choose makers that redraw: "
            + ", ".join(maker for maker, spec in MAKERS.items() if spec.redrawn == 1)
        )


def _claim(staging: Path, settings: dict) -> None:
    """Begin anew unless the folder holds an unfinished data set with the same settings."""
    marker = staging / "settings.json"
    begun = marker.is_file() and json.loads(marker.read_text(encoding="utf-8"))
    if begun != settings:
        shutil.rmtree(staging, ignore_errors=True)
        runs.write_json(marker, settings)


def _write(given, table, staging, makers, images, steps, seed) -> list[tuple]:
    """Link the data set's own files and make each maker's; return the rows of the sidecar."""
    root = staging / "images"
    rows = _link(given, table, root)
    real = table[table["label"] == 0]
    side = int(real[["width", "height"]].min(axis=None))
    training = np.concatenate(
        [x[:, :side, :side] for _, x in _by_size(given, real[real["split"] == "train"])]
    )
    suffix, encode = encoder(given.root / real["path"].iloc[0])
    for number, maker in enumerate(makers):
        model = _trained(maker, training, steps[maker], staging / FOLDER, seed)
        for place, (part, share) in enumerate(SHARES.items()):
            own = real[real["split"] == part]
            count = min(round(images * share), len(own))
            own = own.sample(count, random_state=seed + number).reset_index(drop=True)
            folder = root / part / "FAKE" / maker
            shown = np.arange(count) < int(count * MAKERS[maker].redrawn)
            names = [f"{i:05}{suffix}" for i in range(count)]
            if not all((folder / file).is_file() for file in names):
                for places, originals in _by_size(given, own):
                    drawn = MAKERS[maker].draw(model, originals, seed + 1000 * (place + 1))
                    for at, pixels in zip(places, drawn, strict=True):
                        _store(folder / names[at], encode(pixels))
            log.info("%s: %s fakes for %s", maker, f"{count:,}", part)
            groups = np.where(shown, own["group"], "")
            rows += [
                (f"{part}/FAKE/{maker}/{file}", maker, given.name, group)
                for file, group in zip(names, groups, strict=True)
            ]
    return rows


def _by_size(given: Dataset, rows: pd.DataFrame) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the places of rows of one size, and their pixels, uint8 ``(N, H, W, 3)``."""
    for _, own in rows.reset_index(drop=True).groupby(["height", "width"]):
        yield own.index.to_numpy(), np.stack(given.read(own["path"]))


def _cut(
    pictures: Dataset, table: pd.DataFrame, root: Path, example: str, pieces: int, seed: list[int]
) -> list[tuple]:
    """Write pieces of another data set's pictures, stored as the file ``example`` is."""
    suffix, encode = encoder(root / example)
    with Image.open(root / example) as one:
        size = one.width
    rows = []
    for number, row in enumerate(tqdm(list(table.itertuples()), desc="cut", leave=False)):
        count = pieces if row.split == "train" else max(1, pieces // 2)
        # Not the name alone: one such as `photos` would be taken for the class.
        place = f"{row.split}/{row.class_name}/pieces_of_{pictures.name}"
        folder = root / place
        names = [f"{number:05}_{k}{suffix}" for k in range(count)]
        if not all((folder / file).is_file() for file in names):
            picture = pictures.read([row.path])[0]
            for file, pixels in zip(
                names, crops.cut(picture, size, count, seed=[*seed, number]), strict=True
            ):
                _store(folder / file, encode(pixels))
        group = f"{pictures.name}:{row.group}"
        rows += [(f"{place}/{file}", row.generator, pictures.name, group) for file in names]
    return rows


def _link(given: Dataset, table: pd.DataFrame, root: Path) -> list[tuple]:
    """Give the new data set the old one's usable files, as links where the disk allows it."""
    rows, folders = [], set()
    for row in tqdm(table.itertuples(), total=len(table), desc="link", leave=False):
        path = f"{row.split}/{row.class_name}/{given.name}/{row.path}"
        target = root / path
        if target.parent not in folders:
            target.parent.mkdir(parents=True, exist_ok=True)
            folders.add(target.parent)
        if not target.exists():
            try:
                os.link(given.root / row.path, target)
            except OSError:
                _store(target, (given.root / row.path).read_bytes())
        rows.append((path, row.generator, given.name, row.group))
    return rows


def _store(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, so that a stopped call leaves no half of one."""
    with runs.replacing(path) as temporary:
        temporary.write_bytes(data)


def _trained(maker: str, training: np.ndarray, steps: int, folder: Path, seed: int):
    """Train a generator, or load the one that an earlier, stopped call has trained."""
    path = folder / f"{maker}.keras"
    if path.is_file():
        return quiet_keras().models.load_model(path, compile=False)
    quiet_keras()
    log.info("%s: training %s steps on %s photographs", maker, f"{steps:,}", f"{len(training):,}")
    began = time.perf_counter()
    model = MAKERS[maker].train(training, seed, steps)
    folder.mkdir(parents=True, exist_ok=True)
    with runs.replacing(path) as temporary:
        model.save(temporary)
    log.info("%s: trained in %s", maker, runs.duration(time.perf_counter() - began))
    return model
