"""Decode once: all images of a data set at one size, kept as uint8 shards and read at random.

A file of megapixels takes a processor tens of milliseconds to decode, and a network wants
thousands of images a second. So every readable image is decoded and resized once for each size;
afterwards a batch is a few reads of the bytes that are wanted, with no file held in memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from tqdm import tqdm

from w207lib import runs
from w207lib.datasets import Dataset
from w207lib.machine import devices
from w207lib.reading import images, remote
from w207lib.reading.remote import Remote
from w207lib.running import parallel

SHARD_IMAGES = 256
SHARD_BYTES = 64 * 2**20
INDEX = "index.parquet"
FACTS = "shards.json"
MANY_PIXELS, MANY_IMAGES = 150e6, 12_000
"""Above one of these, decoding is worth the second or two that starting processes takes."""
SMALL = 64
"""Images of up to this many pixels a side are kept decoded when they are first read."""


@dataclass(frozen=True)
class Shards:
    """Resized images on disk.

    Attributes:
        folder: Holds ``00000.rgb``, …: images one behind the other, without a header.
        size: Side of the square images, in pixels.
        per_shard: Images a file; the last has fewer.
        index: One row an image, in their order: ``path, pixel_hash``.
    """

    folder: Path
    size: int
    per_shard: int
    index: pd.DataFrame

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return 3 * self.size**2

    def positions(self, paths) -> np.ndarray:
        """Return int64 ``(N,)``: where the images of these paths stand.

        Raises:
            KeyError: A path is not among them.
        """
        found = pd.Index(self.index["path"]).get_indexer(pd.Index(paths))
        if (found < 0).any():
            missing = list(paths)[int(np.flatnonzero(found < 0)[0])]
            raise KeyError(f"{missing} is not in {self.folder}; it was not readable then.")
        return found.astype(np.int64)

    def read(self, positions) -> np.ndarray:
        """Read images.

        Args:
            positions: int ``(N,)``, from ``positions``, in any order, also repeated.

        Returns:
            uint8 ``(N, size, size, 3)``, in the order asked for.

        Raises:
            OSError: A shard is missing or too short.
        """
        positions = np.asarray(positions)
        pixels = np.empty((len(positions), self.size, self.size, 3), np.uint8)
        order = np.argsort(positions, kind="stable")
        numbers, starts = np.unique(positions[order] // self.per_shard, return_index=True)
        for number, places in zip(numbers, np.split(order, starts)[1:], strict=True):
            path = _shard(self.folder, number)
            with path.open("rb", buffering=0) as file:
                for place in places:
                    file.seek(int(positions[place] % self.per_shard) * self.image_bytes)
                    _fill(file, pixels[place], path)
        return pixels


def build(
    dataset: Dataset, table: pd.DataFrame, size: int, *, processes: int | None = None
) -> Shards:
    """Return the shards of a data set, made where they are not there yet.

    A shard appears whole or not at all, so a build that was stopped goes on where it was.
    Shards of the same size that hold other pixels than these are removed.

    Args:
        dataset: Where the files are; the shards lie in its cache.
        table: Its manifest. All readable rows are decoded, repeated ones too, so that the
            shards depend on the files alone.
        size: Side of the square result, in pixels.
        processes: Processes that decode; None for one a processor, where that pays.

    Raises:
        OSError: The disk is too small (found out before anything is decoded), or a file
            cannot be read.
        UnreadableImage: A file has changed since the manifest was made.
    """
    rows = readable(table)
    made = find(dataset, rows, size)
    if made is not None:
        return made
    folder = _folder(dataset, rows, size)
    per_shard = _per_shard(size)
    paths = rows["path"].tolist()
    parts = [paths[i : i + per_shard] for i in range(0, len(paths), per_shard)]
    todo = {
        number: part
        for number, part in enumerate(parts)
        if not _is_whole(_shard(folder, number), len(part) * 3 * size**2)
    }
    count = sum(map(len, todo.values()))
    devices.require_disk(folder, count * 3 * size**2)
    folder.mkdir(parents=True, exist_ok=True)
    if processes is None:
        processes = usual_processes(rows)
    tasks = ((dataset.root, part, size, _shard(folder, number)) for number, part in todo.items())
    work = parallel.each(_write, tasks, processes=processes, ordered=False)
    with tqdm(total=count, desc=f"decode to {size}", unit="image", leave=False) as bar:
        for done in work:
            bar.update(done)
    return _finished(dataset, rows, folder, size, per_shard)


def keep(dataset: Dataset, rows: pd.DataFrame, size: int, blocks: Iterable[np.ndarray]) -> Shards:
    """Write shards of pixels that are decoded already; see ``build``.

    Args:
        dataset: Where the shards go.
        rows: Its readable manifest rows.
        size: Side of the images.
        blocks: uint8 ``(N, size, size, 3)`` each, all the rows' pixels in their order.

    Raises:
        OSError: The disk is too small.
    """
    folder, per_shard = _folder(dataset, rows, size), _per_shard(size)
    devices.require_disk(folder, len(rows) * 3 * size**2)
    folder.mkdir(parents=True, exist_ok=True)
    waiting, number = np.empty((0, size, size, 3), np.uint8), 0
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        while len(waiting) >= per_shard:
            _save(waiting[:per_shard], _shard(folder, number))
            waiting, number = waiting[per_shard:], number + 1
    if len(waiting):
        _save(waiting, _shard(folder, number))
    return _finished(dataset, rows, folder, size, per_shard)


def small_size(rows: pd.DataFrame) -> int | None:
    """Return the side of these readable rows' images where all are one small square, or None."""
    sides = pd.unique(rows[["width", "height"]].to_numpy().ravel())
    return int(sides[0]) if len(sides) == 1 and sides[0] <= SMALL else None


