"""From manifest rows to batches: ``float32 (B, S, S, 3)`` in [0, 255], labels ``(B, 1)``."""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from tqdm import tqdm

from w207lib import clean, datasets, images, manifest, runs, split
from w207lib.config import Profile
from w207lib.datasets import Dataset

MANIFEST = "manifest.parquet"
CHUNK = 500
MEMORY_LIMIT = 2 * 2**30
"""Bytes of resized images above which a split is streamed from files, not kept in memory."""


@dataclass(frozen=True)
class Images:
    """One split, ready for a network.

    Attributes:
        rows: Manifest rows, one an image.
        root: Folder that the rows' paths are relative to.
        size: Side of the square images, in pixels.
        pixels: uint8 ``(N, S, S, 3)``, or None where they are streamed from files.
    """

    rows: pd.DataFrame
    root: Path
    size: int
    pixels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> np.ndarray:
        """float32 ``(N, 1)``: 0 REAL, 1 FAKE."""
        return self.rows["label"].to_numpy(np.float32)[:, None]

    def steps(self, batch_size: int) -> int:
        """Return the number of batches of one pass."""
        return math.ceil(len(self) / batch_size)

    def batches(self, batch_size: int, *, shuffle_seed: int | None = None, first_epoch: int = 0):
        """Return a ``tf.data.Dataset`` of batches.

        Args:
            batch_size: Images a batch; the last one of a pass may be smaller.
            shuffle_seed: None for one pass in the rows' order. With a seed: passes without
                end, each in an order of its own that depends on the seed and the pass alone,
                so that a training that was stopped goes on with the very batches it would
                have had. Take ``steps(batch_size)`` of them an epoch.
            first_epoch: The pass to start with.

        Returns:
            Pairs of float32 ``(B, S, S, 3)`` in [0, 255] and float32 ``(B, 1)``.
        """
        from w207lib.devices import quiet_keras

        quiet_keras()
        import tensorflow as tf

        count = len(self)
        if shuffle_seed is None:
            indices = tf.data.Dataset.range(count)
            grouped = indices.batch(batch_size)
        else:

            def order(epoch):
                seed = tf.stack([tf.cast(shuffle_seed, tf.int64), epoch])
                return tf.random.experimental.stateless_shuffle(
                    tf.range(count, dtype=tf.int64), seed
                )

            passes = tf.data.Dataset.range(first_epoch, 2**31)
            grouped = passes.flat_map(
                lambda epoch: tf.data.Dataset.from_tensor_slices(order(epoch)).batch(batch_size)
            )
        labels = tf.constant(self.labels)
        if self.pixels is not None:
            pixels = tf.constant(self.pixels)

            def gather(index):
                return tf.cast(tf.gather(pixels, index), tf.float32), tf.gather(labels, index)

            return grouped.map(gather, num_parallel_calls=2).prefetch(tf.data.AUTOTUNE)
        paths = np.array(self.rows["path"])

        def read(index):
            return _read_chunk(self.root, paths[index].tolist(), self.size)

        def decode(index):
            batch = tf.numpy_function(read, [index], tf.uint8, stateful=False)
            batch = tf.ensure_shape(batch, (None, self.size, self.size, 3))
            return tf.cast(batch, tf.float32), tf.gather(labels, index)

        return grouped.map(decode, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


@dataclass(frozen=True)
class Data:
    """A data set with its splits, at one image size.

    Attributes:
        dataset: Where the files are.
        manifest: After cleaning and splitting.
        size: Side of the square images, in pixels.
        memory_limit: Bytes above which a split is streamed.
    """

    dataset: Dataset
    manifest: pd.DataFrame
    size: int
    memory_limit: int = MEMORY_LIMIT

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the manifest: which images there are, and their labels."""
        return manifest.digest(self.manifest)

    @property
    def grouped(self) -> bool:
        """Whether rows share groups, so that intervals must be clustered."""
        rows = manifest.usable(self.manifest)
        return bool(rows["group"].nunique() < len(rows))

    def split(self, name: str, *, most: int | None = None, seed: int = 0) -> Images:
        """Load a split's usable images.

        Args:
            name: ``train``, ``validation`` or ``test``.
            most: Most images; None for all. A draw keeps the classes' shares.
            seed: Seed of that draw.

        Raises:
            ValueError: The split is empty.
        """
        rows = manifest.usable(self.manifest, name)
        if not len(rows):
            raise ValueError(
                f"split {name!r} has no usable image; the manifest has "
                f"{', '.join(sorted(set(self.manifest['split']))) or 'none'}. Make the splits "
                "with split.assign, and choose train, validation or test."
            )
        streamed = len(rows) * self.size**2 * 3 > self.memory_limit
        pixels = None if streamed else load_pixels(self.dataset, rows, self.size)
        if most is not None and most < len(rows):
            shuffled = rows.sample(frac=1, random_state=seed).groupby("label")["label"]
            place = (shuffled.cumcount() + 0.5) / shuffled.transform("size")
            index = np.sort(place.nsmallest(most).index.to_numpy())
            rows = rows.loc[index].reset_index(drop=True)
            pixels = None if pixels is None else pixels[index]
        return Images(rows, self.dataset.root, self.size, pixels)


def prepare(profile: Profile, root: Path) -> Data:
    """Clean and split a profile's data set, and write the manifest into the run folder.

    Args:
        profile: Names the data set and gives image size, validation share and seed.
        root: The run's folder; claimed for these data.

    Returns:
        The data, ready for training.

    Raises:
        ValueError: The data set is unknown, its splits leak, or ``root`` holds a run on
            other data.
    """
    dataset = datasets.locate(profile.dataset)
    table = split.assign(
        clean.mark(manifest.load(dataset)),
        validation_fraction=profile.validation_fraction,
        seed=profile.seed,
    )
    runs.claim(root, profile=profile.name, data_digest=manifest.digest(table))
    runs.write_table(root / MANIFEST, table)
    return Data(dataset, table, profile.image_size)


def load_data(profile: Profile, root: Path) -> Data:
    """Return the data that ``prepare`` (or notebook 02) left in a run folder.

    Raises:
        FileNotFoundError: It left none; the message names the command.
        ValueError: The data set has changed since.
    """
    path = runs.require(root, MANIFEST, notebook="02", profile=profile.name)
    dataset = datasets.locate(profile.dataset)
    table = pd.read_parquet(path)
    now = manifest.digest(manifest.load(dataset))
    if manifest.digest(table) != now:
        raise ValueError(
            f"data set {profile.dataset} has changed since {path} was made (its digest is now "
            f"{now[:12]}). Move that run folder away and start with notebook 02."
        )
    return Data(dataset, table, profile.image_size)


def load_pixels(dataset: Dataset, rows: pd.DataFrame, size: int) -> np.ndarray:
    """Read and resize images once; afterwards they come from a file in the cache.

    Args:
        dataset: Where the files are.
        rows: Manifest rows, all readable.
        size: Side of the square result, in pixels.

    Returns:
        uint8 ``(N, size, size, 3)``, in the rows' order.
    """
    key = "\n".join(rows["path"] + "\t" + rows["pixel_hash"]) + f"\n{size}\n{images.RESAMPLING}"
    name = f"pixels-{size}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    path = dataset.cache / name
    if path.is_file():
        return np.load(path)
    paths = rows["path"].tolist()
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    work = joblib.Parallel(n_jobs=joblib.cpu_count() if len(chunks) > 8 else 1,
                           return_as="generator")(
        joblib.delayed(_read_chunk)(dataset.root, chunk, size) for chunk in chunks
    )  # fmt: skip
    pixels = np.empty((len(paths), size, size, 3), np.uint8)
    done = 0
    with tqdm(total=len(paths), desc=f"resize to {size}", unit="image", leave=False) as bar:
        for block in work:
            pixels[done : done + len(block)] = block
            done += len(block)
            bar.update(len(block))
    with runs.replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, pixels)
    return pixels


def _read_chunk(root: Path, paths: list[str], size: int) -> np.ndarray:
    return np.stack([images.resize(images.read_image(root / path), size) for path in paths])
