"""How import, manifest, cleaning, split and shards grow from 1,000 to 60,000 large photographs.

    python bench/at_size.py make   FOLDER --images 60000     # a synthetic tree, some 25 GB
    python bench/at_size.py measure FOLDER --counts 1000 4000 15000 60000 --size 400 --csv FILE

Without arguments it measures 250 to 1,000 small images in a temporary folder.

The tree has the layout of Report 0's data set, ``train|test/{fake,real}``: fakes of 512 to
1,024 pixels a side, two thirds of the photographs of 1 to 4 megapixels and the others of 8 to 12,
one file in a thousand broken off and one in two hundred a copy of another. Their content is
smooth noise with grain, which decodes somewhat faster than a photograph does: `bench/decode.py`
has the cost of photographs. Each count is measured in a process of its own, in a fresh project
folder; memory is the highest sum over that process and its children, sampled ten times a second.
The trees of smaller counts are hard links into the whole one. ``--scale 0.1`` makes a tree of
images with a tenth of the pixels, which shows the growth with their number in less time.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import psutil
from _memory import Memory
from PIL import Image
from tqdm import tqdm

CLASSES = ("fake", "real")


def name(number: int) -> str:
    """Return an image's path; every fifth of a class is in the test split."""
    split = "test" if number // 2 % 5 == 0 else "train"
    return f"{split}/{CLASSES[number % 2]}/{number:06}.jpg"


def canvas() -> Image.Image:
    rng = np.random.default_rng(207)
    coarse = Image.fromarray(rng.integers(0, 256, (150, 200, 3), np.uint8))
    picture = np.asarray(coarse.resize((6400, 4800), Image.Resampling.BICUBIC), np.int16)
    grain = rng.integers(-6, 7, picture.shape, np.int16)
    return Image.fromarray(np.clip(picture + grain, 0, 255).astype(np.uint8))


def write(folder: Path, numbers: range, scale: float) -> None:
    whole = canvas()
    for number in numbers:
        path = folder / name(number)
        if path.is_file():
            continue
        rng = np.random.default_rng([207, number])
        if number % 200 == 199:  # a copy, under another name
            number -= 2
            rng = np.random.default_rng([207, number])
        if number % 2 == 0:
            width, height = (rng.choice([512, 768, 1024], 2) * scale**0.5).astype(int)
        else:
            pixels = rng.uniform(1e6, 4e6) if rng.random() < 2 / 3 else rng.uniform(8e6, 12e6)
            width = int((scale * pixels * 1.5) ** 0.5)
            height = int(width / 1.5)
        left, top = rng.integers(0, [6400 - width, 4800 - height])
        image = whole.crop((left, top, left + width, top + height))
        temporary = path.with_suffix(".part")
        image.save(temporary, "JPEG", quality=int(rng.integers(75, 93)))
        if number % 1000 == 500:
            os.truncate(temporary, temporary.stat().st_size // 2)
        os.replace(temporary, path)


def make(options) -> None:
    for split in ("train", "test"):
        for kind in CLASSES:
            (options.folder / split / kind).mkdir(parents=True, exist_ok=True)
    step = 250
    parts = [range(i, min(i + step, options.images)) for i in range(0, options.images, step)]
    work = joblib.Parallel(n_jobs=-1, return_as="generator_unordered")(
        joblib.delayed(write)(options.folder, part, options.scale) for part in parts
    )
    for _ in tqdm(work, total=len(parts), unit=f"{step} images"):
        pass


def link(folder: Path, target: Path, count: int) -> None:
    for number in range(count):
        path = target / name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / name(number), path)


def one(options) -> None:
    """Measure one count, in this process; print a row of JSON."""
    from w207lib import clean, manifest, pipeline, split
    from w207lib.reading import importing, shards

    memory = Memory()
    memory.start()
    row = {"images": options.count, "size": options.size}

    def timed(stage, function):
        memory.highest = 0
        started = time.perf_counter()
        result = function()
        row[f"{stage}_s"] = round(time.perf_counter() - started, 2)
        memory.sample()
        row[f"{stage}_mb"] = round(memory.highest / 1e6)
        return result

    dataset, table = timed("import", lambda: importing.add("large", str(options.folder)))
    table = timed("again", lambda: manifest.load(dataset))
    table = timed("clean", lambda: clean.mark(table))
    table = timed("split", lambda: split.assign(table, validation_fraction=0.1, seed=207))
    made = timed("shards", lambda: shards.build(dataset, table, options.size))
    data = pipeline.Data(dataset, table, options.size, memory_limit=0)
    part = data.split("train")
    batches = part.batches(32, shuffle_seed=1).as_numpy_iterator()
    for _ in range(10):  # the first ones load TensorFlow and fill the queues
        next(batches)
    row["stream_start_mb"] = round(psutil.Process().memory_info().rss / 1e6)
    row["stream_images"] = 32 * min(part.steps(32), 600)
    timed("stream", lambda: [next(batches) and None for _ in range(row["stream_images"] // 32)])
    row |= {
        "megapixels": round(float((table["width"] * table["height"]).sum() / 1e6)),
        "gigabytes": round(float(table["bytes"].sum() / 1e9), 2),
        "shard_gigabytes": round(len(made.index) * made.image_bytes / 1e9, 2),
        "statuses": table["status"].value_counts().to_dict(),
        "manifest_mb": round(table.memory_usage(deep=True).sum() / 1e6, 1),
        "processes": joblib.cpu_count(),
    }
    print(json.dumps(row))


def measure(options) -> None:
    rows = []
    for count in options.counts:
        with tempfile.TemporaryDirectory(dir=options.folder.parent) as scratch:
            home = Path(scratch)
            (home / "data").mkdir()
            link(options.folder, home / "tree", count)
            done = subprocess.run(
                [sys.executable, __file__, "one", str(home / "tree"), "--count", str(count),
                 "--size", str(options.size)],
                env={**os.environ, "W207_HOME": str(home)}, stdout=subprocess.PIPE, text=True,
                check=True,
            )  # fmt: skip
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
            shutil.rmtree(home / "data")
        pd.DataFrame(rows).to_csv(options.csv, index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    for function in (make, measure, one):
        command = commands.add_parser(function.__name__)
        command.set_defaults(function=function)
        command.add_argument("folder", type=Path)
        command.add_argument("--images", type=int, default=60_000)
        command.add_argument(
            "--counts", type=int, nargs="+", default=[1_000, 4_000, 15_000, 60_000]
        )
        command.add_argument("--count", type=int)
        command.add_argument("--scale", type=float, default=1.0, help="of the numbers of pixels")
        command.add_argument("--size", type=int, default=400)
        command.add_argument("--csv", type=Path, default=Path("at_size.csv"))
    if len(sys.argv) == 1:  # `make bench`: the whole way, in a minute
        with tempfile.TemporaryDirectory() as scratch:
            words = ["--images", "1000", "--counts", "250", "500", "1000", "--scale", "0.1",
                     "--size", "224", "--csv", str(Path(scratch) / "at_size.csv")]  # fmt: skip
            for step in ("make", "measure"):
                options = parser.parse_args([step, str(Path(scratch) / "tree"), *words])
                options.function(options)
        return
    options = parser.parse_args()
    options.function(options)


if __name__ == "__main__":
    main()