def _finished(
    dataset: Dataset, rows: pd.DataFrame, folder: Path, size: int, per_shard: int
) -> Shards:
    """Write what says that all shards are there, and remove those of other pixels."""
    index = rows[["path", "pixel_hash"]].reset_index(drop=True)
    runs.write_json(folder / FACTS, {"size": size, "per_shard": per_shard, "images": len(rows)})
    runs.write_table(folder / INDEX, index)  # last: it says that all the others are there
    for other in dataset.cache.glob(f"pixels-{size}-*"):
        if other != folder:
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    return Shards(folder, size, per_shard, index)


def usual_processes(rows: pd.DataFrame) -> int:
    """Return how many processes decode these manifest rows: one, or one a processor."""
    many = (rows["width"] * rows["height"]).sum() > MANY_PIXELS or len(rows) > MANY_IMAGES
    return min(joblib.cpu_count(), images.most_at_once()) if many else 1


def find(dataset: Dataset, rows: pd.DataFrame, size: int) -> Shards | None:
    """Return shards of this size that hold all these rows' pixels, or None.

    Args:
        dataset: Where to look.
        rows: Readable manifest rows.
        size: Side of the square images, in pixels.
    """
    wanted = rows.set_index("path")["pixel_hash"]
    for index in sorted(dataset.cache.glob(f"pixels-{size}-*/{INDEX}")):
        facts = json.loads((index.parent / FACTS).read_text(encoding="utf-8"))
        table = pd.read_parquet(index)
        there = table.set_index("path")["pixel_hash"].reindex(wanted.index)
        if np.array_equal(there.to_numpy(object), wanted.to_numpy(object)):
            return Shards(index.parent, size, facts["per_shard"], table)
    return None


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the manifest rows whose files could be decoded."""
    return table[table["pixel_hash"] != ""]


def needed_bytes(dataset: Dataset, table: pd.DataFrame, size: int) -> int:
    """Return the bytes that ``build`` would write: 0 where the shards are there.

    Args:
        dataset: Where the files are.
        table: Its manifest.
        size: Side of the square images, in pixels.
    """
    rows = readable(table)
    if find(dataset, rows, size) is not None:
        return 0
    whole = len(rows) * 3 * size**2
    there = sum(f.stat().st_size for f in _folder(dataset, rows, size).glob("[0-9]*.rgb"))
    return max(0, whole - there)


def _folder(dataset: Dataset, rows: pd.DataFrame, size: int) -> Path:
    key = "\n".join(rows["path"] + "\t" + rows["pixel_hash"]) + f"\n{size}\n{images.RESAMPLING}"
    return dataset.cache / f"pixels-{size}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _per_shard(size: int) -> int:
    return max(1, min(SHARD_IMAGES, SHARD_BYTES // (3 * size**2)))


def _shard(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.rgb"


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _write(root: Path | Remote, paths: list[str], size: int, target: Path) -> int:
    files = remote.files(root, paths)
    pixels = np.stack([images.resize(images.read_image(file), size) for file in files])
    _save(pixels, target)
    return len(paths)


def _save(pixels: np.ndarray, target: Path) -> None:
    with runs.replacing(target) as temporary:
        pixels.tofile(temporary)


def _fill(file, out: np.ndarray, path: Path) -> None:
    view, got = out.data.cast("B"), 0
    while got < len(view):
        count = file.readinto(view[got:])
        if not count:
            raise OSError(
                f"{path} breaks off: {math.prod(out.shape)} bytes were expected. Remove the "
                f"folder {path.parent}; it is made again from the images."
            )
        got += count
