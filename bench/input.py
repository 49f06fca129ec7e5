"""Images a second into the network: small JPEGs, in batches of 128 with horizontal flips.

    python bench/input.py --csv bench/results/input.csv
    python bench/input.py --folder data/cifake/raw/cifake/train --most 20000 --csv FILE

Ours beside the two that Keras has for folders: ``ImageDataGenerator``, which the reports used,
and ``image_dataset_from_directory`` with a ``RandomFlip``, with and without ``.cache()``.

``cold`` is the first pass from files, each in a fresh process, the clock started once the
libraries are loaded. Ours has import, manifest and shards in it; ``imported before``, shards alone.
Nothing is dropped from the system's file cache: all read files that were written or read before.
``warm`` is every later pass, in one process and in turns. ``ours, streamed`` reads the shards in
every pass, as ours does with images that do not fit the memory. Images that are there twice are
left out by ours; rates are of the images seen. Figures are medians, with the range.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from _pictures import write_tree
from _tables import write

SIZE, BATCH = 32, 128
OURS, IMPORTED, STREAMED = "ours", "ours, imported before", "ours, streamed"
GENERATOR, DIRECTORY = "ImageDataGenerator", "image_dataset_from_directory"
CACHED = f"{DIRECTORY}, cached"
COLD = (OURS, IMPORTED, GENERATOR, DIRECTORY)
WARM = (OURS, STREAMED, GENERATOR, DIRECTORY, CACHED)


def imported(tree: Path):
    from w207lib import clean
    from w207lib.reading import importing

    dataset, table = importing.add("bench", tree)
    return dataset, clean.mark(table)


def ours(tree: Path, *, streamed: bool = False):
    """Return a function that goes through one pass and counts its images."""
    import tensorflow as tf

    from w207lib import pipeline
    from w207lib.nets import augmentation

    options = {"memory_limit": 0} if streamed else {}
    dataset, table = imported(tree)
    data = pipeline.Data(dataset, table, SIZE, **options)
    part, flips = data.split("train"), augmentation.layers(seed=1, horizontal_flip=True)

    def augment(pixels, labels):
        for layer in flips:
            pixels = layer(pixels, training=True)
        return pixels, labels

    batches = part.batches(BATCH, shuffle_seed=1).map(augment, tf.data.AUTOTUNE)
    endless, steps = iter(batches.prefetch(tf.data.AUTOTUNE)), part.steps(BATCH)
    return lambda: sum(len(next(endless)[0]) for _ in range(steps))


def generator(tree: Path):
    import tensorflow as tf

    made = tf.keras.preprocessing.image.ImageDataGenerator(rescale=1 / 255, horizontal_flip=True)
    batches = made.flow_from_directory(
        tree / "train", target_size=(SIZE, SIZE), batch_size=BATCH, class_mode="binary"
    )
    return lambda: sum(len(next(batches)[0]) for _ in range(len(batches)))


def directory(tree: Path, *, cached: bool = False):
    import keras
    import tensorflow as tf

    batches = keras.utils.image_dataset_from_directory(
        tree / "train", label_mode="binary", image_size=(SIZE, SIZE), batch_size=BATCH,
        verbose=False,
    )  # fmt: skip
    flip = keras.layers.RandomFlip("horizontal", seed=1)
    batches = batches.cache() if cached else batches
    batches = batches.map(lambda x, y: (flip(x, training=True), y), tf.data.AUTOTUNE)
    batches = batches.prefetch(tf.data.AUTOTUNE)
    return lambda: sum(len(pixels) for pixels, _ in batches)


MAKERS = {
    OURS: ours, IMPORTED: ours, STREAMED: lambda tree: ours(tree, streamed=True),
    GENERATOR: generator, DIRECTORY: directory,
    CACHED: lambda tree: directory(tree, cached=True),
}  # fmt: skip


def cold(tree: Path, way: str) -> None:
    """Print images and seconds of one way's first pass."""
    import tensorflow as tf

    from w207lib import pipeline  # noqa: F401
    from w207lib.nets import augmentation  # noqa: F401
    from w207lib.reading import importing  # noqa: F401

    tf.constant(0) + 1
    if way == IMPORTED:
        imported(tree)
    started = time.perf_counter()
    seen = MAKERS[way](tree)()
    print(json.dumps([seen, time.perf_counter() - started]))


def cold_rates(tree: Path, repeats: int) -> dict:
    rates: dict[str, list] = {way: [] for way in COLD}
    for _ in range(repeats):
        for way in COLD:
            with tempfile.TemporaryDirectory() as home:
                (Path(home) / "data").mkdir()
                done = subprocess.run(
                    [sys.executable, __file__, "--tree", tree, "--cold", way], check=True,
                    env={**os.environ, "W207_HOME": home}, stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
            rates[way].append(json.loads(done.stdout.splitlines()[-1]))
    return rates


def warm_rates(tree: Path, repeats: int, seconds: float) -> dict:
    rates: dict[str, list] = {way: [] for way in WARM}
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "data").mkdir()
        os.environ["W207_HOME"] = home
        passes = {way: MAKERS[way](tree) for way in WARM}
        for once in passes.values():
            once()
        for _ in range(repeats):
            for way, once in passes.items():
                started, seen = time.perf_counter(), 0
                while (taken := time.perf_counter() - started) < seconds:
                    seen += once()
                rates[way].append((seen, taken))
    return rates


def linked(folder: Path, target: Path, most: int | None) -> None:
    """Link a tree's images, as many of each class, below ``target/train``."""
    for kind in ("REAL", "FAKE"):
        (target / "train" / kind).mkdir(parents=True)
        for path in sorted((folder / kind).iterdir())[: most and most // 2]:
            try:
                os.link(path, target / "train" / kind / path.name)
            except OSError:  # another disk
                (target / "train" / kind / path.name).write_bytes(path.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="a tree with REAL and FAKE")
    parser.add_argument("--most", type=int, help="of its images")
    parser.add_argument("--count", type=int, default=3_000, help="synthetic images without it")
    parser.add_argument("--repeats", type=int, default=5, help="of the warm state")
    parser.add_argument("--cold-repeats", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1, help="least time of a warm turn")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--tree", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cold", choices=COLD, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TQDM_DISABLE": "1"}
    if options.cold:
        return cold(options.tree, options.cold)
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        if options.folder:
            linked(options.folder, tree, options.most)
        else:
            write_tree(tree, options.count, side=SIZE, test=False)
        found = {
            "cold": cold_rates(tree, options.cold_repeats),
            "warm": warm_rates(tree, options.repeats, options.seconds),
        }
    rows = []
    for state, ways in found.items():
        rates = {way: [seen / taken for seen, taken in turns] for way, turns in ways.items()}
        first = statistics.median(rates[OURS])
        for way, own in rates.items():
            rows.append({
                "way": way, "state": state, "images": ways[way][0][0] if state == "cold" else "",
                "images_s": round(statistics.median(own)), "low": round(min(own)),
                "high": round(max(own)), "ratio": round(first / statistics.median(own), 2),
            })  # fmt: skip
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    write(table, options.csv)


if __name__ == "__main__":
    main()
