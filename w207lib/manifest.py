"""The manifest: one row an image, made by reading every file once, then kept in a cache."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
from tqdm import tqdm

from w207lib import features, images, runs, schema
from w207lib.datasets import Dataset, find_images

CHUNK = 500  # images a task: long enough to hide the cost of sending it
CHUNK_BYTES = 64 * 2**20  # and files of this size, where images are large
VERSION = 1  # of what is measured; a cache of another version is made anew


def load(dataset: Dataset, *, processes: int | None = None) -> pd.DataFrame:
    """Return a data set's manifest, from the cache if no file has changed since.

    Reading that was interrupted goes on behind the last finished chunk.

    Args:
        dataset: From ``datasets.locate``.
        processes: Processes that read images; None for one a processor.

    Returns:
        One row an image, sorted by path, with ``schema.MANIFEST_COLUMNS``. ``status`` is
        ``ok``, ``corrupted`` or ``incomplete``; ``split`` is what the folders say, or empty.
    """
    _refresh(dataset, processes)
    return pd.read_parquet(dataset.cache / "manifest.parquet")


def statistics(dataset: Dataset, *, processes: int | None = None) -> pd.DataFrame:
    """Return the grey-level statistics of every readable image, made with the manifest.

    Returns:
        Columns ``path`` and ``features.STATISTICS``, measured at the images' own sizes.
    """
    _refresh(dataset, processes)
    return pd.read_parquet(dataset.cache / "statistics.parquet")


def digest(manifest: pd.DataFrame) -> str:
    """Return a digest of which images there are, what they show and how they are labelled.

    It covers path, label and pixels; splits and findings are choices about the same data.
    """
    rows = manifest[["path", "label", "pixel_hash"]].sort_values("path")
    lines = rows["path"] + "\t" + rows["label"].astype(str) + "\t" + rows["pixel_hash"]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def usable(manifest: pd.DataFrame, split: str | None = None) -> pd.DataFrame:
    """Return the rows with status ``ok``, of one split if it is named, renumbered from 0."""
    rows = manifest["status"] == "ok"
    if split is not None:
        rows &= manifest["split"] == split
    return manifest[rows].reset_index(drop=True)


def summary(manifest: pd.DataFrame) -> pd.DataFrame:
    """Count images by split and class: all, and those with status ``ok``."""
    table = manifest.assign(usable=manifest["status"] == "ok")
    table["split"] = table["split"].replace("", "none")
    grouped = table.groupby(["split", "class_name"], sort=True)["usable"]
    return grouped.agg(images="size", usable="sum").reset_index()


def _refresh(dataset: Dataset, processes: int | None) -> None:
    """Read the images again unless the cache was made from just these files."""
    found = find_images(dataset)
    listing = hashlib.sha256("\n".join(map(str, found.to_numpy().tolist())).encode())
    key = {"version": VERSION, "files": listing.hexdigest()}
    marker = dataset.cache / "manifest.json"
    tables = [dataset.cache / name for name in ("manifest.parquet", "statistics.parquet")]
    if not _is_current(marker, key, tables):
        measured, grey_levels = _measure(dataset, found, processes)
        marker.unlink(missing_ok=True)
        runs.write_table(tables[0], measured)
        runs.write_table(tables[1], grey_levels)
        runs.write_json(marker, key)
    shutil.rmtree(dataset.cache / "measured", ignore_errors=True)


def _is_current(marker: Path, key: dict, tables: list[Path]) -> bool:
    if not marker.is_file() or not all(path.is_file() for path in tables):
        return False
    return json.loads(marker.read_text(encoding="utf-8")) == key


def _measure(
    dataset: Dataset, found: pd.DataFrame, processes: int | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    files = _chunk_files(dataset, found)
    todo = [(path, paths) for path, paths in files if not _is_whole(path, len(paths))]
    processes = processes or (joblib.cpu_count() if len(todo) > 4 else 1)
    work = joblib.Parallel(n_jobs=processes, return_as="generator")(
        joblib.delayed(_measure_chunk)(dataset.root, paths) for _, paths in todo
    )
    finished = len(found) - sum(len(paths) for _, paths in todo)
    with tqdm(
        total=len(found), initial=finished, desc=f"read {dataset.name}", unit="image", leave=False
    ) as bar:
        for (path, paths), rows in zip(todo, work, strict=True):
            runs.write_table(path, rows)
            bar.update(len(paths))
    measured = pd.concat([pd.read_parquet(path) for path, _ in files], ignore_index=True)
    names = list(features.STATISTICS)
    readable = measured["status"] == "ok"
    grey_levels = measured.loc[readable, ["path", *names]].reset_index(drop=True)
    facts = measured.drop(columns=["path", *names])
    table = found.drop(columns=["size", "modified"]).join(facts)
    table["label"] = table["class_name"].map(schema.LABEL_MAP).astype("int64")
    own_group = table["pixel_hash"].where(table["pixel_hash"] != "", "path:" + table["path"])
    table["group"] = table["group"].where(table["group"] != "", own_group)
    return schema.check_manifest(table[list(schema.MANIFEST_COLUMNS)]), grey_levels


def _chunk_files(dataset: Dataset, found: pd.DataFrame) -> list[tuple[Path, list[str]]]:
    """Return the file that each chunk's measurements go to, with the chunk's paths.

    Its name holds a digest of the files' names, sizes and times: measurements of files that
    have changed since are not found.
    """
    files = []
    place = np.arange(len(found)) // CHUNK + found["size"].cumsum().to_numpy() // CHUNK_BYTES
    chunks = found[["path", "size", "modified"]].groupby(place)
    for number, (_, rows) in enumerate(chunks):
        digest = runs.digest([VERSION, rows.to_numpy().tolist()])[:16]
        path = dataset.cache / "measured" / f"{number:05}-{digest}.parquet"
        files.append((path, rows["path"].tolist()))
    return files


def _is_whole(path: Path, rows: int) -> bool:
    try:
        return pyarrow.parquet.read_metadata(path).num_rows == rows
    except (OSError, pyarrow.ArrowInvalid):
        return False


def _measure_chunk(root: Path, paths: list[str]) -> pd.DataFrame:
    """Return one row an image: ``path``, its facts, and ``features.STATISTICS`` (float64)."""
    rows = pd.DataFrame([_measure_image(root, path) for path in paths])
    names = list(features.STATISTICS)
    grey_levels = rows.reindex(columns=names).astype("float64")
    return rows.drop(columns=names, errors="ignore").join(grey_levels)


def _measure_image(root: Path, path: str) -> dict:
    """Return an image's facts and statistics; of an unreadable one its fault alone."""
    facts = {
        "path": path, "width": 0, "height": 0, "format": "", "mode": "", "bytes": 0,
        "pixel_hash": "", "perceptual_hash": "", "status": "ok", "reason": "",
    }  # fmt: skip
    try:
        image, header = images.open_image(root / path)
    except images.UnreadableImage as error:
        size = (root / path).stat().st_size
        return facts | {"bytes": size, "status": error.status, "reason": error.reason}
    except OSError as error:
        return facts | {"status": "corrupted", "reason": error.strerror or str(error)}
    pixels = np.asarray(image)
    facts |= header | {
        "pixel_hash": images.pixel_hash(pixels),
        "perceptual_hash": images.perceptual_hash(image),
    }
    return facts | features.statistics(pixels)
