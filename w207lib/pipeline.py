"""From manifest rows to batches: ``float32 (B, S, S, 3)`` in [0, 255], labels ``(B, 1)``."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from w207lib import clean, datasets, manifest, runs, split
from w207lib.config import Profile
from w207lib.datasets import Dataset
from w207lib.reading import shards
from w207lib.reading.remote import Remote
from w207lib.reading.shards import Shards

MANIFEST = "manifest.parquet"
SPLIT = "split.json"
"""In a run folder: the seed and the validation share that its splits were made with."""
MEMORY_LIMIT = 2 * 2**30
"""Bytes of resized images above which a split is streamed from shards, not kept in memory."""


@dataclass(frozen=True)
class Images:
    """One split, ready for a network.

    Attributes:
        rows: Manifest rows, one an image.
        root: Folder that the rows' paths are relative to.
        size: Side of the square images, in pixels.
        shards: Where the resized pixels lie; None only where ``pixels`` are given.
        positions: int64 ``(N,)``: the rows' places in the shards.
        pixels: uint8 ``(N, S, S, 3)``, or None where they are streamed from the shards.
    """

    rows: pd.DataFrame
    root: Path | Remote
    size: int
    shards: Shards | None
    positions: np.ndarray
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

    def read(self, index) -> np.ndarray:
        """Return the images at int ``(B,)`` places among the rows; uint8 ``(B, S, S, 3)``.

        Raises:
            ValueError: There are neither pixels nor shards.
        """
        if self.pixels is not None:
            return self.pixels[index]
        if self.shards is None:
            raise ValueError("these images have neither pixels nor shards; expected one of them.")
        return self.shards.read(self.positions[index])

    def batches(self, batch_size: int, *, shuffle_seed: int | None = None, first_epoch: int = 0):
        """Return batches as Keras's backend takes them best.

        With TensorFlow a ``tf.data.Dataset``, otherwise a ``feeding.Batches``.

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
        from w207lib.machine.devices import quiet_keras

        if quiet_keras().backend.backend() != "tensorflow":
            from w207lib.reading.feeding import Batches

            return Batches(
                self.read, self.labels, batch_size,
                shuffle_seed=shuffle_seed, first_epoch=first_epoch,
            )  # fmt: skip
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

        def stream(index):
            batch = tf.numpy_function(self.read, [index], tf.uint8, stateful=False)
            batch = tf.ensure_shape(batch, (None, self.size, self.size, 3))
            return tf.cast(batch, tf.float32), tf.gather(labels, index)

        return grouped.map(stream, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


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

    @functools.cached_property
    def split_digest(self) -> str:
        """Digest of the splits: which usable image stands in which."""
        return manifest.split_digest(self.manifest)

    @property
    def grouped(self) -> bool:
        """Whether rows share groups, so that intervals must be clustered."""
        rows = manifest.usable(self.manifest)
        return bool(rows["group"].nunique() < len(rows))

    def rows(self, name: str, *, most: int | None = None, seed: int = 0) -> pd.DataFrame:
        """Return the manifest rows of a split's usable images, without their pixels.

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
        if most is not None and most < len(rows):
            shuffled = rows.sample(frac=1, random_state=seed).groupby("label")["label"]
            place = (shuffled.cumcount() + 0.5) / shuffled.transform("size")
            index = np.sort(place.nsmallest(most).index.to_numpy())
            rows = rows.loc[index].reset_index(drop=True)
        return rows

    def split(self, name: str, *, most: int | None = None, seed: int = 0) -> Images:
        """Load a split's usable images; arguments and errors are those of ``rows``."""
        rows = self.rows(name, most=most, seed=seed)
        made = shards.build(self.dataset, self.manifest, self.size)
        positions = made.positions(rows["path"])
        streamed = len(rows) * made.image_bytes > self.memory_limit
        pixels = None if streamed else made.read(positions)
        return Images(rows, self.dataset.root, self.size, made, positions, pixels)


def prepare(profile: Profile, root: Path) -> Data:
    """Clean and split a profile's data set, and write the manifest into the run folder.

    Args:
        profile: Names the data set and gives image size, validation share and seed.
        root: The run's folder; claimed for these data.

    Returns:
        The data, ready for training.

    Raises:
        ValueError: The data set is unknown, its splits leak, or ``root`` holds a run on
            other data, or models made with another split of these.
    """
    root = Path(root)
    data = assemble(profile)
    runs.claim(root, profile=profile.name, data_digest=data.digest)
    _refuse_other_split(data, profile, root)
    made = {"seed": profile.seed, "validation_fraction": profile.validation_fraction}
    runs.write_json(root / SPLIT, made)
    runs.write_table(root / MANIFEST, data.manifest)
    return data


def _refuse_other_split(data: Data, profile: Profile, root: Path) -> None:
    """Raise ValueError if a run folder has models whose test images these splits train on."""
    there = root / MANIFEST
    before = pd.read_parquet(there) if there.is_file() else None
    present = None if before is None else manifest.split_digest(before)
    other = []
    for path in sorted(root.glob("*/*/model.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        known = facts.get("splits", present)  # older models do not say theirs
        same_data = facts.get("data_digest") == data.digest
        if same_data and known not in (None, data.split_digest) and path.parent.name[0] != ".":
            other.append(path.parent.name)
    if not other:
        return
    made = json.loads((root / SPLIT).read_text("utf-8")) if (root / SPLIT).is_file() else {}
    had = ", ".join(f"{key} {value}" for key, value in made.items()) or "another seed or share"
    names = ", ".join(other[:3]) + (f" and {len(other) - 3} more" if len(other) > 3 else "")
    raise ValueError(
        f"seed {profile.seed}, validation_fraction {profile.validation_fraction} came, which split "
        f"the data into {_counts(data.manifest)}; {root} holds models made with another split "
        f"({names}; {had}{'' if before is None else ': ' + _counts(before)}), and test images of "
        "one are training images of the other. Give another folder with --out, or the seed and "
        "validation_fraction that this one was made with (more seeds on one split: --seeds N)."
    )


def _counts(table: pd.DataFrame) -> str:
    counts = manifest.usable(table)["split"].value_counts()
    return ", ".join(f"{counts.get(s, 0)} {s}" for s in ("train", "validation", "test"))


def assemble(profile: Profile) -> Data:
    """Clean and split a profile's data set, and write nothing into any run folder.

    Args:
        profile: As for ``prepare``.

    Returns:
        The data, ready for training.

    Raises:
        ValueError: The data set is unknown, or its splits leak.
    """
    dataset = datasets.locate(profile.dataset)
    table = split.assign(
        clean.mark(manifest.load(dataset)),
        validation_fraction=profile.validation_fraction,
        seed=profile.seed,
    )
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
    """Return resized images from the data set's shards, which the first call makes.

    Args:
        dataset: Where the files are.
        rows: Manifest rows, all readable.
        size: Side of the square result, in pixels.

    Returns:
        uint8 ``(N, size, size, 3)``, in the rows' order.
    """
    made = shards.find(dataset, rows, size)
    if made is None:
        made = shards.build(dataset, manifest.load(dataset), size)
    return made.read(made.positions(rows["path"]))
