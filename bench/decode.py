"""Images a second into the network: decoded from files every epoch, and from shards.

    python bench/decode.py --csv bench/results/decode.csv

Photographs of 2, 6 and 12 megapixels are cut from the sample's own (``data/sample`` names
them), or from a folder given by ``--photographs``, and written as JPEG of quality 90. Both ways
give ``tf.data`` batches of 32 and are measured in turns, five times each; the figures are the
median and the range. ``before`` is what the project did until it had shards: open, decode and
resize inside the input pipeline, on all processors.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from _tables import write
from PIL import Image

BATCH = 32


def photographs(folder: Path | None) -> list[Image.Image]:
    """Return large pictures: those of a folder, or scikit-learn's two, enlarged."""
    if folder is not None:
        found = sorted(
            p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png")
        )
        return [Image.open(path).convert("RGB") for path in found[:40]]
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(image) for image in load_sample_images().images]


def write_tree(root: Path, pictures: list[Image.Image], megapixels: float, count: int) -> None:
    """Write photographs of a size, all different, half of them called fake."""
    rng = np.random.default_rng(207)
    width = int((megapixels * 1.5e6) ** 0.5)
    height = int(width / 1.5)
    for number in range(count):
        picture = pictures[number % len(pictures)]
        left, top = (rng.uniform(0, 0.2, 2) * picture.size).astype(int).tolist()
        part = picture.crop((left, top, *picture.size))
        pixels = np.asarray(part.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        pixels = np.clip(pixels + rng.integers(-4, 5, pixels.shape, np.int16), 0, 255)
        split = "test" if number % 10 < 2 else "train"
        path = root / split / ("REAL", "FAKE")[number % 2] / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)


def from_files(part, size: int):
    """Yield the batches as the project made them before: each image decoded when it is wanted."""
    import tensorflow as tf

    from w207lib.reading import images

    paths, labels = np.array(part.rows["path"]), tf.constant(part.labels)

    def read(index):
        return np.stack([images.resize(images.read_image(part.root / p), size)
                         for p in paths[index]])  # fmt: skip

    def decode(index):
        batch = tf.numpy_function(read, [index], tf.uint8, stateful=False)
        batch = tf.ensure_shape(batch, (None, size, size, 3))
        return tf.cast(batch, tf.float32), tf.gather(labels, index)

    places = tf.data.Dataset.range(len(part)).shuffle(len(part), seed=1).batch(BATCH)
    return places.map(decode, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


def rate(batches, count: int) -> float:
    started, seen = time.perf_counter(), 0
    for pixels, _ in batches:
        seen += len(pixels)
        if seen >= count:
            break
    return seen / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photographs", type=Path, help="a folder of large pictures")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[2, 6, 12])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 224, 400])
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    pictures, rows = photographs(options.photographs), []
    for megapixels in options.megapixels:
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["W207_HOME"] = scratch
            (Path(scratch) / "data").mkdir()
            write_tree(Path(scratch) / "tree", pictures, megapixels, options.count)
            from w207lib import clean, pipeline, split
            from w207lib.reading import importing, shards

            dataset, table = importing.add("bench", str(Path(scratch) / "tree"))
            table = split.assign(clean.mark(table), validation_fraction=0.2, seed=207)
            for size in options.sizes:
                started = time.perf_counter()
                shards.build(dataset, table, size)
                made = time.perf_counter() - started
                data = pipeline.Data(dataset, table, size, memory_limit=0)
                part = data.split("train")
                before, after = [], []
                for _ in range(options.repeats):
                    before.append(rate(from_files(part, size), len(part)))
                    passes = part.batches(BATCH, shuffle_seed=1)
                    after.append(rate(passes, max(2_000, len(part))))
                rows.append({
                    "megapixels": megapixels, "size": size, "images": len(part),
                    "before": round(statistics.median(before), 1),
                    "before_low": round(min(before), 1), "before_high": round(max(before), 1),
                    "after": round(statistics.median(after)),
                    "after_low": round(min(after)), "after_high": round(max(after)),
                    "ratio": round(statistics.median(after) / statistics.median(before), 1),
                    "once_images_per_s": round(len(table) / made, 1),
                    "processors": os.cpu_count(),
                })  # fmt: skip
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    write(table, options.csv)


if __name__ == "__main__":
    main()
