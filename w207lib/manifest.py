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

from w207lib import features, runs, schema
from w207lib.datasets import Dataset, find_images
from w207lib.machine import devices
from w207lib.reading import images, remote, shards
from w207lib.reading.remote import Remote
from w207lib.running import parallel

CHUNK = 500  # images a task: long enough to hide the cost of sending it
CHUNK_BYTES = 64 * 2**20  # and files of this size, where images are large
IMAGE_SECONDS, BYTE_SECONDS = 2e-4, 2e-8
"""About what a small JPEG takes on one processor, and each byte of a large one."""
MANY_SECONDS = 3.0
"""Above this, starting processes pays: they take a second or two."""
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


def statistics(dataset: Dataset) -> pd.DataFrame:
    """Return the grey-level statistics of every readable image, made with the manifest.

    Returns:
        Columns ``path`` and ``features.STATISTICS``, measured at the images' own sizes.
    """
    _refresh(dataset, None)
    return pd.read_parquet(dataset.cache / "statistics.parquet")


def digest(manifest: pd.DataFrame) -> str:
    """Return a digest of which images there are, what they show and how they are labelled.

    It covers path, label and pixels; splits and findings are choices about the same data.
    """
    rows = manifest[["path", "label", "pixel_hash"]].sort_values("path")
    lines = rows["path"] + "\t" + rows["label"].astype(str) + "\t" + rows["pixel_hash"]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def split_digest(manifest: pd.DataFrame) -> str:
    """Return a digest of which split each usable image stands in.

    Images that one training alone leaves out (``excluded``) count: they keep their split.
    """
    rows = manifest.loc[manifest["status"].isin(("ok", "excluded")), ["path", "split"]]
    return runs.digest(rows.sort_values("path").to_numpy().tolist())


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
        runs.write_json(marker, key | {"tables": _digests(tables)})
    shutil.rmtree(dataset.cache / "measured", ignore_errors=True)


def _is_current(marker: Path, key: dict, tables: list[Path]) -> bool:
    if not marker.is_file() or not all(path.is_file() for path in tables):
        return False
    try:
        found = dict(json.loads(marker.read_text(encoding="utf-8")))
    except (ValueError, TypeError):  # damaged
        return False
    digests = found.pop("tables", None)  # older caches have none
    return found == key and digests in (None, _digests(tables))


def _digests(tables: list[Path]) -> dict[str, str]:
    return {path.name: runs.file_digest(path) for path in tables}


def _measure(
    dataset: Dataset, found: pd.DataFrame, processes: int | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    files = _chunk_files(dataset, found)
    todo = [(path, paths) for path, paths in files if not _is_whole(path, len(paths))]
    if processes is None:
        many = len(found) * IMAGE_SECONDS + found["size"].sum() * BYTE_SECONDS > MANY_SECONDS
        processes = min(joblib.cpu_count(), images.most_at_once()) if many else 1
    roomy = devices.free_bytes(dataset.cache) > 2 * len(found) * 3 * shards.SMALL**2
    tasks = (
        (dataset.root, paths, path.with_suffix(".npy") if roomy else None) for path, paths in todo
    )
    work = parallel.each(_measure_chunk, tasks, processes=processes)
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
    table = schema.check_manifest(table[list(schema.MANIFEST_COLUMNS)])
    _keep_pixels(dataset, table, [path.with_suffix(".npy") for path, _ in files])
    return table, grey_levels


def _keep_pixels(dataset: Dataset, table: pd.DataFrame, files: list[Path]) -> None:
    """Write the shards of a data set of small images now, while their pixels are there."""
    rows = shards.readable(table)
    size = shards.small_size(rows)
    there = [path for path in files if path.is_file()]
    if size and there and sum(len(np.load(path, mmap_mode="r")) for path in there) == len(rows):
        shards.keep(dataset, rows, size, map(np.load, there))


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


def _measure_chunk(root: Path | Remote, paths: list[str], kept: Path | None) -> pd.DataFrame:
    """Return one row an image: ``path``, its facts, and ``features.STATISTICS`` (float64).

    Where all readable ones have one small square size, their pixels go to the file ``kept``, if
    there is one.
    """
    files = remote.files(root, paths)
    measured = [_measure_image(path, file) for path, file in zip(paths, files, strict=True)]
    rows = pd.DataFrame([facts for facts, _, _ in measured])
    grey_levels = np.full((len(rows), len(features.STATISTICS)), np.nan)
    readable = [place for place, (_, counts, _) in enumerate(measured) if counts]
    if readable:
        counts = np.array([measured[place][1] for place in readable])
        grey_levels[readable] = features.histogram_statistics(counts)
        if kept and shards.small_size(rows.iloc[readable]):
            small = [pixels for *_, pixels in measured if pixels is not None]
            with runs.replacing(kept) as temporary:
                np.save(temporary, np.stack(small))
    return rows.join(pd.DataFrame(grey_levels, columns=list(features.STATISTICS)))


def _measure_image(path: str, file: Path | Remote) -> tuple[dict, list[int], np.ndarray | None]:
    """Return an image's facts, its histogram of greys, and its pixels where they are few.

    Of an unreadable one there is the fault alone.
    """
    facts = {
        "path": path, "width": 0, "height": 0, "format": "", "mode": "", "bytes": 0,
        "pixel_hash": "", "perceptual_hash": "", "status": "ok", "reason": "",
    }  # fmt: skip
    try:
        image, header = images.open_image(file)
    except images.UnreadableImage as error:
        size = file.stat().st_size if isinstance(file, Path) else len(file.read_bytes())
        fault = {"bytes": size, "status": error.status, "reason": error.reason}
        return facts | fault, [], None
    except OSError as error:
        if isinstance(file, Remote) and not isinstance(error, FileNotFoundError):
            raise  # the store's fault, not the image's
        reason = error.strerror or str(error)
        if isinstance(error, FileNotFoundError) and "\\udc" in path:  # see datasets.shown
            reason = "its name is not UTF-8; rename the file"
        return facts | {"status": "corrupted", "reason": reason}, [], None
    pixels, grey = images.as_array(image), image.convert("L")
    facts |= header | {
        "pixel_hash": images.pixel_hash(pixels), "perceptual_hash": images.perceptual_hash(grey),
    }  # fmt: skip
    return facts, grey.histogram(), pixels if max(image.size) <= shards.SMALL else None
